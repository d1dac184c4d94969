//! The regions of an application side by side: what is deployed, what would ship, what holds it back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use jiff::Timestamp;
use preflight_core::guard::{Bad, Carried, Guard, Place};
use preflight_core::manifest::{self, Change, Manifest};
use preflight_core::text::escape;
use preflight_proto::api::{
    self, Act, Candidate, Lock, Named, Override, Problem, Quarantine, RegionReleases, Releases,
};
use serde::Deserialize;

use super::problem::Failure;
use super::release::{Of, shown};
use crate::app::App;
use crate::result::core_override;
use crate::store::Deployed;
use preflight_core::inventory::Inventory;

/// What is deployed where, what would ship, and what holds it back.
#[utoipa::path(get, path = "/v1/releases", params(Of), security(("token" = [])), responses(
    (status = 200, body = Releases), (status = 401, body = Problem), (status = 403, body = Problem)))]
pub(super) async fn list(State(app): State<Arc<App>>, Query(of): Query<Of>) -> Result<Json<Releases>, Failure> {
    self::of(&app, of.application.as_deref()).await.map(Json)
}

/// The regions of an application, or of all of them: those of the inventory, and others of which something is recorded.
pub(super) async fn of(app: &App, application: Option<&str>) -> Result<Releases, Failure> {
    among(app, application, None).await
}

/// The same for some regions.
pub(super) async fn among(
    app: &App,
    application: Option<&str>,
    only: Option<&BTreeSet<String>>,
) -> Result<Releases, Failure> {
    let mut deployed: BTreeMap<(String, String), Deployed> = BTreeMap::new();
    for last in app.store.all_deployed(application).await? {
        deployed.insert((last.application.clone(), last.region.clone()), last);
    }
    let now = Timestamp::now();
    let overrides = app.store.overrides(application, now).await?;
    let guards: BTreeMap<String, Guard> = app.store.guards(application).await?.into_iter().collect();
    let mut places: Vec<(String, String)> = Vec::new();
    // In the inventory's order; without one there is what was recorded before.
    if let Some((name, text, _, _)) = app.store.inventory().await? {
        let inventory = Inventory::parse(&name, &text)?;
        for stated in inventory.applications().iter().filter(|a| application.is_none_or(|only| only == a.name.as_str()))
        {
            places.extend(stated.regions().map(|region| (stated.name.to_string(), region.to_string())));
        }
    }
    places.extend(deployed.keys().cloned());
    places.extend(guards.iter().flat_map(|(name, guard)| guard.regions.keys().map(|r| (name.clone(), r.clone()))));
    let mut seen = BTreeSet::new();
    places.retain(|place| only.is_none_or(|only| only.contains(&place.1)) && seen.insert(place.clone()));
    places.sort_by(|a, b| a.0.cmp(&b.0));
    let (empty, nowhere) = (Guard::default(), Place::default());
    let mut releases = Releases::default();
    for (name, region) in places {
        let guard = guards.get(&name).unwrap_or(&empty);
        let place = guard.place(&region).unwrap_or(&nowhere);
        let (mut candidate, mut cells) = (None, BTreeSet::new());
        if let Some(announced) = &place.candidate {
            // What a run carries is known before it ends; it matters where a cell is quarantined.
            if let Some(run) = announced.run.as_ref().filter(|_| guard.has_cells()) {
                cells = app.store.carried(run).await?.remove(&region).unwrap_or_default();
            }
            candidate = Some(api_candidate(app, guard, &region, announced, &cells).await?);
        }
        let deployed = deployed.remove(&(name.clone(), region.clone()));
        let bad = deployed.as_ref().map(|last| guard.bad(&region, &last.proven.release, &BTreeSet::new()));
        let none = BTreeSet::new();
        let is_candidate = |release: &str| place.candidate.as_ref().is_some_and(|c| c.release == release);
        let excuses = |given: &&Override| {
            let Some(release) = given.release.as_ref().filter(|_| given.application == name) else { return false };
            let cells = if is_candidate(release) { &cells } else { &none };
            let given: Vec<_> = core_override(given).into_iter().collect();
            guard.excuse(&region, release, cells, &given, now).is_some()
        };
        let gone_back = match &deployed {
            Some(last) => app.store.gone_back(last).await?,
            None => false,
        };
        releases.regions.push(RegionReleases {
            gone_back,
            deployed_quarantined: bad.unwrap_or_default(),
            overrides: overrides.iter().filter(excuses).cloned().collect(),
            deployed: deployed.map(shown),
            candidate,
            lock: place.lock.as_ref().map(api_lock),
            named: place.named.as_ref().map(|named| Named {
                release: named.release.clone(),
                by: named.act.by.clone(),
                at: named.act.at.to_string(),
                reason: named.act.reason.clone(),
                quarantined: guard.bad(
                    &region,
                    &named.release,
                    if is_candidate(&named.release) { &cells } else { &none },
                ),
            }),
            application: name,
            region,
            unready: Vec::new(),
        });
    }
    for (name, guard) in &guards {
        releases
            .quarantines
            .extend(guard.quarantines.iter().map(|(id, quarantine)| api_quarantine(name, id, quarantine)));
        tell_apart(app, name, guard, &mut releases.regions).await?;
    }
    Ok(releases)
}

/// The part of a stored verdict that is wanted here.
#[derive(Deserialize)]
struct Outline {
    regions: Vec<RegionOutline>,
}

#[derive(Deserialize)]
struct RegionOutline {
    region: String,
    verdict: api::State,
}

async fn api_candidate(
    app: &App,
    guard: &Guard,
    region: &str,
    candidate: &preflight_core::guard::Candidate,
    cells: &BTreeSet<Carried>,
) -> Result<Candidate, Failure> {
    let stored = match &candidate.run {
        Some(run) => app.store.run(run).await?.and_then(|run| run.result),
        None => None,
    };
    let outline: Option<Outline> = match stored {
        Some(text) => Some(serde_json::from_str(&text).map_err(|error| Failure::internal(error.to_string()))?),
        None => None,
    };
    let of_region = outline.and_then(|outline| outline.regions.into_iter().find(|one| one.region == region));
    Ok(Candidate {
        release: candidate.release.clone(),
        verdict: candidate.run.clone(),
        state: of_region.map(|one| one.verdict),
        differs: None,
        quarantined: guard.bad(region, &candidate.release, cells),
        by: candidate.by.clone(),
        at: candidate.at.to_string(),
    })
}

/// Where the candidates of regions are not the same release, says how what they depend on differs from that of the first region.
async fn tell_apart(
    app: &App,
    application: &str,
    guard: &Guard,
    regions: &mut [RegionReleases],
) -> Result<(), Failure> {
    let mut rows: Vec<&mut RegionReleases> =
        regions.iter_mut().filter(|row| row.application == application && row.candidate.is_some()).collect();
    let Some((first, rest)) = rows.split_first_mut() else { return Ok(()) };
    let release =
        |row: &RegionReleases| row.candidate.as_ref().map(|candidate| candidate.release.clone()).unwrap_or_default();
    let (reference, to) = (release(first), first.region.clone());
    let mut base = None;
    for row in rest.iter_mut().filter(|row| release(row) != reference) {
        let theirs = manifest_of(app, guard, &row.region).await?;
        if base.is_none() {
            base = manifest_of(app, guard, &to).await?;
        }
        let (Some(base), Some(theirs)) = (&base, theirs) else { continue };
        let words: Vec<String> = manifest::diff(base, &theirs).iter().take(5).map(in_words).collect();
        if let Some(candidate) = &mut row.candidate {
            // Two names for what depends on the same are no more than two names.
            candidate.differs = (!words.is_empty()).then(|| format!("differs from that of {to}: {}", words.join(", ")));
        }
    }
    Ok(())
}

/// The manifest that a region's candidate was gated with.
async fn manifest_of(app: &App, guard: &Guard, region: &str) -> Result<Option<Manifest>, Failure> {
    let run = guard.place(region).and_then(|place| place.candidate.as_ref()?.run.as_ref());
    let Some(run) = run else { return Ok(None) };
    let Some(spec) = app.store.run_spec(run).await? else { return Ok(None) };
    Ok(Manifest::parse(&escape(&spec.basis.manifest_name), &spec.basis.manifest).ok())
}

fn in_words(change: &Change) -> String {
    match change {
        Change::Application { new, .. } => format!("for {}", escape(new)),
        Change::Added { dependency } => format!("+ {}", escape(dependency)),
        Change::Removed { dependency } => format!("- {}", escape(dependency)),
        Change::Renamed { old, new, .. } => format!("{} is called {}", escape(old), escape(new)),
        Change::Changed { dependency, .. } => format!("~ {}", escape(dependency)),
    }
}

fn api_lock(lock: &preflight_core::guard::Lock) -> Lock {
    let act = |act: &preflight_core::guard::Act| Act {
        by: act.by.clone(),
        at: act.at.to_string(),
        reason: act.reason.clone(),
    };
    let mut acts = lock.acts.iter().map(act);
    let Act { by, at, reason } = acts.next().unwrap_or_default();
    Lock {
        by,
        at,
        reason,
        also: acts.collect(),
        remind_at: lock.remind_at.map(|at| at.to_string()),
        except: lock.except.clone(),
    }
}

fn api_quarantine(application: &str, id: &str, quarantine: &preflight_core::guard::Quarantine) -> Quarantine {
    let (release, digest, cell) = match &quarantine.bad {
        Bad::Release(release) => (Some(release.clone()), None, None),
        Bad::Cell { digest, name, .. } => (None, Some(digest.0.clone()), Some(name.clone())),
    };
    Quarantine {
        id: id.to_owned(),
        application: application.to_owned(),
        release,
        digest,
        cell,
        regions: quarantine.regions.iter().cloned().collect(),
        by: quarantine.act.by.clone(),
        at: quarantine.act.at.to_string(),
        reason: quarantine.act.reason.clone(),
    }
}

//! The release guard: what would ship where, and what holds it back. Every change is made, and entered into the audit log, at once or not
//! at all.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::{Extension, Json};
use jiff::Timestamp;
use preflight_core::baseline::Proven;
use preflight_core::guard::{self, Act, Bad, Guard, GuardError};
use preflight_core::name::Name;
use preflight_core::plan::{CellDigest, FleetId};
use preflight_core::text::{escape, shell};
use preflight_proto::api::{
    CandidateRequest, Changed, LiftRequest, LockRequest, Problem, QuarantineRequest, Releases, RollbackRequest,
};

use super::auth::Principal;
use super::gate::{Stated, release, stored_verdict};
use super::overrides::text;
use super::problem::Failure;
use super::release::places;
use super::releases;
use crate::app::{App, audit_entry};
use crate::result::core_override;
use crate::secret;
use crate::store::{BesideGuard, Deployed, Shipped};

/// The farthest reminder.
const MAX_REMIND: Duration = Duration::from_hours(400 * 24);
/// The most cells that are quarantined at once.
const MAX_CELLS: usize = 1_000;

/// One application and some of its regions, as the inventory has them.
pub(super) struct Where {
    pub(super) application: String,
    pub(super) regions: Vec<String>,
}

impl Where {
    /// Looks a name up: one with a slip in it would be kept, and nothing would ever rest on it.
    pub(super) async fn find(
        app: &App,
        application: Option<&str>,
        regions: &[String],
        all_regions: bool,
    ) -> Result<Self, Failure> {
        let inventory = Stated::current(app).await?.parsed;
        if all_regions && !regions.is_empty() {
            let fix = "Leave one of them out: `regions` or `all_regions`.".to_owned();
            return Err(Failure::usage("regions are named, and all of them are asked for", fix));
        }
        let known = || inventory.applications().iter().map(|a| a.name.as_str()).collect::<Vec<_>>().join(", ");
        let application = match (application, inventory.applications()) {
            (Some(name), _) => inventory.application(name).ok_or_else(|| {
                let message = format!("the inventory has no application {}", escape(name));
                Failure::usage(message, format!("Use one of {}.", known()))
            })?,
            (None, [only]) => only,
            (None, _) => {
                let fix = format!("Say which application: --application with one of {}.", known());
                return Err(Failure::usage("no application is named, and the inventory has several", fix));
            }
        };
        let runs_in: Vec<&str> = application.regions().map(Name::as_str).collect();
        if let Some(odd) = regions.iter().find(|region| !runs_in.contains(&region.as_str())) {
            let message = format!("{} does not run in region {}", application.name, escape(odd));
            return Err(Failure::usage(message, format!("Use one of {}.", runs_in.join(", "))));
        }
        let mut regions: Vec<String> =
            if all_regions { runs_in.into_iter().map(str::to_owned).collect() } else { regions.to_vec() };
        let mut seen = BTreeSet::new();
        regions.retain(|region| seen.insert(region.clone()));
        Ok(Self { application: application.name.to_string(), regions })
    }

    /// The same for what has happened: a region that the inventory of now lacks counts where something is recorded of it.
    async fn find_past(app: &App, application: Option<&str>, regions: &[String]) -> Result<Self, Failure> {
        let mut place = Self::find(app, application, &[], false).await?;
        let (guard, _) = app.store.guard(&place.application).await?;
        let mut past: BTreeSet<String> = guard.regions.into_keys().collect();
        past.extend(app.store.all_deployed(Some(&place.application)).await?.into_iter().map(|last| last.region));
        let rest: Vec<String> = regions.iter().filter(|region| !past.contains(*region)).cloned().collect();
        Self::find(app, application, &rest, false).await?;
        let mut seen = BTreeSet::new();
        place.regions = regions.iter().filter(|region| seen.insert(*region)).cloned().collect();
        Ok(place)
    }

    pub(super) fn some(self) -> Result<Self, Failure> {
        if self.regions.is_empty() {
            return Err(Failure::usage("no region is named", "Name a region: --region.".to_owned()));
        }
        Ok(self)
    }
}

/// Notes what would ship in a region if its pipeline ran now. A gate does it by itself.
#[utoipa::path(post, path = "/v1/releases/candidate", request_body = CandidateRequest, security(("token" = [])), responses(
    (status = 200, body = Changed), (status = 401, body = Problem), (status = 403, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn candidate(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Json(request): Json<CandidateRequest>,
) -> Result<Json<Changed>, Failure> {
    release(&request.release)?;
    let place = Where::find(&app, request.application.as_deref(), &request.regions, false).await?.some()?;
    let now = Timestamp::now();
    let candidate =
        guard::Candidate { release: request.release.clone(), run: None, by: principal.name.clone(), at: now };
    let regions = place.regions.join(", ");
    let entry =
        principal.entry("release candidate", &format!("{} {} in {regions}", place.application, request.release));
    let announce = |guard: &mut Guard| {
        for region in &place.regions {
            guard.announce(region, candidate.clone());
        }
        Ok::<_, GuardError>(((), BesideGuard { entries: vec![entry], ..BesideGuard::default() }))
    };
    app.store.change_guard(&place.application, now, announce).await??;
    let done = vec![format!("{} is what would ship in {regions}", escape(&request.release))];
    Ok(changed(&app, &place.application, done, Vec::new()).await)
}

/// Says that a release, or a cell whichever release carries it, must not ship.
#[utoipa::path(post, path = "/v1/releases/quarantine", request_body = QuarantineRequest, security(("token" = [])), responses(
    (status = 200, body = Changed), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem),
    (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn quarantine(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Json(request): Json<QuarantineRequest>,
) -> Result<Json<Changed>, Failure> {
    text("reason", &request.reason)?;
    let (application, bad) = match (&request.release, &request.verdict) {
        (Some(name), None) if request.cells.is_empty() => {
            release(name)?;
            (request.application.clone(), vec![Bad::Release(name.clone())])
        }
        (None, Some(verdict)) if !request.cells.is_empty() && request.regions.is_empty() => {
            if request.cells.len() > MAX_CELLS {
                return Err(Failure::usage(format!("more than {MAX_CELLS} cells"), "Name fewer at once.".to_owned()));
            }
            let gate = stored_verdict(&app, verdict).await?;
            if let Some(other) = request.application.as_ref().filter(|name| **name != gate.application) {
                let message = format!("verdict {verdict} is of {}, not {}", escape(&gate.application), escape(other));
                return Err(Failure::usage(message, "Leave `application` out: it is the verdict's.".to_owned()));
            }
            let bad = request.cells.iter().map(|name| cell_of(&gate, name)).collect::<Result<_, _>>()?;
            (Some(gate.application), bad)
        }
        _ => {
            let fix = "Name a release (and regions, if not all), or a verdict and cells of it.".to_owned();
            return Err(Failure::usage("a quarantine is of one release, or of cells of one verdict", fix));
        }
    };
    let place = Where::find(&app, application.as_deref(), &request.regions, false).await?;
    let (now, mut ids) = (after_overrides(&app, &place.application, Timestamp::now()).await?, Vec::new());
    for _ in &bad {
        ids.push(new_id()?);
    }
    let act = principal.act(&request.reason, now);
    let everywhere = if place.regions.is_empty() { "every region".to_owned() } else { place.regions.join(", ") };
    let quarantine = |guard: &mut Guard| {
        let (mut done, mut notices, mut stored) = (Vec::new(), Vec::new(), BesideGuard::default());
        for (bad, id) in bad.into_iter().zip(&ids) {
            let what = match &bad {
                Bad::Release(release) => format!("{} in {everywhere}", escape(release)),
                Bad::Cell { name, .. } => format!("{}, whichever release carries it,", escape(name)),
            };
            if let Bad::Release(release) = &bad {
                notices.extend(waiting_for(guard, &place.application, &place.regions, release));
            }
            let regions = place.regions.iter().cloned().collect();
            let kept = guard.quarantine(id, guard::Quarantine { bad, regions, act: act.clone() })?;
            let detail = format!("{kept}: {what} of {}: {}", place.application, request.reason);
            stored.entries.push(principal.entry("release quarantine", &detail));
            done.push(if kept == *id {
                format!("{what} is quarantined ({id})")
            } else {
                format!("{what} was quarantined already ({kept}); what was overridden until now is not any more")
            });
        }
        Ok::<_, GuardError>(((done, notices), stored))
    };
    let (done, mut notices) = app.store.change_guard(&place.application, now, quarantine).await??;
    if let Some(release) = &request.release {
        notices.extend(unheard_of(&app, &place.application, release).await);
    }
    Ok(changed(&app, &place.application, done, notices).await)
}

/// Of the regions (none named: of all) those where what is quarantined now was to ship first, or was the only one that may.
fn waiting_for(guard: &Guard, application: &str, regions: &[String], release: &str) -> Vec<String> {
    let counts = |region: &&String| regions.is_empty() || regions.contains(region);
    let waits = |region: &&String| {
        guard.place(region).is_some_and(|place| {
            place.named.as_ref().is_some_and(|named| named.release == release)
                || place.lock.as_ref().is_some_and(|lock| lock.except.as_deref() == Some(release))
        })
    };
    let flags = format!("--application {}", shell(application));
    let text = |region: &String| {
        format!(
            "{} was the one to ship in {region} and does not ship now: name another one with `preflight unlock {flags} --region {region} \
             --release …`",
            escape(release)
        )
    };
    guard.regions.keys().filter(counts).filter(waits).map(text).collect()
}

/// What a slip in a release's name looks like.
pub(super) async fn unheard_of(app: &App, application: &str, release: &str) -> Option<String> {
    let known = app.store.heard_of(application, release).await.unwrap_or(true);
    let text = format!(
        "{} was never deployed anywhere, and is what would ship nowhere: look whether that is a slip",
        escape(release)
    );
    (!known).then_some(text)
}

/// A cell of a verdict by its name.
fn cell_of(gate: &preflight_proto::api::Gate, name: &str) -> Result<Bad, Failure> {
    let named =
        |region: &str, cell: &preflight_proto::api::Cell| format!("{region}/{}/{}", cell.fleet, cell.dependency);
    let cells = || gate.regions.iter().flat_map(|region| region.cells.iter().map(move |cell| (&region.region, cell)));
    if let Some((region, cell)) = cells().find(|(region, cell)| named(region, cell) == name) {
        return Ok(Bad::Cell {
            digest: CellDigest(cell.digest.clone()),
            name: name.to_owned(),
            fleet: FleetId { region: region.clone(), fleet: cell.fleet.clone() },
            target: cell.target.clone(),
        });
    }
    let known: Vec<String> = cells().take(20).map(|(region, cell)| escape(&named(region, cell))).collect();
    let message = format!("verdict {} has no cell {}", escape(&gate.id), escape(name));
    Err(Failure::usage(message, format!("Its cells are {}.", known.join(", "))))
}

/// Lifts a quarantine. It takes the scope `override`: somebody answers for what was said to be bad.
#[utoipa::path(post, path = "/v1/quarantines/{id}/lift", params(("id" = String, Path)), request_body = LiftRequest, security(("token" = [])),
    responses((status = 200, body = Changed), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem),
    (status = 422, body = Problem)))]
pub(super) async fn lift(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
    Json(request): Json<LiftRequest>,
) -> Result<Json<Changed>, Failure> {
    text("reason", &request.reason)?;
    let place = Where::find(&app, request.application.as_deref(), &[], false).await?;
    let lift = |guard: &mut Guard| {
        let bad = guard.lift(&id).ok_or_else(|| unknown(guard, &id))?.bad;
        let left: Vec<String> =
            guard.quarantines.iter().filter(|(_, other)| other.bad == bad).map(|(id, _)| id.clone()).collect();
        let what = match bad {
            Bad::Release(release) => release,
            Bad::Cell { name, .. } => name,
        };
        let detail = format!("{id}: {what} of {}: {}", place.application, request.reason);
        let notice = (!left.is_empty())
            .then(|| format!("{} stays quarantined by {}: that is another one", escape(&what), left.join(", ")));
        let what = (what, notice);
        let entries = vec![principal.entry("release lift", &detail)];
        Ok::<_, Failure>((what, BesideGuard { entries, ..BesideGuard::default() }))
    };
    let (what, notice) = app.store.change_guard(&place.application, Timestamp::now(), lift).await??;
    let done = vec![format!("{} is not quarantined by {} any more", escape(&what), escape(&id))];
    Ok(changed(&app, &place.application, done, notice.into_iter().collect()).await)
}

/// There is no quarantine of that id; it may be what is quarantined.
fn unknown(guard: &Guard, id: &str) -> Failure {
    let of_it = guard.quarantines.iter().filter(|(_, other)| other.bad == Bad::Release(id.to_owned()));
    let ids: Vec<&str> = of_it.map(|(id, _)| id.as_str()).collect();
    let fix = if ids.is_empty() {
        "`preflight release list` has those that there are, with their ids.".to_owned()
    } else {
        format!("{} is quarantined by {}: lift that.", escape(id), ids.join(", "))
    };
    Failure::unknown(&format!("quarantine {}", escape(id)), &fix)
}

/// Records that regions went back to an earlier release: what was bad is quarantined everywhere, and the regions are locked for all but
/// what they went back to.
#[utoipa::path(post, path = "/v1/releases/rollback", request_body = RollbackRequest, security(("token" = [])), responses(
    (status = 200, body = Changed), (status = 401, body = Problem), (status = 403, body = Problem), (status = 409, body = Problem),
    (status = 422, body = Problem)))]
pub(super) async fn rollback(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Json(request): Json<RollbackRequest>,
) -> Result<Json<Changed>, Failure> {
    text("reason", &request.reason)?;
    release(&request.from)?;
    release(&request.to)?;
    let place = Where::find_past(&app, request.application.as_deref(), &request.regions).await?.some()?;
    let (now, id) = (after_overrides(&app, &place.application, Timestamp::now()).await?, new_id()?);
    let (mut deployed, mut recorded, mut notices, mut slips) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (from, to, application) = (escape(&request.from), escape(&request.to), shell(&place.application));
    for region in &place.regions {
        let last = app.store.deployed(&place.application, region, None).await?.map(|last| last.proven.release);
        let span = async |release| app.store.deployed_span(&place.application, region, release).await;
        let (span_from, span_to) = (span(&request.from).await?, span(&request.to).await?);
        match (last.as_deref(), span_from, span_to) {
            (Some(last), ..) if last != request.from && last != request.to => {
                slips.push(format!("in {region} {} was recorded as deployed, not {from}", escape(last)));
            }
            (_, Some((_, from_last)), Some((to_first, _))) if to_first > from_last => {
                slips.push(format!("in {region} {to} came after {from}, not before it"));
            }
            (.., None) => notices.push(format!(
                "{to} was never recorded as deployed in {region}. When it runs there: `preflight release deployed --application {application} \
                 --region {region} --release {}`; from then on `preflight gate --rollback` to it goes on",
                shell(&request.to)
            )),
            _ => {}
        }
        // `gate --rollback` goes to what was deployed before: that must not be said of what never was.
        if span_to.is_none() {
            continue;
        }
        recorded.push(region.clone());
        if last.as_ref() == Some(&request.to) {
            continue;
        }
        // What it had shown when it shipped first may not be so any more: it is required again.
        let proven = Proven::nothing(request.to.clone(), None);
        let (application, region, principal) = (place.application.clone(), region.clone(), principal.name.clone());
        let record = Deployed { id: 0, application, region, proven, at: now, principal };
        // What the matrix shows of it is not worth losing the record.
        let places = places(&app, None, &record).await.unwrap_or_default();
        deployed.push(Shipped { deployed: record, places, expected: None });
    }
    slips.extend(unheard_of(&app, &place.application, &request.from).await);
    let regions = place.regions.join(", ");
    let roll_back = |guard: &mut Guard| {
        let act = principal.act(&request.reason, now);
        let done = guard.rollback(&place.regions, &request.from, &request.to, &id, &act)?;
        let detail = format!(
            "{} from {} to {} in {regions}, quarantine {}: {}",
            place.application, request.from, request.to, done.quarantine, request.reason
        );
        let shut = done.without_exception.iter().filter_map(|region| {
            let is_known = recorded.contains(region);
            shut(guard, region, &request.to, is_known)
        });
        let shut: Vec<String> = shut.chain(waiting_for(guard, &place.application, &[], &request.from)).collect();
        let entries = vec![principal.entry("release rollback", &detail)];
        Ok::<_, GuardError>(((done, shut), BesideGuard { entries, deployed, rolled_back: place.regions.clone() }))
    };
    let (back, shut) = app.store.change_guard(&place.application, now, roll_back).await??;
    let mut done = vec![format!("{from} is quarantined in every region ({})", back.quarantine)];
    let excepted = |region: &&String| !back.without_exception.contains(region);
    let open: Vec<&str> = place.regions.iter().filter(excepted).map(String::as_str).collect();
    if !recorded.is_empty() {
        done.insert(0, format!("{to} is deployed in {}", recorded.join(", ")));
    }
    if !open.is_empty() {
        done.push(format!("locked for all but {to}: {}", open.join(", ")));
    }
    if !back.without_exception.is_empty() {
        done.push(format!("locked: {}", back.without_exception.join(", ")));
    }
    notices.extend(shut);
    if !recorded.is_empty() {
        notices.push(format!(
            "what was proven when {to} shipped before may not be so any more: the next gate in {} requires every cell",
            recorded.join(", ")
        ));
    }
    notices.push(format!(
        "to ship again, gate what should, and then: `preflight unlock --application {application} --region {} --release …`",
        place.regions.join(",")
    ));
    if !slips.is_empty() {
        notices.push(format!(
            "{}. If that is a slip, take it back (`preflight release lift {} --application {application} --reason …`) and record it again",
            slips.join("; "),
            back.quarantine
        ));
    }
    Ok(changed(&app, &place.application, done, notices).await)
}

/// Why a region is locked for what it went back to as well, and what that means; with `is_known` that was recorded as deployed there.
fn shut(guard: &Guard, region: &str, to: &str, is_known: bool) -> Option<String> {
    let (release, bad) = (escape(to), guard.bad(region, to, &BTreeSet::new()));
    if !bad.is_empty() {
        return Some(format!(
            "{release} is quarantined in {region} ({}): also `preflight gate --rollback` to it is refused, until that is lifted or overridden",
            bad.join(", ")
        ));
    }
    is_known.then(|| {
        format!("{region} was locked for everything, and stays so: `preflight gate --rollback` to {release} goes on all the same")
    })
}

/// A time that no override for a release was given after, also where the clock was set back: what is quarantined then is excused by none.
async fn after_overrides(app: &App, application: &str, now: Timestamp) -> Result<Timestamp, Failure> {
    let overrides = app.store.overrides(Some(application), now).await?;
    let given =
        overrides.iter().filter(|given| given.release.is_some()).filter_map(core_override).map(|given| given.at);
    let later = given.max().and_then(|last| last.checked_add(Duration::from_millis(1)).ok());
    Ok(later.map_or(now, |later| later.max(now)))
}

/// Locks regions, one lock for each.
#[utoipa::path(post, path = "/v1/lock", request_body = LockRequest, security(("token" = [])), responses(
    (status = 200, body = Changed), (status = 401, body = Problem), (status = 403, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn lock(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Json(request): Json<LockRequest>,
) -> Result<Json<Changed>, Failure> {
    text("reason", &request.reason)?;
    let named = Where::find(&app, request.application.as_deref(), &request.regions, request.all_regions);
    let place = named.await?.some()?;
    let now = Timestamp::now();
    let remind = request.remind_s.map(Duration::from_secs);
    if remind.is_some_and(|after| after > MAX_REMIND) {
        return Err(Failure::usage("`remind_s` is more than 400 days", None));
    }
    let remind_at = remind.and_then(|after| now.checked_add(after).ok());
    let lock = |guard: &mut Guard| {
        let (mut done, mut notices) = (Vec::new(), Vec::new());
        for region in &place.regions {
            let held = guard.place(region).and_then(|place| place.lock.clone());
            guard.lock(region, principal.act(&request.reason, now), remind_at);
            let Some(held) = held else {
                done.push(format!("{region} is locked"));
                continue;
            };
            let all =
                held.except.as_ref().map(|except| format!(", now for {} as well", escape(except))).unwrap_or_default();
            notices.push(format!("{region} was locked already, {}. One unlock lifts it{all}", held.who()));
        }
        let detail = format!("{} in {}: {}", place.application, place.regions.join(", "), request.reason);
        let entries = vec![principal.entry("lock", &detail)];
        Ok::<_, GuardError>(((done, notices), BesideGuard { entries, ..BesideGuard::default() }))
    };
    let (done, notices) = app.store.change_guard(&place.application, now, lock).await??;
    Ok(changed(&app, &place.application, done, notices).await)
}

/// What was done is done, also where the table cannot be read.
pub(super) async fn changed(
    app: &App,
    application: &str,
    done: Vec<String>,
    mut notices: Vec<String>,
) -> Json<Changed> {
    let releases = releases::of(app, Some(application)).await.unwrap_or_else(|_| {
        notices.push("how things stand now could not be read; `preflight release list` shows it".to_owned());
        Releases::default()
    });
    Json(Changed { done, notices, releases })
}

fn new_id() -> Result<String, Failure> {
    Ok(secret::hex(&secret::bytes::<8>().map_err(|error| Failure::internal(error.to_string()))?))
}

impl Principal {
    pub(super) fn act(&self, reason: &str, now: Timestamp) -> Act {
        Act { by: self.name.clone(), at: now, reason: reason.to_owned() }
    }

    pub(super) fn entry(&self, action: &str, detail: &str) -> preflight_proto::api::AuditEntry {
        audit_entry(&self.name, action, "ok", &self.source, detail, Timestamp::now())
    }
}

impl From<GuardError> for Failure {
    fn from(error: GuardError) -> Self {
        let text = error.to_string();
        match error {
            GuardError::SameRelease(_) => Self::usage(text, "Name both: --from and --to.".to_owned()),
            GuardError::TooMany => Self::refused(text, "`preflight release lift ID --reason …`".to_owned()),
        }
    }
}

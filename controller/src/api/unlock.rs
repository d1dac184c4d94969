//! Unlocking: compare-and-set of what is expected to ship, and what to do where that is something else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use jiff::Timestamp;
use preflight_core::guard::{self, Carries, Guard, NotReady, UnlockRefused, Unlocked, Unready};
use preflight_core::text::{escape, shell};
use preflight_proto::api::{Changed, Problem, UnlockRequest};

use super::auth::{Principal, Scope};
use super::gate::release;
use super::guard::{Where, changed, unheard_of};
use super::overrides::text;
use super::problem::Failure;
use super::releases;
use crate::app::App;
use crate::result::core_override;
use crate::store::{BesideGuard, StoreError};

/// Unlocks regions, if what is named is what would ship in each of them.
#[utoipa::path(post, path = "/v1/unlock", tag = "guard", request_body = UnlockRequest, security(("token" = [])), responses(
    (status = 200, body = Changed), (status = 401, body = Problem), (status = 403, body = Problem),
    (status = 409, description = "Something else would ship: nothing is unlocked", body = Problem), (status = 422, body = Problem)))]
pub(super) async fn unlock(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Json(request): Json<UnlockRequest>,
) -> Result<Json<Changed>, Failure> {
    let confirmed = !request.confirm.is_empty();
    let unready = match (&request.release, confirmed, request.ready) {
        (Some(_), false, false) => Unready::Refuse,
        (Some(_), false, true) => Unready::Leave,
        (None, true, false) if request.regions.is_empty() && !request.all_regions => Unready::Confirmed,
        _ => {
            let fix = "Name `release` and the regions, with `ready` to unlock only where it is what would ship; or nothing but a release \
                       for each region in `confirm`.";
            return Err(Failure::usage("an unlock names what is expected to ship", fix.to_owned()));
        }
    };
    let named: Vec<String> =
        if confirmed { request.confirm.keys().cloned().collect() } else { request.regions.clone() };
    let place = Where::find(&app, request.application.as_deref(), &named, request.all_regions).await?.some()?;
    let reason = request.reason.clone().unwrap_or_default();
    if confirmed && request.reason.is_none() {
        return Err(Failure::usage("`confirm` needs a `reason`", "Say why: --reason.".to_owned()));
    }
    request.reason.iter().try_for_each(|reason| text("reason", reason))?;
    if confirmed && !principal.may(Scope::Override) {
        return Err(Failure::forbidden("override"));
    }
    request.release.iter().chain(request.confirm.values()).try_for_each(|name| release(name))?;
    let now = Timestamp::now();
    let release = |region: &String| request.confirm.get(region).or(request.release.as_ref()).cloned();
    for _ in 0..ATTEMPTS {
        let carries = carried(&app, &place).await?;
        let overrides = app.store.overrides(Some(&place.application), now).await?;
        let overrides: Vec<_> = overrides.iter().filter_map(core_override).collect();
        let unlock = |guard: &mut Guard| {
            if runs(guard, &place).any(|run| !carries.contains_key(&run)) {
                return Err(NotUnlocked::Announced);
            }
            // Of all regions those that something holds back.
            let regions = place.regions.iter().filter(|region| !request.all_regions || guard.is_held(region));
            let expected: BTreeMap<_, _> =
                regions.filter_map(|region| Some((region.clone(), release(region)?))).collect();
            let asked = guard::Unlock { expected, unready, act: principal.act(&reason, now) };
            let done = match guard.unlock(&asked, &carries, &overrides) {
                Ok(done) => done,
                Err(refused) => return Err(NotUnlocked::Refused(refused, asked.expected)),
            };
            let entry = |region: &String| {
                let how = if confirmed { ", confirmed" } else { "" };
                let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
                let release = release(region).unwrap_or_default();
                let lifted = done.lifted.get(region).map(|lock| format!("; locked {}", lock.who())).unwrap_or_default();
                principal.entry("unlock", &format!("{} in {region} for {release}{how}{why}{lifted}", place.application))
            };
            let entries = done.unlocked.iter().map(entry).collect();
            let words = in_words(&place.application, guard, &done, &asked.expected);
            let words = (words.0, words.1, done.unlocked);
            Ok((words, BesideGuard { entries, ..BesideGuard::default() }))
        };
        match app.store.change_guard(&place.application, now, unlock).await? {
            Ok((done, mut notices, unlocked)) => {
                let named: BTreeSet<String> = unlocked.iter().filter_map(release).collect();
                for name in named {
                    notices.extend(unheard_of(&app, &place.application, &name).await);
                }
                return Ok(changed(&app, &place.application, done, notices).await);
            }
            Err(NotUnlocked::Announced) => {}
            Err(NotUnlocked::Refused(refused, expected)) => {
                return Err(refusal(&app, &place.application, &request, &refused, &expected).await);
            }
        }
    }
    Err(StoreError::Busy.into())
}

/// How often an unlock looks at the candidates again, since another was announced while it looked.
const ATTEMPTS: usize = 5;

/// Why nothing was unlocked.
enum NotUnlocked {
    /// Another candidate was announced since: what it carries is not known yet.
    Announced,
    Refused(UnlockRefused, BTreeMap<String, String>),
}

/// The runs of the regions' candidates, each with its region, where it matters what they carry: a cell is quarantined.
fn runs(guard: &Guard, place: &Where) -> impl Iterator<Item = (String, String)> {
    let asked = |(region, _): &(&String, &guard::Place)| guard.has_cells() && place.regions.contains(region);
    let run =
        |(region, place): (&String, &guard::Place)| Some((region.clone(), place.candidate.as_ref()?.run.clone()?));
    guard.regions.iter().filter(asked).filter_map(run)
}

/// What the candidates of an application carry.
async fn carried(app: &App, place: &Where) -> Result<Carries, Failure> {
    let (guard, _) = app.store.guard(&place.application).await?;
    let mut carries = Carries::new();
    for (region, run) in runs(&guard, place) {
        let cells = app.store.carried(&run).await?.remove(&region).unwrap_or_default();
        carries.insert((region, run), cells);
    }
    Ok(carries)
}

/// What was unlocked, and what was not or is otherwise to be known.
fn in_words(
    application: &str,
    guard: &Guard,
    done: &Unlocked,
    expected: &BTreeMap<String, String>,
) -> (Vec<String>, Vec<String>) {
    let release = |region: &String| expected.get(region).map(String::as_str).unwrap_or_default();
    let lines = done.unlocked.iter().map(|region| {
        let lifted = done.lifted.get(region).map(|lock| format!("; it was locked {}", lock.who())).unwrap_or_default();
        format!("{region} is unlocked for {}{lifted}", escape(release(region)))
    });
    let open = done.open.iter().map(|region| {
        if guard.is_held(region) {
            format!("{region} was unlocked for {} already", escape(release(region)))
        } else {
            format!("{region} was not locked")
        }
    });
    let left = done.left.iter().map(|(region, why)| {
        let why: Vec<String> = why.iter().map(|why| why.describe(release(region))).collect();
        let named = guard.place(region).and_then(|place| place.named.as_ref());
        let stays = named.map_or_else(
            || "stays locked".to_owned(),
            |named| format!("stays unlocked for {} only", escape(&named.release)),
        );
        format!("{region} {stays}: {}", why.join("; "))
    });
    let bad = done.unlocked.iter().chain(&done.open).filter_map(|region| {
        let ids = guard.bad(region, release(region), &BTreeSet::new());
        let text = format!(
            "{} is quarantined in {region} ({}): it ships only once that is lifted, or while it is overridden",
            escape(release(region)),
            ids.join(", ")
        );
        (!ids.is_empty()).then_some(text)
    });
    let none = expected.is_empty().then(|| format!("nothing holds back any region of {application}"));
    (lines.collect(), open.chain(left).chain(bad).chain(none).collect())
}

/// Says which region is not ready and why, with all of them side by side, and what to do.
async fn refusal(
    app: &App,
    application: &str,
    request: &UnlockRequest,
    refused: &UnlockRefused,
    expected: &BTreeMap<String, String>,
) -> Failure {
    let named = |region: &str| expected.get(region).map(String::as_str).unwrap_or_default();
    let in_words = |(region, why): (&String, &Vec<NotReady>)| {
        let why: Vec<String> = why.iter().map(|why| why.describe(named(region))).collect();
        format!("{region}: {}", why.join("; "))
    };
    let mut whys: Vec<String> = refused.regions.iter().map(in_words).collect();
    if refused.differ {
        whys.push("these regions would not ship the same release".to_owned());
    }
    let message = format!("nothing is unlocked: {}", whys.join("; "));
    let release = request.release.as_deref().unwrap_or_default();
    let slip = unheard_of(app, application, release).await;
    let failure = Failure::refused(message, advice(application, request, refused, slip));
    // Without the table it is a refusal all the same.
    let only = expected.keys().cloned().collect();
    let Ok(mut releases) = releases::among(app, Some(application), Some(&only)).await else { return failure };
    for row in &mut releases.regions {
        let unready = refused.regions.get(&row.region).into_iter().flatten();
        row.unready = unready.map(|why| why.describe(named(&row.region))).collect();
    }
    failure.beside(releases)
}

/// What to do about a refusal: nothing that would be refused, and no region that was not asked for.
fn advice(application: &str, request: &UnlockRequest, refused: &UnlockRefused, slip: Option<String>) -> String {
    let release = request.release.as_deref().unwrap_or_default();
    let (name, word) = (escape(release), shell(release));
    let unlock = format!("preflight unlock --application {}", shell(application));
    let mut steps = Vec::new();
    if !request.ready && !refused.ready.is_empty() {
        let place = if request.all_regions {
            "--all-regions".to_owned()
        } else {
            format!("--region {}", request.regions.join(","))
        };
        steps.push(format!(
            "Unlock where {name} is what would ship, and leave the others as they are: `{unlock} {place} --release {word} --ready`."
        ));
    }
    let whys = || refused.regions.values().flatten();
    let bad = whys().filter_map(|why| if let NotReady::Quarantined(ids) = why { Some(ids) } else { None });
    let regions = |is_bad: bool| -> Vec<&str> {
        let counts = |why: &NotReady| matches!(why, NotReady::Quarantined(_)) == is_bad;
        refused.regions.iter().filter(|(_, why)| why.iter().any(counts)).map(|(region, _)| region.as_str()).collect()
    };
    let ids: BTreeSet<&String> = bad.flatten().collect();
    if let Some(first) = ids.first() {
        let id = if ids.len() == 1 { first.as_str() } else { "ID" };
        steps.push(format!(
            "Ship a release without what is wrong with {name}. If nothing is after all: `preflight release lift {id} --application {app} \
             --reason …`. Who answers for it as it is, and then unlocks: `preflight override --application {app} --region {} --release \
             {word} --reason … --ticket … --expires 1h`.",
            regions(true).join(","),
            app = shell(application)
        ));
    }
    let others = regions(false);
    if let Some(slip) = slip {
        steps.push(format!("{slip}."));
    } else if !others.is_empty() {
        steps.push(format!(
            "Where it is not what would ship yet ({}), gate it: that announces it, and so does `preflight release candidate \
             --application {} --region {} --release {word}`.",
            others.join(", "),
            shell(application),
            others.join(",")
        ));
        let confirm: Vec<String> = others.iter().map(|region| format!("--confirm {region}={word}")).collect();
        let confirm = confirm.join(" ");
        steps.push(format!("Who answers for it whatever its pipeline says: `{unlock} {confirm} --reason …`."));
    }
    steps.join(" ")
}

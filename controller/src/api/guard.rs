//! The release guard: what would ship where, and what holds it back. Every change is made, and entered into the audit log, at once or not
//! at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::{Extension, Json};
use jiff::Timestamp;
use preflight_core::baseline::Proven;
use preflight_core::guard::{self, Act, Bad, Guard, GuardError, UnlockRefused, Unlocked, Unready};
use preflight_core::name::Name;
use preflight_core::plan::CellDigest;
use preflight_core::text::escape;
use preflight_proto::api::{
    CandidateRequest, Changed, LiftRequest, LockRequest, Problem, QuarantineRequest, RollbackRequest, UnlockRequest,
};

use super::auth::{Principal, Scope};
use super::gate::{Stated, release, stored_verdict};
use super::overrides::text;
use super::problem::Failure;
use super::release::places;
use super::releases;
use crate::app::{App, audit_entry};
use crate::secret;
use crate::store::{BesideGuard, Deployed, Shipped};

/// The farthest reminder.
const MAX_REMIND: Duration = Duration::from_hours(400 * 24);

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

    fn some(self) -> Result<Self, Failure> {
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
    changed(&app, &place.application, done, Vec::new()).await
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
            let gate = stored_verdict(&app, verdict).await?;
            let bad = request.cells.iter().map(|name| cell_of(&gate, name)).collect::<Result<_, _>>()?;
            (Some(gate.application), bad)
        }
        _ => {
            let fix = "Name a release (and regions, if not all), or a verdict and cells of it.".to_owned();
            return Err(Failure::usage("a quarantine is of one release, or of cells of one verdict", fix));
        }
    };
    let place = Where::find(&app, application.as_deref(), &request.regions, false).await?;
    let (now, mut ids) = (Timestamp::now(), Vec::new());
    for _ in &bad {
        ids.push(new_id()?);
    }
    let act = principal.act(&request.reason, now);
    let everywhere = if place.regions.is_empty() { "every region".to_owned() } else { place.regions.join(", ") };
    let quarantine = |guard: &mut Guard| {
        let (mut done, mut stored) = (Vec::new(), BesideGuard::default());
        for (bad, id) in bad.into_iter().zip(&ids) {
            let what = match &bad {
                Bad::Release(release) => format!("{} in {everywhere}", escape(release)),
                Bad::Cell { name, .. } => format!("{}, whichever release carries it,", escape(name)),
            };
            let regions = place.regions.iter().cloned().collect();
            let kept = guard.quarantine(id, guard::Quarantine { bad, regions, act: act.clone() })?;
            if kept == *id {
                let detail = format!("{id}: {what} of {}: {}", place.application, request.reason);
                stored.entries.push(principal.entry("release quarantine", &detail));
                done.push(format!("{what} is quarantined ({id})"));
            } else {
                done.push(format!("{what} was quarantined already ({kept})"));
            }
        }
        Ok::<_, GuardError>((done, stored))
    };
    let done = app.store.change_guard(&place.application, now, quarantine).await??;
    changed(&app, &place.application, done, Vec::new()).await
}

/// A cell of a verdict by its name.
fn cell_of(gate: &preflight_proto::api::Gate, name: &str) -> Result<Bad, Failure> {
    let named =
        |region: &str, cell: &preflight_proto::api::Cell| format!("{region}/{}/{}", cell.fleet, cell.dependency);
    let cells = || gate.regions.iter().flat_map(|region| region.cells.iter().map(move |cell| (&region.region, cell)));
    if let Some((_, cell)) = cells().find(|(region, cell)| named(region, cell) == name) {
        return Ok(Bad::Cell { digest: CellDigest(cell.digest.clone()), name: name.to_owned() });
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
        let what = match guard.lift(&id).ok_or_else(|| unknown(&id))?.bad {
            Bad::Release(release) => release,
            Bad::Cell { name, .. } => name,
        };
        let detail = format!("{id}: {what} of {}: {}", place.application, request.reason);
        let entries = vec![principal.entry("release lift", &detail)];
        Ok::<_, Failure>((what, BesideGuard { entries, ..BesideGuard::default() }))
    };
    let what = app.store.change_guard(&place.application, Timestamp::now(), lift).await??;
    let done = vec![format!("{} is not quarantined by {} any more", escape(&what), escape(&id))];
    changed(&app, &place.application, done, Vec::new()).await
}

fn unknown(id: &str) -> Failure {
    let message = format!("there is no quarantine {}", escape(id));
    Failure::usage(message, "`preflight release list` has those that there are, with their ids.".to_owned())
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
    let place = Where::find(&app, request.application.as_deref(), &request.regions, false).await?.some()?;
    let (now, id) = (Timestamp::now(), new_id()?);
    let (mut deployed, mut recorded, mut notices) = (Vec::new(), Vec::new(), Vec::new());
    let (from, to) = (escape(&request.from), escape(&request.to));
    for region in &place.regions {
        let last = app.store.deployed(&place.application, region, None).await?.map(|last| last.proven.release);
        if last.as_ref().is_some_and(|last| *last != request.from && *last != request.to) {
            let last = last.as_deref().map(escape).unwrap_or_default();
            notices.push(format!("in {region} {last} was recorded as deployed, not {from}"));
        }
        // `gate --rollback` goes to what was deployed before: that must not be said of what never was.
        if app.store.deployed(&place.application, region, Some(&request.to)).await?.is_none() {
            notices.push(format!(
                "{to} was never recorded as deployed in {region}, and is not recorded by this: gate it, then `preflight release deployed`"
            ));
            continue;
        }
        recorded.push(region.as_str());
        if last.as_ref() == Some(&request.to) {
            continue;
        }
        // What it had shown when it shipped first may not be so any more: it is required again.
        let proven = Proven::nothing(request.to.clone(), None);
        let (application, region, principal) = (place.application.clone(), region.clone(), principal.name.clone());
        let record = Deployed { id: 0, application, region, proven, at: now, principal };
        let places = places(&app, None, &record).await?;
        deployed.push(Shipped { deployed: record, places, expected: None });
    }
    let regions = place.regions.join(", ");
    let roll_back = |guard: &mut Guard| {
        let act = principal.act(&request.reason, now);
        let kept = guard.rollback(&place.regions, &request.from, &request.to, &id, &act)?;
        let Act { reason, .. } = &act;
        let detail = format!(
            "{} from {} to {} in {regions}, quarantine {kept}: {reason}",
            place.application, request.from, request.to
        );
        let entries = vec![principal.entry("release rollback", &detail)];
        Ok::<_, GuardError>((kept, BesideGuard { entries, deployed, rolled_back: place.regions.clone() }))
    };
    let kept = app.store.change_guard(&place.application, now, roll_back).await??;
    let shipped = (!recorded.is_empty()).then(|| format!("{to} is deployed in {}", recorded.join(", ")));
    let held =
        [format!("{from} is quarantined in every region ({kept})"), format!("locked for all but {to}: {regions}")];
    let done = shipped.into_iter().chain(held).collect();
    changed(&app, &place.application, done, notices).await
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
            let new = guard::Lock { act: principal.act(&request.reason, now), remind_at, except: None };
            if guard.lock(region, new) {
                done.push(region.clone());
            } else if let Some(held) = held {
                let except = held.except.map(|except| format!(" for all but {}", escape(&except))).unwrap_or_default();
                let Act { by, at, reason } = held.act;
                let (by, reason) = (escape(&by), escape(&reason));
                notices.push(format!(
                    "{region} was locked{except} already by {by} since {at:.0} ({reason}); that lock stays"
                ));
            }
        }
        let detail = format!("{} in {}: {}", place.application, done.join(", "), request.reason);
        let entries = if done.is_empty() { Vec::new() } else { vec![principal.entry("lock", &detail)] };
        Ok::<_, GuardError>(((done, notices), BesideGuard { entries, ..BesideGuard::default() }))
    };
    let (done, notices) = app.store.change_guard(&place.application, now, lock).await??;
    let done = done.into_iter().map(|region| format!("{region} is locked")).collect();
    changed(&app, &place.application, done, notices).await
}

/// Unlocks regions, if what is named is what would ship in each of them.
#[utoipa::path(post, path = "/v1/unlock", request_body = UnlockRequest, security(("token" = [])), responses(
    (status = 200, body = Changed), (status = 401, body = Problem), (status = 403, body = Problem),
    (status = 409, description = "Something else would ship: nothing is unlocked", body = Problem), (status = 422, body = Problem)))]
pub(super) async fn unlock(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Json(request): Json<UnlockRequest>,
) -> Result<Json<Changed>, Failure> {
    let confirmed = !request.confirm.is_empty();
    let named: Vec<String> =
        if confirmed { request.confirm.keys().cloned().collect() } else { request.regions.clone() };
    let place = Where::find(&app, request.application.as_deref(), &named, request.all_regions && !confirmed).await?;
    let unready = match (&request.release, confirmed, request.ready) {
        (Some(_), false, false) => Unready::Refuse,
        (Some(_), false, true) => Unready::Leave,
        (None, true, false) => Unready::Confirmed,
        _ => {
            let fix = "Name `release`, with `ready` to unlock only where it is what would ship; or a release for each region in `confirm`.";
            return Err(Failure::usage("an unlock names what is expected to ship", fix.to_owned()));
        }
    };
    let reason = match (&request.reason, confirmed) {
        (Some(reason), _) => {
            text("reason", reason)?;
            reason.clone()
        }
        (None, false) => String::new(),
        (None, true) => return Err(Failure::usage("`confirm` needs a `reason`", "Say why: --reason.".to_owned())),
    };
    if confirmed && !principal.may(Scope::Override) {
        return Err(Failure::forbidden("override"));
    }
    request.release.iter().chain(request.confirm.values()).try_for_each(|name| release(name))?;
    let place = place.some()?;
    let now = Timestamp::now();
    let carries = carried(&app, &place.application).await?;
    let unlock = |guard: &mut Guard| {
        // Of all regions those that are locked.
        let locked = |region: &&String| guard.place(region).is_some_and(|place| place.lock.is_some());
        let all = request.all_regions && !confirmed;
        let regions: Vec<&String> = place.regions.iter().filter(|region| !all || locked(region)).collect();
        let release = |region: &String| request.confirm.get(region).or(request.release.as_ref()).cloned();
        let expected = regions
            .into_iter()
            .filter_map(|region| Some((region.clone(), release(region)?)))
            .collect::<BTreeMap<_, _>>();
        let act = principal.act(&reason, now);
        let asked = guard::Unlock { expected: expected.clone(), unready, act };
        let done = guard.unlock(&asked, &carries).map_err(|refused| (refused, expected.clone()))?;
        let entry = |region: &String| {
            let release = expected.get(region).map(String::as_str).unwrap_or_default();
            let how = match unready {
                Unready::Confirmed => format!(", confirmed: {reason}"),
                Unready::Refuse | Unready::Leave => String::new(),
            };
            principal.entry("unlock", &format!("{} in {region} for {release}{how}", place.application))
        };
        let entries = done.unlocked.iter().map(entry).collect();
        Ok(((done, expected), BesideGuard { entries, ..BesideGuard::default() }))
    };
    match app.store.change_guard(&place.application, now, unlock).await? {
        Ok((done, expected)) => {
            let (done, notices) = in_words(&place.application, &done, &expected);
            changed(&app, &place.application, done, notices).await
        }
        Err((refused, expected)) => Err(refusal(&app, &place.application, &refused, &expected).await?),
    }
}

/// What the candidates of an application carry, by run; only where a cell of it is quarantined, since nothing else asks.
async fn carried(app: &App, application: &str) -> Result<BTreeMap<String, BTreeSet<CellDigest>>, Failure> {
    let (guard, _) = app.store.guard(application).await?;
    let mut carries = BTreeMap::new();
    if !guard.quarantines.values().any(|quarantine| matches!(quarantine.bad, Bad::Cell { .. })) {
        return Ok(carries);
    }
    for run in guard.regions.values().filter_map(|place| place.candidate.as_ref()?.run.clone()) {
        if let Some(spec) = app.store.run_spec(&run).await? {
            carries.insert(run, spec.plan.cells.iter().map(preflight_core::plan::Cell::digest).collect());
        }
    }
    Ok(carries)
}

fn in_words(application: &str, done: &Unlocked, expected: &BTreeMap<String, String>) -> (Vec<String>, Vec<String>) {
    let release = |region: &String| expected.get(region).map(String::as_str).unwrap_or_default();
    let lines = done.unlocked.iter().map(|region| format!("{region} is unlocked for {}", escape(release(region))));
    let open = done.open.iter().map(|region| format!("{region} was not locked"));
    let left = done.left.iter().map(|(region, why)| {
        let why: Vec<String> = why.iter().map(|why| why.describe(release(region))).collect();
        format!("{region} stays locked: {}", why.join("; "))
    });
    let none = expected.is_empty().then(|| format!("no region of {application} is locked"));
    (lines.collect(), open.chain(left).chain(none).collect())
}

/// Says which region is not ready and why, with all of them side by side.
async fn refusal(
    app: &App,
    application: &str,
    refused: &UnlockRefused,
    expected: &BTreeMap<String, String>,
) -> Result<Failure, Failure> {
    let mut releases = releases::of(app, Some(application)).await?;
    releases.regions.retain(|row| expected.contains_key(&row.region));
    let mut whys = Vec::new();
    for row in &mut releases.regions {
        let named = expected.get(&row.region).map(String::as_str).unwrap_or_default();
        let unready = refused.regions.get(&row.region).into_iter().flatten();
        row.unready = unready.map(|why| why.describe(named)).collect();
        whys.extend(row.unready.iter().map(|why| format!("{}: {why}", row.region)));
    }
    if refused.differ {
        whys.push("these regions would not ship the same release".to_owned());
    }
    let named = expected.values().next().map(|name| escape(name)).unwrap_or_default();
    let confirm: Vec<String> =
        expected.iter().map(|(region, release)| format!("--confirm {region}={}", escape(release))).collect();
    let first = if refused.regions.len() < expected.len() {
        format!(
            "Unlock where {named} is what would ship, and leave the others locked: `preflight unlock --application {application} \
             --release {named} --ready`."
        )
    } else {
        "Wait until it is what would ship: a gate for it says so, or `preflight release candidate`.".to_owned()
    };
    let fix = format!(
        "{first} Who answers for something else names it for each region: `preflight unlock --application {application} {} --reason …`.",
        confirm.join(" "),
    );
    Ok(Failure::refused(format!("nothing is unlocked: {}", whys.join("; ")), fix).beside(releases))
}

async fn changed(
    app: &App,
    application: &str,
    done: Vec<String>,
    notices: Vec<String>,
) -> Result<Json<Changed>, Failure> {
    Ok(Json(Changed { done, notices, releases: releases::of(app, Some(application)).await? }))
}

fn new_id() -> Result<String, Failure> {
    Ok(secret::hex(&secret::bytes::<8>().map_err(|error| Failure::internal(error.to_string()))?))
}

impl Principal {
    fn act(&self, reason: &str, now: Timestamp) -> Act {
        Act { by: self.name.clone(), at: now, reason: reason.to_owned() }
    }

    fn entry(&self, action: &str, detail: &str) -> preflight_proto::api::AuditEntry {
        audit_entry(&self.name, action, "ok", &self.source, detail, Timestamp::now())
    }
}

impl From<GuardError> for Failure {
    fn from(error: GuardError) -> Self {
        let text = error.to_string();
        match error {
            GuardError::SameRelease(_) => Self::usage(text, "Name both: --from and --to.".to_owned()),
            GuardError::TooMany => Self::refused(text, "`preflight release lift ID --reason …`".to_owned()),
            GuardError::ToQuarantined { .. } => {
                Self::refused(text, "Go back to one that is good, or lift the quarantine first.".to_owned())
            }
        }
    }
}

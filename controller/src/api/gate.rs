//! The gate and its verdicts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use jiff::Timestamp;
use preflight_core::baseline::{self, Duty, Proven};
use preflight_core::identity::{IdentityKey, KeyRule};
use preflight_core::inventory::{Application, Inventory};
use preflight_core::manifest::Manifest;
use preflight_core::plan::{CellDigest, FleetId, Plan, sha256};
use preflight_core::run::{Basis, Mode, RunSpec};
use preflight_core::text::escape;
use preflight_proto::api::{Decision, Gate, GateRequest, Override, Problem, Scope};

use super::auth::Principal;
use super::flagger;
use super::problem::Failure;
use super::stream;
use crate::app::{App, audit_entry};
use crate::dispatch::Dispatch as _;
use crate::runs::{Handle, Kind, RunResult};
use crate::secret;
use crate::store::AgentRow;

/// The longest that a run may take.
const MAX_WAIT_MS: u32 = 10 * 60 * 1_000;
const MIN_WAIT_MS: u32 = 1_000;
/// A rollback is shown for this long at most: nobody must wait for what does not decide.
const ROLLBACK_WAIT_MS: u32 = 5_000;
const MAX_RELEASE: usize = 200;

/// Runs the manifest's plan and gives a verdict: 200 with the gate's answer whatever the verdict.
///
/// With `Accept: application/x-ndjson` the answer is a stream of events, one JSON object a line, the last of them
/// `{"event":"gate",…}` or `{"event":"error",…}`.
#[utoipa::path(post, path = "/v1/gate", request_body = GateRequest, security(("token" = [])), responses(
    (status = 200, body = Gate), (status = 401, body = Problem), (status = 403, body = Problem),
    (status = 409, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn gate(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    headers: HeaderMap,
    Json(request): Json<GateRequest>,
) -> Result<Response, Failure> {
    let handle = start(&app, &principal, request).await?;
    if stream::wanted(&headers) {
        return Ok(stream::lines(handle, false));
    }
    Ok(Json(stream::gate(stream::result(handle).await?)?).into_response())
}

/// As `/v1/gate`, for callers that read only the status: 200 for proceed, 409 for block.
///
/// It also takes what Flagger's webhook sends. What is not understood is 422, never a pass.
#[utoipa::path(post, path = "/v1/gate/check", request_body = flagger::CheckRequest, security(("token" = [])), responses(
    (status = 200, body = Gate), (status = 401, body = Problem), (status = 403, body = Problem),
    (status = 409, description = "Block (the gate's answer), or the id belongs to another request (a problem)", body = Gate),
    (status = 422, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn check(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Json(body): Json<serde_json::Value>,
) -> Result<Response, Failure> {
    let handle = start(&app, &principal, flagger::request(body)?).await?;
    let gate = stream::gate(stream::result(handle).await?)?;
    let status = match gate.decision {
        Decision::Proceed => StatusCode::OK,
        Decision::Block => StatusCode::CONFLICT,
    };
    Ok((status, Json(gate)).into_response())
}

async fn start(app: &App, principal: &Principal, request: GateRequest) -> Result<Handle, Failure> {
    let digest = sha256(&serde_json::to_vec(&request).map_err(|error| Failure::internal(error.to_string()))?);
    let id = run_id(request.id.as_deref())?;
    // Known before the inventory is looked at: the run goes by the inventory that it began with.
    if let Some(handle) = app.runs.find(&id, &digest).await? {
        return Ok(handle);
    }
    release(&request.release)?;
    let mode = request.mode;
    if mode == Mode::Advisory && !app.allow_advisory {
        let fix = "Gate without --advisory; who runs the controller allows it by leaving --forbid-advisory out.";
        return Err(Failure::refused("this controller forbids --advisory", fix.to_owned()));
    }
    let manifest = Manifest::parse(&escape(&request.manifest_name), &request.manifest)?;
    let inventory = Stated::current(app).await?;
    let plan = match Plan::build(&manifest, &inventory.parsed, &request.regions, request.all_regions) {
        Err(error) if mode == Mode::Rollback => match unplanned(app, &manifest, &inventory.parsed, &request).await? {
            Some(plan) => plan,
            None => return Err(error.into()),
        },
        plan => plan?,
    };
    let other_manifest = match mode {
        Mode::Rollback => check_deployed_before(app, &plan, &request.release).await?,
        Mode::Gate | Mode::Advisory => BTreeMap::new(),
    };
    let mut proven: BTreeMap<String, Proven> = BTreeMap::new();
    let (mut deployed, mut rolled_back): (BTreeMap<String, i64>, BTreeMap<String, i64>) = Default::default();
    for region in &plan.regions {
        let recorded = app.store.recorded(&plan.application, region).await?;
        deployed.insert(region.clone(), recorded.latest.deployed);
        rolled_back.insert(region.clone(), recorded.latest.rollback);
        // What was gone back from is not what runs there, and what runs there instead has not been recorded.
        if request.scope == Scope::New && mode != Mode::Rollback && !recorded.gone_back {
            proven.extend(recorded.deployed.map(|last| (region.clone(), last.proven)));
        }
    }
    let digests = plan.digests();
    let duties = match mode {
        Mode::Gate | Mode::Advisory => {
            let kinds = kinds(app, &plan, &inventory.parsed.identity_key);
            baseline::duties(&plan, &digests, &proven, &kinds)
        }
        Mode::Rollback => vec![Duty::Shown; plan.cells.len()],
    };
    // Each duty names the verdict that has shown its cell; what else was proven is what is gone.
    let digests: BTreeSet<CellDigest> = digests.into_iter().collect();
    for region in proven.values_mut() {
        region.cells.retain(|digest, _| !digests.contains(digest));
    }
    let unlisted = unlisted(app, &inventory.parsed, &plan).await?;
    let started = Timestamp::now();
    let wait_ms = if mode == Mode::Rollback { request.wait_ms.min(ROLLBACK_WAIT_MS) } else { request.wait_ms };
    let spec = RunSpec {
        id,
        release: request.release,
        plan,
        started,
        deadline: deadline(started, wait_ms)?,
        fail_fast: request.fail_fast,
        strict: request.strict,
        // Nobody must wait for what does not decide.
        await_agents: request.await_agents && mode != Mode::Rollback,
        unlisted,
        target_rate: app.target_rate,
        duties,
        mode,
        basis: Basis {
            manifest_name: request.manifest_name,
            manifest: request.manifest,
            inventory_digest: inventory.digest,
            identity_key: inventory.parsed.identity_key,
            proven,
            other_manifest,
            deployed,
            rolled_back,
            stale_inventory: app.stale_inventory(),
        },
        only: None,
    };
    let entry = audit_entry(&principal.name, "gate", "asked", &principal.source, &asked(&spec), started);
    Ok(app.runs.start(Kind::Gate, &digest, spec, &principal.name, Some(&entry)).await?)
}

/// The plan of a rollback whose manifest does not fit the inventory of now: that holds it up nowhere, only nothing is shown. All
/// regions are those in which the inventory runs the application, else those where it was deployed; none if there is no such region.
async fn unplanned(
    app: &App,
    manifest: &Manifest,
    inventory: &Inventory,
    request: &GateRequest,
) -> Result<Option<Plan>, Failure> {
    let application = manifest.application.to_string();
    let known = inventory.application(&application).into_iter().flat_map(Application::regions).map(ToString::to_string);
    let mut regions: Vec<String> = if request.all_regions { known.collect() } else { request.regions.clone() };
    if regions.is_empty() {
        let places = app.store.all_deployed(Some(&application)).await?;
        regions = places.into_iter().map(|place| place.region).collect();
    }
    let mut seen = BTreeSet::new();
    regions.retain(|region| seen.insert(region.clone()));
    let manifest_digest = manifest.digest.clone();
    let plan = Plan { application, manifest_digest, regions, cells: Vec::new(), excluded: Vec::new() };
    Ok((!plan.regions.is_empty()).then_some(plan))
}

/// Which kinds of hosts each fleet of a plan has, as far as agents are known.
fn kinds(app: &App, plan: &Plan, rule: &KeyRule) -> BTreeMap<FleetId, BTreeSet<IdentityKey>> {
    let fleets: BTreeSet<FleetId> = plan.cells.iter().map(|cell| cell.fleet.clone()).collect();
    let rosters = app.roster.roster(&fleets, rule, "", Timestamp::now());
    rosters.into_iter().map(|(fleet, all)| (fleet, all.into_iter().map(|candidate| candidate.key).collect())).collect()
}

/// What was asked for, as the audit log tells it.
fn asked(spec: &RunSpec) -> String {
    let mode = match spec.mode {
        Mode::Gate => "",
        Mode::Advisory => ", advisory",
        Mode::Rollback => ", rollback",
    };
    let regions = spec.plan.regions.join(", ");
    format!("{} {} in {regions}{mode}; verdict {}", spec.plan.application, spec.release, spec.id)
}

/// A rollback goes back to what was there: anything else has to be shown. By region, the verdict that it shipped with, where that is
/// known to be for another manifest.
async fn check_deployed_before(app: &App, plan: &Plan, release: &str) -> Result<BTreeMap<String, String>, Failure> {
    let mut other = BTreeMap::new();
    for region in &plan.regions {
        let Some(before) = app.store.deployed(&plan.application, region, Some(release)).await? else {
            let message = format!("release {} was never recorded as deployed in {region}", escape(release));
            let known = app.store.deployed_before(&plan.application, region, 5).await?;
            let known = match known.as_slice() {
                [] => "none is recorded there".to_owned(),
                names => names.iter().map(|name| escape(name)).collect::<Vec<_>>().join(", "),
            };
            let fix = format!("Name a release that was ({known}), or gate this one without --rollback.");
            return Err(Failure::refused(message, fix));
        };
        let Some(verdict) = before.proven.verdict else { continue };
        let shipped = app.store.run_spec(&verdict).await?;
        if shipped.is_some_and(|shipped| shipped.plan.manifest_digest != plan.manifest_digest) {
            other.insert(region.clone(), verdict);
        }
    }
    Ok(other)
}

/// Fleets of the plan's regions that have agents and are not in the inventory: hosts that nobody gates.
async fn unlisted(app: &App, inventory: &Inventory, plan: &Plan) -> Result<Vec<FleetId>, Failure> {
    let now = Timestamp::now();
    let live = |row: &AgentRow| {
        !row.revoked && row.left_at.is_none() && row.certificate_until.is_some_and(|until| until > now)
    };
    let agents = app.store.agents().await?.into_iter().filter(live).map(|row| row.id.fleet);
    let odd = |fleet: &FleetId| plan.regions.contains(&fleet.region) && inventory.fleet(fleet).is_none();
    let fleets: BTreeSet<FleetId> = agents.filter(odd).collect();
    Ok(fleets.into_iter().collect())
}

/// The id that the caller chose, or a new one.
pub(super) fn run_id(chosen: Option<&str>) -> Result<String, Failure> {
    let Some(id) = chosen else {
        let random = secret::bytes::<8>().map_err(|error| Failure::internal(error.to_string()))?;
        return Ok(secret::hex(&random));
    };
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if (16..=64).contains(&id.len()) && id.bytes().all(plain) {
        return Ok(id.to_owned());
    }
    Err(Failure::usage("`id` must be 16 to 64 of a-z, 0-9 and '-'", None))
}

pub(super) fn release(release: &str) -> Result<(), Failure> {
    if release.trim().is_empty() || release.len() > MAX_RELEASE || !release.chars().all(preflight_core::text::is_plain)
    {
        let fix = "Name what would ship, for example a version or commit: --release 2025-03-31.1";
        return Err(Failure::usage(
            format!("`release` must be 1 to {MAX_RELEASE} bytes of visible text"),
            fix.to_owned(),
        ));
    }
    Ok(())
}

/// When a run that starts now ends at the latest.
pub(super) fn deadline(started: Timestamp, wait_ms: u32) -> Result<Timestamp, Failure> {
    if !(MIN_WAIT_MS..=MAX_WAIT_MS).contains(&wait_ms) {
        return Err(Failure::usage(
            format!("a run may take 1s to 10m (--wait; `wait_ms` {MIN_WAIT_MS} to {MAX_WAIT_MS})"),
            None,
        ));
    }
    let wait = std::time::Duration::from_millis(u64::from(wait_ms));
    started.checked_add(wait).map_err(|error| Failure::internal(error.to_string()))
}

/// The inventory that was applied last.
pub(super) struct Stated {
    pub(super) parsed: Inventory,
    /// `sha256:…` of its text.
    pub(super) digest: String,
}

impl Stated {
    pub(super) async fn current(app: &App) -> Result<Self, Failure> {
        let Some((name, text, _, _)) = app.store.inventory().await? else {
            let fix = "Say which fleets exist: `preflight inventory apply inventory.yaml`.";
            return Err(Failure::usage("the controller has no inventory yet", fix.to_owned()));
        };
        Ok(Self { parsed: Inventory::parse(&name, &text)?, digest: sha256(text.as_bytes()) })
    }
}

/// A verdict that was given before, with the overrides that its blocking cells were given since.
#[utoipa::path(get, path = "/v1/verdicts/{id}", params(("id" = String, Path)), security(("token" = [])), responses(
    (status = 200, body = Gate), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn verdict(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Gate>, Failure> {
    let mut gate = stored_verdict(&app, &id).await?;
    let ended: Timestamp = gate.ended_at.parse().map_err(|_| Failure::internal("a verdict without a time"))?;
    let (given, now) = (app.store.overrides(Some(&gate.application), ended).await?, Timestamp::now());
    for region in &mut gate.regions {
        let blocking = |given: &Override| {
            region
                .cells
                .iter()
                .any(|cell| cell.blocks() && given.is_for(&gate.application, &region.region, &cell.digest))
        };
        let since = |given: &Override| given.at.parse::<Timestamp>().is_ok_and(|at| at >= ended);
        // What was given for another verdict matters while it holds.
        let matters = |given: &Override| given.verdict == gate.id || given.in_force(now);
        let new = given.iter().filter(|given| blocking(given) && since(given) && matters(given));
        region.overrides_since = new.cloned().collect();
    }
    Ok(Json(gate))
}

/// A verdict as it was given.
pub(super) async fn stored_verdict(app: &App, id: &str) -> Result<Gate, Failure> {
    let run = app.store.run(id).await?.filter(|run| run.kind == Kind::Gate.as_str());
    let Some(run) = run else { return Err(Failure::no_verdict(id)) };
    let Some(text) = run.result else { return Err(Failure::not_found("verdict of that id yet: its run is under way")) };
    match RunResult::parse(&run.kind, &text)? {
        RunResult::Gate(gate) => Ok(*gate),
        RunResult::Probe(_) => Err(Failure::no_verdict(id)),
    }
}

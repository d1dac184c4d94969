//! The HTTP API's JSON types. Fields may be added, never renamed or removed.

use std::collections::BTreeMap;

use preflight_core::identity::NetworkIdentity;
pub use preflight_core::matrix::State;
use preflight_core::observation::{Observation, Proof};
pub use preflight_core::run::Mode;
use serde::{Deserialize, Serialize};

pub use admin::{
    Agent, Agents, ApiTokenRequest, AuditEntry, AuditLog, InventoryDocument, JoinTokenRequest, NewToken, RevokeRequest,
    TokenEntry, TokenList,
};
pub use releases::{
    Act, Candidate, CandidateRequest, Changed, LiftRequest, Lock, LockRequest, Named, Quarantine, QuarantineRequest,
    RegionReleases, Releases, RollbackRequest, UnlockRequest,
};

mod admin;
mod releases;

/// `POST /v1/gate`: run the manifest's plan and give a verdict.
///
/// Sending the same `id` again joins the run that it started, or answers its verdict: a caller that lost its connection
/// asks again.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct GateRequest {
    /// The run's id, made by the caller: 16 to 64 of `a-z`, `0-9`, `-`. Made by the controller if absent.
    #[serde(default)]
    pub id: Option<String>,
    /// The manifest's text.
    pub manifest: String,
    /// The manifest's name, for error messages.
    #[serde(default = "default_manifest_name")]
    pub manifest_name: String,
    /// The regions; empty with `all_regions`.
    #[serde(default)]
    pub regions: Vec<String>,
    /// Every region that the application runs in.
    #[serde(default)]
    pub all_regions: bool,
    /// What would ship.
    pub release: String,
    /// Which cells are required.
    #[serde(default)]
    pub scope: Scope,
    /// The longest that the run may take, in milliseconds.
    #[serde(default = "default_wait_ms")]
    pub wait_ms: u32,
    /// End as soon as a required cell fails.
    #[serde(default)]
    pub fail_fast: bool,
    /// One sick host fails its cell.
    #[serde(default)]
    pub strict: bool,
    /// A required cell whose fleet has too few agents connected waits for more until `wait_ms` is over, instead of being unknown at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub await_agents: bool,
    /// What the verdict is asked for. A controller may forbid `advisory`.
    #[serde(default)]
    pub mode: Mode,
}

fn default_manifest_name() -> String {
    "preflight.yaml".to_owned()
}

fn default_wait_ms() -> u32 {
    30_000
}

/// Which cells are required.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Those that no deployed release has proven.
    #[default]
    New,
    /// Every one.
    All,
}

/// `POST /v1/probe`: probe targets that an engineer names.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ProbeRequest {
    /// Target URLs.
    pub targets: Vec<String>,
    /// Only this region's fleets.
    #[serde(default)]
    pub region: Option<String>,
    /// Only fleets of this name.
    #[serde(default)]
    pub fleet: Option<String>,
    /// Only fleets that run this application.
    #[serde(default)]
    pub application: Option<String>,
    /// Only agents on the host of this name, or the agent of this name.
    #[serde(default)]
    pub host: Option<String>,
    /// The longest that the run may take, in milliseconds.
    #[serde(default = "default_wait_ms")]
    pub wait_ms: u32,
}

/// What the pipeline should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// Ship.
    Proceed,
    /// Do not ship.
    Block,
}

/// The gate's answer: a verdict with its evidence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Gate {
    /// The run's id, which is the verdict's.
    pub id: String,
    /// The application.
    pub application: String,
    /// What would ship.
    pub release: String,
    /// Over all regions: fail before unknown before pass.
    pub verdict: State,
    /// Over all regions: proceed only if each proceeds.
    pub decision: Decision,
    /// `sha256:…` of the manifest's text.
    pub manifest_digest: String,
    /// The manifest's name, as the caller gave it.
    #[serde(default)]
    pub manifest_name: String,
    /// `sha256:…` of the inventory's text.
    #[serde(default)]
    pub inventory_digest: String,
    /// The controller's version.
    #[serde(default)]
    pub controller_version: String,
    /// The version of each agent that answered, by its name.
    #[serde(default)]
    pub versions: BTreeMap<String, String>,
    /// The caller ships whatever comes of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub advisory: bool,
    /// It was asked for as a rollback.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rollback: bool,
    /// When the run began and ended, RFC 3339, by the controller's clock.
    pub started_at: String,
    /// When the run ended.
    pub ended_at: String,
    /// A region each, in the order asked for.
    pub regions: Vec<Region>,
}

impl Gate {
    /// The JSON Schema of the gate's answer, as `POST /v1/gate` and `preflight gate -o json` give it. More fields may come.
    #[cfg(feature = "schema")]
    pub fn schema() -> serde_json::Value {
        let settings = schemars::generate::SchemaSettings::draft2020_12().for_serialize();
        let mut schema = settings.into_generator().into_root_schema_for::<Self>();
        schema.insert("title".to_owned(), "preflight gate".into());
        schema.to_value()
    }
}

/// One region's part of a verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Region {
    /// The region.
    pub region: String,
    /// Its verdict.
    pub verdict: State,
    /// Its decision.
    pub decision: Decision,
    /// Until when the verdict may be used, RFC 3339, by the controller's clock.
    pub valid_until: String,
    /// The overrides in force that the decision rests on.
    pub overrides: Vec<Override>,
    /// Of a stored verdict, the overrides of cells that block it which were given after it: the decision does not rest on them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides_since: Vec<Override>,
    /// Dependencies down, fleets across.
    pub cells: Vec<Cell>,
    /// What the manifest leaves out on purpose.
    #[serde(default)]
    pub excluded: Vec<Excluded>,
    /// Which kinds of hosts each fleet had.
    #[serde(default)]
    pub fleets: Vec<FleetSeen>,
    /// What comparing cells shows.
    pub findings: Vec<Finding>,
    /// Why, and what to do next.
    pub reasons: Vec<ReasonText>,
}

/// One cell of the matrix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Cell {
    /// The fleet.
    pub fleet: String,
    /// The dependency.
    pub dependency: String,
    /// The target, resolved for the region.
    pub target: String,
    /// The cell's digest.
    pub digest: String,
    /// Whether the verdict rests on it.
    pub required: bool,
    /// Its state.
    pub state: State,
    /// Why it is not `pass`.
    pub reason: Option<String>,
    /// The reason in words, naming the identity, agents or addresses concerned.
    #[serde(default)]
    pub text: Option<String>,
    /// Where this dependency begins in the manifest; 0 where no file was read.
    #[serde(default)]
    pub line: u32,
    /// The verdict that has shown it before, where this run did not probe it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proven_by: Option<String>,
    /// How many of how many kinds of hosts are shown, where there are several: `2 of 3 subnets`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coverage: Option<String>,
    /// Each kind of host of the fleet by itself.
    #[serde(default)]
    pub identities: Vec<Identity>,
    /// How many agents, by what became of them.
    pub agents: AgentCounts,
    /// What they saw.
    pub evidence: Vec<Evidence>,
}

impl Cell {
    /// Whether it holds its region back, as far as the verdict goes.
    pub fn blocks(&self) -> bool {
        self.required && self.state != State::Pass
    }
}

/// Which kinds of hosts a fleet had when a verdict was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FleetSeen {
    /// The fleet.
    pub fleet: String,
    /// What the hosts of each kind share.
    pub identities: Vec<String>,
}

/// `GET /v1/verdicts/{id}/standing`: a verdict as things stand now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Standing {
    /// The verdict as it was given, with the decisions and overrides of this moment.
    pub gate: Gate,
    /// Why it does not hold any more; empty while it does.
    pub objections: Vec<Objection>,
}

/// Why a verdict does not hold any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Objection {
    /// Where; none for every region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Why.
    #[serde(flatten)]
    pub reason: ReasonText,
}

/// `POST /v1/releases/deployed`: a release has shipped in a region.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct DeployedRequest {
    /// The application; with a verdict it is the verdict's. May be absent where the inventory has only one.
    #[serde(default)]
    pub application: Option<String>,
    /// The region.
    pub region: String,
    /// What shipped.
    pub release: String,
    /// The verdict it shipped with. Without one it proves nothing.
    #[serde(default)]
    pub verdict: Option<String>,
}

/// What is recorded as deployed in a region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Deployed {
    /// The application.
    pub application: String,
    /// The region.
    pub region: String,
    /// What shipped.
    pub release: String,
    /// The verdict it shipped with.
    pub verdict: Option<String>,
    /// How many cells it has proven.
    pub proven: u32,
    /// When it was recorded, RFC 3339.
    pub at: String,
    /// Who recorded it.
    pub by: String,
    /// What whoever recorded it should know: which cells stay unproven, and why. None in a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
}

/// `POST /v1/overrides`: answer for cells that block.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct OverrideRequest {
    /// The verdict that blocks; absent with `release`.
    #[serde(default)]
    pub verdict: Option<String>,
    /// The quarantined release that may ship all the same; absent with `verdict`.
    #[serde(default)]
    pub release: Option<String>,
    /// The application of `release`; may be absent where the inventory has only one.
    #[serde(default)]
    pub application: Option<String>,
    /// Where `release` may ship.
    #[serde(default)]
    pub regions: Vec<String>,
    /// The cells, as `REGION/FLEET/DEPENDENCY`; empty with `all_blocking` and `release`.
    #[serde(default)]
    pub cells: Vec<String>,
    /// Every cell that blocks.
    #[serde(default)]
    pub all_blocking: bool,
    /// Why.
    pub reason: String,
    /// Where it is tracked.
    pub ticket: String,
    /// How long it holds, in seconds.
    pub ttl_s: u64,
}

/// `GET /v1/overrides`, and the answer to `POST`; to `DELETE`, those that still hold the same cell.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Overrides {
    /// The newest first.
    pub overrides: Vec<Override>,
}

/// `POST /v1/records`: what was done while the controller could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Its id, made by the caller: the same one is kept once.
    pub id: String,
    /// `break_glass` or `rollback`.
    pub kind: String,
    /// The application.
    pub application: String,
    /// The regions; empty for all.
    pub regions: Vec<String>,
    /// What shipped.
    pub release: String,
    /// `sha256:…` of the manifest's text.
    pub manifest_digest: String,
    /// Why.
    pub reason: String,
    /// Where it is tracked.
    pub ticket: String,
    /// Who, as the host that did it says: `USER@HOST`.
    pub by: String,
    /// When, RFC 3339, by that host's clock.
    pub at: String,
    /// Why the controller could not be asked.
    pub error: String,
}

/// The answer to `POST /v1/records`: it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Delivered {
    /// What is odd about the record: it names what this controller does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
}

/// Hosts of a fleet that network policy treats alike, as one cell sees them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Identity {
    /// What they share: `security_group=sg-web subnet=a`.
    pub key: String,
    /// What is shown of them.
    pub state: State,
}

/// Somebody answers for one cell until a time. The verdict stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Override {
    /// Its id.
    pub id: String,
    /// The application.
    pub application: String,
    /// The region.
    pub region: String,
    /// The fleet; this and the next three are empty where it is for a quarantined release.
    pub fleet: String,
    /// The dependency, as it was called then.
    pub dependency: String,
    /// The cell's digest, which it holds for.
    pub digest: String,
    /// The verdict at whose sight it was given.
    pub verdict: String,
    /// The quarantined release that it holds for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// Who gave it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Where it is tracked.
    pub ticket: String,
    /// When it was given, RFC 3339.
    pub at: String,
    /// When it ends, RFC 3339.
    pub expires_at: String,
    /// When and by whom it was withdrawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawn: Option<String>,
}

impl Override {
    /// What it is for: `eu/web/ai-cache`, or `eu/2025-03-31.1` of a quarantined release.
    pub fn subject(&self) -> String {
        match &self.release {
            Some(release) => format!("{}/{release}", self.region),
            None => format!("{}/{}/{}", self.region, self.fleet, self.dependency),
        }
    }

    /// Whether it has neither been withdrawn nor ended at that time. An end that is no time has passed.
    pub fn in_force(&self, at: jiff::Timestamp) -> bool {
        self.withdrawn.is_none() && self.expires_at.parse::<jiff::Timestamp>().is_ok_and(|until| at < until)
    }

    /// Whether it is for that cell of that region of that application.
    pub fn is_for(&self, application: &str, region: &str, digest: &str) -> bool {
        self.release.is_none() && self.application == application && self.region == region && self.digest == digest
    }
}

/// How many agents a cell rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AgentCounts {
    /// Asked in all.
    pub asked: u32,
    /// Meets the expectation.
    pub ok: u32,
    /// Falls short.
    pub short: u32,
    /// Does not count.
    pub void: u32,
    /// Did not answer in time.
    pub silent: u32,
}

/// What one agent saw of one address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Evidence {
    /// The agent's name.
    pub agent: String,
    /// Its network identity during the run.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub identity: NetworkIdentity,
    /// What it saw: `address`, `outcome`, `reason`, `proof`, `phases`, and where there is more `note`, `detail`, `tls`, `attempts`; of a member
    /// of a cluster, or of what a Sentinel watches, also `member`: its `role` and the `endpoint` that clients are told.
    #[serde(flatten)]
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub observation: Observation,
}

/// A fleet that the manifest leaves out of a dependency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Excluded {
    /// The fleet.
    pub fleet: String,
    /// The dependency.
    pub dependency: String,
    /// Why, from the manifest.
    pub because: String,
}

/// A conclusion drawn by comparing cells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Finding {
    /// `everywhere`, `asymmetry`, `one_zone`, `one_address`, `one_member`, `impact`, `one_host`, `drift`, `uncovered`, `address_short`,
    /// `silent_agent` or `note`.
    pub kind: String,
    /// The dependency it is about; empty where it is about a fleet.
    pub dependency: String,
    /// Other dependencies of which the same is true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
    /// In words.
    pub text: String,
    /// What all hosts that reach it carry and none that fails does, the best explanation first.
    pub attributes: Vec<Attribute>,
    /// The reverse: what all hosts that fail carry and none that reaches it does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failing_attributes: Vec<Attribute>,
}

/// `GET /v1/drift`: whether hosts that should be alike to network policy are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Drift {
    /// Over all: `pass` without drift, `fail` with, `unknown` where something could not be compared.
    pub state: State,
    /// For each application, each region that it runs in.
    pub regions: Vec<DriftRegion>,
}

/// The fleets of one application in one region, compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DriftRegion {
    /// The application.
    pub application: String,
    /// The region.
    pub region: String,
    /// `pass`, `fail` or `unknown`, as of the whole.
    pub state: State,
    /// The fleets that were compared.
    pub fleets: Vec<String>,
    /// By how many agents' word.
    pub agents: u32,
    /// What differs.
    pub findings: Vec<Finding>,
    /// What could not be compared, and why.
    pub unknown: Vec<String>,
}

/// One attribute of a network identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Attribute {
    /// Such as `security_group`.
    pub key: String,
    /// Such as `sg-worker`.
    pub value: String,
    /// Of the hosts that reach it, how many carry this.
    #[serde(default)]
    pub carried_by_ok: u32,
    /// How many hosts reach it.
    #[serde(default)]
    pub ok: u32,
    /// Of the hosts that fail, how many carry this.
    #[serde(default)]
    pub carried_by_short: u32,
    /// How many hosts fail.
    #[serde(default)]
    pub short: u32,
}

/// Why, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ReasonText {
    /// `cell_failed`, `cell_unknown`, `all_pass`, `no_change`, …
    pub code: String,
    /// In words.
    pub text: String,
    /// What to do next.
    pub fix: Option<String>,
}

/// One line of a streamed answer (`Accept: application/x-ndjson`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// How far the run is.
    Progress(Progress),
    /// One agent's answer in an ad hoc run.
    Result(ProbeResult),
    /// The gate's answer; the last line.
    Gate(Box<Gate>),
    /// The ad hoc run has ended; the last line.
    Done(ProbeResults),
    /// The run could not be finished; the last line.
    Error(Problem),
}

/// How far a run is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// The run's id.
    pub id: String,
    /// Cells whose state is settled.
    pub settled: u32,
    /// Cells in all.
    pub cells: u32,
    /// Cells that fail so far.
    pub failing: u32,
    /// Who is waited for: `any agent of eu/worker` (none is connected yet, or too few), `eu/web-1`, …, at most ten.
    pub waiting_for: Vec<String>,
}

/// `preflight probe -o json`, and the body of `POST /v1/probe`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProbeResults {
    /// The run's id; empty for a local probe.
    #[serde(default)]
    pub id: String,
    /// One for each target, fleet and agent.
    pub results: Vec<ProbeResult>,
}

/// What one agent saw of one target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProbeResult {
    /// The dependency's name, where a manifest was probed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dependency: Option<String>,
    /// The target's URL.
    pub target: String,
    /// The region; none for a local probe.
    pub region: Option<String>,
    /// The fleet; none for a local probe.
    pub fleet: Option<String>,
    /// The agent; none for a local probe, or where no agent answered.
    pub agent: Option<String>,
    /// Pass, fail or unknown.
    pub outcome: State,
    /// Why it is not `pass`.
    pub reason: Option<String>,
    /// How far the best address got.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub proof: Option<Proof>,
    /// Each address by itself, then each of every member.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<Object>))]
    pub addresses: Vec<Observation>,
    /// How many addresses the name has, where not all were probed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses_in_all: Option<u32>,
    /// How many members the target told of, where not all were probed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members_in_all: Option<u32>,
}

/// An error's body: `{"error": {…}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// The error.
    pub error: ProblemBody,
}

/// What went wrong and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProblemBody {
    /// `usage` (exit 64), `refused` (exit 4), `unauthorized`, `forbidden`, `not_found`, `conflict`, `too_large`, `unavailable` (try again) or `internal`.
    pub code: String,
    /// In words; for files with `FILE:LINE:COLUMN`.
    pub message: String,
    /// What to do next.
    #[serde(default)]
    pub fix: Option<String>,
    /// The regions side by side, where an unlock was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub releases: Option<Box<Releases>>,
}

/// `GET /v1/matrix`: the latest state of every cell of what is deployed; where nothing is, of the latest gate.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Matrix {
    /// By application, region, dependency, fleet.
    pub cells: Vec<MatrixCell>,
}

/// One cell's latest state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MatrixCell {
    /// The application.
    pub application: String,
    /// The region.
    pub region: String,
    /// The fleet.
    pub fleet: String,
    /// The dependency.
    pub dependency: String,
    /// The target, resolved for the region.
    pub target: String,
    /// The state.
    pub state: State,
    /// Why it is not `pass`.
    pub reason: Option<String>,
    /// The verdict that holds the evidence.
    pub verdict: String,
    /// The release it was for.
    pub release: String,
    /// When, RFC 3339.
    pub at: String,
}

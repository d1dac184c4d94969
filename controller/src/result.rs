//! What came of a run, as the API tells it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use preflight_core::baseline::Duty;
use preflight_core::decision::{self, Given, Override, Subject};
use preflight_core::findings::{self, Finding};
use preflight_core::guard::{self, Asked, Carried, Guard};
use preflight_core::identity::IdentityKey;
use preflight_core::matrix::{Answer, Candidate, State};
use preflight_core::observation::{Observation, Outcome, Phases, Report};
use preflight_core::plan::{CellDigest, Excluded, FleetId};
use preflight_core::reason::Void;
use preflight_core::run::{Mode, Run, Witness};
use preflight_core::verdict::{self, JudgedCell, Reason};
use preflight_proto::api;

use crate::store::{Found, LatestCell, Place};

/// A verdict may be used for this long after its run.
const VALID_FOR: Duration = Duration::from_mins(10);

type Rosters = BTreeMap<FleetId, Vec<Candidate>>;

/// What stands beside a run when its verdict is given.
#[derive(Debug, Clone, Default)]
pub(crate) struct Beside {
    /// The application's overrides that have not ended.
    pub(crate) overrides: Vec<api::Override>,
    /// What holds its releases back.
    pub(crate) guard: Guard,
    /// The agents' versions, by name.
    pub(crate) versions: BTreeMap<String, String>,
}

/// A gate's verdict with its evidence, and what it tells the matrix.
pub(crate) fn gate(run: &Run, rosters: &Rosters, beside: &Beside, now: Timestamp) -> (api::Gate, Found) {
    let spec = run.spec();
    let judged = run.judged(rosters);
    let verdict = verdict::give(&spec.plan, &judged, &spec.basis);
    // A run that was taken up again long after its time rests on evidence from before its deadline.
    let valid_until = now.min(spec.deadline).checked_add(VALID_FOR).unwrap_or(Timestamp::MAX);
    let overrides: Vec<Override> = beside.overrides.iter().filter_map(core_override).collect();
    let mut regions = Vec::new();
    for given in verdict.regions {
        let cells = verdict::of_region(&judged, &given.region);
        let unlisted = spec.unlisted.iter().filter(|fleet| fleet.region == given.region);
        let excluded = spec.plan.excluded.iter().filter(|excluded| excluded.fleet.region == given.region);
        let asked = Asked {
            application: &spec.plan.application,
            region: &given.region,
            release: &spec.release,
            cells: &cells.iter().map(|judged| Carried::of(judged.cell, judged.digest.clone())).collect(),
            mode: spec.mode,
        };
        let word = beside.guard.word(&asked, &overrides, now);
        let (blocking, held) = (verdict::blocking(&cells), given.is_held());
        let state = given.state;
        let looked = Given { region: &given.region, state, blocking: &blocking, held, mode: spec.mode };
        let decided = decision::decide(&looked, word, &overrides, now);
        regions.push(api::Region {
            verdict: given.state,
            decision: api_decision(decided.proceed),
            valid_until: decided.until.map_or(valid_until, |until| until.min(valid_until)).to_string(),
            overrides_since: Vec::new(),
            overrides: beside.overrides.iter().filter(|o| decided.overrides.contains(&o.id)).cloned().collect(),
            cells: cells.iter().map(|judged| cell(judged)).collect(),
            excluded: excluded.map(api_excluded).collect(),
            fleets: fleets(&cells, rosters),
            findings: findings::find(&cells, unlisted).into_iter().map(api_finding).collect(),
            reasons: decided.reasons.into_iter().chain(given.reasons).map(api_reason).collect(),
            region: given.region,
        });
    }
    // Once for the whole verdict, however many regions lack it.
    if let Some((of, finding)) = findings::missing_usage(&judged)
        && let Some(region) = regions.iter_mut().find(|region| region.region == of)
    {
        region.findings.push(api_finding(finding));
    }
    let witnesses = judged.iter().flat_map(|judged| &judged.witnesses).filter(|w| w.testimony.is_some());
    let versions = witnesses.filter_map(|w| beside.versions.get_key_value(w.agent));
    let gate = api::Gate {
        id: spec.id.clone(),
        application: spec.plan.application.clone(),
        release: spec.release.clone(),
        verdict: verdict.state,
        decision: api_decision(regions.iter().all(|region| region.decision == api::Decision::Proceed)),
        manifest_digest: spec.plan.manifest_digest.clone(),
        manifest_name: spec.basis.manifest_name.clone(),
        inventory_digest: spec.basis.inventory_digest.clone(),
        versions: versions.map(|(agent, version)| (agent.clone(), version.clone())).collect(),
        controller_version: env!("CARGO_PKG_VERSION").to_owned(),
        advisory: spec.mode == Mode::Advisory,
        rollback: spec.mode == Mode::Rollback,
        started_at: spec.started.to_string(),
        ended_at: now.to_string(),
        regions,
    };
    let probed = judged.iter().filter(|judged| !matches!(judged.duty, Duty::Proven(_)));
    let latest = probed.map(|judged| LatestCell {
        digest: judged.digest.0.clone(),
        target: judged.cell.spec.target.to_string(),
        state: judged.folded.state,
        reason: judged.folded.why.map(|why| why.as_str().to_owned()),
        phases: slowest(judged),
        certificate_until: first_to_end(judged),
    });
    let place = |judged: &JudgedCell<'_>| Place {
        region: judged.cell.fleet.region.clone(),
        fleet: judged.cell.fleet.fleet.clone(),
        dependency: judged.cell.dependency.clone(),
        digest: judged.digest.0.clone(),
    };
    (gate, Found { latest: latest.collect(), places: judged.iter().map(place).collect() })
}

/// Makes a verdict's decisions again, by what stands beside it at `now`. The verdict stays.
pub(crate) fn decide_again(gate: &mut api::Gate, beside: &Beside, now: Timestamp) {
    let mode = match (gate.advisory, gate.rollback) {
        (true, _) => Mode::Advisory,
        (_, true) => Mode::Rollback,
        (false, false) => Mode::Gate,
    };
    let overrides: Vec<Override> = beside.overrides.iter().filter_map(core_override).collect();
    for region in &mut gate.regions {
        let digest = |cell: &api::Cell| CellDigest(cell.digest.clone());
        let cells = carried(region).collect();
        let asked = Asked {
            application: &gate.application,
            region: &region.region,
            release: &gate.release,
            cells: &cells,
            mode,
        };
        let word = beside.guard.word(&asked, &overrides, now);
        let blocking = region.cells.iter().filter(|cell| cell.blocks()).map(digest).collect();
        let held = region.reasons.iter().any(|reason| decision::is_void(&reason.code));
        let looked = Given { region: &region.region, state: region.verdict, blocking: &blocking, held, mode };
        let decided = decision::decide(&looked, word, &overrides, now);
        region.decision = api_decision(decided.proceed);
        // What cannot be read is over already.
        if let (Some(until), Ok(given)) = (decided.until, region.valid_until.parse::<Timestamp>()) {
            region.valid_until = until.min(given).to_string();
        }
        region.overrides = beside.overrides.iter().filter(|o| decided.overrides.contains(&o.id)).cloned().collect();
        let of_decision = |code: &str| matches!(code, "overridden" | "rollback") || guard::is_hold(code);
        region.reasons.retain(|reason| !of_decision(&reason.code));
        region.reasons.splice(0..0, decided.reasons.into_iter().map(api_reason));
    }
    gate.decision = api_decision(gate.regions.iter().all(|region| region.decision == api::Decision::Proceed));
}

/// Blocks the regions that would proceed although what they rest on is not so any more when the run ends.
pub(crate) fn void(gate: &mut api::Gate, objections: &[api::Objection]) {
    for region in gate.regions.iter_mut().filter(|region| region.decision == api::Decision::Proceed) {
        let concerned = objections.iter().filter(|one| one.region.as_ref().is_none_or(|only| *only == region.region));
        let reasons: Vec<_> = concerned.map(|one| one.reason.clone()).collect();
        if reasons.is_empty() {
            continue;
        }
        region.decision = api::Decision::Block;
        region.overrides.clear();
        if region.verdict == State::Pass {
            region.verdict = State::Unknown;
        }
        region.reasons.splice(0..0, reasons);
    }
    gate.verdict = State::all(gate.regions.iter().map(|region| region.verdict));
    gate.decision = api_decision(gate.regions.iter().all(|region| region.decision == api::Decision::Proceed));
}

/// The verdict as the audit log tells it. Whose it is, the store knows.
pub(crate) fn audit_entry(gate: &api::Gate, now: Timestamp) -> api::AuditEntry {
    let decided = |decision| if decision == api::Decision::Proceed { "proceed" } else { "block" };
    let region = |region: &api::Region| {
        let overrides = match region.overrides.len() {
            0 => String::new(),
            count => format!(" ({count} overridden)"),
        };
        format!("{} {}, {}{overrides}", region.region, region.verdict.as_str(), decided(region.decision))
    };
    let mode = match (gate.advisory, gate.rollback) {
        (true, _) => ", advisory",
        (_, true) => ", rollback",
        (false, false) => "",
    };
    let regions = gate.regions.iter().map(region).collect::<Vec<_>>().join("; ");
    let detail = format!("{} {}{mode}: {regions}; verdict {}", gate.application, gate.release, gate.id);
    let outcome = format!("{}, {}", gate.verdict.as_str(), decided(gate.decision));
    crate::app::audit_entry("", "verdict", &outcome, "", &detail, now)
}

fn api_excluded(excluded: &Excluded) -> api::Excluded {
    api::Excluded {
        fleet: excluded.fleet.fleet.clone(),
        dependency: excluded.dependency.clone(),
        because: excluded.because.clone(),
    }
}

pub(crate) fn api_finding(finding: Finding) -> api::Finding {
    api::Finding {
        kind: finding.kind.as_str().to_owned(),
        dependency: finding.dependency,
        also: finding.also,
        text: finding.text,
        attributes: finding.attributes.into_iter().map(api_attribute).collect(),
        failing_attributes: finding.failing_attributes.into_iter().map(api_attribute).collect(),
    }
}

fn api_attribute(attribute: findings::Attribute) -> api::Attribute {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    api::Attribute {
        key: attribute.key,
        value: attribute.value,
        carried_by_ok: count(attribute.carried_by_ok),
        ok: count(attribute.ok),
        carried_by_short: count(attribute.carried_by_short),
        short: count(attribute.short),
    }
}

fn api_reason(reason: Reason) -> api::ReasonText {
    api::ReasonText { code: reason.code.to_owned(), text: reason.text, fix: reason.fix }
}

fn observations<'a>(judged: &'a JudgedCell<'_>) -> impl Iterator<Item = &'a Observation> {
    judged.witnesses.iter().filter_map(|w| w.testimony).flat_map(|t| &t.report.observations)
}

fn slowest(judged: &JudgedCell<'_>) -> Phases {
    let most = |of: fn(&Phases) -> Option<f64>| observations(judged).filter_map(|o| of(&o.phases)).reduce(f64::max);
    Phases {
        resolve_ms: most(|p| p.resolve_ms),
        connect_ms: most(|p| p.connect_ms),
        proxy_ms: most(|p| p.proxy_ms),
        tls_ms: most(|p| p.tls_ms),
        protocol_ms: most(|p| p.protocol_ms),
    }
}

fn first_to_end(judged: &JudgedCell<'_>) -> Option<Timestamp> {
    observations(judged).filter_map(|o| o.tls.as_ref()).flat_map(|tls| &tls.chain).map(|c| c.not_after).min()
}

/// Which kinds of hosts each fleet has, as far as the run knew.
fn fleets(cells: &[&JudgedCell<'_>], rosters: &Rosters) -> Vec<api::FleetSeen> {
    let mut fleets: BTreeMap<&FleetId, BTreeSet<&IdentityKey>> = BTreeMap::new();
    for judged in cells {
        let keys = fleets.entry(&judged.cell.fleet).or_default();
        keys.extend(judged.folded.identities.keys());
        keys.extend(rosters.get(&judged.cell.fleet).into_iter().flatten().map(|candidate| &candidate.key));
    }
    let seen = |(fleet, keys): (&FleetId, BTreeSet<&IdentityKey>)| api::FleetSeen {
        fleet: fleet.fleet.clone(),
        identities: keys.into_iter().map(|key| key.0.clone()).collect(),
    };
    fleets.into_iter().map(seen).collect()
}

fn api_decision(proceed: bool) -> api::Decision {
    if proceed { api::Decision::Proceed } else { api::Decision::Block }
}

/// The cells of a region, as the guard looks at them.
pub(crate) fn carried(region: &api::Region) -> impl Iterator<Item = Carried> {
    region.cells.iter().map(|cell| Carried {
        digest: CellDigest(cell.digest.clone()),
        fleet: cell.fleet.clone(),
        target: cell.target.clone(),
    })
}

/// As a decision looks at it. None for one that was withdrawn, or whose times cannot be read: it holds nothing open.
pub(crate) fn core_override(given: &api::Override) -> Option<Override> {
    if given.withdrawn.is_some() {
        return None;
    }
    Some(Override {
        id: given.id.clone(),
        region: given.region.clone(),
        subject: match &given.release {
            Some(release) => Subject::Release(release.clone()),
            None => Subject::Cell(CellDigest(given.digest.clone())),
        },
        by: given.by.clone(),
        at: given.at.parse().ok()?,
        expires: given.expires_at.parse().ok()?,
    })
}

fn cell(judged: &JudgedCell<'_>) -> api::Cell {
    let counts = judged.folded.counts;
    api::Cell {
        fleet: judged.cell.fleet.fleet.clone(),
        dependency: judged.cell.dependency.clone(),
        target: judged.cell.spec.target.to_string(),
        digest: judged.digest.0.clone(),
        required: judged.is_required(),
        state: judged.folded.state,
        reason: judged.folded.why.map(|why| why.as_str().to_owned()),
        text: verdict::describe(judged).or_else(|| cut(judged)),
        line: judged.cell.line,
        proven_by: match judged.duty {
            Duty::Proven(verdict) => Some(verdict.clone()),
            Duty::Required | Duty::Shown => None,
        },
        coverage: judged.folded.coverage(),
        identities: judged
            .folded
            .identities
            .iter()
            .map(|(key, state)| api::Identity { key: key.0.clone(), state: *state })
            .collect(),
        agents: api::AgentCounts {
            asked: counts.asked,
            ok: counts.ok,
            short: counts.short,
            void: counts.void,
            silent: counts.silent + counts.pending,
        },
        evidence: judged.witnesses.iter().flat_map(evidence).collect(),
    }
}

/// Says where not every address of a name, or not every member, was probed.
fn cut(judged: &JudgedCell<'_>) -> Option<String> {
    let reports = || judged.witnesses.iter().filter_map(|w| w.testimony).map(|t| &t.report);
    let addresses = reports().find_map(Report::cut);
    let members = reports().find_map(Report::members_cut);
    let said = [
        addresses.map(|(probed, all)| format!("{probed} of the name's {all} addresses were probed")),
        members.map(|(probed, all)| format!("{probed} of {all} members were probed")),
    ];
    let said: Vec<String> = said.into_iter().flatten().collect();
    (!said.is_empty()).then(|| said.join("; "))
}

/// What one agent saw, an entry for each address. An agent of the wrong vantage is void as a whole.
fn evidence(witness: &Witness<'_>) -> Vec<api::Evidence> {
    let Some(testimony) = witness.testimony else { return Vec::new() };
    let entry = |observation: Observation| api::Evidence {
        agent: witness.agent.to_owned(),
        identity: testimony.identity.clone(),
        observation,
    };
    let Some(mismatch) = witness.mismatch else {
        return testimony.report.observations.iter().cloned().map(entry).collect();
    };
    vec![entry(Observation {
        address: None,
        member: None,
        outcome: Outcome::Void(Void::WrongVantage),
        proof: None,
        phases: Phases::default(),
        note: None,
        detail: Some(mismatch.to_string()),
        tls: None,
        attempts: Vec::new(),
    })]
}

/// What one agent's answer comes to for an ad hoc run; none while it is waited for.
pub(crate) fn probe_result(run: &Run, index: usize, agent: &str) -> Option<api::ProbeResult> {
    let cell = run.spec().plan.cells.get(index)?;
    let witness = run.witnesses(index).into_iter().find(|w| w.agent == agent)?;
    let (state, reason) = match witness.answer {
        Answer::Pending => return None,
        Answer::Silent => (State::Unknown, Some("silent")),
        Answer::Given(Outcome::Ok) => (State::Pass, None),
        Answer::Given(outcome @ Outcome::Short(_)) => (State::Fail, outcome.reason()),
        Answer::Given(outcome @ Outcome::Void(_)) => (State::Unknown, outcome.reason()),
    };
    let report = witness.testimony.map(|t| &t.report);
    Some(api::ProbeResult {
        dependency: None,
        target: cell.spec.target.to_string(),
        region: Some(cell.fleet.region.clone()),
        fleet: Some(cell.fleet.fleet.clone()),
        agent: Some(agent.to_owned()),
        outcome: state,
        reason: reason.map(str::to_owned),
        proof: report.and_then(|r| r.observations.iter().filter_map(|o| o.proof).max()),
        addresses: evidence(&witness).into_iter().map(|e| e.observation).collect(),
        addresses_in_all: report.and_then(Report::cut).map(|(_, all)| all),
        members_in_all: report.and_then(Report::members_cut).map(|(_, all)| all),
    })
}

/// All results of an ad hoc run: each agent's, and for a fleet of which nobody answered one that says so.
pub(crate) fn probe(run: &Run, rosters: &Rosters) -> api::ProbeResults {
    let mut results = Vec::new();
    for (index, cell) in run.spec().plan.cells.iter().enumerate() {
        let folded = run.fold(index, rosters);
        let witnesses = run.witnesses(index);
        results.extend(witnesses.iter().filter_map(|w| probe_result(run, index, w.agent)));
        // A cell that is not known although each answer is good, or nobody was asked, must not look like a pass.
        let told = witnesses.iter().any(|w| !matches!(w.answer, Answer::Pending | Answer::Given(Outcome::Ok)));
        if folded.state != State::Pass && !told {
            results.push(api::ProbeResult {
                dependency: None,
                target: cell.spec.target.to_string(),
                region: Some(cell.fleet.region.clone()),
                fleet: Some(cell.fleet.fleet.clone()),
                agent: None,
                outcome: folded.state,
                reason: folded.why.map(|why| why.as_str().to_owned()),
                proof: None,
                addresses: Vec::new(),
                addresses_in_all: None,
                members_in_all: None,
            });
        }
    }
    api::ProbeResults { id: run.spec().id.clone(), results }
}

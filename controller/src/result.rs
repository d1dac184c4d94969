//! What came of a run, as the API tells it.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use preflight_core::findings::{self, Finding};
use preflight_core::matrix::{Answer, Candidate, State};
use preflight_core::observation::{Observation, Outcome, Phases, Report};
use preflight_core::plan::{Excluded, FleetId};
use preflight_core::reason::Void;
use preflight_core::run::{Run, Witness};
use preflight_core::verdict::{self, JudgedCell, Reason};
use preflight_proto::api;

use crate::store::LatestCell;

/// A verdict may be used for this long after its run.
const VALID_FOR: Duration = Duration::from_mins(10);

type Rosters = BTreeMap<FleetId, Vec<Candidate>>;

fn judged<'a>(run: &'a Run, rosters: &Rosters) -> Vec<JudgedCell<'a>> {
    // No release is recorded as deployed yet, so nothing is proven and every cell is required.
    let required = verdict::required(&run.spec().plan, &BTreeMap::new());
    let cells = run.spec().plan.cells.iter().enumerate();
    cells
        .map(|(index, cell)| JudgedCell {
            cell,
            required: required.contains(&index),
            folded: run.fold(index, rosters),
            witnesses: run.witnesses(index),
        })
        .collect()
}

/// A gate's verdict with its evidence, and the cells' latest states.
pub(crate) fn gate(run: &Run, rosters: &Rosters, now: Timestamp) -> (api::Gate, Vec<LatestCell>) {
    let spec = run.spec();
    let judged = judged(run, rosters);
    let verdict = verdict::give(&spec.plan, &judged, &BTreeMap::new());
    // A run that was taken up again long after its time rests on evidence from before its deadline.
    let valid_until = now.min(spec.deadline).checked_add(VALID_FOR).unwrap_or(Timestamp::MAX).to_string();
    let regions = verdict.regions.into_iter().map(|given| {
        let cells = verdict::of_region(&judged, &given.region);
        let unlisted = spec.unlisted.iter().filter(|fleet| fleet.region == given.region);
        let excluded = spec.plan.excluded.iter().filter(|excluded| excluded.fleet.region == given.region);
        api::Region {
            verdict: given.state,
            decision: decision(given.state),
            valid_until: valid_until.clone(),
            overrides: Vec::new(),
            cells: cells.iter().map(|judged| cell(judged)).collect(),
            excluded: excluded.map(api_excluded).collect(),
            findings: findings::find(&cells, unlisted).into_iter().map(api_finding).collect(),
            reasons: given.reasons.into_iter().map(api_reason).collect(),
            region: given.region,
        }
    });
    let gate = api::Gate {
        id: spec.id.clone(),
        application: spec.plan.application.clone(),
        release: spec.release.clone(),
        verdict: verdict.state,
        decision: decision(verdict.state),
        manifest_digest: spec.plan.manifest_digest.clone(),
        started_at: spec.started.to_string(),
        ended_at: now.to_string(),
        regions: regions.collect(),
    };
    let latest = judged.iter().map(|judged| LatestCell {
        region: judged.cell.fleet.region.clone(),
        fleet: judged.cell.fleet.fleet.clone(),
        dependency: judged.cell.dependency.clone(),
        target: judged.cell.spec.target.to_string(),
        state: judged.folded.state,
        reason: judged.folded.why.map(|why| why.as_str().to_owned()),
        phases: slowest(judged),
        certificate_until: first_to_end(judged),
    });
    (gate, latest.collect())
}

fn api_excluded(excluded: &Excluded) -> api::Excluded {
    api::Excluded {
        fleet: excluded.fleet.fleet.clone(),
        dependency: excluded.dependency.clone(),
        because: excluded.because.clone(),
    }
}

fn api_finding(finding: Finding) -> api::Finding {
    api::Finding {
        kind: finding.kind.as_str().to_owned(),
        dependency: finding.dependency,
        text: finding.text,
        attributes: finding.attributes.into_iter().map(|(key, value)| api::Attribute { key, value }).collect(),
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

fn decision(state: State) -> api::Decision {
    match state {
        State::Pass => api::Decision::Proceed,
        State::Fail | State::Unknown => api::Decision::Block,
    }
}

fn cell(judged: &JudgedCell<'_>) -> api::Cell {
    let counts = judged.folded.counts;
    api::Cell {
        fleet: judged.cell.fleet.fleet.clone(),
        dependency: judged.cell.dependency.clone(),
        target: judged.cell.spec.target.to_string(),
        digest: judged.cell.digest().0,
        required: judged.required,
        state: judged.folded.state,
        reason: judged.folded.why.map(|why| why.as_str().to_owned()),
        text: verdict::describe(judged).or_else(|| cut(judged)),
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

//! What a command's exit code is: the one place that decides it, and the last one that can stop a false pass.
//!
//! An answer is taken at its word only if it answers what was asked and does not contradict itself.

use std::collections::BTreeSet;
use std::process::ExitCode;

use jiff::Timestamp;
use preflight_core::{decision, guard};
use preflight_proto::api::{Cell, Decision, Gate, Override, ProbeResult, Region, State};

/// The exit codes, a contract: the same whatever the output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: proceed, or done.
    Proceed,
    /// 1: no verdict could be had: the controller cannot be reached, or there was an internal error.
    NoVerdict,
    /// 2: block: a cell fails.
    Fails,
    /// 3: block: unknown.
    Unknown,
    /// 4: block: locked, quarantined, or not the release that was named.
    Refused,
    /// 64: usage: bad flags, bad manifest or inventory, unknown application or region.
    Usage,
    /// 130: interrupted by Ctrl-C: nothing is known.
    Interrupted,
}

impl Exit {
    /// The code.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Proceed => 0,
            Self::NoVerdict => 1,
            Self::Fails => 2,
            Self::Unknown => 3,
            Self::Refused => 4,
            Self::Usage => 64,
            Self::Interrupted => 130,
        }
    }

    /// What the code says, as a fragment.
    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Self::Proceed => "proceed",
            Self::NoVerdict => "no verdict could be had",
            Self::Fails => "block: a cell fails",
            Self::Unknown => "block: unknown",
            Self::Refused => "block: locked, quarantined, or not the release that was named",
            Self::Usage => "usage",
            Self::Interrupted => "interrupted",
        }
    }

    /// Several as one: the first that applies of 130, 64, 1, 4, 2, 3, 0. Nothing at all is unknown.
    pub(crate) fn over(exits: impl IntoIterator<Item = Self>) -> Self {
        let present: Vec<Self> = exits.into_iter().collect();
        [Self::Interrupted, Self::Usage, Self::NoVerdict, Self::Refused, Self::Fails, Self::Unknown, Self::Proceed]
            .into_iter()
            .find(|exit| present.contains(exit))
            .unwrap_or(Self::Unknown)
    }

    pub(crate) fn of_state(state: State) -> Self {
        match state {
            State::Pass => Self::Proceed,
            State::Fail => Self::Fails,
            State::Unknown => Self::Unknown,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The regions that an answer must be about.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Regions<'a> {
    /// Whichever the application runs in.
    All,
    /// These and no others.
    Exactly(&'a [String]),
    /// These, and perhaps others, which do not count.
    Among(&'a [String]),
}

impl Regions<'_> {
    fn count(self, region: &str) -> bool {
        match self {
            Self::All => true,
            Self::Exactly(named) | Self::Among(named) => named.iter().any(|name| name == region),
        }
    }
}

/// What the caller asked about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    /// The run's id.
    pub(crate) id: &'a str,
    /// The application.
    pub(crate) application: &'a str,
    /// The release.
    pub(crate) release: &'a str,
    /// The regions.
    pub(crate) regions: Regions<'a>,
    /// The digest of the manifest's text, where the caller has it.
    pub(crate) manifest_digest: Option<&'a str>,
    /// A rollback was asked for: it proceeds whatever is seen.
    pub(crate) rollback: bool,
    /// Every cell was to be shown anew: nothing may be taken as proven.
    pub(crate) all: bool,
    /// The time by which a stored verdict's age, and the overrides that stand beside it, are judged; none for one that was just given.
    pub(crate) now: Option<Timestamp>,
}

/// What an answer comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Judgement {
    /// The exit code.
    pub(crate) exit: Exit,
    /// Why the answer is not taken at its word.
    pub(crate) objections: Vec<String>,
}

/// Judges the gate's answer, or a stored verdict.
pub(crate) fn judge(gate: &Gate, asked: &Asked<'_>) -> Judgement {
    let mut objections: Vec<(Exit, String)> = Vec::new();
    if gate.id != asked.id {
        objections.push((Exit::NoVerdict, format!("it is of run {}, asked was {}", gate.id, asked.id)));
    }
    objections.extend(misnamed(gate, asked).into_iter().map(|text| (Exit::Refused, text)));
    // Overrides hold at the time that is asked about: a verdict that was just given, when it was given.
    let at = asked.now.or_else(|| gate.ended_at.parse().ok());
    objections.extend(contradictions(gate, at).into_iter().map(|text| (Exit::NoVerdict, text)));
    let counted: Vec<&Region> = gate.regions.iter().filter(|r| asked.regions.count(&r.region)).collect();
    if let Some(now) = asked.now {
        objections.extend(counted.iter().filter_map(|region| stale(region, now)));
    }
    let exits = counted.iter().map(|region| exit_of(region)).chain(objections.iter().map(|(exit, _)| *exit));
    Judgement { exit: Exit::over(exits), objections: objections.into_iter().map(|(_, text)| text).collect() }
}

fn exit_of(region: &Region) -> Exit {
    match (region.decision, region.verdict) {
        // That there is something to proceed by is looked at under contradictions.
        (Decision::Proceed, _) => Exit::Proceed,
        // A pass that does not proceed is held back by something else than cells.
        (Decision::Block, State::Pass) => Exit::Refused,
        (Decision::Block, State::Fail | State::Unknown) if is_held(region) => Exit::Refused,
        (_, state) => Exit::of_state(state),
    }
}

/// Where the answer is about something else than what was named.
fn misnamed(gate: &Gate, asked: &Asked<'_>) -> Vec<String> {
    let mut texts = Vec::new();
    let mut compare = |what: &str, have: &str, want: &str| {
        if have != want {
            texts.push(format!("it is for {what} {have}, not {want}"));
        }
    };
    compare("application", &gate.application, asked.application);
    compare("release", &gate.release, asked.release);
    if let Some(digest) = asked.manifest_digest {
        compare("the manifest", &gate.manifest_digest, digest);
    }
    if gate.rollback != asked.rollback {
        texts.push(format!("it is {} a rollback", if gate.rollback { "for" } else { "not for" }));
    }
    let proven = gate.regions.iter().flat_map(|region| &region.cells).find(|cell| cell.proven_by.is_some());
    if let Some(cell) = proven.filter(|_| asked.all) {
        texts.push(format!("it takes {} from {} as proven, and all were to be shown", cell.dependency, cell.fleet));
    }
    let have: BTreeSet<&str> = gate.regions.iter().map(|r| r.region.as_str()).collect();
    if let Regions::Exactly(named) | Regions::Among(named) = asked.regions {
        let missing = named.iter().filter(|name| !have.contains(name.as_str()));
        texts.extend(missing.map(|name| format!("it says nothing of region {name}")));
    }
    if let Regions::Exactly(named) = asked.regions {
        let extra = have.iter().filter(|region| !named.iter().any(|name| name == *region));
        texts.extend(extra.map(|region| format!("it is about region {region}, which was not asked for")));
    }
    texts
}

fn stale(region: &Region, now: Timestamp) -> Option<(Exit, String)> {
    match region.valid_until.parse::<Timestamp>() {
        Ok(until) if now <= until => None,
        Ok(_) => Some((Exit::Unknown, format!("region {}: it was valid until {}", region.region, region.valid_until))),
        Err(_) => Some((Exit::NoVerdict, format!("region {}: '{}' is not a time", region.region, region.valid_until))),
    }
}

/// Where the answer contradicts itself.
fn contradictions(gate: &Gate, at: Option<Timestamp>) -> Vec<String> {
    let mut texts = Vec::new();
    if gate.regions.is_empty() {
        texts.push("it has no region".to_owned());
    }
    let mut seen = BTreeSet::new();
    for region in &gate.regions {
        if !seen.insert(&region.region) {
            texts.push(format!("it has region {} twice", region.region));
        }
        texts.extend(
            region_contradictions(region, gate, at).into_iter().map(|text| format!("region {}: {text}", region.region)),
        );
    }
    let verdict = State::all(gate.regions.iter().map(|r| r.verdict));
    if gate.verdict != verdict {
        texts.push(format!("the verdict is {}, its regions come to {}", gate.verdict.as_str(), verdict.as_str()));
    }
    let all_proceed = gate.regions.iter().all(|r| r.decision == Decision::Proceed);
    if (gate.decision == Decision::Proceed) != all_proceed {
        texts.push("the decision is not that of its regions".to_owned());
    }
    texts
}

fn region_contradictions(region: &Region, gate: &Gate, at: Option<Timestamp>) -> Vec<String> {
    let mut texts = Vec::new();
    if region.decision == Decision::Proceed && is_held(region) {
        texts.push(
            "the decision is proceed, and a lock, a quarantine or an unlock for another release holds it back"
                .to_owned(),
        );
    }
    let required: Vec<&Cell> = region.cells.iter().filter(|c| c.required).collect();
    let state = State::all(required.iter().map(|c| c.state));
    if region.verdict == State::Pass && region.cells.is_empty() {
        texts.push("the verdict is pass without a cell".to_owned());
    } else if !required.is_empty() && region.verdict != state && !is_held_back(region) {
        texts.push(format!("the verdict is {}, its cells come to {}", region.verdict.as_str(), state.as_str()));
    }
    // What passes by what an earlier verdict has proven must say so.
    let says_so = region.reasons.iter().any(|reason| reason.code == "no_change");
    let proven = region.cells.iter().all(|cell| cell.proven_by.is_some());
    if region.verdict == State::Pass && required.is_empty() && !(proven && says_so) && !gate.rollback {
        texts.push("nothing is required, and no earlier verdict is named".to_owned());
    }
    for cell in required.iter().filter(|c| c.state == State::Pass) {
        if cell.agents.ok == 0 {
            texts.push(format!("{} passes from {} without an agent that reached it", cell.dependency, cell.fleet));
        } else if let Some(reason) = &cell.reason {
            texts.push(format!("{} passes from {} and has the reason {reason}", cell.dependency, cell.fleet));
        }
    }
    // Nothing but a pass may proceed, a rollback, or what somebody answers for.
    if region.decision == Decision::Proceed && region.verdict != State::Pass && !gate.rollback {
        let mut blocking = region.cells.iter().filter(|cell| cell.blocks()).peekable();
        let holds = |given: &Override| at.is_some_and(|at| given.in_force(at));
        let answered_for = |cell: &Cell| {
            let of_it = |given: &&Override| given.is_for(&gate.application, &region.region, &cell.digest);
            region.overrides.iter().filter(of_it).any(holds)
        };
        // Which fleets there are is not known by an inventory that is too old, for one: nobody can answer for that.
        if is_void(region) || blocking.peek().is_none() || !blocking.all(answered_for) {
            texts.push(format!("the decision is proceed, the verdict is {}", region.verdict.as_str()));
        }
    }
    texts
}

/// Whether the release guard holds a region back.
pub(crate) fn is_held(region: &Region) -> bool {
    region.reasons.iter().any(|reason| guard::is_hold(&reason.code))
}

/// Whether the verdict is less than its cells for a reason that it names: nobody is misled by that.
fn is_held_back(region: &Region) -> bool {
    region.verdict == State::Unknown && is_void(region)
}

/// Whether what the verdict rests on was not so any more, or not known to be, when it was given.
fn is_void(region: &Region) -> bool {
    region.reasons.iter().any(|reason| decision::is_void(&reason.code))
}

/// Judges an ad hoc run: each of `targets` (in canonical form) must have an answer, and every answer must pass.
pub(crate) fn judge_probe(results: &[ProbeResult], targets: &[String]) -> Judgement {
    let mut objections = Vec::new();
    let mut exits: Vec<Exit> = results.iter().map(|r| Exit::of_state(r.outcome)).collect();
    for target in targets.iter().filter(|target| !results.iter().any(|r| r.target == **target)) {
        objections.push(format!("nothing is known of {target}"));
        exits.push(Exit::Unknown);
    }
    for result in results.iter().filter(|r| r.outcome == State::Pass) {
        if result.reason.is_some() || !result.addresses.iter().any(|o| o.outcome.as_str() == "ok") {
            objections.push(format!("{} passes without an address that was reached", result.target));
            exits.push(Exit::NoVerdict);
        }
    }
    Judgement { exit: Exit::over(exits), objections }
}

#[cfg(test)]
#[path = "exit_tests.rs"]
mod tests;

//! How the answers of a fleet's agents fold into a cell's state, and whom to ask next.
//!
//! [`fold`] is the one place that decides. It is a function of a set of answers: order and duplicates cannot matter.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::contrast::Shown;
use crate::identity::{IdentityKey, Mismatch, NetworkIdentity};
use crate::observation::{Outcome, Report};
use crate::plan::Cell;
use crate::reason::{Short, Unknown, Void};

/// The state of a cell, and the verdict for a release in a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Shown to work.
    Pass,
    /// Shown to fall short.
    Fail,
    /// Not known.
    Unknown,
}

impl State {
    /// `pass`, `fail` or `unknown`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Unknown => "unknown",
        }
    }

    /// Several states as one: any `fail` is `fail`, else any `unknown` is `unknown`. Nothing at all is `unknown`.
    pub fn all(states: impl IntoIterator<Item = Self>) -> Self {
        let mut states = states.into_iter();
        let Some(first) = states.next() else { return Self::Unknown };
        states.fold(first, |all, state| match (all, state) {
            (Self::Fail, _) | (_, Self::Fail) => Self::Fail,
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
            (Self::Pass, Self::Pass) => Self::Pass,
        })
    }
}

/// Whether an agent of the roster can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Presence {
    /// It holds a stream.
    Connected,
    /// It lost its stream a moment ago and is waited for.
    Away,
    /// It comes and goes: it is not asked until it has stayed for a while, but its identity is one of the fleet's.
    Unsteady,
    /// It said goodbye a moment ago: it is not asked, but its identity is still one of the fleet's, since it may only be restarted.
    Left,
    /// It lost its stream longer ago than is waited for: it is not asked, but its identity is still one of the fleet's.
    Lost,
}

impl Presence {
    /// Whether it can be asked, now or in a moment.
    pub fn is_there(self) -> bool {
        match self {
            Self::Connected | Self::Away => true,
            Self::Unsteady | Self::Left | Self::Lost => false,
        }
    }
}

/// An agent that holds a certificate for the cell's fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub agent: String,
    /// The key of the identity that it last told.
    pub key: IdentityKey,
    /// Whether it can be asked.
    pub presence: Presence,
}

/// What became of asking one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Its identity's key: as told with the answer, or as last known.
    pub key: IdentityKey,
    /// Its answer.
    pub answer: Answer,
}

/// An agent's answer for one cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// It still has time.
    Pending,
    /// It did not answer in time.
    Silent,
    /// It answered.
    Given(Outcome),
}

/// What an agent's report comes to for a cell: an agent of another identity than the inventory states tells nothing of the fleet.
pub fn judge(cell: &Cell, identity: &NetworkIdentity, report: &Report) -> (Outcome, Option<Mismatch>) {
    match identity.mismatch(&cell.stated) {
        Some(mismatch) => (Outcome::Void(Void::WrongVantage), Some(mismatch)),
        None => (report.outcome(&cell.spec), None),
    }
}

/// Why a cell is not `pass`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The target or the path falls short.
    Short(Short),
    /// The answers do not count.
    Void(Void),
    /// There are not enough answers.
    Unknown(Unknown),
}

impl Why {
    /// The contract name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Short(reason) => reason.as_str(),
            Self::Void(reason) => reason.as_str(),
            Self::Unknown(reason) => reason.as_str(),
        }
    }

    /// What to do next, as a sentence.
    pub fn next(self) -> &'static str {
        match self {
            Self::Short(reason) => reason.next(),
            Self::Void(reason) => reason.next(),
            Self::Unknown(reason) => reason.next(),
        }
    }
}

/// How many agents, by what became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
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
    /// Still has time.
    pub pending: u32,
}

/// An agent that is not there, and how it is away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absent {
    /// Its name.
    pub agent: String,
    /// How.
    pub presence: Presence,
}

/// A cell as its answers stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folded {
    /// The state if nothing more came.
    pub state: State,
    /// Why it is not `pass`.
    pub why: Option<Why>,
    /// The identity that `why` is about, where it is about one of several.
    pub identity: Option<IdentityKey>,
    /// Agents that are not there: nobody asks them, but the cell is not known because of them.
    pub absent: Vec<Absent>,
    /// The agent that others of its identity refuted: finding `one_host`.
    pub refuted: Option<String>,
    /// How many agents.
    pub counts: Counts,
    /// Whom to ask next.
    pub ask: Vec<String>,
    /// Each identity of the fleet by itself.
    pub identities: BTreeMap<IdentityKey, State>,
}

impl Folded {
    /// A cell that nobody is asked about, since an earlier verdict has shown it.
    pub fn proven() -> Self {
        Self {
            state: State::Pass,
            why: None,
            identity: None,
            absent: Vec::new(),
            refuted: None,
            counts: Counts::default(),
            ask: Vec::new(),
            identities: BTreeMap::new(),
        }
    }

    /// How many of how many identities are shown to work, and what they are called: `2 of 3 subnets`. None where there is one.
    pub fn coverage(&self) -> Option<String> {
        if self.identities.len() < 2 {
            return None;
        }
        let shown = self.identities.values().filter(|state| **state == State::Pass).count();
        Some(format!("{shown} of {} {}", self.identities.len(), kind_of(self.identities.keys())))
    }

    /// The state of a cell that must be blocked, by what the run shows of the addresses at which its agents were stopped.
    ///
    /// Stopped is not blocked: without a connect from elsewhere the target may be down, and an agent that got nowhere at all may
    /// itself be cut off. And where an agent of the same fleet got
    /// through in another cell, the path is open.
    #[must_use]
    pub fn in_contrast(mut self, shown: Shown) -> Self {
        match shown {
            Shown::Leak => (self.state, self.why) = (State::Fail, Some(Why::Short(Short::Reachable))),
            Shown::Nothing if self.state == State::Pass => {
                (self.state, self.why) = (State::Unknown, Some(Why::Unknown(Unknown::NoContrast)));
            }
            Shown::NoWayOut if self.state == State::Pass => {
                (self.state, self.why) = (State::Unknown, Some(Why::Unknown(Unknown::EgressUnproven)));
            }
            Shown::Nothing | Shown::NoWayOut | Shown::There => {}
        }
        self
    }

    /// Whether it is not known for want of agents alone: those that there are have answered, and others may come.
    pub fn lacks_agents(&self) -> bool {
        let of_agents =
            matches!(self.why, Some(Why::Unknown(Unknown::NoAgent | Unknown::TooFewAgents | Unknown::Silent)));
        of_agents && self.counts.silent == 0 && self.counts.void == 0
    }

    /// Whether asking on cannot change the state, and nobody is waited for.
    pub fn settled(&self) -> bool {
        self.ask.is_empty() && self.counts.pending == 0
    }
}

/// How many agents of a lone short one's identity are asked to refute it.
const REFUTERS_ASKED: usize = 3;
/// How many of them must be ok.
const REFUTERS_NEEDED: usize = 2;

/// Folds a cell.
///
/// `roster` is in the order in which agents are to be preferred; only connected ones and such as are waited for are asked.
/// What is still pending counts, for the state, as not answered. With `strict` nothing refutes an agent that falls short: so it is
/// for every cell that must be blocked, where one host that gets through is a leak.
pub fn fold(min_agents: u32, strict: bool, roster: &[Candidate], asked: &BTreeMap<String, Asked>) -> Folded {
    let counts = count(asked);
    let identities = identities(roster, asked);
    let lone = lone_short(asked);
    let refuted = lone.filter(|(_, short)| !strict && refutes(roster, asked, &short.key)).map(|(agent, _)| agent);

    let mut folded = Folded {
        state: State::Pass,
        why: None,
        identity: None,
        absent: Vec::new(),
        refuted: refuted.cloned(),
        counts,
        ask: next(min_agents, strict, roster, asked, &identities, lone),
        identities: identities.iter().map(|key| ((*key).clone(), of_identity(asked, key, refuted))).collect(),
    };
    if counts.short > 0 && refuted.is_none() {
        folded.state = State::Fail;
        folded.why = commonest_short(asked).map(Why::Short);
        return folded;
    }
    let uncovered = identities.iter().find(|key| oks(asked, key) == 0);
    if counts.ok < min_agents.max(1) || uncovered.is_some() {
        folded.state = State::Unknown;
        // An uncovered identity is named, unless none of the fleet is covered.
        let of = uncovered.filter(|_| counts.ok > 0);
        folded.why = Some(unknown(roster, asked, of));
        folded.identity = of.map(|key| (*key).clone());
        let absent = |c: &&Candidate| {
            !c.presence.is_there() && !asked.contains_key(&c.agent) && of.is_none_or(|of| **of == c.key)
        };
        let absent = roster.iter().filter(absent);
        folded.absent = absent.map(|c| Absent { agent: c.agent.clone(), presence: c.presence }).collect();
        folded.refuted = None;
    }
    folded
}

fn count(asked: &BTreeMap<String, Asked>) -> Counts {
    let mut counts = Counts::default();
    for one in asked.values() {
        counts.asked += 1;
        match one.answer {
            Answer::Pending => counts.pending += 1,
            Answer::Silent => counts.silent += 1,
            Answer::Given(Outcome::Ok) => counts.ok += 1,
            Answer::Given(Outcome::Short(_)) => counts.short += 1,
            Answer::Given(Outcome::Void(_)) => counts.void += 1,
        }
    }
    counts
}

/// The identities of the fleet: of those asked as they answered, of the others as last known.
fn identities<'a>(roster: &'a [Candidate], asked: &'a BTreeMap<String, Asked>) -> BTreeSet<&'a IdentityKey> {
    let mut keys: BTreeSet<&IdentityKey> = asked.values().map(|one| &one.key).collect();
    // A roster is long, and mostly of keys that are known already.
    for candidate in roster {
        if !keys.contains(&candidate.key) && !asked.contains_key(&candidate.agent) {
            keys.insert(&candidate.key);
        }
    }
    keys
}

/// One identity by itself: no failure of another one's hosts tells of it.
fn of_identity(asked: &BTreeMap<String, Asked>, key: &IdentityKey, refuted: Option<&String>) -> State {
    let short = |(agent, one): (&String, &Asked)| {
        one.key == *key && matches!(one.answer, Answer::Given(Outcome::Short(_))) && refuted != Some(agent)
    };
    if asked.iter().any(short) {
        State::Fail
    } else if oks(asked, key) > 0 {
        State::Pass
    } else {
        State::Unknown
    }
}

/// What tells some identities apart, in the plural: the one attribute in which they differ, if it is one.
fn kind_of<'a>(keys: impl Iterator<Item = &'a IdentityKey>) -> String {
    let all: Vec<BTreeMap<&str, &str>> = keys.map(IdentityKey::attributes).collect();
    let names: BTreeSet<&str> = all.iter().flat_map(|one| one.keys().copied()).collect();
    let differs = |name: &&str| all.iter().any(|one| one.get(name) != all.first().and_then(|first| first.get(name)));
    let differing: Vec<&str> = names.into_iter().filter(differs).collect();
    match differing.as_slice() {
        [one] => format!("{}s", crate::text::escape(&one.replace('_', " "))),
        _ => "network identities".to_owned(),
    }
}

fn oks(asked: &BTreeMap<String, Asked>, key: &IdentityKey) -> usize {
    asked.values().filter(|one| one.key == *key && one.answer == Answer::Given(Outcome::Ok)).count()
}

/// The one agent that fell short, if it is one.
fn lone_short(asked: &BTreeMap<String, Asked>) -> Option<(&String, &Asked)> {
    let mut shorts = asked.iter().filter(|(_, one)| matches!(one.answer, Answer::Given(Outcome::Short(_))));
    shorts.next().filter(|_| shorts.next().is_none())
}

/// Whether others of a lone short one's identity refute it: three that are ok, or all of at least two where there are no more
/// to ask. Silence refutes nothing: a run that is cut short must not make a pass of a failure.
fn refutes(roster: &[Candidate], asked: &BTreeMap<String, Asked>, key: &IdentityKey) -> bool {
    let ok = oks(asked, key);
    let unanswered = |one: &Asked| one.key == *key && matches!(one.answer, Answer::Pending | Answer::Silent);
    let askable = |c: &Candidate| c.key == *key && c.presence.is_there() && !asked.contains_key(&c.agent);
    ok >= REFUTERS_ASKED || (ok >= REFUTERS_NEEDED && !asked.values().any(unanswered) && !roster.iter().any(askable))
}

fn next<'a>(
    min_agents: u32,
    strict: bool,
    roster: &'a [Candidate],
    asked: &'a BTreeMap<String, Asked>,
    identities: &BTreeSet<&'a IdentityKey>,
    lone: Option<(&String, &'a Asked)>,
) -> Vec<String> {
    // Those who answered, or still may: the void and the silent are replaced.
    let usable = |one: &&Asked| match one.answer {
        Answer::Pending | Answer::Given(Outcome::Ok | Outcome::Short(_)) => true,
        Answer::Silent | Answer::Given(Outcome::Void(_)) => false,
    };
    let mut have: BTreeMap<&'a IdentityKey, usize> = identities.iter().map(|key| (*key, 0)).collect();
    for one in asked.values().filter(usable) {
        *have.entry(&one.key).or_default() += 1;
    }
    // In all one more than must be ok.
    let goal = min_agents as usize + 1;
    let refuters = lone.filter(|_| !strict).map(|(_, short)| &short.key);
    let enough = have.values().all(|n| *n > 0) && have.values().sum::<usize>() >= goal;
    if enough && refuters.is_none() {
        return Vec::new();
    }
    let mut free: BTreeMap<&'a IdentityKey, Vec<&'a Candidate>> = BTreeMap::new();
    for candidate in roster.iter().filter(|c| c.presence.is_there() && !asked.contains_key(&c.agent)) {
        free.entry(&candidate.key).or_default().push(candidate);
    }
    for candidates in free.values_mut() {
        candidates.sort_by_key(|c| c.presence);
        candidates.reverse();
    }
    let mut ask = Vec::new();
    let mut take = |key: &IdentityKey, have: &mut BTreeMap<&'a IdentityKey, usize>| -> bool {
        let Some(candidate) = free.get_mut(key).and_then(Vec::pop) else { return false };
        *have.entry(&candidate.key).or_default() += 1;
        ask.push(candidate.agent.clone());
        true
    };
    // One of each identity.
    for key in identities {
        if have.get(*key).copied().unwrap_or(0) == 0 {
            take(key, &mut have);
        }
    }
    // So many in all, from the identities in turn.
    while have.values().sum::<usize>() < goal {
        let mut keys: Vec<&'a IdentityKey> = identities.iter().copied().collect();
        keys.sort_by_key(|key| have.get(*key).copied().unwrap_or(0));
        if !keys.into_iter().any(|key| take(key, &mut have)) {
            break;
        }
    }
    // To refute a lone short one, others like it.
    if let Some(key) = refuters {
        while have.get(key).copied().unwrap_or(0) < REFUTERS_ASKED + 1 && take(key, &mut have) {}
    }
    ask
}

fn commonest_short(asked: &BTreeMap<String, Asked>) -> Option<Short> {
    commonest(asked.values().filter_map(|one| match one.answer {
        Answer::Given(Outcome::Short(reason)) => Some(reason),
        Answer::Given(Outcome::Ok | Outcome::Void(_)) | Answer::Pending | Answer::Silent => None,
    }))
}

/// Why the cell, or one identity of it, is not known.
fn unknown(roster: &[Candidate], asked: &BTreeMap<String, Asked>, of: Option<&&IdentityKey>) -> Why {
    let concerned = |key: &IdentityKey| of.is_none_or(|of| *of == key);
    let void = commonest(asked.values().filter(|one| concerned(&one.key)).filter_map(|one| match one.answer {
        Answer::Given(Outcome::Void(reason)) => Some(reason),
        Answer::Given(Outcome::Ok | Outcome::Short(_)) | Answer::Pending | Answer::Silent => None,
    }));
    let unanswered = |one: &&Asked| concerned(&one.key) && matches!(one.answer, Answer::Pending | Answer::Silent);
    let lost = |c: &Candidate| !c.presence.is_there() && concerned(&c.key) && !asked.contains_key(&c.agent);
    if let Some(reason) = void {
        Why::Void(reason)
    } else if asked.values().any(|one| unanswered(&one)) || roster.iter().any(lost) {
        Why::Unknown(Unknown::Silent)
    } else if asked.is_empty() {
        Why::Unknown(Unknown::NoAgent)
    } else {
        Why::Unknown(Unknown::TooFewAgents)
    }
}

/// The most frequent item; among equals the first in their order.
fn commonest<T: Ord + Copy>(items: impl Iterator<Item = T>) -> Option<T> {
    let mut counts: BTreeMap<T, usize> = BTreeMap::new();
    for item in items {
        *counts.entry(item).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(item, count)| (*count, std::cmp::Reverse(*item))).map(|(item, _)| item)
}

#[cfg(test)]
#[path = "matrix_tests.rs"]
mod tests;

//! One execution of a plan: who was asked, who answered, whom to ask next and when it ends. Time in, actions out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::baseline::Duty;
use crate::contrast::{Contrast, Shown};
use crate::identity::{IdentityKey, Mismatch, NetworkIdentity};
use crate::matrix::{self, Answer, Asked, Candidate, Folded, Presence, State, Why};
use crate::observation::{Outcome, Report};
use crate::plan::{CellDigest, FleetId};
use crate::reason::{Unknown, Void};
use crate::spec::Expect;
use crate::splay::Splay;
use crate::verdict::JudgedCell;

pub use spec::{Basis, Mode, RunSpec};

mod spec;

/// Beyond the deadlines of a probe's phases, an agent has this long to answer before it counts as silent.
const ANSWER_GRACE: Duration = Duration::from_secs(2);

/// An agent that is away is looked for this often.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// How a report is labelled: it counts only where all of this is the run's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The run's id.
    pub run: String,
    /// The cell.
    pub cell: CellDigest,
    /// The region that was asked about.
    pub region: String,
    /// The release that was asked about.
    pub release: String,
}

/// Who speaks, as the certificate names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AgentId {
    /// Region and fleet.
    #[serde(flatten)]
    pub fleet: FleetId,
    /// The agent's name.
    pub agent: String,
}

/// What an agent reported for a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Testimony {
    /// Its network identity, read for this run.
    pub identity: NetworkIdentity,
    /// What it saw.
    pub report: Report,
    /// How far its clock was ahead of the controller's, in milliseconds.
    pub clock_skew_ms: i64,
}

/// Why a report does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Another run's.
    #[error("it belongs to another run")]
    OtherRun,
    /// The run has no such cell.
    #[error("the run has no such cell")]
    UnknownCell,
    /// Labelled with another region than the cell's.
    #[error("it is labelled with another region")]
    OtherRegion,
    /// Labelled with another release than the run's.
    #[error("it is labelled with another release")]
    OtherRelease,
    /// The agent's certificate names another fleet than the cell's.
    #[error("the agent's certificate names another fleet")]
    OtherFleet,
    /// The agent was not asked for this cell.
    #[error("the agent was not asked")]
    NotAsked,
    /// It answered before; the first answer counts.
    #[error("the agent has answered already")]
    Duplicate,
    /// The run has ended, or the agent's time is up.
    #[error("it came too late")]
    Late,
}

/// What is to be done after a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Agents to ask, each with the indices of the cells.
    pub ask: BTreeMap<String, Vec<usize>>,
    /// When to step again at the latest; none once it has ended.
    pub wake: Option<Timestamp>,
    /// Whether the run has ended.
    pub ended: bool,
}

/// One agent that was asked for one cell.
#[derive(Debug, Clone, PartialEq)]
struct Question {
    key: IdentityKey,
    /// When its probe may begin.
    start: Timestamp,
    /// Whether it may have begun already, at `start`.
    sent: bool,
    /// The agent was away when it was last looked at, so its time has not begun.
    away: bool,
    deadline: Timestamp,
    state: QuestionState,
}

/// Each state owns its data: an answer cannot be read before it is there, nor counted twice.
#[derive(Debug, Clone, PartialEq)]
enum QuestionState {
    Waiting,
    Silent,
    Cancelled,
    Answered { testimony: Arc<Testimony>, outcome: Outcome, mismatch: Option<Mismatch> },
}

impl Question {
    fn answer(&self) -> Answer {
        match &self.state {
            QuestionState::Waiting => Answer::Pending,
            QuestionState::Silent => Answer::Silent,
            QuestionState::Cancelled => Answer::Given(Outcome::Void(Void::Cancelled)),
            QuestionState::Answered { outcome, .. } => Answer::Given(*outcome),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
struct CellRun {
    digest: CellDigest,
    questions: BTreeMap<String, Question>,
    /// As of the last step.
    settled: bool,
    failing: bool,
    /// What it lacks, and may still come.
    awaits: Option<Awaited>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    /// An agent elsewhere that reaches the target: but for that it is well.
    Contrast,
    /// Agents.
    Agents,
}

/// What one agent contributed to a cell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Witness<'a> {
    /// The agent's name.
    pub agent: &'a str,
    /// Its identity's key: as told with the answer, or as last known.
    pub key: &'a IdentityKey,
    /// Its answer.
    pub answer: Answer,
    /// What it reported; none if it did not.
    pub testimony: Option<&'a Testimony>,
    /// How its identity differs from what the inventory states.
    pub mismatch: Option<&'a Mismatch>,
}

/// A run as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    spec: RunSpec,
    /// One for each cell of the plan. Dependencies that are probed alike are one cell, of which only the first is asked for.
    cells: Vec<CellRun>,
    by_digest: HashMap<CellDigest, usize>,
    ended: bool,
    /// Cells of which something is new since the last step: the others stand as they did.
    news: BTreeSet<usize>,
    /// What the last step went by.
    rosters: BTreeMap<FleetId, Vec<Candidate>>,
    /// When the next question's time is up.
    wake: Option<Timestamp>,
    splay: Splay,
    contrast: Contrast,
}

/// How far a run is, as of its last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Cells whose state is settled.
    pub settled: usize,
    /// Cells that fail so far.
    pub failing: usize,
}

impl Run {
    /// A run of which nobody has been asked yet.
    pub fn new(spec: RunSpec) -> Self {
        let new = |digest| CellRun { digest, questions: BTreeMap::new(), settled: false, failing: false, awaits: None };
        let cells: Vec<CellRun> = spec.plan.digests().into_iter().map(new).collect();
        let mut by_digest = HashMap::new();
        for (index, cell) in cells.iter().enumerate() {
            by_digest.entry(cell.digest.clone()).or_insert(index);
        }
        let mut run = Self {
            by_digest,
            news: BTreeSet::new(),
            cells,
            splay: Splay::new(&spec.plan, spec.target_rate),
            contrast: Contrast::default(),
            spec,
            ended: false,
            rosters: BTreeMap::new(),
            wake: None,
        };
        run.news = run.probed();
        for index in 0..run.cells.len() {
            if !run.news.contains(&index)
                && let Some(cell) = run.cells.get_mut(index)
            {
                cell.settled = true;
            }
        }
        run
    }

    /// The cells that agents are asked for.
    fn probed(&self) -> BTreeSet<usize> {
        let is_probed =
            |index: &usize| !matches!(self.spec.duty(*index), Duty::Proven(_)) && self.first_alike(*index) == *index;
        (0..self.cells.len()).filter(is_probed).collect()
    }

    /// The cell that stands for this one: itself, or the first of those that are probed alike.
    fn first_alike(&self, index: usize) -> usize {
        self.cells.get(index).and_then(|cell| self.by_digest.get(&cell.digest)).copied().unwrap_or(index)
    }

    /// What it is.
    pub fn spec(&self) -> &RunSpec {
        &self.spec
    }

    /// Whether it has ended: nothing counts any more.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// A cell's digest.
    pub fn digest(&self, cell: usize) -> Option<&CellDigest> {
        self.cells.get(cell).map(|c| &c.digest)
    }

    /// Notes that an agent was asked, as the store recalls it after a restart; its time starts anew. If it has to be asked again, it
    /// takes its turn with the others.
    pub fn recall_asked(&mut self, digest: &CellDigest, agent: &str, key: IdentityKey, now: Timestamp) {
        if let Some(index) = self.by_digest.get(digest).copied() {
            self.put_question(index, agent, key, now, true);
        }
    }

    fn put_question(&mut self, index: usize, agent: &str, key: IdentityKey, start: Timestamp, sent: bool) {
        let (Some(cell), Some(run)) = (self.spec.plan.cells.get(index), self.cells.get_mut(index)) else { return };
        let deadline = later(start, cell.spec.worst_case() + ANSWER_GRACE);
        // After a restart everybody is away at first.
        let question = Question { key, start, sent, away: sent, deadline, state: QuestionState::Waiting };
        run.questions.insert(agent.to_owned(), question);
    }

    /// How long an agent that is waited for and is sent its question at `now` has to wait before it probes, so that all agents
    /// together do not probe a target more often than `target_rate` says. None where that is beyond the run's end: the question is not worth sending.
    ///
    /// An agent that is sent a question again may have forgotten it, and probes a second time: that takes a turn of its own.
    pub fn send(&mut self, index: usize, agent: &str, now: Timestamp) -> Option<Duration> {
        let worst_case = self.spec.plan.cells.get(index)?.spec.worst_case();
        let question = self.cells.get_mut(index)?.questions.get_mut(agent)?;
        if question.sent && question.start <= now {
            question.start = self.splay.take(index, now);
            question.deadline = question.deadline.max(later(question.start, worst_case + ANSWER_GRACE));
        }
        if !question.sent {
            // Whoever was away has its whole time from when it is back.
            question.deadline = question.deadline.max(later(question.start.max(now), worst_case + ANSWER_GRACE));
        }
        question.sent = true;
        let start = question.start;
        (start < self.spec.deadline).then(|| Duration::try_from(start.duration_since(now)).unwrap_or(Duration::ZERO))
    }

    /// Whether a report counts, and for which cell.
    pub fn admit(&self, label: &Label, from: &AgentId) -> Result<usize, Refused> {
        if label.run != self.spec.id {
            return Err(Refused::OtherRun);
        }
        let index = self.by_digest.get(&label.cell).copied().ok_or(Refused::UnknownCell)?;
        let (Some(cell), Some(run)) = (self.spec.plan.cells.get(index), self.cells.get(index)) else {
            return Err(Refused::UnknownCell);
        };
        if label.region != cell.fleet.region {
            return Err(Refused::OtherRegion);
        }
        if label.release != self.spec.release {
            return Err(Refused::OtherRelease);
        }
        if from.fleet != cell.fleet {
            return Err(Refused::OtherFleet);
        }
        let question = run.questions.get(&from.agent).ok_or(Refused::NotAsked)?;
        match question.state {
            QuestionState::Answered { .. } => Err(Refused::Duplicate),
            QuestionState::Silent | QuestionState::Cancelled => Err(Refused::Late),
            QuestionState::Waiting if self.ended => Err(Refused::Late),
            QuestionState::Waiting => Ok(index),
        }
    }

    /// Takes in a report that arrived at `now`. The first one of an agent counts.
    pub fn record(
        &mut self,
        label: &Label,
        from: &AgentId,
        testimony: impl Into<Arc<Testimony>>,
        now: Timestamp,
    ) -> Result<(), Refused> {
        let testimony = testimony.into();
        let index = self.admit(label, from)?;
        if now > self.spec.deadline {
            return Err(Refused::Late);
        }
        let (Some(cell), Some(run)) = (self.spec.plan.cells.get(index), self.cells.get_mut(index)) else {
            return Err(Refused::UnknownCell);
        };
        let question = run.questions.get_mut(&from.agent).ok_or(Refused::NotAsked)?;
        let (outcome, mismatch) = matrix::judge(cell, &testimony.identity, &testimony.report);
        self.news.insert(index);
        if mismatch.is_none() {
            if cell.spec.expect == Expect::Blocked && outcome == Outcome::Ok {
                self.contrast.stopped(index, &testimony.report);
            }
            self.news.extend(self.contrast.reached(&cell.fleet, &from.agent, &testimony.report));
        }
        question.key = self.spec.basis.identity_key.key(&testimony.identity);
        question.state = QuestionState::Answered { testimony, outcome, mismatch };
        Ok(())
    }

    /// An agent that is not to be believed any more: what it said does not count.
    pub fn disown(&mut self, agent: &str) {
        if self.ended {
            return;
        }
        for cell in &mut self.cells {
            if let Some(question) = cell.questions.get_mut(agent) {
                question.state = QuestionState::Silent;
            }
        }
        self.contrast.disown(agent);
        self.news = self.probed();
    }

    /// The cells for which each agent is still waited for: what it is to be sent, also when it comes back.
    pub fn waiting(&self) -> BTreeMap<&str, Vec<usize>> {
        let mut waiting: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, cell) in self.cells.iter().enumerate().filter(|_| !self.ended) {
            for (agent, _) in cell.questions.iter().filter(|(_, q)| q.state == QuestionState::Waiting) {
                waiting.entry(agent).or_default().push(index);
            }
        }
        waiting
    }

    /// Every agent that is still waited for.
    pub fn waiting_agents(&self) -> impl Iterator<Item = (&FleetId, &str)> {
        self.spec.plan.cells.iter().zip(&self.cells).flat_map(|(cell, run)| {
            let waiting = run.questions.iter().filter(|(_, q)| q.state == QuestionState::Waiting);
            waiting.map(move |(agent, _)| (&cell.fleet, agent.as_str()))
        })
    }

    /// Moves the run on: lets the late count as silent, names whom to ask (and notes them as asked), and ends it when there is
    /// nobody left to ask or wait for, or its time is up.
    pub fn step(&mut self, rosters: &BTreeMap<FleetId, Vec<Candidate>>, now: Timestamp) -> Step {
        let mut ask: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        if self.ended {
            return Step { ask, wake: None, ended: true };
        }
        let over = now >= self.spec.deadline;
        if self.rosters != *rosters || self.wake.is_some_and(|wake| now >= wake) {
            self.rosters.clone_from(rosters);
            self.news = self.probed();
        }
        let awaiting = self.spec.await_agents;
        for index in std::mem::take(&mut self.news) {
            self.expire(index, rosters, now);
            let folded = self.fold(index, rosters);
            let required = *self.spec.duty(index) == Duty::Required;
            let certain = self.is_strict(index) || folded.counts.short > 1;
            if let Some(cell) = self.cells.get_mut(index) {
                let contrast = matches!(folded.why, Some(Why::Unknown(Unknown::NoContrast | Unknown::EgressUnproven)));
                let agents = awaiting && required && folded.lacks_agents();
                cell.awaits = match (contrast, agents) {
                    (true, _) => Some(Awaited::Contrast),
                    (false, true) => Some(Awaited::Agents),
                    (false, false) => None,
                };
                cell.settled = folded.settled() && cell.awaits != Some(Awaited::Agents);
                cell.failing = required && folded.state == State::Fail && (certain || cell.settled);
            }
            for agent in if over { Vec::new() } else { folded.ask } {
                let key = self.roster(index, rosters).iter().find(|c| c.agent == agent).map(|c| c.key.clone());
                let start = self.splay.take(index, now);
                self.put_question(index, &agent, key.unwrap_or_default(), start, false);
                ask.entry(agent).or_default().push(index);
            }
        }
        // A cell that waits for a contrast holds nothing up: when all are settled, nobody is left who could give it.
        let settled = self.cells.iter().all(|cell| cell.settled);
        let failing = self.cells.iter().any(|cell| cell.failing);
        if over || settled || (self.spec.fail_fast && failing) {
            self.end(over);
            return Step { ask: BTreeMap::new(), wake: None, ended: true };
        }
        let questions = self.cells.iter().flat_map(|c| c.questions.values());
        // Who is away has no time of its own: its presence ends it, which is looked at now and then.
        let soon = later(now, LOOK_AGAIN);
        let waiting =
            questions.filter(|q| q.state == QuestionState::Waiting).map(|q| if q.away { soon } else { q.deadline });
        let awaited = self.cells.iter().any(|cell| cell.awaits == Some(Awaited::Agents)).then_some(soon);
        self.wake = waiting.chain(awaited).chain([self.spec.deadline]).min();
        Step { ask, wake: self.wake, ended: false }
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        Progress {
            settled: self
                .cells
                .iter()
                .filter(|cell| cell.settled && (self.ended || cell.awaits != Some(Awaited::Contrast)))
                .count(),
            failing: self.cells.iter().filter(|cell| cell.failing).count(),
        }
    }

    /// Fleets whose agents have yet to connect, as of the last step.
    pub fn awaited_fleets(&self) -> BTreeSet<&FleetId> {
        let cells = self.spec.plan.cells.iter().zip(&self.cells);
        cells
            .filter(|(_, run)| run.awaits == Some(Awaited::Agents) && !self.ended)
            .map(|(cell, _)| &cell.fleet)
            .collect()
    }

    /// Who has no time left, is lost or gone, counts as silent; where agents are awaited, who was never reached may still be asked.
    fn expire(&mut self, index: usize, rosters: &BTreeMap<FleetId, Vec<Candidate>>, now: Timestamp) {
        let roster = self.roster(index, rosters);
        let (Some(cell), Some(run)) = (self.spec.plan.cells.get(index), self.cells.get_mut(index)) else { return };
        let presence = |agent: &String| {
            roster.iter().find(|c| c.agent == *agent).map(|c| c.presence).filter(|presence| presence.is_there())
        };
        if self.spec.await_agents && now < self.spec.deadline {
            let reachable = |agent: &String, question: &mut Question| {
                question.sent || question.state != QuestionState::Waiting || presence(agent).is_some()
            };
            run.questions.retain(reachable);
        }
        for (agent, question) in &mut run.questions {
            let presence = presence(agent);
            if question.away && presence == Some(Presence::Connected) {
                question.deadline = later(question.start.max(now), cell.spec.worst_case() + ANSWER_GRACE);
            }
            // Who is away has not been asked yet, or not since the restart, and its presence ends its time.
            question.away = presence == Some(Presence::Away) && (!question.sent || question.away);
            let late = now >= question.deadline && !question.away;
            if question.state == QuestionState::Waiting && (late || presence.is_none()) {
                question.state = QuestionState::Silent;
            }
        }
    }

    /// Ends it before its time: nobody wants to know any more.
    pub fn abandon(&mut self) {
        if !self.ended {
            self.end(false);
        }
    }

    fn end(&mut self, over: bool) {
        self.ended = true;
        for question in self.cells.iter_mut().flat_map(|c| c.questions.values_mut()) {
            if question.state == QuestionState::Waiting {
                question.state = if over { QuestionState::Silent } else { QuestionState::Cancelled };
            }
        }
    }

    fn roster<'a>(&self, index: usize, rosters: &'a BTreeMap<FleetId, Vec<Candidate>>) -> &'a [Candidate] {
        let fleet = self.spec.plan.cells.get(index).map(|c| &c.fleet);
        fleet.and_then(|fleet| rosters.get(fleet)).map_or(&[], Vec::as_slice)
    }

    /// A cell as its answers stand.
    pub fn fold(&self, index: usize, rosters: &BTreeMap<FleetId, Vec<Candidate>>) -> Folded {
        if matches!(self.spec.duty(index), Duty::Proven(_)) {
            return Folded::proven();
        }
        let index = self.first_alike(index);
        let min_agents = self.spec.plan.cells.get(index).map_or(u32::MAX, |c| c.min_agents);
        let asked: BTreeMap<String, Asked> = self.cells.get(index).map_or_else(BTreeMap::new, |run| {
            let asked = |q: &Question| Asked { key: q.key.clone(), answer: q.answer() };
            run.questions.iter().map(|(agent, q)| (agent.clone(), asked(q))).collect()
        });
        let folded = matrix::fold(min_agents, self.is_strict(index), self.roster(index, rosters), &asked);
        match self.contrast(index) {
            Some(shown) => folded.in_contrast(shown),
            None => folded,
        }
    }

    /// Whether nothing refutes an agent that falls short. One host that gets through a path that must be blocked is a leak.
    fn is_strict(&self, index: usize) -> bool {
        self.spec.strict || self.must_be_blocked(index)
    }

    fn must_be_blocked(&self, index: usize) -> bool {
        self.spec.plan.cells.get(index).is_some_and(|cell| cell.spec.expect == Expect::Blocked)
    }

    /// What the run shows of the addresses at which the agents of a cell that must be blocked were stopped.
    fn contrast(&self, index: usize) -> Option<Shown> {
        let (cell, run) = (self.spec.plan.cells.get(index)?, self.cells.get(index)?);
        let stopped = run.questions.iter().filter_map(|(agent, question)| match &question.state {
            QuestionState::Answered { testimony, outcome: Outcome::Ok, .. } => {
                Some((agent.as_str(), &testimony.report))
            }
            QuestionState::Answered { .. }
            | QuestionState::Waiting
            | QuestionState::Silent
            | QuestionState::Cancelled => None,
        });
        self.must_be_blocked(index).then(|| self.contrast.shows(&cell.fleet, stopped))
    }

    /// Every cell as its answers stand, with what it rests on.
    pub fn judged(&self, rosters: &BTreeMap<FleetId, Vec<Candidate>>) -> Vec<JudgedCell<'_>> {
        let cells = self.spec.plan.cells.iter().zip(&self.cells).enumerate();
        cells
            .map(|(index, (cell, run))| JudgedCell {
                cell,
                digest: &run.digest,
                duty: self.spec.duty(index),
                folded: self.fold(index, rosters),
                witnesses: self.witnesses(index),
            })
            .collect()
    }

    /// What each agent that was asked contributed to a cell, by name.
    pub fn witnesses(&self, index: usize) -> Vec<Witness<'_>> {
        let Some(run) = self.cells.get(self.first_alike(index)) else { return Vec::new() };
        run.questions
            .iter()
            .map(|(agent, question)| {
                let (testimony, mismatch) = match &question.state {
                    QuestionState::Answered { testimony, mismatch, .. } => (Some(&**testimony), mismatch.as_ref()),
                    QuestionState::Waiting | QuestionState::Silent | QuestionState::Cancelled => (None, None),
                };
                Witness { agent, key: &question.key, answer: question.answer(), testimony, mismatch }
            })
            .collect()
    }
}

fn later(now: Timestamp, by: Duration) -> Timestamp {
    now.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;

//! Runs as they are carried out: one task each, which alone owns the run's state.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use preflight_core::identity::IdentityKey;
use preflight_core::plan::{CellDigest, FleetId};
use preflight_core::run::{AgentId, Label, Refused, Run, RunSpec, Testimony};
use preflight_proto::agent as wire;
use preflight_proto::api::{AuditEntry, Decision, Event, Gate, Objection, ProbeResults, Progress};
use preflight_proto::convert::MAX_MESSAGE_BYTES;
use prost::Message as _;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::dispatch::Dispatch;
use crate::follow::Followed;
use crate::result::{self, Beside};
use crate::standing;
use crate::store::{Closed, Found, NewTestimony, OpenRun, Store, StoreError};

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It gives a verdict.
    Gate,
    /// Engineers asked.
    Probe,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Gate => "gate",
            Self::Probe => "probe",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Gate, Self::Probe].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// What came of a run.
#[derive(Debug, Clone)]
pub(crate) enum RunResult {
    Gate(Box<Gate>),
    Probe(ProbeResults),
}

impl RunResult {
    /// Reads a stored result.
    pub(crate) fn parse(kind: &str, text: &str) -> Result<Self, StoreError> {
        let unreadable = |error: serde_json::Error| StoreError::Unreadable(error.to_string());
        match Kind::parse(kind) {
            Some(Kind::Gate) => serde_json::from_str(text).map(|gate| Self::Gate(Box::new(gate))).map_err(unreadable),
            Some(Kind::Probe) => serde_json::from_str(text).map(Self::Probe).map_err(unreadable),
            None => Err(StoreError::Unreadable(format!("a run of kind {kind}"))),
        }
    }

    fn to_json(&self) -> Result<String, StoreError> {
        let text = match self {
            Self::Gate(gate) => serde_json::to_string(gate),
            Self::Probe(results) => serde_json::to_string(results),
        };
        text.map_err(|error| StoreError::Unreadable(error.to_string()))
    }
}

/// Why a run could not be started or finished.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum RunError {
    #[error("{0}")]
    Store(Arc<StoreError>),
    #[error("the run {0} was started by another request; use another id")]
    OtherRequest(String),
    #[error("the verdict {0} is no longer valid ({1}); ask again with another id")]
    Stale(String, String),
    #[error("the controller is stopping; ask again with the same id")]
    Stopping,
}

impl From<StoreError> for RunError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

/// A run that is being carried out, as others see it.
#[derive(Debug, Clone)]
pub(crate) struct Active {
    inputs: mpsc::Sender<Input>,
    events: broadcast::Sender<Event>,
    result: watch::Receiver<Option<Result<RunResult, RunError>>>,
}

impl Active {
    /// What happens from now on.
    pub(crate) fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Ends it before its time: agents are told to stop. What it came to is kept.
    pub(crate) fn abandon(&self) {
        // One that is full of answers, or has ended, needs no telling: it ends by itself.
        let _ = self.inputs.try_send(Input::Abandon);
    }

    /// Waits for the end.
    pub(crate) async fn result(&self) -> Result<RunResult, RunError> {
        let mut result = self.result.clone();
        let ended = result.wait_for(Option::is_some).await;
        ended.ok().and_then(|result| result.clone()).unwrap_or(Err(RunError::Stopping))
    }
}

/// A run that was asked for: under way, or ended before.
#[derive(Debug, Clone)]
pub(crate) enum Handle {
    Active(Active),
    Ended(RunResult),
}

#[derive(Debug)]
enum Input {
    Report { label: Label, from: AgentId, testimony: Arc<Testimony>, at: Timestamp, done: oneshot::Sender<Admission> },
    Disown { agent: String },
    Abandon,
}

/// What becomes of a report: `Ok` once it is on disk (an agent may forget it), with why it does not count, where it does not.
pub(crate) type Admission = Result<Option<Refused>, Arc<StoreError>>;

/// All runs of this controller.
pub(crate) struct Runs {
    store: Store,
    dispatch: Arc<dyn Dispatch>,
    /// Where the inventory comes from, if not from people.
    followed: Option<Arc<Followed>>,
    active: Mutex<HashMap<String, Active>>,
}

impl Runs {
    pub(crate) fn new(store: Store, dispatch: Arc<dyn Dispatch>, followed: Option<Arc<Followed>>) -> Arc<Self> {
        Arc::new(Self { store, dispatch, followed, active: Mutex::default() })
    }

    /// Why the inventory in force may not be true any more.
    pub(crate) fn stale_inventory(&self, now: Timestamp) -> Option<String> {
        self.followed.as_ref().and_then(|followed| followed.stale(now))
    }

    /// Why a verdict does not stand at `now`.
    pub(crate) async fn objections(
        &self,
        spec: &RunSpec,
        gate: &Gate,
        now: Timestamp,
    ) -> Result<Vec<Objection>, StoreError> {
        standing::objections(&self.store, &*self.dispatch, self.stale_inventory(now), spec, gate, now).await
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Active>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many runs are under way.
    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// A run that this request started before, under way or ended.
    pub(crate) async fn find(self: &Arc<Self>, id: &str, request: &str) -> Result<Option<Handle>, RunError> {
        let Some(stored) = self.store.run(id).await? else { return Ok(None) };
        if stored.request != request {
            return Err(RunError::OtherRequest(id.to_owned()));
        }
        if let Some(active) = self.lock().get(id) {
            return Ok(Some(Handle::Active(active.clone())));
        }
        // It may have ended between the two looks.
        let stored = self.store.run(id).await?.unwrap_or(stored);
        match stored.result {
            Some(text) => {
                let mut result = RunResult::parse(&stored.kind, &text)?;
                if let RunResult::Gate(gate) = &mut result {
                    // An override may have been withdrawn since, or the region locked.
                    let now = Timestamp::now();
                    let (beside, _) = beside(&self.store, &gate.application, now).await?;
                    result::decide_again(gate, &beside, now);
                    // An old pass must not be served as if it were fresh.
                    let mut objections = standing::expired(gate, now);
                    if gate.regions.iter().any(|region| region.decision == Decision::Proceed) {
                        let spec = self.store.run_spec(id).await?;
                        let spec = spec.ok_or_else(|| StoreError::Unreadable(format!("the run {id}")))?;
                        objections.extend(self.objections(&spec, gate, now).await?);
                    }
                    if let Some(why) = objections.into_iter().next() {
                        return Err(RunError::Stale(id.to_owned(), why.reason.text));
                    }
                }
                Ok(Some(Handle::Ended(result)))
            }
            // The store failed it before it could end.
            None => Ok(self.resume(Some(id), Timestamp::now()).await?.pop().map(Handle::Active)),
        }
    }

    /// What a decision on an application's releases goes by now, and the version of its guard.
    pub(crate) async fn beside(&self, application: &str, now: Timestamp) -> Result<(Beside, i64), StoreError> {
        beside(&self.store, application, now).await
    }

    /// Starts a run: it is on disk, with its entry in the audit log, before anybody is asked. If one of that id exists, joins it.
    pub(crate) async fn start(
        self: &Arc<Self>,
        kind: Kind,
        request: &str,
        spec: RunSpec,
        principal: &str,
        entry: Option<&AuditEntry>,
    ) -> Result<Handle, RunError> {
        let id = spec.id.clone();
        if !self.store.create_run(kind.as_str(), request, &spec, principal, entry).await? {
            return self.find(&id, request).await?.ok_or(RunError::Stopping);
        }
        Ok(Handle::Active(self.carry_out(kind, Run::new(spec))))
    }

    /// Takes up runs (one, or all) that had not ended when the controller or its store failed.
    pub(crate) async fn resume(self: &Arc<Self>, id: Option<&str>, now: Timestamp) -> Result<Vec<Active>, StoreError> {
        let open = self.store.open_runs(id).await?;
        let mut resumed = Vec::new();
        for OpenRun { kind, spec, questions, testimonies } in open {
            let Some(kind) = Kind::parse(&kind) else {
                return Err(StoreError::Unreadable(format!("a run of kind {kind}")));
            };
            let (id, release) = (spec.id.clone(), spec.release.clone());
            let regions: HashMap<CellDigest, String> =
                spec.plan.cells.iter().map(|cell| (cell.digest(), cell.fleet.region.clone())).collect();
            let mut run = Run::new(spec);
            for (cell, agent, key) in questions {
                run.recall_asked(&cell, &agent, key, now);
            }
            for (cell, from, at, testimony) in testimonies {
                let region = regions.get(&cell).cloned().unwrap_or_default();
                let label = Label { run: id.clone(), cell, region, release: release.clone() };
                if let Err(refused) = run.record(&label, &from, testimony, at) {
                    tracing::warn!(run = id, agent = from.agent, %refused, "a stored answer does not count");
                }
            }
            tracing::info!(run = id, "resumed");
            resumed.push(self.carry_out(kind, run));
        }
        Ok(resumed)
    }

    fn carry_out(self: &Arc<Self>, kind: Kind, run: Run) -> Active {
        let id = run.spec().id.clone();
        let (inputs, received) = mpsc::channel(1_024);
        let (events, _) = broadcast::channel(1_024);
        let (result, ended) = watch::channel(None);
        let active = Active { inputs, events: events.clone(), result: ended };
        match self.lock().entry(id.clone()) {
            Entry::Occupied(under_way) => return under_way.get().clone(),
            Entry::Vacant(place) => place.insert(active.clone()),
        };
        let task = Task {
            kind,
            run,
            store: self.store.clone(),
            dispatch: self.dispatch.clone(),
            runs: self.clone(),
            inputs: received,
            events,
            sent: HashMap::new(),
        };
        let runs = self.clone();
        tokio::spawn(async move {
            let outcome = task.finish().await;
            if let Err(error) = &outcome {
                tracing::error!(run = id, %error, "a run could not be finished");
            }
            result.send_replace(Some(outcome));
            runs.lock().remove(&id);
        });
        active
    }

    /// Takes in a report: it is on disk when this returns `Ok`.
    pub(crate) async fn report(&self, label: Label, from: AgentId, testimony: Testimony, at: Timestamp) -> Admission {
        let active = self.lock().get(&label.run).cloned();
        let testimony = Arc::new(testimony);
        if let Some(active) = active {
            let (done, admission) = oneshot::channel();
            let (label, from, testimony) = (label.clone(), from.clone(), testimony.clone());
            if active.inputs.send(Input::Report { label, from, testimony, at, done }).await.is_ok()
                && let Ok(admission) = admission.await
            {
                return admission;
            }
        }
        self.too_late(label, from, testimony, at).await
    }

    /// Keeps a report of a run that has ended, if the agent was asked; the verdict stays.
    async fn too_late(&self, label: Label, from: AgentId, testimony: Arc<Testimony>, at: Timestamp) -> Admission {
        if !self.store.was_asked(&label.run, &label.cell, &from.agent).await? {
            return Ok(Some(Refused::NotAsked));
        }
        let late = NewTestimony { cell: label.cell, from, at, late: true, testimony };
        self.store.put_testimonies(&label.run, &[late]).await?;
        Ok(Some(Refused::Late))
    }

    /// What an agent said in runs under way does not count any more.
    pub(crate) async fn disown(&self, agent: &str) {
        let active: Vec<Active> = self.lock().values().cloned().collect();
        for run in active {
            // A run that has ended keeps its verdict.
            let _ = run.inputs.send(Input::Disown { agent: agent.to_owned() }).await;
        }
    }
}

/// One run's task.
struct Task {
    kind: Kind,
    run: Run,
    store: Store,
    dispatch: Arc<dyn Dispatch>,
    runs: Arc<Runs>,
    inputs: mpsc::Receiver<Input>,
    events: broadcast::Sender<Event>,
    /// The connection on which each agent was last asked, and for which cells: one that came back is asked again.
    sent: HashMap<String, (u64, BTreeSet<usize>)>,
}

impl Task {
    async fn finish(mut self) -> Result<RunResult, RunError> {
        let fleets: BTreeSet<FleetId> = self.run.spec().plan.cells.iter().map(|cell| cell.fleet.clone()).collect();
        let mut changes = self.dispatch.changes();
        let mut rosters = BTreeMap::new();
        // Answers alone change nobody's presence: the rosters are looked at again when agents come or go, and in time.
        let mut look = true;
        loop {
            // What came in by now counts, also where time is up: a testimony that was given in time, and one that must not be believed.
            let mut inputs = Vec::new();
            while let Ok(input) = self.inputs.try_recv() {
                inputs.push(input);
            }
            self.take_in(inputs).await;
            // Whoever came or went while answers were put on disk is seen before these can end the run.
            look |= changes.has_changed().unwrap_or(false);
            let now = Timestamp::now();
            if look {
                changes.mark_unchanged();
                let spec = self.run.spec();
                rosters = self.dispatch.roster(&fleets, &spec.basis.identity_key, &spec.id, now);
                if let Some(only) = &spec.only {
                    for candidates in rosters.values_mut() {
                        candidates.retain(|c| only.contains(&c.agent));
                    }
                }
            }
            let step = self.run.step(&rosters, now);
            self.note_questions(&step.ask, &rosters).await?;
            if step.ended {
                return self.close(&rosters).await;
            }
            if look || !step.ask.is_empty() {
                self.send_questions();
            }
            if self.events.receiver_count() > 0 {
                let _ = self.events.send(Event::Progress(self.progress()));
            }
            let wake = step.wake.map_or(Duration::ZERO, |wake| until(now, wake));
            let mut inputs = Vec::new();
            look = tokio::select! {
                _ = self.inputs.recv_many(&mut inputs, 1_024) => {
                    self.take_in(inputs).await;
                    false
                }
                _ = changes.changed() => true,
                () = tokio::time::sleep(wake) => true,
            };
        }
    }

    async fn note_questions(
        &self,
        ask: &BTreeMap<String, Vec<usize>>,
        rosters: &BTreeMap<FleetId, Vec<preflight_core::matrix::Candidate>>,
    ) -> Result<(), StoreError> {
        if ask.is_empty() {
            return Ok(());
        }
        let keys: HashMap<&str, &IdentityKey> =
            rosters.values().flatten().map(|c| (c.agent.as_str(), &c.key)).collect();
        let questions: Vec<(CellDigest, String, IdentityKey)> = ask
            .iter()
            .flat_map(|(agent, cells)| cells.iter().map(move |cell| (agent, *cell)))
            .filter_map(|(agent, cell)| {
                let key = keys.get(agent.as_str()).map(|key| (*key).clone()).unwrap_or_default();
                Some((self.run.digest(cell)?.clone(), agent.clone(), key))
            })
            .collect();
        self.store.put_questions(&self.run.spec().id, &questions).await
    }

    /// Sends what agents are waited for, to those that have not had it on their present connection.
    fn send_questions(&mut self) {
        let waiting = self.run.waiting();
        let waiting: Vec<_> = waiting.into_iter().map(|(agent, cells)| (agent.to_owned(), cells)).collect();
        for (agent, cells) in waiting {
            let Some(connection) = self.dispatch.connection(&agent) else { continue };
            let (on, sent) = self.sent.entry(agent.clone()).or_default();
            if *on != connection {
                (*on, *sent) = (connection, BTreeSet::new());
            }
            let cells: Vec<usize> = cells.into_iter().filter(|cell| sent.insert(*cell)).collect();
            let now = Timestamp::now();
            let mut probes: Vec<wire::Probe> =
                cells.into_iter().filter_map(|cell| self.probe(cell, &agent, now)).collect();
            while !probes.is_empty() {
                let rest = probes.split_off(fitting(&probes));
                let spec = self.run.spec();
                let ask = wire::Ask { run: spec.id.clone(), release: spec.release.clone(), probes };
                self.dispatch.ask(&agent, ask);
                probes = rest;
            }
        }
    }

    fn probe(&mut self, index: usize, agent: &str, now: Timestamp) -> Option<wire::Probe> {
        let wait = self.run.send(index, agent, now)?;
        let cell = self.run.spec().plan.cells.get(index)?;
        Some(wire::Probe {
            cell: self.run.digest(index)?.0.clone(),
            region: cell.fleet.region.clone(),
            spec: Some((&cell.spec).into()),
            // Rounded up, so that no probe is early.
            start_after_ms: u32::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX),
        })
    }

    /// Takes in what came: counts it once it is on disk, and then says so.
    async fn take_in(&mut self, inputs: Vec<Input>) {
        if inputs.is_empty() {
            return;
        }
        let mut counted = Vec::new();
        let mut stored = Vec::new();
        for input in inputs {
            match input {
                Input::Disown { agent } => self.run.disown(&agent),
                Input::Abandon => self.run.abandon(),
                Input::Report { label, from, testimony, at, done } => match self.run.admit(&label, &from) {
                    Err(Refused::Late) => {
                        let cell = label.cell.clone();
                        stored.push(NewTestimony { cell, from, at, late: true, testimony });
                        counted.push((label, None, done));
                    }
                    Err(refused) => {
                        let _ = done.send(Ok(Some(refused)));
                    }
                    Ok(_) => {
                        let cell = label.cell.clone();
                        let new = NewTestimony { cell, from, at, late: false, testimony };
                        stored.push(new.clone());
                        counted.push((label, Some(new), done));
                    }
                },
            }
        }
        let written = self.store.put_testimonies(&self.run.spec().id, &stored).await.map_err(Arc::new);
        for (label, new, done) in counted {
            let admission = match (&written, new) {
                (Err(error), _) => Err(error.clone()),
                (Ok(()), None) => Ok(Some(Refused::Late)),
                (Ok(()), Some(new)) => {
                    let asked = matches!(self.kind, Kind::Probe).then(|| self.run.admit(&label, &new.from).ok());
                    let recorded = self.run.record(&label, &new.from, new.testimony, new.at);
                    if let (Some(index), Ok(())) = (asked.flatten(), recorded)
                        && let Some(result) = result::probe_result(&self.run, index, &new.from.agent)
                    {
                        let _ = self.events.send(Event::Result(result));
                    }
                    Ok(recorded.err())
                }
            };
            let _ = done.send(admission);
        }
    }

    fn progress(&self) -> Progress {
        let absent = self.run.awaited_fleets().into_iter().map(|fleet| format!("any agent of {fleet}"));
        let asked = self.run.waiting_agents().map(|(fleet, agent)| format!("{}/{agent}", fleet.region));
        let waiting: BTreeSet<String> = absent.chain(asked).collect();
        let progress = self.run.progress();
        Progress {
            id: self.run.spec().id.clone(),
            settled: as_u32(progress.settled),
            cells: as_u32(self.run.spec().plan.cells.len()),
            failing: as_u32(progress.failing),
            waiting_for: waiting.into_iter().take(10).collect(),
        }
    }

    async fn close(
        self,
        rosters: &BTreeMap<FleetId, Vec<preflight_core::matrix::Candidate>>,
    ) -> Result<RunResult, RunError> {
        let spec = self.run.spec();
        let (closed, outcome) = loop {
            let now = Timestamp::now();
            let (outcome, found, entry, guard) = match self.kind {
                Kind::Gate => {
                    let (beside, version) = beside(&self.store, &spec.plan.application, now).await?;
                    let (mut gate, found) = result::gate(&self.run, rosters, &beside, now);
                    // It began by what was so then.
                    if gate.regions.iter().any(|region| region.decision == Decision::Proceed) {
                        let objections = self.runs.objections(spec, &gate, now).await?;
                        result::void(&mut gate, &objections);
                    }
                    let entry = (result::audit_entry(&gate, now), now);
                    (RunResult::Gate(Box::new(gate)), found, Some(entry), Some(version))
                }
                Kind::Probe => (RunResult::Probe(result::probe(&self.run, rosters)), Found::default(), None, None),
            };
            let ended = now.min(spec.deadline);
            match self.store.close_run(spec, &outcome.to_json()?, &found, ended, entry, guard).await? {
                // A lock that came in between holds this very verdict.
                Closed::GuardChanged => {}
                closed @ (Closed::Now | Closed::Before) => break (closed, outcome),
            }
        };
        for agent in self.sent.keys() {
            self.dispatch.cancel(agent, &spec.id);
        }
        if closed == Closed::Now {
            return Ok(outcome);
        }
        // Somebody else ended it first: theirs is the verdict.
        let stored = self.store.run(&spec.id).await?.and_then(|run| run.result.map(|text| (run.kind, text)));
        let (kind, text) = stored.ok_or(RunError::Stopping)?;
        Ok(RunResult::parse(&kind, &text)?)
    }
}

/// What stands beside a verdict of an application at `now`, and the version of its guard.
async fn beside(store: &Store, application: &str, now: Timestamp) -> Result<(Beside, i64), StoreError> {
    let (guard, version) = store.guard(application).await?;
    let overrides = store.overrides(Some(application), now).await?;
    Ok((Beside { overrides, guard, versions: store.versions().await? }, version))
}

/// How many probes, at least one, fit into a message that an agent takes.
fn fitting(probes: &[wire::Probe]) -> usize {
    let mut bytes = 0;
    let fits = |probe: &&wire::Probe| {
        bytes += probe.encoded_len();
        bytes <= MAX_MESSAGE_BYTES / 2
    };
    probes.iter().take_while(fits).count().max(1)
}

fn until(now: Timestamp, then: Timestamp) -> Duration {
    // A millisecond more, so that rounding down does not make it early.
    Duration::try_from(then.duration_since(now)).unwrap_or(Duration::ZERO) + Duration::from_millis(1)
}

fn as_u32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

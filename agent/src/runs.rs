//! The probes that this agent was asked for. They outlive the stream: a report that could not be sent is sent by the next.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use preflight_core::identity::NetworkIdentity;
use preflight_core::observation::{Outcome, Report};
use preflight_core::plan::CellDigest;
use preflight_core::reason::Void;
use preflight_core::spec::ProbeSpec;
use preflight_core::text;
use preflight_proto::agent;
use preflight_proto::convert::{AgentReport, MAX_START_AFTER_MS, MAX_TEXT_BYTES};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::answers::{Answers, Asked, Key};
use crate::fit::{fit, void};
use crate::identity::{Identity, Unknown};
use crate::prober::Prober;

/// Probes under way or waiting for their turn; what is asked beyond is answered with a void at once.
const MAX_UNDER_WAY: usize = 4096;

/// What is asked, under way and answered.
#[derive(Debug)]
pub struct Runs<P> {
    means: Arc<Means<P>>,
    answers: Answers,
    under_way: BTreeMap<Key, AbortHandle>,
    tasks: JoinSet<(Key, agent::Report)>,
}

/// What a probe needs.
#[derive(Debug)]
struct Means<P> {
    prober: P,
    identity: Arc<Identity>,
    places: Semaphore,
}

impl<P: Prober> Runs<P> {
    /// Probes with `prober`, at most `at_once` targets at a time.
    pub fn new(prober: P, identity: Arc<Identity>, at_once: u32) -> Self {
        let means = Means { prober, identity, places: Semaphore::new(at_once as usize) };
        Self { means: Arc::new(means), answers: Answers::default(), under_way: BTreeMap::new(), tasks: JoinSet::new() }
    }

    /// Begins the probes that are new. Returns the answers that are to be sent again.
    pub fn ask(&mut self, ask: agent::Ask) -> Vec<Key> {
        let agent::Ask { run, release, probes } = ask;
        let too_long = |text: &String| text.len() > MAX_TEXT_BYTES;
        if too_long(&run) || too_long(&release) || probes.iter().any(|p| too_long(&p.cell) || too_long(&p.region)) {
            warn!("the controller's question has a name of more than {MAX_TEXT_BYTES} bytes; it is left out");
            return Vec::new();
        }
        info!(run = %text::escape(&run), probes = probes.len(), "asked");
        let mut again = Vec::new();
        for probe in probes {
            let key = Key { run: run.clone(), cell: probe.cell.clone() };
            match self.answers.ask(&key, Instant::now()) {
                Asked::UnderWay => {}
                Asked::Again => again.push(key),
                Asked::Probe => self.begin(key, release.clone(), probe),
            }
        }
        again
    }

    fn begin(&mut self, key: Key, release: String, probe: agent::Probe) {
        let busy = self.under_way.len() >= MAX_UNDER_WAY;
        let (means, task_key) = (self.means.clone(), key.clone());
        let task = async move {
            let (report, identity) = if busy {
                let words = format!("this agent already has {MAX_UNDER_WAY} probes under way");
                (void(Void::LocalResources, &words), means.identity.current().await)
            } else if probe.start_after_ms > MAX_START_AFTER_MS {
                let asked = probe.start_after_ms;
                let words =
                    format!("asked to wait {asked} ms before the probe; at most {MAX_START_AFTER_MS} are accepted");
                (void(Void::PolicyDenied, &words), means.identity.current().await)
            } else {
                // Its turn, among all agents of the run. Others may have this agent's places meanwhile.
                if probe.start_after_ms > 0 {
                    sleep(Duration::from_millis(probe.start_after_ms.into())).await;
                }
                means.answer(probe.spec).await
            };
            let report = AgentReport {
                run: task_key.run.clone(),
                cell: CellDigest(task_key.cell.clone()),
                region: probe.region,
                release,
                identity: identity.as_ref().cloned().unwrap_or_default(),
                clock_ms: clock_ms(),
                report: attributed(report, &identity),
            };
            (task_key, fit(report))
        };
        let handle = self.tasks.spawn(task);
        self.under_way.insert(key, handle);
    }

    /// Waits for the next probe to end; its report can be had by the key. Can be dropped at any point without loss.
    pub async fn finished(&mut self) -> Key {
        loop {
            match self.tasks.join_next().await {
                Some(Ok((key, report))) => {
                    self.under_way.remove(&key);
                    let lost = self.answers.report(&key, report, Instant::now());
                    if lost > 0 {
                        warn!(lost, "the controller acknowledges nothing: the oldest reports made room for new ones");
                    }
                    return key;
                }
                // Cancelled.
                Some(Err(error)) => debug!(%error, "a probe ended early"),
                None => return std::future::pending().await,
            }
        }
    }

    /// Whether no probe is under way.
    pub fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    /// The report for a question, if there is one.
    pub fn report(&self, key: &Key) -> Option<&agent::Report> {
        self.answers.get(key)
    }

    /// What the controller has not acknowledged, oldest first.
    pub fn unacknowledged(&self) -> Vec<Key> {
        self.answers.unacknowledged()
    }

    /// The controller has this on disk.
    pub fn acknowledge(&mut self, key: &Key) {
        self.answers.acknowledge(key);
    }

    /// The run has ended: its probes are stopped and its answers forgotten.
    pub fn cancel(&mut self, run: &str) {
        info!(run = %text::escape(run), "the run has ended");
        self.answers.cancel(run);
        self.under_way.retain(|key, task| {
            let goes_on = key.run != run;
            if !goes_on {
                task.abort();
            }
            goes_on
        });
    }
}

impl<P: Prober> Means<P> {
    /// Probes, and reads the identity meanwhile.
    async fn answer(&self, spec: Option<agent::ProbeSpec>) -> (Report, Result<NetworkIdentity, Unknown>) {
        // The semaphore is never closed.
        let _place = self.places.acquire().await;
        let spec = spec.ok_or_else(|| "it has no target".to_owned());
        let spec = spec.and_then(|spec| ProbeSpec::try_from(spec).map_err(|error| error.to_string()));
        match spec {
            // On the heap from here on, so that thousands that wait for a place are small.
            Ok(spec) => tokio::join!(Box::pin(self.prober.probe(&spec)), self.identity.current()),
            Err(why) => {
                // A newer controller may ask for what this agent does not know; that must read as neither pass nor fail.
                let words = format!("this agent ({}) cannot probe this: {why}", env!("CARGO_PKG_VERSION"));
                (void(Void::PolicyDenied, &words), self.identity.current().await)
            }
        }
    }
}

/// What was seen, or a void where it is not known from which identity.
fn attributed(mut report: Report, identity: &Result<NetworkIdentity, Unknown>) -> Report {
    if let Err(error) = identity {
        for observation in &mut report.observations {
            observation.outcome = Outcome::Void(Void::LocalResources);
            observation.detail = Some(error.to_string());
        }
    }
    report
}

/// This host's clock, in milliseconds since 1970-01-01T00:00:00Z.
pub fn clock_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Mutex;

    use tokio::time::Instant as Clock;

    use super::*;
    use crate::identity::Sources;

    /// Says when it probed which port.
    #[derive(Debug, Clone, Default)]
    struct Watch(Arc<Mutex<Vec<(u16, Clock)>>>);

    impl Prober for Watch {
        async fn probe(&self, spec: &ProbeSpec) -> Report {
            self.0.lock().unwrap().push((spec.target.port, Clock::now()));
            void(Void::Cancelled, "only a test")
        }
    }

    impl Watch {
        /// The ports that were probed, and how many milliseconds after `begin`.
        fn seen(&self, begin: Clock) -> Vec<(u16, u128)> {
            self.0.lock().unwrap().iter().map(|(port, at)| (*port, (*at - begin).as_millis())).collect()
        }
    }

    /// Runs with one place.
    fn runs() -> (Runs<Watch>, Watch) {
        let sources =
            Sources { imds: ([127, 0, 0, 1], 1).into(), podinfo: PathBuf::from("/nonexistent"), added: vec![] };
        let watch = Watch::default();
        (Runs::new(watch.clone(), Arc::new(Identity::new(sources)), 1), watch)
    }

    /// A question of run `r`: for each port, a probe that waits so long.
    fn waiting(ports: &[(u16, u32)]) -> agent::Ask {
        let probe = |&(port, start_after_ms): &(u16, u32)| agent::Probe {
            cell: format!("c{port}"),
            region: "eu".to_owned(),
            spec: Some((&ProbeSpec::new(format!("tcp://10.0.0.1:{port}").parse().unwrap())).into()),
            start_after_ms,
        };
        agent::Ask { run: "r".to_owned(), release: "v".to_owned(), probes: ports.iter().map(probe).collect() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_waits_for_its_turn_and_keeps_no_other_from_its_place() {
        let (mut runs, watch) = runs();
        let begin = Clock::now();
        runs.ask(waiting(&[(1, MAX_START_AFTER_MS), (2, 0), (3, 5_000)]));
        let ended = [runs.finished().await.cell, runs.finished().await.cell, runs.finished().await.cell];
        assert_eq!(ended, ["c2", "c3", "c1"]);
        assert_eq!(watch.seen(begin), [(2, 0), (3, 5_000), (1, u128::from(MAX_START_AFTER_MS))]);
        assert!(runs.is_idle());
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_ends_takes_its_waiting_probes_with_it() {
        let (mut runs, watch) = runs();
        let begin = Clock::now();
        runs.ask(waiting(&[(1, 5_000)]));
        runs.ask(agent::Ask { run: "other".to_owned(), ..waiting(&[(2, 9_000)]) });
        sleep(Duration::from_secs(1)).await;
        runs.cancel("r");
        assert_eq!(runs.finished().await.run, "other");
        assert_eq!(watch.seen(begin), [(2, 9_000)]);
        assert!(runs.is_idle() && runs.unacknowledged().len() == 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_beyond_all_reason_is_not_kept() {
        let (mut runs, watch) = runs();
        for (port, wait) in [(1, MAX_START_AFTER_MS + 1), (2, u32::MAX)] {
            runs.ask(waiting(&[(port, wait)]));
            let key = runs.finished().await;
            let seen = &runs.report(&key).unwrap().observations[0];
            assert_eq!((seen.outcome.as_str(), seen.reason.as_str()), ("void", "policy_denied"));
            assert!(seen.detail().contains(&format!("asked to wait {wait} ms")), "{seen:?}");
        }
        assert_eq!(watch.seen(Clock::now()), []);
    }

    #[test]
    fn what_was_seen_from_an_unknown_identity_does_not_count() {
        let mut report = void(Void::Cancelled, "x");
        report.observations[0].outcome = Outcome::Ok;
        let known = Ok(NetworkIdentity::default());
        assert_eq!(attributed(report.clone(), &known), report);
        let unknown = attributed(report, &Err(Unknown("gone".to_owned())));
        assert_eq!(unknown.observations[0].outcome, Outcome::Void(Void::LocalResources));
        assert!(unknown.observations[0].detail.as_deref().is_some_and(|detail| detail.ends_with("gone")));
    }
}

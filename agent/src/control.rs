//! Control targets: known to be good, from the policy file. When a probe falls short and every one of them fails at about
//! the same time, the network of this host is broken, and what the probe saw says nothing of its target: `control_failed`.
//!
//! A round tries all of them at once and ends with the first that is good. Rounds begin at most once a second: while a probe has
//! been under way for half a second, so that a silent drop finds a fresh round when it is called, and when a probe has
//! fallen short and the last round is too old to speak for it. What passes at once costs no round.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use preflight_core::observation::{Observation, Outcome, Report};
use preflight_core::reason::{Short, Void, lookup};
use preflight_core::spec::{Addresses, Millis, ProbeSpec};
use preflight_core::target::Target;
use preflight_core::text;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{info, warn};

use crate::prober::Prober;

/// Rounds begin at most this often.
const EVERY: Duration = Duration::from_secs(1);
/// A probe that lasts this long may end in silence, so that a round begins beside it.
const BESIDE: Duration = Duration::from_millis(500);
/// A round that ended longer than this before a probe fell short does not speak for it: the network may have broken since.
/// It leaves 250 ms of a silent drop's second, in which the target's answer would have come had the network worked until then.
const FRESH: Duration = Duration::from_millis(750);
/// A target that was never good is tried again after this long, by itself: the network may have been late at the first time.
const AGAIN: Duration = Duration::from_mins(5);
/// A control target that takes longer has failed.
const AT_MOST: Duration = Duration::from_secs(2);
/// The deadline of each phase that follows a control target's connect.
const PHASE: Millis = Millis(1_000);

/// A prober whose observations are void where the control targets fail too.
#[derive(Debug)]
pub struct Controlled<P, C> {
    prober: P,
    controls: Arc<Controls<C>>,
}

impl<P: Prober, C: Prober> Controlled<P, C> {
    /// Probes with `prober`, and the control targets with `controls`: its probes must not queue behind the others.
    pub fn new(prober: P, controls: C, targets: impl IntoIterator<Item = Target>) -> Self {
        let spec = |target| ProbeSpec { timeout: PHASE, addresses: Addresses::Any, ..ProbeSpec::new(target) };
        let targets = targets.into_iter().map(|target| One { spec: spec(target), turn: Turn::default() }).collect();
        Self { prober, controls: Arc::new(Controls { prober: controls, targets, rounds: Mutex::default() }) }
    }

    /// Tries each control target until it has been good once, and warns of those that are not: a target that can never be
    /// good would excuse whatever falls short. Ends when all have been good.
    pub fn first_tries(&self) -> impl Future<Output = ()> + Send + use<P, C> {
        let controls = self.controls.clone();
        async move {
            let tries = controls.targets.iter().map(|one| controls.until_good(&one.spec));
            join_all(tries).await;
        }
    }
}

impl<P: Prober, C: Prober> Prober for Controlled<P, C> {
    async fn probe(&self, spec: &ProbeSpec) -> Report {
        if self.controls.targets.is_empty() {
            return self.prober.probe(spec).await;
        }
        let mut report = tokio::select! {
            biased;
            report = self.prober.probe(spec) => report,
            never = self.controls.beside() => match never {},
        };
        if report.observations.iter().any(|seen| may_be_ours(seen.outcome)) {
            match self.controls.network(Instant::now()).await {
                Network::Works => report.egress = true,
                Network::Broken(why) => report.observations.iter_mut().for_each(|seen| excuse(seen, &why)),
                Network::Unknown => {}
            }
        }
        report
    }
}

/// Whether a broken network of this host may be why: the target was not reached, or stopped answering on the way. What it
/// answered wrongly is its own.
fn may_be_ours(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Short(short) => match short {
            Short::DnsNxdomain
            | Short::DnsNoAddress
            | Short::DnsServfail
            | Short::DnsTimeout
            | Short::ConnectTimeout
            | Short::ConnectRefused
            | Short::ConnectReset
            | Short::ConnectProhibited
            | Short::HostUnreachable
            | Short::NetUnreachable
            | Short::PartialLoss
            | Short::TlsTimeout
            | Short::TlsClosed
            | Short::ProtocolTimeout
            | Short::ProtocolClosed
            | Short::TooSlow
            | Short::ProxyUnreachable
            | Short::ProxyTimeout => true,
            Short::TlsNotSpoken
            | Short::TlsAlert
            | Short::TlsUntrusted
            | Short::TlsSelfSigned
            | Short::TlsExpired
            | Short::TlsNotYetValid
            | Short::TlsNameMismatch
            | Short::TlsFingerprintMismatch
            | Short::ProtocolUnexpected
            | Short::BodyUnexpected
            | Short::NotReady
            | Short::StatusUnexpected
            | Short::ProxyRefused
            | Short::ProxyUnexpected
            | Short::ProxyTargetFailed
            | Short::Reachable => false,
        },
        Outcome::Ok | Outcome::Void(_) => false,
    }
}

fn excuse(seen: &mut Observation, why: &str) {
    if !may_be_ours(seen.outcome) {
        return;
    }
    let reason = seen.outcome.reason().unwrap_or_default();
    let detail = seen.detail.take().map(|detail| format!(": {detail}")).unwrap_or_default();
    seen.detail = Some(text::escape_to(&format!("{why}; this target {reason}{detail}"), 2 * text::MAX_CHARS));
    seen.outcome = Outcome::Void(Void::ControlFailed);
}

/// What it means that a target has not been good yet, and what to do.
fn never_good(target: &str, how: &str, tls: bool) -> String {
    let meaning = lookup(how).map_or_else(String::new, |(_, meaning, _)| format!(" ({meaning})"));
    let tls =
        if tls { " Control targets take no TLS options: this host's store must trust the certificate." } else { "" };
    format!(
        "control target {target} has not been good since this agent started: {how}{meaning}. While no control target is good, \
         probes that fall short do not count (control_failed), and what they tell of is unknown.{tls} Repair the path to it, or name one under \
         [[control]] in the policy file (--policy) that this host reaches, such as tcp://ADDRESS:53 of its name server. \
         It is tried again every {} minutes",
        AGAIN.as_secs() / 60
    )
}

/// The control targets and their last round.
#[derive(Debug)]
struct Controls<C> {
    prober: C,
    targets: Vec<One>,
    rounds: Mutex<Rounds>,
}

#[derive(Debug)]
struct One {
    spec: ProbeSpec,
    /// Held while it is tried.
    turn: Turn,
}

type Turn = tokio::sync::Mutex<()>;

#[derive(Debug, Default)]
struct Rounds {
    last: Option<Round>,
    /// Whether the log has said that the network is broken, and not yet that it works again.
    told: bool,
}

/// A round that was begun, perhaps for another probe.
#[derive(Debug, Clone)]
struct Round {
    begun: Instant,
    seen: watch::Receiver<Option<Seen>>,
}

/// What a round showed, and when.
#[derive(Debug, Clone)]
struct Seen {
    at: Instant,
    network: Network,
}

/// What the control targets show of this host's network.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Network {
    /// One of them is good.
    Works,
    /// All failed: which, and how.
    Broken(Arc<str>),
    /// None could be tried.
    Unknown,
}

impl<C: Prober> Controls<C> {
    /// Begins rounds as long as it is awaited.
    async fn beside(self: &Arc<Self>) -> Infallible {
        sleep(BESIDE).await;
        loop {
            let last = self.begin();
            sleep_until(last.begun + EVERY).await;
        }
    }

    /// What the targets show of the network at about the time at which a probe ended.
    async fn network(self: &Arc<Self>, probe_ended: Instant) -> Network {
        loop {
            let mut round = self.begin();
            // An error: the round is gone without a word, as at the end of the process.
            let seen = round.seen.wait_for(Option::is_some).await.ok().and_then(|seen| seen.clone());
            let Some(seen) = seen else { return Network::Unknown };
            if seen.at + FRESH >= probe_ended {
                return seen.network;
            }
            sleep_until(round.begun + EVERY).await;
        }
    }

    /// Begins a round if one is due. Returns the last one.
    fn begin(self: &Arc<Self>) -> Round {
        let now = Instant::now();
        let mut rounds = self.rounds();
        if let Some(round) = rounds.last.as_ref().filter(|round| now < round.begun + EVERY) {
            return round.clone();
        }
        let (tell, seen) = watch::channel(None);
        let round = Round { begun: now, seen };
        rounds.last = Some(round.clone());
        let controls = self.clone();
        // On its own, since it outlives the probe beside which it began; it ends in time by itself.
        tokio::spawn(async move {
            let network = controls.round().await;
            controls.log(&network);
            tell.send_replace(Some(Seen { at: Instant::now(), network }));
        });
        round
    }

    /// Tries every target at once, until one is good. The others are not cut off: a server may count that against this host. What an
    /// earlier round has under way is waited for, so that no more than one try of each takes up the engine's places.
    async fn round(self: &Arc<Self>) -> Network {
        let (tell, mut ends) = mpsc::channel(self.targets.len().max(1));
        for index in 0..self.targets.len() {
            let (controls, tell) = (self.clone(), tell.clone());
            tokio::spawn(async move {
                let Some(One { spec, turn }) = controls.targets.get(index) else { return };
                let _turn = tokio::select! {
                    biased;
                    () = tell.closed() => return,
                    turn = turn.lock() => turn,
                };
                let _ = tell.send((index, controls.prober.probe(spec).await.outcome(spec))).await;
            });
        }
        drop(tell);
        let mut ended: Vec<Option<Outcome>> = vec![None; self.targets.len()];
        let all = async {
            while let Some((index, outcome)) = ends.recv().await {
                if outcome == Outcome::Ok {
                    return true;
                }
                if let Some(end) = ended.get_mut(index) {
                    *end = Some(outcome);
                }
            }
            false
        };
        if timeout(AT_MOST, all).await == Ok(true) {
            return Network::Works;
        }
        // One that could not be tried says nothing of the network.
        let says_something = |end: &Option<Outcome>| !matches!(end, Some(Outcome::Void(_)));
        if !ended.iter().any(says_something) {
            return Network::Unknown;
        }
        let how = |end: &Option<Outcome>| end.and_then(Outcome::reason).unwrap_or("unanswered");
        let failures = self.targets.iter().zip(&ended).map(|(one, end)| format!("{} {}", one.spec.target, how(end)));
        Network::Broken(format!("control failed too: {}", failures.collect::<Vec<_>>().join(", ")).into())
    }

    async fn until_good(&self, spec: &ProbeSpec) {
        let target = text::escape(&spec.target.to_string());
        let mut warned = false;
        loop {
            match self.prober.probe(spec).await.outcome(spec).reason() {
                None if warned => return info!("control target {target} is good now"),
                None => return,
                // Once: the same again and again would hide other lines.
                Some(how) if !warned => {
                    warn!("{}", never_good(&target, how, spec.speaks_tls()));
                    warned = true;
                }
                Some(_) => {}
            }
            sleep(AGAIN).await;
        }
    }

    /// Says it once when the network breaks, and once when it works again.
    fn log(&self, network: &Network) {
        let was_told = std::mem::replace(&mut self.rounds().told, matches!(network, Network::Broken(_)));
        match network {
            Network::Broken(why) if !was_told => {
                let why = text::escape(why);
                warn!("the network of this host is broken, no target is blamed until it works again: {why}");
            }
            Network::Works if was_told => info!("the network of this host works again: a control target is good"),
            Network::Works | Network::Broken(_) | Network::Unknown => {}
        }
    }

    fn rounds(&self) -> std::sync::MutexGuard<'_, Rounds> {
        self.rounds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;

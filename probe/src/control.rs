//! The control: an address that nobody answers, tried on the target's port. If it connects, something on the way (a mesh,
//! a transparent proxy) accepts every connection, and a connect proves nothing.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use preflight_core::observation::Outcome;
use preflight_core::reason::Void;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::engine::Guard;
use crate::failure::Failure;
use crate::socket::{Opening, Refusal};

/// What a control showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Nothing yet.
    Waiting,
    /// It did not connect, as it should be.
    Unanswered,
    /// It connected.
    Connected,
    /// This host itself refuses the try (it has no route, or one that forbids), so that interception would go unseen.
    Untried(&'static str),
    /// It could not be tried: the local policy denies it, or for want of something on this host.
    Failed(Failure),
}

/// A control that was started, perhaps by an earlier probe.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    at: Instant,
    seen: watch::Receiver<Seen>,
}

impl Running {
    /// What it shows now.
    pub(crate) fn now(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// What it shows after a fair chance: three times as long as the target's connect took, at least 50 ms, at most its
    /// life, all since its start. Whoever accepts every connection accepts this one as fast as the target's.
    pub(crate) async fn fair(mut self, connect_took: Duration) -> Seen {
        let chance = (3 * connect_took).clamp(Controls::LEAST, Controls::LIFE);
        let _ = timeout_at(self.at + chance, self.seen.wait_for(|seen| *seen != Seen::Waiting)).await;
        self.now()
    }
}

/// The controls of the last second. Probes of one port share one, so a fleet of dependencies on one port costs one.
#[derive(Debug, Default)]
pub(crate) struct Controls {
    running: Mutex<HashMap<SocketAddr, Pair>>,
}

/// A control, and the one that takes its place at the end of its life: it starts early enough to have had its chance by
/// then, so that of a steady stream of probes only the first ones wait for a control.
#[derive(Debug)]
struct Pair {
    now: Running,
    next: Option<Running>,
}

impl Controls {
    const LEAST: Duration = Duration::from_millis(50);
    const LIFE: Duration = Duration::from_secs(1);

    /// Starts the control for a target, or joins the one that runs. None if the target is the control's own address.
    pub(crate) fn start(&self, target: SocketAddr, guard: &dyn Guard) -> Option<Running> {
        let control = control_for(target);
        if control == target {
            return None;
        }
        if !guard.allows(control) {
            // Without it, who accepts every connection would go unseen.
            let words = "the local policy denies the control address, without which a connect proves nothing";
            let denied = Failure::void(Void::PolicyDenied, format!("{words}: {control}"));
            let (_, seen) = watch::channel(Seen::Failed(denied));
            return Some(Running { at: Instant::now(), seen });
        }
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let age = |one: &Running| one.at.elapsed();
        if let Some(pair) = running.get_mut(&control) {
            if age(&pair.now) >= Self::LIFE
                && let Some(next) = pair.next.take()
            {
                pair.now = next;
            }
            let age = age(&pair.now);
            if age < Self::LIFE {
                if age >= Self::LIFE / 2 && pair.next.is_none() {
                    pair.next = Some(begin(control));
                }
                return Some(pair.now.clone());
            }
        }
        running.retain(|_, pair| age(&pair.now) < Self::LIFE);
        let now = begin(control);
        running.insert(control, Pair { now: now.clone(), next: None });
        Some(now)
    }
}

/// Tries the control's address, on its own, since it outlives a probe that ends early; it ends within its life.
fn begin(control: SocketAddr) -> Running {
    let (tell, seen) = watch::channel(Seen::Waiting);
    tokio::spawn(async move {
        let seen = timeout(Controls::LIFE, tried(control)).await.unwrap_or(Seen::Unanswered);
        tell.send_replace(seen);
    });
    Running { at: Instant::now(), seen }
}

/// [RFC 5737](https://www.rfc-editor.org/rfc/rfc5737) TEST-NET-1, or [RFC 3849](https://www.rfc-editor.org/rfc/rfc3849), by the
/// target's family, on its port.
fn control_for(target: SocketAddr) -> SocketAddr {
    match target {
        SocketAddr::V4(_) => (Ipv4Addr::new(192, 0, 2, 1), target.port()).into(),
        SocketAddr::V6(_) => (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), target.port()).into(),
    }
}

/// What is refused at once is refused by this host, and nobody on the way has seen it.
async fn tried(control: SocketAddr) -> Seen {
    match Opening::start(control, None) {
        Err(Refusal::Failed(failure)) if matches!(failure.outcome, Outcome::Short(_)) => {
            Seen::Untried("this host has no way to the control address")
        }
        Err(refusal) => seen_of(Err(refusal)),
        Ok(opening) => seen_of(poll_fn(|cx| opening.poll(cx, control)).await),
    }
}

fn seen_of(end: Result<(), Refusal>) -> Seen {
    match end {
        Ok(()) => Seen::Connected,
        Err(Refusal::Failed(failure)) if matches!(failure.outcome, Outcome::Void(_)) => Seen::Failed(failure),
        Err(Refusal::Silent | Refusal::Failed(_)) => Seen::Unanswered,
    }
}

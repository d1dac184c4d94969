//! One probe from start to end.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use preflight_core::observation::{Control, Observation, Outcome, Phases, Proof, Report};
use preflight_core::reason::Void;
use preflight_core::target::ProbeSpec;
use rustls::crypto::{CryptoProvider, ring};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};

use crate::connect::{self, ms};
use crate::control::{Controls, Running, Seen};
use crate::deadline;
use crate::failure::Failure;
use crate::names::{self, Resolved};
use crate::protocol::{self, Duplex, Wire};
use crate::routes::RouteTable;
use crate::tls::{self, Secured};
use crate::trust::Trust;

/// The host's say on what is dialled.
pub trait Guard: Sync {
    /// Whether `address` may be dialled. Asked with the very address that is dialled, never with a v4-mapped one; for an
    /// unspecified address (0.0.0.0, ::), which the kernel takes for this host, once more with loopback. The control
    /// addresses (192.0.2.1 and `2001:db8::1` on the target's port) are asked for too.
    fn allows(&self, address: SocketAddr) -> bool;
}

/// Allows everything: for a person's own probe from their own host.
#[derive(Debug, Clone, Copy, Default)]
pub struct AllowAll;

impl Guard for AllowAll {
    fn allows(&self, _: SocketAddr) -> bool {
        true
    }
}

/// Ceilings over all probes of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineOptions {
    /// How many addresses are probed at once, each with up to [`EngineOptions::SOCKETS`] descriptors.
    pub max_concurrent: usize,
    /// How many dials are begun in a second; none for no bound.
    pub max_per_second: Option<NonZeroU32>,
}

impl EngineOptions {
    /// The most descriptors that one address needs at a time: its ladder of attempts, and a control.
    pub const SOCKETS: usize = connect::ATTEMPTS + 1;
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { max_concurrent: 64, max_per_second: None }
    }
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// With none at once, nothing would ever be probed.
    #[error("max_concurrent must be at least 1 and at most {}", Semaphore::MAX_PERMITS)]
    Concurrency,
}

/// Probes targets. It is used from within a tokio runtime with I/O and time, of either flavour.
#[derive(Debug)]
pub struct Engine {
    pace: Pace,
    provider: Arc<CryptoProvider>,
    trust: Trust,
    controls: Controls,
    routes: RouteTable,
}

impl Engine {
    /// An engine with these ceilings.
    pub fn new(options: EngineOptions) -> Result<Self, EngineError> {
        Ok(Self {
            pace: Pace::new(options)?,
            provider: Arc::new(ring::default_provider()),
            trust: Trust::default(),
            controls: Controls::default(),
            routes: RouteTable::default(),
        })
    }

    /// Probes a target: resolves once, then every address at the same time, as far as `spec.require` asks and no further.
    ///
    /// It ends by itself, at the latest after [`ProbeSpec::worst_case`] and the wait for permits; dropping it ends it at once.
    pub async fn probe(&self, spec: &ProbeSpec, guard: &dyn Guard) -> Report {
        let begin = Instant::now();
        let resolved = names::resolve(&spec.target.host, spec.families).await;
        let resolve_ms = Some(ms(begin.elapsed()));
        match resolved {
            Ok(resolved) => self.addresses(spec, guard, resolved, resolve_ms).await,
            Err(failure) => {
                let observations = vec![without_address(failure)];
                let routes = self.routes.routes(&[]);
                Report { observations, resolved: 0, routes, control: Control::Unanswered }
            }
        }
    }

    /// All addresses of a name at the same time.
    async fn addresses(
        &self,
        spec: &ProbeSpec,
        guard: &dyn Guard,
        resolved: Resolved,
        resolve_ms: Option<f64>,
    ) -> Report {
        let Resolved { addresses, total, failed } = resolved;
        let dials = addresses.iter().map(|ip| {
            let address = SocketAddr::new(*ip, spec.target.port);
            let phases = Phases { resolve_ms, ..Phases::default() };
            self.address(spec, guard, address, phases)
        });
        let (mut observations, controls): (Vec<_>, Vec<_>) = join_all(dials).await.into_iter().unzip();
        let mut control = Control::Unanswered;
        for (observation, running) in observations.iter_mut().zip(controls) {
            if let Some(running) = running
                && settle(spec, observation, running).await == Seen::Connected
            {
                control = Control::Connected;
            }
        }
        let dialled: Vec<SocketAddr> = observations.iter().filter_map(|o| o.address).collect();
        let routes = self.routes.routes(&dialled);
        observations.extend(failed.map(without_address));
        Report { observations, resolved: u32::try_from(total).unwrap_or(u32::MAX), routes, control }
    }

    /// One address, and the control that ran beside it.
    async fn address(
        &self,
        spec: &ProbeSpec,
        guard: &dyn Guard,
        address: SocketAddr,
        phases: Phases,
    ) -> (Observation, Option<Running>) {
        let mut seen = Observation {
            address: Some(address),
            outcome: Outcome::Ok,
            proof: Some(Proof::Resolved),
            phases,
            note: None,
            detail: None,
            tls: None,
            attempts: Vec::new(),
        };
        let mut control = None;
        if let Err(failure) = self.advance(spec, guard, address, &mut seen, &mut control).await {
            seen.outcome = failure.outcome;
            seen.detail = failure.detail;
            seen.note = None;
        }
        (seen, control)
    }

    /// Phase by phase, until the required proof is had.
    async fn advance(
        &self,
        spec: &ProbeSpec,
        guard: &dyn Guard,
        address: SocketAddr,
        seen: &mut Observation,
        control: &mut Option<Running>,
    ) -> Result<(), Failure> {
        if spec.require == Proof::Resolved {
            return Ok(());
        }
        if !spellings(address).all(|spelling| guard.allows(spelling)) {
            return Err(Failure::void(Void::PolicyDenied, format!("the local policy denies {address}")));
        }
        let _permit = self.pace.permit().await;
        *control = self.controls.start(address, guard);
        let dial = connect::dial(address, spec.connect_timeout.duration()).await;
        seen.note = dial.note();
        seen.attempts = dial.attempts;
        let stream = dial.result?;
        seen.phases.connect_ms = Some(ms(dial.took));
        seen.proof = Some(Proof::Connected);
        // What this scheme cannot prove is not tried: the report is judged short for the proof that is missing.
        if spec.require == Proof::Connected || !spec.target.scheme.can_prove(spec.require) {
            return Ok(());
        }
        if spec.target.scheme.is_tls() {
            self.over_tls(spec, stream, seen).await
        } else {
            in_the_clear(spec, stream, seen).await
        }
    }

    async fn over_tls(&self, spec: &ProbeSpec, stream: TcpStream, seen: &mut Observation) -> Result<(), Failure> {
        let anchors = self.trust.anchors(&spec.tls)?;
        let begin = Instant::now();
        let secured = tls::handshake(stream, spec, &anchors, &self.provider, &mut seen.tls).await?;
        seen.phases.tls_ms = Some(ms(begin.elapsed()));
        seen.proof = Some(Proof::Encrypted);
        let (mut stream, asked_for_certificate) = match secured {
            Secured::Open { stream, asked_for_certificate } => (stream, asked_for_certificate),
            Secured::LogInFirst => {
                log_in_first(spec, seen);
                return Ok(());
            }
        };
        if spec.require == Proof::Encrypted {
            if asked_for_certificate {
                log_in_first(spec, seen);
            }
            tls::part(stream);
            return Ok(());
        }
        let mut wire = Wire::new(&mut *stream);
        let end = converse(spec, &mut wire, seen).await;
        // In TLS 1.3 the server complains of the missing certificate only now (RFC 8446, 4.4.2.4).
        let demanded = asked_for_certificate && wire.alert().is_some_and(tls::demands_certificate);
        tls::part(stream);
        match end {
            Err(_) if demanded => {
                log_in_first(spec, seen);
                Ok(())
            }
            end => end,
        }
    }
}

async fn in_the_clear(spec: &ProbeSpec, mut stream: TcpStream, seen: &mut Observation) -> Result<(), Failure> {
    let stream: &mut dyn Duplex = &mut stream;
    converse(spec, &mut Wire::new(stream), seen).await
}

/// The protocol's opening exchange, within its deadline.
async fn converse(spec: &ProbeSpec, wire: &mut Wire<'_>, seen: &mut Observation) -> Result<(), Failure> {
    let Some(protocol) = protocol::of(spec.target.scheme) else {
        return Ok(());
    };
    let begin = Instant::now();
    let end = deadline::until(begin + spec.timeout.duration(), protocol.open(wire)).await?;
    let note = end.unwrap_or_else(|| Err(wire.timed_out()))?;
    seen.phases.protocol_ms = Some(ms(begin.elapsed()));
    seen.proof = Some(Proof::Protocol);
    add_note(seen, note);
    Ok(())
}

/// The server wants a client certificate, which probes do not carry. Who it is and that it can be reached is proven by its own
/// good certificate; that it would speak the protocol cannot be, so the note says so beside the proof that this stands for.
fn log_in_first(spec: &ProbeSpec, seen: &mut Observation) {
    seen.proof = Some(spec.require);
    let note = if spec.require > Proof::Encrypted {
        "the server asks for a client certificate, which probes do not carry: its certificate is good, what it speaks was not shown"
    } else {
        "the server asks for a client certificate, which probes do not carry"
    };
    add_note(seen, Some(note.to_owned()));
}

fn add_note(seen: &mut Observation, note: Option<String>) {
    seen.note = match (seen.note.take(), note) {
        (Some(one), Some(other)) => Some(format!("{one}; {other}")),
        (one, other) => one.or(other),
    };
}

/// What the control says beside an observation. Where a connect is the whole proof it is waited for; elsewhere what it
/// showed meanwhile is enough.
async fn settle(spec: &ProbeSpec, seen: &mut Observation, running: Running) -> Seen {
    if spec.require != Proof::Connected || seen.outcome != Outcome::Ok {
        return running.now();
    }
    let took = Duration::from_secs_f64(seen.phases.connect_ms.unwrap_or_default() / 1e3);
    let shown = running.fair(took).await;
    match &shown {
        Seen::Waiting | Seen::Unanswered | Seen::Connected => {}
        Seen::Untried(why) => {
            add_note(
                seen,
                Some(format!("{why}, so it would not show if something on the way accepts every connection")),
            );
        }
        Seen::Failed(failure) => {
            seen.outcome = failure.outcome;
            seen.detail.clone_from(&failure.detail);
        }
    }
    shown
}

fn without_address(failure: Failure) -> Observation {
    Observation {
        address: None,
        outcome: failure.outcome,
        proof: None,
        phases: Phases::default(),
        note: None,
        detail: failure.detail,
        tls: None,
        attempts: Vec::new(),
    }
}

/// The address as the policy should see it. Addresses are canonical already (`names.rs`).
fn spellings(address: SocketAddr) -> impl Iterator<Item = SocketAddr> {
    let loopback: Option<std::net::IpAddr> = match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => Some(std::net::Ipv4Addr::LOCALHOST.into()),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => Some(std::net::Ipv6Addr::LOCALHOST.into()),
        SocketAddr::V4(_) | SocketAddr::V6(_) => None,
    };
    std::iter::once(address).chain(loopback.map(|ip| SocketAddr::new(ip, address.port())))
}

/// The ceilings at work. The wait is before a phase's deadline begins, so a busy agent never looks like a slow target.
#[derive(Debug)]
struct Pace {
    permits: Semaphore,
    interval: Option<Duration>,
    next: Mutex<Instant>,
}

impl Pace {
    /// Dials that fell due while nobody asked may be made up for within this time.
    const BURST: Duration = Duration::from_millis(100);

    fn new(options: EngineOptions) -> Result<Self, EngineError> {
        if options.max_concurrent == 0 || options.max_concurrent > Semaphore::MAX_PERMITS {
            return Err(EngineError::Concurrency);
        }
        Ok(Self {
            permits: Semaphore::new(options.max_concurrent),
            interval: options.max_per_second.map(|rate| Duration::from_secs(1) / rate.get()),
            next: Mutex::new(Instant::now()),
        })
    }

    /// None if the engine is gone, which its borrower outlives never.
    async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        let permit = self.permits.acquire().await.ok();
        if let Some(interval) = self.interval {
            let at = self.slot(Instant::now(), interval);
            sleep_until(at).await;
        }
        permit
    }

    /// When the next dial may begin.
    fn slot(&self, now: Instant, interval: Duration) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let at = (*next).max(now.checked_sub(Self::BURST).unwrap_or(now));
        *next = at + interval;
        at
    }
}

#[cfg(test)]
mod tests {
    use preflight_core::reason::Short;
    use preflight_core::target::Families;

    use super::*;

    #[tokio::test]
    async fn dials_keep_to_the_rate() {
        let options = EngineOptions { max_concurrent: 1, max_per_second: NonZeroU32::new(100) };
        let pace = Pace::new(options).unwrap();
        let now = Instant::now();
        let interval = pace.interval.unwrap();
        let last = (0..200).map(|_| pace.slot(now, interval)).last().unwrap();
        assert!((last - now).as_millis() >= 1_880, "200 dials at 100 a second take nearly 2 s: {:?}", last - now);
    }

    #[test]
    fn none_at_once_is_refused() {
        let options = EngineOptions { max_concurrent: 0, max_per_second: None };
        assert!(matches!(Engine::new(options), Err(EngineError::Concurrency)));
    }

    #[test]
    fn the_policy_sees_what_the_kernel_dials() {
        let of = |text: &str| spellings(text.parse().unwrap()).map(|a| a.to_string()).collect::<Vec<_>>();
        assert_eq!(of("0.0.0.0:80"), ["0.0.0.0:80", "127.0.0.1:80"]);
        assert_eq!(of("[::]:80"), ["[::]:80", "[::1]:80"]);
        assert_eq!(of("10.0.0.1:80"), ["10.0.0.1:80"]);
    }

    #[tokio::test]
    async fn a_lookup_that_failed_for_one_family_passes_for_no_other() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut spec = ProbeSpec::new(format!("tcp://half.test:{}", address.port()).parse().unwrap());
        let engine = Engine::new(EngineOptions::default()).unwrap();
        for (families, want) in [(Families::Any, None), (Families::Both, Some("dns_servfail"))] {
            spec.families = families;
            let failed = Some(Failure::short(Short::DnsServfail, "asked for AAAA"));
            let resolved = Resolved { addresses: vec![address.ip()], total: 1, failed };
            let report = engine.addresses(&spec, &AllowAll, resolved, None).await;
            assert_eq!(report.outcome(&spec).reason(), want, "{report:#?}");
            assert_eq!(
                report.short_addresses().filter_map(|o| o.outcome.reason()).collect::<Vec<_>>(),
                ["dns_servfail"]
            );
        }
    }
}

//! One address, phase by phase, until the required proof is had.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all, join3};
use preflight_core::observation::{Observation, Outcome, Phases, Proof};
use preflight_core::reason::{Short, Void};
use preflight_core::spec::{HttpOptions, ProbeSpec, Proxy};
use preflight_core::target::{Host, Scheme};
use tokio::net::TcpStream;
use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;

use crate::connect::{self, Dial, ms};
use crate::control::{Running, Seen};
use crate::deadline;
use crate::engine::{Engine, Guard, Probe, dialled_host};
use crate::failure::Failure;
use crate::paths::{Check, Checked};
use crate::protocol::{self, Protocol, Shown, Start, Told, Wire};
use crate::proxy;
use crate::socket;
use crate::tls::{self, Handshake, Metered, Secured};
use crate::trust::Terms;

/// What one address showed.
pub(crate) struct Probed {
    pub(crate) seen: Observation,
    /// The control that ran beside it, and what it showed.
    control: Option<Running>,
    pub(crate) shown: Option<Seen>,
    /// The members that it told of.
    pub(crate) told: Vec<Told>,
}

/// What a probe of one address goes by.
struct Way<'a> {
    engine: &'a Engine,
    spec: &'a ProbeSpec,
    guard: &'a dyn Guard,
    address: SocketAddr,
    /// What TLS goes by, where it is spoken.
    terms: Option<Terms>,
}

/// What follows a connect, which is larger than a dial.
type Rest<'a> = BoxFuture<'a, Result<(), Failure>>;

async fn to_its_end(rest: Option<Rest<'_>>) -> Result<(), Failure> {
    match rest {
        Some(rest) => rest.await,
        None => Ok(()),
    }
}

/// Probes one address of what is dialled. What waits for a permit is small: thousands may.
pub(crate) async fn probe(probe: &Probe<'_>, ip: &IpAddr, resolve_ms: f64) -> Box<Probed> {
    if let Some(ended) = ended_before_it_begins(probe, *ip, resolve_ms) {
        return ended;
    }
    let permit = probe.engine.pace.permit().await;
    Box::pin(go(probe, ip, resolve_ms, permit)).await
}

async fn go(probe: &Probe<'_>, ip: &IpAddr, resolve_ms: f64, permit: Option<SemaphorePermit<'_>>) -> Box<Probed> {
    let mut way = Way::new(probe, *ip);
    let mut probed = way.begun(resolve_ms);
    let end = way.advance(&mut probed).await;
    drop(permit);
    let (spec, seen) = (probe.spec, &mut probed.seen);
    if let Err(failure) = end {
        failed(seen, failure);
    } else if spec.is_too_slow(&seen.phases) {
        seen.outcome = Outcome::Short(Short::TooSlow);
        let most = spec.max_latency.map(|most| most.to_string()).unwrap_or_default();
        seen.detail = Some(format!("{:.1} ms, and max_latency is {most}", seen.phases.beyond_resolve_ms()));
    }
    if let Some(running) = probed.control.take() {
        probed.shown = Some(settle(spec, seen, running).await);
    }
    probed
}

/// Where no more than the address was asked for, or it may not be dialled.
fn ended_before_it_begins(probe: &Probe<'_>, ip: IpAddr, resolve_ms: f64) -> Option<Box<Probed>> {
    let way = Way::new(probe, ip);
    if probe.spec.require == Proof::Resolved {
        return Some(way.begun(resolve_ms));
    }
    let denied = way.allowed().err()?;
    let mut probed = way.begun(resolve_ms);
    failed(&mut probed.seen, denied);
    Some(probed)
}

fn failed(seen: &mut Observation, failure: Failure) {
    seen.outcome = failure.outcome;
    seen.detail = failure.detail;
    seen.note = None;
}

impl<'a> Way<'a> {
    fn new(probe: &Probe<'a>, ip: IpAddr) -> Self {
        let Probe { engine, spec, guard } = *probe;
        let (_, port) = dialled_host(spec);
        Self { engine, spec, guard, address: SocketAddr::new(ip, port), terms: None }
    }

    /// What is known before anything is dialled: that the name has this address.
    fn resolved(&self, resolve_ms: Option<f64>) -> Observation {
        let phases = Phases { resolve_ms, ..Phases::default() };
        Observation { proof: Some(Proof::Resolved), phases, ..Observation::new(Some(self.address), Outcome::Ok) }
    }

    fn begun(&self, resolve_ms: f64) -> Box<Probed> {
        Box::new(Probed { seen: self.resolved(Some(resolve_ms)), control: None, shown: None, told: Vec::new() })
    }

    async fn advance(&mut self, probed: &mut Probed) -> Result<(), Failure> {
        self.terms = self.make_terms()?;
        probed.control = self.engine.controls.start(self.address, self.guard);
        if self.spec.is_judged_first()
            && let Some(client) = self.terms.as_mut().and_then(|terms| terms.client.take())
        {
            // Seldom, and large.
            Box::pin(self.reach(probed)).await?;
            self.engine.pace.count();
            probed.seen = self.resolved(probed.seen.phases.resolve_ms);
            if let Some(terms) = &mut self.terms {
                terms.client = Some(client);
            }
        }
        self.reach(probed).await
    }

    /// Dials, and goes on as far as is required.
    async fn reach(&self, probed: &mut Probed) -> Result<(), Failure> {
        let Self { spec, address, .. } = *self;
        // What follows is larger than a dial, of which there are more at a time.
        let rest = {
            let dial = connect::dial(address, spec.connect_timeout.duration()).await;
            let seen = &mut probed.seen;
            seen.note = dial.note();
            if dial.losers.is_empty() && dial.silent.is_empty() {
                seen.attempts = dial.attempts;
                let stream = dial.result.map_err(|failure| of_proxy(spec, failure))?;
                seen.phases.connect_ms = Some(ms(dial.took));
                self.go_on(stream, probed)
            } else {
                Some(Box::pin(self.go_on_beside(dial, probed)) as Rest<'_>)
            }
        };
        to_its_end(rest).await
    }

    /// Whether nothing is to be tried beyond this proof. What a scheme cannot prove is not: the report is judged short for it.
    fn is_enough(&self, proof: Proof) -> bool {
        self.spec.require <= proof || !self.spec.can_prove(self.spec.require)
    }

    /// Goes on with the connection while the attempts that did not win leave or are looked at.
    async fn go_on_beside(&self, dial: Dial, probed: &mut Probed) -> Result<(), Failure> {
        let Dial { result, mut attempts, begin, took, losers, silent, window } = dial;
        let leave = |stream| -> BoxFuture<'_, ()> { Box::pin(self.leave(stream)) };
        let answered = 1 + losers.len();
        let losers = join_all(losers.into_iter().map(leave));
        let end = match result {
            Err(failure) => {
                losers.await;
                Err(of_proxy(self.spec, failure))
            }
            Ok(stream) => {
                probed.seen.phases.connect_ms = Some(ms(took));
                let budget = self.spec.paths_timeout();
                let check = Check { address: self.address, begin, window, budget, leave: &leave };
                let mut permit = None;
                let room = || {
                    permit = self.engine.pace.another();
                    permit.is_some()
                };
                let checked = async {
                    if silent.is_empty() { Checked::default() } else { check.run(silent, answered, room).await }
                };
                let rest = to_its_end(self.go_on(stream, probed));
                let (end, checked, _) = join3(rest, checked, losers).await;
                attempts.extend(checked.attempts);
                add_note(&mut probed.seen, checked.note);
                end.and(checked.failure.map_or(Ok(()), |failure| Err(of_proxy(self.spec, failure))))
            }
        };
        probed.seen.attempts = attempts;
        end
    }

    /// Leaves a connection that is not needed as the one that is: a server may count it against a host that a client
    /// connects and goes without a word. What comes of it is nobody's business.
    async fn leave(&self, stream: TcpStream) {
        self.engine.pace.count();
        let seen = Observation::new(Some(self.address), Outcome::Ok);
        let mut unheard = Probed { seen, control: None, shown: None, told: Vec::new() };
        let _ = to_its_end(self.go_on(stream, &mut unheard)).await;
    }

    /// What follows the connect; none if that is enough.
    fn go_on<'s>(&'s self, stream: TcpStream, probed: &'s mut Probed) -> Option<Rest<'s>> {
        match &self.spec.via {
            Some(via) => Some(Box::pin(self.through_proxy(via, stream, probed))),
            None => self.arrived(stream, probed),
        }
    }

    async fn through_proxy(&self, via: &Proxy, mut stream: TcpStream, probed: &mut Probed) -> Result<(), Failure> {
        socket::ready_to_speak(&stream, self.address, false);
        let begin = Instant::now();
        if let Err(failure) = proxy::connect(&mut stream, self.spec, via).await {
            // A refusal has a body, and to close with unread data is a reset.
            self.engine.goodbyes.tcp(stream);
            return Err(failure);
        }
        probed.seen.phases.proxy_ms = Some(ms(begin.elapsed()));
        add_note(&mut probed.seen, Some(format!("through the proxy {via}")));
        to_its_end(self.arrived(stream, probed)).await
    }

    /// What follows once the target itself is at the other end; none if that is enough.
    fn arrived<'s>(&'s self, stream: TcpStream, probed: &'s mut Probed) -> Option<Rest<'s>> {
        let scheme = self.spec.target.scheme;
        probed.seen.proof = Some(Proof::Connected);
        if self.is_enough(Proof::Connected) {
            return None;
        }
        socket::ready_to_speak(&stream, self.address, scheme != Scheme::Redis);
        let protocol = protocol::of(scheme);
        if scheme.is_tls() {
            return Some(Box::pin(self.over_tls(stream, protocol, probed)));
        }
        let protocol = protocol?;
        Some(if scheme.can_upgrade() {
            Box::pin(self.clear_or_upgraded(stream, protocol, probed))
        } else {
            Box::pin(self.in_the_clear(stream, protocol, probed))
        })
    }

    /// Where the probe goes as far as this host knows: what it dials, and behind a proxy the target where that is an address.
    fn destinations(&self) -> impl Iterator<Item = SocketAddr> {
        let through = match (&self.spec.via, &self.spec.target.host) {
            (Some(_), Host::Ip(ip)) => Some(SocketAddr::new(ip.to_canonical(), self.spec.target.port)),
            (Some(_), Host::Name(_)) | (None, _) => None,
        };
        std::iter::once(self.address).chain(through)
    }

    fn allowed(&self) -> Result<(), Failure> {
        match self.destinations().find(|address| !meant_by(*address).all(|meant| self.guard.allows(meant))) {
            Some(address) => Err(Failure::void(Void::PolicyDenied, format!("the local policy denies {address}"))),
            None => Ok(()),
        }
    }

    /// What TLS goes by, made before anything is dialled: what this host lacks is nothing that the target should see.
    fn make_terms(&self) -> Result<Option<Terms>, Failure> {
        let Self { engine, spec, .. } = *self;
        if !spec.speaks_tls() || self.is_enough(Proof::Connected) {
            return Ok(None);
        }
        if let (Some(files), Some(via), Host::Name(name)) = (&spec.tls.client, &spec.via, &spec.target.host)
            && !self.guard.may_use_by_name()
        {
            // Whose address the proxy takes for the name this host does not know, so no rule of its policy can bind the key to it.
            let words =
                format!("{} may be used towards addresses, and {name} is resolved by the proxy {via}", files.key_file);
            return Err(Failure::void(Void::PolicyDenied, words));
        }
        let client = spec.tls.client.iter().flat_map(|files| [&files.cert_file, &files.key_file]);
        for file in spec.tls.ca_file.iter().chain(client) {
            self.may_use(file)?;
        }
        engine.trust.terms(&spec.tls, &engine.tls.provider).map(Some)
    }

    fn may_use(&self, file: &str) -> Result<(), Failure> {
        let may = |address: &SocketAddr| meant_by(*address).all(|meant| self.guard.may_use(Path::new(file), meant));
        let Some(address) = self.destinations().find(|address| !may(address)) else { return Ok(()) };
        let (ip, port) = (address.ip(), address.port());
        let rule = format!("[[files]] paths = [{file:?}] addresses = [\"{ip}\"] ports = [{port}]");
        let words = format!("the local policy does not let {file} be used towards {address}; it would with {rule}");
        Err(Failure::void(Void::PolicyDenied, words))
    }

    async fn in_the_clear(
        &self,
        mut stream: TcpStream,
        protocol: &dyn Protocol,
        probed: &mut Probed,
    ) -> Result<(), Failure> {
        let mut wire = Wire::new(&mut stream);
        let end = self.converse(protocol, &mut wire, probed).await;
        self.part(stream, protocol);
        end
    }

    /// As the protocol's start decides, of those that have an upgrade to TLS of their own.
    async fn clear_or_upgraded(
        &self,
        mut stream: TcpStream,
        protocol: &dyn Protocol,
        probed: &mut Probed,
    ) -> Result<(), Failure> {
        let begin = Instant::now();
        let mut wire = Wire::new(&mut stream);
        let start = deadline::until(begin + self.spec.timeout.duration(), protocol.start(&mut wire, self.spec)).await?;
        let took = begin.elapsed();
        match start.unwrap_or_else(|| Err(wire.timed_out()))? {
            Start::Speak => self.in_the_clear(stream, protocol, probed).await,
            Start::Secure => Box::pin(self.over_tls(stream, Some(protocol), probed)).await,
            Start::Show(shown) => {
                Box::pin(self.leave_by_tls(stream, protocol, probed)).await?;
                self::shown(probed, shown, took);
                Ok(())
            }
            Start::Last(end) => {
                wire.nothing_more().await?;
                shown(probed, end?, took);
                Ok(())
            }
            Start::Done(shown) => {
                self::shown(probed, shown, took);
                self.part(stream, protocol);
                Ok(())
            }
        }
    }

    /// Leaves in the clear. The server has answered, so that nobody waits for its goodbye.
    fn part(&self, stream: TcpStream, protocol: &dyn Protocol) {
        if protocol.lingers() {
            self.engine.goodbyes.tcp(stream);
        }
    }

    async fn over_tls(
        &self,
        stream: TcpStream,
        protocol: Option<&dyn Protocol>,
        probed: &mut Probed,
    ) -> Result<(), Failure> {
        let Self { engine, spec, .. } = *self;
        // A protocol begins TLS only where the spec asks for it; nothing is sent over what cannot be judged.
        let Some(terms) = &self.terms else {
            return Err(Failure::short(Short::ProtocolUnexpected, "the server wants TLS, which was not asked for"));
        };
        let begin = Instant::now();
        let alpn = protocol.map_or(&[][..], Protocol::alpn);
        let wanted = Handshake { spec, alpn, terms: Some(terms), means: &engine.tls };
        let secured = wanted.shake(stream, &mut probed.seen.tls).await?;
        let took = ms(begin.elapsed());
        let (mut stream, asked_for_certificate) = match secured {
            Secured::Open { stream, asked_for_certificate } => (stream, asked_for_certificate),
            Secured::LogInFirst => {
                probed.seen.phases.tls_ms = Some(took);
                return log_in_first(spec, &mut probed.seen);
            }
            Secured::Distrusted { stream, failure } => {
                // At least with TLS's own goodbye: an end without it is what some servers log as a lost connection.
                self.leave_unheard(stream, protocol).await;
                return Err(failure);
            }
        };
        probed.seen.phases.tls_ms = Some(took);
        probed.seen.proof = Some(Proof::Encrypted);
        let (Some(protocol), Proof::Protocol) = (protocol, spec.require) else {
            match &terms.client {
                Some(client) if asked_for_certificate => {
                    tls::taken(&mut stream, client, begin + spec.timeout.duration()).await?;
                }
                None if asked_for_certificate => log_in_first(spec, &mut probed.seen)?,
                Some(_) | None => {}
            }
            self.leave_unheard(stream, protocol).await;
            return Ok(());
        };
        let alpn = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        let mut wire = Wire::new(&mut *stream);
        wire.chose(alpn);
        let end = self.converse(protocol, &mut wire, probed).await;
        // In TLS 1.3 the server complains of the client's certificate only now (RFC 8446, 4.4.2.4).
        let alert = wire.alert().filter(|_| asked_for_certificate);
        let answered = !wire.received().is_empty();
        let end = match (end, alert, &terms.client) {
            (Err(_), Some(alert), Some(client)) => Err(client.refused(&rustls::Error::AlertReceived(alert))),
            (Err(_), Some(alert), None) if tls::demands_certificate(alert) => log_in_first(spec, &mut probed.seen),
            // A protocol that had no more to ask has not heard whether the certificate was taken.
            (Ok(()), _, Some(client)) if asked_for_certificate && !answered => {
                tls::taken(&mut stream, client, Instant::now() + spec.timeout.duration()).await
            }
            (end, _, _) => end,
        };
        self.engine.goodbyes.tls(stream);
        end
    }

    /// Leaves inside TLS, as the protocol demands; what the server says to that proves nothing.
    async fn leave_unheard(&self, mut stream: Box<TlsStream<Metered>>, protocol: Option<&dyn Protocol>) {
        if let Some(protocol) = protocol.filter(|protocol| protocol.leaves_by_speaking()) {
            let mut wire = Wire::new(&mut *stream);
            let _ = timeout(self.spec.timeout.duration(), protocol.open(&mut wire, self.spec)).await;
        }
        self.engine.goodbyes.tls(stream);
    }

    /// The handshake of a server that asked for it by its answer alone: what is seen of TLS is shown. One that is refused
    /// with an alert is a note; a server that does not speak TLS at all has not said what it seemed to say.
    async fn leave_by_tls(
        &self,
        stream: TcpStream,
        protocol: &dyn Protocol,
        probed: &mut Probed,
    ) -> Result<(), Failure> {
        let wanted = Handshake { spec: self.spec, alpn: protocol.alpn(), terms: None, means: &self.engine.tls };
        match wanted.shake(stream, &mut probed.seen.tls).await {
            Ok(Secured::Open { stream, .. } | Secured::Distrusted { stream, .. }) => self.engine.goodbyes.tls(stream),
            Ok(Secured::LogInFirst) => {}
            Err(failure) => match failure.outcome {
                Outcome::Short(Short::TlsAlert) => {
                    let detail = failure.detail.unwrap_or_default();
                    let note = format!("it offers TLS, which was not asked for, and refuses the handshake: {detail}");
                    add_note(&mut probed.seen, Some(note));
                }
                Outcome::Short(reason) => {
                    let detail = failure.detail.unwrap_or_default();
                    let what = format!("it answers that it speaks TLS, and does not: {reason}: {detail}");
                    return Err(Failure::short(Short::ProtocolUnexpected, what));
                }
                Outcome::Void(_) | Outcome::Ok => return Err(failure),
            },
        }
        Ok(())
    }

    /// The protocol's opening exchange, within its deadline.
    async fn converse(&self, protocol: &dyn Protocol, wire: &mut Wire<'_>, probed: &mut Probed) -> Result<(), Failure> {
        let begin = Instant::now();
        let end = deadline::until(begin + self.spec.timeout.duration(), protocol.open(wire, self.spec)).await?;
        let shown = end.unwrap_or_else(|| Err(wire.timed_out()))?;
        self::shown(probed, shown, begin.elapsed());
        Ok(())
    }
}

fn shown(probed: &mut Probed, shown: Shown, took: Duration) {
    probed.seen.phases.protocol_ms = Some(ms(took));
    probed.seen.proof = Some(Proof::Protocol);
    add_note(&mut probed.seen, shown.note);
    probed.told = shown.told;
}

/// A failure to reach what is dialled, by what that is: of a proxy, what went wrong stands in the detail.
pub(crate) fn of_proxy(spec: &ProbeSpec, failure: Failure) -> Failure {
    match (&spec.via, failure.outcome) {
        (Some(proxy), Outcome::Short(reason)) => {
            let detail = failure.detail.unwrap_or_default();
            Failure::short(Short::ProxyUnreachable, format!("{proxy}: {reason}: {detail}"))
        }
        (Some(_) | None, _) => failure,
    }
}

/// The server wants a client certificate, which this probe does not carry. Who it is and that it can be reached is proven by its own
/// good certificate; that it would speak the protocol cannot be, so the note says so beside the proof that this stands for.
///
/// Where it is stated what the service must answer, nothing stands for that.
fn log_in_first(spec: &ProbeSpec, seen: &mut Observation) -> Result<(), Failure> {
    let named = matches!(spec.target.scheme, Scheme::Grpcs) && !spec.target.path.is_empty();
    if spec.require == Proof::Protocol && (spec.http != HttpOptions::default() || named) {
        let words = "the server asks for a client certificate, which this probe does not carry, so it did not answer as is stated";
        return Err(Failure::short(Short::StatusUnexpected, words));
    }
    seen.proof = Some(spec.require);
    let note = if spec.require > Proof::Encrypted {
        "the server asks for a client certificate, which this probe does not carry: its certificate is good, what it speaks was not shown"
    } else {
        "the server asks for a client certificate, which this probe does not carry"
    };
    add_note(seen, Some(note.to_owned()));
    Ok(())
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
    let mut shown = running.now();
    if shown == Seen::Waiting {
        let took = Duration::from_secs_f64(seen.phases.connect_ms.unwrap_or_default() / 1e3);
        // On the heap, since of a steady stream of probes few wait.
        shown = Box::pin(running.fair(took)).await;
    }
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

/// What the kernel takes an address for, each as the policy should see it. Addresses are canonical already (`names.rs`).
fn meant_by(address: SocketAddr) -> impl Iterator<Item = SocketAddr> {
    let loopback: Option<IpAddr> = match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => Some(Ipv4Addr::LOCALHOST.into()),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => Some(Ipv6Addr::LOCALHOST.into()),
        SocketAddr::V4(_) | SocketAddr::V6(_) => None,
    };
    std::iter::once(address).chain(loopback.map(|ip| SocketAddr::new(ip, address.port())))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::engine::{AllowAll, EngineOptions};

    #[tokio::test]
    async fn an_attempt_that_loses_leaves_as_the_winner_does() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (won, lost) = (TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap());
        let serve = async {
            let mut asked = 0;
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 14];
                stream.read_exact(&mut request).await.unwrap();
                stream.write_all(b"+PONG\r\n").await.unwrap();
                assert_eq!(stream.read(&mut request).await.unwrap(), 0, "it leaves without a reset");
                asked += 1;
            }
            asked
        };
        let options = EngineOptions { max_per_second: std::num::NonZeroU32::new(1), ..EngineOptions::default() };
        let engine = Engine::new(options).unwrap();
        let spec = ProbeSpec::new(format!("redis://{address}").parse().unwrap());
        let way = Way { engine: &engine, spec: &spec, guard: &AllowAll, address, terms: None };
        let dial = Dial {
            result: Ok(won),
            attempts: Vec::new(),
            begin: Instant::now(),
            took: Duration::from_millis(1),
            losers: vec![lost],
            silent: Vec::new(),
            window: Duration::from_millis(12),
        };
        let seen = Observation::new(Some(address), Outcome::Ok);
        let mut probed = Probed { seen, control: None, shown: None, told: Vec::new() };
        let (asked, end) = tokio::join!(serve, way.go_on_beside(dial, &mut probed));
        assert_eq!((asked, end, probed.seen.proof), (2, Ok(()), Some(Proof::Protocol)));
        let next = timeout(Duration::from_millis(500), engine.pace.permit()).await;
        assert!(next.is_err(), "at one connection in a second, the loser's is this second's");
    }

    #[test]
    fn the_policy_sees_what_the_kernel_dials() {
        let of = |text: &str| meant_by(text.parse().unwrap()).map(|a| a.to_string()).collect::<Vec<_>>();
        assert_eq!(of("0.0.0.0:80"), ["0.0.0.0:80", "127.0.0.1:80"]);
        assert_eq!(of("[::]:80"), ["[::]:80", "[::1]:80"]);
        assert_eq!(of("10.0.0.1:80"), ["10.0.0.1:80"]);
    }
}

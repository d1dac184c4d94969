//! One probe from start to end: the target's addresses, then the members that it tells of.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::Path;

use futures_util::future::join_all;
use nix::sys::resource::{Resource, getrlimit};
use preflight_core::observation::{Control, Member, Observation, Outcome, Proof, Report};
use preflight_core::reason::Void;
use preflight_core::spec::{Addresses, Families, ProbeSpec};
use preflight_core::target::{Host, Target};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::address::{self, Probed};
use crate::connect::{self, ms};
use crate::control::{Controls, Seen};
use crate::failure::Failure;
use crate::goodbye::Goodbyes;
use crate::names::{self, Resolved};
use crate::pace::Pace;
use crate::protocol::Told;
use crate::routes::RouteTable;
use crate::tls::Means;
use crate::trust::Trust;

/// The host's say on what is dialled and which of its files are used.
pub trait Guard: Sync {
    /// Whether `address` may be dialled. Asked with the very address that is dialled, never with a v4-mapped one; for an
    /// unspecified address (0.0.0.0, ::), which the kernel takes for this host, once more with loopback. The control
    /// addresses (192.0.2.1 and `2001:db8::1` on the target's port) are asked for too; through a proxy also the target, where
    /// it is an address.
    fn allows(&self, address: SocketAddr) -> bool;

    /// Whether a file of this host (an authority, a client's certificate or key) may be used towards `address`.
    fn may_use(&self, file: &Path, address: SocketAddr) -> bool;

    /// Whether a client's key may be used towards a name that only a proxy resolves. No, unless a person probes for themselves.
    fn may_use_by_name(&self) -> bool {
        false
    }
}

/// Allows everything: for a person's own probe from their own host.
#[derive(Debug, Clone, Copy, Default)]
pub struct AllowAll;

impl Guard for AllowAll {
    fn allows(&self, _: SocketAddr) -> bool {
        true
    }

    fn may_use(&self, _: &Path, _: SocketAddr) -> bool {
        true
    }

    fn may_use_by_name(&self) -> bool {
        true
    }
}

/// Ceilings over all probes of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineOptions {
    /// How many addresses are probed at once, and how many names are looked up at once: up to [`EngineOptions::DESCRIPTORS`] for each.
    /// Others wait for them: so that time-outs do not queue, it has to be as many as there are targets that may be silent at once.
    pub max_concurrent: usize,
    /// How many dials are begun in a second; none for no bound. Connections that are opened beside a dial's own, by attempts that
    /// lose and to look for a dead path, count too; attempts that nobody answers do not, since they are nobody's connections.
    pub max_per_second: Option<NonZeroU32>,
}

impl EngineOptions {
    /// The most descriptors that one address needs at a time, with the lookup of one name beside it: its ladder of attempts, a control, and
    /// a connection that is being left; for the lookup a file of the host's configuration, and a socket for each family.
    ///
    /// The look for a dead path (`paths.rs`) holds as many sockets as the ladder did, or takes another address's place for ten more.
    pub const DESCRIPTORS: usize = connect::ATTEMPTS + 2 + 3;
}

impl Default for EngineOptions {
    /// As many at once as half of this process's descriptors allow, at least 1 and at most 1,024; and no bound on the rate.
    fn default() -> Self {
        const MOST: usize = 1024;
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(now, _)| now);
        let most = usize::try_from(descriptors).unwrap_or(usize::MAX) / (2 * Self::DESCRIPTORS);
        Self { max_concurrent: most.clamp(1, MOST), max_per_second: None }
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
    pub(crate) pace: Pace,
    pub(crate) tls: Means,
    pub(crate) goodbyes: Goodbyes,
    pub(crate) trust: Trust,
    pub(crate) controls: Controls,
    routes: RouteTable,
}

/// One probe: of a target, or of a member that it tells of.
#[derive(Clone, Copy)]
pub(crate) struct Probe<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) spec: &'a ProbeSpec,
    pub(crate) guard: &'a dyn Guard,
}

/// What the addresses of one host showed.
struct Dialled {
    observations: Vec<Observation>,
    resolved: usize,
    control: Control,
    told: BTreeSet<Told>,
}

impl Engine {
    /// An engine with these ceilings.
    pub fn new(options: EngineOptions) -> Result<Self, EngineError> {
        Ok(Self {
            pace: Pace::new(options)?,
            tls: Means::new(),
            goodbyes: Goodbyes::new(options.max_concurrent),
            trust: Trust::default(),
            controls: Controls::default(),
            routes: RouteTable::default(),
        })
    }

    /// Probes a target: resolves once, then every address at the same time, as far as `spec.require` asks and no further;
    /// then every member that the target told of, all at the same time too.
    ///
    /// It ends by itself, at the latest after [`ProbeSpec::worst_case`] and the wait for permits; dropping it ends it at once.
    pub async fn probe(&self, spec: &ProbeSpec, guard: &dyn Guard) -> Report {
        let probe = Probe { engine: self, spec, guard };
        let (mut report, told) = self.report(probe.host(ProbeSpec::MAX_ADDRESSES).await);
        // Primaries come first, so that a cut takes Sentinels and replicas.
        if !told.is_empty() {
            let members = told.iter().take(ProbeSpec::MAX_MEMBERS).map(|told| probe.member(told));
            report.observations.extend(Box::pin(join_all(members)).await.into_iter().flatten());
        }
        report
    }

    /// Waits until the connections that probes have left are closed, at most 300 ms: a server whose peer goes without a goodbye may log it
    /// as broken. For a process that is about to end.
    pub async fn settled(&self) {
        self.goodbyes.said().await;
    }

    /// What the target's own addresses showed, and the members that it told of.
    fn report(&self, dialled: Dialled) -> (Report, BTreeSet<Told>) {
        let Dialled { observations, resolved, control, mut told } = dialled;
        // Seeds that were asked during a failover differ about who is primary: it is one member all the same.
        let mut endpoints = BTreeSet::new();
        told.retain(|told| endpoints.insert((told.host.clone(), told.port)));
        let of = |o: &Observation| Some((o.address?, o.proof >= Some(Proof::Connected)));
        let targets: Vec<(SocketAddr, bool)> = observations.iter().filter_map(of).collect();
        let report = Report {
            routes: self.routes.routes(&targets),
            observations,
            resolved: u32::try_from(resolved).unwrap_or(u32::MAX),
            control,
            members: u32::try_from(told.len()).unwrap_or(u32::MAX),
            egress: false,
        };
        (report, told)
    }
}

impl Probe<'_> {
    /// One member, as the application would dial it: by what its seed told, over TLS and through the proxy as the seed, and with
    /// the certificate for `server_name` if that is given, else for the host that was told. A member of several addresses, a
    /// name, needs all of a family's.
    async fn member(&self, told: &Told) -> Vec<Observation> {
        let target = Target { host: told.host.clone(), port: told.port, ..self.spec.target.clone() };
        let (families, addresses) = (Families::Any, Addresses::All);
        let spec = ProbeSpec { target, families, addresses, topology: None, ..self.spec.clone() };
        let member = Member { role: told.role, endpoint: format!("{}:{}", told.host, told.port) };
        let probe = Probe { spec: &spec, ..*self };
        let mut dialled = probe.host(ProbeSpec::MAX_MEMBER_ADDRESSES).await;
        let cut = dialled.resolved > ProbeSpec::MAX_MEMBER_ADDRESSES;
        for observation in &mut dialled.observations {
            observation.member = Some(member.clone());
            // All of its addresses have to work, and not all were asked.
            if cut && observation.outcome == Outcome::Ok {
                let words = format!("the name has {} addresses, and only two of a member are probed", dialled.resolved);
                let failure = Failure::void(Void::MembersUnknown, words);
                (observation.outcome, observation.detail) = (failure.outcome, failure.detail);
            }
        }
        dialled.observations
    }

    /// One host: the target, a member of it, or the proxy in front of it; at most so many of its addresses, all at the same time.
    /// Thousands may wait here for their turn, so little is held.
    async fn host(&self, most: usize) -> Dialled {
        let (host, _) = dialled_host(self.spec);
        let permit = match host {
            Host::Name(_) => self.engine.pace.lookup().await,
            Host::Ip(_) => None,
        };
        let begin = Instant::now();
        let mut resolved = match names::resolve(host, self.spec.families).await {
            Ok(resolved) => resolved,
            Err(failure) => {
                let observations = vec![without_address(address::of_proxy(self.spec, failure))];
                return Dialled { observations, resolved: 0, control: Control::Unanswered, told: BTreeSet::new() };
            }
        };
        let resolve_ms = ms(Instant::now() - begin);
        drop(permit);
        resolved.addresses.truncate(most);
        // One address is the rule, and needs no place of its own on the heap.
        let all = match resolved.addresses.as_slice() {
            [one] => vec![address::probe(self, one, resolve_ms).await],
            several => Box::pin(join_all(several.iter().map(|ip| address::probe(self, ip, resolve_ms)))).await,
        };
        dialled(self.spec, resolved, all)
    }
}

/// What the addresses of one name come to together.
fn dialled(spec: &ProbeSpec, resolved: Resolved, all: impl IntoIterator<Item = Box<Probed>>) -> Dialled {
    let mut dialled = Dialled {
        observations: Vec::new(),
        resolved: resolved.total,
        control: Control::Unanswered,
        told: BTreeSet::new(),
    };
    for probed in all {
        dialled.control = match (probed.shown, dialled.control) {
            (Some(Seen::Connected), _) | (_, Control::Connected) => Control::Connected,
            (Some(Seen::Untried(_)), _) | (_, Control::Untried) => Control::Untried,
            (_, Control::Unanswered) => Control::Unanswered,
        };
        dialled.told.extend(probed.told);
        dialled.observations.push(probed.seen);
    }
    dialled.observations.extend(resolved.failed.map(|failure| without_address(address::of_proxy(spec, failure))));
    dialled
}

/// What is dialled: the proxy if there is one.
pub(crate) fn dialled_host(spec: &ProbeSpec) -> (&Host, u16) {
    spec.via.as_ref().map_or((&spec.target.host, spec.target.port), |proxy| (&proxy.host, proxy.port))
}

fn without_address(failure: Failure) -> Observation {
    Observation { detail: failure.detail, ..Observation::new(None, failure.outcome) }
}

#[cfg(test)]
mod tests {
    use preflight_core::reason::Short;
    use preflight_core::spec::Families;

    use super::*;

    #[test]
    fn none_at_once_is_refused() {
        let options = EngineOptions { max_concurrent: 0, max_per_second: None };
        assert!(matches!(Engine::new(options), Err(EngineError::Concurrency)));
    }

    #[tokio::test]
    async fn lookups_keep_to_the_ceiling_too() {
        let engine = Engine::new(EngineOptions { max_concurrent: 1, max_per_second: None }).unwrap();
        let held = engine.pace.lookup().await;
        let spec = ProbeSpec { require: Proof::Resolved, ..ProbeSpec::new("tcp://localhost:1".parse().unwrap()) };
        let mut probe = Box::pin(engine.probe(&spec, &AllowAll));
        assert!(tokio::time::timeout(std::time::Duration::from_millis(300), &mut probe).await.is_err());
        // An address needs no lookup, and its probe does not wait for one.
        let address = ProbeSpec { require: Proof::Resolved, ..ProbeSpec::new("tcp://127.0.0.1:1".parse().unwrap()) };
        assert_eq!(engine.probe(&address, &AllowAll).await.resolved, 1);
        drop(held);
        assert!(probe.await.resolved > 0);
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
            let probe = Probe { engine: &engine, spec: &spec, guard: &AllowAll };
            let all = vec![address::probe(&probe, &resolved.addresses[0], 0.0).await];
            let (report, _) = engine.report(dialled(&spec, resolved, all));
            assert_eq!(report.outcome(&spec).reason(), want, "{report:#?}");
            assert_eq!(
                report.short_addresses().filter_map(|o| o.outcome.reason()).collect::<Vec<_>>(),
                ["dns_servfail"]
            );
        }
    }
}

//! How a target is probed: the options that go with its URL, whole. A cell's digest covers all of it.

mod check;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::observation::{Phases, Proof};
use crate::target::{Host, Scheme, Target};

pub use check::{Misfit, SpecOption};

/// A span of time in whole milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u32);

impl Millis {
    /// The same span for timers.
    pub fn duration(self) -> Duration {
        Duration::from_millis(u64::from(self.0))
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) { write!(f, "{}s", self.0 / 1000) } else { write!(f, "{}ms", self.0) }
    }
}

/// Which address families must work.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Families {
    /// All addresses of at least one family that the host has a route for.
    #[default]
    Any,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
    /// IPv4 and IPv6, each.
    Both,
}

/// How many of a family's addresses must work.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Addresses {
    /// All where every address is private, one where any is public (CDNs).
    #[default]
    Auto,
    /// Each of them.
    All,
    /// One of them.
    Any,
}

/// What is expected of a path.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    /// The target can be reached.
    #[default]
    Reachable,
    /// The path must not exist: something stops it, and not the target's absence.
    Blocked,
}

/// The oldest TLS version that is accepted.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, schemars::JsonSchema,
)]
pub enum TlsVersion {
    /// TLS 1.2: nothing older is spoken.
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    V1_3,
}

/// TLS options of a target.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct TlsOptions {
    /// Ask for TLS by the protocol's own upgrade, and require it (`postgres`, `mysql`).
    #[serde(default, skip_serializing_if = "is_default")]
    pub upgrade: bool,
    /// The name to ask for (SNI) and to verify, where it is not the target's host.
    pub server_name: Option<String>,
    /// PEM certificates to trust instead of the host's store.
    pub ca_pem: Option<String>,
    /// A file of PEM certificates on the agent's host, to trust instead of its store. Never beside `ca_pem`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ca_file: Option<String>,
    /// The client's certificate on the agent's host, with its key.
    #[serde(default, skip_serializing_if = "is_default")]
    pub client: Option<ClientFiles>,
    /// The oldest version that is accepted.
    #[serde(default, skip_serializing_if = "is_default")]
    pub min_version: TlsVersion,
    /// The SHA-256 of the leaf's DER, lower-case hex: trusts exactly that certificate, whatever its issuer and names.
    #[serde(default, skip_serializing_if = "is_default")]
    pub fingerprint: Option<String>,
}

/// The files of a client certificate, by their absolute paths on the agent's host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClientFiles {
    /// PEM: the certificate, then what is between it and its authority.
    pub cert_file: String,
    /// PEM: its private key.
    pub key_file: String,
}

/// An HTTP proxy that is asked to `CONNECT` to the target. Its text form is `http://host:port`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Target", into = "String")]
pub struct Proxy {
    /// The proxy's host.
    pub host: Host,
    /// Its port.
    pub port: u16,
}

/// A URL that is no proxy's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a proxy is written as http://host:port")]
pub struct NoProxy;

impl TryFrom<Target> for Proxy {
    type Error = NoProxy;

    fn try_from(target: Target) -> Result<Self, NoProxy> {
        let Target { scheme, host, port, path } = target;
        if scheme == Scheme::Http && path.is_empty() { Ok(Self { host, port }) } else { Err(NoProxy) }
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}", self.host, self.port)
    }
}

impl From<Proxy> for String {
    fn from(proxy: Proxy) -> Self {
        proxy.to_string()
    }
}

/// What of an HTTP answer is accepted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct HttpOptions {
    /// The statuses that are accepted; empty for all but 502, 503 and 504, which proxies answer for a service that is away.
    pub status: Vec<StatusRange>,
    /// What the body must contain, within its first [`HttpOptions::MAX_BODY`] bytes.
    pub body: Option<String>,
}

impl HttpOptions {
    /// At most this many bytes of an answer are read where the body is looked at.
    pub const MAX_BODY: usize = 64 * 1024;

    /// Whether a status is accepted.
    pub fn accepts(&self, status: u16) -> bool {
        if self.status.is_empty() {
            !matches!(status, 502..=504)
        } else {
            self.status.iter().any(|range| (range.from..=range.to).contains(&status))
        }
    }
}

/// Statuses `from` to `to`, inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StatusRange {
    /// The first.
    pub from: u16,
    /// The last.
    pub to: u16,
}

/// Which members a Redis seed is asked for; each of them is probed too.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Topology {
    /// The nodes of a Redis Cluster.
    Cluster,
    /// What a Sentinel watches: the primary and its replicas, and the other Sentinels.
    Sentinel {
        /// The name of the primary; all of them if absent.
        master: Option<String>,
    },
}

/// One probe, whole: what is sent to an agent, and what a cell's digest covers.
///
/// Options that came later are left out of the serialised form at their default, so that a cell that does not use them keeps its digest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProbeSpec {
    /// What to probe.
    pub target: Target,
    /// When silence after a connect is called a drop.
    pub connect_timeout: Millis,
    /// The deadline of each phase that follows the connect.
    pub timeout: Millis,
    /// How far the probe must get.
    pub require: Proof,
    /// Which families must work.
    pub families: Families,
    /// How many addresses must work.
    pub addresses: Addresses,
    /// TLS options.
    pub tls: TlsOptions,
    /// What is expected.
    #[serde(default, skip_serializing_if = "is_default")]
    pub expect: Expect,
    /// From the first packet of the connect to the last proof, names left out.
    #[serde(default, skip_serializing_if = "is_default")]
    pub max_latency: Option<Millis>,
    /// The proxy on the way.
    #[serde(default, skip_serializing_if = "is_default")]
    pub via: Option<Proxy>,
    /// What of an HTTP answer is accepted.
    #[serde(default, skip_serializing_if = "is_default")]
    pub http: HttpOptions,
    /// Which members are probed beside the target itself.
    #[serde(default, skip_serializing_if = "is_default")]
    pub topology: Option<Topology>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl ProbeSpec {
    /// Silence after a connect is called in this time, unless the manifest says otherwise.
    pub const DEFAULT_CONNECT_TIMEOUT: Millis = Millis(1_000);
    /// Each later phase may take this long, unless the manifest says otherwise.
    pub const DEFAULT_TIMEOUT: Millis = Millis(5_000);
    /// The longest that resolving a name may take.
    pub const RESOLVE_TIMEOUT: Millis = Millis(3_000);
    /// At most this many addresses of a name are probed; a cut is said.
    pub const MAX_ADDRESSES: usize = 16;
    /// At most this many addresses of one member are probed; one that has more is not known to work.
    pub const MAX_MEMBER_ADDRESSES: usize = 2;
    /// At most this many members are probed; a cut is said.
    pub const MAX_MEMBERS: usize = 64;
    /// The longest that a peer is waited for which has answered and is to say no more.
    pub const PARTING: Duration = Duration::from_millis(250);

    /// A probe of `target` with every option at its default.
    pub fn new(target: Target) -> Self {
        let require = target.scheme.default_proof();
        Self {
            target,
            connect_timeout: Self::DEFAULT_CONNECT_TIMEOUT,
            timeout: Self::DEFAULT_TIMEOUT,
            require,
            families: Families::default(),
            addresses: Addresses::default(),
            tls: TlsOptions::default(),
            expect: Expect::default(),
            max_latency: None,
            via: None,
            http: HttpOptions::default(),
            topology: None,
        }
    }

    /// Whether the probe speaks TLS.
    pub fn speaks_tls(&self) -> bool {
        self.target.scheme.is_tls() || self.tls.upgrade
    }

    /// Whether this probe can get as far as `proof`.
    pub fn can_prove(&self, proof: Proof) -> bool {
        // A proxy may say yes before it connects, so its yes proves no connection.
        let by_proxy = self.via.is_some() && proof == Proof::Connected;
        !by_proxy && self.target.scheme.can_prove(proof, self.tls.upgrade)
    }

    /// Whether what worked took longer than `max_latency`.
    pub fn is_too_slow(&self, phases: &Phases) -> bool {
        self.max_latency.is_some_and(|most| phases.beyond_resolve_ms() > f64::from(most.0))
    }

    /// The longest that looking for a dead path takes, where some connect attempts met silence and another one did not: enough
    /// for peers that are up to 300 ms away, as the ladder is (`paths.rs` in the probe engine). From near ones it takes 2 s.
    pub fn paths_timeout(&self) -> Duration {
        const ENOUGH: Duration = Duration::from_secs(7);
        self.connect_timeout.duration().max(ENOUGH)
    }

    /// Whether the server's certificate is judged on a connection of its own, before another one on which the client's certificate is
    /// shown: a `MySQL` server counts a handshake that is broken off against the client's host.
    pub fn is_judged_first(&self) -> bool {
        self.target.scheme == Scheme::Mysql && self.tls.upgrade && self.tls.client.is_some()
    }

    /// The longest that this probe can take on an idle host: the sum of its phases' deadlines. A connection beside the winner is
    /// opened by the end of [`ProbeSpec::paths_timeout`], and left by the same phases.
    pub fn worst_case(&self) -> Duration {
        let timeout = self.timeout.duration();
        let phase = |there: bool| if there { timeout } else { Duration::ZERO };
        let upgrades = self.target.scheme.can_upgrade();
        let connection = self.connect_timeout.duration()
            + self.paths_timeout()
            + phase(self.via.is_some())
            + phase(self.speaks_tls() || upgrades)
            + phase(upgrades)
            + phase(self.target.scheme.default_proof() == Proof::Protocol)
            + if upgrades { Self::PARTING } else { Duration::ZERO };
        let one = Self::RESOLVE_TIMEOUT.duration() + connection * if self.is_judged_first() { 2 } else { 1 };
        // The members are probed after the seed that tells of them.
        if self.topology.is_some() { 2 * one } else { one }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(url: &str) -> ProbeSpec {
        ProbeSpec::new(url.parse().unwrap())
    }

    /// Second by second, at the default deadlines: the name, the ladder and the look for a dead path, then each phase.
    #[test]
    fn the_worst_case_covers_every_phase() {
        let connect = 3 + 1 + 7;
        let seconds = |spec: &ProbeSpec| spec.worst_case().as_secs_f64();
        let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-6, "{got} and not {want}");
        for (url, phases) in [("tcp://a:1", 0), ("tls://a:1", 1), ("redis://a", 1), ("rediss://a", 2), ("https://a", 2)]
        {
            close(seconds(&spec(url)), f64::from(connect + 5 * phases));
        }
        for url in ["postgres://a", "mysql://a"] {
            close(seconds(&spec(url)), f64::from(connect + 15) + 0.25);
        }
        let mut twice = spec("mysql://a");
        twice.tls.upgrade = true;
        twice.tls.client = Some(ClientFiles { cert_file: "/c".to_owned(), key_file: "/k".to_owned() });
        close(seconds(&twice), 3.0 + 2.0 * (8.0 + 15.25));
    }
}

//! What is probed and how: the target's URL, and the options that go with it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::observation::Proof;

/// The probe that a target's URL asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// A TCP connection, nothing sent.
    Tcp,
    /// A TLS handshake, nothing sent over it.
    Tls,
    /// Redis `PING`, in the clear.
    Redis,
    /// Redis `PING`, over TLS.
    Rediss,
}

impl Scheme {
    /// Every scheme, in the order in which they are shown.
    pub const ALL: [Self; 4] = [Self::Tcp, Self::Tls, Self::Redis, Self::Rediss];

    /// The scheme as it is written in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Redis => "redis",
            Self::Rediss => "rediss",
        }
    }

    /// The port that a URL without one means; none for bare `tcp` and `tls`.
    pub fn default_port(self) -> Option<u16> {
        match self {
            Self::Tcp | Self::Tls => None,
            Self::Redis | Self::Rediss => Some(6379),
        }
    }

    /// Whether the probe speaks TLS.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::Rediss)
    }

    /// The proof that is required where the manifest does not say.
    pub fn default_proof(self) -> Proof {
        match self {
            Self::Tcp => Proof::Connected,
            Self::Tls => Proof::Encrypted,
            Self::Redis | Self::Rediss => Proof::Protocol,
        }
    }

    /// Whether this probe can get as far as `proof`.
    pub fn can_prove(self, proof: Proof) -> bool {
        match proof {
            Proof::Resolved | Proof::Connected => true,
            Proof::Encrypted => self.is_tls(),
            Proof::Protocol => self.default_proof() == Proof::Protocol,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A target's host: a DNS name in lower case, or an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A name to resolve.
    Name(String),
    /// An address to dial as it is.
    Ip(IpAddr),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ip(IpAddr::V4(ip)) => write!(f, "{ip}"),
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
        }
    }
}

/// A target: `scheme://host:port`. Its text form is the canonical one: lower case, the port always written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// Which probe.
    pub scheme: Scheme,
    /// Where to.
    pub host: Host,
    /// The TCP port, never 0.
    pub port: u16,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.scheme, self.host, self.port)
    }
}

/// Why a text is not a target. Fragments that fit after "`URL`: ".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// No `://`.
    #[error("it has no scheme; write it as scheme://host:port, for example redis://cache.internal:6379")]
    NoScheme,
    /// A scheme that no probe speaks.
    #[error("no probe speaks '{0}'; use one of tcp, tls, redis, rediss")]
    UnknownScheme(String),
    /// A user name or password.
    #[error("it carries a user name or password; probes send no credentials, so leave out everything before '@'")]
    Credentials,
    /// A path, query or fragment.
    #[error("'{0}' after the port means nothing to this probe; leave it out")]
    Trailing(String),
    /// No host.
    #[error("it has no host")]
    NoHost,
    /// A host that is neither a DNS name nor an address.
    #[error("'{0}' is not a host name or address; use letters, digits, '-' and '.', or an IPv6 address in brackets")]
    BadHost(String),
    /// A scheme without a default port needs one.
    #[error("it has no port; {0} has no default, so write it as {0}://host:port")]
    NoPort(Scheme),
    /// A port that is not 1 to 65535.
    #[error("'{0}' is not a port; use a number from 1 to 65535")]
    BadPort(String),
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let (scheme, rest) = text.split_once("://").ok_or(TargetError::NoScheme)?;
        let scheme = Scheme::ALL
            .into_iter()
            .find(|known| known.as_str().eq_ignore_ascii_case(scheme))
            .ok_or_else(|| TargetError::UnknownScheme(scheme.to_owned()))?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, trailing) = rest.split_at(end);
        if authority.contains('@') {
            return Err(TargetError::Credentials);
        }
        if !matches!(trailing, "" | "/") {
            return Err(TargetError::Trailing(trailing.to_owned()));
        }
        let (host, port) = split_port(authority)?;
        let port = match port {
            Some(port) => port
                .bytes()
                .all(|b| b.is_ascii_digit())
                .then(|| port.parse().ok())
                .flatten()
                .filter(|port| *port != 0)
                .ok_or_else(|| TargetError::BadPort(port.to_owned()))?,
            None => scheme.default_port().ok_or(TargetError::NoPort(scheme))?,
        };
        Ok(Self { scheme, host, port })
    }
}

fn split_port(authority: &str) -> Result<(Host, Option<&str>), TargetError> {
    let bad = || TargetError::BadHost(authority.to_owned());
    if let Some(rest) = authority.strip_prefix('[') {
        let (ip, after) = rest.split_once(']').ok_or_else(bad)?;
        let ip: Ipv6Addr = ip.parse().map_err(|_| bad())?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((Host::Ip(IpAddr::V6(ip)), Some(port))),
            None if after.is_empty() => Ok((Host::Ip(IpAddr::V6(ip)), None)),
            None => Err(bad()),
        };
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    if host.is_empty() {
        return Err(TargetError::NoHost);
    }
    if let Ok(ip) = host.parse() {
        return Ok((Host::Ip(IpAddr::V4(ip)), port));
    }
    let name = host.to_ascii_lowercase();
    if is_dns_name(&name) { Ok((Host::Name(name), port)) } else { Err(TargetError::BadHost(host.to_owned())) }
}

/// Letters, digits, `-` and `_` in labels of 1 to 63, at most 253 in all (RFC 1035, 2.3.4; RFC 2181, 11 for `_`).
/// An all-digit last label is refused: such a text is a mistyped address.
fn is_dns_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    (1..=253).contains(&name.len())
        && name.split('.').all(label)
        && !name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()))
}

impl Serialize for Target {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error| serde::de::Error::custom(format_args!("{text}: {error}")))
    }
}

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

/// TLS options of a target.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct TlsOptions {
    /// The name to ask for (SNI) and to verify, where it is not the target's host.
    pub server_name: Option<String>,
    /// PEM certificates to trust instead of the host's store.
    pub ca_pem: Option<String>,
}

/// One probe, whole: what is sent to an agent, and what a cell's digest covers.
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
        }
    }

    /// The longest that this probe can take on an idle host: the sum of its phases' deadlines.
    pub fn worst_case(&self) -> Duration {
        let tls = if self.target.scheme.is_tls() { self.timeout.duration() } else { Duration::ZERO };
        let protocol = if self.target.scheme.default_proof() == Proof::Protocol {
            self.timeout.duration()
        } else {
            Duration::ZERO
        };
        Self::RESOLVE_TIMEOUT.duration() + self.connect_timeout.duration() + tls + protocol
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_form() {
        for (text, want) in [
            ("redis://Cache.Internal", "redis://cache.internal:6379"),
            ("RediSS://10.0.0.1:7000/", "rediss://10.0.0.1:7000"),
            ("tcp://[2001:db8::1]:443", "tcp://[2001:db8::1]:443"),
            ("tls://a_b.example.:1", "tls://a_b.example.:1"),
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), want, "{text}");
        }
    }

    #[test]
    fn refused_with_what_to_write_instead() {
        for (text, want) in [
            ("cache:6379", TargetError::NoScheme),
            ("ftp://x:1", TargetError::UnknownScheme("ftp".into())),
            ("redis://user:pw@x:1", TargetError::Credentials),
            ("redis://x:1/0", TargetError::Trailing("/0".into())),
            ("tcp://:1", TargetError::NoHost),
            ("tcp://x", TargetError::NoPort(Scheme::Tcp)),
            ("tcp://x:0", TargetError::BadPort("0".into())),
            ("tcp://x:65536", TargetError::BadPort("65536".into())),
            ("tcp://x:+1", TargetError::BadPort("+1".into())),
            ("tcp://x:", TargetError::BadPort(String::new())),
            ("tcp://300.1.1.1:1", TargetError::BadHost("300.1.1.1".into())),
            ("tcp://a b:1", TargetError::BadHost("a b".into())),
            ("tcp://café:1", TargetError::BadHost("café".into())),
            ("tcp://[::1:1", TargetError::BadHost("[::1:1".into())),
        ] {
            assert_eq!(text.parse::<Target>(), Err(want), "{text}");
        }
    }
}

//! What is probed: the target's URL.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

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
    /// An HTTP/1.1 `GET`, in the clear.
    Http,
    /// An HTTP/1.1 `GET`, over TLS.
    Https,
    /// The answer of PostgreSQL to a request for TLS.
    Postgres,
    /// The greeting of `MySQL` or `MariaDB`.
    Mysql,
    /// memcached `version`.
    Memcached,
    /// The start of an AMQP 0-9-1 connection, in the clear.
    Amqp,
    /// The start of an AMQP 0-9-1 connection, over TLS.
    Amqps,
    /// The standard gRPC health service, in the clear.
    Grpc,
    /// The standard gRPC health service, over TLS.
    Grpcs,
}

impl Scheme {
    /// Every scheme, in the order in which they are shown.
    pub const ALL: [Self; 13] = [
        Self::Tcp,
        Self::Tls,
        Self::Redis,
        Self::Rediss,
        Self::Http,
        Self::Https,
        Self::Postgres,
        Self::Mysql,
        Self::Memcached,
        Self::Amqp,
        Self::Amqps,
        Self::Grpc,
        Self::Grpcs,
    ];

    /// The scheme as it is written in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Redis => "redis",
            Self::Rediss => "rediss",
            Self::Http => "http",
            Self::Https => "https",
            Self::Postgres => "postgres",
            Self::Mysql => "mysql",
            Self::Memcached => "memcached",
            Self::Amqp => "amqp",
            Self::Amqps => "amqps",
            Self::Grpc => "grpc",
            Self::Grpcs => "grpcs",
        }
    }

    /// The names of all schemes, for error messages: `tcp, tls, …`.
    pub fn list() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }

    /// The port that a URL without one means, as IANA assigns it; none for `tcp`, `tls`, `grpc` and `grpcs`.
    pub fn default_port(self) -> Option<u16> {
        match self {
            Self::Tcp | Self::Tls | Self::Grpc | Self::Grpcs => None,
            Self::Redis | Self::Rediss => Some(6379),
            Self::Http => Some(80),
            Self::Https => Some(443),
            Self::Postgres => Some(5432),
            Self::Mysql => Some(3306),
            Self::Memcached => Some(11211),
            Self::Amqp => Some(5672),
            Self::Amqps => Some(5671),
        }
    }

    /// Whether a connection begins with TLS.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::Rediss | Self::Https | Self::Amqps | Self::Grpcs)
    }

    /// Whether the protocol has an upgrade to TLS of its own, which a probe asks for where TLS options are given.
    pub fn can_upgrade(self) -> bool {
        matches!(self, Self::Postgres | Self::Mysql)
    }

    /// The same protocol over TLS, where there is a scheme for it.
    pub fn secured(self) -> Option<Self> {
        match self {
            Self::Tcp | Self::Tls => Some(Self::Tls),
            Self::Redis | Self::Rediss => Some(Self::Rediss),
            Self::Http | Self::Https => Some(Self::Https),
            Self::Amqp | Self::Amqps => Some(Self::Amqps),
            Self::Grpc | Self::Grpcs => Some(Self::Grpcs),
            Self::Postgres | Self::Mysql | Self::Memcached => None,
        }
    }

    /// The proof that is required where the manifest does not say.
    pub fn default_proof(self) -> Proof {
        match self {
            Self::Tcp => Proof::Connected,
            Self::Tls => Proof::Encrypted,
            Self::Redis
            | Self::Rediss
            | Self::Http
            | Self::Https
            | Self::Postgres
            | Self::Mysql
            | Self::Memcached
            | Self::Amqp
            | Self::Amqps
            | Self::Grpc
            | Self::Grpcs => Proof::Protocol,
        }
    }

    /// Whether this probe can get as far as `proof`; `upgraded` if it asks for TLS by the protocol's own upgrade.
    pub fn can_prove(self, proof: Proof, upgraded: bool) -> bool {
        match proof {
            Proof::Resolved | Proof::Connected => true,
            Proof::Encrypted => self.is_tls() || (upgraded && self.can_upgrade()),
            Proof::Protocol => self.default_proof() == Proof::Protocol,
        }
    }

    /// Whether what follows the port means something: a path for HTTP, the service's name for gRPC.
    fn takes_path(self) -> bool {
        matches!(self, Self::Http | Self::Https | Self::Grpc | Self::Grpcs)
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

/// A target: `scheme://host:port`, for HTTP and gRPC with a path. Its text form is the canonical one: scheme and host in lower
/// case, the port always written, no path that is a mere `/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// Which probe.
    pub scheme: Scheme,
    /// Where to.
    pub host: Host,
    /// The TCP port, never 0.
    pub port: u16,
    /// For HTTP the path and query, for gRPC `/` and the service whose health is asked for; empty where there is none.
    pub path: String,
}

impl Target {
    /// The longest path, in bytes.
    pub const MAX_PATH: usize = 1024;
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}{}", self.scheme, self.host, self.port, self.path)
    }
}

/// Why a text is not a target. Fragments that fit after "`URL`: ".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// No `://`.
    #[error("it has no scheme; write it as scheme://host:port, for example redis://cache.internal:6379")]
    NoScheme,
    /// A scheme that no probe speaks.
    #[error("no probe speaks '{0}'; use one of {list}", list = Scheme::list())]
    UnknownScheme(String),
    /// A user name or password.
    #[error("it carries a user name or password; probes send no credentials, so leave out everything before '@'")]
    Credentials,
    /// A path, query or fragment.
    #[error("'{0}' after the port means nothing to this probe; leave it out")]
    Trailing(String),
    /// A path that cannot be sent, or a gRPC service that cannot be.
    #[error("'{0}' cannot be asked for; {1}")]
    BadPath(String, &'static str),
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
        let path = path(scheme, trailing)?;
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
        Ok(Self { scheme, host, port, path })
    }
}

/// What follows the port, as it will be asked for.
fn path(scheme: Scheme, trailing: &str) -> Result<String, TargetError> {
    let bad = |why| Err(TargetError::BadPath(trailing.to_owned(), why));
    match trailing {
        "" | "/" => return Ok(String::new()),
        _ if !scheme.takes_path() => return Err(TargetError::Trailing(trailing.to_owned())),
        _ => {}
    }
    if trailing.len() > Target::MAX_PATH {
        return bad("it has more than 1024 bytes");
    }
    if matches!(scheme, Scheme::Grpc | Scheme::Grpcs) {
        let service = trailing.trim_start_matches('/');
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let whole = trailing.len() == service.len() + 1 && service.bytes().all(plain);
        return if whole { Ok(trailing.to_owned()) } else { bad("write /package.Service, or leave it out") };
    }
    if trailing.contains('#') {
        return bad("what follows '#' is never sent, so leave it out");
    }
    if !trailing.bytes().all(|b| b.is_ascii_graphic()) {
        return bad("write blanks and what is not ASCII as %XX");
    }
    Ok(if trailing.starts_with('/') { trailing.to_owned() } else { format!("/{trailing}") })
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
/// A last label that is a number, also a hexadecimal one, is refused: such a text is an address to some programs (`inet_aton`), a
/// proxy's among them, and a mistyped one to people.
fn is_dns_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    (1..=253).contains(&name.len()) && name.split('.').all(label) && !name.rsplit('.').next().is_some_and(is_number)
}

/// Digits, or `0x` and hexadecimal ones.
fn is_number(label: &str) -> bool {
    let hex = label.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    hex || label.bytes().all(|b| b.is_ascii_digit())
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
            ("https://Api.Example/", "https://api.example:443"),
            ("http://x/Health?deep=1", "http://x:80/Health?deep=1"),
            ("http://x?a", "http://x:80/?a"),
            ("grpc://x:50051/shop.v1.Cart", "grpc://x:50051/shop.v1.Cart"),
            ("postgres://db", "postgres://db:5432"),
            ("amqps://mq/", "amqps://mq:5671"),
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
            ("postgres://db/shop", TargetError::Trailing("/shop".into())),
            ("grpc://x:1/a/b", TargetError::BadPath("/a/b".into(), "write /package.Service, or leave it out")),
            ("http://x/#a", TargetError::BadPath("/#a".into(), "what follows '#' is never sent, so leave it out")),
            ("http://x/a b", TargetError::BadPath("/a b".into(), "write blanks and what is not ASCII as %XX")),
            ("grpcs://x", TargetError::NoPort(Scheme::Grpcs)),
            ("tcp://:1", TargetError::NoHost),
            ("tcp://x", TargetError::NoPort(Scheme::Tcp)),
            ("tcp://x:0", TargetError::BadPort("0".into())),
            ("tcp://x:65536", TargetError::BadPort("65536".into())),
            ("tcp://x:+1", TargetError::BadPort("+1".into())),
            ("tcp://x:", TargetError::BadPort(String::new())),
            ("tcp://300.1.1.1:1", TargetError::BadHost("300.1.1.1".into())),
            ("tcp://a b:1", TargetError::BadHost("a b".into())),
            ("tcp://0xa9fea9fe:1", TargetError::BadHost("0xa9fea9fe".into())),
            ("tcp://2852039166:1", TargetError::BadHost("2852039166".into())),
            ("tcp://café:1", TargetError::BadHost("café".into())),
            ("tcp://[::1:1", TargetError::BadHost("[::1:1".into())),
        ] {
            assert_eq!(text.parse::<Target>(), Err(want), "{text}");
        }
    }
}

//! The local policy file: which addresses and ports this agent may probe, and how fast. It has the last word: nothing
//! that a controller sends lifts it.
//!
//! ```toml
//! max_concurrent = 64        # probes under way at once; at most 2048
//! max_per_second = 200       # probes begun in a second; at most 5000
//!
//! [[allow]]                  # with any allow rule, everything else is denied
//! addresses = ["10.0.0.0/8", "2001:db8:1::/48"]
//! ports = [443, 6379]        # or "1024-65535"; every port if absent
//!
//! [[deny]]                   # deny wins
//! addresses = ["10.0.9.0/24"]
//!
//! [[files]]                  # files of this host (an authority, a client's certificate and key), and where they may be used
//! paths = ["/etc/shop/client.pem", "/etc/shop/client.key"]
//! addresses = ["10.0.3.0/24"]
//! ports = [6380]
//!
//! [[control]]                # a target that is known to be good; at most 8
//! target = "tcp://10.0.0.2:53"
//! ```
//!
//! A file that no rule names is used nowhere. Paths are compared as they are written.
//!
//! When a probe falls short and no control target can be reached either, the network of this host is broken: what was seen
//! does not count (`control_failed`). A control target that the rules above deny is an error.
//!
//! Beside what is allowed, `192.0.2.1` and `2001:db8::1` are tried, which nobody answers (RFC 5737, RFC 3849): where they
//! connect, something on the host accepts every connection, and a pass would mean nothing. A deny rule can forbid that.
//!
//! Never probed, whatever the file says: the controller's own ports, link-local addresses (where clouds keep their
//! credentials), `fd00:ec2::254`, `fd20:ce::254`, multicast, broadcast and unspecified addresses; each in every spelling.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::Path;
use std::str::FromStr;

use ipnet::IpNet;
use preflight_core::diagnostic::Diagnostic;
use preflight_core::target::{Host, Target};
use serde::Deserialize;
use toml::Spanned;

/// What the agent may probe, and how fast.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    allow: Vec<Rule>,
    deny: Vec<Rule>,
    control: Vec<ControlTarget>,
    files: Vec<FileRule>,
    /// Probes under way at once.
    #[serde(deserialize_with = "concurrent")]
    pub max_concurrent: u32,
    /// Probes begun in a second.
    #[serde(deserialize_with = "per_second")]
    pub max_per_second: u32,
}

impl Policy {
    /// The ceiling of `max_concurrent`, which a file may only lower.
    pub const MAX_CONCURRENT: u32 = 2_048;
    /// The ceiling of `max_per_second`, which a file may only lower.
    pub const MAX_PER_SECOND: u32 = 5_000;
    /// At most this many control targets.
    pub const MAX_CONTROLS: usize = 8;

    /// Reads a policy file. Its errors name file, line and column.
    pub fn read(path: &Path) -> Result<Self, String> {
        let file = path.display().to_string();
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&file, &text).map_err(|diagnostic| diagnostic.to_string()),
            Err(error) => Err(format!(
                "the policy file {file} cannot be read: {error}; give --policy the path of a file that this user can read"
            )),
        }
    }

    pub(crate) fn parse(file: &str, text: &str) -> Result<Self, Diagnostic> {
        let problem = |at: usize, message: String| {
            let before = text.get(..at).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            Diagnostic { file: file.to_owned(), line: number(line), column: number(column), message, fix: None }
        };
        let policy: Self = toml::from_str(text)
            .map_err(|error| problem(error.span().map_or(0, |span| span.start), error.message().to_owned()))?;
        match policy.wrong_control() {
            Some((at, message)) => Err(problem(at, message)),
            None => Ok(policy),
        }
    }

    /// The first control target that cannot be one, and where it stands.
    fn wrong_control(&self) -> Option<(usize, String)> {
        let denied = |target: &Target| match target.host {
            Host::Ip(ip) => !self.allows(SocketAddr::new(ip, target.port), &ControllerPorts::default()),
            // Denied, if it is, when it has been resolved.
            Host::Name(_) => false,
        };
        self.control.iter().enumerate().find_map(|(index, ControlTarget { target })| {
            let at = target.span().start;
            if index == Self::MAX_CONTROLS {
                Some((at, format!("there can be at most {} control targets", Self::MAX_CONTROLS)))
            } else if denied(target.get_ref()) {
                let target = target.get_ref();
                Some((at, format!("this policy denies the control target {target} itself, so it could never be good")))
            } else {
                None
            }
        })
    }

    /// The control targets.
    pub fn controls(&self) -> impl ExactSizeIterator<Item = &Target> {
        self.control.iter().map(|control| control.target.get_ref())
    }

    /// Whether the agent may dial this address, given where its controller is.
    pub fn allows(&self, address: SocketAddr, controller: &ControllerPorts) -> bool {
        let spellings = spellings(address.ip());
        let denied = spellings.iter().any(|ip| {
            never(*ip)
                || controller.contains(*ip, address.port())
                || self.deny.iter().any(|r| r.covers(*ip, address.port()))
        });
        if denied || CONTROLS.contains(&address.ip()) {
            return !denied;
        }
        // An allow rule must name the host that is really reached, not the range that its spelling hides in.
        let allowed = |ip: &IpAddr| self.allow.iter().any(|rule| rule.covers(*ip, address.port()));
        self.allow.is_empty() || spellings.iter().all(allowed)
    }

    /// The files of `files` that this process cannot open, and why. They may come later, so they are no error.
    pub fn unreadable_files(&self) -> impl Iterator<Item = (&str, std::io::Error)> {
        let paths = self.files.iter().flat_map(|rule| &rule.paths).map(|path| path.0.as_str());
        // To open a pipe may block for ever; what is no regular file is told of when it is used.
        let open = |path: &str| match fs::metadata(path) {
            Ok(found) if found.is_file() => fs::File::open(path).err(),
            Ok(_) => Some(std::io::Error::other("it is not a regular file")),
            Err(error) => Some(error),
        };
        paths.filter_map(move |path| Some((path, open(path)?)))
    }

    /// Whether a file of this host may be used towards this address. Paths are compared byte by byte.
    pub fn may_use(&self, file: &Path, address: SocketAddr) -> bool {
        let bound = |ip: &IpAddr| self.files.iter().any(|rule| rule.binds(file, *ip, address.port()));
        spellings(address.ip()).iter().all(bound)
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            allow: vec![],
            deny: vec![],
            control: vec![],
            files: vec![],
            max_concurrent: Self::MAX_CONCURRENT,
            max_per_second: Self::MAX_PER_SECOND,
        }
    }
}

/// What the probe engine dials to learn whether something accepts every connection.
const CONTROLS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// The controller's own addresses and ports, which are no target.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ControllerPorts {
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
}

impl ControllerPorts {
    /// Where the controller serves its HTTP API unless told otherwise.
    const API_PORT: u16 = 7443;

    /// The agents' port and the API's on each of the controller's addresses. One that is this host's own is denied on
    /// loopback too.
    pub fn new(addresses: impl IntoIterator<Item = IpAddr>, port: u16, own: Option<IpAddr>) -> Self {
        let mut addresses: Vec<IpAddr> = addresses.into_iter().map(|ip| ip.to_canonical()).collect();
        let own = own.map(|ip| ip.to_canonical());
        if addresses.iter().any(|ip| ip.is_loopback() || Some(*ip) == own) {
            addresses.extend([IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]);
            addresses.extend(own);
        }
        Self { addresses, ports: vec![port, Self::API_PORT] }
    }

    /// Adds ports that the controller says it listens on.
    pub fn add(&mut self, ports: impl IntoIterator<Item = u16>) {
        self.ports.extend(ports);
        self.ports.sort_unstable();
        self.ports.dedup();
    }

    fn contains(&self, ip: IpAddr, port: u16) -> bool {
        let same = |known: &IpAddr| *known == ip || (known.is_loopback() && ip.is_loopback());
        self.ports.contains(&port) && self.addresses.iter().any(same)
    }
}

/// An address and the IPv4 address that it is another spelling of: mapped (RFC 4291, 2.5.5.2), compatible (2.5.5.1) or
/// behind the well-known NAT64 prefix (RFC 6052) or the local-use one (RFC 8215), or in 6to4 (RFC 3056).
fn spellings(ip: IpAddr) -> Vec<IpAddr> {
    let IpAddr::V6(v6) = ip.to_canonical() else { return vec![ip.to_canonical()] };
    let segments = v6.segments();
    let v4 = |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    let [first, second, third, .., high, low] = segments;
    let inner = v4(high, low);
    let compatible = segments[..6] == [0; 6] && !v6.is_loopback() && !v6.is_unspecified();
    let nat64 = segments[..6] == [0x64, 0xff9b, 0, 0, 0, 0] || segments[..3] == [0x64, 0xff9b, 1];
    if compatible {
        vec![inner]
    } else if first == 0x2002 {
        vec![IpAddr::V6(v6), v4(second, third)]
    } else if nat64 {
        vec![IpAddr::V6(v6), inner]
    } else {
        vec![IpAddr::V6(v6)]
    }
}

/// What no agent probes, whatever its policy file says.
fn never(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_multicast() || ip.is_broadcast() || ip.octets()[0] == 0,
        IpAddr::V6(ip) => {
            ip.is_unicast_link_local()
                || ip.is_multicast()
                || ip.is_unspecified()
                || ip.segments() == [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254]
                || ip.segments() == [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254]
        }
    }
}

/// A target that is known to be good.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct ControlTarget {
    target: Spanned<Target>,
}

/// Address ranges and the ports on them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    addresses: Vec<Range>,
    #[serde(default)]
    ports: Ports,
}

impl Rule {
    fn covers(&self, ip: IpAddr, port: u16) -> bool {
        covers(&self.addresses, &self.ports, ip, port)
    }
}

fn covers(addresses: &[Range], ports: &Ports, ip: IpAddr, port: u16) -> bool {
    ports.0.iter().any(|ports| ports.contains(&port)) && addresses.iter().any(|range| range.0.contains(&ip))
}

/// Files and where they may be used.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRule {
    paths: Vec<FilePath>,
    addresses: Vec<Range>,
    #[serde(default)]
    ports: Ports,
}

impl FileRule {
    fn binds(&self, file: &Path, ip: IpAddr, port: u16) -> bool {
        // As bytes: `Path` takes `/a//b` and `/a/./b` for `/a/b`.
        self.paths.iter().any(|path| path.0.as_bytes() == file.as_os_str().as_encoded_bytes())
            && covers(&self.addresses, &self.ports, ip, port)
    }
}

/// An absolute path that says where it leads: without `.`, `..` or an empty part.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct FilePath(String);

impl TryFrom<String> for FilePath {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parts = text.strip_prefix('/').ok_or_else(|| format!("'{text}' is not an absolute path"))?;
        if parts.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(format!("'{text}' is not the plain path of a file; write it without '.', '..' and '//'"));
        }
        Ok(Self(text))
    }
}

/// `10.0.0.0/8`, or an address by itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct Range(IpNet);

impl TryFrom<String> for Range {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let range = match IpAddr::from_str(&text) {
            Ok(ip) => IpNet::from(ip.to_canonical()),
            Err(_) => IpNet::from_str(&text)
                .map_err(|_| format!("'{text}' is not an address range; write it as 10.0.0.0/8 or 2001:db8::/32"))?,
        };
        if range.trunc() != range {
            return Err(format!("'{text}' has bits set after its prefix; did you mean {}?", range.trunc()));
        }
        match range.network() {
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Err(format!("write '{text}' as an IPv4 range")),
            IpAddr::V4(_) | IpAddr::V6(_) => Ok(Self(range)),
        }
    }
}

/// `"1024-65535"`, `[443, 6379]` or, by default, every port.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "PortsText")]
struct Ports(Vec<RangeInclusive<u16>>);

impl Default for Ports {
    fn default() -> Self {
        Self(vec![1..=u16::MAX])
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "ports are \"FROM-TO\" or a list of numbers from 1 to 65535")]
enum PortsText {
    List(Vec<u16>),
    Range(String),
}

impl TryFrom<PortsText> for Ports {
    type Error = String;

    fn try_from(text: PortsText) -> Result<Self, String> {
        let ranges = match text {
            PortsText::List(ports) => ports.into_iter().map(|port| port..=port).collect(),
            PortsText::Range(text) => {
                let (from, to) = text.split_once('-').unwrap_or((&text, &text));
                match (from.trim().parse(), to.trim().parse()) {
                    (Ok(from), Ok(to)) if from <= to => vec![from..=to],
                    _ => return Err(format!("'{text}' is not a range of ports; write it as 1024-65535")),
                }
            }
        };
        if ranges.is_empty() || ranges.iter().any(|ports| *ports.start() == 0) {
            return Err("a rule needs at least one port, from 1 to 65535; leave `ports` out for all".to_owned());
        }
        Ok(Self(ranges))
    }
}

fn concurrent<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    ceiling(from, "max_concurrent", Policy::MAX_CONCURRENT)
}

fn per_second<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    ceiling(from, "max_per_second", Policy::MAX_PER_SECOND)
}

fn ceiling<'de, D: serde::Deserializer<'de>>(from: D, name: &str, max: u32) -> Result<u32, D::Error> {
    let value = i64::deserialize(from)?;
    u32::try_from(value).ok().filter(|value| (1..=max).contains(value)).ok_or_else(|| {
        serde::de::Error::custom(format_args!(
            "{name} is {value}; it can be set from 1 to {max}, the agent's own ceiling"
        ))
    })
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;

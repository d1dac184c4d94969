//! What one agent saw of a target: an observation for each address, and how they add up to one answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::reason::{Short, Void};
use crate::spec::{Addresses, Expect, Families, ProbeSpec};
use crate::text;

/// How far a probe got. Ordered: each includes the ones before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Proof {
    /// The name has an address.
    Resolved,
    /// A TCP connection was opened.
    Connected,
    /// The TLS handshake finished, and the certificate is good.
    Encrypted,
    /// The service answered in its protocol.
    Protocol,
}

impl Proof {
    /// The contract name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resolved => "resolved",
            Self::Connected => "connected",
            Self::Encrypted => "encrypted",
            Self::Protocol => "protocol",
        }
    }
}

/// What a probe of one address, or an agent's probes of one target, came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Meets the expectation.
    Ok,
    /// Falls short for a reason of the target or the path.
    Short(Short),
    /// Does not count, for a reason of the agent's own or of the vantage point.
    Void(Void),
}

impl Outcome {
    /// `ok`, `short` or `void`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Short(_) => "short",
            Self::Void(_) => "void",
        }
    }

    /// The reason's contract name, where there is one.
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Self::Ok => None,
            Self::Short(reason) => Some(reason.as_str()),
            Self::Void(reason) => Some(reason.as_str()),
        }
    }
}

/// The outcome's two JSON fields, `outcome` and `reason`.
#[derive(Serialize, Deserialize, schemars::JsonSchema)]
struct OutcomeFields {
    /// `ok`, `short` or `void`.
    #[schemars(extend("enum" = ["ok", "short", "void"]))]
    outcome: String,
    /// Why it is not `ok`; `preflight explain` tells of each.
    reason: Option<String>,
}

impl schemars::JsonSchema for Outcome {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Outcome".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        OutcomeFields::json_schema(generator)
    }
}

impl Serialize for Outcome {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        OutcomeFields { outcome: self.as_str().to_owned(), reason: self.reason().map(str::to_owned) }
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Outcome {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = OutcomeFields::deserialize(deserializer)?;
        Self::from_names(&fields.outcome, fields.reason.as_deref())
            .ok_or_else(|| serde::de::Error::custom("outcome and reason do not belong together"))
    }
}

impl Outcome {
    /// The outcome of those contract names, if they belong together.
    pub fn from_names(outcome: &str, reason: Option<&str>) -> Option<Self> {
        match (outcome, reason) {
            ("ok", None) => Some(Self::Ok),
            ("short", Some(reason)) => Short::parse(reason).map(Self::Short),
            ("void", Some(reason)) => Void::parse(reason).map(Self::Void),
            _ => None,
        }
    }
}

/// How long each phase took, in milliseconds; none for a phase that was not reached or did not finish.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Phases {
    /// Name to addresses.
    pub resolve_ms: Option<f64>,
    /// First connect attempt sent, to connected.
    pub connect_ms: Option<f64>,
    /// The proxy's answer to `CONNECT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_ms: Option<f64>,
    /// The TLS handshake.
    pub tls_ms: Option<f64>,
    /// The protocol's opening exchange.
    pub protocol_ms: Option<f64>,
}

impl Phases {
    /// What the phases after the name's took in all.
    pub fn beyond_resolve_ms(&self) -> f64 {
        [self.connect_ms, self.proxy_ms, self.tls_ms, self.protocol_ms].into_iter().flatten().sum()
    }
}

/// One connect attempt, from a source port of its own. Where a port that met silence is asked again, what it came to is one more;
/// a port that was asked to see whether a path is dead was sent up to six SYNs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Attempt {
    /// When it was sent, after the first one.
    pub at_ms: f64,
    /// How it ended: `connected`, `silent`, `abandoned` (another one won), or the short or void reason.
    pub result: String,
    /// How long it took to end that way.
    pub took_ms: f64,
}

/// A certificate as it was presented.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Certificate {
    /// The subject's distinguished name.
    pub subject: String,
    /// The issuer's distinguished name.
    pub issuer: String,
    /// DNS names and addresses that it is for.
    pub names: Vec<String>,
    /// Valid from.
    pub not_before: Timestamp,
    /// Valid until.
    pub not_after: Timestamp,
    /// SHA-256 of the DER, lower-case hex.
    pub sha256: String,
}

/// What was seen of TLS, also where verification failed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TlsSeen {
    /// The protocol version, such as `TLSv1.3`; none if the handshake did not get that far.
    pub version: Option<String>,
    /// The cipher suite.
    pub cipher: Option<String>,
    /// The chain as presented, leaf first, at most [`TlsSeen::MAX_CHAIN`] long.
    pub chain: Vec<Certificate>,
}

impl TlsSeen {
    /// At most this many certificates of a chain are kept.
    pub const MAX_CHAIN: usize = 8;
}

/// What a member is to its cluster, or to the Sentinels that watch it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Takes writes.
    Primary,
    /// Follows a primary.
    Replica,
    /// Watches primaries.
    Sentinel,
}

impl Role {
    /// `primary`, `replica` or `sentinel`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Sentinel => "sentinel",
        }
    }
}

/// A member that a seed told of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Member {
    /// What it is.
    pub role: Role,
    /// `host:port` as it was told.
    pub endpoint: String,
}

/// What one agent saw of one address of one target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Observation {
    /// The address that was dialled; none where the name gave none. Through a proxy, the proxy's.
    pub address: Option<SocketAddr>,
    /// The member that this is of; none for the target itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<Member>,
    /// What it came to.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// How far it got; none if the name did not resolve.
    pub proof: Option<Proof>,
    /// How long the phases took.
    pub phases: Phases,
    /// What to know beside an `ok`, such as that the server asks for a login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What was seen, in one bounded line, escaped: the error's text or the bytes that came back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What was seen of TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSeen>,
    /// The connect attempts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Attempt>,
}

impl Observation {
    /// An observation that ended so before anything was learnt.
    pub fn new(address: Option<SocketAddr>, outcome: Outcome) -> Self {
        Self {
            address,
            member: None,
            outcome,
            proof: None,
            phases: Phases::default(),
            note: None,
            detail: None,
            tls: None,
            attempts: Vec::new(),
        }
    }

    /// Where this was seen: the address, or the member and its address where that says more; none for a lookup of the target's name.
    pub fn place(&self) -> Option<String> {
        let address = self.address.map(|address| address.to_string());
        let Some(member) = &self.member else { return address };
        let endpoint = text::escape(&member.endpoint);
        Some(match address {
            Some(address) if address != endpoint => format!("member {endpoint} at {address}"),
            Some(_) | None => format!("member {endpoint}"),
        })
    }
}

/// What the try of an address that nobody answers showed ([RFC 5737](https://www.rfc-editor.org/rfc/rfc5737) 192.0.2.1, on the target's port).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Control {
    /// It did not connect, as it should be.
    #[default]
    Unanswered,
    /// It connected: something on the host accepts every connection.
    Connected,
    /// It could not be tried from this host, so that nobody knows whether a bare connect shows anything.
    Untried,
}

/// Which address families the host has a route for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routes {
    /// IPv4.
    pub ipv4: bool,
    /// IPv6.
    pub ipv6: bool,
}

/// All that one agent saw of one target in one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// An observation for each address, or a single one without address where there is none. A name of which one family's
    /// lookup failed has the other's addresses, and one without address that says how it failed.
    pub observations: Vec<Observation>,
    /// How many addresses the name has, before the cut at [`ProbeSpec::MAX_ADDRESSES`].
    pub resolved: u32,
    /// The families the host has a route for.
    pub routes: Routes,
    /// What the control showed.
    pub control: Control,
    /// How many members the target told of, before the cut at [`ProbeSpec::MAX_MEMBERS`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub members: u32,
    /// A control target of the agent's policy was good meanwhile: its own network works.
    #[serde(default, skip_serializing_if = "is_false")]
    pub egress: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_false(value: &bool) -> bool {
    !*value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Report {
    /// What the agent's observations of this target come to: of the target's addresses, by `families` and `addresses`, and of
    /// all of its members; or, where the path must be blocked, whether something stops it.
    ///
    /// Void wins over nothing but what it stands beside: an address that fell short is a `short`, whatever else is void;
    /// without one, a void address that had to work makes the whole void.
    pub fn outcome(&self, spec: &ProbeSpec) -> Outcome {
        let of_target: Vec<&Observation> = self.observations.iter().filter(|o| o.member.is_none()).collect();
        if spec.expect == Expect::Blocked {
            return self.blocked(spec, &of_target);
        }
        let resolved = usize::try_from(self.resolved).unwrap_or(usize::MAX);
        let target = self.works(spec, spec.addresses, &of_target, resolved);
        if spec.topology.is_none() || matches!(target, Outcome::Short(_)) {
            target
        } else {
            worst([target, self.members(spec)])
        }
    }

    /// What the members come to: each of them has to work.
    fn members(&self, spec: &ProbeSpec) -> Outcome {
        let mut by_member: BTreeMap<&Member, Vec<&Observation>> = BTreeMap::new();
        for observation in &self.observations {
            if let Some(member) = &observation.member {
                by_member.entry(member).or_default().push(observation);
            }
        }
        if by_member.is_empty() {
            return Outcome::Void(Void::MembersUnknown);
        }
        let told = usize::try_from(self.members).unwrap_or(usize::MAX).min(ProbeSpec::MAX_MEMBERS);
        let unseen = (by_member.len() < told).then_some(Outcome::Void(Void::Cancelled));
        let seen = by_member.values().map(|of| self.works(spec, Addresses::All, of, 0));
        worst(seen.chain(unseen))
    }

    /// Whether every address is stopped the way a firewall stops a path: silence, a rule's answer, or a reset, which a rule
    /// sends as well as a host on which nothing listens. That the target is there at all, others have to show.
    ///
    /// One address that is reached is a leak, whatever stands beside it. An address that was not probed, also for the cut at
    /// [`ProbeSpec::MAX_ADDRESSES`], may be open.
    fn blocked(&self, spec: &ProbeSpec, of_target: &[&Observation]) -> Outcome {
        // Whoever accepts every connection does not speak for the target with its certificate, or in its protocol.
        let least = if self.control == Control::Connected { Proof::Encrypted } else { Proof::Connected };
        let reached = |o: &&Observation| {
            let through = |a: &Attempt| a.result == "connected" && spec.via.is_none();
            let partly = o.outcome == Outcome::Short(Short::PartialLoss) || o.attempts.iter().any(through);
            o.proof >= Some(least) || (least == Proof::Connected && partly)
        };
        if of_target.iter().any(reached) {
            return Outcome::Short(Short::Reachable);
        }
        if self.control == Control::Connected {
            return Outcome::Void(Void::Intercepted);
        }
        let stopped = |o: &&&Observation| {
            let stops = [Short::ConnectTimeout, Short::ConnectProhibited, Short::ConnectRefused];
            o.address.is_some() && stops.iter().any(|stop| o.outcome == Outcome::Short(*stop))
        };
        let void = of_target.iter().map(|o| o.outcome).find(|o| matches!(o, Outcome::Void(_)));
        // Nothing leaks through a family that this host has no route for, but it blocks nothing either.
        let routed = |o: &&&Observation| {
            let no_way = |a: &SocketAddr| !self.has_route(a.ip().to_canonical().is_ipv6());
            !(o.outcome == Outcome::Short(Short::NetUnreachable) && o.address.as_ref().is_some_and(no_way))
        };
        let all_stopped =
            || of_target.iter().any(|o| stopped(&o)) && of_target.iter().filter(routed).all(|o| stopped(&o));
        match void {
            Some(void) => void,
            None if is_incomplete(of_target, usize::try_from(self.resolved).unwrap_or(usize::MAX)) => {
                Outcome::Void(Void::Cancelled)
            }
            None if self.cut().is_none() && all_stopped() => Outcome::Ok,
            None => Outcome::Void(Void::BlockedUnproven),
        }
    }

    /// What observations of one host come to, by families and addresses. `resolved` is how many addresses there had to be.
    fn works(&self, spec: &ProbeSpec, addresses: Addresses, of_host: &[&Observation], resolved: usize) -> Outcome {
        // A v4-mapped address is dialled over IPv4 and proves nothing of IPv6.
        let judged = of_host.iter().map(|o| (o.address.map(|a| a.ip().to_canonical()), self.judge(spec, o)));
        let (of_addresses, lookups): (Vec<_>, Vec<_>) = judged.partition(|(ip, _)| ip.is_some());
        let of_addresses: Vec<(IpAddr, Outcome)> =
            of_addresses.into_iter().filter_map(|(ip, o)| Some((ip?, o))).collect();
        // A lookup that failed for one family only stands beside the other's addresses, without one of its own.
        let failed_lookup = lookups.into_iter().map(|(_, outcome)| outcome).min_by_key(|o| rank(*o));
        if of_addresses.is_empty() {
            return failed_lookup.unwrap_or(Outcome::Void(Void::Cancelled));
        }
        let of = |v6: bool| of_addresses.iter().filter(move |(ip, _)| ip.is_ipv6() == v6);
        let family = |v6: bool| -> Outcome {
            // By family: an IPv6 address inside one's own network is often a public one, and must not soften what is
            // asked of the private IPv4 addresses beside it.
            let all = match addresses {
                Addresses::All => true,
                Addresses::Any => false,
                Addresses::Auto => of(v6).all(|(ip, _)| is_private(*ip)),
            };
            let outcomes = of(v6).map(|(_, outcome)| *outcome);
            if of(v6).next().is_none() {
                failed_lookup.unwrap_or(Outcome::Short(Short::DnsNoAddress))
            } else if all {
                // An address that nobody tells of was not shown to work.
                worst(outcomes.chain(is_incomplete(of_host, resolved).then_some(Outcome::Void(Void::Cancelled))))
            } else {
                best_or_worst(outcomes)
            }
        };
        // A member is what its seed tells of: it has the families that it has.
        let families = if of_host.iter().any(|o| o.member.is_some()) { Families::Any } else { spec.families };
        match families {
            Families::Ipv4 => family(false),
            Families::Ipv6 => family(true),
            Families::Both => worst([family(false), family(true)]),
            Families::Any => {
                let routed = |v6: bool| of(v6).next().is_some() && self.has_route(v6);
                let outcomes: Vec<Outcome> = [false, true].into_iter().filter(|v6| routed(*v6)).map(family).collect();
                if outcomes.is_empty() {
                    // No family can be used: how its addresses fell short says why, or that there is no route.
                    let why = worst(of_addresses.iter().map(|(_, outcome)| *outcome).chain(failed_lookup));
                    return if why == Outcome::Ok { Outcome::Short(Short::NetUnreachable) } else { why };
                }
                best_or_worst(outcomes)
            }
        }
    }

    /// One observation against what is required: a connect proves nothing where everything connects, and a probe that
    /// calls itself ok without the proof, or in time without having been so, is not believed.
    fn judge(&self, spec: &ProbeSpec, observation: &Observation) -> Outcome {
        match observation.outcome {
            Outcome::Ok if observation.address.is_none() => Outcome::Void(Void::Cancelled),
            Outcome::Ok if observation.proof < Some(spec.require) => Outcome::Short(Short::ProtocolUnexpected),
            Outcome::Ok if self.control == Control::Connected && observation.proof <= Some(Proof::Connected) => {
                Outcome::Void(Void::Intercepted)
            }
            Outcome::Ok if spec.is_too_slow(&observation.phases) => Outcome::Short(Short::TooSlow),
            outcome @ (Outcome::Ok | Outcome::Short(_) | Outcome::Void(_)) => outcome,
        }
    }

    /// Whether the host has a route for the family: as it says, or as a connection shows.
    fn has_route(&self, v6: bool) -> bool {
        let said = if v6 { self.routes.ipv6 } else { self.routes.ipv4 };
        let of_family = |o: &&Observation| o.address.is_some_and(|a| a.ip().to_canonical().is_ipv6() == v6);
        said || self.observations.iter().filter(of_family).any(|o| o.proof >= Some(Proof::Connected))
    }

    /// How many addresses were probed of how many that the name has, where not all were.
    pub fn cut(&self) -> Option<(u32, u32)> {
        let probed = self.observations.iter().filter(|o| o.address.is_some() && o.member.is_none()).count();
        let probed = u32::try_from(probed).unwrap_or(u32::MAX);
        (probed < self.resolved).then_some((probed, self.resolved))
    }

    /// How many members were probed of how many that the target told of, where not all were.
    pub fn members_cut(&self) -> Option<(u32, u32)> {
        let probed: BTreeSet<&Member> = self.observations.iter().filter_map(|o| o.member.as_ref()).collect();
        let probed = u32::try_from(probed.len()).unwrap_or(u32::MAX);
        (probed < self.members).then_some((probed, self.members))
    }

    /// Addresses that fell short beside an answer that is ok, and lookups.
    pub fn short_addresses(&self) -> impl Iterator<Item = &Observation> {
        self.observations.iter().filter(|o| matches!(o.outcome, Outcome::Short(_)))
    }
}

/// Whether there are fewer observations than addresses that had to be probed.
fn is_incomplete(of_host: &[&Observation], resolved: usize) -> bool {
    let seen: BTreeSet<IpAddr> = of_host.iter().filter_map(|o| o.address).map(|a| a.ip()).collect();
    seen.len() < resolved.min(ProbeSpec::MAX_ADDRESSES)
}

/// The worst of some outcomes: a short before a void before ok; the first in the order of reasons.
fn worst(outcomes: impl IntoIterator<Item = Outcome>) -> Outcome {
    outcomes.into_iter().min_by_key(|o| rank(*o)).unwrap_or(Outcome::Void(Void::Cancelled))
}

/// Ok where one of several is enough and one is, else the worst of them.
fn best_or_worst(outcomes: impl IntoIterator<Item = Outcome>) -> Outcome {
    let outcomes: Vec<Outcome> = outcomes.into_iter().collect();
    if outcomes.contains(&Outcome::Ok) { Outcome::Ok } else { worst(outcomes) }
}

/// A key that orders outcomes from the worst.
fn rank(outcome: Outcome) -> (u8, Outcome) {
    let kind = match outcome {
        Outcome::Short(_) => 0,
        Outcome::Void(_) => 1,
        Outcome::Ok => 2,
    };
    (kind, outcome)
}

/// Addresses of one's own networks: RFC 1918, RFC 6598 (100.64.0.0/10), RFC 4193, link-local and loopback.
pub fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || (ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64)
        }
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
#[path = "observation_tests.rs"]
mod tests;

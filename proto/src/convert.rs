//! The agent stream's messages ↔ core, the one place where either side becomes the other.
//!
//! What comes in is foreign: counts, lengths and times are bounded, more is refused, and text that people will read is
//! escaped. What goes out is total: every core value has a message.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use jiff::Timestamp;
use preflight_core::identity::NetworkIdentity;
use preflight_core::observation::{
    Attempt, Certificate, Control, Member, Observation, Outcome, Phases, Proof, Report, Role, Routes, TlsSeen,
};
use preflight_core::plan::CellDigest;
use preflight_core::spec::{Millis, Misfit, ProbeSpec};
use preflight_core::target::TargetError;
use preflight_core::text;

use crate::agent;

mod spec;

/// At most this many observations are accepted in one report: those of the target, and of each member two addresses and a lookup
/// that failed.
pub const MAX_OBSERVATIONS: usize = ProbeSpec::MAX_ADDRESSES + 2 + 3 * ProbeSpec::MAX_MEMBERS;
/// At most this many connect attempts are accepted in one observation.
pub const MAX_ATTEMPTS: usize = 32;
/// At most this many ranges of HTTP statuses are accepted.
pub const MAX_STATUS_RANGES: usize = 16;
/// At most this many names are accepted in one certificate.
pub const MAX_NAMES: usize = 64;
/// The longest name and the longest value, in bytes, of an attribute of a network identity.
pub const MAX_ATTRIBUTE_BYTES: usize = 256;
/// The longest network identity, in bytes: it stands beside each observation in the evidence.
pub const MAX_IDENTITY_BYTES: usize = 8 * 1024;
/// The longest text, in bytes, that is accepted in any field but `ca_pem`.
pub const MAX_TEXT_BYTES: usize = 4 * 1024;
/// The longest `ca_pem`, in bytes.
pub const MAX_PEM_BYTES: usize = 64 * 1024;
/// The longest deadline of one phase, in milliseconds, that an agent may be asked to wait.
pub const MAX_TIMEOUT_MS: u32 = 300_000;
/// The longest, in milliseconds, that an agent may be asked to wait before it probes: no run lives longer.
pub const MAX_START_AFTER_MS: u32 = 600_000;
/// The largest message, in bytes, that either side sends or takes; other sides close the stream on more.
pub const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

/// Why a message is not what it should be: names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// A part that must be there is not.
    #[error("{field} is missing")]
    Missing {
        /// Which part.
        field: &'static str,
    },
    /// A list that is too long.
    #[error("{field} has {count} entries; at most {max} are accepted")]
    TooMany {
        /// Which list.
        field: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// A text that is too long.
    #[error("{field} has {bytes} bytes; at most {max} are accepted")]
    TooLong {
        /// Which text.
        field: &'static str,
        /// Its length.
        bytes: usize,
        /// How long it may be.
        max: usize,
    },
    /// A value that means nothing there.
    #[error("{field} is '{value}', which means nothing there")]
    Invalid {
        /// Which value.
        field: &'static str,
        /// The value, escaped.
        value: String,
    },
    /// A target that is none.
    #[error("spec.target is not a target")]
    Target(#[from] TargetError),
    /// An option that means nothing to its target or beside the others.
    #[error("spec.{0}")]
    Misfit(#[from] Misfit),
}

/// All that one agent saw of one cell's target in one run, with what it says it belongs to.
///
/// `run`, `region` and `release` are as the agent sent them: bounded, not escaped, to be compared with what was asked.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentReport {
    /// The run's id.
    pub run: String,
    /// The cell.
    pub cell: CellDigest,
    /// The region it was asked for.
    pub region: String,
    /// The release it was asked for.
    pub release: String,
    /// The agent's network identity, read again for this run.
    pub identity: NetworkIdentity,
    /// The agent's clock, milliseconds since 1970-01-01T00:00:00Z.
    pub clock_ms: i64,
    /// What it saw.
    pub report: Report,
}

impl From<&AgentReport> for agent::Report {
    fn from(from: &AgentReport) -> Self {
        let report = &from.report;
        Self {
            run: from.run.clone(),
            cell: from.cell.0.clone(),
            region: from.region.clone(),
            release: from.release.clone(),
            identity: Some((&from.identity).into()),
            clock_ms: from.clock_ms,
            observations: report.observations.iter().map(Into::into).collect(),
            resolved: report.resolved,
            route_ipv4: report.routes.ipv4,
            route_ipv6: report.routes.ipv6,
            control_connected: report.control == Control::Connected,
            control_untried: report.control == Control::Untried,
            members: report.members,
            egress: report.egress,
        }
    }
}

impl TryFrom<agent::Report> for AgentReport {
    type Error = ConvertError;

    fn try_from(from: agent::Report) -> Result<Self, ConvertError> {
        at_most("report.observations", from.observations.len(), MAX_OBSERVATIONS)?;
        let identity = from.identity.ok_or(ConvertError::Missing { field: "report.identity" })?;
        Ok(Self {
            run: bounded("report.run", from.run)?,
            cell: CellDigest(bounded("report.cell", from.cell)?),
            region: bounded("report.region", from.region)?,
            release: bounded("report.release", from.release)?,
            identity: identity.try_into()?,
            clock_ms: from.clock_ms,
            report: Report {
                observations: from.observations.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
                resolved: from.resolved,
                routes: Routes { ipv4: from.route_ipv4, ipv6: from.route_ipv6 },
                control: match (from.control_connected, from.control_untried) {
                    (true, _) => Control::Connected,
                    (false, true) => Control::Untried,
                    (false, false) => Control::Unanswered,
                },
                members: from.members,
                egress: from.egress,
            },
        })
    }
}

impl From<&NetworkIdentity> for agent::NetworkIdentity {
    fn from(from: &NetworkIdentity) -> Self {
        let attribute = |(key, values): (&String, &BTreeSet<String>)| agent::Attribute {
            key: key.clone(),
            values: values.iter().cloned().collect(),
        };
        Self { attributes: from.0.iter().map(attribute).collect() }
    }
}

impl TryFrom<agent::NetworkIdentity> for NetworkIdentity {
    type Error = ConvertError;

    /// Escapes without cutting: two identities that differ must not become alike.
    fn try_from(from: agent::NetworkIdentity) -> Result<Self, ConvertError> {
        at_most("identity.attributes", from.attributes.len(), Self::MAX_ENTRIES)?;
        let mut bytes = 0;
        let mut whole = |field, text: &str| {
            no_longer(field, text, MAX_ATTRIBUTE_BYTES)?;
            let text = text::escape_to(text, usize::MAX);
            bytes += text.len();
            let too_long = ConvertError::TooLong { field: "identity", bytes, max: MAX_IDENTITY_BYTES };
            if bytes > MAX_IDENTITY_BYTES { Err(too_long) } else { Ok(text) }
        };
        let mut identity = Self::default();
        for attribute in from.attributes {
            at_most("identity.attributes.values", attribute.values.len(), Self::MAX_ENTRIES)?;
            let key = whole("identity.attributes.key", &attribute.key)?;
            let values = attribute.values.iter().map(|value| whole("identity.attributes.values", value));
            let values: BTreeSet<String> = values.collect::<Result<_, ConvertError>>()?;
            if key.is_empty() || identity.0.contains_key(&key) {
                return Err(invalid("identity.attributes.key", &key));
            }
            identity.0.insert(key, values);
        }
        Ok(identity)
    }
}

impl From<&Observation> for agent::Observation {
    fn from(from: &Observation) -> Self {
        Self {
            address: from.address.map(|a| a.to_string()).unwrap_or_default(),
            outcome: from.outcome.as_str().to_owned(),
            reason: from.outcome.reason().unwrap_or_default().to_owned(),
            proof: from.proof.map(Proof::as_str).unwrap_or_default().to_owned(),
            resolve_ms: from.phases.resolve_ms,
            connect_ms: from.phases.connect_ms,
            tls_ms: from.phases.tls_ms,
            protocol_ms: from.phases.protocol_ms,
            note: from.note.clone(),
            detail: from.detail.clone(),
            tls: from.tls.as_ref().map(Into::into),
            attempts: from.attempts.iter().map(Into::into).collect(),
            member: from
                .member
                .as_ref()
                .map(|m| agent::Member { role: m.role.as_str().to_owned(), endpoint: m.endpoint.clone() }),
            proxy_ms: from.phases.proxy_ms,
        }
    }
}

impl TryFrom<agent::Observation> for Observation {
    type Error = ConvertError;

    fn try_from(from: agent::Observation) -> Result<Self, ConvertError> {
        at_most("observation.attempts", from.attempts.len(), MAX_ATTEMPTS)?;
        let reason = Some(from.reason.as_str()).filter(|reason| !reason.is_empty());
        let outcome = Outcome::from_names(&from.outcome, reason)
            .ok_or_else(|| invalid("observation.outcome", &format!("{} {}", from.outcome, from.reason)))?;
        Ok(Self {
            address: match from.address.as_str() {
                "" => None,
                text => Some(text.parse::<SocketAddr>().map_err(|_| invalid("observation.address", text))?),
            },
            member: from.member.map(TryInto::try_into).transpose()?,
            outcome,
            proof: match from.proof.as_str() {
                "" => None,
                text => Some(one_of("observation.proof", text, &PROOFS, Proof::as_str)?),
            },
            phases: Phases {
                resolve_ms: from.resolve_ms.map(|ms| millis("observation.resolve_ms", ms)).transpose()?,
                connect_ms: from.connect_ms.map(|ms| millis("observation.connect_ms", ms)).transpose()?,
                proxy_ms: from.proxy_ms.map(|ms| millis("observation.proxy_ms", ms)).transpose()?,
                tls_ms: from.tls_ms.map(|ms| millis("observation.tls_ms", ms)).transpose()?,
                protocol_ms: from.protocol_ms.map(|ms| millis("observation.protocol_ms", ms)).transpose()?,
            },
            note: from.note.map(|text| shown("observation.note", &text)).transpose()?,
            detail: from.detail.map(|text| shown("observation.detail", &text)).transpose()?,
            tls: from.tls.map(TryInto::try_into).transpose()?,
            attempts: from.attempts.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&Attempt> for agent::Attempt {
    fn from(from: &Attempt) -> Self {
        Self { at_ms: from.at_ms, result: from.result.clone(), took_ms: from.took_ms }
    }
}

impl TryFrom<agent::Attempt> for Attempt {
    type Error = ConvertError;

    fn try_from(from: agent::Attempt) -> Result<Self, ConvertError> {
        Ok(Self {
            at_ms: millis("attempt.at_ms", from.at_ms)?,
            result: shown("attempt.result", &from.result)?,
            took_ms: millis("attempt.took_ms", from.took_ms)?,
        })
    }
}

impl From<&TlsSeen> for agent::TlsSeen {
    fn from(from: &TlsSeen) -> Self {
        Self {
            version: from.version.clone(),
            cipher: from.cipher.clone(),
            chain: from.chain.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<agent::TlsSeen> for TlsSeen {
    type Error = ConvertError;

    fn try_from(from: agent::TlsSeen) -> Result<Self, ConvertError> {
        at_most("tls.chain", from.chain.len(), Self::MAX_CHAIN)?;
        Ok(Self {
            version: from.version.map(|text| shown("tls.version", &text)).transpose()?,
            cipher: from.cipher.map(|text| shown("tls.cipher", &text)).transpose()?,
            chain: from.chain.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&Certificate> for agent::Certificate {
    fn from(from: &Certificate) -> Self {
        Self {
            subject: from.subject.clone(),
            issuer: from.issuer.clone(),
            names: from.names.clone(),
            not_before_s: from.not_before.as_second(),
            not_after_s: from.not_after.as_second(),
            sha256: from.sha256.clone(),
        }
    }
}

impl TryFrom<agent::Certificate> for Certificate {
    type Error = ConvertError;

    fn try_from(from: agent::Certificate) -> Result<Self, ConvertError> {
        at_most("certificate.names", from.names.len(), MAX_NAMES)?;
        Ok(Self {
            subject: shown("certificate.subject", &from.subject)?,
            issuer: shown("certificate.issuer", &from.issuer)?,
            names: from.names.iter().map(|name| shown("certificate.names", name)).collect::<Result<_, _>>()?,
            not_before: second("certificate.not_before_s", from.not_before_s)?,
            not_after: second("certificate.not_after_s", from.not_after_s)?,
            sha256: shown("certificate.sha256", &from.sha256)?,
        })
    }
}

impl TryFrom<agent::Member> for Member {
    type Error = ConvertError;

    fn try_from(from: agent::Member) -> Result<Self, ConvertError> {
        Ok(Self {
            role: one_of("member.role", &from.role, &ROLES, Role::as_str)?,
            endpoint: shown("member.endpoint", &from.endpoint)?,
        })
    }
}

const ROLES: [Role; 3] = [Role::Primary, Role::Replica, Role::Sentinel];

const PROOFS: [Proof; 4] = [Proof::Resolved, Proof::Connected, Proof::Encrypted, Proof::Protocol];

/// The value that has this name.
fn one_of<T: Copy>(
    field: &'static str,
    text: &str,
    known: &[T],
    name: fn(T) -> &'static str,
) -> Result<T, ConvertError> {
    known.iter().copied().find(|value| name(*value) == text).ok_or_else(|| invalid(field, text))
}

fn invalid(field: &'static str, value: &str) -> ConvertError {
    ConvertError::Invalid { field, value: text::escape(value) }
}

fn at_most(field: &'static str, count: usize, max: usize) -> Result<(), ConvertError> {
    if count > max { Err(ConvertError::TooMany { field, count, max }) } else { Ok(()) }
}

fn no_longer(field: &'static str, text: &str, max: usize) -> Result<(), ConvertError> {
    if text.len() > max { Err(ConvertError::TooLong { field, bytes: text.len(), max }) } else { Ok(()) }
}

/// A text as it came, if it is not too long.
fn bounded(field: &'static str, text: String) -> Result<String, ConvertError> {
    no_longer(field, &text, MAX_TEXT_BYTES)?;
    Ok(text)
}

/// A text that people will read: one bounded, escaped line. An escaped line stays as it is.
fn shown(field: &'static str, text: &str) -> Result<String, ConvertError> {
    no_longer(field, text, MAX_TEXT_BYTES)?;
    Ok(text::escape(text))
}

/// A span that was measured. NaN and infinity have no JSON form, so one would make the stored evidence unreadable.
fn millis(field: &'static str, ms: f64) -> Result<f64, ConvertError> {
    if ms.is_finite() && ms >= 0.0 { Ok(ms) } else { Err(invalid(field, &ms.to_string())) }
}

fn deadline(field: &'static str, ms: u32) -> Result<Millis, ConvertError> {
    if (1..=MAX_TIMEOUT_MS).contains(&ms) { Ok(Millis(ms)) } else { Err(invalid(field, &ms.to_string())) }
}

fn second(field: &'static str, second: i64) -> Result<Timestamp, ConvertError> {
    Timestamp::from_second(second).map_err(|_| invalid(field, &second.to_string()))
}

#[cfg(test)]
mod tests;

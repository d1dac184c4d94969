//! It fails from all fleets for one reason: look at the target first.

use std::collections::BTreeSet;

use super::{Draft, Kind, Seen, fleets_of, join};
use crate::matrix::State;
use crate::reason::Short;

pub(super) fn find(seen: &Seen<'_>) -> Option<Draft> {
    // A fleet that an earlier verdict speaks for was not asked, and stands as a pass: it may well reach it.
    let all_fail = seen.cells.iter().all(|c| c.folded.state == State::Fail);
    let fleets = fleets_of(&seen.short);
    if seen.blocked || !all_fail || !seen.ok.is_empty() || fleets.len() < 2 {
        return None;
    }
    let reasons: BTreeSet<Option<Short>> = seen.short.iter().map(super::Host::reason).collect();
    let [Some(reason)] = reasons.into_iter().collect::<Vec<_>>()[..] else { return None };
    let hosts = seen.short.len();
    let rest = format!(
        "fails from every fleet alike ({}; {hosts} of {hosts} hosts): {reason}. {}",
        join(fleets),
        meaning(reason)
    );
    let mut draft = Draft::new(Kind::Everywhere, seen.dependency, rest);
    draft.explains = seen.failing_cells();
    Some(draft)
}

/// What that says of the target.
fn meaning(reason: Short) -> &'static str {
    match reason {
        Short::DnsNxdomain | Short::DnsNoAddress | Short::DnsServfail | Short::DnsTimeout => {
            "That is the name or the name server, not one fleet's network."
        }
        Short::ConnectTimeout => {
            "That is the target's side, not one fleet's network: it is down, its address or port is wrong, or its own rules admit none \
             of these fleets."
        }
        Short::ConnectRefused | Short::ConnectReset => {
            "That is the target, not the network: it is down, or the port is wrong."
        }
        Short::ConnectProhibited | Short::HostUnreachable | Short::NetUnreachable => {
            "That is what stands in front of the target, not one fleet's network."
        }
        Short::PartialLoss => "That is the path's common part, or the target, not one fleet's network.",
        Short::TlsExpired
        | Short::TlsNotYetValid
        | Short::TlsNameMismatch
        | Short::TlsSelfSigned
        | Short::TlsUntrusted
        | Short::TlsFingerprintMismatch => "That is the target's certificate, not the network.",
        Short::TlsTimeout
        | Short::TlsNotSpoken
        | Short::TlsClosed
        | Short::TlsAlert
        | Short::ProtocolTimeout
        | Short::ProtocolClosed
        | Short::ProtocolUnexpected => {
            "Each of them got through to what listens there: that is the target, or a wrong port."
        }
        Short::NotReady | Short::StatusUnexpected | Short::BodyUnexpected | Short::TooSlow => {
            "Each of them got through to the service: that is the target, not the network."
        }
        Short::ProxyUnreachable
        | Short::ProxyRefused
        | Short::ProxyTargetFailed
        | Short::ProxyTimeout
        | Short::ProxyUnexpected => "That is the proxy or what lies behind it, not one fleet's network.",
        // Only where the path must be blocked.
        Short::Reachable => "",
    }
}

//! Probes from this host: a line for each address and member, in words; and rounds of them.

use std::fmt::Write as _;

use jiff::Timestamp;
use preflight_core::observation::{Observation, Outcome, Proof, TlsSeen};
use preflight_core::reason::lookup;
use preflight_core::spec::ProbeSpec;
use preflight_proto::api::{ProbeResult, State};

use super::evidence::{attempts, certificate, phases};
use super::{BOLD, DIM, count, glyph, paragraph, sentence, style_of, styled, word};
use crate::commands::Endpoint;

/// One target: what it came to, then its addresses, each with the members that it told of under it.
pub(crate) fn result(result: &ProbeResult, width: usize) -> String {
    let dependency = result.dependency.as_ref().map_or_else(String::new, |name| format!("{}  ", word(name)));
    let verdict = styled(style_of(result.outcome), &format!("{} {}", glyph(result.outcome), result.outcome.as_str()));
    let mut out = format!("{verdict}  {dependency}{}\n", styled(BOLD, &word(&result.target)));
    if let Some(reason) = result.reason.as_deref().filter(|reason| !said(result, reason)) {
        out.push_str(&paragraph("    ", &in_words(reason), width));
    }
    let scheme = result.target.split("://").next().unwrap_or_default();
    for observation in &result.addresses {
        out.push_str(&line(observation, scheme, width));
    }
    if let Some(all) = result.addresses_in_all {
        let probed = result.addresses.iter().filter(|o| o.address.is_some() && o.member.is_none()).count();
        let text = format!("the name has {all} addresses; {probed} of them were probed");
        out.push_str(&paragraph("    ", &text, width));
    }
    if let Some(all) = result.members_in_all {
        let text = format!("it tells of {all} members; {} of them were probed", ProbeSpec::MAX_MEMBERS);
        out.push_str(&paragraph("    ", &text, width));
    }
    out
}

/// Whether an address says it.
fn said(result: &ProbeResult, reason: &str) -> bool {
    result.addresses.iter().any(|o| o.outcome.reason() == Some(reason))
}

fn in_words(reason: &str) -> String {
    lookup(reason).map_or_else(|| word(reason), |(_, meaning, _)| format!("{reason}: {meaning}"))
}

/// One address or member: what came of it, how long the phases took, then what was seen.
fn line(observation: &Observation, scheme: &str, width: usize) -> String {
    let state = match observation.outcome {
        Outcome::Ok => State::Pass,
        Outcome::Short(_) => State::Fail,
        Outcome::Void(_) => State::Unknown,
    };
    let address = observation.address.map_or_else(|| "no address".to_owned(), |address| address.to_string());
    let (indent, name) = match &observation.member {
        None => ("    ", address),
        Some(member) => {
            let told = word(&member.endpoint);
            let dialled = if told == address { String::new() } else { format!(" at {address}") };
            ("      ", format!("{} {told}{dialled}", member.role.as_str()))
        }
    };
    let first = format!("{indent}{} {name}  ", styled(style_of(state), glyph(state)));
    let hang = " ".repeat(indent.len() + 2);
    let proof = observation.proof.map(|proof| shown(proof, scheme, observation));
    let mut parts = match observation.outcome.reason() {
        None => vec![proof.unwrap_or_else(|| "nothing was shown".to_owned())],
        Some(reason) => {
            let got = proof.filter(|_| observation.proof > Some(Proof::Resolved));
            std::iter::once(styled(style_of(state), reason)).chain(got).collect()
        }
    };
    parts.extend(phases(&observation.phases));
    parts.extend(attempts(&observation.attempts));
    let mut out = paragraph(&first, &parts.join(" · "), width.max(super::columns(&first)));
    if let Some((_, meaning, _)) = observation.outcome.reason().and_then(lookup) {
        out.push_str(&paragraph(&hang, meaning, width));
    }
    if let Some(detail) = &observation.detail {
        out.push_str(&paragraph(&format!("{hang}saw: "), &sentence(detail), width));
    }
    if let Some(note) = &observation.note {
        out.push_str(&paragraph(&format!("{hang}note: "), &sentence(note), width));
    }
    if let Some(tls) = &observation.tls {
        out.push_str(&seen_of_tls(tls, &hang, width));
    }
    out
}

/// How far it got, in words.
fn shown(proof: Proof, scheme: &str, observation: &Observation) -> String {
    match proof {
        Proof::Resolved => "the name resolves".to_owned(),
        Proof::Connected => "TCP connects".to_owned(),
        Proof::Encrypted => "TLS is spoken and the certificate is good".to_owned(),
        // A server that wants a client certificate first has spoken nothing.
        Proof::Protocol if observation.phases.protocol_ms.is_none() => {
            "the certificate is good, and a client certificate is wanted first".to_owned()
        }
        Proof::Protocol => format!("speaks {}", word(scheme)),
    }
}

fn seen_of_tls(tls: &TlsSeen, hang: &str, width: usize) -> String {
    let session: Vec<String> = [&tls.version, &tls.cipher].into_iter().flatten().map(|text| word(text)).collect();
    let mut out = String::new();
    if !session.is_empty() {
        let _ = writeln!(out, "{hang}{}", session.join(", "));
    }
    if let Some(leaf) = tls.chain.first() {
        out.push_str(&certificate(leaf, hang, width));
    }
    if tls.chain.len() > 1 {
        let above: Vec<String> = tls.chain.iter().skip(1).map(|c| word(&c.subject)).collect();
        out.push_str(&paragraph(&format!("{hang}above it: "), &above.join("; "), width));
    }
    out
}

/// A dependency of the manifest that this host does not probe.
pub(crate) fn left_out(dependency: &str, why: &str, width: usize) -> String {
    paragraph(&format!("– {}  ", word(dependency)), &sentence(why), width)
}

/// One round: a line for each address and member.
pub(crate) fn round(at: Timestamp, results: &[ProbeResult], width: usize) -> String {
    let mut out = String::new();
    let clock = at.strftime("%H:%M:%SZ");
    for result in results {
        for observation in &result.addresses {
            let state = match observation.outcome {
                Outcome::Ok => State::Pass,
                Outcome::Short(_) => State::Fail,
                Outcome::Void(_) => State::Unknown,
            };
            let address = observation.address.map_or_else(|| "no address".to_owned(), |address| address.to_string());
            let member = observation.member.as_ref();
            let member = member.map_or_else(String::new, |m| format!(" {} {}", m.role.as_str(), word(&m.endpoint)));
            let what = match observation.outcome.reason() {
                Some(reason) => styled(style_of(state), reason),
                None => format!("{:.1} ms", observation.phases.beyond_resolve_ms()),
            };
            let first = format!("{clock}  {}  ", styled(style_of(state), glyph(state)));
            let address = if result.target.ends_with(&address) { String::new() } else { format!(" {address}") };
            let dependency = result.dependency.as_ref().map_or_else(String::new, |name| format!("{}  ", word(name)));
            let mut parts = vec![format!("{dependency}{}{member}{address}  {what}", word(&result.target))];
            parts.extend(phases(&observation.phases));
            out.push_str(&paragraph(&first, &parts.join(" · "), width));
        }
    }
    out
}

/// All rounds: loss and latency of each address and member.
pub(crate) fn watched(endpoints: &[Endpoint], width: usize) -> String {
    let mut out = String::new();
    let mut target = None;
    for endpoint in endpoints {
        let of = (&endpoint.dependency, &endpoint.target);
        if target != Some(of) {
            target = Some(of);
            let dependency = endpoint.dependency.as_ref().map_or_else(String::new, |name| format!("{}  ", word(name)));
            let _ = write!(out, "\n{dependency}{}\n", styled(BOLD, &word(&endpoint.target)));
        }
        let address = endpoint.address.as_deref().unwrap_or("no address");
        let member = endpoint.member.as_ref().map_or_else(String::new, |member| format!("{} ", word(member)));
        let state = if endpoint.failed == 0 { State::Pass } else { State::Fail };
        let first = format!("  {} {member}{address}  ", styled(style_of(state), glyph(state)));
        #[expect(clippy::cast_precision_loss, reason = "a share for people, to a tenth of a percent")]
        let share = 100.0 * endpoint.failed as f64 / endpoint.probes.max(1) as f64;
        let mut parts =
            vec![format!("{} of {} failed ({share:.1} %)", endpoint.failed, plural(endpoint.probes, "probe"))];
        parts.extend(endpoint.reasons.iter().map(|(reason, times)| format!("{times} {reason}")));
        if endpoint.silent > 0 {
            parts.push(format!("{} of {} met silence", endpoint.silent, plural(endpoint.attempts, "connect attempt")));
        }
        if let Some(ms) = endpoint.latency_ms {
            let numbers =
                format!("{:.1}, p50 {:.1}, p90 {:.1}, p99 {:.1}, max {:.1} ms", ms.min, ms.p50, ms.p90, ms.p99, ms.max);
            parts.push(styled(DIM, &format!("latency min {numbers}")));
        }
        out.push_str(&paragraph(&first, &parts.join(" · "), width));
    }
    out
}

fn plural(number: u64, noun: &str) -> String {
    count(usize::try_from(number).unwrap_or(usize::MAX), noun)
}

//! Makes a report one that the controller takes: within the bounds of `convert`, and within one message. A report that
//! is too large loses its least telling parts; it is never lost whole, for then the cell would be unknown.

use preflight_core::observation::{Observation, Report, TlsSeen};
use preflight_core::text;
use preflight_proto::agent;
use preflight_proto::convert::{AgentReport, MAX_ATTEMPTS, MAX_MESSAGE_BYTES, MAX_NAMES, MAX_OBSERVATIONS};
use prost::Message as _;

/// The largest report, in bytes: leaves room for what wraps it.
const MAX_REPORT_BYTES: usize = MAX_MESSAGE_BYTES - 1024;

/// The message for a report, cut to fit.
pub fn fit(mut report: AgentReport) -> agent::Report {
    report.report.observations.truncate(MAX_OBSERVATIONS);
    report.report.observations.iter_mut().for_each(within_bounds);
    let cuts: [fn(&mut Observation); 3] = [
        |o| o.tls.iter_mut().flat_map(|tls| &mut tls.chain).skip(1).for_each(|c| c.names.clear()),
        |o| o.tls.iter_mut().for_each(|tls| tls.chain.truncate(1)),
        |o| {
            o.tls = None;
            o.attempts.clear();
        },
    ];
    let mut message = agent::Report::from(&report);
    for cut in cuts {
        if message.encoded_len() <= MAX_REPORT_BYTES {
            break;
        }
        report.report.observations.iter_mut().for_each(cut);
        message = agent::Report::from(&report);
    }
    message
}

fn within_bounds(observation: &mut Observation) {
    observation.attempts.truncate(MAX_ATTEMPTS);
    for attempt in &mut observation.attempts {
        attempt.at_ms = span(attempt.at_ms).unwrap_or(0.0);
        attempt.took_ms = span(attempt.took_ms).unwrap_or(0.0);
        attempt.result = text::escape(&attempt.result);
    }
    let phases = &mut observation.phases;
    for ms in [
        &mut phases.resolve_ms,
        &mut phases.connect_ms,
        &mut phases.proxy_ms,
        &mut phases.tls_ms,
        &mut phases.protocol_ms,
    ] {
        *ms = ms.and_then(span);
    }
    for text in [&mut observation.note, &mut observation.detail] {
        *text = text.as_deref().map(text::escape);
    }
    if let Some(tls) = &mut observation.tls {
        tls.chain.truncate(TlsSeen::MAX_CHAIN);
        for certificate in &mut tls.chain {
            certificate.names.truncate(MAX_NAMES);
            for text in [&mut certificate.subject, &mut certificate.issuer].into_iter().chain(&mut certificate.names) {
                *text = text::escape(text);
            }
        }
    }
}

fn span(ms: f64) -> Option<f64> {
    (ms.is_finite() && ms >= 0.0).then_some(ms)
}

/// A report of one void observation, for what never got as far as the network.
pub fn void(reason: preflight_core::reason::Void, detail: &str) -> Report {
    use preflight_core::observation::{Control, Outcome, Phases, Routes};
    Report {
        observations: vec![Observation {
            address: None,
            member: None,
            outcome: Outcome::Void(reason),
            proof: None,
            phases: Phases::default(),
            note: None,
            detail: Some(text::escape(detail)),
            tls: None,
            attempts: vec![],
        }],
        resolved: 0,
        routes: Routes { ipv4: false, ipv6: false },
        control: Control::Unanswered,
        members: 0,
        egress: false,
    }
}

#[cfg(test)]
mod tests {
    use preflight_core::identity::NetworkIdentity;
    use preflight_core::observation::{Attempt, Certificate, Outcome, Proof};
    use preflight_core::plan::CellDigest;
    use preflight_core::reason::Void;

    use super::*;

    fn of(report: Report) -> AgentReport {
        AgentReport {
            run: "run".into(),
            cell: CellDigest("cell".into()),
            region: "eu".into(),
            release: "v1".into(),
            identity: NetworkIdentity::default(),
            clock_ms: 0,
            report,
        }
    }

    #[test]
    fn too_much_is_cut_and_what_matters_stays() {
        let mut report = void(Void::Cancelled, "x");
        let time = "2026-01-01T00:00:00Z".parse().unwrap();
        let text = || "é\x1b".repeat(300);
        let certificate = Certificate {
            subject: text(),
            issuer: text(),
            names: vec![text(); 70],
            not_before: time,
            not_after: time,
            sha256: "0".repeat(64),
        };
        let observation = Observation {
            address: Some("10.0.0.1:443".parse().unwrap()),
            member: None,
            outcome: Outcome::Ok,
            proof: Some(Proof::Encrypted),
            detail: Some(text()),
            tls: Some(TlsSeen { version: None, cipher: None, chain: vec![certificate; 9] }),
            attempts: vec![Attempt { at_ms: f64::NAN, result: text(), took_ms: -1.0 }; 40],
            ..report.observations[0].clone()
        };
        for count in [1, 16, 100] {
            report.observations = vec![observation.clone(); count];
            let message = fit(of(report.clone()));
            assert!(message.encoded_len() <= MAX_REPORT_BYTES, "{}", message.encoded_len());
            let back = AgentReport::try_from(message).expect("the controller takes it").report;
            assert_eq!(back.observations.len(), count.min(MAX_OBSERVATIONS));
            assert!(back.observations.iter().all(|o| o.outcome == Outcome::Ok && o.proof == Some(Proof::Encrypted)));
        }
    }

    #[test]
    fn what_fits_is_left_alone() {
        let report = of(void(Void::PolicyDenied, "not on this list"));
        assert_eq!(AgentReport::try_from(fit(report.clone())), Ok(report));
    }
}

use std::collections::BTreeSet;

use preflight_core::observation::{Certificate, Proof, TlsSeen};
use preflight_core::reason::{Short, Void};
use preflight_core::spec::TlsOptions;
use preflight_core::target::Target;

use crate::fit::void;

use super::*;

fn spec(target: &str) -> ProbeSpec {
    ProbeSpec::new(target.parse().unwrap())
}

fn report(spec: &ProbeSpec, outcome: Outcome) -> Report {
    let mut report = void(Void::Cancelled, "");
    report.observations = vec![Observation {
        proof: Some(spec.require),
        phases: Phases { resolve_ms: Some(0.5), connect_ms: Some(2.0), ..Phases::default() },
        ..Observation::new(Some(([10, 0, 0, 1], 1).into()), outcome)
    }];
    report.routes.ipv4 = true;
    report
}

/// A series: name, labels and value.
type Series = (String, Vec<(String, String)>, f64);

/// Every series. Strict: what `promtool check metrics` and the `OpenMetrics` grammar would refuse panics.
fn series(text: &str) -> Vec<Series> {
    let name_is_good = |name: &str| {
        !name.is_empty()
            && name
                .bytes()
                .enumerate()
                .all(|(i, b)| b.is_ascii_lowercase() || b == b'_' || (i > 0 && b.is_ascii_digit()))
    };
    let body = text.strip_suffix("# EOF\n").expect("it ends with EOF");
    let (mut all, mut seen, mut families) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    let mut family = (String::new(), String::new());
    for line in body.lines() {
        assert_eq!(line.trim(), line, "{line:?}");
        if let Some(comment) = line.strip_prefix("# ") {
            let words: Vec<&str> = comment.splitn(3, ' ').collect();
            match words[..] {
                ["HELP", name, help] => {
                    assert!(!help.is_empty() && families.insert(name.to_owned()), "{line}");
                    family = (name.to_owned(), String::new());
                }
                ["TYPE", name, kind] => {
                    assert!(family.0 == name && ["gauge", "counter"].contains(&kind), "{line}");
                    family.1 = kind.to_owned();
                }
                _ => panic!("no HELP and no TYPE: {line}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = series
            .split_once('{')
            .map_or((series, ""), |(name, rest)| (name, rest.strip_suffix('}').expect("labels are closed")));
        let suffix = if family.1 == "counter" { "_total" } else { "" };
        assert!(name_is_good(name) && name == format!("{}{suffix}", family.0), "{line} in the family {family:?}");
        let labels = labels_of(labels);
        assert!(labels.iter().all(|(name, _)| name_is_good(name)), "{line}");
        assert!(seen.insert(series.to_owned()), "twice: {line}");
        all.push((name.to_owned(), labels, value.parse().expect("a number")));
    }
    all
}

fn labels_of(mut text: &str) -> Vec<(String, String)> {
    let mut labels = Vec::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"").expect("name=\"value\"");
        let (mut value, mut chars) = (String::new(), rest.char_indices());
        let end = loop {
            match chars.next().expect("the value is closed") {
                (at, '"') => break at,
                (_, '\\') => match chars.next().expect("an escape is whole").1 {
                    'n' => value.push('\n'),
                    c @ ('\\' | '"') => value.push(c),
                    c => panic!("no such escape: {c}"),
                },
                (_, c) => value.push(c),
            }
        };
        labels.push((name.to_owned(), value));
        text = &rest[end + 1..];
        text = text.strip_prefix(',').unwrap_or(text);
    }
    labels
}

/// The values of the series of that name and these labels.
fn values(text: &str, name: &str, wanted: &[(&str, &str)]) -> Vec<f64> {
    let fits = |labels: &[(String, String)]| wanted.iter().all(|(k, v)| labels.iter().any(|(n, t)| n == k && t == v));
    series(text).into_iter().filter(|(n, labels, _)| n == name && fits(labels)).map(|(_, _, value)| value).collect()
}

#[test]
fn familiar_names_and_nothing_that_is_not_known() {
    let metrics = Arc::new(Metrics::default());
    let (good, bad, unknown) = (spec("tcp://10.0.0.1:1"), spec("redis://cache.internal"), spec("tls://10.0.0.3:3"));
    metrics.record(&good, &report(&good, Outcome::Ok));
    let mut short = report(&bad, Outcome::Short(Short::ConnectTimeout));
    short.observations[0].phases.connect_ms = None;
    short.observations[0].proof = Some(Proof::Resolved);
    metrics.record(&bad, &short);
    let mut nothing = report(&unknown, Outcome::Void(Void::ControlFailed));
    let until = |text: &str| Certificate {
        subject: String::new(),
        issuer: String::new(),
        names: vec![],
        not_before: "2026-01-01T00:00:00Z".parse().unwrap(),
        not_after: text.parse().unwrap(),
        sha256: String::new(),
    };
    let chain = vec![until("2027-01-01T00:00:00Z"), until("2026-06-01T00:00:00Z")];
    nothing.observations[0].tls = Some(TlsSeen { chain, ..TlsSeen::default() });
    metrics.record(&unknown, &nothing);
    metrics.connected(true);

    let text = metrics.text().unwrap();
    let of = |name: &str, target: &str| values(&text, name, &[("target", target)]);
    assert_eq!(of("probe_success", "tcp://10.0.0.1:1"), [1.0]);
    assert_eq!(of("probe_success", "redis://cache.internal:6379"), [0.0]);
    assert!(of("probe_success", "tls://10.0.0.3:3").is_empty(), "{text}");
    let phase =
        |target: &str, phase: &str| values(&text, "probe_duration_seconds", &[("target", target), ("phase", phase)]);
    assert_eq!(phase("tcp://10.0.0.1:1", "connect"), [0.002]);
    assert_eq!(phase("redis://cache.internal:6379", "resolve"), [0.0005]);
    assert!(phase("redis://cache.internal:6379", "connect").is_empty(), "{text}");
    assert!(of("probe_failure_info", "tcp://10.0.0.1:1").is_empty());
    for reason in [("redis://cache.internal:6379", "connect_timeout"), ("tls://10.0.0.3:3", "control_failed")] {
        assert_eq!(values(&text, "probe_failure_info", &[("target", reason.0), ("reason", reason.1)]), [1.0]);
    }
    assert_eq!(of("probe_ssl_earliest_cert_expiry", "tls://10.0.0.3:3"), [1_780_272_000.0]);
    assert_eq!(of("probe_ip_protocol", "tcp://10.0.0.1:1"), [4.0]);
    assert_eq!(values(&text, "preflight_agent_connected", &[]), [1.0]);
    for outcome in OUTCOMES {
        assert_eq!(values(&text, "preflight_agent_probes_total", &[("outcome", outcome)]), [1.0]);
    }
    assert_eq!(values(&text, "preflight_agent_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), [1.0]);
}

#[test]
fn a_targets_text_is_data() {
    let metrics = Arc::new(Metrics::default());
    let mut odd = spec("http://10.0.0.1");
    odd.target = Target { path: "/\"} 1\nprobe_success{target=\"x\\".to_owned(), ..odd.target };
    metrics.record(&odd, &report(&odd, Outcome::Ok));
    let text = metrics.text().unwrap();
    let shown = &Labels::of(&odd).target;
    assert_eq!(values(&text, "probe_success", &[]), [1.0], "{text}");
    assert_eq!(values(&text, "probe_success", &[("target", shown)]), [1.0], "{text}");
}

#[test]
fn one_target_with_other_options_is_another_series() {
    let metrics = Arc::new(Metrics::default());
    let plain = spec("tls://10.0.0.1:443");
    let named =
        ProbeSpec { tls: TlsOptions { server_name: Some("other".into()), ..TlsOptions::default() }, ..plain.clone() };
    metrics.record(&plain, &report(&plain, Outcome::Ok));
    metrics.record(&named, &report(&named, Outcome::Short(Short::TlsNameMismatch)));
    let text = metrics.text().unwrap();
    let both = values(&text, "probe_success", &[("target", "tls://10.0.0.1:443")]);
    assert_eq!(both, [1.0, 0.0], "{text}");
    assert_eq!(values(&text, "probe_success", &[("options", "server_name=other")]), [0.0], "{text}");
}

#[test]
fn the_oldest_targets_are_forgotten() {
    let metrics = Arc::new(Metrics::default());
    let specs: Vec<ProbeSpec> =
        (0..=Metrics::MAX_TARGETS).map(|n| spec(&format!("tcp://10.0.0.1:{}", n + 1))).collect();
    for spec in specs.iter().take(Metrics::MAX_TARGETS).chain(specs.first()).chain(specs.last()) {
        metrics.record(spec, &report(spec, Outcome::Ok));
    }
    let text = metrics.text().unwrap();
    let of = |port: usize| values(&text, "probe_success", &[("target", &format!("tcp://10.0.0.1:{port}"))]).len();
    assert_eq!((of(1), of(2), of(3), of(Metrics::MAX_TARGETS + 1)), (1, 0, 1, 1));
    assert_eq!(values(&text, "probe_success", &[]).len(), Metrics::MAX_TARGETS);
}

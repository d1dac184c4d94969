//! What tells probes apart in the metrics: the target's URL and the options beside it, each as one short text.

use preflight_core::plan::sha256;
use preflight_core::spec::{Millis, ProbeSpec};
use preflight_core::text::escape_to;
use preflight_proto::agent;

/// At most this many characters of a label are written out; a digest stands for the rest.
const WRITTEN: usize = 200;
/// Hex digits of a digest, which stands for what is long.
const DIGITS: usize = 12;

/// The labels of one probe. Two specs that differ have labels that differ.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Labels {
    /// The target's URL.
    pub(crate) target: Box<str>,
    /// The options that are not at their default, as `key=value, …`; empty if none is.
    pub(crate) options: Box<str>,
}

impl Labels {
    pub(crate) fn of(spec: &ProbeSpec) -> Self {
        Self { target: bounded(&spec.target.to_string()), options: bounded(&options(spec)) }
    }

    /// With more labels after its own. Without options there is no label for them.
    pub(crate) fn with<'a>(&'a self, more: &[(&'static str, &'a str)]) -> Vec<(&'static str, &'a str)> {
        let own = [("target", &*self.target), ("options", &*self.options)];
        own.into_iter().filter(|(_, value)| !value.is_empty()).chain(more.iter().copied()).collect()
    }
}

fn bounded(text: &str) -> Box<str> {
    let shown = escape_to(text, WRITTEN);
    // Escaping is not reversible: what is not shown as it is written is told apart by its digest.
    if shown == text { shown.into() } else { format!("{shown} {}", digest(text)).into() }
}

fn digest(text: &str) -> String {
    let hex = sha256(text.as_bytes());
    hex.trim_start_matches("sha256:").chars().take(DIGITS).collect()
}

fn options(spec: &ProbeSpec) -> String {
    let plain = agent::ProbeSpec::from(&ProbeSpec::new(spec.target.clone()));
    // Every field by name, so that no new option is forgotten; as it crosses the wire, where each has a text.
    let agent::ProbeSpec {
        target: _,
        connect_timeout_ms,
        timeout_ms,
        require,
        families,
        addresses,
        max_latency_ms,
        via,
        http_status,
        http_body,
        topology,
        form: _,
        tls,
        expect,
    } = agent::ProbeSpec::from(spec);
    let mut all = Vec::new();
    let mut say = |key: &str, value: Option<String>| all.extend(value.map(|value| format!("{key}={value}")));
    let other = |value: String, plain: &str| (value != plain).then_some(value);
    let ms = |value: u32, plain: u32| (value != plain).then(|| Millis(value).to_string());
    say("expect", other(expect, &plain.expect));
    say("require", other(require, &plain.require));
    say("families", other(families, &plain.families));
    say("addresses", other(addresses, &plain.addresses));
    say("connect_timeout", ms(connect_timeout_ms, plain.connect_timeout_ms));
    say("timeout", ms(timeout_ms, plain.timeout_ms));
    say("max_latency", max_latency_ms.map(|most| Millis(most).to_string()));
    say("via", via);
    let topology = topology.map(|agent::Topology { kind, master }| [Some(kind), master]);
    say("topology", topology.map(|parts| parts.into_iter().flatten().collect::<Vec<_>>().join(":")));
    let statuses: Vec<String> = http_status.iter().map(|range| format!("{}-{}", range.from, range.to)).collect();
    say("status", (!statuses.is_empty()).then(|| statuses.join("|")));
    say("body", http_body.as_deref().map(digest));
    let (tls, plain) = (tls.unwrap_or_default(), plain.tls.unwrap_or_default());
    let agent::TlsOptions { server_name, ca_pem, ca_file, cert_file, key_file, min_version, fingerprint, upgrade } =
        tls;
    say("tls", upgrade.then(|| "upgrade".to_owned()));
    say("server_name", server_name);
    say("ca_pem", ca_pem.as_deref().map(digest));
    say("ca_file", ca_file);
    say("cert_file", cert_file);
    say("key_file", key_file);
    say("min_version", other(min_version, &plain.min_version));
    say("fingerprint", fingerprint.map(|hex| hex.chars().take(DIGITS).collect()));
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use preflight_core::observation::Proof;
    use preflight_core::spec::{HttpOptions, StatusRange};

    use super::*;

    fn of(url: &str, change: impl FnOnce(&mut ProbeSpec)) -> Labels {
        let mut spec = ProbeSpec::new(url.parse().unwrap());
        change(&mut spec);
        Labels::of(&spec)
    }

    #[test]
    fn defaults_are_not_said_and_the_rest_is() {
        assert_eq!(of("redis://a", |_| ()).with(&[]), [("target", "redis://a:6379")]);
        let said = of("https://a", |spec| {
            spec.timeout = Millis(2_000);
            spec.require = Proof::Encrypted;
            spec.tls.server_name = Some("b".into());
            spec.http = HttpOptions { status: vec![StatusRange { from: 200, to: 204 }], body: None };
        });
        assert_eq!(&*said.options, "require=encrypted, timeout=2s, status=200-204, server_name=b");
    }

    #[test]
    fn what_is_long_is_bounded_and_still_told_apart() {
        let pem = |text: &str| of("tls://a:1", |spec| spec.tls.ca_pem = Some(text.into()));
        assert_ne!(pem("one"), pem("two"));
        let name = |end: &str| of("tls://a:1", |spec| spec.tls.ca_file = Some(format!("/{}{end}", "x".repeat(1_000))));
        assert_ne!(name("1"), name("2"));
        assert!(name("1").options.chars().count() <= WRITTEN + DIGITS + 2);
    }
}

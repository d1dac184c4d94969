//! The last result of each target and the agent's own state, as `OpenMetrics` text with the names that people know.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use preflight_core::observation::{Observation, Outcome, Phases, Report};
use preflight_core::spec::ProbeSpec;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use crate::labels::Labels;
use crate::prober::Prober;

/// What the agent tells of itself. Kept small: the last result of at most [`Metrics::MAX_TARGETS`] targets, each with its options.
#[derive(Debug, Default)]
pub struct Metrics {
    connected: AtomicBool,
    outcomes: [AtomicU64; OUTCOMES.len()],
    last: Mutex<Last>,
}

/// In the order of [`Metrics::outcomes`].
const OUTCOMES: [&str; 3] = ["ok", "short", "void"];

#[derive(Debug, Default)]
struct Last {
    /// Counts results, so that the oldest is known.
    count: u64,
    results: BTreeMap<Labels, Seen>,
}

/// The last result of a target with its options.
#[derive(Debug)]
struct Seen {
    nth: u64,
    outcome: Outcome,
    phases: Phases,
    /// When the first certificate that was presented ends, in seconds since 1970.
    certificate_until: Option<i64>,
    /// 4 or 6, where every address is of one family.
    protocol: Option<u32>,
}

impl Metrics {
    /// Beyond this many targets the one whose last result is the oldest is forgotten.
    pub const MAX_TARGETS: usize = 1_000;
    /// The type of [`Metrics::text`].
    pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// Notes whether the controller has taken this agent's stream.
    pub fn connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
    }

    /// Whether this agent can be asked.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Takes note of a probe that has ended.
    pub fn record(&self, spec: &ProbeSpec, report: &Report) {
        let outcome = report.outcome(spec);
        if let Some(count) =
            OUTCOMES.iter().position(|name| *name == outcome.as_str()).and_then(|i| self.outcomes.get(i))
        {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let labels = Labels::of(spec);
        let mut last = self.last();
        last.count += 1;
        let seen = Seen::new(last.count, outcome, report);
        last.results.insert(labels, seen);
        if last.results.len() > Self::MAX_TARGETS {
            let oldest = last.results.iter().min_by_key(|(_, seen)| seen.nth).map(|(labels, _)| labels.clone());
            oldest.and_then(|labels| last.results.remove(&labels));
        }
    }

    /// All of it as text.
    pub fn text(self: &Arc<Self>) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self.clone()));
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn new(nth: u64, outcome: Outcome, report: &Report) -> Self {
        let of_target = || report.observations.iter().filter(|seen| seen.member.is_none());
        let slowest = |phase: fn(&Phases) -> Option<f64>| {
            of_target().filter_map(|seen: &Observation| phase(&seen.phases)).reduce(f64::max)
        };
        let phases = Phases {
            resolve_ms: slowest(|phases| phases.resolve_ms),
            connect_ms: slowest(|phases| phases.connect_ms),
            proxy_ms: slowest(|phases| phases.proxy_ms),
            tls_ms: slowest(|phases| phases.tls_ms),
            protocol_ms: slowest(|phases| phases.protocol_ms),
        };
        let chains = report.observations.iter().filter_map(|seen| seen.tls.as_ref());
        let certificate_until = chains.flat_map(|tls| &tls.chain).map(|one| one.not_after.as_second()).min();
        let mut families = of_target().filter_map(|seen| seen.address).map(|a| if a.is_ipv4() { 4 } else { 6 });
        let protocol = families.next().filter(|first| families.all(|other| other == *first));
        Self { nth, outcome, phases, certificate_until, protocol }
    }

    fn phases(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let Phases { resolve_ms, connect_ms, proxy_ms, tls_ms, protocol_ms } = self.phases;
        let named = [
            ("resolve", resolve_ms),
            ("connect", connect_ms),
            ("proxy", proxy_ms),
            ("tls", tls_ms),
            ("protocol", protocol_ms),
        ];
        // No zero for a phase that was not reached.
        named.into_iter().filter_map(|(phase, ms)| Some((phase, ms? / 1e3)))
    }
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let gauge = MetricType::Gauge;
        let last = self.last();

        let help = "Whether the target's last probe met the expectation; absent where that says nothing of the target";
        let mut family = encoder.encode_descriptor("probe_success", help, None, gauge)?;
        for (labels, seen) in &last.results {
            let success = match seen.outcome {
                Outcome::Ok => 1_u32,
                Outcome::Short(_) => 0,
                Outcome::Void(_) => continue,
            };
            family.encode_family(&labels.with(&[]))?.encode_gauge(&success)?;
        }
        let help = "The slowest of each phase that the target's last probe went through";
        let mut family = encoder.encode_descriptor("probe_duration_seconds", help, None, gauge)?;
        for (labels, seen) in &last.results {
            for (phase, seconds) in seen.phases() {
                family.encode_family(&labels.with(&[("phase", phase)]))?.encode_gauge(&seconds)?;
            }
        }
        let help = "Why the target's last probe fell short, or does not count";
        let mut family = encoder.encode_descriptor("probe_failure_info", help, None, gauge)?;
        for (labels, seen) in &last.results {
            if let Some(reason) = seen.outcome.reason() {
                family.encode_family(&labels.with(&[("reason", reason)]))?.encode_gauge(&1_u32)?;
            }
        }
        let help = "When the first certificate that the target presented ends, in seconds since 1970";
        let mut family = encoder.encode_descriptor("probe_ssl_earliest_cert_expiry", help, None, gauge)?;
        for (labels, seen) in &last.results {
            if let Some(until) = &seen.certificate_until {
                family.encode_family(&labels.with(&[]))?.encode_gauge(until)?;
            }
        }
        let help = "4 or 6, where every address of the target is of one family";
        let mut family = encoder.encode_descriptor("probe_ip_protocol", help, None, gauge)?;
        for (labels, seen) in &last.results {
            if let Some(protocol) = &seen.protocol {
                family.encode_family(&labels.with(&[]))?.encode_gauge(protocol)?;
            }
        }
        drop(last);

        let help = "Whether the controller has this agent's stream";
        let connected = u32::from(self.is_connected());
        encoder.encode_descriptor("preflight_agent_connected", help, None, gauge)?.encode_gauge(&connected)?;
        let help = "Probes that have ended";
        let mut family = encoder.encode_descriptor("preflight_agent_probes", help, None, MetricType::Counter)?;
        for (outcome, count) in OUTCOMES.iter().zip(&self.outcomes) {
            let count = count.load(Ordering::Relaxed);
            let none: Option<&Exemplar<NoLabelSet, u64>> = None;
            family.encode_family(&[("outcome", *outcome)])?.encode_counter(&count, none)?;
        }
        let help = "The version of this agent";
        let mut family = encoder.encode_descriptor("preflight_agent_build_info", help, None, gauge)?;
        family.encode_family(&[("version", env!("CARGO_PKG_VERSION"))])?.encode_gauge(&1_u32)
    }
}

/// A prober whose results are recorded.
#[derive(Debug)]
pub struct Recorded<P> {
    prober: P,
    metrics: Arc<Metrics>,
}

impl<P: Prober> Recorded<P> {
    /// Records in `metrics` what `prober` sees.
    pub fn new(prober: P, metrics: Arc<Metrics>) -> Self {
        Self { prober, metrics }
    }
}

impl<P: Prober> Prober for Recorded<P> {
    async fn probe(&self, spec: &ProbeSpec) -> Report {
        let report = self.prober.probe(spec).await;
        self.metrics.record(spec, &report);
        report
    }
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;

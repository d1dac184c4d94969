//! `preflight probe --local --watch`: again and again, with loss and latency percentiles at the end.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use preflight_core::observation::{Observation, Outcome};
use preflight_probe::Engine;
use preflight_proto::api::{ProbeResult, State};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use super::local::{Wanted, broke_off, probe_all};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, OutputArgs};
use crate::render;

/// At most this many latencies of an endpoint are kept, the newest.
const KEPT: usize = 10_000;

/// At most this many addresses and members of a target have a row of their own, more than one round can show; those that
/// came later share one, since names that rotate their addresses give new ones for ever.
const ROWS: usize = 160;

/// What stands for the addresses beyond those.
const OTHERS: &str = "other addresses";

/// An address or member of a target, over all rounds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Endpoint {
    /// The dependency's name, where a manifest has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dependency: Option<String>,
    /// The target's URL.
    pub(crate) target: String,
    /// The member, as `role host:port`, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) member: Option<String>,
    /// The address; none where the name gave none; `other addresses` for all that are too many.
    pub(crate) address: Option<String>,
    /// How often it was probed.
    pub(crate) probes: u64,
    /// How often it was not ok.
    pub(crate) failed: u64,
    /// Why, and how often.
    pub(crate) reasons: BTreeMap<&'static str, u64>,
    /// Connect attempts, and how many of them met silence.
    pub(crate) attempts: u64,
    /// Of those, how many met silence.
    pub(crate) silent: u64,
    /// Latencies of the probes that were ok, names left out; none if none was.
    pub(crate) latency_ms: Option<Percentiles>,
    #[serde(skip)]
    latencies: VecDeque<f64>,
}

/// How long probes took, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Percentiles {
    /// The shortest.
    pub(crate) min: f64,
    /// Half were at most this.
    pub(crate) p50: f64,
    /// 9 of 10.
    pub(crate) p90: f64,
    /// 99 of 100.
    pub(crate) p99: f64,
    /// The longest.
    pub(crate) max: f64,
}

/// A round, as JSON has it: a line for each.
#[derive(Serialize)]
struct Round<'a> {
    at: String,
    results: &'a [ProbeResult],
}

/// The last line of JSON.
#[derive(Serialize)]
struct Summary<'a> {
    endpoints: &'a [Endpoint],
}

/// Runs it until it is stopped, or `count` rounds are done. All must have passed for a 0.
pub(super) async fn run(
    engine: &Arc<Engine>,
    wanted: &[Wanted],
    every: Duration,
    count: Option<u64>,
    output: OutputArgs,
) -> Result<Exit, Failure> {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut endpoints: Vec<Endpoint> = Vec::new();
    let mut exits = vec![Exit::Proceed];
    let mut rounds = 0;
    let failed = |error| Failure::no_verdict(format!("cannot listen for signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    while count.is_none_or(|count| rounds < count) {
        let round = async {
            ticks.tick().await;
            let mut probes = probe_all(engine, wanted);
            let mut results = Vec::new();
            while let Some(probe) = probes.join_next().await {
                results.push(probe.map_err(|error| broke_off(&error))?);
            }
            results.sort_by_key(|(index, _)| *index);
            Ok::<Vec<ProbeResult>, Failure>(results.into_iter().map(|(_, result)| result).collect())
        };
        let results = tokio::select! {
            results = round => results?,
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        };
        rounds += 1;
        let at = jiff::Timestamp::now();
        exits.extend(results.iter().map(|result| Exit::of_state(result.outcome)));
        exits = vec![Exit::over(exits)];
        for result in &results {
            for observation in &result.addresses {
                endpoint(&mut endpoints, result, observation).add(observation);
            }
        }
        if output.is_json() {
            output::json_line(&Round { at: at.to_string(), results: &results })?;
        } else {
            output::text(&render::local::round(at, &results, output::width()))?;
        }
    }
    for endpoint in &mut endpoints {
        endpoint.latency_ms = percentiles(&endpoint.latencies);
    }
    if output.is_json() {
        output::json_line(&Summary { endpoints: &endpoints })?;
    } else {
        output::text(&render::local::watched(&endpoints, output::width()))?;
    }
    engine.settled().await;
    // Stopped before anything was known.
    Ok(if rounds == 0 { Exit::over([Exit::of_state(State::Unknown)]) } else { Exit::over(exits) })
}

/// The row that an observation belongs to. The rows of a target stand together.
fn endpoint<'a>(endpoints: &'a mut Vec<Endpoint>, result: &ProbeResult, observation: &Observation) -> &'a mut Endpoint {
    let mut member = observation.member.as_ref().map(|m| format!("{} {}", m.role.as_str(), m.endpoint));
    let mut address = observation.address.map(|address| address.to_string());
    let same = |e: &Endpoint| e.dependency == result.dependency && e.target == result.target;
    let known = |all: &[Endpoint], member: &Option<String>, address: &Option<String>| {
        all.iter().position(|e| same(e) && e.member == *member && e.address == *address)
    };
    let mut index = known(endpoints, &member, &address);
    if index.is_none() && endpoints.iter().filter(|e| same(e)).count() >= ROWS {
        (member, address) = (None, Some(OTHERS.to_owned()));
        index = known(endpoints, &member, &address);
    }
    let index = index.unwrap_or_else(|| {
        let last = endpoints.iter().rposition(same).map_or(endpoints.len(), |last| last + 1);
        endpoints.insert(
            last,
            Endpoint {
                dependency: result.dependency.clone(),
                target: result.target.clone(),
                member,
                address,
                probes: 0,
                failed: 0,
                reasons: BTreeMap::new(),
                attempts: 0,
                silent: 0,
                latency_ms: None,
                latencies: VecDeque::new(),
            },
        );
        last
    });
    &mut endpoints[index]
}

impl Endpoint {
    fn add(&mut self, observation: &Observation) {
        self.probes += 1;
        self.attempts += observation.attempts.len() as u64;
        self.silent += observation.attempts.iter().filter(|attempt| attempt.result == "silent").count() as u64;
        match observation.outcome {
            Outcome::Ok => {
                if self.latencies.len() == KEPT {
                    self.latencies.pop_front();
                }
                self.latencies.push_back(observation.phases.beyond_resolve_ms());
            }
            Outcome::Short(_) | Outcome::Void(_) => {
                self.failed += 1;
                *self.reasons.entry(observation.outcome.reason().unwrap_or_default()).or_default() += 1;
            }
        }
    }
}

/// By the nearest rank: each is a latency that was measured.
fn percentiles(latencies: &VecDeque<f64>) -> Option<Percentiles> {
    let mut sorted: Vec<f64> = latencies.iter().copied().collect();
    sorted.sort_by(f64::total_cmp);
    let rank = |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied();
    Some(Percentiles { min: *sorted.first()?, p50: rank(50)?, p90: rank(90)?, p99: rank(99)?, max: *sorted.last()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_rotates_its_addresses_fills_no_more_than_its_rows() {
        let result = |target: &str| ProbeResult {
            dependency: None,
            target: target.to_owned(),
            region: None,
            fleet: None,
            agent: None,
            outcome: State::Pass,
            reason: None,
            proof: None,
            addresses: Vec::new(),
            addresses_in_all: None,
            members_in_all: None,
        };
        let mut endpoints = Vec::new();
        for host in 0..2 * u32::try_from(ROWS).unwrap() {
            for target in ["tcp://one:1", "tcp://two:1"] {
                let address = std::net::Ipv4Addr::from(0x0a00_0000 + host);
                let seen = Observation::new(Some((address, 1).into()), Outcome::Ok);
                endpoint(&mut endpoints, &result(target), &seen).add(&seen);
            }
        }
        assert_eq!(endpoints.len(), 2 * (ROWS + 1));
        assert_eq!(endpoints.iter().map(|e| e.probes).sum::<u64>(), 4 * ROWS as u64, "none is lost");
        let rest: Vec<u64> =
            endpoints.iter().filter(|e| e.address.as_deref() == Some(OTHERS)).map(|e| e.probes).collect();
        assert_eq!(rest, [ROWS as u64; 2]);
        let first = endpoints.iter().take_while(|e| e.target == "tcp://one:1").count();
        assert_eq!(first, ROWS + 1, "the rows of a target stand together");
    }

    #[test]
    fn percentiles_are_latencies_that_were_measured() {
        let of = |numbers: &[f64]| percentiles(&numbers.iter().copied().collect());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[7.0]), Some(Percentiles { min: 7.0, p50: 7.0, p90: 7.0, p99: 7.0, max: 7.0 }));
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(of(&hundred), Some(Percentiles { min: 1.0, p50: 50.0, p90: 90.0, p99: 99.0, max: 100.0 }));
    }
}

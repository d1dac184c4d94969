//! `preflight probe --local --watch`: again and again, with loss and latency percentiles at the end.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use preflight_core::observation::{Observation, Outcome};
use preflight_probe::Engine;
use preflight_proto::api::{ProbeResult, State};
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};

use super::local::{Wanted, broke_off, probe_all};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, OutputArgs};
use crate::render;

/// At most this many latencies of an endpoint are kept, the newest.
const KEPT: usize = 10_000;

/// An address or member of a target, over all rounds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Endpoint {
    /// The target's URL.
    pub(crate) target: String,
    /// The member, as `role host:port`, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) member: Option<String>,
    /// The address; none where the name gave none.
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
    let stop = tokio::signal::ctrl_c();
    tokio::pin!(stop);
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
            _ = &mut stop => break,
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

fn endpoint<'a>(endpoints: &'a mut Vec<Endpoint>, result: &ProbeResult, observation: &Observation) -> &'a mut Endpoint {
    let member = observation.member.as_ref().map(|m| format!("{} {}", m.role.as_str(), m.endpoint));
    let address = observation.address.map(|address| address.to_string());
    let known = |e: &Endpoint| e.target == result.target && e.member == member && e.address == address;
    let index = endpoints.iter().position(known).unwrap_or_else(|| {
        endpoints.push(Endpoint {
            target: result.target.clone(),
            member: member.clone(),
            address: address.clone(),
            probes: 0,
            failed: 0,
            reasons: BTreeMap::new(),
            attempts: 0,
            silent: 0,
            latency_ms: None,
            latencies: VecDeque::new(),
        });
        endpoints.len() - 1
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
    fn percentiles_are_latencies_that_were_measured() {
        let of = |numbers: &[f64]| percentiles(&numbers.iter().copied().collect());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[7.0]), Some(Percentiles { min: 7.0, p50: 7.0, p90: 7.0, p99: 7.0, max: 7.0 }));
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(of(&hundred), Some(Percentiles { min: 1.0, p50: 50.0, p90: 90.0, p99: 99.0, max: 100.0 }));
    }
}

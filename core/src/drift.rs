//! Whether hosts that should be alike to network policy are: the hosts of one fleet, and the fleets of one application in a region.
//!
//! Fleets with other security groups reach what the others do only as long as somebody thinks of each group. The comparison needs no
//! probe and no deploy: it goes by the identities that agents last told, and by what was last seen of each cell.

use std::collections::{BTreeMap, BTreeSet};

use crate::findings::{Finding, Kind};
use crate::identity::{KeyRule, NetworkIdentity};
use crate::matrix::State;
use crate::plan::FleetId;
use crate::text::escape;

/// What fleets of one application are compared by: what others' rules admit. Labels tell fleets apart on purpose.
pub const OF_FLEETS: [&str; 4] = ["security_group", "vpc", "namespace", "service_account"];
/// What the hosts of one fleet differ in on purpose: a fleet is spread over zones.
const SPREAD: [&str; 2] = ["subnet", "zone"];
/// As many hosts, or differences, are named.
const NAMED: usize = 5;

/// A fleet as its agents tell of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Fleet {
    /// Which.
    pub id: FleetId,
    /// What the inventory states.
    pub stated: NetworkIdentity,
    /// Its agents and what each told; empty where it has none.
    pub hosts: Vec<(String, NetworkIdentity)>,
}

/// What was last seen of a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastSeen {
    /// The fleet's name in the region.
    pub fleet: String,
    /// The dependency.
    pub dependency: String,
    /// The state.
    pub state: State,
    /// Why it is not `pass`.
    pub reason: Option<String>,
    /// When, RFC 3339.
    pub at: String,
}

/// What is left out of the comparison: `KEY`, or one value of it as `KEY=VALUE`, which somebody knows to differ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ignored(pub Vec<String>);

impl Ignored {
    fn has(&self, key: &str, value: &str) -> bool {
        self.0.iter().any(|ignored| match ignored.split_once('=') {
            Some((k, v)) => (k, v) == (key, value),
            None => ignored == key,
        })
    }
}

/// What comparing the fleets of one application in one region shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// `pass` without drift, `fail` with; `unknown` where something could not be compared.
    pub state: State,
    /// What differs.
    pub findings: Vec<Finding>,
    /// What could not be compared, and why.
    pub unknown: Vec<String>,
}

/// Compares the fleets that run an application in a region.
pub fn of_region(application: &str, fleets: &[Fleet], last: &[LastSeen], rule: &KeyRule, ignored: &Ignored) -> Drift {
    let mut texts: Vec<(Option<&str>, String)> = Vec::new();
    let mut unknown: Vec<String> = Vec::new();
    for fleet in fleets {
        let mismatches =
            fleet.hosts.iter().filter_map(|(agent, identity)| Some((agent, identity.mismatch(&fleet.stated)?)));
        let mismatches: Vec<_> = mismatches.collect();
        texts.extend(
            mismatches.iter().map(|(agent, wrong)| (None, format!("{} of {}: {wrong}.", escape(agent), fleet.id))),
        );
        let hosts: Vec<(&str, &NetworkIdentity)> = fleet.hosts.iter().map(|(agent, of)| (agent.as_str(), of)).collect();
        let within = within(&hosts, rule, ignored);
        let told = |d: &&Difference<'_>| mismatches.iter().any(|(_, wrong)| wrong.attribute == d.key);
        let fresh: Vec<&Difference<'_>> = within.iter().filter(|d| !told(d)).collect();
        texts.extend(describe(&fleet.id, &fresh).map(|text| (None, text)));
        if fleet.hosts.is_empty() {
            unknown.push(format!("{}: it has no agent", fleet.id));
        } else if !fleet
            .hosts
            .iter()
            .any(|(_, of)| OF_FLEETS.iter().any(|key| of.0.get(*key).is_some_and(|v| !v.is_empty())))
        {
            unknown.push(format!("{}: its agents tell neither security group nor VPC nor namespace", fleet.id));
        }
    }
    for key in OF_FLEETS.iter().filter(|key| rule.0.as_ref().is_none_or(|named| named.contains(**key))) {
        texts.extend(between(application, fleets, key, ignored, &mut unknown).map(|text| (None, text)));
    }
    texts.extend(results(fleets, last).into_iter().map(|(dependency, text)| (Some(dependency), text)));
    let state = match (texts.is_empty(), unknown.is_empty() && !fleets.is_empty()) {
        (false, _) => State::Fail,
        (true, true) => State::Pass,
        (true, false) => State::Unknown,
    };
    let finding = |(dependency, text): (Option<&str>, String)| Finding {
        dependency: dependency.unwrap_or_default().to_owned(),
        ..Finding::new(Kind::Drift, text)
    };
    Drift { state, findings: texts.into_iter().map(finding).collect(), unknown }
}

/// A value that some hosts of a fleet carry and others do not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference<'a> {
    pub(crate) key: &'a str,
    pub(crate) value: &'a str,
    with: BTreeSet<&'a str>,
    /// The others, where they are the fewer.
    without: BTreeSet<&'a str>,
    /// How many hosts there are.
    of: usize,
}

/// In what the hosts of one fleet differ, by what makes them alike to network policy; zones and subnets apart.
pub(crate) fn within<'a>(
    hosts: &[(&'a str, &'a NetworkIdentity)],
    rule: &KeyRule,
    ignored: &Ignored,
) -> Vec<Difference<'a>> {
    let counts = |key: &str| match &rule.0 {
        Some(named) => named.contains(key),
        None => !KeyRule::PER_POD.contains(&key) && !SPREAD.contains(&key),
    };
    let mut carriers: BTreeMap<(&'a str, &'a str), BTreeSet<&'a str>> = BTreeMap::new();
    for (agent, identity) in hosts {
        for (key, values) in identity.shared().filter(|(key, _)| counts(key)) {
            for value in values.iter().filter(|value| !ignored.has(key, value)) {
                carriers.entry((key, value)).or_default().insert(agent);
            }
        }
    }
    let differing = carriers.into_iter().filter(|(_, with)| with.len() < hosts.len());
    let difference = |((key, value), with): ((&'a str, &'a str), BTreeSet<&'a str>)| {
        // As many of the others as can be named, where they are the fewer.
        let few = with.len() * 2 > hosts.len();
        let others = hosts.iter().map(|(agent, _)| *agent).filter(|agent| few && !with.contains(agent));
        Difference { key, value, without: others.collect(), with, of: hosts.len() }
    };
    differing.map(difference).collect()
}

/// The differences of a fleet's hosts in words; none where there are none.
pub(crate) fn describe(fleet: &FleetId, differences: &[&Difference<'_>]) -> Option<String> {
    let one = |d: &&Difference<'_>| {
        let (with, all) = (d.with.len(), d.of);
        let who = if d.without.is_empty() { named(&d.with) } else { format!("not {}", named(&d.without)) };
        format!("{} {} is carried by {with} of {all} ({who})", escape(d.key), escape(d.value))
    };
    let list: Vec<String> = differences.iter().take(NAMED).map(one).collect();
    (!list.is_empty()).then(|| {
        let more = match differences.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        format!(
            "The hosts of {fleet} are not alike: {}{more}. What admits some of them may turn the others away.",
            list.join("; ")
        )
    })
}

fn named(who: &BTreeSet<&str>) -> String {
    let names: Vec<String> = who.iter().take(NAMED).map(|name| escape(name)).collect();
    match who.len().saturating_sub(NAMED) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

/// How the fleets differ in one attribute: by what all hosts of each carry.
fn between(
    application: &str,
    fleets: &[Fleet],
    key: &str,
    ignored: &Ignored,
    unknown: &mut Vec<String>,
) -> Option<String> {
    let mut by_values: BTreeMap<BTreeSet<&str>, Vec<&str>> = BTreeMap::new();
    let mut silent: Vec<String> = Vec::new();
    for fleet in fleets.iter().filter(|fleet| !fleet.hosts.is_empty()) {
        let sets = fleet.hosts.iter().map(|(_, of)| of.0.get(key).into_iter().flatten().map(String::as_str).collect());
        let common: BTreeSet<&str> =
            sets.reduce(|all: BTreeSet<&str>, one| all.intersection(&one).copied().collect()).unwrap_or_default();
        if common.is_empty() {
            silent.push(format!("{}: no {key} is common to its agents, so it is not compared by that", fleet.id));
            continue;
        }
        let common = common.into_iter().filter(|value| !ignored.has(key, value)).collect();
        by_values.entry(common).or_default().push(&fleet.id.fleet);
    }
    // An attribute that nobody tells is none that policy goes by here.
    if !by_values.is_empty() && !ignored.0.iter().any(|name| name == key) {
        unknown.extend(silent);
    }
    if by_values.len() < 2 {
        return None;
    }
    let region = fleets.first().map(|fleet| fleet.id.region.as_str()).unwrap_or_default();
    let one = |(values, fleets): (&BTreeSet<&str>, &Vec<&str>)| {
        let values = if values.is_empty() { "none of its own".to_owned() } else { named(values) };
        format!("{} {} {values}", fleets.join(", "), if fleets.len() == 1 { "carries" } else { "carry" })
    };
    let list: Vec<String> = by_values.iter().map(one).collect();
    Some(format!(
        "The fleets of {} in {region} differ in {key}: {}. What admits one of them may turn the others away: admit each, or \
         give them one in common.",
        escape(application),
        list.join("; ")
    ))
}

/// Dependencies that some fleets reached when last seen and others did not.
fn results<'a>(fleets: &[Fleet], last: &'a [LastSeen]) -> Vec<(&'a str, String)> {
    let mut by_dependency: BTreeMap<&str, (Vec<String>, Vec<String>, &str)> = BTreeMap::new();
    for seen in last.iter().filter(|seen| fleets.iter().any(|fleet| fleet.id.fleet == seen.fleet)) {
        let (pass, fail, at) = by_dependency.entry(&seen.dependency).or_default();
        let why = seen.reason.as_deref().map_or_else(String::new, |why| format!(" ({})", escape(why)));
        match seen.state {
            State::Pass => pass.push(escape(&seen.fleet)),
            State::Fail => fail.push(format!("{}{why}", escape(&seen.fleet))),
            State::Unknown => {}
        }
        *at = (*at).max(&seen.at);
    }
    by_dependency.retain(|_, (pass, fail, _)| !pass.is_empty() && !fail.is_empty());
    let text = |(dependency, (pass, fail, at)): (&'a str, (Vec<String>, Vec<String>, &str))| {
        let name = escape(dependency);
        (
            dependency,
            format!("{name} passes from {} and fails from {}, as last seen at {at}.", pass.join(", "), fail.join(", ")),
        )
    };
    by_dependency.into_iter().map(text).collect()
}

#[cfg(test)]
#[path = "drift_tests.rs"]
mod tests;

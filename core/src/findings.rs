//! What comparing cells shows. Each kind is a file of its name; [`find`] tells what explains most first, and nothing twice.

use std::collections::{BTreeMap, BTreeSet};

use crate::identity::NetworkIdentity;
use crate::matrix::{Answer, State};
use crate::observation::{Outcome, Report};
use crate::plan::FleetId;
use crate::reason::Short;
use crate::text::escape;
use crate::verdict::JudgedCell;

mod address_short;
mod asymmetry;
mod drift;
mod everywhere;
mod impact;
mod note;
mod one_address;
mod one_host;
mod one_member;
mod one_zone;
mod silent_agent;
mod uncovered;

pub use impact::missing_usage;

/// A conclusion drawn by comparing cells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What kind.
    pub kind: Kind,
    /// The dependency it is about; empty where it is about a fleet.
    pub dependency: String,
    /// Other dependencies of which the same is true.
    pub also: Vec<String>,
    /// In words.
    pub text: String,
    /// What all hosts that reach it carry and none that fails does, the best explanation first.
    pub attributes: Vec<Attribute>,
    /// The reverse: what all hosts that fail carry and none that reaches it does.
    pub failing_attributes: Vec<Attribute>,
}

impl Finding {
    /// One that is about a fleet, or for which a dependency is set after.
    pub(crate) fn new(kind: Kind, text: String) -> Self {
        Self {
            kind,
            dependency: String::new(),
            also: Vec::new(),
            text,
            attributes: Vec::new(),
            failing_attributes: Vec::new(),
        }
    }
}

/// An attribute of network identities with one of its values, and how many hosts of each side carry it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// Such as `security_group`.
    pub key: String,
    /// Such as `sg-worker`.
    pub value: String,
    /// Of the hosts that reach it, how many carry this.
    pub carried_by_ok: usize,
    /// How many hosts reach it.
    pub ok: usize,
    /// Of the hosts that fail, how many carry this.
    pub carried_by_short: usize,
    /// How many hosts fail.
    pub short: usize,
}

/// The kinds of findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It fails from all fleets for one reason: the target, not a fleet's network.
    Everywhere,
    /// Some hosts reach a dependency and others do not.
    Asymmetry,
    /// The hosts of one zone do not reach it, those of the others do.
    OneZone,
    /// One address of several falls short, from whoever tries it.
    OneAddress,
    /// One member of several falls short, from whoever tries it.
    OneMember,
    /// What shipping this would do.
    Impact,
    /// One sick host in a fleet that is otherwise well.
    OneHost,
    /// Hosts that should be alike are not.
    Drift,
    /// A fleet that has agents and that the inventory lacks, or the reverse.
    Uncovered,
    /// An address fell short beside a pass.
    AddressShort,
    /// Agents did not answer beside a pass.
    SilentAgent,
    /// What to know beside a pass, such as that the server asks for a login.
    Note,
}

impl Kind {
    /// The contract name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Everywhere => "everywhere",
            Self::Asymmetry => "asymmetry",
            Self::OneZone => "one_zone",
            Self::OneAddress => "one_address",
            Self::OneMember => "one_member",
            Self::Impact => "impact",
            Self::OneHost => "one_host",
            Self::Drift => "drift",
            Self::Uncovered => "uncovered",
            Self::AddressShort => "address_short",
            Self::SilentAgent => "silent_agent",
            Self::Note => "note",
        }
    }
}

/// Compares the cells of one region, and names its fleets that the inventory lacks.
pub fn find<'a>(cells: &[&JudgedCell<'_>], unlisted: impl IntoIterator<Item = &'a FleetId>) -> Vec<Finding> {
    let mut explained: Vec<Draft> = Seen::all(cells).iter().filter_map(explain).collect();
    let drift = drift::find(cells, &explained);
    let odd: BTreeSet<String> =
        explained.iter().filter(|d| d.kind == Kind::OneAddress).map(|d| d.dependency.clone()).collect();
    explained.sort_by_key(|draft| (std::cmp::Reverse(draft.explains), draft.kind));
    let mut findings = merge(explained);
    findings.extend(impact::find(cells));
    findings.extend(cells.iter().filter_map(|cell| one_host::find(cell)));
    findings.extend(drift);
    findings.extend(uncovered::find(cells, unlisted));
    findings.extend(merge(address_short::find(cells, &odd)));
    findings.extend(silent_agent::find(cells));
    findings.extend(merge(note::find(cells)));
    findings
}

/// Why a dependency is not reached: at most one explanation, the closest.
fn explain(seen: &Seen<'_>) -> Option<Draft> {
    one_member::find(seen)
        .or_else(|| one_address::find(seen))
        .or_else(|| everywhere::find(seen))
        .or_else(|| asymmetry::find(seen))
}

/// What one host saw of a dependency.
#[derive(Debug, Clone, Copy)]
struct Host<'a> {
    agent: &'a str,
    fleet: &'a FleetId,
    identity: &'a NetworkIdentity,
    report: &'a Report,
    outcome: Outcome,
}

impl Host<'_> {
    fn reason(&self) -> Option<Short> {
        match self.outcome {
            Outcome::Short(reason) => Some(reason),
            Outcome::Ok | Outcome::Void(_) => None,
        }
    }
}

/// A dependency as the fleets of one region saw it.
#[derive(Debug)]
struct Seen<'a> {
    dependency: &'a str,
    /// Whether there must be no path.
    blocked: bool,
    cells: Vec<&'a JudgedCell<'a>>,
    ok: Vec<Host<'a>>,
    /// Hosts that fell short, of cells that fail: one that others refuted is on neither side.
    short: Vec<Host<'a>>,
}

impl<'a> Seen<'a> {
    /// Each dependency, in the order of the plan. A path that must be blocked is no asymmetry beside one that must be open.
    fn all(cells: &[&'a JudgedCell<'a>]) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        let mut places: BTreeMap<(&str, bool), usize> = BTreeMap::new();
        for cell in cells {
            let (dependency, blocked) = (cell.cell.dependency.as_str(), cell.must_be_blocked());
            let place = *places.entry((dependency, blocked)).or_insert(all.len());
            if place == all.len() {
                all.push(Self { dependency, blocked, cells: Vec::new(), ok: Vec::new(), short: Vec::new() });
            }
            if let Some(seen) = all.get_mut(place) {
                seen.add(cell);
            }
        }
        all
    }

    fn add(&mut self, cell: &'a JudgedCell<'a>) {
        self.cells.push(cell);
        for witness in &cell.witnesses {
            let (Some(testimony), Answer::Given(outcome)) = (witness.testimony, witness.answer) else { continue };
            let side = match outcome {
                Outcome::Ok => &mut self.ok,
                Outcome::Short(_) if cell.folded.state == State::Fail => &mut self.short,
                Outcome::Short(_) | Outcome::Void(_) => continue,
            };
            let (identity, report) = (&testimony.identity, &testimony.report);
            side.push(Host { agent: witness.agent, fleet: &cell.cell.fleet, identity, report, outcome });
        }
    }

    fn failing_cells(&self) -> usize {
        self.cells.iter().filter(|cell| cell.folded.state == State::Fail).count()
    }
}

/// A finding about a dependency before those that say the same of others are merged into it.
#[derive(Debug)]
struct Draft {
    kind: Kind,
    dependency: String,
    /// What follows the dependency's name.
    rest: String,
    attributes: Vec<Attribute>,
    failing_attributes: Vec<Attribute>,
    /// How many failing cells it explains.
    explains: usize,
    /// Fleets with hosts on both sides.
    split: BTreeSet<FleetId>,
}

impl Draft {
    fn new(kind: Kind, dependency: &str, rest: String) -> Self {
        Self {
            kind,
            dependency: dependency.to_owned(),
            rest,
            attributes: Vec::new(),
            failing_attributes: Vec::new(),
            explains: 0,
            split: BTreeSet::new(),
        }
    }
}

/// What is the same of several dependencies is said once.
fn merge(drafts: Vec<Draft>) -> Vec<Finding> {
    let mut merged: Vec<(Draft, Vec<String>)> = Vec::new();
    for draft in drafts {
        let same = |(known, _): &&mut (Draft, Vec<String>)| {
            (known.kind, &known.rest) == (draft.kind, &draft.rest) && known.attributes == draft.attributes
        };
        match merged.iter_mut().find(same) {
            Some((known, also)) if known.dependency != draft.dependency => also.push(draft.dependency),
            Some(_) => {}
            None => merged.push((draft, Vec::new())),
        }
    }
    let finding = |(draft, also): (Draft, Vec<String>)| {
        let names: Vec<String> = std::iter::once(&draft.dependency).chain(&also).map(|name| escape(name)).collect();
        let each = if also.is_empty() { " " } else { ": each " };
        let (attributes, failing_attributes) = (draft.attributes, draft.failing_attributes);
        let text = format!("{}{each}{}", names.join(", "), draft.rest);
        Finding { kind: draft.kind, dependency: draft.dependency, also, text, attributes, failing_attributes }
    };
    merged.into_iter().map(finding).collect()
}

/// Fleets by name, each once, without the region that the finding stands in.
fn fleets_of<'a>(hosts: impl IntoIterator<Item = &'a Host<'a>>) -> BTreeSet<&'a str> {
    hosts.into_iter().map(|host| host.fleet.fleet.as_str()).collect()
}

fn join<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(escape).collect::<Vec<_>>().join(", ")
}

/// Where an agent runs, in brackets, as far as it told.
fn place(identity: &NetworkIdentity) -> String {
    let told = ["host", "address"].iter().filter_map(|key| identity.0.get(*key)?.first());
    let told: Vec<String> = told.map(|value| escape(value)).collect();
    if told.is_empty() { String::new() } else { format!(" (on {})", told.join(", ")) }
}

#[cfg(test)]
#[path = "findings_tests.rs"]
mod tests;

//! From cells to a verdict for each region, with the reasons in words and what to do next.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::baseline::{Duty, Proven};
use crate::decision::is_void;
use crate::fix::fix;
use crate::identity::IdentityKey;
use crate::matrix::{Answer, Folded, Presence, State, Why};
use crate::observation::{Observation, Outcome, Proof};
use crate::plan::{Cell, CellDigest, FleetId, Plan};
use crate::reason::{Short, Unknown, Void};
use crate::run::{Basis, Witness};
use crate::spec::Expect;
use crate::text::escape;

/// A cell with its state and what it rests on.
#[derive(Debug, Clone)]
pub struct JudgedCell<'a> {
    /// The cell.
    pub cell: &'a Cell,
    /// Its digest, worked out once.
    pub digest: &'a CellDigest,
    /// What the run did about it.
    pub duty: &'a Duty,
    /// Its state.
    pub folded: Folded,
    /// What each agent that was asked contributed.
    pub witnesses: Vec<Witness<'a>>,
}

impl JudgedCell<'_> {
    /// Whether the verdict rests on it.
    pub fn is_required(&self) -> bool {
        *self.duty == Duty::Required
    }

    /// Whether the manifest says that there must be no path.
    pub fn must_be_blocked(&self) -> bool {
        self.cell.spec.expect == Expect::Blocked
    }
}

/// The verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Over all regions.
    pub state: State,
    /// For each region of the plan, in its order.
    pub regions: Vec<RegionVerdict>,
}

/// The verdict for one region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionVerdict {
    /// The region.
    pub region: String,
    /// Whether its required cells pass.
    pub state: State,
    /// Why, and what to do next.
    pub reasons: Vec<Reason>,
}

impl RegionVerdict {
    /// Whether something beside its cells holds it back, which no override lifts.
    pub fn is_held(&self) -> bool {
        self.reasons.iter().any(|reason| is_void(reason.code))
    }
}

/// Why, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// `all_pass`, `no_change`, `cell_failed`, `cell_unknown`, `cell_shown` (the verdict does not rest on it), `empty_plan`,
    /// `inventory_stale`, `other_manifest`; of a decision `overridden`, `rollback`, and what the release guard holds back: `locked`,
    /// `quarantined`, `not_named`; where it does not stand any more when its run ends, what [`is_void`] knows.
    pub code: &'static str,
    /// In words.
    pub text: String,
    /// What to do next.
    pub fix: Option<String>,
}

/// The cells of one region.
pub fn of_region<'a, 'b>(cells: &'b [JudgedCell<'a>], region: &str) -> Vec<&'b JudgedCell<'a>> {
    cells.iter().filter(|c| c.cell.fleet.region == region).collect()
}

/// The cells that stand between a verdict and a pass: required ones that do not pass.
pub fn blocking(cells: &[&JudgedCell<'_>]) -> BTreeSet<CellDigest> {
    cells.iter().filter(|c| c.is_required() && c.folded.state != State::Pass).map(|c| c.digest.clone()).collect()
}

/// Gives the verdict. A region of which nothing is required passes only where every cell is proven; beside a rollback it is what is
/// shown. A region without any cell is unknown.
pub fn give(plan: &Plan, cells: &[JudgedCell<'_>], basis: &Basis) -> Verdict {
    let regions: Vec<RegionVerdict> =
        plan.regions.iter().map(|region| give_region(region, &of_region(cells, region), basis)).collect();
    Verdict { state: State::all(regions.iter().map(|r| r.state)), regions }
}

fn give_region(region: &str, cells: &[&JudgedCell<'_>], basis: &Basis) -> RegionVerdict {
    let mut reasons = grouped(cells);
    let unchanged = !cells.is_empty() && cells.iter().all(|c| matches!(c.duty, Duty::Proven(_)));
    let state = if cells.iter().any(|c| c.is_required()) {
        let shown = State::all(cells.iter().filter(|c| c.is_required()).map(|c| c.folded.state));
        match &basis.stale_inventory {
            // Which fleets there are is not known, so neither is that all of them were asked.
            Some(why) => {
                let fix = "Repair the inventory's source, then run the gate again.".to_owned();
                reasons.push(Reason { code: "inventory_stale", text: why.clone(), fix: Some(fix) });
                if shown == State::Pass { State::Unknown } else { shown }
            }
            None => shown,
        }
    } else if let Some(proven) = basis.proven.get(region).filter(|_| unchanged) {
        reasons.push(Reason { code: "no_change", text: no_change(region, cells, proven), fix: None });
        State::Pass
    } else if cells.iter().any(|c| *c.duty == Duty::Shown) {
        State::all(cells.iter().map(|c| c.folded.state))
    } else {
        let text = format!("no dependency is to be shown in {region}, so nothing is known of it");
        let fix = Some("Name a fleet of that region for at least one dependency of the manifest.".to_owned());
        reasons.push(Reason { code: "empty_plan", text, fix });
        State::Unknown
    };
    if state == State::Pass && reasons.is_empty() {
        let proven_before = cells.iter().filter(|c| matches!(c.duty, Duty::Proven(_))).count();
        let cells: Vec<_> = cells.iter().filter(|c| !matches!(c.duty, Duty::Proven(_))).collect();
        let fleets: BTreeSet<&FleetId> = cells.iter().map(|c| &c.cell.fleet).collect();
        let shown = if cells.iter().any(|c| c.must_be_blocked()) { "be as declared" } else { "work" };
        let (cells, fleets) = (counted(cells.len(), "cell"), counted(fleets.len(), "fleet"));
        let proven = match proven_before {
            0 => String::new(),
            n => format!("; {} proven before", counted(n, "other")),
        };
        let text = format!("{cells} shown to {shown} from {fleets}{proven}");
        reasons.push(Reason { code: "all_pass", text, fix: None });
    }
    if let Some(verdict) = basis.other_manifest.get(region) {
        let text = format!(
            "the manifest that was given is not the one that this release shipped with in {region} (verdict {verdict}): \
             what is shown is of the one that was given"
        );
        let fix = Some("Give the manifest of the release that you go back to.".to_owned());
        reasons.push(Reason { code: "other_manifest", text, fix });
    }
    RegionVerdict { region: region.to_owned(), state, reasons }
}

/// That nothing is new: what was shown by which verdict, that nothing was probed, and what is gone.
fn no_change(region: &str, cells: &[&JudgedCell<'_>], proven: &Proven) -> String {
    const NAMED: usize = 3;
    let verdicts: BTreeSet<&str> = cells
        .iter()
        .filter_map(|c| match c.duty {
            Duty::Proven(verdict) => Some(verdict.as_str()),
            Duty::Required | Duty::Shown => None,
        })
        .collect();
    let mut by = verdicts.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    if verdicts.len() > NAMED {
        let _ = write!(by, " and {} more", verdicts.len() - NAMED);
    }
    let noun = if verdicts.len() == 1 { "verdict" } else { "verdicts" };
    let mut text = format!(
        "nothing is new in {region} since release {}: {} shown before, by {noun} {by}; nothing was probed now",
        escape(&proven.release),
        counted(cells.len(), "cell")
    );
    let gone = proven.cells.keys().filter(|digest| !cells.iter().any(|c| c.digest == *digest)).count();
    if gone > 0 {
        let _ = write!(text, "; {} of that release removed", counted(gone, "cell"));
    }
    text
}

/// `1 cell`, `2 cells`.
fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// A reason for each dependency and why, over the fleets concerned: failing ones first.
fn grouped(all: &[&JudgedCell<'_>]) -> Vec<Reason> {
    let mut groups: BTreeMap<(bool, &str, Why), Vec<&JudgedCell<'_>>> = BTreeMap::new();
    for cell in all.iter().filter(|c| !matches!(c.duty, Duty::Proven(_))) {
        if let Some(why) = cell.folded.why {
            groups.entry((cell.folded.state != State::Fail, &cell.cell.dependency, why)).or_default().push(cell);
        }
    }
    groups
        .into_iter()
        .map(|((unknown, dependency, why), cells)| {
            let fleets: Vec<String> = cells.iter().map(|c| c.cell.fleet.to_string()).collect();
            let details = match why {
                Why::Short(reason) => format!("{}{}", reason.meaning(), at(&short_addresses(&cells))),
                Why::Void(_) | Why::Unknown(_) => {
                    let details: BTreeSet<String> = cells.iter().filter_map(|c| describe(c)).collect();
                    details.into_iter().take(3).collect::<Vec<_>>().join("; ")
                }
            };
            let code = match (cells.iter().any(|c| c.is_required()), unknown) {
                (false, _) => "cell_shown",
                (true, true) => "cell_unknown",
                (true, false) => "cell_failed",
            };
            let (name, fleets, why_name) = (escape(dependency), fleets.join(", "), why.as_str());
            let text = if why == Why::Short(Short::Reachable) {
                let verb = if cells.len() == 1 { "reaches" } else { "reach" };
                format!("{fleets} {verb} {name}, and must not: {why_name}{}", at(&reached_addresses(&cells)))
            } else {
                let verb = match (unknown, cells.iter().any(|c| c.must_be_blocked())) {
                    (true, true) => "is not known to be blocked",
                    (true, false) => "is not known",
                    (false, _) if why == Why::Short(Short::TooSlow) => "is not fast enough",
                    (false, _) => "cannot be used",
                };
                format!("{name} {verb} from {fleets}: {why_name}: {details}")
            };
            Reason { code, text, fix: Some(fix(why, &cells, all)) }
        })
        .collect()
}

/// Agents of these cells that are away in that way.
pub(crate) fn absent(cells: &[&JudgedCell<'_>], how: Presence) -> BTreeSet<String> {
    let all = cells.iter().flat_map(|c| &c.folded.absent).filter(|absent| absent.presence == how);
    all.map(|absent| escape(&absent.agent)).collect()
}

pub(crate) fn fell_short(witness: &Witness<'_>) -> bool {
    matches!(witness.answer, Answer::Given(Outcome::Short(_)))
}

/// A cell's state in words, naming the identity, agents and addresses concerned; none for a plain pass.
pub fn describe(judged: &JudgedCell<'_>) -> Option<String> {
    let why = judged.folded.why?;
    let counts = judged.folded.counts;
    let identity = judged.folded.identity.as_ref();
    let text = match why {
        Why::Short(Short::Reachable) if counts.short == 0 => {
            "stopped in this cell, and reached by an agent of this fleet in another one of this run".to_owned()
        }
        Why::Short(Short::Reachable) => {
            let agents = if counts.asked == 1 { "agent" } else { "agents" };
            let of = format!("{} of {} {agents} reached it", counts.short, counts.asked);
            // Where not all did, who.
            let who: BTreeSet<String> =
                judged.witnesses.iter().filter(|w| fell_short(w)).map(|w| escape(w.agent)).collect();
            let who = if counts.short < counts.asked { format!(" ({})", list(&who)) } else { String::new() };
            format!("{of}{who}{}", at(&reached_addresses(&[judged])))
        }
        Why::Short(_) => {
            let agents = if counts.asked == 1 { "agent" } else { "agents" };
            format!("{} of {} {agents} fell short{}", counts.short, counts.asked, at(&short_addresses(&[judged])))
        }
        Why::Void(Void::WrongVantage) => {
            let odd = judged.witnesses.iter().find_map(|w| w.mismatch.map(|m| (w.agent, m)));
            odd.map_or_else(|| Void::WrongVantage.meaning().to_owned(), |(agent, m)| format!("of agent {agent}, {m}"))
        }
        Why::Void(reason) => format!("{}{}", reason.meaning(), of_identity(identity)),
        Why::Unknown(why @ (Unknown::NoAgent | Unknown::NoContrast | Unknown::EgressUnproven)) => {
            why.meaning().to_owned()
        }
        Why::Unknown(Unknown::TooFewAgents) => {
            let (ok, needed) = (counted(counts.ok as usize, "agent"), judged.cell.min_agents);
            let did = if judged.must_be_blocked() { "found it stopped" } else { "reached it" };
            format!("{ok} {did}, {needed} are needed{}", of_identity(identity))
        }
        Why::Unknown(Unknown::Silent) => {
            let silent = silent(judged);
            let absent = |how| absent(&[judged], how);
            let parts = [
                ("no answer from", silent),
                ("lost:", absent(Presence::Lost)),
                ("stopped a moment ago:", absent(Presence::Left)),
                ("unsteady:", absent(Presence::Unsteady)),
            ];
            let said = parts.iter().filter(|(_, who)| !who.is_empty());
            let said: Vec<String> = said.map(|(what, who)| format!("{what} {}", list(who))).collect();
            format!("{}{}", said.join("; "), of_identity(identity))
        }
    };
    Some(text)
}

/// Agents of the identity concerned that were asked and did not answer.
pub(crate) fn silent(judged: &JudgedCell<'_>) -> BTreeSet<String> {
    let concerned = |w: &&Witness<'_>| judged.folded.identity.as_ref().is_none_or(|key| key == w.key);
    let unanswered = |w: &&Witness<'_>| matches!(w.answer, Answer::Silent | Answer::Pending);
    judged.witnesses.iter().filter(concerned).filter(unanswered).map(|w| escape(w.agent)).collect()
}

fn of_identity(key: Option<&IdentityKey>) -> String {
    match key {
        None => String::new(),
        Some(key) if key.0.is_empty() => ", on hosts that tell no network identity".to_owned(),
        Some(key) => format!(", on hosts with {key}"),
    }
}

pub(crate) fn short_addresses(cells: &[&JudgedCell<'_>]) -> BTreeSet<String> {
    let testimonies = cells.iter().flat_map(|c| &c.witnesses).filter(|w| fell_short(w)).filter_map(|w| w.testimony);
    let short = |o: &&Observation| matches!(o.outcome, Outcome::Short(_));
    let observations = testimonies.flat_map(|t| &t.report.observations).filter(short);
    observations.filter_map(Observation::place).collect()
}

/// Where agents got through a path that must not exist.
pub(crate) fn reached_addresses(cells: &[&JudgedCell<'_>]) -> BTreeSet<String> {
    let testimonies = cells.iter().flat_map(|c| &c.witnesses).filter(|w| fell_short(w)).filter_map(|w| w.testimony);
    let reached =
        |o: &&Observation| o.proof >= Some(Proof::Connected) || o.outcome == Outcome::Short(Short::PartialLoss);
    let observations = testimonies.flat_map(|t| &t.report.observations).filter(reached);
    observations.filter_map(|o| Some(o.address?.to_string())).collect()
}

fn at(addresses: &BTreeSet<String>) -> String {
    if addresses.is_empty() { String::new() } else { format!(", at {}", list(addresses)) }
}

pub(crate) fn list(items: &BTreeSet<String>) -> String {
    let mut text = items.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    if items.len() > 5 {
        let _ = write!(text, " and {} more", items.len() - 5);
    }
    text
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;

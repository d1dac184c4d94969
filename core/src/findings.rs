//! What comparing cells shows.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::identity::NetworkIdentity;
use crate::matrix::{Answer, State};
use crate::observation::Outcome;
use crate::plan::FleetId;
use crate::reason::Short;
use crate::text::escape;
use crate::verdict::JudgedCell;

/// A conclusion drawn by comparing cells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What kind.
    pub kind: Kind,
    /// The dependency it is about.
    pub dependency: String,
    /// In words.
    pub text: String,
    /// For an asymmetry: what all hosts that reach it carry and none that does not.
    pub attributes: Attributes,
}

/// Attributes of a network identity, each with one value.
pub type Attributes = Vec<(String, String)>;

/// The kinds of findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Some hosts reach a dependency and others do not.
    Asymmetry,
    /// One sick host in a fleet that is otherwise well.
    OneHost,
    /// An address fell short beside a pass.
    AddressShort,
    /// Agents did not answer beside a pass.
    SilentAgent,
    /// What to know beside a pass, such as that the server asks for a login.
    Note,
    /// A fleet that has agents and that the inventory lacks: nobody gates it.
    UnlistedFleet,
}

impl Kind {
    /// The contract name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Asymmetry => "asymmetry",
            Self::OneHost => "one_host",
            Self::AddressShort => "address_short",
            Self::SilentAgent => "silent_agent",
            Self::Note => "note",
            Self::UnlistedFleet => "unlisted_fleet",
        }
    }
}

/// Compares the cells of one region, and names its fleets that the inventory lacks.
pub fn find<'a>(cells: &[&JudgedCell<'_>], unlisted: impl IntoIterator<Item = &'a FleetId>) -> Vec<Finding> {
    let mut findings = asymmetries(cells);
    findings.extend(cells.iter().filter_map(|cell| one_host(cell)));
    findings.extend(cells.iter().filter_map(|cell| address_short(cell)));
    findings.extend(silent_agents(cells));
    findings.extend(notes(cells));
    findings.extend(unlisted.into_iter().map(unlisted_fleet));
    findings
}

/// One side of an asymmetry: the hosts that reach a dependency, or that do not.
#[derive(Default)]
struct Side<'a> {
    fleets: BTreeSet<&'a str>,
    identities: Vec<&'a NetworkIdentity>,
}

impl Side<'_> {
    fn all_carry(&self) -> BTreeSet<(&str, &str)> {
        let mut sets = self.identities.iter().map(|identity| attributes(identity));
        let first = sets.next().unwrap_or_default();
        sets.fold(first, |all, one| all.intersection(&one).copied().collect())
    }

    fn any_carries(&self) -> BTreeSet<(&str, &str)> {
        self.identities.iter().flat_map(|identity| attributes(identity)).collect()
    }
}

fn attributes(identity: &NetworkIdentity) -> BTreeSet<(&str, &str)> {
    identity.shared().flat_map(|(key, values)| values.iter().map(move |value| (key, value.as_str()))).collect()
}

/// For each dependency that some hosts reach and some do not: what tells them apart.
fn asymmetries(cells: &[&JudgedCell<'_>]) -> Vec<Finding> {
    // A path that must be blocked is no asymmetry beside one that must be open.
    let mut sides: BTreeMap<(&str, bool), (Side<'_>, Side<'_>)> = BTreeMap::new();
    for judged in cells {
        let (pass, fail) = sides.entry((&judged.cell.dependency, judged.must_be_blocked())).or_default();
        for witness in &judged.witnesses {
            let Some(testimony) = witness.testimony else { continue };
            let side = match witness.answer {
                Answer::Given(Outcome::Ok) => &mut *pass,
                Answer::Given(Outcome::Short(_)) if judged.folded.state == State::Fail => &mut *fail,
                Answer::Given(Outcome::Short(_) | Outcome::Void(_)) | Answer::Pending | Answer::Silent => continue,
            };
            side.fleets.insert(&judged.cell.fleet.fleet);
            side.identities.push(&testimony.identity);
        }
    }
    sides.retain(|_, (pass, fail)| !pass.identities.is_empty() && !fail.identities.is_empty());
    let finding = |((dependency, blocked), (pass, fail)): ((&str, bool), (Side<'_>, Side<'_>))| {
        // Where the path must be blocked, those that fall short are the ones that reach it.
        if blocked {
            asymmetry(dependency, &fail, &pass, "is stopped")
        } else {
            asymmetry(dependency, &pass, &fail, "fails")
        }
    };
    sides.into_iter().map(finding).collect()
}

/// `fails`: what becomes of those that do not reach it.
fn asymmetry(dependency: &str, pass: &Side<'_>, fail: &Side<'_>, fails: &str) -> Finding {
    let owned = |(k, v): (&str, &str)| (k.to_owned(), v.to_owned());
    let only_pass: Attributes = pass.all_carry().difference(&fail.any_carries()).copied().map(owned).collect();
    let only_fail: Attributes = fail.all_carry().difference(&pass.any_carries()).copied().map(owned).collect();
    let names = |side: &Side<'_>| side.fleets.iter().copied().collect::<Vec<_>>().join(", ");
    let what = match only_pass.as_slice() {
        [] => "No attribute of the hosts' network identity tells them apart.".to_owned(),
        only => format!("Every host that reaches it carries {}, and no host that {fails} does.", show(only)),
    };
    let mut text = if pass.fleets.is_disjoint(&fail.fleets) {
        format!("{} is reached from {} and not from {}. {what}", escape(dependency), names(pass), names(fail))
    } else {
        // Hosts of one fleet stand on both sides: its name alone would say nothing.
        let all = Side { fleets: &pass.fleets | &fail.fleets, identities: Vec::new() };
        let (reach, asked) = (pass.identities.len(), pass.identities.len() + fail.identities.len());
        format!(
            "{} is reached by {reach} of the {asked} hosts of {} that answered. {what}",
            escape(dependency),
            names(&all)
        )
    };
    if !only_fail.is_empty() {
        let _ = write!(text, " Every host that {fails} carries {}.", show(&only_fail));
    }
    Finding { kind: Kind::Asymmetry, dependency: dependency.to_owned(), text, attributes: only_pass }
}

fn show(attributes: &[(String, String)]) -> String {
    attributes.iter().map(|(k, v)| format!("{} {}", escape(k), escape(v))).collect::<Vec<_>>().join(" and ")
}

/// An agent whose clock is off by more than this, in milliseconds, is a likely cause of a certificate that only it calls invalid.
const CLOCK_OFF_MS: u64 = 5 * 60 * 1_000;

fn one_host(judged: &JudgedCell<'_>) -> Option<Finding> {
    let agent = judged.folded.refuted.as_ref()?;
    let witness = judged.witnesses.iter().find(|w| w.agent == agent)?;
    let Answer::Given(Outcome::Short(reason)) = witness.answer else { return None };
    let fleet = &judged.cell.fleet;
    let mut text = format!(
        "{}{} falls short of {} alone in {fleet} ({reason}); others of its network identity reach it. Look at that host.",
        escape(agent),
        witness.testimony.map_or_else(String::new, |t| place(&t.identity)),
        escape(&judged.cell.dependency),
    );
    let skew = witness.testimony.map_or(0, |t| t.clock_skew_ms);
    if matches!(reason, Short::TlsExpired | Short::TlsNotYetValid) && skew.unsigned_abs() > CLOCK_OFF_MS {
        let way = if skew > 0 { "ahead of" } else { "behind" };
        let minutes = skew.unsigned_abs() / 60_000;
        let _ = write!(text, " Its clock is {minutes} minutes {way} the controller's: a clock problem.");
    }
    Some(Finding { kind: Kind::OneHost, dependency: judged.cell.dependency.clone(), text, attributes: Vec::new() })
}

/// For each fleet whose cells pass, who did not answer: one finding, however many cells.
fn silent_agents(cells: &[&JudgedCell<'_>]) -> Vec<Finding> {
    let mut silent: BTreeMap<&FleetId, BTreeSet<&str>> = BTreeMap::new();
    for judged in cells.iter().filter(|c| c.folded.state == State::Pass) {
        let unanswered = judged.witnesses.iter().filter(|w| matches!(w.answer, Answer::Silent | Answer::Pending));
        for witness in unanswered {
            silent.entry(&judged.cell.fleet).or_default().insert(witness.agent);
        }
    }
    let finding = |(fleet, agents): (&FleetId, BTreeSet<&str>)| {
        let names: Vec<String> = agents.into_iter().map(escape).collect();
        Finding {
            kind: Kind::SilentAgent,
            dependency: String::new(),
            text: format!(
                "{fleet} passes without an answer from {}: others of the same network identity stand for it. Look at it with \
                 `preflight agents`.",
                names.join(", ")
            ),
            attributes: Vec::new(),
        }
    };
    silent.into_iter().map(finding).collect()
}

/// The notes beside what passes, each said once for a dependency.
fn notes(cells: &[&JudgedCell<'_>]) -> Vec<Finding> {
    let mut notes: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for judged in cells.iter().filter(|c| c.folded.state == State::Pass) {
        let observations = judged.witnesses.iter().filter_map(|w| w.testimony).flat_map(|t| &t.report.observations);
        for note in observations.filter(|o| o.outcome == Outcome::Ok).filter_map(|o| o.note.as_deref()) {
            notes.entry((&judged.cell.dependency, note)).or_default().insert(&judged.cell.fleet.fleet);
        }
    }
    let finding = |((dependency, note), fleets): ((&str, &str), BTreeSet<&str>)| Finding {
        kind: Kind::Note,
        dependency: dependency.to_owned(),
        text: format!(
            "{} passes from {}: {}.",
            escape(dependency),
            fleets.into_iter().collect::<Vec<_>>().join(", "),
            escape(note.trim_end_matches('.'))
        ),
        attributes: Vec::new(),
    };
    notes.into_iter().map(finding).collect()
}

fn unlisted_fleet(fleet: &FleetId) -> Finding {
    Finding {
        kind: Kind::UnlistedFleet,
        dependency: String::new(),
        text: format!(
            "Agents hold certificates for {fleet}, which the inventory lacks: if it runs this application, it ships unproven. \
             Add it to the inventory, or revoke its agents."
        ),
        attributes: Vec::new(),
    }
}

/// Where an agent runs, in brackets, as far as it told.
fn place(identity: &NetworkIdentity) -> String {
    let told = ["host", "address"].iter().filter_map(|key| identity.0.get(*key)?.first());
    let told: Vec<String> = told.map(|value| escape(value)).collect();
    if told.is_empty() { String::new() } else { format!(" (on {})", told.join(", ")) }
}

fn address_short(judged: &JudgedCell<'_>) -> Option<Finding> {
    if judged.folded.state != State::Pass || judged.must_be_blocked() {
        return None;
    }
    let ok = |w: &&crate::run::Witness<'_>| w.answer == Answer::Given(Outcome::Ok);
    let observations =
        judged.witnesses.iter().filter(ok).filter_map(|w| w.testimony).flat_map(|t| t.report.short_addresses());
    let short: BTreeSet<String> = observations
        .filter_map(|o| {
            let at = o.place().unwrap_or_else(|| "a lookup".to_owned());
            Some(format!("{at} ({})", o.outcome.reason()?))
        })
        .collect();
    if short.is_empty() {
        return None;
    }
    let fleet = &judged.cell.fleet;
    let list = short.into_iter().collect::<Vec<_>>().join(", ");
    Some(Finding {
        kind: Kind::AddressShort,
        dependency: judged.cell.dependency.clone(),
        text: format!(
            "{} passes from {fleet} by `families` and `addresses` of the manifest, but not every address works: {list}.",
            escape(&judged.cell.dependency)
        ),
        attributes: Vec::new(),
    })
}

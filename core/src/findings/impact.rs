//! What shipping would do, where the manifest says how the code uses what cannot be used.

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, Kind, join};
use crate::impact::{estimate, missing};
use crate::matrix::{Answer, State, Why};
use crate::observation::{Observation, Outcome};
use crate::reason::Short;
use crate::text::escape;
use crate::verdict::JudgedCell;

/// One for each dependency and what it would do, over the fleets that it would do it to.
pub(super) fn find(cells: &[&JudgedCell<'_>]) -> Vec<Finding> {
    let mut found: Vec<(&str, String, Vec<String>)> = Vec::new();
    let mut places: BTreeMap<(&str, String), usize> = BTreeMap::new();
    for judged in cells {
        let Some(reason) = failing(judged) else { continue };
        let dependency = judged.cell.dependency.as_str();
        let seen = seen_ms(judged, reason);
        let Some(text) = estimate(&judged.cell.usage, reason, &escape(dependency), seen) else { continue };
        let place = *places.entry((dependency, text.clone())).or_insert(found.len());
        if place == found.len() {
            found.push((dependency, text, Vec::new()));
        }
        if let Some((.., fleets)) = found.get_mut(place) {
            fleets.push(judged.cell.fleet.to_string());
        }
    }
    let finding = |(dependency, text, fleets): (&str, String, Vec<String>)| {
        let text = format!("{}: {text}", fleets.join(", "));
        Finding { dependency: dependency.to_owned(), ..Finding::new(Kind::Impact, text) }
    };
    found.into_iter().map(finding).collect()
}

/// What to add to the manifest so that the impact of what fails can be worked out, with the region of the first cell concerned:
/// said once, however many cells there are. None where nothing is missing, or nothing fails.
pub fn missing_usage(cells: &[JudgedCell<'_>]) -> Option<(String, Finding)> {
    let concerned =
        |c: &&JudgedCell<'_>| failing(c).is_some_and(|reason| estimate(&c.cell.usage, reason, "", Some(0.0)).is_none());
    let mut by_keys: BTreeMap<Vec<&str>, BTreeSet<&str>> = BTreeMap::new();
    let mut first = None;
    for judged in cells.iter().filter(concerned) {
        first.get_or_insert(judged);
        let keys = missing(&judged.cell.usage);
        by_keys.entry(keys).or_default().insert(&judged.cell.dependency);
    }
    let first = first?;
    let each: Vec<String> = by_keys
        .iter()
        .map(|(keys, names)| format!("{} to `usage` of {}", keys.join(", "), join(names.iter().copied())))
        .collect();
    let text = format!(
        "What shipping this would do to the hosts can be worked out once the manifest says how the code uses it: add {}.",
        each.join("; ")
    );
    let finding = Finding { dependency: first.cell.dependency.clone(), ..Finding::new(Kind::Impact, text) };
    Some((first.cell.fleet.region.clone(), finding))
}

/// Why a cell fails whose calls would be felt.
fn failing(judged: &JudgedCell<'_>) -> Option<Short> {
    match judged.folded.why {
        Some(Why::Short(reason)) if judged.folded.state == State::Fail && !judged.must_be_blocked() => Some(reason),
        Some(Why::Short(_) | Why::Void(_) | Why::Unknown(_)) | None => None,
    }
}

/// The longest that hosts which fell short for that reason measured, in milliseconds.
fn seen_ms(judged: &JudgedCell<'_>, reason: Short) -> Option<f64> {
    let short = judged.witnesses.iter().filter(|w| w.answer == Answer::Given(Outcome::Short(reason)));
    let observations = short.filter_map(|w| w.testimony).flat_map(|t| &t.report.observations);
    let took = |o: &Observation| {
        let last = o.attempts.iter().map(|attempt| attempt.at_ms + attempt.took_ms).fold(0.0, f64::max);
        let connect = if o.phases.connect_ms.is_none() { last } else { 0.0 };
        o.phases.beyond_resolve_ms() + connect
    };
    observations.map(took).reduce(f64::max)
}

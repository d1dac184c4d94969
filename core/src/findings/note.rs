//! What to know beside a pass, such as that the server asks for a login.

use std::collections::{BTreeMap, BTreeSet};

use super::{Draft, Kind, join};
use crate::matrix::State;
use crate::observation::Outcome;
use crate::text::escape;
use crate::verdict::JudgedCell;

/// Each note once for a dependency.
pub(super) fn find(cells: &[&JudgedCell<'_>]) -> Vec<Draft> {
    let mut notes: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for judged in cells.iter().filter(|c| c.folded.state == State::Pass) {
        let observations = judged.witnesses.iter().filter_map(|w| w.testimony).flat_map(|t| &t.report.observations);
        for note in observations.filter(|o| o.outcome == Outcome::Ok).filter_map(|o| o.note.as_deref()) {
            notes.entry((&judged.cell.dependency, note)).or_default().insert(&judged.cell.fleet.fleet);
        }
    }
    let draft = |((dependency, note), fleets): ((&str, &str), BTreeSet<&str>)| {
        Draft::new(
            Kind::Note,
            dependency,
            format!("passes from {}: {}.", join(fleets), escape(note).trim_end_matches('.')),
        )
    };
    notes.into_iter().map(draft).collect()
}

//! An address fell short beside a pass, because the manifest says that not all have to work.

use std::collections::{BTreeMap, BTreeSet};

use super::{Draft, Kind, join};
use crate::matrix::{Answer, State};
use crate::observation::Outcome;
use crate::verdict::JudgedCell;

/// One for each dependency and what falls short. What `told` has said of its dependency already is not said again.
pub(super) fn find(cells: &[&JudgedCell<'_>], told: &BTreeSet<String>) -> Vec<Draft> {
    let mut found: BTreeMap<(&str, String), BTreeSet<&str>> = BTreeMap::new();
    let pass = |c: &&&JudgedCell<'_>| c.folded.state == State::Pass && !c.must_be_blocked();
    for judged in cells.iter().filter(pass).filter(|c| !told.contains(&c.cell.dependency)) {
        let ok = judged.witnesses.iter().filter(|w| w.answer == Answer::Given(Outcome::Ok));
        let observations = ok.filter_map(|w| w.testimony).flat_map(|t| t.report.short_addresses());
        let short: BTreeSet<String> = observations
            .filter_map(|o| {
                let at = o.place().unwrap_or_else(|| "a lookup".to_owned());
                Some(format!("{at} ({})", o.outcome.reason()?))
            })
            .collect();
        if !short.is_empty() {
            let list = short.into_iter().collect::<Vec<_>>().join(", ");
            found.entry((&judged.cell.dependency, list)).or_default().insert(&judged.cell.fleet.fleet);
        }
    }
    let draft = |((dependency, list), fleets): ((&str, String), BTreeSet<&str>)| {
        let rest = format!(
            "passes from {} by `families` and `addresses` of the manifest, but not every address works: {list}.",
            join(fleets)
        );
        Draft::new(Kind::AddressShort, dependency, rest)
    };
    found.into_iter().map(draft).collect()
}

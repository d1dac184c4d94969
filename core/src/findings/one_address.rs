//! One address of several falls short from whoever tries it, and the others work.

use std::collections::{BTreeMap, BTreeSet};

use super::{Draft, Kind, Seen, fleets_of, join};
use crate::observation::{Observation, Outcome};
use crate::reason::Short;
use crate::text::escape;

pub(super) fn find(seen: &Seen<'_>) -> Option<Draft> {
    let place = |o: &Observation| o.member.is_none().then(|| o.address.map(|a| a.to_string())).flatten();
    let odd = odd_one(seen, place)?;
    let rest = format!(
        "fails at one of its {} addresses: {} ({}), from all {} hosts that tried it ({}); the others work. Look at that address.",
        odd.places,
        escape(&odd.place),
        odd.reason,
        odd.short,
        odd.fleets,
    );
    let mut draft = Draft::new(Kind::OneAddress, seen.dependency, rest);
    draft.explains = seen.failing_cells();
    Some(draft)
}

/// The odd one out of several places.
pub(super) struct Odd {
    pub(super) place: String,
    pub(super) places: usize,
    pub(super) reason: Short,
    /// From how many hosts it falls short: all that tried it.
    pub(super) short: usize,
    pub(super) fleets: String,
}

/// The one place that falls short from every host that tried it, where each of the others works for every host that tried it.
pub(super) fn odd_one(seen: &Seen<'_>, place: impl Fn(&Observation) -> Option<String>) -> Option<Odd> {
    // Where none falls short because of it, it stands beside a pass.
    if seen.blocked || seen.short.is_empty() {
        return None;
    }
    let mut places: BTreeMap<String, (usize, BTreeSet<Short>, BTreeSet<usize>)> = BTreeMap::new();
    let hosts: Vec<_> = seen.ok.iter().chain(&seen.short).collect();
    for (index, host) in hosts.iter().enumerate() {
        for observation in &host.report.observations {
            let Some(place) = place(observation) else { continue };
            let (ok, reasons, short) = places.entry(place).or_default();
            match observation.outcome {
                Outcome::Ok => *ok += 1,
                Outcome::Short(reason) => {
                    reasons.insert(reason);
                    short.insert(index);
                }
                Outcome::Void(_) => {}
            }
        }
    }
    let count = places.len();
    let mut bad = places.into_iter().filter(|(_, (_, reasons, _))| !reasons.is_empty());
    let (place, (0, reasons, short)) = bad.next()? else { return None };
    let mut reasons = reasons.into_iter();
    let (None, 2.., Some(reason), None) = (bad.next(), count, reasons.next(), reasons.next()) else { return None };
    let fleets = join(fleets_of(short.iter().filter_map(|index| hosts.get(*index).copied())));
    Some(Odd { place, places: count, reason, short: short.len(), fleets })
}

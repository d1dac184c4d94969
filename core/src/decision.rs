//! What a pipeline should do about a verdict. Nothing here changes the verdict: an override stands beside it.

use std::collections::BTreeSet;

use crate::matrix::State;
use crate::plan::CellDigest;
use crate::run::Mode;
use crate::verdict::Reason;
use jiff::Timestamp;

/// Somebody answers for one cell of one region until a time, whatever is seen of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// Its id.
    pub id: String,
    /// The region.
    pub region: String,
    /// The cell.
    pub cell: CellDigest,
    /// Who gave it.
    pub by: String,
    /// When it was given.
    pub at: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
}

/// What a pipeline should do in one region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// Ship, or do not.
    pub proceed: bool,
    /// The ids of the overrides in force for cells that block.
    pub overrides: BTreeSet<String>,
    /// When the first of them ends; what they let through ends with it.
    pub until: Option<Timestamp>,
    /// Why, where it is not what the verdict says.
    pub reasons: Vec<Reason>,
}

/// Decides for a region at `now`. A pass proceeds; a rollback does whatever is seen; else each of the required cells that do not pass
/// (`blocking`) must have an override in force, and nothing may hold the region back beside its cells (`held`). A region of which nothing is known at all has no cell that one could override.
pub fn decide(
    region: &str,
    state: State,
    blocking: &BTreeSet<CellDigest>,
    held: bool,
    mode: Mode,
    overrides: &[Override],
    now: Timestamp,
) -> Decided {
    let nothing = Decided { proceed: false, overrides: BTreeSet::new(), until: None, reasons: Vec::new() };
    if mode == Mode::Rollback {
        let text = format!("this release was deployed in {region} before: a rollback is not held up by what is seen");
        let reason = Reason { code: "rollback", text, fix: None };
        return Decided { proceed: true, reasons: vec![reason], ..nothing };
    }
    if state == State::Pass {
        return Decided { proceed: true, ..nothing };
    }
    let in_force = |cell: &CellDigest| {
        let holds = |o: &&Override| o.region == region && o.cell == *cell && o.at <= now && now < o.expires;
        overrides.iter().filter(holds).max_by_key(|o| o.expires)
    };
    let over: Vec<&Override> = blocking.iter().filter_map(in_force).collect();
    let mut reasons = Vec::new();
    if !over.is_empty() {
        let who: BTreeSet<String> = over.iter().map(|o| crate::text::escape(&o.by)).collect();
        let text = format!(
            "{} of {} blocking cells in {region} overridden by {}; none of them is proven by that",
            over.len(),
            blocking.len(),
            who.into_iter().collect::<Vec<_>>().join(", "),
        );
        reasons.push(Reason { code: "overridden", text, fix: None });
    }
    Decided {
        proceed: !held && !blocking.is_empty() && over.len() == blocking.len(),
        until: over.iter().map(|o| o.expires).min(),
        overrides: over.into_iter().map(|o| o.id.clone()).collect(),
        reasons,
    }
}

//! What a pipeline should do about a verdict. Nothing here changes the verdict: an override stands beside it.

use std::collections::BTreeSet;

use crate::guard::Word;
use crate::matrix::State;
use crate::plan::CellDigest;
use crate::run::Mode;
use crate::verdict::Reason;
use jiff::Timestamp;

/// What somebody answers for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A cell that was not shown.
    Cell(CellDigest),
    /// A release that is quarantined.
    Release(String),
}

/// Somebody answers for one cell, or for a quarantined release, in one region until a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// Its id.
    pub id: String,
    /// The region.
    pub region: String,
    /// What for.
    pub subject: Subject,
    /// Who gave it.
    pub by: String,
    /// When it was given.
    pub at: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
}

impl Override {
    /// Of those that are in force at `now` for a subject in a region, the one that ends last.
    pub fn in_force<'a>(
        overrides: impl IntoIterator<Item = &'a Self>,
        region: &str,
        subject: &Subject,
        now: Timestamp,
    ) -> Option<&'a Self> {
        let holds = |o: &&Self| o.region == region && o.subject == *subject && o.at <= now && now < o.expires;
        overrides.into_iter().filter(holds).max_by_key(|o| o.expires)
    }
}

/// Whether a reason's code says that what the verdict rests on is not so any more, or not known to be: no override lifts that.
pub fn is_void(code: &str) -> bool {
    matches!(
        code,
        "inventory_stale" | "expired" | "inventory_changed" | "new_identity" | "baseline_changed" | "rolled_back"
    )
}

/// One region's part of a verdict, as a decision looks at it.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// The region.
    pub region: &'a str,
    /// Its verdict.
    pub state: State,
    /// The required cells that do not pass.
    pub blocking: &'a BTreeSet<CellDigest>,
    /// Whether something beside its cells keeps it from a pass.
    pub held: bool,
    /// What the gate is for.
    pub mode: Mode,
}

/// What a pipeline should do in one region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// Ship, or do not.
    pub proceed: bool,
    /// The ids of the overrides in force for what would hold it back.
    pub overrides: BTreeSet<String>,
    /// When the first of them ends; what they let through ends with it.
    pub until: Option<Timestamp>,
    /// Why, where it is not what the verdict says.
    pub reasons: Vec<Reason>,
}

/// Decides for a region at `now`.
///
/// What the guard holds does not proceed. Else a pass does; a rollback does whatever is seen; else each of the required cells that do not
/// pass must have an override in force, and nothing may hold the region back beside its cells. A region of which nothing is known at all
/// has no cell that one could override.
pub fn decide(given: &Given<'_>, word: Word, overrides: &[Override], now: Timestamp) -> Decided {
    let Given { region, state, blocking, held, mode } = *given;
    let mut reasons = word.holds;
    let guarded = !reasons.is_empty();
    let mut over: Vec<&Override> = Vec::new();
    if let Some(one) = &word.overridden {
        let text = format!("the quarantine in {region} overridden by {}", crate::text::escape(&one.by));
        reasons.push(Reason { code: "overridden", text, fix: None });
        over.push(one);
    }
    let shown = match (mode, state) {
        (Mode::Rollback, _) => {
            let text =
                format!("this release was deployed in {region} before: a rollback is not held up by what is seen");
            reasons.push(Reason { code: "rollback", text, fix: None });
            true
        }
        (Mode::Gate | Mode::Advisory, State::Pass) => true,
        (Mode::Gate | Mode::Advisory, State::Fail | State::Unknown) => {
            let in_force = |cell: &CellDigest| Override::in_force(overrides, region, &Subject::Cell(cell.clone()), now);
            let answered: Vec<&Override> = blocking.iter().filter_map(in_force).collect();
            if !answered.is_empty() {
                let who: BTreeSet<String> = answered.iter().map(|o| crate::text::escape(&o.by)).collect();
                let text = format!(
                    "{} of {} blocking cells in {region} overridden by {}; none of them is proven by that",
                    answered.len(),
                    blocking.len(),
                    who.into_iter().collect::<Vec<_>>().join(", "),
                );
                reasons.push(Reason { code: "overridden", text, fix: None });
            }
            let all = !held && !blocking.is_empty() && answered.len() == blocking.len();
            over.extend(answered);
            all
        }
    };
    Decided {
        proceed: shown && !guarded,
        until: over.iter().map(|o| o.expires).min(),
        overrides: over.iter().map(|o| o.id.clone()).collect(),
        reasons,
    }
}

//! One sick host in a fleet that is otherwise well.

use std::fmt::Write as _;

use super::{Finding, Kind, place};
use crate::matrix::Answer;
use crate::observation::Outcome;
use crate::reason::Short;
use crate::text::escape;
use crate::verdict::JudgedCell;

/// An agent whose clock is off by more than this, in milliseconds, is a likely cause of a certificate that only it calls invalid.
const CLOCK_OFF_MS: u64 = 5 * 60 * 1_000;

pub(super) fn find(judged: &JudgedCell<'_>) -> Option<Finding> {
    let agent = judged.folded.refuted.as_ref()?;
    let witness = judged.witnesses.iter().find(|w| w.agent == agent)?;
    let Answer::Given(Outcome::Short(reason)) = witness.answer else { return None };
    let fleet = &judged.cell.fleet;
    let mut text = format!(
        "{}{} falls short of {} alone in {fleet} ({reason}); {} others of its network identity reach it. Look at that host.",
        escape(agent),
        witness.testimony.map_or_else(String::new, |t| place(&t.identity)),
        escape(&judged.cell.dependency),
        judged.witnesses.iter().filter(|w| w.key == witness.key && w.answer == Answer::Given(Outcome::Ok)).count(),
    );
    let skew = witness.testimony.map_or(0, |t| t.clock_skew_ms);
    if matches!(reason, Short::TlsExpired | Short::TlsNotYetValid) && skew.unsigned_abs() > CLOCK_OFF_MS {
        let way = if skew > 0 { "ahead of" } else { "behind" };
        let minutes = skew.unsigned_abs() / 60_000;
        let _ = write!(text, " Its clock is {minutes} minutes {way} the controller's: a clock problem.");
    }
    Some(Finding { dependency: judged.cell.dependency.clone(), ..Finding::new(Kind::OneHost, text) })
}

//! Reasons, explained.

use super::{BOLD, DIM, paragraph, styled};
use crate::commands::Explained;

/// Each with what it means and what to do.
pub(crate) fn render(reasons: &[Explained], width: usize) -> String {
    let one = |r: &Explained| {
        let name = format!("{}  {}\n", styled(BOLD, r.reason), styled(DIM, &format!("({})", r.kind)));
        name + &paragraph("  ", &format!("Means: {}.", r.meaning), width)
            + &paragraph("  ", &format!("Next:  {}", r.next), width)
    };
    reasons.iter().map(one).collect::<Vec<_>>().join("\n")
}

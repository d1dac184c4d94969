//! Who answers for what was not shown, why, and until when.

use preflight_proto::api::{Override, Overrides};

use super::grid::{Grid, Span};
use super::{DIM, UNSURE, count, moment, paragraph, sentence, styled, word};

/// The overrides, a line each.
pub(crate) fn list(overrides: &Overrides, width: usize) -> String {
    if overrides.overrides.is_empty() {
        return "No override is in force.\n".to_owned();
    }
    let columns = ["ID", "APPLICATION", "CELL", "BY", "UNTIL", "TICKET", "REASON"];
    let mut grid = Grid::new(columns.map(str::to_owned));
    for given in &overrides.overrides {
        let (style, until) = match &given.withdrawn {
            Some(withdrawn) => (DIM, format!("withdrawn {}", word(withdrawn))),
            None => (super::PLAIN, moment(&given.expires_at)),
        };
        let texts =
            [word(&given.id), word(&given.application), cell(given), word(&given.by), until, word(&given.ticket)];
        let row = texts.into_iter().chain([sentence(&given.reason)]);
        grid.row(row.map(|text| Span::new(style, text)).collect());
    }
    grid.list(width)
}

/// What was answered for just now, and what that means.
pub(crate) fn given(overrides: &Overrides, width: usize) -> String {
    let given = &overrides.overrides;
    let mut out = format!("{}\n", styled(UNSURE.bold(), &format!("{} overridden", count(given.len(), "cell"))));
    for one in given {
        let text = format!("until {}, override {}", moment(&one.expires_at), word(&one.id));
        out.push_str(&paragraph(&format!("  {}: ", cell(one)), &text, width));
    }
    let verdict = given.first().map(|one| word(&one.verdict)).unwrap_or_default();
    let text = format!(
        "Verdict {verdict} stays as it is, and nothing is proven by this: what ships so is required again. \
         `preflight verdict check {verdict} …` or the next gate goes by it. `preflight override withdraw ID` takes it back."
    );
    out.push_str(&paragraph("", &text, width));
    out
}

/// `eu/web/ai-cache`.
fn cell(given: &Override) -> String {
    format!("{}/{}/{}", word(&given.region), word(&given.fleet), word(&given.dependency))
}

/// One override in force, as it stands beside a verdict.
pub(crate) fn in_force(given: &Override, width: usize) -> String {
    let text = format!(
        "by {} until {}, ticket {}: {}",
        word(&given.by),
        moment(&given.expires_at),
        word(&given.ticket),
        sentence(&given.reason)
    );
    paragraph(&format!("  {}: ", cell(given)), &text, width)
}

//! Who answers for what was not shown, why, and until when.

use anstyle::Style;
use preflight_proto::api::{Override, Overrides};

use super::grid::{Grid, Span};
use super::{DIM, PLAIN, UNSURE, count, moment, paragraph, sentence, styled, word};

/// From this width on, columns leave room for the last of them.
const WIDE: usize = 130;

/// The overrides, a line each.
pub(crate) fn list(overrides: &Overrides, width: usize) -> String {
    if overrides.overrides.is_empty() {
        return "No override is in force.\n".to_owned();
    }
    if width < WIDE {
        return overrides.overrides.iter().map(|given| narrow(given, width)).collect();
    }
    let columns = ["ID", "APPLICATION", "CELL", "BY", "UNTIL", "TICKET", "REASON"];
    let mut grid = Grid::new(columns.map(str::to_owned));
    for given in &overrides.overrides {
        let (style, until) = until(given);
        let texts =
            [word(&given.id), word(&given.application), cell(given), word(&given.by), until, word(&given.ticket)];
        let row = texts.into_iter().chain([sentence(&given.reason)]);
        grid.row(row.map(|text| Span::new(style, text)).collect());
    }
    grid.list(width)
}

/// Until when it holds, and how that is shown.
fn until(given: &Override) -> (Style, String) {
    match &given.withdrawn {
        Some(withdrawn) => (DIM, format!("withdrawn {}", word(withdrawn))),
        None => (PLAIN, moment(&given.expires_at)),
    }
}

/// One where columns would leave no room for its reason.
fn narrow(given: &Override, width: usize) -> String {
    let (style, until) = until(given);
    let until = if given.withdrawn.is_some() { until } else { format!("until {until}") };
    let first = format!("{}  {}  of {}  {until}", word(&given.id), cell(given), word(&given.application));
    let text = format!("by {}, ticket {}: {}", word(&given.by), word(&given.ticket), sentence(&given.reason));
    format!("{}\n", styled(style, &first)) + &paragraph("    ", &text, width)
}

/// What was answered for just now, and what that means.
pub(crate) fn given(overrides: &Overrides, width: usize) -> String {
    let given = &overrides.overrides;
    let quarantine = given.iter().any(|one| one.release.is_some());
    let noun = if quarantine { "quarantine" } else { "cell" };
    let mut out = format!("{}\n", styled(UNSURE.bold(), &format!("{} overridden", count(given.len(), noun))));
    for one in given {
        let text = format!("until {}, override {}", moment(&one.expires_at), word(&one.id));
        out.push_str(&paragraph(&format!("  {}: ", cell(one)), &text, width));
    }
    if quarantine {
        let text = "The quarantine stays, and holds again when this ends; locks and cells hold as before. The next gate goes by it. \
                    `preflight override withdraw ID` takes it back.";
        return out + &paragraph("", text, width);
    }
    let verdict = given.first().map(|one| word(&one.verdict)).unwrap_or_default();
    let text = format!(
        "Verdict {verdict} stays as it is, and nothing is proven by this: what ships so is required again. \
         `preflight verdict check {verdict} …` or the next gate goes by it. `preflight override withdraw ID` takes it back."
    );
    out.push_str(&paragraph("", &text, width));
    out
}

/// What withdrawing one came to: `left` are those that still hold its cell.
pub(crate) fn withdrawn(id: &str, left: &Overrides, width: usize) -> String {
    if left.overrides.is_empty() {
        return format!("{} is withdrawn: what it was for is held back again.\n", word(id));
    }
    let is = if left.overrides.len() == 1 { "is" } else { "are" };
    let others = count(left.overrides.len(), "other override");
    let mut out =
        format!("{} is withdrawn. What it was for is still let through: {others} for it {is} in force.\n", word(id));
    for one in &left.overrides {
        let lead = format!("  {}  {}: ", word(&one.id), cell(one));
        out.push_str(&paragraph(&lead, &who(one), width));
    }
    out
}

/// `eu/web/ai-cache`, or a release that is quarantined: `eu/2025-03-31.1`.
fn cell(given: &Override) -> String {
    word(&given.subject())
}

/// One override, as it stands beside a verdict.
pub(crate) fn in_force(given: &Override, width: usize) -> String {
    paragraph(&format!("  {}: ", cell(given)), &who(given), width)
}

/// Who answers, until when, and why.
pub(crate) fn who(given: &Override) -> String {
    let until = until(given).1;
    let until = if given.withdrawn.is_some() { format!(", {until}") } else { format!(" until {until}") };
    format!("by {}{until}, ticket {}: {}", word(&given.by), word(&given.ticket), sentence(&given.reason))
}

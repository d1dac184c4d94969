//! Manifests: a plan, and what changed.

use std::fmt::Write as _;

use preflight_core::manifest::Change;

use super::grid::{Grid, Span};
use super::{BAD, DIM, GOOD, UNSURE, count, paragraph, styled, word};
use crate::commands::{Checked, Planned};

/// A manifest that is right.
pub(crate) fn checked(checked: &Checked, width: usize) -> String {
    let dependencies: Vec<String> = checked.dependencies.iter().map(|name| word(name)).collect();
    let text = format!(
        "{}: {} application {}, {}: {}",
        checked.file,
        styled(GOOD, "✓"),
        word(&checked.application),
        if dependencies.len() == 1 {
            "1 dependency".to_owned()
        } else {
            format!("{} dependencies", dependencies.len())
        },
        dependencies.join(", ")
    );
    let mut out = paragraph("", &text, width);
    if let Some(plan) = &checked.plan {
        out.push_str(&planned(plan, width));
    }
    out
}

fn planned(plan: &Planned, width: usize) -> String {
    let mut out = format!("\n{} would be shown to work:\n", count(plan.cells.len(), "cell"));
    let mut grid = Grid::new(["REGION", "FLEET", "DEPENDENCY", "AGENTS", "TARGET"].map(str::to_owned));
    for cell in &plan.cells {
        let place = [&cell.region, &cell.fleet, &cell.dependency].map(|text| Span::plain(word(text)));
        let more = [Span::plain(format!("≥ {}", cell.min_agents)), Span::plain(word(&cell.target))];
        grid.row(place.into_iter().chain(more).collect());
    }
    for excluded in &plan.excluded {
        let place = [&excluded.fleet.region, &excluded.fleet.fleet, &excluded.dependency];
        let more = [String::new(), format!("excluded: {}", word(&excluded.because))];
        grid.row(place.into_iter().map(|text| word(text)).chain(more).map(|text| Span::new(DIM, text)).collect());
    }
    out.push_str(&grid.list(width));
    out
}

/// What changed, a line each.
pub(crate) fn changes(changes: &[Change]) -> String {
    if changes.is_empty() {
        return "No difference in what they mean.\n".to_owned();
    }
    changes.iter().map(change).collect()
}

fn change(change: &Change) -> String {
    let value = |text: &Option<String>| text.as_deref().map_or_else(|| "(none)".to_owned(), word);
    match change {
        Change::Application { old, new } => {
            format!("{} application: {} → {}\n", styled(UNSURE, "~"), word(old), word(new))
        }
        Change::Added { dependency } => format!("{} {}\n", styled(GOOD, "+"), word(dependency)),
        Change::Removed { dependency } => format!("{} {}\n", styled(BAD, "-"), word(dependency)),
        Change::Changed { dependency, fields } => {
            let mut out = format!("{} {}\n", styled(UNSURE, "~"), word(dependency));
            for field in fields {
                let _ = writeln!(out, "    {}: {} → {}", word(&field.field), value(&field.old), value(&field.new));
            }
            out
        }
    }
}

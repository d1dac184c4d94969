//! Manifests: a plan, and what changed.

use preflight_core::manifest::{Change, Effect, FieldChange};

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

/// What changed, and what the next gate makes of each.
pub(crate) fn changes(changes: &[Change], width: usize) -> String {
    if changes.is_empty() {
        return "No difference in what they mean: the next gate has nothing new to show.\n".to_owned();
    }
    changes.iter().map(|one| change(one) + &paragraph("    → ", &meaning(one), width)).collect()
}

fn change(change: &Change) -> String {
    match change {
        Change::Application { old, new } => {
            format!("{} application: {} → {}\n", styled(UNSURE, "~"), word(old), word(new))
        }
        Change::Added { dependency } => format!("{} {}\n", styled(GOOD, "+"), word(dependency)),
        Change::Removed { dependency } => format!("{} {}\n", styled(BAD, "-"), word(dependency)),
        Change::Renamed { old, new, fields } => {
            format!("{} {} → {}\n{}", styled(UNSURE, "~"), word(old), word(new), values(fields))
        }
        Change::Changed { dependency, fields } => {
            format!("{} {}\n{}", styled(UNSURE, "~"), word(dependency), values(fields))
        }
    }
}

fn values(fields: &[FieldChange]) -> String {
    let value = |text: &Option<String>| text.as_deref().map_or_else(|| "(none)".to_owned(), word);
    let line =
        |field: &FieldChange| format!("    {}: {} → {}\n", word(&field.field), value(&field.old), value(&field.new));
    fields.iter().map(line).collect()
}

/// What the next gate makes of it.
fn meaning(change: &Change) -> String {
    match change {
        Change::Application { .. } => {
            "every cell is required: what one application has shown proves nothing of another".to_owned()
        }
        Change::Added { .. } => "required: nothing has shown it yet".to_owned(),
        Change::Removed { .. } => "no longer probed".to_owned(),
        Change::Renamed { .. } => "nothing new to show: it is probed as before, under another name".to_owned(),
        Change::Changed { fields, .. } => match change.effect() {
            Effect::NoCellChanges => "nothing new to show: it is probed as before".to_owned(),
            Effect::NoLongerProbed => "probed from fewer fleets or regions; what is left stays as it is".to_owned(),
            Effect::Required => required(fields),
        },
    }
}

fn required(fields: &[FieldChange]) -> String {
    let requiring = || fields.iter().filter(|field| field.effect() == Effect::Required);
    let regions: Option<Vec<String>> =
        requiring().map(|field| field.field.strip_prefix("targets.").map(word)).collect();
    match regions {
        Some(regions) => format!("required again in {}; elsewhere it stays as it is", regions.join(", ")),
        None if requiring().all(|field| field.field == "fleets") => {
            "required from the fleets that are new to it".to_owned()
        }
        None => "required again: it is probed in another way".to_owned(),
    }
}

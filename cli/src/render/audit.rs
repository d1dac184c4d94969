//! The audit log.

use anstyle::Style;
use preflight_proto::api::{AuditEntry, AuditLog};

use super::grid::{Grid, Span};
use super::{DIM, PLAIN, UNSURE, moment, paragraph, sentence, styled, word};

/// From this width on, columns leave room for the last of them.
const WIDE: usize = 130;

/// An entry a line, the newest first.
pub(crate) fn render(log: &AuditLog, width: usize) -> String {
    if log.entries.is_empty() {
        return "No entry matches.\n".to_owned();
    }
    let more = if log.next.is_some() { "There are older entries: --limit shows more of them.\n" } else { "" };
    if width < WIDE {
        return log.entries.iter().map(|entry| narrow(entry, width)).collect::<String>() + more;
    }
    let mut grid = Grid::new(["AT", "WHO", "ACTION", "OUTCOME", "FROM", "DETAIL"].map(str::to_owned));
    for entry in &log.entries {
        grid.row(vec![
            Span::plain(moment(&entry.at)),
            Span::plain(word(&entry.principal)),
            Span::plain(word(&entry.action)),
            Span::new(style(entry), word(&entry.outcome)),
            Span::new(DIM, word(&entry.source)),
            Span::plain(sentence(&entry.detail)),
        ]);
    }
    grid.list(width) + more
}

fn style(entry: &AuditEntry) -> Style {
    let fine = ["ok", "asked", "delivered"].contains(&entry.outcome.as_str()) || entry.outcome.starts_with("pass");
    if fine { PLAIN } else { UNSURE }
}

/// An entry where columns would leave no room for what it says.
fn narrow(entry: &AuditEntry, width: usize) -> String {
    let [principal, action] = [&entry.principal, &entry.action].map(|text| word(text));
    let outcome = styled(style(entry), &word(&entry.outcome));
    format!("{}  {principal}  {action}  {outcome}\n", moment(&entry.at))
        + &paragraph("    ", &format!("{} {}", sentence(&entry.detail), word(&entry.source)), width)
}

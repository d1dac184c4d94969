//! The audit log.

use preflight_proto::api::AuditLog;

use super::grid::{Grid, Span};
use super::{DIM, PLAIN, UNSURE, moment, sentence, word};

/// An entry a line, the newest first.
pub(crate) fn render(log: &AuditLog, width: usize) -> String {
    if log.entries.is_empty() {
        return "No entry matches.\n".to_owned();
    }
    let mut grid = Grid::new(["AT", "WHO", "ACTION", "OUTCOME", "FROM", "DETAIL"].map(str::to_owned));
    for entry in &log.entries {
        let fine = ["ok", "asked", "delivered"].contains(&entry.outcome.as_str()) || entry.outcome.starts_with("pass");
        let style = if fine { PLAIN } else { UNSURE };
        grid.row(vec![
            Span::plain(moment(&entry.at)),
            Span::plain(word(&entry.principal)),
            Span::plain(word(&entry.action)),
            Span::new(style, word(&entry.outcome)),
            Span::new(DIM, word(&entry.source)),
            Span::plain(sentence(&entry.detail)),
        ]);
    }
    let more = if log.next.is_some() { "There are older entries: --limit shows more of them.\n" } else { "" };
    grid.list(width) + more
}

//! The audit log.

use anstyle::Style;
use preflight_proto::api::{AuditEntry, AuditLog, Record};

use super::grid::{Grid, Span};
use super::{DIM, PLAIN, UNSURE, moment, paragraph, sentence, styled, word};

/// From this width on, columns leave room for the last of them.
const WIDE: usize = 130;

/// An entry a line, what happened last first.
pub(crate) fn render(log: &AuditLog, width: usize) -> String {
    if log.entries.is_empty() {
        return "No entry matches.\n".to_owned();
    }
    let more = if log.next.is_some() { "There are older entries: --limit shows more of them.\n" } else { "" };
    let mut lines: Vec<Line<'_>> = log.entries.iter().map(Line::of).collect();
    // What was told later stands where it happened.
    lines.sort_by_key(|line| std::cmp::Reverse(line.at.parse::<jiff::Timestamp>().ok()));
    if width < WIDE {
        return lines.iter().map(|line| narrow(line, width)).collect::<String>() + more;
    }
    let mut grid = Grid::new(["AT", "WHO", "ACTION", "OUTCOME", "FROM", "DETAIL"].map(str::to_owned));
    for line in &lines {
        grid.row(vec![
            Span::plain(moment(&line.at)),
            Span::plain(word(&line.who)),
            Span::plain(word(&line.entry.action)),
            Span::new(style(line.entry), word(&line.entry.outcome)),
            Span::new(DIM, word(&line.entry.source)),
            Span::plain(sentence(&line.detail)),
        ]);
    }
    grid.list(width) + more
}

/// An entry as a person reads it.
struct Line<'a> {
    entry: &'a AuditEntry,
    /// When it happened.
    at: String,
    who: String,
    detail: String,
}

impl<'a> Line<'a> {
    fn of(entry: &'a AuditEntry) -> Self {
        let plain = || (entry.at.clone(), entry.principal.clone(), entry.detail.clone());
        let (at, who, detail) = record(entry).map_or_else(plain, |record| {
            let regions = if record.regions.is_empty() { "every region".to_owned() } else { record.regions.join(", ") };
            let reason = if record.reason.is_empty() { "no reason given" } else { &record.reason };
            let ticket = if record.ticket.is_empty() { String::new() } else { format!(" (ticket {})", record.ticket) };
            let detail = format!(
                "{} {} in {regions}: {reason}{ticket}; no controller could be asked ({}); told by {} at {}; record {}",
                record.application,
                record.release,
                record.error,
                entry.principal,
                moment(&entry.at),
                record.id
            );
            (record.at.clone(), record.by, detail)
        });
        Self { entry, at, who, detail }
    }
}

/// What was done while the controller could not be asked, where the entry is of that.
fn record(entry: &AuditEntry) -> Option<Record> {
    let told_later = entry.outcome == "delivered" && ["rollback", "break_glass"].contains(&entry.action.as_str());
    told_later.then(|| serde_json::from_str(&entry.detail).ok()).flatten()
}

fn style(entry: &AuditEntry) -> Style {
    let fine = ["ok", "asked", "delivered"].contains(&entry.outcome.as_str()) || entry.outcome.starts_with("pass");
    if fine { PLAIN } else { UNSURE }
}

/// An entry where columns would leave no room for what it says.
fn narrow(line: &Line<'_>, width: usize) -> String {
    let [who, action] = [&line.who, &line.entry.action].map(|text| word(text));
    let outcome = styled(style(line.entry), &word(&line.entry.outcome));
    format!("{}  {who}  {action}  {outcome}\n", moment(&line.at))
        + &paragraph("    ", &format!("{} {}", sentence(&line.detail), word(&line.entry.source)), width)
}

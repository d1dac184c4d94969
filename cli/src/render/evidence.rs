//! What agents saw, for the cells that do not pass.

use std::fmt::Write as _;

use preflight_core::observation::{Attempt, Certificate, Observation, Outcome, Phases, Proof};
use preflight_core::reason::Short;
use preflight_proto::api::{Cell, Evidence, Gate, Region};

use super::{DIM, count, glyph, heading, host, paragraph, sentence, style_of, styled, word, worst_first};

/// At most this many cells are shown, and this many lines of one. JSON has all.
const CELLS: usize = 12;
const LINES: usize = 6;

/// The evidence of the required cells that do not pass; nothing where all do.
pub(crate) fn render(gate: &Gate, width: usize) -> String {
    let mut cells: Vec<(&Region, &Cell)> = gate
        .regions
        .iter()
        .flat_map(|region| region.cells.iter().map(move |cell| (region, cell)))
        .filter(|(_, cell)| cell.blocks())
        // Of whom nobody answered, the reasons have said all.
        .filter(|(region, cell)| !cell.evidence.is_empty() || unsaid(region, cell).is_some())
        .collect();
    // The worst first, since those are what a cut must not hide.
    cells.sort_by_key(|(_, cell)| worst_first(cell.state));
    if cells.is_empty() {
        return String::new();
    }
    let mut out = heading("Evidence");
    for (region, cell) in cells.iter().take(CELLS) {
        out.push_str(&of_cell(region, cell, width));
    }
    if cells.len() > CELLS {
        let _ = writeln!(out, "  and {}: `-o json` shows all", count(cells.len() - CELLS, "more cell"));
    }
    out
}

/// A cell's text, unless the reasons have said it.
fn unsaid<'a>(region: &Region, cell: &'a Cell) -> Option<&'a String> {
    cell.text.as_ref().filter(|text| !region.reasons.iter().any(|why| why.text.contains(*text)))
}

fn of_cell(region: &Region, cell: &Cell, width: usize) -> String {
    let sign = styled(style_of(cell.state), glyph(cell.state));
    let (from, to, target) = (word(&cell.fleet), word(&cell.dependency), word(&cell.target));
    let mut out = format!("  {sign} {}/{from} → {to}  {}\n", word(&region.region), styled(DIM, &target));
    if let Some(text) = unsaid(region, cell) {
        out.push_str(&paragraph("      ", &sentence(text), width));
    }
    // Where there must be no path, a connect is what went wrong.
    let leaks = cell.reason.as_deref() == Some(Short::Reachable.as_str());
    let ok = if leaks { "reached" } else { "ok" };
    let rank = |evidence: &&Evidence| match evidence.observation.outcome {
        Outcome::Ok if leaks => 0,
        Outcome::Short(_) => 1,
        Outcome::Void(_) => 2,
        Outcome::Ok => 3,
    };
    let mut sorted: Vec<&Evidence> = cell.evidence.iter().collect();
    sorted.sort_by_key(rank);
    for evidence in sorted.iter().take(LINES) {
        let on = host(&evidence.identity).map_or_else(String::new, |host| format!(" on {host}"));
        let first = format!("      {}{on}  ", word(&evidence.agent));
        out.push_str(&observation(&first, &evidence.observation, ok, width));
    }
    if sorted.len() > LINES {
        let _ = writeln!(out, "      and {}: `-o json` shows all", count(sorted.len() - LINES, "more answer"));
    }
    out
}

/// One address: what came of it (`ok` in that word), how far it got, how long that took; then what was seen.
pub(crate) fn observation(first: &str, observation: &Observation, ok: &str, width: usize) -> String {
    let mut parts = Vec::new();
    let address = observation.address.map(|address| address.to_string());
    if let Some(member) = &observation.member {
        let endpoint = word(&member.endpoint);
        parts.extend(address.filter(|address| *address != endpoint));
        parts.insert(0, format!("member {endpoint} ({})", member.role.as_str()));
    } else {
        parts.extend(address);
    }
    match (observation.outcome.reason(), observation.proof.map(Proof::as_str)) {
        (Some(reason), Some(proof)) => parts.extend([reason.to_owned(), format!("got as far as {proof}")]),
        (Some(reason), None) => parts.push(reason.to_owned()),
        (None, proof) => parts.push(format!("{ok} ({})", proof.unwrap_or("nothing shown"))),
    }
    parts.extend(phases(&observation.phases));
    parts.extend(attempts(&observation.attempts));
    let mut out = paragraph(first, &parts.join(" · "), width);
    let indent = " ".repeat(super::columns(first));
    if let Some(note) = &observation.note {
        out.push_str(&paragraph(&format!("{indent}note: "), &sentence(note), width));
    }
    if let Some(detail) = &observation.detail {
        out.push_str(&paragraph(&format!("{indent}saw: "), &sentence(detail), width));
    }
    let leaf = observation.tls.as_ref().and_then(|tls| tls.chain.first());
    if let (Some(leaf), true) = (leaf, observation.outcome != Outcome::Ok) {
        out.push_str(&certificate(leaf, &indent, width));
    }
    out
}

pub(crate) fn proof_name(proof: Proof) -> &'static str {
    match proof {
        Proof::Resolved => "resolved",
        Proof::Connected => "connected",
        Proof::Encrypted => "encrypted",
        Proof::Protocol => "protocol",
    }
}

/// The phases that were finished.
pub(crate) fn phases(phases: &Phases) -> Option<String> {
    let Phases { resolve_ms, connect_ms, proxy_ms, tls_ms, protocol_ms } = *phases;
    let all = [
        ("resolve", resolve_ms),
        ("connect", connect_ms),
        ("proxy", proxy_ms),
        ("tls", tls_ms),
        ("protocol", protocol_ms),
    ];
    let done: Vec<String> = all.into_iter().filter_map(|(name, ms)| Some(format!("{name} {:.1} ms", ms?))).collect();
    (!done.is_empty()).then(|| done.join(", "))
}

/// Several attempts by how they ended; one alone says nothing that the reason does not.
pub(crate) fn attempts(attempts: &[Attempt]) -> Option<String> {
    let mut results: Vec<(String, usize)> = Vec::new();
    for attempt in attempts {
        let result = word(&attempt.result);
        match results.iter_mut().find(|(known, _)| *known == result) {
            Some((_, times)) => *times += 1,
            None => results.push((result, 1)),
        }
    }
    let list: Vec<String> = results.iter().map(|(result, times)| format!("{times} {result}")).collect();
    (attempts.len() > 1).then(|| format!("{} attempts: {}", attempts.len(), list.join(", ")))
}

pub(super) fn certificate(leaf: &Certificate, indent: &str, width: usize) -> String {
    let mut names: Vec<String> = leaf.names.iter().take(5).map(|name| word(name)).collect();
    if leaf.names.len() > names.len() {
        names.push(format!("and {} more", leaf.names.len() - names.len()));
    }
    let names = if names.is_empty() { "no name".to_owned() } else { names.join(", ") };
    let text = format!(
        "{}, for {names}, issued by {}, valid {} to {}",
        word(&leaf.subject),
        word(&leaf.issuer),
        leaf.not_before,
        leaf.not_after
    );
    paragraph(&format!("{indent}certificate: "), &text, width)
}

//! A verdict as Markdown (GitHub's flavour): for a step's summary, a comment or an artifact.
//!
//! Foreign text is escaped so that it shows as itself: it makes no link, image, HTML, table column or mention.

use std::fmt::Write as _;

use preflight_core::text::escape_to;
use preflight_proto::api::{Cell, Evidence, Gate, Region, State};

use super::{GoesOn, Told, answers, decision, overridden, seconds};
use crate::render::gate::{by_what_they_say, unchanged, without_probes};
use crate::render::{evidence, moment};

/// What GitHub takes as a step's summary, in bytes.
pub(super) const MAX_BYTES: usize = 1024 * 1024;
/// Each name and sentence is cut here, in characters.
const SENTENCE: usize = 2_000;
/// Answers of one cell that are shown. JSON has all.
const ANSWERS: usize = 5;
const CUT: &str = "\n_It is longer than fits here: `-o json` has all of it._\n";

/// The whole page, at most `limit` bytes long.
pub(super) fn render(told: Told<'_>, limit: usize) -> String {
    if limit < CUT.len() {
        // GitHub drops a summary whole that is too long: what stands there is worth more than that this does not.
        return String::new();
    }
    let mut page = Page { text: String::new(), limit: limit.saturating_sub(CUT.len()), cut: false };
    match told {
        Told::Verdict { gate, advisory } => verdict(gate, advisory, &mut page),
        Told::Nothing { goes_on: GoesOn::Emergency(emergency), .. } => {
            let (application, release) = (safe(&emergency.record.application), safe(&emergency.record.release));
            page.line(&format!("## ⚠️ preflight: PROCEED by {} {application} {release}", emergency.what()));
            page.line(&format!("\n> [!WARNING]\n> **{}**\n", safe(&emergency.says())));
            for text in emergency.sentences() {
                page.line(&format!("- {}", safe(&text)));
            }
        }
        Told::Nothing { failure, goes_on } => {
            page.line("## ⛔ preflight: no verdict");
            page.line("");
            if let Some(says) = goes_on.says() {
                page.line(&format!("> [!WARNING]\n> **{}**\n", safe(&says)));
            }
            page.line(&format!(
                "Exit {} ({}): {}",
                failure.exit.code(),
                failure.exit.meaning(),
                prose(&failure.message)
            ));
            if let Some(fix) = &failure.fix {
                page.line(&format!("\n- → {}", prose(fix)));
            }
        }
    }
    page.text
}

/// Lines, as long as there is room for them. A line is never cut, so nothing that it escapes comes loose.
struct Page {
    text: String,
    limit: usize,
    cut: bool,
}

impl Page {
    fn line(&mut self, line: &str) {
        if self.cut {
            return;
        }
        if self.text.len() + line.len() + 1 > self.limit {
            self.cut = true;
            self.text.push_str(CUT);
            return;
        }
        self.text.push_str(line);
        self.text.push('\n');
    }
}

fn verdict(gate: &Gate, advisory: bool, page: &mut Page) {
    let proceeds = decision(gate.decision) == "proceed";
    let sign = if proceeds { "✅" } else { "⛔" };
    let word = crate::render::gate::decision(gate);
    page.line(&format!("## {sign} preflight: {word} {} {}", safe(&gate.application), safe(&gate.release)));
    page.line("");
    if advisory {
        let says = crate::render::gate::advisory_says(gate.decision);
        page.line(&format!("> [!WARNING]\n> **{says}**\n"));
    }
    if gate.rollback {
        page.line("> [!NOTE]\n> **ROLLBACK**: what is seen is shown and holds up nothing.\n");
    }
    let mut parts = vec![
        format!("Verdict **{}**{}", gate.verdict.as_str(), without_probes(gate)),
        format!("run {}", safe(&gate.id)),
    ];
    parts.extend(seconds(gate).map(|seconds| format!("{seconds:.1} s")));
    let until = gate.regions.iter().map(|region| region.valid_until.as_str()).min().filter(|_| proceeds);
    parts.extend(until.map(|until| format!("valid until {}", safe(&moment(until)))));
    page.line(&parts.join(" · "));
    for region in &gate.regions {
        of_region(region, page);
    }
    said(gate, page);
    let cells = gate.regions.iter().flat_map(|region| region.cells.iter().map(move |cell| (region, cell)));
    let shown: Vec<(&Region, &Cell)> = cells.filter(|(_, cell)| cell.blocks()).collect();
    if !shown.is_empty() {
        page.line("\n### Evidence");
    }
    for (region, cell) in shown {
        of_cell(region, cell, page);
    }
}

/// A region: its matrix, who answers for what, and what is left out.
fn of_region(region: &Region, page: &mut Page) {
    let state = region.verdict;
    let (name, word, decision) = (safe(&region.region), state.as_str(), decision(region.decision));
    // Nothing that is held back looks as if it may go on.
    let sign = if state == State::Pass && decision == "block" { "⛔" } else { sign(state) };
    if unchanged(region) {
        page.line(&format!("\n### {sign} {name}: nothing new, {decision}"));
    } else {
        page.line(&format!("\n### {sign} {name}: {word}, {decision}"));
    }
    matrix(region, page);
    for given in &region.overrides {
        page.line(&format!("- **overridden**: {}, {}", safe(&given.subject()), safe(&answers(given))));
    }
    for given in &region.overrides_since {
        page.line(&format!("- **overridden since**: {}, {}", safe(&given.subject()), safe(&answers(given))));
    }
    for excluded in &region.excluded {
        let (fleet, dependency) = (safe(&excluded.fleet), safe(&excluded.dependency));
        page.line(&format!("- {fleet} does not use {dependency}: {}", safe(&excluded.because)));
    }
}

/// What comparing shows, why, and what to do: once, naming the regions of which it is said.
fn said(gate: &Gate, page: &mut Page) {
    let findings = gate.regions.iter().flat_map(|r| r.findings.iter().map(|f| (&r.region, (&f.kind, &f.text))));
    let findings = by_what_they_say(findings);
    if !findings.is_empty() {
        page.line("\n### Findings\n");
    }
    for ((kind, text), regions) in findings {
        page.line(&format!("- {}: **{}**: {}", safe(&regions.join(", ")), safe(kind), safe(text)));
    }
    let reasons = gate.regions.iter().flat_map(|r| r.reasons.iter().map(|why| (&r.region, (&why.text, &why.fix))));
    let reasons = by_what_they_say(reasons);
    if !reasons.is_empty() {
        let proceeds = decision(gate.decision) == "proceed";
        page.line(if proceeds { "\n### Why\n" } else { "\n### What to do next\n" });
    }
    for ((text, fix), regions) in reasons {
        page.line(&format!("- {}: {}", safe(&regions.join(", ")), prose(text)));
        if let Some(fix) = fix {
            page.line(&format!("  - → {}", prose(fix)));
        }
    }
}

/// Fleets across, dependencies down.
fn matrix(region: &Region, page: &mut Page) {
    let mut fleets: Vec<&str> = Vec::new();
    let mut rows: Vec<(&str, Vec<(&str, String)>)> = Vec::new();
    let cells =
        region.cells.iter().map(|cell| (cell.fleet.as_str(), cell.dependency.as_str(), in_matrix(region, cell)));
    let excluded = region.excluded.iter().map(|e| (e.fleet.as_str(), e.dependency.as_str(), "– excluded".to_owned()));
    for (fleet, dependency, text) in cells.chain(excluded) {
        if !fleets.contains(&fleet) {
            fleets.push(fleet);
        }
        match rows.iter_mut().find(|(name, _)| *name == dependency) {
            Some((_, row)) => row.push((fleet, text)),
            None => rows.push((dependency, vec![(fleet, text)])),
        }
    }
    if rows.is_empty() {
        page.line("\nThere is no cell.\n");
        return;
    }
    let header: Vec<String> = fleets.iter().map(|fleet| safe(fleet)).collect();
    page.line(&format!("\n| | {} |", header.join(" | ")));
    page.line(&format!("| --- |{}", " --- |".repeat(fleets.len())));
    for (dependency, row) in rows {
        let mut line = format!("| {} |", safe(dependency));
        for fleet in &fleets {
            let text = row.iter().find(|(name, _)| name == fleet).map_or("", |(_, text)| text);
            let _ = write!(line, " {text} |");
        }
        page.line(&line);
    }
    page.line("");
}

fn in_matrix(region: &Region, cell: &Cell) -> String {
    let sign = sign(cell.state);
    let mut text = match (&cell.reason, &cell.proven_by) {
        // Not probed this time: nothing may look as if it were.
        (_, Some(verdict)) => format!("= shown by {}", safe(verdict)),
        (Some(reason), None) => format!("{sign} {}", safe(reason)),
        (None, None) => format!("{sign} {}/{}", cell.agents.ok, cell.agents.asked),
    };
    if let Some(coverage) = &cell.coverage {
        let _ = write!(text, ", {}", safe(coverage));
    }
    if overridden(region, cell).is_some() {
        text.push_str(", overridden");
    }
    if !cell.required && cell.proven_by.is_none() {
        text.push_str(" (not required)");
    }
    text
}

/// What agents saw of one cell.
fn of_cell(region: &Region, cell: &Cell, page: &mut Page) {
    let (place, fleet) = (safe(&region.region), safe(&cell.fleet));
    page.line(&format!("\n**{place}/{fleet} → {}** {}\n", safe(&cell.dependency), safe(&cell.target)));
    if let Some(text) = &cell.text {
        page.line(&format!("- {}", safe(text)));
    }
    for seen in cell.evidence.iter().take(ANSWERS) {
        page.line(&format!("- {}", safe(&line_of(seen))));
    }
    if cell.evidence.len() > ANSWERS {
        page.line(&format!("- and {} more", cell.evidence.len() - ANSWERS));
    }
}

/// One answer on a line, as plain text: it is not escaped yet.
pub(super) fn line_of(seen: &Evidence) -> String {
    let observation = &seen.observation;
    let mut parts: Vec<String> = Vec::new();
    parts.extend(observation.place());
    parts.push(observation.outcome.reason().unwrap_or("ok").to_owned());
    parts.extend(observation.proof.map(|proof| format!("got as far as {}", evidence::proof_name(proof))));
    parts.extend(evidence::phases(&observation.phases));
    parts.extend(evidence::attempts(&observation.attempts));
    parts.extend(observation.note.as_ref().map(|note| format!("note: {note}")));
    parts.extend(observation.detail.as_ref().map(|detail| format!("saw: {detail}")));
    let identity: Vec<String> = seen.identity.0.iter().map(|(key, values)| format!("{key}={}", join(values))).collect();
    if !identity.is_empty() {
        parts.push(identity.join(" "));
    }
    format!("{}: {}", seen.agent, parts.join(" · "))
}

fn join(values: &std::collections::BTreeSet<String>) -> String {
    values.iter().map(String::as_str).collect::<Vec<_>>().join(",")
}

fn sign(state: State) -> &'static str {
    match state {
        State::Pass => "✅",
        State::Fail => "❌",
        State::Unknown => "❓",
    }
}

/// Foreign text as it may stand anywhere inside a line, also of a table, and where a block begins.
///
/// Escaped with a backslash (`CommonMark` 0.31, 2.4) is what could mean something where it stands, and no more, so that names and
/// addresses read as they are: what opens emphasis, code, a link, HTML, an entity, mathematics or a table's column, or ends a
/// heading's attributes; what GitHub links by itself (`https://`, `www.`); and at the beginning what opens a block. `@` and `#`
/// that mention people and issues, or make a mail address, which is looked for after Markdown is done, become code. Space is
/// collapsed, so that none of it indents.
pub(super) fn safe(text: &str) -> String {
    escaped(text, true)
}

fn escaped(text: &str, begins: bool) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for (index, word) in escape_to(text, SENTENCE).split_whitespace().enumerate() {
        if index > 0 {
            out.push(' ');
        }
        let mut before = ' ';
        let number = word.strip_suffix(['.', ')']).is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
        for (at, c) in word.char_indices() {
            let after = &word[at + c.len_utf8()..];
            if mentions(before, c, after) {
                // Two code spans side by side would be one with its fences inside.
                if out.ends_with('`') && !out.ends_with("\\`") {
                    out.pop();
                } else {
                    out.push('`');
                }
                out.push(c);
                out.push('`');
            } else {
                let opens = begins && index == 0 && (at == 0 && c.is_ascii_punctuation() || number && after.is_empty());
                if opens || means_something(before, c, after) {
                    out.push('\\');
                }
                out.push(c);
            }
            before = c;
        }
    }
    out
}

/// A foreign sentence as [`safe`] has it, not for a table; what stands in it between backticks, such as a command, is code here too.
fn prose(text: &str) -> String {
    let text = escape_to(text, SENTENCE);
    let parts: Vec<&str> = text.split('`').collect();
    let code = || parts.iter().skip(1).step_by(2);
    if parts.len().is_multiple_of(2) || code().any(|code| code.trim() != *code || code.is_empty()) {
        return safe(&text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for (index, part) in parts.iter().enumerate() {
        if !index.is_multiple_of(2) {
            out.extend(["`", &code_words(part), "`"]);
            continue;
        }
        let inside = escaped(part, out.is_empty());
        // Two code spans side by side would be one with its fences inside.
        if inside.starts_with('`')
            || inside.ends_with('`')
            || (part.is_empty() && (1..parts.len() - 1).contains(&index))
        {
            return safe(&text);
        }
        let space = |at_edge: bool| if at_edge { " " } else { "" };
        out.push_str(space(index > 0 && part.starts_with(char::is_whitespace)));
        out.push_str(&inside);
        out.push_str(space(!inside.is_empty() && part.ends_with(char::is_whitespace)));
    }
    out
}

fn code_words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether a renderer would make a mention, an issue or a mail address of it.
fn mentions(before: char, c: char, after: &str) -> bool {
    match c {
        '@' => !before.is_alphanumeric() || after.contains('.'),
        '#' => after.starts_with(|c: char| c.is_alphanumeric()),
        _ => false,
    }
}

/// Whether a character is more than itself inside of a line.
fn means_something(before: char, c: char, after: &str) -> bool {
    match c {
        '\\' | '`' | '*' | '[' | '<' | '&' | '|' | '~' | '^' | '$' | '}' => true,
        // Inside of a word it opens nothing.
        '_' => !(before.is_alphanumeric() && after.starts_with(char::is_alphanumeric)),
        ':' => after.starts_with("//"),
        '.' => before.eq_ignore_ascii_case(&'w'),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use pulldown_cmark::{Event, Options, Parser, Tag};

    use super::*;

    /// All that a renderer may know, but for what only makes quotes and dashes pretty.
    fn extensions() -> Options {
        Options::all().difference(Options::ENABLE_SMART_PUNCTUATION)
    }

    /// What a renderer makes of it: its text, and everything that is no text.
    fn parsed(markdown: &str) -> (String, Vec<String>) {
        let (mut text, mut other) = (String::new(), Vec::new());
        for event in Parser::new_ext(markdown, extensions()) {
            if let Event::Text(shown) | Event::Code(shown) = &event {
                text.push_str(shown);
            } else {
                other.push(format!("{event:?}"));
            }
        }
        (text, other)
    }

    fn collapsed(text: &str) -> String {
        escape_to(text, SENTENCE).split_whitespace().collect::<Vec<_>>().join(" ")
    }

    const HOSTILE: [&str; 28] = [
        "x {.class}",
        "1. x",
        "12) x",
        "7.",
        "- x",
        "+ x",
        "> x",
        ": x",
        "=====",
        "_a_ __b__ _ a_b_c (_d_) ~~~",
        "a | b || c",
        "`code` ``more`` `@me`",
        "<script>alert(1)</script><img src=x onerror=y>",
        "![pixel](https://evil.example/p.png)",
        "[click](javascript:alert(1)) [a]: http://x",
        "https://evil.example www.evil.example a@b.example",
        "@everyone #1 @#@#`@` #`#",
        "# heading",
        "- list\n1. list\n> quote\n    code",
        "---",
        "**bold** _it_ ~~gone~~ $x^2$ ^a^ ~b~",
        "&lt; &#60; &amp;",
        "\\`\\| \\",
        "a\\",
        ":::note\n:smile: [^1] [[wiki]] {#id .class}",
        "<!-- hidden --> </details>",
        "\u{1b}[2Jx\u{202e}y",
        "```\nfence",
    ];

    #[test]
    fn foreign_text_shows_as_itself_and_does_nothing() {
        for text in HOSTILE {
            let (shown, other) = parsed(&format!("x {}", safe(text)));
            assert_eq!(shown, format!("x {}", collapsed(text)), "{text:?}: {}", safe(text));
            assert_eq!(other.len(), 2, "a paragraph begins and ends: {text:?}: {other:?}");
            opens_no_block(text);
            let (shown, other) = parsed(&format!("## x {}", safe(text)));
            assert_eq!(shown, format!("x {}", collapsed(text)));
            assert!(other[0].contains("id: None, classes: [], attrs: []"), "{other:?}");
        }
    }

    /// Where a list's item begins, and where a line does.
    fn opens_no_block(text: &str) {
        if collapsed(text).is_empty() {
            return;
        }
        for (lead, around) in [("- ", 4), ("", 2)] {
            let (shown, other) = parsed(&format!("{lead}{}\n", safe(text)));
            assert_eq!(shown.trim_end(), collapsed(text), "{text:?}: {}", safe(text));
            assert_eq!(other.len(), around, "{text:?}: {}: {other:?}", safe(text));
        }
    }

    #[test]
    fn commands_in_a_sentence_are_code() {
        assert_eq!(prose("Run `preflight agents` now, or `a_b*`."), "Run `preflight agents` now, or `a_b*`.");
        assert_eq!(prose("`a` b"), "`a` b");
        assert_eq!(prose("one ` alone"), "one \\` alone");
    }

    /// What stands in every report reads as it is, also where nobody renders it.
    #[test]
    fn ordinary_names_are_left_as_they_are() {
        for text in [
            "connect_timeout: several attempts met silence at 10.0.3.7:6379 (2 of 2 agents); retry",
            "eu/web-1, us-east-1a: it's 100% \"down\" + gone = 3.5 s?",
            "2025-03-31.1",
            "by ann@build-7 until 2025-03-31T11:20:00Z",
            "--scope all",
        ] {
            let text = text.trim_start_matches("--");
            assert_eq!(safe(text), text);
        }
        assert_eq!(safe("redis://ai-cache.internal:6379"), "redis\\://ai-cache.internal:6379");
    }

    #[test]
    fn no_renderer_that_links_by_itself_finds_an_address() {
        for scheme in ["https://", "http://", "www.", "WWW.", "ftp://", "#1", "a@b."] {
            let text = format!("see {scheme}evil.example");
            assert!(!safe(&text).contains(scheme), "{}", safe(&text));
        }
    }

    proptest! {
        #[test]
        fn any_text_shows_as_itself(text in "\\PC{0,60}|[ -~\\n`|@#<>\\\\]{0,60}") {
            let (shown, other) = parsed(&format!("x {}", safe(&text)));
            let want = format!("x {}", collapsed(&text));
            prop_assert_eq!(shown.trim_end(), want.trim_end());
            prop_assert_eq!(other.len(), 2, "{:?}", other);
            opens_no_block(&text);
        }

        /// Of a sentence only the backticks around code are gone.
        #[test]
        fn any_sentence_shows_as_itself_with_its_code(text in "\\PC{0,60}|[-+*_`@#.()<!|&;$ 1aw\\\\/]{0,40}") {
            let (shown, other) = parsed(&format!("x {}", prose(&text)));
            let bare = |text: &str| text.replace(['`', ' '], "");
            prop_assert_eq!(bare(&shown), bare(&format!("x {}", collapsed(&text))));
            prop_assert_eq!(other.len(), 2, "{:?}", other);
        }

        /// The same of what is made of nothing but markup.
        #[test]
        fn any_markup_shows_as_itself(text in "[-+*_=~`>:#.()\\[\\]{}<!|&;$^ 1aw@/]{0,40}") {
            let (shown, other) = parsed(&format!("x {}", safe(&text)));
            let want = format!("x {}", collapsed(&text));
            prop_assert_eq!(shown.trim_end(), want.trim_end());
            prop_assert_eq!(other.len(), 2, "{:?}", other);
            opens_no_block(&text);
        }

        /// However hostile a name is, a table keeps its columns.
        #[test]
        fn any_text_stays_in_its_cell(text in "\\PC{0,60}|[ -~`|@#\\\\]{0,60}") {
            let table = format!("| a | b |\n| --- | --- |\n| {} | last |\n", safe(&text));
            let events: Vec<Event<'_>> = Parser::new_ext(&table, extensions()).collect();
            let cells = events.iter().filter(|event| matches!(event, Event::Start(Tag::TableCell))).count();
            let mut shown = String::new();
            for event in &events {
                if let Event::Text(text) | Event::Code(text) = event {
                    shown.push_str(text);
                }
            }
            prop_assert_eq!(cells, 4, "{}", table);
            prop_assert_eq!(shown, format!("ab{}last", collapsed(&text)));
        }
    }

    #[test]
    fn a_page_ends_before_its_limit_with_a_whole_line() {
        let mut page = Page { text: String::new(), limit: 25, cut: false };
        for _ in 0..10 {
            page.line("1234567890");
        }
        assert_eq!(page.text, format!("1234567890\n1234567890\n{CUT}"));
        let failure = crate::failure::Failure::no_verdict("x".repeat(300));
        for limit in [0, CUT.len() - 1, CUT.len(), 200] {
            let text = render(Told::Nothing { failure: &failure, goes_on: GoesOn::Advisory }, limit);
            assert!(text.len() <= limit, "{limit}: {text}");
        }
    }
}

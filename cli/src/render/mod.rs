//! Results as text for people. Pure: a value and a width in, text with colours out.

pub(crate) mod agents;
pub(crate) mod audit;
pub(crate) mod drift;
pub(crate) mod emergency;
pub(crate) mod evidence;
pub(crate) mod explain;
pub(crate) mod gate;
mod grid;
pub(crate) mod local;
pub(crate) mod manifest;
pub(crate) mod matrix;
pub(crate) mod overrides;
pub(crate) mod probe;
pub(crate) mod releases;
pub(crate) mod tokens;

use anstyle::{AnsiColor, Style};
use preflight_core::text::escape_to;
use preflight_proto::api::State;
use unicode_width::UnicodeWidthStr;

/// Names and single words are cut here.
const WORD: usize = 100;
/// Sentences are cut here.
const SENTENCE: usize = 2_000;

const PLAIN: Style = Style::new();
const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default();
const UNSURE: Style = AnsiColor::Yellow.on_default();

/// A foreign name or word, safe to print.
fn word(text: &str) -> String {
    escape_to(text, WORD)
}

/// A foreign sentence, safe to print.
fn sentence(text: &str) -> String {
    escape_to(text, SENTENCE)
}

/// A time to the second; what is none, as it is.
pub(crate) fn moment(text: &str) -> String {
    let time = text.parse::<jiff::Timestamp>();
    let seconds = time.and_then(|time| jiff::Timestamp::from_second(time.as_second()));
    seconds.map_or_else(|_| word(text), |time| time.to_string())
}

fn styled(style: Style, text: &str) -> String {
    if text.is_empty() || style == PLAIN { text.to_owned() } else { format!("{style}{text}{style:#}") }
}

fn style_of(state: State) -> Style {
    match state {
        State::Pass => GOOD,
        State::Fail => BAD,
        State::Unknown => UNSURE,
    }
}

/// For sorting by state.
fn worst_first(state: State) -> u8 {
    match state {
        State::Fail => 0,
        State::Unknown => 1,
        State::Pass => 2,
    }
}

fn glyph(state: State) -> &'static str {
    match state {
        State::Pass => "✓",
        State::Fail => "✗",
        State::Unknown => "?",
    }
}

/// Columns that a text takes; its colours take none.
fn columns(text: &str) -> usize {
    anstream::adapter::strip_str(text).map(UnicodeWidthStr::width).sum()
}

/// A paragraph: `first` stands before its first line, and the others are indented as far. Words are not broken.
fn paragraph(first: &str, text: &str, width: usize) -> String {
    let indent = columns(first);
    let mut out = String::from(first);
    let mut at = indent;
    let mut fresh = true;
    for word in unbroken(text) {
        let needed = columns(&word);
        if !fresh && at + 1 + needed > width {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            at = indent;
            fresh = true;
        }
        if !fresh {
            out.push(' ');
            at += 1;
        }
        out.push_str(&word);
        at += needed;
        fresh = false;
    }
    out.push('\n');
    out
}

/// The words of a text; what stands between backticks is one, so that a command can be copied whole.
fn unbroken(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut open = false;
    // A backtick that nothing closes opens nothing.
    let mut left = text.matches('`').count();
    for word in text.split_whitespace() {
        match words.last_mut().filter(|_| open) {
            Some(last) => last.extend([" ", word]),
            None => words.push(word.to_owned()),
        }
        for _ in word.matches('`') {
            left -= 1;
            open = !open && left > 0;
        }
    }
    words
}

/// `1 agent`, `2 agents`.
fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// A heading with an empty line before it.
fn heading(text: &str) -> String {
    format!("\n{}\n", styled(BOLD, text))
}

/// Which machine to look at: the host's name, or its address.
fn host(identity: &preflight_core::identity::NetworkIdentity) -> Option<String> {
    let first = |attribute: &str| identity.0.get(attribute).and_then(|values| values.first());
    first("host").or_else(|| first("address")).map(|host| word(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_never_broken() {
        let text = "Then: `preflight unlock --region eu --release r1`. Or wait a `while, it may come.";
        let wrapped = paragraph("  → ", text, 30);
        let lines: Vec<&str> = wrapped.lines().collect();
        assert_eq!(
            lines,
            [
                "  → Then:",
                "    `preflight unlock --region eu --release r1`.",
                "    Or wait a `while, it may",
                "    come."
            ]
        );
    }

    #[test]
    fn a_paragraph_hangs_under_its_first_word() {
        assert_eq!(paragraph("  - ", "one two three four", 13), "  - one two\n    three\n    four\n");
        let coloured = styled(BAD, "no");
        assert_eq!(paragraph(&coloured, " one two", 6), format!("{coloured}one\n  two\n"));
        assert_eq!(
            paragraph("", "tcp://a-name-longer-than-the-line:1 x", 10),
            "tcp://a-name-longer-than-the-line:1\nx\n"
        );
    }
}

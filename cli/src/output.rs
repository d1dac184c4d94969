//! Results on stdout.

use std::fmt::Write as _;

use std::io::Write as _;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::failure::Failure;

/// How a result is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// `-o`.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OutputArgs {
    /// How to show the result
    #[arg(short = 'o', long = "output", value_enum, default_value = "table", value_name = "FORMAT")]
    pub(crate) format: Format,
}

impl OutputArgs {
    /// Whether JSON was asked for.
    pub(crate) fn is_json(self) -> bool {
        self.format == Format::Json
    }
}

/// Writes text that may hold colours, which are left out where they are not wanted.
pub(crate) fn text(text: &str) -> Result<(), Failure> {
    let mut out = anstream::stdout();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    // A result that nobody got is none.
    written.map_err(|error| Failure::unwritten(&error))
}

/// Writes a JSON document.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    text(&document(value)?)
}

/// A JSON document as text, which no terminal obeys.
pub(crate) fn document(value: &impl Serialize) -> Result<String, Failure> {
    let document = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::no_verdict(format!("cannot write the result: {error}")))?;
    Ok(ascii_safe(&document) + "\n")
}

/// Writes a JSON document on a line of its own.
pub(crate) fn json_line(value: &impl Serialize) -> Result<(), Failure> {
    let document = serde_json::to_string(value)
        .map_err(|error| Failure::no_verdict(format!("cannot write the result: {error}")))?;
    text(&(ascii_safe(&document) + "\n"))
}

/// Escapes what a terminal might obey or hide. Such characters stand only inside strings, where the escape means the same.
pub(crate) fn ascii_safe(document: &str) -> String {
    let mut out = String::with_capacity(document.len());
    for c in document.chars() {
        if c == '\n' || preflight_core::text::is_plain(c) {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out
}

/// Columns to lay out for: `COLUMNS`, else the terminal's, else enough for a log.
pub(crate) fn width() -> usize {
    const ELSEWHERE: usize = 120;
    const NARROWEST: usize = 40;
    let named = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok()).filter(|columns| *columns > 0);
    let terminal = || rustix::termios::tcgetwinsize(std::io::stdout()).ok().map(|size| usize::from(size.ws_col));
    named.or_else(|| terminal().filter(|columns| *columns > 0)).unwrap_or(ELSEWHERE).max(NARROWEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_document_reaches_the_terminal_raw() {
        let foreign = "a\u{1b}[31m\u{9b}2J\u{202e}\u{e0041}é\n";
        let shown = ascii_safe(&serde_json::to_string(foreign).unwrap());
        assert!(shown.chars().all(preflight_core::text::is_plain), "{shown}");
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), foreign);
    }
}

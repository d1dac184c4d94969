//! What is wrong with a file that a person wrote: where, what, and what to write instead.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::text::escape;

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
}

impl Place {
    /// Where a text begins.
    pub const START: Self = Self { line: 1, column: 1 };
}

/// A place in a file, for those who point to what they complain about: `preflight.yaml:4:3`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The file's name as the caller gave it.
    pub file: String,
    /// Where in the file.
    #[serde(flatten)]
    pub place: Place,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", escape(&self.file), self.place.line, self.place.column)
    }
}

/// An error in a manifest or inventory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct Diagnostic {
    /// The file's name as the caller gave it.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub fix: Option<String>,
}

impl Diagnostic {
    /// An error at a place of `file`.
    pub fn new(file: &str, place: Place, message: impl Into<String>, fix: impl Into<String>) -> Self {
        let Place { line, column } = place;
        Self { file: file.to_owned(), line, column, message: message.into(), fix: Some(fix.into()) }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", escape(&self.file), self.line, self.column, self.message)?;
        match &self.fix {
            Some(fix) => write!(f, "\n  fix: {fix}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_for_what_and_one_for_the_fix() {
        let wrong = Diagnostic::new("a\u{202e}b.yaml", Place { line: 3, column: 7 }, "it is wrong", "right it");
        assert_eq!(wrong.to_string(), "a\\u{202e}b.yaml:3:7: it is wrong\n  fix: right it");
    }
}

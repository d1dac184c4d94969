//! What a command says when it has no result.

use std::fmt;

use preflight_core::diagnostic::Diagnostic;
use preflight_core::text::escape_to;
use preflight_proto::api::ProblemBody;

use crate::exit::Exit;

/// A command that ends without a result: the exit code, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The exit code, never 0.
    pub(crate) exit: Exit,
    /// Why, as a sentence without its full stop. May have several lines.
    pub(crate) message: String,
    /// What to do next.
    pub(crate) fix: Option<String>,
}

impl Failure {
    /// What was asked for is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, message: message.into(), fix: None }
    }

    /// No verdict, or no answer, could be had.
    pub(crate) fn no_verdict(message: impl Into<String>) -> Self {
        Self { exit: Exit::NoVerdict, message: message.into(), fix: None }
    }

    /// The same with what to do next.
    pub(crate) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// A file that a person wrote is wrong: where, with the line and a caret under the column.
    pub(crate) fn diagnostic(diagnostic: &Diagnostic, text: &str) -> Self {
        let Diagnostic { file, line, column, message, fix } = diagnostic;
        let mut shown = format!("{}:{line}:{column}: {}", safe(file), safe(message));
        let index = usize::try_from(*line).unwrap_or(0).checked_sub(1);
        if let Some(source) = index.and_then(|index| text.lines().nth(index)) {
            shown.push_str(&excerpt(*line, *column, source));
        }
        Self { exit: Exit::Usage, message: shown, fix: fix.as_deref().map(safe) }
    }

    /// The controller's own words.
    pub(crate) fn problem(problem: &ProblemBody) -> Self {
        let exit = match problem.code.as_str() {
            "usage" => Exit::Usage,
            "refused" => Exit::Refused,
            _ => Exit::NoVerdict,
        };
        Self { exit, message: safe(&problem.message), fix: problem.fix.as_deref().map(safe) }
    }
}

/// Foreign text of several lines, each escaped.
fn safe(text: &str) -> String {
    text.lines().map(|line| escape_to(line, 1_000)).collect::<Vec<_>>().join("\n")
}

/// The line with a caret under the column. Columns count characters, so each is shown as one: tabs and what is
/// invisible as a placeholder.
fn excerpt(line: u32, column: u32, source: &str) -> String {
    const SHOWN: usize = 100;
    let at = usize::try_from(column).unwrap_or(1).saturating_sub(1);
    let start = at.saturating_sub(SHOWN / 2);
    let plain = |c: char| match c {
        '\t' => ' ',
        c if preflight_core::text::is_plain(c) => c,
        _ => '·',
    };
    let shown: String = source.chars().skip(start).take(SHOWN).map(plain).collect();
    let number = line.to_string();
    let gutter = " ".repeat(number.len());
    let caret = " ".repeat(at - start);
    format!("\n {number} | {shown}\n {gutter} | {caret}^")
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
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
    fn the_caret_stands_under_the_column_whatever_the_line_holds() {
        let diagnostic = Diagnostic {
            file: "a.yaml".into(),
            line: 2,
            column: 4,
            message: "unknown key 'x'".into(),
            fix: Some("leave it out".into()),
        };
        let failure = Failure::diagnostic(&diagnostic, "a: 1\n\té\u{202e}x: 2\n");
        assert_eq!(failure.message, "a.yaml:2:4: unknown key 'x'\n 2 |  é·x: 2\n   |    ^");
        assert_eq!(failure.exit, Exit::Usage);
    }

    #[test]
    fn a_long_line_is_shown_around_the_column() {
        let line = format!("{}HERE{}", "a".repeat(500), "b".repeat(500));
        let text = excerpt(1, 501, &line);
        let rows: Vec<&str> = text.trim_start_matches('\n').lines().collect();
        let caret = rows[1].find('^').unwrap();
        assert_eq!(&rows[0][caret..caret + 4], "HERE");
        assert!(rows[0].len() < 120);
    }
}

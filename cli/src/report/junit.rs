//! A verdict as `JUnit` XML: a suite for each region, a test case for each cell (`classname="region/fleet"`). What fails is a
//! `<failure>`, what is not known an `<error>`, and what is left out or holds up nothing is skipped with its reason.

use std::fmt::Write as _;

use preflight_core::text::escape_to;
use preflight_proto::api::{Cell, Decision, Excluded, Gate, Record, Region, State};

use super::{Emergency, GoesOn, Told, beside, decision, markdown, overridden, seconds};
use crate::exit;

/// Each name and sentence is cut here, in characters.
const TEXT: usize = 2_000;
/// Answers of one cell that are shown. JSON has all.
const ANSWERS: usize = 50;
const ADVISORY: &str = "ADVISORY: this blocks nothing";

/// The whole document.
pub(super) fn render(told: Told<'_>) -> String {
    let (says, suites, time) = match told {
        Told::Verdict { gate, advisory } => {
            let mut suites: Vec<Suite> = gate.regions.iter().map(|region| suite(gate, region, advisory)).collect();
            if suites.is_empty() {
                // Nothing at all must not look as if nothing were wrong.
                let case = Case::new(
                    "preflight",
                    "verdict",
                    Became::Error("no_region".to_owned(), "it has no region".to_owned()),
                );
                suites.push(Suite { cases: vec![case], ..Suite::default() });
            }
            (advisory.then(|| ADVISORY.to_owned()), suites, seconds(gate))
        }
        Told::Nothing { goes_on: GoesOn::Emergency(emergency), .. } => {
            (Some(emergency.says()), vec![goes_on_without(emergency)], None)
        }
        Told::Nothing { failure, goes_on } => {
            let mut text = failure.message.clone();
            if let Some(fix) = &failure.fix {
                let _ = write!(text, "; {fix}");
            }
            let case = Case::new("preflight", "verdict", Became::Error("no_verdict".to_owned(), text));
            let suite = Suite { name: "preflight".to_owned(), cases: vec![case], ..Suite::default() };
            (goes_on.says(), vec![suite], None)
        }
    };
    let name = says.as_ref().map_or_else(|| "preflight".to_owned(), |says| format!("preflight ({says})"));
    let all = suites.iter().flat_map(|suite| &suite.cases);
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(out, "<testsuites name=\"{}\"{}{}>", safe(&name), counts(all), took(time));
    for suite in &suites {
        suite.write(&mut out, says.as_deref(), time);
    }
    out.push_str("</testsuites>\n");
    out
}

/// Neither passed nor failed: nobody was asked.
fn goes_on_without(emergency: Emergency<'_>) -> Suite {
    let Record { id, kind, application, release, by, reason, ticket, at, .. } = emergency.record;
    let kind = if kind == "rollback" { "rollback" } else { "break_glass" };
    let texts = [("application", application), ("release", release), ("by", by), ("reason", reason)];
    let mut properties: Vec<(&'static str, String)> = texts.map(|(name, text)| (name, text.clone())).to_vec();
    properties.extend([("ticket", ticket.clone()), ("record", id.clone()), (kind, "true".to_owned())]);
    properties.extend([("verdict", "unknown".to_owned()), ("decision", "proceed".to_owned())]);
    let text = format!("{} {}", emergency.says(), emergency.sentences().join(". "));
    let case = Case::new("preflight", "verdict", Became::Skipped(text));
    Suite { name: "preflight".to_owned(), at: Some(at.clone()), properties, cases: vec![case], ..Suite::default() }
}

#[derive(Debug, Default)]
struct Suite {
    name: String,
    /// RFC 3339.
    at: Option<String>,
    properties: Vec<(&'static str, String)>,
    cases: Vec<Case>,
    /// Lines.
    says: Vec<String>,
}

#[derive(Debug)]
struct Case {
    class: String,
    name: String,
    file: Option<String>,
    time: Option<f64>,
    became: Became,
    /// Lines.
    seen: Vec<String>,
}

#[derive(Debug)]
enum Became {
    Passed,
    /// Why it holds up nothing.
    Skipped(String),
    /// It fails: a reason, and what it means.
    Failure(String, String),
    /// It is not known: the same.
    Error(String, String),
}

impl Case {
    fn new(class: &str, name: &str, became: Became) -> Self {
        Self { class: class.to_owned(), name: name.to_owned(), file: None, time: None, became, seen: Vec::new() }
    }
}

fn suite(gate: &Gate, region: &Region, advisory: bool) -> Suite {
    let mut properties = vec![
        ("application", gate.application.clone()),
        ("release", gate.release.clone()),
        ("run", gate.id.clone()),
        ("verdict", region.verdict.as_str().to_owned()),
        ("decision", decision(region.decision).to_owned()),
        ("valid_until", region.valid_until.clone()),
        ("manifest_digest", gate.manifest_digest.clone()),
    ];
    properties.extend(advisory.then(|| ("advisory", "true".to_owned())));
    properties.extend(gate.rollback.then(|| ("rollback", "true".to_owned())));
    let mut cases: Vec<Case> = region.cells.iter().map(|cell| of_cell(gate, region, cell)).collect();
    cases.extend(region.excluded.iter().map(|excluded| left_out(region, excluded)));
    cases.extend(decided_otherwise(region, &cases));
    Suite { name: region.region.clone(), at: Some(gate.ended_at.clone()), properties, cases, says: beside(region) }
}

fn left_out(region: &Region, excluded: &Excluded) -> Case {
    let class = format!("{}/{}", region.region, excluded.fleet);
    Case::new(&class, &excluded.dependency, Became::Skipped(format!("excluded: {}", excluded.because)))
}

/// Where a region is held back by something else than its cells, or has none, that is a case of its own.
fn decided_otherwise(region: &Region, cases: &[Case]) -> Option<Case> {
    let told = cases.iter().any(|case| matches!(case.became, Became::Failure(..) | Became::Error(..)));
    let empty = region.cells.is_empty();
    let held = exit::is_held(region);
    if (told && !held) || (region.decision == Decision::Proceed && !empty) {
        return None;
    }
    let said: Vec<&str> = region.reasons.iter().map(|reason| reason.text.as_str()).collect();
    let text = if said.is_empty() { "no reason is given".to_owned() } else { said.join("; ") };
    let became =
        if empty { Became::Error("no_cell".to_owned(), text) } else { Became::Failure("block".to_owned(), text) };
    Some(Case::new(&region.region, "decision", became))
}

fn of_cell(gate: &Gate, region: &Region, cell: &Cell) -> Case {
    let why = || cell.reason.clone().unwrap_or_else(|| cell.state.as_str().to_owned());
    let mut text = why();
    if let Some(more) = &cell.text {
        let _ = write!(text, ": {more}");
    }
    if let Some(given) = overridden(region, cell) {
        let _ = write!(text, " (overridden by {} until {}: {})", given.by, given.expires_at, given.reason);
    }
    let became = match (cell.state, cell.required) {
        (State::Pass, true) => Became::Passed,
        (State::Pass, false) if cell.proven_by.is_some() => Became::Passed,
        (State::Fail | State::Unknown | State::Pass, false) => Became::Skipped(format!("not required; {text}")),
        (State::Fail, true) => Became::Failure(why(), text),
        (State::Unknown, true) => Became::Error(why(), text),
    };
    let mut seen = Vec::new();
    if let Some(verdict) = &cell.proven_by {
        seen.push(format!("shown by verdict {verdict}, and not probed again"));
    }
    seen.push(format!("target {}", cell.target));
    if cell.line > 0 {
        seen.push(format!("declared in {}:{}", gate.manifest_name, cell.line));
    }
    seen.extend(cell.coverage.as_ref().map(|coverage| format!("covers {coverage}")));
    seen.extend(cell.evidence.iter().take(ANSWERS).map(markdown::line_of));
    if cell.evidence.len() > ANSWERS {
        seen.push(format!("and {} more answers", cell.evidence.len() - ANSWERS));
    }
    for finding in region.findings.iter().filter(|finding| finding.dependency == cell.dependency) {
        seen.push(format!("{}: {}", finding.kind, finding.text));
    }
    let slowest = cell.evidence.iter().map(|seen| {
        let phases = &seen.observation.phases;
        (phases.resolve_ms.unwrap_or(0.0) + phases.beyond_resolve_ms()) / 1_000.0
    });
    Case {
        class: format!("{}/{}", region.region, cell.fleet),
        name: cell.dependency.clone(),
        file: (cell.line > 0 && !gate.manifest_name.is_empty()).then(|| gate.manifest_name.clone()),
        time: slowest.reduce(f64::max),
        became,
        seen,
    }
}

impl Suite {
    fn write(&self, out: &mut String, says: Option<&str>, time: Option<f64>) {
        let _ = write!(out, "  <testsuite name=\"{}\"{}{}", safe(&self.name), counts(self.cases.iter()), took(time));
        if let Some(at) = &self.at {
            let _ = write!(out, " timestamp=\"{}\"", safe(at));
        }
        out.push_str(">\n");
        if !self.properties.is_empty() {
            out.push_str("    <properties>\n");
            for (name, value) in &self.properties {
                let _ = writeln!(out, "      <property name=\"{name}\" value=\"{}\"/>", safe(value));
            }
            out.push_str("    </properties>\n");
        }
        for case in &self.cases {
            case.write(out);
        }
        let lines: Vec<String> = says.into_iter().chain(self.says.iter().map(String::as_str)).map(safe).collect();
        if !lines.is_empty() {
            let _ = writeln!(out, "    <system-out>{}</system-out>", lines.join("\n"));
        }
        out.push_str("  </testsuite>\n");
    }
}

impl Case {
    fn write(&self, out: &mut String) {
        let _ = write!(out, "    <testcase classname=\"{}\" name=\"{}\"", safe(&self.class), safe(&self.name));
        if let Some(file) = &self.file {
            let _ = write!(out, " file=\"{}\"", safe(file));
        }
        let _ = writeln!(out, "{}>", took(self.time));
        match &self.became {
            Became::Passed => {}
            Became::Skipped(text) => {
                let _ = writeln!(out, "      <skipped message=\"{}\"/>", safe(text));
            }
            Became::Failure(kind, text) => problem(out, "failure", kind, text),
            Became::Error(kind, text) => problem(out, "error", kind, text),
        }
        if !self.seen.is_empty() {
            let lines: Vec<String> = self.seen.iter().map(|line| safe(line)).collect();
            let _ = writeln!(out, "      <system-out>{}</system-out>", lines.join("\n"));
        }
        out.push_str("    </testcase>\n");
    }
}

fn problem(out: &mut String, tag: &str, kind: &str, text: &str) {
    let text = safe(text);
    let _ = writeln!(out, "      <{tag} type=\"{}\" message=\"{text}\">{text}</{tag}>", safe(kind));
}

fn counts<'a>(cases: impl Iterator<Item = &'a Case>) -> String {
    let (mut tests, mut failures, mut errors, mut skipped) = (0, 0, 0, 0);
    for case in cases {
        tests += 1;
        match case.became {
            Became::Passed => {}
            Became::Skipped(_) => skipped += 1,
            Became::Failure(..) => failures += 1,
            Became::Error(..) => errors += 1,
        }
    }
    format!(" tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"{skipped}\"")
}

fn took(seconds: Option<f64>) -> String {
    seconds.map_or_else(String::new, |seconds| format!(" time=\"{seconds:.3}\""))
}

/// Foreign text as it may stand in an attribute or between tags: one line, of characters that XML 1.0 has (2.2), with its markup
/// escaped.
fn safe(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in escape_to(text, TEXT).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\u{fffe}' | '\u{ffff}' => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_is_read_back_as_it_was(text in "\\PC{0,60}|[ -~\\x00-\\x1f]{0,60}|(\\]\\]>|<!\\[CDATA\\[|&#0;|\u{fffe}|\u{ffff}|\u{1b}){0,9}") {
            let document = format!("<a b=\"{0}\" c='{0}'>x{0}</a>", safe(&text));
            let parsed = roxmltree::Document::parse(&document).map_err(|error| TestCaseError::fail(format!("{error}: {document}")))?;
            let want = escape_to(&text, TEXT).replace('\u{fffe}', "\\u{fffe}").replace('\u{ffff}', "\\u{ffff}");
            let root = parsed.root_element();
            prop_assert_eq!(root.attribute("b"), Some(want.as_str()));
            prop_assert_eq!(root.attribute("c"), Some(want.as_str()));
            let between = format!("x{want}");
            prop_assert_eq!(root.text(), Some(between.as_str()));
            prop_assert_eq!(root.descendants().count(), 2);
        }
    }
}

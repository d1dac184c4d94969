//! A verdict for GitHub Actions: [workflow commands](https://docs.github.com/actions/reference/workflow-commands-for-github-actions)
//! that put it beside the manifest's lines, the step's summary, and its outputs `verdict`, `decision` and `id`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use preflight_core::guard;
use preflight_core::text::escape_to;
use preflight_proto::api::{Cell, Decision, Gate, ReasonText, Region, State};

use super::{GoesOn, Told, beside, decision, file, markdown, overridden, unwritten};
use crate::failure::Failure;
use crate::render;

/// GitHub shows so many annotations of one kind for a step.
const ANNOTATIONS: usize = 10;
/// Each message is cut here, in characters.
const MESSAGE: usize = 4_000;

/// Where a step's results go, by the environment that the runner sets.
pub(super) struct Files {
    summary: Option<PathBuf>,
    output: Option<PathBuf>,
}

impl Files {
    pub(super) fn of_this_step() -> Self {
        let named = |name: &str| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        Self { summary: named("GITHUB_STEP_SUMMARY"), output: named("GITHUB_OUTPUT") }
    }
}

/// Adds to the step's summary and outputs, where there are such; what could not be written.
pub(super) fn hand_over(told: Told<'_>, files: &Files) -> Vec<Failure> {
    let mut failures = Vec::new();
    if let Some(path) = &files.summary {
        // The limit is for the whole step, and something may stand there already.
        let there = std::fs::metadata(path).map_or(0, |there| usize::try_from(there.len()).unwrap_or(usize::MAX));
        let page = markdown::render(told, markdown::MAX_BYTES.saturating_sub(there));
        let written = file::append(path, page.as_bytes());
        failures.extend(written.err().map(|error| unwritten("the step's summary", path, &error)));
    }
    if let Some(path) = &files.output {
        let written = file::append(path, outputs(told).as_bytes());
        failures.extend(written.err().map(|error| unwritten("the step's outputs", path, &error)));
    }
    failures
}

/// `name=value`, a line each. No value holds the end of a line.
fn outputs(told: Told<'_>) -> String {
    match told {
        Told::Verdict { gate, advisory } => {
            let (verdict, decision, id) = (gate.verdict.as_str(), decision(gate.decision), escape_to(&gate.id, 100));
            let advisory = if advisory { "advisory=true\n" } else { "" };
            let rollback = if gate.rollback { "rollback=true\n" } else { "" };
            format!("verdict={verdict}\ndecision={decision}\nid={id}\n{advisory}{rollback}")
        }
        Told::Nothing { goes_on: GoesOn::No, .. } => "verdict=unknown\ndecision=block\nid=\n".to_owned(),
        Told::Nothing { goes_on: GoesOn::Advisory, .. } => {
            "verdict=unknown\ndecision=block\nid=\nadvisory=true\n".to_owned()
        }
        // Nothing may hold up a step that looks at this. There is no verdict, so it has no id.
        Told::Nothing { goes_on: GoesOn::Emergency(emergency), .. } => {
            let kind = if emergency.is_rollback() { "rollback" } else { "break_glass" };
            let record = escape_to(&emergency.record.id, 100);
            format!("verdict=unknown\ndecision=proceed\n{kind}=true\nrecord={record}\n")
        }
    }
}

/// The step's log: the table, which the runner does not take for commands whatever stands in it, then the commands.
pub(super) fn log(told: Told<'_>, width: usize) -> Result<String, Failure> {
    let Told::Verdict { gate, advisory } = told else { return Ok(commands(told)) };
    // Who could guess the word could go on giving commands.
    let random = getrandom::u64().map_err(|error| Failure::no_verdict(format!("no random numbers: {error}")))?;
    let word = format!("preflight-{random:016x}");
    let table = render::gate::render(gate, advisory, width);
    Ok(format!("::stop-commands::{word}\n{table}::{word}::\n{}", commands(told)))
}

/// The commands alone.
pub(super) fn commands(told: Told<'_>) -> String {
    let (gate, advisory) = match told {
        Told::Verdict { gate, advisory } => (gate, advisory),
        Told::Nothing { goes_on: GoesOn::Emergency(emergency), .. } => {
            let title = format!("preflight: {}", emergency.what().to_uppercase());
            let text = format!("{} {}.", emergency.says(), emergency.sentences().join(". "));
            return command("warning", &[("title", &title)], &text);
        }
        Told::Nothing { failure, goes_on } => {
            let says = goes_on.says();
            let mut text = format!("{} ({})", failure.message, failure.exit.meaning());
            if let Some(fix) = &failure.fix {
                let _ = write!(text, "; {fix}");
            }
            let mut out =
                command(if says.is_some() { "warning" } else { "error" }, &[("title", "preflight: no verdict")], &text);
            out.extend(says.map(|says| command("warning", &[("title", "preflight")], &says)));
            return out;
        }
    };
    let mut notes = notes(gate, advisory);
    if notes.len() > ANNOTATIONS {
        let more = notes.len() - (ANNOTATIONS - 1);
        notes.truncate(ANNOTATIONS - 1);
        let text = format!("{more} more dependencies are held back; the step's summary and `-o json` have all.");
        notes.push(command(level(gate, advisory), &[("title", "preflight")], &text));
    }
    // What holds a release back whatever its cells say stands first.
    let holds = gate.regions.iter().flat_map(|r| &r.reasons).filter(|reason| guard::is_hold(&reason.code));
    let hold = |reason: &ReasonText| {
        let title = format!("preflight: {}", reason.code);
        let fix = reason.fix.as_ref().map(|fix| format!("; {fix}")).unwrap_or_default();
        command("error", &[("title", &title)], &format!("{}{fix}", reason.text))
    };
    notes.splice(0..0, holds.map(hold));
    if notes.is_empty() && decision(gate.decision) == "block" {
        let said: Vec<&str> = gate.regions.iter().flat_map(|r| &r.reasons).map(|reason| reason.text.as_str()).collect();
        let text = if said.is_empty() { "no reason is given".to_owned() } else { said.join("; ") };
        notes.push(command(level(gate, advisory), &[("title", "preflight: block")], &text));
    }
    if advisory {
        notes.push(advisory_notice(gate.decision));
    }
    let all: Vec<String> = gate.regions.iter().flat_map(beside).collect();
    if !all.is_empty() {
        notes.push(command("notice", &[("title", "preflight")], &all.join("; ")));
    }
    notes.concat()
}

fn advisory_notice(decision: Decision) -> String {
    command("warning", &[("title", "preflight: ADVISORY")], render::gate::advisory_says(decision))
}

/// What holds back is an error, what does not is a warning.
fn level(gate: &Gate, advisory: bool) -> &'static str {
    if advisory || decision(gate.decision) == "proceed" { "warning" } else { "error" }
}

/// A line of the manifest, its dependency, and why that is held back.
type Place<'a> = (u32, &'a str, &'a str);
type Cells<'a> = Vec<(&'a Region, &'a Cell)>;

/// One annotation for each dependency and reason, on the line where the manifest declares it.
fn notes(gate: &Gate, advisory: bool) -> Vec<String> {
    let mut by_place: BTreeMap<Place<'_>, Cells<'_>> = BTreeMap::new();
    for region in &gate.regions {
        for cell in region.cells.iter().filter(|cell| cell.blocks()) {
            let reason = cell.reason.as_deref().unwrap_or(cell.state.as_str());
            by_place.entry((cell.line, &cell.dependency, reason)).or_default().push((region, cell));
        }
    }
    let path = in_repository(&gate.manifest_name);
    let note = |((line, dependency, reason), cells): (Place<'_>, Cells<'_>)| {
        let verb =
            if cells.iter().any(|(_, cell)| cell.state == State::Fail) { "cannot be used" } else { "is not known" };
        let from: Vec<String> =
            cells.iter().map(|(region, cell)| format!("{}/{}", region.region, cell.fleet)).collect();
        let mut text = format!("{dependency} {verb} from {}: {reason}", from.join(", "));
        let mut texts: Vec<&str> = cells.iter().filter_map(|(_, cell)| cell.text.as_deref()).collect();
        texts.dedup();
        for more in texts {
            let _ = write!(text, "; {more}");
        }
        for (region, cell) in &cells {
            if let Some(given) = overridden(region, cell) {
                let _ = write!(
                    text,
                    "; {}/{}/{dependency} is overridden by {} until {}",
                    region.region, cell.fleet, given.by, given.expires_at
                );
            }
        }
        let title = format!("preflight: {dependency} {reason}");
        let line_text = line.to_string();
        let mut properties: Vec<(&str, &str)> = Vec::new();
        if line > 0 && !path.is_empty() {
            properties.extend([("file", path.as_str()), ("line", line_text.as_str())]);
        }
        properties.push(("title", &title));
        command(level(gate, advisory), &properties, &text)
    };
    by_place.into_iter().map(note).collect()
}

/// The manifest's path as the repository has it, where this is a step of a job that checked it out.
fn in_repository(name: &str) -> String {
    let root = std::env::var_os("GITHUB_WORKSPACE").map(PathBuf::from);
    let here = std::env::current_dir().ok();
    let found = root.zip(here).and_then(|(root, here)| {
        let path = clean(&here.join(name));
        path.strip_prefix(clean(&root)).ok().map(|path| path.display().to_string())
    });
    found.unwrap_or_else(|| name.to_owned())
}

/// Without `.` and `..`.
fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => {
                out.pop();
            }
            std::path::Component::Prefix(_) | std::path::Component::RootDir | std::path::Component::Normal(_) => {
                out.push(part);
            }
        }
    }
    out
}

/// `::error file=…,line=…,title=…::message`, as the runner unescapes it (`ActionCommand.cs`).
fn command(name: &str, properties: &[(&str, &str)], message: &str) -> String {
    let properties: Vec<String> =
        properties.iter().map(|(key, value)| format!("{key}={}", property(&escape_to(value, MESSAGE)))).collect();
    format!("::{name} {}::{}\n", properties.join(","), data(&escape_to(message, MESSAGE)))
}

fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Properties = Vec<(String, String)>;

    /// A workflow command as the runner takes it apart.
    fn parsed(line: &str) -> Option<(String, Properties, String)> {
        let (head, message) = line.trim_start().strip_prefix("::")?.split_once("::")?;
        let (name, properties) = head.split_once(' ').unwrap_or((head, ""));
        let undo = |text: &str| {
            text.replace("%3A", ":").replace("%2C", ",").replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%")
        };
        let properties = properties.split(',').filter_map(|pair| pair.split_once('='));
        let properties = properties.map(|(key, value)| (key.to_owned(), undo(value))).collect();
        let message = message.replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%");
        Some((name.to_owned(), properties, message))
    }

    proptest! {
        #[test]
        fn any_text_stays_in_its_command(text in "\\PC{0,60}|[ -~\\x00-\\x1f]{0,60}|(::|,|%|%0A|\\n|\\r|=|file=x|##\\[error\\]){0,12}") {
            let out = command("error", &[("file", &text), ("line", "3"), ("title", &text)], &text);
            prop_assert_eq!(out.matches(['\n', '\r']).count(), 1);
            let (name, properties, message) = parsed(out.trim_end_matches('\n')).ok_or_else(|| TestCaseError::fail(out.clone()))?;
            let want = escape_to(&text, MESSAGE);
            prop_assert_eq!(name, "error");
            prop_assert_eq!(properties, vec![
                ("file".to_owned(), want.clone()), ("line".to_owned(), "3".to_owned()), ("title".to_owned(), want.clone())]);
            prop_assert_eq!(message, want);
        }
    }

    #[test]
    fn a_path_is_cleaned() {
        assert_eq!(clean(Path::new("/a/./b/../c/preflight.yaml")), Path::new("/a/c/preflight.yaml"));
    }
}

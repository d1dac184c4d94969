//! A verdict for those who read it: on stdout, and beside it in files, for people, programs and pipelines.
//!
//! The exit code goes by the verdict whatever the format. A report that cannot be written never makes a block of a pass
//! silent or a pass of a block, see [`ReportArgs::deliver`].

mod file;
mod github;
mod junit;
mod markdown;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use preflight_core::text::escape;
use preflight_proto::api::{Cell, Decision, Gate, Override, Record, Region};
use serde::Serialize;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::{output, render};

/// How a verdict is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For programs, all of it; `preflight verdict schema` describes it
    Json,
    /// For a page: a step's summary, a comment
    Markdown,
    #[value(help = "JUnit XML: a test case for each cell")]
    Junit,
    /// For GitHub Actions: annotations on the manifest's lines, the step's summary and its outputs
    Github,
}

/// `-o` and `--report`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ReportArgs {
    /// How to show the verdict
    #[arg(short = 'o', long = "output", value_enum, default_value = "table", value_name = "FORMAT")]
    format: Format,
    /// Also write it to a file, whole or not at all; may be given several times, each with a file of its own
    #[arg(long = "report", value_name = "FORMAT=PATH", value_parser = Report::parse)]
    reports: Vec<Report>,
}

/// One `--report`.
#[derive(Debug, Clone)]
struct Report {
    format: Format,
    path: PathBuf,
}

impl Report {
    fn parse(text: &str) -> Result<Self, String> {
        let (format, path) = text.split_once('=').ok_or("write FORMAT=PATH, such as junit=preflight.xml")?;
        let format = Format::from_str(format, false).map_err(|_| {
            format!("'{}' is no format; there are table, json, markdown, junit and github", escape(format))
        })?;
        if path.is_empty() || path == "-" {
            return Err("name a file; what goes to stdout is chosen by -o".to_owned());
        }
        Ok(Self { format, path: PathBuf::from(path) })
    }
}

/// What there is to tell.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Told<'a> {
    /// A verdict, perhaps one that blocks nothing.
    Verdict {
        /// The gate's answer.
        gate: &'a Gate,
        /// The caller ships whatever comes of it.
        advisory: bool,
    },
    /// There is none.
    Nothing {
        /// Why.
        failure: &'a Failure,
        /// Whether the caller ships all the same.
        goes_on: GoesOn<'a>,
    },
}

/// What a caller without a verdict does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum GoesOn<'a> {
    /// It stops.
    No,
    /// It never meant to go by the verdict.
    Advisory,
    /// It goes back, or breaks the glass: nobody could be asked.
    Emergency(Emergency<'a>),
}

/// What goes on without a verdict.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Emergency<'a> {
    /// What was done, by whom and why.
    pub(crate) record: &'a Record,
    /// The file that keeps the record; none where it could not be kept.
    pub(crate) spooled: Option<&'a str>,
    /// What stands in the place of the gate's JSON.
    pub(crate) document: &'a serde_json::Value,
}

impl Emergency<'_> {
    fn is_rollback(self) -> bool {
        self.record.kind == "rollback"
    }

    /// `rollback` or `break glass`.
    fn what(self) -> &'static str {
        if self.is_rollback() { "rollback" } else { "break glass" }
    }

    /// What is to be said loudly.
    fn says(self) -> String {
        format!(
            "{}: this goes on WITHOUT a verdict; nothing was probed, and no lock or quarantine was looked at.",
            self.what().to_uppercase()
        )
    }

    /// By whom, why, and what follows: sentences that are not escaped yet.
    fn sentences(self) -> [String; 3] {
        let Record { id, regions, by, reason, ticket, error, .. } = self.record;
        let regions = if regions.is_empty() { "every region".to_owned() } else { regions.join(", ") };
        let reason = if reason.is_empty() { "no reason was given" } else { reason };
        let ticket = if ticket.is_empty() { String::new() } else { format!(" (ticket {ticket})") };
        let kept = match self.spooled {
            Some(path) => format!("is kept in {path} until a controller can be told"),
            None => "could not be kept: tell who runs the controller".to_owned(),
        };
        [
            format!("In {regions}, by {by}: {reason}{ticket}"),
            format!("No controller could be asked: {error}"),
            format!("Record {id} {kept}"),
        ]
    }
}

impl GoesOn<'_> {
    /// What is to be said loudly of it.
    fn says(self) -> Option<String> {
        match self {
            Self::No => None,
            Self::Advisory => Some(render::gate::advisory_says(Decision::Block).to_owned()),
            Self::Emergency(emergency) => Some(emergency.says()),
        }
    }
}

/// What stands in the place of the gate's JSON where there is no verdict.
#[derive(Serialize)]
struct NoVerdict<'a> {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    advisory: bool,
    error: NoVerdictError<'a>,
}

#[derive(Serialize)]
struct NoVerdictError<'a> {
    exit: u8,
    message: &'a str,
    fix: Option<&'a str>,
}

/// How a report that cannot be written counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// What would proceed exits 1: somebody relies on the report. What blocks exits as it would.
    Counts,
    /// It is only said: nothing may hold up a rollback or an emergency.
    IsSaid,
}

impl ReportArgs {
    /// Each report needs a file of its own: the last one to be written would be all that is left.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let mut seen: Vec<PathBuf> = Vec::new();
        for report in &self.reports {
            let place = file::place(&report.path);
            if seen.contains(&place) {
                let path = escape(&report.path.display().to_string());
                return Err(
                    Failure::usage(format!("two reports go to {path}")).fix("Give each --report a file of its own.")
                );
            }
            // Nothing is lost in a pipe, or in /dev/null.
            if !std::fs::metadata(&place).is_ok_and(|there| !there.is_file()) {
                seen.push(place);
            }
        }
        Ok(())
    }

    /// Tells a verdict: first on stdout, then in every file, whatever becomes of the others.
    ///
    /// The exit code is `exit`, which the verdict gives, unless a report is missing and that [`Missing::Counts`].
    pub(crate) fn deliver(&self, told: Told<'_>, exit: Exit, missing: Missing) -> Exit {
        let failures = self.write(told);
        for failure in &failures {
            crate::say(failure);
        }
        match (failures.is_empty(), missing, exit) {
            (false, Missing::Counts, Exit::Proceed) => Exit::NoVerdict,
            (true | false, Missing::Counts | Missing::IsSaid, exit) => exit,
        }
    }

    fn write(&self, told: Told<'_>) -> Vec<Failure> {
        let mut failures = Vec::new();
        failures.extend(show(self.format, told).err());
        for Report { format, path } in &self.reports {
            let written = text(*format, told).map(|text| file::replace(path, text.as_bytes()));
            failures.extend(match written {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(unwritten("the report", path, &error)),
                Err(failure) => Some(failure),
            });
        }
        if self.format == Format::Github || self.reports.iter().any(|report| report.format == Format::Github) {
            failures.extend(github::hand_over(told, &github::Files::of_this_step()));
        }
        failures
    }
}

/// Why a file is not there.
fn unwritten(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    let path = escape(&path.display().to_string());
    Failure::no_verdict(format!("cannot write {what} {path}: {error}"))
        .fix("Name a file in a directory that exists and that this user may write to.")
}

/// Writes to stdout.
fn show(format: Format, told: Told<'_>) -> Result<(), Failure> {
    match (format, told) {
        // For people, what went wrong stands on stderr; and a program that reads a verdict must not take this for one.
        (Format::Table, Told::Nothing { goes_on: GoesOn::Emergency(emergency), .. }) => output::text(
            &render::emergency::render(emergency.record, emergency.what(), &emergency.sentences(), output::width()),
        ),
        (Format::Table, Told::Nothing { .. }) | (Format::Json, Told::Nothing { goes_on: GoesOn::No, .. }) => Ok(()),
        (Format::Table, Told::Verdict { gate, advisory }) => {
            output::text(&render::gate::render(gate, advisory, output::width()))
        }
        (Format::Github, _) => output::text(&github::log(told, output::width())?),
        (Format::Json | Format::Markdown | Format::Junit, _) => output::text(&text(format, told)?),
    }
}

/// As a file holds it.
fn text(format: Format, told: Told<'_>) -> Result<String, Failure> {
    Ok(match format {
        Format::Table => match told {
            Told::Verdict { gate, advisory } => {
                anstream::adapter::strip_str(&render::gate::render(gate, advisory, output::width())).to_string()
            }
            Told::Nothing { goes_on: GoesOn::Emergency(emergency), .. } => {
                let (record, what) = (emergency.record, emergency.what());
                let text = render::emergency::render(record, what, &emergency.sentences(), output::width());
                format!("{}{}\n", anstream::adapter::strip_str(&text), emergency.says())
            }
            Told::Nothing { failure, goes_on } => {
                let says = goes_on.says().map_or_else(String::new, |says| format!(" ({says})"));
                format!("NO VERDICT{says}\n{failure}\n")
            }
        },
        Format::Json => match told {
            Told::Verdict { gate, advisory } if advisory && !gate.advisory => {
                output::document(&Gate { advisory, ..gate.clone() })?
            }
            Told::Verdict { gate, .. } => output::document(gate)?,
            Told::Nothing { goes_on: GoesOn::Emergency(emergency), .. } => output::document(emergency.document)?,
            Told::Nothing { failure: Failure { exit, message, fix }, goes_on } => {
                let advisory = matches!(goes_on, GoesOn::Advisory);
                let error = NoVerdictError { exit: exit.code(), message, fix: fix.as_deref() };
                output::document(&NoVerdict { advisory, error })?
            }
        },
        Format::Markdown => markdown::render(told, markdown::MAX_BYTES),
        Format::Junit => junit::render(told),
        Format::Github => github::commands(told),
    })
}

/// Who answers for a cell of a region that blocks it.
fn overridden<'a>(region: &'a Region, cell: &Cell) -> Option<&'a Override> {
    region.overrides.iter().find(|given| cell.blocks() && given.digest == cell.digest)
}

/// What a region says that is easily taken for something else: that nothing was probed, or not what was meant; and who has answered for
/// cells since.
fn beside(region: &Region) -> Vec<String> {
    let codes = ["no_change", "other_manifest"];
    let said = region.reasons.iter().filter(|reason| codes.contains(&reason.code.as_str()));
    let mut texts: Vec<String> = said.map(|reason| reason.text.clone()).collect();
    texts.extend(region.overrides_since.iter().map(|given| {
        format!("given since for {}/{}/{}: override {}", given.region, given.fleet, given.dependency, answers(given))
    }));
    texts
}

/// Who answers for a cell: not escaped yet.
fn answers(given: &Override) -> String {
    let until = match &given.withdrawn {
        Some(withdrawn) => format!(", withdrawn {withdrawn}"),
        None => format!(" until {}", given.expires_at),
    };
    format!("by {}{until}: {} ({})", given.by, given.reason, given.ticket)
}

/// How long the run took, in seconds, by the controller's clock.
fn seconds(gate: &Gate) -> Option<f64> {
    let at = |text: &str| text.parse::<jiff::Timestamp>().ok();
    Some(at(&gate.ended_at)?.duration_since(at(&gate.started_at)?).as_secs_f64())
}

/// What to do.
fn decision(decision: Decision) -> &'static str {
    match decision {
        Decision::Proceed => "proceed",
        Decision::Block => "block",
    }
}

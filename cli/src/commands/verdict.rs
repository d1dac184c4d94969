//! `preflight verdict`: shows a verdict that was given, or exits by it.

use std::fmt::Write as _;

use std::path::PathBuf;

use jiff::Timestamp;
use preflight_core::guard;
use preflight_core::plan::sha256;
use preflight_core::text::{escape, escape_to};
use preflight_proto::api::{Decision, Gate, Objection, Override, ReasonText, Standing, State};
use serde::Serialize;

use crate::client::{Answer, Client, segment};
use crate::exit::{self, Asked, Exit, Regions};
use crate::failure::Failure;
use crate::output::{self, OutputArgs};
use crate::report::{Missing, ReportArgs, Told};
use crate::{input, render};

/// Show a verdict that was given, or exit by it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  preflight verdict show 4f1c9a7be02d63a8
  preflight verdict check 4f1c9a7be02d63a8 --application shop --release 2025-03-31.1 --region eu")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show a verdict with its evidence, as it was given, and the overrides that were given since
    #[command(after_help = "\
Examples:
  preflight verdict show 4f1c9a7be02d63a8 -o json
  preflight verdict show 4f1c9a7be02d63a8 --report markdown=verdict.md")]
    Show {
        /// The verdict's id, which is its run's
        id: String,
        #[command(flatten)]
        report: ReportArgs,
    },
    /// Exit by a verdict that was given: only for the release and regions named, while it is valid, as things stand now
    #[command(after_help = "\
It does not hold any more (exit 3) once its time is over, the inventory gives other cells, a fleet has hosts of a kind that it did
not have, a rollback was asked for there, the release was gated with another manifest since (unless --manifest says which), or what it
took as proven is not deployed any more; nor (exit 4) while the region is locked or the release quarantined. Overrides count as of now:
one that was given since lets it proceed, one that ended or was withdrawn blocks again.

Example:
  preflight verdict check 4f1c9a7be02d63a8 --application shop --release 2025-03-31.1 --region eu")]
    Check(CheckArgs),
    /// Print the JSON Schema of a verdict, as `-o json` gives it
    #[command(after_help = "Example:\n  preflight verdict schema > gate.schema.json")]
    Schema,
}

#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// The verdict's id, which is its run's
    id: String,
    /// The application that it must be for
    #[arg(long)]
    application: String,
    /// The release that it must be for
    #[arg(long, value_name = "ID")]
    release: String,
    /// A region that it must be for; may be given several times
    #[arg(long = "region", value_name = "REGION", required = true, value_delimiter = ',')]
    regions: Vec<String>,
    /// The manifest that it must be for
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

/// What a check came to.
#[derive(Serialize)]
struct Checked<'a> {
    id: &'a str,
    application: &'a str,
    release: &'a str,
    regions: &'a [String],
    /// As it was given; `unknown` where it does not hold any more or is for something else.
    verdict: State,
    decision: Decision,
    exit: u8,
    /// Why it does not count.
    objections: Vec<String>,
    /// It is of a rollback, which rests on nothing that was seen.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    rollback: bool,
    /// What it rests on beside what was seen: the overrides in force now.
    overrides: Vec<&'a Override>,
    /// Locks, quarantines and unlocks for another release that hold it back now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    holds: Vec<&'a ReasonText>,
    /// What does not hold it up, and is to be known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notices: Vec<&'a str>,
}

/// Runs it.
pub(crate) async fn run(args: Args, connect: impl Fn() -> Result<Client, Failure>) -> Result<Exit, Failure> {
    match args.command {
        Command::Show { id, report } => {
            report.check()?;
            let gate = fetch(&connect()?, &id).await?.body;
            let advisory = gate.advisory && !gate.regions.iter().any(exit::is_held);
            let told = Told::Verdict { gate: &gate, advisory };
            Ok(report.deliver(told, Exit::Proceed, Missing::Counts))
        }
        Command::Check(args) => check(&args, &connect()?).await,
        Command::Schema => {
            output::json(&Gate::schema())?;
            Ok(Exit::Proceed)
        }
    }
}

async fn fetch(client: &Client, id: &str) -> Result<Answer<Gate>, Failure> {
    client.get(&format!("/v1/verdicts/{}", segment(id))).await
}

async fn check(args: &CheckArgs, client: &Client) -> Result<Exit, Failure> {
    let source = args.manifest.as_ref().map(|path| input::read("manifest", path)).transpose()?;
    let digest = source.map(|source| sha256(source.text.as_bytes()));
    let answer: Answer<Standing> = client.get(&format!("/v1/verdicts/{}/standing", segment(&args.id))).await?;
    let Standing { gate, objections } = answer.body;
    let asked = Asked {
        id: &args.id,
        application: &args.application,
        release: &args.release,
        regions: Regions::Among(&args.regions),
        manifest_digest: digest.as_deref(),
        rollback: gate.rollback,
        all: false,
        // Validity goes by the controller's clock; this host's is second best.
        now: Some(answer.date.unwrap_or_else(Timestamp::now)),
    };
    let mut judgement = exit::judge(&gate, &asked);
    // Who has the manifest in hand knows that it is for that one, whatever else the release was gated with since.
    let known = |why: &ReasonText| why.code == "newer_manifest" && digest.as_ref() == Some(&gate.manifest_digest);
    // What happens in another region is nothing to these.
    let here = |why: &Objection| why.region.as_ref().is_none_or(|region| args.regions.contains(region));
    let objections = objections.into_iter().filter(|why| here(why) && !known(&why.reason));
    let objections: Vec<ReasonText> = objections.map(|why| why.reason).collect();
    // What the controller objects to counts beside what this side does.
    if !objections.is_empty() {
        judgement.exit = Exit::over([judgement.exit, Exit::Unknown]);
        judgement.objections.extend(objections.into_iter().map(|why| why.text));
    }
    let exit = judgement.exit;
    let counted = || gate.regions.iter().filter(|region| args.regions.contains(&region.region));
    let notices = counted().flat_map(|region| &region.reasons).filter(|reason| reason.code == "other_manifest");
    let checked = Checked {
        id: &args.id,
        application: &args.application,
        release: &args.release,
        regions: &args.regions,
        verdict: if judgement.objections.is_empty() { gate.verdict } else { State::Unknown },
        decision: if exit == Exit::Proceed { Decision::Proceed } else { Decision::Block },
        exit: exit.code(),
        objections: judgement.objections,
        rollback: gate.rollback,
        overrides: counted().flat_map(|region| &region.overrides).collect(),
        holds: counted().flat_map(|r| &r.reasons).filter(|reason| guard::is_hold(&reason.code)).collect(),
        notices: notices.map(|reason| reason.text.as_str()).collect(),
    };
    if args.output.is_json() {
        output::json(&checked)?;
    } else {
        output::text(&in_words(&checked, exit))?;
    }
    Ok(exit)
}

fn in_words(checked: &Checked<'_>, exit: Exit) -> String {
    let word = if exit == Exit::Proceed { "PROCEED" } else { "BLOCK" };
    let regions = checked.regions.iter().map(|region| escape(region)).collect::<Vec<_>>().join(", ");
    let how = match (exit, checked.rollback, checked.overrides.is_empty()) {
        (Exit::Proceed, true, _) => " by rollback",
        (Exit::Proceed, false, false) => " by override",
        _ => "",
    };
    let mut text = format!(
        "{word}{how}  verdict {} for {} {} in {regions}: {}\n",
        escape(checked.id),
        escape(checked.application),
        escape(checked.release),
        exit.meaning()
    );
    for given in &checked.overrides {
        text.push_str(&render::overrides::in_force(given, output::width()));
    }
    for notice in &checked.notices {
        let _ = writeln!(text, "  note: {}", escape(notice));
    }
    for hold in &checked.holds {
        let _ = writeln!(text, "  {}", escape(&hold.text));
        let _ = hold.fix.iter().try_for_each(|fix| writeln!(text, "    → {}", escape_to(fix, 1_000)));
    }
    for objection in &checked.objections {
        let _ = writeln!(text, "  {}", escape(objection));
    }
    if !checked.objections.is_empty() && checked.holds.is_empty() {
        text.push_str("  Run `preflight gate` for this release and these regions.\n");
    }
    text
}

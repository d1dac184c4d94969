//! `preflight release`: what shipped where, what would ship, and what must not.

use std::io::Write as _;

use hyper::Method;
use preflight_core::text::{escape, escape_to};
use preflight_proto::api::{
    CandidateRequest, Changed, Deployed, DeployedRequest, LiftRequest, QuarantineRequest, Releases, RollbackRequest,
};
use serde::Serialize;

use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, OutputArgs};
use crate::{render, words};

/// Record what shipped, what would ship and what must not; list it region by region
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The application may be left out where the inventory has only one.

Examples:
  preflight release deployed --region eu --release 2025-03-31.1 --verdict 4f1c9a7be02d63a8
  preflight release rollback --region eu --from 2025-03-31.1 --to 2025-03-30.4 --reason latency
  preflight release list --application shop")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Record that a release has shipped: what its verdict held as pass is not required again
    #[command(after_help = "\
What shipped by override, in advisory mode or without a verdict is not proven by that: the next gate requires it. A verdict counts
for what ships within 24 hours.

Examples:
  preflight release deployed --region eu --release 2025-03-31.1 --verdict 4f1c9a7be02d63a8
  preflight release deployed --application shop --region eu,us --release 2025-03-30.4")]
    Deployed(DeployedArgs),
    /// Announce what would ship in a region if its pipeline ran now
    #[command(after_help = "\
A gate does this by itself. It binds nobody, but where a region is locked: an unlock names what it expects to ship, and is
refused where the candidate is another one.

Example:
  preflight release candidate --region eu --release 2025-03-31.2")]
    Candidate {
        #[command(flatten)]
        place: Place,
        /// What would ship
        #[arg(long, value_name = "ID")]
        release: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Say that a release must not ship, in every region unless --region names some; or cells of a verdict, under any release
    #[command(after_help = "\
Its gate is refused (exit 4), also as a rollback, until the quarantine is lifted or somebody answers for it
(`preflight override --release`). A cell is caught under another release, too; a rollback is held by that of its release only.

Examples:
  preflight release quarantine 2025-03-31.1 --reason unreachable
  preflight release quarantine --verdict 4f1c9a7be02d63a8 --cell eu/web/ai-cache --reason unreachable")]
    Quarantine(QuarantineArgs),
    /// Lift a quarantine; takes a token with the scope `override`
    #[command(after_help = "Example:\n  preflight release lift 9b1f00c2d4e87a35 --reason admitted")]
    Lift {
        /// The quarantine's id, as the list shows it
        id: String,
        /// The application
        #[arg(long)]
        application: Option<String>,
        /// Why; kept in the audit log
        #[arg(long, value_name = "TEXT", value_parser = words::visible)]
        reason: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Record that a region went back to an earlier release
    #[command(after_help = "\
What it came from is quarantined everywhere, and the region is locked for all but what it went back to, until `preflight unlock`.
To ask whether a rollback may ship is `preflight gate --rollback`.

Example:
  preflight release rollback --region eu --from 2025-03-31.1 --to 2025-03-30.4 --reason latency")]
    Rollback {
        #[command(flatten)]
        place: Place,
        /// What was bad
        #[arg(long, value_name = "ID")]
        from: String,
        /// What it went back to
        #[arg(long, value_name = "ID")]
        to: String,
        /// Why; shown to whoever is held back by it
        #[arg(long, value_name = "TEXT", value_parser = words::visible)]
        reason: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show the regions side by side: what is deployed, what would ship, its verdict, locks and quarantines
    #[command(after_help = "Example:\n  preflight release list --application shop -o json")]
    List {
        /// Only this application
        #[arg(long)]
        application: Option<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// An application and some of its regions.
#[derive(Debug, clap::Args)]
struct Place {
    /// The application
    #[arg(long)]
    application: Option<String>,
    /// A region; may be given several times
    #[arg(long = "region", value_name = "REGION", required = true, value_delimiter = ',')]
    regions: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct DeployedArgs {
    /// The application; with --verdict it is the verdict's
    #[arg(long)]
    application: Option<String>,
    /// A region that it shipped to; may be given several times
    #[arg(long = "region", value_name = "REGION", required = true, value_delimiter = ',')]
    regions: Vec<String>,
    /// What shipped
    #[arg(long, value_name = "ID")]
    release: String,
    /// The verdict that it shipped with
    #[arg(long, value_name = "VERDICT-ID")]
    verdict: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("bad").required(true).args(["release", "cells"])))]
struct QuarantineArgs {
    /// The release
    #[arg(value_name = "ID")]
    release: Option<String>,
    /// The application; with --verdict it is the verdict's
    #[arg(long)]
    application: Option<String>,
    /// Only in this region; may be given several times
    #[arg(long = "region", value_name = "REGION", value_delimiter = ',', conflicts_with = "cells")]
    regions: Vec<String>,
    /// The verdict that has the cells
    #[arg(long, value_name = "VERDICT-ID", requires = "cells")]
    verdict: Option<String>,
    /// A cell that must not ship, whichever release carries it; may be given several times
    #[arg(long = "cell", value_name = "REGION/FLEET/DEPENDENCY", requires = "verdict", value_delimiter = ',')]
    cells: Vec<String>,
    /// Why; shown to whoever is held back by it
    #[arg(long, value_name = "TEXT", value_parser = words::visible)]
    reason: String,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs it.
pub(crate) async fn run(args: Args, client: &Client) -> Result<Exit, Failure> {
    match args.command {
        Command::Deployed(args) => deployed(args, client).await,
        Command::Candidate { place: Place { application, regions }, release, output } => {
            change(client, "/v1/releases/candidate", &CandidateRequest { application, regions, release }, &output).await
        }
        Command::Quarantine(QuarantineArgs { release, application, regions, verdict, cells, reason, output }) => {
            let body = QuarantineRequest { application, release, regions, verdict, cells, reason };
            change(client, "/v1/releases/quarantine", &body, &output).await
        }
        Command::Lift { id, application, reason, output } => {
            let path = format!("/v1/quarantines/{}/lift", segment(&id));
            change(client, &path, &LiftRequest { application, reason }, &output).await
        }
        Command::Rollback { place: Place { application, regions }, from, to, reason, output } => {
            let body = RollbackRequest { application, regions, from, to, reason };
            change(client, "/v1/releases/rollback", &body, &output).await
        }
        Command::List { application, output } => {
            let path = match &application {
                Some(name) => format!("/v1/releases?application={}", segment(name)),
                None => "/v1/releases".to_owned(),
            };
            let releases: Releases = client.get(&path).await?.body;
            if let Some(name) = application.filter(|_| releases.regions.is_empty()) {
                let message = format!("there is no application {}, and nothing is recorded of one", escape(&name));
                return Err(Failure::usage(message).fix("`preflight inventory show` has those that there are."));
            }
            if output.is_json() {
                output::json(&releases)?;
            } else {
                output::text(&render::releases::list(&releases, output::width()))?;
            }
            Ok(Exit::Proceed)
        }
    }
}

/// Changes what may ship, and shows how things stand then.
pub(super) async fn change(
    client: &Client,
    path: &str,
    body: &(impl Serialize + Sync),
    output: &OutputArgs,
) -> Result<Exit, Failure> {
    let changed: Changed = client.call(Method::POST, path, Some(body)).await?.body;
    if output.is_json() {
        output::json(&changed)?;
    } else {
        output::text(&render::releases::changed(&changed, output::width()))?;
    }
    Ok(Exit::Proceed)
}

/// What was recorded, as JSON.
#[derive(Serialize)]
struct Recorded<'a> {
    deployed: &'a [Deployed],
}

async fn deployed(args: DeployedArgs, client: &Client) -> Result<Exit, Failure> {
    let mut recorded: Vec<Deployed> = Vec::new();
    let mut failed = None;
    for region in &args.regions {
        let body = DeployedRequest {
            application: args.application.clone(),
            region: region.clone(),
            release: args.release.clone(),
            verdict: args.verdict.clone(),
        };
        match client.call::<Deployed>(Method::POST, "/v1/releases/deployed", Some(&body)).await {
            Ok(answer) => {
                // Beside the result: whoever reads only JSON sees it in the pipeline's log.
                if let Some(notice) = &answer.body.notice {
                    let _ = writeln!(anstream::stderr(), "preflight: note: {}", escape_to(notice, 3_000));
                }
                recorded.push(answer.body);
            }
            Err(failure) => {
                failed = Some(failure);
                break;
            }
        }
    }
    if failed.is_none() || !recorded.is_empty() {
        if args.output.is_json() {
            output::json(&Recorded { deployed: &recorded })?;
        } else {
            output::text(&render::releases::recorded(&recorded, output::width()))?;
        }
    }
    let Some(failure) = failed else { return Ok(Exit::Proceed) };
    let left: Vec<String> = args.regions.iter().skip(recorded.len()).map(|region| escape(region)).collect();
    // What is recorded stays; the error below says why the rest is not.
    let _ = writeln!(anstream::stderr(), "preflight: not recorded for {}", left.join(", "));
    Err(failure)
}

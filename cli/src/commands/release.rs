//! `preflight release`: what shipped where, which is what the next gate takes as proven.

use std::io::Write as _;

use hyper::Method;
use preflight_core::text::{escape, escape_to};
use preflight_proto::api::{Deployed, DeployedRequest, Gate, Releases};

use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, OutputArgs};
use crate::render;

/// Record what shipped, and list what is deployed where
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  preflight release deployed --region eu --release 2025-03-31.1 --verdict 4f1c9a7be02d63a8
  preflight release list --application shop")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Record that a release has shipped: what its verdict held as pass is not required again
    #[command(after_help = "\
What shipped by override, in advisory mode, against a verdict that blocks or without one is recorded all the same, and a note says
which cells are not proven by that: the next gate requires them. A verdict counts for what ships within 24 hours.

Examples:
  preflight release deployed --region eu --release 2025-03-31.1 --verdict 4f1c9a7be02d63a8
  preflight release deployed --application shop --region eu,us --release 2025-03-30.4")]
    Deployed(DeployedArgs),
    /// List what is deployed in each region, and what it has proven
    #[command(after_help = "Example:\n  preflight release list --application shop -o json")]
    List {
        /// Only this application
        #[arg(long)]
        application: Option<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Debug, clap::Args)]
struct DeployedArgs {
    /// The application; with --verdict it is the verdict's
    #[arg(long, required_unless_present = "verdict")]
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

/// Runs it.
pub(crate) async fn run(args: Args, client: &Client) -> Result<Exit, Failure> {
    match args.command {
        Command::Deployed(args) => deployed(args, client).await,
        Command::List { application, output } => {
            let path = match &application {
                Some(name) => format!("/v1/releases?application={}", segment(name)),
                None => "/v1/releases".to_owned(),
            };
            let releases: Releases = client.get(&path).await?.body;
            if output.is_json() {
                output::json(&releases)?;
            } else {
                output::text(&render::releases::list(&releases, output::width()))?;
            }
            Ok(Exit::Proceed)
        }
    }
}

async fn deployed(args: DeployedArgs, client: &Client) -> Result<Exit, Failure> {
    let application = match (args.application, &args.verdict) {
        (Some(name), _) => name,
        (None, Some(id)) => client.get::<Gate>(&format!("/v1/verdicts/{}", segment(id))).await?.body.application,
        (None, None) => return Err(Failure::usage("name the application, or the verdict that it shipped with")),
    };
    let mut recorded: Vec<Deployed> = Vec::new();
    let mut failed = None;
    for region in &args.regions {
        let body = DeployedRequest {
            application: application.clone(),
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
        let recorded = Releases { deployed: recorded.clone() };
        if args.output.is_json() {
            output::json(&recorded)?;
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

//! `preflight override`: somebody answers for cells that block, until a time.

use std::time::Duration;

use hyper::Method;
use preflight_proto::api::{OverrideRequest, Overrides};

use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, OutputArgs};
use crate::{duration, render, words};

/// Answer for cells that block a verdict, until a time; list and withdraw such answers
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
The verdict stays what it is, and nothing is proven by an override: its cells are required again once it ends. It holds for these
very cells in their region, also for another release that carries them. One for a quarantined release lifts no lock and no cell. It
takes a token with the scope `override`.

Examples:
  preflight override --verdict 4f1c9a7be02d63a8 --cell eu/web/ai-cache --reason legacy --ticket OPS-7 --expires 1h
  preflight override --verdict 4f1c9a7be02d63a8 --all-blocking --reason legacy --ticket OPS-7 --expires 1h
  preflight override --release 2025-03-31.1 --region eu --reason hotfix --ticket OPS-8 --expires 1h
  preflight override list
  preflight override withdraw 9b1f00c2d4e87a35"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// The verdict that blocks
    #[arg(long, value_name = "ID", required_unless_present = "release")]
    verdict: Option<String>,
    /// A release that is quarantined
    #[arg(long, value_name = "ID", conflicts_with_all = ["verdict", "cells", "all_blocking"], requires = "regions")]
    release: Option<String>,
    /// Where that release may ship; may be given several times
    #[arg(long = "region", value_name = "REGION", requires = "release", value_delimiter = ',')]
    regions: Vec<String>,
    /// The application of that release; may be left out where the inventory has only one
    #[arg(long, requires = "release")]
    application: Option<String>,
    /// A cell that blocks; may be given several times
    #[arg(
        long = "cell",
        value_name = "REGION/FLEET/DEPENDENCY",
        required_unless_present_any = ["all_blocking", "release"],
        conflicts_with = "all_blocking",
        value_delimiter = ','
    )]
    cells: Vec<String>,
    /// Every cell that blocks the verdict
    #[arg(long)]
    all_blocking: bool,
    /// Why it may go on all the same; shown beside the verdict and kept in the audit log
    #[arg(long, value_name = "TEXT", required = true, value_parser = words::visible)]
    reason: Option<String>,
    /// Where it is tracked
    #[arg(long, value_name = "ID", required = true, value_parser = words::visible)]
    ticket: Option<String>,
    /// How long it holds
    #[arg(long, value_name = "TIME", required = true, value_parser = duration::parse)]
    expires: Option<Duration>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the overrides that have not ended, also those that were withdrawn
    #[command(after_help = "\
One that was withdrawn does not count any more: it stays in the list, marked so, until it would have ended. `preflight audit
--action override` has those that have ended.

Example:
  preflight override list --application shop")]
    List {
        /// Only this application's
        #[arg(long)]
        application: Option<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Withdraw an override: from now on its cell blocks again, unless another override holds it
    #[command(after_help = "Example:\n  preflight override withdraw 9b1f00c2d4e87a35")]
    Withdraw {
        /// The override's id, as the list shows it
        id: String,
    },
}

/// Runs it.
pub(crate) async fn run(args: Args, client: &Client) -> Result<Exit, Failure> {
    match args.command {
        None => {
            let (Some(reason), Some(ticket), Some(expires)) = (args.reason, args.ticket, args.expires) else {
                return Err(Failure::usage("an override takes --reason, --ticket and --expires"));
            };
            let body = OverrideRequest {
                verdict: args.verdict,
                release: args.release,
                application: args.application,
                regions: args.regions,
                cells: args.cells,
                all_blocking: args.all_blocking,
                reason,
                ticket,
                // Whole seconds, at least one.
                ttl_s: expires.as_secs().max(1),
            };
            let given: Overrides = client.call(Method::POST, "/v1/overrides", Some(&body)).await?.body;
            if args.output.is_json() {
                output::json(&given)?;
            } else {
                output::text(&render::overrides::given(&given, output::width()))?;
            }
        }
        Some(Command::List { application, output }) => {
            let path = match &application {
                Some(name) => format!("/v1/overrides?application={}", segment(name)),
                None => "/v1/overrides".to_owned(),
            };
            let overrides: Overrides = client.get(&path).await?.body;
            if output.is_json() {
                output::json(&overrides)?;
            } else {
                output::text(&render::overrides::list(&overrides, output::width()))?;
            }
        }
        Some(Command::Withdraw { id }) => {
            let path = format!("/v1/overrides/{}", segment(&id));
            let left: Overrides = client.call(Method::DELETE, &path, None::<&()>).await?.body;
            output::text(&render::overrides::withdrawn(&id, &left, output::width()))?;
        }
    }
    Ok(Exit::Proceed)
}

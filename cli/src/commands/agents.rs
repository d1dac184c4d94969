//! `preflight agents`: who probes, and from where.

use hyper::Method;
use preflight_core::text::escape;
use preflight_proto::api::{Agents, RevokeRequest};
use serde::de::IgnoredAny;

use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, OutputArgs};
use crate::render;

/// List the agents; revoke or forget one
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  preflight agents
  preflight agents revoke web-3f9a0c12 --reason stolen"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Refuse an agent's certificate from now on
    #[command(after_help = "Example:\n  preflight agents revoke web-3f9a0c12 --reason stolen")]
    Revoke {
        /// The agent's name
        name: String,
        /// Why; shown in lists and kept in the audit log
        #[arg(long)]
        reason: String,
    },
    /// Take an agent that is gone for good out of its fleet's identities
    #[command(after_help = "Example:\n  preflight agents forget web-3f9a0c12")]
    Forget {
        /// The agent's name
        name: String,
    },
}

/// Runs it.
pub(crate) async fn run(args: Args, client: &Client) -> Result<Exit, Failure> {
    match args.command {
        None => {
            let agents: Agents = client.get("/v1/agents").await?.body;
            if args.output.is_json() {
                output::json(&agents)?;
            } else {
                output::text(&render::agents::render(&agents, jiff::Timestamp::now(), output::width()))?;
            }
        }
        Some(Command::Revoke { name, reason }) => {
            let path = format!("/v1/agents/{}/revoke", segment(&name));
            client.call::<IgnoredAny>(Method::POST, &path, Some(&RevokeRequest { reason })).await?;
            output::text(&format!(
                "{} is revoked: its certificate is refused from now on, and it does not enrol again by itself.\n\
                 Whoever holds a join token that is still valid can enrol another agent: see `preflight token list`.\n",
                escape(&name)
            ))?;
        }
        Some(Command::Forget { name }) => {
            let path = format!("/v1/agents/{}/forget", segment(&name));
            client.call::<IgnoredAny>(Method::POST, &path, None::<&()>).await?;
            output::text(&format!("{} is forgotten: nothing waits for it any more.\n", escape(&name)))?;
        }
    }
    Ok(Exit::Proceed)
}

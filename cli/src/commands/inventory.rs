//! `preflight inventory`: which fleets exist in which region, and which run which application.

use std::fmt::Write as _;

use std::path::PathBuf;

use hyper::Method;
use preflight_core::text::escape;
use preflight_proto::api::InventoryDocument;
use serde::de::IgnoredAny;

use crate::client::Client;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::input;
use crate::output::{self, OutputArgs};

/// Apply or show the inventory: regions, fleets, applications
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  preflight inventory apply inventory.yaml
  preflight inventory show")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Check an inventory and put it in force
    #[command(after_help = "Example:\n  preflight inventory apply inventory.yaml")]
    Apply {
        /// The inventory
        file: PathBuf,
    },
    /// Show the inventory in force, as it was written
    #[command(after_help = "Example:\n  preflight inventory show > inventory.yaml")]
    Show {
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// Runs it.
pub(crate) async fn run(args: Args, connect: impl Fn() -> Result<Client, Failure>) -> Result<Exit, Failure> {
    match args.command {
        Command::Apply { file } => {
            let source = input::read("inventory", &file)?;
            super::manifest::check_inventory(&source)?;
            let body = InventoryDocument { inventory: source.text, name: source.name, ..InventoryDocument::default() };
            connect()?.call::<IgnoredAny>(Method::PUT, "/v1/inventory", Some(&body)).await?;
            output::text(&format!("{} is in force.\n", body.name))?;
        }
        Command::Show { output } => {
            let document: InventoryDocument = connect()?.get("/v1/inventory").await?.body;
            if output.is_json() {
                output::json(&document)?;
            } else {
                output::text(&shown(&document))?;
            }
        }
    }
    Ok(Exit::Proceed)
}

/// The inventory as YAML that can be applied again: who and when as a comment, and every line escaped.
fn shown(document: &InventoryDocument) -> String {
    let mut text = String::new();
    if let (Some(at), Some(by)) = (&document.applied_at, &document.applied_by) {
        let _ = writeln!(text, "# applied {} by {}", crate::render::moment(at), escape(by));
    }
    for line in document.inventory.lines() {
        text.push_str(&preflight_core::text::escape_to(line, usize::MAX));
        text.push('\n');
    }
    text
}

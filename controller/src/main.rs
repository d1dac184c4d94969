//! `preflight-controller`: takes in what agents see and gives the verdict that gates a deploy.

mod agents;
mod api;
mod app;
mod authority;
mod dispatch;
mod follow;
mod listen;
mod quota;
mod result;
mod roster;
mod runs;
mod secret;
mod serve;
mod standing;
mod store;
#[cfg(test)]
mod stream_tests;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, Subcommand};

/// Collects what agents see of an application's dependencies into a matrix, and gives the verdict that gates its deploys.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "Example:\n  preflight-controller serve --data-dir /var/lib/preflight --advertise preflight.internal"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves agents and the HTTP API.
    ///
    /// The first start makes the certificate authority and an admin token, and writes DIR/client.toml, which the
    /// `preflight` command reads.
    #[command(
        after_help = "Examples:\n  preflight-controller serve\n  preflight-controller serve --data-dir /var/lib/preflight --advertise preflight.internal --advertise 10.0.0.5"
    )]
    Serve(Box<ServeOptions>),
    /// Prints the HTTP API's OpenAPI description.
    #[command(after_help = "Example:\n  preflight-controller openapi > openapi.json")]
    Openapi,
}

/// Flags of `serve`. A `--config` file may hold the same, under the flags' names with `_` for `-`; flags win.
#[derive(Debug, Clone, Default, clap::Args, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServeOptions {
    /// Where the store, the authority and client.toml are kept [default: ./preflight-data].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// A TOML file with these options.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// Where the HTTP API listens [default: 0.0.0.0:7443].
    #[arg(long, value_name = "ADDR")]
    api_listen: Option<SocketAddr>,
    /// Where agents connect [default: 0.0.0.0:7444].
    #[arg(long, value_name = "ADDR")]
    agent_listen: Option<SocketAddr>,
    /// A DNS name or address by which agents and the CLI reach this controller; the first one goes into client.toml.
    #[arg(long, value_name = "NAME")]
    #[serde(default)]
    advertise: Vec<String>,
    /// How many probes of one target (host:port) begin in a second at most, over all agents of a run [default: 1000].
    #[arg(long, value_name = "N")]
    target_rate: Option<NonZeroU32>,
    /// A file or URL (https; http on this host only) that another system writes the inventory to; it is read again and again.
    #[arg(long, value_name = "FILE|URL")]
    inventory: Option<String>,
    /// How often the inventory's source is read [default: 30s].
    #[arg(long, value_name = "TIME")]
    inventory_every: Option<Span>,
    /// How long ago the inventory must have been read for new cells to pass [default: 10m].
    #[arg(long, value_name = "TIME")]
    inventory_max_age: Option<Span>,
    /// The longest that an override may hold, such as 1h or 7d [default: 24h].
    #[arg(long, value_name = "TIME")]
    longest_override: Option<Span>,
    /// Refuse gates that are asked for with --advisory.
    #[arg(long)]
    #[serde(default)]
    forbid_advisory: bool,
}

/// A span of time as people write it: a whole number of s, m, h or d.
#[derive(Debug, Clone, Copy, serde::Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Span(pub(crate) Duration);

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("'{text}' is not a span of time: write a whole number of s, m, h or d, such as 30s or 7d");
        let unit = text.chars().last().ok_or_else(wrong)?;
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return Err(wrong()),
        };
        let number: u32 = text.trim_end_matches(unit).parse().map_err(|_| wrong())?;
        if number == 0 { Err(wrong()) } else { Ok(Self(Duration::from_secs(u64::from(number) * seconds))) }
    }
}

const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match cli.command {
        Command::Serve(options) => serve::main(*options),
        Command::Openapi => {
            use std::io::Write as _;
            match std::io::stdout().write_all(api::description().as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            }
        }
    }
}

//! `preflight audit`: who did what, and what came of it.

use jiff::Timestamp;
use preflight_proto::api::AuditLog;

use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, OutputArgs};
use crate::{render, words};

/// Entries that one call asks for.
const PAGE: u32 = 1_000;

/// Show the audit log, the newest entries first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Actions: gate (asked for), verdict (given), override, release deployed, rollback and break_glass (done without the controller, and
told later), token, inventory apply, agents, enrol, connect, probe; and METHOD /path for what was refused. What was told later stands
where it happened, by its host's clock; -o json has the log in its own order.

Examples:
  preflight audit --since 24h --action override
  preflight audit --since 2025-03-31T10:00:00Z --principal pipeline -o json")]
pub(crate) struct Args {
    /// From this time on: RFC 3339, or a span before now
    #[arg(long, value_name = "TIME", value_parser = words::time)]
    since: Option<Timestamp>,
    /// Only what this principal did
    #[arg(long, value_name = "NAME")]
    principal: Option<String>,
    /// Only this action, or those that begin with this word; one that there is not is wrong usage
    #[arg(long, value_name = "ACTION")]
    action: Option<String>,
    /// At most so many entries
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs it.
pub(crate) async fn run(args: Args, client: &Client) -> Result<Exit, Failure> {
    let mut log = AuditLog::default();
    loop {
        let left = args.limit - u32::try_from(log.entries.len()).unwrap_or(u32::MAX).min(args.limit);
        let page: AuditLog = client.get(&path(&args, left.min(PAGE), log.next)).await?.body;
        log.entries.extend(page.entries);
        // A page that leads nowhere new is the last one.
        let onward = page.next.filter(|next| log.next.is_none_or(|before| *next < before));
        log.next = page.next;
        if onward.is_none() || log.entries.len() >= usize::try_from(args.limit).unwrap_or(usize::MAX) {
            break;
        }
    }
    if args.output.is_json() {
        output::json(&log)?;
    } else {
        output::text(&render::audit::render(&log, output::width()))?;
    }
    Ok(Exit::Proceed)
}

fn path(args: &Args, limit: u32, before: Option<i64>) -> String {
    let mut path = format!("/v1/audit?limit={limit}");
    let filters = [
        ("since", args.since.map(|time| time.to_string())),
        ("principal", args.principal.clone()),
        ("action", args.action.clone()),
        ("before", before.map(|id| id.to_string())),
    ];
    for (name, value) in filters {
        if let Some(value) = value {
            path.extend(["&", name, "=", &segment(&value)]);
        }
    }
    path
}

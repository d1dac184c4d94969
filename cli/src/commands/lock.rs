//! `preflight lock` and `preflight unlock`: nothing ships, until somebody names what should.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::Method;
use preflight_proto::api::{Changed, LockRequest, UnlockRequest};

use super::release::change;
use crate::client::{CALL_TIMEOUT, CallError, Client};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, OutputArgs};
use crate::{duration, render, words};

/// Lock regions: nothing ships there until `preflight unlock`
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Every gate of the application is refused there (exit 4), but for a rollback. Each region has a lock of its own; no clock lifts it.

Examples:
  preflight lock --region eu --reason latency
  preflight lock --application shop --all-regions --reason unreachable --remind 2h")]
#[command(group(clap::ArgGroup::new("where").required(true).args(["regions", "all_regions"])))]
pub(crate) struct LockArgs {
    /// The application; may be left out where the inventory has only one
    #[arg(long)]
    application: Option<String>,
    /// A region; may be given several times
    #[arg(long = "region", value_name = "REGION", conflicts_with = "all_regions", value_delimiter = ',')]
    regions: Vec<String>,
    /// Every region that the application runs in
    #[arg(long)]
    all_regions: bool,
    /// Why; shown to whoever is held back by it
    #[arg(long, value_name = "TEXT", value_parser = words::visible)]
    reason: String,
    /// When to ask whether it is still needed: from then on everybody who meets the lock is told. It lifts nothing
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    remind: Option<Duration>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Unlock regions for the release that is named, if that is what would ship there
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Refused (exit 4, nothing is unlocked) where what would ship in a region is another release, quarantined or not known, and where
the regions would not all ship the same. The first release to ship after it is the one that was named, and no other.

Examples:
  preflight unlock --all-regions --release 2025-03-31.2
  preflight unlock --all-regions --release 2025-03-31.2 --ready
  preflight unlock --confirm eu=2025-03-31.2 --confirm us=2025-03-31.3 --reason fixed")]
#[command(group(clap::ArgGroup::new("where").required(true).multiple(true).args(["regions", "all_regions", "ready", "confirm"])))]
#[command(group(clap::ArgGroup::new("what").required(true).args(["release", "confirm"])))]
pub(crate) struct UnlockArgs {
    /// The application; may be left out where the inventory has only one
    #[arg(long)]
    application: Option<String>,
    /// A region; may be given several times
    #[arg(
        long = "region",
        value_name = "REGION",
        conflicts_with_all = ["all_regions", "confirm"],
        value_delimiter = ','
    )]
    regions: Vec<String>,
    /// Every region that is locked, or where what an unlock named has yet to ship; so is --ready without --region
    #[arg(long, conflicts_with = "confirm")]
    all_regions: bool,
    /// What is expected to ship
    #[arg(long, value_name = "ID")]
    release: Option<String>,
    /// Unlock the regions in which that is what would ship, and leave the others as they are
    #[arg(long, conflicts_with = "confirm")]
    ready: bool,
    /// Answer for what ships first in a region, whatever would; may be given several times. Takes a token with the scope `override`
    #[arg(long, value_name = "REGION=ID", requires = "reason", value_parser = confirmed)]
    confirm: Vec<(String, String)>,
    /// Why; kept in the audit log
    #[arg(long, value_name = "TEXT", value_parser = words::visible)]
    reason: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

fn confirmed(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((region, release)) if !region.is_empty() && !release.is_empty() => {
            Ok((region.to_owned(), release.to_owned()))
        }
        _ => Err("write REGION=RELEASE, for example eu=2025-03-31.2".to_owned()),
    }
}

/// Locks.
pub(crate) async fn lock(args: LockArgs, client: &Client) -> Result<Exit, Failure> {
    let LockArgs { application, regions, all_regions, reason, remind, output } = args;
    // Whole seconds, at least one.
    let remind_s = remind.map(|after| after.as_secs().max(1));
    change(client, "/v1/lock", &LockRequest { application, regions, all_regions, reason, remind_s }, &output).await
}

/// Unlocks, or shows why not.
pub(crate) async fn unlock(args: UnlockArgs, client: &Client) -> Result<Exit, Failure> {
    let mut confirm = BTreeMap::new();
    for (region, release) in args.confirm {
        if confirm.insert(region.clone(), release).is_some() {
            return Err(Failure::usage(format!("--confirm names region {region} twice")));
        }
    }
    let body = UnlockRequest {
        all_regions: args.all_regions || (args.ready && args.regions.is_empty()),
        application: args.application,
        regions: args.regions,
        release: args.release,
        ready: args.ready,
        confirm,
        reason: args.reason,
    };
    let deadline = tokio::time::Instant::now() + CALL_TIMEOUT;
    match client.call_by::<Changed>(Method::POST, "/v1/unlock", Some(&body), deadline).await {
        Ok(answer) if args.output.is_json() => output::json(&answer.body)?,
        Ok(answer) => output::text(&render::releases::changed(&answer.body, output::width()))?,
        Err(error) => {
            if let CallError::Problem(problem) = &error
                && let Some(releases) = &problem.releases
            {
                if args.output.is_json() {
                    output::json(problem)?;
                } else {
                    output::text(&render::releases::brief(releases, output::width()))?;
                }
            }
            return Err(error.failure(client.url()));
        }
    }
    Ok(Exit::Proceed)
}

//! `preflight probe`: probes targets that an engineer names, from the fleets or from this host.

use std::time::Duration;

use preflight_core::target::Target;
use preflight_core::text::escape;
use preflight_proto::api::{Event, ProbeRequest, ProbeResult, ProbeResults};
use tokio::time::timeout_at;

use super::local;
use crate::client::{CallError, Client};
use crate::exit::{self, Exit};
use crate::failure::Failure;
use crate::output::{self, OutputArgs};
use crate::patience::Patience;
use crate::progress::Reporter;
use crate::{duration, render};

/// Probe targets now, from the agents of the fleets or from this host
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit codes: 0 all pass · 1 no answer could be had · 2 one fails · 3 unknown · 64 usage · 130 Ctrl-C

Examples:
  preflight probe redis://ai-cache.internal:6379
  preflight probe redis://ai-cache.internal:6379 --application shop
  preflight probe tcp://10.0.3.7:5432 tls://api.example.com:443 --region eu --fleet web
  preflight probe tcp://10.0.3.7:5432 --host web-7
  preflight probe --local rediss://cache.internal:6380
  preflight probe --local postgres://db.internal --tls
  preflight probe --local redis://seed.internal:7000 --topology cluster
  preflight probe --local https://api.example.com/health --via http://proxy.internal:3128
  preflight probe --local tcp://10.0.3.7:5432 --watch
  preflight probe --local --manifest preflight.yaml --inventory inventory.yaml --region eu --fleet web")]
pub(crate) struct Args {
    /// What to probe: scheme://host:port, with one of tcp, tls, redis, rediss, http, https, postgres, mysql, memcached, amqp, amqps,
    /// grpc, grpcs
    #[arg(value_name = "URL", required_unless_present = "manifest")]
    targets: Vec<String>,
    /// Only from this region; with --manifest, this host's
    #[arg(long)]
    region: Option<String>,
    /// Only from fleets of this name; with --manifest, this host's
    #[arg(long)]
    fleet: Option<String>,
    /// Only from fleets that run this application
    #[arg(long, conflicts_with = "local")]
    application: Option<String>,
    /// Only from this host, as `preflight agents` names it
    #[arg(long, value_name = "NAME", conflicts_with = "local")]
    host: Option<String>,
    /// The longest to wait for the answers
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration::parse, conflicts_with = "local")]
    wait: Duration,
    /// From this host, without a controller
    #[arg(long)]
    local: bool,
    #[command(flatten)]
    here: local::LocalArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl Args {
    /// Whether it goes on until it is told to end.
    pub(super) fn is_watch(&self) -> bool {
        self.here.watch
    }
}

/// Runs it.
pub(crate) async fn run(args: Args, connect: impl Fn() -> Result<Client, Failure>) -> Result<Exit, Failure> {
    let targets = args.targets.iter().map(|text| target(text)).collect::<Result<Vec<_>, _>>()?;
    if args.local {
        return local::run(&args.here, targets, args.region.as_deref(), args.fleet.as_deref(), args.output).await;
    }
    let names: Vec<String> = targets.iter().map(ToString::to_string).collect();
    let request = ProbeRequest {
        targets: names.clone(),
        region: args.region.clone(),
        fleet: args.fleet.clone(),
        application: args.application.clone(),
        host: args.host.clone(),
        wait_ms: duration::millis(args.wait),
    };
    let results = ask(&connect()?, &request, &args).await?;
    conclude(&results, &names, args.output)
}

/// What the answers add up to, as it is shown and as the exit code says it.
pub(super) fn conclude(results: &ProbeResults, names: &[String], output: OutputArgs) -> Result<Exit, Failure> {
    let judgement = exit::judge_probe(&results.results, names);
    if output.is_json() {
        output::json(&results)?;
    } else {
        output::text(&render::probe::summary(&results.results, &judgement.objections, output::width()))?;
    }
    if judgement.exit == Exit::NoVerdict {
        return Err(Failure::no_verdict(format!(
            "the answer cannot be relied on: {}",
            super::gate::escaped(&judgement.objections)
        )));
    }
    Ok(judgement.exit)
}

pub(super) fn target(text: &str) -> Result<Target, Failure> {
    text.parse().map_err(|error| {
        // What may be a password is not repeated: errors end up in logs.
        let masked = text.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?.1)));
        let shown = masked.map_or_else(|| escape(text), |(scheme, host)| escape(&format!("{scheme}://…@{host}")));
        Failure::usage(format!("{shown}: {error}"))
    })
}

async fn ask(client: &Client, request: &ProbeRequest, args: &Args) -> Result<ProbeResults, Failure> {
    let mut progress = Reporter::new();
    let mut patience = Patience::new(args.wait);
    let mut seen = Seen { results: Vec::new(), show: !args.output.is_json() };
    loop {
        let attempt =
            timeout_at(patience.deadline(), stream(client, request, &patience, &mut seen, &mut progress)).await;
        match attempt.unwrap_or(Err(CallError::Late)) {
            Ok(id) => return Ok(ProbeResults { id, results: seen.results }),
            // An ad hoc run cannot be joined again: what came so far stands, and asking anew would probe anew.
            Err(CallError::Broken(text)) if !seen.results.is_empty() => {
                return Err(CallError::Broken(text).failure(client.url()));
            }
            Err(error) => patience.again(error, client, &mut progress).await?,
        }
    }
}

async fn stream(
    client: &Client,
    request: &ProbeRequest,
    patience: &Patience,
    seen: &mut Seen,
    progress: &mut Reporter,
) -> Result<String, CallError> {
    let mut lines = client.lines("/v1/probe", request, patience.connect_by()).await?;
    while let Some(event) = lines.next::<Event>().await? {
        match event {
            Event::Progress(far) => progress.run(&far),
            Event::Result(result) => seen.add(result, progress).map_err(unwritten)?,
            Event::Done(done) => {
                for result in done.results {
                    seen.add(result, progress).map_err(unwritten)?;
                }
                return Ok(done.id);
            }
            Event::Error(problem) => return Err(CallError::Problem(problem.error)),
            Event::Gate(_) => {
                return Err(CallError::Garbage("it answers a gate, and a probe was asked for".to_owned()));
            }
        }
    }
    Err(CallError::Broken("the answer ended before the run did".to_owned()))
}

/// A result that could not be shown ends the call; asking again would not help.
fn unwritten(failure: Failure) -> CallError {
    CallError::Unwritten(failure.message)
}

/// The results so far, each shown once, as it comes.
struct Seen {
    results: Vec<ProbeResult>,
    show: bool,
}

impl Seen {
    fn add(&mut self, result: ProbeResult, progress: &Reporter) -> Result<(), Failure> {
        if self.results.contains(&result) {
            return Ok(());
        }
        if self.show {
            let line = render::probe::result(&result, output::width());
            progress.suspend(|| output::text(&line))?;
        }
        self.results.push(result);
        Ok(())
    }
}

//! `preflight probe --local`: from this host, without a controller.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use preflight_core::inventory::Inventory;
use preflight_core::observation::{Outcome, Report};
use preflight_core::plan::PlanError;
use preflight_core::plan::host::{self, Place};
use preflight_core::spec::{Expect, Millis, ProbeSpec, Proxy, SpecOption, Topology};
use preflight_core::target::Target;
use preflight_core::text::escape;
use preflight_probe::{AllowAll, Engine, EngineOptions, raise_descriptors};
use preflight_proto::api::{ProbeResult, ProbeResults, State};
use tokio::task::JoinSet;

use super::{manifest, probe, watch};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, OutputArgs};
use crate::progress::Reporter;
use crate::{duration, input, render};

/// The flags that mean something only from this host.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "From this host (--local)")]
pub(crate) struct LocalArgs {
    /// Probe all that this host needs by a manifest, as an init container or a unit's start does
    #[arg(long, value_name = "FILE", requires = "local", conflicts_with = "targets")]
    pub(super) manifest: Option<PathBuf>,
    /// The inventory, for the regions' vars in the manifest's targets
    #[arg(long, value_name = "FILE", requires = "manifest")]
    inventory: Option<PathBuf>,
    /// Probe again and again until stopped, then show loss and latency percentiles
    #[arg(long, requires = "local")]
    pub(super) watch: bool,
    /// The time from one round to the next
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval, requires = "watch")]
    interval: Duration,
    /// Stop after so many rounds
    #[arg(long, value_name = "N", requires = "watch", value_parser = rounds)]
    count: Option<u64>,
    /// When silence after a connect is called a drop [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = duration::parse, requires = "local", conflicts_with = "manifest")]
    connect_timeout: Option<Duration>,
    /// The deadline of each phase after the connect [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = duration::parse, requires = "local", conflicts_with = "manifest")]
    timeout: Option<Duration>,
    /// Ask for the protocol's own upgrade to TLS, and require it (postgres, mysql)
    #[arg(long, requires = "local", conflicts_with = "manifest")]
    tls: bool,
    /// The name to ask for in TLS and to verify [default: the target's host]
    #[arg(long, value_name = "NAME", requires = "local", conflicts_with = "manifest")]
    server_name: Option<String>,
    /// PEM certificates to trust instead of the host's store
    #[arg(long, value_name = "FILE", requires = "local", conflicts_with = "manifest")]
    ca_file: Option<PathBuf>,
    /// The HTTP proxy to go through
    #[arg(long, value_name = "URL", requires = "local", conflicts_with = "manifest")]
    via: Option<String>,
    /// Probe the members that a Redis target tells of, too
    #[arg(long, value_enum, requires = "local", conflicts_with = "manifest")]
    topology: Option<Members>,
}

/// What a Redis target is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Members {
    /// The nodes of its cluster
    Cluster,
    /// What this Sentinel watches
    Sentinel,
}

/// What is probed, and the dependency's name where a manifest has one.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) dependency: Option<String>,
    pub(super) spec: ProbeSpec,
}

/// Runs it.
pub(super) async fn run(
    args: &LocalArgs,
    targets: Vec<Target>,
    region: Option<&str>,
    fleet: Option<&str>,
    output: OutputArgs,
) -> Result<Exit, Failure> {
    let wanted = match &args.manifest {
        Some(_) => from_manifest(args, region, fleet)?,
        None if region.is_some() || fleet.is_some() => {
            return Err(Failure::usage("--region and --fleet mean something beside --local only with --manifest")
                .fix("Leave them out, or leave --local out to ask the agents of the fleets."));
        }
        None => once_each(targets).into_iter().map(|target| from_url(args, target)).collect::<Result<_, _>>()?,
    };
    if wanted.is_empty() {
        return nothing(output);
    }
    // Enough that nothing waits for what is silent: each address has up to [`EngineOptions::DESCRIPTORS`] descriptors.
    let options = EngineOptions { max_concurrent: at_once(), ..EngineOptions::default() };
    let engine = Arc::new(Engine::new(options).map_err(|error| Failure::no_verdict(error.to_string()))?);
    if args.watch {
        return watch::run(&engine, &wanted, args.interval, args.count, output).await;
    }
    let progress = Reporter::new();
    let mut results = Vec::new();
    let mut probes = probe_all(&engine, &wanted);
    while let Some(probe) = probes.join_next().await {
        let (index, result) = probe.map_err(|error| broke_off(&error))?;
        // A path that must not exist: one host alone can show that it does, and never that it does not.
        if wanted.get(index).is_some_and(|w| w.spec.expect == Expect::Blocked) && result.outcome != State::Fail {
            let why = "it must be blocked and was not reached; that something blocks it, the gate shows by other hosts";
            left_out(result.dependency.as_deref().unwrap_or(&result.target), why);
            continue;
        }
        if !output.is_json() {
            let text = render::local::result(&result, output::width());
            progress.suspend(|| output::text(&text))?;
        }
        results.push((index, result));
    }
    results.sort_by_key(|(index, _)| *index);
    let names: Vec<String> = results.iter().map(|(_, result)| result.target.clone()).collect();
    let results = ProbeResults { id: String::new(), results: results.into_iter().map(|(_, result)| result).collect() };
    drop(progress);
    engine.settled().await;
    if results.results.is_empty() {
        return nothing(output);
    }
    probe::conclude(&results, &names, output)
}

/// Each target once, and on stderr that one was named twice.
fn once_each(targets: Vec<Target>) -> Vec<Target> {
    let mut once: Vec<Target> = Vec::new();
    for target in targets {
        if once.contains(&target) {
            left_out(&target.to_string(), "named twice, probed once");
        } else {
            once.push(target);
        }
    }
    once
}

fn rounds(text: &str) -> Result<u64, String> {
    text.parse().ok().filter(|rounds| *rounds > 0).ok_or_else(|| "write a whole number, 1 or more".to_owned())
}

/// Nobody's server is to be pressed by somebody who watches it.
fn interval(text: &str) -> Result<Duration, String> {
    const LEAST: Duration = Duration::from_millis(100);
    let span = duration::parse(text)?;
    if span < LEAST { Err("rounds begin at most ten times a second; write 100ms or more".to_owned()) } else { Ok(span) }
}

pub(super) fn broke_off(error: &tokio::task::JoinError) -> Failure {
    Failure::no_verdict(format!("a probe broke off: {error}"))
}

/// All at the same time, each with its place in the order asked for.
pub(super) fn probe_all(engine: &Arc<Engine>, wanted: &[Wanted]) -> JoinSet<(usize, ProbeResult)> {
    let mut probes = JoinSet::new();
    for (index, wanted) in wanted.iter().cloned().enumerate() {
        let engine = engine.clone();
        probes.spawn(async move {
            let report = engine.probe(&wanted.spec, &AllowAll).await;
            (index, result(&wanted, report))
        });
    }
    probes
}

/// As many addresses as the descriptors that this process can have are enough for, up to 2048.
fn at_once() -> usize {
    let spare = usize::try_from(raise_descriptors()).unwrap_or(usize::MAX).saturating_sub(64);
    (spare / EngineOptions::DESCRIPTORS).clamp(1, 2048)
}

fn from_url(args: &LocalArgs, target: Target) -> Result<Wanted, Failure> {
    let mut spec = ProbeSpec::new(target);
    let within = |span: Duration| Millis(duration::millis(span));
    spec.connect_timeout = args.connect_timeout.map_or(spec.connect_timeout, within);
    spec.timeout = args.timeout.map_or(spec.timeout, within);
    spec.tls.upgrade = args.tls;
    spec.tls.server_name.clone_from(&args.server_name);
    spec.tls.ca_pem = args.ca_file.as_deref().map(authorities).transpose()?;
    spec.via = args.via.as_deref().map(proxy).transpose()?;
    spec.topology = args.topology.map(|members| match members {
        Members::Cluster => Topology::Cluster,
        Members::Sentinel => Topology::Sentinel { master: None },
    });
    spec.check().map_err(|misfit| {
        Failure::usage(format!("{} {}", flag(misfit.option, args), misfit.what)).fix(sentence(&misfit.fix))
    })?;
    Ok(Wanted { dependency: None, spec })
}

/// The flag by which an option was given.
fn flag(option: SpecOption, args: &LocalArgs) -> &'static str {
    match option {
        SpecOption::Tls if args.tls => "--tls",
        SpecOption::Tls if args.server_name.is_some() => "--server-name",
        SpecOption::Tls => "--ca-file",
        SpecOption::Via => "--via",
        SpecOption::Topology => "--topology",
        // No flag of this command gives these.
        SpecOption::ConnectTimeout
        | SpecOption::Require
        | SpecOption::Families
        | SpecOption::Addresses
        | SpecOption::MaxLatency
        | SpecOption::Http => option.as_str(),
    }
}

/// A fragment as a sentence.
fn sentence(fragment: &str) -> String {
    let mut chars = fragment.chars();
    let first = chars.next().map(|c| c.to_ascii_uppercase());
    first.into_iter().chain(chars).chain(['.']).collect()
}

fn authorities(path: &Path) -> Result<String, Failure> {
    let source = input::read("authority", path)?;
    if source.text.contains("-----BEGIN CERTIFICATE-----") {
        return Ok(source.text);
    }
    Err(Failure::usage(format!("{} holds no certificate", source.name))
        .fix("Give a PEM file of certificates to trust."))
}

fn proxy(text: &str) -> Result<Proxy, Failure> {
    let wrong = |error: String| Failure::usage(format!("--via {}: {error}", escape(text)));
    let target: Target = text.parse().map_err(|error: preflight_core::target::TargetError| wrong(error.to_string()))?;
    Proxy::try_from(target).map_err(|error| wrong(error.to_string()))
}

fn from_manifest(args: &LocalArgs, region: Option<&str>, fleet: Option<&str>) -> Result<Vec<Wanted>, Failure> {
    let Some(path) = &args.manifest else { return Ok(Vec::new()) };
    let source = input::read("manifest", path)?;
    let parsed = manifest::parse(&source)?;
    let inventory: Option<Inventory> = match &args.inventory {
        Some(path) => Some(manifest::check_inventory(&input::read("inventory", path)?)?),
        None => None,
    };
    let place = Place { inventory: inventory.as_ref(), region, fleet };
    let needs = host::needs(&parsed, place).map_err(|error| {
        if matches!(error, PlanError::NoRegions { .. }) {
            return Failure::usage("this host's region is not named").fix("Name it: --region REGION");
        }
        manifest::unplanned(&error, &source)
    })?;
    let mut wanted = Vec::new();
    for need in needs {
        match need.probe {
            Ok(spec) => wanted.push(Wanted { dependency: Some(need.dependency), spec }),
            Err(why) => left_out(&need.dependency, &why),
        }
    }
    Ok(wanted)
}

/// A manifest of which this host needs nothing: no failure, and loudly no pass of anything either.
fn nothing(output: OutputArgs) -> Result<Exit, Failure> {
    if output.is_json() {
        output::json(&ProbeResults::default())?;
    } else {
        output::text("This host needs nothing of the manifest, so nothing was shown to work.\n")?;
    }
    Ok(Exit::Proceed)
}

/// Says on stderr, where it is in nobody's way, what is not probed or not judged.
fn left_out(dependency: &str, why: &str) {
    // That it cannot be said is no reason to stop.
    let _ = write!(anstream::stderr(), "{}", render::local::left_out(dependency, why, output::width()));
}

fn result(wanted: &Wanted, report: Report) -> ProbeResult {
    let spec = &wanted.spec;
    let outcome = report.outcome(spec);
    ProbeResult {
        dependency: wanted.dependency.clone(),
        target: spec.target.to_string(),
        region: None,
        fleet: None,
        agent: None,
        outcome: match outcome {
            Outcome::Ok => State::Pass,
            Outcome::Short(_) => State::Fail,
            Outcome::Void(_) => State::Unknown,
        },
        reason: outcome.reason().map(str::to_owned),
        proof: report.observations.iter().filter_map(|o| o.proof).max(),
        addresses_in_all: report.cut().map(|(_, all)| all),
        members_in_all: report.members_cut().map(|(_, all)| all),
        addresses: report.observations,
    }
}

//! `preflight-agent`: sits on a host and probes what the controller asks for, from this host's network identity.

use std::io::{IsTerminal as _, stderr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use preflight_agent::address::ControllerAddress;
use preflight_agent::conntrack::Careful;
use preflight_agent::control::Controlled;
use preflight_agent::identity::{Identity, Pair, Sources};
use preflight_agent::life::{Agent, live};
use preflight_agent::limits::Limits;
use preflight_agent::metrics::{Metrics, Recorded};
use preflight_agent::policy::Policy;
use preflight_agent::prober::{HostGuard, LocalProber};
use preflight_agent::runs::Runs;
use preflight_agent::serve::{Loopback, serve};
use preflight_agent::state::{StateDir, machine_fingerprint};
use preflight_agent::{downward, imds};
use preflight_core::target::Target;
use preflight_core::text;
use preflight_probe::{conntrack, raise_descriptors};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

/// Sits on a host and probes what the controller asks for, from this host's network identity.
#[derive(Debug, Parser)]
#[command(name = "preflight-agent", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Enrol if need be, connect to the controller, and probe what it asks for until told to stop.
    Run(RunArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  preflight-agent run --controller https://preflight.internal:7444 \\
      --state-dir /var/lib/preflight-agent --join-token-file /etc/preflight/join-token

The join token is needed once. `preflight token join --region R --fleet F` makes it.
Logs go to stderr; PREFLIGHT_LOG=debug shows more. SIGTERM and SIGINT stop it, with exit code 0.
Exit codes: 0 stopped, 1 could not start (state directory, port, or no certificate and no join token), 64 wrong usage
or policy file. A controller that cannot be reached, or that refuses this agent, is tried again and again.")]
struct RunArgs {
    /// The controller's port for agents, as https://host:port; 7444 if the port is left out.
    #[arg(long, value_name = "URL")]
    controller: ControllerAddress,
    /// Where this agent keeps its key and certificate; made if it does not exist.
    #[arg(long, value_name = "DIR")]
    state_dir: PathBuf,
    /// The file with the join token, read each time that this agent must enrol.
    #[arg(long, value_name = "FILE")]
    join_token_file: PathBuf,
    /// What this agent may probe, how fast, and which targets are known to be good (TOML). Nothing that the controller sends lifts it.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// An attribute of this host's network identity, beside what it finds out by itself. Repeat it for more.
    #[arg(long, value_name = "KEY=VALUE")]
    identity: Vec<Pair>,
    /// Serve /metrics, /-/healthy and /-/ready by plain HTTP on this loopback address, such as 127.0.0.1:9464. Off unless
    /// given.
    #[arg(long, value_name = "ADDR")]
    metrics_listen: Option<Loopback>,
}

/// The exit code for wrong usage, the same in all of preflight's programs (`EX_USAGE` of sysexits.h).
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let Command::Run(args) = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    log_to_stderr();
    let policy = match args.policy.as_deref().map(Policy::read).transpose() {
        Ok(policy) => policy.unwrap_or_default(),
        Err(problem) => {
            tracing::error!("{problem}");
            return USAGE.into();
        }
    };
    match run(args, policy) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: RunArgs, policy: Policy) -> anyhow::Result<()> {
    let limits = Limits::new(&policy, raise_descriptors());
    let state = StateDir::open(&args.state_dir, machine_fingerprint())?;
    let sources = Sources { imds: imds::ENDPOINT, podinfo: downward::DIR.into(), added: args.identity };
    let identity = Arc::new(Identity::new(sources));
    let port = args.metrics_listen.map(Loopback::listen).transpose()?;
    let metrics = Arc::new(Metrics::default());
    let controls: Vec<Target> = policy.controls().cloned().collect();
    for (file, error) in policy.unreadable_files() {
        tracing::warn!(
            "{} of the policy's [[files]] cannot be read: {error}; until it can, what is probed with it does not count \
             (local_resources). It is looked for again at each such probe",
            text::escape(file)
        );
    }
    let guard = Arc::new(HostGuard::new(policy));
    let prober = Careful::new(LocalProber::new(guard.clone(), limits)?, conntrack::TABLE);
    let prober = Controlled::new(prober, LocalProber::of_controls(guard.clone(), limits)?, controls);
    let first_tries = prober.first_tries();
    let agent = Agent {
        controller: args.controller,
        token_file: args.join_token_file,
        state,
        identity: identity.clone(),
        guard,
        runs: Runs::new(Recorded::new(prober, metrics.clone()), identity, limits.at_once),
        metrics: metrics.clone(),
    };
    tracing::info!(version = env!("CARGO_PKG_VERSION"), at_once = limits.at_once, "starting");
    // Name lookups and little else go to other threads.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build();
    runtime.context("failed to start")?.block_on(async {
        let stop = stop_signals().context("failed to listen for signals")?;
        if let Some(port) = port {
            tokio::spawn(serve(port, metrics));
        }
        tokio::spawn(first_tries);
        Ok(live(agent, stop).await?)
    })
}

/// Turns true at SIGTERM or SIGINT.
fn stop_signals() -> std::io::Result<watch::Receiver<bool>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (told, stop) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        told.send_replace(true);
        // Kept until the process ends: a closed channel would read as a stop of its own.
        std::future::pending::<()>().await;
    });
    Ok(stop)
}

/// `PREFLIGHT_LOG` as in `debug` or `info,preflight_agent=trace`; what does not parse is said and reads as `info`.
fn log_to_stderr() {
    let wanted = std::env::var("PREFLIGHT_LOG").unwrap_or_default();
    let parsed = wanted.parse::<Targets>();
    let broken = parsed.is_err();
    let targets = match parsed {
        Ok(targets) if !wanted.is_empty() => targets,
        Ok(_) | Err(_) => Targets::new().with_default(LevelFilter::INFO),
    };
    let colour = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let layer = tracing_subscriber::fmt::layer().with_writer(stderr).with_ansi(colour).with_filter(targets);
    tracing_subscriber::registry().with(layer).init();
    if broken {
        tracing::warn!("PREFLIGHT_LOG is not a filter such as info or preflight_agent=debug; logging at info");
    }
}

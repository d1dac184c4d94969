//! The commands, a file each: its flags and what it does.

mod agents;
mod audit;
mod completions;
mod drift;
mod emergency;
mod explain;
mod gate;
mod inventory;
mod local;
mod lock;
mod manifest;
mod matrix;
mod overrides;
mod probe;
mod release;
mod token;
mod verdict;
mod watch;

pub(crate) use explain::Explained;
pub(crate) use manifest::{Checked, Planned};
pub(crate) use watch::Endpoint;

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use clap::{Parser, Subcommand};

use crate::client::Client;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::interrupt;
use crate::spool::Spool;

/// Shows, before a change ships, that every kind of host that will run it can reach what it depends on
#[derive(Debug, Parser)]
#[command(
    name = "preflight",
    version,
    after_help = "\
Which controller: --context FILE; or PREFLIGHT_URL, PREFLIGHT_TOKEN and PREFLIGHT_CA (a PEM file's path) as a set;
or PREFLIGHT_CONTEXT; or ~/.config/preflight/client.toml.

Exit codes: 0 proceed · 1 no verdict could be had · 2 block: a cell fails · 3 block: unknown · 4 block: locked, quarantined or not what was named · 64 usage · 130 Ctrl-C

Example:
  preflight gate --manifest preflight.yaml --all-regions --release 2025-03-31.1"
)]
pub(crate) struct Cli {
    #[arg(long, global = true, value_name = "FILE", help = "The controller's client.toml [env: PREFLIGHT_CONTEXT]")]
    context: Option<PathBuf>,
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        help = "Where records are kept of what was done while no controller could be asked [env: PREFLIGHT_SPOOL_DIR]"
    )]
    spool_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Gate(gate::Args),
    Verdict(verdict::Args),
    Release(release::Args),
    Lock(lock::LockArgs),
    Unlock(lock::UnlockArgs),
    Override(overrides::Args),
    Audit(audit::Args),
    Probe(Box<probe::Args>),
    Matrix(matrix::Args),
    Drift(drift::Args),
    Agents(agents::Args),
    Inventory(inventory::Args),
    Token(token::Args),
    Manifest(manifest::Args),
    Explain(explain::Args),
    Completions(completions::Args),
}

/// Runs the command.
pub(crate) async fn run(cli: Cli) -> Result<Exit, Failure> {
    // A watch ends with its summary instead.
    if !matches!(&cli.command, Command::Probe(args) if args.is_watch()) {
        interrupt::ends_it();
    }
    let spool = Spool::find(cli.spool_dir);
    let clients = RefCell::new(Vec::new());
    let connect = || {
        let context = Context::find(cli.context.as_deref())?;
        let client = Client::new(&context)?;
        clients.borrow_mut().push((context, client.answered()));
        Ok(client)
    };
    let result = carry_out(cli.command, connect, &spool).await;
    // Whatever came of the command: a controller that answers can be told.
    let met = clients.into_inner().into_iter().find(|(_, answered)| answered.load(Ordering::Relaxed));
    if let Some((context, _)) = met
        && let Ok(client) = Client::new(&context)
    {
        spool.deliver(&client).await;
    }
    result
}

async fn carry_out(
    command: Command,
    connect: impl Fn() -> Result<Client, Failure>,
    spool: &Spool,
) -> Result<Exit, Failure> {
    match command {
        Command::Gate(args) => gate::run(args, connect, spool).await,
        Command::Release(args) => release::run(args, &connect()?).await,
        Command::Lock(args) => lock::lock(args, &connect()?).await,
        Command::Unlock(args) => lock::unlock(args, &connect()?).await,
        Command::Override(args) => overrides::run(args, &connect()?).await,
        Command::Audit(args) => audit::run(args, &connect()?).await,
        Command::Verdict(args) => verdict::run(args, connect).await,
        Command::Probe(args) => probe::run(*args, connect).await,
        Command::Matrix(args) => matrix::run(args, &connect()?).await,
        Command::Drift(args) => drift::run(args, &connect()?).await,
        Command::Agents(args) => agents::run(args, &connect()?).await,
        Command::Inventory(args) => inventory::run(args, connect).await,
        Command::Token(args) => token::run(args, &connect()?).await,
        Command::Manifest(args) => manifest::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Completions(args) => completions::run(&args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// Every command's path and its examples.
    fn examples(command: &clap::Command, path: &str, found: &mut Vec<(String, Vec<String>)>) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let lines = help.lines().map(str::trim).filter(|line| line.starts_with("preflight "));
        found.push((path.to_owned(), lines.map(str::to_owned).collect()));
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            examples(sub, &format!("{path} {}", sub.get_name()), found);
        }
    }

    #[test]
    fn every_command_has_an_example_and_every_example_works() {
        Cli::command().debug_assert();
        let mut found = Vec::new();
        examples(&Cli::command(), "preflight", &mut found);
        assert!(found.len() > 20, "{found:?}");
        for (path, lines) in found {
            assert!(lines.iter().any(|line| line.starts_with(&path)), "{path} has no example of its own: {lines:?}");
            for line in lines {
                let command = line.split(" > ").next().unwrap_or_default();
                let words = command.split_whitespace();
                assert!(
                    Cli::try_parse_from(words).is_ok(),
                    "{line}: {:?}",
                    Cli::try_parse_from(command.split(' ')).err()
                );
            }
        }
    }
}

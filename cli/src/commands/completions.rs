//! `preflight completions`: scripts that complete commands and flags in a shell.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::output;

/// Print a script that completes commands and flags in a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  preflight completions bash > /etc/bash_completion.d/preflight")]
pub(crate) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "preflight", &mut script);
    output::text(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Proceed)
}

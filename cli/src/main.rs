//! `preflight`: the command for people and pipelines.

mod client;
mod commands;
mod context;
mod duration;
mod exit;
mod failure;
mod input;
mod output;
mod patience;
mod progress;
mod render;
mod report;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

use crate::exit::Exit;
use crate::failure::Failure;

fn main() -> ExitCode {
    let cli = match commands::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error).into(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(commands::run(cli)),
        Err(error) => Err(Failure::no_verdict(format!("cannot start: {error}"))),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            say(&failure);
            failure.exit.into()
        }
    }
}

/// What clap has to say: help and version are results, all else is wrong usage (clap's own code for it is 2, which here
/// means that a cell fails).
fn usage(error: &clap::Error) -> Exit {
    let written = error.print().is_ok();
    let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if asked_for && written { Exit::Proceed } else { Exit::Usage }
}

fn say(failure: &Failure) {
    let red = anstyle::AnsiColor::Red.on_default().bold();
    // Where stderr is gone, the exit code still says it.
    let _ = writeln!(anstream::stderr(), "{red}error:{red:#} {failure}");
}

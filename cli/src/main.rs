//! `preflight`: the command for people and pipelines.

mod client;
mod commands;
mod context;
mod duration;
mod exit;
mod failure;
mod input;
mod interrupt;
mod output;
mod patience;
mod progress;
mod render;
mod report;
mod spool;
mod words;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};

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
    if !error.use_stderr() {
        let written = error.print().is_ok();
        return if written { Exit::Proceed } else { Exit::Usage };
    }
    let text = error.render().ansi().to_string();
    let text = match remedy(error) {
        // In place of the pointer to --help with which clap ends.
        Some(fix) => format!("{}\n  fix: {fix}\n", text.split("\n\nFor more information").next().unwrap_or(&text)),
        None => text,
    };
    // Where stderr is gone, the exit code still says it.
    let _ = anstream::stderr().write_all(text.as_bytes());
    Exit::Usage
}

/// What to do about wrong flags.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "clap's enum is open; the others say themselves what to write, or are help"
)]
fn remedy(error: &clap::Error) -> Option<&'static str> {
    let missing = |what: &str| match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::Strings(all)) => all.iter().any(|arg| arg.starts_with(what)),
        Some(_) | None => false,
    };
    let of_gate = error.render().to_string().contains("preflight gate");
    match error.kind() {
        ErrorKind::MissingRequiredArgument if missing("--region") && of_gate => {
            Some("Add them; --all-regions stands for every region of the application. --help has an example.")
        }
        ErrorKind::MissingRequiredArgument if missing("<URL>") => Some(
            "Say what to probe, such as tcp://10.0.3.7:5432; or give --local --manifest FILE for all that this host needs.",
        ),
        ErrorKind::MissingRequiredArgument if missing("--local") || missing("--watch") => {
            Some("Add it, or leave out the flag that means something only beside it.")
        }
        ErrorKind::MissingRequiredArgument => Some("Add what is missing; --help has an example."),
        ErrorKind::ArgumentConflict => Some("Leave one of the two out."),
        ErrorKind::UnknownArgument => Some("Leave it out; --help lists what there is."),
        ErrorKind::InvalidSubcommand => Some("Put --help in its place, which lists the commands."),
        ErrorKind::InvalidValue => Some("Write a value that is possible there; --help says what it means."),
        _ => None,
    }
}

fn say(failure: &Failure) {
    // Nobody reads on: that is no fault to tell of.
    if failure.is_unread() {
        return;
    }
    let red = anstyle::AnsiColor::Red.on_default().bold();
    // Where stderr is gone, the exit code still says it.
    let _ = writeln!(anstream::stderr(), "{red}error:{red:#} {failure}");
}

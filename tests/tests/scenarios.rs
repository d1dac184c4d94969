//! Every file of `scenarios/` is a test of its own, and together they are the catalogue of injected faults.
#![expect(clippy::print_stdout, reason = "the share that is right is for people to read")]

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};
use preflight_tests::scenario::{self, Tally};

/// The catalogue has at least so many faults.
const FAULTS: usize = 40;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let tally = Arc::new(Tally::default());
    let all = arguments.filter.is_none() && arguments.skip.is_empty() && !arguments.list && !arguments.ignored;
    let trials = scenario::all()
        .into_iter()
        .map(|(name, path)| {
            let tally = tally.clone();
            Trial::test(name, move || {
                scenario::run(&path, &tally);
                Ok(())
            })
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    let (right, faults) = tally.count();
    if !arguments.list {
        println!("faults classified and explained correctly: {right} of {faults}");
    }
    if all && faults < FAULTS {
        println!("the catalogue should hold at least {FAULTS}");
    }
    if conclusion.has_failed() || right < faults || (all && faults < FAULTS) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

//! Every file of `scenarios/` is a test of its own.

use libtest_mimic::{Arguments, Trial};
use preflight_tests::scenario;

fn main() {
    let arguments = Arguments::from_args();
    let trials = scenario::all()
        .into_iter()
        .map(|(name, path)| {
            Trial::test(name, move || {
                scenario::run(&path);
                Ok(())
            })
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

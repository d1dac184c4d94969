//! Ctrl-C: the command ends at once, says so, and has no result.

use std::io::Write as _;

use tokio::signal::unix::{SignalKind, signal};

use crate::exit::Exit;

/// From now on SIGINT ends the process with a line on stderr. What it has asked agents for ends with its connection.
///
/// Where signals cannot be listened for, SIGINT ends it as it ends any process, without a word.
pub(crate) fn ends_it() {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    let listening = {
        let _inside = runtime.enter();
        signal(SignalKind::interrupt())
    };
    let Ok(mut interrupt) = listening else { return };
    // A thread of its own, so that nothing which the command waits for is in the way.
    std::thread::spawn(move || {
        if runtime.block_on(interrupt.recv()).is_some() {
            let _ =
                writeln!(anstream::stderr(), "\ninterrupted: there is no result (exit {})", Exit::Interrupted.code());
            std::process::exit(Exit::Interrupted.code().into());
        }
    });
}

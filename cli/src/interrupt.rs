//! Ctrl-C: the command ends at once, says so, and has no result.

use std::io::Write as _;

use crate::exit::Exit;

/// From now on SIGINT ends the process with a line on stderr. What it has asked agents for ends with its connection.
pub(crate) fn ends_it() {
    // A thread of its own, so that nothing which the command waits for is in the way.
    std::thread::spawn(|| {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
            let _ =
                writeln!(anstream::stderr(), "\ninterrupted: there is no result (exit {})", Exit::Interrupted.code());
            std::process::exit(Exit::Interrupted.code().into());
        }
    });
}

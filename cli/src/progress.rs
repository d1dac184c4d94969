//! Progress on stderr: a spinner on a terminal, a sparse plain line elsewhere.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use preflight_core::text::escape;
use preflight_proto::api::Progress;
use tokio::time::Instant;

/// Plain lines come at most this often.
const SPARSE: Duration = Duration::from_secs(5);
/// How many agents are named.
const NAMED: usize = 3;

/// Where progress goes.
pub(crate) struct Reporter {
    bar: Option<ProgressBar>,
    last: Option<(Instant, String)>,
}

impl Reporter {
    /// On stderr, as suits what stderr is.
    pub(crate) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { bar, last: None }
    }

    /// How far the run is.
    pub(crate) fn run(&mut self, progress: &Progress) {
        self.say(&in_words(progress), false);
    }

    /// Something that is worth a line of its own, such as a lost connection; said again it is as sparse as the rest.
    pub(crate) fn note(&mut self, text: &str) {
        self.say(text, true);
    }

    /// Writes to stdout between two drawings of the spinner.
    pub(crate) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn say(&mut self, text: &str, important: bool) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
            return;
        }
        let now = Instant::now();
        let is_due = |(at, said): &(Instant, String)| now.duration_since(*at) >= SPARSE || important && said != text;
        if self.last.as_ref().is_none_or(is_due) {
            self.last = Some((now, text.to_owned()));
            // Progress that cannot be shown is no reason to stop.
            let _ = writeln!(anstream::stderr(), "preflight: {text}");
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn in_words(progress: &Progress) -> String {
    let Progress { settled, cells, failing, waiting_for, .. } = progress;
    let failing = if *failing > 0 { format!(", {failing} failing") } else { String::new() };
    let names = waiting_for.iter().take(NAMED).map(|name| escape(name)).collect::<Vec<_>>().join(", ");
    let waiting = match waiting_for.len() {
        0 => String::new(),
        1 => format!("; waiting for {names}"),
        count if count <= NAMED => format!("; waiting for {count} agents: {names}"),
        count => format!("; waiting for {count} agents: {names}, …"),
    };
    format!("{settled} of {cells} cells settled{failing}{waiting}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let names = |n: usize| (1..=n).map(|i| format!("eu/web-{i}")).collect();
        let progress = Progress { id: String::new(), settled: 1, cells: 4, failing: 1, waiting_for: names(4) };
        assert_eq!(
            in_words(&progress),
            "1 of 4 cells settled, 1 failing; waiting for 4 agents: eu/web-1, eu/web-2, eu/web-3, …"
        );
        let progress = Progress { waiting_for: names(1), failing: 0, ..progress };
        assert_eq!(in_words(&progress), "1 of 4 cells settled; waiting for eu/web-1");
    }
}

//! The table that the bench prints, row by row as they are measured; and figures as it shows them.

use std::time::Duration;

/// A Markdown table, its head printed already.
pub(crate) struct Table;

/// A goal for a ratio or figure.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    None,
    AtLeast(f64),
    AtMost(f64),
}

impl Table {
    pub(crate) fn begin() -> Self {
        print("measured", "preflight", "beside it", "ratio", "goal");
        println!("|{}|{}|{}|{}|{}|", "-".repeat(54), "-".repeat(24), "-".repeat(40), "-".repeat(9), "-".repeat(16));
        Self
    }

    /// A figure by itself.
    #[expect(clippy::unused_self, reason = "a row needs a table")]
    pub(crate) fn alone(&self, what: &str, figure: &str) {
        print(what, figure, "", "", "");
    }

    /// A time (median and slowest), with a goal for the median.
    #[expect(clippy::unused_self, reason = "a row needs a table")]
    pub(crate) fn time(&self, what: &str, times: (Duration, Duration), goal_ms: f64) {
        print(what, &show(times), "", "", &Goal::AtMost(goal_ms).met(times.0.as_secs_f64() * 1e3, " ms"));
    }

    /// Bytes, with a goal in MiB.
    #[expect(clippy::unused_self, reason = "a row needs a table")]
    pub(crate) fn size(&self, what: &str, bytes: u64, goal: Goal) {
        print(what, &mebibytes(bytes), "", "", &goal.met(in_mebibytes(bytes), " MiB"));
    }

    /// A figure and what it is held against.
    #[expect(clippy::unused_self, reason = "a row needs a table")]
    pub(crate) fn ratio(&self, what: &str, figure: &str, beside: &str, ratio: f64, goal: Goal) {
        print(what, figure, beside, &format!("{ratio:.2}"), &goal.met(ratio, ""));
    }
}

impl Goal {
    fn met(self, value: f64, unit: &str) -> String {
        let (sign, goal, met) = match self {
            Self::None => return String::new(),
            Self::AtLeast(goal) => ('≥', goal, value >= goal),
            Self::AtMost(goal) => ('≤', goal, value <= goal),
        };
        format!("{sign} {goal}{unit}{}", if met { "" } else { ", missed" })
    }
}

fn print(what: &str, figure: &str, beside: &str, ratio: &str, goal: &str) {
    println!("| {what:<52} | {figure:>22} | {beside:>38} | {ratio:>7} | {goal:>14} |");
}

/// The middle of some values.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Median and slowest.
pub(crate) fn times(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() - 1])
}

/// Median and slowest, in milliseconds.
pub(crate) fn show((median, slowest): (Duration, Duration)) -> String {
    format!("{:.1} ms ({:.0})", median.as_secs_f64() * 1e3, slowest.as_secs_f64() * 1e3)
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", in_mebibytes(bytes))
}

#[expect(clippy::cast_precision_loss, reason = "sizes in MiB, to a tenth")]
fn in_mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

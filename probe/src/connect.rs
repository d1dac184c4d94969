//! The ladder: several connect attempts from fresh source ports, spread in time, called a drop when all stay silent.
//!
//! With 10 % loss each way one attempt meets silence in 1 − 0.9 × 0.9 = 19 % of cases; all six do in 0.19⁶ = 4.7 in 100,000.
//! An attempt is one SYN: the kernel sends the next one from the same port a second later, when the ladder is mostly over.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use preflight_core::observation::Attempt;
use preflight_core::reason::{Short, Void};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use crate::deadline::{LATE, noticed};
use crate::failure::Failure;
use crate::socket::{self, Refusal};

/// How many attempts a ladder has: as many sockets as one address may hold at once.
pub(crate) const ATTEMPTS: usize = 6;

/// The last attempt's index.
const LAST: u32 = 5;

/// What is left for the last attempt's answer: a round trip of 300 ms, and 20 ms for a busy host.
const LAST_ANSWER: Duration = Duration::from_millis(320);

/// A dial of one address, whole.
pub(crate) struct Dial {
    /// The connection, or why there is none.
    pub(crate) result: Result<TcpStream, Failure>,
    /// Every attempt that was made.
    pub(crate) attempts: Vec<Attempt>,
    /// From the first SYN to the end.
    pub(crate) took: Duration,
}

impl Dial {
    /// What to know beside a connect: attempts that met silence before one got through, told from those that were only
    /// younger than an answer by twice the time that the winner took.
    pub(crate) fn note(&self) -> Option<String> {
        let winner = self.attempts.iter().find(|a| a.result == CONNECTED)?;
        let lost = |a: &&Attempt| a.result == ABANDONED && a.took_ms > 2.0 * winner.took_ms + 10.0;
        let silent = self.attempts.iter().filter(lost).count();
        (silent > 0)
            .then(|| format!("{silent} of {} connect attempts met silence before one got through", self.attempts.len()))
    }
}

const CONNECTED: &str = "connected";
const SILENT: &str = "silent";
const ABANDONED: &str = "abandoned";

/// An attempt while the ladder is climbed.
struct Try {
    at: Instant,
    /// When it ended and how; none while it is in flight.
    end: Option<(Instant, &'static str)>,
}

/// When each attempt starts, after the first: evenly spread, the last one early enough for its answer. A timeout that is
/// too short for that gives half of itself to the last answer.
fn starts(timeout: Duration) -> [Duration; ATTEMPTS] {
    let spread = timeout.saturating_sub(LAST_ANSWER.min(timeout / 2));
    let mut index = 0;
    [(); ATTEMPTS].map(|()| {
        let start = spread * index / LAST;
        index += 1;
        start
    })
}

/// Dials until one attempt connects, one is answered otherwise, or `timeout` has passed.
///
/// The first answer decides, also a refusal while earlier attempts are silent: it shows what that address does now, and
/// another answer hoped for would hide it. An error of this host decides too, and a ladder that was not climbed whole and
/// in time is never called a drop.
pub(crate) async fn dial(address: SocketAddr, timeout: Duration) -> Dial {
    let begin = Instant::now();
    let starts = starts(timeout);
    let deadline = begin + timeout;
    let mut pending = FuturesUnordered::new();
    let mut tries: Vec<Try> = Vec::with_capacity(1);
    let result = loop {
        let next = starts.get(tries.len()).map(|after| begin + *after);
        if next.is_some_and(|at| at <= Instant::now()) {
            let index = tries.len();
            tries.push(Try { at: Instant::now(), end: None });
            pending.push(async move { (index, socket::open(address).await) });
            continue;
        }
        let (index, answer) = tokio::select! {
            biased;
            Some(answer) = pending.next() => answer,
            () = sleep_until(next.unwrap_or(deadline).min(deadline)) => {
                if Instant::now() < deadline { continue }
                break Err(silence(&tries, begin, timeout));
            }
        };
        let (result, end) = match answer {
            Ok(stream) => (Some(Ok(stream)), CONNECTED),
            Err(Refusal::Silent) => (None, SILENT),
            Err(Refusal::Failed(failure)) => {
                let reason = failure.outcome.reason().unwrap_or(SILENT);
                (Some(Err(failure)), reason)
            }
        };
        if let Some(at) = tries.get_mut(index) {
            at.end = Some((Instant::now(), end));
        }
        if let Some(result) = result {
            break result;
        }
    };
    let end = Instant::now();
    let left = if result.is_ok() { ABANDONED } else { SILENT };
    let attempts = tries
        .into_iter()
        .map(|one| {
            let (ended, how) = one.end.unwrap_or((end, left));
            Attempt { at_ms: ms(one.at - begin), result: how.to_owned(), took_ms: ms(ended - one.at) }
        })
        .collect();
    Dial { result, attempts, took: end - begin }
}

/// What silence until the deadline means: a drop, if every attempt was made and had its time; else this host was too busy
/// to tell. One attempt would do for 19 % of the innocent at 10 % loss each way.
fn silence(tries: &[Try], begin: Instant, timeout: Duration) -> Failure {
    if let Err(stalled) = noticed(begin + timeout) {
        return stalled;
    }
    let last_due = begin + starts(timeout)[ATTEMPTS - 1];
    if tries.len() < ATTEMPTS || tries.last().is_none_or(|last| last.at > last_due + LATE) {
        let detail =
            format!("this process was stopped or starved: {} of {ATTEMPTS} attempts were made in time", tries.len());
        return Failure::void(Void::LocalResources, detail);
    }
    let detail = format!("{ATTEMPTS} attempts from different source ports in {} ms, all silent", timeout.as_millis());
    Failure::short(Short::ConnectTimeout, detail)
}

/// Milliseconds, as evidence has them.
pub(crate) fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_attempt_leaves_time_for_its_answer() {
        let all = starts(Duration::from_secs(1));
        assert_eq!(all.map(|d| d.as_millis()), [0, 136, 272, 408, 544, 680]);
        assert_eq!(starts(Duration::from_millis(100))[ATTEMPTS - 1], Duration::from_millis(50));
        assert_eq!(starts(Duration::ZERO)[ATTEMPTS - 1], Duration::ZERO);
    }

    #[test]
    fn loss_alone_is_called_a_drop_in_fewer_than_one_of_ten_thousand() {
        let one: f64 = 1.0 - 0.9 * 0.9;
        assert!(one.powi(i32::try_from(ATTEMPTS).unwrap()) < 1e-4);
    }

    #[tokio::test]
    async fn only_a_ladder_climbed_in_time_is_a_drop() {
        let timeout = Duration::from_secs(1);
        let begin = Instant::now().checked_sub(timeout).unwrap();
        let tries = |late: u64| -> Vec<Try> {
            let late = Duration::from_millis(late);
            starts(timeout).map(|after| Try { at: begin + after + late, end: None }).into()
        };
        let reason = |tries: &[Try], begin| silence(tries, begin, timeout).outcome.reason();
        assert_eq!(reason(&tries(5), begin), Some("connect_timeout"));
        assert_eq!(reason(&tries(5)[..5], begin), Some("local_resources"));
        assert_eq!(reason(&tries(100), begin), Some("local_resources"));
        let long_ago = begin.checked_sub(Duration::from_millis(100)).unwrap();
        assert_eq!(reason(&tries(0), long_ago), Some("local_resources"));
    }
}

//! The ladder: several connect attempts from fresh source ports, spread in time, called a drop when all stay silent.
//!
//! With the default timeout of 1 s the attempts start at 0, 136, 272, 408, 544 and 680 ms, and the last one has 320 ms for its
//! answer. So at a round trip of up to 300 ms every attempt that is not lost is answered within the timeout, and only loss of all
//! six is called a drop. With 10 % loss each way one attempt meets silence in 1 − 0.9 × 0.9 = 19 % of cases, and all six do in
//! 0.19⁶ = 4.7 in 100,000, which is fewer than one of 10,000.
//!
//! Where a busy host makes attempts late, the ladder ends later, so that the last one still has 300 ms; more than 100 ms late is no ladder.
//! How late its end is noticed does not matter: the kernel is asked then, and it has completed whatever was answered.
//!
//! An attempt is one SYN: the kernel sends the next one from the same port a second later, when the ladder is over.
//!
//! **What becomes of attempts that lose.** One that has no answer yet is closed: the server's application never sees it
//! ([`Opening`]). One that the kernel has completed meanwhile is handed out ([`Dial::losers`]), to leave as the winner does. In
//! the microseconds between the look and the close an answer may still come in; then the server's application meets a client
//! that has gone, once.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::Poll;
use std::time::Duration;

use preflight_core::observation::Attempt;
use preflight_core::reason::{Short, Void};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::conntrack;
use crate::deadline::{LATE, beat, stalled_since};
use crate::failure::Failure;
use crate::socket::{Opening, Refusal};

/// How many attempts a ladder has: as many sockets as one address may hold at once.
pub(crate) const ATTEMPTS: usize = 6;

/// The last attempt's index.
const LAST: u32 = 5;

/// What is left for the last attempt's answer: a round trip of 300 ms, and 20 ms for a busy host.
const LAST_ANSWER: Duration = Duration::from_millis(320);

/// An attempt that is made later than this after it was due is not the one that the ladder counts on: it may meet the same
/// burst of loss as the next one.
const TOO_LATE: Duration = Duration::from_millis(100);

/// A dial of one address, whole.
pub(crate) struct Dial {
    /// The connection, or why there is none.
    pub(crate) result: Result<TcpStream, Failure>,
    /// Every attempt that was made.
    pub(crate) attempts: Vec<Attempt>,
    /// The first SYN.
    pub(crate) begin: Instant,
    /// From the first SYN to the end.
    pub(crate) took: Duration,
    /// Connections that were completed beside the winner: the server has to be left as it wants to be left.
    pub(crate) losers: Vec<TcpStream>,
    /// Where the attempts came from that had met silence when another one connected.
    pub(crate) silent: Vec<SocketAddr>,
    /// What an answer may take by what the winner's took, before its absence is silence.
    pub(crate) window: Duration,
}

impl Dial {
    /// What to know beside a connect: attempts that met silence before one got through.
    pub(crate) fn note(&self) -> Option<String> {
        let (silent, made) = (self.silent.len(), self.attempts.len());
        (silent > 0).then(|| format!("{silent} of {made} connect attempts met silence before one got through"))
    }
}

pub(crate) const CONNECTED: &str = "connected";
pub(crate) const SILENT: &str = "silent";
const ABANDONED: &str = "abandoned";

/// An attempt while the ladder is climbed.
struct Try {
    at: Instant,
    state: TryState,
}

enum TryState {
    InFlight(Opening),
    /// When and how.
    Ended(Instant, &'static str),
}

impl Try {
    fn opening(&self) -> Option<&Opening> {
        match &self.state {
            TryState::InFlight(opening) => Some(opening),
            TryState::Ended(..) => None,
        }
    }
}

/// When the attempt of that index starts, after the first: evenly spread, the last one early enough for its answer; none beyond the
/// last. A timeout that is too short for that gives half of itself to the last answer.
fn start(timeout: Duration, index: usize) -> Option<Duration> {
    let index = u32::try_from(index).ok().filter(|index| *index <= LAST)?;
    Some(timeout.saturating_sub(LAST_ANSWER.min(timeout / 2)) * index / LAST)
}

/// Dials until one attempt connects, one is answered otherwise, or `timeout` has passed.
///
/// The first answer decides, also a refusal while earlier attempts are silent: it shows what that address does now, and
/// another answer hoped for would hide it. An error of this host decides too, and a ladder that was not climbed whole and
/// in time is never called a drop.
pub(crate) async fn dial(address: SocketAddr, timeout: Duration) -> Dial {
    let begin = Instant::now();
    let mut not_before = begin;
    let mut tries: Vec<Try> = Vec::with_capacity(1);
    let result = loop {
        let next = start(timeout, tries.len()).map(|after| begin + after);
        if next.is_some_and(|at| at <= Instant::now()) {
            let at = Instant::now();
            let (state, failure) = match Opening::start(address, None) {
                Ok(opening) => (TryState::InFlight(opening), None),
                Err(refusal) => refused(refusal),
            };
            if tries.len() == 1 {
                tries.reserve_exact(ATTEMPTS - 1);
            }
            tries.push(Try { at, state });
            if let Some(failure) = failure {
                break Err(failure);
            }
            continue;
        }
        let due = next.unwrap_or_else(|| last_look(&tries, begin, timeout)).max(not_before);
        let (index, answer) = match timeout_at(due, answer(&tries, address)).await {
            Ok(ended) => ended,
            Err(_) if next.is_some() => continue,
            Err(_) => match look(&tries, address) {
                Some(ended) => ended,
                None if not_before == begin && stalled_since(due) => {
                    // The host may have been stopped together with this process, its network too.
                    not_before = Instant::now() + LATE;
                    continue;
                }
                None => break Err(silence(&tries, begin, timeout)),
            },
        };
        let Some(one) = tries.get_mut(index) else { continue };
        match answer {
            Ok(()) => {
                let connected = TryState::Ended(Instant::now(), CONNECTED);
                if let TryState::InFlight(opening) = std::mem::replace(&mut one.state, connected) {
                    break Ok((opening.into_stream(), one.at.elapsed()));
                }
            }
            Err(refusal) => {
                let failure;
                (one.state, failure) = refused(refusal);
                if let Some(failure) = failure {
                    break Err(failure);
                }
            }
        }
    };
    over(result, tries, begin)
}

/// The first attempt that ends.
fn answer(tries: &[Try], address: SocketAddr) -> impl Future<Output = (usize, Result<(), Refusal>)> {
    poll_fn(move |cx| {
        beat();
        let pending = tries.iter().enumerate().filter_map(|(index, one)| Some((index, one.opening()?)));
        for (index, opening) in pending {
            if let Poll::Ready(end) = opening.poll(cx, address) {
                return Poll::Ready((index, end));
            }
        }
        Poll::Pending
    })
}

/// The first attempt that has ended by now, as the kernel knows, which completes handshakes by itself. So it does no harm to be late
/// for this look, as the last of a thousand dials with the same timeout is.
fn look(tries: &[Try], address: SocketAddr) -> Option<(usize, Result<(), Refusal>)> {
    tries.iter().enumerate().find_map(|(index, one)| Some((index, one.opening()?.look(address)?)))
}

/// When silence may be called: at the end of the timeout, and when the last attempt has had its time.
fn last_look(tries: &[Try], begin: Instant, timeout: Duration) -> Instant {
    let answer = LAST_ANSWER.min(timeout / 2) * 15 / 16;
    tries.last().map_or(begin, |last| last.at + answer).max(begin + timeout)
}

/// What an attempt that did not connect ends as; and what decides the dial, if it does.
fn refused(refusal: Refusal) -> (TryState, Option<Failure>) {
    let (how, failure) = match refusal {
        Refusal::Silent => (SILENT, None),
        Refusal::Failed(failure) => (failure.outcome.reason().unwrap_or(SILENT), Some(failure)),
    };
    (TryState::Ended(Instant::now(), how), failure)
}

/// The ladder's end: what becomes of the attempts that are still in flight, and the evidence of all.
fn over(result: Result<(TcpStream, Duration), Failure>, tries: Vec<Try>, begin: Instant) -> Dial {
    let end = Instant::now();
    // Attempts that are only younger than an answer are told from those that met silence by twice what the winner took.
    let window = result.as_ref().map_or(Duration::ZERO, |(_, took)| 2 * *took + Duration::from_millis(10));
    let left = if result.is_ok() { ABANDONED } else { SILENT };
    let (mut losers, mut silent) = (Vec::new(), Vec::new());
    let attempts = tries
        .into_iter()
        .map(|one| {
            let (ended, how) = match one.state {
                TryState::Ended(at, how) => (at, how),
                TryState::InFlight(opening) if opening.is_connected() => {
                    // It was answered, whatever decided: who is to be blocked has leaked.
                    losers.push(opening.into_stream());
                    (end, CONNECTED)
                }
                TryState::InFlight(opening) => {
                    if result.is_ok() && end - one.at > window {
                        silent.extend(opening.local());
                    }
                    (end, left)
                }
            };
            Attempt { at_ms: ms(one.at - begin), result: how.to_owned(), took_ms: ms(ended - one.at) }
        })
        .collect();
    let result = result.map(|(stream, _)| stream);
    Dial { result, attempts, begin, took: end - begin, losers, silent, window }
}

/// What silence until the last look means: a drop, if every attempt was made when it was due; else this host was too busy
/// to tell. One attempt would do for 19 % of the innocent at 10 % loss each way.
fn silence(tries: &[Try], begin: Instant, timeout: Duration) -> Failure {
    let due = (0..).map_while(|index| start(timeout, index));
    let late = |(one, after): (&Try, Duration)| one.at.saturating_duration_since(begin + after);
    let latest = tries.iter().zip(due).map(late).max().unwrap_or_default();
    if tries.len() < ATTEMPTS || latest > TOO_LATE {
        let detail = format!(
            "this process was stopped or starved: {} of {ATTEMPTS} attempts were made, up to {} ms late",
            tries.len(),
            latest.as_millis()
        );
        return Failure::void(Void::LocalResources, detail);
    }
    if let Some(full) = conntrack::full() {
        return Failure::void(Void::LocalResources, full);
    }
    let detail = format!("{ATTEMPTS} attempts from different source ports in {} ms, all silent", timeout.as_millis());
    Failure::short(Short::ConnectTimeout, detail)
}

/// Milliseconds, as evidence has them.
pub(crate) fn ms(span: Duration) -> f64 {
    span.div_duration_f64(Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(timeout: Duration) -> impl Iterator<Item = Duration> {
        (0..).map_while(move |index| start(timeout, index))
    }

    #[test]
    fn the_last_attempt_leaves_time_for_its_answer() {
        let all: Vec<_> = starts(Duration::from_secs(1)).map(|start| start.as_millis()).collect();
        assert_eq!(all, [0, 136, 272, 408, 544, 680]);
        assert_eq!(starts(Duration::from_millis(100)).last(), Some(Duration::from_millis(50)));
        assert_eq!(starts(Duration::ZERO).collect::<Vec<_>>(), [Duration::ZERO; ATTEMPTS]);
    }

    #[test]
    fn loss_alone_is_called_a_drop_in_fewer_than_one_of_ten_thousand() {
        let one: f64 = 1.0 - 0.9 * 0.9;
        assert!(one.powi(i32::try_from(ATTEMPTS).unwrap()) < 1e-4);
    }

    /// The arithmetic of the module's head, with the ladder as it is.
    #[test]
    fn at_300_ms_every_attempt_is_answered_in_time() {
        let timeout = Duration::from_secs(1);
        let answers: Vec<_> = starts(timeout).map(|start| start + Duration::from_millis(300)).collect();
        assert!(answers.iter().all(|answer| *answer + Duration::from_millis(20) <= timeout), "{answers:?}");
    }

    #[tokio::test]
    async fn losers_that_are_connected_are_handed_out_and_silent_ones_named() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // A queue that is full: the SYN stays unanswered.
        let full = tokio::net::TcpSocket::new_v4().unwrap();
        full.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let full = full.listen(0).unwrap();
        let _fill = std::net::TcpStream::connect(full.local_addr().unwrap()).unwrap();
        let open = |address| Opening::start(address, None).unwrap();
        let (won, lost, silent, young) =
            (open(address), open(address), open(full.local_addr().unwrap()), open(full.local_addr().unwrap()));
        for opening in [&won, &lost] {
            poll_fn(|cx| opening.poll(cx, address)).await.unwrap();
        }
        let port = silent.local().unwrap();
        let now = Instant::now();
        let ago = |ms| now.checked_sub(Duration::from_millis(ms)).unwrap();
        let of = |at, opening| Try { at, state: TryState::InFlight(opening) };
        let took = Duration::from_millis(1);
        let first = Try { at: ago(2_000), state: TryState::Ended(now, CONNECTED) };
        let tries = vec![first, of(ago(1_900), lost), of(ago(1_800), silent), of(now + took, young)];
        let dial = over(Ok((won.into_stream(), took)), tries, ago(2_000));
        assert_eq!((dial.losers.len(), dial.silent.as_slice()), (1, [port].as_slice()));
        assert_eq!(dial.note().unwrap(), "1 of 4 connect attempts met silence before one got through");
        let dial = over(Err(Failure::short(Short::ConnectRefused, "")), vec![of(now, open(address))], now);
        assert!(dial.losers.len() <= 1 && dial.silent.is_empty());
    }

    #[tokio::test]
    async fn only_a_ladder_climbed_in_time_is_a_drop() {
        let timeout = Duration::from_secs(1);
        let begin = Instant::now().checked_sub(timeout).unwrap();
        let tries = |late: u64| -> Vec<Try> {
            let late = Duration::from_millis(late);
            let silent = |at| Try { at, state: TryState::Ended(at, SILENT) };
            starts(timeout).map(|after| silent(begin + after + late)).collect()
        };
        let reason = |tries: &[Try], begin| silence(tries, begin, timeout).outcome.reason();
        assert_eq!(reason(&tries(5), begin), Some("connect_timeout"));
        assert_eq!(reason(&tries(5)[..5], begin), Some("local_resources"));
        assert_eq!(reason(&tries(150), begin), Some("local_resources"));
        // When the look comes is nothing to the target, as long as the last attempt has had its time.
        let long_ago = begin.checked_sub(Duration::from_millis(100)).unwrap();
        let all: Vec<Try> =
            tries(0).into_iter().map(|one| Try { at: one.at - Duration::from_millis(100), state: one.state }).collect();
        assert_eq!(reason(&all, long_ago), Some("connect_timeout"));
        let due = |late| last_look(&tries(late), begin, timeout) - begin;
        assert_eq!((due(0), due(20), due(90)), (timeout, timeout, timeout + Duration::from_millis(70)));
    }
}

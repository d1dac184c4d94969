//! Silence beside a connect: lost by chance, or a dead path?
//!
//! Routers spread connections over paths of equal cost by their addresses and ports. Where one of the paths is dead, some source
//! ports never get an answer and others always do, which is `partial_loss`; loss by chance does not care for ports. So where
//! attempts of a ladder met silence before another one connected, their very ports are asked again; a port that answers once is
//! cleared. If one stays silent, some more ports are asked, so that there is a share to tell.
//!
//! **How often, and why.** A port is asked in two bursts of [`BURST`] SYNs, half a second apart. By loss alone one SYN stays silent in
//! 19 % of cases (10 % each way), but those of one port are not independent. If only the SYN-ACK was lost, the server
//! holds a half-open connection, to which the next SYN, with another sequence number, does not fit: Linux answers with an
//! acknowledgement, which makes this host send a reset and the SYN once more; and of such answers it gives one in half a second
//! (`net.ipv4.tcp_invalid_ratelimit`). If that one is lost as well, which with the first SYN-ACK comes to 0.09 × 0.17 = 1.5 %, the rest of the
//! burst is silent. So more SYNs at once say little, and a second burst says more: of 10,000 dials at that loss 0.7 % found a port that
//! stayed silent through both. One such port is no proof. Three of twelve are: that the first stays silent, and two of ten others do too,
//! comes by loss alone to 0.007 × 45 × 0.007² = 1.5 in 100,000.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::{BoxFuture, join, join_all};
use preflight_core::observation::{Attempt, Outcome};
use preflight_core::reason::Short;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until};

use crate::connect::{ATTEMPTS, CONNECTED, SILENT, ms};
use crate::deadline::until;
use crate::failure::Failure;
use crate::socket::{Opening, Refusal};

/// SYNs in a row from one port.
const BURST: u32 = 3;
/// From the last SYN of the first burst to the second.
const PAUSE: Duration = Duration::from_millis(500);
/// The least that a SYN is given for its answer.
const LEAST_GAP: Duration = Duration::from_millis(150);
/// How many gaps a check takes in all: the ladder's silent ports have one burst before the others have two, a little apart.
const GAPS: u32 = 3 * BURST + 1;
/// How many ports are asked in all, those of the ladder included.
const PORTS: usize = 12;
/// Fewer silent ports than this are told, and change nothing.
const DEAD: usize = 3;

/// A check of one address.
pub(crate) struct Check<'a> {
    pub(crate) address: SocketAddr,
    /// When the dial began, which attempts are timed from.
    pub(crate) begin: Instant,
    /// What an answer may take: two round trips, since one that was lost may cost another.
    pub(crate) window: Duration,
    /// What the check may take in all, beside how connections are left.
    pub(crate) budget: Duration,
    /// How a connection is left that answered.
    pub(crate) leave: &'a (dyn Fn(TcpStream) -> BoxFuture<'a, ()> + Send + Sync),
}

/// What a check found.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    pub(crate) attempts: Vec<Attempt>,
    /// What to know beside a connect.
    pub(crate) note: Option<String>,
    /// A dead path.
    pub(crate) failure: Option<Failure>,
}

/// One source port that is asked.
struct Port {
    local: Option<SocketAddr>,
    at: Instant,
    /// The last SYN.
    last: Instant,
    end: Instant,
    how: How,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum How {
    /// By a connect, or by a refusal: something came back.
    Answered(&'static str),
    Silent,
    /// An error of this host: nothing is known.
    Unable(String),
}

impl Check<'_> {
    /// Asks the ports that were silent; `answered` others were not. With `room` for more sockets more ports are asked.
    pub(crate) async fn run(&self, silent: Vec<SocketAddr>, answered: usize, room: impl FnOnce() -> bool) -> Checked {
        let gap = self.window.max(LEAST_GAP);
        if gap * GAPS + PAUSE > self.budget {
            return unchecked("an answer takes too long for that");
        }
        let asked = silent.len();
        let mut ports = join_all(silent.into_iter().map(|local| self.burst(Port::new(Some(local)), gap))).await;
        let still: Vec<Port> = ports.extract_if(.., |port| port.how == How::Silent).collect();
        if still.is_empty() {
            return self.checked(&ports, answered);
        }
        // Without room no more sockets are held than the ladder held, of which its own connections may still be open.
        let most = if room() { PORTS } else { ATTEMPTS.saturating_sub(still.len() + answered) };
        let more = PORTS.saturating_sub(asked + answered).min(most);
        let again = join_all(still.into_iter().map(|port| self.second(port, gap)));
        let sample = (0_u32..).take(more).map(|index| async move {
            // Spread over one gap.
            sleep(gap * index / 16).await;
            let port = self.burst(Port::new(None), gap).await;
            if port.how == How::Silent { self.second(port, gap).await } else { port }
        });
        let (again, sample) = join(again, join_all(sample)).await;
        ports.extend(again.into_iter().chain(sample));
        self.checked(&ports, answered)
    }

    async fn second(&self, port: Port, gap: Duration) -> Port {
        sleep_until(port.last + PAUSE).await;
        self.burst(port, gap).await
    }

    /// Sends SYNs from one port until one is answered.
    async fn burst(&self, mut port: Port, gap: Duration) -> Port {
        for _ in 0..BURST {
            port.last = Instant::now();
            port.how = self.syn(&mut port.local, port.last + gap).await;
            port.end = Instant::now();
            if port.how != How::Silent {
                break;
            }
        }
        port
    }

    async fn syn(&self, local: &mut Option<SocketAddr>, due: Instant) -> How {
        let refused = |refusal| match refusal {
            Refusal::Silent => How::Silent,
            Refusal::Failed(Failure { outcome: Outcome::Short(reason), .. }) => How::Answered(reason.as_str()),
            Refusal::Failed(failure) => How::Unable(failure.detail.unwrap_or_default()),
        };
        let opening = match Opening::start(self.address, *local) {
            Ok(opening) => opening,
            Err(refusal) => return refused(refusal),
        };
        *local = opening.local();
        match until(due, poll_fn(|cx| opening.poll(cx, self.address))).await {
            Ok(Some(Err(refusal))) => refused(refusal),
            Ok(None) if !opening.is_connected() => How::Silent,
            Ok(Some(Ok(())) | None) => {
                (self.leave)(opening.into_stream()).await;
                How::Answered(CONNECTED)
            }
            Err(stalled) => How::Unable(stalled.detail.unwrap_or_default()),
        }
    }

    fn checked(&self, ports: &[Port], answered: usize) -> Checked {
        let dead: Vec<&Port> = ports.iter().filter(|port| port.how == How::Silent).collect();
        let known = ports.iter().filter(|port| !matches!(port.how, How::Unable(_))).count() + answered;
        let unable = ports.iter().find_map(|port| match &port.how {
            How::Unable(why) => Some(why),
            How::Answered(_) | How::Silent => None,
        });
        let mut checked = Checked::default();
        let share = format!("{} of {known} source ports got no answer to any of {} SYNs", dead.len(), 2 * BURST);
        if dead.len() >= DEAD {
            let mut of: Vec<u16> = dead.iter().filter_map(|port| Some(port.local?.port())).collect();
            of.sort_unstable();
            let of = of.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let words = "while others connect: mostly one of several paths of equal cost is dead";
            checked.failure = Some(Failure::short(Short::PartialLoss, format!("{share} ({of}) {words}")));
        } else if !dead.is_empty() {
            checked.note = Some(format!("{share}: too few to tell a dead path from loss"));
        } else if let Some(why) = unable {
            checked.note = unchecked(why).note;
        }
        checked.attempts = ports
            .iter()
            .map(|port| {
                let result = match port.how {
                    How::Answered(how) => how,
                    How::Silent => SILENT,
                    How::Unable(_) => "local_resources",
                };
                let (at_ms, took_ms) = (ms(port.at - self.begin), ms(port.end - port.at));
                Attempt { at_ms, result: result.to_owned(), took_ms }
            })
            .collect();
        checked
    }
}

impl Port {
    fn new(local: Option<SocketAddr>) -> Self {
        let now = Instant::now();
        Self { local, at: now, last: now, end: now, how: How::Silent }
    }
}

fn unchecked(why: &str) -> Checked {
    let note = format!("whether the silence is loss or a dead path was not checked: {why}");
    Checked { note: Some(note), ..Checked::default() }
}

#[cfg(test)]
mod tests {
    use preflight_core::spec::ProbeSpec;
    use tokio::net::TcpSocket;

    use super::*;

    /// What a peer's distance costs, by a clock that runs only while everybody waits: no port is answered but the ladder's.
    #[tokio::test(start_paused = true)]
    async fn a_dead_path_to_a_peer_300_ms_away_is_found_in_time() {
        let full = TcpSocket::new_v4().unwrap();
        full.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let full = full.listen(0).unwrap();
        let address = full.local_addr().unwrap();
        let _fill = std::net::TcpStream::connect(address).unwrap();
        let leave = |_| -> BoxFuture<'_, ()> { Box::pin(std::future::ready(())) };
        let budget = ProbeSpec::new("tcp://10.0.0.1:1".parse().unwrap()).paths_timeout();
        for (round_trip, room, dead) in [(1, true, 11), (1, false, 5), (300, true, 11), (300, false, 5), (400, true, 0)]
        {
            let begin = Instant::now();
            // As the ladder has it (connect.rs).
            let window = 2 * Duration::from_millis(round_trip) + Duration::from_millis(10);
            let check = Check { address, begin, window, budget, leave: &leave };
            let checked = check.run(vec!["127.0.0.1:0".parse().unwrap()], 1, || room).await;
            assert!(begin.elapsed() <= budget, "{round_trip} {:?}", begin.elapsed());
            if dead == 0 {
                assert!(checked.failure.is_none() && checked.note.unwrap().contains("was not checked"));
                continue;
            }
            let failure = checked.failure.unwrap();
            assert_eq!(failure.outcome, Outcome::Short(Short::PartialLoss), "{round_trip}");
            // A port that another test took between two bursts tells nothing.
            let taken = checked.attempts.iter().filter(|attempt| attempt.result == "local_resources").count();
            assert!(taken <= 2, "{:?}", checked.attempts);
            let share = format!("{} of {} source ports", dead - taken, dead + 1 - taken);
            assert!(failure.detail.as_ref().unwrap().starts_with(&share), "{failure:?}");
        }
    }
}

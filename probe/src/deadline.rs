//! Deadlines that blame nobody for this process's own stalls.
//!
//! A thousand deadlines may fall due at one instant, and the last of them is noticed when the others' work is done. So that a deadline
//! is noticed late is no reason to blame this host, and none to blame the target either: what it sent may wait unread. At a deadline
//! the runtime's I/O driver is turned and the future is looked at once more. If nothing was there for it to read, it was silent, however late that
//! was found. What was there may end it, which counts. If what was there did not end it, or if this process did nothing at all
//! for a while when the deadline was due (it was stopped, or one task held the thread), the target had not its time: void.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use preflight_core::reason::Void;
use tokio::task::{coop::unconstrained, yield_now};
use tokio::time::{Instant, sleep_until};

use crate::failure::Failure;

/// A deadline that is noticed later than this may say more about this host than about the target.
pub(crate) const LATE: Duration = Duration::from_millis(50);

/// What the driver finds may have to pass through other tasks before it comes to the future: a resolver's, a library's.
const TURNS: usize = 3;

/// Runs `future` until `deadline`; none if that passed in silence.
pub(crate) async fn until<T>(deadline: Instant, future: impl Future<Output = T>) -> Result<Option<T>, Failure> {
    let mut future = pin!(future);
    let mut timer = pin!(unconstrained(sleep_until(deadline)));
    let woken = Arc::new(Woken { is: AtomicBool::new(true), task: AtomicWaker::new() });
    let waker = Waker::from(woken.clone());
    // Whether there was something for it after the deadline.
    let mut went_on = false;
    let mut look = |cx: &mut Context<'_>| {
        let now = beat();
        woken.task.register(cx.waker());
        if !woken.is.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        went_on |= now > deadline;
        future.as_mut().poll(&mut Context::from_waker(&waker))
    };
    let end = poll_fn(|cx| match look(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => timer.as_mut().poll(cx).map(|()| None),
    });
    if let Some(value) = end.await {
        return Ok(Some(value));
    }
    let late = deadline.elapsed();
    let stalled = stalled_since(deadline);
    for _ in 0..TURNS {
        yield_now().await;
    }
    match poll_fn(|cx| Poll::Ready(look(cx))).await {
        Poll::Ready(value) => Ok(Some(value)),
        Poll::Pending if late > LATE && (stalled || went_on) => {
            let detail =
                format!("this process was stopped or starved: a deadline was noticed {} ms late", late.as_millis());
            Err(Failure::void(Void::LocalResources, detail))
        }
        Poll::Pending => Ok(None),
    }
}

/// Whether there was anything for a future since it was last polled.
struct Woken {
    is: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is.store(true, Ordering::Release);
        self.task.wake();
    }
}

/// When a thread last did something for a probe, and its last pause of more than [`LATE`].
#[derive(Clone, Copy)]
struct Beats {
    last: Instant,
    pause: Option<(Instant, Instant)>,
}

thread_local! {
    /// Of a thread and not of the process: one that is held up is not kept going by the others. A task that another thread had
    /// before may find a pause where there was none, and is void rather than wrong.
    static BEATS: Cell<Option<Beats>> = const { Cell::new(None) };
}

/// Takes down that this thread is doing something.
pub(crate) fn beat() -> Instant {
    let now = Instant::now();
    let before = BEATS.get();
    let pause = match before {
        Some(Beats { last, .. }) if now.saturating_duration_since(last) > LATE => Some((last, now)),
        Some(Beats { pause, .. }) => pause,
        None => None,
    };
    BEATS.set(Some(Beats { last: now, pause }));
    now
}

/// Whether this thread did nothing for more than [`LATE`] when something was `due`: it was stopped, or one task held it.
/// Without anything to do it waits too, but not beyond what is due.
pub(crate) fn stalled_since(due: Instant) -> bool {
    let pause = BEATS.get().and_then(|beats| beats.pause);
    pause.is_some_and(|(from, to)| to.saturating_duration_since(from.max(due)) > LATE)
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(20)
    }

    /// What `case` comes to when nothing but itself holds this process up: the machine may, and then it is played again.
    async fn steady<T>(mut case: impl AsyncFnMut() -> Result<T, Failure>) -> Result<T, Failure> {
        let mut end = case().await;
        for _ in 0..10 {
            if end.is_ok() {
                break;
            }
            end = case().await;
        }
        end
    }

    async fn silent() -> Result<Option<()>, Failure> {
        until(soon(), std::future::pending::<()>()).await
    }

    #[tokio::test]
    async fn a_stall_of_this_process_is_not_the_targets_silence() {
        assert_eq!(steady(silent).await, Ok(None));
        let stalled = until(soon(), std::future::pending::<()>());
        let (end, ()) = tokio::join!(stalled, async { std::thread::sleep(Duration::from_millis(150)) });
        assert_eq!(end.unwrap_err().outcome.reason(), Some("local_resources"));
        assert_eq!(steady(silent).await, Ok(None), "and that was that");
    }

    #[tokio::test]
    async fn many_that_are_due_at_once_hold_up_nobodys_verdict() {
        let all = async || {
            let due = soon();
            let one = |_| async move {
                let end = until(due, std::future::pending::<()>()).await;
                // What each costs at its end: 200 of them keep this thread busy for 400 ms.
                std::thread::sleep(Duration::from_millis(2));
                end.map(|end| (end, due.elapsed()))
            };
            let tasks: Vec<_> = (0..200).map(|index| tokio::spawn(one(index))).collect();
            join_all(tasks).await.into_iter().map(Result::unwrap).collect::<Result<Vec<_>, _>>()
        };
        let ends = steady(all).await.unwrap();
        assert!(ends.iter().all(|(end, _)| end.is_none()), "{ends:?}");
        assert!(ends.iter().any(|(_, late)| *late > 2 * LATE), "none was late: {ends:?}");
    }

    /// Works until 130 ms after `due`, a little at a time as many tasks do, so that nothing is a stall.
    fn work_beyond(due: Instant) {
        while due.elapsed() < Duration::from_millis(130) {
            std::thread::sleep(Duration::from_millis(5));
            beat();
        }
    }

    #[tokio::test]
    async fn what_came_and_was_not_read_in_time_counts_or_is_void() {
        let void = Err(Some("local_resources"));
        for (sent, wanted, want) in [(0, 1, Ok(None)), (1, 1, Ok(Some(()))), (1, 2, void), (2, 2, Ok(Some(())))] {
            let case = async || {
                let (mut near, mut far) = tokio::net::UnixStream::pair().unwrap();
                let due = soon();
                let read = async {
                    for _ in 0..wanted {
                        near.read_exact(&mut [0]).await.unwrap();
                    }
                };
                let busy = async {
                    far.write_all(&[0, 0][..sent]).await.unwrap();
                    work_beyond(due);
                };
                tokio::join!(until(due, read), busy).0
            };
            let end = if want == void { case().await } else { steady(case).await };
            assert_eq!(end.map_err(|failure| failure.outcome.reason()), want, "{sent} of {wanted}");
        }
    }

    #[tokio::test]
    async fn a_peer_that_goes_on_and_on_is_out_of_time() {
        let (mut near, mut far) = tokio::net::UnixStream::pair().unwrap();
        let drip = tokio::spawn(async move {
            while far.write_all(b"x").await.is_ok() {
                yield_now().await;
            }
        });
        let read = async || until(soon(), async { while near.read_exact(&mut [0]).await.is_ok() {} }).await;
        assert_eq!(steady(read).await, Ok(None));
        drip.abort();
    }
}

//! When to try again: time in, actions out.

use std::time::{Duration, Instant};

/// Why a connection ended or never came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setback {
    /// Something that passes by itself; the controller may have said how long it wants to be left alone.
    Passing {
        /// The controller's `retry-after-ms`.
        retry_after: Option<Duration>,
    },
    /// A refusal that only a person can change, such as a revoked certificate or a used-up token.
    Refusal,
    /// The agent is revoked: it stays out until a person lets it in again.
    Revoked,
}

/// Full-jitter back-off: uniform in 0 … min(cap, 0.5 s · 2ⁿ) (<https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>),
/// so that ten thousand agents do not come back in step.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    setbacks: u32,
    up_since: Option<Instant>,
}

impl Backoff {
    const BASE: Duration = Duration::from_millis(500);
    /// The longest window after what passes by itself.
    pub const CAP: Duration = Duration::from_secs(30);
    /// The longest window after a refusal.
    pub const REFUSAL_CAP: Duration = Duration::from_mins(5);
    /// A connection that lasted this long starts the count anew; a shorter one is part of the trouble.
    pub const STABLE: Duration = Duration::from_secs(30);
    /// The longest that a controller can put an agent off.
    pub const MAX_RETRY_AFTER: Duration = Duration::from_mins(5);

    /// Notes that a connection is up.
    pub fn up(&mut self, now: Instant) {
        self.up_since = Some(now);
    }

    /// How long to wait before the next try. `random` is uniform in 0 … 1.
    pub fn next(&mut self, now: Instant, setback: Setback, random: f64) -> Duration {
        if self.up_since.take().is_some_and(|since| now.saturating_duration_since(since) >= Self::STABLE) {
            self.setbacks = 0;
        }
        let (cap, least) = match setback {
            Setback::Passing { retry_after } => (Self::CAP, retry_after.unwrap_or_default().min(Self::MAX_RETRY_AFTER)),
            Setback::Refusal | Setback::Revoked => (Self::REFUSAL_CAP, Duration::ZERO),
        };
        // 2²⁰ half seconds are past every cap.
        let window = (Self::BASE * 2u32.pow(self.setbacks.min(20))).min(cap);
        self.setbacks = self.setbacks.saturating_add(1);
        least + window.mul_f64(random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSING: Setback = Setback::Passing { retry_after: None };

    fn windows(setback: Setback, count: usize) -> Vec<f64> {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        (0..count).map(|_| backoff.next(now, setback, 1.0).as_secs_f64()).collect()
    }

    #[test]
    fn the_window_doubles_up_to_its_cap() {
        assert_eq!(windows(PASSING, 9), [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]);
        assert_eq!(windows(Setback::Refusal, 12)[8..], [128.0, 256.0, 300.0, 300.0]);
        assert!(windows(PASSING, 100).iter().all(|s| *s <= 30.0));
    }

    #[test]
    fn the_wait_is_spread_over_the_whole_window() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        assert_eq!(backoff.next(now, PASSING, 0.0), Duration::ZERO);
        assert_eq!(backoff.next(now, PASSING, 0.5), Duration::from_millis(500));
    }

    #[test]
    fn only_a_stable_connection_starts_the_count_anew() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        for _ in 0..5 {
            backoff.next(now, PASSING, 1.0);
        }
        backoff.up(now);
        assert_eq!(backoff.next(now + Duration::from_secs(29), PASSING, 1.0), Duration::from_secs(16));
        backoff.up(now);
        assert_eq!(backoff.next(now + Duration::from_secs(30), PASSING, 1.0), Duration::from_millis(500));
    }

    #[test]
    fn a_hint_is_obeyed_within_reason() {
        let hint = |s| Setback::Passing { retry_after: Some(Duration::from_secs(s)) };
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        assert_eq!(backoff.next(now, hint(7), 0.0), Duration::from_secs(7));
        assert_eq!(backoff.next(now, hint(7), 1.0), Duration::from_secs(8), "jitter comes on top");
        assert_eq!(backoff.next(now, hint(86_400), 0.0), Backoff::MAX_RETRY_AFTER);
    }
}

//! The ceilings over all probes of an engine: how many at once, how many in a second.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};

use crate::engine::{EngineError, EngineOptions};

/// The ceilings at work. The wait is before a phase's deadline begins, so a busy agent never looks like a slow target.
#[derive(Debug)]
pub(crate) struct Pace {
    permits: Semaphore,
    lookups: Semaphore,
    interval: Option<Duration>,
    next: Mutex<Instant>,
}

impl Pace {
    /// Dials that fell due while nobody asked may be made up for within this time.
    const BURST: Duration = Duration::from_millis(100);

    pub(crate) fn new(options: EngineOptions) -> Result<Self, EngineError> {
        if options.max_concurrent == 0 || options.max_concurrent > Semaphore::MAX_PERMITS {
            return Err(EngineError::Concurrency);
        }
        Ok(Self {
            permits: Semaphore::new(options.max_concurrent),
            lookups: Semaphore::new(options.max_concurrent),
            interval: options.max_per_second.map(|rate| Duration::from_secs(1) / rate.get()),
            next: Mutex::new(Instant::now()),
        })
    }

    /// None if the engine is gone, which its borrower outlives never.
    pub(crate) async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        let permit = self.permits.acquire().await.ok();
        if let Some(interval) = self.interval {
            let now = Instant::now();
            let at = self.slot(now, interval);
            if at > now {
                // On the heap, since whoever waits for a permit should be small.
                Box::pin(sleep_until(at)).await;
            }
        }
        permit
    }

    /// One more for a probe that has one, if there is one to spare: whoever waited for it while others do the same would
    /// wait for ever.
    pub(crate) fn another(&self) -> Option<SemaphorePermit<'_>> {
        self.permits.try_acquire().ok()
    }

    /// Before a name is looked up: a target's, or one of many that a seed tells of.
    pub(crate) async fn lookup(&self) -> Option<SemaphorePermit<'_>> {
        self.lookups.acquire().await.ok()
    }

    /// Counts a connection that was opened beside the one that was waited for: whoever comes next waits for it too.
    pub(crate) fn count(&self) {
        if let Some(interval) = self.interval {
            self.slot(Instant::now(), interval);
        }
    }

    /// When the next dial may begin.
    fn slot(&self, now: Instant, interval: Duration) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let at = (*next).max(now.checked_sub(Self::BURST).unwrap_or(now));
        *next = at + interval;
        at
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[tokio::test]
    async fn dials_keep_to_the_rate() {
        let options = EngineOptions { max_concurrent: 1, max_per_second: NonZeroU32::new(100) };
        let pace = Pace::new(options).unwrap();
        let now = Instant::now();
        let interval = pace.interval.unwrap();
        let last = (0..200).map(|_| pace.slot(now, interval)).last().unwrap();
        assert!((last - now).as_millis() >= 1_880, "200 dials at 100 a second take nearly 2 s: {:?}", last - now);
        pace.count();
        assert_eq!(pace.slot(now, interval) - last, 2 * interval, "a connection beside them counts");
    }
}

//! What ad hoc probes may take, so that nobody can scan a network through the agents: so many runs at once, and so many targets
//! in a minute, for each principal.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

/// Ad hoc runs under way for one principal.
const RUNS_EACH: usize = 4;
/// Ad hoc runs under way in all.
const RUNS: usize = 32;
/// Targets that a principal may name in a minute, and at once after a while without any.
const TARGETS_PER_MINUTE: u32 = 600;
/// How long a target counts against that.
const PER_TARGET: Duration = Duration::from_millis(60_000 / TARGETS_PER_MINUTE as u64);
const MINUTE: Duration = Duration::from_mins(1);

/// Why a principal has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Busy {
    #[error("{RUNS_EACH} ad hoc runs of this token are under way already")]
    Principal,
    #[error("{RUNS} ad hoc runs are under way already")]
    Controller,
    #[error("a token probes at most {TARGETS_PER_MINUTE} targets in a minute")]
    Targets { wait: Duration },
}

impl Busy {
    /// In how many seconds it is worth trying again.
    pub(crate) fn retry_after_s(self) -> u64 {
        match self {
            Self::Principal | Self::Controller => 1,
            Self::Targets { wait } => wait.as_secs() + 1,
        }
    }
}

/// The ad hoc runs that are under way.
#[derive(Debug, Default)]
pub(crate) struct Quota(Mutex<HashMap<String, Use>>);

#[derive(Debug, Default)]
struct Use {
    runs: usize,
    /// When all the targets named so far will have been forgotten.
    until: Timestamp,
}

/// The place of one run; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    quota: Arc<Quota>,
    principal: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(used) = self.quota.lock().get_mut(&self.principal) {
            used.runs -= 1;
        }
    }
}

impl Quota {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Use>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a run of this many targets.
    pub(crate) fn admit(self: &Arc<Self>, principal: &str, targets: usize, now: Timestamp) -> Result<Place, Busy> {
        let mut all = self.lock();
        all.retain(|_, used| used.runs > 0 || used.until > now);
        if all.values().map(|used| used.runs).sum::<usize>() >= RUNS {
            return Err(Busy::Controller);
        }
        let used = all.entry(principal.to_owned()).or_default();
        if used.runs >= RUNS_EACH {
            return Err(Busy::Principal);
        }
        let takes = PER_TARGET.saturating_mul(u32::try_from(targets).unwrap_or(u32::MAX));
        let until = used.until.max(now).checked_add(takes).unwrap_or(Timestamp::MAX);
        let beyond = Duration::try_from(until.duration_since(now)).unwrap_or_default().saturating_sub(MINUTE);
        if !beyond.is_zero() {
            return Err(Busy::Targets { wait: beyond });
        }
        (used.runs, used.until) = (used.runs + 1, until);
        Ok(Place { quota: self.clone(), principal: principal.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + s).unwrap()
    }

    #[test]
    fn so_many_runs_at_once_for_each_and_for_all() {
        let quota = Arc::new(Quota::default());
        let mut places: Vec<Place> = (0..RUNS_EACH).map(|_| quota.admit("a", 1, at(0)).unwrap()).collect();
        assert_eq!(quota.admit("a", 1, at(0)).unwrap_err(), Busy::Principal);
        places.pop();
        places.push(quota.admit("a", 1, at(0)).unwrap());
        for other in 1..RUNS / RUNS_EACH {
            places.extend((0..RUNS_EACH).map(|_| quota.admit(&format!("b{other}"), 1, at(0)).unwrap()));
        }
        assert_eq!(quota.admit("c", 1, at(0)).unwrap_err(), Busy::Controller);
        drop(places);
        assert!(quota.admit("c", 1, at(0)).is_ok());
    }

    #[test]
    fn so_many_targets_in_a_minute() {
        let quota = Arc::new(Quota::default());
        let mut named = 0;
        for second in 0..600 {
            while quota.admit("a", 100, at(second)).is_ok() {
                named += 100;
            }
        }
        assert_eq!(named, 600 + 599 * 10 / 100 * 100);
        let busy = quota.admit("a", 100, at(599)).unwrap_err();
        assert!(busy.retry_after_s() <= 11 && quota.admit("b", 100, at(599)).is_ok(), "{busy:?}");
        assert!(quota.admit("a", 100, at(599 + i64::try_from(busy.retry_after_s()).unwrap())).is_ok());
        assert!(quota.admit("d", 601, at(599)).is_err());
    }
}

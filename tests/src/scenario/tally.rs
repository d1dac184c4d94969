//! How many of the injected faults were classified and explained correctly.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts over all scenarios that are played.
#[derive(Debug, Default)]
pub struct Tally {
    faults: AtomicUsize,
    right: AtomicUsize,
}

impl Tally {
    /// Faults that a scenario will inject.
    pub(super) fn expect(&self, faults: usize) {
        self.faults.fetch_add(faults, Ordering::Relaxed);
    }

    /// One of which everything was said as it should be.
    pub(super) fn right(&self) {
        self.right.fetch_add(1, Ordering::Relaxed);
    }

    /// How many were classified and explained correctly, of how many.
    pub fn count(&self) -> (usize, usize) {
        (self.right.load(Ordering::Relaxed), self.faults.load(Ordering::Relaxed))
    }
}

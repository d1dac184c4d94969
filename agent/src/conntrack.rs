//! The host's connection tracking table. Where it is full the kernel drops what is new, for every program on the host, and each
//! connect attempt takes a place in it; so an agent holds back while it is nearly full.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use preflight_core::observation::Report;
use preflight_core::spec::ProbeSpec;
use preflight_probe::conntrack;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use crate::prober::Prober;

/// Probes begun while the table is nearly full are under way this many at once.
const AT_ONCE: usize = 4;
/// How old a reading may be.
const FRESH: Duration = Duration::from_millis(250);
/// Nearly full from this share of the limit, in percent, until it is below the other.
const FULL: u64 = 90;
const NORMAL: u64 = 80;

/// A prober that begins fewer probes at once while the table is nearly full.
#[derive(Debug)]
pub struct Careful<P> {
    prober: P,
    table: Table,
    few: Semaphore,
}

impl<P: Prober> Careful<P> {
    /// Probes with `prober`. `dir` is where the table stands, if there is one ([`conntrack::TABLE`]).
    pub fn new(prober: P, dir: impl Into<PathBuf>) -> Self {
        Self { prober, table: Table::new(dir.into()), few: Semaphore::new(AT_ONCE) }
    }

    /// Waits for a place while the table is nearly full.
    async fn place(&self) -> Option<SemaphorePermit<'_>> {
        while self.table.is_nearly_full(Instant::now()) {
            // Looked at again from time to time: it may empty while others hold the places.
            if let Ok(place) = timeout(FRESH, self.few.acquire()).await {
                return place.ok();
            }
        }
        None
    }
}

impl<P: Prober> Prober for Careful<P> {
    async fn probe(&self, spec: &ProbeSpec) -> Report {
        let _place = self.place().await;
        self.prober.probe(spec).await
    }
}

#[derive(Debug)]
struct Table {
    dir: PathBuf,
    read: Mutex<Reading>,
}

#[derive(Debug, Default)]
struct Reading {
    at: Option<Instant>,
    nearly_full: bool,
}

impl Table {
    fn new(dir: PathBuf) -> Self {
        Self { dir, read: Mutex::default() }
    }

    /// Whether there is little room left, as of less than [`FRESH`] ago. A host without such a table has room.
    fn is_nearly_full(&self, now: Instant) -> bool {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.at.is_some_and(|at| now.saturating_duration_since(at) < FRESH) {
            return read.nearly_full;
        }
        let before = std::mem::take(&mut read.nearly_full);
        read.at = Some(now);
        let Some((count, max)) = conntrack::read(&self.dir) else { return false };
        read.nearly_full = is_nearly_full(before, count, max);
        match (before, read.nearly_full) {
            (false, true) => warn!(
                count,
                max,
                "this host's connection tracking table is nearly full: {AT_ONCE} probes at once until there is room; raise net.netfilter.nf_conntrack_max"
            ),
            (true, false) => info!(count, max, "this host's connection tracking table has room again"),
            (false, false) | (true, true) => {}
        }
        read.nearly_full
    }
}

/// By what was before, so that it does not flutter between the two.
fn is_nearly_full(before: bool, count: u64, max: u64) -> bool {
    count.saturating_mul(100) >= max.saturating_mul(if before { NORMAL } else { FULL })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use preflight_core::reason::Void;
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn it_does_not_flutter() {
        for (before, count, max, want) in [
            (false, 89, 100, false),
            (false, 90, 100, true),
            (true, 80, 100, true),
            (true, 79, 100, false),
            (false, u64::MAX, 100, true),
            (false, 0, 100, false),
        ] {
            assert_eq!(is_nearly_full(before, count, max), want, "{before} {count} {max}");
        }
    }

    /// Counts who is under way; none of them ends before it is told.
    struct Held {
        under_way: Arc<AtomicUsize>,
        go: Arc<Semaphore>,
    }

    impl Prober for Held {
        async fn probe(&self, _: &ProbeSpec) -> Report {
            self.under_way.fetch_add(1, Ordering::SeqCst);
            let _go = self.go.acquire().await;
            self.under_way.fetch_sub(1, Ordering::SeqCst);
            crate::fit::void(Void::Cancelled, "")
        }
    }

    fn write(dir: &Path, count: u64) {
        fs::write(dir.join("nf_conntrack_max"), "1000\n").unwrap();
        fs::write(dir.join("nf_conntrack_count"), format!("{count}\n")).unwrap();
    }

    fn careful(dir: &TempDir) -> (Arc<Careful<Held>>, Arc<AtomicUsize>, Arc<Semaphore>) {
        let (under_way, go) = (Arc::<AtomicUsize>::default(), Arc::new(Semaphore::new(0)));
        let held = Held { under_way: under_way.clone(), go: go.clone() };
        (Arc::new(Careful::new(held, dir.path())), under_way, go)
    }

    fn begin(careful: &Arc<Careful<Held>>, count: usize) {
        for _ in 0..count {
            let careful = careful.clone();
            let spec = ProbeSpec::new("tcp://10.0.0.1:1".parse().unwrap());
            tokio::spawn(async move { careful.probe(&spec).await });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn few_probes_are_begun_while_the_table_is_nearly_full() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 950);
        let (careful, under_way, go) = careful(&dir);
        begin(&careful, 50);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(under_way.load(Ordering::SeqCst), AT_ONCE);
        write(dir.path(), 850);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(under_way.load(Ordering::SeqCst), AT_ONCE, "not before it is well below");
        write(dir.path(), 700);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(under_way.load(Ordering::SeqCst), 50);
        go.add_permits(50);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(under_way.load(Ordering::SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_without_the_table_is_not_slowed() {
        let dir = tempfile::tempdir().unwrap();
        let (careful, under_way, _go) = careful(&dir);
        begin(&careful, 50);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(under_way.load(Ordering::SeqCst), 50);
    }
}

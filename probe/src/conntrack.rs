//! The host's connection tracking table. A full one drops what is new on this very host (`nf_conntrack: table full, dropping
//! packet` in its log), which looks like silence of every target.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Where Linux says how many connections it tracks, and how many it can
/// (<https://docs.kernel.org/networking/nf_conntrack-sysctl.html>).
pub const TABLE: &str = "/proc/sys/net/netfilter";

/// What to say if the table of this host is as good as full: 95 % of it, since entries come and go while one looks. Nothing
/// where nothing is tracked. Two small reads, for a dial that met silence only, and one look for all that end at one instant.
pub(crate) fn full() -> Option<String> {
    const FRESH: Duration = Duration::from_millis(100);
    static LAST: Mutex<Option<(Instant, Option<String>)>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((at, full)) = &*last
        && at.elapsed() < FRESH
    {
        return full.clone();
    }
    let full = full_at(Path::new(TABLE));
    *last = Some((Instant::now(), full.clone()));
    full
}

/// How many connections are tracked, and how many can be, by a table at such a place as [`TABLE`]; none where nothing is tracked, or without limit.
pub fn read(table: &Path) -> Option<(u64, u64)> {
    let number = |file: &str| -> Option<u64> { fs::read_to_string(table.join(file)).ok()?.trim().parse().ok() };
    let (count, max) = (number("nf_conntrack_count")?, number("nf_conntrack_max")?);
    (max > 0).then_some((count, max))
}

fn full_at(table: &Path) -> Option<String> {
    let (count, max) = read(table)?;
    (count >= max - max / 20).then(|| {
        format!(
            "the connection tracking table of this host is full ({count} of {max}), so it drops new connections itself: raise \
             net.netfilter.nf_conntrack_max or find what fills it"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_full_table_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let table = dir.path();
        let with = |count: &str, max: &str| {
            fs::write(table.join("nf_conntrack_count"), count).unwrap();
            fs::write(table.join("nf_conntrack_max"), max).unwrap();
            full_at(table).is_some()
        };
        assert!(with("1000\n", "1000\n") && with("950\n", "1000\n") && with("1\n", "1\n"));
        assert!(!with("949\n", "1000\n") && !with("0\n", "1000\n") && !with("0\n", "0\n") && !with("x", "y"));
        fs::remove_file(table.join("nf_conntrack_max")).unwrap();
        assert_eq!(full_at(table), None);
    }
}

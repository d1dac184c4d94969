//! Files of this host that probes use, and what was made of them, kept until they change.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use preflight_core::reason::Void;

use crate::failure::Failure;

/// No PEM file that anybody means is larger: Debian's whole store has 220 KiB.
const MAX: u64 = 1024 * 1024;

/// A file that cannot be used: this host's trouble, never the target's.
pub(crate) fn unusable(file: &str, why: &str) -> Failure {
    Failure::void(Void::LocalResources, format!("{file} on this host cannot be used: {why}"))
}

/// A file's content.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error: std::io::Error| unusable(&path.display().to_string(), &error.to_string());
    let mut content = Vec::new();
    File::open(path).and_then(|file| file.take(MAX).read_to_end(&mut content)).map_err(failed)?;
    Ok(content)
}

/// A file as it is now: another one as soon as it is written to or replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    path: PathBuf,
    device: u64,
    inode: u64,
    length: u64,
    changed: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(path: &Path) -> Result<Self, Failure> {
        let name = || path.display().to_string();
        let found = fs::metadata(path).map_err(|error| unusable(&name(), &error.to_string()))?;
        // To open a pipe or a device may block for ever.
        if !found.is_file() {
            return Err(unusable(&name(), "it is not a regular file"));
        }
        if found.len() > MAX {
            return Err(unusable(&name(), "it is larger than 1 MiB"));
        }
        Ok(Self {
            path: path.to_owned(),
            device: found.dev(),
            inode: found.ino(),
            length: found.len(),
            // The change time also tells of a write that puts the modification time back.
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }

    /// Whether a later write is sure to show: the clock of file systems stands still for some milliseconds at a time.
    pub(crate) fn is_settled(&self) -> bool {
        let changed = Duration::from_secs(u64::try_from(self.changed.0).unwrap_or(0));
        UNIX_EPOCH.elapsed().is_ok_and(|now| now > changed + Duration::from_secs(2))
    }
}

/// What was made of the last few inputs.
#[derive(Debug)]
pub(crate) struct Cache<K, V> {
    known: Mutex<VecDeque<(K, Arc<V>)>>,
}

impl<K, V> Default for Cache<K, V> {
    fn default() -> Self {
        Self { known: Mutex::default() }
    }
}

impl<K, V> Cache<K, V> {
    const MAX: usize = 32;

    /// What is known by that key, or made now. It is kept under its key, if it has one; a failure is not kept.
    pub(crate) fn get(
        &self,
        is: impl Fn(&K) -> bool,
        make: impl FnOnce() -> Result<(Option<K>, V), Failure>,
    ) -> Result<Arc<V>, Failure> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, value)) = known.iter().find(|(key, _)| is(key)) {
            return Ok(value.clone());
        }
        let (key, value) = make()?;
        let value = Arc::new(value);
        if let Some(key) = key {
            known.truncate(Self::MAX - 1);
            known.push_front((key, value.clone()));
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded_and_made_once() {
        let cache: Cache<usize, usize> = Cache::default();
        let mut count = 0;
        for key in (0..100).chain(95..100) {
            let make = || {
                count += 1;
                Ok((Some(key), 2 * key))
            };
            assert_eq!(*cache.get(|known| *known == key, make).unwrap(), 2 * key);
        }
        assert_eq!((count, cache.known.lock().unwrap().len()), (100, 32));
    }

    #[test]
    fn a_pipe_is_not_opened() {
        let why = Stamp::of(Path::new("/dev/null")).unwrap_err();
        assert_eq!(why.outcome.reason(), Some("local_resources"));
        assert!(why.detail.unwrap().contains("/dev/null on this host cannot be used: it is not a regular file"));
    }
}

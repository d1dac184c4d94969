//! Files that others wait for: whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Puts the bytes in the place of the file: who reads it sees the old one or the new one. What is no regular file (a pipe,
/// `/dev/null`) is written to as it is, and a link keeps pointing to where it points.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    match fs::metadata(&path) {
        Ok(there) if there.is_dir() => return Err(io::Error::from(io::ErrorKind::IsADirectory)),
        Ok(there) if !there.is_file() => return OpenOptions::new().write(true).open(&path)?.write_all(bytes),
        Ok(_) | Err(_) => {}
    }
    let temporary = beside(&path)?;
    let written = create(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let moved = written.and_then(|()| fs::rename(&temporary, &path));
    if moved.is_err() {
        // It may not be there; the error that counts is the first one.
        let _ = fs::remove_file(&temporary);
    }
    moved
}

/// Where a path leads, also while there is no file yet: two that lead to one place are equal.
pub(super) fn place(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let parent = fs::canonicalize(parent).unwrap_or_else(|_| parent.to_owned());
        path.file_name().map_or_else(|| path.to_owned(), |name| parent.join(name))
    })
}

/// Adds the bytes to a file's end, in one write where the system takes them in one.
pub(super) fn append(path: &Path, bytes: &[u8]) -> io::Result<()> {
    OpenOptions::new().append(true).create(true).open(path)?.write_all(bytes)
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// A name of its own in the same directory, which is the same file system.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    let random = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{random:016x}"));
    Ok(path.with_file_name(hidden))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let (report, link) = (dir.join("report"), dir.join("link"));
        fs::write(&report, "the old one, which is longer").unwrap();
        std::os::unix::fs::symlink("report", &link).unwrap();
        replace(&link, b"new").unwrap();
        assert_eq!(fs::read(&report).unwrap(), b"new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(replace(dir, b"new").is_err(), "a directory");
        assert!(replace(&dir.join("absent/report"), b"new").is_err());
        assert_eq!(fs::read_dir(dir).unwrap().count(), 2);
        replace(Path::new("/dev/null"), b"new").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }
}

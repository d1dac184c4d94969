//! Files that people wrote.

use std::path::Path;

use crate::failure::Failure;

/// More than a person writes; what is larger is not read.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// A file's name and text.
#[derive(Debug)]
pub(crate) struct Source {
    /// The name as it was given.
    pub(crate) name: String,
    /// The text.
    pub(crate) text: String,
}

/// Reads a `what` (such as "manifest") from a file.
pub(crate) fn read(what: &str, path: &Path) -> Result<Source, Failure> {
    use std::io::Read as _;
    let name = preflight_core::text::escape(&path.display().to_string());
    let failed = |error: &std::io::Error| {
        let text = if error.kind() == std::io::ErrorKind::IsADirectory {
            "it is a directory".to_owned()
        } else {
            error.to_string()
        };
        Failure::usage(format!("cannot read the {what} {name}: {text}"))
            .fix(format!("Give the path of the {what}'s file."))
    };
    let file = std::fs::File::open(path).map_err(|error| failed(&error))?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Failure::usage(format!("the {what} {name} is larger than {} MiB", MAX_BYTES / 1024 / 1024)));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.split(|b| *b == b'\n').count();
        let start = valid.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let column = String::from_utf8_lossy(&valid[start..]).chars().count() + 1;
        Failure::usage(format!("{name}:{line}:{column}: the {what} is not UTF-8 text")).fix("Save the file as UTF-8.")
    })?;
    Ok(Source { name, text })
}

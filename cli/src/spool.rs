//! What was done while the controller could not be asked: kept on this host, told to that controller at the next contact.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Method;
use preflight_core::plan::sha256;
use preflight_core::text::escape_to;
use preflight_proto::api::{Delivered, Record};
use tokio::time::Instant;

use crate::client::{CallError, Client};
use crate::context::BaseUrl;

/// The longest that telling may hold up a command that is done.
const TELL_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest file that is read, in bytes: a record is far smaller.
const MAX_FILE: u64 = 64 * 1024;
/// Records that one command tells at most.
const AT_ONCE: usize = 100;
/// What the controller remarks on them, of which so much is shown.
const NOTICES: usize = 5;

/// The directory of records.
#[derive(Debug, Clone)]
pub(crate) struct Spool {
    /// None where this host has no place for it.
    dir: Option<PathBuf>,
}

impl Spool {
    /// Finds it: `--spool-dir`, `PREFLIGHT_SPOOL_DIR`, `preflight/records` in `XDG_STATE_HOME` or `~/.local/state`.
    pub(crate) fn find(flag: Option<PathBuf>) -> Self {
        let path = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let state = || path("XDG_STATE_HOME").filter(|dir| dir.is_absolute());
        let home = || path("HOME").map(|home| home.join(".local/state"));
        let default = || state().or_else(home).map(|dir| dir.join("preflight/records"));
        Self { dir: flag.or_else(|| path("PREFLIGHT_SPOOL_DIR")).or_else(default) }
    }

    /// Keeps a record for that controller. What this has returned from is on disk.
    pub(crate) fn put(&self, url: &BaseUrl, record: &Record) -> io::Result<PathBuf> {
        let none =
            || io::Error::other("neither --spool-dir nor PREFLIGHT_SPOOL_DIR, XDG_STATE_HOME or HOME names a place");
        let dir = self.dir.as_ref().ok_or_else(none)?;
        let at = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", dir.display()));
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at)?;
        let name = format!("{}-{}.json", key(url), record.id);
        let (path, unfinished) = (dir.join(&name), dir.join(format!(".{name}.part")));
        let written = write(&unfinished, &serde_json::to_vec(record)?)
            .and_then(|()| fs::rename(&unfinished, &path))
            .and_then(|()| File::open(dir)?.sync_all());
        if let Err(error) = written {
            // Half a record would be in the way of nothing, but it tells nothing either.
            let _ = fs::remove_file(&unfinished);
            return Err(at(error));
        }
        Ok(path)
    }

    /// Tells the controller what is kept for it. What it has taken is removed; the rest stays for the next time, and is no
    /// reason for a command to fail. What is kept for other controllers is mentioned: a URL that was changed leaves it behind.
    pub(crate) async fn deliver(&self, client: &Client) {
        let (kept, others) = self.kept(client.url());
        if others > 0 {
            let dir = self.dir.as_ref().map(|dir| dir.display().to_string()).unwrap_or_default();
            say(&format!(
                "{} in {dir} for another controller's URL: a command with that URL delivers what it did without it",
                records(others)
            ));
        }
        if kept.is_empty() {
            return;
        }
        let deadline = Instant::now() + TELL_TIMEOUT;
        let mut delivered = 0;
        let mut failed = None;
        let mut notices = BTreeSet::new();
        for path in kept.iter().take(AT_ONCE) {
            match tell(client, path, deadline).await {
                Ok(notice) => {
                    delivered += 1;
                    notices.extend(notice);
                }
                Err(Untold::Controller(error)) => {
                    failed = Some(escape_to(&error.to_string(), 300));
                    // What it says of one record's form need not hold for the next.
                    if !matches!(&error, CallError::Problem(problem) if problem.code == "usage") {
                        break;
                    }
                }
                Err(Untold::File(error)) => failed = Some(format!("{}: {error}", path.display())),
            }
        }
        if delivered > 0 {
            say(&format!("delivered {} of what was done while the controller could not be asked", records(delivered)));
        }
        for notice in notices.iter().take(NOTICES) {
            say(&format!("note: {}", escape_to(notice, 1_000)));
        }
        if let Some(why) = failed {
            let left = kept.len() - delivered;
            say(&format!(
                "{} of what was done while the controller could not be asked not delivered yet: {why}",
                records(left)
            ));
        }
    }

    /// The records for that controller, and how many there are for others.
    fn kept(&self, url: &BaseUrl) -> (Vec<PathBuf>, usize) {
        let prefix = format!("{}-", key(url));
        let entries = self.dir.as_ref().and_then(|dir| fs::read_dir(dir).ok());
        let (mut kept, mut others) = (Vec::new(), 0);
        for entry in entries.into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.starts_with(&prefix) {
                kept.push(entry.path());
            } else if !name.starts_with('.') && Path::new(name).extension().is_some_and(|end| end == "json") {
                others += 1;
            }
        }
        kept.sort();
        (kept, others)
    }
}

/// Which controller a record is for: another one is not told.
fn key(url: &BaseUrl) -> String {
    sha256(url.to_string().as_bytes()).trim_start_matches("sha256:").chars().take(16).collect()
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

enum Untold {
    File(io::Error),
    Controller(CallError),
}

async fn tell(client: &Client, path: &Path, deadline: Instant) -> Result<Option<String>, Untold> {
    let record = match read(path) {
        Ok(record) => record,
        // Another command has just told it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Untold::File(error)),
    };
    let told = client.call_by::<Delivered>(Method::POST, "/v1/records", Some(&record), deadline).await;
    let notice = told.map_err(Untold::Controller)?.body.notice;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Untold::File(error)),
        Ok(()) | Err(_) => Ok(notice),
    }
}

fn read(path: &Path) -> io::Result<Record> {
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
    serde_json::from_str(&text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}

fn records(count: usize) -> String {
    if count == 1 { "1 record".to_owned() } else { format!("{count} records") }
}

fn say(text: &str) {
    // Where stderr is gone, the files are still there.
    let _ = writeln!(anstream::stderr(), "preflight: {text}");
}

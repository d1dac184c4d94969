//! What outlives the process: an embedded SQLite in the data directory. What a call here has returned from is on disk.

mod agents;
mod guard;
mod matrix;
mod releases;
mod runs;
mod tokens;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use preflight_proto::api::AuditEntry;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Row as _, Sqlite, SqlitePool, Transaction};

pub(crate) use agents::{AgentRow, Certificate, CertificateCheck};
pub(crate) use guard::Beside as BesideGuard;
pub(crate) use guard::Shipped;
pub(crate) use matrix::{Found, LatestCell, Measured, Place};
pub(crate) use releases::{Deployed, Recorded};
pub(crate) use runs::{Closed, NewTestimony, OpenRun};
pub(crate) use tokens::JoinRefused;

/// A writer waits this long for another one before it gives up with [`StoreError::Busy`].
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Ad hoc runs are kept this long.
const KEEP_RUNS: Duration = Duration::from_hours(30 * 24);
/// Verdicts and their evidence are kept this long, and as long as a deployed release rests on them.
const KEEP_VERDICTS: Duration = Duration::from_hours(400 * 24);
/// Entries of the audit log kept, of known principals and of strangers each.
const KEEP_AUDIT: i64 = 100_000;

/// Why the store did not do what it was asked. Nothing of a failed call is on disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("the disk that holds {} is full: nothing was stored; free some space", .0.display())]
    DiskFull(PathBuf),
    #[error("the store is busy; try again")]
    Busy,
    #[error(
        "{} is damaged ({detail}): stop the controller and restore the file from a backup, with its -wal beside it; \
         or move it away to start anew, after which every agent must enrol again",
        path.display()
    )]
    Corrupt { path: PathBuf, detail: String },
    #[error(
        "{} is missing, but the authority beside it exists: restore it from a backup, \
         or start with an empty data directory (every agent must then enrol again)",
        .0.display()
    )]
    Missing(PathBuf),
    #[error("{}: {source}", path.display())]
    Open { path: PathBuf, source: sqlx::Error },
    #[error("failed to bring {} to this version's form: {source}", path.display())]
    Migrate { path: PathBuf, source: sqlx::migrate::MigrateError },
    #[error("the store failed: {0}")]
    Other(sqlx::Error),
    #[error("the store holds something that cannot be read: {0}")]
    Unreadable(String),
}

impl StoreError {
    /// Whether the same call may work a moment later.
    pub(crate) fn is_retryable(&self) -> bool {
        matches!(self, Self::Busy | Self::DiskFull(_))
    }
}

/// The store.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    path: PathBuf,
    /// One connection: writers take turns instead of colliding.
    write: SqlitePool,
    read: SqlitePool,
}

impl Store {
    /// Opens the store of a data directory, or makes one if the directory is new (`expect_existing` is false).
    pub(crate) async fn open(dir: &Path, expect_existing: bool) -> Result<Self, StoreError> {
        let path = dir.join("preflight.db");
        if expect_existing && !path.exists() {
            return Err(StoreError::Missing(path));
        }
        check_header(&path, expect_existing)?;
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(true);
        let failed = |source: sqlx::Error| open_error(&path, source);
        let write = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await.map_err(failed)?;
        let check: String = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(&write).await.map_err(failed)?;
        if check != "ok" {
            return Err(StoreError::Corrupt { path, detail: check });
        }
        sqlx::migrate!().run(&write).await.map_err(|source| StoreError::Migrate { path: path.clone(), source })?;
        let read = SqlitePoolOptions::new().max_connections(4).connect_with(options).await.map_err(failed)?;
        restrict(&path);
        Ok(Self { path, write, read })
    }

    fn failed(&self, error: sqlx::Error) -> StoreError {
        match code(&error) {
            Some(SQLITE_FULL | SQLITE_IOERR) => StoreError::DiskFull(self.path.clone()),
            Some(SQLITE_BUSY | SQLITE_LOCKED) => StoreError::Busy,
            Some(SQLITE_CORRUPT | SQLITE_NOTADB) => {
                StoreError::Corrupt { path: self.path.clone(), detail: error.to_string() }
            }
            Some(_) | None => StoreError::Other(error),
        }
    }

    /// Begins a transaction of the one writer.
    ///
    /// When the disk is full SQLite rolls back by itself, and the connection goes on counting a transaction that is no more. Such a
    /// connection is thrown away.
    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        let failed = |e| self.failed(e);
        match self.write.begin_with("BEGIN IMMEDIATE").await {
            Err(sqlx::Error::InvalidSavePointStatement) => {
                // What closing it says is of no use: it is gone either way.
                let _ = self.write.acquire().await.map_err(failed)?.close().await;
                self.write.begin_with("BEGIN IMMEDIATE").await.map_err(failed)
            }
            begun => begun.map_err(failed),
        }
    }

    /// Whether the store can be read.
    pub(crate) async fn ready(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.read).await.map(|_| ()).map_err(|e| self.failed(e))
    }

    /// Drops what is older than is kept.
    pub(crate) async fn prune(&self, now: Timestamp) -> Result<(), StoreError> {
        let oldest = now.as_millisecond() - i64::try_from(KEEP_RUNS.as_millis()).unwrap_or(i64::MAX);
        let oldest_verdict = now.as_millisecond() - i64::try_from(KEEP_VERDICTS.as_millis()).unwrap_or(i64::MAX);
        sqlx::query(
            "DELETE FROM run WHERE ended_at IS NOT NULL AND started_at < CASE kind WHEN 'gate' THEN ?2 ELSE ?1 END AND id NOT IN \
             (SELECT verdict FROM deployed WHERE verdict IS NOT NULL UNION SELECT value ->> '$.verdict' FROM deployed, json_each(deployed.cells))",
        )
            .bind(oldest)
            .bind(oldest_verdict)
            .execute(&self.write)
            .await
            .map_err(|e| self.failed(e))?;
        sqlx::query("DELETE FROM latest WHERE at < ? AND digest NOT IN (SELECT digest FROM shown)")
            .bind(oldest)
            .execute(&self.write)
            .await
            .map_err(|e| self.failed(e))?;
        // Refusals of strangers have a share of their own, so that they push out nothing else.
        for sql in [
            "DELETE FROM audit WHERE principal = '-' AND id NOT IN \
             (SELECT id FROM audit WHERE principal = '-' ORDER BY id DESC LIMIT ?)",
            "DELETE FROM audit WHERE principal <> '-' AND id NOT IN \
             (SELECT id FROM audit WHERE principal <> '-' ORDER BY id DESC LIMIT ?)",
        ] {
            sqlx::query(sql).bind(KEEP_AUDIT).execute(&self.write).await.map_err(|e| self.failed(e))?;
        }
        // Agents whose last certificate ended as long ago. Their certificates go first: they refer to the agent.
        for sql in [
            "DELETE FROM certificate WHERE agent IN \
             (SELECT agent FROM certificate GROUP BY agent HAVING max(not_after) < ?)",
            "DELETE FROM agent WHERE enrolled_at < ? AND agent NOT IN (SELECT agent FROM certificate)",
        ] {
            sqlx::query(sql).bind(oldest).execute(&self.write).await.map_err(|e| self.failed(e))?;
        }
        for sql in ["DELETE FROM join_token WHERE expires_at < ?", "DELETE FROM api_token WHERE expires_at < ?"] {
            sqlx::query(sql).bind(oldest).execute(&self.write).await.map_err(|e| self.failed(e))?;
        }
        Ok(())
    }

    /// The inventory that was applied last: name, text, when and by whom.
    pub(crate) async fn inventory(&self) -> Result<Option<(String, String, Timestamp, String)>, StoreError> {
        let row = sqlx::query("SELECT name, text, applied_at, applied_by FROM inventory ORDER BY id DESC LIMIT 1")
            .fetch_optional(&self.read)
            .await
            .map_err(|e| self.failed(e))?;
        row.map(|row| Ok((row.get(0), row.get(1), time(row.get(2))?, row.get(3)))).transpose()
    }

    /// Applies an inventory; with its entry in the audit log, or not at all.
    pub(crate) async fn put_inventory(
        &self,
        name: &str,
        text: &str,
        now: Timestamp,
        by: &str,
        entry: &AuditEntry,
    ) -> Result<(), StoreError> {
        let failed = |e| self.failed(e);
        let mut tx = self.begin().await?;
        insert_audit(entry, now).execute(&mut *tx).await.map_err(failed)?;
        sqlx::query("INSERT INTO inventory (name, text, applied_at, applied_by) VALUES (?, ?, ?, ?)")
            .bind(name)
            .bind(text)
            .bind(now.as_millisecond())
            .bind(by)
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        tx.commit().await.map_err(failed)
    }

    /// Adds to the audit log.
    pub(crate) async fn audit(&self, entry: &AuditEntry, now: Timestamp) -> Result<(), StoreError> {
        insert_audit(entry, now).execute(&self.write).await.map(|_| ()).map_err(|e| self.failed(e))
    }

    /// The newest entries of the audit log that match, newest first.
    pub(crate) async fn audit_log(&self, wanted: &AuditFilter<'_>, most: u32) -> Result<Vec<AuditEntry>, StoreError> {
        // An action of several words is found by the first of them, too.
        let rows = sqlx::query(
            "SELECT id, at, principal, action, outcome, source, detail FROM audit \
             WHERE (?1 IS NULL OR at >= ?1) AND (?2 IS NULL OR principal = ?2) \
             AND (?3 IS NULL OR action = ?3 OR substr(action, 1, length(?3) + 1) = ?3 || ' ') \
             AND (?4 IS NULL OR id < ?4) ORDER BY id DESC LIMIT ?5",
        )
        .bind(wanted.since.map(Timestamp::as_millisecond))
        .bind(wanted.principal)
        .bind(wanted.action)
        .bind(wanted.before)
        .bind(most)
        .fetch_all(&self.read)
        .await
        .map_err(|e| self.failed(e))?;
        rows.into_iter()
            .map(|row| {
                Ok(AuditEntry {
                    id: row.get(0),
                    at: time(row.get(1))?.to_string(),
                    principal: row.get(2),
                    action: row.get(3),
                    outcome: row.get(4),
                    source: row.get(5),
                    detail: row.get(6),
                })
            })
            .collect()
    }
}

/// Which entries of the audit log are wanted; none of a kind is all.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AuditFilter<'a> {
    /// From this time on.
    pub(crate) since: Option<Timestamp>,
    /// Of this principal.
    pub(crate) principal: Option<&'a str>,
    /// This action, or one that begins with these words.
    pub(crate) action: Option<&'a str>,
    /// Older than the entry of this number.
    pub(crate) before: Option<i64>,
}

type Insert<'q> = sqlx::query::Query<'q, Sqlite, sqlx::sqlite::SqliteArguments>;

fn insert_audit(entry: &AuditEntry, now: Timestamp) -> Insert<'_> {
    sqlx::query("INSERT INTO audit (at, principal, action, outcome, source, detail) VALUES (?, ?, ?, ?, ?, ?)")
        .bind(now.as_millisecond())
        .bind(&entry.principal)
        .bind(&entry.action)
        .bind(&entry.outcome)
        .bind(&entry.source)
        .bind(&entry.detail)
}

/// Refuses a file that is not a database. SQLite itself makes a new one of a file that is empty or shorter than a page.
fn check_header(path: &Path, expect_existing: bool) -> Result<(), StoreError> {
    // https://www.sqlite.org/fileformat.html, 1.3
    const MAGIC: &[u8] = b"SQLite format 3\0";
    let mut file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StoreError::Open { path: path.to_owned(), source: sqlx::Error::Io(error) }),
    };
    let mut start = Vec::new();
    file.by_ref()
        .take(MAGIC.len() as u64)
        .read_to_end(&mut start)
        .map_err(|error| StoreError::Open { path: path.to_owned(), source: sqlx::Error::Io(error) })?;
    let new = start.is_empty() && !expect_existing;
    if new || start == MAGIC {
        return Ok(());
    }
    Err(StoreError::Corrupt {
        path: path.to_owned(),
        detail: "it does not begin as an SQLite database does".to_owned(),
    })
}

// Primary result codes (https://www.sqlite.org/rescode.html).
const SQLITE_BUSY: i32 = 5;
const SQLITE_LOCKED: i32 = 6;
const SQLITE_IOERR: i32 = 10;
const SQLITE_CORRUPT: i32 = 11;
const SQLITE_FULL: i32 = 13;
const SQLITE_NOTADB: i32 = 26;

/// The primary result code: the low byte of the extended one.
fn code(error: &sqlx::Error) -> Option<i32> {
    if matches!(error, sqlx::Error::PoolTimedOut) {
        return Some(SQLITE_BUSY);
    }
    let code: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}

fn open_error(path: &Path, error: sqlx::Error) -> StoreError {
    match code(&error) {
        Some(SQLITE_FULL) => StoreError::DiskFull(path.to_owned()),
        Some(SQLITE_CORRUPT | SQLITE_NOTADB) => {
            StoreError::Corrupt { path: path.to_owned(), detail: error.to_string() }
        }
        Some(_) | None => StoreError::Open { path: path.to_owned(), source: error },
    }
}

/// Evidence names hosts and addresses: only the owner reads it. The data directory itself is 0700.
fn restrict(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    if let Err(error) = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)) {
        tracing::warn!(path = %path.display(), %error, "failed to restrict who reads the store");
    }
}

fn time(ms: i64) -> Result<Timestamp, StoreError> {
    Timestamp::from_millisecond(ms).map_err(|error| StoreError::Unreadable(error.to_string()))
}

fn json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Unreadable(error.to_string()))
}

fn to_json<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Unreadable(error.to_string()))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

//! What shipped where, and who answered for what was not shown.

use std::collections::BTreeMap;

use jiff::Timestamp;
use preflight_core::baseline::Proven;
use preflight_core::plan::CellDigest;
use preflight_proto::api::{AuditEntry, Override};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::matrix::{self, Place};
use super::{Store, StoreError, insert_audit, json, time, to_json};

/// A release as it is recorded for a region.
#[derive(Debug, Clone)]
pub(crate) struct Deployed {
    /// Its number, in the order of records; 0 before it is stored.
    pub(crate) id: i64,
    pub(crate) application: String,
    pub(crate) region: String,
    pub(crate) proven: Proven,
    pub(crate) at: Timestamp,
    pub(crate) principal: String,
}

/// Records within a transaction that a release shipped, and shows its cells (none where they are not known).
pub(super) async fn insert_deployed(
    tx: &mut SqliteConnection,
    store: &Store,
    deployed: &Deployed,
    places: &[Place],
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO deployed (application, region, release, verdict, cells, identities, at, principal) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&deployed.application)
    .bind(&deployed.region)
    .bind(&deployed.proven.release)
    .bind(&deployed.proven.verdict)
    .bind(to_json(&deployed.proven.cells)?)
    .bind(to_json(&deployed.proven.identities)?)
    .bind(deployed.at.as_millisecond())
    .bind(&deployed.principal)
    .execute(&mut *tx)
    .await
    .map_err(|e| store.failed(e))?;
    matrix::show_deployed(&mut *tx, &deployed.application, &deployed.region, places, deployed.at)
        .await
        .map_err(|e| store.failed(e))
}

impl Store {
    /// What is deployed of an application in a region; with `release`, how that one was recorded last.
    pub(crate) async fn deployed(
        &self,
        application: &str,
        region: &str,
        release: Option<&str>,
    ) -> Result<Option<Deployed>, StoreError> {
        let row = sqlx::query(
            "SELECT application, region, release, verdict, cells, at, principal, identities, id FROM deployed \
             WHERE application = ?1 AND region = ?2 AND (?3 IS NULL OR release = ?3) ORDER BY id DESC LIMIT 1",
        )
        .bind(application)
        .bind(region)
        .bind(release)
        .fetch_optional(&self.read)
        .await
        .map_err(|e| self.failed(e))?;
        row.map(|row| from_row(&row)).transpose()
    }

    /// What is deployed of every application, or one, in each region.
    pub(crate) async fn all_deployed(&self, application: Option<&str>) -> Result<Vec<Deployed>, StoreError> {
        let rows = sqlx::query(
            "SELECT application, region, release, verdict, cells, at, principal, identities, id FROM deployed WHERE id IN \
             (SELECT max(id) FROM deployed WHERE ?1 IS NULL OR application = ?1 GROUP BY application, region) \
             ORDER BY application, region",
        )
        .bind(application)
        .fetch_all(&self.read)
        .await
        .map_err(|e| self.failed(e))?;
        rows.iter().map(from_row).collect()
    }

    /// The releases that were recorded last in a region, the newest first.
    pub(crate) async fn deployed_before(
        &self,
        application: &str,
        region: &str,
        most: u32,
    ) -> Result<Vec<String>, StoreError> {
        sqlx::query_scalar(
            "SELECT release FROM deployed WHERE application = ? AND region = ? GROUP BY release \
             ORDER BY max(id) DESC LIMIT ?",
        )
        .bind(application)
        .bind(region)
        .bind(most)
        .fetch_all(&self.read)
        .await
        .map_err(|e| self.failed(e))
    }

    /// Whether a rollback of an application was asked for in a region after a time.
    pub(crate) async fn rolled_back_since(
        &self,
        application: &str,
        region: &str,
        since: Timestamp,
    ) -> Result<bool, StoreError> {
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM run WHERE kind = 'gate' AND started_at > ?3 AND spec ->> '$.mode' = 'rollback' \
             AND spec ->> '$.plan.application' = ?1 \
             AND ?2 IN (SELECT value FROM json_each(run.spec, '$.plan.regions')))",
        )
        .bind(application)
        .bind(region)
        .bind(since.as_millisecond())
        .fetch_one(&self.read)
        .await
        .map_err(|e| self.failed(e))
    }

    /// Adds overrides, each with its entry in the audit log; all or none.
    pub(crate) async fn put_overrides(
        &self,
        overrides: &[(Override, AuditEntry)],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let failed = |e| self.failed(e);
        let mut tx = self.begin().await?;
        for (new, entry) in overrides {
            insert_audit(entry, now).execute(&mut *tx).await.map_err(failed)?;
            let ms = |text: &str| text.parse::<Timestamp>().map(Timestamp::as_millisecond);
            let unreadable = |error: jiff::Error| StoreError::Unreadable(error.to_string());
            sqlx::query(
                "INSERT INTO override (id, application, region, fleet, dependency, digest, verdict, release, principal, reason, ticket, \
                 at, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )
            .bind(&new.id)
            .bind(&new.application)
            .bind(&new.region)
            .bind(&new.fleet)
            .bind(&new.dependency)
            .bind(&new.digest)
            .bind(&new.verdict)
            .bind(&new.release)
            .bind(&new.by)
            .bind(&new.reason)
            .bind(&new.ticket)
            .bind(ms(&new.at).map_err(unreadable)?)
            .bind(ms(&new.expires_at).map_err(unreadable)?)
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        }
        tx.commit().await.map_err(failed)
    }

    /// Overrides of an application, or of all, that end after `since`, the newest first; withdrawn ones too.
    pub(crate) async fn overrides(
        &self,
        application: Option<&str>,
        since: Timestamp,
    ) -> Result<Vec<Override>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, application, region, fleet, dependency, digest, verdict, principal, reason, ticket, at, expires_at, \
             withdrawn, release FROM override WHERE (?1 IS NULL OR application = ?1) AND expires_at > ?2 ORDER BY at DESC, id",
        )
        .bind(application)
        .bind(since.as_millisecond())
        .fetch_all(&self.read)
        .await
        .map_err(|e| self.failed(e))?;
        let read = |row: &SqliteRow| -> Result<Override, StoreError> {
            Ok(Override {
                id: row.get(0),
                application: row.get(1),
                region: row.get(2),
                fleet: row.get(3),
                dependency: row.get(4),
                digest: row.get(5),
                verdict: row.get(6),
                by: row.get(7),
                reason: row.get(8),
                ticket: row.get(9),
                at: time(row.get(10))?.to_string(),
                expires_at: time(row.get(11))?.to_string(),
                withdrawn: row.get(12),
                release: row.get(13),
            })
        };
        rows.iter().map(read).collect()
    }

    /// Withdraws an override; false if there is none of that id that holds. With its entry in the audit log, or not at all.
    pub(crate) async fn withdraw_override(
        &self,
        id: &str,
        by: &str,
        entry: &AuditEntry,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let failed = |e| self.failed(e);
        let mut tx = self.begin().await?;
        let done =
            sqlx::query("UPDATE override SET withdrawn = ? WHERE id = ? AND withdrawn IS NULL AND expires_at > ?")
                .bind(format!("{now} by {by}"))
                .bind(id)
                .bind(now.as_millisecond())
                .execute(&mut *tx)
                .await
                .map_err(failed)?;
        if done.rows_affected() != 1 {
            return Ok(false);
        }
        insert_audit(entry, now).execute(&mut *tx).await.map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        Ok(true)
    }

    /// Adds an entry to the audit log for a record, once for each id.
    pub(crate) async fn put_record(&self, id: &str, entry: &AuditEntry, now: Timestamp) -> Result<(), StoreError> {
        let failed = |e| self.failed(e);
        let mut tx = self.begin().await?;
        let new = sqlx::query("INSERT INTO record (id) VALUES (?) ON CONFLICT DO NOTHING")
            .bind(id)
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        if new.rows_affected() == 1 {
            insert_audit(entry, now).execute(&mut *tx).await.map_err(failed)?;
        }
        tx.commit().await.map_err(failed)
    }

    /// Each agent's version, as it last told it.
    pub(crate) async fn versions(&self) -> Result<BTreeMap<String, String>, StoreError> {
        let rows = sqlx::query("SELECT agent, version FROM agent WHERE version IS NOT NULL")
            .fetch_all(&self.read)
            .await
            .map_err(|e| self.failed(e))?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }
}

fn from_row(row: &SqliteRow) -> Result<Deployed, StoreError> {
    let cells: BTreeMap<CellDigest, String> = json(row.get(4))?;
    Ok(Deployed {
        id: row.get(8),
        application: row.get(0),
        region: row.get(1),
        proven: Proven { release: row.get(2), verdict: row.get(3), cells, identities: json(row.get(7))? },
        at: time(row.get(5))?,
        principal: row.get(6),
    })
}

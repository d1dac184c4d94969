//! What shipped where, and who answered for what was not shown.

use std::collections::BTreeMap;

use jiff::Timestamp;
use preflight_core::baseline::Proven;
use preflight_core::run::RunSpec;
use preflight_proto::api::{AuditEntry, Override, Record};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::guard::renew_within;
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
        "INSERT INTO deployed (application, region, release, verdict, cells, kinds, at, principal) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&deployed.application)
    .bind(&deployed.region)
    .bind(&deployed.proven.release)
    .bind(&deployed.proven.verdict)
    .bind(to_json(&deployed.proven.cells)?)
    .bind(to_json(&deployed.proven.kinds)?)
    .bind(deployed.at.as_millisecond())
    .bind(&deployed.principal)
    .execute(&mut *tx)
    .await
    .map_err(|e| store.failed(e))?;
    matrix::show_deployed(&mut *tx, &deployed.application, &deployed.region, places, deployed.at)
        .await
        .map_err(|e| store.failed(e))
}

/// The last records of an application in a region; 0 where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Latest {
    /// Of a deployment.
    pub(crate) deployed: i64,
    /// Of a rollback.
    pub(crate) rollback: i64,
}

/// What is recorded of an application in a region.
#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    /// What is deployed there.
    pub(crate) deployed: Option<Deployed>,
    pub(crate) latest: Latest,
    /// The run that the last rollback was asked for with.
    pub(crate) rollback_run: Option<String>,
    /// A rollback was asked for after that deployment was recorded: nothing is known of what runs there.
    pub(crate) gone_back: bool,
}

/// The last records within a transaction.
pub(super) async fn latest_within(
    tx: &mut SqliteConnection,
    store: &Store,
    application: &str,
    region: &str,
) -> Result<Latest, StoreError> {
    let row = sqlx::query(
        "SELECT (SELECT coalesce(max(id), 0) FROM deployed WHERE application = ?1 AND region = ?2), \
                (SELECT coalesce(max(id), 0) FROM rollback WHERE application = ?1 AND region = ?2)",
    )
    .bind(application)
    .bind(region)
    .fetch_one(&mut *tx)
    .await
    .map_err(|e| store.failed(e))?;
    Ok(Latest { deployed: row.get(0), rollback: row.get(1) })
}

/// Records within a transaction that an application went back in a region.
pub(super) async fn insert_rollback(
    tx: &mut SqliteConnection,
    store: &Store,
    application: &str,
    region: &str,
    run: Option<&str>,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO rollback (application, region, deployed, run) \
         SELECT ?1, ?2, coalesce(max(id), 0), ?3 FROM deployed WHERE application = ?1 AND region = ?2",
    )
    .bind(application)
    .bind(region)
    .bind(run)
    .execute(&mut *tx)
    .await
    .map(|_| ())
    .map_err(|e| store.failed(e))
}

/// A rollback that was asked for or recorded.
struct Rollback {
    id: i64,
    /// What was recorded as deployed last when it was.
    deployed: i64,
    run: Option<String>,
}

impl Rollback {
    fn is_since(&self, deployed: i64) -> bool {
        self.deployed >= deployed
    }
}

impl Store {
    /// Whether a rollback was asked for since a release was recorded as deployed.
    pub(crate) async fn gone_back(&self, last: &Deployed) -> Result<bool, StoreError> {
        let rollback = self.last_rollback(&last.application, &last.region).await?;
        Ok(rollback.is_some_and(|rollback| rollback.is_since(last.id)))
    }

    async fn last_rollback(&self, application: &str, region: &str) -> Result<Option<Rollback>, StoreError> {
        let row = sqlx::query(
            "SELECT id, deployed, run FROM rollback WHERE application = ? AND region = ? ORDER BY id DESC LIMIT 1",
        )
        .bind(application)
        .bind(region)
        .fetch_optional(&self.read)
        .await
        .map_err(|e| self.failed(e))?;
        Ok(row.map(|row| Rollback { id: row.get(0), deployed: row.get(1), run: row.get(2) }))
    }

    /// What is recorded of an application in a region.
    pub(crate) async fn recorded(&self, application: &str, region: &str) -> Result<Recorded, StoreError> {
        // In this order: what is recorded between the two looks can only make more of what is known void.
        let deployed = self.deployed(application, region, None).await?;
        let last = self.last_rollback(application, region).await?;
        let id = deployed.as_ref().map_or(0, |deployed| deployed.id);
        Ok(Recorded {
            latest: Latest { deployed: id, rollback: last.as_ref().map_or(0, |rollback| rollback.id) },
            gone_back: last.as_ref().is_some_and(|rollback| rollback.is_since(id)),
            rollback_run: last.and_then(|rollback| rollback.run),
            deployed,
        })
    }

    /// The first and the last record of a release in a region, by their numbers; none where there is none.
    pub(crate) async fn deployed_span(
        &self,
        application: &str,
        region: &str,
        release: &str,
    ) -> Result<Option<(i64, i64)>, StoreError> {
        let row = sqlx::query(
            "SELECT min(id), max(id) FROM deployed WHERE application = ? AND region = ? AND release = ? HAVING count(*) > 0",
        )
        .bind(application)
        .bind(region)
        .bind(release)
        .fetch_optional(&self.read)
        .await
        .map_err(|e| self.failed(e))?;
        Ok(row.map(|row| (row.get(0), row.get(1))))
    }

    /// The latest run of a gate for a release of an application in a region, begun after another one, that was given another manifest.
    pub(crate) async fn other_manifest_since(
        &self,
        spec: &RunSpec,
        region: &str,
    ) -> Result<Option<String>, StoreError> {
        sqlx::query_scalar(
            "SELECT id FROM run WHERE kind = 'gate' AND started_at >= ?1 AND id <> ?2 \
             AND rowid > (SELECT rowid FROM run WHERE id = ?2) \
             AND spec ->> '$.mode' <> 'rollback' AND spec ->> '$.release' = ?3 AND spec ->> '$.plan.application' = ?4 \
             AND spec ->> '$.plan.manifest_digest' <> ?5 \
             AND ?6 IN (SELECT value FROM json_each(run.spec, '$.plan.regions')) ORDER BY rowid DESC LIMIT 1",
        )
        .bind(spec.started.as_millisecond())
        .bind(&spec.id)
        .bind(&spec.release)
        .bind(&spec.plan.application)
        .bind(&spec.plan.manifest_digest)
        .bind(region)
        .fetch_optional(&self.read)
        .await
        .map_err(|e| self.failed(e))
    }

    /// What is deployed of an application in a region; with `release`, how that one was recorded last.
    pub(crate) async fn deployed(
        &self,
        application: &str,
        region: &str,
        release: Option<&str>,
    ) -> Result<Option<Deployed>, StoreError> {
        let row = sqlx::query(
            "SELECT application, region, release, verdict, cells, at, principal, kinds, id FROM deployed \
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
            "SELECT application, region, release, verdict, cells, at, principal, kinds, id FROM deployed WHERE id IN \
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
        let application: Option<String> = sqlx::query_scalar(
            "UPDATE override SET withdrawn = ? WHERE id = ? AND withdrawn IS NULL AND expires_at > ? RETURNING application",
        )
        .bind(format!("{now} by {by}"))
        .bind(id)
        .bind(now.as_millisecond())
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed)?;
        let Some(application) = application else { return Ok(false) };
        // A run that is about to end on it decides again.
        renew_within(&mut tx, self, &application).await?;
        insert_audit(entry, now).execute(&mut *tx).await.map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        Ok(true)
    }

    /// Takes in a record, once for each id, with its entry in the audit log. One of a rollback without regions is of all where the
    /// application was deployed.
    pub(crate) async fn put_record(
        &self,
        record: &Record,
        entry: &AuditEntry,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let failed = |e| self.failed(e);
        let mut tx = self.begin().await?;
        let new = sqlx::query("INSERT INTO record (id) VALUES (?) ON CONFLICT DO NOTHING")
            .bind(&record.id)
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        if new.rows_affected() == 1 {
            insert_audit(entry, now).execute(&mut *tx).await.map_err(failed)?;
            let mut regions = record.regions.clone();
            if regions.is_empty() {
                regions = sqlx::query_scalar("SELECT DISTINCT region FROM deployed WHERE application = ?")
                    .bind(&record.application)
                    .fetch_all(&mut *tx)
                    .await
                    .map_err(failed)?;
            }
            for region in regions.iter().filter(|_| record.kind == "rollback") {
                insert_rollback(&mut tx, self, &record.application, region, None).await?;
            }
        }
        tx.commit().await.map_err(failed)
    }

    /// Each agent's version, as it last told it.
    pub(crate) async fn versions(&self) -> Result<BTreeMap<String, String>, StoreError> {
        // In one row: each row crosses threads by itself, and there are as many as agents.
        let all: String =
            sqlx::query_scalar("SELECT json_group_object(agent, version) FROM agent WHERE version IS NOT NULL")
                .fetch_one(&self.read)
                .await
                .map_err(|e| self.failed(e))?;
        json(&all)
    }
}

fn from_row(row: &SqliteRow) -> Result<Deployed, StoreError> {
    Ok(Deployed {
        id: row.get(8),
        application: row.get(0),
        region: row.get(1),
        proven: Proven { release: row.get(2), verdict: row.get(3), cells: json(row.get(4))?, kinds: json(row.get(7))? },
        at: time(row.get(5))?,
        principal: row.get(6),
    })
}

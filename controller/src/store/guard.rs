//! The release guards: one for each application, read and changed as a whole.

use jiff::Timestamp;
use preflight_core::guard::Guard;
use preflight_proto::api::AuditEntry;
use sqlx::{Row as _, SqliteConnection};

use super::releases::{Latest, insert_deployed, insert_rollback, latest_within};
use super::{Deployed, Place, Store, StoreError, insert_audit, json, to_json};

/// What is stored together with a changed guard, or not at all.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    /// For the audit log.
    pub(crate) entries: Vec<AuditEntry>,
    /// What has shipped.
    pub(crate) deployed: Vec<Shipped>,
    /// The regions that went back to an earlier release.
    pub(crate) rolled_back: Vec<String>,
}

/// A release that has shipped in a region.
#[derive(Debug)]
pub(crate) struct Shipped {
    pub(crate) deployed: Deployed,
    /// The cells that the matrix shows of it.
    pub(crate) places: Vec<Place>,
    /// What the last records there must be for it to be stored; none where that does not matter.
    pub(crate) expected: Option<Latest>,
}

impl Store {
    /// An application's guard and its version. One of which nothing is stored is open everywhere, version 0.
    pub(crate) async fn guard(&self, application: &str) -> Result<(Guard, i64), StoreError> {
        let row = sqlx::query("SELECT state, version FROM guard WHERE application = ?")
            .bind(application)
            .fetch_optional(&self.read)
            .await
            .map_err(|e| self.failed(e))?;
        row.map_or_else(|| Ok((Guard::default(), 0)), |row| Ok((json(row.get(0))?, row.get(1))))
    }

    /// The guards of every application that has one, or of one.
    pub(crate) async fn guards(&self, application: Option<&str>) -> Result<Vec<(String, Guard)>, StoreError> {
        let rows = sqlx::query(
            "SELECT application, state FROM guard WHERE ?1 IS NULL OR application = ?1 ORDER BY application",
        )
        .bind(application)
        .fetch_all(&self.read)
        .await
        .map_err(|e| self.failed(e))?;
        rows.iter().map(|row| Ok((row.get(0), json(row.get(1))?))).collect()
    }

    /// Changes an application's guard, with what belongs to the change; where `change` fails, nothing is stored. Changes take turns.
    pub(crate) async fn change_guard<T, E>(
        &self,
        application: &str,
        now: Timestamp,
        change: impl FnOnce(&mut Guard) -> Result<(T, Beside), E>,
    ) -> Result<Result<T, E>, StoreError> {
        let failed = |e| self.failed(e);
        let mut tx = self.begin().await?;
        let mut beside = Beside::default();
        let made = change_within(&mut tx, self, application, |guard| {
            change(guard).map(|(made, stored)| {
                beside = stored;
                made
            })
        })
        .await?;
        let made = match made {
            Ok(made) => made,
            Err(refused) => return Ok(Err(refused)),
        };
        for entry in &beside.entries {
            insert_audit(entry, now).execute(&mut *tx).await.map_err(failed)?;
        }
        for Shipped { deployed, places, expected } in &beside.deployed {
            let latest = latest_within(&mut tx, self, application, &deployed.region).await?;
            if expected.is_some_and(|expected| expected != latest) {
                return Err(StoreError::Busy);
            }
            insert_deployed(&mut tx, self, deployed, places).await?;
        }
        for region in &beside.rolled_back {
            insert_rollback(&mut tx, self, application, region, None).await?;
        }
        tx.commit().await.map_err(failed)?;
        Ok(Ok(made))
    }
}

impl Store {
    /// Whether a release of an application was ever recorded as deployed, or is what would ship somewhere.
    pub(crate) async fn heard_of(&self, application: &str, release: &str) -> Result<bool, StoreError> {
        let (guard, _) = self.guard(application).await?;
        let mut candidates = guard.regions.values().filter_map(|place| place.candidate.as_ref());
        if candidates.any(|candidate| candidate.release == release) {
            return Ok(true);
        }
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM deployed WHERE application = ? AND release = ?)")
            .bind(application)
            .bind(release)
            .fetch_one(&self.read)
            .await
            .map_err(|e| self.failed(e))
    }
}

/// Changes a guard within a transaction.
pub(super) async fn change_within<T, E>(
    tx: &mut SqliteConnection,
    store: &Store,
    application: &str,
    change: impl FnOnce(&mut Guard) -> Result<T, E>,
) -> Result<Result<T, E>, StoreError> {
    let failed = |e| store.failed(e);
    let row = sqlx::query("SELECT state FROM guard WHERE application = ?")
        .bind(application)
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed)?;
    let mut guard: Guard = row.map_or_else(|| Ok(Guard::default()), |row| json(row.get(0)))?;
    let before = guard.clone();
    let made = change(&mut guard);
    if made.is_ok() && guard != before {
        // Only what holds something back makes another version: pipelines that announce themselves keep no run from its end.
        sqlx::query(
            "INSERT INTO guard (application, state, version) VALUES (?1, ?2, ?3) \
             ON CONFLICT (application) DO UPDATE SET state = excluded.state, version = version + ?3",
        )
        .bind(application)
        .bind(to_json(&guard)?)
        .bind(i64::from(!guard.holds_alike(&before)))
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
    }
    Ok(made)
}

/// Makes another version of a guard, since what a decision goes by beside it has changed.
pub(super) async fn renew_within(
    tx: &mut SqliteConnection,
    store: &Store,
    application: &str,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO guard (application, state, version) VALUES (?, ?, 1) ON CONFLICT (application) DO UPDATE SET version = version + 1",
    )
    .bind(application)
    .bind(to_json(&Guard::default())?)
    .execute(&mut *tx)
    .await
    .map(|_| ())
    .map_err(|e| store.failed(e))
}

/// A guard's version within a transaction.
pub(super) async fn version_within(
    tx: &mut SqliteConnection,
    store: &Store,
    application: &str,
) -> Result<i64, StoreError> {
    let version: Option<i64> = sqlx::query_scalar("SELECT version FROM guard WHERE application = ?")
        .bind(application)
        .fetch_optional(&mut *tx)
        .await
        .map_err(|e| store.failed(e))?;
    Ok(version.unwrap_or_default())
}

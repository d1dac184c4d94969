//! The matrix: the cells of what is deployed in each region, each with the latest state that any gate has found.

use jiff::Timestamp;
use preflight_core::matrix::State;
use preflight_core::observation::Phases;
use preflight_proto::api::MatrixCell;
use sqlx::{Row as _, SqliteConnection};

use super::{Store, StoreError, json, time};

/// A cell's state as of a verdict.
#[derive(Debug, Clone)]
pub(crate) struct LatestCell {
    pub(crate) digest: String,
    pub(crate) target: String,
    pub(crate) state: State,
    pub(crate) reason: Option<String>,
    /// The slowest of each phase that was seen.
    pub(crate) phases: Phases,
    /// When the first certificate of a presented chain ends.
    pub(crate) certificate_until: Option<Timestamp>,
}

/// A place in the matrix, and the cell that stands there.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) region: String,
    pub(crate) fleet: String,
    pub(crate) dependency: String,
    pub(crate) digest: String,
}

/// What a verdict tells the matrix.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    /// The cells that were probed.
    pub(crate) latest: Vec<LatestCell>,
    /// Every cell of the plan.
    pub(crate) places: Vec<Place>,
}

/// What metrics tell of a cell beside its state.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    pub(crate) cell: MatrixCell,
    pub(crate) phases: Phases,
    pub(crate) certificate_until: Option<Timestamp>,
}

/// Notes what a verdict has found of its cells.
pub(super) async fn put_latest(
    tx: &mut SqliteConnection,
    latest: &[LatestCell],
    verdict: &str,
    release: &str,
    at: Timestamp,
) -> Result<(), sqlx::Error> {
    for cell in latest {
        sqlx::query(
            "INSERT INTO latest (digest, target, state, reason, phases, certificate_until, verdict, release, at) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (digest) DO UPDATE SET state = excluded.state, \
             reason = excluded.reason, phases = excluded.phases, certificate_until = excluded.certificate_until, \
             verdict = excluded.verdict, release = excluded.release, at = excluded.at WHERE excluded.at >= latest.at",
        )
        .bind(&cell.digest)
        .bind(&cell.target)
        .bind(cell.state.as_str())
        .bind(&cell.reason)
        .bind(encoded(&cell.phases)?)
        .bind(cell.certificate_until.map(Timestamp::as_millisecond))
        .bind(verdict)
        .bind(release)
        .bind(at.as_millisecond())
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

/// Puts a gate's cells in their places, in a region where nothing is deployed.
pub(super) async fn show_gate(
    tx: &mut SqliteConnection,
    application: &str,
    region: &str,
    places: &[Place],
    at: Timestamp,
) -> Result<(), sqlx::Error> {
    let taken: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM shown WHERE application = ? AND region = ? AND (deployed OR at > ?))",
    )
    .bind(application)
    .bind(region)
    .bind(at.as_millisecond())
    .fetch_one(&mut *tx)
    .await?;
    if taken { Ok(()) } else { show(tx, application, region, places, false, at).await }
}

/// Puts the cells of what is deployed now in their places; with none, what is deployed is not known, and the next gate shows its own.
pub(super) async fn show_deployed(
    tx: &mut SqliteConnection,
    application: &str,
    region: &str,
    places: &[Place],
    at: Timestamp,
) -> Result<(), sqlx::Error> {
    if !places.is_empty() {
        return show(tx, application, region, places, true, at).await;
    }
    sqlx::query("UPDATE shown SET deployed = 0 WHERE application = ? AND region = ?")
        .bind(application)
        .bind(region)
        .execute(&mut *tx)
        .await
        .map(|_| ())
}

async fn show(
    tx: &mut SqliteConnection,
    application: &str,
    region: &str,
    places: &[Place],
    deployed: bool,
    at: Timestamp,
) -> Result<(), sqlx::Error> {
    let rows: Vec<(&str, &str, &str)> = places
        .iter()
        .filter(|place| place.region == region)
        .map(|place| (place.fleet.as_str(), place.dependency.as_str(), place.digest.as_str()))
        .collect();
    sqlx::query("DELETE FROM shown WHERE application = ? AND region = ?")
        .bind(application)
        .bind(region)
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "INSERT INTO shown (application, region, fleet, dependency, digest, deployed, at) \
         SELECT ?1, ?2, value ->> 0, value ->> 1, value ->> 2, ?3, ?4 FROM json_each(?5)",
    )
    .bind(application)
    .bind(region)
    .bind(deployed)
    .bind(at.as_millisecond())
    .bind(encoded(&rows)?)
    .execute(&mut *tx)
    .await
    .map(|_| ())
}

fn encoded(value: &impl serde::Serialize) -> Result<String, sqlx::Error> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(error.into()))
}

impl Store {
    /// The matrix, by application, region, dependency and fleet.
    pub(crate) async fn latest(
        &self,
        application: Option<&str>,
        region: Option<&str>,
    ) -> Result<Vec<Measured>, StoreError> {
        let rows = sqlx::query(
            "SELECT application, region, fleet, dependency, target, state, reason, verdict, release, latest.at, phases, \
                    certificate_until FROM shown JOIN latest USING (digest) \
             WHERE (?1 IS NULL OR application = ?1) AND (?2 IS NULL OR region = ?2) \
             ORDER BY application, region, dependency, fleet",
        )
        .bind(application)
        .bind(region)
        .fetch_all(&self.read)
        .await
        .map_err(|e| self.failed(e))?;
        rows.iter()
            .map(|row| {
                let state: String = row.get(5);
                let cell = MatrixCell {
                    application: row.get(0),
                    region: row.get(1),
                    fleet: row.get(2),
                    dependency: row.get(3),
                    target: row.get(4),
                    state: json(&format!("\"{state}\""))?,
                    reason: row.get(6),
                    verdict: row.get(7),
                    release: row.get(8),
                    at: time(row.get(9))?.to_string(),
                };
                let certificate_until = row.get::<Option<i64>, _>(11).map(time).transpose()?;
                Ok(Measured { cell, phases: json(row.get(10))?, certificate_until })
            })
            .collect()
    }
}

//! Runs: what was asked, what was answered, what came of it.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;

use jiff::Timestamp;
use preflight_core::guard::{Candidate, Carried, Guard};
use preflight_core::identity::IdentityKey;
use preflight_core::plan::{CellDigest, FleetId};
use preflight_core::run::{AgentId, Mode, RunSpec, Testimony};
use preflight_proto::api::AuditEntry;
use sqlx::Row as _;

use super::guard::{change_within, version_within};
use super::matrix::{self, Found};
use super::releases::insert_rollback;
use super::{Store, StoreError, insert_audit, json, time, to_json};

/// A run as the store knows it.
#[derive(Debug, Clone)]
pub(crate) struct StoredRun {
    pub(crate) kind: String,
    /// Digest of the request that started it.
    pub(crate) request: String,
    /// The result's JSON; none while the run is open.
    pub(crate) result: Option<String>,
}

/// A run that had not ended when the controller did.
#[derive(Debug)]
pub(crate) struct OpenRun {
    pub(crate) kind: String,
    pub(crate) spec: RunSpec,
    pub(crate) questions: Vec<(CellDigest, String, IdentityKey)>,
    pub(crate) testimonies: Vec<(CellDigest, AgentId, Timestamp, Testimony)>,
}

/// What came of ending a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    /// It is ended, with this result.
    Now,
    /// It had ended before, with another one.
    Before,
    /// It is open: the guard has changed meanwhile.
    GuardChanged,
}

/// A testimony to be stored.
#[derive(Debug, Clone)]
pub(crate) struct NewTestimony {
    pub(crate) cell: CellDigest,
    pub(crate) from: AgentId,
    pub(crate) at: Timestamp,
    pub(crate) late: bool,
    pub(crate) testimony: Arc<Testimony>,
}

impl Store {
    /// Stores a run before anybody is asked, with its entry in the audit log; false if a run of that id exists. What a gate asks for is
    /// from then on what would ship in its regions; of a rollback it is stored that it was asked for there.
    pub(crate) async fn create_run(
        &self,
        kind: &str,
        request: &str,
        spec: &RunSpec,
        principal: &str,
        entry: Option<&AuditEntry>,
    ) -> Result<bool, StoreError> {
        let failed = |e| self.failed(e);
        let mut tx = self.begin().await?;
        let done = sqlx::query(
            "INSERT INTO run (id, kind, request, spec, principal, started_at) VALUES (?, ?, ?, ?, ?, ?) \
             ON CONFLICT (id) DO NOTHING",
        )
        .bind(&spec.id)
        .bind(kind)
        .bind(request)
        .bind(to_json(spec)?)
        .bind(principal)
        .bind(spec.started.as_millisecond())
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
        if done.rows_affected() != 1 {
            return Ok(false);
        }
        if let Some(entry) = entry {
            insert_audit(entry, spec.started).execute(&mut *tx).await.map_err(failed)?;
        }
        if spec.mode == Mode::Rollback {
            for region in &spec.plan.regions {
                insert_rollback(&mut tx, self, &spec.plan.application, region, Some(&spec.id)).await?;
            }
        } else if kind == "gate" {
            let candidate = Candidate {
                release: spec.release.clone(),
                run: Some(spec.id.clone()),
                by: principal.to_owned(),
                at: spec.started,
            };
            let announce = |guard: &mut Guard| {
                for region in &spec.plan.regions {
                    guard.announce(region, candidate.clone());
                }
                Ok::<(), Infallible>(())
            };
            let Ok(()) = change_within(&mut tx, self, &spec.plan.application, announce).await?;
        }
        tx.commit().await.map_err(failed)?;
        Ok(true)
    }

    /// A run by its id.
    pub(crate) async fn run(&self, id: &str) -> Result<Option<StoredRun>, StoreError> {
        let row = sqlx::query("SELECT kind, request, result FROM run WHERE id = ?")
            .bind(id)
            .fetch_optional(&self.read)
            .await
            .map_err(|e| self.failed(e))?;
        Ok(row.map(|row| StoredRun { kind: row.get(0), request: row.get(1), result: row.get(2) }))
    }

    /// What an ended run was made of; none if there is no such run, or its form is another version's.
    pub(crate) async fn run_spec(&self, id: &str) -> Result<Option<RunSpec>, StoreError> {
        let spec: Option<String> = sqlx::query_scalar("SELECT spec FROM run WHERE id = ? AND ended_at IS NOT NULL")
            .bind(id)
            .fetch_optional(&self.read)
            .await
            .map_err(|e| self.failed(e))?;
        spec.map(|text| json(&text)).transpose()
    }

    /// The cells that a run's release carries in each of its regions, also while it is under way; none if there is no such run.
    pub(crate) async fn carried(&self, run: &str) -> Result<BTreeMap<String, BTreeSet<Carried>>, StoreError> {
        let spec: Option<String> = sqlx::query_scalar("SELECT spec FROM run WHERE id = ?")
            .bind(run)
            .fetch_optional(&self.read)
            .await
            .map_err(|e| self.failed(e))?;
        let spec: Option<RunSpec> = spec.map(|text| json(&text)).transpose()?;
        let mut carried: BTreeMap<String, BTreeSet<Carried>> = BTreeMap::new();
        for cell in spec.iter().flat_map(|spec| &spec.plan.cells) {
            carried.entry(cell.fleet.region.clone()).or_default().insert(Carried::of(cell, cell.digest()));
        }
        Ok(carried)
    }

    /// Stores whom a run asks, before they are asked.
    pub(crate) async fn put_questions(
        &self,
        run: &str,
        questions: &[(CellDigest, String, IdentityKey)],
    ) -> Result<(), StoreError> {
        // One statement for all: a gate asks thousands at once.
        sqlx::query(
            "INSERT OR IGNORE INTO question (run, cell, agent, identity_key) \
             SELECT ?1, value ->> 0, value ->> 1, value ->> 2 FROM json_each(?2)",
        )
        .bind(run)
        .bind(to_json(&questions)?)
        .execute(&self.write)
        .await
        .map(|_| ())
        .map_err(|e| self.failed(e))
    }

    /// Stores answers, all or none, before they are acknowledged. An agent's first answer for a cell stays.
    pub(crate) async fn put_testimonies(&self, run: &str, testimonies: &[NewTestimony]) -> Result<(), StoreError> {
        if testimonies.is_empty() {
            return Ok(());
        }
        let mut rows = Vec::with_capacity(testimonies.len());
        for new in testimonies {
            let (at, late) = (new.at.as_millisecond(), u8::from(new.late));
            rows.push((&new.cell.0, &new.from.agent, at, late, to_json(&new.testimony)?));
        }
        // `WHERE true` tells SQLite that `ON` begins no join.
        sqlx::query(
            "INSERT INTO testimony (run, cell, agent, at, late, body) \
             SELECT ?1, value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each(?2) WHERE true \
             ON CONFLICT DO NOTHING",
        )
        .bind(run)
        .bind(to_json(&rows)?)
        .execute(&self.write)
        .await
        .map(|_| ())
        .map_err(|e| self.failed(e))
    }

    /// Whether a run asked an agent for a cell.
    pub(crate) async fn was_asked(&self, run: &str, cell: &CellDigest, agent: &str) -> Result<bool, StoreError> {
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM question WHERE run = ? AND cell = ? AND agent = ?)")
            .bind(run)
            .bind(&cell.0)
            .bind(agent)
            .fetch_one(&self.read)
            .await
            .map_err(|e| self.failed(e))
    }

    /// How many answers to a run came too late.
    #[cfg(test)]
    pub(crate) async fn late_answers(&self, run: &str) -> Result<i64, StoreError> {
        sqlx::query_scalar("SELECT count(*) FROM testimony WHERE run = ? AND late")
            .bind(run)
            .fetch_one(&self.read)
            .await
            .map_err(|e| self.failed(e))
    }

    /// Ends a run with its result, once. `entry` goes into the audit log with it, by who asked for the run. With `guard` only while that is
    /// the version of the application's guard: what the result rests on is still so when it is stored.
    pub(crate) async fn close_run(
        &self,
        spec: &RunSpec,
        result: &str,
        found: &Found,
        now: Timestamp,
        entry: Option<(AuditEntry, Timestamp)>,
        guard: Option<i64>,
    ) -> Result<Closed, StoreError> {
        let failed = |e| self.failed(e);
        let mut tx = self.begin().await?;
        if let Some(version) = guard
            && version_within(&mut tx, self, &spec.plan.application).await? != version
        {
            return Ok(Closed::GuardChanged);
        }
        let principal: Option<String> = sqlx::query_scalar(
            "UPDATE run SET ended_at = ?, result = ? WHERE id = ? AND ended_at IS NULL RETURNING principal",
        )
        .bind(now.as_millisecond())
        .bind(result)
        .bind(&spec.id)
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed)?;
        let Some(principal) = principal else { return Ok(Closed::Before) };
        if let Some((entry, at)) = entry {
            insert_audit(&AuditEntry { principal, ..entry }, at).execute(&mut *tx).await.map_err(failed)?;
        }
        matrix::put_latest(&mut tx, &found.latest, &spec.id, &spec.release, now).await.map_err(failed)?;
        for region in spec.plan.regions.iter().filter(|_| !found.places.is_empty()) {
            let application = &spec.plan.application;
            matrix::show_gate(&mut tx, application, region, &found.places, now).await.map_err(failed)?;
        }
        tx.commit().await.map_err(failed)?;
        Ok(Closed::Now)
    }

    /// Runs that have not ended (one, or all), with all that is known of them.
    pub(crate) async fn open_runs(&self, id: Option<&str>) -> Result<Vec<OpenRun>, StoreError> {
        let failed = |e| self.failed(e);
        let rows = sqlx::query(
            "SELECT id, kind, spec FROM run WHERE ended_at IS NULL AND (?1 IS NULL OR id = ?1) ORDER BY started_at",
        )
        .bind(id)
        .fetch_all(&self.read)
        .await
        .map_err(failed)?;
        let mut open = Vec::new();
        for row in rows {
            let id: String = row.get(0);
            let questions = sqlx::query("SELECT cell, agent, identity_key FROM question WHERE run = ?")
                .bind(&id)
                .fetch_all(&self.read)
                .await
                .map_err(failed)?;
            let testimonies = sqlx::query(
                "SELECT t.cell, t.at, t.body, a.agent, a.region, a.fleet FROM testimony t \
                 JOIN agent a ON a.agent = t.agent WHERE t.run = ? AND t.late = 0 AND a.revoked_at IS NULL",
            )
            .bind(&id)
            .fetch_all(&self.read)
            .await
            .map_err(failed)?;
            let spec = match json(row.get(2)) {
                Ok(spec) => spec,
                // Of another version: it must not keep the others from being taken up, nor ever pass.
                Err(error) => {
                    tracing::error!(run = id, %error, "an open run cannot be read; it stays without a verdict");
                    continue;
                }
            };
            open.push(OpenRun {
                kind: row.get(1),
                spec,
                questions: questions.iter().map(|q| (CellDigest(q.get(0)), q.get(1), IdentityKey(q.get(2)))).collect(),
                testimonies: testimonies
                    .iter()
                    .filter_map(|t| {
                        let fleet = FleetId { region: t.get(4), fleet: t.get(5) };
                        let from = AgentId { fleet, agent: t.get(3) };
                        // One that cannot be read is as good as not given.
                        let (at, testimony) = (time(t.get(1)).ok()?, json(t.get(2)).ok()?);
                        Some((CellDigest(t.get(0)), from, at, testimony))
                    })
                    .collect(),
            });
        }
        Ok(open)
    }

    /// How many runs ended, by kind.
    pub(crate) async fn ended_runs(&self) -> Result<BTreeMap<String, i64>, StoreError> {
        let rows = sqlx::query("SELECT kind, count(*) FROM run WHERE ended_at IS NOT NULL GROUP BY kind")
            .fetch_all(&self.read)
            .await
            .map_err(|e| self.failed(e))?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }
}

//! Agents and the lines of certificates that they hold.

use jiff::Timestamp;
use preflight_core::identity::NetworkIdentity;
use preflight_core::plan::FleetId;
use preflight_core::run::AgentId;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Store, StoreError, json, time, to_json};

/// An agent as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct AgentRow {
    pub(crate) id: AgentId,
    /// None until it has connected once.
    pub(crate) identity: Option<NetworkIdentity>,
    pub(crate) version: Option<String>,
    pub(crate) clock_skew_ms: Option<i64>,
    /// None until it has connected once.
    pub(crate) connected_at: Option<Timestamp>,
    /// When its last connection ended; none while it is connected.
    pub(crate) gone_at: Option<Timestamp>,
    /// When it said goodbye, which ends its connection, or was forgotten.
    pub(crate) left_at: Option<Timestamp>,
    pub(crate) revoked: bool,
    pub(crate) remark: Option<String>,
    pub(crate) certificate_until: Option<Timestamp>,
}

/// A certificate as it is noted when it is issued.
#[derive(Debug, Clone)]
pub(crate) struct Certificate<'a> {
    pub(crate) serial: &'a str,
    pub(crate) agent: &'a str,
    pub(crate) predecessor: Option<&'a str>,
    pub(crate) not_after_ms: i64,
}

/// What using a certificate comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CertificateCheck {
    /// It may be used.
    Good,
    /// The store does not know it.
    Unknown,
    /// Its line is revoked.
    Revoked(String),
    /// Its successor, or another successor of its predecessor, has been used: somebody holds a copy. The line has been revoked by this call.
    Copied,
}

impl Store {
    /// Notes a certificate that was issued.
    pub(crate) async fn put_certificate(&self, certificate: &Certificate<'_>) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO certificate (serial, agent, predecessor, not_after) VALUES (?, ?, ?, ?)")
            .bind(certificate.serial)
            .bind(certificate.agent)
            .bind(certificate.predecessor)
            .bind(certificate.not_after_ms)
            .execute(&self.write)
            .await
            .map(|_| ())
            .map_err(|e| self.failed(e))
    }

    /// Checks a certificate as it is used, and notes the use.
    pub(crate) async fn use_certificate(&self, serial: &str, now: Timestamp) -> Result<CertificateCheck, StoreError> {
        let failed = |e| self.failed(e);
        let mut tx = self.begin().await?;
        let row = sqlx::query(
            "SELECT c.agent, a.revoked_at, a.remark, \
                    EXISTS (SELECT 1 FROM certificate s WHERE s.used_at IS NOT NULL \
                            AND (s.predecessor = c.serial OR (s.predecessor = c.predecessor AND s.serial <> c.serial))) \
             FROM certificate c JOIN agent a ON a.agent = c.agent WHERE c.serial = ?",
        )
        .bind(serial)
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed)?;
        let Some(row) = row else { return Ok(CertificateCheck::Unknown) };
        let agent: String = row.get(0);
        if row.get::<Option<i64>, _>(1).is_some() {
            return Ok(CertificateCheck::Revoked(row.get::<Option<String>, _>(2).unwrap_or_default()));
        }
        let copied: bool = row.get(3);
        if copied {
            sqlx::query("UPDATE agent SET revoked_at = ?, remark = ? WHERE agent = ?")
                .bind(now.as_millisecond())
                .bind("a certificate was used after its successor: its key has been copied")
                .bind(&agent)
                .execute(&mut *tx)
                .await
                .map_err(failed)?;
        } else {
            sqlx::query("UPDATE certificate SET used_at = coalesce(used_at, ?) WHERE serial = ?")
                .bind(now.as_millisecond())
                .bind(serial)
                .execute(&mut *tx)
                .await
                .map_err(failed)?;
        }
        tx.commit().await.map_err(failed)?;
        Ok(if copied { CertificateCheck::Copied } else { CertificateCheck::Good })
    }

    /// Notes that an agent connected.
    pub(crate) async fn agent_connected(
        &self,
        agent: &str,
        identity: &NetworkIdentity,
        version: &str,
        clock_skew_ms: i64,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE agent SET identity = ?, version = ?, clock_skew_ms = ?, connected_at = ?, gone_at = NULL, left_at = NULL \
             WHERE agent = ?",
        )
        .bind(to_json(identity)?)
        .bind(version)
        .bind(clock_skew_ms)
        .bind(now.as_millisecond())
        .bind(agent)
        .execute(&self.write)
        .await
        .map(|_| ())
        .map_err(|e| self.failed(e))
    }

    /// Notes that an agent has another identity than before.
    pub(crate) async fn put_identity(&self, agent: &str, identity: &NetworkIdentity) -> Result<(), StoreError> {
        sqlx::query("UPDATE agent SET identity = ? WHERE agent = ?")
            .bind(to_json(identity)?)
            .bind(agent)
            .execute(&self.write)
            .await
            .map(|_| ())
            .map_err(|e| self.failed(e))
    }

    /// Notes that an agent's stream has ended; `left` if it said goodbye.
    pub(crate) async fn agent_gone(&self, agent: &str, left: bool, now: Timestamp) -> Result<(), StoreError> {
        sqlx::query("UPDATE agent SET gone_at = ?, left_at = CASE WHEN ? THEN ? ELSE left_at END WHERE agent = ?")
            .bind(now.as_millisecond())
            .bind(left)
            .bind(now.as_millisecond())
            .bind(agent)
            .execute(&self.write)
            .await
            .map(|_| ())
            .map_err(|e| self.failed(e))
    }

    /// Notes that no agent is connected: a controller that was killed could not.
    pub(crate) async fn all_agents_gone(&self, now: Timestamp) -> Result<(), StoreError> {
        sqlx::query("UPDATE agent SET gone_at = ? WHERE gone_at IS NULL AND connected_at IS NOT NULL")
            .bind(now.as_millisecond())
            .execute(&self.write)
            .await
            .map(|_| ())
            .map_err(|e| self.failed(e))
    }

    /// Revokes an agent's line of certificates for good; false if there is no such agent.
    pub(crate) async fn revoke_agent(&self, agent: &str, why: &str, now: Timestamp) -> Result<bool, StoreError> {
        let done = sqlx::query("UPDATE agent SET revoked_at = coalesce(revoked_at, ?), remark = ? WHERE agent = ?")
            .bind(now.as_millisecond())
            .bind(why)
            .bind(agent)
            .execute(&self.write)
            .await
            .map_err(|e| self.failed(e))?;
        Ok(done.rows_affected() > 0)
    }

    /// Takes a lost agent out of its fleet until it connects again; false if there is no such agent.
    pub(crate) async fn forget_agent(&self, agent: &str, now: Timestamp) -> Result<bool, StoreError> {
        let done = sqlx::query("UPDATE agent SET left_at = ? WHERE agent = ?")
            .bind(now.as_millisecond())
            .bind(agent)
            .execute(&self.write)
            .await
            .map_err(|e| self.failed(e))?;
        Ok(done.rows_affected() > 0)
    }

    /// Every agent, by region, fleet and name.
    pub(crate) async fn agents(&self) -> Result<Vec<AgentRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT a.agent, a.region, a.fleet, a.identity, a.version, a.clock_skew_ms, a.connected_at, a.gone_at, \
                    a.left_at, a.revoked_at IS NOT NULL, a.remark, \
                    (SELECT max(c.not_after) FROM certificate c WHERE c.agent = a.agent) \
             FROM agent a ORDER BY a.region, a.fleet, a.agent",
        )
        .fetch_all(&self.read)
        .await
        .map_err(|e| self.failed(e))?;
        rows.iter().map(agent_row).collect()
    }
}

fn agent_row(row: &SqliteRow) -> Result<AgentRow, StoreError> {
    let identity: Option<String> = row.get(3);
    Ok(AgentRow {
        id: AgentId { fleet: FleetId { region: row.get(1), fleet: row.get(2) }, agent: row.get(0) },
        identity: identity.map(|text| json(&text)).transpose()?,
        version: row.get(4),
        clock_skew_ms: row.get(5),
        connected_at: row.get::<Option<i64>, _>(6).map(time).transpose()?,
        gone_at: row.get::<Option<i64>, _>(7).map(time).transpose()?,
        left_at: row.get::<Option<i64>, _>(8).map(time).transpose()?,
        revoked: row.get(9),
        remark: row.get(10),
        certificate_until: row.get::<Option<i64>, _>(11).map(time).transpose()?,
    })
}

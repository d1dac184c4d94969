//! API tokens and join tokens. Only hashes are stored.

use ipnet::IpNet;
use jiff::Timestamp;
use preflight_core::plan::FleetId;
use preflight_core::run::AgentId;
use sqlx::Row as _;

use super::{Store, StoreError, time};
use crate::secret::{self, NewSecret};

/// A token as it is listed.
#[derive(Debug, Clone)]
pub(crate) struct TokenRow {
    pub(crate) id: String,
    /// `api` or `join`.
    pub(crate) kind: &'static str,
    /// The principal, or `REGION/FLEET`.
    pub(crate) name: String,
    pub(crate) scopes: String,
    pub(crate) expires_at: Timestamp,
    pub(crate) uses_left: Option<u32>,
    pub(crate) source: Option<String>,
}

/// Why a join token enrols nobody. The agent is told only that it was refused; the log says why.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinRefused {
    #[error("no such token")]
    Unknown,
    #[error("the token has expired")]
    Expired,
    #[error("the token is used up")]
    UsedUp,
    #[error("the token is bound to another source range")]
    Source,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Stores an API token; `scopes` are separated by commas.
    pub(crate) async fn put_api_token(
        &self,
        secret: &NewSecret,
        name: &str,
        scopes: &str,
        now: Timestamp,
        expires: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO api_token (id, name, scopes, hash, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)")
            .bind(&secret.id)
            .bind(name)
            .bind(scopes)
            .bind(&secret.hash)
            .bind(now.as_millisecond())
            .bind(expires.as_millisecond())
            .execute(&self.write)
            .await
            .map(|_| ())
            .map_err(|e| self.failed(e))
    }

    /// An API token's principal and scopes, if id and secret are right and it has not expired.
    pub(crate) async fn api_token(
        &self,
        id: &str,
        secret: &str,
        now: Timestamp,
    ) -> Result<Option<(String, String)>, StoreError> {
        let row = sqlx::query("SELECT name, scopes, hash, expires_at FROM api_token WHERE id = ?")
            .bind(id)
            .fetch_optional(&self.read)
            .await
            .map_err(|e| self.failed(e))?;
        let Some(row) = row else {
            // As much work as for a token that exists.
            let _ = secret::matches(secret, &[0; 32]);
            return Ok(None);
        };
        let right = secret::matches(secret, &row.get::<Vec<u8>, _>(2)) && row.get::<i64, _>(3) > now.as_millisecond();
        Ok(right.then(|| (row.get(0), row.get(1))))
    }

    /// Stores a join token.
    pub(crate) async fn put_join_token(
        &self,
        secret: &NewSecret,
        fleet: &FleetId,
        uses: u32,
        source: Option<&str>,
        by: &str,
        expires: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO join_token (id, region, fleet, hash, uses_left, source, created_by, expires_at) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&secret.id)
        .bind(&fleet.region)
        .bind(&fleet.fleet)
        .bind(&secret.hash)
        .bind(uses)
        .bind(source)
        .bind(by)
        .bind(expires.as_millisecond())
        .execute(&self.write)
        .await
        .map(|_| ())
        .map_err(|e| self.failed(e))
    }

    /// Uses a join token once: checks it, counts the use and makes the agent, in one transaction.
    pub(crate) async fn enrol(
        &self,
        id: &str,
        secret: &str,
        from: std::net::IpAddr,
        now: Timestamp,
    ) -> Result<AgentId, JoinRefused> {
        let failed = |e| JoinRefused::Store(self.failed(e));
        let mut tx = self.begin().await?;
        let row = sqlx::query("SELECT region, fleet, hash, uses_left, source, expires_at FROM join_token WHERE id = ?")
            .bind(id)
            .fetch_optional(&mut *tx)
            .await
            .map_err(failed)?
            .ok_or(JoinRefused::Unknown)?;
        if !secret::matches(secret, &row.get::<Vec<u8>, _>(2)) {
            return Err(JoinRefused::Unknown);
        }
        if row.get::<i64, _>(5) <= now.as_millisecond() {
            return Err(JoinRefused::Expired);
        }
        let source: Option<String> = row.get(4);
        let within = source.is_none_or(|s| s.parse::<IpNet>().is_ok_and(|range| range.contains(&from.to_canonical())));
        if !within {
            return Err(JoinRefused::Source);
        }
        let used = sqlx::query("UPDATE join_token SET uses_left = uses_left - 1 WHERE id = ? AND uses_left > 0")
            .bind(id)
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        if used.rows_affected() != 1 {
            return Err(JoinRefused::UsedUp);
        }
        let fleet = FleetId { region: row.get(0), fleet: row.get(1) };
        let suffix = secret::bytes::<4>().map_err(|e| StoreError::Unreadable(e.to_string()))?;
        let agent = format!("{}-{}", fleet.fleet, secret::hex(&suffix));
        sqlx::query("INSERT INTO agent (agent, region, fleet, enrolled_at) VALUES (?, ?, ?, ?)")
            .bind(&agent)
            .bind(&fleet.region)
            .bind(&fleet.fleet)
            .bind(now.as_millisecond())
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        Ok(AgentId { fleet, agent })
    }

    /// Every token that has not expired.
    pub(crate) async fn tokens(&self, now: Timestamp) -> Result<Vec<TokenRow>, StoreError> {
        let api =
            sqlx::query("SELECT id, name, scopes, expires_at FROM api_token WHERE expires_at > ? ORDER BY name, id")
                .bind(now.as_millisecond())
                .fetch_all(&self.read)
                .await
                .map_err(|e| self.failed(e))?;
        let join = sqlx::query(
            "SELECT id, region || '/' || fleet, expires_at, uses_left, source FROM join_token \
             WHERE expires_at > ? ORDER BY region, fleet, id",
        )
        .bind(now.as_millisecond())
        .fetch_all(&self.read)
        .await
        .map_err(|e| self.failed(e))?;
        let api = api.into_iter().map(|row| {
            Ok(TokenRow {
                id: row.get(0),
                kind: "api",
                name: row.get(1),
                scopes: row.get(2),
                expires_at: time(row.get(3))?,
                uses_left: None,
                source: None,
            })
        });
        let join = join.into_iter().map(|row| {
            Ok(TokenRow {
                id: row.get(0),
                kind: "join",
                name: row.get(1),
                scopes: String::new(),
                expires_at: time(row.get(2))?,
                uses_left: Some(row.get(3)),
                source: row.get(4),
            })
        });
        api.chain(join).collect()
    }

    /// Deletes a token of either kind; false if there is none of that id.
    pub(crate) async fn delete_token(&self, id: &str) -> Result<bool, StoreError> {
        let mut deleted = 0;
        for sql in ["DELETE FROM api_token WHERE id = ?", "DELETE FROM join_token WHERE id = ?"] {
            let done = sqlx::query(sql).bind(id).execute(&self.write).await.map_err(|e| self.failed(e))?;
            deleted += done.rows_affected();
        }
        Ok(deleted > 0)
    }
}

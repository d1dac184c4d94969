//! What the controller's parts share.

use std::sync::Arc;

use jiff::Timestamp;
use preflight_core::text::escape;
use preflight_proto::api::AuditEntry;

use crate::authority::Authority;
use crate::roster::Roster;
use crate::runs::Runs;
use crate::store::{Store, StoreError};

/// The controller's parts.
pub(crate) struct App {
    pub(crate) store: Store,
    pub(crate) authority: Authority,
    pub(crate) roster: Arc<Roster>,
    pub(crate) runs: Arc<Runs>,
    /// The ports that this controller listens on, which no agent probes on its addresses.
    pub(crate) ports: Vec<u16>,
}

impl App {
    /// Adds to the audit log. What cannot be logged there is logged as an error: the call itself goes on.
    pub(crate) async fn audit(&self, principal: &str, action: &str, outcome: &str, source: &str, detail: &str) {
        let now = Timestamp::now();
        let entry = AuditEntry {
            at: now.to_string(),
            principal: escape(principal),
            action: escape(action),
            outcome: escape(outcome),
            source: source.to_owned(),
            detail: escape(detail),
        };
        if let Err(error) = self.store.audit(&entry, now).await {
            tracing::error!(%error, ?entry, "failed to write to the audit log");
        }
    }

    /// Revokes an agent: its stream ends, and what it said in runs under way does not count. False if there is no such agent.
    pub(crate) async fn revoke(&self, agent: &str, why: &str) -> Result<bool, StoreError> {
        let known = self.store.revoke_agent(agent, why, Timestamp::now()).await?;
        self.expel(agent).await;
        Ok(known)
    }

    /// Ends a revoked agent's stream and disowns what it said.
    pub(crate) async fn expel(&self, agent: &str) {
        self.roster.remove(agent);
        self.runs.disown(agent).await;
        tracing::warn!(agent, "revoked");
    }

    /// Takes a lost agent out of its fleet until it connects again. False if there is no such agent.
    pub(crate) async fn forget(&self, agent: &str) -> Result<bool, StoreError> {
        let known = self.store.forget_agent(agent, Timestamp::now()).await?;
        self.roster.remove(agent);
        Ok(known)
    }
}

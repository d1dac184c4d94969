//! What the controller's parts share.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use preflight_core::text::{escape, escape_to};
use preflight_proto::api::AuditEntry;

use crate::authority::Authority;
use crate::follow::Followed;
use crate::quota::Quota;
use crate::roster::Roster;
use crate::runs::Runs;
use crate::store::{Store, StoreError};

/// The longest detail of an entry, in characters.
const MAX_DETAIL: usize = 4_000;
/// Who was not recognised, in the audit log.
const STRANGER: &str = "-";

/// Anybody can be refused, as often as they like. Each second has room for some entries; the others are counted.
#[derive(Debug, Default)]
pub(crate) struct Strangers(Mutex<Tally>);

#[derive(Debug, Default)]
struct Tally {
    second: i64,
    told: u32,
    unsaid: u64,
}

impl Strangers {
    const PER_SECOND: u32 = 10;

    /// Whether an entry has room now, with how many had none since the last one.
    fn admit(&self, now: Timestamp) -> Option<u64> {
        let mut tally = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tally.second != now.as_second() {
            (tally.second, tally.told) = (now.as_second(), 0);
        }
        if tally.told >= Self::PER_SECOND {
            tally.unsaid += 1;
            return None;
        }
        tally.told += 1;
        Some(std::mem::take(&mut tally.unsaid))
    }
}

/// The controller's parts.
pub(crate) struct App {
    pub(crate) store: Store,
    pub(crate) authority: Authority,
    pub(crate) roster: Arc<Roster>,
    pub(crate) runs: Arc<Runs>,
    /// What ad hoc probes may take.
    pub(crate) quota: Arc<Quota>,
    /// How many probes of one target begin in a second at most, over all agents of a run.
    pub(crate) target_rate: NonZeroU32,
    /// Where the inventory comes from, if not from people.
    pub(crate) followed: Option<Arc<Followed>>,
    /// The longest that an override may hold.
    pub(crate) longest_override: Duration,
    /// Whether a caller may ask for a verdict that it will not go by.
    pub(crate) allow_advisory: bool,
    /// Keeps strangers from filling the audit log.
    pub(crate) strangers: Strangers,
    /// The ports that this controller listens on, which no agent probes on its addresses.
    pub(crate) ports: Vec<u16>,
}

impl App {
    /// Why the inventory in force may not be true any more.
    pub(crate) fn stale_inventory(&self) -> Option<String> {
        self.runs.stale_inventory(Timestamp::now())
    }
}

/// What the audit log calls what was done; what is refused is called by `METHOD /path`.
pub(crate) const ACTIONS: [&str; 23] = [
    "gate",
    "verdict",
    "override",
    "override withdraw",
    "release deployed",
    "release candidate",
    "release quarantine",
    "release lift",
    "release rollback",
    "lock",
    "unlock",
    "rollback",
    "break_glass",
    "probe",
    "inventory apply",
    "agents revoke",
    "agents forget",
    "enrol",
    "connect",
    "token join",
    "token create",
    "token revoke",
    "METHOD /path",
];

/// An entry of the audit log, escaped and bounded.
pub(crate) fn audit_entry(
    principal: &str,
    action: &str,
    outcome: &str,
    source: &str,
    detail: &str,
    now: Timestamp,
) -> AuditEntry {
    AuditEntry {
        id: 0,
        at: now.to_string(),
        principal: escape(principal),
        action: escape(action),
        outcome: escape(outcome),
        source: source.to_owned(),
        detail: escape_to(detail, MAX_DETAIL),
    }
}

impl App {
    /// Adds to the audit log. What cannot be logged there is logged as an error: the call itself goes on.
    pub(crate) async fn audit(&self, principal: &str, action: &str, outcome: &str, source: &str, detail: &str) {
        let now = Timestamp::now();
        let mut detail = detail.to_owned();
        if principal == STRANGER {
            match self.strangers.admit(now) {
                Some(0) => {}
                Some(unsaid) => detail = format!("{detail} (and {unsaid} more refusals before it)"),
                None => return,
            }
        }
        let entry = audit_entry(principal, action, outcome, source, &detail, now);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_counted_and_not_written() {
        let strangers = Strangers::default();
        let at = |second| Timestamp::from_second(second).unwrap();
        let told = (0..1_000).filter(|_| strangers.admit(at(1)).is_some()).count();
        assert_eq!(told, 10);
        assert_eq!(strangers.admit(at(2)), Some(990));
        assert_eq!(strangers.admit(at(2)), Some(0));
    }
}

//! The port through which runs reach agents.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use preflight_core::identity::KeyRule;
use preflight_core::matrix::Candidate;
use preflight_core::plan::FleetId;
use preflight_proto::agent::Ask;
use tokio::sync::watch;

/// How runs see and reach agents, wherever those are connected.
pub(crate) trait Dispatch: Send + Sync {
    /// The agents of some fleets, in an order of preference that differs from run to run (`salt`).
    fn roster(
        &self,
        fleets: &BTreeSet<FleetId>,
        rule: &KeyRule,
        salt: &str,
        now: Timestamp,
    ) -> BTreeMap<FleetId, Vec<Candidate>>;

    /// A number that is another one each time an agent connects; none while it is not connected.
    fn connection(&self, agent: &str) -> Option<u64>;

    /// Sends a question. Nothing is promised: who does not answer in time is silent.
    fn ask(&self, agent: &str, ask: Ask);

    /// Tells an agent that a run has ended.
    fn cancel(&self, agent: &str, run: &str);

    /// Changes whenever an agent comes or goes.
    fn changes(&self) -> watch::Receiver<u64>;
}

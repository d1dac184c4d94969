//! What a run is made from, and what it is to do.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::baseline::{Duty, Proven};
use crate::identity::KeyRule;
use crate::plan::{FleetId, Plan};

/// What a run is, from its first moment: what the store keeps to take it up again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSpec {
    /// The id, which is the verdict's.
    pub id: String,
    /// What would ship; empty for ad hoc runs.
    pub release: String,
    /// What is to be shown.
    pub plan: Plan,
    /// When it began, by the controller's clock.
    pub started: Timestamp,
    /// When it ends, whatever has come by then.
    pub deadline: Timestamp,
    /// End as soon as a required cell fails.
    pub fail_fast: bool,
    /// One sick host fails its cell.
    pub strict: bool,
    /// A required cell that lacks agents waits for some to connect, until the deadline.
    #[serde(default)]
    pub await_agents: bool,
    /// Fleets of the plan's regions for which certificates exist and which the inventory lacks.
    pub unlisted: Vec<FleetId>,
    /// At most this many probes of one target (`host:port`) begin in a second, over all agents.
    #[serde(default = "RunSpec::default_target_rate")]
    pub target_rate: NonZeroU32,
    /// What is done about each cell, in the plan's order; empty where all are required.
    #[serde(default)]
    pub duties: Vec<Duty>,
    /// What it was asked for.
    #[serde(default)]
    pub mode: Mode,
    /// What it was made from.
    #[serde(default)]
    pub basis: Basis,
    /// Only these agents are asked, by name; none where all may be.
    #[serde(default)]
    pub only: Option<BTreeSet<String>>,
}

/// What a run is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A verdict that decides.
    #[default]
    Gate,
    /// A verdict that the caller will not go by, and says so.
    Advisory,
    /// A verdict beside the return to a release that was deployed before, which nothing holds up.
    Rollback,
}

/// What a plan was made from, and what it may leave out: kept with the verdict.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Basis {
    /// The manifest's name, as the caller gave it.
    pub manifest_name: String,
    /// The manifest's text.
    pub manifest: String,
    /// `sha256:…` of the inventory's text.
    pub inventory_digest: String,
    /// Which attributes make an identity's key.
    pub identity_key: KeyRule,
    /// By region, the deployed release that the cells of [`Duty::Proven`] were shown for; of its cells, those that are gone.
    pub proven: BTreeMap<String, Proven>,
    /// By region, the verdict that a release which is gone back to shipped with, where that was given for another manifest.
    #[serde(default)]
    pub other_manifest: BTreeMap<String, String>,
    /// By region, which record of a deployment was the last one; 0 where there was none.
    #[serde(default)]
    pub deployed: BTreeMap<String, i64>,
    /// By region, which record of a rollback was the last one; 0 where there was none.
    #[serde(default)]
    pub rolled_back: BTreeMap<String, i64>,
    /// Why the inventory may not be true any more: what is required does not pass by it.
    #[serde(default)]
    pub stale_inventory: Option<String>,
}

impl RunSpec {
    /// Probes of one target that begin in a second, unless the controller is told otherwise: a hundred agents that are asked at once
    /// are spread over a tenth of a second.
    pub const TARGET_RATE: NonZeroU32 = NonZeroU32::new(1_000).unwrap();

    fn default_target_rate() -> NonZeroU32 {
        Self::TARGET_RATE
    }

    /// What is done about a cell.
    pub fn duty(&self, cell: usize) -> &Duty {
        self.duties.get(cell).unwrap_or(&Duty::Required)
    }
}

//! Manifest × inventory: the ordered list of cells that a run executes.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::identity::NetworkIdentity;
use crate::manifest::Usage;
use crate::spec::ProbeSpec;

mod build;
pub mod host;

pub use build::PlanError;

/// A fleet of one region: `eu/web`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FleetId {
    /// The region.
    pub region: String,
    /// The fleet's name in that region.
    pub fleet: String,
}

impl fmt::Display for FleetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.region, self.fleet)
    }
}

/// What a cell is, whole: `sha256:` and 64 hex digits. A change of target, port, options or fleet is another cell.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CellDigest(pub String);

/// One dependency of one application, resolved for one region, seen from one fleet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// The application.
    pub application: String,
    /// Where it is seen from.
    #[serde(flatten)]
    pub fleet: FleetId,
    /// The dependency's name.
    pub dependency: String,
    /// What is probed and how.
    pub spec: ProbeSpec,
    /// How many agents must have reached it.
    pub min_agents: u32,
    /// The network identity that the inventory states for the fleet; empty where it states none.
    pub stated: NetworkIdentity,
    /// How the code uses it.
    #[serde(default)]
    pub usage: Usage,
    /// The line of the manifest on which the dependency begins; 0 where there is none.
    #[serde(default)]
    pub line: u32,
}

impl Cell {
    /// The digest over application, region, fleet, the whole of the probe and what is asked of the fleet (`min_agents`, stated identity). The dependency's name is no part of it: another name
    /// for the same probe is the same cell.
    pub fn digest(&self) -> CellDigest {
        // Arrays keep their order in JSON, so equal cells have equal bytes.
        let parts =
            (&self.application, &self.fleet.region, &self.fleet.fleet, &self.spec, self.min_agents, &self.stated);
        let bytes = serde_json::to_vec(&parts).unwrap_or_default();
        CellDigest(sha256(&bytes))
    }
}

/// A fleet that the manifest leaves out of a dependency, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Excluded {
    /// The fleet.
    #[serde(flatten)]
    pub fleet: FleetId,
    /// The dependency.
    pub dependency: String,
    /// The manifest's `because`.
    pub because: String,
}

/// The cells of a run, in the order: region, dependency as written, fleet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The application; `ad-hoc` where engineers named targets themselves.
    pub application: String,
    /// `sha256:…` of the manifest's text; empty for ad hoc runs.
    pub manifest_digest: String,
    /// The regions asked for, in the order given.
    pub regions: Vec<String>,
    /// What is to be shown.
    pub cells: Vec<Cell>,
    /// What the manifest leaves out on purpose.
    pub excluded: Vec<Excluded>,
}

impl Plan {
    /// The application of plans that no manifest made.
    pub const AD_HOC: &str = "ad-hoc";
    /// The most cells of one plan.
    pub const MAX_CELLS: usize = 10_000;

    /// The digest of each cell, in the plan's order.
    pub fn digests(&self) -> Vec<CellDigest> {
        self.cells.iter().map(Cell::digest).collect()
    }
}

/// `sha256:` and the hex digits.
pub fn sha256(bytes: &[u8]) -> String {
    // A run of a thousand cells makes thousands of these: formatting each byte would take longer than hashing.
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let digest = Sha256::digest(bytes);
    let mut text = String::with_capacity("sha256:".len() + 2 * digest.len());
    text.push_str("sha256:");
    let nibbles = digest.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    text.extend(nibbles.map(|nibble| DIGITS[usize::from(nibble)]));
    text
}

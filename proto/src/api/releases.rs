//! What is deployed, what would ship, and what holds it back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Deployed, Override, State};

/// `POST /v1/releases/candidate`: what would ship if the regions' pipelines ran now.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CandidateRequest {
    /// The application. May be absent where the inventory has only one, here and below.
    #[serde(default)]
    pub application: Option<String>,
    /// The regions.
    pub regions: Vec<String>,
    /// What would ship there.
    pub release: String,
}

/// `POST /v1/releases/quarantine`: a release, or cells of a verdict, must not ship.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct QuarantineRequest {
    /// The application; with a verdict it is the verdict's.
    #[serde(default)]
    pub application: Option<String>,
    /// The release; absent with `cells`.
    #[serde(default)]
    pub release: Option<String>,
    /// Where; empty is everywhere. A cell is of one region anyway.
    #[serde(default)]
    pub regions: Vec<String>,
    /// The verdict that has the cells.
    #[serde(default)]
    pub verdict: Option<String>,
    /// Cells, as `REGION/FLEET/DEPENDENCY`: they must not ship under any release.
    #[serde(default)]
    pub cells: Vec<String>,
    /// Why.
    pub reason: String,
}

/// `POST /v1/quarantines/{id}/lift`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct LiftRequest {
    /// The application.
    #[serde(default)]
    pub application: Option<String>,
    /// Why.
    pub reason: String,
}

/// `POST /v1/releases/rollback`: regions went back from a release to an earlier one.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// The application.
    #[serde(default)]
    pub application: Option<String>,
    /// The regions.
    pub regions: Vec<String>,
    /// What was bad: it is quarantined everywhere.
    pub from: String,
    /// What they went back to: the only release that may ship there until they are unlocked.
    pub to: String,
    /// Why.
    pub reason: String,
}

/// `POST /v1/lock`: nothing ships until somebody unlocks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct LockRequest {
    /// The application.
    #[serde(default)]
    pub application: Option<String>,
    /// The regions; empty with `all_regions`.
    #[serde(default)]
    pub regions: Vec<String>,
    /// Every region that the application runs in: a lock for each.
    #[serde(default)]
    pub all_regions: bool,
    /// Why.
    pub reason: String,
    /// In how many seconds somebody should look whether the lock is still needed. Time lifts no lock.
    #[serde(default)]
    pub remind_s: Option<u64>,
}

/// `POST /v1/unlock`: names what is expected to ship, and is refused (409) where something else would.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct UnlockRequest {
    /// The application.
    #[serde(default)]
    pub application: Option<String>,
    /// The regions; empty with `all_regions` or `confirm`.
    #[serde(default)]
    pub regions: Vec<String>,
    /// Every region that is locked, or where what an unlock named has yet to ship.
    #[serde(default)]
    pub all_regions: bool,
    /// What is expected to ship; absent with `confirm`.
    #[serde(default)]
    pub release: Option<String>,
    /// Unlock the regions whose candidate it is, and leave the others as they are; refused where that is none.
    #[serde(default)]
    pub ready: bool,
    /// By region, the release that somebody answers for whatever its candidate is. Takes the scope `override` as well.
    #[serde(default)]
    pub confirm: BTreeMap<String, String>,
    /// Why; needed with `confirm`.
    #[serde(default)]
    pub reason: Option<String>,
}

/// `GET /v1/releases`: the regions side by side.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Releases {
    /// By application and region.
    pub regions: Vec<RegionReleases>,
    /// What must not ship.
    pub quarantines: Vec<Quarantine>,
}

/// What is deployed in a region, what would ship next, and what holds it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RegionReleases {
    /// The application.
    pub application: String,
    /// The region.
    pub region: String,
    /// What is deployed there.
    pub deployed: Option<Deployed>,
    /// What would ship there.
    pub candidate: Option<Candidate>,
    /// Why nothing ships there.
    pub lock: Option<Lock>,
    /// What an unlock named, until it has shipped.
    pub named: Option<Named>,
    /// A rollback was asked for since that was recorded: what was proven with it does not count, and something else may run there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone_back: bool,
    /// The quarantines that what is deployed there is under: ids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deployed_quarantined: Vec<String>,
    /// Who answers there for releases that are quarantined, until when; only what excuses all that is known to be wrong with one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<Override>,
    /// Why the region was not unlocked; only in the answer to an unlock.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unready: Vec<String>,
}

/// What would ship in a region if its pipeline ran now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Candidate {
    /// The release.
    pub release: String,
    /// The verdict that was asked for last; none where it was only announced.
    pub verdict: Option<String>,
    /// That verdict's state in this region; none while its run is under way, or without one.
    pub state: Option<State>,
    /// How what it depends on differs from what another region's candidate depends on, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub differs: Option<String>,
    /// The quarantines that it is under: ids.
    pub quarantined: Vec<String>,
    /// Who announced it.
    pub by: String,
    /// When, RFC 3339.
    pub at: String,
}

/// Why nothing ships in a region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Lock {
    /// Who locked it.
    pub by: String,
    /// When, RFC 3339.
    pub at: String,
    /// Why.
    pub reason: String,
    /// Who else wants it locked, or for what other reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<Act>,
    /// When somebody should look whether it is still needed.
    pub remind_at: Option<String>,
    /// The one release that may ship all the same.
    pub except: Option<String>,
}

/// Who did something, when and why.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Act {
    /// Who.
    pub by: String,
    /// When, RFC 3339.
    pub at: String,
    /// Why.
    pub reason: String,
}

/// The first release that may ship after an unlock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Named {
    /// The release.
    pub release: String,
    /// Who unlocked.
    pub by: String,
    /// When, RFC 3339.
    pub at: String,
    /// Why; empty where nothing had to be confirmed.
    pub reason: String,
    /// The quarantines that it is under by now: ids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quarantined: Vec<String>,
}

/// Something that must not ship.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Quarantine {
    /// Its id.
    pub id: String,
    /// The application.
    pub application: String,
    /// The release.
    pub release: Option<String>,
    /// The cell's digest, whichever release carries it.
    pub digest: Option<String>,
    /// The cell, as `REGION/FLEET/DEPENDENCY`, as it was called then.
    pub cell: Option<String>,
    /// Where; empty is everywhere.
    pub regions: Vec<String>,
    /// Who.
    pub by: String,
    /// When, RFC 3339.
    pub at: String,
    /// Why.
    pub reason: String,
}

/// What came of a change to what may ship.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Changed {
    /// What was done, a line each.
    pub done: Vec<String>,
    /// What was not, and what else to know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
    /// How things stand now.
    pub releases: Releases,
}

//! What shipped: the baseline of the next gate.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use jiff::{SignedDuration, Timestamp};
use preflight_core::baseline::Proven;
use preflight_core::guard::{Guard, GuardError};
use preflight_core::identity::IdentityKey;
use preflight_core::plan::CellDigest;
use preflight_core::text::escape;
use preflight_proto::api::{self, DeployedRequest, Gate, Problem};
use serde::Deserialize;

use super::auth::Principal;
use super::gate::{release, stored_verdict};
use super::guard::Where;
use super::problem::Failure;
use crate::app::{App, audit_entry};
use crate::store::{BesideGuard, Deployed};

/// A verdict is what a release shipped with if it was given no longer ago than this.
const SHIPS_WITHIN: SignedDuration = SignedDuration::from_hours(24);

/// Records that a release has shipped in a region. What its verdict held as `pass` is not required again.
#[utoipa::path(post, path = "/v1/releases/deployed", request_body = DeployedRequest, security(("token" = [])), responses(
    (status = 200, body = api::Deployed), (status = 401, body = Problem), (status = 403, body = Problem),
    (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn deployed(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Json(request): Json<DeployedRequest>,
) -> Result<Json<api::Deployed>, Failure> {
    release(&request.release)?;
    Where::find(&app, Some(&request.application), std::slice::from_ref(&request.region), false).await?;
    // What ships without a verdict proves nothing, also where it did when it shipped before: the path may be gone since.
    let (cells, identities, decided) = match &request.verdict {
        Some(id) => shown_by(&stored_verdict(&app, id).await?, &request)?,
        None => (BTreeMap::new(), BTreeMap::new(), "no verdict"),
    };
    let deployed = Deployed {
        id: 0,
        application: request.application,
        region: request.region,
        proven: Proven { release: request.release, verdict: request.verdict, cells, identities },
        at: Timestamp::now(),
        principal: principal.name.clone(),
    };
    let detail = format!(
        "{} {} in {}, by verdict {} ({decided}), {} cells proven",
        deployed.application,
        deployed.proven.release,
        deployed.region,
        deployed.proven.verdict.as_deref().unwrap_or("none"),
        deployed.proven.cells.len()
    );
    // Without its record in the audit log nothing is proven.
    let entry = audit_entry(&principal.name, "release deployed", "ok", &principal.source, &detail, deployed.at);
    let record = |guard: &mut Guard| {
        guard.deployed(&deployed.region, &deployed.proven.release);
        Ok::<_, GuardError>(((), BesideGuard { entries: vec![entry], deployed: vec![deployed.clone()] }))
    };
    app.store.change_guard(&deployed.application, deployed.at, record).await??;
    Ok(Json(shown(deployed)))
}

/// What a verdict has shown of a region.
type Shown = (BTreeMap<CellDigest, String>, BTreeMap<String, BTreeSet<IdentityKey>>, &'static str);

/// The cells that a verdict held as `pass` in the region, each with the verdict whose run has shown it; the kinds of hosts that it
/// knew; and what it decided. What it did not mean to decide, or could not by an inventory that was too old, it has not shown.
fn shown_by(gate: &Gate, request: &DeployedRequest) -> Result<Shown, Failure> {
    let wrong = |what: &str, have: &str, want: &str| {
        let message = format!("verdict {} is for {what} {}, not {}", escape(&gate.id), escape(have), escape(want));
        Err(Failure::refused(message, "Name the verdict that this release shipped with.".to_owned()))
    };
    if gate.application != request.application {
        return wrong("application", &gate.application, &request.application);
    }
    if gate.release != request.release {
        return wrong("release", &gate.release, &request.release);
    }
    let Some(region) = gate.regions.iter().find(|region| region.region == request.region) else {
        let regions: Vec<&str> = gate.regions.iter().map(|region| region.region.as_str()).collect();
        return wrong("region", &regions.join(", "), &request.region);
    };
    let ended: Timestamp = gate.ended_at.parse().map_err(|_| Failure::internal("a verdict without a time"))?;
    if Timestamp::now().duration_since(ended) > SHIPS_WITHIN {
        let message = format!("verdict {} was given at {ended:.0}: too long ago for what ships now", escape(&gate.id));
        return Err(Failure::refused(
            message,
            "Gate the release again (`--scope all`), and name that verdict.".to_owned(),
        ));
    }
    let decided = match region.decision {
        api::Decision::Proceed => "proceed",
        api::Decision::Block => "block",
    };
    let stale = region.reasons.iter().any(|reason| reason.code == "inventory_stale");
    if gate.advisory || stale {
        return Ok((BTreeMap::new(), BTreeMap::new(), if stale { "inventory_stale" } else { "advisory" }));
    }
    let held = region.cells.iter().filter(|cell| cell.state == api::State::Pass);
    let by = |cell: &api::Cell| cell.proven_by.clone().unwrap_or_else(|| gate.id.clone());
    let cells = held.map(|cell| (CellDigest(cell.digest.clone()), by(cell))).collect();
    let keys = |seen: &api::FleetSeen| seen.identities.iter().cloned().map(IdentityKey).collect();
    let identities = region.fleets.iter().map(|seen| (seen.fleet.clone(), keys(seen))).collect();
    Ok((cells, identities, decided))
}

pub(super) fn shown(deployed: Deployed) -> api::Deployed {
    api::Deployed {
        application: deployed.application,
        region: deployed.region,
        release: deployed.proven.release,
        verdict: deployed.proven.verdict,
        proven: u32::try_from(deployed.proven.cells.len()).unwrap_or(u32::MAX),
        at: deployed.at.to_string(),
        by: deployed.principal,
    }
}

/// Narrows a list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub(super) struct Of {
    /// Only of this application.
    pub(super) application: Option<String>,
}

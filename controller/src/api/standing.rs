//! Whether a verdict still holds: what is asked at the last moment before shipping.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use jiff::Timestamp;
use preflight_core::run::Mode;
use preflight_proto::api::{Problem, Standing};

use super::gate::stored_verdict;
use super::problem::Failure;
use crate::app::App;
use crate::result::decide_again;
use crate::standing::objection;

/// A verdict as things stand now: its decisions by the overrides of this moment, and why it does not hold any more.
#[utoipa::path(get, path = "/v1/verdicts/{id}/standing", params(("id" = String, Path)), security(("token" = [])), responses(
    (status = 200, body = Standing), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn standing(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Standing>, Failure> {
    let mut gate = stored_verdict(&app, &id).await?;
    let Some(spec) = app.store.run_spec(&id).await? else { return Err(Failure::no_verdict(&id)) };
    let now = Timestamp::now();
    let beside = app.runs.beside(&gate.application, now).await?.0;
    decide_again(&mut gate, &beside, now);
    let mut objections = app.runs.objections(&spec, &gate, now).await?;
    // Whoever ships may have either manifest in hand; who has asked with it in hand knows which.
    for region in spec.plan.regions.iter().filter(|_| spec.mode != Mode::Rollback) {
        if let Some(other) = app.store.other_manifest_since(&spec, region).await? {
            let text = format!("in {region} this release was gated with another manifest since (verdict {other})");
            objections.push(objection(Some(region), "newer_manifest", text));
        }
    }
    Ok(Json(Standing { gate, objections }))
}

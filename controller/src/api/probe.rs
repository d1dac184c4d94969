//! Ad hoc probes.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use jiff::Timestamp;
use preflight_core::plan::Plan;
use preflight_core::run::{Basis, Mode, RunSpec};
use preflight_core::target::Target;
use preflight_core::text::escape;
use preflight_proto::api::{ProbeRequest, ProbeResults, Problem};

use super::auth::Principal;
use super::gate::{Stated, deadline, run_id};
use super::problem::Failure;
use super::stream;
use crate::app::App;
use crate::runs::{Handle, Kind};
use crate::store::AgentRow;

const MAX_TARGETS: usize = 100;

/// Probes targets from the fleets that are named, or from all.
///
/// With `Accept: application/x-ndjson` the answer is a stream of events, a `result` for each agent's answer as it comes,
/// the last one `{"event":"done",…}` or `{"event":"error",…}`.
#[utoipa::path(post, path = "/v1/probe", request_body = ProbeRequest, security(("token" = [])), responses(
    (status = 200, body = ProbeResults), (status = 401, body = Problem), (status = 403, body = Problem),
    (status = 422, body = Problem), (status = 429, description = "Too many ad hoc runs or targets; `Retry-After` says when to try again", body = Problem),
    (status = 503, body = Problem)))]
pub(super) async fn probe(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    headers: HeaderMap,
    Json(request): Json<ProbeRequest>,
) -> Result<Response, Failure> {
    if request.targets.is_empty() || request.targets.len() > MAX_TARGETS {
        return Err(Failure::usage(format!("name 1 to {MAX_TARGETS} targets"), None));
    }
    let targets = request
        .targets
        .iter()
        .map(|text| text.parse::<Target>().map_err(|error| Failure::usage(format!("{}: {error}", escape(text)), None)))
        .collect::<Result<Vec<Target>, Failure>>()?;
    let inventory = Stated::current(&app).await?;
    let (region, fleet) = (request.region.as_deref(), request.fleet.as_deref());
    let mut plan = Plan::ad_hoc(&targets, &inventory.parsed, region, fleet, request.application.as_deref())?;
    let only = match &request.host {
        Some(host) => Some(on_host(&app, &mut plan, host).await?),
        None => None,
    };
    let started = Timestamp::now();
    let place = app.quota.admit(&principal.name, targets.len(), started)?;
    let spec = RunSpec {
        id: run_id(None)?,
        release: String::new(),
        plan,
        started,
        deadline: deadline(started, request.wait_ms)?,
        fail_fast: false,
        strict: false,
        await_agents: false,
        unlisted: Vec::new(),
        target_rate: app.target_rate,
        duties: Vec::new(),
        mode: Mode::Gate,
        basis: Basis { identity_key: inventory.parsed.identity_key, ..Basis::default() },
        only,
    };
    let names = targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    app.audit(&principal.name, "probe", &spec.id, &principal.source, &names).await;
    let handle = app.runs.start(Kind::Probe, "", spec, &principal.name, None).await?;
    // The run goes on when the caller does not wait for it, and so does its place.
    let until = handle.clone();
    tokio::spawn(async move {
        if let Handle::Active(run) = until {
            let _ = run.result().await;
        }
        drop(place);
    });
    if stream::wanted(&headers) {
        return Ok(stream::lines(handle, true));
    }
    let guard = Abandon(handle.clone());
    let results = stream::probe(stream::result(handle).await?)?;
    drop(guard);
    Ok(Json(results).into_response())
}

/// The agents on a host of that name, or of that name themselves. The plan keeps their fleets only.
async fn on_host(app: &App, plan: &mut Plan, host: &str) -> Result<BTreeSet<String>, Failure> {
    let named = |row: &AgentRow| {
        let hosts = row.identity.as_ref().and_then(|identity| identity.0.get("host"));
        row.id.agent == host || hosts.is_some_and(|hosts| hosts.contains(host))
    };
    let rows = app.store.agents().await?;
    let found: Vec<AgentRow> = rows.into_iter().filter(|row| !row.revoked && named(row)).collect();
    plan.cells.retain(|cell| found.iter().any(|row| row.id.fleet == cell.fleet));
    if plan.cells.is_empty() {
        let message = format!("no agent on host {} is in the fleets that were asked for", escape(host));
        return Err(Failure::usage(message, "`preflight agents` shows hosts and agents by fleet.".to_owned()));
    }
    Ok(found.into_iter().map(|row| row.id.agent).collect())
}

/// Abandons the run of a caller that went away.
struct Abandon(Handle);

impl Drop for Abandon {
    fn drop(&mut self) {
        if let Handle::Active(run) = &self.0 {
            run.abandon();
        }
    }
}

//! What is known: the matrix, the agents, the audit log.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use jiff::Timestamp;
use preflight_core::inventory::Inventory;
use preflight_core::plan::FleetId;
use preflight_core::text::escape;
use preflight_proto::api::{Agent, Agents, AuditLog, Matrix, Problem, RevokeRequest};
use serde::Deserialize;

use super::auth::Principal;
use super::problem::Failure;
use crate::app::{ACTIONS, App};
use crate::store::{AgentRow, AuditFilter};

/// Entries of the audit log that one answer holds at most.
const AUDIT_ENTRIES: u32 = 1_000;

/// Which cells.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MatrixQuery {
    application: Option<String>,
    region: Option<String>,
}

/// The latest state of every cell.
#[utoipa::path(get, path = "/v1/matrix", security(("token" = [])),
    params(("application" = Option<String>, Query), ("region" = Option<String>, Query)), responses(
    (status = 200, body = Matrix), (status = 401, body = Problem), (status = 403, body = Problem)))]
pub(super) async fn matrix(
    State(app): State<Arc<App>>,
    Query(query): Query<MatrixQuery>,
) -> Result<Json<Matrix>, Failure> {
    let cells = app.store.latest(query.application.as_deref(), query.region.as_deref()).await?;
    Ok(Json(Matrix { cells: cells.into_iter().map(|measured| measured.cell).collect() }))
}

/// Every agent, and what is odd about the fleets.
#[utoipa::path(get, path = "/v1/agents", security(("token" = [])), responses(
    (status = 200, body = Agents), (status = 401, body = Problem), (status = 403, body = Problem)))]
pub(super) async fn agents(State(app): State<Arc<App>>) -> Result<Json<Agents>, Failure> {
    let now = Timestamp::now();
    let agents: Vec<Agent> = app.store.agents().await?.into_iter().map(|row| agent(&app, row, now)).collect();
    let inventory = match app.store.inventory().await? {
        Some((name, text, _, _)) => Some(Inventory::parse(&name, &text)?),
        None => None,
    };
    let remarks = inventory.map_or_else(
        || vec!["There is no inventory yet: `preflight inventory apply inventory.yaml`.".to_owned()],
        |inventory| remarks(&inventory, &agents),
    );
    Ok(Json(Agents { agents, remarks }))
}

fn agent(app: &App, row: AgentRow, now: Timestamp) -> Agent {
    let standing = app.roster.standing(&row.id.agent, now);
    let state = if row.revoked {
        "revoked"
    } else if let Some((standing, _)) = &standing {
        standing.as_str()
    } else if row.connected_at.is_none() {
        "enrolled"
    } else if row.left_at.is_some() {
        "left"
    } else {
        "lost"
    };
    Agent {
        agent: row.id.agent,
        region: row.id.fleet.region,
        fleet: row.id.fleet.fleet,
        state: state.to_owned(),
        version: row.version,
        identity: standing.map(|(_, identity)| identity).or(row.identity).unwrap_or_default(),
        last_seen: if matches!(state, "connected" | "unsteady") { Some(now) } else { row.gone_at }
            .map(|seen| seen.to_string()),
        clock_skew_ms: row.clock_skew_ms,
        certificate_until: row.certificate_until.map(|until| until.to_string()).unwrap_or_default(),
        remark: row.remark,
    }
}

/// Fleets of the inventory without an agent, and fleets that have agents and are not in the inventory.
fn remarks(inventory: &Inventory, agents: &[Agent]) -> Vec<String> {
    let of = |wanted: fn(&Agent) -> bool| -> BTreeSet<FleetId> {
        let fleet = |agent: &Agent| FleetId { region: agent.region.clone(), fleet: agent.fleet.clone() };
        agents.iter().filter(|agent| wanted(agent)).map(fleet).collect()
    };
    let connected = of(|agent| agent.state == "connected");
    let live = of(|agent| agent.state != "revoked" && agent.state != "left");
    let empty = inventory.fleets().map(|(id, _)| id).filter(|id| !connected.contains(id)).map(|id| {
        format!("No agent of {id} is connected: `preflight token join --region {} --fleet {}`.", id.region, id.fleet)
    });
    let unlisted = live
        .iter()
        .filter(|id| inventory.fleet(id).is_none())
        .map(|id| format!("Agents hold certificates for {id}, which the inventory lacks: add it, or revoke them."));
    empty.chain(unlisted).collect()
}

/// Revokes an agent for good: its stream ends, and it must enrol anew.
#[utoipa::path(post, path = "/v1/agents/{agent}/revoke", params(("agent" = String, Path)), request_body = RevokeRequest,
    security(("token" = [])), responses((status = 200), (status = 401, body = Problem), (status = 403, body = Problem),
    (status = 404, body = Problem)))]
pub(super) async fn revoke(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Path(agent): Path<String>,
    Json(request): Json<RevokeRequest>,
) -> Result<Json<serde_json::Value>, Failure> {
    let why = format!("{}, by {}", escape(&request.reason), principal.name);
    if !app.revoke(&agent, &why).await? {
        return Err(Failure::unknown("agent of that name", "`preflight agents` lists them."));
    }
    app.audit(&principal.name, "agents revoke", &agent, &principal.source, &why).await;
    Ok(super::done())
}

/// Takes a lost agent out of its fleet until it connects again, so that its identity is not missed.
#[utoipa::path(post, path = "/v1/agents/{agent}/forget", params(("agent" = String, Path)), security(("token" = [])),
    responses((status = 200), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn forget(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Path(agent): Path<String>,
) -> Result<Json<serde_json::Value>, Failure> {
    if !app.forget(&agent).await? {
        return Err(Failure::unknown("agent of that name", "`preflight agents` lists them."));
    }
    app.audit(&principal.name, "agents forget", &agent, &principal.source, "").await;
    Ok(super::done())
}

/// Which entries of the audit log.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AuditQuery {
    /// From this time on, RFC 3339.
    since: Option<String>,
    /// Of this principal.
    principal: Option<String>,
    /// This action, or those that begin with this word: `override` finds `override withdraw` too.
    action: Option<String>,
    /// Older than the entry of this number: `next` of the answer before.
    before: Option<i64>,
    /// At most so many, 1 to 1000.
    limit: Option<u32>,
}

/// An action that there is not finds nothing, which must not look as if nothing had been done.
async fn known_action(app: &App, action: &str) -> Result<(), Failure> {
    let begins = |known: &str| known.strip_prefix(action).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '));
    let method = action.split(' ').next().unwrap_or_default();
    if ACTIONS.iter().any(|known| begins(known)) || ["GET", "POST", "PUT", "DELETE"].contains(&method) {
        return Ok(());
    }
    let of_it = AuditFilter { action: Some(action), ..AuditFilter::default() };
    if app.store.audit_log(&of_it, 1).await?.is_empty() {
        let fix = format!("There are: {}.", ACTIONS.join(", "));
        return Err(Failure::usage(format!("the audit log knows no action '{}'", escape(action)), fix));
    }
    Ok(())
}

/// The newest entries of the audit log, newest first. There is no call that changes it.
#[utoipa::path(get, path = "/v1/audit", params(AuditQuery), security(("token" = [])), responses(
    (status = 200, body = AuditLog), (status = 401, body = Problem), (status = 403, body = Problem),
    (status = 422, body = Problem)))]
pub(super) async fn audit(
    State(app): State<Arc<App>>,
    Query(query): Query<AuditQuery>,
) -> Result<Json<AuditLog>, Failure> {
    let since = query.since.as_deref().map(str::parse::<Timestamp>).transpose().map_err(|_| {
        Failure::usage("`since` is not a time", "Write it as RFC 3339: 2025-03-31T10:30:00Z".to_owned())
    })?;
    if let Some(action) = query.action.as_deref() {
        known_action(&app, action).await?;
    }
    let most = query.limit.unwrap_or(AUDIT_ENTRIES);
    if !(1..=AUDIT_ENTRIES).contains(&most) {
        return Err(Failure::usage(format!("`limit` must be 1 to {AUDIT_ENTRIES}"), None));
    }
    let wanted = AuditFilter {
        since,
        principal: query.principal.as_deref(),
        action: query.action.as_deref(),
        before: query.before,
    };
    // One more than is shown tells whether there are older ones.
    let mut entries = app.store.audit_log(&wanted, most + 1).await?;
    let shown = usize::try_from(most).unwrap_or(usize::MAX);
    let more = entries.len() > shown;
    entries.truncate(shown);
    let next = entries.last().map(|entry| entry.id).filter(|_| more);
    Ok(Json(AuditLog { entries, next }))
}

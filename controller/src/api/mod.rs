//! The HTTP API. Routes are grouped by the scope that they ask for, and a caller without it learns nothing of what exists.

mod auth;
mod drift;
mod flagger;
mod gate;
mod guard;
mod health;
mod inventory;
mod overrides;
mod probe;
mod problem;
mod records;
mod release;
mod releases;
mod standing;
mod stream;
mod tokens;
mod unlock;
mod view;

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};

use crate::app::App;
use auth::Scope;

/// The largest request body, in bytes: a manifest of the largest size, escaped for JSON.
const MAX_BODY: usize = 1024 * 1024;

/// The API's description, generated from the code.
#[derive(OpenApi)]
#[openapi(
    info(title = "preflight", description = "Connectivity preflight: proof that every fleet reaches what it depends on."),
    paths(
        gate::gate, gate::check, gate::verdict, standing::standing, release::deployed, releases::list, guard::candidate,
        guard::quarantine, guard::lift, guard::rollback, guard::lock, unlock::unlock, overrides::create,
        overrides::list, overrides::withdraw, records::deliver, probe::probe, drift::drift, view::matrix, view::agents, view::revoke, view::forget,
        view::audit, inventory::show, inventory::apply, tokens::create_join, tokens::create_api, tokens::list,
        tokens::revoke, health::metrics, health::healthy, health::ready
    ),
    modifiers(&BearerToken)
)]
struct Description;

struct BearerToken;

impl utoipa::Modify for BearerToken {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        openapi.components.get_or_insert_default().add_security_scheme("token", scheme);
    }
}

/// The description as JSON text, as it is served and checked in.
pub(crate) fn description() -> String {
    let mut text = Description::openapi().to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

/// The whole API.
pub(crate) fn router(app: Arc<App>) -> Router {
    let scoped = |scope: Scope, router: Router<Arc<App>>| {
        router.route_layer(from_fn_with_state((app.clone(), scope), auth::require))
    };
    let read = Router::new()
        .route("/v1/verdicts/{id}", get(gate::verdict))
        .route("/v1/verdicts/{id}/standing", get(standing::standing))
        .route("/v1/releases", get(releases::list))
        .route("/v1/overrides", get(overrides::list))
        .route("/v1/drift", get(drift::drift))
        .route("/v1/matrix", get(view::matrix))
        .route("/v1/agents", get(view::agents))
        .route("/v1/inventory", get(inventory::show))
        .route("/metrics", get(health::metrics));
    let gate = Router::new()
        .route("/v1/gate", post(gate::gate))
        .route("/v1/gate/check", post(gate::check))
        .route("/v1/records", post(records::deliver));
    let release = Router::new()
        .route("/v1/releases/deployed", post(release::deployed))
        .route("/v1/releases/candidate", post(guard::candidate))
        .route("/v1/releases/quarantine", post(guard::quarantine))
        .route("/v1/releases/rollback", post(guard::rollback))
        .route("/v1/lock", post(guard::lock))
        .route("/v1/unlock", post(unlock::unlock));
    let overrides = Router::new()
        .route("/v1/overrides", post(overrides::create))
        .route("/v1/quarantines/{id}/lift", post(guard::lift))
        .route("/v1/overrides/{id}", delete(overrides::withdraw));
    let probe = Router::new().route("/v1/probe", post(probe::probe));
    let admin = Router::new()
        .route("/v1/inventory", axum::routing::put(inventory::apply))
        .route("/v1/agents/{agent}/revoke", post(view::revoke))
        .route("/v1/agents/{agent}/forget", post(view::forget))
        .route("/v1/tokens", get(tokens::list).post(tokens::create_api))
        .route("/v1/tokens/join", post(tokens::create_join))
        .route("/v1/tokens/{id}", delete(tokens::revoke))
        .route("/v1/audit", get(view::audit));
    let open = Router::new()
        .route("/-/healthy", get(health::healthy))
        .route("/-/ready", get(health::ready))
        .route("/openapi.json", get(|| async { ([("content-type", "application/json")], description()) }));
    let unknown =
        Router::new().fallback(problem::not_found).layer(from_fn_with_state((app.clone(), Scope::Any), auth::require));
    scoped(Scope::Read, read)
        .merge(scoped(Scope::Gate, gate))
        .merge(scoped(Scope::Release, release))
        .merge(scoped(Scope::Override, overrides))
        .merge(scoped(Scope::Probe, probe))
        .merge(scoped(Scope::Admin, admin))
        .merge(open)
        .merge(unknown)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn(problem::as_json))
        .with_state(app)
}

/// An answer that is only `{}`.
fn done() -> Json<serde_json::Value> {
    Json(serde_json::json!({}))
}

#[cfg(test)]
mod tests {
    /// The description that is checked in is the one that the code gives: `make openapi` writes it.
    #[test]
    fn the_checked_in_description_is_current() {
        let checked_in = include_str!("../../openapi.json");
        assert!(checked_in == super::description(), "controller/openapi.json is out of date: run `make openapi`");
    }
}

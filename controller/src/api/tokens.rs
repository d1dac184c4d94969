//! Join tokens for agents and API tokens for people and pipelines. A secret is shown once.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::{Extension, Json};
use ipnet::IpNet;
use jiff::Timestamp;
use preflight_core::plan::FleetId;
use preflight_core::text::{escape, is_plain};
use preflight_proto::api::{ApiTokenRequest, JoinTokenRequest, NewToken, Problem, TokenEntry, TokenList};

use super::auth::{Principal, SCOPES};
use super::gate::Stated;
use super::problem::Failure;
use crate::app::App;
use crate::secret::NewSecret;

const HOUR_S: u64 = 60 * 60;
/// A join token that lives longer than this must be bound to a source range.
const LONG_LIVED_S: u64 = 24 * HOUR_S;
const MAX_TTL_S: u64 = 366 * 24 * HOUR_S;
const MAX_USES: u32 = 100_000;

/// Makes a join token for a fleet of the inventory.
#[utoipa::path(post, path = "/v1/tokens/join", request_body = JoinTokenRequest, security(("token" = [])), responses(
    (status = 200, body = NewToken), (status = 401, body = Problem), (status = 403, body = Problem),
    (status = 422, body = Problem)))]
pub(super) async fn create_join(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Json(request): Json<JoinTokenRequest>,
) -> Result<Json<NewToken>, Failure> {
    let inventory = Stated::current(&app).await?.parsed;
    let fleet = FleetId { region: request.region, fleet: request.fleet };
    if inventory.fleet(&fleet).is_none() {
        let known = inventory.fleets().map(|(id, _)| id.to_string()).collect::<Vec<_>>().join(", ");
        let (region, name) = (escape(&fleet.region), escape(&fleet.fleet));
        return Err(Failure::usage(
            format!("the inventory has no fleet {region}/{name}"),
            format!("Use one of {known}, or add it with `preflight inventory apply`."),
        ));
    }
    if !(1..=MAX_USES).contains(&request.uses) {
        return Err(Failure::usage(format!("`uses` must be 1 to {MAX_USES}"), None));
    }
    let source = request.source.as_deref().map(source_range).transpose()?;
    if request.ttl_s > LONG_LIVED_S && source.is_none() {
        let fix =
            "Give the addresses that agents enrol from, for example --source 10.0.0.0/8, or a --ttl of at most 24h.";
        return Err(Failure::usage(
            "a join token that lives longer than 24 hours must be bound to a source range",
            fix.to_owned(),
        ));
    }
    let now = Timestamp::now();
    let expires = expiry(now, request.ttl_s)?;
    let secret = NewSecret::new().map_err(|error| Failure::internal(error.to_string()))?;
    app.store.put_join_token(&secret, &fleet, request.uses, source.as_deref(), &principal.name, expires).await?;
    app.audit(&principal.name, "token join", &secret.id, &principal.source, &fleet.to_string()).await;
    let token = secret.join_token(&app.authority.fingerprint());
    Ok(Json(NewToken { id: secret.id, token, expires_at: expires.to_string() }))
}

fn source_range(text: &str) -> Result<String, Failure> {
    let range: Result<IpNet, _> = text.parse();
    if range.as_ref().is_ok_and(|range| range.prefix_len() == 0) {
        return Err(Failure::usage(format!("{} is every address there is, and binds to nothing", escape(text)), None));
    }
    range.map(|range| range.to_string()).map_err(|_| {
        let fix = "Write it as CIDR, for example 10.0.0.0/8.";
        Failure::usage(format!("'{}' is not a source range", escape(text)), fix.to_owned())
    })
}

fn expiry(now: Timestamp, ttl_s: u64) -> Result<Timestamp, Failure> {
    if !(1..=MAX_TTL_S).contains(&ttl_s) {
        return Err(Failure::usage("a token lives from one second to 366 days", None));
    }
    now.checked_add(Duration::from_secs(ttl_s)).map_err(|error| Failure::internal(error.to_string()))
}

/// Makes an API token.
#[utoipa::path(post, path = "/v1/tokens", request_body = ApiTokenRequest, security(("token" = [])), responses(
    (status = 200, body = NewToken), (status = 401, body = Problem), (status = 403, body = Problem),
    (status = 422, body = Problem)))]
pub(super) async fn create_api(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Json(request): Json<ApiTokenRequest>,
) -> Result<Json<NewToken>, Failure> {
    let name = request.name.trim();
    if name.is_empty() || name.len() > 100 || !name.chars().all(is_plain) {
        return Err(Failure::usage("`name` must be 1 to 100 bytes of visible text", None));
    }
    if let Some(unknown) = request.scopes.iter().find(|scope| !SCOPES.contains(&scope.as_str())) {
        return Err(Failure::usage(
            format!("there is no scope '{}'", escape(unknown)),
            format!("Use one or more of {}.", SCOPES.join(", ")),
        ));
    }
    if request.scopes.is_empty() {
        return Err(Failure::usage("a token needs a scope", format!("Use one or more of {}.", SCOPES.join(", "))));
    }
    let now = Timestamp::now();
    let expires = expiry(now, request.ttl_s)?;
    let secret = NewSecret::new().map_err(|error| Failure::internal(error.to_string()))?;
    let scopes = request.scopes.join(",");
    app.store.put_api_token(&secret, name, &scopes, now, expires).await?;
    app.audit(&principal.name, "token create", &secret.id, &principal.source, &format!("{name}: {scopes}")).await;
    Ok(Json(NewToken { token: secret.api_token(), id: secret.id, expires_at: expires.to_string() }))
}

/// Every token that has not expired, without its secret.
#[utoipa::path(get, path = "/v1/tokens", security(("token" = [])), responses(
    (status = 200, body = TokenList), (status = 401, body = Problem), (status = 403, body = Problem)))]
pub(super) async fn list(State(app): State<Arc<App>>) -> Result<Json<TokenList>, Failure> {
    let tokens = app.store.tokens(Timestamp::now()).await?.into_iter().map(|row| TokenEntry {
        id: row.id,
        kind: row.kind.to_owned(),
        name: row.name,
        scopes: row.scopes.split(',').filter(|s| !s.is_empty()).map(str::to_owned).collect(),
        expires_at: row.expires_at.to_string(),
        uses_left: row.uses_left,
        source: row.source,
    });
    Ok(Json(TokenList { tokens: tokens.collect() }))
}

/// Revokes a token of either kind, at once.
#[utoipa::path(delete, path = "/v1/tokens/{id}", params(("id" = String, Path)), security(("token" = [])), responses(
    (status = 200), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn revoke(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
) -> Result<Json<serde_json::Value>, Failure> {
    if !app.store.delete_token(&id).await? {
        return Err(Failure::unknown("token of that id", "`preflight token list` has them."));
    }
    app.audit(&principal.name, "token revoke", &id, &principal.source, "").await;
    Ok(super::done())
}

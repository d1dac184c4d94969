//! The inventory.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use jiff::Timestamp;
use preflight_core::inventory::Inventory;
use preflight_core::plan::sha256;
use preflight_core::text::escape;
use preflight_proto::api::{InventoryDocument, Problem};

use super::auth::Principal;
use super::problem::Failure;
use crate::app::{App, audit_entry};

/// The inventory that was applied last.
#[utoipa::path(get, path = "/v1/inventory", security(("token" = [])), responses(
    (status = 200, body = InventoryDocument), (status = 401, body = Problem), (status = 403, body = Problem),
    (status = 404, body = Problem)))]
pub(super) async fn show(State(app): State<Arc<App>>) -> Result<Json<InventoryDocument>, Failure> {
    let Some((name, inventory, applied_at, applied_by)) = app.store.inventory().await? else {
        return Err(Failure::not_found("inventory yet; `preflight inventory apply inventory.yaml` applies one"));
    };
    let (read_at, error) = app.followed.as_ref().map(|followed| followed.status()).unwrap_or_default();
    Ok(Json(InventoryDocument {
        inventory,
        name,
        applied_at: Some(applied_at.to_string()),
        applied_by: Some(applied_by),
        source: app.followed.as_ref().map(|followed| followed.name()),
        read_at: read_at.map(|at| at.to_string()),
        error,
    }))
}

/// Applies an inventory. It is checked first, and counts for every run that starts from then on.
#[utoipa::path(put, path = "/v1/inventory", request_body = InventoryDocument, security(("token" = [])), responses(
    (status = 200, body = InventoryDocument), (status = 401, body = Problem), (status = 403, body = Problem),
    (status = 422, body = Problem)))]
pub(super) async fn apply(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Json(document): Json<InventoryDocument>,
) -> Result<Json<InventoryDocument>, Failure> {
    if let Some(followed) = &app.followed {
        let message = format!("this controller takes its inventory from {}", followed.name());
        return Err(Failure::refused(message, "Change it there: it is read again by itself.".to_owned()));
    }
    let name = if document.name.is_empty() { "inventory.yaml".to_owned() } else { escape(&document.name) };
    Inventory::parse(&name, &document.inventory)?;
    let now = Timestamp::now();
    let detail = format!("{name} {}", sha256(document.inventory.as_bytes()));
    let entry = audit_entry(&principal.name, "inventory apply", "ok", &principal.source, &detail, now);
    app.store.put_inventory(&name, &document.inventory, now, &principal.name, &entry).await?;
    Ok(Json(InventoryDocument {
        inventory: document.inventory,
        name,
        applied_at: Some(now.to_string()),
        applied_by: Some(principal.name),
        source: None,
        read_at: None,
        error: None,
    }))
}

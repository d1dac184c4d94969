//! What was done while the controller could not be asked, told at the next contact.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use jiff::Timestamp;
use preflight_proto::api::{Problem, Record};

use super::auth::Principal;
use super::done;
use super::problem::Failure;
use crate::app::{App, audit_entry};

/// The longest field, in bytes.
const MAX_FIELD: usize = 1_000;

/// Takes a record into the audit log, once.
#[utoipa::path(post, path = "/v1/records", request_body = Record, security(("token" = [])), responses(
    (status = 200), (status = 401, body = Problem), (status = 403, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn deliver(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Json(record): Json<Record>,
) -> Result<Json<serde_json::Value>, Failure> {
    if !["break_glass", "rollback"].contains(&record.kind.as_str()) {
        return Err(Failure::usage("`kind` must be break_glass or rollback", None));
    }
    let fields = [
        ("id", &record.id),
        ("application", &record.application),
        ("release", &record.release),
        ("manifest_digest", &record.manifest_digest),
        ("reason", &record.reason),
        ("ticket", &record.ticket),
        ("by", &record.by),
        ("at", &record.at),
        ("error", &record.error),
    ];
    let regions = record.regions.join(",");
    if let Some((field, _)) = fields.iter().chain(&[("regions", &regions)]).find(|(_, text)| text.len() > MAX_FIELD) {
        return Err(Failure::usage(format!("`{field}` is longer than {MAX_FIELD} bytes"), None));
    }
    let detail = serde_json::to_string(&record).map_err(|error| Failure::internal(error.to_string()))?;
    let now = Timestamp::now();
    let entry = audit_entry(&principal.name, &record.kind, "delivered", &principal.source, &detail, now);
    app.store.put_record(&record.id, &entry, now).await?;
    Ok(done())
}

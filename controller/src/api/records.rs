//! What was done while the controller could not be asked, told at the next contact.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use jiff::Timestamp;
use preflight_core::name::Name;
use preflight_core::text::escape;
use preflight_proto::api::{Delivered, Problem, Record};

use super::auth::Principal;
use super::gate::Stated;
use super::problem::Failure;
use crate::app::{App, audit_entry};
use crate::store::StoreError;

/// The longest field, in bytes.
const MAX_FIELD: usize = 1_000;
/// Regions that a notice names at most.
const NAMED: usize = 5;

/// Takes a record into the audit log, once. What it names and nobody knows is kept all the same, and remarked on.
#[utoipa::path(post, path = "/v1/records", request_body = Record, security(("token" = [])), responses(
    (status = 200, body = Delivered), (status = 401, body = Problem), (status = 403, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn deliver(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Json(record): Json<Record>,
) -> Result<Json<Delivered>, Failure> {
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
    app.store.put_record(&record, &entry, now).await?;
    Ok(Json(Delivered { notice: notice(&app, &record).await? }))
}

/// What the record names and this controller does not know: mostly a slip, or the record of another controller.
async fn notice(app: &App, record: &Record) -> Result<Option<String>, StoreError> {
    let mut odd = Vec::new();
    // Without an inventory nothing is known, which is not the record's fault.
    if let Ok(stated) = Stated::current(app).await {
        match stated.parsed.application(&record.application) {
            None => odd.push(format!("the inventory has no application {}", escape(&record.application))),
            Some(application) => {
                let there = |region: &&String| application.fleets_in(region).is_some();
                let missing = record.regions.iter().filter(|region| !there(region)).take(NAMED);
                odd.extend(missing.map(|region| {
                    let known: Vec<&str> = application.regions().map(Name::as_str).collect();
                    format!("it does not run in region {} (known: {})", escape(region), known.join(", "))
                }));
            }
        }
    }
    // What is broken glass for is mostly new; what is gone back to was there.
    if record.kind == "rollback" {
        let places = app.store.all_deployed(Some(&record.application)).await?;
        let regions = match record.regions.as_slice() {
            [] => places.iter().map(|place| place.region.clone()).collect(),
            named => named.to_vec(),
        };
        for region in regions.iter().take(NAMED) {
            if app.store.deployed(&record.application, region, Some(&record.release)).await?.is_none() {
                let (release, region) = (escape(&record.release), escape(region));
                odd.push(format!("release {release} was never recorded as deployed in {region}"));
            }
        }
        if regions.is_empty() {
            odd.push(format!("release {} was never recorded as deployed", escape(&record.release)));
        }
    }
    let (kind, what) = (record.kind.replace('_', " "), escape(&record.application));
    Ok((!odd.is_empty()).then(|| format!("{kind} of {what} {}: {}", escape(&record.release), odd.join("; "))))
}

//! Overrides: who answers for what was not shown. The verdict stays as it is, and nothing is proven by one.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use jiff::{SignedDuration, Timestamp};
use preflight_core::text::escape;
use preflight_proto::api::{self, Gate, Override, OverrideRequest, Overrides, Problem};

use super::auth::Principal;
use super::gate::stored_verdict;
use super::guard::Where;
use super::problem::Failure;
use super::release::Of;
use super::releases;
use crate::app::{App, audit_entry};
use crate::secret;

/// The longest reason or ticket, in bytes.
const MAX_TEXT: usize = 500;

/// Answers for cells that block a verdict, until a time.
#[utoipa::path(post, path = "/v1/overrides", request_body = OverrideRequest, security(("token" = [])), responses(
    (status = 200, body = Overrides), (status = 401, body = Problem), (status = 403, body = Problem),
    (status = 404, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn create(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Json(request): Json<OverrideRequest>,
) -> Result<Json<Overrides>, Failure> {
    text("reason", &request.reason)?;
    text("ticket", &request.ticket)?;
    let longest = app.longest_override.as_secs();
    if request.ttl_s == 0 || request.ttl_s > longest {
        let longest = format!("{:#}", SignedDuration::from_secs(i64::try_from(longest).unwrap_or(i64::MAX)));
        let fix =
            format!("Give --expires {longest} or less; `preflight-controller serve --longest-override` allows more.");
        return Err(Failure::usage(format!("an override holds for at most {longest} here"), fix));
    }
    let subjects = match (&request.verdict, &request.release) {
        (Some(verdict), None) => cells(&stored_verdict(&app, verdict).await?, &request)?,
        (None, Some(release)) => quarantined(&app, release, &request).await?,
        _ => {
            let fix = "Name the verdict that blocks and its cells, or the quarantined release and its regions.";
            return Err(Failure::usage("an override is for cells of a verdict, or for a release", fix.to_owned()));
        }
    };
    // As it is kept: to the millisecond.
    let now = Timestamp::from_millisecond(Timestamp::now().as_millisecond())
        .map_err(|error| Failure::internal(error.to_string()))?;
    let expires = now
        .checked_add(std::time::Duration::from_secs(request.ttl_s))
        .map_err(|error| Failure::internal(error.to_string()))?;
    let mut overrides = Vec::new();
    for subject in subjects {
        let id = secret::hex(&secret::bytes::<8>().map_err(|error| Failure::internal(error.to_string()))?);
        overrides.push(Override {
            id,
            by: principal.name.clone(),
            reason: request.reason.clone(),
            ticket: request.ticket.clone(),
            at: now.to_string(),
            expires_at: expires.to_string(),
            ..subject
        });
    }
    let entry = |given: &Override| {
        let what = match &given.release {
            Some(release) => format!("{release} of {} in {}", given.application, given.region),
            None => format!(
                "{}/{}/{} of {}, verdict {}",
                given.region, given.fleet, given.dependency, given.application, given.verdict
            ),
        };
        let detail = format!("{what} until {}, ticket {}: {}", given.expires_at, given.ticket, given.reason);
        audit_entry(&principal.name, "override", "ok", &principal.source, &detail, now)
    };
    // Without its record in the audit log there is no override.
    let recorded: Vec<_> = overrides.iter().map(|given| (given.clone(), entry(given))).collect();
    app.store.put_overrides(&recorded, now).await?;
    Ok(Json(Overrides { overrides }))
}

/// An override for nothing yet.
fn blank(application: &str, region: &str) -> Override {
    Override {
        id: String::new(),
        application: application.to_owned(),
        region: region.to_owned(),
        fleet: String::new(),
        dependency: String::new(),
        digest: String::new(),
        verdict: String::new(),
        release: None,
        by: String::new(),
        reason: String::new(),
        ticket: String::new(),
        at: String::new(),
        expires_at: String::new(),
        withdrawn: None,
    }
}

/// The cells of a verdict, as overrides have them.
fn cells(gate: &Gate, request: &OverrideRequest) -> Result<Vec<Override>, Failure> {
    let of_cell = |(region, cell): (&api::Region, &api::Cell)| Override {
        fleet: cell.fleet.clone(),
        dependency: cell.dependency.clone(),
        digest: cell.digest.clone(),
        verdict: gate.id.clone(),
        ..blank(&gate.application, &region.region)
    };
    Ok(choose(gate, request)?.into_iter().map(of_cell).collect())
}

/// A quarantined release, as overrides have it: one for each region, in each of which it must be quarantined.
async fn quarantined(app: &App, release: &str, request: &OverrideRequest) -> Result<Vec<Override>, Failure> {
    let place = Where::find(app, request.application.as_deref(), &request.regions, false).await?;
    if place.regions.is_empty() || !request.cells.is_empty() || request.all_blocking {
        let fix = "Name the regions where it may ship: --region.".to_owned();
        return Err(Failure::usage("an override for a release is for regions, and not for cells", fix));
    }
    let releases = releases::of(app, Some(&place.application)).await?;
    let held = |region: &String| {
        let candidate = |row: &&api::RegionReleases| row.region == *region;
        let here = releases.regions.iter().find(candidate).and_then(|row| row.candidate.as_ref());
        let carries = here.is_some_and(|c| c.release == release && !c.quarantined.is_empty());
        let named = |q: &api::Quarantine| {
            q.release.as_deref() == Some(release) && (q.regions.is_empty() || q.regions.contains(region))
        };
        // Which releases carry a cell that is quarantined is known of the candidate only.
        let cell = |q: &api::Quarantine| q.cell.as_ref().is_some_and(|cell| cell.starts_with(&format!("{region}/")));
        carries || releases.quarantines.iter().any(|one| named(one) || cell(one))
    };
    if let Some(region) = place.regions.iter().find(|region| !held(region)) {
        let message = format!("{} is not quarantined in {region}", escape(release));
        return Err(Failure::usage(message, "`preflight release list` shows what is.".to_owned()));
    }
    let of_region =
        |region: &String| Override { release: Some(release.to_owned()), ..blank(&place.application, region) };
    Ok(place.regions.iter().map(of_region).collect())
}

/// The cells that are named, all of which must block; or all that do.
fn choose<'a>(gate: &'a Gate, request: &OverrideRequest) -> Result<Vec<(&'a api::Region, &'a api::Cell)>, Failure> {
    let blocking: Vec<(&api::Region, &api::Cell)> = gate
        .regions
        .iter()
        .flat_map(|region| region.cells.iter().map(move |cell| (region, cell)))
        .filter(|(_, cell)| cell.blocks())
        .collect();
    let name =
        |(region, cell): &(&api::Region, &api::Cell)| format!("{}/{}/{}", region.region, cell.fleet, cell.dependency);
    let names = || blocking.iter().take(20).map(|one| escape(&name(one))).collect::<Vec<_>>().join(", ");
    if blocking.is_empty() {
        let message = format!("no cell of verdict {} blocks", escape(&gate.id));
        return Err(Failure::usage(message, "There is nothing to override.".to_owned()));
    }
    if request.all_blocking != request.cells.is_empty() {
        let fix = format!("Name cells that block, or all of them (`all_blocking`): {}", names());
        return Err(Failure::usage("name either cells or all that block", fix));
    }
    if request.all_blocking {
        return Ok(blocking);
    }
    let find = |wanted: &String| {
        blocking.iter().find(|one| name(one) == *wanted).copied().ok_or_else(|| {
            let message = format!("{} does not block verdict {}", escape(wanted), escape(&gate.id));
            Failure::usage(message, format!("What blocks it: {}", names()))
        })
    };
    request.cells.iter().map(find).collect()
}

pub(super) fn text(field: &str, text: &str) -> Result<(), Failure> {
    if matches!(text.trim(), "…" | "...") {
        let message = format!("`{field}` is the placeholder of an example");
        return Err(Failure::usage(message, "Say it in a sentence: it is shown to whoever is concerned.".to_owned()));
    }
    if text.trim().is_empty() || text.len() > MAX_TEXT || !text.chars().all(preflight_core::text::is_plain) {
        let message = format!("`{field}` must be 1 to {MAX_TEXT} bytes of visible text");
        return Err(Failure::usage(message, "Say it in a sentence: it is shown beside the verdict.".to_owned()));
    }
    Ok(())
}

/// Overrides that have not ended, the newest first; withdrawn ones too.
#[utoipa::path(get, path = "/v1/overrides", params(Of), security(("token" = [])), responses(
    (status = 200, body = Overrides), (status = 401, body = Problem), (status = 403, body = Problem)))]
pub(super) async fn list(State(app): State<Arc<App>>, Query(of): Query<Of>) -> Result<Json<Overrides>, Failure> {
    let overrides = app.store.overrides(of.application.as_deref(), Timestamp::now()).await?;
    Ok(Json(Overrides { overrides }))
}

/// Withdraws an override: from now on its cell blocks again, but for the others that hold it, which are answered.
#[utoipa::path(delete, path = "/v1/overrides/{id}", params(("id" = String, Path)), security(("token" = [])), responses(
    (status = 200, body = Overrides), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn withdraw(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
) -> Result<Json<Overrides>, Failure> {
    let now = Timestamp::now();
    let entry = audit_entry(&principal.name, "override withdraw", "ok", &principal.source, &id, now);
    if !app.store.withdraw_override(&id, &principal.name, &entry, now).await? {
        return Err(Failure::unknown(
            "override of that id that holds",
            "`preflight override list` has those that have not ended.",
        ));
    }
    let mut overrides = app.store.overrides(None, now).await?;
    let withdrawn = overrides.iter().find(|one| one.id == id).cloned();
    overrides.retain(|one| {
        let same =
            |w: &Override| one.application == w.application && one.subject() == w.subject() && one.digest == w.digest;
        one.in_force(now) && withdrawn.as_ref().is_some_and(same)
    });
    Ok(Json(Overrides { overrides }))
}

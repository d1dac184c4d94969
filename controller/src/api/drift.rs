//! Whether hosts that should be alike to network policy are, also while nothing is being deployed.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use jiff::Timestamp;
use preflight_core::drift::{Fleet, Ignored, LastSeen, OF_FLEETS, of_region};
use preflight_core::inventory::{Application, Inventory};
use preflight_core::matrix;
use preflight_core::plan::FleetId;
use preflight_core::text::escape;
use preflight_proto::api::{Drift, DriftRegion, Problem};
use serde::Deserialize;

use super::gate::Stated;
use super::problem::Failure;
use crate::app::App;
use crate::result::api_finding;

/// Which fleets.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DriftQuery {
    application: Option<String>,
    region: Option<String>,
    /// `KEY` or `KEY=VALUE`, several with commas between them.
    ignore: Option<String>,
}

/// The fleets of each application of the inventory, compared by what their agents last told and by what was last seen of each cell.
#[utoipa::path(get, path = "/v1/drift", security(("token" = [])), params(("application" = Option<String>, Query),
    ("region" = Option<String>, Query), ("ignore" = Option<String>, Query)), responses(
    (status = 200, body = Drift), (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem)))]
pub(super) async fn drift(
    State(app): State<Arc<App>>,
    Query(query): Query<DriftQuery>,
) -> Result<Json<Drift>, Failure> {
    let inventory = Stated::current(&app).await?.parsed;
    let ignored = Ignored(query.ignore.iter().flat_map(|all| all.split(',')).map(str::to_owned).collect());
    let mut regions = Vec::new();
    let known = OF_FLEETS.iter().map(|key| (*key).to_owned());
    let mut told =
        Told { attributes: known.chain(inventory.identity_key.0.iter().flatten().cloned()).collect(), whole: true };
    for application in applications(&inventory, query.application.as_deref())? {
        for region in application.regions().filter(|name| query.region.as_ref().is_none_or(|only| **name == **only)) {
            regions.push(compare(&app, &inventory, application, region.as_str(), &ignored, &mut told).await?);
        }
    }
    if let Some(region) = query.region.filter(|_| regions.is_empty()) {
        let fix = "`preflight inventory show` lists the regions of each application.";
        return Err(Failure::usage(format!("no such application runs in region {}", escape(&region)), fix.to_owned()));
    }
    // Labels come and go with what is rolled out, and of a fleet without agents nobody knows what its hosts carry.
    let odd = |key: &str| told.whole && !key.starts_with("label.") && !told.attributes.contains(key);
    if let Some(unknown) = ignored.0.iter().find(|one| odd(one.split('=').next().unwrap_or_default())) {
        let fix =
            format!("Name one of {}.", told.attributes.iter().map(|name| escape(name)).collect::<Vec<_>>().join(", "));
        return Err(Failure::usage(format!("no host has the attribute that '{}' ignores", escape(unknown)), fix));
    }
    Ok(Json(Drift { state: matrix::State::all(regions.iter().map(|region| region.state)), regions }))
}

/// Which attributes there are.
struct Told {
    attributes: BTreeSet<String>,
    /// Every fleet has told its own.
    whole: bool,
}

fn applications<'a>(inventory: &'a Inventory, only: Option<&str>) -> Result<Vec<&'a Application>, Failure> {
    let Some(name) = only else { return Ok(inventory.applications().iter().collect()) };
    let found = inventory.application(name).ok_or_else(|| {
        let fix = "`preflight inventory show` lists the applications.";
        Failure::usage(format!("the inventory knows no application {}", escape(name)), fix.to_owned())
    });
    found.map(|application| vec![application])
}

async fn compare(
    app: &App,
    inventory: &Inventory,
    application: &Application,
    region: &str,
    ignored: &Ignored,
    told: &mut Told,
) -> Result<DriftRegion, Failure> {
    let now = Timestamp::now();
    let names = application.fleets_in(region).unwrap_or_default();
    let fleet = |name: &preflight_core::name::Name| {
        let id = FleetId { region: region.to_owned(), fleet: name.to_string() };
        let stated = inventory.fleet(&id).map(|fleet| fleet.identity.clone()).unwrap_or_default();
        Fleet { stated, hosts: app.roster.identities(&id, now), id }
    };
    let fleets: Vec<Fleet> = names.iter().map(fleet).collect();
    for fleet in &fleets {
        let identities = fleet.hosts.iter().map(|(_, identity)| identity).chain([&fleet.stated]);
        told.whole &= !fleet.hosts.is_empty();
        told.attributes.extend(identities.flat_map(|identity| identity.0.keys().cloned()));
    }
    let latest = app.store.latest(Some(application.name.as_str()), Some(region)).await?;
    let last = latest.into_iter().map(|measured| LastSeen {
        fleet: measured.cell.fleet,
        dependency: measured.cell.dependency,
        state: measured.cell.state,
        reason: measured.cell.reason,
        at: measured.cell.at,
    });
    let found =
        of_region(application.name.as_str(), &fleets, &last.collect::<Vec<_>>(), &inventory.identity_key, ignored);
    let agents = fleets.iter().map(|fleet| fleet.hosts.len()).sum::<usize>();
    Ok(DriftRegion {
        application: application.name.to_string(),
        region: region.to_owned(),
        state: found.state,
        fleets: names.iter().map(ToString::to_string).collect(),
        agents: u32::try_from(agents).unwrap_or(u32::MAX),
        findings: found.findings.into_iter().map(api_finding).collect(),
        unknown: found.unknown,
    })
}

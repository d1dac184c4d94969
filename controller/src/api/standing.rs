//! Whether a verdict still holds: what is asked at the last moment before shipping.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use jiff::Timestamp;
use preflight_core::baseline::Duty;
use preflight_core::decision::{self, Override};
use preflight_core::identity::IdentityKey;
use preflight_core::manifest::Manifest;
use preflight_core::plan::{CellDigest, FleetId, Plan};
use preflight_core::run::{Mode, RunSpec};
use preflight_core::text::escape;
use preflight_proto::api::{Decision, Gate, Problem, ReasonText, Standing};

use super::gate::{Stated, stored_verdict};
use super::problem::Failure;
use crate::app::App;
use crate::dispatch::Dispatch as _;
use crate::result::core_override;

/// A verdict as things stand now: its decisions by the overrides of this moment, and why it does not hold any more.
#[utoipa::path(get, path = "/v1/verdicts/{id}/standing", params(("id" = String, Path)), security(("token" = [])), responses(
    (status = 200, body = Standing), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn standing(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Standing>, Failure> {
    let mut gate = stored_verdict(&app, &id).await?;
    let Some(spec) = app.store.run_spec(&id).await? else { return Err(Failure::not_found("verdict of that id")) };
    let now = Timestamp::now();
    decide_again(&app, &mut gate, spec.mode, now).await?;
    let mut objections = Vec::new();
    // A rollback rests on nothing that was seen, so nothing of that holds it up.
    if spec.mode != Mode::Rollback {
        objections.extend(inventory(&app, &spec).await?);
        if spec.duties.contains(&Duty::Required) || spec.duties.is_empty() {
            objections.extend(app.stale_inventory().map(|why| objection("inventory_stale", why)));
        }
        objections.extend(identities(&app, &gate, &spec, now));
        objections.extend(baseline(&app, &spec).await?);
    }
    Ok(Json(Standing { gate, objections }))
}

/// The decisions by the overrides that hold now.
async fn decide_again(app: &App, gate: &mut Gate, mode: Mode, now: Timestamp) -> Result<(), Failure> {
    let given = app.store.overrides(Some(&gate.application), now).await?;
    let overrides: Vec<Override> = given.iter().filter_map(core_override).collect();
    for region in &mut gate.regions {
        let blocking = region.cells.iter().filter(|cell| cell.blocks());
        let blocking: BTreeSet<CellDigest> = blocking.map(|cell| CellDigest(cell.digest.clone())).collect();
        let held = region.reasons.iter().any(|reason| reason.code == "inventory_stale");
        let decided = decision::decide(&region.region, region.verdict, &blocking, held, mode, &overrides, now);
        region.decision = if decided.proceed { Decision::Proceed } else { Decision::Block };
        region.overrides = given.iter().filter(|o| decided.overrides.contains(&o.id)).cloned().collect();
        let texts = decided.reasons.into_iter();
        region.reasons.retain(|reason| !matches!(reason.code.as_str(), "overridden" | "rollback"));
        region.reasons.extend(texts.map(|r| ReasonText { code: r.code.to_owned(), text: r.text, fix: r.fix }));
    }
    let all = gate.regions.iter().all(|region| region.decision == Decision::Proceed);
    gate.decision = if all { Decision::Proceed } else { Decision::Block };
    Ok(())
}

fn objection(code: &str, text: String) -> ReasonText {
    ReasonText {
        code: code.to_owned(),
        text,
        fix: Some("Run `preflight gate` for this release and these regions.".to_owned()),
    }
}

/// The same manifest against the inventory of now must give the same cells. Other applications' changes are nobody's business here.
async fn inventory(app: &App, spec: &RunSpec) -> Result<Vec<ReasonText>, Failure> {
    let inventory = Stated::current(app).await?;
    if inventory.digest == spec.basis.inventory_digest {
        return Ok(Vec::new());
    }
    let changed =
        |what: String| vec![objection("inventory_changed", format!("the inventory has changed since: {what}"))];
    let manifest = Manifest::parse(&escape(&spec.basis.manifest_name), &spec.basis.manifest)?;
    let plan = match Plan::build(&manifest, &inventory.parsed, &spec.plan.regions, false) {
        Ok(plan) => plan,
        Err(error) => return Ok(changed(error.to_string())),
    };
    let other = plan.cells.iter().zip(&spec.plan.cells).find(|(now, then)| now != then).map(|(now, _)| now);
    let more = plan.cells.len() != spec.plan.cells.len();
    if inventory.parsed.identity_key != spec.basis.identity_key {
        return Ok(changed("`identity_key` tells hosts apart by other attributes".to_owned()));
    }
    Ok(match other {
        Some(cell) => changed(format!("{} from {} is another cell now", escape(&cell.dependency), cell.fleet)),
        None if more => changed("the application has other fleets there".to_owned()),
        None if plan.excluded != spec.plan.excluded => changed("other fleets are excluded".to_owned()),
        None => Vec::new(),
    })
}

/// A kind of host that a fleet did not have then was not shown anything. Hosts that come and go change nothing.
fn identities(app: &App, gate: &Gate, spec: &RunSpec, now: Timestamp) -> Vec<ReasonText> {
    let mut known: BTreeMap<FleetId, BTreeSet<IdentityKey>> = BTreeMap::new();
    for region in &gate.regions {
        for seen in &region.fleets {
            let fleet = FleetId { region: region.region.clone(), fleet: seen.fleet.clone() };
            known.insert(fleet, seen.identities.iter().cloned().map(IdentityKey).collect());
        }
    }
    let fleets: BTreeSet<FleetId> = spec.plan.cells.iter().map(|cell| cell.fleet.clone()).collect();
    let rosters = app.roster.roster(&fleets, &spec.basis.identity_key, &spec.id, now);
    let none = BTreeSet::new();
    let mut new: BTreeMap<&FleetId, BTreeSet<&IdentityKey>> = BTreeMap::new();
    for (fleet, candidates) in &rosters {
        let known = known.get(fleet).unwrap_or(&none);
        let keys: BTreeSet<&IdentityKey> =
            candidates.iter().map(|c| &c.key).filter(|key| !known.contains(key)).collect();
        if !keys.is_empty() {
            new.insert(fleet, keys);
        }
    }
    let text = |(fleet, keys): (&FleetId, BTreeSet<&IdentityKey>)| {
        let keys: Vec<String> = keys.into_iter().take(3).map(ToString::to_string).collect();
        objection("new_identity", format!("{fleet} has hosts of a kind that it did not have then: {}", keys.join("; ")))
    };
    new.into_iter().map(text).collect()
}

/// What was deployed then must still be what is, unless this very verdict is what shipped; and nobody may have gone back since.
async fn baseline(app: &App, spec: &RunSpec) -> Result<Vec<ReasonText>, Failure> {
    let mut objections = Vec::new();
    let application = &spec.plan.application;
    for region in &spec.plan.regions {
        let deployed = app.store.deployed(application, region, None).await?;
        let this = deployed.as_ref().is_some_and(|last| last.proven.verdict.as_ref() == Some(&spec.id));
        let then = spec.basis.deployed.get(region).copied().unwrap_or_default();
        if deployed.as_ref().map_or(0, |last| last.id) != then && !this {
            let now = deployed.map_or_else(|| "nothing".to_owned(), |last| escape(&last.proven.release));
            let text = format!("in {region} another deployment was recorded since: {now} is deployed there now");
            objections.push(objection("baseline_changed", text));
        }
        if app.store.rolled_back_since(application, region, spec.started).await? {
            let text = format!("in {region} a rollback was asked for since");
            objections.push(objection("rolled_back", text));
        }
    }
    Ok(objections)
}

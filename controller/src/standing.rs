//! Whether a verdict stands: the one place that says why what it rests on is not so any more. It is asked when a run ends, when an ended
//! run is asked for again, and at the last moment before shipping; what of it concerns the baseline, when a release is recorded.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use preflight_core::identity::IdentityKey;
use preflight_core::inventory::Inventory;
use preflight_core::manifest::Manifest;
use preflight_core::plan::{CellDigest, FleetId, Plan, sha256};
use preflight_core::run::{Mode, RunSpec};
use preflight_core::text::escape;
use preflight_proto::api::{Gate, Objection, ReasonText};

use crate::dispatch::Dispatch;
use crate::store::{Recorded, Store, StoreError};

/// A clock that is set back by less than this is taken as it is.
pub(crate) const CLOCK_STEP: SignedDuration = SignedDuration::from_secs(2);

/// Why a verdict does not stand in a region, or in any.
pub(crate) fn objection(region: Option<&str>, code: &str, text: String) -> Objection {
    let fix = Some("Run `preflight gate` for this release and these regions.".to_owned());
    Objection { region: region.map(str::to_owned), reason: ReasonText { code: code.to_owned(), text, fix } }
}

/// Why a verdict does not stand at `now`; `stale` is why the inventory in force may not be true. A rollback rests on nothing that was
/// seen, so nothing of that holds it up.
pub(crate) async fn objections(
    store: &Store,
    dispatch: &dyn Dispatch,
    stale: Option<String>,
    spec: &RunSpec,
    gate: &Gate,
    now: Timestamp,
) -> Result<Vec<Objection>, StoreError> {
    let mut objections: Vec<Objection> = Vec::new();
    if spec.mode == Mode::Rollback {
        return Ok(objections);
    }
    objections.extend(expired(gate, now));
    objections.extend(
        inventory(store, spec)
            .await?
            .map(|what| objection(None, "inventory_changed", format!("the inventory has changed since: {what}"))),
    );
    if let Some(why) = stale {
        let required = gate.regions.iter().filter(|region| region.cells.iter().any(|cell| cell.required));
        objections.extend(required.map(|region| objection(Some(&region.region), "inventory_stale", why.clone())));
    }
    let mut recorded = BTreeMap::new();
    for region in &spec.plan.regions {
        recorded.insert(region.as_str(), store.recorded(&spec.plan.application, region).await?);
    }
    for (region, recorded) in &recorded {
        objections.extend(baseline(spec, region, recorded));
    }
    objections.extend(identities(dispatch, spec, gate, &recorded, now));
    Ok(objections)
}

/// The regions whose time is up, or cannot be told: by a clock that was set back, nobody knows how old a verdict is.
pub(crate) fn expired(gate: &Gate, now: Timestamp) -> Vec<Objection> {
    let begun = gate.started_at.parse::<Timestamp>().is_ok_and(|started| now.duration_since(started) >= -CLOCK_STEP);
    let over = |until: &str| until.parse::<Timestamp>().map_or(true, |until| until < now);
    let regions = gate.regions.iter().filter(|region| !begun || over(&region.valid_until));
    let text = |until: &str| format!("its time is up: it was valid until {}", escape(until));
    regions.map(|region| objection(Some(&region.region), "expired", text(&region.valid_until))).collect()
}

/// The same manifest against the inventory of now must give the same cells. Other applications' changes are nobody's business here.
async fn inventory(store: &Store, spec: &RunSpec) -> Result<Option<String>, StoreError> {
    let Some((name, text, _, _)) = store.inventory().await? else {
        return Ok(Some("there is none".to_owned()));
    };
    if sha256(text.as_bytes()) == spec.basis.inventory_digest {
        return Ok(None);
    }
    let inventory = match Inventory::parse(&name, &text) {
        Ok(inventory) => inventory,
        Err(error) => return Ok(Some(error.to_string())),
    };
    let manifest = match Manifest::parse(&escape(&spec.basis.manifest_name), &spec.basis.manifest) {
        Ok(manifest) => manifest,
        Err(error) => return Ok(Some(error.to_string())),
    };
    let plan = match Plan::build(&manifest, &inventory, &spec.plan.regions, false) {
        Ok(plan) => plan,
        Err(error) => return Ok(Some(error.to_string())),
    };
    if inventory.identity_key != spec.basis.identity_key {
        return Ok(Some("`identity_key` tells hosts apart by other attributes".to_owned()));
    }
    let other = plan.cells.iter().zip(&spec.plan.cells).find(|(now, then)| now != then).map(|(now, _)| now);
    Ok(match other {
        Some(cell) => Some(format!("{} from {} is another cell now", escape(&cell.dependency), cell.fleet)),
        None if plan.cells.len() != spec.plan.cells.len() => Some("the application has other fleets there".to_owned()),
        None if plan.excluded != spec.plan.excluded => Some("other fleets are excluded".to_owned()),
        None => None,
    })
}

/// What was deployed in a region when a run began must still be what is, unless this very verdict is what shipped; and nobody else may
/// have gone back since.
pub(crate) fn baseline(spec: &RunSpec, region: &str, recorded: &Recorded) -> Vec<Objection> {
    let mut objections = Vec::new();
    let last = recorded.deployed.as_ref().map(|last| &last.proven);
    let this = last.is_some_and(|last| last.verdict.as_ref() == Some(&spec.id));
    let then = |all: &BTreeMap<String, i64>| all.get(region).copied().unwrap_or_default();
    if recorded.latest.deployed != then(&spec.basis.deployed) && !this {
        let now = last.map_or_else(|| "nothing".to_owned(), |last| escape(&last.release));
        let text = format!("in {region} another deployment was recorded since: {now} is deployed there now");
        objections.push(objection(Some(region), "baseline_changed", text));
    }
    if recorded.latest.rollback != then(&spec.basis.rolled_back) && recorded.rollback_run.as_ref() != Some(&spec.id) {
        let text = format!("in {region} a rollback was asked for since");
        objections.push(objection(Some(region), "rolled_back", text));
    }
    objections
}

/// From a kind of host that a cell was not shown from nothing is known. Hosts that come and go change nothing.
fn identities(
    dispatch: &dyn Dispatch,
    spec: &RunSpec,
    gate: &Gate,
    recorded: &BTreeMap<&str, Recorded>,
    now: Timestamp,
) -> Vec<Objection> {
    let fleets: BTreeSet<FleetId> = spec.plan.cells.iter().map(|cell| cell.fleet.clone()).collect();
    let rosters = dispatch.roster(&fleets, &spec.basis.identity_key, &spec.id, now);
    let has: BTreeMap<&FleetId, BTreeSet<&IdentityKey>> =
        rosters.iter().map(|(fleet, all)| (fleet, all.iter().map(|candidate| &candidate.key).collect())).collect();
    let (mut new, mut gone): (BTreeMap<FleetId, BTreeSet<&IdentityKey>>, BTreeSet<&str>) = Default::default();
    for region in &gate.regions {
        let proven = recorded.get(region.region.as_str()).and_then(|recorded| recorded.deployed.as_ref());
        for cell in &region.cells {
            let fleet = FleetId { region: region.region.clone(), fleet: cell.fleet.clone() };
            let digest = CellDigest(cell.digest.clone());
            let from = proven.and_then(|last| last.proven.shown_from(&digest)).filter(|_| cell.proven_by.is_some());
            if cell.proven_by.is_some() && from.is_none() {
                gone.insert(&region.region);
                continue;
            }
            let shown = |key: &IdentityKey| match from {
                Some(from) => from.contains(key),
                None => cell.identities.iter().any(|seen| seen.key == key.0),
            };
            let unseen: Vec<&IdentityKey> =
                has.get(&fleet).into_iter().flatten().copied().filter(|key| !shown(key)).collect();
            if !unseen.is_empty() {
                new.entry(fleet).or_default().extend(unseen);
            }
        }
    }
    let text = |(fleet, keys): (FleetId, BTreeSet<&IdentityKey>)| {
        let keys: Vec<String> = keys.into_iter().take(3).map(ToString::to_string).collect();
        let text = format!("{fleet} has hosts of a kind that it did not have then: {}", keys.join("; "));
        objection(Some(&fleet.region), "new_identity", text)
    };
    let missing = |region: &str| {
        let text = format!("in {region} what was proven when it was given is not proven by what is recorded now");
        objection(Some(region), "baseline_changed", text)
    };
    new.into_iter().map(text).chain(gone.into_iter().map(missing)).collect()
}

#[cfg(test)]
mod tests {
    use preflight_core::guard::Guard;
    use preflight_proto::api::{Decision, Override};
    use serde_json::json;

    use super::*;
    use crate::result::{Beside, decide_again, void};

    const STARTED: &str = "2025-03-31T10:00:00Z";
    const UNTIL: &str = "2025-03-31T10:10:00Z";

    /// Of one region with one cell.
    fn gate(state: &str, decision: &str, until: &str) -> Gate {
        let cell = json!({
            "fleet": "web", "dependency": "cache", "target": "tcp://10.0.0.1:1", "digest": "sha256:c", "required": true, "state": state,
            "line": 0, "identities": [], "agents": {"asked": 1, "ok": 1, "short": 0, "void": 0, "silent": 0}, "evidence": [],
        });
        let region = json!({
            "region": "eu", "verdict": state, "decision": decision, "valid_until": until, "cells": [cell], "excluded": [], "fleets": [],
            "findings": [], "reasons": [], "overrides": [], "overrides_since": [],
        });
        let gate = json!({
            "id": "v1", "application": "shop", "release": "r1", "verdict": state, "decision": decision, "manifest_digest": "",
            "manifest_name": "", "inventory_digest": "", "versions": {}, "controller_version": "", "advisory": false,
            "rollback": false, "started_at": STARTED, "ended_at": STARTED, "regions": [region],
        });
        serde_json::from_value(gate).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn time_that_is_up_or_cannot_be_told_is_over() {
        let passes = gate("pass", "proceed", UNTIL);
        assert_eq!(expired(&passes, at("2025-03-31T10:05:00Z")), []);
        assert_eq!(expired(&passes, at("2025-03-31T10:10:01Z")).len(), 1);
        assert_eq!(expired(&passes, at("2025-03-31T09:59:50Z")).len(), 1, "the clock was set back");
        assert_eq!(expired(&gate("pass", "proceed", "soon"), at(STARTED)).len(), 1);
    }

    #[test]
    fn what_does_not_stand_does_not_proceed_and_is_less_than_a_pass() {
        let mut voided = gate("pass", "proceed", UNTIL);
        void(&mut voided, &[objection(Some("us"), "rolled_back", String::new())]);
        assert_eq!(voided.decision, Decision::Proceed, "that is another region");
        void(&mut voided, &[objection(None, "inventory_changed", String::new())]);
        assert_eq!((voided.verdict, voided.decision), (preflight_proto::api::State::Unknown, Decision::Block));
        assert_eq!(voided.regions[0].reasons[0].code, "inventory_changed");
        decide_again(&mut voided, &Beside::default(), at(STARTED));
        assert_eq!(voided.decision, Decision::Block);
    }

    #[test]
    fn a_decision_that_is_made_again_is_not_valid_for_longer_than_its_override() {
        let mut overridden = gate("fail", "block", UNTIL);
        let given: Override = serde_json::from_value(json!({
            "id": "o1", "application": "shop", "region": "eu", "fleet": "web", "dependency": "cache", "digest": "sha256:c",
            "verdict": "v1", "by": "anna", "reason": "known", "ticket": "OPS-7", "at": STARTED, "expires_at": "2025-03-31T10:02:00Z",
        }))
        .unwrap();
        let beside = Beside { overrides: vec![given], guard: Guard::default(), versions: BTreeMap::new() };
        decide_again(&mut overridden, &beside, at("2025-03-31T10:01:00Z"));
        assert_eq!(overridden.decision, Decision::Proceed);
        assert_eq!(overridden.regions[0].valid_until, "2025-03-31T10:02:00Z");
    }
}

//! Hosts of one fleet whose network identities differ. That fleets differ in what they reach is an asymmetry.

use std::collections::BTreeMap;

use super::{Draft, Finding, Kind};
use crate::drift::{Ignored, describe, within};
use crate::identity::{KeyRule, NetworkIdentity};
use crate::plan::FleetId;
use crate::verdict::JudgedCell;

/// One for each fleet, unless an asymmetry among its hosts has named the attribute.
pub(super) fn find(cells: &[&JudgedCell<'_>], explained: &[Draft]) -> Vec<Finding> {
    let mut fleets: BTreeMap<&FleetId, BTreeMap<&str, &NetworkIdentity>> = BTreeMap::new();
    for judged in cells {
        for witness in &judged.witnesses {
            if let Some(testimony) = witness.testimony {
                fleets.entry(&judged.cell.fleet).or_default().insert(witness.agent, &testimony.identity);
            }
        }
    }
    let told = |fleet: &FleetId, key: &str| {
        let of_fleet = explained.iter().filter(|draft| draft.split.contains(fleet));
        of_fleet.flat_map(|draft| draft.attributes.iter().chain(&draft.failing_attributes)).any(|a| a.key == key)
    };
    let text = |(fleet, hosts): (&FleetId, BTreeMap<&str, &NetworkIdentity>)| {
        let hosts: Vec<_> = hosts.into_iter().collect();
        let differences = within(&hosts, &KeyRule::default(), &Ignored::default());
        let fresh: Vec<_> = differences.iter().filter(|d| !told(fleet, d.key)).collect();
        describe(fleet, &fresh)
    };
    fleets.into_iter().filter_map(text).map(|text| Finding::new(Kind::Drift, text)).collect()
}

//! What an earlier release has shown already, and what that leaves for a run to do.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::identity::IdentityKey;
use crate::plan::{Cell, CellDigest, FleetId, Plan};
use crate::spec::Expect;

/// The release that is recorded as deployed in a region, with the cells that its verdict held as `pass`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proven {
    /// The release.
    pub release: String,
    /// The verdict it shipped with; none where it shipped without one.
    pub verdict: Option<String>,
    /// What that verdict held as `pass`, each with the verdict whose run has shown it: the same one, or an earlier one.
    pub cells: BTreeMap<CellDigest, String>,
    /// By fleet, which kinds of hosts were known when that was shown.
    pub identities: BTreeMap<String, BTreeSet<IdentityKey>>,
}

impl Proven {
    /// Whether every kind of host that a fleet has was known then: of another one nothing is shown.
    fn knows(&self, fleet: &str, has: Option<&BTreeSet<IdentityKey>>) -> bool {
        let known = self.identities.get(fleet);
        has.is_none_or(|has| known.is_some_and(|known| has.is_subset(known)))
    }
}

/// What a run does about a cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Duty {
    /// It is probed, and the verdict rests on it.
    Required,
    /// It is probed for people to see, or for what it tells of other cells; the verdict does not rest on it.
    Shown,
    /// It is not probed: this verdict has shown it, and the deployed release rests on that.
    Proven(String),
}

/// What a run does about each cell of its plan, in the plan's order.
///
/// Required is what `proven` does not hold, by region, and every cell of a fleet that `has` hosts of a kind that was not known then. Where a path that must be blocked is required, the region's other cells are
/// probed beside it: without them nothing would show that the target is up and that the agents' own network works.
pub fn duties(
    plan: &Plan,
    proven: &BTreeMap<String, Proven>,
    has: &BTreeMap<FleetId, BTreeSet<IdentityKey>>,
) -> Vec<Duty> {
    let shown_by = |cell: &Cell| {
        let proven = proven.get(&cell.fleet.region)?;
        let knows = proven.knows(&cell.fleet.fleet, has.get(&cell.fleet));
        proven.cells.get(&cell.digest()).filter(|_| knows).cloned()
    };
    let mut duties: Vec<Duty> =
        plan.cells.iter().map(|cell| shown_by(cell).map_or(Duty::Required, Duty::Proven)).collect();
    let guarded: Vec<&str> = plan
        .cells
        .iter()
        .zip(&duties)
        .filter(|(cell, duty)| cell.spec.expect == Expect::Blocked && **duty == Duty::Required)
        .map(|(cell, _)| cell.fleet.region.as_str())
        .collect();
    for (cell, duty) in plan.cells.iter().zip(&mut duties) {
        if matches!(duty, Duty::Proven(_)) && guarded.contains(&cell.fleet.region.as_str()) {
            *duty = Duty::Shown;
        }
    }
    duties
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::NetworkIdentity;
    use crate::manifest::Usage;
    use crate::spec::ProbeSpec;

    fn cell(region: &str, target: &str, expect: Expect) -> Cell {
        Cell {
            application: "shop".into(),
            fleet: FleetId { region: region.into(), fleet: "web".into() },
            dependency: target.into(),
            spec: ProbeSpec { expect, ..ProbeSpec::new(target.parse().unwrap()) },
            min_agents: 1,
            stated: NetworkIdentity::default(),
            usage: Usage::default(),
            line: 0,
        }
    }

    #[test]
    fn what_the_deployed_release_has_shown_is_not_required_again() {
        let open = Expect::Reachable;
        let (old, new) = (cell("eu", "tcp://10.0.0.1:1", open), cell("eu", "tcp://10.0.0.2:1", open));
        let elsewhere = cell("us", "tcp://10.0.0.1:1", open);
        let proven = Proven {
            release: "r1".into(),
            verdict: Some("v2".into()),
            cells: [(old.digest(), "v1".to_owned())].into(),
            identities: [("web".to_owned(), [IdentityKey("subnet=a".into())].into())].into(),
        };
        let proven: BTreeMap<_, _> = [("eu".to_owned(), proven)].into();
        let renamed = Cell { dependency: "another-name".into(), usage: Usage::default(), line: 7, ..old.clone() };
        let plan = |cells| Plan {
            application: "shop".into(),
            manifest_digest: String::new(),
            regions: vec!["eu".into()],
            cells,
            excluded: Vec::new(),
        };
        let shown = || Duty::Proven("v1".into());
        let duties_of = |cells| duties(&plan(cells), &proven, &BTreeMap::new());
        assert_eq!(duties_of(vec![renamed, new, elsewhere]), [shown(), Duty::Required, Duty::Required]);

        // Hosts of a kind that was not known are not shown by it, nor by what asked less.
        let has =
            |subnet: &str| BTreeMap::from([(old.fleet.clone(), BTreeSet::from([IdentityKey(subnet.to_owned())]))]);
        assert_eq!(duties(&plan(vec![old.clone()]), &proven, &has("subnet=a")), [shown()]);
        assert_eq!(duties(&plan(vec![old.clone()]), &proven, &has("subnet=b")), [Duty::Required]);
        let stricter = Cell { min_agents: 2, ..old.clone() };
        assert_eq!(duties_of(vec![stricter]), [Duty::Required]);

        // A guard that is new needs the others beside it, in its region.
        let guard = cell("eu", "tcp://10.0.0.3:1", Expect::Blocked);
        assert_eq!(duties_of(vec![old.clone(), guard]), [Duty::Shown, Duty::Required]);
        let guard = cell("us", "tcp://10.0.0.3:1", Expect::Blocked);
        assert_eq!(duties_of(vec![old, guard]), [shown(), Duty::Required]);
    }
}

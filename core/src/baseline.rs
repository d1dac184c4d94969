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
    /// What that verdict held as `pass`.
    pub cells: BTreeMap<CellDigest, ShownBy>,
    /// Sets of kinds of hosts, to which `cells` refer: most cells of a fleet were shown from the same ones.
    pub kinds: Vec<BTreeSet<IdentityKey>>,
}

/// What has shown a cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownBy {
    /// The verdict whose run has: the one that the release shipped with, or an earlier one.
    pub verdict: String,
    /// From which kinds of hosts: an index into [`Proven::kinds`].
    pub kinds: usize,
}

impl Proven {
    /// A release of which nothing is proven.
    pub fn nothing(release: String, verdict: Option<String>) -> Self {
        Self { release, verdict, cells: BTreeMap::new(), kinds: Vec::new() }
    }

    /// Adds a cell that a verdict has shown from these kinds of hosts.
    pub fn insert(&mut self, cell: CellDigest, verdict: String, from: BTreeSet<IdentityKey>) {
        let kinds = self.kinds.iter().position(|have| *have == from).unwrap_or_else(|| {
            self.kinds.push(from);
            self.kinds.len() - 1
        });
        self.cells.insert(cell, ShownBy { verdict, kinds });
    }

    /// From which kinds of hosts a cell was shown; none if it was not.
    pub fn shown_from(&self, cell: &CellDigest) -> Option<&BTreeSet<IdentityKey>> {
        self.cells.get(cell).and_then(|shown| self.kinds.get(shown.kinds))
    }

    /// The verdict that has shown a cell from every kind of host that its fleet `has`: from another one nothing is shown.
    fn shown_by(&self, cell: &CellDigest, has: Option<&BTreeSet<IdentityKey>>) -> Option<&str> {
        let from = self.shown_from(cell)?;
        let shown = self.cells.get(cell).filter(|_| has.is_none_or(|has| has.is_subset(from)));
        shown.map(|shown| shown.verdict.as_str())
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

/// What a run does about each cell of its plan, in the plan's order; `digests` are its cells'.
///
/// Required is what `proven` does not hold, by region, and every cell of a fleet that `has` hosts of a kind from which it was not shown. Where a path that must be blocked is required, the region's other cells are
/// probed beside it: without them nothing would show that the target is up and that the agents' own network works.
pub fn duties(
    plan: &Plan,
    digests: &[CellDigest],
    proven: &BTreeMap<String, Proven>,
    has: &BTreeMap<FleetId, BTreeSet<IdentityKey>>,
) -> Vec<Duty> {
    let shown_by = |(cell, digest): (&Cell, &CellDigest)| {
        let proven = proven.get(&cell.fleet.region)?;
        proven.shown_by(digest, has.get(&cell.fleet)).map(str::to_owned)
    };
    let mut duties: Vec<Duty> =
        plan.cells.iter().zip(digests).map(|both| shown_by(both).map_or(Duty::Required, Duty::Proven)).collect();
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
        let mut proven = Proven::nothing("r1".into(), Some("v2".into()));
        proven.insert(old.digest(), "v1".to_owned(), [IdentityKey("subnet=a".into())].into());
        // Another cell of the fleet was shown from more of it, which shows nothing of this one.
        let wide = cell("eu", "tcp://10.0.0.9:1", open);
        let both = ["subnet=a", "subnet=b"].map(|key| IdentityKey(key.into()));
        proven.insert(wide.digest(), "v1".to_owned(), both.clone().into());
        assert_eq!(proven.kinds.len(), 2);
        proven.insert(cell("eu", "tcp://10.0.0.8:1", open).digest(), "v1".to_owned(), both.into());
        assert_eq!(proven.kinds.len(), 2, "a set is kept once");
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
        let duties = |plan: Plan, has| duties(&plan, &plan.digests(), &proven, &has);
        let duties_of = |cells| duties(plan(cells), BTreeMap::new());
        assert_eq!(duties_of(vec![renamed, new, elsewhere]), [shown(), Duty::Required, Duty::Required]);

        // Hosts of a kind that was not known are not shown by it, nor by what asked less.
        let has =
            |subnet: &str| BTreeMap::from([(old.fleet.clone(), BTreeSet::from([IdentityKey(subnet.to_owned())]))]);
        assert_eq!(duties(plan(vec![old.clone()]), has("subnet=a")), [shown()]);
        assert_eq!(duties(plan(vec![old.clone(), wide]), has("subnet=b")), [Duty::Required, shown()]);
        let stricter = Cell { min_agents: 2, ..old.clone() };
        assert_eq!(duties_of(vec![stricter]), [Duty::Required]);

        // A guard that is new needs the others beside it, in its region.
        let guard = cell("eu", "tcp://10.0.0.3:1", Expect::Blocked);
        assert_eq!(duties_of(vec![old.clone(), guard]), [Duty::Shown, Duty::Required]);
        let guard = cell("us", "tcp://10.0.0.3:1", Expect::Blocked);
        assert_eq!(duties_of(vec![old, guard]), [shown(), Duty::Required]);
    }
}

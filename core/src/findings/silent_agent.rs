//! Agents that did not answer beside a pass.

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, Kind, join};
use crate::matrix::{Answer, State};
use crate::plan::FleetId;
use crate::verdict::JudgedCell;

/// For each fleet whose cells pass, who did not answer: one finding, however many cells.
pub(super) fn find(cells: &[&JudgedCell<'_>]) -> Vec<Finding> {
    let mut silent: BTreeMap<&FleetId, BTreeSet<&str>> = BTreeMap::new();
    for judged in cells.iter().filter(|c| c.folded.state == State::Pass) {
        let unanswered = judged.witnesses.iter().filter(|w| matches!(w.answer, Answer::Silent | Answer::Pending));
        for witness in unanswered {
            silent.entry(&judged.cell.fleet).or_default().insert(witness.agent);
        }
    }
    let finding = |(fleet, agents): (&FleetId, BTreeSet<&str>)| {
        let text = format!(
            "{fleet} passes without an answer from {}: others of the same network identity stand for it. Look at it with \
             `preflight agents`.",
            join(agents)
        );
        Finding::new(Kind::SilentAgent, text)
    };
    silent.into_iter().map(finding).collect()
}

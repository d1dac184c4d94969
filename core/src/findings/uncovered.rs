//! Fleets that have agents and that the inventory lacks, and fleets of the inventory without agents.

use std::collections::BTreeSet;

use super::{Finding, Kind};
use crate::matrix::Why;
use crate::plan::FleetId;
use crate::reason::Unknown;
use crate::text::escape;
use crate::verdict::JudgedCell;

pub(super) fn find<'a>(cells: &[&JudgedCell<'_>], unlisted: impl IntoIterator<Item = &'a FleetId>) -> Vec<Finding> {
    let empty = cells.iter().filter(|c| c.folded.why == Some(Why::Unknown(Unknown::NoAgent)));
    let empty: BTreeSet<(&FleetId, &str)> = empty.map(|c| (&c.cell.fleet, c.cell.application.as_str())).collect();
    let empty = empty.into_iter().map(|(fleet, application)| {
        format!(
            "{fleet} runs {} by the inventory, and no agent of it is connected: nothing is known of what its hosts reach.",
            escape(application)
        )
    });
    let unlisted = unlisted.into_iter().map(|fleet| {
        format!(
            "Agents hold certificates for {fleet}, which the inventory lacks: if it runs this application, it ships unproven. \
             Add it to the inventory, or revoke its agents."
        )
    });
    unlisted.chain(empty).map(|text| Finding::new(Kind::Uncovered, text)).collect()
}

//! Whether hosts that should be alike are.

use preflight_proto::api::{Drift, DriftRegion, State};

use super::{BOLD, count, glyph, paragraph, sentence, style_of, styled, word};

/// A part for each application and region.
pub(crate) fn render(drift: &Drift, width: usize) -> String {
    if drift.regions.is_empty() {
        return "Nothing to compare: the inventory has no application.\n".to_owned();
    }
    drift.regions.iter().map(|region| of_region(region, width)).collect()
}

fn of_region(region: &DriftRegion, width: usize) -> String {
    let says = match (region.state, region.findings.is_empty()) {
        (_, false) => "drift",
        (State::Pass, true) => "no drift",
        (State::Fail | State::Unknown, true) => "not known",
    };
    let agents = usize::try_from(region.agents).unwrap_or(usize::MAX);
    let mut out = format!(
        "{}  {}  {} of {}\n",
        styled(BOLD, &format!("{} {}", word(&region.application), word(&region.region))),
        styled(style_of(region.state), &format!("{} {says}", glyph(region.state))),
        count(agents, "agent"),
        count(region.fleets.len(), "fleet"),
    );
    for finding in &region.findings {
        out.push_str(&paragraph("  ", &sentence(&finding.text), width));
    }
    for unknown in &region.unknown {
        out.push_str(&paragraph("  not compared: ", &sentence(unknown), width));
    }
    out
}

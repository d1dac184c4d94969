//! A verdict: what to do, the matrix, what comparing shows, what to do next, and the evidence.

use std::collections::BTreeMap;

use preflight_core::guard::is_hold;
use preflight_proto::api::{Cell, Decision, Gate, Region, State};

use super::grid::{Grid, Span};
use super::{
    BAD, BOLD, DIM, GOOD, UNSURE, columns, evidence, glyph, heading, overrides, paragraph, sentence, style_of, styled,
    word, worst_first,
};

/// The whole answer.
pub(crate) fn render(gate: &Gate, advisory: bool, width: usize) -> String {
    let mut out = first_line(gate, advisory, width);
    for region in gate.regions.iter().filter(|region| !unchanged(region)) {
        out.push_str(&matrix(region, width));
    }
    out.push_str(&overridden(gate, width));
    out.push_str(&overridden_since(gate, width));
    out.push_str(&findings(gate, width));
    out.push_str(&next(gate, width));
    out.push_str(&evidence::render(gate, width));
    out
}

/// Whether nothing of a region had to be shown: an ordinary deploy, of which its reason says all.
pub(crate) fn unchanged(region: &Region) -> bool {
    region.reasons.iter().any(|reason| reason.code == "no_change")
        && region.cells.iter().all(|cell| cell.proven_by.is_some())
}

/// What a verdict's word must not hide: that nothing was probed for it.
pub(crate) fn without_probes(gate: &Gate) -> &'static str {
    let all = !gate.regions.is_empty() && gate.regions.iter().all(unchanged);
    if all { " (nothing new, nothing probed)" } else { "" }
}

fn first_line(gate: &Gate, advisory: bool, width: usize) -> String {
    let style = match (gate.decision, gate.verdict) {
        (Decision::Proceed, State::Pass) if by(gate).is_empty() => GOOD,
        (Decision::Proceed, _) | (Decision::Block, State::Unknown) => UNSURE,
        (Decision::Block, State::Pass | State::Fail) => BAD,
    };
    let decision = decision(gate);
    let regions = gate.regions.iter().map(|r| word(&r.region)).collect::<Vec<_>>().join(", ");
    let noun = if gate.regions.len() == 1 { "region" } else { "regions" };
    let mut parts = vec![
        format!("verdict {}{}", gate.verdict.as_str(), without_probes(gate)),
        format!("{} {}", word(&gate.application), word(&gate.release)),
        format!("{noun} {regions}"),
        format!("run {}", word(&gate.id)),
    ];
    parts.extend(took(gate));
    parts.extend(valid(gate).filter(|_| gate.decision == Decision::Proceed));
    // As many on the first line as fit; the verdict always does.
    let mut text = styled(style.bold(), &decision);
    let mut at = decision.len();
    for part in parts {
        if at + 2 + columns(&part) > width {
            text.push_str("\n ");
            at = 1;
        }
        text.push_str("  ");
        text.push_str(&part);
        at += 2 + columns(&part);
    }
    text.push('\n');
    let loud = match (gate.rollback, gate.verdict) {
        (true, State::Pass) => Some("ROLLBACK: nothing below was required; all of it passes."),
        (true, State::Fail | State::Unknown) => {
            Some("ROLLBACK: nothing below was required, and what does not pass does not hold it up.")
        }
        (false, State::Pass) => (gate.decision == Decision::Proceed && !by(gate).is_empty())
            .then_some("OVERRIDE: this is quarantined. Somebody answers for it."),
        (false, State::Fail | State::Unknown) => (gate.decision == Decision::Proceed)
            .then_some("OVERRIDE: this does not pass. Somebody answers for it; nothing is proven by that."),
    };
    if let Some(loud) = loud {
        out_loud(&mut text, loud, width);
    }
    if advisory {
        text.push_str(&styled(UNSURE.bold(), advisory_says(gate.decision)));
        text.push('\n');
    }
    text
}

/// What to do, and by what other than the verdict: `BLOCK (locked, quarantined)`.
pub(crate) fn decision(gate: &Gate) -> String {
    if gate.decision == Decision::Proceed {
        return format!("PROCEED{}", by(gate));
    }
    let mut holds: Vec<&str> = Vec::new();
    for reason in gate.regions.iter().flat_map(|region| &region.reasons) {
        let code = match reason.code.as_str() {
            "not_named" => "not what was named",
            code if is_hold(code) => code,
            _ => continue,
        };
        if !holds.contains(&code) {
            holds.push(code);
        }
    }
    if holds.is_empty() { "BLOCK".to_owned() } else { format!("BLOCK ({})", holds.join(", ")) }
}

/// What lets it proceed where the verdict alone does not.
fn by(gate: &Gate) -> &'static str {
    let overridden = gate.regions.iter().any(|region| !region.overrides.is_empty());
    match (gate.rollback, overridden) {
        (true, false) => " by rollback",
        (true, true) => " by rollback and override",
        (false, true) => " by override",
        (false, false) => "",
    }
}

/// Adds what must not be overlooked.
fn out_loud(text: &mut String, loud: &str, width: usize) {
    for line in paragraph("", loud, width).lines() {
        text.push_str(&styled(UNSURE.bold(), line));
        text.push('\n');
    }
}

/// Who answers for cells that block.
fn overridden(gate: &Gate, width: usize) -> String {
    let overrides = gate.regions.iter().flat_map(|region| &region.overrides);
    let out: String = overrides.map(|given| overrides::in_force(given, width)).collect();
    if out.is_empty() { out } else { heading("Overridden") + &out }
}

/// Who has answered since for cells that block.
fn overridden_since(gate: &Gate, width: usize) -> String {
    let overrides = gate.regions.iter().flat_map(|region| &region.overrides_since);
    let out: String = overrides.map(|given| overrides::in_force(given, width)).collect();
    if out.is_empty() {
        return out;
    }
    let text =
        "This verdict is shown as it was given: `preflight verdict check` and the next gate go by what holds then.";
    heading("Overridden since") + &out + &paragraph("  ", text, width)
}

/// What `--advisory` makes of a decision, to be said loudly.
pub(crate) fn advisory_says(decision: Decision) -> &'static str {
    match decision {
        Decision::Block => "ADVISORY: this blocks nothing; without --advisory it would.",
        Decision::Proceed => "ADVISORY: this blocks nothing; it proceeds without --advisory too.",
    }
}

/// How long the run took, by the controller's clock.
fn took(gate: &Gate) -> Option<String> {
    let at = |text: &str| text.parse::<jiff::Timestamp>().ok();
    let took = at(&gate.ended_at)?.duration_since(at(&gate.started_at)?);
    Some(format!("{:.1} s", took.as_secs_f64()))
}

/// Until when it may be used, to the minute, by the controller's clock.
fn valid(gate: &Gate) -> Option<String> {
    let until = gate.regions.iter().filter_map(|r| r.valid_until.parse::<jiff::Timestamp>().ok()).min()?;
    Some(format!("valid until {}", until.strftime("%H:%MZ")))
}

/// A region's part: fleets across, dependencies down.
fn matrix(region: &Region, width: usize) -> String {
    let mut fleets: Vec<&str> = Vec::new();
    let mut dependencies: Vec<&str> = Vec::new();
    let mut spans: BTreeMap<(&str, &str), Span> = BTreeMap::new();
    let cells = region.cells.iter().map(|c| (c.fleet.as_str(), c.dependency.as_str(), cell(c, region)));
    let excluded =
        region.excluded.iter().map(|e| (e.fleet.as_str(), e.dependency.as_str(), Span::new(DIM, "– excluded")));
    for (fleet, dependency, span) in cells.chain(excluded) {
        if !fleets.contains(&fleet) {
            fleets.push(fleet);
        }
        if !dependencies.contains(&dependency) {
            dependencies.push(dependency);
        }
        spans.insert((dependency, fleet), span);
    }
    // The worst first, else as in the manifest: what is not required does not decide.
    let states = |dependency: &str| {
        let cells = region.cells.iter().filter(move |c| c.dependency == dependency && c.required);
        cells.map(|c| worst_first(c.state)).min().unwrap_or(worst_first(State::Pass))
    };
    dependencies.sort_by_key(|dependency| states(dependency));
    let mut grid = Grid::new(std::iter::once(String::new()).chain(fleets.iter().map(|fleet| word(fleet))));
    for dependency in dependencies {
        let cells = fleets.iter().map(|fleet| spans.remove(&(dependency, *fleet)).unwrap_or_default());
        grid.row(std::iter::once(Span::plain(format!("  {}", word(dependency)))).chain(cells).collect());
    }
    let verdict = styled(style_of(region.verdict), &format!("{} {}", glyph(region.verdict), region.verdict.as_str()));
    let mut out = format!("\n{}  {verdict}\n{}", styled(BOLD, &word(&region.region)), grid.matrix(width));
    for excluded in &region.excluded {
        let lead = format!("  – {} does not use {}: ", word(&excluded.fleet), word(&excluded.dependency));
        out.push_str(&paragraph(&lead, &sentence(&excluded.because), width));
    }
    out
}

/// A cell: its state as a sign and a colour, and its reason or how many agents it rests on, of how many kinds of hosts.
fn cell(cell: &Cell, region: &Region) -> Span {
    if cell.proven_by.is_some() {
        // Not probed this time: nothing may look as if it were.
        return Span::new(DIM, "= proven before");
    }
    let mut text = match (&cell.reason, cell.state) {
        (Some(reason), State::Fail | State::Unknown) => format!("{} {}", glyph(cell.state), word(reason)),
        (_, state) => format!("{} {}/{}", glyph(state), cell.agents.ok, cell.agents.asked),
    };
    let about = |kind: &str| region.findings.iter().any(|f| f.kind == kind && f.dependency == cell.dependency);
    if cell.state == State::Pass && cell.agents.short > 0 && about("one_host") {
        text.push_str(" one_host");
    }
    if let Some(coverage) = &cell.coverage {
        text.extend([" (", &word(coverage), ")"]);
    }
    if cell.state != State::Pass && region.overrides.iter().any(|given| given.digest == cell.digest) {
        return Span::new(style_of(cell.state), text + " overridden");
    }
    if !cell.required {
        return Span::new(DIM, text + " (not required)");
    }
    Span::new(style_of(cell.state), text)
}

/// What comparing shows.
fn findings(gate: &Gate, width: usize) -> String {
    let all = gate.regions.iter().flat_map(|r| r.findings.iter().map(|f| (&r.region, (&f.kind, &f.text))));
    let mut out = String::new();
    for ((kind, text), regions) in by_what_they_say(all) {
        let lead = format!("  {}: {}: ", listed(&regions), word(kind));
        out.push_str(&paragraph(&lead, &sentence(text), width));
    }
    if out.is_empty() { out } else { heading("Findings") + &out }
}

/// Why, and what to do.
fn next(gate: &Gate, width: usize) -> String {
    let all = gate.regions.iter().flat_map(|r| r.reasons.iter().map(|why| (&r.region, (&why.text, &why.fix))));
    // What is to be done about it is apart from what merely is so; if it goes on, nothing has to be done.
    let (facts, said): (Vec<_>, Vec<_>) = by_what_they_say(all)
        .into_iter()
        .partition(|((_, fix), _)| fix.is_none() || gate.decision == Decision::Proceed);
    titled("Why", facts, width) + &titled("What to do next", said, width)
}

/// Texts and what is to be done about them.
type Said<'a> = Vec<((&'a String, &'a Option<String>), Vec<&'a str>)>;

fn titled(title: &str, mut said: Said<'_>, width: usize) -> String {
    let mut out = String::new();
    // What is mended in the same way stands together, with the remedy once.
    while let Some(fix) = said.first().map(|((_, fix), _)| *fix) {
        let (same, others): (Vec<_>, Vec<_>) = said.into_iter().partition(|((_, other), _)| *other == fix);
        said = others;
        for ((text, _), regions) in same {
            out.push_str(&paragraph(&format!("  {}: ", listed(&regions)), &sentence(text), width));
        }
        if let Some(fix) = fix {
            out.push_str(&paragraph("    → ", &sentence(fix), width));
        }
    }
    if out.is_empty() { out } else { heading(title) + &out }
}

/// Regions of which the same is said are named together, in their order.
pub(crate) fn by_what_they_say<'a, T: PartialEq>(all: impl Iterator<Item = (&'a String, T)>) -> Vec<(T, Vec<&'a str>)> {
    let mut said: Vec<(T, Vec<&str>)> = Vec::new();
    for (region, what) in all {
        match said.iter_mut().find(|(known, _)| *known == what) {
            Some((_, regions)) => regions.push(region),
            None => said.push((what, vec![region])),
        }
    }
    said
}

/// `eu, us`.
fn listed(regions: &[&str]) -> String {
    regions.iter().map(|region| word(region)).collect::<Vec<_>>().join(", ")
}

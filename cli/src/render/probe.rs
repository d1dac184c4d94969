//! Answers to an ad hoc probe: a line for each as it comes, and what they add up to.

use std::collections::BTreeSet;

use preflight_core::observation::Outcome;
use preflight_core::reason::lookup;
use preflight_proto::api::{ProbeResult, State};

use super::evidence::observation;
use super::grid::{Grid, Span};
use super::{DIM, UNSURE, glyph, heading, paragraph, sentence, style_of, styled, word};

/// One answer, with a line for each address where there is more to say than the first line does.
pub(crate) fn result(result: &ProbeResult, width: usize) -> String {
    let from: Vec<String> =
        [&result.region, &result.fleet, &result.agent].into_iter().flatten().map(|part| word(part)).collect();
    let from = if from.is_empty() { "this host".to_owned() } else { from.join("/") };
    let style = style_of(result.outcome);
    let what = match (&result.reason, result.proof) {
        (Some(reason), _) => word(reason),
        (None, Some(proof)) => format!("{} ({})", result.outcome.as_str(), proof.as_str()),
        (None, None) => result.outcome.as_str().to_owned(),
    };
    let mut out = format!(
        "{}  {}  {}\n",
        styled(style, &format!("{} {what}", glyph(result.outcome))),
        from,
        styled(DIM, &word(&result.target))
    );
    for address in &result.addresses {
        // Members under the seed that told of them.
        let indent = if address.member.is_some() { "      " } else { "    " };
        out.push_str(&observation(indent, address, "ok", width));
    }
    if let Some(all) = result.addresses_in_all {
        let probed = result.addresses.iter().filter(|o| o.address.is_some() && o.member.is_none()).count();
        let text = format!("the name has {all} addresses; {probed} of them were probed");
        out.push_str(&paragraph("    ", &text, width));
    }
    if let Some(all) = result.members_in_all {
        let probed: BTreeSet<_> = result.addresses.iter().filter_map(|o| o.member.as_ref()).collect();
        let text = format!("the seed tells of {all} members; {} of them were probed", probed.len());
        out.push_str(&paragraph("    ", &text, width));
    }
    out
}

/// Targets down and fleets across; nothing where there is one of each.
fn matrix(results: &[ProbeResult], width: usize) -> String {
    let fleet = |r: &ProbeResult| Some(format!("{}/{}", word(r.region.as_ref()?), word(r.fleet.as_ref()?)));
    let fleets: BTreeSet<String> = results.iter().filter_map(fleet).collect();
    let mut targets: Vec<&str> = results.iter().map(|r| r.target.as_str()).collect();
    targets.sort_unstable();
    targets.dedup();
    if fleets.is_empty() || fleets.len() * targets.len() < 2 {
        return String::new();
    }
    let mut grid = Grid::new([String::new()].into_iter().chain(fleets.iter().cloned()));
    for target in targets {
        let mut row = vec![Span::plain(word(target))];
        for name in &fleets {
            let of = |r: &&ProbeResult| r.target == target && fleet(r).as_ref() == Some(name);
            row.push(cell(&results.iter().filter(of).collect::<Vec<_>>()));
        }
        grid.row(row);
    }
    format!("\n{}\n", grid.matrix(width))
}

/// The answers of one fleet for one target: how many are as the state says, and the first reason.
fn cell(of: &[&ProbeResult]) -> Span {
    let state = State::all(of.iter().map(|r| r.outcome));
    let same = of.iter().filter(|r| r.outcome == state);
    let reason =
        same.clone().find_map(|r| r.reason.as_deref()).map_or_else(String::new, |text| format!(" {}", word(text)));
    Span::new(style_of(state), format!("{}{reason} {}/{}", glyph(state), same.count(), of.len()))
}

/// What the answers add up to, and what to do about those that do not pass.
pub(crate) fn summary(results: &[ProbeResult], objections: &[String], width: usize) -> String {
    let number = |state: State| results.iter().filter(|r| r.outcome == state).count();
    let part = |state: State| styled(style_of(state), &format!("{} {}", number(state), state.as_str()));
    let mut out = format!("\n{}, {}, {}\n", part(State::Pass), part(State::Fail), part(State::Unknown));
    out.push_str(&matrix(results, width));
    if results.is_empty() {
        out.push_str(&paragraph("", &styled(UNSURE, "No agent gave an answer, so nothing is known."), width));
    }
    for objection in objections {
        out.push_str(&paragraph("  ", &sentence(objection), width));
    }
    let of_results = results.iter().filter(|r| r.outcome != State::Pass).filter_map(|r| r.reason.as_deref());
    let of_addresses = results.iter().flat_map(|r| &r.addresses).filter(|o| o.outcome != Outcome::Ok);
    let reasons: BTreeSet<&str> = of_results.chain(of_addresses.filter_map(|o| o.outcome.reason())).collect();
    if !reasons.is_empty() {
        out.push_str(&heading("What to do next"));
    }
    for reason in reasons {
        match lookup(reason) {
            Some((_, meaning, next)) => {
                // From this host each line has said what its reason means.
                let text = if results.iter().any(|r| r.agent.is_some()) {
                    format!("{reason}: {meaning}")
                } else {
                    reason.to_owned()
                };
                out.push_str(&paragraph("  ", &text, width));
                out.push_str(&paragraph("    → ", next, width));
            }
            None => out.push_str(&paragraph("  ", &word(reason), width)),
        }
    }
    out
}

//! What to do next about cells that do not pass: from which source, to which destination, and which group to admit.

use std::collections::{BTreeMap, BTreeSet};

use crate::matrix::{Answer, Presence, Why};
use crate::observation::{Certificate, Observation, Outcome};
use crate::plan::FleetId;
use crate::reason::{Short, Unknown};
use crate::run::Witness;
use crate::text::escape;
use crate::verdict::{JudgedCell, absent, fell_short, list, reached_addresses, short_addresses, silent};

/// The next step for cells of one dependency that share a reason. `all` are the cells of the region.
pub(crate) fn fix(why: Why, cells: &[&JudgedCell<'_>], all: &[&JudgedCell<'_>]) -> String {
    match why {
        Why::Short(reason) => of_short(reason, cells, all),
        Why::Unknown(Unknown::NoAgent) => start_agents(cells).unwrap_or_else(|| why.next().to_owned()),
        Why::Unknown(Unknown::Silent) => of_the_silent(cells),
        Why::Void(_) | Why::Unknown(Unknown::TooFewAgents | Unknown::NoContrast | Unknown::EgressUnproven) => {
            why.next().to_owned()
        }
    }
}

/// What to do about agents that did not answer, by why they did not.
fn of_the_silent(cells: &[&JudgedCell<'_>]) -> String {
    let (left, lost) = (absent(cells, Presence::Left), absent(cells, Presence::Lost));
    let unsteady = absent(cells, Presence::Unsteady);
    let unanswered: BTreeSet<String> = cells.iter().flat_map(|c| silent(c)).collect();
    let mut said = Vec::new();
    if !lost.is_empty() || !unanswered.is_empty() || (left.is_empty() && unsteady.is_empty()) {
        said.push(Unknown::Silent.next().to_owned());
    }
    if let Some(agent) = lost.first() {
        said.push(format!(
            "If its host is gone for good: `preflight agents forget {agent}`; without that it is missed for 24 hours."
        ));
    }
    if let Some(agent) = left.first() {
        said.push(format!(
            "{} was stopped a moment ago, and no other agent of its network identity answers. If it is being restarted, run the gate \
             again once it is back; if not, it is missed for two minutes from when it was stopped, or until \
             `preflight agents forget {agent}`.",
            list(&left)
        ));
    }
    if !unsteady.is_empty() {
        said.push(format!(
            "{} lost the stream again and again, and counts once it has stayed connected for a minute: look at its log and at the path \
             to the controller.",
            list(&unsteady)
        ));
    }
    said.join(" ")
}

fn start_agents(cells: &[&JudgedCell<'_>]) -> Option<String> {
    let fleet = &cells.first()?.cell.fleet;
    Some(format!(
        "Start an agent on {}: `preflight token join --region {} --fleet {}` prints a join token for preflight-agent run.",
        if cells.len() == 1 { "it" } else { "each of these fleets" },
        fleet.region,
        fleet.fleet,
    ))
}

fn of_short(reason: Short, cells: &[&JudgedCell<'_>], all: &[&JudgedCell<'_>]) -> String {
    let special = if reason == Short::Reachable {
        Some(close(cells))
    } else if reason == Short::ConnectTimeout {
        admit(cells, all, "met silence")
    } else if reason == Short::ConnectProhibited {
        admit(cells, all, "was turned away")
    } else if reason == Short::TlsExpired {
        renew(cells)
    } else if reason == Short::TlsNameMismatch {
        rename(cells)
    } else {
        None
    };
    special.unwrap_or_else(|| along_the_path(cells, reason.next()))
}

fn close(cells: &[&JudgedCell<'_>]) -> String {
    let fleets: BTreeSet<String> = cells.iter().map(|c| c.cell.fleet.to_string()).collect();
    let to = reached_addresses(cells);
    let to = if to.is_empty() { "it".to_owned() } else { list(&to) };
    format!(
        "Close the path from {} to {to}, or change `expect` in the manifest, and run the gate again.",
        list(&fleets)
    )
}

fn renew(cells: &[&JudgedCell<'_>]) -> Option<String> {
    let seen = certificate(cells)?;
    Some(format!(
        "Renew the certificate that {} presents: {} ended {}. If only one host sees this, check that host's clock.",
        destination(cells),
        escape(&seen.subject),
        seen.not_after
    ))
}

fn rename(cells: &[&JudgedCell<'_>]) -> Option<String> {
    let names: BTreeSet<String> = certificate(cells)?.names.iter().map(|name| escape(name)).collect();
    let names = if names.is_empty() { "no name at all".to_owned() } else { list(&names) };
    let next = Short::TlsNameMismatch.next();
    Some(format!("{next} The certificate that {} presents is for {names}.", destination(cells)))
}

/// The step with the source and the destination before it.
fn along_the_path(cells: &[&JudgedCell<'_>], step: &str) -> String {
    let mut rest = step.chars();
    let step = match (rest.next(), rest.as_str()) {
        (Some(first), rest) => format!("{}{rest}", first.to_lowercase()),
        (None, _) => String::new(),
    };
    format!("From {} to {}: {step}", list(&sources(cells).into_iter().collect()), destination(cells))
}

/// Where it fell short: the addresses, else the target as it is written.
fn destination(cells: &[&JudgedCell<'_>]) -> String {
    let addresses = short_addresses(cells);
    if addresses.is_empty() {
        list(&cells.iter().map(|c| escape(&c.cell.spec.target.to_string())).collect())
    } else {
        list(&addresses)
    }
}

/// Each fleet with what a rule would name it by, of the hosts that fell short: its groups, else its subnets, else their addresses.
fn sources(cells: &[&JudgedCell<'_>]) -> Vec<String> {
    let mut fleets: BTreeMap<&FleetId, Vec<&Witness<'_>>> = BTreeMap::new();
    for cell in cells {
        fleets.entry(&cell.cell.fleet).or_default().extend(cell.witnesses.iter().filter(|w| fell_short(w)));
    }
    let named = |(fleet, hosts): (&FleetId, Vec<&Witness<'_>>)| {
        let by = |key: &str| -> BTreeSet<String> {
            let identities = hosts.iter().filter_map(|w| w.testimony).map(|t| &t.identity);
            identities.filter_map(|identity| identity.0.get(key)).flatten().map(|value| escape(value)).collect()
        };
        let known = [("security group ", by("security_group")), ("subnet ", by("subnet")), ("", by("address"))];
        match known.into_iter().find(|(_, values)| !values.is_empty()) {
            Some((noun, values)) => format!("{fleet} ({noun}{})", list(&values)),
            None => fleet.to_string(),
        }
    };
    fleets.into_iter().map(named).collect()
}

/// Which security groups to admit: what all hosts that fell short carry, else what those of each fleet do. Groups of hosts that
/// pass too would not make the difference.
fn admit(cells: &[&JudgedCell<'_>], all: &[&JudgedCell<'_>], what_they_met: &str) -> Option<String> {
    let dependency = &cells.first()?.cell.dependency;
    let same = |c: &&&JudgedCell<'_>| c.cell.dependency == *dependency;
    let passing = all.iter().filter(same).flat_map(|c| &c.witnesses).filter(|w| w.answer == Answer::Given(Outcome::Ok));
    let passing: BTreeSet<String> = passing.flat_map(groups).collect();
    let of_fleet = |cell: &&JudgedCell<'_>| {
        let mut failing = cell.witnesses.iter().filter(|w| fell_short(w)).map(groups);
        let first = failing.next().unwrap_or_default();
        let common = failing.fold(first, |all, one| all.intersection(&one).cloned().collect());
        common.difference(&passing).map(|group| escape(group)).collect::<BTreeSet<String>>()
    };
    let by_fleet: Vec<(&FleetId, BTreeSet<String>)> = cells.iter().map(|c| (&c.cell.fleet, of_fleet(c))).collect();
    let mut sets = by_fleet.iter().map(|(_, groups)| groups.clone());
    let first = sets.next()?;
    let common: BTreeSet<String> = sets.fold(first, |all, one| all.intersection(&one).cloned().collect());
    let to = short_addresses(cells);
    let to = if to.is_empty() { String::new() } else { format!(" to {},", list(&to)) };
    let who = match common.len() {
        0 => {
            if by_fleet.iter().any(|(_, groups)| groups.is_empty()) {
                return None;
            }
            let each = by_fleet.iter().map(|(fleet, groups)| format!("{} of {fleet}", list(groups)));
            return Some(format!(
                "Admit the security groups {}, which the hosts that {what_they_met} carry,{to} and run the gate again.",
                list(&each.collect())
            ));
        }
        1 => format!("the security group {}", list(&common)),
        _ => format!("one of the security groups {}", list(&common)),
    };
    let fleets: BTreeSet<String> = by_fleet.iter().map(|(fleet, _)| fleet.to_string()).collect();
    let fleets = list(&fleets);
    Some(format!("Admit {who}, which every host that {what_they_met} carries ({fleets}),{to} and run the gate again."))
}

fn groups(witness: &Witness<'_>) -> BTreeSet<String> {
    witness.testimony.and_then(|t| t.identity.0.get("security_group")).cloned().unwrap_or_default()
}

/// The leaf that was presented where it fell short.
fn certificate<'a>(cells: &'a [&JudgedCell<'_>]) -> Option<&'a Certificate> {
    let short = cells.iter().flat_map(|c| &c.witnesses).filter(|w| fell_short(w)).filter_map(|w| w.testimony);
    let observations = short.flat_map(|t| &t.report.observations);
    let fell = |o: &&Observation| matches!(o.outcome, Outcome::Short(_));
    observations.filter(fell).filter_map(|o| o.tls.as_ref()).find_map(|tls| tls.chain.first())
}

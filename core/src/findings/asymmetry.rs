//! Some hosts reach a dependency and others do not: what tells them apart.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::{Attribute, Draft, Host, Kind, Seen, fleets_of, join, one_zone, place};
use crate::identity::KeyRule;
use crate::text::escape;

/// Attributes by how likely network policy goes by them; labels and what is not named come after.
const LIKELY: [&str; 6] = ["security_group", "namespace", "service_account", "vpc", "subnet", "zone"];
/// As many attributes of one side are told in words; all of them are in the finding.
const TOLD: usize = 3;
/// As many hosts are named.
const NAMED: usize = 5;
/// A difference of shares from which an attribute that explains not all of it is worth a word.
const NEAR: f64 = 0.5;

pub(super) fn find(seen: &Seen<'_>) -> Option<Draft> {
    if seen.ok.is_empty() || seen.short.is_empty() {
        return None;
    }
    // Where the path must be blocked, those that fall short are the ones that reach it.
    let (reach, fail, fails) =
        if seen.blocked { (&seen.short, &seen.ok, "is stopped") } else { (&seen.ok, &seen.short, "fails") };
    let all = attributes(reach, fail);
    let mut only_reach: Vec<Attribute> = all.iter().filter(|a| marks_reach(a)).cloned().collect();
    let mut only_fail: Vec<Attribute> = all.iter().filter(|a| marks_fail(a)).cloned().collect();
    rank(&mut only_reach, &only_fail.clone());
    rank(&mut only_fail, &only_reach);
    let (on_reach, on_fail) = (fleets_of(reach), fleets_of(fail));
    let on_both =
        |host: &Host<'_>| on_reach.contains(host.fleet.fleet.as_str()) && on_fail.contains(host.fleet.fleet.as_str());
    let mut draft = Draft::new(Kind::Asymmetry, seen.dependency, String::new());
    draft.split = reach.iter().chain(fail).filter(|host| on_both(host)).map(|host| host.fleet.clone()).collect();
    draft.explains = seen.failing_cells();
    // What fails of a fleet that is otherwise well has to be looked at host by host.
    let look_at = if draft.split.is_empty() { String::new() } else { format!("; look at {}", list(&seen.short)) };
    if let Some(rest) = one_zone::tell(reach, fail, fails, &only_reach, &only_fail) {
        (draft.kind, draft.rest) = (Kind::OneZone, rest);
    } else {
        draft.rest = who(reach, fail, &on_reach, &on_fail) + &why(&all, &only_reach, &only_fail, fails, &look_at);
    }
    (draft.attributes, draft.failing_attributes) = (only_reach, only_fail);
    Some(draft)
}

fn marks_reach(attribute: &Attribute) -> bool {
    attribute.carried_by_ok == attribute.ok && attribute.carried_by_short == 0
}

fn marks_fail(attribute: &Attribute) -> bool {
    attribute.carried_by_short == attribute.short && attribute.carried_by_ok == 0
}

/// Every attribute that any of them carries, with counts.
fn attributes(reach: &[Host<'_>], fail: &[Host<'_>]) -> Vec<Attribute> {
    let mut counts: BTreeMap<(&str, &str), (usize, usize)> = BTreeMap::new();
    for (hosts, reaches) in [(reach, true), (fail, false)] {
        let carried = hosts.iter().flat_map(|host| host.identity.shared());
        let of_policy = carried.filter(|(key, _)| !KeyRule::PER_POD.contains(key));
        for (key, value) in of_policy.flat_map(|(key, values)| values.iter().map(move |value| (key, value.as_str()))) {
            let (by_ok, by_short) = counts.entry((key, value)).or_default();
            *(if reaches { by_ok } else { by_short }) += 1;
        }
    }
    let attribute = |((key, value), (carried_by_ok, carried_by_short)): ((&str, &str), (usize, usize))| Attribute {
        key: key.to_owned(),
        value: value.to_owned(),
        carried_by_ok,
        ok: reach.len(),
        carried_by_short,
        short: fail.len(),
    };
    counts.into_iter().map(attribute).collect()
}

/// The best explanation first: one that has its counterpart on the other side, then by what policy mostly goes by.
fn rank(side: &mut [Attribute], other: &[Attribute]) {
    let place = |key: &str| LIKELY.iter().position(|likely| *likely == key).unwrap_or(LIKELY.len());
    side.sort_by_key(|a| (Reverse(other.iter().any(|o| o.key == a.key)), place(&a.key)));
}

/// From where it is reached and from where not.
fn who(reach: &[Host<'_>], fail: &[Host<'_>], on_reach: &BTreeSet<&str>, on_fail: &BTreeSet<&str>) -> String {
    if on_reach.is_disjoint(on_fail) {
        format!("is reached from {} and not from {}. ", join(on_reach.iter().copied()), join(on_fail.iter().copied()))
    } else {
        // Hosts of one fleet stand on both sides: its name alone would say nothing.
        let all = on_reach | on_fail;
        let (reach, asked) = (reach.len(), reach.len() + fail.len());
        format!("is reached by {reach} of the {asked} hosts of {} that answered. ", join(all))
    }
}

fn why(all: &[Attribute], only_reach: &[Attribute], only_fail: &[Attribute], fails: &str, look_at: &str) -> String {
    let mut text = String::new();
    if let Some(a) = only_reach.first() {
        let (what, of, short) = (show(only_reach), a.ok, a.short);
        let _ = write!(
            text,
            "Every host that reaches it carries {what} ({of} of {of}; of those that do not 0 of {short})."
        );
    }
    if let Some(a) = only_fail.first() {
        let (what, of, ok) = (show(only_fail), a.short, a.ok);
        let space = if text.is_empty() { "" } else { " " };
        let _ = write!(text, "{space}Every host that {fails} carries {what} ({of} of {of}; of the others 0 of {ok}).");
    }
    if !text.is_empty() {
        return text;
    }
    let share = |part: usize, of: usize| {
        f64::from(u32::try_from(part).unwrap_or(u32::MAX)) / f64::from(u32::try_from(of.max(1)).unwrap_or(u32::MAX))
    };
    let apart = |a: &Attribute| (share(a.carried_by_ok, a.ok) - share(a.carried_by_short, a.short)).abs();
    let nearest = all.iter().max_by(|a, b| apart(a).total_cmp(&apart(b))).filter(|a| apart(a) >= NEAR);
    match nearest {
        Some(a) => format!(
            "No attribute of the hosts' network identity tells all of them apart; what comes nearest is {}: {} of {} that reach it \
             carry it, and {} of {} that do not.",
            show(std::slice::from_ref(a)),
            a.carried_by_ok,
            a.ok,
            a.carried_by_short,
            a.short,
        ),
        None => format!("No attribute of the hosts' network identity tells them apart{look_at}."),
    }
}

/// Hosts by name and place.
fn list(hosts: &[Host<'_>]) -> String {
    let named = hosts.iter().take(NAMED).map(|host| format!("{}{}", escape(host.agent), place(host.identity)));
    let named = named.collect::<Vec<_>>().join(", ");
    match hosts.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

fn show(attributes: &[Attribute]) -> String {
    let told = attributes.iter().take(TOLD).map(|a| format!("{} {}", escape(&a.key), escape(&a.value)));
    let told: Vec<String> = told.collect();
    match attributes.len().saturating_sub(TOLD) {
        0 => told.join(" and "),
        more => format!("{} and {more} more", told.join(", ")),
    }
}

//! Each kind over small worlds: when it is said, when it is not, and that nothing is said twice.

use std::collections::BTreeMap;

use super::*;
use crate::baseline::Duty;
use crate::identity::IdentityKey;
use crate::manifest::Usage;
use crate::matrix::{Asked, Candidate, Presence, fold};
use crate::observation::{Control, Member, Observation, Role, Routes};
use crate::plan::Cell;
use crate::run::{Testimony, Witness};
use crate::spec::{Millis, ProbeSpec};

const OK: Outcome = Outcome::Ok;
const SILENT: Outcome = Outcome::Short(Short::ConnectTimeout);
const REFUSED: Outcome = Outcome::Short(Short::ConnectRefused);

/// A host: its fleet, its identity, and what it saw of each place.
#[derive(Clone)]
struct Agent {
    fleet: &'static str,
    name: String,
    key: IdentityKey,
    testimony: Testimony,
    outcome: Outcome,
}

fn agent(fleet: &'static str, name: &str, identity: &[(&str, &str)], seen: &[(&str, Outcome)]) -> Agent {
    let mut of = NetworkIdentity::default();
    for (key, value) in identity {
        of.insert(*key, *value);
    }
    let observation = |(place, outcome): &(&str, Outcome)| match place.strip_prefix("member ") {
        None => Observation::new(Some(place.parse().unwrap()), *outcome),
        Some(endpoint) => Observation {
            member: Some(Member { role: Role::Primary, endpoint: endpoint.to_owned() }),
            ..Observation::new(Some(endpoint.parse().unwrap()), *outcome)
        },
    };
    let outcome = seen.iter().map(|(_, outcome)| *outcome).find(|outcome| *outcome != OK).unwrap_or(OK);
    let report = Report {
        observations: seen.iter().map(observation).collect(),
        resolved: 1,
        routes: Routes { ipv4: true, ipv6: false },
        control: Control::Unanswered,
        members: 0,
        egress: true,
    };
    let key = of.key();
    Agent { fleet, name: name.into(), key, testimony: Testimony { identity: of, report, clock_skew_ms: 0 }, outcome }
}

/// A fleet of two hosts with one security group that see the same.
fn pair(fleet: &'static str, group: &str, outcome: Outcome) -> [Agent; 2] {
    ["1", "2"].map(|n| agent(fleet, &format!("{fleet}-{n}"), &[("security_group", group)], &[(AT, outcome)]))
}

const AT: &str = "10.0.0.1:6379";

fn cell(fleet: &str, dependency: &str) -> Cell {
    Cell {
        application: "app".into(),
        fleet: FleetId { region: "us".into(), fleet: fleet.into() },
        dependency: dependency.into(),
        spec: ProbeSpec::new("tcp://cache.internal:6379".parse().unwrap()),
        min_agents: 2,
        stated: NetworkIdentity::default(),
        usage: Usage::default(),
        line: 0,
    }
}

/// What is found of these agents, each of which was asked of every cell of its fleet.
fn found(cells: &[Cell], agents: &[Agent], duty: impl Fn(&Cell) -> Duty) -> Vec<Finding> {
    let duties: Vec<Duty> = cells.iter().map(duty).collect();
    let judged: Vec<JudgedCell<'_>> = cells
        .iter()
        .zip(&duties)
        .map(|(cell, duty)| {
            let probed = !matches!(duty, Duty::Proven(_));
            let of_fleet: Vec<&Agent> = agents.iter().filter(|a| probed && a.fleet == cell.fleet.fleet).collect();
            let candidate =
                |a: &&Agent| Candidate { agent: a.name.clone(), key: a.key.clone(), presence: Presence::Connected };
            let roster: Vec<Candidate> = of_fleet.iter().map(candidate).collect();
            let answer = |a: &&Agent| (a.name.clone(), Asked { key: a.key.clone(), answer: Answer::Given(a.outcome) });
            let asked: BTreeMap<String, Asked> = of_fleet.iter().map(answer).collect();
            let witness = |a: &&'_ Agent| -> Witness<'_> {
                // Borrowed from the slice, not from the closure's argument.
                let a = agents.iter().find(|b| b.name == a.name).unwrap();
                let answer = Answer::Given(a.outcome);
                Witness { agent: &a.name, key: &a.key, answer, testimony: Some(&a.testimony), mismatch: None }
            };
            let folded = if probed { fold(2, false, &roster, &asked) } else { crate::matrix::Folded::proven() };
            JudgedCell {
                cell,
                digest: Box::leak(Box::new(cell.digest())),
                duty,
                folded,
                witnesses: of_fleet.iter().map(witness).collect(),
            }
        })
        .collect();
    find(&judged.iter().collect::<Vec<_>>(), [])
}

fn required(_: &Cell) -> Duty {
    Duty::Required
}

fn kinds(findings: &[Finding]) -> Vec<Kind> {
    findings.iter().map(|finding| finding.kind).collect()
}

#[test]
fn everywhere_is_said_of_what_every_fleet_was_asked() {
    let agents: Vec<Agent> = [pair("web", "sg-web", REFUSED), pair("worker", "sg-worker", REFUSED)].concat();
    let cells = [cell("web", "cache"), cell("worker", "cache")];
    let all = found(&cells, &agents, required);
    assert_eq!(kinds(&all), [Kind::Everywhere]);
    assert!(
        all[0].text.starts_with("cache fails from every fleet alike (web, worker; 4 of 4 hosts): connect_refused.")
    );
    // A third fleet, which an earlier verdict speaks for, may reach it.
    let cells = [cell("web", "cache"), cell("worker", "cache"), cell("batch", "cache")];
    let proven = |cell: &Cell| match cell.fleet.fleet.as_str() {
        "batch" => Duty::Proven("v1".into()),
        _ => Duty::Required,
    };
    assert_eq!(found(&cells, &agents, proven), []);
    // Two reasons, two causes.
    let agents: Vec<Agent> = [pair("web", "sg-web", REFUSED), pair("worker", "sg-worker", SILENT)].concat();
    assert_eq!(found(&cells[..2], &agents, required), []);
    // One fleet alone compares with nothing.
    assert_eq!(found(&cells[..1], &agents, required), []);
}

#[test]
fn a_zone_is_named_only_where_nothing_else_tells_apart_and_everybody_tells_its_zone() {
    let host = |n: &str, identity: &[(&str, &str)], outcome| agent("web", n, identity, &[(AT, outcome)]);
    let cells = [cell("web", "cache")];
    let zones = |third: &[(&str, &str)], group: &str| {
        let bad = [("zone", "b"), ("security_group", group)];
        let good = [("zone", "a"), ("security_group", "sg")];
        let agents = [host("1", &good, OK), host("2", third, OK), host("3", &bad, SILENT), host("4", &bad, SILENT)];
        found(&cells, &agents, required)
    };
    let alike = zones(&[("zone", "c"), ("security_group", "sg")], "sg");
    assert_eq!(kinds(&alike), [Kind::OneZone]);
    let text =
        "cache fails from zone b alone: from all 2 hosts there that answered (of web), and from none of the 2 in a, c.";
    assert_eq!(alike[0].text, text);
    assert_eq!(
        (alike[0].failing_attributes[0].key.as_str(), alike[0].failing_attributes[0].carried_by_short),
        ("zone", 2)
    );
    let groups = zones(&[("zone", "c"), ("security_group", "sg")], "sg-b");
    assert_eq!(kinds(&groups), [Kind::Asymmetry]);
    assert_eq!(groups[0].attributes[0].value, "sg", "what policy mostly goes by comes first");
    assert_eq!(kinds(&zones(&[("security_group", "sg")], "sg")), [Kind::Asymmetry], "it may stand in zone b");
}

#[test]
fn the_odd_address_and_the_odd_member_are_named_unless_somebody_reaches_them() {
    let other = "10.0.0.2:6379";
    let host = |fleet, n: &str, second| agent(fleet, n, &[], &[(AT, OK), (other, second)]);
    let cells = [cell("web", "cache"), cell("worker", "cache")];
    let agents =
        [host("web", "1", SILENT), host("web", "2", SILENT), host("worker", "3", SILENT), host("worker", "4", SILENT)];
    let all = found(&cells, &agents, required);
    assert_eq!(kinds(&all), [Kind::OneAddress]);
    assert!(all[0].text.contains("one of its 2 addresses: 10.0.0.2:6379 (connect_timeout), from all 4 hosts"));
    let agents = [host("web", "1", SILENT), host("web", "2", SILENT), host("worker", "3", OK), host("worker", "4", OK)];
    assert_eq!(kinds(&found(&cells, &agents, required)), [Kind::Asymmetry]);

    let host = |n: &str, of: &[(&str, Outcome)]| agent("web", n, &[], of);
    let seen = [(AT, OK), ("member 10.0.0.7:6379", REFUSED), ("member 10.0.0.8:6379", OK)];
    let all = found(&cells[..1], &[host("1", &seen), host("2", &seen)], required);
    assert_eq!(kinds(&all), [Kind::OneMember]);
    assert!(all[0].text.contains("one of its 2 members: primary 10.0.0.7:6379 (connect_refused)"), "{}", all[0].text);
    // Both: no odd one out.
    let seen = [(AT, OK), ("member 10.0.0.7:6379", REFUSED), ("member 10.0.0.8:6379", REFUSED)];
    assert_eq!(found(&cells[..1], &[host("1", &seen), host("2", &seen)], required), []);
}

#[test]
fn what_some_of_the_failing_carry_too_is_no_explanation_but_may_come_nearest() {
    let host = |n: &str, groups: &[&str], outcome| {
        let identity: Vec<(&str, &str)> = groups.iter().map(|group| ("security_group", *group)).collect();
        agent("web", n, &identity, &[(AT, outcome)])
    };
    let agents = [
        host("1", &["sg-new"], OK),
        host("2", &["sg-new"], OK),
        host("3", &["sg-new", "sg-old"], SILENT),
        host("4", &["sg-old"], SILENT),
        host("5", &["sg-older"], SILENT),
    ];
    let all = found(&[cell("web", "cache")], &agents, required);
    assert_eq!((all[0].kind, &all[0].attributes, &all[0].failing_attributes), (Kind::Asymmetry, &vec![], &vec![]));
    let text = "what comes nearest is security_group sg-new: 2 of 2 that reach it carry it, and 1 of 3 that do not.";
    assert!(all[0].text.ends_with(text), "{}", all[0].text);
}

#[test]
fn an_address_that_need_not_work_stands_beside_a_pass() {
    let seen = [(AT, OK), ("10.0.0.2:6379", SILENT)];
    let mut agents = [agent("web", "1", &[], &seen), agent("web", "2", &[], &seen)];
    for agent in &mut agents {
        agent.outcome = OK;
    }
    let all = found(&[cell("web", "cache")], &agents, required);
    assert_eq!(kinds(&all), [Kind::AddressShort], "{all:?}");
}

#[test]
fn what_explains_most_comes_first_and_the_same_of_several_is_said_once() {
    let fleets = [("api", OK), ("mobile", SILENT), ("web", SILENT)];
    let mut agents: Vec<Agent> = fleets.iter().flat_map(|(fleet, outcome)| pair(fleet, "sg", *outcome)).collect();
    agents[0].testimony.identity.insert("security_group", "sg-admin");
    let cells: Vec<Cell> = ["cache", "queue"].iter().flat_map(|d| fleets.iter().map(|(f, _)| cell(f, d))).collect();
    let all = found(&cells, &agents, required);
    assert_eq!(kinds(&all), [Kind::Asymmetry, Kind::Drift], "{all:?}");
    assert!(all[0].text.starts_with("cache, queue: each is reached from api and not from mobile, web."), "{all:?}");
    assert_eq!((all[0].dependency.as_str(), &all[0].also), ("cache", &vec!["queue".to_owned()]));
    assert!(all[1].text.contains("sg-admin is carried by 1 of 2 (api-1)"), "{all:?}");
}

#[test]
fn a_dependency_has_one_explanation_and_no_two_findings_say_the_same() {
    let outcomes = [OK, SILENT, REFUSED];
    let groups = ["sg-a", "sg-b"];
    for world in 0..outcomes.len().pow(4) * groups.len().pow(4) {
        let mut rest = world;
        let mut pick = |of: usize| {
            let picked = rest % of;
            rest /= of;
            picked
        };
        let mut agents = Vec::new();
        for name in ["web-1", "web-2", "worker-1", "worker-2"] {
            let fleet = if name.starts_with("web") { "web" } else { "worker" };
            let identity = [("security_group", groups[pick(2)])];
            agents.push(agent(fleet, name, &identity, &[(AT, outcomes[pick(3)])]));
        }
        let mut cells =
            vec![cell("web", "cache"), cell("worker", "cache"), cell("web", "queue"), cell("worker", "queue")];
        for cell in &mut cells {
            cell.usage =
                Usage { calls_per_request: Some(2.0), client_timeout: Some(Millis(1_000)), ..Usage::default() };
        }
        let all = found(&cells, &agents, required);
        let texts: BTreeSet<&str> = all.iter().map(|finding| finding.text.as_str()).collect();
        assert_eq!(texts.len(), all.len(), "{all:?}");
        let explains = |f: &&Finding| f.kind < Kind::Impact;
        assert!(all.iter().filter(explains).count() <= 1, "both dependencies are seen alike: {all:?}");
        let places: Vec<Kind> = kinds(&all);
        let sorted = places.windows(2).all(|pair| pair[0] <= pair[1]);
        assert!(sorted, "{places:?}");
    }
}

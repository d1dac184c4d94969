//! Whatever happens to observations on their way (order, loss, duplication, lateness, mislabelling), the state is that of the
//! plain rule over those that count, and never a pass that they do not show.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::observation::{Control, Observation, Phases, Proof, Routes};
use crate::plan::Cell;
use crate::reason::Short;
use crate::spec::ProbeSpec;

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(1_700_000_000_000 + ms).unwrap()
}

fn fleet(name: &str) -> FleetId {
    FleetId { region: "eu".into(), fleet: name.into() }
}

fn cell(name: &str) -> Cell {
    Cell {
        application: "shop".into(),
        fleet: fleet(name),
        dependency: "cache".into(),
        spec: ProbeSpec::new("tcp://10.0.0.1:6379".parse().unwrap()),
        min_agents: 2,
        stated: NetworkIdentity::default(),
    }
}

fn run(fleets: &[&str]) -> Run {
    Run::new(RunSpec {
        id: "run-1".into(),
        release: "r1".into(),
        plan: Plan {
            application: "shop".into(),
            manifest_digest: String::new(),
            regions: vec!["eu".into()],
            cells: fleets.iter().map(|f| cell(f)).collect(),
            excluded: Vec::new(),
        },
        started: at(0),
        deadline: at(30_000),
        fail_fast: false,
        strict: false,
        unlisted: Vec::new(),
        target_rate: RunSpec::TARGET_RATE,
    })
}

fn agent(fleet_name: &str, n: usize) -> AgentId {
    AgentId { fleet: fleet(fleet_name), agent: format!("{fleet_name}-{n}") }
}

fn rosters(fleets: &[&str], agents: usize) -> BTreeMap<FleetId, Vec<Candidate>> {
    let candidate =
        |f: &str, n| Candidate { agent: agent(f, n).agent, key: IdentityKey::default(), presence: Presence::Connected };
    fleets.iter().map(|f| (fleet(f), (0..agents).map(|n| candidate(f, n)).collect())).collect()
}

fn testimony(ok: bool) -> Testimony {
    let address: SocketAddr = "10.0.0.1:6379".parse().unwrap();
    let observation = Observation {
        address: Some(address),
        member: None,
        outcome: if ok { Outcome::Ok } else { Outcome::Short(Short::ConnectTimeout) },
        proof: Some(if ok { Proof::Connected } else { Proof::Resolved }),
        phases: Phases::default(),
        note: None,
        detail: None,
        tls: None,
        attempts: Vec::new(),
    };
    Testimony {
        identity: NetworkIdentity::default(),
        report: Report {
            observations: vec![observation],
            resolved: 1,
            routes: Routes { ipv4: true, ipv6: false },
            control: Control::Unanswered,
            members: 0,
        },
        clock_skew_ms: 0,
    }
}

fn label(run: &Run, index: usize) -> Label {
    Label { run: "run-1".into(), cell: run.digest(index).unwrap().clone(), region: "eu".into(), release: "r1".into() }
}

#[test]
fn a_run_without_agents_ends_at_once_as_unknown() {
    let mut run = run(&["web"]);
    assert!(run.step(&BTreeMap::new(), at(0)).ended);
    assert_eq!(run.fold(0, &BTreeMap::new()).state, State::Unknown);
}

#[test]
fn who_does_not_answer_in_time_is_silent_and_replaced() {
    let rosters = rosters(&["web"], 4);
    let mut run = run(&["web"]);
    let step = run.step(&rosters, at(0));
    assert_eq!(step.ask.len(), 3);
    // The last one of them begins two milliseconds after the first.
    let wake = step.wake.unwrap().checked_add(Duration::from_millis(2)).unwrap();
    let label = label(&run, 0);
    run.record(&label, &agent("web", 0), testimony(true), at(10)).unwrap();
    assert!(run.step(&rosters, at(10)).ask.is_empty());
    let step = run.step(&rosters, wake);
    assert_eq!(step.ask.keys().collect::<Vec<_>>(), ["web-3"]);
    assert_eq!(run.record(&label, &agent("web", 1), testimony(true), wake), Err(Refused::Late));
}

#[test]
fn at_the_deadline_it_ends_and_what_comes_later_is_late() {
    let rosters = rosters(&["web"], 3);
    let mut run = run(&["web"]);
    run.step(&rosters, at(0));
    let label = label(&run, 0);
    run.record(&label, &agent("web", 0), testimony(true), at(1)).unwrap();
    assert_eq!(run.record(&label, &agent("web", 1), testimony(true), at(30_001)), Err(Refused::Late));
    assert!(run.step(&rosters, at(30_000)).ended);
    assert_eq!(run.fold(0, &rosters).state, State::Unknown);
    assert_eq!(run.record(&label, &agent("web", 2), testimony(true), at(100)), Err(Refused::Late));
}

#[test]
fn fail_fast_ends_with_the_first_certain_failure_and_the_rest_reads_as_cancelled() {
    let rosters = rosters(&["web", "worker"], 3);
    let mut run = run(&["web", "worker"]);
    run.spec.fail_fast = true;
    run.step(&rosters, at(0));
    let label = label(&run, 0);
    run.record(&label, &agent("web", 0), testimony(false), at(1)).unwrap();
    assert!(!run.step(&rosters, at(1)).ended);
    run.record(&label, &agent("web", 1), testimony(false), at(2)).unwrap();
    assert!(run.step(&rosters, at(2)).ended);
    let other = run.fold(1, &rosters);
    assert_eq!((other.state, other.why), (State::Unknown, Some(matrix::Why::Void(Void::Cancelled))));
}

#[test]
fn a_revoked_agent_is_not_believed() {
    let rosters = rosters(&["web"], 2);
    let mut run = run(&["web"]);
    run.step(&rosters, at(0));
    let label = label(&run, 0);
    run.record(&label, &agent("web", 0), testimony(true), at(1)).unwrap();
    run.record(&label, &agent("web", 1), testimony(true), at(1)).unwrap();
    assert_eq!(run.fold(0, &rosters).state, State::Pass);
    run.disown("web-1");
    assert_eq!(run.fold(0, &rosters).state, State::Unknown);
}

/// What may happen to one report on its way.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Arrives,
    ArrivesTwice,
    Lost,
    Late,
    OtherRun,
    OtherCell,
    OtherRegion,
    OtherRelease,
    OtherFleet,
    Unasked,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => Just(Fate::Arrives),
        1 => Just(Fate::ArrivesTwice),
        1 => Just(Fate::Lost),
        1 => Just(Fate::Late),
        1 => Just(Fate::OtherRun),
        1 => Just(Fate::OtherCell),
        1 => Just(Fate::OtherRegion),
        1 => Just(Fate::OtherRelease),
        1 => Just(Fate::OtherFleet),
        1 => Just(Fate::Unasked),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn only_what_counts_counts(
        fates in prop::collection::vec((fate(), prop::bool::weighted(0.8)), 3..9),
        order in any::<prop::sample::Index>(),
        rotate in any::<prop::sample::Index>(),
    ) {
        let rosters = rosters(&["web", "worker"], fates.len());
        let mut run = run(&["web", "worker"]);
        let mut told: BTreeMap<String, bool> = BTreeMap::new();
        // Answers until nobody is asked any more; at each round the reports arrive in another order.
        for round in 0..20 {
            let step = run.step(&rosters, at(round));
            let mut asked: Vec<String> = step.ask.into_iter().filter(|(_, cells)| cells.contains(&0)).map(|(a, _)| a).collect();
            if asked.is_empty() { break }
            let middle = rotate.index(asked.len());
            asked.rotate_left(middle);
            if order.index(2) == 0 { asked.reverse() }
            for name in asked {
                let n: usize = name["web-".len()..].parse().unwrap();
                let (fate, ok) = fates[n];
                let good = label(&run, 0);
                let from = agent("web", n);
                let mut send = |label: &Label, from: &AgentId, ok: bool, when: i64| run.record(label, from, testimony(ok), at(when));
                let refused = match fate {
                    Fate::Arrives => { send(&good, &from, ok, round).unwrap(); told.insert(name, ok); None }
                    Fate::ArrivesTwice => {
                        send(&good, &from, ok, round).unwrap();
                        told.insert(name, ok);
                        Some((send(&good, &from, !ok, round), Refused::Duplicate))
                    }
                    Fate::Lost => None,
                    Fate::Late => Some((send(&good, &from, true, 30_001), Refused::Late)),
                    Fate::OtherRun => Some((send(&Label { run: "run-2".into(), ..good }, &from, true, round), Refused::OtherRun)),
                    Fate::OtherCell => Some((send(&Label { cell: CellDigest("x".into()), ..good }, &from, true, round), Refused::UnknownCell)),
                    Fate::OtherRegion => Some((send(&Label { region: "us".into(), ..good }, &from, true, round), Refused::OtherRegion)),
                    Fate::OtherRelease => Some((send(&Label { release: "r0".into(), ..good }, &from, true, round), Refused::OtherRelease)),
                    Fate::OtherFleet => Some((send(&good, &agent("worker", n), true, round), Refused::OtherFleet)),
                    Fate::Unasked => Some((send(&good, &agent("web", 99), true, round), Refused::NotAsked)),
                };
                if let Some((got, want)) = refused { prop_assert_eq!(got, Err(want)) }
            }
        }
        run.step(&rosters, at(30_000));
        prop_assert!(run.ended());
        let ok = told.values().filter(|ok| **ok).count();
        let short = told.len() - ok;
        // Two refute a lone short one only if nobody else was there to be asked, or was asked in vain.
        let all_told = told.len() == fates.len();
        let want = match (short, ok) {
            (0, 2..) | (1, 3..) => State::Pass,
            (1, 2) if all_told => State::Pass,
            (0, _) => State::Unknown,
            (_, _) => State::Fail,
        };
        prop_assert_eq!(run.fold(0, &rosters).state, want, "told {:?}", told);
    }
}

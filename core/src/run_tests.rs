//! Whatever happens to observations on their way (order, loss, duplication, lateness, mislabelling), the state is that of the
//! plain rule over those that count, and never a pass that they do not show.

use std::net::SocketAddr;
use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;
use crate::manifest::Usage;
use crate::observation::{Control, Observation, Phases, Proof, Routes};
use crate::plan::{Cell, Plan};
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
        usage: Usage::default(),
        line: 0,
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
        await_agents: false,
        unlisted: Vec::new(),
        target_rate: RunSpec::TARGET_RATE,
        duties: Vec::new(),
        mode: Mode::Gate,
        basis: Basis::default(),
        only: None,
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
            egress: false,
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
fn who_is_away_has_its_whole_time_from_when_it_is_back() {
    // As right after a restart of the controller: nobody is connected yet, and all come back, late.
    let away: BTreeMap<FleetId, Vec<Candidate>> = rosters(&["web"], 2)
        .into_iter()
        .map(|(fleet, all)| (fleet, all.into_iter().map(|c| Candidate { presence: Presence::Away, ..c }).collect()))
        .collect();
    let back = rosters(&["web"], 2);
    let mut run = run(&["web"]);
    // One was asked before the restart.
    let digest = run.digest(0).unwrap().clone();
    run.recall_asked(&digest, &agent("web", 0).agent, IdentityKey::default(), at(0));
    assert_eq!(run.step(&away, at(0)).ask.len(), 1);
    // Beyond what a probe may take from when it was first asked for.
    for ms in [5_000, 15_000, 20_000, 24_000] {
        let step = run.step(&away, at(ms));
        assert!(!step.ended && step.wake.is_some_and(|wake| wake > at(ms)), "at {ms} ms: {step:?}");
    }
    assert!(!run.step(&back, at(25_000)).ended);
    let label = label(&run, 0);
    for n in 0..2 {
        assert!(run.send(0, &agent("web", n).agent, at(25_000)).is_some());
        run.record(&label, &agent("web", n), testimony(true), at(26_000)).unwrap();
    }
    assert!(run.step(&back, at(26_000)).ended);
    assert_eq!(run.fold(0, &back).state, State::Pass);
}

#[test]
fn a_fleet_that_lacks_agents_is_waited_for_where_that_is_asked_for() {
    let spec = RunSpec { await_agents: true, ..run(&["web", "worker"]).spec().clone() };
    let mut run = Run::new(spec);
    let mut there = rosters(&["worker"], 2);
    let label = |run: &Run, index| label(run, index);
    run.step(&there, at(0));
    for n in 0..2 {
        run.record(&label(&run, 1), &agent("worker", n), testimony(true), at(10)).unwrap();
    }
    let step = run.step(&there, at(10));
    assert!(!step.ended && step.wake <= Some(at(5_010)), "{step:?}");
    assert_eq!(run.awaited_fleets(), BTreeSet::from([&fleet("web")]));
    assert_eq!(run.progress().settled, 1);
    // One is too few.
    there.extend(rosters(&["web"], 1));
    assert_eq!(run.step(&there, at(10_000)).ask.keys().collect::<Vec<_>>(), ["web-0"]);
    run.record(&label(&run, 0), &agent("web", 0), testimony(true), at(10_010)).unwrap();
    assert!(!run.step(&there, at(10_010)).ended);
    there.extend(rosters(&["web"], 2));
    assert_eq!(run.step(&there, at(20_000)).ask.keys().collect::<Vec<_>>(), ["web-1"]);
    run.record(&label(&run, 0), &agent("web", 1), testimony(true), at(20_010)).unwrap();
    assert!(run.step(&there, at(20_010)).ended);
    assert_eq!(run.fold(0, &there).state, State::Pass);
}

#[test]
fn who_was_lost_before_it_was_asked_is_asked_when_it_is_back_where_agents_are_awaited() {
    let with = |presence| {
        let all = rosters(&["web"], 2);
        let of = |(fleet, all): (FleetId, Vec<Candidate>)| {
            (fleet, all.into_iter().map(|c| Candidate { presence, ..c }).collect())
        };
        all.into_iter().map(of).collect::<BTreeMap<FleetId, Vec<Candidate>>>()
    };
    let mut run = Run::new(RunSpec { await_agents: true, ..run(&["web"]).spec().clone() });
    assert_eq!(run.step(&with(Presence::Away), at(0)).ask.len(), 2);
    assert!(!run.step(&with(Presence::Lost), at(10_000)).ended);
    assert_eq!(run.step(&with(Presence::Connected), at(20_000)).ask.len(), 2);
    // The wait ends all the same.
    assert!(run.step(&with(Presence::Lost), at(30_000)).ended);
    assert_eq!(run.fold(0, &with(Presence::Lost)).why, Some(Why::Unknown(Unknown::Silent)));
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
    assert_eq!((other.state, other.why), (State::Unknown, Some(Why::Void(Void::Cancelled))));
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

const BLOCKED_AT: &str = "10.0.0.1:6379";

/// What an agent meets at an address: a connect, or the end that is named. Its own network works.
fn meets(address: &str, end: Option<Short>) -> Testimony {
    let mut one = testimony(end.is_none());
    one.report.egress = true;
    let observation = &mut one.report.observations[0];
    observation.address = Some(address.parse().unwrap());
    observation.outcome = end.map_or(Outcome::Ok, Outcome::Short);
    one
}

/// A run in which `web` must not reach the cache, and the other fleets must.
fn guarded(others: &[FleetId]) -> Run {
    let mut run = run(&["web"]);
    let mut plan = run.spec.plan.clone();
    plan.cells[0].spec.expect = Expect::Blocked;
    plan.cells.extend(others.iter().map(|fleet| Cell { fleet: fleet.clone(), ..cell("x") }));
    run.spec.plan = plan;
    Run::new(run.spec)
}

/// Plays a run: each agent of a fleet answers with what its fleet meets.
fn play(mut run: Run, meets: impl Fn(usize, &str) -> Option<Testimony>) -> (Run, BTreeMap<FleetId, Vec<Candidate>>) {
    let candidate = |f: &FleetId, n| Candidate {
        agent: format!("{}-{}-{n}", f.region, f.fleet),
        key: IdentityKey::default(),
        presence: Presence::Connected,
    };
    let fleets = run.spec.plan.cells.iter().map(|c| c.fleet.clone());
    let rosters: BTreeMap<_, Vec<_>> =
        fleets.map(|f| (f.clone(), (0..5).map(|n| candidate(&f, n)).collect())).collect();
    for _ in 0..20 {
        let step = run.step(&rosters, at(1));
        for (agent, cells) in step.ask {
            for index in cells {
                let fleet = run.spec.plan.cells[index].fleet.clone();
                let label = Label { region: fleet.region.clone(), ..label(&run, index) };
                let Some(testimony) = meets(index, &agent) else { continue };
                run.record(&label, &AgentId { fleet, agent: agent.clone() }, testimony, at(1)).unwrap();
            }
        }
    }
    run.step(&rosters, at(30_000));
    assert!(run.ended());
    (run, rosters)
}

#[test]
#[rustfmt::skip]
fn a_path_is_blocked_only_in_contrast() {
    let us = FleetId { region: "us".into(), fleet: "worker".into() };
    let (pass, fail) = (|| (State::Pass, None), |why| (State::Fail, Some(why)));
    let nothing = || (State::Unknown, Some("no_contrast"));
    let (drop, refused, prohibited) = (Some(Short::ConnectTimeout), Some(Short::ConnectRefused), Some(Short::ConnectProhibited));
    let elsewhere = "10.0.0.2:6379";
    let other_port = "10.0.0.1:6380";
    // Who is there beside web, what web meets at the cache, what the other meets where, and what is said of web's cell.
    let cases = [
        (fleet("worker"), BLOCKED_AT, drop, BLOCKED_AT, None, pass()),
        (fleet("worker"), BLOCKED_AT, refused, BLOCKED_AT, None, pass()),
        (fleet("worker"), BLOCKED_AT, prohibited, BLOCKED_AT, None, pass()),
        (fleet("worker"), BLOCKED_AT, drop, BLOCKED_AT, refused, nothing()),
        (fleet("worker"), BLOCKED_AT, drop, elsewhere, None, nothing()),
        (fleet("worker"), BLOCKED_AT, drop, other_port, None, nothing()),
        (fleet("worker"), BLOCKED_AT, drop, "[::ffff:10.0.0.1]:6379", None, pass()),
        (fleet("worker"), BLOCKED_AT, None, BLOCKED_AT, None, fail("reachable")),
        (fleet("worker"), BLOCKED_AT, None, BLOCKED_AT, drop, fail("reachable")),
        (fleet("worker"), BLOCKED_AT, Some(Short::DnsNxdomain), BLOCKED_AT, None, (State::Unknown, Some("blocked_unproven"))),
        (fleet("worker"), BLOCKED_AT, Some(Short::NetUnreachable), BLOCKED_AT, None, (State::Unknown, Some("blocked_unproven"))),
        // Another region's 10.0.0.1 may be another host; a public address is the same one everywhere.
        (us.clone(), BLOCKED_AT, drop, BLOCKED_AT, None, nothing()),
        (us, "203.0.113.1:6379", drop, "203.0.113.1:6379", None, pass()),
        // What each host has for itself.
        (fleet("worker"), "127.0.0.1:6379", drop, "127.0.0.1:6379", None, nothing()),
        (fleet("worker"), "[fe80::1]:6379", drop, "[fe80::1]:6379", None, nothing()),
    ];
    for (other, address, end, at_address, other_end, want) in cases {
        let case = format!("{other} {address} {end:?} {at_address} {other_end:?}");
        let (run, rosters) = play(guarded(&[other]), |index, _| Some(if index == 0 { meets(address, end) } else { meets(at_address, other_end) }));
        let folded = run.fold(0, &rosters);
        assert_eq!((folded.state, folded.why.map(Why::as_str)), want, "{case}");
    }
}

#[test]
fn whoever_gets_nowhere_does_not_show_what_stops_it() {
    let drop = Some(Short::ConnectTimeout);
    let alone = |agent: &str, one: Testimony| match agent {
        "eu-web-1" => Testimony { report: Report { egress: false, ..one.report }, ..one },
        _ => one,
    };
    let state = |(run, rosters): (Run, _)| {
        let folded = run.fold(0, &rosters);
        (folded.state, folded.why.map(Why::as_str))
    };
    let (stopped, there) = (|index| if index == 0 { drop } else { None }, BLOCKED_AT);
    let shown = play(guarded(&[fleet("worker")]), |index, agent| Some(alone(agent, meets(there, stopped(index)))));
    assert_eq!(state(shown), (State::Unknown, Some("egress_unproven")));

    // In another cell it connects, or only hears that nothing listens.
    for (end, want) in
        [(None, (State::Pass, None)), (Some(Short::ConnectRefused), (State::Unknown, Some("egress_unproven")))]
    {
        let mut guarded = guarded(&[fleet("worker"), fleet("web")]);
        guarded.spec.plan.cells[2].dependency = "queue".into();
        let shown = play(Run::new(guarded.spec), |index, agent| {
            let one = if index == 2 { meets("10.0.0.9:5672", end) } else { meets(there, stopped(index)) };
            Some(alone(agent, one))
        });
        assert_eq!(state(shown), want, "{end:?}");
    }
}

#[test]
fn one_host_that_gets_through_is_a_leak_that_nobody_refutes() {
    let (run, rosters) = play(guarded(&[fleet("worker")]), |index, agent| {
        let leaks = index == 1 || agent == "eu-web-0";
        Some(meets(BLOCKED_AT, (!leaks).then_some(Short::ConnectTimeout)))
    });
    let folded = run.fold(0, &rosters);
    assert_eq!((folded.state, folded.counts.short, folded.refuted), (State::Fail, 1, None));
    assert_eq!(run.fold(1, &rosters).state, State::Pass);

    // One attempt of several got through, which is no contrast for anybody: the cell's own agents have to tell.
    let (run, rosters) = play(guarded(&[fleet("worker")]), |index, agent| {
        let end = if agent == "eu-web-0" { Short::PartialLoss } else { Short::ConnectTimeout };
        Some(meets(BLOCKED_AT, (index == 0).then_some(end)))
    });
    let folded = run.fold(0, &rosters);
    assert_eq!((folded.state, folded.why.map(Why::as_str), folded.refuted), (State::Fail, Some("reachable"), None));
}

#[test]
fn a_leak_in_another_cell_of_the_fleet_counts() {
    let others = [fleet("web"), fleet("worker")];
    let mut guarded = guarded(&others);
    guarded.spec.plan.cells[1].dependency = "cache-again".into();
    let (run, rosters) =
        play(Run::new(guarded.spec), |index, _| Some(meets(BLOCKED_AT, (index == 0).then_some(Short::ConnectTimeout))));
    assert_eq!(run.fold(0, &rosters).state, State::Fail);
}

#[test]
fn what_everything_connects_to_is_no_contrast_and_no_block() {
    for intercepted in [0, 1] {
        let (run, rosters) = play(guarded(&[fleet("worker")]), |index, _| {
            let mut one = meets(BLOCKED_AT, (index == 0).then_some(Short::ConnectTimeout));
            if index == intercepted {
                one.report.control = Control::Connected;
            }
            Some(one)
        });
        assert_eq!(run.fold(0, &rosters).state, State::Unknown, "{intercepted}");
    }
}

#[test]
fn a_bare_connect_whose_control_was_not_tried_is_no_contrast() {
    for (proof, want) in [(Proof::Connected, Some("no_contrast")), (Proof::Protocol, None)] {
        let (run, rosters) = play(guarded(&[fleet("worker")]), |index, _| {
            let mut one = meets(BLOCKED_AT, (index == 0).then_some(Short::ConnectTimeout));
            if index == 1 {
                one.report.control = Control::Untried;
                one.report.observations[0].proof = Some(proof);
            }
            Some(one)
        });
        assert_eq!(run.fold(0, &rosters).why.map(Why::as_str), want);
    }
}

#[test]
fn a_contrast_of_a_revoked_agent_is_none_and_two_blocked_cells_do_not_wait_for_each_other() {
    let mut guarded = guarded(&[fleet("worker")]);
    let rosters = rosters(&["web", "worker"], 2);
    guarded.step(&rosters, at(0));
    for n in 0..2 {
        for (index, name) in ["web", "worker"].into_iter().enumerate() {
            let one = meets(BLOCKED_AT, (index == 0).then_some(Short::ConnectTimeout));
            guarded.record(&label(&guarded, index), &agent(name, n), one, at(1)).unwrap();
        }
    }
    assert_eq!(guarded.fold(0, &rosters).state, State::Pass);
    guarded.disown("worker-0");
    assert_eq!(guarded.fold(0, &rosters).state, State::Pass);
    guarded.disown("worker-1");
    assert_eq!(guarded.fold(0, &rosters).state, State::Unknown);

    let mut both = run(&["web", "worker"]);
    both.spec.plan.cells.iter_mut().for_each(|cell| cell.spec.expect = Expect::Blocked);
    let mut both = Run::new(both.spec);
    both.step(&rosters, at(0));
    for (index, name) in ["web", "worker"].into_iter().enumerate() {
        for n in 0..2 {
            both.record(&label(&both, index), &agent(name, n), meets(BLOCKED_AT, Some(Short::ConnectTimeout)), at(1))
                .unwrap();
        }
    }
    assert!(both.step(&rosters, at(2)).ended);
    assert_eq!(both.fold(0, &rosters).why.map(Why::as_str), Some("no_contrast"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whoever is asked when, again after a reconnect too: no second sees more probes of a target begin than the rate says.
    #[test]
    fn a_target_is_probed_no_more_often_than_its_rate(
        ports in prop::collection::vec(0..3u16, 1..12),
        agents in 1..25usize,
        rate in 1..60u32,
        steps in prop::collection::vec((0..900i64, any::<prop::sample::Index>(), 0..4u8), 1..30),
    ) {
        let fleets: Vec<String> = (0..ports.len()).map(|n| format!("f{n}")).collect();
        let fleets: Vec<&str> = fleets.iter().map(String::as_str).collect();
        let mut spec = run(&fleets).spec;
        for (cell, port) in spec.plan.cells.iter_mut().zip(&ports) {
            cell.spec.target.port = 1_000 + port;
            cell.min_agents = 5;
        }
        spec.target_rate = NonZeroU32::new(rate).unwrap();
        spec.deadline = at(3_600_000);
        let mut run = Run::new(spec);
        let rosters = rosters(&fleets, agents);
        let mut starts: BTreeMap<u16, Vec<i64>> = BTreeMap::new();
        let mut sent: Vec<(usize, String)> = Vec::new();
        let mut asked = 0;
        let mut now = 0;
        for (after, which, again) in steps {
            let step = run.step(&rosters, at(now));
            let mut send: Vec<(usize, String)> = step.ask.into_iter().flat_map(|(a, cells)| cells.into_iter().map(move |c| (c, a.clone()))).collect();
            asked += send.len();
            sent.extend(send.clone());
            if again == 0 && !sent.is_empty() { send.push(sent[which.index(sent.len())].clone()) }
            for (index, agent) in send {
                if !run.waiting().get(agent.as_str()).is_some_and(|cells| cells.contains(&index)) { continue }
                // Sent again before its turn came, it still has that one turn.
                let before = run.cells[index].questions[&agent].clone();
                let wait = run.send(index, &agent, at(now)).unwrap();
                if before.sent && before.start > at(now) { continue }
                // In whole milliseconds, rounded up, as the question tells it.
                let wait = i64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap();
                starts.entry(ports[index]).or_default().push(now + wait);
                // Whoever waits for its turn has its whole time after it.
                let question = &run.cells[index].questions[&agent];
                prop_assert!(question.deadline >= later(at(now + wait - 1), run.spec.plan.cells[index].spec.worst_case()));
            }
            if again == 1 && !sent.is_empty() {
                let (index, name) = sent[which.index(sent.len())].clone();
                let from = AgentId { fleet: run.spec.plan.cells[index].fleet.clone(), agent: name };
                let _ = run.record(&label(&run, index), &from, testimony(true), at(now));
            }
            now += after;
        }
        prop_assert_eq!(asked, sent.len());
        prop_assert!(asked >= ports.len() * agents.min(6), "everybody is asked: {}", asked);
        for of_target in starts.values_mut() {
            of_target.sort_unstable();
            for (first, start) in of_target.iter().enumerate() {
                let within = of_target[first..].iter().take_while(|other| **other < start + 1_000).count();
                prop_assert!(within <= rate as usize + 1, "{within} of {rate}: {of_target:?}");
            }
        }
    }
}

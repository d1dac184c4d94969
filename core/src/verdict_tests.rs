//! Verdicts and findings over small plans: what is required, what blocks, and what comparing cells shows.

use jiff::Timestamp;

use super::*;
use crate::baseline::{Proven, duties};
use crate::decision::{Given, Override, Subject, decide};
use crate::findings::{self, Kind};
use crate::guard::Word;
use crate::identity::NetworkIdentity;
use crate::manifest::Usage;
use crate::matrix::{Candidate, Presence};
use crate::observation::{Control, Phases, Proof, Report, Routes};
use crate::reason::Short;
use crate::run::{AgentId, Basis, Label, Mode, Run, RunSpec, Testimony};
use crate::spec::ProbeSpec;

type Rosters = BTreeMap<FleetId, Vec<Candidate>>;

fn fleet(name: &str) -> FleetId {
    let (region, fleet) = name.split_once('/').unwrap();
    FleetId { region: region.into(), fleet: fleet.into() }
}

fn plan(fleets: &[&str]) -> Plan {
    let mut regions: Vec<String> = fleets.iter().map(|f| fleet(f).region).collect();
    regions.dedup();
    let cell = |f: &&str| Cell {
        application: "app".into(),
        fleet: fleet(f),
        dependency: "ai-cache".into(),
        spec: ProbeSpec::new("tcp://10.0.0.1:6379".parse().unwrap()),
        min_agents: 2,
        stated: NetworkIdentity::default(),
        usage: Usage::default(),
        line: 0,
    };
    Plan {
        application: "app".into(),
        manifest_digest: "sha256:m".into(),
        regions,
        cells: fleets.iter().map(cell).collect(),
        excluded: Vec::new(),
    }
}

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(1_700_000_000_000 + ms).unwrap()
}

/// What one agent sees: of which fleet it is, with which security groups, and what the probe comes to.
type Sees<'a> = (&'a str, &'a str, &'a [&'a str], Outcome);

fn testimony(groups: &[&str], outcome: Outcome, clock_skew_ms: i64) -> Testimony {
    let mut identity = NetworkIdentity::default();
    for group in groups {
        identity.insert("security_group", *group);
    }
    let observation = Observation {
        address: Some("10.0.0.1:6379".parse().unwrap()),
        member: None,
        outcome,
        proof: Some(if outcome == Outcome::Ok { Proof::Connected } else { Proof::Resolved }),
        phases: Phases::default(),
        note: None,
        detail: None,
        tls: None,
        attempts: Vec::new(),
    };
    let routes = Routes { ipv4: true, ipv6: false };
    let report = Report {
        observations: vec![observation],
        resolved: 1,
        routes,
        control: Control::Unanswered,
        members: 0,
        egress: true,
    };
    Testimony { identity, report, clock_skew_ms }
}

/// A run of the plan in which these agents exist and answer.
fn run(plan: Plan, agents: &[Sees<'_>], skew_ms: i64) -> (Run, Rosters) {
    run_beside(plan, agents, skew_ms, BTreeMap::new())
}

/// The same where releases are deployed already.
fn run_beside(plan: Plan, agents: &[Sees<'_>], skew_ms: i64, proven: BTreeMap<String, Proven>) -> (Run, Rosters) {
    let duties = duties(&plan, &plan.digests(), &proven, &BTreeMap::new());
    let mut rosters = Rosters::new();
    for (of, agent, groups, outcome) in agents {
        let key = testimony(groups, *outcome, 0).identity.key();
        let candidate = Candidate { agent: (*agent).into(), key, presence: Presence::Connected };
        rosters.entry(fleet(of)).or_default().push(candidate);
    }
    let mut run = Run::new(RunSpec {
        id: "run".into(),
        release: "r1".into(),
        plan,
        started: at(0),
        deadline: at(30_000),
        fail_fast: false,
        strict: false,
        await_agents: false,
        unlisted: Vec::new(),
        target_rate: RunSpec::TARGET_RATE,
        duties,
        mode: Mode::Gate,
        basis: Basis { proven, ..Basis::default() },
        only: None,
    });
    while !run.ended() {
        let step = run.step(&rosters, at(1));
        for (agent, cells) in step.ask {
            let (of, _, groups, outcome) = agents.iter().find(|(_, name, ..)| *name == agent).unwrap();
            for index in cells {
                let label = Label {
                    run: "run".into(),
                    cell: run.digest(index).unwrap().clone(),
                    region: fleet(of).region,
                    release: "r1".into(),
                };
                let from = AgentId { fleet: fleet(of), agent: agent.clone() };
                run.record(&label, &from, testimony(groups, *outcome, skew_ms), at(1)).unwrap();
            }
        }
    }
    (run, rosters)
}

fn judge<'a>(run: &'a Run, rosters: &Rosters) -> (Verdict, Vec<JudgedCell<'a>>) {
    let cells = run.judged(rosters);
    (give(&run.spec().plan, &cells, &run.spec().basis), cells)
}

/// A plan in which the first fleet must not reach the cache.
fn guarded(fleets: &[&str]) -> Plan {
    let mut plan = plan(fleets);
    plan.cells[0].spec.expect = Expect::Blocked;
    plan.cells[0].dependency = "no-cache".into();
    plan
}

const DROP: Outcome = Outcome::Short(Short::ConnectTimeout);

/// The outage: workers reach the cache and web hosts do not.
const OUTAGE: [Sees<'static>; 4] = [
    ("us/web", "us-web-1", &["sg-web", "sg-base"], DROP),
    ("us/web", "us-web-2", &["sg-web", "sg-base"], DROP),
    ("us/worker", "us-worker-1", &["sg-worker", "sg-base"], Outcome::Ok),
    ("us/worker", "us-worker-2", &["sg-worker", "sg-base"], Outcome::Ok),
];

#[test]
fn the_outage_blocks_and_names_the_group_that_makes_the_difference() {
    let (run, rosters) = run(plan(&["us/web", "us/worker"]), &OUTAGE, 0);
    let (verdict, cells) = judge(&run, &rosters);
    assert_eq!(verdict.state, State::Fail);
    let [reason] = verdict.regions[0].reasons.as_slice() else { panic!("{verdict:?}") };
    assert_eq!(reason.code, "cell_failed");
    assert!(reason.text.contains("us/web") && reason.text.contains("connect_timeout"), "{}", reason.text);
    let fix = reason.fix.as_deref().unwrap();
    assert!(fix.starts_with("Admit the security group sg-web, ") && fix.contains("10.0.0.1:6379"), "{fix}");

    let findings = findings::find(&of_region(&cells, "us"), []);
    let [finding] = findings.as_slice() else { panic!("{findings:?}") };
    assert_eq!(finding.kind, Kind::Asymmetry);
    let carried = |key: &str, value: &str, ok: usize, short: usize| findings::Attribute {
        key: key.into(),
        value: value.into(),
        carried_by_ok: ok,
        ok: 2,
        carried_by_short: short,
        short: 2,
    };
    assert_eq!(finding.attributes, [carried("security_group", "sg-worker", 2, 0)]);
    assert_eq!(finding.failing_attributes, [carried("security_group", "sg-web", 0, 2)]);
    let text = "ai-cache is reached from worker and not from web. Every host that reaches it carries security_group sg-worker (2 of 2; \
                of those that do not 0 of 2). Every host that fails carries security_group sg-web (2 of 2; of the others 0 of 2).";
    assert_eq!(finding.text, text);
}

#[test]
fn fail_and_unknown_both_block_and_regions_stand_for_themselves() {
    let agents: Vec<Sees<'_>> = OUTAGE.into_iter().skip(2).collect();
    let (run, rosters) = run(plan(&["us/worker", "eu/web"]), &agents, 0);
    let (verdict, _) = judge(&run, &rosters);
    let states: Vec<(&str, State)> = verdict.regions.iter().map(|r| (r.region.as_str(), r.state)).collect();
    assert_eq!(states, [("us", State::Pass), ("eu", State::Unknown)]);
    assert_eq!(verdict.state, State::Unknown);
    let reason = &verdict.regions[1].reasons[0];
    assert_eq!(reason.code, "cell_unknown");
    assert!(reason.fix.as_ref().is_some_and(|fix| fix.contains("token join --region eu --fleet web")));
}

#[test]
fn a_plan_without_cells_is_never_a_pass() {
    let mut empty = plan(&["us/web"]);
    empty.cells.clear();
    let verdict = give(&empty, &[], &Basis::default());
    assert_eq!(verdict.state, State::Unknown);
    let proven = Proven::nothing("r0".into(), Some("v0".into()));
    assert_eq!(
        give(&empty, &[], &Basis { proven: [("us".to_owned(), proven)].into(), ..Basis::default() }).state,
        State::Unknown
    );
    empty.regions.clear();
    assert_eq!(give(&empty, &[], &Basis::default()).state, State::Unknown);
}

#[test]
fn what_a_deployed_release_has_proven_is_not_asked_about_again() {
    let plan = plan(&["us/web", "us/worker"]);
    let mut proven = Proven::nothing("r0".into(), Some("v1".into()));
    for cell in &plan.cells {
        proven.insert(cell.digest(), "v0".to_owned(), BTreeSet::new());
    }
    proven.insert(CellDigest("sha256:gone".into()), "v0".to_owned(), BTreeSet::new());
    let proven: BTreeMap<String, Proven> = [("us".to_owned(), proven)].into();
    let (run, rosters) = run_beside(plan.clone(), &[], 0, proven.clone());
    let (verdict, cells) = judge(&run, &rosters);
    let reason = &verdict.regions[0].reasons[0];
    assert_eq!((verdict.state, reason.code), (State::Pass, "no_change"));
    assert_eq!(
        reason.text,
        "nothing is new in us since release r0: 2 cells shown before, by verdict v0; nothing was probed now; 1 cell of that release \
         removed"
    );
    assert!(cells.iter().all(|c| *c.duty == Duty::Proven("v0".into()) && c.folded.state == State::Pass));

    // One cell is another one: it alone is asked for, and the verdict rests on it.
    let mut changed = plan;
    changed.cells[0].spec.target.port = 6380;
    let web: [Sees<'_>; 2] = [("us/web", "web-1", &[], Outcome::Ok), ("us/web", "web-2", &[], Outcome::Ok)];
    let (run, rosters) = run_beside(changed.clone(), &web, 0, proven.clone());
    let (verdict, _) = judge(&run, &rosters);
    assert_eq!(verdict.state, State::Pass);
    assert!(verdict.regions[0].reasons[0].text.ends_with("from 1 fleet; 1 other proven before"));
    let (run, rosters) = run_beside(changed, &[], 0, proven);
    assert_eq!(judge(&run, &rosters).0.state, State::Unknown);
}

#[test]
fn what_is_required_does_not_pass_by_an_inventory_that_is_too_old() {
    let stale = Some("the inventory was last read long ago".to_owned());
    let comes_to = |agents: &[Sees<'_>]| {
        let (run, rosters) = run(plan(&["us/web"]), agents, 0);
        let basis = Basis { stale_inventory: stale.clone(), ..Basis::default() };
        let verdict = give(&run.spec().plan, &run.judged(&rosters), &basis);
        (verdict.state, verdict.regions[0].reasons.iter().any(|r| r.code == "inventory_stale"))
    };
    let silent = Outcome::Short(Short::ConnectTimeout);
    let all = |outcome| [("us/web", "web-1", &[][..], outcome), ("us/web", "web-2", &[][..], outcome)];
    assert_eq!(comes_to(&all(Outcome::Ok)), (State::Unknown, true));
    assert_eq!(comes_to(&all(silent)), (State::Fail, true));
}

#[test]
fn an_override_stands_beside_a_verdict_that_it_does_not_change() {
    let silent = Outcome::Short(Short::ConnectTimeout);
    let agents: [Sees<'_>; 4] = [
        ("us/web", "web-1", &[], silent),
        ("us/web", "web-2", &[], silent),
        ("us/worker", "worker-1", &[], silent),
        ("us/worker", "worker-2", &[], silent),
    ];
    let (run, rosters) = run(plan(&["us/web", "us/worker"]), &agents, 0);
    let (verdict, cells) = judge(&run, &rosters);
    let all: Vec<&JudgedCell<'_>> = cells.iter().collect();
    let given = |cell: &JudgedCell<'_>, region: &str, until| Override {
        id: "o1".into(),
        region: region.into(),
        subject: Subject::Cell(cell.cell.digest()),
        by: "ann".into(),
        at: at(0),
        expires: at(until),
    };
    let (one, both) = (vec![given(&cells[0], "us", 100)], |region: &str, until| {
        cells.iter().map(|cell| given(cell, region, until)).collect::<Vec<_>>()
    });
    let blocking = blocking(&all);
    let (state, mode) = (verdict.regions[0].state, Mode::Gate);
    let us = Given { region: "us", state, blocking: &blocking, held: false, mode };
    let proceeds =
        |overrides: &[Override], mode| decide(&Given { mode, ..us }, Word::default(), overrides, at(50)).proceed;
    assert!(!proceeds(&[], Mode::Gate));
    assert!(!proceeds(&one, Mode::Gate), "one of two cells");
    assert!(proceeds(&both("us", 100), Mode::Gate));
    assert!(!proceeds(&both("eu", 100), Mode::Gate), "another region's");
    assert!(!proceeds(&both("us", 50), Mode::Gate), "it has ended");
    assert!(!proceeds(&[], Mode::Advisory));
    assert!(proceeds(&[], Mode::Rollback));
    let held = decide(&Given { held: true, ..us }, Word::default(), &both("us", 100), at(50));
    assert!(!held.proceed, "something beside the cells holds it back, which no override lifts");
    assert_eq!(verdict.state, State::Fail);
}

#[test]
fn a_lone_expired_certificate_beside_a_clock_that_is_off_is_named_as_a_clock_problem() {
    let expired = Outcome::Short(Short::TlsExpired);
    let agents: [Sees<'_>; 4] = [
        ("us/web", "web-1", &["sg-web"], expired),
        ("us/web", "web-2", &["sg-web"], Outcome::Ok),
        ("us/web", "web-3", &["sg-web"], Outcome::Ok),
        ("us/web", "web-4", &["sg-web"], Outcome::Ok),
    ];
    let (run, rosters) = run(plan(&["us/web"]), &agents, 24 * 60 * 60 * 1_000);
    let (verdict, cells) = judge(&run, &rosters);
    assert_eq!(verdict.state, State::Pass);
    let findings = findings::find(&of_region(&cells, "us"), []);
    assert_eq!(findings[0].kind, Kind::OneHost);
    assert!(findings[0].text.contains("1440 minutes ahead") && findings[0].text.contains("clock problem"));
}

#[test]
fn a_fleet_that_the_inventory_lacks_is_a_finding() {
    let findings = findings::find(&[], [&fleet("us/forgotten")]);
    assert_eq!(findings[0].kind, Kind::Uncovered);
    assert!(findings[0].text.contains("us/forgotten"));
}

/// The reasons' and findings' texts of a run of one region in which `us/web` must not reach the cache.
fn said_of_guarded(agents: &[Sees<'_>]) -> (State, Vec<String>, Vec<String>) {
    let fleets = if agents.iter().any(|a| a.0 == "us/worker") { &["us/web", "us/worker"][..] } else { &["us/web"] };
    let (run, rosters) = run(guarded(fleets), agents, 0);
    let (verdict, cells) = judge(&run, &rosters);
    let said =
        |r: &Reason| [Some(r.text.clone()), r.fix.clone()].into_iter().flatten().collect::<Vec<_>>().join(" -> ");
    let mut texts: Vec<String> = verdict.regions[0].reasons.iter().map(said).collect();
    texts.extend(describe(&cells[0]));
    (verdict.state, texts, findings::find(&of_region(&cells, "us"), []).into_iter().map(|f| f.text).collect())
}

#[test]
fn what_is_blocked_as_it_must_be_passes_without_a_finding() {
    let (state, texts, findings) = said_of_guarded(&OUTAGE);
    assert_eq!((state, texts), (State::Pass, vec!["2 cells shown to be as declared from 2 fleets".to_owned()]));
    assert!(findings.is_empty(), "{findings:?}");
}

#[test]
fn a_leak_names_who_got_through_where_and_what_to_close() {
    let mut agents = OUTAGE.to_vec();
    agents[1].3 = Outcome::Ok;
    agents[1].2 = &["sg-web", "sg-base", "sg-old"];
    agents.push(("us/web", "us-web-3", &["sg-web", "sg-base"], DROP));
    let (state, texts, findings) = said_of_guarded(&agents);
    assert_eq!(state, State::Fail);
    let why = "us/web reaches no-cache, and must not: reachable, at 10.0.0.1:6379 -> \
         Close the path from us/web to 10.0.0.1:6379, or change `expect` in the manifest, and run the gate again.";
    assert_eq!(texts, [why, "1 of 3 agents reached it (us-web-2), at 10.0.0.1:6379"]);
    let finding = "no-cache is reached by 1 of the 3 hosts of web that answered. \
         Every host that reaches it carries security_group sg-old (1 of 1; of those that do not 0 of 2).";
    assert_eq!(findings, [finding]);

    // All of them.
    for agent in &mut agents {
        agent.3 = Outcome::Ok;
    }
    let (_, texts, findings) = said_of_guarded(&agents);
    assert_eq!(texts[1], "3 of 3 agents reached it, at 10.0.0.1:6379");
    let alike = "The hosts of us/web are not alike: security_group sg-old is carried by 1 of 3 (us-web-2). What admits some of them may \
                 turn the others away.";
    assert_eq!(findings, [alike]);
}

#[test]
fn what_is_not_known_to_be_blocked_says_why() {
    let of_web: Vec<Sees<'_>> = OUTAGE[..2].to_vec();
    let (state, texts, _) = said_of_guarded(&of_web);
    assert_eq!(state, State::Unknown);
    assert!(texts[0].starts_with("no-cache is not known to be blocked from us/web: no_contrast: "), "{texts:?}");
    assert!(texts[0].contains("the target may be down -> Declare the same target as reachable"), "{texts:?}");

    let nowhere = Outcome::Short(Short::NetUnreachable);
    let agents: Vec<Sees<'_>> =
        OUTAGE.into_iter().map(|a| (a.0, a.1, a.2, if a.0 == "us/web" { nowhere } else { a.3 })).collect();
    let (state, texts, _) = said_of_guarded(&agents);
    assert_eq!(state, State::Unknown);
    assert!(texts[0].starts_with("no-cache is not known to be blocked from us/web: blocked_unproven: "), "{texts:?}");
    // Nobody of it is there: as for any cell.
    let (_, texts, _) = said_of_guarded(&OUTAGE[..1]);
    assert!(texts[0].contains("1 agent found it stopped, 2 are needed"), "{texts:?}");
}

#[test]
fn hosts_of_one_fleet_on_both_sides_are_counted() {
    let mut agents = OUTAGE[..2].to_vec();
    agents[1].3 = Outcome::Ok;
    let (run, rosters) = run(plan(&["us/web"]), &agents, 0);
    let (_, cells) = judge(&run, &rosters);
    let findings = findings::find(&of_region(&cells, "us"), []);
    let text = "ai-cache is reached by 1 of the 2 hosts of web that answered. No attribute of the hosts' network identity tells them apart; look at us-web-1.";
    assert_eq!(findings[0].text, text);
}

#[test]
fn what_is_too_slow_is_not_called_unusable() {
    let slow = Outcome::Short(Short::TooSlow);
    let agents: Vec<Sees<'_>> = OUTAGE[..2].iter().map(|a| (a.0, a.1, a.2, slow)).collect();
    let (run, rosters) = run(plan(&["us/web"]), &agents, 0);
    let (verdict, _) = judge(&run, &rosters);
    let text = &verdict.regions[0].reasons[0].text;
    assert!(text.starts_with("ai-cache is not fast enough from us/web: too_slow: it works, but "), "{text}");
    assert!(!text.contains("cannot be used"), "{text}");
}

#[test]
fn who_left_and_who_is_lost_are_told_apart() {
    let plan = plan(&["eu/web"]);
    let key = |subnet: &str| testimony(&[subnet], Outcome::Ok, 0).identity.key();
    let told = |presence| {
        let other = Candidate { agent: "web-9".into(), key: key("sg-other"), presence };
        let folded = crate::matrix::fold(1, false, &[other], &BTreeMap::new());
        assert_eq!(folded.why, Some(Why::Unknown(Unknown::Silent)));
        let judged = JudgedCell {
            cell: &plan.cells[0],
            digest: &plan.cells[0].digest(),
            duty: &Duty::Required,
            folded,
            witnesses: Vec::new(),
        };
        (describe(&judged).unwrap(), fix(Why::Unknown(Unknown::Silent), &[&judged], &[&judged]))
    };
    let (left, lost, unsteady) = (told(Presence::Left), told(Presence::Lost), told(Presence::Unsteady));
    assert_eq!(left.0, "stopped a moment ago: web-9");
    assert!(left.1.contains("two minutes") && left.1.contains("preflight agents forget web-9"), "{}", left.1);
    assert!(!left.1.contains("24 hours"), "{}", left.1);
    assert_eq!(lost.0, "lost: web-9");
    assert!(lost.1.contains("24 hours") && lost.1.contains("preflight agents forget web-9"), "{}", lost.1);
    assert!(unsteady.0 == "unsteady: web-9" && unsteady.1.contains("for a minute"), "{unsteady:?}");
}

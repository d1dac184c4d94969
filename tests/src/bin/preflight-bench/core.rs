//! The pure core on its own: no network, no store, one thread.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use preflight_core::findings;
use preflight_core::identity::NetworkIdentity;
use preflight_core::inventory::Inventory;
use preflight_core::manifest::Manifest;
use preflight_core::matrix::{Candidate, Presence};
use preflight_core::observation::{Control, Observation, Outcome, Proof, Report, Routes};
use preflight_core::plan::{FleetId, Plan};
use preflight_core::reason::Short;
use preflight_core::run::{AgentId, Basis, Label, Mode, Run, RunSpec, Testimony};
use preflight_core::verdict;

use crate::table::{Goal, Table, show, times};

const ROUNDS: usize = 10;
/// What the goal is set for.
const AGENTS: usize = 10_000;
const DEPENDENCIES: usize = 200;
const FLEETS: usize = 50;

type Rosters = BTreeMap<FleetId, Vec<Candidate>>;

pub(crate) fn measure(table: &Table) {
    let text = manifest(1_000);
    let read =
        times((0..ROUNDS).map(|_| timed(|| Manifest::parse("preflight.yaml", &text).expect("a manifest")).0).collect());
    table.time("a manifest of 1,000 dependencies, read and checked", read, 20.0);

    // Half the dependencies: half the cells, and half the time where it is linear in them.
    let half = times((0..ROUNDS).map(|_| fold(DEPENDENCIES / 2)).collect());
    let whole = times((0..ROUNDS).map(|_| fold(DEPENDENCIES)).collect());
    let cells = FLEETS * DEPENDENCIES;
    let name = format!("matrix, verdict and findings of {AGENTS} agents × {DEPENDENCIES} dependencies = {cells} cells");
    table.time(&name, whole, 100.0);
    table.ratio(
        "the same against half as many cells",
        &show(whole),
        &show(half),
        whole.0.as_secs_f64() / half.0.as_secs_f64(),
        Goal::AtMost(2.5),
    );
}

fn timed<T>(what: impl FnOnce() -> T) -> (Duration, T) {
    let begin = Instant::now();
    let result = what();
    (begin.elapsed(), result)
}

fn manifest(dependencies: usize) -> String {
    let lines = (0..dependencies).fold(String::new(), |all, n| {
        let (high, low) = (n / 250, n % 250 + 1);
        format!("{all}  cache-{n}:\n    target: redis://10.9.{high}.{low}:6379\n    timeout: 5s\n")
    });
    format!("application: app\ndependencies:\n{lines}")
}

/// Plays a run in which one dependency is dropped from every tenth fleet, and times what its end takes.
fn fold(dependencies: usize) -> Duration {
    let names: Vec<String> = (0..FLEETS).map(|n| format!("fleet-{n}")).collect();
    let fleets = names.iter().fold(String::new(), |all, name| format!("{all}      {name}: {{}}\n"));
    let inventory = format!(
        "regions:\n  us:\n    fleets:\n{fleets}applications:\n  app:\n    fleets: {{us: [{}]}}\n",
        names.join(", ")
    );
    let inventory = Inventory::parse("inventory.yaml", &inventory).expect("an inventory");
    let manifest = Manifest::parse("preflight.yaml", &manifest(dependencies)).expect("a manifest");
    let plan = Plan::build(&manifest, &inventory, &["us".to_owned()], false).expect("a plan");

    let identity = |fleet: usize, agent: usize| {
        let mut identity = NetworkIdentity::default();
        identity.insert("security_group", format!("sg-{fleet}"));
        identity.insert("subnet", format!("subnet-{}", agent % 3));
        identity.insert("host", format!("host-{fleet}-{agent}"));
        identity
    };
    let mut rosters = Rosters::new();
    for (fleet, name) in names.iter().enumerate() {
        let candidates = (0..AGENTS / FLEETS).map(|agent| Candidate {
            agent: format!("{name}/{agent}"),
            key: identity(fleet, agent).key(),
            presence: Presence::Connected,
        });
        rosters.insert(FleetId { region: "us".into(), fleet: name.clone() }, candidates.collect());
    }

    let now = Timestamp::UNIX_EPOCH;
    let deadline = now.checked_add(Duration::from_secs(30)).expect("a time");
    let mut run = Run::new(RunSpec {
        id: "bench".into(),
        release: "r1".into(),
        plan,
        started: now,
        deadline,
        fail_fast: false,
        strict: false,
        await_agents: false,
        unlisted: Vec::new(),
        target_rate: RunSpec::TARGET_RATE,
        duties: Vec::new(),
        mode: Mode::Gate,
        basis: Basis::default(),
        only: None,
    });
    while !run.ended() {
        for (agent, cells) in run.step(&rosters, now).ask {
            let (fleet, number) = agent.split_once('/').expect("a name");
            let index: usize = fleet.trim_start_matches("fleet-").parse().expect("a number");
            for cell in cells {
                let label = Label {
                    run: "bench".into(),
                    cell: run.digest(cell).expect("a cell").clone(),
                    region: "us".into(),
                    release: "r1".into(),
                };
                let from =
                    AgentId { fleet: FleetId { region: "us".into(), fleet: fleet.into() }, agent: agent.clone() };
                let short = index.is_multiple_of(10) && cell < FLEETS;
                let testimony = testimony(identity(index, number.parse().expect("a number")), short);
                run.record(&label, &from, testimony, now).expect("an answer that counts");
            }
        }
    }
    let (took, findings) = timed(|| {
        let cells = run.judged(&rosters);
        let verdict = verdict::give(&run.spec().plan, &cells, &run.spec().basis);
        assert_eq!(verdict.state.as_str(), "fail");
        findings::find(&verdict::of_region(&cells, "us"), [])
    });
    assert!(!findings.is_empty());
    took
}

fn testimony(identity: NetworkIdentity, short: bool) -> Testimony {
    let outcome = if short { Outcome::Short(Short::ConnectTimeout) } else { Outcome::Ok };
    let mut observation = Observation::new("10.9.0.1:6379".parse().ok(), outcome);
    observation.proof = Some(if short { Proof::Resolved } else { Proof::Protocol });
    let report = Report {
        observations: vec![observation],
        resolved: 1,
        routes: Routes { ipv4: true, ipv6: false },
        control: Control::Unanswered,
        members: 0,
        egress: false,
    };
    Testimony { identity, report, clock_skew_ms: 0 }
}

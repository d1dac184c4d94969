//! Ad hoc probes from the fleets: every fleet of an application at once, one host, and a caller that goes away.

use std::time::Duration;

use preflight_tests::lab::{AgentOptions, Controller, Lab, wait_for};
use preflight_tests::small::Small;

const SOON: Duration = Duration::from_mins(1);

#[test]
fn one_host_is_asked_where_it_is_named() {
    let lab = Lab::new();
    let small = Small::new(&lab, 3);
    let probe =
        |more: &[&str]| small.controller.preflight(&[&["probe", "redis://10.9.0.1:6379", "-o", "json"], more].concat());
    let answer = probe(&["--host", "us-web-2"]).expect_code(0);
    let results = answer.json["results"].as_array().unwrap();
    assert_eq!((results.len(), results[0]["agent"].as_str()), (1, Some(small.agent_name(2).as_str())));
    let answer = probe(&["--host", &small.agent_name(3)]).expect_code(0);
    assert_eq!(answer.json["results"][0]["agent"], small.agent_name(3));
    let answer = probe(&["--host", "nobody"]).expect_code(64);
    assert!(answer.stderr.contains("no agent on host nobody"), "{}", answer.stderr);
    let answer = probe(&["--application", "app"]).expect_code(0);
    assert!(answer.json["results"].as_array().unwrap().len() >= 2);
    let text =
        small.controller.preflight(&["probe", "redis://10.9.0.1:6379", "tcp://10.9.0.1:1"]).expect_code(2).stdout;
    // Two agents are asked, and a third one where the first answer is that it falls short.
    let row = |target: &str| text.lines().find(|line| line.starts_with(target)).unwrap_or_default().to_owned();
    assert!(row("redis://10.9.0.1:6379").ends_with("✓ 2/2"), "{text}");
    let refused = row("tcp://10.9.0.1:1");
    assert!(["2/2", "3/3"].iter().any(|n| refused.ends_with(&format!("✗ connect_refused {n}"))), "{text}");
}

#[test]
fn a_caller_that_goes_away_ends_its_run_on_the_agents() {
    let lab = Lab::new();
    let options = AgentOptions { wrap: vec!["env", "PREFLIGHT_LOG=debug"], ..AgentOptions::default() };
    let small = Small::with(&lab, lab.controller(), 2, &options);
    // Nobody says a word on this port, so the probe would take its whole five seconds.
    small.cache.silence(7_000);
    let asked = || small.agents.iter().filter(|agent| agent.process.log().contains("asked run=")).count();
    let probe = small.controller.preflight_start("probe", &["probe", "redis://10.9.0.1:7000", "--application", "app"]);
    wait_for("the agents to be asked", SOON, || (asked() == 2).then_some(()));
    let api = small.controller.api();
    let under_way = || {
        let metrics = api.get("/metrics").unwrap().body;
        metrics.contains("preflight_runs_under_way 1")
    };
    assert!(under_way());
    probe.interrupt();
    let interrupted = Controller::preflight_end(probe, SOON);
    assert_ne!(interrupted.code, 0, "{}", interrupted.text());
    wait_for("the run to end", Duration::from_secs(3), || (!under_way()).then_some(()));
    for agent in &small.agents {
        wait_for("the agent to hear of it", SOON, || agent.process.log().contains("the run has ended").then_some(()));
        assert!(!agent.process.log().contains("reported"), "{}", agent.process.log());
    }
}

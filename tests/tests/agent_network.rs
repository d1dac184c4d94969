//! An agent whose own network breaks blames no target, and what an agent tells of itself.

use std::collections::BTreeSet;
use std::time::Duration;

use preflight_tests::lab::{AgentOptions, Controller, Firewall, Lab, binary, wait_for};
use preflight_tests::small::{CELL, GATE, INVENTORY, Small};

const SOON: Duration = Duration::from_mins(1);
const BROKEN: &str = "the network of this host is broken";

#[test]
fn a_host_whose_own_network_is_broken_blames_no_target() {
    let lab = Lab::new();
    let known_good = lab.host("known-good", &["10.9.0.8"]);
    let _good = known_good.redis(6379, &[]);
    let policy = Some("[[control]]\ntarget = \"tcp://10.9.0.8:6379\"\n");
    let small = Small::with(&lab, lab.controller(), 2, &AgentOptions { policy, ..AgentOptions::default() });
    small.assert_passes();

    let uplinks = |rules: &Firewall| small.agents.iter().for_each(|agent| agent.host.firewall(rules));
    uplinks(&Firewall::open().only_to(small.controller.host.address()));
    for _ in 0..2 {
        let answer = small.gate(&["--wait", "30s"]).expect_code(3);
        assert_eq!(answer.state(CELL), "unknown control_failed");
        let evidence = answer.cell(CELL)["evidence"].to_string();
        for part in ["tcp://10.9.0.8:6379 connect_timeout", "this target connect_timeout"] {
            assert!(evidence.contains(part), "{part}? {evidence}");
        }
    }
    for agent in &small.agents {
        assert_eq!(agent.process.log().matches(BROKEN).count(), 1, "{}", agent.process.log());
    }

    uplinks(&Firewall::open());
    small.assert_passes();
    // The target alone is blocked.
    small.cache.firewall(&Firewall::open().drop(6379));
    let answer = small.gate(&["--wait", "30s"]).expect_code(2);
    assert_eq!(answer.state(CELL), "fail connect_timeout");
    // One control that is good is enough, also beside one that is not.
    known_good.firewall(&Firewall::open().drop(6379));
    let answer = small.gate(&["--wait", "30s"]).expect_code(3);
    assert_eq!(answer.state(CELL), "unknown control_failed", "the only control is away too");
}

#[test]
fn one_control_that_is_good_is_enough() {
    let lab = Lab::new();
    let policy = Some("[[control]]\ntarget = \"tcp://10.9.0.7:1\"\n[[control]]\ntarget = \"redis://10.9.0.8:6379\"\n");
    let known_good = lab.host("known-good", &["10.9.0.8"]);
    let _good = known_good.redis(6379, &[]);
    let small = Small::with(&lab, lab.controller(), 2, &AgentOptions { policy, ..AgentOptions::default() });
    small.cache.firewall(&Firewall::open().drop(6379));
    let answer = small.gate(&["--wait", "30s"]).expect_code(2);
    assert_eq!(answer.state(CELL), "fail connect_timeout");
    assert!(small.agents.iter().all(|agent| !agent.process.log().contains(BROKEN)));
}

#[test]
fn a_control_target_that_the_policy_denies_is_an_error_at_the_start() {
    let lab = Lab::new();
    let host = lab.host("host", &["10.1.1.1"]);
    std::fs::write(
        host.dir().join("policy"),
        "[[control]]\ntarget = \"tcp://10.9.0.8:53\"\n[[deny]]\naddresses = [\"10.9.0.0/16\"]\n",
    )
    .unwrap();
    let agent = binary("preflight-agent");
    let base =
        [agent.as_str(), "run", "--controller", "https://10.255.0.1", "--state-dir", "state", "--join-token-file", "t"];
    let run = |more: &[&str]| {
        let output = host.run(&[&base, more].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = run(&["--policy", "policy"]);
    assert_eq!(code, Some(64), "{said}");
    assert!(said.contains("policy:2:10: ") && said.contains("denies the control target tcp://10.9.0.8:53"), "{said}");
    let (code, said) = run(&["--metrics-listen", "0.0.0.0:9464"]);
    assert_eq!(code, Some(64), "{said}");
    assert!(said.contains("0.0.0.0:9464 is not a loopback address"), "{said}");
}

#[test]
fn an_agent_tells_its_last_results_on_loopback() {
    let lab = Lab::new();
    let wrap = vec!["sh", "-c", "exec \"$@\" --metrics-listen 127.0.0.1:9464", "with"];
    let small = Small::with(&lab, lab.controller(), 2, &AgentOptions { wrap, ..AgentOptions::default() });
    let host = &small.agents[0].host;
    let curl = |address: &str, path: &str| {
        let url = format!("http://{address}:9464{path}");
        let output = host.run(&["curl", "--silent", "--show-error", "--fail", "--max-time", "10", &url]);
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    small.assert_passes();
    for path in ["/-/healthy", "/-/ready"] {
        assert_eq!(curl("127.0.0.1", path).0, Some(0), "{path}");
    }
    let metrics = || curl("127.0.0.1", "/metrics").1;
    let text = metrics();
    for line in [
        "probe_success{target=\"redis://10.9.0.1:6379\"} 1\n",
        "probe_duration_seconds{target=\"redis://10.9.0.1:6379\",phase=\"protocol\"} ",
        "preflight_agent_connected 1\n",
        "preflight_agent_probes_total{outcome=\"ok\"} 1\n",
    ] {
        assert!(text.contains(line), "{line}? {text}");
    }
    assert!(!text.contains("phase=\"tls\"") && !text.contains("probe_failure_info{"), "{text}");

    small.cache.firewall(&Firewall::open().drop(6379));
    let _ = small.gate(&["--wait", "30s"]).expect_code(2);
    let text = metrics();
    for line in [
        "probe_success{target=\"redis://10.9.0.1:6379\"} 0\n",
        "probe_failure_info{target=\"redis://10.9.0.1:6379\",reason=\"connect_timeout\"} 1\n",
    ] {
        assert!(text.contains(line), "{line}? {text}");
    }
    assert!(!text.contains("phase=\"connect\""), "a phase that was not reached: {text}");
    assert_ne!(curl("10.1.1.1", "/metrics").0, Some(0), "nobody else may read it");

    host.firewall(&Firewall::open().drop_output(small.controller.host.address()));
    small.controller.host.firewall(&Firewall::open().drop_from(host.address()));
    wait_for("the agent to notice that its controller is away", SOON, || {
        metrics().contains("preflight_agent_connected 0\n").then_some(())
    });
    assert_ne!(curl("127.0.0.1", "/-/ready").0, Some(0));
    assert_eq!(curl("127.0.0.1", "/-/healthy").0, Some(0));
}

#[test]
fn dropped_targets_do_not_wait_for_one_another() {
    const TARGETS: usize = 500;
    const MIB: u64 = 1024 * 1024;
    let lab = Lab::new();
    let small = Small::new(&lab, 1);
    small.controller.inventory(&INVENTORY.replace("web: {}", "web: {min_agents: 1}"));
    small.assert_passes();
    // Nobody is there, and the fabric forwards nothing: silence.
    let targets =
        (0..TARGETS).map(|n| format!("  t{n}:\n    target: redis://172.16.{}.{}:6379\n", n / 250, n % 250 + 1));
    small
        .controller
        .file("preflight.yaml", &format!("application: app\ndependencies:\n{}", targets.collect::<String>()));
    let agent = &small.agents[0];
    let before = agent.process.resident();
    let gate = small.controller.preflight_start("gate", &[GATE.as_slice(), &["--wait", "60s"]].concat());
    let dialled = || {
        let output = agent.host.run(&["ss", "--no-header", "--tcp", "--numeric", "state", "syn-sent"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let peers: BTreeSet<&str> = text.lines().filter_map(|line| line.split_whitespace().last()).collect();
        peers.len()
    };
    // Twice 256 do not fit one after the other into the second that each takes.
    wait_for("most targets to be dialled at one time", SOON, || (dialled() > TARGETS * 4 / 5).then_some(()));
    let grown = agent.process.resident().saturating_sub(before);
    assert!(grown < 16 * MIB, "{TARGETS} targets at once take {} KiB", grown / 1024);
    let answer = Controller::preflight_end(gate, SOON);
    for n in 0..TARGETS {
        let state = answer.state(&format!("us/web/t{n}"));
        assert!(["fail connect_timeout", "unknown local_resources"].contains(&state.as_str()), "t{n}: {state}");
    }
}

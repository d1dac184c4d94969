//! Agents that freeze, die, are revoked, or run on hosts that are not well: never a pass that is not known to be true.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use preflight_tests::lab::{Agent, AgentOptions, Host, Lab, Metadata, Server, clock_off_by, wait_for};
use preflight_tests::small::{CELL, INVENTORY, MANIFEST, Small};

const SOON: Duration = Duration::from_mins(1);

#[test]
fn a_frozen_agent_is_silent() {
    let lab = Lab::new();
    let small = Small::new(&lab, 2);
    small.assert_passes();
    small.agents[1].process.freeze();
    let answer = small.gate(&["--wait", "6s"]).expect_code(3);
    assert_eq!(answer.state(CELL), "unknown silent");
    assert_eq!(answer.cell(CELL)["agents"]["silent"], 1);
    let name = small.agent_name(2);
    assert!(answer.text().contains(&name), "who is silent? {}", answer.text());
    small.agents[1].process.thaw();
    small.controller.await_agents(2);
    wait_for("the gate to pass again", SOON, || (small.gate(&[]).code == 0).then_some(()));
}

#[test]
fn a_silent_agent_is_replaced_by_another_of_its_identity() {
    let lab = Lab::new();
    let small = Small::new(&lab, 5);
    small.agents[0].process.freeze();
    let answer = small.gate(&["--wait", "20s"]).expect_code(0);
    assert_eq!(answer.state(CELL), "pass");
}

#[test]
fn a_killed_agent_is_not_asked_and_not_forgotten() {
    let lab = Lab::new();
    let mut small = Small::new(&lab, 2);
    small.agents[1].process.kill();
    let answer = small.gate(&["--wait", "5s"]).expect_code(3);
    assert!(answer.state(CELL).starts_with("unknown"), "{}", answer.state(CELL));
    small.agents[1].start(&AgentOptions::default());
    small.controller.await_agents(2);
    small.assert_passes();
}

#[test]
fn an_agent_that_stops_says_goodbye() {
    let lab = Lab::new();
    let mut small = Small::new(&lab, 3);
    let last = small.agents.remove(2);
    let ended = last.process.stop(Duration::from_secs(10));
    assert_eq!(ended.code, 0, "{}", ended.text());
    small.controller.await_state("left", 1);
    small.assert_passes();
}

#[test]
fn a_revoked_agent_is_out_at_once_and_stays_out() {
    let lab = Lab::new();
    let mut small = Small::new(&lab, 2);
    let name = small.agent_name(1);
    let _ = small.controller.preflight(&["agents", "revoke", &name, "--reason", "host was lost"]).expect_code(0);
    small.controller.await_state("revoked", 1);
    let answer = small.gate(&["--wait", "5s"]).expect_code(3);
    assert_eq!(answer.state(CELL), "unknown too_few_agents");
    for agent in &mut small.agents {
        agent.start(&AgentOptions::default());
    }
    small.controller.await_state("connected", 1);
    small.controller.await_state("revoked", 1);
    let _ = small.gate(&["--wait", "5s"]).expect_code(3);
}

#[test]
fn a_state_directory_that_was_copied_speaks_for_nobody_else() {
    let lab = Lab::new();
    let small = Small::new(&lab, 2);
    let original = &small.agents[0];
    let thief = lab.host("thief", &["10.6.6.6"]);
    let copy = thief.dir().join("state");
    let copied = std::process::Command::new("cp").arg("-a").arg(&original.state_dir).arg(&copy).status().unwrap();
    assert!(copied.success());
    // Another machine, and a join token that is used up: it can neither use what it copied nor enrol anew.
    fs::copy(original.host.dir().join("join-token"), thief.dir().join("join-token")).unwrap();
    let token = fs::read_to_string(thief.dir().join("join-token")).unwrap();
    let options = AgentOptions { token: Some(token), ..AgentOptions::default() };
    let stolen = small.controller.agent(&thief, "us", "web", &options);
    wait_for("the copy to be refused", SOON, || {
        let log = stolen.process.log();
        (log.contains("another-machine") && log.contains("join token is not valid")).then_some(())
    });
    small.assert_passes();
    assert_eq!(small.controller.agents().len(), 2, "{:?}", small.controller.agents());
}

#[test]
fn a_certificate_line_that_is_used_twice_is_revoked_and_named() {
    let lab = Lab::new();
    // The first four days of the agents' certificates are over when the controller starts again, by its clock, which is
    // the one that counts.
    let controller = lab.controller_wrapped(&clock_off_by("-4d").each_ref().map(String::as_str));
    let mut small = Small::with(&lab, controller, 2, &AgentOptions::default());
    let name = small.agent_name(1);
    // A clone of the whole machine, so that its fingerprint is the same; it is off while the original renews.
    let original = &small.agents[0];
    let twin = lab.host("twin", &["10.6.6.7"]);
    twin.machine_id(original.host.name());
    let copied =
        std::process::Command::new("cp").arg("-a").arg(&original.state_dir).arg(twin.dir().join("state")).status();
    assert!(copied.unwrap().success());
    let ends = |small: &Small| small.agent(&name)["certificate_until"].as_str().unwrap().to_owned();
    let before = ends(&small);
    small.controller.kill();
    small.controller.wrap(&[]);
    small.controller.start();
    wait_for("the agent to renew and to come back with its new certificate", SOON, || {
        (ends(&small) != before && small.agent(&name)["state"] == "connected").then_some(())
    });
    let same_name = format!("hostname {}; exec \"$@\"", original.host.name());
    let options = AgentOptions {
        token: Some("none".to_owned()),
        wrap: vec!["sh", "-c", &same_name, "clone"],
        ..AgentOptions::default()
    };
    let _clone = small.controller.agent(&twin, "us", "web", &options);
    wait_for("the line to be revoked", SOON, || (small.agent(&name)["state"] == "revoked").then_some(()));
    assert!(small.agent(&name)["remark"].as_str().is_some_and(|remark| !remark.is_empty()));
    let _ = small.gate(&["--wait", "5s"]).expect_code(3);
}

#[test]
fn an_agent_whose_clock_is_a_day_off_works_and_shows_it() {
    for (offset, sign) in [("+1d", 1), ("-1d", -1)] {
        let lab = Lab::new();
        let clock = clock_off_by(offset);
        let options = AgentOptions { wrap: clock.each_ref().map(String::as_str).to_vec(), ..AgentOptions::default() };
        let small = Small::with(&lab, lab.controller(), 2, &options);
        small.assert_passes();
        for agent in small.controller.agents() {
            let skew = agent["clock_skew_ms"].as_i64().unwrap();
            let day = 24 * 60 * 60 * 1000;
            assert!((skew - sign * day).abs() < 60_000, "{offset}: {skew} ms");
        }
    }
}

#[test]
fn sixty_four_descriptors_are_enough_for_an_agent_with_many_targets() {
    let lab = Lab::new();
    let options =
        AgentOptions { wrap: vec!["sh", "-c", "ulimit -n 64; exec \"$@\"", "limited"], ..AgentOptions::default() };
    let small = Small::with(&lab, lab.controller(), 2, &options);
    let dependencies: String = (1..=200).fold(String::new(), |all, n| {
        format!("{all}  cache-{n}:\n    target: redis://10.9.0.1:6379\n    timeout: {n}00ms\n")
    });
    small.controller.file("preflight.yaml", &format!("application: app\ndependencies:\n{dependencies}"));
    let answer = small.gate(&["--wait", "60s"]);
    for n in 1..=200 {
        let state = answer.state(&format!("us/web/cache-{n}"));
        assert!(
            state == "pass" || state.starts_with("unknown"),
            "{n}: {state}: a host's shortage is blamed on the target"
        );
    }
    small.controller.await_agents(2);
    small.controller.file("preflight.yaml", MANIFEST);
    small.assert_passes();
}

#[test]
fn an_agent_of_one_fleet_speaks_for_no_other() {
    let lab = Lab::new();
    let small = Small::new(&lab, 2);
    small.controller.inventory(
        "regions:\n  us:\n    fleets:\n      web: {}\n      worker: {}\napplications:\n  app:\n    fleets: {us: [web, worker]}\n",
    );
    let answer = small.gate(&["--wait", "5s"]).expect_code(3);
    assert_eq!(answer.state(CELL), "pass");
    assert_eq!(answer.state("us/worker/cache"), "unknown no_agent");
}

#[test]
fn a_fleet_with_certificates_that_the_inventory_lacks_is_told() {
    let lab = Lab::new();
    let small = Small::new(&lab, 2);
    small
        .controller
        .inventory("regions:\n  us:\n    fleets:\n      other: {}\napplications:\n  app:\n    fleets: {us: [other]}\n");
    let listed = small.controller.preflight(&["agents", "-o", "json"]).expect_code(0);
    let remarks = listed.json["remarks"].to_string();
    assert!(remarks.contains("us/web") && remarks.contains("us/other"), "{remarks}");
}

#[test]
fn an_agent_finds_its_security_group_by_itself_and_notices_when_it_changes() {
    let lab = Lab::new();
    let small = Small::new(&lab, 0);
    small.controller.inventory(
        "regions:\n  us:\n    fleets:\n      web: {identity: {security_group: [sg-web], subnet: [subnet-a]}}\n\
         applications:\n  app:\n    fleets: {us: [web]}\n",
    );
    let hosts: Vec<Host> = (1..=2).map(|n| lab.host(&format!("us-web-{n}"), &[&format!("10.1.1.{n}")])).collect();
    let mut services: Vec<Server> = hosts.iter().map(|host| host.metadata(&instance(host, "sg-web"))).collect();
    let _agents: Vec<Agent> =
        hosts.iter().map(|host| small.controller.agent(host, "us", "web", &AgentOptions::default())).collect();
    small.controller.await_agents(2);
    small.assert_passes();

    services.clear();
    services.extend(hosts.iter().map(|host| host.metadata(&instance(host, "sg-admin"))));
    let answer = wait_for("the agents to have read it again", SOON, || {
        let answer = small.gate(&["--wait", "10s"]);
        assert!([0, 3].contains(&answer.code), "{}", answer.text());
        (answer.code == 3).then_some(answer)
    });
    assert_eq!(answer.state(CELL), "unknown wrong_vantage");
    assert!(answer.text().contains("sg-admin"), "{}", answer.text());
}

#[test]
fn a_host_that_changes_its_group_between_runs_is_asked_by_the_next() {
    let lab = Lab::new();
    let small = Small::new(&lab, 0);
    let hosts: Vec<Host> = (1..=6).map(|n| lab.host(&format!("us-web-{n}"), &[&format!("10.1.1.{n}")])).collect();
    let mut services: Vec<Server> = hosts.iter().map(|host| host.metadata(&instance(host, "sg-web"))).collect();
    let _agents: Vec<Agent> =
        hosts.iter().map(|host| small.controller.agent(host, "us", "web", &AgentOptions::default())).collect();
    small.controller.await_agents(6);
    assert_eq!(small.gate(&[]).expect_code(0).cell(CELL)["agents"]["asked"], 3, "six hosts alike, three are asked");
    // No run asks this one meanwhile: it tells by itself.
    drop(services.pop());
    let _service = hosts[5].metadata(&instance(&hosts[5], "sg-odd"));
    let odd = small.agent_name(6);
    wait_for("the change to be told", SOON, || {
        (small.agent(&odd)["identity"]["security_group"] == serde_json::json!(["sg-odd"])).then_some(())
    });
    let answer = small.gate(&[]).expect_code(0);
    assert!(answer.cell(CELL)["evidence"].to_string().contains(&odd), "an identity of its own must be covered");
}

#[test]
fn the_address_that_was_checked_is_the_one_that_is_dialled() {
    let lab = Lab::new();
    let small = Small::new(&lab, 0);
    small.controller.inventory(&INVENTORY.replace("web: {}", "web: {min_agents: 1}"));
    small.controller.file("preflight.yaml", &MANIFEST.replace("10.9.0.1", "cache.rebinding"));
    let names = lab.host("names", &["10.9.0.53"]);
    names.dns_rebinding(Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, 2));
    let denied = lab.host("denied", &["10.9.0.2"]);
    let _redis = denied.redis(6379, &[]);
    let host = lab.host("us-web-1", &["10.1.1.1"]);
    host.resolv_conf("nameserver 10.9.0.53\n");
    let policy = Some("[[deny]]\naddresses = [\"10.9.0.2\"]\n");
    let _agent = small.controller.agent(&host, "us", "web", &AgentOptions { policy, ..AgentOptions::default() });
    small.controller.await_agents(1);
    let answer = small.gate(&[]).expect_code(0);
    assert_eq!(answer.cell(CELL)["evidence"][0]["address"], "10.9.0.1:6379");
    // From now on the name is another host's, which the policy denies.
    let answer = small.gate(&[]).expect_code(3);
    assert_eq!(answer.state(CELL), "unknown policy_denied");
}

/// What the metadata service says of a host with one interface.
fn instance(host: &Host, group: &str) -> Metadata {
    let interface = "network/interfaces/macs/02:00:00:00:00:01";
    let entries = [
        ("instance-id".to_owned(), "i-1".to_owned()),
        ("placement/availability-zone".to_owned(), "us-east-1a".to_owned()),
        ("placement/region".to_owned(), "us-east-1".to_owned()),
        ("network/interfaces/macs/".to_owned(), "02:00:00:00:00:01/".to_owned()),
        (format!("{interface}/local-ipv4s"), host.address().to_string()),
        (format!("{interface}/security-group-ids"), group.to_owned()),
        (format!("{interface}/subnet-id"), "subnet-a".to_owned()),
    ];
    Metadata { entries: entries.into() }
}

#[test]
fn a_host_out_of_ports_blames_itself_and_not_the_target() {
    let lab = Lab::new();
    let small = Small::new(&lab, 2);
    small.assert_passes();
    let host = &small.agents[0].host;
    let narrow = host.run(&["sh", "-c", "echo 50000 50001 >/proc/sys/net/ipv4/ip_local_port_range"]);
    assert!(narrow.status.success(), "{}", String::from_utf8_lossy(&narrow.stderr));
    let target = small.cache.port(6379);
    let held: Vec<_> = host.within(|| (0..2).map(|_| std::net::TcpStream::connect(target).unwrap()).collect());
    assert!(host.within(|| std::net::TcpStream::connect(target).is_err()), "the host has ports left");
    let answer = small.gate(&["--wait", "10s"]).expect_code(3);
    assert_eq!(answer.state(CELL), "unknown local_resources");
    drop(held);
}

#[test]
fn an_agent_that_comes_and_goes_is_left_out_until_it_is_steady() {
    let lab = Lab::new();
    let mut small = Small::new(&lab, 3);
    for _ in 0..3 {
        small.agents[2].process.kill();
        small.controller.await_state("connected", 2);
        small.agents[2].start(&AgentOptions::default());
        wait_for("the agent to be back", SOON, || {
            let agents = small.controller.agents();
            agents.iter().all(|agent| agent["state"] != "lost").then_some(())
        });
    }
    small.controller.await_state("unsteady", 1);
    let answer = small.gate(&[]).expect_code(0);
    assert_eq!(answer.cell(CELL)["agents"]["asked"], 2, "the unsteady one was asked: {}", answer.text());
}

//! A controller that is killed, starved, or given a broken store: what was acknowledged is kept, and what it says is true.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::fs;
use std::time::Duration;

use preflight_tests::lab::{AgentOptions, Answer, Api, Controller, Firewall, Lab, wait_for};
use preflight_tests::small::{CELL, GATE, Small};

const SOON: Duration = Duration::from_secs(90);

#[test]
fn killed_in_the_middle_of_a_run_it_keeps_what_it_acknowledged_and_the_waiting_gate_gets_the_truth() {
    let lab = Lab::new();
    let options = AgentOptions { wrap: vec!["env", "PREFLIGHT_LOG=debug"], ..AgentOptions::default() };
    let mut small = Small::with(&lab, lab.controller(), 2, &options);
    let (answers, frozen) = (small.agent_name(1), small.agent_name(2));
    small.agents[1].process.freeze();
    let gate = small.controller.preflight_start("gate", &[GATE.as_slice(), &["--wait", "2m"]].concat());
    wait_for("the first answer to be acknowledged", SOON, || {
        small.agents[0].process.log().contains("acknowledged").then_some(())
    });
    small.controller.kill();
    // It cannot answer a second time: the pass below rests on what was on disk.
    small.agents[0].process.kill();
    small.controller.start();
    small.agents[1].process.thaw();
    let answer = Controller::preflight_end(gate, SOON).expect_code(0);
    assert_eq!(answer.state(CELL), "pass");
    let evidence = answer.cell(CELL)["evidence"].to_string();
    assert!(evidence.contains(&answers) && evidence.contains(&frozen), "{evidence}");
    let id = answer.json["id"].as_str().unwrap();
    let shown = small.controller.preflight(&["verdict", "show", id, "-o", "json"]).expect_code(0);
    assert_eq!(shown.json["verdict"], "pass");
}

/// How many PINGs the Redis server has answered.
fn probes(small: &Small) -> usize {
    let said = small.cache.run(&["redis-cli", "info", "commandstats"]);
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    text.lines()
        .find_map(|line| line.strip_prefix("cmdstat_ping:calls="))
        .and_then(|rest| rest.split(',').next()?.parse().ok())
        .unwrap_or(0)
}

#[test]
fn killed_and_never_back_the_waiting_gate_ends_without_a_verdict() {
    let lab = Lab::new();
    let mut small = Small::new(&lab, 2);
    small.agents[1].process.freeze();
    let gate = small.controller.preflight_start("gate", &[GATE.as_slice(), &["--wait", "15s"]].concat());
    wait_for("the run to begin", SOON, || (probes(&small) >= 1).then_some(()));
    small.controller.kill();
    let answer = Controller::preflight_end(gate, Duration::from_secs(40));
    assert_eq!(answer.code, 1, "{}", answer.text());
}

#[test]
fn a_gate_right_after_a_restart_waits_for_agents_that_are_on_their_way_back() {
    let lab = Lab::new();
    let mut small = Small::new(&lab, 2);
    small.controller.kill();
    // Long enough that they pause for seconds between two attempts.
    wait_for("both agents to back off", SOON, || {
        let tries = |log: String| log.matches("retry in").count();
        small.agents.iter().all(|agent| tries(agent.process.log()) >= 4).then_some(())
    });
    small.controller.start();
    let answer = small.gate(&[]).expect_code(0);
    assert_eq!(answer.state(CELL), "pass");
    // Where they do not come back: until the wait is over, and nobody is told to start an agent.
    small.controller.kill();
    for agent in &mut small.agents {
        agent.process.kill();
    }
    small.controller.start();
    let answer = small.gate(&[]).expect_code(3);
    assert_eq!(answer.state(CELL), "unknown silent");
    assert!(answer.took >= Duration::from_secs(29), "its wait is 30 s: {:?}", answer.took);
    let reason = &answer.json["regions"][0]["reasons"][0];
    assert!(!reason.to_string().contains("Start an agent") && reason["fix"].is_string(), "{reason}");
}

#[test]
fn a_fleet_without_agents_is_unknown_at_once_and_waited_for_with_a_wait() {
    let lab = Lab::new();
    let small = Small::new(&lab, 0);
    let answer = small.gate(&[]).expect_code(3);
    assert_eq!(answer.state(CELL), "unknown no_agent");
    assert!(answer.took < Duration::from_secs(20), "{:?}", answer.took);
    let gate = small.controller.preflight_start("gate", &[GATE.as_slice(), &["--wait", "2m"]].concat());
    wait_for("it to say what it waits for", SOON, || {
        gate.log().contains("waiting for any agent of us/web").then_some(())
    });
    let _agents: Vec<_> = (1..=2)
        .map(|n| {
            let host = lab.host(&format!("us-web-{n}"), &[&format!("10.1.1.{n}")]);
            small.controller.agent(&host, "us", "web", &AgentOptions::default())
        })
        .collect();
    let answer = Controller::preflight_end(gate, SOON).expect_code(0);
    assert_eq!(answer.state(CELL), "pass");
}

#[test]
fn verdicts_and_agents_outlive_a_kill() {
    let lab = Lab::new();
    let mut small = Small::new(&lab, 2);
    let answer = small.gate(&[]).expect_code(0);
    let id = answer.json["id"].as_str().unwrap().to_owned();
    small.controller.kill();
    small.controller.start();
    let shown = small.controller.preflight(&["verdict", "show", &id, "-o", "json"]).expect_code(0);
    assert_eq!(shown.json["regions"][0]["cells"], answer.json["regions"][0]["cells"]);
    small.controller.await_agents(2);
    small.assert_passes();
}

#[test]
fn unreachable_the_gate_ends_within_its_wait_and_without_a_verdict() {
    let lab = Lab::new();
    let small = Small::new(&lab, 0);
    small.controller.host.firewall(&Firewall::open().drop_from(small.controller.pipeline.address()));
    let answer = small.gate(&["--wait", "5s"]).expect_code(1);
    assert!(answer.took < Duration::from_secs(12), "{:?}", answer.took);
    assert!(answer.stdout.trim().is_empty() || answer.json["verdict"] != "pass", "{}", answer.text());
}

#[test]
fn a_corrupt_store_is_refused_by_name_and_not_replaced() {
    let lab = Lab::new();
    let mut small = Small::new(&lab, 0);
    small.controller.kill();
    let store = store_file(&small.controller);
    let mut bytes = fs::read(&store).unwrap();
    for byte in &mut bytes[..4096] {
        *byte ^= 0x5a;
    }
    for extra in ["-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{extra}", store.display()));
    }
    fs::write(&store, &bytes).unwrap();
    let ended = small.controller.launch().wait(Duration::from_secs(30));
    assert_ne!(ended.code, 0);
    let name = store.file_name().unwrap().to_string_lossy().into_owned();
    assert!(ended.text().contains(&name), "{}", ended.text());
    assert_eq!(fs::read(&store).unwrap(), bytes, "the broken file was changed");
}

/// The SQLite file in the data directory.
fn store_file(controller: &Controller) -> std::path::PathBuf {
    let entries = fs::read_dir(&controller.data_dir).unwrap();
    let is_sqlite = |path: &std::path::PathBuf| {
        path.is_file() && fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"SQLite format 3"))
    };
    entries.flatten().map(|entry| entry.path()).find(is_sqlite).expect("an SQLite file in the data directory")
}

#[test]
fn a_full_disk_is_an_error_that_names_it_and_never_a_pass() {
    let lab = Lab::new();
    let controller = lab.controller_stopped(&[]);
    fs::create_dir_all(&controller.data_dir).unwrap();
    let mount = |args: &[&str]| {
        let done = std::process::Command::new("mount").args(args).arg(&controller.data_dir).status().unwrap();
        assert!(done.success());
    };
    mount(&["-t", "tmpfs", "-o", "size=8m", "small"]);
    let _unmount = Unmount(controller.data_dir.clone());
    let mut controller = controller;
    controller.start();
    let small = Small::with(&lab, controller, 2, &AgentOptions::default());
    small.assert_passes();
    let before = small.gate(&[]).expect_code(0);
    let filler = small.controller.data_dir.join("filler");
    fill(&filler);
    let answer = small.gate(&["--wait", "8s"]);
    assert_ne!(answer.code, 0, "a pass that could not be kept: {}", answer.text());
    // Reads go on.
    let id = before.json["id"].as_str().unwrap();
    let _ = small.controller.preflight(&["verdict", "show", id, "-o", "json"]).expect_code(0);
    let said = format!("{}{}", answer.text(), lab.logs()).to_lowercase();
    assert!(said.contains("disk") || said.contains("full"), "{said}");
    fs::remove_file(&filler).unwrap();
    wait_for("the gate to pass again", SOON, || (small.gate(&["--wait", "10s"]).code == 0).then_some(()));
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Writes until there is no room, down to the last byte.
fn fill(path: &std::path::Path) {
    use std::io::Write as _;
    let mut file = fs::File::create(path).unwrap();
    for size in [1 << 16, 1 << 12, 1] {
        let block = vec![0; size];
        while file.write_all(&block).is_ok() {}
    }
}

#[test]
fn sixty_four_descriptors_do_not_end_the_accept_loops() {
    let lab = Lab::new();
    let controller = lab.controller_wrapped(&["sh", "-c", "ulimit -n 64; exec \"$@\"", "limited"]);
    let mut small = Small::with(&lab, controller, 2, &AgentOptions::default());
    small.assert_passes();
    let addresses = [small.controller.api().address, small.controller.host.port(7444)];
    let held: Vec<std::net::TcpStream> = small.controller.pipeline.within(|| {
        let connect = |address| std::net::TcpStream::connect_timeout(address, Duration::from_secs(1)).ok();
        (0..60).flat_map(|_| addresses.iter().filter_map(connect)).collect()
    });
    assert!(held.len() > 64, "the test holds {} connections", held.len());
    assert!(small.controller.process().running());
    drop(held);
    wait_for("the gate to pass again", SOON, || (small.gate(&["--wait", "10s"]).code == 0).then_some(()));
    assert!(small.controller.process().running());
}

#[test]
fn a_half_open_stream_is_noticed() {
    let lab = Lab::new();
    let small = Small::new(&lab, 2);
    // Nothing says goodbye: packets of one agent just vanish, in both directions.
    let gone = small.agents[1].host.address();
    small.controller.host.firewall(&Firewall::open().drop_from(gone).drop_output(gone));
    let answer = small.gate(&["--wait", "20s"]).expect_code(3);
    assert_eq!(answer.state(CELL), "unknown silent");
    // 40 s, by the design; the rest is for a busy machine.
    wait_for("the controller to notice", Duration::from_mins(1), || {
        let agents = small.controller.agents();
        agents.iter().any(|agent| agent["state"] == "lost").then_some(())
    });
    small.controller.host.firewall(&Firewall::open());
    small.controller.await_agents(2);
    wait_for("the gate to pass again", SOON, || (small.gate(&["--wait", "10s"]).code == 0).then_some(()));
}

#[test]
fn ready_healthy_and_metrics_answer() {
    let lab = Lab::new();
    let controller = lab.controller();
    let api = controller.api();
    assert_eq!(api.with_token(None).get("/-/healthy").unwrap().status, 200);
    assert_eq!(api.with_token(None).get("/-/ready").unwrap().status, 200);
    let metrics = api.get("/metrics").unwrap();
    assert_eq!(metrics.status, 200);
    assert!(metrics.body.contains("# EOF") || metrics.body.contains("# TYPE"), "{}", metrics.body);
}

#[test]
fn what_it_keeps_secret_only_its_owner_can_read() {
    use std::os::unix::fs::PermissionsExt as _;
    let lab = Lab::new();
    let small = Small::new(&lab, 1);
    let mut secret = vec![small.controller.context()];
    for dir in [&small.controller.data_dir, &small.agents[0].state_dir] {
        secret.extend(fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path()));
    }
    for path in secret {
        let text = fs::read(&path).unwrap_or_default();
        let holds_key = String::from_utf8_lossy(&text).contains("PRIVATE KEY") || path == small.controller.context();
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert!(!holds_key || mode == 0o600, "{} has mode {mode:o}", path.display());
    }
}

/// Ad hoc probes of so many targets, and what the controller says to them.
fn probe(api: &Api, targets: usize) -> Answer {
    let targets: Vec<String> = (1..=targets).map(|n| format!("tcp://10.9.0.1:{}", 7_000 + n)).collect();
    let body = serde_json::json!({"targets": targets, "wait_ms": 60_000});
    api.request("POST", "/v1/probe", Some(&body)).unwrap()
}

fn assert_busy(answer: &Answer, message: &str, seconds: std::ops::RangeInclusive<u64>) {
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (429, Some("busy")), "{answer:?}");
    assert!(answer.json()["error"]["message"].as_str().is_some_and(|said| said.contains(message)), "{answer:?}");
    let wait = answer.head.lines().find_map(|line| line.to_lowercase().strip_prefix("retry-after: ")?.parse().ok());
    assert!(wait.is_some_and(|wait| seconds.contains(&wait)), "{answer:?}");
}

#[test]
fn a_token_probes_so_many_targets_in_a_minute_and_another_one_is_not_held_up() {
    let lab = Lab::new();
    let small = Small::new(&lab, 0);
    let api = small.controller.api();
    // A hundred of them are free again after ten seconds: unless every answer takes that long, there is an end.
    let answers: Vec<Answer> = (0..60).map(|_| probe(&api, 100)).take_while(|answer| answer.status != 429).collect();
    assert!((6..60).contains(&answers.len()) && answers.iter().all(|a| a.status == 200), "{answers:?}");
    assert_busy(&probe(&api, 100), "at most 600 targets in a minute", 1..=11);
    let other = small.controller.preflight(&["token", "create", "--name", "other", "--scope", "probe"]).expect_code(0);
    let other = other.stdout.lines().next_back().unwrap_or_default().trim().to_owned();
    let answer = probe(&api.with_token(Some(&other)), 100);
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn a_token_has_so_many_ad_hoc_runs_under_way() {
    let lab = Lab::new();
    let small = Small::new(&lab, 1);
    let api = small.controller.api();
    small.agents[0].process.freeze();
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let api = api.clone();
            std::thread::spawn(move || probe(&api, 1))
        })
        .collect();
    wait_for("four runs to be under way", SOON, || {
        let metrics = api.get("/metrics").ok()?.body;
        metrics.lines().any(|line| line.starts_with("preflight_runs_under_way") && line.ends_with(" 4")).then_some(())
    });
    assert_busy(&probe(&api, 1), "4 ad hoc runs of this token are under way", 1..=1);
    small.agents[0].process.thaw();
    for answer in waiting {
        let answer = answer.join().unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    wait_for("a place to be free again", SOON, || (probe(&api, 1).status == 200).then_some(()));
}

#[test]
fn a_target_is_probed_by_one_agent_after_the_other() {
    let lab = Lab::new();
    let controller = lab.controller_wrapped(&["sh", "-c", "exec \"$@\" --target-rate 1", "sh"]);
    let small = Small::with(&lab, controller, 3, &AgentOptions::default());
    let answer = small.gate(&[]).expect_code(0);
    assert_eq!(answer.cell(CELL)["agents"]["ok"], 3, "{}", answer.text());
    assert!(answer.took >= Duration::from_secs(2), "three probes, one a second: {:?}", answer.took);
}

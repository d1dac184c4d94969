//! What releases, overrides and emergencies leave behind, and what the next gate, check and reader of the audit log make of it.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use preflight_tests::lab::{AgentOptions, Controller, Firewall, Lab, Preflight, wait_for};
use preflight_tests::small::{CELL, INVENTORY, MANIFEST, Small};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(90);

/// The manifest with a second dependency.
const TWO: &str = "\
application: app
dependencies:
  cache:
    target: redis://10.9.0.1:6379
  queue:
    target: redis://10.9.0.1:6380
";

/// The gate for a release, with more words.
fn gate(controller: &Controller, release: &str, more: &[&str]) -> Preflight {
    let words = ["gate", "--manifest", "preflight.yaml", "--region", "us", "--release", release, "-o", "json"];
    controller.preflight(&[words.as_slice(), more].concat())
}

fn id(gate: &Preflight) -> String {
    gate.json["id"].as_str().expect("a verdict's id").to_owned()
}

fn deployed(controller: &Controller, release: &str, verdict: &str) -> Preflight {
    controller.preflight(&["release", "deployed", "--region", "us", "--release", release, "--verdict", verdict])
}

fn check(controller: &Controller, release: &str, verdict: &str) -> Preflight {
    let words = ["verdict", "check", verdict, "--application", "app", "--release", release, "--region", "us"];
    controller.preflight(&[words.as_slice(), &["-o", "json"]].concat())
}

fn codes(gate: &Preflight) -> Vec<&str> {
    gate.json["regions"][0]["reasons"].as_array().unwrap().iter().filter_map(|r| r["code"].as_str()).collect()
}

fn required(gate: &Preflight, cell: &str) -> bool {
    gate.cell(cell)["required"].as_bool().unwrap()
}

fn override_all(controller: &Controller, verdict: &str, expires: &str) -> Preflight {
    let words = ["override", "--verdict", verdict, "--all-blocking", "--reason", "known", "--ticket", "OPS-7"];
    controller.preflight(&[words.as_slice(), &["--expires", expires, "-o", "json"]].concat())
}

/// The entries of the audit log for an action, the newest first: outcome and detail.
fn audit(controller: &Controller, action: &str) -> Vec<(String, String)> {
    let log = controller.preflight(&["audit", "--action", action, "-o", "json"]).expect_code(0);
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap().to_owned();
    let entries = log.json["entries"].as_array().unwrap();
    entries.iter().map(|entry| (text(entry, "outcome"), text(entry, "detail"))).collect()
}

#[test]
fn what_is_deployed_is_not_asked_for_again_and_what_is_new_is() {
    let lab = Lab::new();
    let mut small = Small::new(&lab, 2);
    // A gate of everything seeds the baseline of what runs already.
    let seed = gate(&small.controller, "r1", &["--scope", "all"]).expect_code(0);
    let _ = deployed(&small.controller, "r1", &id(&seed)).expect_code(0);

    // Nobody can answer, and nobody has to.
    small.agents.iter_mut().for_each(|agent| agent.process.freeze());
    let same = gate(&small.controller, "r2", &["--wait", "2m"]).expect_code(0);
    assert!(same.took < Duration::from_mins(1), "{:?}", same.took);
    assert_eq!(codes(&same), ["no_change"], "{}", same.text());
    assert!(!required(&same, CELL) && same.cell(CELL)["proven_by"] == id(&seed), "{}", same.text());
    small.agents.iter_mut().for_each(|agent| agent.process.thaw());
    small.controller.await_agents(2);
    let table = ["gate", "--manifest", "preflight.yaml", "--region", "us", "--release", "r2"];
    let table = small.controller.preflight(&table).expect_code(0);
    assert!(table.stdout.starts_with("PROCEED") && table.stdout.lines().count() < 8, "{}", table.stdout);

    // A second dependency: only its cell is required.
    let _queue = small.cache.redis(6380, &[]);
    small.controller.file("preflight.yaml", TWO);
    let more = gate(&small.controller, "r2", &[]).expect_code(0);
    assert_eq!((required(&more, CELL), required(&more, "us/web/queue")), (false, true), "{}", more.text());
    assert_eq!(more.state("us/web/queue"), "pass");
    let all = gate(&small.controller, "r2", &["--scope", "all"]).expect_code(0);
    assert!(required(&all, CELL) && all.cell(CELL).get("proven_by").is_none(), "{}", all.text());

    // The matrix is of what is deployed: neither the second dependency nor an advisory gate of something else is.
    let matrix = || -> Vec<String> {
        let shown = small.controller.preflight(&["matrix", "--application", "app", "-o", "json"]).expect_code(0);
        let text = |cell: &Value, key: &str| cell[key].as_str().unwrap().to_owned();
        let cells = shown.json["cells"].as_array().unwrap().iter();
        cells.map(|cell| format!("{} {}", text(cell, "dependency"), text(cell, "state"))).collect()
    };
    small.controller.file("preflight.yaml", &TWO.replace("6379", "6399"));
    let _ = gate(&small.controller, "experiment", &["--advisory"]).expect_code(0);
    assert_eq!(matrix(), ["cache pass"]);
    small.controller.file("preflight.yaml", TWO);

    // What it took as proven is not what is deployed any more.
    let _ = check(&small.controller, "r2", &id(&more)).expect_code(0);
    let _ = deployed(&small.controller, "r2", &id(&all)).expect_code(0);
    let void = check(&small.controller, "r2", &id(&more)).expect_code(3);
    assert!(void.stdout.contains("another deployment was recorded since"), "{}", void.text());
    assert_eq!(matrix(), ["cache pass", "queue pass"]);

    // A dependency that is gone is nothing new; it is said, and that nothing was probed.
    small.controller.file("preflight.yaml", MANIFEST);
    let fewer = gate(&small.controller, "r3", &[]).expect_code(0);
    assert_eq!(codes(&fewer), ["no_change"], "{}", fewer.text());
    let text = fewer.json["regions"][0]["reasons"][0]["text"].as_str().unwrap();
    for said in [&*id(&all), "nothing was probed now", "1 cell of that release removed"] {
        assert!(text.contains(said), "{said}: {text}");
    }
    small.controller.file("preflight.yaml", TWO);

    let listed = small.controller.preflight(&["release", "list", "--application", "app", "-o", "json"]).expect_code(0);
    let now = &listed.json["regions"][0]["deployed"];
    assert_eq!((&now["release"], &now["verdict"], &now["proven"]), (&json!("r2"), &json!(id(&all)), &json!(2)));
    assert_eq!(listed.json["regions"].as_array().unwrap().len(), 1);
    // Nothing is recorded for what does not exist, nor by a verdict for something else.
    let wrong = ["release", "deployed", "--application", "app", "--region", "su", "--release", "r3"];
    let _ = small.controller.preflight(&wrong).expect_code(64);
    let _ = deployed(&small.controller, "r3", &id(&all)).expect_code(4);
    // Under another name it is the same cell: nobody probes it, and it stays in sight.
    small.controller.file("preflight.yaml", &TWO.replace("cache:", "store:"));
    let renamed = gate(&small.controller, "r3", &[]).expect_code(0);
    assert_eq!(codes(&renamed), ["no_change"], "{}", renamed.text());
    let _ = deployed(&small.controller, "r3", &id(&renamed)).expect_code(0);
    assert_eq!(matrix(), ["queue pass", "store pass"]);
    assert!(audit(&small.controller, "POST").iter().any(|(outcome, _)| outcome == "refused"));
}

#[test]
fn an_override_lets_one_release_go_and_proves_nothing() {
    let lab = Lab::new();
    let small = Small::new(&lab, 2);
    let controller = &small.controller;
    small.cache.firewall(&Firewall::open().drop(6379));
    let blocked = gate(controller, "r1", &[]).expect_code(2);
    let first = id(&blocked);
    let _ = check(controller, "r1", &first).expect_code(2);
    // Not without saying what for, nor for what does not block.
    let _ =
        controller.preflight(&["override", "--verdict", &first, "--all-blocking", "--expires", "1h"]).expect_code(64);
    let wrong = ["--cell", "us/web/none", "--reason", "known", "--ticket", "OPS-7", "--expires", "1h"];
    let _ = controller.preflight(&[&["override", "--verdict", &first], wrong.as_slice()].concat()).expect_code(64);
    let too_long = override_all(controller, &first, "30d").expect_code(64);
    assert!(too_long.stderr.contains("longest-override"), "{}", too_long.stderr);
    assert!(too_long.stderr.contains("--expires 24h") && !too_long.stderr.contains("ttl_s"), "{}", too_long.stderr);

    let named = ["--cell", CELL, "--reason", "known", "--ticket", "OPS-7", "--expires", "1h", "-o", "json"];
    let given = controller.preflight(&[&["override", "--verdict", &first], named.as_slice()].concat()).expect_code(0);
    let override_id = given.json["overrides"][0]["id"].as_str().unwrap().to_owned();
    let holds = check(controller, "r1", &first).expect_code(0);
    assert_eq!((&holds.json["verdict"], &holds.json["overrides"][0]["ticket"]), (&json!("fail"), &json!("OPS-7")));
    // It holds for these cells, so for the next release that carries them, and says so.
    let next = gate(controller, "r2", &[]).expect_code(0);
    assert_eq!((&next.json["verdict"], &next.json["decision"]), (&json!("fail"), &json!("proceed")));
    let table = controller.preflight(&["verdict", "show", &id(&next)]).expect_code(0);
    for text in ["PROCEED by override", "verdict fail", "OPS-7: known", "overridden"] {
        assert!(table.stdout.contains(text), "{text}:\n{}", table.stdout);
    }
    // What shipped so is not proven.
    let recorded = deployed(controller, "r2", &id(&next)).expect_code(0);
    assert!(
        recorded.stderr.contains("by override: not proven") && recorded.stderr.contains(CELL),
        "{}",
        recorded.stderr
    );
    let third = gate(controller, "r3", &[]).expect_code(0);
    assert!(required(&third, CELL), "{}", third.text());

    let listed = controller.preflight(&["override", "list", "--application", "app", "-o", "json"]).expect_code(0);
    assert_eq!(listed.json["overrides"][0]["id"], json!(override_id));
    // Another one for the same cell: the first verdict names both, and withdrawing one of them is not enough.
    let second = override_all(controller, &first, "1h").expect_code(0).json["overrides"][0]["id"].clone();
    let show = controller.preflight(&["verdict", "show", &first, "-o", "json"]).expect_code(0);
    let region = &show.json["regions"][0];
    let since: Vec<&Value> = region["overrides_since"].as_array().unwrap().iter().map(|one| &one["id"]).collect();
    assert_eq!(since, [&second, &json!(override_id)], "{}", show.text());
    assert_eq!((&region["decision"], &region["overrides"]), (&json!("block"), &json!([])), "as it was given");
    let still = controller.preflight(&["override", "withdraw", &override_id]).expect_code(0);
    let second = second.as_str().unwrap();
    assert!(still.stdout.contains("is still let through") && still.stdout.contains(second), "{}", still.stdout);
    let _ = gate(controller, "r3", &[]).expect_code(0);
    let _ = controller.preflight(&["override", "withdraw", &override_id]).expect_code(64);
    let last = controller.preflight(&["override", "withdraw", second]).expect_code(0);
    assert!(last.stdout.contains("is held back again"), "{}", last.stdout);
    let _ = check(controller, "r1", &first).expect_code(2);
    let _ = check(controller, "r3", &id(&third)).expect_code(2);
    let blocks = gate(controller, "r3", &[]).expect_code(2);
    // What ships against a verdict, or without one, is a fact, and whoever records it is told what that means.
    let against = deployed(controller, "r3", &id(&blocks)).expect_code(0);
    for text in ["decided block", CELL, "--rollback"] {
        assert!(against.stderr.contains(text), "{text}: {}", against.stderr);
    }
    let _ = gate(controller, "r3", &["--rollback"]).expect_code(0);
    let without = ["release", "deployed", "--application", "app", "--region", "us", "--release", "r4", "-o", "json"];
    let without = controller.preflight(&without).expect_code(0);
    let notice = without.json["deployed"][0]["notice"].as_str().unwrap();
    assert!(notice.contains("there is no verdict for it") && without.stderr.contains(notice), "{}", without.text());
    assert!(audit(controller, "override").iter().any(|(_, detail)| detail.contains("OPS-7: known")));
    assert!(audit(controller, "override withdraw").iter().any(|(_, detail)| *detail == override_id));
}

#[test]
fn an_override_ends_by_itself() {
    let lab = Lab::new();
    let small = Small::new(&lab, 2);
    let controller = &small.controller;
    small.cache.firewall(&Firewall::open().drop(6379));
    let blocked = id(&gate(controller, "r1", &[]).expect_code(2));
    // So long that even a loaded machine gates within it.
    let given = override_all(controller, &blocked, "40s").expect_code(0);
    let let_go = gate(controller, "r1", &[]).expect_code(0);
    let until = given.json["overrides"][0]["expires_at"].as_str().unwrap();
    assert_eq!(
        let_go.json["regions"][0]["valid_until"], until,
        "a verdict is not valid for longer than what it rests on"
    );
    let _ = check(controller, "r1", &id(&let_go)).expect_code(0);
    wait_for("the override to end", SOON, || (check(controller, "r1", &blocked).code == 2).then_some(()));
    let over = check(controller, "r1", &id(&let_go));
    assert!([2, 3].contains(&over.code), "{}", over.text());
    let _ = gate(controller, "r1", &[]).expect_code(2);
}

#[test]
fn a_verdict_holds_until_something_that_it_rests_on_changes() {
    let lab = Lab::new();
    let mut small = Small::new(&lab, 3);
    let verdict = id(&gate(&small.controller, "r1", &[]).expect_code(0));
    let _ = check(&small.controller, "r1", &verdict).expect_code(0);
    // A host that leaves takes nothing with it.
    small.agents.pop().unwrap().process.stop(SOON);
    small.controller.await_agents(2);
    let _ = check(&small.controller, "r1", &verdict).expect_code(0);
    // Another application's fleets are nobody's business here.
    small.controller.inventory(&format!("{INVENTORY}  other:\n    fleets: {{us: [web]}}\n"));
    let _ = check(&small.controller, "r1", &verdict).expect_code(0);
    // Its own are.
    small.controller.inventory(&INVENTORY.replace("web: {}", "web: {min_agents: 1}"));
    let void = check(&small.controller, "r1", &verdict).expect_code(3);
    assert!(void.stdout.contains("the inventory has changed"), "{}", void.text());
    small.controller.inventory(INVENTORY);
    let _ = check(&small.controller, "r1", &verdict).expect_code(0);
    // A kind of host that the fleet did not have then.
    let host = lab.host("us-web-new", &["10.1.1.9"]);
    let options = AgentOptions { identity: vec!["security_group=sg-new".into()], ..AgentOptions::default() };
    let _new = small.controller.agent(&host, "us", "web", &options);
    small.controller.await_agents(3);
    let void = check(&small.controller, "r1", &verdict).expect_code(3);
    assert!(void.stdout.contains("sg-new"), "{}", void.text());
    assert_eq!(void.json["decision"], "block");
}

/// A host of `us/web` of a kind of its own.
fn sealed(lab: &Lab, controller: &Controller, name: &str, address: &str) -> preflight_tests::lab::Agent {
    let host = lab.host(name, &[address]);
    let options = AgentOptions { identity: vec!["security_group=sealed".into()], ..AgentOptions::default() };
    controller.agent(&host, "us", "web", &options)
}

#[test]
fn a_cell_is_proven_from_the_hosts_that_have_shown_it_and_from_no_others() {
    let lab = Lab::new();
    let small = Small::new(&lab, 2);
    let controller = &small.controller;
    let first_sealed = sealed(&lab, controller, "sealed", "10.1.1.8");
    controller.await_agents(3);
    let first = gate(controller, "r1", &[]).expect_code(0);
    let _ = deployed(controller, "r1", &id(&first)).expect_code(0);
    // While hosts of that kind are away, what is new is shown from the others only.
    let agents = controller.agents();
    let name = agents.iter().find(|agent| agent["identity"]["host"] == json!(["sealed"])).unwrap()["agent"].clone();
    first_sealed.process.stop(SOON);
    controller.await_agents(2);
    let _ = controller.preflight(&["agents", "forget", name.as_str().unwrap()]).expect_code(0);
    let _queue = small.cache.redis(6380, &[]);
    controller.file("preflight.yaml", TWO);
    let second = gate(controller, "r2", &[]).expect_code(0);
    let _ = deployed(controller, "r2", &id(&second)).expect_code(0);
    let same = gate(controller, "r3", &[]).expect_code(0);
    assert_eq!(codes(&same), ["no_change"], "{}", same.text());
    let _sealed = sealed(&lab, controller, "sealed-2", "10.1.1.9");
    controller.await_agents(3);
    let _ = check(controller, "r3", &id(&same)).expect_code(3);
    let back = gate(controller, "r3", &[]).expect_code(0);
    assert_eq!((required(&back, CELL), required(&back, "us/web/queue")), (false, true), "{}", back.text());
}

#[test]
fn who_went_back_has_no_baseline_and_what_was_proven_before_is_not_brought_back() {
    let lab = Lab::new();
    let small = Small::new(&lab, 2);
    let controller = &small.controller;
    let first = id(&gate(controller, "r1", &[]).expect_code(0));
    let _ = deployed(controller, "r1", &first).expect_code(0);
    let _queue = small.cache.redis(6380, &[]);
    controller.file("preflight.yaml", TWO);
    let second = id(&gate(controller, "r2", &[]).expect_code(0));
    let _ = deployed(controller, "r2", &second).expect_code(0);
    let same = gate(controller, "r2", &[]).expect_code(0);
    assert_eq!(codes(&same), ["no_change"]);
    // What it had decided by is another deployment by now.
    let late = deployed(controller, "r1", &first).expect_code(0);
    assert!(late.stderr.contains("does not stand"), "{}", late.text());
    let all = gate(controller, "r2", &[]).expect_code(0);
    assert!(required(&all, CELL), "{}", all.text());
    let _ = deployed(controller, "r2", &id(&all)).expect_code(0);
    assert_eq!(codes(&gate(controller, "r2", &[]).expect_code(0)), ["no_change"]);

    let _ = gate(controller, "r1", &["--rollback"]).expect_code(0);
    let again = gate(controller, "r2", &[]).expect_code(0);
    assert!(required(&again, CELL) && required(&again, "us/web/queue"), "{}", again.text());
    let void = deployed(controller, "r2", &id(&all)).expect_code(0);
    assert!(void.stderr.contains("a rollback, was recorded"), "{}", void.text());
    // To what never shipped there, nothing says that it did.
    let words = ["release", "rollback", "--application", "app", "--region", "us", "--from", "r2", "--to", "r0"];
    let back = controller.preflight(&[words.as_slice(), &["--reason", "bad"]].concat()).expect_code(0);
    assert!(back.text().contains("r0 was never recorded as deployed in us"), "{}", back.text());
    let _ = gate(controller, "r0", &["--rollback"]).expect_code(4);
}

#[test]
fn what_passed_beside_a_sick_host_is_not_proven() {
    let lab = Lab::new();
    let small = Small::new(&lab, 2);
    let controller = &small.controller;
    let sick = lab.host("sick", &["10.1.1.8"]);
    sick.firewall(&Firewall::open().drop_output("10.9.0.1".parse().unwrap()));
    let _sick = controller.agent(&sick, "us", "web", &AgentOptions::default());
    controller.await_agents(3);
    // Which hosts are asked is by chance.
    let passed = wait_for("the sick host to be asked", SOON, || {
        let passed = gate(controller, "r1", &["--scope", "all"]).expect_code(0);
        (passed.cell(CELL)["agents"]["short"] == 1).then_some(passed)
    });
    let recorded = deployed(controller, "r1", &id(&passed)).expect_code(0);
    assert!(recorded.stderr.contains(CELL), "{}", recorded.text());
    assert!(required(&gate(controller, "r2", &[]), CELL));
}

#[test]
fn an_ended_run_is_served_again_only_while_its_verdict_stands() {
    let lab = Lab::new();
    let small = Small::new(&lab, 2);
    let controller = &small.controller;
    let request = json!({
        "id": "0123456789abcdef", "manifest": MANIFEST, "manifest_name": "preflight.yaml", "regions": ["us"], "release": "r1",
        "wait_ms": 30_000,
    });
    let ask = || controller.api().request("POST", "/v1/gate", Some(&request)).unwrap();
    assert_eq!(ask().json()["decision"], "proceed");
    assert_eq!(ask().json()["decision"], "proceed");
    controller.inventory(&INVENTORY.replace("web: {}", "web: {min_agents: 1}"));
    assert_eq!(ask().status, 409);
    controller.inventory(INVENTORY);
    assert_eq!(ask().json()["decision"], "proceed");
    // Another manifest of this release is not what the verdict is for, unless the caller says which it has.
    let _queue = small.cache.redis(6380, &[]);
    controller.file("other.yaml", TWO);
    let words = ["gate", "--manifest", "other.yaml", "--region", "us", "--release", "r1"];
    let _ = controller.preflight(&words).expect_code(0);
    let void = check(controller, "r1", "0123456789abcdef").expect_code(3);
    assert!(void.stdout.contains("another manifest"), "{}", void.text());
    let words = ["verdict", "check", "0123456789abcdef", "--application", "app", "--release", "r1", "--region", "us"];
    let _ = controller.preflight(&[words.as_slice(), &["--manifest", "preflight.yaml"]].concat()).expect_code(0);
    // Asked for when a rollback came, it is void.
    let _ = deployed(controller, "r1", "0123456789abcdef").expect_code(0);
    assert_eq!(ask().json()["decision"], "proceed");
    let _ = gate(controller, "r1", &["--rollback"]).expect_code(0);
    assert_eq!(ask().status, 409);
}

#[test]
fn a_run_whose_basis_changed_under_it_does_not_proceed() {
    let lab = Lab::new();
    let mut small = Small::new(&lab, 2);
    // Nobody answers until the inventory is another one.
    small.agents.iter_mut().for_each(|agent| agent.process.freeze());
    let (controller, agents) = (&small.controller, &small.agents);
    let answer = std::thread::scope(|scope| {
        let run = scope.spawn(|| gate(controller, "r1", &["--wait", "1m"]));
        wait_for("the gate to be asked for", SOON, || (!audit(controller, "gate").is_empty()).then_some(()));
        controller.inventory(&INVENTORY.replace("web: {}", "web: {min_agents: 1}"));
        for agent in agents {
            agent.process.thaw();
        }
        run.join().unwrap()
    });
    let answer = answer.expect_code(3);
    assert!(codes(&answer).contains(&"inventory_changed"), "{}", answer.text());
    assert_eq!(answer.state(CELL), "pass");
}

/// The files that are kept for the controller.
fn kept(controller: &Controller) -> Vec<PathBuf> {
    let dir = fs::read_dir(controller.pipeline.dir().join("spool"));
    dir.map(|dir| dir.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

const SPOOL: [&str; 2] = ["--spool-dir", "spool"];
const BREAK_GLASS: [&str; 5] = ["--break-glass", "--reason", "us is down", "--ticket", "OPS-9"];

/// A wrong token and a foreign authority hold up no rollback. For the glass, who answers has been reached.
fn a_stranger_holds_up_no_rollback(controller: &Controller, rollback: &[&str], break_glass: &[&str]) {
    let context = fs::read_to_string(controller.context()).unwrap();
    let context: toml::Table = context.parse().unwrap();
    let text = |key: &str| context[key].as_str().unwrap().to_owned();
    controller.file("ca.pem", &text("ca_pem"));
    controller.file("foreign.pem", &preflight_tests::certificates::Authority::new("foreign").pem);
    for (token, ca) in [("pft_wrong", "ca.pem"), (text("token").as_str(), "foreign.pem")] {
        let environment =
            [("PREFLIGHT_URL", text("url")), ("PREFLIGHT_TOKEN", token.to_owned()), ("PREFLIGHT_CA", ca.to_owned())];
        let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let words = ["gate", "--manifest", "preflight.yaml", "--region", "us", "--release", "r1"];
        let _ = controller.preflight_with(&[words.as_slice(), break_glass].concat(), &environment).expect_code(1);
        let _ = controller.preflight_with(&words, &environment).expect_code(1);
        assert!(kept(controller).is_empty());
        let back = controller.preflight_with(&[words.as_slice(), rollback].concat(), &environment).expect_code(0);
        assert!(back.stderr.contains("WITHOUT a verdict") && back.stdout.contains("PROCEED"), "{}", back.text());
        let files = kept(controller);
        assert_eq!(files.len(), 1);
        fs::remove_file(&files[0]).unwrap();
    }
}

#[test]
fn with_the_controller_gone_a_rollback_and_a_broken_glass_go_on_and_are_told_later() {
    let lab = Lab::new();
    let mut small = Small::new(&lab, 2);
    let rollback = [SPOOL.as_slice(), &["--rollback"]].concat();
    let break_glass = [SPOOL.as_slice(), &BREAK_GLASS].concat();
    // While there is a controller: only to what was there, and the glass stays whole.
    let never = gate(&small.controller, "r0", &rollback).expect_code(4);
    assert!(never.stderr.contains("never recorded as deployed"), "{}", never.stderr);
    let first = gate(&small.controller, "r1", &[]).expect_code(0);
    let _ = deployed(&small.controller, "r1", &id(&first)).expect_code(0);
    small.cache.firewall(&Firewall::open().drop(6379));
    let back = gate(&small.controller, "r1", &rollback).expect_code(0);
    assert_eq!((&back.json["rollback"], back.state(CELL).as_str()), (&json!(true), "fail connect_timeout"));
    assert!(!codes(&back).contains(&"other_manifest"), "{}", back.text());
    let _ = check(&small.controller, "r1", &id(&back)).expect_code(0);
    // By a manifest that is not that release's: it goes on, and what is shown says of what it is not.
    small.controller.file("preflight.yaml", TWO);
    let other = gate(&small.controller, "r1", &rollback).expect_code(0);
    assert!(codes(&other).contains(&"other_manifest"), "{}", other.text());
    let noted = check(&small.controller, "r1", &id(&other)).expect_code(0);
    assert!(noted.stdout.contains("is not the one that this release shipped with"), "{}", noted.text());
    let whole = gate(&small.controller, "r2", &break_glass).expect_code(2);
    assert!(whole.stderr.contains("was not used") && whole.stderr.contains("preflight override"), "{}", whole.stderr);
    small.controller.file("preflight.yaml", MANIFEST);
    a_stranger_holds_up_no_rollback(&small.controller, &rollback, &break_glass);
    // Nor does a manifest of before that does not fit the inventory of now.
    let old = MANIFEST.replace("10.9.0.1", "{gone}.example");
    small.controller.file("preflight.yaml", &old);
    let all = ["gate", "--manifest", "preflight.yaml", "--all-regions", "--release", "r1", "-o", "json"];
    let back = small.controller.preflight(&[all.as_slice(), &rollback].concat()).expect_code(0);
    assert_eq!((&back.json["rollback"], &back.json["regions"][0]["region"]), (&json!(true), &json!("us")));
    let twice = ["gate", "--manifest", "preflight.yaml", "--region", "us,us", "--release", "r1", "-o", "json"];
    let _ = small.controller.preflight(&[twice.as_slice(), &rollback].concat()).expect_code(0);
    let _ = small.controller.preflight(&all).expect_code(64);
    small.controller.inventory(&INVENTORY.replace("  app:", "  another:"));
    let back = small.controller.preflight(&[all.as_slice(), &rollback].concat()).expect_code(0);
    assert_eq!(back.json["regions"][0]["region"], "us", "where it was deployed");
    small.controller.inventory(INVENTORY);
    small.controller.file("preflight.yaml", MANIFEST);

    small.controller.kill();
    let plain = gate(&small.controller, "r1", &["--wait", "2s"]).expect_code(1);
    assert!(plain.stdout.is_empty(), "{}", plain.stdout);
    for how in [&rollback, &break_glass] {
        let gone = gate(&small.controller, "r1", how).expect_code(0);
        assert!(gone.took < Duration::from_secs(20), "a few seconds, not the whole wait: {:?}", gone.took);
        assert!(gone.stderr.contains("WITHOUT a verdict"), "{}", gone.stderr);
        assert_eq!((&gone.json["decision"], &gone.json["verdict"]), (&json!("proceed"), &json!("unknown")));
    }
    // What is told later may be about what does not exist.
    let nowhere = [
        ["gate", "--manifest", "preflight.yaml", "--region", "mars", "--release", "r9"].as_slice(),
        rollback.as_slice(),
    ];
    let _ = small.controller.preflight(&nowhere.concat()).expect_code(0);
    // Silence is nobody, too.
    small.controller.pipeline.firewall(&Firewall::open().drop_output(small.controller.host.address()));
    let _ = gate(&small.controller, "r1", &rollback).expect_code(0);
    small.controller.pipeline.firewall(&Firewall::open());
    // A disk without room for the record does not hold it up either.
    let full = small.controller.pipeline.dir().join("full");
    fs::create_dir(&full).unwrap();
    let _unmount = full_disk(&full);
    let words = ["--spool-dir", "full"];
    let unkept = gate(&small.controller, "r1", &[words.as_slice(), &BREAK_GLASS].concat()).expect_code(0);
    let line = unkept.stderr.lines().find(|line| line.starts_with('{')).expect("the record as a line");
    let record: Value = serde_json::from_str(line).unwrap();
    assert!(unkept.stderr.contains("could not be kept") && record["kind"] == "break_glass", "{}", unkept.stderr);

    let files = kept(&small.controller);
    assert_eq!(files.len(), 4);
    let copy = fs::read(&files[0]).unwrap();
    // Of a URL that was changed since.
    let foreign = files[0].with_file_name("0123456789abcdef-1.json");
    fs::write(&foreign, &copy).unwrap();
    small.controller.start();
    let told = small.controller.preflight(&[SPOOL.as_slice(), &["release", "list"]].concat()).expect_code(0);
    assert!(told.stderr.contains("delivered 4 records"), "{}", told.text());
    for odd in ["does not run in region mars", "release r9 was never recorded as deployed in mars"] {
        assert!(told.stderr.contains(odd), "{odd}: {}", told.stderr);
    }
    assert!(told.stderr.contains("1 record in spool for another controller's URL"), "{}", told.stderr);
    assert_eq!(kept(&small.controller), std::slice::from_ref(&foreign));
    fs::remove_file(foreign).unwrap();
    // Told twice, it is known once.
    fs::write(&files[0], &copy).unwrap();
    let _ = small.controller.preflight(&[SPOOL.as_slice(), &["agents"]].concat()).expect_code(0);
    assert!(kept(&small.controller).is_empty());
    assert_eq!((audit(&small.controller, "rollback").len(), audit(&small.controller, "break_glass").len()), (3, 1));
    assert!(audit(&small.controller, "break_glass")[0].1.contains("us is down"));
    let refused = audit(&small.controller, "POST /v1/gate");
    assert!(refused.iter().any(|(outcome, detail)| outcome == "refused" && detail.contains("r0")), "{refused:?}");
}

/// A disk on which nothing has room.
fn full_disk(dir: &std::path::Path) -> Unmount {
    let mounted = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=4k", "full"]).arg(dir).status();
    assert!(mounted.unwrap().success());
    let unmount = Unmount(dir.to_owned());
    fs::write(dir.join("filler"), [0_u8; 4096]).unwrap();
    assert!(fs::write(dir.join("more"), [0_u8; 4096]).is_err(), "the disk is not full");
    unmount
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn the_audit_log_tells_all_of_it_and_nothing_changes_it() {
    let lab = Lab::new();
    // As its operator starts it who wants no advisory gates.
    let controller = lab.controller_wrapped(&["sh", "-c", "exec \"$0\" \"$@\" --forbid-advisory"]);
    let small = Small::with(&lab, controller, 2, &AgentOptions::default());
    let controller = &small.controller;
    let forbidden = gate(controller, "r1", &["--advisory"]).expect_code(4);
    assert!(forbidden.stderr.contains("forbids --advisory"), "{}", forbidden.stderr);
    let passed = id(&gate(controller, "r1", &[]).expect_code(0));
    let _ = deployed(controller, "r1", &passed).expect_code(0);
    let made = controller.preflight(&["token", "create", "--name", "ci", "--scope", "gate"]).expect_code(0);
    let weak = controller.api().with_token(Some(made.stdout.trim()));
    assert_eq!(weak.get("/v1/audit").unwrap().status, 403);
    assert_eq!(controller.api().with_token(None).get("/v1/audit").unwrap().status, 401);

    let entries = |action: &str| audit(controller, action);
    assert_eq!(entries("gate")[0].0, "asked");
    let verdict = &entries("verdict")[0];
    assert_eq!(verdict.0, "pass, proceed");
    assert!(verdict.1.contains(&passed) && verdict.1.contains("us pass"), "{verdict:?}");
    assert!(entries("release deployed")[0].1.contains(&passed));
    assert!(entries("inventory apply")[0].1.contains("sha256:"));
    assert!(entries("token").iter().any(|(_, detail)| detail.contains("ci: gate")));
    assert!(
        entries("POST /v1/gate").iter().any(|(outcome, detail)| outcome == "refused" && detail.contains("advisory"))
    );
    let reads: Vec<String> = entries("GET /v1/audit").into_iter().map(|(outcome, _)| outcome).collect();
    assert_eq!(reads, ["401", "403"]);
    // By whom, since when, and in pages.
    let by = controller.preflight(&["audit", "--principal", "ci", "-o", "json"]).expect_code(0);
    assert_eq!(by.json["entries"].as_array().unwrap().len(), 1);
    let whole = controller.preflight(&["audit", "--limit", "1000", "-o", "json"]).expect_code(0);
    let (all, page) =
        (whole.json["entries"].as_array().unwrap(), controller.api().get("/v1/audit?limit=2").unwrap().json());
    let next = page["next"].as_i64().unwrap();
    assert_eq!(page["entries"].as_array().unwrap()[..], all[..2]);
    let page = controller.api().get(&format!("/v1/audit?limit=2&before={next}")).unwrap().json();
    assert_eq!(page["entries"].as_array().unwrap()[..], all[2..4]);
    let none = controller.preflight(&["audit", "--since", "2099-01-01T00:00:00Z", "-o", "json"]).expect_code(0);
    assert_eq!(none.json["entries"], json!([]));
    for query in ["limit=0", "limit=100000", "since=yesterday", "nonsense=1"] {
        let status = controller.api().get(&format!("/v1/audit?{query}")).unwrap().status;
        assert!([400, 422].contains(&status), "{query}: {status}");
    }
    // What there is not finds nothing: that is said, with what there is.
    let typo = controller.preflight(&["audit", "--action", "overide"]).expect_code(64);
    assert!(typo.stderr.contains("override withdraw") && typo.stderr.contains("break_glass"), "{}", typo.stderr);
    assert_eq!((entries("override").len(), entries("agents").len(), entries("PUT").len()), (0, 0, 0));
    let typo = controller.preflight(&["drift", "--ignore", "securitygroup=sg-a"]).expect_code(64);
    assert!(typo.stderr.contains("security_group"), "{}", typo.stderr);
    for known in ["security_group=sg-gone", "vpc", "label.canary"] {
        let run = controller.preflight(&["drift", "--ignore", known]);
        assert!([0, 2, 3].contains(&run.code), "{}", run.text());
    }
    // There is no call that changes it.
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        for path in ["/v1/audit", "/v1/audit/1"] {
            let status = controller.api().request(method, path, Some(&json!({}))).unwrap().status;
            assert!([404, 405].contains(&status), "{method} {path}: {status}");
        }
    }
    let after = controller.preflight(&["audit", "--limit", "1000", "-o", "json"]).expect_code(0);
    let after = after.json["entries"].as_array().unwrap();
    assert_eq!(after[after.len() - all.len()..], all[..]);
}

//! An inventory that another system writes: read again by itself, never replaced by a bad one, and not believed for ever.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use preflight_tests::lab::{AgentOptions, Lab, wait_for};
use preflight_tests::small::{GATE, INVENTORY, MANIFEST};

const SOON: Duration = Duration::from_mins(1);
const MORE: &str = "\
regions:
  us:
    fleets:
      web: {}
      worker: {}
applications:
  app:
    fleets: {us: [web, worker]}
";

/// As a system that writes files does it: whole, or not at all.
fn write(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, path).unwrap();
}

#[test]
fn a_followed_inventory_counts_while_it_is_young_and_good() {
    let lab = Lab::new();
    let mut controller = lab.controller_stopped(&[]);
    // In the clear only on the controller's own host.
    let cmdb = controller.host.clone();
    let path = cmdb.dir().join("inventory.yaml");
    write(&path, INVENTORY);
    let mut web = Some(cmdb.http_file(8080, &path));
    let url = "http://ops:secret@127.0.0.1:8080/inventory.yaml";
    controller.flags(&["--inventory", url, "--inventory-every", "1s", "--inventory-max-age", "8s"]);
    controller.start();
    controller.file("preflight.yaml", MANIFEST);
    let cache = lab.host("cache", &["10.9.0.1"]);
    let _redis = cache.redis(6379, &[]);
    let api = controller.api();
    let shown = || api.get("/v1/inventory").unwrap().json();
    wait_for("the inventory to be read", SOON, || (shown()["inventory"] == INVENTORY).then_some(()));
    let agents: Vec<_> = (1..=2)
        .map(|n| {
            let host = lab.host(&format!("us-web-{n}"), &[&format!("10.1.1.{n}")]);
            controller.agent(&host, "us", "web", &AgentOptions::default())
        })
        .collect();
    controller.await_agents(agents.len());
    let gate = || controller.preflight(&GATE);
    let first = gate().expect_code(0);

    // People do not change what a system writes.
    controller.file("inventory.yaml", MORE);
    let refused = controller.preflight(&["inventory", "apply", "inventory.yaml"]).expect_code(4);
    assert!(refused.stderr.contains("http://127.0.0.1:8080/inventory.yaml"), "{}", refused.stderr);
    assert!(!refused.stderr.contains("secret"), "{}", refused.stderr);

    // A bad one is told, and the last good one stays.
    write(&path, "regions: {us: {fleets: {web: {typo: 1}}}}\n");
    let error = wait_for("the error", SOON, || shown()["error"].as_str().map(str::to_owned));
    assert!(error.contains("typo"), "{error}");
    assert_eq!(shown()["inventory"], INVENTORY);
    let _ = gate().expect_code(0);

    // What cannot be read any more is not true for ever: what is new does not pass by it.
    drop(web.take());
    let stale = wait_for("the inventory to be too old", SOON, || {
        let answer = gate();
        (answer.code == 3).then_some(answer)
    });
    let reasons = stale.json["regions"][0]["reasons"].to_string();
    assert!(reasons.contains("inventory_stale") && reasons.contains("8 s old at most"), "{reasons}");
    assert_eq!(stale.state("us/web/cache"), "pass");
    let id = first.json["id"].as_str().unwrap();
    let standing = api.get(&format!("/v1/verdicts/{id}/standing")).unwrap().json();
    assert_eq!(standing["objections"][0]["code"], "inventory_stale");

    // What is proven already needs nothing new.
    let record = serde_json::json!({ "application": "app", "region": "us", "release": "r1", "verdict": id });
    assert_eq!(api.request("POST", "/v1/releases/deployed", Some(&record)).unwrap().status, 200);
    let answer = gate().expect_code(0);
    assert_eq!(answer.json["regions"][0]["reasons"][0]["code"], "no_change");

    // Back again, with a fleet more.
    write(&path, MORE);
    let _web = cmdb.http_file(8080, &path);
    wait_for("the new inventory", SOON, || (shown()["inventory"] == MORE).then_some(()));
    let answer = gate().expect_code(3);
    assert_eq!(answer.state("us/worker/cache"), "unknown no_agent");
    let standing = api.get(&format!("/v1/verdicts/{id}/standing")).unwrap().json();
    assert_eq!(standing["objections"][0]["code"], "inventory_changed");
}

#[test]
fn a_followed_inventory_is_read_before_anybody_is_answered_and_not_in_the_clear() {
    let lab = Lab::new();
    let mut controller = lab.controller_stopped(&[]);
    controller.flags(&["--inventory", "http://10.9.0.9:8080/inventory.yaml"]);
    let ended = controller.launch().wait(SOON);
    assert!(ended.code == 64 && ended.text().contains("use https"), "{}", ended.text());
    let path = controller.host.dir().join("inventory.yaml");
    write(&path, INVENTORY);
    let place = path.to_string_lossy().into_owned();
    controller.flags(&["--inventory", &place, "--inventory-every", "1h"]);
    controller.start();
    assert_eq!(controller.api().get("/v1/inventory").unwrap().json()["inventory"], INVENTORY);
    controller.kill();
    // A source that takes its time.
    fs::remove_file(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let writer = std::thread::spawn(move || {
        use std::io::Write as _;
        // It opens once somebody reads.
        let mut pipe = fs::OpenOptions::new().write(true).open(&path).unwrap();
        std::thread::sleep(Duration::from_millis(700));
        pipe.write_all(INVENTORY.as_bytes()).unwrap();
    });
    controller.start();
    let shown = controller.api().get("/v1/inventory").unwrap().json();
    assert!(shown["read_at"].is_string(), "{shown}");
    writer.join().unwrap();
}

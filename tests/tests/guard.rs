//! The release guard: what may ship where, whatever the probes say.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::time::Duration;

use preflight_tests::lab::{AgentOptions, Controller, Lab, Preflight, wait_for};
use preflight_tests::small::Small;
use serde_json::{Value, json};

const REGIONS: [&str; 3] = ["us", "eu", "au"];

const INVENTORY: &str = "\
regions:
  us: {fleets: {web: {min_agents: 1}}}
  eu: {fleets: {web: {min_agents: 1}}}
  au: {fleets: {web: {min_agents: 1}}}
applications:
  app:
    fleets: {us: [web], eu: [web], au: [web]}
";

/// What ran before the outage.
const GOOD: &str = "\
application: app
dependencies:
  cache:
    target: redis://10.9.0.1:6379
";

/// What the outage shipped: a cache that no web host reaches.
const BROKEN: &str = "\
application: app
dependencies:
  cache:
    target: redis://10.9.0.1:6379
  ai-cache:
    target: redis://10.9.0.1:6380
    connect_timeout: 1s
";

/// Three regions with a host each.
struct Stage {
    controller: Controller,
    _parts: Vec<Box<dyn std::any::Any>>,
}

impl Stage {
    fn new(lab: &Lab) -> Self {
        let cache = lab.host("cache", &["10.9.0.1"]);
        let mut parts: Vec<Box<dyn std::any::Any>> = vec![Box::new(cache.redis(6379, &[]))];
        let controller = lab.controller();
        controller.inventory(INVENTORY);
        controller.file("good.yaml", GOOD);
        controller.file("broken.yaml", BROKEN);
        for (n, region) in (1..).zip(REGIONS) {
            let host = lab.host(&format!("{region}-web-1"), &[&format!("10.{n}.1.1")]);
            parts.push(Box::new(controller.agent(&host, region, "web", &AgentOptions::default())));
        }
        parts.push(Box::new(cache));
        controller.await_agents(REGIONS.len());
        Self { controller, _parts: parts }
    }
}

/// What was answered: the exit code that a pipeline sees (or what an HTTP status comes to), and the JSON.
struct Answer {
    code: i32,
    json: Value,
}

impl Answer {
    fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{:#}", self.json);
        self
    }

    fn id(&self) -> String {
        self.json["id"].as_str().expect("a verdict's id").to_owned()
    }

    fn codes(&self) -> Vec<String> {
        let reasons = self.json["regions"][0]["reasons"].as_array().expect("reasons");
        reasons.iter().filter_map(|reason| reason["code"].as_str()).map(str::to_owned).collect()
    }
}

/// A way to the guard: the command line, or the HTTP API.
trait Door {
    fn gate(&self, manifest: &str, release: &str, region: &str, mode: &str) -> Answer;
    fn override_all(&self, verdict: &str) -> Answer;
    fn deployed(&self, region: &str, release: &str, verdict: Option<&str>) -> Answer;
    fn rollback(&self, region: &str, from: &str, to: &str) -> Answer;
    fn lock_all(&self) -> Answer;
    /// All regions where none is named.
    fn unlock(&self, regions: &[&str], release: &str, ready: bool) -> Answer;
    fn list(&self) -> Value;
}

struct Cli<'a>(&'a Controller);

impl Cli<'_> {
    fn run(&self, words: &[&str]) -> Answer {
        let Preflight { code, json, .. } = self.0.preflight(&[words, &["-o", "json"]].concat());
        Answer { code, json }
    }
}

impl Door for Cli<'_> {
    fn gate(&self, manifest: &str, release: &str, region: &str, mode: &str) -> Answer {
        let manifest = format!("{manifest}.yaml");
        let words = ["gate", "--manifest", &manifest, "--release", release, "--region", region];
        let flags: &[&str] = match mode {
            "gate" => &[],
            "advisory" => &["--advisory"],
            _ => &["--rollback"],
        };
        self.run(&[words.as_slice(), flags].concat())
    }

    fn override_all(&self, verdict: &str) -> Answer {
        let words = ["override", "--verdict", verdict, "--all-blocking", "--reason", "telemetry only"];
        self.run(&[words.as_slice(), &["--ticket", "OPS-7", "--expires", "2h"]].concat())
    }

    fn deployed(&self, region: &str, release: &str, verdict: Option<&str>) -> Answer {
        let words = ["release", "deployed", "--region", region, "--release", release];
        let verdict: Vec<&str> = verdict.into_iter().flat_map(|id| ["--verdict", id]).collect();
        self.run(&[words.as_slice(), &verdict].concat())
    }

    fn rollback(&self, region: &str, from: &str, to: &str) -> Answer {
        let words = ["release", "rollback", "--region", region, "--from", from, "--to", to];
        self.run(&[words.as_slice(), &["--reason", "requests wait for 30 s"]].concat())
    }

    fn lock_all(&self) -> Answer {
        self.run(&["lock", "--all-regions", "--reason", "nobody ships until the revert is out"])
    }

    fn unlock(&self, regions: &[&str], release: &str, ready: bool) -> Answer {
        let mut words = vec!["unlock", "--release", release];
        words.extend(regions.iter().flat_map(|region| ["--region", region]));
        words.extend(regions.is_empty().then_some("--all-regions"));
        words.extend(ready.then_some("--ready"));
        self.run(&words)
    }

    fn list(&self) -> Value {
        self.run(&["release", "list"]).expect(0).json
    }
}

struct Http<'a>(&'a Controller);

impl Http<'_> {
    /// What a pipeline makes of the status: 200 goes on, 409 is a refusal.
    fn post(&self, path: &str, body: &Value) -> Answer {
        let answer = self.0.api().request("POST", path, Some(body)).unwrap();
        let code = match answer.status {
            200 => 0,
            409 => 4,
            422 => 64,
            other => panic!("{path}: {other}: {}", answer.body),
        };
        Answer { code, json: answer.json() }
    }
}

impl Door for Http<'_> {
    fn gate(&self, manifest: &str, release: &str, region: &str, mode: &str) -> Answer {
        let text = if manifest == "good" { GOOD } else { BROKEN };
        let body = json!({"manifest": text, "release": release, "regions": [region], "mode": mode});
        let mut answer = self.post("/v1/gate/check", &body);
        // The status says that it is blocked; by what, the body does.
        let held = ["locked", "quarantined", "not_named"];
        if answer.code == 4 && !answer.codes().iter().any(|code| held.contains(&code.as_str())) {
            answer.code = if answer.json["verdict"] == "fail" { 2 } else { 3 };
        }
        answer
    }

    fn override_all(&self, verdict: &str) -> Answer {
        let body = json!({"verdict": verdict, "all_blocking": true, "reason": "telemetry only", "ticket": "OPS-7", "ttl_s": 7_200});
        self.post("/v1/overrides", &body)
    }

    fn deployed(&self, region: &str, release: &str, verdict: Option<&str>) -> Answer {
        self.post("/v1/releases/deployed", &json!({"region": region, "release": release, "verdict": verdict}))
    }

    fn rollback(&self, region: &str, from: &str, to: &str) -> Answer {
        let body = json!({"regions": [region], "from": from, "to": to, "reason": "requests wait for 30 s"});
        self.post("/v1/releases/rollback", &body)
    }

    fn lock_all(&self) -> Answer {
        self.post("/v1/lock", &json!({"all_regions": true, "reason": "nobody ships until the revert is out"}))
    }

    fn unlock(&self, regions: &[&str], release: &str, ready: bool) -> Answer {
        let all = regions.is_empty();
        self.post("/v1/unlock", &json!({"regions": regions, "all_regions": all, "release": release, "ready": ready}))
    }

    fn list(&self) -> Value {
        self.0.api().get("/v1/releases").unwrap().json()
    }
}

/// A region's row of the list.
fn row(door: &dyn Door, region: &str) -> Value {
    let list = door.list();
    let rows = list["regions"].as_array().expect("regions");
    rows.iter().find(|row| row["region"] == region).unwrap_or_else(|| panic!("no {region} in {list:#}")).clone()
}

fn is_locked(door: &dyn Door, region: &str) -> bool {
    row(door, region)["lock"].is_object()
}

/// The day of the outage, 31 March 2025, with its times.
fn the_day(door: &dyn Door) {
    // Before: everything runs and is proven.
    for region in REGIONS {
        let verdict = door.gate("good", "good", region, "gate").expect(0).id();
        door.deployed(region, "good", Some(&verdict)).expect(0);
    }
    // 10:43. The gate would have held it; somebody answered for the cache, since it was "only telemetry".
    let mut shipped = Vec::new();
    for region in REGIONS {
        let blocked = door.gate("broken", "broken", region, "gate").expect(2);
        door.override_all(&blocked.id()).expect(0);
        let verdict = door.gate("broken", "broken", region, "gate").expect(0).id();
        door.deployed(region, "broken", Some(&verdict)).expect(0);
        shipped.push(verdict);
    }
    // 10:52. eu rolls back, and the rollback locks every region.
    door.gate("good", "good", "eu", "rollback").expect(0);
    door.rollback("eu", "broken", "good").expect(0);
    assert_eq!(row(door, "eu")["lock"]["except"], "good");
    door.lock_all().expect(0);
    assert!(REGIONS.iter().all(|region| row(door, region)["lock"]["except"].is_null()), "locked is locked");
    assert_eq!(row(door, "eu")["lock"]["also"].as_array().map(Vec::len), Some(1), "and no reason is lost");
    door.gate("good", "good", "eu", "rollback").expect(0);
    // The overrides still hold, and nothing new is asked for: the guard alone stands between eu and the second outage.
    for region in REGIONS {
        for mode in ["gate", "advisory"] {
            let held = door.gate("broken", "broken", region, mode).expect(4);
            assert!(held.codes().contains(&"quarantined".to_owned()), "{:?}", held.codes());
            assert!(held.codes().contains(&"locked".to_owned()), "{:?}", held.codes());
        }
    }
    door.gate("broken", "broken", "us", "rollback").expect(4);
    // 11:05. us and au go back, too: a lock holds up no rollback.
    for region in ["us", "au"] {
        door.gate("good", "good", region, "rollback").expect(0);
        door.rollback(region, "broken", "good").expect(0);
    }

    // 12:30. The revert is through the tests in us and au. eu's take two minutes longer.
    for region in ["us", "au"] {
        let held = door.gate("good", "revert", region, "gate").expect(4);
        assert_eq!(held.json["verdict"], "pass", "what it would do is seen before anything is unlocked");
    }
    let before = door.list();
    let refused = door.unlock(&[], "revert", false).expect(4);
    assert_eq!(door.list(), before, "nothing is unlocked");
    let error = &refused.json["error"];
    let error = if error.is_object() { error } else { &refused.json };
    assert_eq!(error["code"], "refused", "{:#}", refused.json);
    assert!(error["message"].as_str().unwrap().contains("eu: broken would ship there, not revert"), "{error:#}");
    let table = error["releases"]["regions"].as_array().expect("the table of regions");
    let column = |region: &str, key: &str| {
        let row = table.iter().find(|row| row["region"] == region).unwrap_or_else(|| panic!("{region}: {error:#}"));
        (row["deployed"]["release"].clone(), row["candidate"][key].clone())
    };
    assert_eq!(column("eu", "release"), (json!("good"), json!("broken")));
    assert_eq!(column("us", "release"), (json!("good"), json!("revert")));
    assert_eq!((column("eu", "state").1, column("us", "state").1), (json!("fail"), json!("pass")));
    assert!(column("eu", "differs").1.as_str().expect("what differs").contains("ai-cache"), "{error:#}");

    let fix = error["fix"].as_str().expect("what to do");
    assert!(fix.contains("--all-regions --release revert --ready`"), "{fix}");
    assert!(fix.contains("--confirm eu=revert --reason"), "{fix}");

    let ready = door.unlock(&[], "revert", true).expect(0);
    assert_eq!(ready.json["done"].as_array().map(Vec::len), Some(2), "{:#}", ready.json);
    assert_eq!(REGIONS.map(|region| is_locked(door, region)), [false, true, false]);
    // The broken release is still what eu's pipeline would ship.
    door.gate("broken", "broken", "eu", "gate").expect(4);
    for region in ["us", "au"] {
        let other = door.gate("good", "another", region, "gate").expect(4);
        assert!(other.codes().contains(&"not_named".to_owned()), "{:?}", other.codes());
        let verdict = door.gate("good", "revert", region, "gate").expect(0).id();
        door.deployed(region, "revert", Some(&verdict)).expect(0);
        door.gate("good", "another", region, "gate").expect(0);
    }

    // 12:32. The revert is ready in eu.
    door.gate("good", "revert", "eu", "gate").expect(4);
    door.unlock(&["eu"], "revert", false).expect(0);
    let verdict = door.gate("good", "revert", "eu", "gate").expect(0).id();
    door.deployed("eu", "revert", Some(&verdict)).expect(0);
    assert!(REGIONS.iter().all(|region| row(door, region)["deployed"]["release"] == "revert"));
    // And for good: what was bad stays so, whatever is unlocked.
    door.gate("broken", "broken", "eu", "gate").expect(4);
}

#[test]
fn the_second_outage_does_not_happen_through_the_command_line() {
    let lab = Lab::new();
    let stage = Stage::new(&lab);
    the_day(&Cli(&stage.controller));
}

#[test]
fn the_second_outage_does_not_happen_through_the_api() {
    let lab = Lab::new();
    let stage = Stage::new(&lab);
    the_day(&Http(&stage.controller));
}

#[test]
fn what_passed_before_a_lock_does_not_ship_after_it() {
    let lab = Lab::new();
    let mut small = Small::new(&lab, 2);
    let id = small.gate(&[]).expect_code(0).json["id"].as_str().unwrap().to_owned();
    let lock = ["lock", "--region", "us", "--reason", "an incident", "--remind", "1s"];
    let _ = small.controller.preflight(&lock).expect_code(0);
    // What was answered is on disk.
    small.controller.kill();
    small.controller.start();
    small.controller.await_agents(2);
    let run = |words: &[&str]| small.controller.preflight(words);
    let check =
        || run(&["verdict", "check", &id, "--application", "app", "--release", "r1", "--region", "us", "-o", "json"]);
    let held = check().expect_code(4);
    assert_eq!(held.json["holds"][0]["code"], "locked", "{}", held.text());
    let metrics = small.controller.api().get("/metrics").unwrap().body;
    for name in ["preflight_lock_timestamp_seconds", "preflight_lock_reminder_timestamp_seconds"] {
        assert!(metrics.contains(&format!("{name}{{application=\"app\",region=\"us\"}} ")), "{metrics}");
    }
    // A second lock says whose the first is; both are shown.
    let again = run(&["lock", "--region", "us", "--reason", "another one"]).expect_code(0);
    assert!(again.stdout.contains("us was locked already, by admin"), "{}", again.text());
    let held = check().expect_code(4);
    let text = held.json["holds"][0]["text"].as_str().unwrap();
    assert!(text.contains("an incident; and by admin") && text.contains("another one"), "{text}");
    // It is not lifted by the clock, nor by an unlock that names something else.
    let wrong = run(&["unlock", "--region", "us", "--release", "r2"]).expect_code(4);
    assert!(wrong.stderr.contains("r1 would ship there, not r2"), "{}", wrong.text());
    let _ = check().expect_code(4);
    let unlocked = run(&["unlock", "--region", "us", "--release", "r1"]).expect_code(0);
    for why in ["an incident", "another one"] {
        assert!(unlocked.json.is_null() && unlocked.stdout.contains(why), "whose locks it lifts: {}", unlocked.text());
    }
    let _ = check().expect_code(0);
    let _ = run(&["unlock", "--region", "us", "--release", "r1"]).expect_code(0);

    // A quarantine voids it as well, and an override that names the release lifts that, nothing else.
    let _ = run(&["release", "quarantine", "r1", "--reason", "slow"]).expect_code(0);
    assert_eq!(check().expect_code(4).json["holds"][0]["code"], "quarantined");
    let excuse = ["override", "--release", "r1", "--region", "us", "--reason", "sure", "--ticket", "OPS-1"];
    let _ = run(&[excuse.as_slice(), &["--expires", "1h", "-o", "json"]].concat()).expect_code(0);
    let _ = check().expect_code(0);
    let gate = small.gate(&[]).expect_code(0);
    assert_eq!(gate.json["regions"][0]["overrides"][0]["release"], "r1", "{}", gate.text());
    // It excuses what was known then. What somebody finds wrong with it later holds it again.
    let _ = run(&["release", "quarantine", "r1", "--reason", "it loses orders"]).expect_code(0);
    let held = check().expect_code(4);
    assert!(held.json["holds"][0]["text"].as_str().unwrap().contains("was given before that"), "{}", held.text());
    let given = run(&[excuse.as_slice(), &["--expires", "1h", "-o", "json"]].concat()).expect_code(0);
    let _ = check().expect_code(0);
    let _ = run(&["lock", "--region", "us", "--reason", "an incident"]).expect_code(0);
    let _ = check().expect_code(4);
    // Who may ship it may have it unlocked, too.
    let _ = run(&["unlock", "--region", "us", "--release", "r1"]).expect_code(0);
    let _ = check().expect_code(0);
    let _ = run(&["lock", "--region", "us", "--reason", "an incident"]).expect_code(0);
    // Whoever confirms names the release, and answers for it.
    let confirmed = ["unlock", "--confirm", "us=r1"];
    let _ = run(&confirmed).expect_code(64);
    let _ = run(&[confirmed.as_slice(), &["--reason", "sure"]].concat()).expect_code(0);
    let _ = check().expect_code(0);
    let id = given.json["overrides"][0]["id"].as_str().unwrap();
    let _ = run(&["override", "withdraw", id]).expect_code(0);
    let _ = check().expect_code(4);
}

/// The agents are silent until the region is locked: what they say then is shown, and does not ship.
#[test]
fn a_lock_that_comes_during_a_run_holds_its_release() {
    let lab = Lab::new();
    let mut small = Small::new(&lab, 2);
    small.agents.iter_mut().for_each(|agent| agent.process.freeze());
    let words = ["gate", "--manifest", "preflight.yaml", "--region", "us", "--release", "r1", "-o", "json"];
    let gate = small.controller.preflight_start("gate", &words);
    let candidate = || {
        let list = small.controller.preflight(&["release", "list", "-o", "json"]).expect_code(0);
        list.json["regions"][0]["candidate"]["release"].as_str().map(str::to_owned)
    };
    assert_eq!(wait_for("the candidate", Duration::from_secs(20), candidate), "r1");
    let _ = small.controller.preflight(&["lock", "--region", "us", "--reason", "an incident"]).expect_code(0);
    small.agents.iter_mut().for_each(|agent| agent.process.thaw());
    let answer = Controller::preflight_end(gate, Duration::from_mins(1)).expect_code(4);
    assert_eq!((answer.state("us/web/cache").as_str(), &answer.json["decision"]), ("pass", &json!("block")));
    let first = &answer.json["regions"][0]["reasons"][0];
    assert_eq!(first["code"], "locked", "{}", answer.text());
    assert!(first["text"].as_str().unwrap().contains("an incident"), "{}", answer.text());
}

#[test]
fn a_cell_is_caught_under_another_release() {
    let lab = Lab::new();
    let small = Small::new(&lab, 2);
    let id = small.gate(&[]).expect_code(0).json["id"].as_str().unwrap().to_owned();
    let run = |words: &[&str]| small.controller.preflight(words);
    let wrong = ["release", "quarantine", "--verdict", &id, "--cell", "us/web/nothing", "--reason", "slow"];
    let said = run(&wrong).expect_code(64).stderr;
    assert!(said.contains("us/web/cache"), "{said}");
    let cell = ["release", "quarantine", "--verdict", &id, "--cell", "us/web/cache", "--reason", "slow", "-o", "json"];
    let quarantine = run(&cell).expect_code(0).json["releases"]["quarantines"][0]["id"].as_str().unwrap().to_owned();
    let other = ["gate", "--manifest", "preflight.yaml", "--region", "us", "--release", "r2", "-o", "json"];
    let held = run(&other).expect_code(4);
    assert_eq!(held.json["regions"][0]["reasons"][0]["code"], "quarantined", "{}", held.text());
    assert_eq!(held.state("us/web/cache"), "pass");
    // Asked by other options, it is the same cache.
    let text = "application: app\ndependencies:\n  cache:\n    target: redis://10.9.0.1:6379\n    timeout: 4s\n";
    small.controller.file("slower.yaml", text);
    let slower = ["gate", "--manifest", "slower.yaml", "--region", "us", "--release", "r2", "-o", "json"];
    let held = run(&slower).expect_code(4);
    assert_eq!(held.json["regions"][0]["reasons"][0]["code"], "quarantined", "{}", held.text());
    let lift = ["release", "lift", &quarantine, "--reason", "it was the switch"];
    // It takes more than the scope of a pipeline.
    let token = ["token", "create", "--name", "ci", "--scope", "gate,release"];
    let token = run(&token).expect_code(0).stdout.trim().to_owned();
    let api = small.controller.api().with_token(Some(&token));
    let path = format!("/v1/quarantines/{quarantine}/lift");
    let answer = api.request("POST", &path, Some(&json!({"reason": "me"}))).unwrap();
    assert_eq!(answer.status, 403, "{}", answer.body);
    let confirm = json!({"confirm": {"us": "r2"}, "reason": "me"});
    let answer = api.request("POST", "/v1/unlock", Some(&confirm)).unwrap();
    assert_eq!(answer.status, 403, "{}", answer.body);
    let _ = run(&lift).expect_code(0);
    let _ = run(&other).expect_code(0);
    let audit = run(&["audit", "--action", "release", "-o", "json"]).expect_code(0);
    let entries = audit.json["entries"].as_array().unwrap();
    let actions: Vec<&str> = entries.iter().filter_map(|entry| entry["action"].as_str()).collect();
    assert_eq!(actions, ["release lift", "release quarantine"], "{}", audit.text());
}

#[test]
fn what_happens_in_one_region_voids_no_verdict_of_another() {
    let lab = Lab::new();
    let stage = Stage::new(&lab);
    let run = |words: &[&str]| stage.controller.preflight(words);
    let _ = run(&["release", "deployed", "--region", "eu", "--release", "r0"]).expect_code(0);
    let words = ["gate", "--manifest", "good.yaml", "--all-regions", "--release", "r1", "-o", "json"];
    let id = run(&words).expect_code(0).json["id"].as_str().unwrap().to_owned();
    let check = |regions: &str| {
        run(&["verdict", "check", &id, "--application", "app", "--release", "r1", "--region", regions, "-o", "json"])
    };
    let _ = check("us,eu,au").expect_code(0);
    let back = ["gate", "--manifest", "good.yaml", "--region", "eu", "--release", "r0", "--rollback"];
    let _ = run(&back).expect_code(0);
    let _ = check("us,au").expect_code(0);
    let over = check("us,eu").expect_code(3);
    assert!(over.json["objections"].to_string().contains("in eu a rollback was asked for"), "{}", over.text());
}

/// Who names a release for each region answers for it: with a scope, a reason and an entry in the audit log.
#[test]
fn who_names_a_release_for_each_region_may_unlock_what_differs() {
    let lab = Lab::new();
    let stage = Stage::new(&lab);
    let run = |words: &[&str]| stage.controller.preflight(words);
    for (region, release) in [("us", "r1"), ("eu", "r2")] {
        let _ = run(&["release", "candidate", "--region", region, "--release", release]).expect_code(0);
    }
    let _ = run(&["lock", "--all-regions", "--reason", "an incident"]).expect_code(0);
    let refused = run(&["unlock", "--all-regions", "--release", "r1"]).expect_code(4);
    for why in ["eu: r2 would ship there, not r1", "au: nobody announced", "would not ship the same release"] {
        assert!(refused.stderr.contains(why), "{why}: {}", refused.text());
    }
    // What nobody has heard of is no release to answer for.
    let slip = run(&["unlock", "--all-regions", "--release", "r11"]).expect_code(4);
    assert!(slip.stderr.contains("a slip") && !slip.stderr.contains("--confirm"), "{}", slip.text());
    let placeholder = run(&["unlock", "--confirm", "eu=r2", "--reason", "…"]).expect_code(64);
    assert!(placeholder.stderr.contains("placeholder"), "{}", placeholder.text());
    let mixed = run(&["unlock", "--all-regions", "--confirm", "eu=r2", "--reason", "sure"]).expect_code(64);
    assert!(mixed.stderr.contains("--confirm"), "{}", mixed.text());
    let body = json!({"regions": ["us"], "confirm": {"eu": "r2"}, "reason": "sure"});
    assert_eq!(stage.controller.api().request("POST", "/v1/unlock", Some(&body)).unwrap().status, 422);
    let words = ["unlock", "--confirm", "eu=r2", "--confirm", "us=r1", "--reason", "eu ships the hotfix", "-o", "json"];
    let done = run(&words).expect_code(0);
    let locked: Vec<bool> = REGIONS.iter().map(|region| is_locked(&Cli(&stage.controller), region)).collect();
    assert_eq!(locked, [false, false, true], "{}", done.text());
    let audit = run(&["audit", "--action", "unlock", "-o", "json"]).expect_code(0);
    let details: Vec<&str> =
        audit.json["entries"].as_array().unwrap().iter().filter_map(|entry| entry["detail"].as_str()).collect();
    for region in ["us for r1", "eu for r2"] {
        let detail = format!("app in {region}, confirmed: eu ships the hotfix");
        assert!(details.iter().any(|entry| entry.starts_with(&detail)), "{detail}: {details:?}");
        assert!(details.iter().all(|entry| entry.contains("locked by admin since")), "{details:?}");
    }
    // What was named ships first in each, and nothing else.
    let door = Cli(&stage.controller);
    for (region, release, code) in [("us", "r1", 0), ("us", "r2", 4), ("eu", "r2", 0), ("eu", "r1", 4)] {
        door.gate("good", release, region, "gate").expect(code);
    }
    // All regions are those that something holds back: also one that waits for what was named.
    let held = run(&["unlock", "--all-regions", "--release", "r9"]).expect_code(4);
    assert!(held.stderr.contains("us: r2 would ship there, not r9"), "{}", held.text());
}

/// What has happened is recorded, whatever is wrong with it.
#[test]
fn a_rollback_is_recorded_to_what_is_bad_and_from_what_nobody_knows() {
    let lab = Lab::new();
    let small = Small::new(&lab, 2);
    let run = |words: &[&str]| small.controller.preflight(words);
    let back = |from: &str, to: &str| {
        run(&["release", "rollback", "--region", "us", "--from", from, "--to", to, "--reason", "latency", "-o", "json"])
            .expect_code(0)
    };
    for release in ["r1", "r2", "r1"] {
        let _ = run(&["release", "deployed", "--region", "us", "--release", release]).expect_code(0);
    }
    let notices = |answer: &Preflight| answer.json["notices"].to_string();
    let slip = back("r22", "r1");
    assert!(notices(&slip).contains("r22 was never deployed anywhere"), "{}", slip.text());
    assert!(notices(&slip).contains("preflight release lift"), "{}", slip.text());
    let _ = run(&["release", "quarantine", "r0", "--reason", "slow"]).expect_code(0);
    let bad = back("r1", "r0");
    assert!(notices(&bad).contains("r0 is quarantined in us"), "{}", bad.text());
    assert_eq!(bad.json["releases"]["regions"][0]["lock"]["except"], Value::Null, "{}", bad.text());
    assert_eq!(bad.json["releases"]["regions"][0]["deployed_quarantined"].as_array().map(Vec::len), Some(1));
    let gate = |release: &str| {
        run(&["gate", "--manifest", "preflight.yaml", "--region", "us", "--release", release, "--rollback"])
    };
    let _ = gate("r0").expect_code(4);
    let _ = gate("r1").expect_code(4);
    // The wrong way round: what came first is said to be bad. It is recorded, and said how it is taken back.
    let _ = run(&["release", "deployed", "--region", "us", "--release", "r3"]).expect_code(0);
    let swapped = back("r2", "r3");
    assert!(notices(&swapped).contains("in us r3 came after r2, not before it"), "{}", swapped.text());
    let said = notices(&swapped);
    let (_, id) = said.split_once("preflight release lift ").expect("how to take it back");
    let id = id.split(' ').next().unwrap();
    let _ = run(&["release", "lift", id, "--reason", "a slip"]).expect_code(0);
    let _ = gate("r2").expect_code(0);
    let list = run(&["release", "list", "-o", "json"]).expect_code(0);
    assert_eq!(list.json["regions"][0]["gone_back"], true, "{}", list.text());
    // A region that the inventory has lost meanwhile.
    small.controller.inventory("regions:\n  eu: {fleets: {web: {}}}\napplications:\n  app:\n    fleets: {eu: [web]}\n");
    let _ = back("r3", "r2");
    let _ =
        run(&["release", "rollback", "--region", "usa", "--from", "r3", "--to", "r2", "--reason", "x"]).expect_code(64);
}

/// A run that is under way carries its cells already.
#[test]
fn what_is_quarantined_is_seen_in_a_run_that_has_not_ended() {
    let lab = Lab::new();
    let mut small = Small::new(&lab, 2);
    let id = small.gate(&[]).expect_code(0).json["id"].as_str().unwrap().to_owned();
    let _ = small.controller.preflight(&["lock", "--region", "us", "--reason", "an incident"]).expect_code(0);
    let cell = ["release", "quarantine", "--verdict", &id, "--cell", "us/web/cache", "--reason", "slow"];
    let _ = small.controller.preflight(&cell).expect_code(0);
    small.agents.iter_mut().for_each(|agent| agent.process.freeze());
    let words = ["gate", "--manifest", "preflight.yaml", "--region", "us", "--release", "r2", "-o", "json"];
    let gate = small.controller.preflight_start("gate", &words);
    let run = |words: &[&str]| small.controller.preflight(words);
    let candidate = || {
        let list = run(&["release", "list", "-o", "json"]).expect_code(0);
        let candidate = list.json["regions"][0]["candidate"].clone();
        (candidate["release"] == "r2").then_some(candidate)
    };
    let candidate = wait_for("the candidate", Duration::from_secs(20), candidate);
    assert_eq!((&candidate["state"], candidate["quarantined"].as_array().map(Vec::len)), (&Value::Null, Some(1)));
    let refused = run(&["unlock", "--region", "us", "--release", "r2"]).expect_code(4);
    assert!(refused.stderr.contains("r2 is quarantined"), "{}", refused.text());
    assert!(refused.stderr.contains("preflight release lift"), "{}", refused.text());
    assert!(!refused.stderr.contains("--confirm"), "it would be held all the same: {}", refused.text());
    small.agents.iter_mut().for_each(|agent| agent.process.thaw());
    let _ = Controller::preflight_end(gate, Duration::from_mins(1)).expect_code(4);
}

/// Several people at once: one unlock for each of two releases, while pipelines announce both, again and again. Whatever was named last
/// is what ships, and nothing else.
#[test]
fn unlocks_and_announcements_that_race_never_ship_what_was_not_named() {
    let lab = Lab::new();
    let small = Small::new(&lab, 2);
    let api = small.controller.api();
    for round in 0..10 {
        let lock = json!({"regions": ["us"], "reason": format!("round {round}")});
        assert_eq!(api.request("POST", "/v1/lock", Some(&lock)).unwrap().status, 200);
        let releases = ["r1", "r2"];
        let granted: Vec<bool> = std::thread::scope(|scope| {
            let tasks: Vec<_> = releases
                .iter()
                .map(|release| {
                    let api = &api;
                    scope.spawn(move || {
                        let announce = json!({"regions": ["us"], "release": release});
                        let announced = api.request("POST", "/v1/releases/candidate", Some(&announce)).unwrap();
                        assert_eq!(announced.status, 200, "{}", announced.body);
                        let unlock = json!({"regions": ["us"], "release": release});
                        let answer = api.request("POST", "/v1/unlock", Some(&unlock)).unwrap();
                        assert!([200, 409].contains(&answer.status), "{}", answer.body);
                        answer.status == 200
                    })
                })
                .collect();
            tasks.into_iter().map(|task| task.join().unwrap()).collect()
        });
        let list = api.get("/v1/releases").unwrap().json();
        let named = &list["regions"][0]["named"]["release"];
        let index = releases.iter().position(|release| named == release);
        assert!(granted.contains(&true), "who came last found its own candidate: {list:#}");
        assert!(index.is_some_and(|index| granted[index]), "{granted:?}: {list:#}");
        // An unlock that came last found the candidate that it named; one that came before the other announcement ships first all the same.
        let candidate = &list["regions"][0]["candidate"]["release"];
        assert!(granted.iter().all(|granted| *granted) || named == candidate, "{granted:?}: {list:#}");
        let ship = |release: &str| {
            let words = ["gate", "--manifest", "preflight.yaml", "--region", "us", "--release", release];
            small.controller.preflight(&words).code
        };
        if round == 0 {
            for (place, release) in releases.iter().enumerate() {
                assert_eq!(ship(release), if Some(place) == index { 0 } else { 4 }, "{release}: {list:#}");
            }
        }
    }
}

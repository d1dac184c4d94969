//! What people see, compared with files in `tests/snapshots`. `UPDATE_SNAPSHOTS=1` writes them anew; read what changed.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::{Reply, Run, Server, preflight};

/// Compares with the file of that name.
fn snapshot(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(want == text, "{name} is not as in {}; it is now:\n{text}", path.display());
}

/// Runs `args` against a controller that answers `body`, for a terminal of that many columns.
fn shown(args: &[&str], body: &Value, columns: usize) -> String {
    let body = body.clone();
    let server = Server::start(move |_, _| Reply::lines(std::slice::from_ref(&body)));
    let run = Run::of(server.command(args).env("COLUMNS", columns.to_string()).output().unwrap());
    assert_eq!(run.code, 0, "{run:?}");
    run.stdout
}

fn evidence(agent: &str, group: &str, reason: Option<&str>) -> Value {
    let (outcome, proof) = if reason.is_some() { ("short", "resolved") } else { ("ok", "protocol") };
    let silent = |at: f64| json!({"at_ms": at, "result": "silent", "took_ms": 1000.0 - at});
    let attempts = if reason.is_some() { json!([silent(0.0), silent(200.0), silent(500.0)]) } else { json!([]) };
    json!({"agent": agent, "identity": {"security_group": [group]}, "address": "10.0.3.7:6379", "outcome": outcome, "reason": reason,
        "proof": proof, "phases": {"resolve_ms": 0.4, "connect_ms": null, "tls_ms": null, "protocol_ms": null}, "attempts": attempts})
}

fn cell(fleet: &str, dependency: &str, state: &str, reason: Option<&str>, evidence: &[Value]) -> Value {
    let (ok, short, silent) = match state {
        "pass" => (2, 0, 0),
        "fail" => (0, 2, 0),
        _ => (0, 0, 2),
    };
    let text = reason.map(|reason| match reason {
        "connect_timeout" => "several attempts met silence at 10.0.3.7:6379 (2 of 2 agents)",
        "tls_expired" => "the certificate has expired at 10.0.4.1:6380 (2 of 2 agents)",
        _ => "no answer from au-web-1, au-web-2",
    });
    json!({"fleet": fleet, "dependency": dependency, "target": format!("redis://{dependency}.internal:6379"), "digest": "sha256:0",
        "required": true, "state": state, "reason": reason, "text": text, "evidence": evidence,
        "agents": {"asked": 2, "ok": ok, "short": short, "void": 0, "silent": silent}})
}

fn region(name: &str, verdict: &str, cells: &[Value], excluded: &Value) -> Value {
    json!({"region": name, "verdict": verdict, "decision": if verdict == "pass" { "proceed" } else { "block" },
        "valid_until": "2025-03-31T10:44:00Z", "overrides": [], "cells": cells, "excluded": excluded,
        "findings": [], "reasons": []})
}

fn gate(verdict: &str, regions: &[Value]) -> Value {
    json!({"id": "4f1c9a7be02d63a8", "application": "shop", "release": "2025-03-31.1", "verdict": verdict,
        "decision": if verdict == "pass" { "proceed" } else { "block" }, "manifest_digest": "sha256:0",
        "started_at": "2025-03-31T10:29:00Z", "ended_at": "2025-03-31T10:29:01.21Z",
        "regions": regions})
}

/// The outage: web fleets cannot reach the new cache, workers can; and in au nobody answers for the queue.
fn outage() -> Value {
    let web = |fleet: &str, region: &str| {
        let seen: Vec<Value> =
            (1..=2).map(|i| evidence(&format!("{region}-{fleet}-{i}"), "sg-web", Some("connect_timeout"))).collect();
        cell(fleet, "ai-cache", "fail", Some("connect_timeout"), &seen)
    };
    let pass =
        |fleet: &str, dependency: &str| cell(fleet, dependency, "pass", None, &[evidence("w-1", "sg-worker", None)]);
    let us_web = ["rest-api", "mobile-messenger", "web-messenger", "web-application"];
    let mut us: Vec<Value> = us_web.iter().map(|fleet| web(fleet, "us")).collect();
    us.push(pass("worker", "ai-cache"));
    us.extend(us_web.iter().map(|fleet| pass(fleet, "main-db")));
    let mut sick = pass("worker", "main-db");
    sick["agents"] = json!({"asked": 4, "ok": 3, "short": 1, "void": 0, "silent": 0});
    us.push(sick);
    let expired = json!({"agent": "eu-web-1", "identity": {}, "address": "10.0.4.1:6380", "outcome": "short", "reason": "tls_expired",
        "proof": "connected", "phases": {"resolve_ms": 0.4, "connect_ms": 0.3, "tls_ms": null, "protocol_ms": null},
        "detail": "certificate expired 2025-03-01", "tls": {"version": "TLSv1.3", "cipher": "TLS13_AES_256_GCM_SHA384", "chain": [
            {"subject": "CN=queue.internal", "issuer": "CN=Internal CA", "names": ["queue.internal", "*.queue.internal"],
                "not_before": "2024-03-01T00:00:00Z", "not_after": "2025-03-01T00:00:00Z", "sha256": "00"}]}});
    let eu =
        [web("web", "eu"), pass("worker", "ai-cache"), cell("web", "queue", "fail", Some("tls_expired"), &[expired])];
    let au = [web("web", "au"), pass("worker", "ai-cache"), cell("web", "queue", "unknown", Some("silent"), &[])];
    let excluded = json!([{"fleet": "worker", "dependency": "queue", "because": "workers consume through the broker"}]);
    let mut regions = [
        region("us", "fail", &us, &json!([])),
        region("eu", "fail", &eu, &excluded),
        region("au", "fail", &au, &excluded),
    ];
    let asymmetry = json!(
        {"kind": "asymmetry", "dependency": "ai-cache", "attributes": [{"key": "security_group", "value": "sg-worker"}],
            "text": "ai-cache is reached from worker and not from web fleets. Every host that reaches it carries \
                     security_group sg-worker, and no host that fails does."});
    let one_host = json!(
        {"kind": "one_host", "dependency": "main-db", "attributes": [],
            "text": "us-worker-3 falls short of main-db alone in us/worker (connect_refused); others of its network identity reach it."});
    let failed = json!(
        {"code": "cell_failed", "text": "ai-cache cannot be used from us/rest-api, us/mobile-messenger, us/web-messenger, \
            us/web-application, eu/web, au/web: connect_timeout: several attempts met silence at 10.0.3.7:6379 (2 of 2 agents)",
            "fix": "Allow this fleet's security group (or subnet) to the target's port, then run the gate again."});
    let unknown = json!(
        {"code": "cell_unknown", "text": "queue is not known from au/web: silent: no answer from au-web-1, au-web-2",
            "fix": "Look at those agents: `preflight agents` shows when each was last heard of."});
    let [us, eu, au] = &mut regions;
    us["findings"] = json!([asymmetry, one_host]);
    us["reasons"] = json!([failed]);
    eu["findings"] = json!([asymmetry]);
    eu["reasons"] = json!([failed]);
    au["findings"] = json!([asymmetry]);
    au["reasons"] = json!([failed, unknown]);
    gate("fail", &regions)
}

/// One region with five fleets and twenty dependencies that pass.
fn wide() -> Value {
    let fleets = ["rest-api", "mobile-messenger", "web-messenger", "web-application", "worker"];
    let cells: Vec<Value> =
        (1..=20).flat_map(|i| fleets.map(|fleet| cell(fleet, &format!("dependency-{i}"), "pass", None, &[]))).collect();
    let mut us = region("us", "pass", &cells, &json!([]));
    us["reasons"] = json!([{"code": "all_pass", "text": "100 cells shown to work from 5 fleets", "fix": null}]);
    gate("pass", &[us])
}

#[test]
fn verdicts() {
    for columns in [80, 160] {
        snapshot(&format!("outage_{columns}"), &shown(&["verdict", "show", "x"], &outage(), columns));
        snapshot(&format!("wide_{columns}"), &shown(&["verdict", "show", "x"], &wide(), columns));
    }
}

#[test]
fn of_a_leak_the_one_that_got_through_is_shown_first() {
    let mut seen: Vec<Value> =
        (1..=8).map(|n| evidence(&format!("web-{n}"), "sg-web", Some("connect_timeout"))).collect();
    seen.push(evidence("web-9", "sg-web", None));
    let leak = cell("web", "no-cache", "fail", Some("reachable"), &seen);
    let text = shown(&["verdict", "show", "x"], &gate("fail", &[region("us", "fail", &[leak], &json!([]))]), 160);
    let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("no {what} in:\n{text}"));
    assert!(at("web-9  10.0.3.7:6379 · reached (protocol)") < at("web-1  10.0.3.7:6379 · connect_timeout"), "{text}");
}

#[test]
fn matrix_agents_and_tokens() {
    let cell = |region: &str, fleet: &str, state: &str, reason: Option<&str>| {
        json!({"application": "shop", "region": region, "fleet": fleet, "dependency": "ai-cache", "target": "redis://x:1", "state": state,
            "reason": reason, "verdict": "v1", "release": "r1", "at": "2025-03-31T10:29:00Z"})
    };
    let cells = [
        cell("eu", "web", "fail", Some("connect_timeout")),
        cell("eu", "worker", "pass", None),
        cell("us", "web", "unknown", Some("no_agent")),
    ];
    snapshot("matrix_80", &shown(&["matrix"], &json!({"cells": cells}), 80));
    snapshot("matrix_empty", &shown(&["matrix"], &json!({"cells": []}), 80));

    let agent = |name: &str, state: &str, skew: i64, remark: Option<&str>| {
        json!({"agent": name, "region": "eu", "fleet": "web", "state": state, "version": "0.1.0", "last_seen": null, "clock_skew_ms": skew,
            "identity": {"security_group": ["sg-web", "sg-base"], "subnet": ["subnet-0a1b2c3d4e5f"], "zone": ["eu-west-1a"]},
            "certificate_until": "2999-01-01T00:00:00Z", "remark": remark})
    };
    let agents = [
        agent("eu-web-1", "connected", 12, None),
        agent("eu-web-2", "lost", -90_000, None),
        agent("eu-web-3", "revoked", 0, Some("key copied")),
    ];
    let remarks = ["The inventory has no fleet eu/batch, and certificates for it exist."];
    let agents = json!({"agents": agents, "remarks": remarks});
    snapshot("agents_80", &shown(&["agents"], &agents, 80));
    snapshot("agents_160", &shown(&["agents"], &agents, 160));

    let tokens = json!({"tokens": [
        {"id": "t-1", "kind": "api", "name": "ci", "scopes": ["gate", "read"], "expires_at": "2025-04-30T10:29:00Z"},
        {"id": "t-2", "kind": "join", "name": "eu/web", "uses_left": 3, "source": "10.0.0.0/16", "expires_at": "2025-03-31T10:39:00Z"}]});
    snapshot("tokens_80", &shown(&["token", "list"], &tokens, 80));
}

#[test]
fn probes() {
    let mut fails = json!({"target": "rediss://queue.internal:6380", "region": "eu", "fleet": "web", "agent": "eu-web-1",
        "outcome": "fail", "reason": "connect_timeout", "proof": "protocol", "addresses": [], "addresses_in_all": 20});
    let observation = |evidence: Value| {
        let mut observation = evidence;
        observation.as_object_mut().unwrap().retain(|key, _| key != "agent" && key != "identity");
        observation
    };
    let mut noted = observation(evidence("a", "g", None));
    noted["note"] = json!("the server asks for a login (NOAUTH)");
    fails["addresses"] = json!([noted, observation(evidence("a", "g", Some("connect_timeout")))]);
    let done = json!({"event": "done", "id": "x", "results": [fails]});
    let server = Server::start(move |_, _| Reply::lines(std::slice::from_ref(&done)));
    let run = server.run(&["probe", "rediss://queue.internal:6380"]);
    assert_eq!(run.code, 2, "{run:?}");
    snapshot("probe_100", &run.stdout);
}

#[test]
fn reasons() {
    let run = Run::of(preflight(&["explain", "partial_loss"]).env("COLUMNS", "80").output().unwrap());
    snapshot("explain_80", &run.stdout);
}

#[test]
fn foreign_text_is_escaped_everywhere() {
    let evil = "a\u{1b}[31m\u{9b}2J\u{202e}";
    let mut answer = outage();
    for pointer in [
        "/id",
        "/application",
        "/release",
        "/regions/0/findings/0/text",
        "/regions/0/findings/0/kind",
        "/regions/0/reasons/0/text",
        "/regions/0/reasons/0/fix",
        "/regions/0/region",
        "/regions/0/cells/0/fleet",
        "/regions/0/cells/0/dependency",
        "/regions/0/cells/0/target",
        "/regions/0/cells/0/reason",
        "/regions/0/cells/0/text",
        "/regions/0/cells/0/evidence/0/agent",
        "/regions/1/cells/2/evidence/0/detail",
        "/regions/1/cells/2/evidence/0/tls/chain/0/subject",
        "/regions/1/cells/2/evidence/0/tls/chain/0/names/0",
        "/regions/1/excluded/0/dependency",
        "/regions/0/cells/0/evidence/0/attempts/0/result",
    ] {
        *answer.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = json!(evil);
    }
    for format in ["table", "json"] {
        let text = shown(&["verdict", "show", "x", "-o", format], &answer, 80);
        let raw = text.chars().find(|c| *c != '\n' && !preflight_core::text::is_plain(*c));
        assert_eq!(raw, None, "{format}: {text}");
        assert!(text.contains("u{1b}") || text.contains("u001b"), "{format}");
    }
}

#[test]
fn colour_only_where_it_is_wanted() {
    let answer = outage();
    let server = Server::start(move |_, _| Reply::lines(std::slice::from_ref(&answer)));
    let stdout = |name: &str| {
        let mut command = server.command(&["verdict", "show", "x"]);
        let run = Run::of(command.env(name, "1").output().unwrap());
        run.stdout
    };
    assert!(!stdout("NOTHING").contains('\u{1b}'), "not on a pipe");
    assert!(stdout("CLICOLOR_FORCE").contains("\u{1b}[31m"), "where it is forced");
    assert!(!stdout("NO_COLOR").contains('\u{1b}'));
}

/// An override of the first cell of a region.
fn given(region: &str) -> Value {
    json!({"id": "9b1f00c2d4e87a35", "application": "shop", "region": region, "fleet": "web", "dependency": "ai-cache",
        "digest": "sha256:0", "verdict": "4f1c9a7be02d63a8", "by": "ann", "reason": "the cache is optional until Friday",
        "ticket": "OPS-7", "at": "2025-03-31T10:20:00Z", "expires_at": "2025-03-31T11:20:00Z"})
}

/// What was not probed must not look as if it were, and what goes on without a pass must not look like one.
#[test]
fn proven_partly_covered_overridden_unchanged_and_rolled_back() {
    let mut proven = cell("web", "db", "pass", None, &[]);
    proven["required"] = json!(false);
    proven["proven_by"] = json!("0a0a0a0a0a0a0a0a");
    proven["agents"] = json!({"asked": 0, "ok": 0, "short": 0, "void": 0, "silent": 0});
    let mut partly = cell("web", "ai-cache", "fail", Some("connect_timeout"), &[]);
    partly["coverage"] = json!("2 of 3 subnets");
    let mut eu = region("eu", "fail", &[partly, proven.clone()], &json!([]));
    eu["overrides"] = json!([given("eu")]);
    eu["decision"] = json!("proceed");
    let mut overridden = gate("fail", &[eu]);
    overridden["decision"] = json!("proceed");
    snapshot("overridden_100", &shown(&["verdict", "show", "x"], &overridden, 100));

    let mut eu = region("eu", "pass", &[proven], &json!([]));
    eu["reasons"] = json!([{"code": "no_change", "text": "nothing is new in eu since release 2025-03-30.4: 1 cell shown before, by verdict 0a0a0a0a0a0a0a0a; nothing was probed now; 2 cells of that release removed", "fix": null}]);
    let unchanged = gate("pass", &[eu]);
    snapshot("no_change_100", &shown(&["verdict", "show", "x"], &unchanged, 100));
    // Whatever the format: not probed, and by which verdict it was shown.
    for format in ["table", "json", "markdown", "junit", "github"] {
        let text = shown(&["verdict", "show", "x", "-o", format], &unchanged, 200).replace('\\', "");
        for said in ["nothing is new", "0a0a0a0a0a0a0a0a", "nothing was probed now", "2 cells of that release removed"]
        {
            assert!(text.contains(said), "{format}: {said}: {text}");
        }
    }

    let mut shown_only = cell("web", "ai-cache", "fail", Some("connect_timeout"), &[]);
    shown_only["required"] = json!(false);
    let mut eu = region("eu", "fail", &[shown_only], &json!([]));
    eu["decision"] = json!("proceed");
    let mut rollback = gate("fail", &[eu]);
    rollback["decision"] = json!("proceed");
    rollback["rollback"] = json!(true);
    snapshot("rollback_100", &shown(&["verdict", "show", "x"], &rollback, 100));
}

/// What somebody answered for after the verdict was given stands beside it, in every format, and changes nothing of it.
#[test]
fn overrides_that_were_given_since_are_named() {
    let mut eu = region("eu", "fail", &[cell("web", "ai-cache", "fail", Some("connect_timeout"), &[])], &json!([]));
    let mut withdrawn = given("eu");
    withdrawn["by"] = json!("bob");
    withdrawn["withdrawn"] = json!("2025-03-31T10:50:00Z by ann");
    eu["overrides_since"] = json!([given("eu"), withdrawn]);
    let answer = gate("fail", &[eu]);
    snapshot("overridden_since_100", &shown(&["verdict", "show", "x"], &answer, 100));
    for format in ["table", "json", "markdown", "junit", "github"] {
        let text = shown(&["verdict", "show", "x", "-o", format], &answer, 200).replace('\\', "");
        for said in ["ann", "bob", "OPS-7", "2025-03-31T10:50:00Z by ann", "the cache is optional until Friday"] {
            assert!(text.contains(said), "{format}: {said}: {text}");
        }
        assert!(text.to_lowercase().contains("block"), "{format}: {text}");
    }
}

#[test]
fn an_override_is_withdrawn_and_who_still_holds_the_cell_is_named() {
    let withdraw = ["override", "withdraw", "0000000000000001"];
    let last = shown(&withdraw, &json!({"overrides": []}), 80);
    assert!(last.contains("what it was for is held back again"), "{last}");
    let more = shown(&withdraw, &json!({"overrides": [given("eu")]}), 80);
    assert!(!more.contains("held back again"), "{more}");
    snapshot("override_withdrawn_80", &more);
}

#[test]
fn releases_overrides_and_the_audit_log() {
    let deployed = |region: &str, release: &str, verdict: Option<&str>, proven: u32| {
        json!({"application": "shop", "region": region, "release": release, "verdict": verdict, "proven": proven,
            "at": "2025-03-31T10:29:00.123Z", "by": "pipeline"})
    };
    let candidate = |release: &str, verdict: Option<&str>, state: Value, quarantined: &[&str], differs: Value| {
        json!({"release": release, "verdict": verdict, "state": state, "quarantined": quarantined, "differs": differs,
            "by": "pipeline", "at": "2025-03-31T12:29:00.5Z"})
    };
    let lock = |reason: &str, remind: Value, except: Value| json!({"by": "ann", "at": "2025-03-31T10:52:00Z", "reason": reason, "remind_at": remind, "except": except});
    let region = |name: &str, deployed: Value, candidate: Value, lock: Value, named: Value| json!({"application": "shop", "region": name, "deployed": deployed, "candidate": candidate, "lock": lock, "named": named});
    let named = json!({"release": "2025-03-31.2", "by": "ben", "at": "2025-03-31T12:30:00Z", "reason": ""});
    let (bad, none) = ("4f1c9a7be02d63a8", Value::Null);
    let rows = [
        region(
            "us",
            deployed("us", "2025-03-30.4", None, 0),
            candidate("2025-03-31.2", Some("8c1e00000000beef"), json!("pass"), &[], none.clone()),
            none.clone(),
            named,
        ),
        region(
            "eu",
            deployed("eu", "2025-03-30.4", Some(bad), 12),
            candidate(
                "2025-03-31.1",
                Some("8c1e00000000dead"),
                json!("fail"),
                &["0123456789abcdef"],
                json!("differs from that of us: + ai-cache"),
            ),
            lock(
                "rollback from 2025-03-31.1 to 2025-03-30.4: latency",
                json!("2025-03-31T12:52:00Z"),
                json!("2025-03-30.4"),
            ),
            none.clone(),
        ),
        region("au", none.clone(), none.clone(), none.clone(), none.clone()),
    ];
    let quarantine = json!({"id": "0123456789abcdef", "application": "shop", "release": "2025-03-31.1", "digest": null, "cell": null,
        "regions": [], "by": "ann", "at": "2025-03-31T10:52:00Z", "reason": "rolled back in eu: latency"});
    let releases = json!({"regions": rows, "quarantines": [quarantine]});
    snapshot("releases_100", &shown(&["release", "list"], &releases, 100));
    snapshot("releases_60", &shown(&["release", "list"], &releases, 60));
    snapshot("releases_empty", &shown(&["release", "list"], &json!({"regions": [], "quarantines": []}), 80));
    let changed = json!({"done": ["us is unlocked for 2025-03-31.2"],
        "notices": ["eu stays locked: 2025-03-31.1 would ship there, not 2025-03-31.2"], "releases": releases});
    snapshot("unlock_100", &shown(&["unlock", "--release", "2025-03-31.2", "--ready"], &changed, 100));
    // A refusal is exit 4, with the regions side by side on stdout.
    let refusal = json!({"error": {"code": "refused", "message": "nothing is unlocked: eu: \u{1b}[31m", "fix": "Wait.", "releases": releases}});
    let server = Server::start(move |_, _| Reply { status: 409, ..Reply::lines(std::slice::from_ref(&refusal)) });
    let run = server.run(&["unlock", "--release", "2025-03-31.2", "--all-regions"]);
    assert_eq!(run.code, 4, "{run:?}");
    assert!(run.stdout.contains("candidate") && run.stdout.contains("may ship"), "{run:?}");
    assert!(run.stderr.contains("error: nothing is unlocked") && !run.stderr.contains('\u{1b}'), "{run:?}");
    let mut withdrawn = given("us");
    withdrawn["withdrawn"] = json!("2025-03-31T10:25:00Z by bob");
    let overrides = json!({"overrides": [given("eu"), withdrawn]});
    snapshot("overrides_160", &shown(&["override", "list"], &overrides, 160));
    snapshot("overrides_80", &shown(&["override", "list"], &overrides, 80));
    let give = ["override", "--verdict", "x", "--all-blocking", "--reason", "r", "--ticket", "t", "--expires", "1h"];
    snapshot("override_given_80", &shown(&give, &json!({"overrides": [given("eu")]}), 80));
    let entry = |id: u32, principal: &str, action: &str, outcome: &str, detail: &str| {
        json!({"id": id, "at": "2025-03-31T10:29:00Z", "principal": principal, "action": action, "outcome": outcome,
            "source": "10.0.0.9:40112", "detail": detail})
    };
    let entries = [
        entry(3, "pipeline", "verdict", "fail, block", "shop 2025-03-31.1: eu fail, block; verdict 4f1c9a7be02d63a8"),
        entry(2, "pipeline", "gate", "asked", "shop 2025-03-31.1 in eu; verdict 4f1c9a7be02d63a8"),
        entry(1, "-", "GET /v1/audit", "401", "no valid token"),
    ];
    snapshot("audit_160", &shown(&["audit"], &json!({"entries": entries}), 160));
    snapshot("audit_80", &shown(&["audit"], &json!({"entries": entries}), 80));
    // What was told later stands where it happened, in words.
    let record = json!({"id": "8c1e-1743416000000", "kind": "break_glass", "application": "shop", "regions": ["eu"], "release": "2025-03-31.2",
        "manifest_digest": "sha256:0", "reason": "eu is down", "ticket": "OPS-7", "by": "ann@build-7", "at": "2025-03-31T10:28:00Z",
        "error": "cannot connect: refused"});
    let mut told = entry(4, "pipeline", "break_glass", "delivered", &record.to_string());
    told["at"] = json!("2025-03-31T11:00:00Z");
    let mut before = entry(1, "pipeline", "gate", "asked", "shop 2025-03-31.1 in eu; verdict 1111");
    before["at"] = json!("2025-03-31T10:27:00Z");
    let entries =
        json!({"entries": [told, entry(3, "pipeline", "gate", "asked", "shop r in eu; verdict 2222"), before]});
    snapshot("audit_records_160", &shown(&["audit"], &entries, 160));
    snapshot("audit_records_80", &shown(&["audit"], &entries, 80));
    let own_order = shown(&["audit", "-o", "json"], &entries, 80);
    assert_eq!(serde_json::from_str::<Value>(&own_order).unwrap()["entries"][0]["id"], 4);
}

#[test]
fn what_changed_in_a_manifest() {
    let old = crate::support::file(
        "old.yaml",
        "application: shop\ndependencies:\n  db: {target: postgres://db:5432}\n  ai-cache: {target: redis://a:6379}\n  gone: {target: tcp://g:1}\n",
    );
    let new = crate::support::file(
        "new.yaml",
        "application: shop\ndependencies:\n  database: {target: postgres://db:5432, usage: {workers: 40}}\n  ai-cache: {target: rediss://a:6379}\n  queue: {target: amqp://q:5672}\n",
    );
    let run = |args: &[&str]| {
        let args = [&["manifest", "diff", old.to_str().unwrap(), new.to_str().unwrap()], args].concat();
        Run::of(preflight(&args).env("COLUMNS", "80").output().unwrap())
    };
    snapshot("manifest_diff_80", &run(&[]).stdout);
    let gates: Vec<Value> = run(&["-o", "json"]).json().as_array().unwrap().iter().map(|c| c["gate"].clone()).collect();
    assert_eq!(gates, ["no_cell_changes", "required", "required", "no_longer_probed"]);
}

/// An endless log in pages that lead on is read to the limit, and one whose pages lead nowhere ends.
#[test]
fn the_audit_log_is_read_in_pages_up_to_the_limit() {
    let server = Server::start(|number, _| {
        let id = 10_000 - i64::try_from(number).unwrap() * 1_000;
        let entry = |n: i64| json!({"id": id - n, "at": "", "principal": "", "action": "", "outcome": "", "source": "", "detail": ""});
        let entries: Vec<Value> = (0..1_000).map(entry).collect();
        Reply::lines(&[json!({"entries": entries, "next": id - 999})])
    });
    let run = server.run(&["audit", "--limit", "2000", "--principal", "a&b=c", "-o", "json"]);
    assert_eq!(run.json()["entries"].as_array().unwrap().len(), 2_000, "{}", run.stderr);
    let lines: Vec<String> = server.requests().into_iter().map(|request| request.line).collect();
    assert_eq!(
        lines,
        ["GET /v1/audit?limit=1000&principal=a%26b%3Dc", "GET /v1/audit?limit=1000&principal=a%26b%3Dc&before=9001"]
    );
    let stuck = Server::start(|_, _| Reply::lines(&[json!({"entries": [], "next": 7})]));
    assert_eq!(stuck.run(&["audit"]).code, 0);
    assert!(stuck.requests().len() <= 2);
}

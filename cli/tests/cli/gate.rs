//! `preflight gate` through the real binary, against a controller that tells the truth, lies, breaks off or is not there.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::support::{MANIFEST, Nobody, Reply, Request, Run, Server, digest, file, preflight};
use serde_json::{Value, json};

/// An answer to `request` in which web's cell has this state.
pub(crate) fn gate(request: &Request, state: &str) -> Value {
    let reason = match state {
        "pass" => Value::Null,
        "fail" => json!("connect_timeout"),
        _ => json!("no_agent"),
    };
    let ok = if state == "pass" { 2 } else { 0 };
    let decision = if state == "pass" { "proceed" } else { "block" };
    let cells = json!([{"fleet": "web", "dependency": "ai-cache", "target": "redis://ai-cache.internal:6379", "digest": "sha256:0",
        "required": true, "state": state, "reason": reason, "text": null, "evidence": [],
        "agents": {"asked": 2, "ok": ok, "short": 0, "void": 0, "silent": 0}}]);
    json!({"event": "gate", "id": request.body["id"], "application": "shop", "release": request.body["release"],
        "verdict": state, "decision": decision, "manifest_digest": digest(MANIFEST),
        "started_at": "2025-03-31T10:29:00Z", "ended_at": "2025-03-31T10:29:01Z",
        "regions": [{"region": "eu", "verdict": state, "decision": decision, "valid_until": "2025-03-31T10:44:00Z", "overrides": [],
            "cells": cells, "excluded": [], "findings": [], "reasons": [{"code": "x", "text": "because", "fix": "do this"}]}]})
}

fn progress(request: &Request) -> Value {
    json!({"event": "progress", "id": request.body["id"], "settled": 0, "cells": 1, "failing": 0, "waiting_for": ["eu/web-1"]})
}

pub(crate) fn args(more: &[&str]) -> Vec<String> {
    let manifest = file("preflight.yaml", MANIFEST).display().to_string();
    let args = ["gate", "--manifest", &manifest, "--region", "eu", "--release", "r1"];
    args.iter().chain(more).map(|arg| (*arg).to_owned()).collect()
}

fn run(server: &Server, more: &[&str]) -> Run {
    let args = args(more);
    server.run(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

pub(crate) fn answering(state: &'static str) -> Server {
    Server::start(move |_, request| Reply::lines(&[progress(request), gate(request, state)]))
}

#[test]
fn exits_by_the_verdict_whatever_the_format() {
    for (state, code, word) in [("pass", 0, "PROCEED"), ("fail", 2, "BLOCK"), ("unknown", 3, "BLOCK")] {
        let server = answering(state);
        let table = run(&server, &[]);
        assert_eq!(table.code, code, "{table:?}");
        assert!(table.stdout.starts_with(word), "{table:?}");
        assert!(table.stderr.contains("waiting for eu/web-1"), "{table:?}");
        let json = run(&server, &["-o", "json"]);
        assert_eq!(json.code, code, "{json:?}");
        assert_eq!(json.json()["verdict"], state);
        assert_eq!(json.json().get("advisory"), None);
    }
}

#[test]
fn sends_what_was_asked_for() {
    let server = answering("pass");
    run(&server, &["--wait", "2m", "--scope", "all", "--strict", "--fail-fast"]);
    let [request] = server.requests().try_into().unwrap();
    assert_eq!(request.line, "POST /v1/gate");
    assert_eq!(request.authorization, "Bearer secret-token");
    let body = &request.body;
    assert_eq!(body["id"].as_str().unwrap().len(), 16);
    assert_eq!(body["manifest"], MANIFEST);
    assert_eq!((&body["regions"], &body["release"], &body["wait_ms"]), (&json!(["eu"]), &json!("r1"), &json!(120_000)));
    assert_eq!((&body["scope"], &body["strict"], &body["fail_fast"]), (&json!("all"), &json!(true), &json!(true)));
}

#[test]
fn advisory_blocks_nothing_and_says_so() {
    for state in ["fail", "unknown"] {
        let server = answering(state);
        let table = run(&server, &["--advisory"]);
        assert_eq!(table.code, 0, "{table:?}");
        assert!(table.stdout.contains("ADVISORY") && table.stderr.contains("ADVISORY"), "{table:?}");
        let json = run(&server, &["--advisory", "-o", "json"]);
        assert_eq!((json.code, &json.json()["advisory"], &json.json()["verdict"]), (0, &json!(true), &json!(state)));
    }
    let server = Server::start(|_, _| Reply::problem(500, "internal", "the disk is full"));
    let none = run(&server, &["--advisory", "-o", "json"]);
    assert_eq!((none.code, &none.json()["advisory"], &none.json()["error"]["exit"]), (0, &json!(true), &json!(1)));
    assert!(none.stderr.contains("ADVISORY") && none.stderr.contains("the disk is full"), "{none:?}");
    let server = Server::start(|_, _| Reply::problem(422, "usage", "the inventory does not know region 'eu'"));
    assert_eq!(run(&server, &["--advisory"]).code, 64, "wrong usage is never advisory");
    let server = Server::start(|_, _| Reply::problem(401, "unauthorized", "the token is unknown"));
    assert_eq!(run(&server, &["--advisory"]).code, 1, "a wrong token is no way around what a controller forbids");
}

/// An answer that lies is not shown either, so that nobody reads its decision.
#[test]
fn a_pass_that_contradicts_itself_never_proceeds() {
    let changes: [(&str, Value, i32); 7] = [
        ("/regions/0/cells/0/state", json!("fail"), 1),
        ("/regions/0/cells", json!([]), 1),
        ("/regions", json!([]), 1),
        ("/verdict", json!("unknown"), 1),
        ("/id", json!("another-run-0000"), 1),
        ("/release", json!("r0"), 4),
        ("/manifest_digest", json!("sha256:other"), 4),
    ];
    for (pointer, value, code) in changes {
        let server = Server::start(move |_, request| {
            let mut answer = gate(request, "pass");
            *answer.pointer_mut(pointer).unwrap() = value.clone();
            Reply::lines(&[answer])
        });
        let run = run(&server, &["-o", "json"]);
        assert_eq!(run.code, code, "{pointer}: {run:?}");
        assert_eq!(run.stdout, "", "{pointer}");
        assert!(run.stderr.contains("cannot be relied on"), "{pointer}: {run:?}");
    }
}

#[test]
fn a_lost_connection_is_taken_up_again_with_the_same_id() {
    for first in ["drops before the answer", "drops in the middle of it", "ends early", "is starting"] {
        let server = Server::start(move |number, request| match (number, first) {
            (0, "drops before the answer") => Reply::lines(&[]).and_break(),
            (0, "drops in the middle of it") => {
                let half: String = gate(request, "pass").to_string().chars().take(200).collect();
                Reply { lines: vec![format!("{}\n", progress(request)), half], ..Reply::lines(&[]).and_break() }
            }
            (0, "ends early") => Reply::lines(&[progress(request)]),
            (0, _) => Reply::problem(503, "unavailable", "the controller is starting"),
            _ => Reply::lines(&[gate(request, "pass")]),
        });
        let run = run(&server, &[]);
        assert_eq!(run.code, 0, "{first}: {run:?}");
        let requests = server.requests();
        assert_eq!(requests.len(), 2, "{first}");
        assert_eq!(requests[0].body, requests[1].body, "{first}: the same request, with the same id");
        assert!(run.stderr.contains("trying again"), "{first}: {run:?}");
    }
}

/// A run that has begun ends by its own wait, so its answer may be there only after this one's.
#[test]
fn a_run_that_began_is_waited_for_a_little_longer() {
    let server = Server::start(|number, request| {
        if number == 0 {
            std::thread::sleep(Duration::from_millis(600));
            return Reply::lines(&[]).and_break();
        }
        Reply::lines(&[gate(request, "unknown")])
    });
    let run = run(&server, &["--wait", "300ms"]);
    assert_eq!(run.code, 3, "{run:?}");
}

#[test]
fn without_a_verdict_it_exits_1_and_says_what_to_do() {
    type Answer = fn(&Request) -> Reply;
    let cases: [(&str, Answer, &str); 8] = [
        (
            "garbage",
            |_| Reply { lines: vec!["<html>hello</html>".into()], ..Reply::lines(&[]) },
            "cannot be understood",
        ),
        ("a plain 500", |_| Reply { status: 500, lines: vec!["oops".into()], breaks: false }, "500"),
        ("internal", |_| Reply::problem(500, "internal", "the disk is full"), "the disk is full"),
        ("no token", |_| Reply::problem(401, "unauthorized", "the token is not valid"), "token create"),
        ("wrong scope", |_| Reply::problem(403, "forbidden", "this takes the scope gate"), "--scope"),
        (
            "another request",
            |_| Reply::problem(409, "conflict", "the run was started by another request"),
            "another request",
        ),
        (
            "an error at the end",
            |r| {
                Reply::lines(&[
                    progress(r),
                    json!({"event": "error", "error": {"code": "internal", "message": "the store broke"}}),
                ])
            },
            "the store broke",
        ),
        (
            "a probe's answer",
            |_| Reply::lines(&[json!({"event": "done", "id": "x", "results": []})]),
            "cannot be understood",
        ),
    ];
    for (name, answer, text) in cases {
        let server = Server::start(move |_, request| answer(request));
        let run = run(&server, &[]);
        assert_eq!(run.code, 1, "{name}: {run:?}");
        assert_eq!(run.stdout, "", "{name}");
        assert!(run.stderr.contains(text), "{name}: {run:?}");
        assert_eq!(server.requests().len(), 1, "{name}: asking again would not help");
    }
}

#[test]
fn the_controllers_usage_errors_exit_64() {
    let server = Server::start(|_, _| Reply::problem(422, "usage", "the inventory does not know region 'eu'"));
    let run = run(&server, &[]);
    assert_eq!(run.code, 64, "{run:?}");
    assert!(run.stderr.contains("region 'eu'"), "{run:?}");
}

#[test]
fn an_unreachable_controller_exits_1_within_the_wait() {
    let nobody = Nobody::new();
    let args = args(&["--wait", "1500ms"]);
    let mut command = preflight(&args.iter().map(String::as_str).collect::<Vec<_>>());
    command.env("PREFLIGHT_URL", nobody.url()).env("PREFLIGHT_TOKEN", "t");
    let start = Instant::now();
    let run = Run::of(command.output().unwrap());
    assert_eq!(run.code, 1, "{run:?}");
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    assert!(start.elapsed() > Duration::from_millis(500), "it tries again: {:?}", start.elapsed());
    assert!(run.stderr.contains("trying again") && run.stderr.contains("could not be reached within"), "{run:?}");
    assert!(run.stderr.contains("do not ship"), "{run:?}");
}

#[test]
fn a_controller_that_never_answers_ends_with_the_wait() {
    // Accepts in the kernel and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let args = args(&["--wait", "300ms"]);
    let mut command = preflight(&args.iter().map(String::as_str).collect::<Vec<_>>());
    command.env("PREFLIGHT_URL", format!("http://{}", listener.local_addr().unwrap())).env("PREFLIGHT_TOKEN", "t");
    let start = Instant::now();
    let run = Run::of(command.output().unwrap());
    assert_eq!(run.code, 1, "{run:?}");
    assert!(start.elapsed() < Duration::from_secs(8), "the wait and a little: {:?}", start.elapsed());
    assert!(run.stderr.contains("no answer in time"), "{run:?}");
}

#[test]
fn a_result_that_cannot_be_written_is_none() {
    let server = answering("pass");
    let args = args(&[]);
    let mut command = server.command(&args.iter().map(String::as_str).collect::<Vec<_>>());
    command.stdout(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let run = Run::of(command.output().unwrap());
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stderr.contains("cannot write the result"), "{run:?}");
}

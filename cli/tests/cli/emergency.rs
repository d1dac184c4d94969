//! `gate --rollback` and `--break-glass`: when they go on without a controller, and when never; and what is told later.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{MANIFEST, Nobody, Reply, Run, Server, digest, file, preflight};

const ROLLBACK: [&str; 1] = ["--rollback"];
const BREAK_GLASS: [&str; 5] = ["--break-glass", "--reason", "eu is down", "--ticket", "OPS-7"];

/// An empty directory of this test's own.
fn spool() -> PathBuf {
    let path = file("spool", "");
    std::fs::remove_file(&path).unwrap();
    path
}

fn gate(url: &str, spool: &Path, how: &[&str]) -> Run {
    let manifest = file("preflight.yaml", MANIFEST).display().to_string();
    let args = ["gate", "--manifest", &manifest, "--region", "eu", "--release", "r1", "--wait", "1s"];
    let mut command = preflight(&[args.as_slice(), how].concat());
    command.env("PREFLIGHT_URL", url).env("PREFLIGHT_TOKEN", "t").env("PREFLIGHT_SPOOL_DIR", spool).env("USER", "ann");
    Run::of(command.output().unwrap())
}

fn files(spool: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(spool).map(|dir| dir.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

fn agents(url: &str, spool: &Path) -> Run {
    let mut command = preflight(&["agents", "-o", "json"]);
    command.env("PREFLIGHT_URL", url).env("PREFLIGHT_TOKEN", "t").env("PREFLIGHT_SPOOL_DIR", spool);
    Run::of(command.output().unwrap())
}

#[test]
fn with_nobody_to_ask_it_goes_on_loudly_and_keeps_a_record() {
    for (how, kind, loud) in
        [(ROLLBACK.as_slice(), "rollback", "ROLLBACK"), (&BREAK_GLASS, "break_glass", "BREAK GLASS")]
    {
        let spool = spool();
        let start = Instant::now();
        let run = gate(&Nobody::new().url(), &spool, how);
        assert_eq!(run.code, 0, "{run:?}");
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        assert!(run.stderr.contains(loud) && run.stderr.contains("WITHOUT a verdict"), "{run:?}");
        assert!(run.stdout.starts_with("PROCEED by "), "{run:?}");
        let [kept] = files(&spool).try_into().unwrap();
        assert_eq!(std::fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(&spool).unwrap().permissions().mode() & 0o777, 0o700);
        let record: Value = serde_json::from_slice(&std::fs::read(&kept).unwrap()).unwrap();
        assert_eq!(
            (&record["kind"], &record["application"], &record["regions"], &record["release"]),
            (&json!(kind), &json!("shop"), &json!(["eu"]), &json!("r1"))
        );
        assert_eq!(record["manifest_digest"], digest(MANIFEST));
        assert!(record["by"].as_str().unwrap().starts_with("ann@"), "{record}");
        assert!(record["error"].as_str().unwrap().contains("cannot connect"), "{record}");
        let json = gate(&Nobody::new().url(), &spool, &[how, &["-o", "json"]].concat());
        let shown = json.json();
        assert_eq!((json.code, &shown["decision"], &shown["verdict"]), (0, &json!("proceed"), &json!("unknown")));
        assert_eq!((&shown[kind], &shown["record"]["kind"]), (&json!(true), &json!(kind)));
    }
}

/// Somebody who answers has been reached, whatever the answer; only a failure of the server's side is as if there were nobody. A
/// rollback, which no verdict decides, also goes on where who answers does not know the token, or is no controller.
#[test]
fn whoever_answers_was_reached() {
    // With its exit codes for broken glass and for a rollback.
    let answers: [(Reply, i32, i32); 10] = [
        (Reply::problem(401, "unauthorized", "no"), 1, 0),
        (Reply::problem(403, "forbidden", "no"), 1, 1),
        (Reply::problem(404, "not_found", "no"), 1, 1),
        (Reply::problem(409, "conflict", "no"), 1, 1),
        (Reply::problem(409, "refused", "never deployed there"), 4, 4),
        (Reply::problem(422, "usage", "no"), 64, 64),
        (Reply::problem(429, "busy", "no"), 1, 1),
        // Of somebody else's making: the status says whose fault it is, and the words must agree.
        (Reply::problem(401, "unavailable", "no"), 1, 0),
        (Reply { status: 403, lines: vec!["<html>".into()], breaks: false }, 1, 0),
        (Reply { lines: vec!["<html>hello</html>".into()], ..Reply::lines(&[]) }, 1, 0),
    ];
    for (reply, glass, rollback) in answers {
        for (how, code) in [(ROLLBACK.as_slice(), rollback), (&BREAK_GLASS, glass)] {
            let (spool, reply) = (spool(), reply.clone());
            let server = Server::start(move |_, _| reply.clone());
            let run = gate(&server.url, &spool, how);
            assert_eq!(run.code, code, "{how:?}: {run:?}");
            assert_eq!(files(&spool).is_empty(), code != 0, "{run:?}");
            assert_eq!(run.stderr.contains("--break-glass was not used"), how != ROLLBACK, "{run:?}");
        }
    }
}

#[test]
fn an_error_of_the_servers_side_is_as_if_there_were_nobody() {
    for reply in [
        Reply::problem(500, "internal", "the disk is full"),
        Reply::problem(503, "unavailable", "starting"),
        Reply { status: 502, lines: vec!["<html>".into()], breaks: false },
        Reply::lines(&[]).and_break(),
        Reply::lines(&[json!({"event": "error", "error": {"code": "internal", "message": "the store broke"}})]),
    ] {
        for how in [ROLLBACK.as_slice(), &BREAK_GLASS] {
            let (spool, reply) = (spool(), reply.clone());
            let server = Server::start(move |_, request| match request.line.as_str() {
                "POST /v1/records" => Reply::problem(500, "internal", "the disk is full"),
                _ => reply.clone(),
            });
            let run = gate(&server.url, &spool, how);
            assert_eq!(run.code, 0, "{how:?}: {run:?}");
            assert_eq!(files(&spool).len(), 1, "{run:?}");
            let server = Server::start(move |_, _| Reply::problem(500, "internal", "the disk is full"));
            assert_eq!(gate(&server.url, &spool, &[]).code, 1, "and nothing else goes on by that");
        }
    }
}

#[test]
fn a_peer_that_hangs_does_not_hold_it_up() {
    // Accepts in the kernel and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let start = Instant::now();
    let run = gate(&url, &spool(), &ROLLBACK);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
}

#[test]
fn a_record_that_cannot_be_kept_is_a_line_on_stderr() {
    let blocked = file("a-file", "");
    let full = PathBuf::from("/proc/self/fd");
    for spool in [blocked.join("records"), full] {
        let run = gate(&Nobody::new().url(), &spool, &BREAK_GLASS);
        assert_eq!(run.code, 0, "{run:?}");
        let line = run.stderr.lines().find(|line| line.starts_with('{')).unwrap_or_else(|| panic!("{run:?}"));
        let record: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&record["kind"], &record["ticket"]), (&json!("break_glass"), &json!("OPS-7")));
        assert!(run.stderr.contains("could not be kept"), "{run:?}");
    }
}

#[test]
fn break_glass_takes_a_reason_and_a_ticket() {
    for how in
        [&BREAK_GLASS[..1], &BREAK_GLASS[..3], &BREAK_GLASS[1..], &["--break-glass", "--reason", " ", "--ticket", "x"]]
    {
        let run = gate(&Nobody::new().url(), &spool(), how);
        assert_eq!(run.code, 64, "{how:?}: {run:?}");
    }
}

/// A controller that is gone for the gate, and there for the next command, on the same address.
#[test]
fn another_command_tells_the_controller_once_it_answers() {
    let spool = spool();
    let server = Server::start(|number, request| match (number, request.line.as_str()) {
        (0..=9, "POST /v1/gate") => Reply::problem(503, "unavailable", "starting"),
        (_, "POST /v1/records") if request.body["release"] == "r1" => Reply::lines(&[json!({})]),
        (_, "GET /v1/agents") => Reply::lines(&[json!({"agents": [], "remarks": []})]),
        _ => Reply::problem(500, "internal", "what is this?"),
    });
    assert_eq!(gate(&server.url, &spool, &ROLLBACK).code, 0);
    let kept = files(&spool);
    let record: Value = serde_json::from_slice(&std::fs::read(&kept[0]).unwrap()).unwrap();
    // Another controller is not told.
    let other = Server::start(|_, _| Reply::lines(&[json!({"agents": [], "remarks": []})]));
    assert_eq!(agents(&other.url, &spool).code, 0);
    assert_eq!((other.requests().len(), files(&spool)), (1, kept));
    let run = agents(&server.url, &spool);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.stderr.contains("delivered 1 record"), "{run:?}");
    assert_eq!(run.json()["agents"], json!([]));
    let told: Vec<_> = server.requests().into_iter().filter(|request| request.line == "POST /v1/records").collect();
    assert_eq!((told.len(), &told[0].body), (1, &record));
    assert!(files(&spool).is_empty());
    assert_eq!(agents(&server.url, &spool).stderr, "", "there is nothing more to tell");
}

#[test]
fn what_cannot_be_told_stays_and_changes_no_exit_code() {
    for answer in [
        Reply::problem(403, "forbidden", "the token lacks the scope 'gate'"),
        Reply::problem(500, "internal", "the disk is full"),
        Reply::problem(422, "usage", "`error` is longer than 1000 bytes"),
        Reply::lines(&[]).and_break(),
    ] {
        let spool = spool();
        let server = Server::start(move |_, request| match request.line.as_str() {
            "GET /v1/agents" => Reply::lines(&[json!({"agents": [], "remarks": []})]),
            "POST /v1/records" => answer.clone(),
            _ => Reply::problem(503, "unavailable", "starting"),
        });
        assert_eq!(gate(&server.url, &spool, &ROLLBACK).code, 0);
        let run = agents(&server.url, &spool);
        assert_eq!(run.code, 0, "{run:?}");
        assert!(run.stderr.contains("not delivered yet"), "{run:?}");
        assert_eq!(files(&spool).len(), 1);
    }
}

#[test]
fn where_advisory_is_forbidden_it_is_refused() {
    let server = Server::start(|_, _| Reply::problem(409, "refused", "this controller forbids --advisory"));
    let run = gate(&server.url, &spool(), &["--advisory"]);
    assert_eq!(run.code, 4, "{run:?}");
    assert!(run.stderr.contains("forbids --advisory"), "{run:?}");
}

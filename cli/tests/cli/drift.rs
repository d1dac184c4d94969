//! `preflight drift`: what it asks, shows and exits with.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::{Reply, Run, Server};

/// Runs `preflight drift` against a controller that answers `body`; also the line of its request.
fn drift(args: &[&str], body: &Value) -> (Run, String) {
    let body = body.clone();
    let asked = Arc::new(Mutex::new(String::new()));
    let seen = asked.clone();
    let server = Server::start(move |_, request| {
        seen.lock().unwrap().clone_from(&request.line);
        Reply::lines(std::slice::from_ref(&body))
    });
    let words = [&["drift"], args].concat();
    let run = Run::of(server.command(&words).env("COLUMNS", "80").output().unwrap());
    let line = asked.lock().unwrap().clone();
    (run, line)
}

fn region(state: &str, findings: &Value, unknown: &Value) -> Value {
    json!({"application": "shop", "region": "eu", "state": state, "fleets": ["web", "worker"], "agents": 4,
        "findings": findings, "unknown": unknown})
}

#[test]
fn drift_is_shown_and_exits_2() {
    let finding = json!([{"kind": "drift", "dependency": "", "attributes": [],
        "text": "The fleets of shop in eu differ in security_group: web carries sg-web\u{1b}[2J; worker carries sg-worker."}]);
    let body = json!({"state": "fail", "regions": [region("fail", &finding, &json!([]))]});
    let (run, asked) = drift(&["--application", "shop", "--ignore", "vpc", "--ignore", "security_group=sg a"], &body);
    assert_eq!(run.code, 2, "{run:?}");
    assert_eq!(asked, "GET /v1/drift?application=shop&ignore=vpc%2Csecurity_group%3Dsg%20a");
    assert!(
        run.stdout.starts_with("shop eu  ✗ drift  4 agents of 2 fleets\n  The fleets of shop in eu differ"),
        "{run:?}"
    );
    assert!(!run.stdout.contains('\u{1b}'), "what comes from others is escaped: {run:?}");
    let (run, asked) = drift(&["-o", "json"], &body);
    assert_eq!((run.code, asked.as_str()), (2, "GET /v1/drift"));
    let shown: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(shown["regions"][0]["findings"][0]["kind"], "drift");
}

#[test]
fn a_comma_leaves_out_no_more_than_was_meant() {
    let (run, asked) = drift(&["--ignore", "label.x=a,security_group"], &json!({"state": "pass", "regions": []}));
    assert_eq!((run.code, asked.as_str()), (64, ""), "{run:?}");
}

#[test]
fn what_is_not_known_exits_3_and_no_drift_0() {
    let unknown = json!(["eu/worker: it has no agent"]);
    let body = json!({"state": "unknown", "regions": [region("unknown", &json!([]), &unknown)]});
    let (run, _) = drift(&[], &body);
    assert_eq!(run.code, 3, "{run:?}");
    assert!(
        run.stdout.contains("? not known") && run.stdout.contains("not compared: eu/worker: it has no agent"),
        "{run:?}"
    );
    let (run, _) = drift(&[], &json!({"state": "pass", "regions": [region("pass", &json!([]), &json!([]))]}));
    assert_eq!((run.code, run.stdout.as_str()), (0, "shop eu  ✓ no drift  4 agents of 2 fleets\n"));
    let (run, _) = drift(&[], &json!({"state": "pass", "regions": []}));
    assert_eq!(run.code, 3, "nothing was compared: {run:?}");
}

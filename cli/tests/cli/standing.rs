//! `preflight verdict check` by what the controller says of the verdict now.

use serde_json::{Value, json};

use crate::support::{Reply, Run, Server, digest};

/// A verdict for shop r1 in eu that fails, with the overrides of now; the controller's clock says 10:30.
fn failing(overrides: &Value) -> Value {
    let decision = if overrides == &json!([]) { "block" } else { "proceed" };
    let cell = json!({"fleet": "web", "dependency": "d", "target": "tcp://x:1", "digest": "sha256:0", "required": true,
        "state": "fail", "reason": "connect_timeout", "evidence": [],
        "agents": {"asked": 2, "ok": 0, "short": 2, "void": 0, "silent": 0}});
    json!({"id": "v1", "application": "shop", "release": "r1", "verdict": "fail", "decision": decision,
        "manifest_digest": digest("m"), "started_at": "2025-03-31T10:29:00Z", "ended_at": "2025-03-31T10:29:01Z",
        "regions": [{"region": "eu", "verdict": "fail", "decision": decision, "valid_until": "2025-03-31T10:44:00Z",
            "overrides": overrides, "cells": [cell], "findings": [], "reasons": []}]})
}

fn given(until: &str) -> Value {
    json!([{"id": "o1", "application": "shop", "region": "eu", "fleet": "web", "dependency": "d", "digest": "sha256:0",
        "verdict": "v1", "by": "ann", "reason": "known", "ticket": "OPS-1", "at": "2025-03-31T10:29:30Z", "expires_at": until}])
}

fn check(body: Value) -> Run {
    let server = Server::start(move |_, _| Reply::lines(std::slice::from_ref(&body)));
    server.run(&["verdict", "check", "v1", "--application", "shop", "--release", "r1", "--region", "eu"])
}

#[test]
fn an_override_given_since_lets_it_proceed_and_is_shown() {
    let run = check(json!({"gate": failing(&given("2025-03-31T11:00:00Z")), "objections": []}));
    assert_eq!(run.code, 0, "{run:?}");
    for text in ["PROCEED by override", "by ann until 2025-03-31T11:00:00Z", "OPS-1: known"] {
        assert!(run.stdout.contains(text), "{run:?}");
    }
    assert_eq!(check(json!({"gate": failing(&json!([])), "objections": []})).code, 2);
}

/// The controller's clock says 10:30: whatever it decided, an override that has ended by then does not count.
#[test]
fn an_override_that_has_ended_does_not_count_whatever_the_controller_says() {
    let run = check(json!({"gate": failing(&given("2025-03-31T10:29:59Z")), "objections": []}));
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stdout.starts_with("BLOCK"), "{run:?}");
}

/// It holds up nothing, and it is said.
#[test]
fn that_a_rollback_is_shown_by_another_manifest_is_noted() {
    let mut rollback = failing(&json!([]));
    rollback["rollback"] = json!(true);
    rollback["decision"] = json!("proceed");
    let region = &mut rollback["regions"][0];
    region["decision"] = json!("proceed");
    region["cells"][0]["required"] = json!(false);
    region["reasons"] =
        json!([{"code": "other_manifest", "text": "the manifest that was given is not the one", "fix": null}]);
    let run = check(json!({"gate": rollback, "objections": []}));
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.stdout.contains("note: the manifest that was given is not the one"), "{run:?}");
}

#[test]
fn what_the_controller_objects_to_is_not_known_any_more() {
    let why =
        json!({"code": "new_identity", "text": "eu/web has hosts of a kind that it did not have then", "fix": null});
    let run = check(json!({"gate": failing(&given("2025-03-31T11:00:00Z")), "objections": [why]}));
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.stdout.starts_with("BLOCK") && run.stdout.contains("of a kind"), "{run:?}");
}

/// A controller that cannot say how things stand has not said that they stand.
#[test]
fn an_answer_without_standing_is_an_error() {
    assert_eq!(check(failing(&given("2025-03-31T11:00:00Z"))).code, 1);
    assert_eq!(check(json!({"gate": failing(&given("2025-03-31T11:00:00Z"))})).code, 1);
    let server = Server::start(|_, _| Reply::problem(404, "not_found", "there is no such page"));
    let run = server.run(&["verdict", "check", "v1", "--application", "shop", "--release", "r1", "--region", "eu"]);
    assert_eq!(run.code, 1, "{run:?}");
}

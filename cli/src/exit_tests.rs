use serde_json::{Value, json};

use super::*;

/// A verdict over `regions`, each with a web and a worker cell that pass.
fn passing(regions: &[&str]) -> Value {
    let cell = |fleet: &str| {
        json!({"fleet": fleet, "dependency": "ai-cache", "target": "redis://c:6379", "digest": "sha256:0", "required": true,
            "state": "pass", "reason": null, "evidence": [],
            "agents": {"asked": 2, "ok": 2, "short": 0, "void": 0, "silent": 0}})
    };
    let region = |name: &&str| {
        json!({"region": name, "verdict": "pass", "decision": "proceed", "valid_until": "2025-03-31T11:00:00Z",
            "overrides": [], "cells": [cell("web"), cell("worker")], "findings": [],
            "reasons": [{"code": "all_pass", "text": "all pass", "fix": null}]})
    };
    json!({"id": "run-1", "application": "shop", "release": "r1", "verdict": "pass", "decision": "proceed",
        "manifest_digest": "sha256:m", "started_at": "2025-03-31T10:00:00Z", "ended_at": "2025-03-31T10:00:01Z",
        "regions": regions.iter().map(region).collect::<Vec<_>>()})
}

/// Sets what each JSON pointer names.
fn with(mut gate: Value, changes: &[(&str, Value)]) -> Gate {
    for (pointer, value) in changes {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = gate.pointer_mut(parent).unwrap_or_else(|| panic!("{pointer}"));
        match key.parse::<usize>() {
            Ok(index) => parent[index] = value.clone(),
            Err(_) => parent[key] = value.clone(),
        }
    }
    serde_json::from_value(gate).unwrap()
}

fn names(regions: &[&str]) -> Vec<String> {
    regions.iter().map(|r| (*r).to_owned()).collect()
}

fn asked(regions: Regions<'_>) -> Asked<'_> {
    Asked {
        id: "run-1",
        application: "shop",
        release: "r1",
        regions,
        manifest_digest: Some("sha256:m"),
        rollback: false,
        all: false,
        now: None,
    }
}

fn exit(gate: &Gate, regions: Regions<'_>) -> Exit {
    judge(gate, &asked(regions)).exit
}

#[test]
fn what_is_asked_and_passes_proceeds() {
    let gate = with(passing(&["eu", "us"]), &[]);
    let (both, eu) = (names(&["us", "eu"]), names(&["eu"]));
    for regions in [Regions::All, Regions::Exactly(&both), Regions::Among(&both), Regions::Among(&eu)] {
        let judgement = judge(&gate, &asked(regions));
        assert_eq!(judgement, Judgement { exit: Exit::Proceed, objections: Vec::new() }, "{regions:?}");
    }
}

#[test]
fn honest_blocks_have_their_codes() {
    let fail = [
        ("/verdict", json!("fail")),
        ("/decision", json!("block")),
        ("/regions/0/verdict", json!("fail")),
        ("/regions/0/decision", json!("block")),
        ("/regions/0/cells/0/state", json!("fail")),
    ];
    assert_eq!(exit(&with(passing(&["eu"]), &fail), Regions::All), Exit::Fails);

    let unknown = [
        ("/verdict", json!("unknown")),
        ("/decision", json!("block")),
        ("/regions/0/verdict", json!("unknown")),
        ("/regions/0/decision", json!("block")),
        ("/regions/0/cells/1/state", json!("unknown")),
    ];
    assert_eq!(exit(&with(passing(&["eu"]), &unknown), Regions::All), Exit::Unknown);

    // A lock: every cell passes, and the decision is to block.
    let locked = [("/decision", json!("block")), ("/regions/0/decision", json!("block"))];
    assert_eq!(exit(&with(passing(&["eu"]), &locked), Regions::All), Exit::Refused);
    // One where a cell fails as well.
    for code in ["locked", "quarantined", "not_named"] {
        let hold = ("/regions/0/reasons/0/code", json!(code));
        let both: Vec<_> = fail.iter().cloned().chain([hold]).collect();
        assert_eq!(exit(&with(passing(&["eu"]), &both), Regions::All), Exit::Refused);
    }
}

/// What it is, what is changed in an answer that passes, and what it must come to.
type Case = (&'static str, Vec<(String, Value)>, Exit);

/// Every single untruth in an answer that says "proceed" must end in something else than 0.
#[test]
fn no_inconsistent_answer_proceeds() {
    let cell = "/regions/0/cells/0";
    let cases: Vec<Case> = vec![
        ("another run", vec![("/id".into(), json!("run-2"))], Exit::NoVerdict),
        ("another application", vec![("/application".into(), json!("blog"))], Exit::Refused),
        ("another release", vec![("/release".into(), json!("r2"))], Exit::Refused),
        ("another manifest", vec![("/manifest_digest".into(), json!("sha256:x"))], Exit::Refused),
        ("another region", vec![("/regions/0/region".into(), json!("au"))], Exit::Refused),
        ("no region", vec![("/regions".into(), json!([]))], Exit::NoVerdict),
        ("no cell", vec![("/regions/0/cells".into(), json!([]))], Exit::NoVerdict),
        ("a cell that fails", vec![(format!("{cell}/state"), json!("fail"))], Exit::NoVerdict),
        ("a cell that is unknown", vec![(format!("{cell}/state"), json!("unknown"))], Exit::NoVerdict),
        ("a cell that nobody reached", vec![(format!("{cell}/agents/ok"), json!(0))], Exit::NoVerdict),
        ("a passing cell with a reason", vec![(format!("{cell}/reason"), json!("connect_timeout"))], Exit::NoVerdict),
        ("a lock that holds nothing", vec![("/regions/0/reasons/0/code".into(), json!("locked"))], Exit::NoVerdict),
        ("verdict unknown", vec![("/verdict".into(), json!("unknown"))], Exit::NoVerdict),
        ("verdict fail", vec![("/verdict".into(), json!("fail"))], Exit::NoVerdict),
        ("decision block", vec![("/decision".into(), json!("block"))], Exit::NoVerdict),
        ("region fail", vec![("/regions/0/verdict".into(), json!("fail"))], Exit::NoVerdict),
        ("region unknown", vec![("/regions/0/verdict".into(), json!("unknown"))], Exit::NoVerdict),
        ("region block", vec![("/regions/0/decision".into(), json!("block"))], Exit::NoVerdict),
        (
            "nothing required",
            vec![(format!("{cell}/required"), json!(false)), ("/regions/0/cells/1/required".into(), json!(false))],
            Exit::NoVerdict,
        ),
        ("a rollback that was not asked for", vec![("/rollback".into(), json!(true))], Exit::Refused),
    ];
    let eu = names(&["eu", "us"]);
    for (name, changes, want) in cases {
        let changes: Vec<(&str, Value)> = changes.iter().map(|(p, v)| (p.as_str(), v.clone())).collect();
        let judgement = judge(&with(passing(&["eu", "us"]), &changes), &asked(Regions::Exactly(&eu)));
        assert_eq!(judgement.exit, want, "{name}: {:?}", judgement.objections);
        assert!(!judgement.objections.is_empty(), "{name}");
    }
}

#[test]
fn regions_must_be_those_that_were_asked_for() {
    let (eu, three) = (names(&["eu"]), names(&["eu", "us", "au"]));
    let two = with(passing(&["eu", "us"]), &[]);
    assert_eq!(exit(&two, Regions::Exactly(&eu)), Exit::Refused, "one more than asked");
    assert_eq!(exit(&two, Regions::Exactly(&three)), Exit::Refused, "one less than asked");
    assert_eq!(exit(&two, Regions::Among(&three)), Exit::Refused, "not among them");
    assert_eq!(exit(&two, Regions::Among(&[])), Exit::Unknown, "of nothing, nothing is known");
    let twice = with(passing(&["eu", "eu"]), &[]);
    assert_eq!(exit(&twice, Regions::Exactly(&eu)), Exit::NoVerdict, "twice the same");
}

#[test]
fn a_region_that_was_not_named_does_not_count_in_a_check() {
    let fail_us = [
        ("/verdict", json!("fail")),
        ("/decision", json!("block")),
        ("/regions/1/verdict", json!("fail")),
        ("/regions/1/decision", json!("block")),
        ("/regions/1/cells/0/state", json!("fail")),
    ];
    let gate = with(passing(&["eu", "us"]), &fail_us);
    assert_eq!(exit(&gate, Regions::Among(&names(&["eu"]))), Exit::Proceed);
    assert_eq!(exit(&gate, Regions::Among(&names(&["us"]))), Exit::Fails);
    assert_eq!(exit(&gate, Regions::Among(&names(&["eu", "us"]))), Exit::Fails);
}

#[test]
fn no_change_needs_an_earlier_verdict_for_each_region() {
    let free = |region: usize| [0, 1].map(|cell| (format!("/regions/{region}/cells/{cell}/required"), json!(false)));
    let changes: Vec<(String, Value)> = free(0).into_iter().chain(free(1)).collect();
    let proven = |region: usize| [0, 1].map(|cell| (format!("/regions/{region}/cells/{cell}/proven_by"), json!("v1")));
    let proven: Vec<(String, Value)> = proven(0).into_iter().chain(proven(1)).collect();
    let mut changes: Vec<(&str, Value)> = changes.iter().map(|(p, v)| (p.as_str(), v.clone())).collect();
    let reason = json!({"code": "no_change", "text": "nothing changed", "fix": null});
    changes.push(("/regions/0/reasons", json!([reason])));
    assert_eq!(exit(&with(passing(&["eu", "us"]), &changes), Regions::All), Exit::NoVerdict);
    changes.push(("/regions/1/reasons", json!([reason])));
    assert_eq!(exit(&with(passing(&["eu", "us"]), &changes), Regions::All), Exit::NoVerdict, "by no verdict");
    changes.extend(proven.iter().map(|(p, v)| (p.as_str(), v.clone())));
    assert_eq!(exit(&with(passing(&["eu", "us"]), &changes), Regions::All), Exit::Proceed);
}

#[test]
fn what_fails_proceeds_only_where_each_cell_that_blocks_is_overridden() {
    let given = |digest: &str, region: &str, until: &str| {
        json!({"id": "o1", "application": "shop", "region": region, "fleet": "web", "dependency": "ai-cache", "digest": digest,
            "verdict": "run-0", "by": "ann", "reason": "known", "ticket": "OPS-1", "at": "2025-03-31T09:00:00Z",
            "expires_at": until})
    };
    let (later, earlier) = ("2025-03-31T11:00:00Z", "2025-03-31T10:00:01Z");
    let withdrawn = || {
        let mut given = given("sha256:1", "eu", later);
        given["withdrawn"] = json!("2025-03-31T09:30:00Z by bob");
        given
    };
    let of_another_application = || {
        let mut given = given("sha256:1", "eu", later);
        given["application"] = json!("blog");
        given
    };
    for (overrides, want) in [
        (json!([given("sha256:1", "eu", later)]), Exit::Proceed),
        (json!([]), Exit::NoVerdict),
        (json!([given("sha256:2", "eu", later)]), Exit::NoVerdict),
        (json!([given("sha256:1", "us", later)]), Exit::NoVerdict),
        (json!([given("sha256:1", "eu", earlier)]), Exit::NoVerdict),
        (json!([withdrawn()]), Exit::NoVerdict),
        (json!([of_another_application()]), Exit::NoVerdict),
    ] {
        let fail = [
            ("/verdict", json!("fail")),
            ("/regions/0/verdict", json!("fail")),
            ("/regions/0/cells/0/state", json!("fail")),
            ("/regions/0/cells/0/digest", json!("sha256:1")),
            ("/regions/0/overrides", overrides.clone()),
        ];
        assert_eq!(exit(&with(passing(&["eu"]), &fail), Regions::All), want, "{overrides}");
    }
}

#[test]
fn a_rollback_proceeds_by_what_it_is_and_only_where_it_was_asked_for() {
    let shown = [
        ("/verdict", json!("fail")),
        ("/rollback", json!(true)),
        ("/regions/0/verdict", json!("fail")),
        ("/regions/0/cells/0/state", json!("fail")),
        ("/regions/0/cells/0/required", json!(false)),
        ("/regions/0/cells/1/required", json!(false)),
    ];
    let gate = with(passing(&["eu"]), &shown);
    assert_eq!(judge(&gate, &Asked { rollback: true, ..asked(Regions::All) }).exit, Exit::Proceed);
    assert_eq!(judge(&gate, &asked(Regions::All)).exit, Exit::Refused);
    let plain = with(passing(&["eu"]), &[]);
    assert_eq!(judge(&plain, &Asked { rollback: true, ..asked(Regions::All) }).exit, Exit::Refused);
}

#[test]
fn a_stored_verdict_counts_until_its_time() {
    let eu = names(&["eu"]);
    let at = |text: &str| Asked { now: Some(text.parse().unwrap()), ..asked(Regions::Among(&eu)) };
    let gate = with(passing(&["eu"]), &[]);
    assert_eq!(judge(&gate, &at("2025-03-31T11:00:00Z")).exit, Exit::Proceed);
    assert_eq!(judge(&gate, &at("2025-03-31T11:00:01Z")).exit, Exit::Unknown);
    let odd = with(passing(&["eu"]), &[("/regions/0/valid_until", json!("tomorrow"))]);
    assert_eq!(judge(&odd, &at("2025-03-31T10:00:00Z")).exit, Exit::NoVerdict);
}

#[test]
fn the_first_that_applies() {
    use Exit::{Fails, NoVerdict, Proceed, Refused, Unknown, Usage};
    let order = [Usage, NoVerdict, Refused, Fails, Unknown, Proceed];
    for (i, first) in order.iter().enumerate() {
        for later in &order[i..] {
            assert_eq!(Exit::over([*later, *first]), *first);
        }
    }
    assert_eq!(Exit::over([]), Unknown, "nothing at all is never 0");
    assert_eq!(order.map(Exit::code), [64, 1, 4, 2, 3, 0]);
}

fn result(target: &str, outcome: &str, reason: Option<&str>) -> ProbeResult {
    let short = outcome == "fail";
    serde_json::from_value(json!({"target": target, "region": "eu", "fleet": "web", "agent": "a", "outcome": outcome,
        "reason": reason, "proof": "connected", "addresses": [{"address": "10.0.0.1:1",
            "outcome": if short { "short" } else { "ok" }, "reason": if short { reason } else { None }, "proof": "connected",
            "phases": {"resolve_ms": null, "connect_ms": 1.0, "tls_ms": null, "protocol_ms": null}}]}))
    .unwrap()
}

#[test]
fn a_probe_passes_only_if_every_target_does() {
    let targets = names(&["tcp://a:1", "tcp://b:1"]);
    let a = result("tcp://a:1", "pass", None);
    let judged = |results: &[ProbeResult]| judge_probe(results, &targets).exit;
    assert_eq!(judged(&[]), Exit::Unknown);
    assert_eq!(judged(std::slice::from_ref(&a)), Exit::Unknown, "nothing is known of b");
    assert_eq!(judged(&[a.clone(), result("tcp://b:1", "pass", None)]), Exit::Proceed);
    assert_eq!(judged(&[a.clone(), result("tcp://b:1", "unknown", Some("silent"))]), Exit::Unknown);
    let fails = result("tcp://b:1", "fail", Some("connect_refused"));
    assert_eq!(judged(&[a.clone(), fails]), Exit::Fails);
    let hollow = ProbeResult { addresses: Vec::new(), ..result("tcp://b:1", "pass", None) };
    assert_eq!(judged(&[a, hollow]), Exit::NoVerdict, "a pass without an address");
}

/// What a controller says of an override is looked at by the time that is asked about, not by the verdict's.
#[test]
fn an_override_of_a_stored_verdict_holds_by_the_time_of_asking() {
    let given = |at: &str, until: &str| {
        json!([{"id": "o1", "application": "shop", "region": "eu", "fleet": "web", "dependency": "ai-cache", "digest": "sha256:1",
            "verdict": "run-1", "by": "ann", "reason": "known", "ticket": "OPS-1", "at": at, "expires_at": until}])
    };
    let fail = |overrides: Value| {
        let changes = [
            ("/verdict", json!("fail")),
            ("/regions/0/verdict", json!("fail")),
            ("/regions/0/cells/0/state", json!("fail")),
            ("/regions/0/cells/0/digest", json!("sha256:1")),
            ("/regions/0/overrides", overrides),
        ];
        with(passing(&["eu"]), &changes)
    };
    let eu = names(&["eu"]);
    let at = |text: &str| Asked { now: Some(text.parse().unwrap()), ..asked(Regions::Among(&eu)) };
    // Given after the run, and not ended yet.
    let since = fail(given("2025-03-31T10:10:00Z", "2025-03-31T10:30:00Z"));
    assert_eq!(judge(&since, &at("2025-03-31T10:29:59Z")).exit, Exit::Proceed);
    assert_eq!(judge(&since, &at("2025-03-31T10:30:00Z")).exit, Exit::NoVerdict, "the moment it ends");
    // It held when the verdict was given, and does not any more.
    let over = fail(given("2025-03-31T09:00:00Z", "2025-03-31T10:05:00Z"));
    assert_eq!(judge(&over, &asked(Regions::All)).exit, Exit::Proceed);
    assert_eq!(judge(&over, &at("2025-03-31T10:06:00Z")).exit, Exit::NoVerdict);
}

#[test]
fn where_all_is_asked_for_nothing_is_taken_as_proven() {
    let gate = with(
        passing(&["eu"]),
        &[("/regions/0/cells/0/required", json!(false)), ("/regions/0/cells/0/proven_by", json!("v1"))],
    );
    assert_eq!(judge(&gate, &asked(Regions::All)).exit, Exit::Proceed);
    assert_eq!(judge(&gate, &Asked { all: true, ..asked(Regions::All) }).exit, Exit::Refused);
}

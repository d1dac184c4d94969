//! Wrong usage through the real binary: exit 64, and a text that says what is wrong and what to do.

use crate::support::{MANIFEST, Reply, Run, Server, digest, file, preflight};
use serde_json::{Value, json};

fn run(args: &[&str]) -> Run {
    Run::of(preflight(args).output().unwrap())
}

#[test]
fn wrong_flags_exit_64() {
    let cases: [&[&str]; 9] = [
        &["--nonsense"],
        &["gate", "--nonsense"],
        &["nonsense"],
        &[],
        &["gate", "--manifest", "x", "--release", "r"],
        &["gate", "--manifest", "x", "--release", "r", "--region", "eu", "--all-regions"],
        &["gate", "--manifest", "x", "--release", "r", "--region", "eu", "--wait", "soon"],
        &["verdict", "check", "id", "--release", "r"],
        &["probe", "--local", "--region", "eu", "tcp://x:1"],
    ];
    for args in cases {
        let run = run(args);
        assert_eq!(run.code, 64, "{args:?}: {run:?}");
        assert!(!run.stderr.is_empty() && run.stdout.is_empty(), "{args:?}: {run:?}");
    }
    assert_eq!(run(&["--help"]).code, 0);
    assert_eq!(run(&["--version"]).code, 0);
}

#[test]
fn wrong_flags_come_with_a_remedy() {
    let cases: [(&[&str], &str); 8] = [
        (&["gate"], "--all-regions stands for every region"),
        (&["gate", "--manifest", "x", "--region", "eu"], "Add what is missing"),
        (&["gate", "--manifest", "x", "--release", "r", "--region", "eu", "--all-regions"], "Leave one of the two out"),
        (&["probe"], "such as tcp://10.0.3.7:5432"),
        (&["probe", "tcp://a:1", "--watch"], "leave out the flag that means something only beside it"),
        (&["probe", "--local", "tcp://a:1", "--watch", "--count", "0"], "write a whole number, 1 or more"),
        (&["gat"], "lists the commands"),
        (&["token", "create", "--name", "a", "--scope", "root"], "[possible values: read,"),
    ];
    for (args, says) in cases {
        let run = run(args);
        assert!(run.code == 64 && run.stderr.contains(says), "{args:?}: {run:?}");
    }
}

#[test]
fn who_reads_the_first_line_only_is_told_of_no_error() {
    use std::io::{BufRead as _, BufReader, Read as _};
    // Again and again: the reader is gone before it ends.
    let mut command = preflight(&["probe", "--local", "tcp://127.0.0.1:1", "--watch", "--interval", "100ms"]);
    let mut child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    child.wait().unwrap();
    assert!(!first.is_empty() && said.is_empty(), "{first:?} {said:?}");
}

#[test]
fn files_that_cannot_be_read_exit_64() {
    let latin = file("latin.yaml", b"application: shop\ndependencies: caf\xe9\n");
    for (path, text) in [
        ("/nonexistent/preflight.yaml", "No such file"),
        ("/", "it is a directory"),
        (latin.to_str().unwrap(), ":2:18: the manifest is not UTF-8"),
    ] {
        for args in
            [vec!["manifest", "check", path], vec!["gate", "--manifest", path, "--region", "eu", "--release", "r"]]
        {
            let run = run(&args);
            assert_eq!(run.code, 64, "{args:?}: {run:?}");
            assert!(run.stderr.contains(text), "{args:?}: {run:?}");
        }
    }
}

#[test]
fn a_wrong_manifest_is_shown_with_its_line_before_anybody_is_asked() {
    let wrong = file("wrong.yaml", "application: shop\ndependencies:\n  ai-cache:\n    targte: redis://x:1\n");
    let path = wrong.to_str().unwrap();
    for args in [vec!["manifest", "check", path], vec!["gate", "--manifest", path, "--region", "eu", "--release", "r"]]
    {
        let run = run(&args);
        assert_eq!(run.code, 64, "{run:?}");
        assert!(run.stderr.contains(&format!("{path}:4:5: ")), "{run:?}");
        assert!(run.stderr.contains("\n 4 |     targte: redis://x:1\n   |     ^\n  fix: "), "{run:?}");
    }
}

#[test]
fn a_manifest_must_fit_the_inventory() {
    let manifest = file("fits.yaml", MANIFEST);
    let inventory = |application: &str| {
        format!(
            "regions:\n  eu:\n    fleets:\n      web: {{}}\napplications:\n  {application}:\n    fleets: {{eu: [web]}}\n"
        )
    };
    let (good, other) = (file("good.inventory", inventory("shop")), file("other.inventory", inventory("blog")));
    let check = |inventory: &std::path::Path| {
        run(&[
            "manifest",
            "check",
            manifest.to_str().unwrap(),
            "--inventory",
            inventory.to_str().unwrap(),
            "-o",
            "json",
        ])
    };
    let fits = check(&good);
    assert_eq!(fits.code, 0, "{fits:?}");
    assert_eq!(fits.json()["plan"]["cells"][0]["target"], "redis://ai-cache.internal:6379");
    let unknown = check(&other);
    assert_eq!(unknown.code, 64, "{unknown:?}");
    assert!(unknown.stderr.contains("does not know application 'shop'"), "{unknown:?}");
}

#[test]
fn without_a_controller_the_text_says_how_to_name_one() {
    let run = run(&["agents"]);
    assert_eq!(run.code, 64, "{run:?}");
    assert!(run.stderr.contains("no controller is named") && run.stderr.contains("--context"), "{run:?}");
}

#[test]
fn a_part_of_the_set_is_wrong_and_the_files_token_goes_nowhere_else() {
    let server = Server::start(|_, _| Reply::lines(&[json!({"agents": [], "remarks": []})]));
    let context = file("client.toml", "url = \"https://127.0.0.1:1\"\ntoken = \"files-token\"\nca_pem = \"x\"\n");
    let mut command = preflight(&["agents"]);
    command.env("PREFLIGHT_URL", &server.url).env("PREFLIGHT_CONTEXT", &context);
    let run = Run::of(command.output().unwrap());
    assert_eq!(run.code, 64, "{run:?}");
    assert!(run.stderr.contains("missing: PREFLIGHT_TOKEN"), "{run:?}");
    assert!(server.requests().is_empty());
}

#[test]
fn a_context_file_serves_and_a_broken_one_does_not_show_its_token() {
    let server = Server::start(|_, _| Reply::lines(&[json!({"agents": [], "remarks": []})]));
    let good = file("good.toml", format!("url = \"{}\"\ntoken = \"files-token\"\n", server.url));
    let good = run(&["--context", good.to_str().unwrap(), "agents", "-o", "json"]);
    assert_eq!(good.code, 0, "{good:?}");
    assert_eq!(server.requests()[0].authorization, "Bearer files-token");
    let broken = file("broken.toml", "url = \"https://x\"\ntoken = files-token\n");
    let broken = run(&["agents", "--context", broken.to_str().unwrap()]);
    assert_eq!(broken.code, 64, "{broken:?}");
    assert!(!broken.stderr.contains("files-token"), "{broken:?}");
}

/// A verdict for shop r1 in eu, valid until 10:44; the controller's clock says 10:30.
fn stored(valid_until: &'static str) -> Server {
    Server::start(move |_, request| {
        assert_eq!(request.line, "GET /v1/verdicts/v1/standing");
        let cell = json!({"fleet": "web", "dependency": "d", "target": "tcp://x:1", "digest": "sha256:0", "required": true, "state": "pass",
            "reason": null, "evidence": [], "agents": {"asked": 2, "ok": 2, "short": 0, "void": 0, "silent": 0}});
        let gate: Value = json!({"id": "v1", "application": "shop", "release": "r1", "verdict": "pass", "decision": "proceed",
            "manifest_digest": digest(MANIFEST), "started_at": "2025-03-31T10:29:00Z", "ended_at": "2025-03-31T10:29:01Z",
            "regions": [{"region": "eu", "verdict": "pass", "decision": "proceed", "valid_until": valid_until, "overrides": [],
                "cells": [cell], "findings": [], "reasons": []}]});
        Reply::lines(&[json!({"gate": gate, "objections": []})])
    })
}

#[test]
fn a_verdict_counts_for_what_it_was_given_for_and_while_it_is_valid() {
    let (manifest, other) = (file("m.yaml", MANIFEST), file("m2.yaml", format!("{MANIFEST}# changed\n")));
    let server = stored("2025-03-31T10:44:00Z");
    let check = |application: &str, release: &str, region: &str, manifest: &std::path::Path| {
        let manifest = manifest.to_str().unwrap();
        let args = [
            "verdict",
            "check",
            "v1",
            "--application",
            application,
            "--release",
            release,
            "--region",
            region,
            "--manifest",
            manifest,
        ];
        server.run(&args)
    };
    assert_eq!(check("shop", "r1", "eu", &manifest).code, 0);
    for run in [
        check("blog", "r1", "eu", &manifest),
        check("shop", "r2", "eu", &manifest),
        check("shop", "r1", "us", &manifest),
        check("shop", "r1", "eu,us", &manifest),
        check("shop", "r1", "eu", &other),
    ] {
        assert_eq!(run.code, 4, "{run:?}");
        assert!(run.stdout.starts_with("BLOCK"), "{run:?}");
    }
    // By the controller's clock, not this host's.
    let old = stored("2025-03-31T10:29:59Z");
    let run = old.run(&[
        "verdict",
        "check",
        "v1",
        "--application",
        "shop",
        "--release",
        "r1",
        "--region",
        "eu",
        "-o",
        "json",
    ]);
    assert_eq!((run.code, &run.json()["decision"], &run.json()["verdict"]), (3, &json!("block"), &json!("unknown")));
}

/// Ctrl-C ends a command that waits: 130, with a line that says so.
#[test]
fn an_interrupted_command_says_so() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let manifest = file("preflight.yaml", MANIFEST).display().to_string();
    let mut command = preflight(&["gate", "--manifest", &manifest, "--region", "eu", "--release", "r1"]);
    command.env("PREFLIGHT_URL", format!("http://{}", listener.local_addr().unwrap())).env("PREFLIGHT_TOKEN", "t");
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let waiting = command.spawn().unwrap();
    let _connection = listener.accept().unwrap();
    let kill = std::process::Command::new("kill").args(["-INT", &waiting.id().to_string()]).status().unwrap();
    let run = Run::of(waiting.wait_with_output().unwrap());
    assert!(kill.success() && run.code == 130, "{run:?}");
    assert!(run.stderr.contains("interrupted: there is no result"), "{run:?}");
    assert_eq!(run.stdout, "");
}

#[test]
fn a_join_token_stands_alone_on_stdout() {
    let server = Server::start(|_, _| {
        Reply::lines(&[json!({"id": "t-1", "token": "pfj_secret", "expires_at": "2025-03-31T10:40:00Z"})])
    });
    let run = server.run(&["token", "join", "--region", "eu", "--fleet", "web", "--ttl", "1h", "--uses", "3"]);
    assert_eq!((run.code, run.stdout.as_str()), (0, "pfj_secret\n"), "{run:?}");
    assert!(run.stderr.contains("t-1"), "{run:?}");
    let [request] = server.requests().try_into().unwrap();
    assert_eq!(request.body, json!({"region": "eu", "fleet": "web", "ttl_s": 3600, "uses": 3, "source": null}));
}

#[test]
fn a_name_cannot_become_another_path() {
    let server = Server::start(|_, _| Reply::lines(&[]));
    let run = server.run(&["agents", "revoke", "../tokens/x?y", "--reason", "stolen"]);
    assert_eq!(run.code, 0, "{run:?}");
    let [request] = server.requests().try_into().unwrap();
    assert_eq!(request.line, "POST /v1/agents/..%2Ftokens%2Fx%3Fy/revoke");
    assert_eq!(request.body, json!({"reason": "stolen"}));
}

#[test]
fn reasons_are_explained_and_near_misses_named() {
    let verdicts = run(&["explain", "no_change"]);
    assert!(verdicts.code == 0 && verdicts.stdout.contains("what was removed is counted"), "{verdicts:?}");
    let known = run(&["explain", "connect_timeout"]);
    assert_eq!(known.code, 0);
    assert!(known.stdout.contains("security group"), "{known:?}");
    let unknown = run(&["explain", "connect_timout"]);
    assert_eq!(unknown.code, 64);
    assert!(unknown.stderr.contains("Do you mean connect_timeout?"), "{unknown:?}");
}

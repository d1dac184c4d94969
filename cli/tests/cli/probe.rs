//! `preflight probe` through the real binary: results as they come, and from this host.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::Stdio;
use std::sync::mpsc;

use crate::support::{Nobody, Reply, Run, Server, file, preflight};
use serde_json::{Value, json};

const TARGET: &str = "redis://ai-cache.internal:6379";

fn result(agent: &str, outcome: &str) -> Value {
    let reason = if outcome == "pass" { Value::Null } else { json!("connect_timeout") };
    json!({"target": TARGET, "region": "eu", "fleet": "web", "agent": agent, "outcome": outcome, "reason": reason, "proof": "protocol",
        "addresses": [{"address": "10.0.3.7:6379", "outcome": if outcome == "pass" { "ok" } else { "short" }, "reason": reason,
            "proof": "protocol", "phases": {"resolve_ms": 0.4, "connect_ms": 0.3, "tls_ms": null, "protocol_ms": 0.2}}]})
}

fn event(name: &str, mut value: Value) -> Value {
    value["event"] = json!(name);
    value
}

fn done(results: &[Value]) -> Value {
    json!({"event": "done", "id": "run", "results": results})
}

#[test]
fn exits_over_all_results() {
    let cases: [(&[Value], i32); 4] = [
        (&[result("a", "pass"), result("b", "pass")], 0),
        (&[result("a", "pass"), result("b", "fail")], 2),
        (&[result("a", "pass"), result("b", "unknown")], 3),
        (&[], 3),
    ];
    for (results, code) in cases {
        let lines: Vec<Value> = results.iter().map(|r| event("result", r.clone())).chain([done(results)]).collect();
        let server = Server::start(move |_, _| Reply::lines(&lines));
        let table = server.run(&["probe", TARGET]);
        assert_eq!(table.code, code, "{table:?}");
        assert_eq!(table.stdout.matches("eu/web/").count(), results.len(), "each is shown once: {table:?}");
        let json = server.run(&["probe", TARGET, "-o", "json"]);
        assert_eq!(json.code, code, "{json:?}");
        assert_eq!(json.json()["results"], json!(results));
    }
}

#[test]
fn a_pass_for_another_target_proves_nothing() {
    let server = Server::start(|_, _| Reply::lines(&[done(&[result("a", "pass")])]));
    let run = server.run(&["probe", TARGET, "tcp://other:1"]);
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.stdout.contains("nothing is known of tcp://other:1"), "{run:?}");
}

#[test]
fn a_run_that_breaks_off_is_no_answer() {
    let server = Server::start(|_, _| Reply::lines(&[event("result", result("a", "pass"))]).and_break());
    let run = server.run(&["probe", TARGET]);
    assert_eq!(run.code, 1, "{run:?}");
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn sends_the_targets_in_canonical_form() {
    let server = Server::start(|_, _| Reply::lines(&[done(&[result("a", "pass")])]));
    let run = server.run(&["probe", "REDIS://AI-cache.internal", "--region", "eu", "--fleet", "web", "--wait", "5s"]);
    assert_eq!(run.code, 0, "{run:?}");
    let [request] = server.requests().try_into().unwrap();
    assert_eq!(
        request.body,
        json!({"targets": [TARGET], "region": "eu", "fleet": "web", "application": null, "host": null, "wait_ms": 5000})
    );
}

/// The controller holds back the end of its answer until the test has read the first result.
#[test]
fn results_are_shown_as_they_come() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (shown, wait) = mpsc::channel::<()>();
    let controller = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut seen = vec![0; 65_536];
        let _ = stream.read(&mut seen).unwrap();
        let chunk = |value: Value| format!("{:x}\r\n{value}\n\r\n", value.to_string().len() + 1);
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all((head.to_owned() + &chunk(event("result", result("a", "pass")))).as_bytes()).unwrap();
        wait.recv().unwrap();
        stream.write_all((chunk(done(&[result("a", "pass")])) + "0\r\n\r\n").as_bytes()).unwrap();
    });
    let mut command = preflight(&["probe", TARGET]);
    command.env("PREFLIGHT_URL", format!("http://{address}")).env("PREFLIGHT_TOKEN", "t");
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("eu/web/a"));
    shown.send(()).unwrap();
    controller.join().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn from_this_host_without_a_controller() {
    let open = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = Nobody::new();
    let (open_url, closed_url) = (format!("tcp://{}", open.local_addr().unwrap()), format!("tcp://{}", closed.address));

    let pass = Run::of(preflight(&["probe", "--local", &open_url]).output().unwrap());
    assert_eq!(pass.code, 0, "{pass:?}");
    assert!(pass.stdout.contains("✓ pass") && pass.stdout.contains("TCP connects"), "{pass:?}");

    let fail = Run::of(preflight(&["probe", "--local", &open_url, &closed_url, "-o", "json"]).output().unwrap());
    assert_eq!(fail.code, 2, "{fail:?}");
    let results = fail.json()["results"].as_array().unwrap().clone();
    let refused = results.iter().find(|r| r["target"] == *closed_url).unwrap();
    assert_eq!((&refused["outcome"], &refused["reason"]), (&json!("fail"), &json!("connect_refused")));

    let words = Run::of(preflight(&["probe", "--local", &closed_url]).output().unwrap());
    assert!(words.stdout.contains("the connection was refused: mostly the host was reached"), "{words:?}");
    assert!(words.stdout.contains("→ Check that the service runs and listens"), "{words:?}");
}

#[test]
fn watching_counts_what_fails_and_how_long_the_rest_takes() {
    let open = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = Nobody::new();
    let (open_url, closed_url) = (format!("tcp://{}", open.local_addr().unwrap()), format!("tcp://{}", closed.address));
    let watch = ["--watch", "--count", "3", "--interval", "100ms"];

    let words = Run::of(preflight(&["probe", "--local", &open_url, &closed_url]).args(watch).output().unwrap());
    assert_eq!(words.code, 2, "{words:?}");
    let lines = |text: &str| words.stdout.lines().filter(|line| line.contains(text)).count();
    assert_eq!((lines("Z  ✓"), lines("Z  ✗")), (3, 3), "{words:?}");
    assert_eq!(lines("0 of 3 probes failed (0.0 %) · latency min"), 1, "{words:?}");
    assert_eq!(lines("3 of 3 probes failed (100.0 %) · 3 connect_refused"), 1, "{words:?}");

    let run = Run::of(preflight(&["probe", "--local", &open_url, "-o", "json"]).args(watch).output().unwrap());
    assert_eq!(run.code, 0, "{run:?}");
    let documents: Vec<Value> = run.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(documents.len(), 4, "{run:?}");
    assert_eq!(documents[0]["results"][0]["outcome"], "pass");
    let endpoint = &documents[3]["endpoints"][0];
    assert_eq!((&endpoint["probes"], &endpoint["failed"], &endpoint["silent"]), (&json!(3), &json!(0), &json!(0)));
    assert!(endpoint["latency_ms"]["p99"].as_f64().unwrap() > 0.0, "{run:?}");
}

#[test]
fn watching_ends_with_its_summary_when_it_is_told_to_stop() {
    for name in ["-TERM", "-INT"] {
        let open = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("tcp://{}", open.local_addr().unwrap());
        let mut command = preflight(&["probe", "--local", &url, &url, "--watch", "--interval", "100ms"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut text = String::new();
        lines.read_line(&mut text).unwrap();
        assert!(std::process::Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
        lines.read_to_string(&mut text).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{name}: {text}");
        assert_eq!(
            text.matches("probes failed (0.0 %)").count() + text.matches("probe failed (0.0 %)").count(),
            1,
            "{text}"
        );
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("named twice, probed once"), "{said}");
    }
}

#[test]
fn all_that_a_host_needs_by_its_manifest() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let open = listener.local_addr().unwrap();
    let closed = Nobody::new();
    let text = format!(
        "application: shop\ndependencies:\n  cache: {{target: \"tcp://127.0.0.1:{}\"}}\n  \
         queue: {{target: \"tcp://127.0.0.1:{}\", fleets: {{only: [worker], because: batch}}}}\n  \
         admin: {{target: tcp://127.0.0.1:1, expect: blocked}}\n  \
         leak: {{target: \"tcp://127.0.0.1:{}\", fleets: {{only: [leaky], because: test}}, expect: blocked}}\n",
        open.port(),
        closed.address.port(),
        open.port()
    );
    let manifest = file("preflight.yaml", text);
    let manifest = manifest.to_str().unwrap();
    let run = |more: &[&str]| {
        let mut command = preflight(&["probe", "--local", "--manifest", manifest]);
        Run::of(command.args(more).output().unwrap())
    };
    let text = "regions: {eu: {fleets: {web: {}, worker: {}, leaky: {}}}}\napplications: {shop: {fleets: {eu: [web, worker, leaky]}}}\n";
    let inventory = file("inventory.yaml", text);
    let known = ["--inventory", inventory.to_str().unwrap(), "--region", "eu"];
    let unnamed = run(&[]);
    assert_eq!(unnamed.code, 64, "{unnamed:?}");
    assert!(unnamed.stderr.contains("--fleet FLEET") && unnamed.stderr.contains(":4:"), "{unnamed:?}");
    let unknown = run(&["--fleet", "web"]);
    assert!(unknown.code == 64 && unknown.stderr.contains("--inventory FILE"), "{unknown:?}");
    let of = |fleet: &str| run(&[known.as_slice(), &["--fleet", fleet]].concat());
    let web = of("web");
    assert_eq!(web.code, 0, "{web:?}");
    assert!(web.stdout.contains("cache  tcp://") && web.stderr.contains("queue  not for fleet web: batch"), "{web:?}");
    assert!(web.stderr.contains("admin  it must be blocked and was not reached"), "{web:?}");
    let worker = of("worker");
    assert_eq!(worker.code, 2, "{worker:?}");
    let leak = of("leaky");
    assert!(leak.code == 2 && leak.stdout.contains("reachable"), "{leak:?}");
    drop(listener);
    let _closed = Nobody::at(open);
    assert_eq!(of("web").code, 2);
}

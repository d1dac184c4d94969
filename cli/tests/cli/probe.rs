//! `preflight probe` through the real binary: results as they come, and from this host.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::Stdio;
use std::sync::mpsc;

use crate::support::{Reply, Run, Server, preflight};
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
        json!({"targets": [TARGET], "region": "eu", "fleet": "web", "application": null, "wait_ms": 5000})
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
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (open_url, closed_url) = (format!("tcp://{}", open.local_addr().unwrap()), format!("tcp://{closed}"));

    let pass = Run::of(preflight(&["probe", "--local", &open_url]).output().unwrap());
    assert_eq!(pass.code, 0, "{pass:?}");
    assert!(pass.stdout.contains("pass (connected)") && pass.stdout.contains("this host"), "{pass:?}");

    let fail = Run::of(preflight(&["probe", "--local", &open_url, &closed_url, "-o", "json"]).output().unwrap());
    assert_eq!(fail.code, 2, "{fail:?}");
    let results = fail.json()["results"].as_array().unwrap().clone();
    let refused = results.iter().find(|r| r["target"] == *closed_url).unwrap();
    assert_eq!((&refused["outcome"], &refused["reason"]), (&json!("fail"), &json!("connect_refused")));

    let words = Run::of(preflight(&["probe", "--local", &closed_url]).output().unwrap());
    assert!(words.stdout.contains("connect_refused: the connection was refused"), "{words:?}");
}

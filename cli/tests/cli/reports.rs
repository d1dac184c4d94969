//! The gate's output formats through the real binary: what a pipeline reads, and what becomes of it where it cannot be written.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pulldown_cmark::{Event, Options, Parser, Tag};
use serde_json::{Value, json};

use crate::gate::{self, answering};
use crate::support::{Reply, Run, Server, file, preflight};

const FORMATS: [&str; 5] = ["table", "json", "markdown", "junit", "github"];

/// The command, without what a runner around this test has set.
fn command(server: &Server, more: &[&str]) -> Command {
    let args = gate::args(more);
    server.command(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

fn run(server: &Server, more: &[&str]) -> Run {
    Run::of(command(server, more).output().unwrap())
}

/// A path of this test's own at which there is nothing.
fn absent(name: &str) -> PathBuf {
    let path = file(name, "");
    fs::remove_file(&path).unwrap();
    path
}

/// Runs with a report in each format; the run, and the reports in the order of the formats.
fn reported(server: &Server, more: &[&str]) -> (Run, Vec<String>) {
    let paths: Vec<PathBuf> = FORMATS.iter().map(|format| absent(format)).collect();
    let reports: Vec<String> =
        FORMATS.iter().zip(&paths).map(|(format, path)| format!("{format}={}", path.display())).collect();
    let words: Vec<&str> = reports.iter().flat_map(|report| ["--report", report]).chain(more.iter().copied()).collect();
    let run = run(server, &words);
    let texts = paths.iter().map(|path| fs::read_to_string(path).unwrap_or_else(|error| panic!("{error}: {run:?}")));
    let texts = texts.collect();
    (run, texts)
}

#[test]
fn the_exit_code_is_the_verdicts_in_every_format() {
    for (state, code) in [("pass", 0), ("fail", 2), ("unknown", 3)] {
        let server = answering(state);
        for format in FORMATS {
            let run = run(&server, &["-o", format]);
            assert_eq!(run.code, code, "{format}: {run:?}");
        }
        let (run, reports) = reported(&server, &[]);
        assert_eq!(run.code, code, "{run:?}");
        let [table, as_json, markdown, junit, github] = reports.try_into().unwrap();
        let word = if code == 0 { "PROCEED" } else { "BLOCK" };
        assert!(table.starts_with(word) && run.stdout == table, "{table}");
        assert_eq!(serde_json::from_str::<Value>(&as_json).unwrap()["verdict"], state);
        assert!(markdown.contains(word), "{markdown}");
        let xml = roxmltree::Document::parse(&junit).unwrap();
        let case = xml.descendants().find(|node| node.has_tag_name("testcase")).unwrap();
        assert_eq!((case.attribute("classname"), case.attribute("name")), (Some("eu/web"), Some("ai-cache")));
        let tags: Vec<&str> =
            case.children().filter(roxmltree::Node::is_element).map(|n| n.tag_name().name()).collect();
        let first = match state {
            "pass" => "system-out",
            "fail" => "failure",
            _ => "error",
        };
        assert_eq!(tags.first(), Some(&first), "{junit}");
        assert_eq!(github.is_empty(), state == "pass", "{github}");
    }
}

/// A lock holds back what passes and what fails, also with --advisory, and every format says who, why and what to do, and reads as a block.
#[test]
fn what_the_guard_holds_is_refused_in_every_format() {
    for (code, more) in ["locked", "quarantined", "not_named"].into_iter().zip([&[][..], &["--advisory"], &[]]) {
        for state in ["pass", "fail"] {
            let server = Server::start(move |_, request| {
                let mut answer = gate::gate(request, state);
                let hold = json!({"code": code, "text": "eu is held by ann since noon: an incident", "fix": "`preflight unlock` names it."});
                answer["decision"] = json!("block");
                answer["regions"][0]["decision"] = json!("block");
                answer["regions"][0]["reasons"].as_array_mut().unwrap().insert(0, hold);
                Reply::lines(&[answer])
            });
            let (run, reports) = reported(&server, more);
            assert_eq!(run.code, 4, "{run:?}");
            assert!(run.stdout.starts_with("BLOCK"), "{run:?}");
            for (format, report) in FORMATS.iter().zip(&reports) {
                assert!(report.contains("held by ann since noon: an incident"), "{format}: {report}");
                assert!(report.contains("preflight unlock") || *format == "junit", "{format}: {report}");
                assert!(!report.contains("ADVISORY"), "{format}: {report}");
            }
            let xml = roxmltree::Document::parse(&reports[3]).unwrap();
            let case = xml
                .descendants()
                .find(|node| node.has_tag_name("testcase") && node.attribute("name") == Some("decision"))
                .unwrap();
            assert!(case.children().any(|node| node.has_tag_name("failure")), "{}", reports[3]);
            assert!(
                reports[4].starts_with("::error title=preflight%3A ")
                    || reports[4].starts_with("::error title=preflight"),
                "{}",
                reports[4]
            );
        }
    }
}

#[test]
fn advisory_says_so_in_every_format() {
    let server = answering("fail");
    let (run, reports) = reported(&server, &["--advisory"]);
    assert_eq!(run.code, 0, "{run:?}");
    for (format, report) in FORMATS.iter().zip(&reports) {
        let loud = if *format == "json" { "\"advisory\": true" } else { "ADVISORY" };
        assert!(report.contains(loud), "{format}: {report}");
        assert!(report.contains("timeout"), "the verdict stays: {format}: {report}");
    }
    assert!(reports[4].contains("::warning ") && !reports[4].contains("::error "), "{}", reports[4]);
    // Also where it proceeds, and where there is no verdict at all.
    let (run, reports) = reported(&answering("pass"), &["--advisory"]);
    assert_eq!(run.code, 0, "{run:?}");
    for (format, report) in FORMATS.iter().zip(&reports) {
        let loud = if *format == "json" { "\"advisory\": true" } else { "ADVISORY" };
        assert!(report.contains(loud), "{format}: {report}");
        assert!(!report.contains("without --advisory it would"), "{format}: {report}");
    }
    let server = Server::start(|_, _| Reply::problem(500, "internal", "the disk is full"));
    let (run, reports) = reported(&server, &["--advisory"]);
    assert_eq!(run.code, 0, "{run:?}");
    for (format, report) in FORMATS.iter().zip(&reports) {
        let loud = if *format == "json" { "\"advisory\": true" } else { "ADVISORY" };
        assert!(report.contains(loud) && report.contains("the disk is full"), "{format}: {report}");
    }
}

/// Where there is no verdict, no report of an earlier run is left to be taken for this one's.
#[test]
fn without_a_verdict_the_reports_say_that_there_is_none() {
    let server = Server::start(|_, _| Reply::problem(500, "internal", "the disk is full"));
    let (run, reports) = reported(&server, &["-o", "github"]);
    assert_eq!(run.code, 1, "{run:?}");
    let [table, as_json, markdown, junit, github] = reports.try_into().unwrap();
    for report in [&table, &as_json, &markdown, &junit, &github] {
        assert!(report.contains("the disk is full"), "{report}");
    }
    assert_eq!(serde_json::from_str::<Value>(&as_json).unwrap()["error"]["exit"], 1);
    let xml = roxmltree::Document::parse(&junit).unwrap();
    assert_eq!(xml.root_element().attribute("errors"), Some("1"));
    assert!(xml.descendants().any(|node| node.has_tag_name("error")));
    assert!(github.starts_with("::error title=preflight%3A no verdict::"), "{github}");
    assert_eq!(run.stdout, github);
    assert_eq!(run.stderr.matches("the disk is full").count(), 1, "{run:?}");
}

#[test]
fn a_report_that_cannot_be_written_hides_no_verdict_and_makes_no_pass() {
    let nowhere = absent("nowhere").join("report.xml");
    let broken = format!("junit={}", nowhere.display());
    let after = absent("after.json");
    let also = format!("json={}", after.display());
    let words = ["--report", &broken, "--report", &also];
    for (state, code) in [("pass", 1), ("fail", 2), ("unknown", 3)] {
        let run = run(&answering(state), &words);
        assert_eq!(run.code, code, "{run:?}");
        assert!(run.stdout.contains(&format!("verdict {state}")), "{run:?}");
        assert!(run.stderr.contains(&nowhere.display().to_string()), "{run:?}");
        assert_eq!(serde_json::from_str::<Value>(&fs::read_to_string(&after).unwrap()).unwrap()["verdict"], state);
    }
    let advisory = run(&answering("pass"), &[words.as_slice(), &["--advisory"]].concat());
    assert_eq!(advisory.code, 0, "{advisory:?}");
    assert!(advisory.stderr.contains("ADVISORY") && advisory.stderr.contains("cannot write"), "{advisory:?}");
    // Nothing may stand in the way of a rollback.
    let server = Server::start(|_, request| {
        let mut answer = gate::gate(request, "fail");
        answer["rollback"] = json!(true);
        answer["decision"] = json!("proceed");
        answer["regions"][0]["decision"] = json!("proceed");
        Reply::lines(&[answer])
    });
    let rollback = run(&server, &[words.as_slice(), &["--rollback"]].concat());
    assert_eq!(rollback.code, 0, "{rollback:?}");
    assert!(rollback.stderr.contains("cannot write"), "{rollback:?}");
    // Nor of an emergency, whether there is somebody to ask or not; what a controller blocks stays blocked.
    let break_glass = ["--break-glass", "--reason", "eu is down", "--ticket", "OPS-7"];
    let down = || Server::start(|_, _| Reply::problem(500, "internal", "the disk is full"));
    for (server, code) in [(answering("pass"), 0), (answering("fail"), 2), (down(), 0)] {
        let emergency = run(&server, &[words.as_slice(), &break_glass].concat());
        assert_eq!(emergency.code, code, "{emergency:?}");
        assert!(emergency.stderr.contains("cannot write") && after.exists(), "{emergency:?}");
        fs::remove_file(&after).unwrap();
    }
}

#[test]
fn two_reports_to_one_file_are_wrong_usage() {
    let server = answering("pass");
    let path = absent("report");
    let name = path.file_name().unwrap().to_str().unwrap();
    let detour = path.with_file_name(".").join(name);
    let link = absent("link");
    std::os::unix::fs::symlink(path.parent().unwrap(), &link).unwrap();
    for other in [path.clone(), detour, link.join(name)] {
        let reports = [format!("junit={}", path.display()), format!("json={}", other.display())];
        let run = run(&server, &["--report", &reports[0], "--report", &reports[1]]);
        assert_eq!(run.code, 64, "{run:?}");
        assert!(run.stderr.contains(&other.display().to_string()), "{run:?}");
        let shown = server.run(&["verdict", "show", "x", "--report", &reports[0], "--report", &reports[1]]);
        assert_eq!(shown.code, 64, "{shown:?}");
    }
    assert!(server.requests().is_empty() && !path.exists());
    let nothing = ["--report", "junit=/dev/null", "--report", "json=/dev/null"];
    assert_eq!(run(&server, &nothing).code, 0, "nothing is lost there");
}

/// Going on in an emergency must not read like a failure, nor like a pass: who, why, and that nothing was probed.
#[test]
fn a_broken_glass_and_a_rollback_say_so_in_every_format() {
    let server = Server::start(|_, _| Reply::problem(500, "internal", "the disk is full"));
    let (summary, output) = (absent("summary"), absent("output"));
    for (how, kind, loud) in [
        (["--break-glass", "--reason", "eu | is down", "--ticket", "OPS-7"], "break_glass", "BREAK GLASS"),
        (["--rollback", "--reason", "eu | is down", "--ticket", "OPS-7"], "rollback", "ROLLBACK"),
    ] {
        let mut words: Vec<&str> = how.to_vec();
        let spool = absent("spool").display().to_string();
        words.extend(["--spool-dir", &spool, "-o", "github"]);
        let paths: Vec<PathBuf> = FORMATS.iter().map(|format| absent(format)).collect();
        let reports: Vec<String> =
            FORMATS.iter().zip(&paths).map(|(f, path)| format!("{f}={}", path.display())).collect();
        words.extend(reports.iter().flat_map(|report| ["--report", report]));
        let mut command = command(&server, &words);
        command.env("USER", "ann").env("GITHUB_STEP_SUMMARY", &summary).env("GITHUB_OUTPUT", &output);
        let run = Run::of(command.output().unwrap());
        assert_eq!(run.code, 0, "{run:?}");
        for (format, path) in FORMATS.iter().zip(&paths) {
            let text = fs::read_to_string(path).unwrap();
            let plain = text.replace('\\', "").replace("`@`", "@");
            for said in ["ann@", "eu | is down", "OPS-7", "the disk is full"] {
                assert!(plain.contains(said), "{format}: {said}: {text}");
            }
            assert!(
                *format == "json" || plain.contains(loud) && plain.contains("nothing was probed"),
                "{format}: {text}"
            );
            assert!(!plain.contains("Exit 1") && !plain.contains("::error"), "{format}: {text}");
        }
        let junit = fs::read_to_string(&paths[3]).unwrap();
        let xml = roxmltree::Document::parse(&junit).unwrap();
        let root = xml.root_element();
        let counts = ["failures", "errors", "skipped"].map(|name| root.attribute(name).unwrap_or_default());
        assert_eq!(counts, ["0", "0", "1"], "neither failed nor passed: {junit}");
        let outputs = fs::read_to_string(&output).unwrap();
        let expected = format!("verdict=unknown\ndecision=proceed\n{kind}=true\nrecord=");
        assert!(outputs.starts_with(&expected) && outputs.lines().count() == 4, "{outputs}");
        fs::remove_file(&output).unwrap();
        let page = fs::read_to_string(&summary).unwrap();
        assert!(page.starts_with("## ⚠️ preflight: PROCEED by "), "{page}");
        fs::remove_file(&summary).unwrap();
    }
}

/// Of several cells on one line, each that somebody answers for is named.
#[test]
fn an_annotation_names_the_cells_that_are_overridden() {
    let server = Server::start(|_, request| {
        let mut answer = gate::gate(request, "fail");
        let region = &mut answer["regions"][0];
        let mut other = region["cells"][0].clone();
        other["fleet"] = json!("worker");
        other["digest"] = json!("sha256:1");
        region["cells"].as_array_mut().unwrap().push(other);
        region["overrides"] = json!([{"id": "o1", "application": "shop", "region": "eu", "fleet": "worker", "dependency": "ai-cache",
            "digest": "sha256:1", "verdict": "v1", "by": "ann", "reason": "known", "ticket": "OPS-1", "at": "2025-03-31T10:20:00Z",
            "expires_at": "2025-03-31T11:20:00Z"}]);
        Reply::lines(&[answer])
    });
    let run = run(&server, &["-o", "github"]);
    assert_eq!(run.code, 2, "{run:?}");
    assert!(run.stdout.contains("; eu/worker/ai-cache is overridden by ann until"), "{run:?}");
    assert!(!run.stdout.contains("eu/web/ai-cache is overridden"), "{run:?}");
}

#[test]
fn a_report_that_is_none_is_wrong_usage() {
    let server = answering("pass");
    for (report, said) in
        [("junit", "FORMAT=PATH"), ("xml=a", "is no format"), ("junit=", "name a file"), ("json=-", "-o")]
    {
        let run = run(&server, &["--report", report]);
        assert_eq!(run.code, 64, "{report}: {run:?}");
        assert!(run.stderr.contains(said), "{report}: {run:?}");
    }
    assert!(server.requests().is_empty());
}

/// What a step of GitHub Actions gets.
fn step(server: &Server, more: &[&str], summary: &Path, output: &Path) -> Run {
    let mut command = command(server, &[&["-o", "github"], more].concat());
    Run::of(command.env("GITHUB_STEP_SUMMARY", summary).env("GITHUB_OUTPUT", output).output().unwrap())
}

#[test]
fn a_step_of_github_actions_gets_its_summary_its_outputs_and_annotations() {
    let (summary, output) = (file("summary", "before\n"), file("output", "before=1\n"));
    let server = Server::start(|_, request| {
        let mut answer = gate::gate(request, "fail");
        answer["regions"][0]["cells"][0]["line"] = json!(3);
        answer["manifest_name"] = json!("deploy/pre,flight.yaml");
        Reply::lines(&[answer])
    });
    let run = step(&server, &[], &summary, &output);
    assert_eq!(run.code, 2, "{run:?}");
    assert!(
        run.stdout
            .contains("\n::error file=deploy/pre%2Cflight.yaml,line=3,title=preflight%3A ai-cache connect_timeout::"),
        "{run:?}"
    );
    let id = server.requests()[0].body["id"].as_str().unwrap().to_owned();
    let outputs = fs::read_to_string(&output).unwrap();
    assert_eq!(outputs, format!("before=1\nverdict=fail\ndecision=block\nid={id}\n"));
    let page = fs::read_to_string(&summary).unwrap();
    assert!(page.starts_with("before\n## ⛔ preflight: BLOCK"), "{page}");
    // The table stands in the log, where none of its lines is a command.
    let word = run.stdout.lines().next().unwrap().strip_prefix("::stop-commands::").unwrap();
    let (table, commands) = run.stdout.split_once(&format!("\n::{word}::\n")).unwrap();
    assert!(table.contains("BLOCK") && commands.lines().all(|line| line.starts_with("::error ")), "{run:?}");

    let nowhere = absent("gone").join("output");
    let proceeds = step(&answering("pass"), &[], &summary, &nowhere);
    assert_eq!(proceeds.code, 1, "a later step would go by outputs that are not there: {proceeds:?}");
    assert!(proceeds.stderr.contains("the step's outputs"), "{proceeds:?}");
    assert_eq!(step(&answering("fail"), &[], &summary, &nowhere).code, 2);
}

const HOSTILE: &str = "x\n::set-output name=a::b\r\nverdict=pass | `c` <img src=x onerror=y> </failure>]]> ![p](http://e) [l](http://e) \
                       https://evil.example ##[stop-commands]w %0A::error::q & \u{1b}[2J\u{202e}";

/// Everything that somebody else wrote is hostile.
fn hostile(state: &str) -> Value {
    let text = json!(HOSTILE);
    let evidence = json!({"agent": text, "identity": {"security_group": [text]}, "address": "10.0.3.7:6379", "outcome": "short",
        "reason": "connect_timeout", "proof": "resolved", "detail": text, "note": text, "attempts": [],
        "phases": {"resolve_ms": 0.4, "connect_ms": null, "tls_ms": null, "protocol_ms": null}});
    let cell = json!({"fleet": text, "dependency": text, "target": text, "digest": text, "required": true, "state": state,
        "reason": text, "text": text, "line": 3, "coverage": text, "evidence": [evidence],
        "agents": {"asked": 1, "ok": 0, "short": 1, "void": 0, "silent": 0}});
    let mut proven = cell.clone();
    proven["required"] = json!(false);
    proven["proven_by"] = text.clone();
    let given = json!({"id": text, "application": text, "region": text, "fleet": text, "dependency": text, "digest": text, "verdict": text,
        "by": text, "reason": text, "ticket": text, "at": text, "expires_at": text});
    let region = json!({"region": text, "verdict": state, "decision": "block", "valid_until": text, "overrides": [given],
        "cells": [cell, proven], "excluded": [{"fleet": text, "dependency": text, "because": text}],
        "findings": [{"kind": text, "dependency": text, "text": text, "attributes": []}],
        "reasons": [{"code": text, "text": text, "fix": text}]});
    json!({"id": text, "application": text, "release": text, "verdict": state, "decision": "block", "manifest_digest": text,
        "manifest_name": text, "started_at": text, "ended_at": text, "regions": [region]})
}

#[test]
fn hostile_text_stays_text_in_every_format() {
    let answer = hostile("fail");
    let shown = |format: &str, summary: &Path, output: &Path| {
        let body = answer.clone();
        let server = Server::start(move |_, _| Reply::lines(std::slice::from_ref(&body)));
        let mut command = server.command(&["verdict", "show", "x", "-o", format]);
        let run = Run::of(command.env("GITHUB_STEP_SUMMARY", summary).env("GITHUB_OUTPUT", output).output().unwrap());
        assert_eq!(run.code, 0, "{run:?}");
        let raw = run.stdout.chars().find(|c| *c != '\n' && !preflight_core::text::is_plain(*c));
        assert_eq!(raw, None, "{format}: {run:?}");
        run.stdout
    };
    let (summary, output) = (absent("summary"), absent("output"));

    let markdown = shown("markdown", &summary, &output);
    for event in Parser::new_ext(&markdown, Options::all()) {
        let harmless = !matches!(
            event,
            Event::Html(_)
                | Event::InlineHtml(_)
                | Event::Start(Tag::Link { .. } | Tag::Image { .. } | Tag::CodeBlock(_))
        );
        assert!(harmless, "{event:?} in:\n{markdown}");
    }
    assert!(!markdown.contains("https:"), "{markdown}");
    let columns: Vec<usize> = markdown
        .lines()
        .filter(|line| line.starts_with('|'))
        .map(|line| line.replace("\\|", "").matches('|').count())
        .collect();
    assert_eq!(columns, [3, 3, 3], "{markdown}");

    let junit = shown("junit", &summary, &output);
    let xml = roxmltree::Document::parse(&junit).unwrap_or_else(|error| panic!("{error}:\n{junit}"));
    let tags: Vec<&str> = xml.descendants().filter(roxmltree::Node::is_element).map(|n| n.tag_name().name()).collect();
    let known = ["testsuites", "testsuite", "properties", "property", "testcase", "failure", "system-out", "skipped"];
    assert!(tags.iter().all(|tag| known.contains(tag)), "{tags:?}");
    assert_eq!(tags.iter().filter(|tag| **tag == "testcase").count(), 3);

    assert!(!summary.exists() && !output.exists(), "only with -o github");
    let github = shown("github", &summary, &output);
    let word = github.lines().next().unwrap().strip_prefix("::stop-commands::").unwrap();
    let (_, commands) = github.split_once(&format!("\n::{word}::\n")).unwrap();
    let commands: Vec<&str> = commands.lines().collect();
    assert_eq!(commands.len(), 1, "{github}");
    let (properties, _) = commands[0].strip_prefix("::error ").unwrap().split_once("::").unwrap();
    let keys: Vec<&str> = properties.split(',').map(|pair| pair.split('=').next().unwrap()).collect();
    assert_eq!(keys, ["file", "line", "title"], "{github}");
    let outputs = fs::read_to_string(&output).unwrap();
    let names: Vec<&str> = outputs.lines().map(|line| line.split('=').next().unwrap()).collect();
    assert_eq!(names, ["verdict", "decision", "id"], "{outputs}");
    assert!(outputs.starts_with("verdict=fail\ndecision=block\n"), "{outputs}");
    assert_eq!(fs::read_to_string(&summary).unwrap(), markdown);
}

/// A page that is too long for GitHub would be dropped whole; a step's summary has 1 MiB in all.
#[test]
fn markdown_has_an_end() {
    let mut answer = hostile("fail");
    let cell = answer["regions"][0]["cells"][0].clone();
    let cells: Vec<Value> = (0..400)
        .map(|n| {
            let mut cell = cell.clone();
            cell["dependency"] = json!(format!("dependency-{n}"));
            cell["text"] = json!("|".repeat(1_500));
            cell
        })
        .collect();
    answer["regions"][0]["cells"] = json!(cells);
    let server = Server::start(move |_, _| Reply::lines(std::slice::from_ref(&answer)));
    let before = "x".repeat(300_000);
    let (summary, output) = (file("summary", &before), absent("output"));
    let mut command = server.command(&["verdict", "show", "x", "-o", "github"]);
    let run = Run::of(command.env("GITHUB_STEP_SUMMARY", &summary).env("GITHUB_OUTPUT", &output).output().unwrap());
    assert_eq!(run.code, 0, "{}", run.stderr);
    let page = fs::read_to_string(&summary).unwrap();
    assert!((1_000_000..=1024 * 1024).contains(&page.len()), "{}", page.len());
    assert!(page.ends_with("has all of it._\n"), "{}", &page[page.len() - 200..]);
}

/// What is proven or left out is told as such, and what holds a region back beside its cells is no pass.
#[test]
fn junit_tells_apart_what_is_proven_left_out_or_held_back() {
    let cell = |dependency: &str, state: &str, required: bool, proven_by: Option<&str>| {
        let mut cell = json!({"fleet": "web", "dependency": dependency, "target": "tcp://a:1", "digest": dependency, "required": required,
            "state": state, "reason": null, "text": null, "evidence": [], "agents": {"asked": 0, "ok": 0, "short": 0, "void": 0, "silent": 0}});
        if state != "pass" {
            cell["reason"] = json!("silent");
        }
        if let Some(verdict) = proven_by {
            cell["proven_by"] = json!(verdict);
        }
        cell
    };
    let cells = json!([cell("old", "pass", false, Some("v1")), cell("shown", "unknown", false, None)]);
    let region = json!({"region": "eu", "verdict": "pass", "decision": "block", "valid_until": "2025-03-31T10:44:00Z", "overrides": [],
        "cells": cells, "excluded": [{"fleet": "worker", "dependency": "old", "because": "it has no use for it"}],
        "findings": [], "reasons": [{"code": "locked", "text": "the region is locked", "fix": null}]});
    let answer = json!({"id": "x", "application": "shop", "release": "r1", "verdict": "pass", "decision": "block", "manifest_digest": "sha256:0",
        "started_at": "2025-03-31T10:29:00Z", "ended_at": "2025-03-31T10:29:01Z", "regions": [region]});
    let server = Server::start(move |_, _| Reply::lines(std::slice::from_ref(&answer)));
    let junit = server.run(&["verdict", "show", "x", "-o", "junit"]).stdout;
    let xml = roxmltree::Document::parse(&junit).unwrap();
    let case = |class: &str, name: &str| {
        let found =
            xml.descendants().find(|n| n.attribute("classname") == Some(class) && n.attribute("name") == Some(name));
        found.unwrap_or_else(|| panic!("no {class} {name} in:\n{junit}"))
    };
    let child = |class: &str, name: &str, tag: &str| {
        let case = case(class, name);
        let found = case.children().find(|n| n.has_tag_name(tag));
        found.map(|n| format!("{}{}", n.attribute("message").unwrap_or_default(), n.text().unwrap_or_default()))
    };
    assert!(child("eu/web", "old", "system-out").unwrap().contains("verdict v1"));
    assert_eq!((child("eu/web", "old", "skipped"), child("eu/web", "old", "failure")), (None, None));
    assert!(child("eu/web", "shown", "skipped").unwrap().contains("not required; silent"));
    assert!(child("eu/worker", "old", "skipped").unwrap().contains("it has no use for it"));
    assert!(child("eu", "decision", "failure").unwrap().contains("the region is locked"));
    let root = xml.root_element();
    let count = |name: &str| root.attribute(name).unwrap_or_default();
    assert_eq!([count("tests"), count("failures"), count("errors"), count("skipped")], ["4", "1", "0", "2"]);
}

#[test]
fn the_published_schema_is_current_and_holds_for_what_is_printed() {
    let printed = Run::of(preflight(&["verdict", "schema"]).output().unwrap());
    assert_eq!(printed.code, 0, "{printed:?}");
    let checked_in = include_str!("../../../proto/gate.schema.json");
    assert!(checked_in == printed.stdout, "proto/gate.schema.json is out of date: run `make schema`");
    let validator = jsonschema::validator_for(&printed.json()).unwrap();
    for state in ["pass", "fail", "unknown"] {
        let answer = run(&answering(state), &["-o", "json"]).json();
        let errors: Vec<String> = validator.iter_errors(&answer).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}");
    }
    let mut wrong = run(&answering("pass"), &["-o", "json"]).json();
    wrong["regions"][0]["verdict"] = json!("maybe");
    assert!(!validator.is_valid(&wrong));
}

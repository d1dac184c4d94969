//! How long until a silent drop is called one: by the engine, by the command that a person runs, by others; and a thousand at once.

use std::process::Command;
use std::thread;
use std::time::Duration;

use preflight_tests::bench::Done;
use preflight_tests::lab::binary;

use crate::exporter::Exporter;
use crate::prober::{DROPPED, Ground, SILENT, time, void};
use crate::table::{Goal, Table, show, times};

const ROUNDS: usize = 5;
const MANY: usize = 1_000;

pub(crate) fn measure(ground: &Ground, table: &Table) {
    let (one, _) = engine(ground, 1);
    let (many, voids) = engine(ground, MANY);
    let command = times(time(ROUNDS, || command(ground)));
    let exporter = times(exporter(ground));
    let nmap = times(time(ROUNDS, || nmap(ground)));
    let row = |what: &str, ours: (Duration, Duration), beside: &str, theirs: (Duration, Duration), goal| {
        let ratio = ours.0.as_secs_f64() / theirs.0.as_secs_f64();
        table.ratio(what, &show(ours), &format!("{beside} {}", show(theirs)), ratio, goal);
    };
    row("one dropped target: engine", one, "exporter", exporter, Goal::None);
    row("one dropped target: engine", one, "nmap -n -Pn", nmap, Goal::None);
    row("one dropped target: preflight probe --local", command, "exporter", exporter, Goal::None);
    row("one dropped target: preflight probe --local", command, "nmap -n -Pn", nmap, Goal::None);
    row("1,000 dropped targets at once, one thread: engine", many, "one", one, Goal::None);
    table.alone("  of which void, since this host was busy (most)", &voids.to_string());
}

/// Until the last verdict, from the first probe's start; and the most that were void.
fn engine(ground: &Ground, targets: usize) -> ((Duration, Duration), usize) {
    let mut job = ground.dropped(targets);
    job.max_concurrent = targets;
    let rounds: Vec<Done> = (0..ROUNDS).map(|_| ground.run(&job, SILENT)).collect();
    let took = rounds.iter().map(|done| Duration::from_secs_f64(done.wall_s)).collect();
    (times(took), rounds.iter().map(void).max().unwrap_or(0))
}

/// As a person runs it, its start included.
fn command(ground: &Ground) {
    let target = format!("tcp://127.1.0.1:{DROPPED}");
    says(ground, &[&binary("preflight"), "probe", "--local", &target], SILENT);
}

fn nmap(ground: &Ground) {
    says(ground, &["nmap", "-n", "-Pn", "-p", &DROPPED.to_string(), "127.1.0.1"], "filtered");
}

/// Runs a command on the host, which must say so.
fn says(ground: &Ground, words: &[&str], what: &str) {
    let output = ground.host.within(|| Command::new(words[0]).args(&words[1..]).output());
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", words[0]));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains(what), "{words:?} says: {said}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// Side by side, since each takes until its own time is up.
fn exporter(ground: &Ground) -> Vec<Duration> {
    let exporter = Exporter::start(ground);
    let target = ground.dropped(1).targets[0];
    thread::scope(|scope| {
        let all: Vec<_> = (0..ROUNDS).map(|_| scope.spawn(|| exporter.dropped(target))).collect();
        all.into_iter().map(|one| one.join().expect("the exporter's answer")).collect()
    })
}

//! What the engine holds: the most resident memory of a process that probes many targets, all in flight where descriptors allow.

use preflight_tests::bench::{By, Done, Job, Kind};

use crate::prober::{Ground, SILENT};
use crate::table::{Goal, Table};

/// As the agent divides descriptors: a third for names, and [`preflight_probe::EngineOptions::SOCKETS`] for each address.
const DESCRIPTORS: usize = 20_000;
const AT_ONCE: usize = (DESCRIPTORS - DESCRIPTORS / 3) / preflight_probe::EngineOptions::SOCKETS;

pub(crate) fn measure(ground: &Ground, table: &Table) {
    for (count, words, goal) in [(1_000, "1,000", 8.0), (10_000, "10,000", 24.0)] {
        for (what, job, end) in [
            ("dropped targets", ground.dropped(count), SILENT),
            ("Redis servers", ground.answered(By::Engine, Kind::Redis, count), "ok"),
            ("TLS servers", ground.answered(By::Engine, Kind::Tls, count), "ok"),
        ] {
            let most = AT_ONCE.min(count);
            let Done { peak, .. } = ground.run(&Job { at_once: count, max_concurrent: most, ..job }, end);
            let what = format!("the engine, {words} {what}, {most} in flight: resident");
            table.size(&what, peak, Goal::AtMost(goal));
        }
    }
}

//! What the engine holds: the most resident memory of a process that probes many targets, all in flight where descriptors allow.

use preflight_probe::EngineOptions;
use preflight_tests::bench::{By, Done, Job, Kind};

use crate::prober::{Ground, SILENT};
use crate::table::{Goal, Table};

/// As the agent divides descriptors.
const DESCRIPTORS: usize = 20_000;
const AT_ONCE: usize = DESCRIPTORS / EngineOptions::DESCRIPTORS;
/// Handshakes in flight towards the one server, which would time out behind more of them.
const HANDSHAKES: usize = 256;

pub(crate) fn measure(ground: &Ground, table: &Table) {
    for (count, words, goal) in [(1_000, "1,000", 8.0), (10_000, "10,000", 24.0)] {
        for (what, job, most, end) in [
            ("dropped", ground.dropped(count), AT_ONCE, SILENT),
            ("Redis", ground.answered(By::Engine, Kind::Redis, count), AT_ONCE, "ok"),
            ("TLS", ground.answered(By::Engine, Kind::Tls, count), HANDSHAKES, "ok"),
        ] {
            let most = most.min(count);
            let Done { peak, .. } = ground.run(&Job { at_once: count, max_concurrent: most, ..job }, end);
            let what = format!("engine, {words} {what} targets, {most} in flight: peak");
            table.size(&what, peak, Goal::AtMost(goal));
        }
    }
}

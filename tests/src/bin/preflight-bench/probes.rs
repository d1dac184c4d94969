//! What a probe costs on one core: the engine, a bare loop around epoll and the exporter, in turns.

use preflight_tests::bench::{By, Kind};

use crate::exporter::Exporter;
use crate::prober::Ground;
use crate::table::{Goal, Table, median};

const ROUNDS: usize = 7;

/// A kind of probe: how many the engine and the loop make in a round, how many the exporter, and its goals.
struct Case {
    kind: Kind,
    name: &'static str,
    probes: u32,
    exporter_probes: u32,
    of_loop: f64,
    of_exporter: f64,
}

const CASES: [Case; 3] = [
    Case { kind: Kind::Tcp, name: "TCP", probes: 20_000, exporter_probes: 3_000, of_loop: 0.85, of_exporter: 8.0 },
    Case {
        kind: Kind::Redis,
        name: "Redis PING",
        probes: 15_000,
        exporter_probes: 3_000,
        of_loop: 0.85,
        of_exporter: 8.0,
    },
    Case { kind: Kind::Tls, name: "TLS", probes: 1_500, exporter_probes: 800, of_loop: 0.85, of_exporter: 2.5 },
];

/// Probes per second, of time on the clock and of time on the processor.
#[derive(Clone, Copy)]
struct Rate {
    wall: f64,
    cpu: f64,
}

impl Rate {
    fn new(probes: u32, wall_s: f64, cpu_s: f64) -> Self {
        Self { wall: f64::from(probes) / wall_s, cpu: f64::from(probes) / cpu_s }
    }
}

pub(crate) fn measure(ground: &Ground, table: &Table) {
    let exporter = Exporter::start(ground);
    for case in &CASES {
        let rounds: Vec<[Rate; 3]> = (0..ROUNDS).map(|_| case.round(ground, &exporter)).collect();
        case.show(&rounds, table);
    }
}

impl Case {
    /// Loop, engine and exporter, one after the other.
    fn round(&self, ground: &Ground, exporter: &Exporter) -> [Rate; 3] {
        let [bare, engine] = [By::Loop, By::Engine].map(|by| {
            let done = ground.run(&ground.answered(by, self.kind, self.probes as usize), "ok");
            Rate::new(self.probes, done.wall_s, done.cpu_s)
        });
        let cost = exporter.run(&ground.answered(By::Engine, self.kind, self.exporter_probes as usize));
        [engine, bare, Rate::new(self.exporter_probes, cost.wall_s, cost.cpu_s)]
    }

    fn show(&self, rounds: &[[Rate; 3]], table: &Table) {
        let middle = |of: &dyn Fn(&[Rate; 3]) -> f64| median(rounds.iter().map(of).collect());
        let name = self.name;
        for (other, beside, goal) in [(1, "bare loop", self.of_loop), (2, "exporter", self.of_exporter)] {
            table.ratio(
                &format!("{name}: probes per CPU second"),
                &format!("{:.0}", middle(&|r| r[0].cpu)),
                &format!("{beside} {:.0}", middle(&|r| r[other].cpu)),
                middle(&|r| r[0].cpu / r[other].cpu),
                Goal::AtLeast(goal),
            );
        }
        for (other, beside) in [(1, "bare loop"), (2, "exporter")] {
            table.ratio(
                &format!("{name}: CPU time per probe"),
                &format!("{:.1} µs", middle(&|r| 1e6 / r[0].cpu)),
                &format!("{beside} {:.1} µs", middle(&|r| 1e6 / r[other].cpu)),
                middle(&|r| r[other].cpu / r[0].cpu),
                Goal::None,
            );
            table.ratio(
                &format!("{name}: probes per second, 64 at once"),
                &format!("{:.0}", middle(&|r| r[0].wall)),
                &format!("{beside} {:.0}", middle(&|r| r[other].wall)),
                middle(&|r| r[0].wall / r[other].wall),
                Goal::None,
            );
        }
    }
}

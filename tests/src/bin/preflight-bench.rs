//! Measures what the design sets goals for: gate latency with many agents, the time in which a silent drop is called, memory
//! and sizes. Absolute figures are of this machine; the ratios against a bare loop of connects, measured in the same run, travel.
#![expect(clippy::print_stdout, reason = "prints a table")]

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use preflight_tests::lab::{Agent, AgentOptions, Api, Controller, Firewall, Host, Lab, Server, binary};
use serde_json::json;

const DEPENDENCIES: u16 = 20;
const ROUNDS: usize = 10;
const PORT: u16 = 6379;

/// A controller, fleets of two agents, and a host with a Redis server for each dependency.
struct World {
    controller: Controller,
    agents: Vec<Agent>,
    cache: Host,
    _redis: Vec<Server>,
}

fn main() {
    println!(
        "{} processors; median (slowest) of {ROUNDS}\n",
        std::thread::available_parallelism().map_or(0, usize::from)
    );
    println!("{:<52} {:>22} {:>16} {:>8}", "gate, all pass", "gate", "bare connects", "ratio");
    for agents in [2, 20, 100] {
        let lab = Lab::new();
        let world = World::build(&lab, agents);
        let gate = measure(|| world.gate("pass"));
        let bare = measure(|| world.bare_connects());
        println!(
            "{:<52} {:>22} {:>16} {:>8.1}",
            format!("  {agents} agents × {DEPENDENCIES} dependencies = {} probes", agents * u32::from(DEPENDENCIES)),
            show(gate),
            show(bare),
            gate.0.as_secs_f64() / bare.0.as_secs_f64()
        );
        if agents == 2 {
            world.cache.firewall(&ports().fold(Firewall::open(), Firewall::drop));
            let dropped = measure(|| world.gate("fail"));
            world.cache.firewall(&Firewall::open());
            println!("{:<52} {:>22}", "  the same with every probe silently dropped", show(dropped));
        }
        if agents == 100 {
            println!("\n{:<52} {:>22}", "memory and sizes", "");
            let mut resident: Vec<u64> = world.agents.iter().map(|agent| agent.process.resident()).collect();
            resident.sort_unstable();
            println!("{:<52} {:>22}", "  an agent, resident", mebibytes(resident[resident.len() / 2]));
            let mut controller = world.controller;
            println!(
                "{:<52} {:>22}",
                "  the controller with 100 agents, resident",
                mebibytes(controller.process().resident())
            );
        }
    }
    for name in ["preflight-agent", "preflight-controller", "preflight"] {
        let size = fs::metadata(binary(name)).map_or(0, |file| file.len());
        println!("{:<52} {:>22}", format!("  {name}, the binary"), mebibytes(size));
    }
}

impl World {
    fn build(lab: &Lab, agents: u32) -> Self {
        let cache = lab.host("cache", &["10.9.0.1"]);
        let redis = ports().map(|port| cache.redis(port, &[])).collect();
        let controller = lab.controller();
        let fleets: Vec<String> = (1..=agents / 2).map(|n| format!("fleet-{n}")).collect();
        let lines: String = fleets.iter().fold(String::new(), |all, fleet| format!("{all}      {fleet}: {{}}\n"));
        let names = fleets.join(", ");
        controller.inventory(&format!(
            "regions:\n  us:\n    fleets:\n{lines}applications:\n  app:\n    fleets: {{us: [{names}]}}\n"
        ));
        let mut running = Vec::new();
        for (fleet, f) in fleets.iter().zip(1..) {
            let options = AgentOptions {
                token: Some(controller.join_token("us", fleet, &["--uses", "2"])),
                ..AgentOptions::default()
            };
            for n in 1..=2 {
                let host = lab.host(&format!("{fleet}-{n}"), &[&format!("10.1.{f}.{n}")]);
                running.push(controller.agent(&host, "us", fleet, &options));
            }
        }
        controller.await_agents(running.len());
        Self { controller, agents: running, cache, _redis: redis }
    }

    /// One gate over the API, without the time that starting a command takes.
    fn gate(&self, verdict: &str) {
        let dependencies = ports()
            .fold(String::new(), |all, port| format!("{all}  cache-{port}:\n    target: redis://10.9.0.1:{port}\n"));
        let manifest = format!("application: app\ndependencies:\n{dependencies}");
        let request = json!({ "manifest": manifest, "regions": ["us"], "release": "bench" });
        let api: Api = self.controller.api();
        let answer = api.request("POST", "/v1/gate", Some(&request)).unwrap_or_else(|error| panic!("{error}"));
        let found = answer.json();
        assert_eq!(found["verdict"], verdict, "{:.1000}", found["reasons"].to_string());
    }

    /// As many connects as the gate makes probes, one after the other from one host.
    fn bare_connects(&self) {
        let targets: Vec<SocketAddr> = ports().map(|port| self.cache.port(port)).collect();
        self.controller.pipeline.within(|| {
            for target in self.agents.iter().flat_map(|_| &targets) {
                let connected = TcpStream::connect_timeout(target, Duration::from_secs(5));
                assert!(connected.is_ok(), "{target}: {connected:?}");
            }
        });
    }
}

/// One for each dependency. Addresses of their own would need more neighbours than the kernel keeps for all namespaces
/// together (1,024 by default), and what does not fit is lost without a word.
fn ports() -> std::ops::Range<u16> {
    PORT..PORT + DEPENDENCIES
}

/// Median and slowest.
fn measure(mut what: impl FnMut()) -> (Duration, Duration) {
    what();
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let started = Instant::now();
            what();
            started.elapsed()
        })
        .collect();
    times.sort_unstable();
    (times[ROUNDS / 2], times[ROUNDS - 1])
}

fn show((median, slowest): (Duration, Duration)) -> String {
    format!("{:.1} ms ({:.0})", median.as_secs_f64() * 1e3, slowest.as_secs_f64() * 1e3)
}

#[expect(clippy::cast_precision_loss, reason = "sizes in MiB, to a tenth")]
fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

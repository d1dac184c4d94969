//! A gate as a pipeline meets it: latency with many agents, the memory of agents and controller, and the binaries' sizes.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use preflight_tests::lab::{Agent, AgentOptions, Api, Controller, Firewall, Host, Lab, Server, binary};
use serde_json::{Value, json};

use crate::prober::time;
use crate::table::{Goal, Table, show, times};

const DEPENDENCIES: u16 = 20;
const ROUNDS: u8 = 10;
const PORT: u16 = 6379;

/// A controller, fleets of two agents, and a host with a Redis server for each dependency.
struct World {
    controller: Controller,
    agents: Vec<Agent>,
    cache: Host,
    _redis: Vec<Server>,
}

pub(crate) fn measure(table: &Table) {
    for agents in [2, 20, 100] {
        let lab = Lab::new();
        let mut world = World::build(&lab, agents);
        let before = world.cpu();
        let gate = timed(|| drop(world.gate("pass")));
        let used = world.cpu();
        let bare = timed(|| world.bare_connects());
        let probes = agents * u32::from(DEPENDENCIES);
        table.ratio(
            &format!("gate, {agents} agents × {DEPENDENCIES} = {probes} probes, all pass"),
            &show(gate),
            &format!("bare connects {}", show(bare)),
            gate.0.as_secs_f64() / bare.0.as_secs_f64(),
            Goal::None,
        );
        if agents == 100 {
            let each = |n: usize| {
                format!("{:.0} ms", used[n].saturating_sub(before[n]).as_secs_f64() * 1e3 / f64::from(ROUNDS + 1))
            };
            table.alone("the same, CPU time: controller", &each(0));
            table.alone("the same, CPU time: all agents", &each(1));
            table.time("the same beyond the slowest probe", beyond(gate, world.slowest_probe()), 150.0);
            world.cache.firewall(&ports().fold(Firewall::open(), Firewall::drop));
            let dropped = timed(|| drop(world.gate("fail")));
            world.cache.firewall(&Firewall::open());
            table.time("the same with every probe silently dropped", dropped, 1_200.0);
            world.record_deployed();
            table.time("the same when nothing has changed", timed(|| drop(world.gate("pass"))), 20.0);
            let mut resident: Vec<u64> = world.agents.iter().map(|agent| agent.process.resident()).collect();
            resident.sort_unstable();
            table.size("an agent that has probed, connected: resident", resident[resident.len() / 2], Goal::None);
            let mut controller = world.controller;
            let resident = controller.process().resident();
            table.size("the controller with 100 agents: resident", resident, Goal::None);
        }
    }
    for (name, goal) in
        [("preflight-agent", Goal::AtMost(8.0)), ("preflight-controller", Goal::None), ("preflight", Goal::None)]
    {
        let size = fs::metadata(binary(name)).expect("a built binary").len();
        table.size(&format!("{name}, the binary"), size, goal);
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

    /// The CPU time that the controller has used, and all agents together.
    fn cpu(&mut self) -> [Duration; 2] {
        [self.controller.process().cpu(), self.agents.iter().map(|agent| agent.process.cpu()).sum()]
    }

    /// One gate over the API, without the time that starting a command takes.
    fn gate(&self, verdict: &str) -> Value {
        let dependencies = ports()
            .fold(String::new(), |all, port| format!("{all}  cache-{port}:\n    target: redis://10.9.0.1:{port}\n"));
        let manifest = format!("application: app\ndependencies:\n{dependencies}");
        let request = json!({ "manifest": manifest, "regions": ["us"], "release": "bench" });
        let api: Api = self.controller.api();
        let answer = api.request("POST", "/v1/gate", Some(&request)).unwrap_or_else(|error| panic!("{error}"));
        let found = answer.json();
        assert_eq!(found["verdict"], verdict, "{:.1000}", found["regions"][0]["reasons"].to_string());
        found
    }

    /// What the slowest probe of a gate took, phase for phase.
    fn slowest_probe(&self) -> Duration {
        let gate = self.gate("pass");
        let cells = gate["regions"][0]["cells"].as_array().expect("cells");
        let evidence = cells.iter().flat_map(|cell| cell["evidence"].as_array().into_iter().flatten());
        let took = |seen: &Value| -> f64 {
            seen["phases"].as_object().into_iter().flatten().filter_map(|(_, ms)| ms.as_f64()).sum()
        };
        Duration::from_secs_f64(evidence.map(took).fold(0.0, f64::max) / 1e3)
    }

    /// The release of the bench is what runs there.
    fn record_deployed(&self) {
        let verdict = self.gate("pass")["id"].clone();
        let record = json!({ "application": "app", "region": "us", "release": "bench", "verdict": verdict });
        let answer = self.controller.api().request("POST", "/v1/releases/deployed", Some(&record));
        assert_eq!(answer.map(|answer| answer.status), Ok(200));
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

fn beyond((median, slowest): (Duration, Duration), probe: Duration) -> (Duration, Duration) {
    (median.saturating_sub(probe), slowest.saturating_sub(probe))
}

/// Median and slowest, once it has been done before.
fn timed(mut what: impl FnMut()) -> (Duration, Duration) {
    what();
    times(time(usize::from(ROUNDS), what))
}

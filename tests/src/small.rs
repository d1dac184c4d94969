//! The smallest whole: one fleet, one Redis server, one application that depends on it. What tests begin with that are
//! about something else.

use crate::lab::{Agent, AgentOptions, Controller, Host, Lab, Preflight, Server};

/// A controller, the fleet `us/web`, and a Redis server that all of it reaches.
#[derive(Debug)]
pub struct Small {
    /// The controller.
    pub controller: Controller,
    /// The agents of `us/web`, on `us-web-1` and so on.
    pub agents: Vec<Agent>,
    /// The Redis server's host, 10.9.0.1.
    pub cache: Host,
    _redis: Server,
}

/// One fleet that wants two agents, and one application.
pub const INVENTORY: &str = "\
regions:
  us:
    fleets:
      web: {}
applications:
  app:
    fleets: {us: [web]}
";

/// One dependency, `cache`.
pub const MANIFEST: &str = "\
application: app
dependencies:
  cache:
    target: redis://10.9.0.1:6379
";

/// The gate that asks for it.
pub const GATE: [&str; 9] = ["gate", "--manifest", "preflight.yaml", "--region", "us", "--release", "r1", "-o", "json"];

/// The one cell.
pub const CELL: &str = "us/web/cache";

impl Small {
    /// With so many agents, all of them connected.
    pub fn new(lab: &Lab, agents: u8) -> Self {
        Self::with(lab, lab.controller(), agents, &AgentOptions::default())
    }

    /// With this controller, and agents that are started in this way.
    pub fn with(lab: &Lab, controller: Controller, agents: u8, options: &AgentOptions) -> Self {
        let cache = lab.host("cache", &["10.9.0.1"]);
        let redis = cache.redis(6379, &[]);
        controller.inventory(INVENTORY);
        controller.file("preflight.yaml", MANIFEST);
        let agents: Vec<Agent> = (1..=agents)
            .map(|n| {
                let host = lab.host(&format!("us-web-{n}"), &[&format!("10.1.1.{n}")]);
                controller.agent(&host, "us", "web", options)
            })
            .collect();
        controller.await_agents(agents.len());
        Self { controller, agents, cache, _redis: redis }
    }

    /// The name of the agent on `us-web-N`.
    pub fn agent_name(&self, n: usize) -> String {
        let agents = self.controller.agents();
        let host = serde_json::json!([format!("us-web-{n}")]);
        let found = agents.iter().find(|agent| agent["identity"]["host"] == host);
        let name = found.and_then(|agent| agent["agent"].as_str());
        name.unwrap_or_else(|| panic!("no agent on {host}: {agents:?}")).to_owned()
    }

    /// What the controller knows of the agent of that name.
    pub fn agent(&self, name: &str) -> serde_json::Value {
        let agents = self.controller.agents();
        agents.into_iter().find(|agent| agent["agent"] == name).unwrap_or_else(|| panic!("no agent {name}"))
    }

    /// The gate, with more words.
    pub fn gate(&self, more: &[&str]) -> Preflight {
        self.controller.preflight(&[GATE.as_slice(), more].concat())
    }

    /// A gate that must pass: the stage is as it should be.
    ///
    /// # Panics
    /// If it does not.
    pub fn assert_passes(&self) {
        let answer = self.gate(&[]).expect_code(0);
        assert_eq!(answer.state(CELL), "pass");
    }
}

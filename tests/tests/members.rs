//! Members of a real Redis Cluster and of real Sentinels: an open seed with a member that one fleet cannot reach is no pass.

use preflight_tests::lab::{Agent, AgentOptions, Controller, Expect, Firewall, Host, Lab, Preflight, Way, redis};

const PORT: u16 = 6379;
const INVENTORY: &str = "
regions:
  us: {fleets: {web: {}, worker: {}}}
applications:
  app: {fleets: {us: [web, worker]}}
";

/// Two fleets of two hosts each, with agents.
struct Fleets {
    controller: Controller,
    web: Vec<Host>,
    worker: Vec<Host>,
    _agents: Vec<Agent>,
}

impl Fleets {
    fn new(lab: &Lab) -> Self {
        let controller = lab.controller();
        controller.inventory(INVENTORY);
        let mut agents = Vec::new();
        let mut fleet = |name: &str, number: u8| -> Vec<Host> {
            let hosts: Vec<Host> =
                (1..=2).map(|n| lab.host(&format!("us-{name}-{n}"), &[&format!("10.1.{number}.{n}")])).collect();
            agents.extend(hosts.iter().map(|host| controller.agent(host, "us", name, &AgentOptions::default())));
            hosts
        };
        let (web, worker) = (fleet("web", 1), fleet("worker", 2));
        controller.await_agents(4);
        Self { controller, web, worker, _agents: agents }
    }

    /// Everything that web's hosts send to `host` vanishes.
    fn shut_out_web(&self, lab: &Lab, host: &Host, port: u16) {
        let rules = self.web.iter().fold(Firewall::open(), |rules, web| rules.drop_from(web.address()));
        host.firewall(&rules);
        let ways = |from: &[Host], expect| -> Vec<Way> {
            from.iter().map(|from| Way::new(from, host.port(port), expect)).collect()
        };
        lab.assert_wiring(&[ways(&self.web, Expect::Silent), ways(&self.worker, Expect::Open)].concat());
    }

    fn gate(&self, more: &[&str]) -> Preflight {
        let words = ["gate", "--manifest", "preflight.yaml", "--all-regions", "--release", "r1"];
        self.controller.preflight(&[&words, more].concat())
    }
}

/// The members in a cell's evidence, as `role endpoint outcome`, each once however many agents saw it.
fn members(answer: &Preflight, cell: &str) -> Vec<String> {
    let mut lines: Vec<String> = answer.cell(cell)["evidence"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|seen| seen["member"].is_object())
        .map(|seen| {
            let text = |value: &serde_json::Value| value.as_str().unwrap_or("?").to_owned();
            let what = if seen["reason"].is_string() { &seen["reason"] } else { &seen["outcome"] };
            format!("{} {} {}", text(&seen["member"]["role"]), text(&seen["member"]["endpoint"]), text(what))
        })
        .collect();
    lines.sort();
    lines.dedup();
    lines
}

/// The gate with one member blocked for web, then with it open.
fn assert_a_blocked_member_is_found(lab: &Lab, fleets: &Fleets, blocked: &Host, port: u16, all: usize) {
    let endpoint = blocked.port(port).to_string();
    fleets.shut_out_web(lab, blocked, port);
    let answer = fleets.gate(&["-o", "json"]).expect_code(2);
    assert_eq!(answer.state("us/web/cache"), "fail connect_timeout");
    assert_eq!(answer.state("us/worker/cache"), "pass");
    let seen = members(&answer, "us/web/cache");
    assert_eq!(seen.len(), all, "every member once: {seen:?}");
    for line in &seen {
        let want = if line.contains(&format!(" {endpoint} ")) { "connect_timeout" } else { "ok" };
        assert!(line.ends_with(want), "{seen:?}");
    }
    assert!(members(&answer, "us/worker/cache").iter().all(|line| line.ends_with(" ok")));
    let text = fleets.gate(&[]).expect_code(2).text();
    assert!(text.contains(&format!("at member {endpoint}")), "{text}");
    assert!(text.contains(&format!("member {endpoint} (")), "{text}");

    blocked.firewall(&Firewall::open());
    let answer = fleets.gate(&["-o", "json"]).expect_code(0);
    assert_eq!(members(&answer, "us/web/cache").len(), all);
}

#[test]
fn a_blocked_node_of_a_cluster() {
    let lab = Lab::new();
    let hosts: Vec<Host> = (1..=6).map(|n| lab.host(&format!("node-{n}"), &[&format!("10.9.0.{n}")])).collect();
    let mut servers = redis::cluster(&hosts, PORT);
    let fleets = Fleets::new(&lab);
    let manifest = "application: app\ndependencies:\n  cache: {target: 'redis://10.9.0.1:6379', topology: cluster}\n";
    fleets.controller.file("preflight.yaml", manifest);
    assert_a_blocked_member_is_found(&lab, &fleets, &hosts[4], PORT, 6);

    // With all but the seed dead, the nodes that it still tells of are refused, and later it says itself that it is down.
    servers.truncate(1);
    let answer = fleets.gate(&["-o", "json"]).expect_code(2);
    assert!(answer.state("us/worker/cache").starts_with("fail "), "{}", answer.text());
}

#[test]
fn a_blocked_replica_behind_a_sentinel() {
    let lab = Lab::new();
    let hosts: Vec<Host> = (1..=3).map(|n| lab.host(&format!("redis-{n}"), &[&format!("10.9.0.{n}")])).collect();
    let _servers = redis::sentinels(&hosts, "cache", PORT);
    let fleets = Fleets::new(&lab);
    let manifest = "application: app\ndependencies:\n  cache: {target: 'redis://10.9.0.1:26379', topology: sentinel, sentinel_master: cache}\n";
    fleets.controller.file("preflight.yaml", manifest);
    // All that web sends to the third host vanishes: its replica and its Sentinel.
    fleets.shut_out_web(&lab, &hosts[2], PORT);
    let answer = fleets.gate(&["-o", "json"]).expect_code(2);
    assert_eq!(answer.state("us/web/cache"), "fail connect_timeout");
    assert_eq!(answer.state("us/worker/cache"), "pass");
    let want = [
        "primary 10.9.0.1:6379 ok",
        "replica 10.9.0.2:6379 ok",
        "replica 10.9.0.3:6379 connect_timeout",
        "sentinel 10.9.0.2:26379 ok",
        "sentinel 10.9.0.3:26379 connect_timeout",
    ];
    assert_eq!(members(&answer, "us/web/cache"), want);
    let text = fleets.gate(&[]).expect_code(2).text();
    assert!(text.contains("member 10.9.0.3:6379 (replica)"), "{text}");

    hosts[2].firewall(&Firewall::open());
    assert_eq!(fleets.gate(&["-o", "json"]).expect_code(0).state("us/web/cache"), "pass");

    fleets.controller.file("preflight.yaml", &manifest.replace("sentinel_master: cache", "sentinel_master: basket"));
    let answer = fleets.gate(&["-o", "json"]).expect_code(2);
    assert_eq!(answer.state("us/worker/cache"), "fail status_unexpected");
    assert!(answer.text().contains("no primary of the name 'basket'"), "{}", answer.text());
}

//! Replays the outage of 31 March 2025 on this machine, with real parts, and shows what the gate says of it.
#![expect(clippy::print_stdout, reason = "the demo talks to a person")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Instant;

use preflight_tests::lab::{Agent, AgentOptions, Controller, Expect, Firewall, Host, Lab, NAME_SERVER, Server, Way};

const MANIFEST: &str = include_str!("../../../examples/preflight.yaml");
const INVENTORY: &str = include_str!("../../../examples/inventory.yaml");
const RELEASE: &str = "2025-03-31.1";
/// What ran before it, and what takes it back.
const BEFORE: &str = "2025-03-30.4";
const REVERT: &str = "2025-03-31.2";
/// A fleet and its security group.
type Fleet = (&'static str, &'static str);
/// Region, the name its DNS uses, and its fleets.
const REGIONS: [(&str, &str, &[Fleet]); 3] = [
    (
        "us",
        "us-east-1",
        &[
            ("web-rest", "sg-web"),
            ("web-mobile", "sg-web"),
            ("web-messenger", "sg-web"),
            ("web-app", "sg-web"),
            ("worker", "sg-worker"),
        ],
    ),
    ("eu", "eu-west-1", &[("web", "sg-web"), ("worker", "sg-worker")]),
    ("au", "ap-southeast-2", &[("web", "sg-web"), ("worker", "sg-worker")]),
];
const HOSTS_PER_FLEET: usize = 2;
const PORT: u16 = 6379;

/// The network: hosts by security group, the caches, and everything that runs.
struct World {
    hosts: Vec<(String, String, &'static str, Host)>,
    caches: Vec<(&'static str, Host)>,
    _servers: Vec<Server>,
}

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        let what = panic.payload_as_str().unwrap_or("it went wrong");
        println!("\nThe demo could not go on: {what}");
    }));
    let started = Instant::now();
    let lab = Lab::new();
    say(
        "The outage of 31 March 2025, replayed on this machine. Everything below is real: network namespaces as hosts,\n\
         nftables rules as security groups, Redis, and preflight's own binaries. Nothing outside is touched.",
    );

    let world = World::build(&lab);
    say(&format!(
        "{} hosts stand in three regions, and in each a new Redis: the cache that a release is about to use.\n\
         Its security group admits sg-worker. The web fleets carry sg-web, which nobody thought of.",
        world.hosts.len()
    ));
    world.admit(&["sg-worker"]);
    world.assert_wiring(&lab, &["sg-worker"]);

    say("The engineers checked that the cache can be reached, by hand, from the host that they were on: a worker.");
    show_check(&lab.find("us-worker-1"), "ai-cache.us-east-1.internal");
    say("It can, so they shipped, and the web fleets of two regions went down. Now the same release with preflight:\n\
         a controller, and an agent on every host of every fleet that runs the code.");

    let controller = lab.controller();
    controller.inventory(INVENTORY);
    controller.file("preflight.yaml", MANIFEST);
    let agents = world.start_agents(&controller);
    controller.await_agents(agents.len());
    println!("    {} agents are connected\n", agents.len());

    say("The pipeline asks the gate before it deploys:");
    let blocked = gate(&controller);
    say(&format!(
        "Exit code {blocked}: the deploy is blocked. Every web fleet meets silence, every worker passes, and the finding names\n\
         what tells them apart."
    ));

    say("Somebody admits sg-web to the cache's port in every region, and runs the pipeline again:");
    world.admit(&["sg-worker", "sg-web"]);
    world.assert_wiring(&lab, &["sg-worker", "sg-web"]);
    let passed = gate(&controller);
    say(&format!("Exit code {passed}: every kind of host that will run the code has shown that it reaches the cache."));

    let second = second_act(&controller);

    drop(agents);
    println!("Done in {:.0} s; everything that was built is gone again.", started.elapsed().as_secs_f64());
    if (blocked, passed) == (2, 0) && second == [0, 0, 0, 4, 0, 4, 0, 0, 0] {
        ExitCode::SUCCESS
    } else {
        println!("But the exit codes should have been 2, 0 and then 0 0 0 4 0 4 0 0 0, not {second:?}.");
        ExitCode::FAILURE
    }
}

/// The second outage of that day, which was no fault of the network: the exit codes of its commands.
fn second_act(controller: &Controller) -> Vec<i32> {
    let run = |words: &[&str]| {
        println!("  $ preflight {}\n", words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "));
        let code = controller.preflight_shown(words);
        println!();
        code
    };
    let record = |region: &str, release: &str| {
        let _ = controller.preflight(&["release", "deployed", "--region", region, "--release", release]).expect_code(0);
    };
    for (region, ..) in REGIONS {
        record(region, BEFORE);
        record(region, RELEASE);
    }
    say(
        "Second act, 10:52. The release has shipped all the same, and is rolled back in Europe. The rollback locks deploys\n\
         in every region, as it did that day.",
    );
    let mut codes = vec![
        run(&[
            "release",
            "rollback",
            "--region",
            "eu",
            "--from",
            RELEASE,
            "--to",
            BEFORE,
            "--reason",
            "requests wait for 30 s",
        ]),
        run(&["lock", "--all-regions", "--reason", "nobody ships until the revert is out"]),
    ];
    say(
        "12:30. The revert has passed its tests in the USA and in Australia. Europe's tests take two minutes longer: what its\n\
         pipeline would ship is still the broken release. The pipelines say so, and somebody unlocks all regions at once.",
    );
    codes.push(controller.preflight(&["release", "candidate", "--region", "us,au", "--release", REVERT]).code);
    let _ = controller.preflight(&["release", "candidate", "--region", "eu", "--release", RELEASE]).expect_code(0);
    codes.push(run(&["unlock", "--all-regions", "--release", REVERT]));
    say(
        "Exit code 4: nothing is unlocked. That day it was, and Europe shipped the broken release again. What is ready can go:",
    );
    codes.push(run(&["unlock", "--release", REVERT, "--ready"]));
    say("Europe's pipeline asks for the broken release, and is told why not:");
    codes.push(run(&["gate", "--manifest", "preflight.yaml", "--region", "eu", "--release", RELEASE]));
    say("12:32. The revert is ready in Europe, too:");
    codes.push(run(&["release", "candidate", "--region", "eu", "--release", REVERT]));
    codes.push(run(&["unlock", "--region", "eu", "--release", REVERT]));
    for (region, ..) in REGIONS {
        record(region, REVERT);
    }
    codes.push(run(&["release", "list"]));
    codes
}

/// A word as a shell wants it.
fn quoted(word: &str) -> String {
    if word.contains(' ') { format!("'{word}'") } else { word.to_owned() }
}

impl World {
    fn build(lab: &Lab) -> Self {
        let mut hosts = Vec::new();
        let mut caches = Vec::new();
        let mut servers = Vec::new();
        let mut names: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        for ((region, dns, fleets), r) in REGIONS.into_iter().zip(1..) {
            let cache = lab.host(&format!("{region}-ai-cache"), &[&format!("10.{r}.9.1")]);
            servers.push(cache.redis(PORT, &[]));
            names.insert(format!("ai-cache.{dns}.internal"), cache.addresses().to_vec());
            caches.push((region, cache));
            for ((fleet, group), f) in fleets.iter().zip(1..) {
                for n in 1..=HOSTS_PER_FLEET {
                    let host = lab.host(&format!("{region}-{fleet}-{n}"), &[&format!("10.{r}.{f}.{n}")]);
                    hosts.push((region.to_owned(), (*fleet).to_owned(), *group, host));
                }
            }
        }
        servers.push(lab.host("dns", &[NAME_SERVER]).dns(&names));
        Self { hosts, caches, _servers: servers }
    }

    /// Makes each cache's security group admit these groups of its own region, and discard the rest.
    fn admit(&self, groups: &[&str]) {
        for (region, cache) in &self.caches {
            let of_region = self.hosts.iter().filter(|(of, ..)| of == region);
            let members = of_region.filter(|(_, _, group, _)| groups.contains(group));
            let from: Vec<IpAddr> = members.map(|(.., host)| host.address()).collect();
            cache.firewall(&Firewall::open().admit(&from, PORT).drop(PORT));
        }
    }

    /// Plain connects must meet what the groups say, or the demo would prove nothing.
    fn assert_wiring(&self, lab: &Lab, groups: &[&str]) {
        let ways = self.hosts.iter().flat_map(|(region, _, group, host)| {
            let expect = if groups.contains(group) { Expect::Open } else { Expect::Silent };
            let caches = self.caches.iter().filter(move |(of, _)| of == region);
            caches.map(move |(_, cache)| Way::new(host, cache.port(PORT), expect))
        });
        lab.assert_wiring(&ways.collect::<Vec<_>>());
    }

    fn start_agents(&self, controller: &Controller) -> Vec<Agent> {
        let mut tokens: BTreeMap<(&str, &str), String> = BTreeMap::new();
        let uses = HOSTS_PER_FLEET.to_string();
        let mut agents = Vec::new();
        for (region, fleet, group, host) in &self.hosts {
            let token = tokens
                .entry((region, fleet))
                .or_insert_with(|| controller.join_token(region, fleet, &["--uses", &uses]))
                .clone();
            let options = AgentOptions {
                identity: vec![format!("security_group={group}")],
                token: Some(token),
                ..AgentOptions::default()
            };
            agents.push(controller.agent(host, region, fleet, &options));
        }
        agents
    }
}

/// Runs the gate as the pipeline would, with its output as a person sees it.
fn gate(controller: &Controller) -> i32 {
    let words = ["gate", "--manifest", "preflight.yaml", "--all-regions", "--release", RELEASE];
    println!("  $ preflight {}\n", words.join(" "));
    let code = controller.preflight_shown(&words);
    println!();
    code
}

/// What somebody does who checks by hand.
fn show_check(host: &Host, name: &str) {
    println!("  {} $ redis-cli -h {name} ping", host.name());
    let said = host.run(&["timeout", "5", "redis-cli", "-h", name, "ping"]);
    println!("  {}", String::from_utf8_lossy(&said.stdout));
}

fn say(text: &str) {
    println!("{text}\n");
}

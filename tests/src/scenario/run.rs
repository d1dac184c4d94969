//! Plays a scenario.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use super::{Certificate, DnsFault, Rule, Scenario, Service, Step, Tally, Wanted};
use crate::certificates::{self, Authority, Pair};
use crate::lab::{
    Agent, AgentOptions, Controller, Expect, Firewall, Host, Lab, NAME_SERVER, Preflight, TlsFiles, Way, redis,
};

/// A gate of the scenario's manifest for each region of the application.
const GATE: [&str; 8] = ["gate", "--manifest", "preflight.yaml", "--all-regions", "--release", "r1", "-o", "json"];

/// The port of a cluster's nodes.
const CLUSTER_PORT: u16 = 6379;

/// Plays the scenario in a file, and counts its faults.
///
/// # Panics
/// With what is otherwise than the file says.
pub fn run(path: &Path, tally: &Tally) {
    let scenario = Scenario::read(path).unwrap_or_else(|error| panic!("{error}"));
    tally.expect(scenario.steps.iter().filter(|step| step.is_fault()).count());
    let lab = Lab::new();
    let controller = lab.controller();
    let stage = Stage::set(&lab, &controller, &scenario);
    controller.inventory(&scenario.inventory.clone().unwrap_or_else(|| stage.inventory()));
    if let Some(manifest) = &scenario.manifest {
        controller.file("preflight.yaml", &stage.filled_in(manifest));
    }
    stage.rules(&scenario.firewall);
    let mut rules = scenario.firewall.clone();
    stage.assert_wiring(&rules);
    let _agents = stage.start_agents();
    for (number, step) in scenario.steps.iter().enumerate() {
        if !step.firewall.is_empty() {
            stage.rules(&step.firewall);
            rules.extend(step.firewall.clone());
            stage.assert_wiring(&rules);
        }
        let wrong = stage.play(step);
        assert!(wrong.is_empty(), "step {} of {}:\n  {}", number + 1, path.display(), wrong.join("\n  "));
        if step.is_fault() {
            tally.right();
        }
    }
}

/// A server that ends when this is dropped, whatever it is.
type Running = Box<dyn std::any::Any>;

/// The network of a scenario.
struct Stage<'a> {
    lab: &'a Lab,
    controller: &'a Controller,
    scenario: &'a Scenario,
    authority: Authority,
    files: TlsFiles,
    /// Hosts with agents: fleet and host.
    hosts: Vec<(String, Host)>,
    servers: Vec<(Host, BTreeMap<u16, Service>)>,
    _processes: Vec<Running>,
}

impl<'a> Stage<'a> {
    fn set(lab: &'a Lab, controller: &'a Controller, scenario: &'a Scenario) -> Self {
        let authority = Authority::new("Lab authority");
        let files = TlsFiles::new(lab.dir(), &authority);
        let mut processes = Vec::new();
        if scenario.dns.fault.is_some() || !scenario.dns.names.is_empty() {
            let dns = lab.host("dns", &[NAME_SERVER]);
            match scenario.dns.fault {
                Some(DnsFault::Servfail) => dns.dns_servfail(),
                Some(DnsFault::Silent) | None => processes.push(Box::new(dns.dns(&scenario.dns.names)) as Running),
            }
            if scenario.dns.fault == Some(DnsFault::Silent) {
                dns.firewall(&Firewall::open().drop_dns());
            }
        }
        let mut servers = Vec::new();
        for (name, server) in &scenario.servers {
            let addresses: Vec<&str> = server.addresses.iter().map(String::as_str).collect();
            let host = lab.host(name, &addresses);
            let mut runs = BTreeMap::new();
            for (port, service) in &server.runs {
                let port: u16 = port.parse().unwrap_or_else(|_| panic!("{name}: {port} is not a port"));
                processes.extend(start(&host, port, service, &authority, &files));
                runs.insert(port, service.clone());
            }
            servers.push((host, runs));
        }
        let nodes = |runs: &BTreeMap<u16, Service>| matches!(runs.get(&CLUSTER_PORT), Some(Service::RedisCluster));
        let nodes: Vec<Host> = servers.iter().filter(|(_, runs)| nodes(runs)).map(|(host, _)| host.clone()).collect();
        if !nodes.is_empty() {
            processes.push(Box::new(redis::cluster(&nodes, CLUSTER_PORT)));
        }
        let mut hosts = Vec::new();
        for ((fleet, of), number) in scenario.fleets.iter().zip(1..) {
            for n in 1..=of.agents {
                let (v4, v6) = (format!("10.1.{number}.{n}"), format!("fd00::1:{number}:{n}"));
                let addresses: &[&str] = if of.ipv6 { &[&v4, &v6] } else { &[&v4] };
                hosts.push((fleet.clone(), lab.host(&format!("{}-{n}", fleet.replace('/', "-")), addresses)));
            }
        }
        Self { lab, controller, scenario, authority, files, hosts, servers, _processes: processes }
    }

    /// The inventory that fits the fleets of the file.
    fn inventory(&self) -> String {
        let mut regions: BTreeMap<&str, String> = BTreeMap::new();
        let mut application: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (fleet, of) in &self.scenario.fleets {
            let (region, name) = fleet.split_once('/').unwrap_or_else(|| panic!("{fleet} is not region/fleet"));
            let groups = of.groups.join(", ");
            let identity =
                if groups.is_empty() { String::new() } else { format!("identity: {{security_group: [{groups}]}}") };
            let fleets = regions.entry(region).or_default();
            let _ = writeln!(fleets, "      {name}: {{{identity}}}");
            application.entry(region).or_default().push(name);
        }
        let mut text = String::from("regions:\n");
        for (region, fleets) in &regions {
            let _ = write!(text, "  {region}:\n    fleets:\n{fleets}");
        }
        let runs: Vec<String> = application.iter().map(|(r, fleets)| format!("{r}: [{}]", fleets.join(", "))).collect();
        let _ = writeln!(text, "applications:\n  app:\n    fleets: {{{}}}", runs.join(", "));
        text
    }

    fn filled_in(&self, manifest: &str) -> String {
        self.files.fill_in(&manifest.replace("@CA@", &self.authority.pem.replace('\n', "\\n")))
    }

    fn start_agents(&self) -> Vec<Agent> {
        let mut agents = Vec::new();
        for (fleet, of) in &self.scenario.fleets {
            let (region, name) = fleet.split_once('/').unwrap_or((fleet, ""));
            if of.agents == 0 {
                continue;
            }
            let policy = of.policy.as_deref().map(|policy| self.files.fill_in(policy));
            let token = self.controller.join_token(region, name, &["--uses", &of.agents.to_string()]);
            for (_, host) in self.hosts.iter().filter(|(of, _)| of == fleet) {
                let options = AgentOptions {
                    identity: self.carried_by(fleet, host),
                    policy: policy.as_deref(),
                    token: Some(token.clone()),
                    ..AgentOptions::default()
                };
                agents.push(self.controller.agent(host, region, name, &options));
            }
        }
        if !agents.is_empty() {
            self.controller.await_agents(agents.len());
        }
        agents
    }

    /// What a host's network identity holds, each as `key=value`.
    fn carried_by(&self, fleet: &str, host: &Host) -> Vec<String> {
        let Some(of) = self.scenario.fleets.get(fleet) else { return Vec::new() };
        let number = host.name().rsplit('-').next().unwrap_or_default();
        let groups = of.groups.iter().map(|group| format!("security_group={group}"));
        groups.chain(of.identity.iter().cloned()).chain(of.hosts.get(number).into_iter().flatten().cloned()).collect()
    }

    /// The hosts that a rule means by a security group, a fleet, a name or what they carry.
    fn hosts_of(&self, who: &str) -> Vec<&Host> {
        let found: Vec<&Host> = self
            .hosts
            .iter()
            .filter(|(fleet, host)| {
                let carried = self.carried_by(fleet, host);
                let group = format!("security_group={who}");
                fleet == who || host.name() == who || carried.iter().any(|one| one == who || *one == group)
            })
            .map(|(_, host)| host)
            .chain(self.servers.iter().map(|(host, _)| host).filter(|host| host.name() == who))
            .collect();
        assert!(!found.is_empty(), "{who} is no group, fleet or host of this scenario");
        found
    }

    fn addresses_of(&self, who: &[String]) -> Vec<IpAddr> {
        who.iter().flat_map(|who| self.hosts_of(who)).flat_map(|host| host.addresses().to_vec()).collect()
    }

    fn rules(&self, rules: &BTreeMap<String, Vec<Rule>>) {
        for (who, rules) in rules {
            for host in self.hosts_of(who) {
                let mut firewall = Firewall::open();
                for rule in rules {
                    firewall = match rule {
                        Rule::Admit { from, port } => firewall.admit(&self.addresses_of(from), *port),
                        Rule::Drop(port) => firewall.drop(*port),
                        Rule::DropIpv6(port) => firewall.drop_ipv6(*port),
                        Rule::Reset(port) => firewall.reset(*port),
                        Rule::Prohibit(port) => firewall.prohibit(*port),
                        Rule::Lose { percent, port } => firewall.lose(*percent, *port),
                        Rule::DropOutput(to) => firewall.drop_output(*to),
                        Rule::Intercept(port) => {
                            host.silence(*port);
                            firewall.intercept(self.controller.host.address(), *port)
                        }
                    };
                }
                host.firewall(&firewall);
            }
        }
    }

    /// Every way from a host with an agent to a port of a server must be as the rules say.
    fn assert_wiring(&self, rules: &BTreeMap<String, Vec<Rule>>) {
        let mut ways = Vec::new();
        for (fleet, from) in &self.hosts {
            let of_host: Vec<&Rule> =
                [fleet.as_str(), from.name()].iter().filter_map(|who| rules.get(*who)).flatten().collect();
            for (server, runs) in &self.servers {
                let of_server: Vec<&Rule> = rules.get(server.name()).into_iter().flatten().collect();
                for (address, (port, service)) in
                    server.addresses().iter().flat_map(|a| runs.iter().map(move |r| (a, r)))
                {
                    let to = SocketAddr::new(*address, *port);
                    let reaches = from.addresses().iter().any(|a| a.is_ipv6() == address.is_ipv6());
                    let open = if matches!(service, Service::Nothing) { Expect::Refused } else { Expect::Open };
                    if let Some(expect) = self.expected(from, to, &of_host, &of_server, open).filter(|_| reaches) {
                        ways.push(Way::new(from, to, expect));
                    }
                }
            }
        }
        self.lab.assert_wiring(&ways);
    }

    /// What a plain connect meets by these rules; none where it is left to chance.
    fn expected(&self, from: &Host, to: SocketAddr, host: &[&Rule], server: &[&Rule], open: Expect) -> Option<Expect> {
        for rule in host {
            match rule {
                Rule::DropOutput(address) if *address == to.ip() => return Some(Expect::Silent),
                Rule::Intercept(_) => return Some(Expect::Open),
                Rule::DropOutput(_)
                | Rule::Admit { .. }
                | Rule::Drop(_)
                | Rule::DropIpv6(_)
                | Rule::Reset(_)
                | Rule::Prohibit(_)
                | Rule::Lose { .. } => {}
            }
        }
        for rule in server {
            match rule {
                Rule::Admit { from: who, port } if *port == to.port() => {
                    let admitted = self.addresses_of(who);
                    if from.addresses().iter().any(|a| a.is_ipv6() == to.is_ipv6() && admitted.contains(a)) {
                        return Some(open);
                    }
                }
                Rule::Drop(port) if *port == to.port() => return Some(Expect::Silent),
                Rule::DropIpv6(port) if *port == to.port() && to.is_ipv6() => return Some(Expect::Silent),
                Rule::Reset(port) if *port == to.port() => return Some(Expect::Refused),
                Rule::Prohibit(port) if *port == to.port() => return Some(Expect::Unreachable),
                Rule::Lose { port, .. } if *port == to.port() => return None,
                Rule::Admit { .. }
                | Rule::Drop(_)
                | Rule::DropIpv6(_)
                | Rule::Reset(_)
                | Rule::Prohibit(_)
                | Rule::Lose { .. }
                | Rule::DropOutput(_)
                | Rule::Intercept(_) => {}
            }
        }
        Some(open)
    }

    /// Runs a step's command; what is otherwise than the step says.
    fn play(&self, step: &Step) -> Vec<String> {
        if let Some(inventory) = &step.inventory {
            self.controller.inventory(inventory);
        }
        if let Some(manifest) = &step.manifest {
            self.controller.file("preflight.yaml", &self.filled_in(manifest));
        }
        let words: Vec<&str> = match &step.command {
            Some(command) => command.iter().map(String::as_str).collect(),
            None => GATE.to_vec(),
        };
        let answer = self.controller.preflight(&words);
        let mut wrong = judge(step, &answer);
        if !wrong.is_empty() {
            wrong.push(format!("preflight {} said:\n{}", words.join(" "), answer.text()));
        }
        wrong
    }
}

fn judge(step: &Step, answer: &Preflight) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut check = |what: &str, is: &dyn std::fmt::Debug, should: &dyn std::fmt::Debug, same: bool| {
        if !same {
            wrong.push(format!("{what} should be {should:?}, is {is:?}"));
        }
    };
    check("the exit code", &answer.code, &step.exit, answer.code == step.exit);
    if let Some(limit) = step.within_ms {
        let took = answer.took.as_millis();
        check("the time taken in ms", &took, &format!("at most {limit}"), took <= u128::from(limit));
    }
    if let Some(cells) = &step.cells {
        let found = states(answer);
        check("the cells", &found, cells, found == *cells);
    }
    for (cell, wanted) in &step.evidence {
        let found = evidence(answer, cell);
        for want in wanted {
            check(&format!("the evidence of {cell}"), &found, &format!("with {want}"), found.contains(want));
        }
    }
    if let Some(wanted) = &step.findings {
        let found = answer.findings();
        let text = |finding: &serde_json::Value| finding["text"].as_str().unwrap_or("?").to_owned();
        let lines: Vec<String> = found.iter().map(|f| format!("{}: {}", finding_line(f), text(f))).collect();
        // Each says what is wanted at its place: what explains most stands first.
        let same =
            found.len() == wanted.len() && found.iter().zip(wanted).all(|(found, wanted)| is_wanted(found, wanted));
        check("the findings", &lines, wanted, same);
    }
    let text = answer.text();
    for want in &step.says {
        check(&format!("'{want}' in the text"), &text.contains(want), &true, text.contains(want));
    }
    for never in &step.never_says {
        check(&format!("'{never}' in the text"), &text.contains(never), &false, !text.contains(never));
    }
    wrong
}

/// Every cell of a gate's JSON with its state and reason.
fn states(answer: &Preflight) -> BTreeMap<String, String> {
    let mut states = BTreeMap::new();
    for region in answer.json["regions"].as_array().into_iter().flatten() {
        for cell in region["cells"].as_array().into_iter().flatten() {
            let text = |key: &str| cell[key].as_str().unwrap_or("?").to_owned();
            let name = format!("{}/{}/{}", region["region"].as_str().unwrap_or("?"), text("fleet"), text("dependency"));
            let state = answer.state(&name);
            states.insert(name, state);
        }
    }
    states
}

/// A cell's evidence, a line for each agent and address.
fn evidence(answer: &Preflight, cell: &str) -> BTreeSet<String> {
    let all = answer.cell(cell)["evidence"].as_array().cloned().unwrap_or_default();
    all.iter()
        .map(|seen| {
            let address = seen["address"].as_str().unwrap_or("-");
            let what = seen["reason"].as_str().or(seen["outcome"].as_str()).unwrap_or("?");
            format!("{address} {what}")
        })
        .collect()
}

fn is_wanted(finding: &serde_json::Value, wanted: &Wanted) -> bool {
    match wanted {
        Wanted::Line(line) => finding_line(finding) == *line,
        Wanted::Told { kind, says } => {
            let text = finding["text"].as_str().unwrap_or_default();
            finding["kind"] == **kind && says.iter().all(|word| text.contains(word))
        }
    }
}

/// A finding as scenario files write it.
fn finding_line(finding: &serde_json::Value) -> String {
    let mut line = finding["kind"].as_str().unwrap_or("?").to_owned();
    for attribute in finding["attributes"].as_array().into_iter().flatten() {
        let text = |key: &str| attribute[key].as_str().unwrap_or("?").to_owned();
        let _ = write!(line, " {}={}", text("key"), text("value"));
    }
    line
}

fn start(host: &Host, port: u16, service: &Service, authority: &Authority, files: &TlsFiles) -> Option<Running> {
    let process = match service {
        // All nodes of a cluster are started together.
        Service::Nothing | Service::RedisCluster => return None,
        Service::Redis => host.redis(port, &[]),
        Service::RedisLocked => host.redis(port, &["--requirepass", "secret"]),
        Service::RedisLoading => host.redis_loading(port),
        Service::RedisMasterdown => host.redis_masterdown(port),
        Service::Rediss(certificate) => host.rediss(port, &issue(*certificate, authority)),
        Service::RedissForClients => host.rediss_for_clients(port, &issue(Certificate::Good, authority), authority),
        Service::RedissPinned => host.rediss(port, &files.pinned),
        Service::HttpsOld => host.https_old(port, &issue(Certificate::Good, authority)),
        Service::Http => host.http(port),
        Service::HttpStatus(status) => host.http_status(port, *status),
        Service::GrpcStatus(status) => host.grpc_status(port, *status),
        Service::Https(certificate) => host.https(port, &issue(*certificate, authority)),
        Service::Postgres => {
            assert_eq!(port, 5432, "the lab's PostgreSQL has its own port");
            return Some(Box::new(host.postgres(None)));
        }
        Service::Mysql => {
            assert_eq!(port, 3306, "the lab's MariaDB has its own port");
            let server = host.mariadb(None);
            server.sql("create user preflight@'%'");
            return Some(Box::new(server));
        }
        Service::Memcached => return Some(Box::new(host.memcached(port, &[]))),
        Service::Squid => return Some(Box::new(host.squid(port, ""))),
        Service::Tinyproxy => return Some(Box::new(host.tinyproxy(port, ""))),
        Service::Silence => {
            host.silence(port);
            return None;
        }
        Service::Resets => {
            host.resets(port);
            return None;
        }
        Service::Says(text) => {
            host.says(port, text.as_bytes());
            return None;
        }
        Service::SaysLate { text, after_ms } => {
            host.says_late(port, text.as_bytes(), Duration::from_millis(*after_ms));
            return None;
        }
        Service::Dribbles => {
            host.dribbles(port);
            return None;
        }
        Service::Floods => {
            host.floods(port);
            return None;
        }
    };
    Some(Box::new(process))
}

fn issue(certificate: Certificate, authority: &Authority) -> Pair {
    const NAME: [&str; 1] = ["cache.internal"];
    match certificate {
        Certificate::Good => authority.issue(&NAME, certificates::TODAY),
        Certificate::Expired => authority.issue(&NAME, certificates::EXPIRED),
        Certificate::NotYetValid => authority.issue(&NAME, certificates::NOT_YET),
        Certificate::WrongName => authority.issue(&["other.internal"], certificates::TODAY),
        Certificate::Untrusted => Authority::new("Nobody's authority").issue(&NAME, certificates::TODAY),
        Certificate::SelfSigned => certificates::self_signed(&NAME, certificates::TODAY),
    }
}

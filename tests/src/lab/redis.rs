//! Redis Clusters and Sentinels of real servers, as people set them up.

use std::time::Duration;

use super::servers::Server;
use super::{Host, wait_for};

/// How long a cluster may take to agree on a busy machine.
const AGREE: Duration = Duration::from_mins(2);
/// The port that Sentinels listen on.
pub const SENTINEL: u16 = 26_379;

/// A Redis Cluster with a node on each of `hosts`, half of them replicas, once every node tells of every other.
///
/// # Panics
/// If it does not come about.
pub fn cluster(hosts: &[Host], port: u16) -> Vec<Server> {
    let options = ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", "5000"];
    let servers: Vec<Server> = hosts.iter().map(|host| host.redis(port, &options)).collect();
    let nodes: Vec<String> = hosts.iter().map(|host| host.port(port).to_string()).collect();
    let mut words = vec!["redis-cli", "--cluster", "create"];
    words.extend(nodes.iter().map(String::as_str));
    words.extend(["--cluster-replicas", "1", "--cluster-yes"]);
    let created = hosts.first().expect("a cluster has hosts").run(&words);
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stdout));
    for host in hosts {
        // A replica is told of once it follows its primary.
        await_told(host, port, &["cluster", "slots"], hosts.iter().map(Host::address));
        await_told(host, port, &["cluster", "info"], ["cluster_state:ok"]);
    }
    servers
}

/// A primary on the first of `hosts` with replicas on the others, and a Sentinel on each that watches it as `name`, once every
/// Sentinel knows all of it.
///
/// # Panics
/// If it does not come about.
pub fn sentinels(hosts: &[Host], name: &str, port: u16) -> Vec<Server> {
    let primary = hosts.first().expect("a primary has a host").address();
    let follow = format!("{primary} {port}");
    let mut servers = Vec::new();
    for (index, host) in hosts.iter().enumerate() {
        let options: &[&str] = if index == 0 { &[] } else { &["--replicaof", &follow] };
        servers.push(host.redis(port, options));
    }
    for host in hosts {
        let file = host.dir().join("sentinel.conf");
        let text = format!(
            "port {SENTINEL}\nbind 0.0.0.0 ::\nprotected-mode no\ndir {}\nsentinel monitor {name} {primary} {port} 2\n\
             sentinel down-after-milliseconds {name} 30000\n",
            host.dir().display()
        );
        std::fs::write(&file, text).expect("write sentinel.conf");
        servers.push(host.spawn("sentinel", &["redis-sentinel", &file.to_string_lossy()]));
        host.await_listener(SENTINEL);
    }
    for host in hosts {
        let others = || hosts.iter().map(Host::address).filter(|ip| *ip != host.address());
        let replicas = hosts.iter().map(Host::address).filter(|ip| *ip != primary);
        await_told(host, SENTINEL, &["sentinel", "replicas", name], replicas);
        await_told(host, SENTINEL, &["sentinel", "sentinels", name], others());
    }
    servers
}

/// Waits until what a server answers holds each of `wanted` as a line.
fn await_told(host: &Host, port: u16, command: &[&str], wanted: impl IntoIterator<Item = impl ToString>) {
    let wanted: Vec<String> = wanted.into_iter().map(|want| want.to_string()).collect();
    let port = port.to_string();
    let words = [&["redis-cli", "-p", &port], command].concat();
    wait_for(&format!("{} on {} to tell of {}", command.join(" "), host.name(), wanted.join(", ")), AGREE, || {
        let said = host.run(&words);
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        wanted.iter().all(|want| said.lines().any(|line| line.trim() == want)).then_some(())
    });
}

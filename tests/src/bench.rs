//! What the bench says to its prober, and what that answers: a process of its own, so that its CPU time and memory are its own.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// What probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum By {
    /// The engine that ships, with the agent's guard.
    Engine,
    /// A bare loop around epoll.
    Loop,
}

/// What is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A connect.
    Tcp,
    /// A connect, and `PING`.
    Redis,
    /// A connect, and a handshake.
    Tls,
}

impl Kind {
    /// The scheme of its targets.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Redis => "redis",
            Self::Tls => "tls",
        }
    }
}

/// Probes to make.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// What probes.
    pub by: By,
    /// What is probed.
    pub kind: Kind,
    /// How many probes.
    pub probes: usize,
    /// How many of them are begun before the first has ended; each that ends makes room for the next.
    pub at_once: usize,
    /// The engine's own ceiling.
    pub max_concurrent: usize,
    /// The targets take turns.
    pub targets: Vec<SocketAddr>,
    /// The authority of the TLS servers.
    pub ca_pem: String,
    /// The name in their certificate.
    pub server_name: String,
    /// The agent's policy file.
    pub policy: String,
}

/// What came of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Done {
    /// From the first probe's start to the last one's end, in seconds.
    pub wall_s: f64,
    /// User and system time of the process meanwhile, in seconds.
    pub cpu_s: f64,
    /// How many probes ended how: `ok` or a reason.
    pub ends: BTreeMap<String, usize>,
    /// Resident memory at the end, in bytes.
    pub resident: u64,
    /// The most resident memory of its life, in bytes.
    pub peak: u64,
}

/// Loopback addresses in `127.net.0.0/16`. A connect leaves its port behind for a minute, towards that address and port
/// only, so probes that are spread over many addresses never run out of ports.
pub fn loopback(net: u8, count: usize, port: u16) -> Vec<SocketAddr> {
    let hosts = (0..=u8::MAX).flat_map(|high| (1..=250).map(move |low| Ipv4Addr::new(127, net, high, low)));
    hosts.take(count).map(|ip| (ip, port).into()).collect()
}

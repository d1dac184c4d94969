//! Scenarios as data: a file of `tests/scenarios/` says which hosts there are, what runs on them, what is in the way, and
//! what preflight must then say. A new case is a new file; `tests/scenarios/README.md` explains the format.

mod run;
mod tally;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

pub use run::run;
pub use tally::Tally;

/// One file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it shows, in a sentence.
    pub about: String,
    /// The fleets that have hosts with agents, as `region/fleet`.
    #[serde(default)]
    pub fleets: BTreeMap<String, Fleet>,
    /// The hosts that are probed.
    #[serde(default)]
    pub servers: BTreeMap<String, ServerHost>,
    /// The name server that every host asks.
    #[serde(default)]
    pub dns: Dns,
    /// Firewall rules, by host or `region/fleet`.
    #[serde(default)]
    pub firewall: BTreeMap<String, Vec<Rule>>,
    /// The inventory's text; without one, each fleet of the file as it is, and application `app` on all of them.
    pub inventory: Option<String>,
    /// The manifest's text. `@CA@` stands for the lab's authority, as the inside of a quoted string; `@FILES@` for a directory
    /// with certificates and `@PIN@` for a fingerprint, as [`TlsFiles`](crate::lab::TlsFiles) has them.
    pub manifest: Option<String>,
    /// What is asked, in order.
    #[serde(rename = "step")]
    pub steps: Vec<Step>,
}

/// Hosts of one kind.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fleet {
    /// How many hosts, each with an agent; called `region-fleet-1` and so on.
    #[serde(default = "two")]
    pub agents: u8,
    /// The security groups that they carry.
    #[serde(default)]
    pub groups: Vec<String>,
    /// What else their network identity holds, as `zone=a`.
    #[serde(default)]
    pub identity: Vec<String>,
    /// What single hosts carry beside that, by number.
    #[serde(default)]
    pub hosts: BTreeMap<String, Vec<String>>,
    /// The agents' local policy file. `@FILES@` stands for a directory with certificates.
    pub policy: Option<String>,
    /// Whether they have IPv6 beside IPv4.
    #[serde(default)]
    pub ipv6: bool,
}

fn two() -> u8 {
    2
}

/// A host that is probed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerHost {
    /// Its addresses, in 10.9.0.0/16 and `fd00::9:0/112`.
    pub addresses: Vec<String>,
    /// What runs on it, by port.
    #[serde(default)]
    pub runs: BTreeMap<String, Service>,
}

/// What listens on a port.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Service {
    /// Nothing does.
    Nothing,
    /// Redis.
    Redis,
    /// A node of the one Redis Cluster of all hosts that run this: six at least.
    RedisCluster,
    /// Redis that asks for a password.
    RedisLocked,
    /// Redis that is loading its data.
    RedisLoading,
    /// A Redis replica without its primary.
    RedisMasterdown,
    /// Redis over TLS.
    Rediss(Certificate),
    /// Redis over TLS, for clients with a certificate of the lab's authority.
    RedissForClients,
    /// Redis over TLS with the certificate whose fingerprint is `@PIN@`.
    RedissPinned,
    /// A web server.
    Http,
    /// A web server over TLS.
    Https(Certificate),
    /// A web server over TLS 1.2 and nothing newer.
    HttpsOld,
    /// A web server that answers every request with this status.
    HttpStatus(u16),
    /// A server of HTTP/2 in the clear that ends every call with this status of gRPC, and no message.
    GrpcStatus(u8),
    /// `PostgreSQL`.
    Postgres,
    /// `MariaDB`, with an account for probes.
    Mysql,
    /// memcached.
    Memcached,
    /// The proxy squid, which lets 10.0.0.0/8 through to 443 and 6379.
    Squid,
    /// The proxy tinyproxy, which lets the same through.
    Tinyproxy,
    /// A listener that accepts and never says a word.
    Silence,
    /// A listener that resets every connection once it has said something.
    Resets,
    /// A listener that says this, whatever it is told.
    Says(String),
    /// A listener that says this, and takes its time.
    SaysLate {
        /// What it says, once it has been told something.
        text: String,
        /// How long after that.
        after_ms: u64,
    },
    /// A listener that says a byte a second.
    Dribbles,
    /// A listener that never stops talking.
    Floods,
}

/// A certificate, good or bad. All are for `cache.internal`, but the one that is not.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Certificate {
    /// By the lab's authority, whose certificate `@CA@` is.
    Good,
    /// It ended yesterday.
    Expired,
    /// It begins in ten days.
    NotYetValid,
    /// For `other.internal`.
    WrongName,
    /// By an authority that nobody knows.
    Untrusted,
    /// By itself.
    SelfSigned,
}

/// The name server.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// Names and their addresses; one without any exists and has none.
    #[serde(default)]
    pub names: BTreeMap<String, Vec<IpAddr>>,
    /// What is wrong with it.
    pub fault: Option<DnsFault>,
}

/// What is wrong with a name server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DnsFault {
    /// Questions to it vanish.
    Silent,
    /// It answers each with SERVFAIL.
    Servfail,
}

/// One rule of a host's firewall; the first that fits decides.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Rule {
    /// Lets these in: security groups, fleets or hosts.
    Admit {
        /// Who; also by what they carry beside their groups: `zone=a`.
        from: Vec<String>,
        /// To which port.
        port: u16,
    },
    /// Packets to that port vanish.
    Drop(u16),
    /// Packets to that port over IPv6 vanish.
    DropIpv6(u16),
    /// Connects to that port are refused.
    Reset(u16),
    /// Connects to that port are answered with ICMP "administratively prohibited".
    Prohibit(u16),
    /// Packets are lost at random, each way.
    Lose {
        /// Of a hundred.
        percent: u8,
        /// To which port.
        port: u16,
    },
    /// What the host sends to that address vanishes.
    DropOutput(IpAddr),
    /// Every connection that the host opens, but for those to the controller, ends at this port of its own.
    Intercept(u16),
}

/// A command, and what it must come to.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Rules that replace those of the same hosts first.
    #[serde(default)]
    pub firewall: BTreeMap<String, Vec<Rule>>,
    /// An inventory that is applied first.
    pub inventory: Option<String>,
    /// A manifest that replaces the scenario's.
    pub manifest: Option<String>,
    /// The words after `preflight`; by default, a gate for every region of the application, in JSON.
    pub command: Option<Vec<String>>,
    /// The exit code.
    pub exit: i32,
    /// The most it may take, in milliseconds.
    pub within_ms: Option<u64>,
    /// State and reason of `region/fleet/dependency`: `pass`, or `fail connect_timeout`. Every cell must be named.
    pub cells: Option<BTreeMap<String, String>>,
    /// Evidence that a cell must hold: `10.9.0.1:6379 ok`, or with the reason.
    #[serde(default)]
    pub evidence: BTreeMap<String, Vec<String>>,
    /// Findings, exactly these. A step in which a cell is expected to fail, or not to be known, has to name them.
    pub findings: Option<Vec<Wanted>>,
    /// What standard output or standard error must contain.
    #[serde(default)]
    pub says: Vec<String>,
    /// What neither may contain.
    #[serde(default)]
    pub never_says: Vec<String>,
}

/// A finding that is expected.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Wanted {
    /// The kind, then exactly the attributes that tell apart who reaches it, as `key=value`.
    Line(String),
    /// The kind, and what the text must hold.
    Told {
        /// The kind.
        kind: String,
        /// Each of these.
        says: Vec<String>,
    },
}

impl Step {
    /// Whether something is wrong in this step that has to be classified and explained.
    pub fn is_fault(&self) -> bool {
        let short = |cells: &BTreeMap<String, String>| cells.values().any(|state| state != "pass");
        self.cells.as_ref().is_some_and(short) || self.findings.as_ref().is_some_and(|findings| !findings.is_empty())
    }
}

/// Every scenario file, with its name.
///
/// # Panics
/// If the directory cannot be read or is empty.
pub fn all() -> Vec<(String, PathBuf)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut files: Vec<(String, PathBuf)> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| (path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), path))
        .collect();
    assert!(!files.is_empty(), "{} has no scenarios", dir.display());
    files.sort();
    files
}

impl Scenario {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let scenario: Self = toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        match scenario.steps.iter().position(|step| step.is_fault() && step.findings.is_none()) {
            Some(at) => Err(format!("{}: step {} has a fault, and names no findings", path.display(), at + 1)),
            None => Ok(scenario),
        }
    }
}

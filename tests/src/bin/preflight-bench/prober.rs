//! The ground that probes are measured on: a host with servers on its loopback, and the prober as a process of its own.

use std::fs;
use std::time::Duration;

use preflight_tests::bench::{By, Done, Job, Kind, loopback};
use preflight_tests::certificates::{Authority, TODAY};
use preflight_tests::lab::{Firewall, Host, Lab, Server, binary};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// A Redis server; also what the TCP probes connect to.
const REDIS: u16 = 6379;
/// A Redis server that speaks TLS.
const REDISS: u16 = 6380;
/// Connects to it vanish.
pub(crate) const DROPPED: u16 = 6381;
/// How a probe of it ends.
pub(crate) const SILENT: &str = "connect_timeout";
/// The name in the server's certificate.
const SERVER_NAME: &str = "cache.bench";
/// Probes take turns on so many addresses, so that ports do not run out.
const ADDRESSES: usize = 250;
/// As an operator would write it: the prober is measured with a policy to check.
const POLICY: &str = "\
[[allow]]
addresses = ['10.0.0.0/8', '127.0.0.0/8']
ports = '1024-65535'
[[allow]]
addresses = ['2001:db8:1::/48', '192.168.0.0/16']
ports = [443, 5432, 6379]
[[deny]]
addresses = ['10.0.9.0/24']
";

/// A host with its servers, on one core; what probes them runs on another.
pub(crate) struct Ground {
    pub(crate) host: Host,
    /// Where what is measured runs.
    pub(crate) core: usize,
    /// Where everything else runs.
    pub(crate) other: usize,
    ca_pem: String,
    policy: String,
    _servers: [Server; 2],
    _lab: Lab,
}

impl Ground {
    pub(crate) fn new() -> Self {
        let lab = Lab::new();
        let host = lab.host("prober", &["10.9.0.2"]);
        host.firewall(&Firewall::open().drop(DROPPED));
        let authority = Authority::new("bench");
        let pair = authority.issue(&[SERVER_NAME], TODAY);
        let servers = [host.redis(REDIS, &["--tcp-backlog", "4096"]), host.rediss(REDISS, &pair)];
        let policy = host.dir().join("policy.toml");
        fs::write(&policy, POLICY).expect("write a policy");
        let cores = sched_getaffinity(None).expect("this process's cores");
        let mut usable = (0..CpuSet::MAX_CPU).filter(|core| cores.is_set(*core));
        let core = usable.next().expect("a core");
        let other = usable.next_back().unwrap_or(core);
        for server in &servers {
            pin(Pid::from_raw(server.id().cast_signed()), other);
        }
        Self {
            host,
            core,
            other,
            ca_pem: authority.pem,
            policy: policy.to_string_lossy().into_owned(),
            _servers: servers,
            _lab: lab,
        }
    }

    /// Probes of real servers, 64 at once.
    pub(crate) fn answered(&self, by: By, kind: Kind, probes: usize) -> Job {
        let port = if kind == Kind::Tls { REDISS } else { REDIS };
        self.job(by, kind, probes, loopback(0, ADDRESSES, port))
    }

    /// A probe for each of so many targets that drop what comes.
    pub(crate) fn dropped(&self, probes: usize) -> Job {
        Job { at_once: probes, ..self.job(By::Engine, Kind::Tcp, probes, loopback(1, probes, DROPPED)) }
    }

    fn job(&self, by: By, kind: Kind, probes: usize, targets: Vec<std::net::SocketAddr>) -> Job {
        Job {
            by,
            kind,
            probes,
            at_once: 64,
            max_concurrent: 64,
            targets,
            ca_pem: self.ca_pem.clone(),
            server_name: SERVER_NAME.to_owned(),
            policy: self.policy.clone(),
        }
    }

    /// Does a job on the measured core. Every probe must end as it should; of those that wait for silence, some may be void
    /// where something else kept that core busy. [`void`] says how many.
    pub(crate) fn run(&self, job: &Job, end: &str) -> Done {
        let text = serde_json::to_string(job).expect("a job as JSON");
        let core = self.core.to_string();
        let prober = binary("preflight-bench-probe");
        let file = self.host.dir().join("job.json");
        fs::write(&file, text).expect("write a job");
        let output = self.host.run(&["taskset", "-c", &core, "timeout", "60", &prober, &file.to_string_lossy()]);
        let done: Done = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("the prober: {error}\n{}", String::from_utf8_lossy(&output.stderr)));
        let expected = done.ends.get(end).copied().unwrap_or(0);
        let void = if end == SILENT { void(&done) } else { 0 };
        assert_eq!(expected + void, job.probes, "{:?} {:?}: {:?}", job.by, job.kind, done.ends);
        done
    }

    /// The certificate authority of its TLS server, in a file.
    pub(crate) fn ca_file(&self) -> String {
        let file = self.host.dir().join("ca.pem");
        fs::write(&file, &self.ca_pem).expect("write the authority");
        file.to_string_lossy().into_owned()
    }

    /// The name that its certificate is for.
    pub(crate) fn server_name() -> &'static str {
        SERVER_NAME
    }
}

/// How many probes did not say how the target is, because this host was too busy.
pub(crate) fn void(done: &Done) -> usize {
    done.ends.get("local_resources").copied().unwrap_or(0)
}

/// Puts a thread (none for the calling one) on one core.
pub(crate) fn pin(thread: Option<Pid>, core: usize) {
    let mut only = CpuSet::new();
    only.set(core);
    sched_setaffinity(thread, &only).expect("choose a core");
}

/// How long something takes, each of so many times.
pub(crate) fn time(rounds: usize, mut what: impl FnMut()) -> Vec<Duration> {
    let one = |_| {
        let started = std::time::Instant::now();
        what();
        started.elapsed()
    };
    (0..rounds).map(one).collect()
}

//! A host: a network namespace on the fabric, and what its processes see as their machine.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{Firewall, GATEWAY, Inner, NAME_SERVER, Process, add_address, lock, tool, wait_for};

/// One host of a lab. Clones are the same host.
#[derive(Debug, Clone)]
pub struct Host {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    lab: Arc<Inner>,
    name: String,
    addresses: Vec<IpAddr>,
    netns: String,
    dir: PathBuf,
}

/// Gives a process the host's name and files, then becomes it: the process id stays.
const BECOME: &str = r#"
set -e
hostname "$1"
for file in hosts resolv.conf machine-id; do mount --bind "$2/$file" "/etc/$file"; done
shift 2
exec "$@"
"#;

impl Host {
    pub(super) fn start(lab: &Arc<Inner>, name: &str, addresses: &[&str]) -> Self {
        let valid = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        assert!(valid, "{name} is not a host name: letters, digits and '-'");
        let netns = lab.netns(name);
        let port = format!("v{}", lab.interfaces.fetch_add(1, Ordering::Relaxed));
        let dir = lab.dir.join(name);
        fs::create_dir_all(dir.join("etc")).expect("make a host's directory");
        let parsed: Vec<IpAddr> =
            addresses.iter().map(|a| a.parse().unwrap_or_else(|_| panic!("{a} is not an address"))).collect();

        tool("ip", &["netns", "add", &netns], "");
        let join = format!("link add {port} type veth peer name eth0 netns {netns}\nlink set {port} master br0 up\n");
        tool("ip", &["-n", &lab.netns("fabric"), "-batch", "-"], &join);
        let mut lines = String::from("link set lo up\nlink set eth0 up\n");
        for address in addresses {
            let _ = writeln!(lines, "{}", add_address(address, "eth0"));
        }
        for gateway in GATEWAY.iter().filter(|g| parsed.iter().any(|a| a.is_ipv6() == g.contains(':'))) {
            let _ = writeln!(lines, "route add default via {gateway}");
        }
        tool("ip", &["-n", &netns, "-batch", "-"], &lines);
        // The kernel takes a link into use some time after it is up, and drops what is sent until then.
        for (side, interface) in [(&netns, "eth0"), (&lab.netns("fabric"), port.as_str())] {
            wait_for(&format!("{name}'s link"), Duration::from_secs(20), || {
                tool("ip", &["-n", side, "-oneline", "link", "show", interface], "").contains("state UP").then_some(())
            });
        }

        let shared = Shared { lab: lab.clone(), name: name.to_owned(), addresses: parsed, netns, dir };
        let host = Self { shared: Arc::new(shared) };
        host.resolv_conf(&format!("nameserver {NAME_SERVER}\n"));
        host.machine_id(name);
        lock(&lab.hosts).push(host.clone());
        host.name_address(name);
        host
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Its first address.
    ///
    /// # Panics
    /// If it has none.
    pub fn address(&self) -> IpAddr {
        *self.shared.addresses.first().expect("a host with an address")
    }

    /// All its addresses.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.shared.addresses
    }

    /// A port of its first address.
    pub fn port(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(), port)
    }

    /// Its own directory, in memory.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    pub(super) fn netns(&self) -> String {
        self.shared.netns.clone()
    }

    fn netns_path(&self) -> String {
        format!("/run/netns/{}", self.shared.netns)
    }

    pub(super) fn log_path(&self, process: &str) -> PathBuf {
        self.shared.lab.dir.join("logs").join(format!("{}.{process}.log", self.shared.name))
    }

    /// Writes its `/etc/resolv.conf`.
    pub fn resolv_conf(&self, text: &str) {
        fs::write(self.shared.dir.join("etc/resolv.conf"), text).expect("write resolv.conf");
    }

    /// Derives its `/etc/machine-id` from a seed; by default, its name.
    pub fn machine_id(&self, seed: &str) {
        let mut id = String::new();
        for n in 0..4u32 {
            let hash = seed.bytes().fold(n, |h: u32, b| (h ^ u32::from(b)).wrapping_mul(16_777_619).wrapping_add(n));
            let _ = write!(id, "{hash:08x}");
        }
        fs::write(self.shared.dir.join("etc/machine-id"), format!("{id}\n")).expect("write machine-id");
    }

    /// Makes `name` this host's in every host's `/etc/hosts`.
    pub fn name_address(&self, name: &str) {
        let mut names = lock(&self.shared.lab.names);
        names.insert(name.to_owned(), self.shared.addresses.clone());
        let mut text = String::from("127.0.0.1 localhost\n::1 localhost\n");
        for (name, addresses) in &*names {
            for address in addresses {
                let _ = writeln!(text, "{address} {name}");
            }
        }
        for host in &*lock(&self.shared.lab.hosts) {
            fs::write(host.shared.dir.join("etc/hosts"), &text).expect("write hosts");
        }
    }

    /// A command that will run on this host, with a bare environment: nothing of the caller's reaches it.
    pub fn command(&self, words: &[&str]) -> Command {
        let etc = self.shared.dir.join("etc");
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.netns_path()))
            .args(["unshare", "--mount", "--uts", "sh", "-c", BECOME, "host", &self.shared.name])
            .arg(etc)
            .args(words)
            .current_dir(&self.shared.dir)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", &self.shared.dir)
            .env("LC_ALL", "C.UTF-8")
            .env("RUST_BACKTRACE", "1");
        command
    }

    /// Starts a process that is killed when its handle is dropped; `name` names its log.
    pub fn spawn(&self, name: &str, words: &[&str]) -> Process {
        Process::start(self, name, self.command(words))
    }

    /// Runs a command to its end.
    pub fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("run a command on a host")
    }

    /// Runs `action` on a thread of this process that is on this host: sockets it opens belong to the host.
    ///
    /// # Panics
    /// If `action` does.
    pub fn within<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter();
                action()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread onto this host, for good.
    pub(super) fn enter(&self) {
        let netns = File::open(self.netns_path()).expect("open the host's network namespace");
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).expect("enter the host's network");
    }

    /// Replaces its firewall rules.
    pub fn firewall(&self, rules: &Firewall) {
        tool("nsenter", &[&format!("--net={}", self.netns_path()), "nft", "-f", "-"], &rules.to_string());
    }
}

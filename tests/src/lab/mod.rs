//! A network of hosts on one machine: a namespace for each, joined by a bridge, with nftables rules in place of security
//! groups and real servers. Every test makes its own, so that tests run side by side.

mod api;
mod databases;
mod firewall;
mod host;
mod process;
mod product;
mod proxies;
pub mod redis;
mod servers;
mod tls;
mod web;
mod wiring;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use api::{Answer, Api};
pub use databases::{Counters, Mariadb, Memcached, Postgres, Rabbitmq};
pub use firewall::Firewall;
pub use host::Host;
pub use process::{Exited, Process};
pub use product::{Agent, AgentOptions, Controller, Preflight, binary, clock_off_by};
pub use proxies::Proxy;
pub use servers::{Metadata, Server};
pub use tls::TlsFiles;
pub use wiring::{Expect, Way};

/// Where the fabric answers; every host's default route. It forwards nothing, so what is not on the fabric stays silent.
const GATEWAY: [&str; 2] = ["10.255.255.254", "fd00::ffff:fffe"];
/// What every host's resolver asks; nobody, until [`Host::dns`] is started on a host of that address.
pub const NAME_SERVER: &str = "10.255.255.53";
/// Made by `scripts/in-lab` inside the namespaces, on a file system that exists only there.
const GROUND: &str = "/run/preflight-lab";

/// One network of hosts, of at most some hundred that talk to few others each: the kernel keeps 1,024 neighbours for all
/// namespaces together. Dropping it removes the namespaces; the processes end with their own handles.
#[derive(Debug)]
pub struct Lab {
    inner: Arc<Inner>,
}

/// What the lab and its hosts share.
#[derive(Debug)]
struct Inner {
    id: String,
    dir: PathBuf,
    interfaces: AtomicU32,
    /// The lines of every host's `/etc/hosts`.
    names: Mutex<BTreeMap<String, Vec<IpAddr>>>,
    hosts: Mutex<Vec<Host>>,
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Lab {
    /// An empty network.
    ///
    /// # Panics
    /// Outside `make test`: a test that cannot run must not look as if it had passed.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(
            Path::new(GROUND).is_dir(),
            "this test builds networks and runs only inside the lab's namespaces: run `make test`, or put \
             `scripts/in-lab` in front of the cargo command"
        );
        let id = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = Path::new(GROUND).join(&id);
        fs::create_dir_all(dir.join("logs")).expect("make the lab's directory");
        let lab = Self {
            inner: Arc::new(Inner {
                id,
                dir,
                interfaces: AtomicU32::new(0),
                names: Mutex::default(),
                hosts: Mutex::default(),
            }),
        };
        let fabric = lab.inner.netns("fabric");
        tool("ip", &["netns", "add", &fabric], "");
        let mut lines = String::from(
            "link add br0 type bridge forward_delay 0 mcast_snooping 0\nlink set br0 up\nlink set lo up\n",
        );
        for address in GATEWAY {
            let _ = writeln!(lines, "{}", add_address(address, "br0"));
        }
        tool("ip", &["-n", &fabric, "-batch", "-"], &lines);
        lab
    }

    /// A new host (letters, digits and `-`) with its own network, name, machine-id, `/etc/hosts` and `/etc/resolv.conf`.
    pub fn host(&self, name: &str, addresses: &[&str]) -> Host {
        Host::start(&self.inner, name, addresses)
    }

    /// The host of that name.
    ///
    /// # Panics
    /// If there is none.
    pub fn find(&self, name: &str) -> Host {
        let hosts = lock(&self.inner.hosts);
        hosts.iter().find(|host| host.name() == name).cloned().unwrap_or_else(|| panic!("the lab has no host {name}"))
    }

    /// A directory of this lab, in memory, gone with the namespaces.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// The end of every process's log, for a failed test.
    pub fn logs(&self) -> String {
        const LAST: usize = 40;
        let mut all = String::new();
        let mut files: Vec<PathBuf> = fs::read_dir(self.inner.dir.join("logs"))
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        files.sort();
        for file in files {
            let text = String::from_utf8_lossy(&fs::read(&file).unwrap_or_default()).into_owned();
            if text.trim().is_empty() {
                continue;
            }
            let skipped = text.lines().count().saturating_sub(LAST);
            let _ = writeln!(all, "--- {}", file.file_name().unwrap_or_default().to_string_lossy());
            if skipped > 0 {
                let _ = writeln!(all, "… {skipped} lines before");
            }
            for line in text.lines().skip(skipped) {
                let _ = writeln!(all, "{line}");
            }
        }
        all
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[expect(clippy::print_stderr, reason = "the test harness shows it with the failure")]
            {
                eprintln!("{}", self.logs());
            }
        }
        let hosts = std::mem::take(&mut *lock(&self.inner.hosts));
        for host in hosts.iter().map(Host::netns).chain([self.inner.netns("fabric")]) {
            // A process that still runs in there keeps it for as long as it runs.
            let _ = Command::new("ip").args(["netns", "delete", &host]).stderr(Stdio::null()).status();
        }
        let _ = fs::remove_dir_all(&self.inner.dir);
    }
}

impl Inner {
    fn netns(&self, host: &str) -> String {
        format!("{}-{host}", self.id)
    }
}

/// Waits until `done` gives something, asking again and again; the deadline is for what has gone wrong, not for pacing.
///
/// # Panics
/// After `at_most`, with `what`.
pub fn wait_for<T>(what: &str, at_most: Duration, mut done: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(started.elapsed() < at_most, "waited {at_most:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a system tool that must succeed.
fn tool(program: &str, args: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}; `make setup` installs what the lab needs"));
    let mut stdin = child.stdin.take().expect("piped");
    // A tool that ends without reading says why on its standard error.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("wait for a tool");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {}\n{stderr}\n{input}", args.join(" "), output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The line of an `ip` batch that gives an address to an interface; everything of a lab is one link.
fn add_address(address: &str, interface: &str) -> String {
    if address.contains(':') {
        format!("address add {address}/32 dev {interface} nodad")
    } else {
        format!("address add {address}/8 dev {interface}")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

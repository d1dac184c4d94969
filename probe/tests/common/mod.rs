//! Servers to probe, and short names for what is asserted of them.

#![allow(dead_code, reason = "each test file uses a part")]

pub(crate) mod certificates;
mod web;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use preflight_core::observation::{Observation, Report};
use preflight_core::spec::{Millis, ProbeSpec};
use preflight_probe::{AllowAll, Engine, EngineOptions};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// A probe of `url` with short deadlines, so that a test of a timeout does not take long.
pub(crate) fn spec(url: &str) -> ProbeSpec {
    let mut spec = ProbeSpec::new(url.parse().unwrap());
    spec.timeout = Millis(1_000);
    spec
}

/// What a new engine reports of `spec`. A machine that stood still when a deadline was due says so of itself, and is asked again.
pub(crate) async fn report(spec: &ProbeSpec) -> Report {
    let starved = |report: &Report| {
        report.observations.iter().any(|seen| detail(seen).starts_with("this process was stopped or starved"))
    };
    let mut tries = 10;
    loop {
        let report = Engine::new(EngineOptions::default()).unwrap().probe(spec, &AllowAll).await;
        tries -= 1;
        if tries == 0 || !starved(&report) {
            return report;
        }
    }
}

/// The observation of a target with one address.
pub(crate) async fn probe(spec: &ProbeSpec) -> Observation {
    let mut report = report(spec).await;
    assert_eq!(report.observations.len(), 1, "{report:#?}");
    report.observations.remove(0)
}

/// `ok` or the reason.
pub(crate) fn reason(seen: &Observation) -> &'static str {
    seen.outcome.reason().unwrap_or("ok")
}

pub(crate) fn detail(seen: &Observation) -> &str {
    seen.detail.as_deref().unwrap_or_default()
}

/// A server that does `serve` with each connection, and counts them.
pub(crate) async fn scripted<F, Fut>(serve: F) -> (SocketAddr, Arc<AtomicUsize>)
where
    F: Fn(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(serve(stream));
        }
    });
    (address, count)
}

/// An address that is taken and where nothing listens: who dials it is refused, for as long as the socket is kept.
pub(crate) fn nobody() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// A port below those that the kernel gives out by itself, and given out once: whoever asks the kernel for any port does not get it.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(10_000);
    loop {
        let port = NEXT.fetch_add(1, Ordering::SeqCst);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A program that runs until this is dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    directory: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// A file of the server's own directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts `program` on a port of its own, and waits until it listens.
    pub(super) fn start(program: &str, arguments: impl Fn(u16, &std::path::Path) -> Vec<String>) -> Self {
        let directory = TempDir::with_prefix("preflight-").unwrap();
        let port = free_port();
        let mut child = Command::new(program)
            .args(arguments(port, directory.path()))
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{program} cannot be started ({error}): run `make setup`, which installs it")
            });
        let patience = Instant::now() + Duration::from_secs(20);
        while Instant::now() < patience && child.try_wait().unwrap().is_none() {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Self { child, port, directory };
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = child.kill();
        let _ = child.wait();
        panic!("{program} does not start; its directory is {}", directory.keep().display());
    }

    /// A Redis without persistence. `more` has further options, in which `DIR` is its directory.
    pub(crate) fn redis(more: &[&str]) -> Self {
        Self::start("redis-server", |port, directory| {
            let tls = more.contains(&"--tls-cert-file");
            let ports = if tls { ["--port", "0", "--tls-port"].as_slice() } else { ["--port"].as_slice() };
            let fixed = [
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
                "--logfile",
                "log",
                "--loglevel",
                "verbose",
            ];
            let here = directory.display().to_string();
            ports
                .iter()
                .map(ToString::to_string)
                .chain([port.to_string()])
                .chain(fixed.iter().map(ToString::to_string))
                .chain(more.iter().map(|option| option.replace("DIR", &here)))
                .collect()
        })
    }

    /// A Sentinel that watches `primary` as `cache`.
    pub(crate) fn sentinel(primary: &Self) -> Self {
        Self::start("redis-sentinel", |port, directory| {
            let here = directory.display();
            let config = format!(
                "port {port}\nbind 127.0.0.1\ndir {here}\nlogfile {here}/log\nsentinel monitor cache 127.0.0.1 {} 1\n",
                primary.port
            );
            std::fs::write(directory.join("conf"), config).unwrap();
            vec![format!("{here}/conf")]
        })
    }

    pub(crate) fn nginx() -> Self {
        Self::start("nginx", |port, directory| {
            let here = directory.display();
            // Without a master there is no worker that would outlive it.
            let config = format!(
                "user root; daemon off; master_process off; pid {here}/pid; error_log {here}/error; events {{}}\n\
                 http {{ access_log off; client_body_temp_path {here}/a; proxy_temp_path {here}/b; fastcgi_temp_path {here}/c; \
                 uwsgi_temp_path {here}/d; scgi_temp_path {here}/e; server {{ listen 127.0.0.1:{port}; return 204; }} }}"
            );
            std::fs::write(directory.join("conf"), config).unwrap();
            ["-e", &format!("{here}/error"), "-c", &format!("{here}/conf")].map(str::to_owned).to_vec()
        })
    }

    /// One command of Redis, by its own protocol; the reply's text.
    pub(crate) fn ask(&self, command: &str) -> String {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply
    }
}

//! Debian's `prometheus-blackbox-exporter` on the measured core, asked over connections that are kept, as Prometheus does.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use preflight_tests::bench::{Job, Kind};
use preflight_tests::lab::{Process, wait_for};

use crate::prober::{Ground, pin};

const PORT: u16 = 9115;

pub(crate) struct Exporter<'g> {
    ground: &'g Ground,
    process: Process,
}

/// What a number of its probes cost it.
pub(crate) struct Cost {
    pub(crate) wall_s: f64,
    pub(crate) cpu_s: f64,
}

impl<'g> Exporter<'g> {
    pub(crate) fn start(ground: &'g Ground) -> Self {
        let tls = format!("tls_config: {{ca_file: {}, server_name: {}}}", ground.ca_file(), Ground::server_name());
        let module =
            |name: &str, tcp: &str| format!("  {name}: {{prober: tcp, tcp: {{preferred_ip_protocol: ip4{tcp}}}}}\n");
        let modules = [
            module("tcp", ""),
            module("redis", ", query_response: [{send: PING}, {expect: '^\\+PONG'}]"),
            module("tls", &format!(", tls: true, {tls}")),
        ];
        let file = ground.host.dir().join("blackbox.yml");
        fs::write(&file, format!("modules:\n{}", modules.concat())).expect("write the exporter's configuration");
        let core = ground.core.to_string();
        let listen = format!("--web.listen-address=127.0.0.1:{PORT}");
        let configuration = format!("--config.file={}", file.display());
        let words = ["taskset", "-c", &core, "prometheus-blackbox-exporter", &listen, &configuration];
        let mut process = ground.host.spawn("exporter", &words);
        wait_for("the exporter to answer", Duration::from_secs(20), || {
            assert!(process.running(), "prometheus-blackbox-exporter has ended:\n{}", process.log());
            ground.host.within(|| TcpStream::connect(("127.0.0.1", PORT))).ok().map(drop)
        });
        Self { ground, process }
    }

    /// Has it make the job's probes, which must all succeed.
    pub(crate) fn run(&self, job: &Job) -> Cost {
        let next = AtomicUsize::new(0);
        let (begin, cpu) = (Instant::now(), self.process.cpu());
        self.ground.host.within(|| {
            pin(None, self.ground.other);
            thread::scope(|scope| {
                for _ in 0..job.at_once {
                    scope.spawn(|| {
                        let mut client = Client::new();
                        loop {
                            let index = next.fetch_add(1, Ordering::Relaxed);
                            if index >= job.probes {
                                break;
                            }
                            let answer = client.probe(job.kind, job.targets[index % job.targets.len()]);
                            assert!(answer.contains("\nprobe_success 1\n"), "the exporter's probe failed:\n{answer}");
                        }
                    });
                }
            });
        });
        Cost { wall_s: begin.elapsed().as_secs_f64(), cpu_s: self.process.cpu().saturating_sub(cpu).as_secs_f64() }
    }

    /// How long it takes over a target that drops what comes.
    pub(crate) fn dropped(&self, target: SocketAddr) -> Duration {
        self.ground.host.within(|| {
            let mut client = Client::new();
            let begin = Instant::now();
            let answer = client.probe(Kind::Tcp, target);
            assert!(answer.contains("\nprobe_success 0\n"), "the exporter reached what is dropped:\n{answer}");
            begin.elapsed()
        })
    }
}

/// A connection to the exporter that is kept.
struct Client(BufReader<TcpStream>);

impl Client {
    fn new() -> Self {
        let stream = TcpStream::connect(("127.0.0.1", PORT)).expect("connect to the exporter");
        stream.set_nodelay(true).expect("set an option");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("set an option");
        Self(BufReader::new(stream))
    }

    /// The metrics of one probe. Prometheus says how long it will wait, 10 s by default.
    fn probe(&mut self, kind: Kind, target: SocketAddr) -> String {
        let request = format!(
            "GET /probe?target={target}&module={} HTTP/1.1\r\nHost: exporter\r\nX-Prometheus-Scrape-Timeout-Seconds: 10\r\n\r\n",
            kind.scheme()
        );
        self.0.get_mut().write_all(request.as_bytes()).expect("ask the exporter");
        let status = self.line();
        assert!(status.contains(" 200 "), "the exporter answers {status}");
        let (mut length, mut chunked) = (0, false);
        loop {
            let line = self.line().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().expect("a length");
            }
            chunked |= line == "transfer-encoding: chunked";
        }
        if !chunked {
            return self.bytes(length);
        }
        let mut body = String::new();
        loop {
            let size = usize::from_str_radix(&self.line(), 16).expect("a chunk's size");
            body.push_str(&self.bytes(size));
            self.line();
            if size == 0 {
                return body;
            }
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("the exporter's answer");
        line.trim_end().to_owned()
    }

    fn bytes(&mut self, count: usize) -> String {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).expect("the exporter's answer");
        String::from_utf8(bytes).expect("metrics as text")
    }
}

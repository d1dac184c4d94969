//! What runs on target hosts: real servers from the distribution, and for what no server does on purpose, listeners of
//! this process that stand on the host.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use super::{Host, Process, tool, wait_for};
use crate::certificates::Pair;

/// A server process of the distribution.
pub type Server = Process;

const START: Duration = Duration::from_secs(20);

/// What a fake instance metadata service says of its host.
#[derive(Debug, Clone, Default)]
pub struct Metadata {
    /// Path below `/latest/meta-data/`, and the text there.
    pub entries: BTreeMap<String, String>,
}

impl Host {
    /// A Redis server on a port of every address, with more of its options.
    pub fn redis(&self, port: u16, options: &[&str]) -> Server {
        let server = self.redis_start(port, options);
        self.await_listener(port);
        server
    }

    pub(super) fn redis_start(&self, port: u16, options: &[&str]) -> Server {
        let (port, dir) = (port.to_string(), self.dir().to_string_lossy().into_owned());
        let mut words = vec!["redis-server", "--port", &port, "--bind", "0.0.0.0", "::", "--protected-mode", "no"];
        words.extend(["--dir", &dir, "--save", "", "--appendonly", "no", "--logfile", "/dev/stderr"]);
        words.extend(options);
        self.spawn("redis", &words)
    }

    /// A Redis server that speaks TLS.
    pub fn rediss(&self, port: u16, pair: &Pair) -> Server {
        let (chain, key) = self.write_pair(pair);
        let port_text = port.to_string();
        let (chain, key) = (chain.to_string_lossy(), key.to_string_lossy());
        let options = ["--tls-port", &port_text, "--tls-cert-file", &chain, "--tls-key-file", &key];
        let more = ["--tls-ca-cert-file", &chain, "--tls-auth-clients", "no"];
        let server = self.redis_start(0, &[options.as_slice(), &more].concat());
        self.await_listener(port);
        server
    }

    /// A Redis replica whose primary is down and that does not serve stale data: `-MASTERDOWN`.
    pub fn redis_masterdown(&self, port: u16) -> Server {
        let server = self.redis(port, &["--replicaof", "127.0.0.1 1", "--replica-serve-stale-data", "no"]);
        self.await_redis(port, "MASTERDOWN");
        server
    }

    /// A Redis server that is loading its data and will be for minutes: `-LOADING`.
    pub fn redis_loading(&self, port: u16) -> Server {
        let mut filled = self.redis(port, &["--enable-debug-command", "local"]);
        let fill = ["redis-cli", "-p", &port.to_string(), "debug", "populate", "20000"];
        assert!(self.run(&fill).status.success(), "fill the Redis server");
        let save = self.run(&["redis-cli", "-p", &port.to_string(), "save"]);
        assert!(save.status.success(), "save the Redis server's data");
        filled.kill();
        let slow = ["--key-load-delay", "10000", "--loading-process-events-interval-bytes", "1024"];
        let server = self.redis(port, &slow);
        self.await_redis(port, "LOADING");
        server
    }

    fn await_redis(&self, port: u16, answer: &str) {
        wait_for(&format!("Redis to answer {answer}"), START, || {
            let said = self.run(&["redis-cli", "-p", &port.to_string(), "ping"]);
            String::from_utf8_lossy(&said.stdout).contains(answer).then_some(())
        });
    }

    /// A web server that answers any request.
    pub fn http(&self, port: u16) -> Server {
        self.nginx("http", port, &format!("listen {port}; location / {{ return 200 \"hello\\n\"; }}"))
    }

    /// A web server that speaks TLS with this certificate.
    pub fn https(&self, port: u16, pair: &Pair) -> Server {
        let (chain, key) = self.write_pair(pair);
        let server = format!(
            "listen {port} ssl; ssl_certificate {}; ssl_certificate_key {}; location / {{ return 200 \"hello\\n\"; }}",
            chain.display(),
            key.display()
        );
        self.nginx("https", port, &server)
    }

    /// A fake of the EC2 instance metadata service, version 2, where this host alone reaches it: 169.254.169.254.
    pub fn metadata(&self, metadata: &Metadata) -> Server {
        tool("ip", &["-n", &self.netns(), "address", "replace", "169.254.169.254/32", "dev", "lo"], "");
        let mut server = String::from(
            "listen 169.254.169.254:80; default_type text/plain;\n\
             location = /latest/api/token { if ($request_method != PUT) { return 405; } return 200 \"LAB-TOKEN\"; }\n",
        );
        for (path, text) in &metadata.entries {
            let _ = writeln!(
                server,
                "location = /latest/meta-data/{path} {{ if ($http_x_aws_ec2_metadata_token != \"LAB-TOKEN\") {{ return 401; }} \
                 return 200 \"{text}\"; }}"
            );
        }
        let process = self.nginx_start("metadata", &server);
        self.await_connect((Ipv4Addr::new(169, 254, 169, 254), 80).into());
        process
    }

    pub(super) fn nginx(&self, name: &str, port: u16, server: &str) -> Server {
        let process = self.nginx_start(name, server);
        self.await_listener(port);
        process
    }

    fn nginx_start(&self, name: &str, server: &str) -> Server {
        let dir = self.dir().join(name);
        fs::create_dir_all(&dir).expect("make nginx's directory");
        let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .fold(String::new(), |all, kind| format!("{all} {kind}_temp_path {};", dir.join(kind).display()));
        let configuration = format!(
            "user root; daemon off; master_process off; pid {}; error_log stderr; events {{ worker_connections 256; }}\n\
             http {{ access_log off; {paths} server {{ {server} }} }}\n",
            dir.join("pid").display()
        );
        let file = dir.join("nginx.conf");
        fs::write(&file, configuration).expect("write nginx.conf");
        self.spawn(name, &["nginx", "-e", "stderr", "-c", &file.to_string_lossy()])
    }

    pub(super) fn write_pair(&self, pair: &Pair) -> (PathBuf, PathBuf) {
        let (chain, key) = (self.dir().join("chain.pem"), self.dir().join("key.pem"));
        fs::write(&chain, &pair.chain_pem).expect("write a certificate");
        fs::write(&key, &pair.key_pem).expect("write a key");
        (chain, key)
    }

    /// A name server that knows these names, and for the rest of `internal.` that they do not exist. A name without
    /// addresses exists and has none.
    pub fn dns(&self, names: &BTreeMap<String, Vec<IpAddr>>) -> Server {
        let mut hosts = String::new();
        let mut words: Vec<String> =
            ["dnsmasq", "--no-daemon", "--log-facility=-", "--user=root", "--no-resolv", "--no-hosts"]
                .map(str::to_owned)
                .to_vec();
        words.extend(["--local=/internal/", "--conf-file=/dev/null", "--pid-file="].map(str::to_owned));
        for (name, addresses) in names {
            if addresses.is_empty() {
                words.push(format!("--txt-record={name},it exists"));
            }
            for address in addresses {
                let _ = writeln!(hosts, "{address} {name}");
            }
        }
        let file = self.dir().join("names");
        fs::write(&file, hosts).expect("write the name server's names");
        words.push(format!("--addn-hosts={}", file.display()));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let server = self.spawn("dns", &words);
        self.await_listener(53);
        server
    }

    /// A name server of which every name has the address `first` for the first question after it, and `then` ever after.
    pub fn dns_rebinding(&self, first: Ipv4Addr, then: Ipv4Addr) {
        let socket = self.within(|| UdpSocket::bind(("0.0.0.0", 53))).expect("bind port 53");
        std::thread::spawn(move || {
            let mut packet = [0; 512];
            let mut asked = 0;
            while let Ok((length, from)) = socket.recv_from(&mut packet) {
                // RFC 1035, 4.1: a header of 12 bytes, the name up to its empty label, type and class.
                let Some(end) = packet.get(12..length).and_then(|name| name.iter().position(|b| *b == 0)) else {
                    continue;
                };
                let question = 12 + end + 5;
                let Some(kind) = packet.get(question - 4..question - 2).map(|k| [k[0], k[1]]) else { continue };
                let mut answer = packet[..question].to_vec();
                answer[2..12].copy_from_slice(&[0x85, 0x80, 0, 1, 0, 0, 0, 0, 0, 0]);
                if kind == [0, 1] {
                    let address = if asked == 0 { first } else { then };
                    asked += 1;
                    answer[7] = 1;
                    // The name by a pointer to the question's, type A, class IN, no life, four bytes.
                    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
                    answer.extend(address.octets());
                }
                let _ = socket.send_to(&answer, from);
            }
        });
    }

    /// A name server that answers every question with SERVFAIL.
    pub fn dns_servfail(&self) {
        let socket = self.within(|| UdpSocket::bind(("0.0.0.0", 53))).expect("bind port 53");
        std::thread::spawn(move || {
            let mut packet = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut packet) {
                if length < 12 {
                    continue;
                }
                // RFC 1035, 4.1.1: the query's header with QR set and RCODE 2; the question goes back as it came.
                packet[2] |= 0x80;
                packet[3] = 0x82;
                let _ = socket.send_to(&packet[..length], from);
            }
        });
    }

    /// A listener of this process: every connection is handed to `talk` on a thread of its own. It ends with the test's
    /// process.
    pub fn listen(&self, port: u16, talk: impl Fn(TcpStream) + Clone + Send + 'static) {
        let address: SocketAddr = if self.addresses().iter().any(IpAddr::is_ipv6) {
            (std::net::Ipv6Addr::UNSPECIFIED, port).into()
        } else {
            (Ipv4Addr::UNSPECIFIED, port).into()
        };
        let listener = self.within(|| TcpListener::bind(address)).expect("bind a listener");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let talk = talk.clone();
                std::thread::spawn(move || talk(stream));
            }
        });
    }

    /// Accepts, reads and never says a word.
    pub fn silence(&self, port: u16) {
        self.listen(port, |mut stream| while stream.read(&mut [0; 1024]).is_ok_and(|n| n > 0) {});
    }

    /// Accepts, waits for the first bytes, says `bytes`, and then waits to be left.
    pub fn says(&self, port: u16, bytes: &[u8]) {
        self.says_late(port, bytes, Duration::ZERO);
    }

    /// As [`says`](Self::says), and lets this time pass before it does.
    pub fn says_late(&self, port: u16, bytes: &[u8], after: Duration) {
        let bytes = bytes.to_vec();
        self.listen(port, move |mut stream| {
            let _ = stream.read(&mut [0; 1024]);
            std::thread::sleep(after);
            let _ = stream.write_all(&bytes);
            while stream.read(&mut [0; 1024]).is_ok_and(|n| n > 0) {}
        });
    }

    /// Accepts, and says one byte of an answer a second, which never ends.
    pub fn dribbles(&self, port: u16) {
        self.listen(port, |mut stream| {
            for byte in b"+PONG".iter().chain(std::iter::repeat(&b' ')) {
                if stream.write_all(&[*byte]).is_err() {
                    break;
                }
                std::thread::sleep(Duration::from_secs(1));
            }
        });
    }

    /// Accepts, and never stops talking.
    pub fn floods(&self, port: u16) {
        self.listen(port, |mut stream| while stream.write_all(&[b'x'; 16 * 1024]).is_ok() {});
    }

    /// Accepts, waits for the first bytes, and resets the connection: closing with unread data does that (RFC 2525, 2.17).
    pub fn resets(&self, port: u16) {
        self.listen(port, |stream| {
            let _ = stream.peek(&mut [0; 1]);
        });
    }

    /// Waits until something on this host accepts connections to the port.
    pub fn await_listener(&self, port: u16) {
        let address = if self.addresses().iter().any(IpAddr::is_ipv4) { "127.0.0.1" } else { "::1" };
        self.await_connect(SocketAddr::new(address.parse().expect("an address"), port));
    }

    fn await_connect(&self, address: SocketAddr) {
        let what = format!("a listener at {address} on {}", self.name());
        wait_for(&what, START, || {
            self.within(|| TcpStream::connect_timeout(&address, Duration::from_secs(1))).ok().map(drop)
        });
    }
}

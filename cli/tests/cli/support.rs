//! A controller that says what the test tells it to, over plain HTTP on loopback, and the real binary in front of it.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::net::TcpSocket;

/// What came in.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// `POST /v1/gate`.
    pub(crate) line: String,
    /// The `Authorization` header.
    pub(crate) authorization: String,
    /// The body.
    pub(crate) body: Value,
}

/// What goes out.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Each is written by itself, as it is.
    pub(crate) lines: Vec<String>,
    /// Whether the connection breaks after the lines.
    pub(crate) breaks: bool,
}

impl Reply {
    /// Whole, with these lines.
    pub(crate) fn lines(lines: &[Value]) -> Self {
        Self { status: 200, lines: lines.iter().map(|line| format!("{line}\n")).collect(), breaks: false }
    }

    /// An error in the contract's form.
    pub(crate) fn problem(status: u16, code: &str, message: &str) -> Self {
        let body = json!({"error": {"code": code, "message": message, "fix": null}});
        Self { status, ..Self::lines(&[body]) }
    }

    /// The same, cut off before its end.
    pub(crate) fn and_break(self) -> Self {
        Self { breaks: true, ..self }
    }
}

/// The controller. It ends with the test's process.
pub(crate) struct Server {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Answers the request of each number, from 0, as `answer` says.
    pub(crate) fn start(answer: impl Fn(usize, &Request) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let seen = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Some(request) = read(&stream) else { continue };
                let number = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(request.clone());
                    seen.len() - 1
                };
                write(&mut stream, &answer(number, &request));
            }
        });
        Self { url, requests }
    }

    /// What came in so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// The command, set up for this controller.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = preflight(args);
        command.env("PREFLIGHT_URL", &self.url).env("PREFLIGHT_TOKEN", "secret-token");
        command
    }

    /// Runs the command to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Run {
        Run::of(self.command(args).output().unwrap())
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let (mut length, mut authorization) = (0, String::new());
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header).ok()? <= 2 {
            break;
        }
        let (name, value) = header.split_once(':')?;
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok()?,
            "authorization" => value.trim().clone_into(&mut authorization),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let line = line.trim().trim_end_matches(" HTTP/1.1").to_owned();
    Some(Request { line, authorization, body: serde_json::from_slice(&body).unwrap_or(Value::Null) })
}

fn write(stream: &mut TcpStream, reply: &Reply) {
    let mut out = format!("HTTP/1.1 {} X\r\nconnection: close\r\ntransfer-encoding: chunked\r\n", reply.status);
    out.push_str("date: Mon, 31 Mar 2025 10:30:00 GMT\r\n\r\n");
    for line in &reply.lines {
        let _ = write!(out, "{:x}\r\n{line}\r\n", line.len());
    }
    if !reply.breaks {
        out.push_str("0\r\n\r\n");
    }
    // The command may have gone away on purpose.
    let _ = stream.write_all(out.as_bytes());
}

/// A port of this host that is taken and where nothing listens: who dials it is refused, for as long as this is kept.
pub(crate) struct Nobody {
    pub(crate) address: SocketAddr,
    _socket: TcpSocket,
}

impl Nobody {
    pub(crate) fn new() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap())
    }

    /// Where somebody listened before.
    pub(crate) fn at(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // Connections of before may still linger there; a port of the system's choice is nobody else's by that either.
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        Self { address: socket.local_addr().unwrap(), _socket: socket }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// The real binary, with nothing of this host's configuration.
pub(crate) fn preflight(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_preflight"));
    // Below a file there is no directory to keep anything in.
    command.args(args).env_clear().env("HOME", "/dev/null").env("COLUMNS", "100");
    command
}

/// What a run of the command came to.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code().expect("it ended by itself"),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A file of this test's own.
pub(crate) fn file(name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    // Each call has a file of its own: tests run side by side, and one would read what another is just writing.
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    // In a process namespace the same ids come again with every run, and what an earlier one left must not be in the way.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let path = dir.join(format!("{now}-{}-{number}-{name}", std::process::id()));
    std::fs::write(&path, bytes).unwrap();
    path
}

/// A manifest that is right.
pub(crate) const MANIFEST: &str =
    "application: shop\ndependencies:\n  ai-cache:\n    target: redis://ai-cache.internal:6379\n";

/// `sha256:…` of a text.
pub(crate) fn digest(text: &str) -> String {
    preflight_core::plan::sha256(text.as_bytes())
}

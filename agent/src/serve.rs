//! The agent's own HTTP port, where it was asked for: `/metrics`, `/-/healthy` and `/-/ready`, on loopback only, without
//! names or secrets to protect, and bounded in all that a client can make it hold.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::metrics::Metrics;

/// Connections at once; others wait to be accepted.
const CONNECTIONS: usize = 4;
/// A connection carries one request and lasts this long at most.
const CONNECTION: Duration = Duration::from_secs(5);
/// The most bytes of a request's head.
const HEAD_BYTES: usize = 8 * 1024;
/// The pause after an accept that failed, as for want of descriptors.
const PAUSE: Duration = Duration::from_millis(200);

/// A port on loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loopback(SocketAddr);

/// An address that is no port on loopback.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotLoopback {
    /// Neither name nor address without port will do.
    #[error("write it as ADDRESS:PORT, such as 127.0.0.1:9464")]
    Unreadable,
    /// Others could read what this host depends on.
    #[error(
        "{0} is not a loopback address; the metrics are served without encryption or login, so only this host may read \
         them: use 127.0.0.1 or [::1]"
    )]
    Open(SocketAddr),
}

impl FromStr for Loopback {
    type Err = NotLoopback;

    fn from_str(text: &str) -> Result<Self, NotLoopback> {
        let address: SocketAddr = text.parse().map_err(|_| NotLoopback::Unreadable)?;
        if address.ip().to_canonical().is_loopback() { Ok(Self(address)) } else { Err(NotLoopback::Open(address)) }
    }
}

impl Loopback {
    /// Opens the port. The error names it.
    pub fn listen(self) -> io::Result<TcpListener> {
        let listener = TcpListener::bind(self.0).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        listener.map_err(|error| io::Error::new(error.kind(), format!("failed to listen on {}: {error}", self.0)))
    }
}

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>) -> io::Result<Infallible> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut broken = false;
    loop {
        // The semaphore is never closed.
        let place = places.clone().acquire_owned().await;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                if !std::mem::replace(&mut broken, true) {
                    warn!("the metrics port cannot accept: {error}");
                }
                sleep(PAUSE).await;
                continue;
            }
        };
        broken = false;
        let metrics = metrics.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| std::future::ready(Ok::<_, Infallible>(answer(&request, &metrics))));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(CONNECTION)
                .keep_alive(false)
                .max_buf_size(HEAD_BYTES)
                .serve_connection(TokioIo::new(stream), service);
            // A client that goes away or talks nonsense is its own problem.
            let _ = timeout(CONNECTION, connection).await;
            drop(place);
        });
    }
}

fn answer(request: &Request<Incoming>, metrics: &Arc<Metrics>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n");
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return refusal;
    }
    match request.uri().path() {
        "/metrics" => match metrics.text() {
            Ok(body) => typed(StatusCode::OK, Metrics::CONTENT_TYPE, body),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        "/-/healthy" => text(StatusCode::OK, "preflight-agent is healthy.\n"),
        "/-/ready" if metrics.is_connected() => text(StatusCode::OK, "preflight-agent is ready.\n"),
        "/-/ready" => text(StatusCode::SERVICE_UNAVAILABLE, "preflight-agent is not connected to its controller.\n"),
        _ => text(StatusCode::NOT_FOUND, "there are /metrics, /-/healthy and /-/ready\n"),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", body)
}

fn typed(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    #[test]
    fn only_this_host_may_read() {
        for good in ["127.0.0.1:9464", "127.8.0.1:1", "[::1]:9464"] {
            assert!(good.parse::<Loopback>().is_ok(), "{good}");
        }
        for open in ["0.0.0.0:9464", "[::]:9464", "10.0.0.1:9464"] {
            assert!(matches!(open.parse::<Loopback>(), Err(NotLoopback::Open(_))), "{open}");
        }
        for unreadable in ["9464", "localhost:9464", "127.0.0.1", ""] {
            assert_eq!(unreadable.parse::<Loopback>(), Err(NotLoopback::Unreadable));
        }
    }

    fn start() -> (SocketAddr, Arc<Metrics>) {
        let listener = "127.0.0.1:0".parse::<Loopback>().unwrap().listen().unwrap();
        let address = listener.local_addr().unwrap();
        let metrics = Arc::new(Metrics::default());
        tokio::spawn(serve(listener, metrics.clone()));
        (address, metrics)
    }

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        // What was refused early may end with a reset.
        let _ = stream.read_to_string(&mut answer).await;
        answer
    }

    #[tokio::test]
    async fn what_is_asked_is_answered() {
        let (address, metrics) = start();
        for (line, status) in [
            ("GET /metrics", "200"),
            ("GET /-/healthy", "200"),
            ("GET /-/ready", "503"),
            ("GET /", "404"),
            ("POST /metrics", "405"),
            ("GARBAGE", "400"),
        ] {
            let answer = ask(address, &format!("{line} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
            assert_eq!(answer.split(' ').nth(1), Some(status), "{line}: {answer}");
        }
        metrics.connected(true);
        assert!(ask(address, "GET /-/ready HTTP/1.1\r\nhost: x\r\n\r\n").await.starts_with("HTTP/1.1 200"));
        let endless = format!("GET /metrics HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(3 * HEAD_BYTES));
        assert!(!ask(address, &endless).await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn who_says_nothing_holds_a_place_for_a_while_only() {
        let (address, _) = start();
        let mut mute = Vec::new();
        for _ in 0..CONNECTIONS {
            mute.push(TcpStream::connect(address).await.unwrap());
        }
        let begin = std::time::Instant::now();
        assert!(ask(address, "GET /-/healthy HTTP/1.1\r\nhost: x\r\n\r\n").await.starts_with("HTTP/1.1 200"));
        assert!(begin.elapsed() > CONNECTION / 2, "more than {CONNECTIONS} connections at once");
    }
}

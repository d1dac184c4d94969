//! The controller's HTTP API: one connection for each call, HTTP/1.1, TLS with the controller's own authority.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use preflight_core::text::{escape, escape_to};
use preflight_proto::api::{Problem, ProblemBody};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use crate::context::{BaseUrl, Context};
use crate::failure::Failure;

/// The longest that opening a connection may take, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest that a call which runs nothing may take.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// An answer, or one line of a streamed answer, is at most this long.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// No connection. Trying again may help.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The connection broke before the answer was whole. Trying again may help.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The peer did not show that it is the controller.
    #[error("the controller's certificate is not accepted: {0}")]
    Untrusted(String),
    /// An error in the controller's own words.
    #[error("{}", .0.message)]
    Problem(ProblemBody),
    /// An error of something in between, or of something else.
    #[error("it answered {0}")]
    Status(StatusCode),
    /// An answer that is not in the contract.
    #[error("its answer cannot be understood: {0}")]
    Garbage(String),
    /// No answer in time.
    #[error("no answer in time")]
    Late,
    /// What came could not be shown.
    #[error("{0}")]
    Unwritten(String),
}

impl CallError {
    /// Whether the same call may succeed if made again.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Broken(_) => true,
            Self::Problem(problem) => problem.code == "unavailable",
            Self::Status(status) => {
                matches!(
                    *status,
                    StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
                )
            }
            Self::Untrusted(_) | Self::Garbage(_) | Self::Late | Self::Unwritten(_) => false,
        }
    }

    /// Whether nobody could be asked: no connection, no answer, or an error of the server's side. An answer that refuses, and a
    /// peer that does not show that it is the controller, are something else.
    pub(crate) fn is_unavailable(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Broken(_) | Self::Late => true,
            Self::Problem(problem) => matches!(problem.code.as_str(), "unavailable" | "internal"),
            Self::Status(status) => status.is_server_error(),
            Self::Untrusted(_) | Self::Garbage(_) | Self::Unwritten(_) => false,
        }
    }

    /// Whether whoever answered did not show that it is the controller, or does not know this token: nothing was asked of it. The
    /// answer of anything in between is of that kind too.
    pub(crate) fn is_a_stranger(&self) -> bool {
        match self {
            Self::Untrusted(_) | Self::Status(_) | Self::Garbage(_) => true,
            Self::Problem(problem) => problem.code == "unauthorized",
            Self::Connect(_) | Self::Broken(_) | Self::Late | Self::Unwritten(_) => false,
        }
    }

    /// Whether it is the controller's refusal of what was asked for.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Problem(problem) if problem.code == "refused")
    }

    /// Whether the controller may have got the request.
    pub(crate) fn reached(&self) -> bool {
        !matches!(self, Self::Connect(_) | Self::Untrusted(_))
    }

    /// As a command says it.
    pub(crate) fn failure(self, url: &BaseUrl) -> Failure {
        if let Self::Unwritten(message) = self {
            return Failure::no_verdict(message);
        }
        let Self::Problem(problem) = self else {
            let text = escape_to(&self.to_string(), 500);
            let fix = match self {
                Self::Untrusted(_) => {
                    "Compare ca_pem with the controller's authority, and the URL with the names it is advertised by."
                }
                Self::Garbage(_) => {
                    "Check that the URL is a preflight-controller's, of the same version as this command."
                }
                Self::Connect(_)
                | Self::Broken(_)
                | Self::Late
                | Self::Problem(_)
                | Self::Status(_)
                | Self::Unwritten(_) => "Check that preflight-controller runs and that this host may reach it.",
            };
            return Failure::no_verdict(format!("controller {}: {text}", escape(&url.to_string()))).fix(fix);
        };
        let failure = Failure::problem(&problem);
        match (problem.fix.is_some(), problem.code.as_str()) {
            (false, "unauthorized") => failure.fix("Give a token that is valid: `preflight token create` makes one."),
            (false, "forbidden") => {
                failure.fix("Use a token with the scope that this takes: `preflight token create --scope …` makes one.")
            }
            _ => failure,
        }
    }
}

/// A controller to call.
pub(crate) struct Client {
    url: BaseUrl,
    authorization: HeaderValue,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    answered: Arc<AtomicBool>,
}

/// A call that is answered by one JSON document.
pub(crate) struct Answer<T> {
    /// The document.
    pub(crate) body: T,
    /// The controller's time, from the `Date` header.
    pub(crate) date: Option<jiff::Timestamp>,
}

impl Client {
    /// A client for that controller. Nothing is sent yet.
    pub(crate) fn new(context: &Context) -> Result<Self, Failure> {
        let mut authorization = HeaderValue::try_from(format!("Bearer {}", context.token))
            .map_err(|_| Failure::usage("the token holds characters that no token has"))?;
        authorization.set_sensitive(true);
        let tls = match (&context.ca_pem, context.url.tls) {
            (Some(pem), true) => Some((connector(pem)?, server_name(&context.url)?)),
            (None, true) => return Err(Failure::usage("there is no authority to trust: ca_pem is missing")),
            (_, false) => None,
        };
        Ok(Self { url: context.url.clone(), authorization, tls, answered: Arc::default() })
    }

    /// Set once the controller has answered anything, by this client and its copies.
    pub(crate) fn answered(&self) -> Arc<AtomicBool> {
        self.answered.clone()
    }

    /// The controller's address.
    pub(crate) fn url(&self) -> &BaseUrl {
        &self.url
    }

    /// Calls and reads the answer, for calls that run nothing.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<Answer<T>, Failure> {
        let answer = self.call_by(method, path, body, Instant::now() + CALL_TIMEOUT).await;
        answer.map_err(|error| error.failure(&self.url))
    }

    /// The same, with a deadline of the caller's.
    pub(crate) async fn call_by<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
        deadline: Instant,
    ) -> Result<Answer<T>, CallError> {
        let call = async {
            let response = self.send(method, path, body, "application/json", deadline).await?;
            let date = date(&response);
            let bytes = read_all(response.into_body()).await?;
            // An empty answer is the JSON value null, which is what `()` reads.
            let bytes = if bytes.is_empty() { b"null".as_slice() } else { &bytes };
            Ok(Answer { body: parse(bytes)?, date })
        };
        timeout_at(deadline, call).await.unwrap_or(Err(CallError::Late))
    }

    /// `GET`.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Answer<T>, Failure> {
        self.call(Method::GET, path, None::<&()>).await
    }

    /// Calls for a stream of JSON lines. There must be a connection by `connect_by`.
    pub(crate) async fn lines(
        &self,
        path: &str,
        body: &(impl Serialize + Sync),
        connect_by: Instant,
    ) -> Result<Lines, CallError> {
        let response = self.send(Method::POST, path, Some(body), "application/x-ndjson", connect_by).await?;
        Ok(Lines { body: response.into_body(), buffer: Vec::new(), searched: 0 })
    }

    /// Sends the request and reads the answer's head; errors that the controller tells are errors here.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
        accept: &'static str,
        connect_by: Instant,
    ) -> Result<Response<Incoming>, CallError> {
        let bytes = match body {
            Some(body) => serde_json::to_vec(body).map_err(|error| CallError::Garbage(error.to_string()))?,
            None => Vec::new(),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url.prefix))
            .header(HOST, self.url.authority())
            .header(AUTHORIZATION, self.authorization.clone())
            .header(ACCEPT, accept);
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request =
            request.body(Full::new(Bytes::from(bytes))).map_err(|error| CallError::Garbage(error.to_string()))?;

        let connect_by = connect_by.min(Instant::now() + CONNECT_TIMEOUT);
        let connecting = timeout_at(connect_by, self.connect()).await;
        let stream = connecting.unwrap_or_else(|_| Err(CallError::Connect("no answer in time".to_owned())))?;
        let broken = |error: hyper::Error| {
            if error.is_parse() { CallError::Garbage(error.to_string()) } else { CallError::Broken(in_words(&error)) }
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Ends with the response's body; what it would say of an error, the body says too.
        tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        if !status.is_server_error() {
            self.answered.store(true, Ordering::Relaxed);
        }
        if status.is_success() {
            return Ok(response);
        }
        let bytes = read_all(response.into_body()).await?;
        let problem = serde_json::from_slice::<Problem>(&bytes).ok().map(|problem| CallError::Problem(problem.error));
        // The status and the words must agree on whose fault it is: much hangs on whether anybody could be asked.
        Err(problem.filter(|p| p.is_unavailable() == status.is_server_error()).unwrap_or(CallError::Status(status)))
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, CallError> {
        let connect = |error: std::io::Error| CallError::Connect(error.to_string());
        let found = tokio::net::lookup_host((self.url.host.as_str(), self.url.port)).await.map_err(connect)?;
        let mut last = CallError::Connect("the name has no address".to_owned());
        for address in found {
            // `localhost` is what the hosts file says it is.
            if !self.url.tls && !address.ip().is_loopback() {
                last = CallError::Connect(format!("{address} is not a loopback address; use https"));
                continue;
            }
            match TcpStream::connect(address).await {
                Ok(stream) => return self.secure(stream).await,
                Err(error) => last = CallError::Connect(format!("{address}: {error}")),
            }
        }
        Err(last)
    }

    async fn secure(&self, stream: TcpStream) -> Result<Box<dyn Stream>, CallError> {
        // Requests are small and whole: waiting to fill a packet only delays them. Failing to say so harms nobody.
        let _ = stream.set_nodelay(true);
        let Some((connector, name)) = &self.tls else { return Ok(Box::new(stream)) };
        match connector.connect(name.clone(), stream).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(refused) => Err(CallError::Untrusted(refused.to_string())),
                None => Err(CallError::Connect(error.to_string())),
            },
        }
    }
}

/// A connection, with or without TLS.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

fn connector(pem: &str) -> Result<TlsConnector, Failure> {
    let wrong = |text: String| Failure::usage(format!("the authority's certificate (ca_pem): {text}"));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(wrong("there is no certificate in it".to_owned()));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn server_name(url: &BaseUrl) -> Result<ServerName<'static>, Failure> {
    ServerName::try_from(url.host.clone())
        .map_err(|_| Failure::usage(format!("{}: the host is neither a name nor an address", escape(&url.to_string()))))
}

/// The lines of a streamed answer.
pub(crate) struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
    /// How much of the buffer holds no line end.
    searched: usize,
}

impl Lines {
    /// The next line that is not empty, read as JSON; none at the end of a whole answer.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, CallError> {
        loop {
            if let Some(end) = self.buffer[self.searched..].iter().position(|b| *b == b'\n') {
                let rest = self.buffer.split_off(self.searched + end + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                self.searched = 0;
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return parse(&line).map(Some);
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > MAX_ANSWER {
                return Err(too_long());
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.buffer.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
                Some(Err(error)) => return Err(CallError::Broken(in_words(&error))),
                None if self.buffer.trim_ascii().is_empty() => return Ok(None),
                // The last line may lack its end. One that was cut is the end of a connection, not of an answer.
                None => {
                    let line = std::mem::take(&mut self.buffer);
                    return match serde_json::from_slice(&line) {
                        Ok(value) => Ok(Some(value)),
                        Err(error) if error.is_eof() => Err(CallError::Broken("in the middle of a line".to_owned())),
                        Err(error) => Err(CallError::Garbage(error.to_string())),
                    };
                }
            }
        }
    }
}

async fn read_all(mut body: Incoming) -> Result<Vec<u8>, CallError> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| CallError::Broken(in_words(&error)))?;
        bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        if bytes.len() > MAX_ANSWER {
            return Err(too_long());
        }
    }
    Ok(bytes)
}

fn too_long() -> CallError {
    CallError::Garbage(format!("it is longer than {} MiB", MAX_ANSWER / 1024 / 1024))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CallError> {
    serde_json::from_slice(bytes).map_err(|error| CallError::Garbage(error.to_string()))
}

fn date(response: &Response<Incoming>) -> Option<jiff::Timestamp> {
    let text = response.headers().get(DATE)?.to_str().ok()?;
    Some(jiff::fmt::rfc2822::parse(text).ok()?.timestamp())
}

/// A broken connection in words. What hyper and rustls say of a peer that went away is long and helps nobody.
fn in_words(error: &hyper::Error) -> String {
    let mut texts = vec![error.to_string()];
    let mut gone = error.is_incomplete_message();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let io = cause.downcast_ref::<std::io::Error>();
        gone |= io.is_some_and(|io| io.kind() == std::io::ErrorKind::UnexpectedEof);
        texts.push(cause.to_string());
        source = cause.source();
    }
    texts.dedup();
    if gone { "the other side went away".to_owned() } else { texts.join(": ") }
}

/// One segment of a path: all but unreserved characters (RFC 3986, 2.3) as `%XX`.
pub(crate) fn segment(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_segment() {
        assert_eq!(segment("web-1"), "web-1");
        assert_eq!(segment("a/b?c d\u{e9}"), "a%2Fb%3Fc%20d%C3%A9");
    }

    #[test]
    fn the_date_header_is_read() {
        let at = jiff::fmt::rfc2822::parse("Sun, 06 Nov 1994 08:49:37 GMT").unwrap().timestamp();
        assert_eq!(at.to_string(), "1994-11-06T08:49:37Z");
    }
}

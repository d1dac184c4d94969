//! The smallest HTTPS client that can ask the controller's API from a host of the lab.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

use super::Host;

/// Who asks, where, and with what token.
#[derive(Debug, Clone)]
pub struct Api {
    /// Asks from this host.
    pub from: Host,
    /// The API's address.
    pub address: SocketAddr,
    /// The name that the certificate must carry.
    pub server_name: String,
    /// The authority, as PEM.
    pub ca_pem: String,
    /// Sent as bearer token; none is sent where there is none.
    pub token: Option<String>,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers, as they came.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON; null where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

impl Api {
    /// The same with another token, or none.
    #[must_use]
    pub fn with_token(&self, token: Option<&str>) -> Self {
        Self { token: token.map(str::to_owned), ..self.clone() }
    }

    /// `GET path`.
    pub fn get(&self, path: &str) -> Result<Answer, String> {
        self.request("GET", path, None)
    }

    /// One request on a connection of its own.
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer, String> {
        let bearer = self.token.as_ref().map(|token| format!("Bearer {token}"));
        let mut headers = vec![("accept", "application/json"), ("content-type", "application/json")];
        headers.extend(bearer.as_ref().map(|value| ("authorization", value.as_str())));
        self.send(method, path, &headers, body)
    }

    /// The same with these headers and no others, for clients that are not this project's. The token is not sent.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer, String> {
        let body = body.map(ToString::to_string).unwrap_or_default();
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", self.server_name);
        for (name, value) in headers {
            let _ = write!(request, "{name}: {value}\r\n");
        }
        let _ = write!(request, "content-length: {}\r\n\r\n", body.len());
        request.push_str(&body);
        let answer = self.exchange(request.as_bytes()).map_err(|error| format!("{method} {path}: {error}"))?;
        parse(&answer).ok_or_else(|| format!("{method} {path}: no HTTP answer: {}", String::from_utf8_lossy(&answer)))
    }

    fn exchange(&self, request: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
        const PATIENCE: Duration = Duration::from_secs(30);
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.ca_pem.as_bytes()) {
            roots.add(certificate?)?;
        }
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from(self.server_name.clone())?;
        let tcp = self.from.within(|| TcpStream::connect_timeout(&self.address, PATIENCE))?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        // The end of the handshake and the request are two small writes; without this the second waits for 40 ms.
        tcp.set_nodelay(true)?;
        let mut stream = StreamOwned::new(ClientConnection::new(Arc::new(config), name)?, tcp);
        stream.write_all(request)?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            // A server that closes without a TLS goodbye has still said all it had to say.
            Err(error) if answer.is_empty() => Err(error.into()),
            _ => Ok(answer),
        }
    }
}

fn parse(answer: &[u8]) -> Option<Answer> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { unchunk(body) } else { body.to_owned() };
    Some(Answer { status, head: head.to_owned(), body })
}

/// RFC 9112, 7.1.
fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        let Some(chunk) = rest.get(..size).filter(|_| size > 0) else { break };
        whole.push_str(chunk);
        body = rest[size..].strip_prefix("\r\n").unwrap_or_default();
    }
    whole
}

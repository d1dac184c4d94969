//! One TLS connection to the controller, and the gRPC channel on it. A connection is used once: when it is gone, so is
//! its channel, and the caller decides when to dial again.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use preflight_proto::agent::controller_client::ControllerClient;
use preflight_proto::convert::MAX_MESSAGE_BYTES;
use rustls::{CertificateError, ClientConfig};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use crate::address::{AddressError, ControllerAddress};

/// How long one address may take to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long each of name lookup, TLS handshake and HTTP/2 preface may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// A ping at least this often, answered in as much time: a half-open connection is noticed in 20 s.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// A connection to the controller.
#[derive(Debug, Clone)]
pub struct Link {
    /// Calls go here.
    pub client: ControllerClient<Channel>,
    /// The source address of the connection.
    pub local: IpAddr,
    /// Every address that the controller's name resolves to.
    pub controller: Vec<IpAddr>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The controller's host is no name to verify.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The name lookup failed.
    #[error("cannot resolve {host}: {source}")]
    Resolve {
        /// Which name.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// No address could be connected to; the last one's error.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Which address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The TLS handshake failed.
    #[error("TLS with {address} failed: {}", in_words(source))]
    Tls {
        /// Which address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The peer does not speak HTTP/2.
    #[error("HTTP/2 with {address} failed: {source}")]
    Http2 {
        /// Which address.
        address: SocketAddr,
        /// Why.
        source: tonic::transport::Error,
    },
}

impl DialError {
    /// Whether the controller's certificate comes from an authority other than the one trusted. Authorities may have the
    /// same name, and then it is the signature that tells.
    pub fn is_another_authority(&self) -> bool {
        let Self::Tls { source, .. } = self else { return false };
        matches!(certificate_error(source), Some(CertificateError::UnknownIssuer | CertificateError::BadSignature))
    }
}

fn certificate_error(error: &io::Error) -> Option<&CertificateError> {
    let cause = error.get_ref()?.downcast_ref()?;
    if let rustls::Error::InvalidCertificate(error) = cause { Some(error) } else { None }
}

/// Rustls shows an error of our own verifier as a value.
fn in_words(error: &io::Error) -> String {
    match certificate_error(error) {
        Some(CertificateError::Other(own)) => own.to_string(),
        Some(_) | None => error.to_string(),
    }
}

/// Connects to the first of the controller's addresses that answers.
pub async fn dial(controller: &ControllerAddress, tls: ClientConfig) -> Result<Link, DialError> {
    let name = controller.server_name()?;
    let resolve = |source| DialError::Resolve { host: controller.host.clone(), source };
    let lookup = timeout(STEP_TIMEOUT, lookup_host((controller.host.as_str(), controller.port)));
    let addresses: Vec<SocketAddr> = lookup.await.map_err(|_| resolve(silence()))?.map_err(resolve)?.collect();

    let (tcp, address) = connect(&addresses).await?.ok_or_else(|| resolve(io::Error::other("it has no address")))?;
    let failed = |source| DialError::Tls { address, source };
    tcp.set_nodelay(true).map_err(failed)?;
    let local = tcp.local_addr().map_err(failed)?.ip().to_canonical();
    let handshake = timeout(STEP_TIMEOUT, TlsConnector::from(Arc::new(tls)).connect(name, tcp));
    let stream = handshake.await.map_err(|_| failed(silence()))?.map_err(failed)?;

    // Tonic asks its connector for a connection each time it has none; this one has one to give.
    let mut once = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        let stream = once.take().ok_or_else(|| io::Error::other("the connection to the controller is gone"));
        std::future::ready(stream)
    });
    let failed = |source| DialError::Http2 { address, source };
    let endpoint = Endpoint::from_shared(format!("http://{}", address_authority(controller)))
        .map_err(failed)?
        .user_agent(concat!("preflight-agent/", env!("CARGO_PKG_VERSION")))
        .map_err(failed)?
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
        .connect_timeout(STEP_TIMEOUT);
    let channel = endpoint.connect_with_connector(connector).await.map_err(failed)?;
    let client = ControllerClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    Ok(Link { client, local, controller: addresses.iter().map(SocketAddr::ip).collect() })
}

async fn connect(addresses: &[SocketAddr]) -> Result<Option<(TcpStream, SocketAddr)>, DialError> {
    let mut last = None;
    for &address in addresses {
        let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await.unwrap_or_else(|_| Err(silence()));
        match connected {
            Ok(tcp) => return Ok(Some((tcp, address))),
            Err(source) => last = Some(DialError::Connect { address, source }),
        }
    }
    last.map_or(Ok(None), Err)
}

fn silence() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}

/// `host:port` for the `:authority` header. TLS is this module's own, so tonic is told of none.
fn address_authority(controller: &ControllerAddress) -> String {
    controller.to_string().trim_start_matches("https://").to_owned()
}

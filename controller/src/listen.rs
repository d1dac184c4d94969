//! Accepting connections: TLS with a deadline, one task each, and an accept loop that survives running out of descriptors.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower::ServiceExt as _;

use crate::agents::Peer;
use crate::authority;

const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// Handshakes under way at the same time: a flood of them must not starve those that are connected.
const HANDSHAKES_AT_ONCE: usize = 256;
/// A half-open stream is noticed after these two together, well within 40 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Out of descriptors: wait for some to be closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is spoken on a port.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Protocol {
    /// The HTTP API.
    Api,
    /// The agents' gRPC.
    Agents,
}

/// Serves a port until the process ends.
pub(crate) async fn serve(listener: TcpListener, tls: Arc<ServerConfig>, router: Router, protocol: Protocol) {
    let acceptor = TlsAcceptor::from(tls);
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_AT_ONCE));
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
        let (acceptor, router) = (acceptor.clone(), router.clone());
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let handshake = tokio::time::timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await;
            drop(permit);
            match handshake {
                Ok(Ok(stream)) => connection(stream, address, router, protocol).await,
                Ok(Err(error)) => tracing::debug!(%address, %error, "a TLS handshake failed"),
                Err(_) => tracing::debug!(%address, "a TLS handshake took too long"),
            }
        });
    }
}

async fn connection(stream: TlsStream<TcpStream>, address: SocketAddr, router: Router, protocol: Protocol) {
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let certificate = shown.and_then(|der| authority::peer(der));
    if shown.is_some() && certificate.is_none() {
        tracing::warn!(%address, "a client certificate is not of an agent's form");
        return;
    }
    let peer = Peer { address, certificate };
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        router.clone().oneshot(request.map(Body::new))
    });
    let io = TokioIo::new(stream);
    let ended = match protocol {
        Protocol::Api => {
            hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HANDSHAKE_WITHIN)
                .serve_connection(io, service)
                .await
        }
        Protocol::Agents => {
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .keep_alive_interval(KEEPALIVE_INTERVAL)
                .keep_alive_timeout(KEEPALIVE_TIMEOUT)
                .max_concurrent_streams(8)
                .serve_connection(io, service)
                .await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%address, %error, "a connection ended");
    }
}

//! What a protocol's opening exchange is given: a wire with a bound on what it reads. The deadline is the engine's.

use std::net::SocketAddr;

use futures_util::future::BoxFuture;
use preflight_core::observation::Role;
use preflight_core::reason::Short;
use preflight_core::spec::ProbeSpec;
use preflight_core::target::{Host, Scheme};
use preflight_core::text;
use rustls::AlertDescription;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::amqp::Amqp;
use crate::failure::Failure;
use crate::grpc::Grpc;
use crate::http::Http;
use crate::memcached::Memcached;
use crate::mysql::Mysql;
use crate::postgres::Postgres;
use crate::redis::Redis;

/// One protocol's opening exchange.
pub(crate) trait Protocol: Sync {
    /// What to offer in TLS as the protocol that follows (ALPN, RFC 7301); nothing by default.
    fn alpn(&self) -> &'static [&'static [u8]] {
        &[]
    }

    /// How a connection begins, for protocols with an upgrade to TLS of their own ([`Scheme::can_upgrade`]).
    fn start<'a>(&'a self, _wire: &'a mut Wire<'_>, _spec: &'a ProbeSpec) -> BoxFuture<'a, Result<Start, Failure>> {
        Box::pin(std::future::ready(Ok(Start::Speak)))
    }

    /// Speaks first or listens, and returns once the service has shown what it is, having left the way the protocol leaves. Over TLS
    /// if the scheme or [`Start::Secure`] said so.
    fn open<'a>(&'a self, wire: &'a mut Wire<'_>, spec: &'a ProbeSpec) -> BoxFuture<'a, Result<Shown, Failure>>;
}

/// How a connection goes on after its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Start {
    /// In the clear.
    Speak,
    /// The server waits for a TLS handshake; its certificate is judged, and the exchange goes on inside.
    Secure,
    /// The service has shown what it is, and waits for a TLS handshake that nobody asked for. It is made so as to leave
    /// as the protocol leaves; its certificate is shown and not judged, and nothing is sent inside.
    Show(Shown),
    /// The service has shown what it is already.
    Done(Shown),
}

/// What a service showed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Shown {
    /// What more there is to know, such as that it asks for a login.
    pub(crate) note: Option<String>,
    /// The members that it told of, where it was asked.
    pub(crate) told: Vec<Told>,
}

/// A member as its seed tells of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Told {
    pub(crate) role: Role,
    pub(crate) host: Host,
    pub(crate) port: u16,
}

/// The protocol that a scheme speaks beyond TCP and TLS.
pub(crate) fn of(scheme: Scheme) -> Option<&'static dyn Protocol> {
    match scheme {
        Scheme::Tcp | Scheme::Tls => None,
        Scheme::Redis | Scheme::Rediss => Some(&Redis),
        Scheme::Http | Scheme::Https => Some(&Http),
        Scheme::Postgres => Some(&Postgres),
        Scheme::Mysql => Some(&Mysql),
        Scheme::Memcached => Some(&Memcached),
        Scheme::Amqp | Scheme::Amqps => Some(&Amqp),
        Scheme::Grpc | Scheme::Grpcs => Some(&Grpc),
    }
}

/// A connection, in the clear or not.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// The connection as a protocol sees it.
pub(crate) struct Wire<'w> {
    stream: &'w mut dyn Duplex,
    peer: SocketAddr,
    received: Vec<u8>,
    most: usize,
    alert: Option<AlertDescription>,
}

impl<'w> Wire<'w> {
    /// At most this much application data is read, where an exchange asks for no more.
    const MAX: usize = 4 * 1024;

    /// A wire to `peer`, the address that was dialled.
    pub(crate) fn new(stream: &'w mut dyn Duplex, peer: SocketAddr) -> Self {
        Self { stream, peer, received: Vec::new(), most: Self::MAX, alert: None }
    }

    /// Lets this exchange read up to so many bytes in all, for an answer that has its own, stated bound.
    pub(crate) fn allow(&mut self, bytes: usize) {
        self.most = self.most.max(bytes);
    }

    /// Sends a request. An error is left to the read that follows: a peer that has refused and closed already has mostly
    /// said why, and that is still there to read.
    pub(crate) async fn send(&mut self, request: &[u8]) {
        if self.stream.write_all(request).await.is_ok() {
            let _ = self.stream.flush().await;
        }
    }

    /// All that was received so far.
    pub(crate) fn received(&self) -> &[u8] {
        &self.received
    }

    /// Waits for more.
    pub(crate) async fn more(&mut self) -> Result<(), Failure> {
        let room = self.most - self.received.len();
        if room == 0 {
            return Err(self.unexpected(&format!("more than {} KiB without an end", self.most / 1024)));
        }
        let mut buffer = [0_u8; 1024];
        let part = &mut buffer[..room.min(1024)];
        match self.stream.read(part).await {
            Ok(0) => Err(self.closed("closed")),
            Ok(count) => {
                self.received.extend_from_slice(part.get(..count).unwrap_or_default());
                Ok(())
            }
            Err(error) => {
                self.alert = crate::tls::alert_of(&error);
                Err(self.closed(&error.to_string()))
            }
        }
    }

    /// What came back is not this protocol.
    pub(crate) fn unexpected(&self, what: &str) -> Failure {
        Failure::short(Short::ProtocolUnexpected, format!("{what}: {}", self.shown()))
    }

    fn closed(&self, how: &str) -> Failure {
        let detail = if self.received.is_empty() { how.to_owned() } else { format!("{how} after: {}", self.shown()) };
        Failure::short(Short::ProtocolClosed, detail)
    }

    /// The deadline passed while it was open.
    pub(crate) fn timed_out(&self) -> Failure {
        let detail =
            if self.received.is_empty() { "nothing came back".to_owned() } else { format!("so far: {}", self.shown()) };
        Failure::short(Short::ProtocolTimeout, detail)
    }

    /// The TLS alert with which the peer ended the exchange.
    pub(crate) fn alert(&self) -> Option<AlertDescription> {
        self.alert
    }

    fn shown(&self) -> String {
        text::escape_bytes(&self.received)
    }
}

//! What a protocol's opening exchange is given: a wire with a bound on what it reads. The deadline is the engine's.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::future::BoxFuture;
use preflight_core::observation::Role;
use preflight_core::reason::Short;
use preflight_core::spec::ProbeSpec;
use preflight_core::target::{Host, Scheme};
use preflight_core::text;
use rustls::AlertDescription;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::timeout;

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

    /// Whether a server that is left inside TLS without a word counts that against this host, up to blocking it. It then
    /// hears [`Protocol::open`] even where its certificate failed, and what it answers proves nothing. Such an exchange must
    /// hold nothing that would be worth hiding.
    fn leaves_by_speaking(&self) -> bool {
        false
    }

    /// Whether the server may still be sending when the exchange has ended, or is to end it. In the clear too the connection is then
    /// left by [`Goodbyes`](crate::goodbye::Goodbyes), since a close with unread data is a reset.
    fn lingers(&self) -> bool {
        false
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
    /// What the service said so far comes to this, if it says no more ([`Wire::nothing_more`]).
    Last(Result<Shown, Failure>),
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
    received: Vec<u8>,
    most: usize,
    alpn: Option<Vec<u8>>,
    alert: Option<AlertDescription>,
    failed: Option<Failure>,
}

impl<'w> Wire<'w> {
    /// At most this much application data is read, where an exchange asks for no more.
    const MAX: usize = 4 * 1024;

    pub(crate) fn new(stream: &'w mut dyn Duplex) -> Self {
        Self { stream, received: Vec::new(), most: Self::MAX, alpn: None, alert: None, failed: None }
    }

    /// Lets this exchange read up to so many bytes in all, for an answer that has its own, stated bound.
    pub(crate) fn allow(&mut self, bytes: usize) {
        self.most = self.most.max(bytes);
    }

    /// Takes down which of [`Protocol::alpn`] the server chose in TLS, if any.
    pub(crate) fn chose(&mut self, alpn: Option<Vec<u8>>) {
        self.alpn = alpn;
    }

    /// The protocol that the server chose in TLS (ALPN).
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        self.alpn.as_deref()
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

    /// How many more bytes may be read.
    pub(crate) fn room(&self) -> usize {
        self.most.saturating_sub(self.received.len())
    }

    /// Waits for more.
    pub(crate) async fn more(&mut self) -> Result<(), Failure> {
        if self.more_or_end().await? { Ok(()) } else { Err(self.closed("closed")) }
    }

    /// Waits for more, for answers that may end by the close: false where the peer closed in good order.
    pub(crate) async fn more_or_end(&mut self) -> Result<bool, Failure> {
        let room = self.room();
        if room == 0 {
            return Err(self.unexpected(&format!("more than {} KiB without an end", self.most / 1024)));
        }
        // On the stack of each look: in the future it would be there as long as the wait.
        let (stream, received) = (&mut self.stream, &mut self.received);
        let read = poll_fn(|cx| {
            let mut part = [MaybeUninit::uninit(); 1024];
            let mut part = ReadBuf::uninit(part.get_mut(..room.min(1024)).unwrap_or_default());
            ready!(Pin::new(&mut **stream).poll_read(cx, &mut part))?;
            received.extend_from_slice(part.filled());
            Poll::Ready(Ok::<_, io::Error>(part.filled().len()))
        });
        match read.await {
            Ok(count) => Ok(count > 0),
            Err(error) => {
                self.alert = crate::tls::alert_of(&error);
                Err(self.closed(&error.to_string()))
            }
        }
    }

    /// What came back was all that the peer had to say: ends this side's speech and waits a moment for the peer's end, reading what
    /// it still says. The peer has answered by now, so this is no part of a phase.
    pub(crate) async fn nothing_more(&mut self) -> Result<(), Failure> {
        let before = self.received.len();
        let _ = timeout(ProbeSpec::PARTING, async {
            let _ = self.stream.shutdown().await;
            while self.more().await.is_ok() {}
        })
        .await;
        if self.received.len() == before { Ok(()) } else { Err(self.unexpected("more than the protocol's answer")) }
    }

    /// What came back is not this protocol.
    pub(crate) fn unexpected(&self, what: &str) -> Failure {
        Failure::short(Short::ProtocolUnexpected, format!("{what}: {}", self.shown()))
    }

    /// The peer ended the connection before it had answered.
    pub(crate) fn closed(&self, how: &str) -> Failure {
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

    /// Why a read through [`AsyncRead`] failed, or found the connection closed.
    pub(crate) fn failed(&mut self) -> Option<Failure> {
        self.failed.take()
    }

    fn shown(&self) -> String {
        text::escape_bytes(&self.received)
    }
}

/// For exchanges that a library makes. The bound holds, and what went wrong is kept for [`Wire::failed`].
impl AsyncRead for Wire<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let wire = &mut *self;
        let room = wire.room().min(buf.remaining());
        if room == 0 && buf.remaining() > 0 {
            let failure = wire.unexpected(&format!("more than {} KiB without an end", wire.most / 1024));
            wire.failed = Some(failure);
            return Poll::Ready(Err(io::ErrorKind::QuotaExceeded.into()));
        }
        let mut part = [MaybeUninit::uninit(); 1024];
        let mut part = ReadBuf::uninit(part.get_mut(..room.min(1024)).unwrap_or_default());
        match ready!(Pin::new(&mut *wire.stream).poll_read(cx, &mut part)) {
            Ok(()) => {
                let bytes = part.filled();
                wire.received.extend_from_slice(bytes);
                buf.put_slice(bytes);
                if bytes.is_empty() {
                    wire.failed = Some(wire.closed("closed"));
                }
                Poll::Ready(Ok(()))
            }
            Err(error) => {
                wire.alert = crate::tls::alert_of(&error);
                wire.failed = Some(wire.closed(&error.to_string()));
                Poll::Ready(Err(error))
            }
        }
    }
}

impl AsyncWrite for Wire<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(cx)
    }
}

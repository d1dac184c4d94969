//! The TLS handshake: whatever certificate comes is recorded and its signatures over the handshake are checked, then the chain is
//! judged. So a chain that fails is still shown, and nothing is sent over a connection that failed.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use preflight_core::observation::TlsSeen;
use preflight_core::reason::Short;
use preflight_core::spec::ProbeSpec;
use preflight_core::text;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, ClientConfig, DigitallySignedStruct, Error, ProtocolVersion, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::deadline::until;
use crate::failure::Failure;
use crate::judge;
use crate::trust::Anchors;

/// A handshake whose certificate is good.
pub(crate) enum Secured {
    /// The connection is open.
    Open {
        /// The connection.
        stream: Box<TlsStream<Metered>>,
        /// The server asked for a client certificate; probes carry none.
        asked_for_certificate: bool,
    },
    /// The server showed who it is, and ended the handshake because it wants a client certificate (TLS 1.2).
    LogInFirst,
}

/// A handshake to make.
#[derive(Clone, Copy)]
pub(crate) struct Handshake<'a> {
    pub(crate) spec: &'a ProbeSpec,
    /// What is offered as the protocol that follows (ALPN).
    pub(crate) alpn: &'static [&'static [u8]],
    /// The authorities to judge by; none where the certificate is only shown.
    pub(crate) anchors: Option<&'a Anchors>,
    pub(crate) provider: &'a Arc<CryptoProvider>,
}

impl Handshake<'_> {
    /// Shakes hands and judges. What was seen goes to `seen`, also where it fails.
    pub(crate) async fn shake(&self, tcp: TcpStream, seen: &mut Option<TlsSeen>) -> Result<Secured, Failure> {
        let Self { spec, alpn, anchors, provider } = *self;
        let name = server_name(spec)?;
        let recorder = Arc::new(Recorder { provider: provider.clone(), record: Mutex::default() });
        let asked = Arc::new(Asked::default());
        let versions = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let mut config = versions
            .map_err(|error| Failure::short(Short::TlsAlert, error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(recorder.clone())
            .with_client_cert_resolver(asked.clone());
        // A resumed session would show no certificate.
        config.resumption = Resumption::disabled();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();

        let deadline = Instant::now() + spec.timeout.duration();
        let mut connect = TlsConnector::from(Arc::new(config)).connect(name.clone(), Metered::new(tcp)).into_fallible();
        let end = until(deadline, &mut connect).await?;
        let record = recorder.record.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !record.chain.is_empty() {
            let version = record.version.map(version_name);
            *seen = Some(TlsSeen { version, cipher: None, chain: judge::describe(&record.chain) });
        }
        let judge = || match anchors {
            Some(anchors) => judge::judge(&record.chain, &name, anchors, provider, UnixTime::now()),
            None => Ok(()),
        };
        let asked_for_certificate = asked.0.load(Ordering::Relaxed);
        match end {
            Some(Ok(mut stream)) => {
                stream.get_mut().0.grant();
                if let Some(seen) = seen {
                    let (_, session) = stream.get_ref();
                    seen.version = session.protocol_version().map(version_name);
                    seen.cipher = session.negotiated_cipher_suite().and_then(|s| s.suite().as_str()).map(str::to_owned);
                }
                if let Err(failure) = judge() {
                    let (metered, _) = stream.into_inner();
                    part(metered);
                    return Err(failure);
                }
                Ok(Secured::Open { stream: Box::new(stream), asked_for_certificate })
            }
            Some(Err((error, metered))) => {
                // The record is signed once the server has proven its key over this handshake.
                if record.version.is_some()
                    && asked_for_certificate
                    && alert_of(&error).is_some_and(demands_certificate)
                {
                    judge()?;
                    return Ok(Secured::LogInFirst);
                }
                Err(broken(&error, &metered.head))
            }
            // The stream is inside of the handshake that did not end, so what came of it cannot be shown.
            None => Err(Failure::short(Short::TlsTimeout, format!("no end of the handshake in {}", spec.timeout))),
        }
    }
}

/// The name to ask for and to verify.
fn server_name(spec: &ProbeSpec) -> Result<ServerName<'static>, Failure> {
    let name = spec.tls.server_name.clone().unwrap_or_else(|| match &spec.target.host {
        preflight_core::target::Host::Name(name) => name.trim_end_matches('.').to_owned(),
        preflight_core::target::Host::Ip(ip) => ip.to_canonical().to_string(),
    });
    ServerName::try_from(name.clone()).map_err(|_| {
        Failure::short(Short::TlsNameMismatch, format!("'{name}' is not a name that a certificate can carry"))
    })
}

/// Whether an alert is what servers answer to a client without a certificate: `certificate_required` by RFC 8446, 4.4.2.4;
/// before TLS 1.3 `handshake_failure` (RFC 5246, 7.4.6) or, as many do, `bad_certificate`.
pub(crate) fn demands_certificate(alert: AlertDescription) -> bool {
    [AlertDescription::CertificateRequired, AlertDescription::HandshakeFailure, AlertDescription::BadCertificate]
        .contains(&alert)
}

/// The alert inside of an error.
pub(crate) fn alert_of(error: &io::Error) -> Option<AlertDescription> {
    let Error::AlertReceived(alert) = error.get_ref()?.downcast_ref::<Error>()? else {
        return None;
    };
    Some(*alert)
}

/// Why a handshake ended. `head` is how the peer's answer began.
fn broken(error: &io::Error, head: &[u8]) -> Failure {
    let shown = if head.is_empty() { String::new() } else { format!("; it began: {}", text::escape_bytes(head)) };
    if head.first().is_some_and(|first| !is_tls_record(*first)) {
        return Failure::short(Short::TlsNotSpoken, text::escape_bytes(head));
    }
    let inner = error.get_ref();
    let Some(tls) = inner.and_then(|inner| inner.downcast_ref::<Error>()) else {
        let too_much = inner.and_then(|inner| inner.downcast_ref::<TooMuch>()).is_some();
        let reason = if too_much { Short::TlsNotSpoken } else { Short::TlsClosed };
        return Failure::short(reason, error.to_string());
    };
    if matches!(tls, Error::AlertReceived(AlertDescription::NoApplicationProtocol)) {
        let detail = format!("{tls}: it does not speak the protocol that was offered (ALPN)");
        return Failure::short(Short::TlsAlert, detail);
    }
    let reason = if matches!(tls, Error::AlertReceived(_) | Error::PeerIncompatible(_)) {
        // PeerIncompatible: no version or cipher suite in common, as some servers say with an alert and others with an answer.
        Short::TlsAlert
    } else if matches!(tls, Error::InvalidCertificate(_) | Error::NoCertificatesPresented) {
        Short::TlsUntrusted
    } else {
        return Failure::short(Short::TlsNotSpoken, format!("{tls}{shown}"));
    };
    Failure::short(reason, tls.to_string())
}

/// The content types of RFC 8446, 5.1: `change_cipher_spec`, alert, handshake, application data.
fn is_tls_record(first: u8) -> bool {
    (20..=23).contains(&first)
}

fn version_name(version: ProtocolVersion) -> String {
    // As OpenSSL and everybody's logs write it.
    format!("{version:?}").replace('_', ".")
}

/// Says goodbye without making anybody wait: what the peer still sends (session tickets) is read, since a close with
/// unread data is a reset, which servers count as an error.
pub(crate) fn part(mut stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    const PATIENCE: std::time::Duration = std::time::Duration::from_millis(250);
    const MOST: u64 = 64 * 1024;
    tokio::spawn(timeout(PATIENCE, async move {
        let _ = stream.shutdown().await;
        let _ = tokio::io::copy(&mut stream.take(MOST), &mut tokio::io::sink()).await;
    }));
}

/// What the verifier saw.
#[derive(Debug, Default, Clone)]
struct Record {
    chain: Vec<CertificateDer<'static>>,
    /// Set once the server has signed the handshake with the leaf's key.
    version: Option<ProtocolVersion>,
}

/// Takes any certificate and remembers it; checks that the server holds its key.
#[derive(Debug)]
struct Recorder {
    provider: Arc<CryptoProvider>,
    record: Mutex<Record>,
}

impl Recorder {
    fn signed(&self, version: ProtocolVersion) {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).version = Some(version);
    }
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = std::iter::once(leaf).chain(above).map(|der| der.clone().into_owned()).collect();
        self.record.lock().unwrap_or_else(PoisonError::into_inner).chain = chain;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signature, &self.provider.signature_verification_algorithms)
            .inspect(|_| self.signed(ProtocolVersion::TLSv1_2))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &self.provider.signature_verification_algorithms)
            .inspect(|_| self.signed(ProtocolVersion::TLSv1_3))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Has no client certificate, and remembers whether it was asked for one.
#[derive(Debug, Default)]
struct Asked(AtomicBool);

impl ResolvesClientCert for Asked {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// A TCP connection that yields a bounded number of bytes and remembers how they began.
pub(crate) struct Metered {
    inner: TcpStream,
    left: usize,
    head: Vec<u8>,
}

/// The bound is reached.
#[derive(Debug, thiserror::Error)]
#[error("more than is read of one connection: 64 KiB of handshake, 192 KiB in all")]
struct TooMuch;

impl Metered {
    const MAX: usize = 64 * 1024;
    /// What follows the handshake: the records of the most that an exchange may read.
    const BEYOND: usize = 128 * 1024;
    const HEAD: usize = 48;

    fn new(inner: TcpStream) -> Self {
        Self { inner, left: Self::MAX, head: Vec::new() }
    }

    /// The handshake is over: what follows has a bound of its own.
    fn grant(&mut self) {
        self.left += Self::BEYOND;
    }
}

impl AsyncRead for Metered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.left == 0 {
            return Poll::Ready(Err(io::Error::other(TooMuch)));
        }
        let mut part = vec![0; buf.remaining().min(self.left)];
        let mut part = ReadBuf::new(&mut part);
        std::task::ready!(Pin::new(&mut self.inner).poll_read(cx, &mut part))?;
        let bytes = part.filled();
        let wanted = Self::HEAD.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend(bytes.iter().take(wanted));
        self.left -= bytes.len();
        buf.put_slice(bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

//! The TLS handshake: whatever certificate comes is recorded and its signatures over the handshake are checked, then the chain is
//! judged. So a chain that fails is still shown, and nothing is sent over a connection that failed
//! (but for `Protocol::leaves_by_speaking`).

use std::fmt::Display;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use preflight_core::observation::TlsSeen;
use preflight_core::reason::Short;
use preflight_core::spec::{ProbeSpec, TlsVersion};
use preflight_core::text;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, ProtocolVersion, RootCertStore,
    SignatureScheme, SupportedProtocolVersion,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::deadline::until;
use crate::failure::Failure;
use crate::judge::{Chain, Known};
use crate::trust::{Client, Terms, Trusted};

/// A handshake that came to its end.
pub(crate) enum Secured {
    /// The connection is open, and the certificate is good.
    Open {
        /// The connection.
        stream: Box<TlsStream<Metered>>,
        /// The server asked for a client certificate.
        asked_for_certificate: bool,
    },
    /// The server showed who it is, and ended the handshake because it wants a client certificate (TLS 1.2).
    LogInFirst,
    /// The connection is open, and the certificate is not good.
    Distrusted {
        /// The connection.
        stream: Box<TlsStream<Metered>>,
        /// What is wrong with the certificate.
        failure: Failure,
    },
}

/// A handshake to make.
#[derive(Clone, Copy)]
pub(crate) struct Handshake<'a> {
    pub(crate) spec: &'a ProbeSpec,
    /// What is offered as the protocol that follows (ALPN).
    pub(crate) alpn: &'static [&'static [u8]],
    /// What to judge by, and the client's own certificate; none where the server's is only shown.
    pub(crate) terms: Option<&'a Terms>,
    pub(crate) means: &'a Means,
}

/// What every handshake of an engine needs.
#[derive(Debug)]
pub(crate) struct Means {
    pub(crate) provider: Arc<CryptoProvider>,
    known: Arc<Known>,
    /// By the lowest version; none where the provider has no suite for it. What a probe adds is put into a copy.
    configs: [(TlsVersion, Option<ClientConfig>); 2],
}

impl Means {
    pub(crate) fn new() -> Self {
        let provider = Arc::new(ring::default_provider());
        let configs = [TlsVersion::V1_2, TlsVersion::V1_3].map(|lowest| (lowest, config(&provider, lowest).ok()));
        Self { provider, known: Arc::default(), configs }
    }

    fn config(&self, lowest: TlsVersion) -> Option<ClientConfig> {
        self.configs.iter().find(|(version, _)| *version == lowest)?.1.clone()
    }
}

/// It trusts nobody until it is given a verifier.
fn config(provider: &Arc<CryptoProvider>, lowest: TlsVersion) -> Result<ClientConfig, Error> {
    let versions = ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions(lowest))?;
    let mut config = versions.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    // A resumed session would show no certificate.
    config.resumption = Resumption::disabled();
    Ok(config)
}

impl Handshake<'_> {
    /// Shakes hands and judges. What was seen goes to `seen`, also where it fails.
    pub(crate) async fn shake(&self, tcp: TcpStream, seen: &mut Option<TlsSeen>) -> Result<Secured, Failure> {
        let Self { spec, alpn, terms, means } = *self;
        let provider = &means.provider;
        let name = server_name(spec)?;
        let client = terms.and_then(|terms| terms.client.as_ref());
        let before = terms.filter(|_| client.is_some()).map(|terms| (terms.trusted.clone(), name.clone()));
        let known = means.known.clone();
        let recorder = Arc::new(Recorder { provider: provider.clone(), known, before, record: Mutex::default() });
        let asked = Arc::new(Asked { asked: AtomicBool::new(false), client: client.map(|client| client.key.clone()) });
        let config = means.config(spec.tls.min_version);
        let mut config = config.ok_or_else(|| Failure::short(Short::TlsAlert, "no cipher suite to offer"))?;
        config.dangerous().set_certificate_verifier(recorder.clone());
        config.client_auth_cert_resolver = asked.clone();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();

        let deadline = Instant::now() + spec.timeout.duration();
        let mut connect = TlsConnector::from(Arc::new(config)).connect(name.clone(), Metered::new(tcp)).into_fallible();
        let end = until(deadline, &mut connect).await?;
        let record = recorder.take();
        let chain = Chain::read(&record.chain, &means.known);
        if !record.chain.is_empty() {
            let version = record.version.map(version_name);
            *seen = Some(TlsSeen { version, cipher: None, chain: chain.describe() });
        }
        if let Some(failure) = record.failed {
            return Err(failure);
        }
        let judge = || match terms {
            Some(terms) => chain.judge(&name, &terms.trusted, provider, UnixTime::now()),
            None => Ok(()),
        };
        let asked_for_certificate = asked.asked.load(Ordering::Relaxed);
        match end {
            Some(Ok(mut stream)) => {
                stream.get_mut().0.grant();
                if let Some(seen) = seen {
                    let (_, session) = stream.get_ref();
                    seen.version = session.protocol_version().map(version_name);
                    seen.cipher = session.negotiated_cipher_suite().and_then(|s| s.suite().as_str()).map(str::to_owned);
                }
                if let Err(failure) = judge() {
                    return Ok(Secured::Distrusted { stream: Box::new(stream), failure });
                }
                Ok(Secured::Open { stream: Box::new(stream), asked_for_certificate })
            }
            Some(Err((error, metered))) => {
                let alert = alert_of(&error);
                if let (Some(_), Some(client), true) = (alert, client, asked_for_certificate) {
                    return Err(client.refused(&error));
                }
                // The record is signed once the server has proven its key over this handshake.
                if record.version.is_some() && asked_for_certificate && alert.is_some_and(demands_certificate) {
                    judge()?;
                    return Ok(Secured::LogInFirst);
                }
                Err(broken(&error, &metered.head, spec))
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
fn broken(error: &io::Error, head: &[u8], spec: &ProbeSpec) -> Failure {
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
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "every other error is a peer that does not speak TLS as it should"
    )]
    match tls {
        // No version or cipher suite in common, as some servers say with an alert and others with an answer.
        Error::PeerIncompatible(_) => Failure::short(Short::TlsAlert, format!("{}{tls}", versions_apart(head, spec))),
        Error::AlertReceived(AlertDescription::ProtocolVersion) => Failure::short(
            Short::TlsAlert,
            format!("the server speaks none of the versions offered, {}: {tls}", spoken(spec)),
        ),
        Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            let detail = format!("{tls}: it does not speak the protocol that was offered (ALPN)");
            Failure::short(Short::TlsAlert, detail)
        }
        Error::AlertReceived(_) => Failure::short(Short::TlsAlert, tls.to_string()),
        Error::InvalidCertificate(_) | Error::NoCertificatesPresented => {
            Failure::short(Short::TlsUntrusted, tls.to_string())
        }
        _ => Failure::short(Short::TlsNotSpoken, format!("{tls}{shown}")),
    }
}

/// The versions that are offered.
fn versions(lowest: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    const NEWEST: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
    match lowest {
        TlsVersion::V1_2 => rustls::ALL_VERSIONS,
        TlsVersion::V1_3 => NEWEST,
    }
}

fn spoken(spec: &ProbeSpec) -> &'static str {
    match spec.tls.min_version {
        TlsVersion::V1_2 => "TLSv1.2 and TLSv1.3",
        TlsVersion::V1_3 => "TLSv1.3 alone (`min_version`)",
    }
}

/// Which version the server has chosen, where that is why there was no handshake. A `ServerHello` has it after the headers of
/// record and message (RFC 5246, 7.4.1.3).
fn versions_apart(head: &[u8], spec: &ProbeSpec) -> String {
    let (Some([22, ..]), Some([2, _, _, _, 3, minor])) = (head.first_chunk::<5>(), head.get(5..11)) else {
        return String::new();
    };
    let chosen = match minor {
        0 => "SSLv3".to_owned(),
        minor => format!("TLSv1.{}", minor - 1),
    };
    // 1.3 is announced as 1.2.
    if *minor >= 3 && spec.tls.min_version == TlsVersion::V1_2 {
        return String::new();
    }
    format!("the server chose {chosen}, and offered was {}: ", spoken(spec))
}

impl Client {
    /// The server ended the connection over the client certificate.
    pub(crate) fn refused(&self, error: &dyn Display) -> Failure {
        let what = format!("the server asked for a client certificate and refused the one of {}: {error}", self.file);
        Failure::short(Short::TlsAlert, what)
    }
}

/// Waits until the server has taken the client certificate, or has not: in TLS 1.3 it says so only after the handshake. It
/// has where it sends a ticket, which it cannot before the client's Finished (RFC 8446, 4.6.1), or answers the client's
/// goodbye in kind.
pub(crate) async fn taken(stream: &mut TlsStream<Metered>, client: &Client, deadline: Instant) -> Result<(), Failure> {
    if stream.get_ref().1.protocol_version() == Some(ProtocolVersion::TLSv1_2) {
        return Ok(());
    }
    // So that a server that has nothing to say closes.
    let _ = until(deadline, stream.shutdown()).await?;
    let end = until(
        deadline,
        std::future::poll_fn(|cx| {
            loop {
                let mut buffer = [0_u8; 256];
                let mut part = ReadBuf::new(&mut buffer);
                let read = Pin::new(&mut *stream).poll_read(cx, &mut part);
                if stream.get_ref().1.tls13_tickets_received() > 0 {
                    return Poll::Ready(Ok(()));
                }
                // Data says nothing: a server may send some before it knows its peer.
                if !matches!(read, Poll::Ready(Ok(()))) || part.filled().is_empty() {
                    return read;
                }
            }
        }),
    )
    .await?;
    match end {
        Some(Ok(())) => Ok(()),
        Some(Err(error)) if alert_of(&error).is_some() => Err(client.refused(&error)),
        Some(Err(error)) => {
            let what =
                format!("the server did not say whether it takes the client certificate of {}: {error}", client.file);
            Err(Failure::short(Short::TlsClosed, what))
        }
        None => {
            let what =
                format!("the server did not say in time whether it takes the client certificate of {}", client.file);
            Err(Failure::short(Short::TlsTimeout, what))
        }
    }
}

/// The content types of RFC 8446, 5.1: `change_cipher_spec`, alert, handshake, application data.
fn is_tls_record(first: u8) -> bool {
    (20..=23).contains(&first)
}

fn version_name(version: ProtocolVersion) -> String {
    // As OpenSSL and everybody's logs write it.
    format!("{version:?}").replace('_', ".")
}

/// What the verifier saw.
#[derive(Debug, Default)]
struct Record {
    chain: Vec<CertificateDer<'static>>,
    /// Set once the server has signed the handshake with the leaf's key.
    version: Option<ProtocolVersion>,
    /// Why the certificate is not good, where it is judged before the client shows its own.
    failed: Option<Failure>,
}

/// Takes any certificate and remembers it; checks that the server holds its key.
#[derive(Debug)]
struct Recorder {
    provider: Arc<CryptoProvider>,
    known: Arc<Known>,
    /// What to judge by where the client has a certificate: that is shown to nobody whose own is not good.
    before: Option<(Trusted, ServerName<'static>)>,
    record: Mutex<Record>,
}

impl Recorder {
    fn take(&self) -> Record {
        std::mem::take(&mut *self.record.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn signed(&self, version: ProtocolVersion) -> Result<(), Error> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.version = Some(version);
        if let Some((trusted, name)) = &self.before
            && let Err(failure) =
                Chain::read(&record.chain, &self.known).judge(name, trusted, &self.provider, UnixTime::now())
        {
            record.failed = Some(failure);
            return Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure));
        }
        Ok(())
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
            .and_then(|valid| self.signed(ProtocolVersion::TLSv1_2).map(|()| valid))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &self.provider.signature_verification_algorithms)
            .and_then(|valid| self.signed(ProtocolVersion::TLSv1_3).map(|()| valid))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The client certificate if there is one, and whether it was asked for.
#[derive(Debug)]
struct Asked {
    asked: AtomicBool,
    client: Option<Arc<CertifiedKey>>,
}

impl ResolvesClientCert for Asked {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.client.clone()
    }

    fn has_certs(&self) -> bool {
        self.client.is_some()
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

    /// The connection beneath.
    pub(crate) fn into_inner(self) -> TcpStream {
        self.inner
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
        let room = buf.remaining().min(self.left);
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
        std::task::ready!(Pin::new(&mut self.inner).poll_read(cx, &mut part))?;
        let bytes = part.filled();
        let count = bytes.len();
        let wanted = Self::HEAD.saturating_sub(self.head.len()).min(count);
        self.head.extend(bytes.iter().take(wanted));
        self.left -= count;
        buf.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    /// So that what rustls has to say in several records goes out as one packet.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

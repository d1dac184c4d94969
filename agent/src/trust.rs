//! Whom the agent believes, and as whom it speaks: TLS 1.3 only, ring only, one root only.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme, version,
};

use crate::state::Credentials;
use crate::token::Fingerprint;

/// TLS for enrolment: no client certificate, and a server whose leaf chains to exactly the root that the join token
/// names. The server must send that root with its chain.
pub fn enrolling(authority: Fingerprint) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(PinnedRoot { authority, provider: provider.clone() });
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(http2(config))
}

/// TLS for everything else: this agent's certificate, and a server whose leaf chains to the authority that issued it.
/// Fails if key and certificate are no pair.
pub fn mutual(credentials: &Credentials) -> Result<ClientConfig, rustls::Error> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&version::TLS13])?
        .with_root_certificates(only(&credentials.authority)?)
        .with_client_auth_cert(
            vec![credentials.certificate.clone()],
            PrivateKeyDer::Pkcs8(credentials.key.clone_key()),
        )?;
    Ok(http2(config))
}

fn http2(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

fn only(root: &CertificateDer<'_>) -> Result<Arc<RootCertStore>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone().into_owned())?;
    Ok(Arc::new(roots))
}

/// The presented chain does not hold the authority that the join token names.
#[derive(Debug, thiserror::Error)]
#[error(
    "the controller's certificate does not come from the authority that the join token names ({0}); the token was not sent"
)]
struct AnotherAuthority(Fingerprint);

/// Verifies a server against the one root of a known fingerprint, as a browser would against its store.
#[derive(Debug)]
struct PinnedRoot {
    authority: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedRoot {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let root = rest
            .iter()
            .find(|presented| Fingerprint::of(presented) == self.authority)
            .ok_or_else(|| CertificateError::Other(OtherError(Arc::new(AnotherAuthority(self.authority.clone())))))?;
        let verifier = WebPkiServerVerifier::builder_with_provider(only(root)?, self.provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(leaf, rest, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

//! Certificates, and servers that show them.

use std::net::SocketAddr;
use std::sync::Arc;

use preflight_core::spec::ProbeSpec;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;

use super::{scripted, spec};

pub(crate) type Issuer = CertifiedIssuer<'static, KeyPair>;

pub(crate) fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

pub(crate) fn authority(name: &str) -> Issuer {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A chain with the leaf's key.
pub(crate) struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// The leaf.
    pub(crate) pem: String,
    pub(crate) key: KeyPair,
}

impl Identity {
    pub(crate) fn issued(params: &CertificateParams, issuer: &Issuer) -> Self {
        let key = KeyPair::generate().unwrap();
        Self::new(&params.signed_by(&key, issuer).unwrap(), key)
    }

    pub(crate) fn self_signed(params: &CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        Self::new(&params.self_signed(&key).unwrap(), key)
    }

    pub(crate) fn new(leaf: &rcgen::Certificate, key: KeyPair) -> Self {
        Self { chain: vec![leaf.der().clone()], pem: leaf.pem(), key }
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).unwrap()
    }
}

/// TLS 1.2 or 1.3.
pub(crate) fn only(
    version: &'static rustls::SupportedProtocolVersion,
) -> rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier> {
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider())).with_protocol_versions(&[version]).unwrap()
}

pub(crate) fn config(identity: &Identity) -> ServerConfig {
    only(&rustls::version::TLS13)
        .with_no_client_auth()
        .with_single_cert(identity.chain.clone(), identity.key())
        .unwrap()
}

/// A server that shakes hands and then reads until the end.
pub(crate) async fn serve(config: ServerConfig) -> SocketAddr {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (address, _) = scripted(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let mut buffer = [0; 64];
                while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {
                    let _ = stream.write_all(b"+PONG\r\n").await;
                }
                let _ = stream.shutdown().await;
            }
        }
    })
    .await;
    address
}

/// A probe that trusts `ca` and asks for `good.test`.
pub(crate) fn tls(address: SocketAddr, ca: &str) -> ProbeSpec {
    let mut spec = spec(&format!("tls://{address}"));
    spec.tls.server_name = Some("good.test".to_owned());
    spec.tls.ca_pem = Some(ca.to_owned());
    spec
}

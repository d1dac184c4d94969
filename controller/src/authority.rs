//! The certificate authority: its root, the controller's own certificate, and the agents'.

use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use preflight_core::plan::{FleetId, sha256};
use preflight_core::run::AgentId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::secret;

const DAY: Duration = Duration::from_hours(24);
/// For clocks that are off.
const BACKDATED: Duration = DAY.saturating_mul(2);
const AUTHORITY_LIFE: Duration = DAY.saturating_mul(3650);
const CONTROLLER_LIFE: Duration = DAY.saturating_mul(30);
/// The controller's certificate is made anew this often while it runs, and at each start.
pub(crate) const CONTROLLER_RENEWAL: Duration = DAY.saturating_mul(10);
/// How long an agent's certificate lives.
pub(crate) const AGENT_LIFE: Duration = DAY.saturating_mul(7);

/// Why the authority cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error(
        "{} and {} belong together and one of them is missing: put it back from a backup (a new authority would lock out every agent)",
        present.display(), missing.display()
    )]
    Half { present: PathBuf, missing: PathBuf },
    #[error("{}: not a usable certificate or key: {source}", path.display())]
    Unusable { path: PathBuf, source: rcgen::Error },
    #[error("failed to issue a certificate: {0}")]
    Issue(#[from] rcgen::Error),
    #[error("failed to set up TLS: {0}")]
    Tls(String),
    #[error("the public key is not a P-256 key")]
    PublicKey,
}

/// A certificate as it was issued.
#[derive(Debug, Clone)]
pub(crate) struct Issued {
    pub(crate) der: Vec<u8>,
    pub(crate) serial: String,
    /// Milliseconds since 1970.
    pub(crate) not_after_ms: i64,
}

/// What an agent's certificate says.
#[derive(Debug, Clone)]
pub(crate) struct PeerCertificate {
    pub(crate) id: AgentId,
    pub(crate) serial: String,
    /// Milliseconds since 1970.
    pub(crate) not_after_ms: i64,
}

/// The root and its key.
pub(crate) struct Authority {
    root: CertificateDer<'static>,
    root_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Whether a data directory already has an authority.
    pub(crate) fn exists(dir: &Path) -> bool {
        dir.join("authority.key").exists() || dir.join("authority.pem").exists()
    }

    /// Reads the authority of a data directory, or makes one (10 years, key 0600).
    pub(crate) fn open(dir: &Path) -> Result<Self, AuthorityError> {
        let (key_path, pem_path) = (dir.join("authority.key"), dir.join("authority.pem"));
        match (key_path.exists(), pem_path.exists()) {
            (true, false) => return Err(AuthorityError::Half { present: key_path, missing: pem_path }),
            (false, true) => return Err(AuthorityError::Half { present: pem_path, missing: key_path }),
            (false, false) => create(&key_path, &pem_path)?,
            (true, true) => {}
        }
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|source| AuthorityError::File { path: path.to_owned(), source })
        };
        let (key_pem, root_pem) = (read(&key_path)?, read(&pem_path)?);
        let key = KeyPair::from_pem(&key_pem).map_err(|source| AuthorityError::Unusable { path: key_path, source })?;
        let unusable = |source| AuthorityError::Unusable { path: pem_path.clone(), source };
        let root = rustls::pki_types::pem::PemObject::from_pem_slice(root_pem.as_bytes())
            .map_err(|_| unusable(rcgen::Error::CouldNotParseCertificate))?;
        let issuer = Issuer::from_ca_cert_der(&root, key).map_err(unusable)?;
        Ok(Self { root, root_pem, issuer })
    }

    /// The root, PEM.
    pub(crate) fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// The root, DER.
    pub(crate) fn root_der(&self) -> &[u8] {
        &self.root
    }

    /// SHA-256 of the root's DER, 64 hex digits: what a join token carries.
    pub(crate) fn fingerprint(&self) -> String {
        sha256(&self.root).trim_start_matches("sha256:").to_owned()
    }

    /// Issues an agent's certificate: from the request it takes the public key and nothing else.
    pub(crate) fn issue_agent(&self, id: &AgentId, public_key: &[u8]) -> Result<Issued, AuthorityError> {
        let key = self::public_key(public_key)?;
        let name = format!("preflight://{}/{}/{}", id.fleet.region, id.fleet.fleet, id.agent);
        let (mut params, serial, not_after_ms) = leaf(AGENT_LIFE)?;
        params.subject_alt_names = vec![SanType::URI(name.try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued { der: certificate.der().to_vec(), serial, not_after_ms })
    }

    fn issue_controller(&self, names: &[String]) -> Result<CertifiedKey, AuthorityError> {
        let key = KeyPair::generate()?;
        let (mut params, _, _) = leaf(CONTROLLER_LIFE)?;
        params.subject_alt_names = names.iter().map(|name| san(name)).collect::<Result<_, _>>()?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer)?;
        let chain = vec![certificate.der().clone(), self.root.clone()];
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider())
            .map_err(|error| AuthorityError::Tls(error.to_string()))
    }
}

/// Reads an agent's public key; only P-256 is taken.
pub(crate) fn public_key(der: &[u8]) -> Result<SubjectPublicKeyInfo, AuthorityError> {
    let key = SubjectPublicKeyInfo::from_der(der).map_err(|_| AuthorityError::PublicKey)?;
    if *key.algorithm() == rcgen::PKCS_ECDSA_P256_SHA256 { Ok(key) } else { Err(AuthorityError::PublicKey) }
}

fn san(name: &str) -> Result<SanType, rcgen::Error> {
    Ok(match name.parse::<IpAddr>() {
        Ok(ip) => SanType::IpAddress(ip),
        Err(_) => SanType::DnsName(name.try_into()?),
    })
}

/// A leaf's parameters: serial, dates and key usage.
fn leaf(life: Duration) -> Result<(CertificateParams, String, i64), AuthorityError> {
    let serial = secret::bytes::<16>().map_err(|error| AuthorityError::Tls(error.to_string()))?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BACKDATED;
    params.not_after = now + life;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    // A serial is a positive number (RFC 5280, 4.1.2.2).
    let mut number = serial;
    number[0] = number[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&number));
    let not_after_ms = params.not_after.unix_timestamp() * 1_000;
    Ok((params, secret::hex(&number), not_after_ms))
}

fn create(key_path: &Path, pem_path: &Path) -> Result<(), AuthorityError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "preflight authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BACKDATED;
    params.not_after = now + AUTHORITY_LIFE;
    let certificate = params.self_signed(&key)?;
    write_private(key_path, key.serialize_pem().as_bytes())?;
    write_private(pem_path, certificate.pem().as_bytes())
}

/// Writes a file that only its owner may read, whole or not at all.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), AuthorityError> {
    let fail = |source| AuthorityError::File { path: path.to_owned(), source };
    let temporary = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(fail)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(fail)?;
    std::fs::rename(&temporary, path).map_err(fail)?;
    // The rename is on disk once its directory is.
    if let Some(dir) = path.parent() {
        std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(fail)?;
    }
    Ok(())
}

/// The controller's own certificate, renewed while it runs.
#[derive(Debug)]
pub(crate) struct ServerCertificate {
    names: Vec<String>,
    current: RwLock<Arc<CertifiedKey>>,
}

impl ServerCertificate {
    /// Issues the first one for these DNS names and addresses.
    pub(crate) fn new(authority: &Authority, names: Vec<String>) -> Result<Arc<Self>, AuthorityError> {
        let current = RwLock::new(Arc::new(authority.issue_controller(&names)?));
        Ok(Arc::new(Self { names, current }))
    }

    /// Issues the next one.
    pub(crate) fn renew(&self, authority: &Authority) -> Result<(), AuthorityError> {
        let next = Arc::new(authority.issue_controller(&self.names)?);
        *self.current.write().unwrap_or_else(std::sync::PoisonError::into_inner) = next;
        Ok(())
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone())
    }
}

/// TLS for the HTTP API: no client certificates.
pub(crate) fn api_tls(certificate: Arc<ServerCertificate>) -> Result<Arc<ServerConfig>, AuthorityError> {
    let mut config = builder()?.with_no_client_auth().with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// TLS for agents: a client certificate of this authority, or none (which admits to enrolment only).
pub(crate) fn agent_tls(
    authority: &Authority,
    certificate: Arc<ServerCertificate>,
) -> Result<Arc<ServerConfig>, AuthorityError> {
    let tls = |error: &dyn std::fmt::Display| AuthorityError::Tls(error.to_string());
    let mut roots = RootCertStore::empty();
    roots.add(authority.root.clone()).map_err(|error| tls(&error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .allow_unauthenticated()
        .build()
        .map_err(|error| tls(&error))?;
    let mut config = builder()?.with_client_cert_verifier(verifier).with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec()];
    // Each connection shows its certificate anew.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn builder() -> Result<rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier>, AuthorityError> {
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| AuthorityError::Tls(error.to_string()))
}

/// Reads whom a client certificate is for; none if it is not of the agents' form.
pub(crate) fn peer(der: &[u8]) -> Option<PeerCertificate> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let [GeneralName::URI(uri)] = names.value.general_names.as_slice() else { return None };
    let mut parts = uri.strip_prefix("preflight://")?.split('/');
    let (region, fleet, agent) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || [region, fleet, agent].contains(&"") {
        return None;
    }
    Some(PeerCertificate {
        id: AgentId { fleet: FleetId { region: region.into(), fleet: fleet.into() }, agent: agent.into() },
        serial: secret::hex(certificate.tbs_certificate.raw_serial()),
        not_after_ms: certificate.validity().not_after.timestamp() * 1_000,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_s_certificate_names_it_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path()).unwrap();
        let id = AgentId { fleet: FleetId { region: "eu".into(), fleet: "web".into() }, agent: "web-1".into() };
        let key = KeyPair::generate().unwrap();
        let issued = authority.issue_agent(&id, &key.subject_public_key_info()).unwrap();
        let read = peer(&issued.der).unwrap();
        assert_eq!((read.id, read.serial, read.not_after_ms), (id, issued.serial, issued.not_after_ms));
        assert!(peer(authority.root_der()).is_none());
        let again = Authority::open(dir.path()).unwrap();
        assert_eq!(again.fingerprint(), authority.fingerprint());
        std::fs::remove_file(dir.path().join("authority.pem")).unwrap();
        assert!(matches!(Authority::open(dir.path()), Err(AuthorityError::Half { .. })));
    }
}

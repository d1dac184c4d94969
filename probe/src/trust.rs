//! What TLS goes by: which authorities or which certificate count, and the client's own certificate.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use preflight_core::reason::Void;
use preflight_core::spec::{ClientFiles, TlsOptions};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls_native_certs::ErrorKind;

use crate::failure::Failure;
use crate::files::{self, Cache, Stamp};
use crate::names::is_local;

/// What a server's certificate is judged by.
#[derive(Debug, Clone)]
pub(crate) enum Trusted {
    /// It must be issued by one of these.
    Authorities(Arc<Anchors>),
    /// It must be the one with this SHA-256, lower-case hex.
    Pinned(String),
}

/// Authorities to judge by.
#[derive(Debug)]
pub(crate) struct Anchors {
    pub(crate) roots: RootCertStore,
    /// What was wrong with the place they come from; shown where a certificate is not trusted.
    pub(crate) trouble: Option<String>,
}

/// A client's certificate with its key.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) key: Arc<CertifiedKey>,
    /// Where the certificate comes from.
    pub(crate) file: String,
}

/// What a probe goes by.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    pub(crate) trusted: Trusted,
    pub(crate) client: Option<Arc<Client>>,
}

/// Keeps what was parsed. The host's store is read when it is first needed and again once a minute: certificates that are
/// installed later count. Files are read again once they change.
#[derive(Debug, Default)]
pub(crate) struct Trust {
    host: Mutex<Option<(Instant, Arc<Anchors>)>>,
    given: Cache<String, Anchors>,
    files: Cache<Stamp, Anchors>,
    clients: Cache<[Stamp; 2], Client>,
}

impl Trust {
    const FRESH: Duration = Duration::from_mins(1);

    /// What a probe goes by. Whether its files may be used is the caller's to ask.
    pub(crate) fn terms(&self, options: &TlsOptions, provider: &CryptoProvider) -> Result<Terms, Failure> {
        let trusted = match &options.fingerprint {
            Some(sha256) => Trusted::Pinned(sha256.clone()),
            None => Trusted::Authorities(self.anchors(options)?),
        };
        let client = options.client.as_ref().map(|files| self.client(files, provider)).transpose()?;
        Ok(Terms { trusted, client })
    }

    fn anchors(&self, options: &TlsOptions) -> Result<Arc<Anchors>, Failure> {
        match (&options.ca_pem, &options.ca_file) {
            (Some(pem), _) => self.given.get(|known| known == pem, || Ok((Some(pem.clone()), given(pem)))),
            (None, Some(file)) => {
                let stamp = Stamp::of(Path::new(file))?;
                self.files
                    .get(|known| *known == stamp, || Ok((stamp.is_settled().then(|| stamp.clone()), of_file(file)?)))
            }
            (None, None) => self.host(),
        }
    }

    fn client(&self, files: &ClientFiles, provider: &CryptoProvider) -> Result<Arc<Client>, Failure> {
        let stamps = [Stamp::of(Path::new(&files.cert_file))?, Stamp::of(Path::new(&files.key_file))?];
        self.clients.get(
            |known| *known == stamps,
            || Ok((stamps.iter().all(Stamp::is_settled).then(|| stamps.clone()), client(files, provider)?)),
        )
    }

    fn host(&self) -> Result<Arc<Anchors>, Failure> {
        let mut host = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, anchors)) = &*host
            && at.elapsed() < Self::FRESH
        {
            return Ok(anchors.clone());
        }
        let anchors = Arc::new(read_host()?);
        *host = Some((Instant::now(), anchors.clone()));
        Ok(anchors)
    }
}

fn given(pem: &str) -> Anchors {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match certificates {
        Ok(certificates) => {
            let roots = store(certificates);
            let trouble = roots.is_empty().then(|| "`ca_pem` holds no certificate".to_owned());
            Anchors { roots, trouble }
        }
        Err(error) => {
            Anchors { roots: RootCertStore::empty(), trouble: Some(format!("`ca_pem` cannot be read: {error}")) }
        }
    }
}

/// A file without a certificate that can be used is this host's trouble, and says nothing of the target.
fn of_file(file: &str) -> Result<Anchors, Failure> {
    let roots = store(certificates(file)?);
    if roots.is_empty() {
        return Err(files::unusable(file, "it holds no certificate that can be read"));
    }
    Ok(Anchors { roots, trouble: None })
}

fn certificates(file: &str) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let pem = files::read(Path::new(file))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(|error| files::unusable(file, &error.to_string()))?;
    if certificates.is_empty() {
        Err(files::unusable(file, "it holds no certificate in PEM"))
    } else {
        Ok(certificates)
    }
}

fn client(files: &ClientFiles, provider: &CryptoProvider) -> Result<Client, Failure> {
    let ClientFiles { cert_file, key_file } = files;
    let chain = certificates(cert_file)?;
    let key = PrivateKeyDer::from_pem_slice(&files::read(Path::new(key_file))?).map_err(|_| {
        files::unusable(key_file, "it holds no private key in PEM that is not encrypted (PKCS#8, SEC1 or PKCS#1)")
    })?;
    let key = CertifiedKey::from_der(chain, key, provider)
        .map_err(|error| files::unusable(key_file, &format!("with the certificate of {cert_file}: {error}")))?;
    Ok(Client { key: Arc::new(key), file: cert_file.clone() })
}

/// A store that is there and cannot be read trusts nobody; Mozilla's authorities stand in only where there is none, as in
/// an image without a distribution.
fn read_host() -> Result<Anchors, Failure> {
    let found = rustls_native_certs::load_native_certs();
    if let Some(error) = found.errors.iter().find(|e| matches!(&e.kind, ErrorKind::Io { inner, .. } if is_local(inner)))
    {
        return Err(Failure::void(Void::LocalResources, error.to_string()));
    }
    let roots = store(found.certs);
    Ok(match found.errors.first() {
        _ if !roots.is_empty() => Anchors { roots, trouble: None },
        Some(error) => Anchors { roots, trouble: Some(format!("the host's store cannot be read: {error}")) },
        None => {
            let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
            Anchors { roots, trouble: Some("the host has no store, so Mozilla's authorities count".to_owned()) }
        }
    })
}

fn store(certificates: Vec<CertificateDer<'static>>) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates);
    roots
}

//! Which authorities count: those of the spec, else the host's store, else Mozilla's.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use preflight_core::reason::Void;
use preflight_core::spec::TlsOptions;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls_native_certs::ErrorKind;

use crate::failure::Failure;
use crate::names::is_local;

/// Authorities to judge by.
#[derive(Debug)]
pub(crate) struct Anchors {
    pub(crate) roots: RootCertStore,
    /// What was wrong with the place they come from; shown where a certificate is not trusted.
    pub(crate) trouble: Option<String>,
}

/// The host's store, read when it is first needed and again once a minute: certificates that are installed later count.
#[derive(Debug, Default)]
pub(crate) struct Trust {
    host: Mutex<Option<(Instant, Arc<Anchors>)>>,
}

impl Trust {
    const FRESH: Duration = Duration::from_mins(1);

    /// The authorities for a probe.
    pub(crate) fn anchors(&self, options: &TlsOptions) -> Result<Arc<Anchors>, Failure> {
        match &options.ca_pem {
            Some(pem) => Ok(Arc::new(given(pem))),
            None => self.host(),
        }
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

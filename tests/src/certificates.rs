//! Certificates for the lab's servers, good and bad.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

/// A server's certificate chain and key, as PEM.
#[derive(Debug, Clone)]
pub struct Pair {
    /// Leaf first.
    pub chain_pem: String,
    /// PKCS #8.
    pub key_pem: String,
}

/// An authority of the lab.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate.
    pub pem: String,
}

/// When a certificate is valid, in days from now.
#[derive(Debug, Clone, Copy)]
pub struct Valid {
    /// From then.
    pub from: i64,
    /// Until then.
    pub until: i64,
}

/// Valid today.
pub const TODAY: Valid = Valid { from: -1, until: 30 };
/// Ended yesterday.
pub const EXPIRED: Valid = Valid { from: -30, until: -1 };
/// Begins in ten days.
pub const NOT_YET: Valid = Valid { from: 10, until: 30 };

impl Authority {
    /// A new authority.
    pub fn new(name: &str) -> Self {
        let mut params = parameters(name, &[], Valid { from: -60, until: 365 });
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("make a key");
        let pem = params.self_signed(&key).expect("sign an authority").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A server's certificate for these names and addresses.
    pub fn issue(&self, names: &[&str], valid: Valid) -> Pair {
        let key = KeyPair::generate().expect("make a key");
        let params = leaf(names, valid);
        let certificate = params.signed_by(&key, &self.issuer).expect("sign a certificate");
        Pair { chain_pem: certificate.pem(), key_pem: key.serialize_pem() }
    }

    /// A client's certificate.
    pub fn issue_client(&self, name: &str) -> Pair {
        let key = KeyPair::generate().expect("make a key");
        let mut params = leaf(&[name], TODAY);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).expect("sign a certificate");
        Pair { chain_pem: certificate.pem(), key_pem: key.serialize_pem() }
    }
}

/// A certificate that vouches for itself.
pub fn self_signed(names: &[&str], valid: Valid) -> Pair {
    let key = KeyPair::generate().expect("make a key");
    let certificate = leaf(names, valid).self_signed(&key).expect("sign a certificate");
    Pair { chain_pem: certificate.pem(), key_pem: key.serialize_pem() }
}

fn leaf(names: &[&str], valid: Valid) -> CertificateParams {
    let mut params = parameters(names.first().unwrap_or(&"nobody"), names, valid);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

fn parameters(common_name: &str, names: &[&str], valid: Valid) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names for a certificate");
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = OffsetDateTime::now_utc();
    params.not_before = now + Duration::days(valid.from);
    params.not_after = now + Duration::days(valid.until);
    params
}

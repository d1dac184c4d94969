//! The judgement of a certificate chain, after the handshake has shown that the server holds its key; and what is
//! shown of it.

use jiff::Timestamp;
use preflight_core::observation::{Certificate, TlsSeen};
use preflight_core::reason::Short;
use preflight_core::{plan, text};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use crate::failure::Failure;
use crate::trust::Anchors;

/// At most this many names of a certificate are kept.
const MAX_NAMES: usize = 16;

/// Judges the chain by the time, the name and the authorities.
///
/// All that is wrong is found; the reason is what must be put right first (dates, then the name, then trust, which a new
/// certificate may settle as well), and the detail has the rest.
pub(crate) fn judge(
    chain: &[CertificateDer<'_>],
    name: &ServerName<'_>,
    anchors: &Anchors,
    provider: &CryptoProvider,
    now: UnixTime,
) -> Result<(), Failure> {
    let (leaf_der, above) = chain
        .split_first()
        .ok_or_else(|| Failure::short(Short::TlsUntrusted, "the server presented no certificate"))?;
    let unreadable =
        |error: String| Failure::short(Short::TlsUntrusted, format!("the certificate cannot be read: {error}"));
    let leaf = ParsedCertificate::try_from(leaf_der).map_err(|e| unreadable(e.to_string()))?;
    let (_, fields) = X509Certificate::from_der(leaf_der).map_err(|e| unreadable(e.to_string()))?;
    let validity = fields.validity();
    let (from, until) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    let clock = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);

    let mut wrong: Vec<(Short, String)> = Vec::new();
    if clock > until {
        wrong.push((Short::TlsExpired, format!("expired at {}", timestamp(until))));
    }
    if clock < from {
        wrong.push((Short::TlsNotYetValid, format!("valid from {} on", timestamp(from))));
    }
    if verify_server_name(&leaf, name).is_err() {
        let names = names(&fields);
        let names = if names.is_empty() { "no name".to_owned() } else { names.join(", ") };
        wrong.push((Short::TlsNameMismatch, format!("asked for {}, it is for {names}", name.to_str())));
    }
    // Trust is judged as of a time at which the leaf is valid, so that an expired leaf does not hide that it is untrusted too.
    let at = if from <= until { clock.clamp(from, until) } else { clock };
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(at).unwrap_or(0)));
    if !is_anchor(&fields, anchors)
        && let Err(error) = verify_server_cert_signed_by_trust_anchor(
            &leaf,
            &anchors.roots,
            above,
            at,
            provider.signature_verification_algorithms.all,
        )
    {
        wrong.push(untrusted(&error, &fields, anchors));
    }
    wrong.sort_by_key(|(reason, _)| order(*reason));
    match wrong.first() {
        None => Ok(()),
        Some((reason, _)) => {
            let all: Vec<&str> = wrong.iter().map(|(_, text)| text.as_str()).collect();
            Err(Failure::short(*reason, all.join("; ")))
        }
    }
}

/// What must be put right first.
fn order(reason: Short) -> usize {
    [Short::TlsExpired, Short::TlsNotYetValid, Short::TlsNameMismatch, Short::TlsSelfSigned, Short::TlsUntrusted]
        .iter()
        .position(|known| *known == reason)
        .unwrap_or(usize::MAX)
}

/// Whether the leaf is itself what is trusted: the same subject and key. So a self-signed certificate can be given as
/// `ca_pem`, also one that calls itself an authority, as `openssl req -x509` makes them.
fn is_anchor(leaf: &X509Certificate<'_>, anchors: &Anchors) -> bool {
    anchors.roots.roots.iter().any(|anchor| {
        content(leaf.subject().as_raw()) == Some(anchor.subject.as_ref())
            && content(leaf.public_key().raw) == Some(anchor.subject_public_key_info.as_ref())
    })
}

/// What is inside of a DER sequence: anchors are kept without tag and length.
fn content(der: &[u8]) -> Option<&[u8]> {
    let length = usize::from(*der.get(1)?);
    let header = if length < 0x80 { 2 } else { 2 + (length & 0x7f) };
    der.get(header..)
}

/// Why a chain does not end at an authority that counts.
fn untrusted(error: &Error, leaf: &X509Certificate<'_>, anchors: &Anchors) -> (Short, String) {
    let trouble = anchors.trouble.as_ref().map(|text| format!(" ({text})")).unwrap_or_default();
    if let Error::InvalidCertificate(reason) = error {
        if matches!(reason, CertificateError::Expired | CertificateError::ExpiredContext { .. }) {
            return (Short::TlsExpired, format!("a certificate above it has expired: {error}"));
        }
        if matches!(reason, CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) {
            return (Short::TlsNotYetValid, format!("a certificate above it is not valid yet: {error}"));
        }
    }
    if leaf.subject().as_raw() == leaf.issuer().as_raw() {
        return (Short::TlsSelfSigned, format!("self-signed{trouble}"));
    }
    (Short::TlsUntrusted, format!("issued by {}: {error}{trouble}", text::escape(&leaf.issuer().to_string())))
}

/// What is shown of a chain; a certificate that cannot be read is left out.
pub(crate) fn describe(chain: &[CertificateDer<'_>]) -> Vec<Certificate> {
    chain
        .iter()
        .take(TlsSeen::MAX_CHAIN)
        .filter_map(|der| {
            let (_, fields) = X509Certificate::from_der(der).ok()?;
            Some(Certificate {
                subject: text::escape(&fields.subject().to_string()),
                issuer: text::escape(&fields.issuer().to_string()),
                names: names(&fields),
                not_before: timestamp(fields.validity().not_before.timestamp()),
                not_after: timestamp(fields.validity().not_after.timestamp()),
                sha256: plan::sha256(der).trim_start_matches("sha256:").to_owned(),
            })
        })
        .collect()
}

/// The DNS names and addresses that a certificate is for, escaped.
fn names(fields: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = fields.subject_alternative_name() else {
        return Vec::new();
    };
    let name = |name: &GeneralName<'_>| {
        if let GeneralName::DNSName(name) = name {
            Some(text::escape(name))
        } else if let GeneralName::IPAddress(bytes) = name {
            let v4 = <[u8; 4]>::try_from(*bytes).map(|b| std::net::Ipv4Addr::from(b).to_string());
            v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(|b| std::net::Ipv6Addr::from(b).to_string())).ok()
        } else {
            None
        }
    };
    extension.value.general_names.iter().filter_map(name).take(MAX_NAMES).collect()
}

fn timestamp(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap_or(if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

//! The judgement of a certificate chain, after the handshake has shown that the server holds its key; and what is
//! shown of it.

use std::sync::Arc;

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
use crate::files::Cache;
use crate::trust::{Anchors, Trusted};

/// At most this many names of a certificate are kept.
const MAX_NAMES: usize = 16;

/// What certificates say that were seen before: a fleet's servers show the same ones again and again.
pub(crate) type Known = Cache<CertificateDer<'static>, Option<Certificate>>;

/// A chain with what its first certificates say; none for one that cannot be read.
pub(crate) struct Chain<'a> {
    ders: &'a [CertificateDer<'static>],
    says: Vec<Arc<Option<Certificate>>>,
}

impl<'a> Chain<'a> {
    pub(crate) fn read(ders: &'a [CertificateDer<'static>], known: &Known) -> Self {
        let read = |der: &CertificateDer<'static>| {
            let describe = || Ok((Some(der.clone()), fields(der).map(|fields| describe(der, &fields))));
            known.get(|known| known == der, describe).unwrap_or_default()
        };
        Self { ders, says: ders.iter().take(TlsSeen::MAX_CHAIN).map(read).collect() }
    }

    /// What is shown of it; a certificate that cannot be read is left out.
    pub(crate) fn describe(&self) -> Vec<Certificate> {
        self.says.iter().filter_map(|says| Option::clone(says)).collect()
    }

    /// Judges the chain by the time and by what is trusted, and where those are authorities by the name too.
    ///
    /// What is as it mostly is, issued for this name by an authority and valid now, needs no further look; else all is looked at again, to
    /// say what is wrong.
    pub(crate) fn judge(
        &self,
        name: &ServerName<'_>,
        trusted: &Trusted,
        provider: &CryptoProvider,
        now: UnixTime,
    ) -> Result<(), Failure> {
        let readable = self.says.first().is_some_and(|says| says.is_some());
        match trusted {
            Trusted::Authorities(anchors) if readable && self.is_good(name, anchors, provider, now) => Ok(()),
            Trusted::Authorities(_) | Trusted::Pinned(_) => self.find_wrong(name, trusted, provider, now),
        }
    }

    /// Whether it is issued for this name by one of these authorities, and all of it valid now.
    fn is_good(&self, name: &ServerName<'_>, anchors: &Anchors, provider: &CryptoProvider, now: UnixTime) -> bool {
        let Some((leaf, above)) = self.ders.split_first() else { return false };
        let Ok(leaf) = ParsedCertificate::try_from(leaf) else { return false };
        let algorithms = provider.signature_verification_algorithms.all;
        verify_server_name(&leaf, name).is_ok()
            && verify_server_cert_signed_by_trust_anchor(&leaf, &anchors.roots, above, now, algorithms).is_ok()
    }

    /// All that is wrong is found; the reason is what must be put right first (dates, then the name, then trust, which a new
    /// certificate may settle as well), and the detail has the rest. That it is not the certificate that is pinned comes
    /// before all.
    fn find_wrong(
        &self,
        name: &ServerName<'_>,
        trusted: &Trusted,
        provider: &CryptoProvider,
        now: UnixTime,
    ) -> Result<(), Failure> {
        let untrusted = |what: &str| Failure::short(Short::TlsUntrusted, what);
        let leaf = self.ders.first().ok_or_else(|| untrusted("the server presented no certificate"))?;
        let unreadable = || untrusted("the certificate cannot be read");
        let fields = fields(leaf);
        let fields = fields.as_ref();
        let mut wrong = match trusted {
            Trusted::Pinned(pinned) => {
                let sha256 = sha256(leaf);
                if sha256 == *pinned {
                    Vec::new()
                } else {
                    let subject = fields.map(|f| text::escape(&f.subject().to_string())).unwrap_or_default();
                    let text = format!("the certificate is sha256:{sha256} ({subject}), pinned is sha256:{pinned}");
                    vec![(Short::TlsFingerprintMismatch, text)]
                }
            }
            Trusted::Authorities(anchors) => {
                let fields = fields.ok_or_else(unreadable)?;
                self.by_authorities(leaf, fields, name, anchors, provider, now)?
            }
        };
        match fields {
            Some(fields) => wrong.extend(by_time(fields, now)),
            None if wrong.is_empty() => return Err(unreadable()),
            None => {}
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

    /// What is wrong with names and issuers.
    fn by_authorities(
        &self,
        leaf: &CertificateDer<'_>,
        fields: &X509Certificate<'_>,
        name: &ServerName<'_>,
        anchors: &Anchors,
        provider: &CryptoProvider,
        now: UnixTime,
    ) -> Result<Vec<(Short, String)>, Failure> {
        let leaf = ParsedCertificate::try_from(leaf)
            .map_err(|e| Failure::short(Short::TlsUntrusted, format!("the certificate cannot be read: {e}")))?;
        let mut wrong = Vec::new();
        if verify_server_name(&leaf, name).is_err() {
            let names = names(fields);
            let names = if names.is_empty() { "no name".to_owned() } else { names.join(", ") };
            wrong.push((Short::TlsNameMismatch, format!("asked for {}, it is for {names}", name.to_str())));
        }
        // Trust is judged as of a time at which the leaf is valid, so that an expired leaf does not hide that it is untrusted too.
        let ((from, until), clock) = (validity(fields), seconds(now));
        let at = if from <= until { clock.clamp(from, until) } else { clock };
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(at).unwrap_or(0)));
        if !is_anchor(fields, anchors)
            && let Err(error) = verify_server_cert_signed_by_trust_anchor(
                &leaf,
                &anchors.roots,
                self.ders.get(1..).unwrap_or_default(),
                at,
                provider.signature_verification_algorithms.all,
            )
        {
            wrong.push(untrusted(&error, fields, anchors));
        }
        Ok(wrong)
    }
}

fn fields<'d>(der: &'d CertificateDer<'_>) -> Option<X509Certificate<'d>> {
    X509Certificate::from_der(der).ok().map(|(_, fields)| fields)
}

/// What is wrong with the dates.
fn by_time(fields: &X509Certificate<'_>, now: UnixTime) -> Option<(Short, String)> {
    let ((from, until), clock) = (validity(fields), seconds(now));
    if clock > until {
        Some((Short::TlsExpired, format!("expired at {}", timestamp(until))))
    } else if clock < from {
        Some((Short::TlsNotYetValid, format!("valid from {} on", timestamp(from))))
    } else {
        None
    }
}

fn validity(fields: &X509Certificate<'_>) -> (i64, i64) {
    let validity = fields.validity();
    (validity.not_before.timestamp(), validity.not_after.timestamp())
}

fn seconds(now: UnixTime) -> i64 {
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

/// What must be put right first.
fn order(reason: Short) -> usize {
    [
        Short::TlsFingerprintMismatch,
        Short::TlsExpired,
        Short::TlsNotYetValid,
        Short::TlsNameMismatch,
        Short::TlsSelfSigned,
        Short::TlsUntrusted,
    ]
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

fn describe(der: &CertificateDer<'_>, fields: &X509Certificate<'_>) -> Certificate {
    let (from, until) = validity(fields);
    Certificate {
        subject: text::escape(&fields.subject().to_string()),
        issuer: text::escape(&fields.issuer().to_string()),
        names: names(fields),
        not_before: timestamp(from),
        not_after: timestamp(until),
        sha256: sha256(der),
    }
}

fn sha256(der: &CertificateDer<'_>) -> String {
    plan::sha256(der).trim_start_matches("sha256:").to_owned()
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

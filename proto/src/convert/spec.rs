//! How a target is probed, as it crosses the wire.

use preflight_core::observation::Proof;
use preflight_core::spec::{
    Addresses, ClientFiles, Expect, Families, HttpOptions, ProbeSpec, Proxy, StatusRange, TlsOptions, TlsVersion,
    Topology,
};
use preflight_core::target::Target;

use super::{
    ConvertError, MAX_PEM_BYTES, MAX_STATUS_RANGES, PROOFS, at_most, bounded, deadline, invalid, no_longer, one_of,
};
use crate::agent;

/// The form of [`agent::ProbeSpec`] that this version knows. A new option is a new form.
pub(super) const FORM: u32 = 1;

impl From<&ProbeSpec> for agent::ProbeSpec {
    fn from(from: &ProbeSpec) -> Self {
        Self {
            target: from.target.to_string(),
            connect_timeout_ms: from.connect_timeout.0,
            timeout_ms: from.timeout.0,
            require: from.require.as_str().to_owned(),
            families: families_name(from.families).to_owned(),
            addresses: addresses_name(from.addresses).to_owned(),
            tls: Some((&from.tls).into()),
            expect: expect_name(from.expect).to_owned(),
            max_latency_ms: from.max_latency.map(|most| most.0),
            via: from.via.as_ref().map(ToString::to_string),
            http_status: from
                .http
                .status
                .iter()
                .map(|range| agent::StatusRange { from: range.from.into(), to: range.to.into() })
                .collect(),
            http_body: from.http.body.clone(),
            topology: from.topology.as_ref().map(Into::into),
            form: FORM,
        }
    }
}

impl TryFrom<agent::ProbeSpec> for ProbeSpec {
    type Error = ConvertError;

    fn try_from(from: agent::ProbeSpec) -> Result<Self, ConvertError> {
        if from.form != FORM {
            return Err(invalid("spec.form", &from.form.to_string()));
        }
        let target: Target = bounded("spec.target", from.target)?.parse()?;
        at_most("spec.http_status", from.http_status.len(), MAX_STATUS_RANGES)?;
        let require = one_of("spec.require", &from.require, &PROOFS, Proof::as_str)?;
        let via = from.via.map(|via| bounded("spec.via", via)).transpose()?;
        let spec = Self {
            require,
            connect_timeout: deadline("spec.connect_timeout_ms", from.connect_timeout_ms)?,
            timeout: deadline("spec.timeout_ms", from.timeout_ms)?,
            families: one_of("spec.families", &from.families, &FAMILIES, families_name)?,
            addresses: one_of("spec.addresses", &from.addresses, &ADDRESSES, addresses_name)?,
            tls: from.tls.ok_or(ConvertError::Missing { field: "spec.tls" })?.try_into()?,
            expect: one_of("spec.expect", &from.expect, &EXPECTS, expect_name)?,
            max_latency: from.max_latency_ms.map(|most| deadline("spec.max_latency_ms", most)).transpose()?,
            via: via.map(|via| proxy(&via).ok_or_else(|| invalid("spec.via", &via))).transpose()?,
            http: HttpOptions {
                status: from.http_status.into_iter().map(status_range).collect::<Result<_, _>>()?,
                body: from.http_body.map(|body| bounded("spec.http_body", body)).transpose()?,
            },
            topology: from.topology.map(TryInto::try_into).transpose()?,
            ..Self::new(target)
        };
        spec.check()?;
        Ok(spec)
    }
}

impl From<&TlsOptions> for agent::TlsOptions {
    fn from(from: &TlsOptions) -> Self {
        Self {
            server_name: from.server_name.clone(),
            ca_pem: from.ca_pem.clone(),
            ca_file: from.ca_file.clone(),
            cert_file: from.client.as_ref().map(|files| files.cert_file.clone()),
            key_file: from.client.as_ref().map(|files| files.key_file.clone()),
            min_version: tls_version_name(from.min_version).to_owned(),
            fingerprint: from.fingerprint.clone(),
            upgrade: from.upgrade,
        }
    }
}

impl TryFrom<agent::TlsOptions> for TlsOptions {
    type Error = ConvertError;

    fn try_from(from: agent::TlsOptions) -> Result<Self, ConvertError> {
        if let Some(pem) = &from.ca_pem {
            no_longer("spec.tls.ca_pem", pem, MAX_PEM_BYTES)?;
        }
        let text = |field, text: Option<String>| text.map(|text| bounded(field, text)).transpose();
        let fingerprint = text("spec.tls.fingerprint", from.fingerprint)?;
        if let Some(wrong) = fingerprint.as_ref().filter(|hex| !is_sha256(hex)) {
            return Err(invalid("spec.tls.fingerprint", wrong));
        }
        Ok(Self {
            upgrade: from.upgrade,
            server_name: text("spec.tls.server_name", from.server_name)?,
            ca_pem: from.ca_pem,
            ca_file: text("spec.tls.ca_file", from.ca_file)?,
            client: match (text("spec.tls.cert_file", from.cert_file)?, text("spec.tls.key_file", from.key_file)?) {
                (None, None) => None,
                (Some(cert_file), Some(key_file)) => Some(ClientFiles { cert_file, key_file }),
                (None, Some(_)) => return Err(ConvertError::Missing { field: "spec.tls.cert_file" }),
                (Some(_), None) => return Err(ConvertError::Missing { field: "spec.tls.key_file" }),
            },
            min_version: one_of("spec.tls.min_version", &from.min_version, &TLS_VERSIONS, tls_version_name)?,
            fingerprint,
        })
    }
}

impl From<&Topology> for agent::Topology {
    fn from(from: &Topology) -> Self {
        match from {
            Topology::Cluster => Self { kind: "cluster".to_owned(), master: None },
            Topology::Sentinel { master } => Self { kind: "sentinel".to_owned(), master: master.clone() },
        }
    }
}

impl TryFrom<agent::Topology> for Topology {
    type Error = ConvertError;

    fn try_from(from: agent::Topology) -> Result<Self, ConvertError> {
        match (from.kind.as_str(), from.master) {
            ("cluster", None) => Ok(Self::Cluster),
            ("sentinel", master) => {
                Ok(Self::Sentinel { master: master.map(|name| bounded("spec.topology.master", name)).transpose()? })
            }
            (kind, _) => Err(invalid("spec.topology.kind", kind)),
        }
    }
}

fn proxy(text: &str) -> Option<Proxy> {
    Proxy::try_from(text.parse::<Target>().ok()?).ok()
}

fn status_range(from: agent::StatusRange) -> Result<StatusRange, ConvertError> {
    let code = |code: u32| {
        let known = u16::try_from(code).ok().filter(|code| (100..=599).contains(code));
        known.ok_or_else(|| invalid("spec.http_status", &code.to_string()))
    };
    let range = StatusRange { from: code(from.from)?, to: code(from.to)? };
    if range.from <= range.to { Ok(range) } else { Err(invalid("spec.http_status", &format!("{range:?}"))) }
}

fn is_sha256(hex: &str) -> bool {
    hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

pub(super) const EXPECTS: [Expect; 2] = [Expect::Reachable, Expect::Blocked];

fn expect_name(expect: Expect) -> &'static str {
    match expect {
        Expect::Reachable => "reachable",
        Expect::Blocked => "blocked",
    }
}

pub(super) const TLS_VERSIONS: [TlsVersion; 2] = [TlsVersion::V1_2, TlsVersion::V1_3];

fn tls_version_name(version: TlsVersion) -> &'static str {
    match version {
        TlsVersion::V1_2 => "1.2",
        TlsVersion::V1_3 => "1.3",
    }
}

pub(super) const FAMILIES: [Families; 4] = [Families::Any, Families::Ipv4, Families::Ipv6, Families::Both];

fn families_name(families: Families) -> &'static str {
    match families {
        Families::Any => "any",
        Families::Ipv4 => "ipv4",
        Families::Ipv6 => "ipv6",
        Families::Both => "both",
    }
}

pub(super) const ADDRESSES: [Addresses; 3] = [Addresses::Auto, Addresses::All, Addresses::Any];

fn addresses_name(addresses: Addresses) -> &'static str {
    match addresses {
        Addresses::Auto => "auto",
        Addresses::All => "all",
        Addresses::Any => "any",
    }
}

//! A dependency's options: which of them mean something to its targets, and what each is.

use super::Dependency;
use super::check::word;
use super::file::{DependencyFile, HttpFile, TlsFile};
use super::pem;
use super::template::Template;
use crate::diagnostic::{Diagnostic, Place};
use crate::spec::{ClientFiles, HttpOptions, Proxy, SpecOption, StatusRange, TlsOptions, TlsVersion, Topology};
use crate::target::{Host, Scheme, Target};
use crate::text::{escape, is_plain};
use crate::yaml::{At, Source};

/// The longest text that a body is searched for, in bytes.
const MAX_BODY_TEXT: usize = 1024;
/// The most ranges of accepted statuses.
const MAX_STATUS: usize = 16;

/// Holds what is written against [`ProbeSpec::check`], for each target.
pub(super) fn fit(source: Source, dependency: &Dependency, places: &Places) -> Result<(), Diagnostic> {
    for scheme in dependency.schemes() {
        // Host and port, which each region fills in, are not looked at.
        let anywhere = || Host::Name("anywhere".to_owned());
        let target = Target { scheme, host: anywhere(), port: 1, path: String::new() };
        let via = dependency.via.as_ref().map(|_| Proxy { host: anywhere(), port: 1 });
        if let Err(misfit) = dependency.spec_of(target, via).check() {
            return Err(source.error(places.of(misfit.option), misfit.to_string(), misfit.fix));
        }
    }
    Ok(())
}

/// Where a dependency's options stand in the file.
#[derive(Debug)]
pub(super) struct Places {
    dependency: Place,
    connect_timeout: Option<Place>,
    require: Option<Place>,
    families: Option<Place>,
    addresses: Option<Place>,
    tls: Option<Place>,
    max_latency: Option<Place>,
    via: Option<Place>,
    http: Option<Place>,
    topology: Option<Place>,
}

impl Places {
    /// Of what is written; `dependency` is where its name stands.
    pub(super) fn new(dependency: Place, written: &DependencyFile) -> Self {
        fn place<T>(at: Option<&At<T>>) -> Option<Place> {
            at.map(|at| at.place)
        }
        Self {
            dependency,
            connect_timeout: place(written.connect_timeout.as_ref()),
            require: place(written.require.as_ref()),
            families: place(written.families.as_ref()),
            addresses: place(written.addresses.as_ref()),
            tls: place(written.tls.as_ref()),
            max_latency: place(written.max_latency.as_ref()),
            via: place(written.via.as_ref()),
            http: place(written.http.as_ref()),
            topology: place(written.topology.as_ref()),
        }
    }

    fn of(&self, option: SpecOption) -> Place {
        let written = match option {
            SpecOption::ConnectTimeout => self.connect_timeout,
            SpecOption::Require => self.require,
            SpecOption::Families => self.families,
            SpecOption::Addresses => self.addresses,
            SpecOption::Tls => self.tls,
            SpecOption::MaxLatency => self.max_latency,
            SpecOption::Via => self.via,
            SpecOption::Http => self.http,
            SpecOption::Topology => self.topology,
        };
        written.unwrap_or(self.dependency)
    }
}

/// How a proxy is written.
const FORM: &str = "write the proxy as http://host:port, such as http://proxy.internal:3128";

/// The proxy, with placeholders that each region fills in.
pub(super) fn via(source: Source, at: &At<String>) -> Result<Template, Diagnostic> {
    let template = Template::parse("via", &at.value, at.place)
        .map_err(|wrong| source.error(at.place, wrong.message, format!("{}; {FORM}", wrong.fix)))?;
    if template.scheme != Scheme::Http || template.has_path() {
        return Err(source.error(at.place, format!("via '{}' is no proxy", escape(&at.value)), FORM));
    }
    Ok(template)
}

/// The proxy that a region makes of a template.
pub(super) fn proxy(file: &str, via: &Template, target: Target) -> Result<Proxy, Diagnostic> {
    let shown = escape(&target.to_string());
    Proxy::try_from(target).map_err(|error| {
        Diagnostic::new(file, via.place, format!("via comes to '{shown}', which is no proxy: {error}"), FORM)
    })
}

pub(super) fn topology(
    source: Source,
    topology: Option<&At<String>>,
    master: Option<&At<String>>,
) -> Result<Option<Topology>, Diagnostic> {
    const KNOWN: [(&str, Option<Kind>); 2] = [("cluster", Some(Kind::Cluster)), ("sentinel", Some(Kind::Sentinel))];
    let kind = word(source, "topology", topology, &KNOWN)?;
    if let (Some(master), None | Some(Kind::Cluster)) = (master, kind) {
        let message = "sentinel_master means something only beside 'topology: sentinel'";
        return Err(source.error(master.place, message, "add topology: sentinel, or leave sentinel_master out"));
    }
    if let Some(master) = master
        && (master.value.is_empty() || master.value.len() > 128 || !master.value.bytes().all(|b| b.is_ascii_graphic()))
    {
        let message = format!("sentinel_master '{}' is no name", escape(&master.value));
        return Err(source.error(
            master.place,
            message,
            "write the name that the code asks the Sentinels for, such as mymaster",
        ));
    }
    Ok(kind.map(|kind| match kind {
        Kind::Cluster => Topology::Cluster,
        Kind::Sentinel => Topology::Sentinel { master: master.map(|at| at.value.clone()) },
    }))
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Cluster,
    Sentinel,
}

pub(super) fn http(source: Source, written: &HttpFile) -> Result<HttpOptions, Diagnostic> {
    let status = match &written.status {
        None => Vec::new(),
        Some(list) if list.value.is_empty() || list.value.len() > MAX_STATUS => {
            let message = format!("status has {} entries", list.value.len());
            return Err(source.error(list.place, message, format!("write 1 to {MAX_STATUS}, such as [200, 3xx]")));
        }
        Some(list) => list.value.iter().map(|at| status(source, at)).collect::<Result<_, _>>()?,
    };
    if let Some(body) = &written.body
        && (body.value.is_empty() || body.value.len() > MAX_BODY_TEXT || !body.value.chars().all(is_plain))
    {
        return Err(source.error(
            body.place,
            format!("body is empty, has more than {MAX_BODY_TEXT} bytes, or holds characters that cannot be seen"),
            "write a short text that the answer always contains, such as \"status\":\"ok\"",
        ));
    }
    Ok(HttpOptions { status, body: written.body.as_ref().map(|at| at.value.clone()) })
}

/// `204`, or `2xx` for all of a hundred.
fn status(source: Source, at: &At<String>) -> Result<StatusRange, Diagnostic> {
    let text = at.value.as_str();
    let range = match text.strip_suffix("xx") {
        Some(hundred) => hundred.parse::<u16>().ok().map(|hundred| (hundred * 100, hundred * 100 + 99)),
        None => text.parse::<u16>().ok().map(|code| (code, code)),
    };
    let known = range.filter(|(from, to)| text.len() == 3 && *from >= 100 && *to <= 599);
    known.map(|(from, to)| StatusRange { from, to }).ok_or_else(|| {
        let message = format!("'{}' is no HTTP status", escape(text));
        source.error(at.place, message, "write a number from 100 to 599, or 2xx for all from 200 to 299")
    })
}

pub(super) fn tls(source: Source, written: TlsFile) -> Result<TlsOptions, Diagnostic> {
    let server_name = written.server_name.map(|at| server_name(source, &at)).transpose()?;
    if let Some(at) = &written.ca_pem {
        pem::check(&at.value).map_err(|error| {
            source.error(
                at.place,
                format!("ca_pem is not PEM certificates: {error}"),
                "write the certificates themselves: ca_pem: | and, indented below it, -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----",
            )
        })?;
    }
    let authorities =
        [("ca_pem", &written.ca_pem), ("ca_file", &written.ca_file), ("fingerprint", &written.fingerprint)];
    let mut given = authorities.iter().filter_map(|(key, at)| Some((*key, at.as_ref()?.place)));
    if let (Some((one, _)), Some((other, place))) = (given.next(), given.next()) {
        let message = format!("{other} and {one} both say whom to trust");
        return Err(source.error(place, message, "keep one of them"));
    }
    let path = |key: &str, at: Option<At<String>>| at.map(|at| absolute(source, key, &at).map(|path| (path, at.place)));
    let client =
        match (path("cert_file", written.cert_file).transpose()?, path("key_file", written.key_file).transpose()?) {
            (None, None) => None,
            (Some((cert_file, _)), Some((key_file, _))) => Some(ClientFiles { cert_file, key_file }),
            (Some((_, place)), None) => {
                return Err(source.error(
                    place,
                    "cert_file is useless without its key",
                    "add key_file: /path/to/key.pem",
                ));
            }
            (None, Some((_, place))) => {
                return Err(source.error(
                    place,
                    "key_file is useless without its certificate",
                    "add cert_file: /path/to/cert.pem",
                ));
            }
        };
    Ok(TlsOptions {
        upgrade: false,
        server_name,
        ca_pem: written.ca_pem.map(|at| at.value),
        ca_file: path("ca_file", written.ca_file).transpose()?.map(|(path, _)| path),
        client,
        min_version: word(source, "min_version", written.min_version.as_ref(), &TLS_VERSIONS)?,
        fingerprint: written.fingerprint.map(|at| fingerprint(source, &at)).transpose()?,
    })
}

const TLS_VERSIONS: [(&str, TlsVersion); 2] = [("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];

/// A path that means the same file in every spelling that the agent's policy compares.
fn absolute(source: Source, key: &str, at: &At<String>) -> Result<String, Diagnostic> {
    let path = at.value.as_str();
    let plain = |part: &str| !matches!(part, "" | "." | "..");
    let normal = path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(plain));
    if normal && path.len() <= 1024 && path.chars().all(is_plain) {
        return Ok(path.to_owned());
    }
    let message = format!("{key} '{}' is not an absolute path", escape(path));
    Err(source.error(
        at.place,
        message,
        "write it from / on, without '.', '..' or double slashes, as the agent's policy has it",
    ))
}

/// `sha256:` and 64 hex digits, in either case, with or without colons, as OpenSSL prints them.
fn fingerprint(source: Source, at: &At<String>) -> Result<String, Diagnostic> {
    let text = at.value.to_ascii_lowercase();
    let digits: String = text.strip_prefix("sha256:").unwrap_or(&text).chars().filter(|c| *c != ':').collect();
    if digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(digits);
    }
    Err(source.error(
        at.place,
        format!("fingerprint '{}' is not a SHA-256", escape(&at.value)),
        "write sha256: and 64 hex digits, as openssl x509 -noout -fingerprint -sha256 prints them",
    ))
}

/// A DNS name or address, by the same rules as a target's host.
fn server_name(source: Source, at: &At<String>) -> Result<String, Diagnostic> {
    let text = at.value.as_str();
    let bracketed = if text.contains(':') { format!("tls://[{text}]:1") } else { format!("tls://{text}:1") };
    match bracketed.parse::<Target>() {
        Ok(Target { host: Host::Ip(ip), .. }) => Ok(ip.to_string()),
        Ok(Target { host: Host::Name(name), .. }) => Ok(name),
        Err(_) => Err(source.error(
            at.place,
            format!("server_name '{}' is not a host name or address", escape(text)),
            "write a name that the server's certificate carries, such as cache.internal; placeholders are for targets only",
        )),
    }
}

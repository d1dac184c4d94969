//! Which controller, and how to be known to it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use hyper::Uri;
use preflight_core::text::escape;
use serde::Deserialize;

use crate::failure::Failure;

/// The variables that come as a set.
const SET: [&str; 3] = ["PREFLIGHT_URL", "PREFLIGHT_TOKEN", "PREFLIGHT_CA"];

/// The controller's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BaseUrl {
    /// Whether to speak TLS; without it only to loopback addresses.
    pub(crate) tls: bool,
    /// The name or address, without brackets.
    pub(crate) host: String,
    /// The port.
    pub(crate) port: u16,
    /// What stands before `/v1`, without a slash at its end.
    pub(crate) prefix: String,
}

impl std::fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.prefix)
    }
}

impl BaseUrl {
    /// `host:port`, with brackets around an IPv6 address.
    pub(crate) fn authority(&self) -> String {
        let (host, port) = (&self.host, self.port);
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// Reads a URL. The error fits after "`URL`: ".
    fn parse(text: &str) -> Result<Self, &'static str> {
        let uri: Uri = text.trim().parse().map_err(|_| "it is not a URL; write it as https://host:port")?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err("write it as https://host:port"),
        };
        let authority = uri.authority().ok_or("it has no host")?;
        if authority.as_str().contains('@') {
            return Err("it carries a user name; the token is given apart");
        }
        if uri.query().is_some() {
            return Err("leave out what follows '?'");
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err("it has no host");
        }
        let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if !tls && !loopback {
            return Err(
                "plain http is for loopback addresses only, since the token would be readable on the way; use https",
            );
        }
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let prefix = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { tls, host, port, prefix })
    }
}

/// A controller and how to be known to it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Context {
    /// Where it is.
    pub(crate) url: BaseUrl,
    /// The API token.
    pub(crate) token: String,
    /// The authority to trust, PEM. There is one wherever TLS is spoken.
    pub(crate) ca_pem: Option<String>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("url", &self.url).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientToml {
    url: String,
    token: String,
    ca_pem: Option<String>,
}

impl Context {
    /// Finds it: `--context`, else the set of variables, else `PREFLIGHT_CONTEXT`, else the file in the home directory.
    pub(crate) fn find(flag: Option<&Path>) -> Result<Self, Failure> {
        let names = ["PREFLIGHT_CONTEXT", "XDG_CONFIG_HOME", "HOME"].into_iter().chain(SET);
        let env = names.filter_map(|name| Some((name, std::env::var(name).ok().filter(|v| !v.is_empty())?))).collect();
        Self::find_in(flag, &env)
    }

    fn find_in(flag: Option<&Path>, env: &BTreeMap<&str, String>) -> Result<Self, Failure> {
        if let Some(path) = flag {
            return Self::from_file(path);
        }
        if SET.iter().any(|name| env.contains_key(name)) {
            return Self::from_set(env);
        }
        if let Some(path) = env.get("PREFLIGHT_CONTEXT") {
            return Self::from_file(Path::new(path));
        }
        let config = env.get("XDG_CONFIG_HOME").map(PathBuf::from);
        let config = config.or_else(|| env.get("HOME").map(|home| Path::new(home).join(".config")));
        match config.map(|dir| dir.join("preflight/client.toml")).filter(|path| path.exists()) {
            Some(path) => Self::from_file(&path),
            None => Err(Failure::usage("no controller is named").fix(
                "Give --context FILE (the controller writes client.toml into its data directory), or set PREFLIGHT_URL, \
                 PREFLIGHT_TOKEN and PREFLIGHT_CA.",
            )),
        }
    }

    /// All of the set or nothing: a token from elsewhere is never sent to another URL.
    fn from_set(env: &BTreeMap<&str, String>) -> Result<Self, Failure> {
        let get = |name: &str| env.get(name).map(String::as_str);
        let url = get("PREFLIGHT_URL").map(|url| parse_url("PREFLIGHT_URL", url)).transpose()?;
        let needs_ca = url.as_ref().is_none_or(|url| url.tls);
        let needed = SET.into_iter().filter(|name| *name != "PREFLIGHT_CA" || needs_ca);
        let missing: Vec<&str> = needed.filter(|name| get(name).is_none()).collect();
        let (Some(url), Some(token), true) = (url, get("PREFLIGHT_TOKEN"), missing.is_empty()) else {
            let message = format!("{} come as a set; missing: {}", SET.join(", "), missing.join(", "));
            return Err(Failure::usage(message)
                .fix("Set all of them, or none and give --context FILE. PREFLIGHT_CA is the path of a PEM file."));
        };
        let ca = get("PREFLIGHT_CA").filter(|_| url.tls);
        let ca_pem = ca.map(|path| crate::input::read("authority's certificate", Path::new(path))).transpose()?;
        Ok(Self { url, token: token.trim().to_owned(), ca_pem: ca_pem.map(|source| source.text) })
    }

    fn from_file(path: &Path) -> Result<Self, Failure> {
        let source = crate::input::read("context", path)?;
        let wrong = |message: String| {
            Failure::usage(format!("{}: {message}", source.name))
                .fix("It holds url, token and ca_pem, as the controller writes them into client.toml.")
        };
        // The error's own display would quote the line, and that may be the token's.
        let file: ClientToml = toml::from_str(&source.text).map_err(|error| wrong(error.message().to_owned()))?;
        let url = parse_url(&source.name, &file.url)?;
        if url.tls && file.ca_pem.is_none() {
            return Err(wrong("ca_pem is missing: the certificate of the authority to trust".to_owned()));
        }
        Ok(Self { url, token: file.token.trim().to_owned(), ca_pem: file.ca_pem })
    }
}

fn parse_url(from: &str, text: &str) -> Result<BaseUrl, Failure> {
    BaseUrl::parse(text).map_err(|error| Failure::usage(format!("{from}: {}: {error}", escape(text))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env<const N: usize>(pairs: [(&'static str, &str); N]) -> BTreeMap<&'static str, String> {
        pairs.into_iter().map(|(k, v)| (k, v.to_owned())).collect()
    }

    #[test]
    fn urls() {
        let url = BaseUrl::parse("https://[::1]:7443/pre/").unwrap();
        assert_eq!((url.host.as_str(), url.port, url.prefix.as_str()), ("::1", 7443, "/pre"));
        assert_eq!(url.to_string(), "https://[::1]:7443/pre");
        assert_eq!(BaseUrl::parse("https://c.example").unwrap().port, 443);
        assert!(BaseUrl::parse("http://127.0.0.1:80").is_ok());
        for text in
            ["http://c.example", "http://10.0.0.1:1", "ftp://x", "c.example:1", "", "https://u:p@x", "https://x/?a"]
        {
            assert!(BaseUrl::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_part_of_the_set_names_what_is_missing_and_takes_nothing_from_a_file() {
        let error =
            Context::find_in(None, &env([("PREFLIGHT_URL", "https://evil:1"), ("PREFLIGHT_CONTEXT", "/dev/null")]));
        let error = error.unwrap_err();
        assert_eq!(error.exit, crate::exit::Exit::Usage);
        assert!(error.message.ends_with("missing: PREFLIGHT_TOKEN, PREFLIGHT_CA"), "{error}");
        let error = Context::find_in(None, &env([("PREFLIGHT_TOKEN", "t"), ("PREFLIGHT_CA", "f")])).unwrap_err();
        assert!(error.message.ends_with("missing: PREFLIGHT_URL"), "{error}");
    }

    #[test]
    fn loopback_needs_no_authority() {
        let context = Context::find_in(None, &env([("PREFLIGHT_URL", "http://localhost:1"), ("PREFLIGHT_TOKEN", "t")]));
        assert_eq!(context.unwrap().ca_pem, None);
    }
}

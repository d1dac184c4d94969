//! Where the controller is: `https://HOST:PORT`.

use std::fmt;
use std::str::FromStr;

use rustls::pki_types::ServerName;

/// The controller's address as given on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerAddress {
    /// A DNS name or an address, without brackets. The controller's certificate must carry it.
    pub host: String,
    /// The port for agents.
    pub port: u16,
}

impl ControllerAddress {
    /// The port for agents where the URL names none.
    pub const DEFAULT_PORT: u16 = 7444;

    /// The name that the controller's certificate must carry.
    pub fn server_name(&self) -> Result<ServerName<'static>, AddressError> {
        ServerName::try_from(self.host.clone()).map_err(|_| AddressError::Host(self.host.clone()))
    }
}

/// Why a text is not a controller's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Another scheme, or none.
    #[error("write it as https://host:port; agents speak TLS only")]
    Scheme,
    /// A path, query, fragment or user.
    #[error("'{0}' means nothing here; write it as https://host:port")]
    Trailing(String),
    /// Neither a DNS name nor an address.
    #[error("'{0}' is not a host name or address")]
    Host(String),
    /// Not 1 to 65535.
    #[error("'{0}' is not a port; use a number from 1 to 65535")]
    Port(String),
}

impl FromStr for ControllerAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let rest = text.strip_prefix("https://").ok_or(AddressError::Scheme)?;
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if let Some(at) = authority.find(['/', '?', '#', '@']) {
            return Err(AddressError::Trailing(authority[at..].to_owned()));
        }
        let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, after)) => {
                (host, Some(after.strip_prefix(':').ok_or_else(|| AddressError::Port(after.into()))?))
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let port = match port {
            None => Self::DEFAULT_PORT,
            Some(text) => text.parse().ok().filter(|port| *port != 0).ok_or_else(|| AddressError::Port(text.into()))?,
        };
        let address = Self { host: host.to_ascii_lowercase(), port };
        address.server_name()?;
        Ok(address)
    }
}

impl fmt::Display for ControllerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "https://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "https://{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write() {
        for (text, want) in [
            ("https://preflight.internal", "https://preflight.internal:7444"),
            ("https://Preflight.internal:9000/", "https://preflight.internal:9000"),
            ("https://10.0.0.1:7444", "https://10.0.0.1:7444"),
            ("https://[::1]", "https://[::1]:7444"),
            ("https://[::1]:1", "https://[::1]:1"),
        ] {
            assert_eq!(text.parse::<ControllerAddress>().unwrap().to_string(), want, "{text}");
        }
        for text in [
            "http://x:1",
            "x:1",
            "https://",
            "https://x:0",
            "https://x:y",
            "https://u@x",
            "https://x/api",
            "https://a b",
        ] {
            assert!(text.parse::<ControllerAddress>().is_err(), "{text}");
        }
    }
}

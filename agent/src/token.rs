//! The join token: `pfj1.<id>.<secret>.<fingerprint>`.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use preflight_core::plan::sha256;
use preflight_core::text;

/// SHA-256 of a certificate's DER, as 64 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// The fingerprint of a certificate.
    pub fn of(der: &[u8]) -> Self {
        Self(sha256(der).trim_start_matches("sha256:").to_owned())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What enrols an agent. Secret: it shows its id and nothing else.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    text: String,
    /// Which token it is, for logs.
    pub id: String,
    /// The authority that the controller's certificate must chain to.
    pub authority: Fingerprint,
}

impl JoinToken {
    /// The whole token, to be sent to the authority that it names and to nobody else.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// Reads the token from its file. Read each time it is needed, since files are replaced.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let text = fs::read_to_string(path).map_err(|error| TokenError::Read { path: path.to_owned(), error })?;
        Self::parse(&text).ok_or_else(|| TokenError::Malformed { path: path.to_owned() })
    }

    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let mut parts = text.split('.');
        let (prefix, id, secret, authority) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let good = parts.next().is_none()
            && prefix == "pfj1"
            && !id.is_empty()
            && !secret.is_empty()
            && text.len() <= 1024
            && text.bytes().all(|b| b.is_ascii_graphic())
            && authority.len() == 64
            && authority.bytes().all(hex);
        good.then(|| Self { text: text.to_owned(), id: text::escape(id), authority: Fingerprint(authority.to_owned()) })
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Why there is no join token. Never holds the file's content.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error(
        "the join token file {} cannot be read: {error}; `preflight token join --region R --fleet F` prints a token to put there",
        path.display()
    )]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file holds something else.
    #[error(
        "the join token file {} holds no join token (pfj1.…); make one with `preflight token join --region R --fleet F`",
        path.display()
    )]
    Malformed {
        /// Which file.
        path: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens() {
        let hex = "0123456789abcdef".repeat(4);
        let text = format!("pfj1.k7.s3cret.{hex}");
        let token = JoinToken::parse(&format!("{text}\n")).unwrap();
        assert_eq!((token.reveal(), token.id.as_str(), token.authority.to_string().as_str()), (&*text, "k7", &*hex));
        assert!(!format!("{token:?}").contains("s3cret"));
        for bad in [
            String::new(),
            format!("pfj2.k7.s.{hex}"),
            format!("pfj1.k7.s.{hex}.x"),
            format!("pfj1..s.{hex}"),
            format!("pfj1.k7..{hex}"),
            format!("pfj1.k7.s.{}", &hex[1..]),
            format!("pfj1.k7.s.{}", hex.to_uppercase()),
            format!("pfj1.k7.s\u{1b}.{hex}"),
            format!("pfj1.k7.s s.{hex}"),
        ] {
            assert_eq!(JoinToken::parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn the_error_names_the_file_and_not_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        assert!(JoinToken::read(&path).unwrap_err().to_string().contains("token cannot be read"));
        fs::write(&path, "hunter2").unwrap();
        let error = JoinToken::read(&path).unwrap_err().to_string();
        assert!(error.contains("holds no join token") && !error.contains("hunter2"), "{error}");
    }
}

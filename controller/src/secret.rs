//! Random secrets, tokens as text, and their hashes.

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// Random bytes from the operating system.
pub(crate) fn bytes<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A new token's id, secret and stored hash.
#[derive(Debug)]
pub(crate) struct NewSecret {
    pub(crate) id: String,
    pub(crate) secret: String,
    pub(crate) hash: Vec<u8>,
}

impl NewSecret {
    /// 48 bits of id, 256 bits of secret.
    pub(crate) fn new() -> Result<Self, getrandom::Error> {
        let secret = hex(&bytes::<32>()?);
        Ok(Self { id: hex(&bytes::<6>()?), hash: hash(&secret), secret })
    }

    /// The text of an API token.
    pub(crate) fn api_token(&self) -> String {
        format!("pf1.{}.{}", self.id, self.secret)
    }

    /// The text of a join token, which carries the authority's fingerprint.
    pub(crate) fn join_token(&self, fingerprint: &str) -> String {
        format!("pfj1.{}.{}.{fingerprint}", self.id, self.secret)
    }
}

/// An API token's id and secret.
pub(crate) fn split_api_token(token: &str) -> Option<(&str, &str)> {
    token.strip_prefix("pf1.")?.split_once('.')
}

/// A join token's id and secret, if its fingerprint is the authority's.
pub(crate) fn split_join_token<'a>(token: &'a str, fingerprint: &str) -> Option<(&'a str, &'a str)> {
    let (id, rest) = token.strip_prefix("pfj1.")?.split_once('.')?;
    let (secret, of) = rest.split_once('.')?;
    (of == fingerprint).then_some((id, secret))
}

/// What is stored of a secret.
pub(crate) fn hash(secret: &str) -> Vec<u8> {
    Sha256::digest(secret.as_bytes()).to_vec()
}

/// Compares a secret with a stored hash in constant time.
pub(crate) fn matches(secret: &str, stored: &[u8]) -> bool {
    hash(secret).ct_eq(stored).into()
}

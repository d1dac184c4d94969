//! Names of applications, dependencies, regions and fleets.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::text::escape;

/// A name: 1 to 63 of `a-z`, `0-9`, `.`, `_` and `-`, beginning with a letter or digit. Nothing in it can be taken for
/// another letter, a path, a URL's delimiter or a terminal's escape.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// The longest name, in characters.
    pub const MAX: usize = 63;
    /// What a name may be, to follow "use ".
    pub const RULE: &'static str = "1 to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit";

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is empty.
    #[error("a name may not be empty")]
    Empty,
    /// It is too long.
    #[error("a name has at most 63 characters, this has {0}")]
    TooLong(usize),
    /// It begins with one of `.`, `_`, `-`.
    #[error("a name begins with a letter or digit, '{}' does not", escape(.0))]
    Start(String),
    /// It holds a character that names may not hold.
    #[error("'{}' is not a name: '{}' (U+{:04X}) is not allowed", escape(text), escape(&at.to_string()), u32::from(*at))]
    Character {
        /// The text.
        text: String,
        /// The first character at fault.
        at: char,
    },
}

impl NameError {
    /// What to write instead.
    pub fn fix(&self) -> String {
        match self {
            Self::Character { text, .. } if text.to_ascii_lowercase().parse::<Name>().is_ok() => {
                format!("write it in lower case: {}", text.to_ascii_lowercase())
            }
            Self::Character { .. } | Self::Empty | Self::TooLong(_) | Self::Start(_) => format!("use {}", Name::RULE),
        }
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let allowed = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-');
        if let Some(at) = text.chars().find(|c| !allowed(*c)) {
            return Err(NameError::Character { text: text.to_owned(), at });
        }
        match text.as_bytes() {
            [] => Err(NameError::Empty),
            [b'.' | b'_' | b'-', ..] => Err(NameError::Start(text.to_owned())),
            bytes if bytes.len() > Self::MAX => Err(NameError::TooLong(bytes.len())),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl PartialEq<&str> for Name {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

/// The known word that is nearest to `word`, if it is near enough to be a slip of the fingers.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Longer words are no slips, and the distance is quadratic.
    if word.len() > Name::MAX {
        return None;
    }
    known
        .into_iter()
        .map(|k| (distance(word, k), k))
        .filter(|(d, k)| *d <= (k.len() / 3).clamp(1, 3))
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}

/// How many characters must be added, left out, replaced or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// "known ones: a, b, c", cut after twenty.
pub(crate) fn known<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    let shown = names.iter().take(20).copied().collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => "there are none".to_owned(),
        1..=20 => format!("known: {shown}"),
        more => format!("known: {shown} and {} more", more - 20),
    }
}

/// "write 'web'; known: web, worker": what to write instead of a word that nobody knows.
pub(crate) fn instead<'a>(word: &str, names: impl IntoIterator<Item = &'a str> + Clone) -> String {
    match nearest(word, names.clone()) {
        Some(near) => format!("did you mean '{near}'? {}", known(names)),
        None => known(names),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "0", "shop", "eu-west-1", "a.b_c-d", "no", "123", &"x".repeat(63)] {
            assert_eq!(good.parse::<Name>().unwrap(), good);
        }
        for (bad, says) in [
            ("", "empty"),
            ("-a", "begins with"),
            (".a", "begins with"),
            ("Shop", "'S' (U+0053)"),
            ("a b", "' ' (U+0020)"),
            ("w\u{435}b", "(U+0435)"),
            ("a/b", "'/'"),
            ("a\u{202e}b", "\\u{202e}"),
            (&"x".repeat(64), "64"),
        ] {
            let error = bad.parse::<Name>().unwrap_err();
            assert!(error.to_string().contains(says), "{bad}: {error}");
        }
        assert_eq!("Shop".parse::<Name>().unwrap_err().fix(), "write it in lower case: shop");
        assert!(serde_json::from_str::<Name>("\"A\"").is_err());
    }

    #[test]
    fn slips_of_the_fingers() {
        let known = ["target", "targets", "timeout", "tls"];
        assert_eq!(nearest("taget", known), Some("target"));
        assert_eq!(nearest("tagrets", known), Some("targets"));
        assert_eq!(nearest("tsl", known), Some("tls"));
        assert_eq!(nearest("host", known), None);
        assert_eq!(nearest(&"x".repeat(10_000), known), None);
    }
}

//! Network identity: what network policy sees of a host.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

/// What network policy sees of a host, as attributes with sets of values: `security_group`, `subnet`, `zone`, `vpc`,
/// `namespace`, `label.NAME`, `address`, …
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NetworkIdentity(pub BTreeMap<String, BTreeSet<String>>);

impl NetworkIdentity {
    /// Attributes that differ from host to host and therefore are no part of the key.
    pub const PER_HOST: [&str; 6] = ["address", "host", "instance", "interface", "node", "pod"];
    /// At most this many attributes, and values of one, are accepted from an agent.
    pub const MAX_ENTRIES: usize = 64;

    /// Adds a value.
    pub fn insert(&mut self, attribute: impl Into<String>, value: impl Into<String>) {
        self.0.entry(attribute.into()).or_default().insert(value.into());
    }

    /// The attributes that hosts of one kind share.
    pub fn shared(&self) -> impl Iterator<Item = (&str, &BTreeSet<String>)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v)).filter(|(k, v)| !Self::PER_HOST.contains(k) && !v.is_empty())
    }

    /// The key: hosts with the same key are alike to network policy.
    pub fn key(&self) -> IdentityKey {
        let parts: Vec<String> = self
            .shared()
            .map(|(attribute, values)| {
                let values: Vec<_> = values.iter().map(|value| unambiguous(value)).collect();
                format!("{}={}", unambiguous(attribute), values.join(","))
            })
            .collect();
        IdentityKey(parts.join(" "))
    }

    /// Where this differs from what the inventory states: each stated attribute must have exactly the stated values,
    /// since a host that carries more may reach more.
    pub fn mismatch(&self, stated: &Self) -> Option<Mismatch> {
        stated.0.iter().find_map(|(attribute, want)| {
            let have = self.0.get(attribute).cloned().unwrap_or_default();
            (have != *want).then(|| Mismatch { attribute: attribute.clone(), stated: want.clone(), actual: have })
        })
    }
}

/// The text as it is, or quoted where it holds what separates the parts of a key: no two identities share one.
fn unambiguous(text: &str) -> Cow<'_, str> {
    if text.is_empty() || text.contains([' ', ',', '=', '"']) {
        Cow::Owned(format!("{text:?}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// An attribute of which an agent has other values than the inventory states for its fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mismatch {
    /// Which attribute.
    pub attribute: String,
    /// What the inventory states.
    pub stated: BTreeSet<String>,
    /// What the agent has.
    pub actual: BTreeSet<String>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |values: &BTreeSet<String>| match values.len() {
            0 => "none".to_owned(),
            _ => values.iter().map(|v| crate::text::escape(v)).collect::<Vec<_>>().join(", "),
        };
        write!(f, "{} is {}, the inventory states {}", self.attribute, list(&self.actual), list(&self.stated))
    }
}

/// What hosts that are alike to network policy have in common, as text: `security_group=sg-web subnet=a`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IdentityKey(pub String);

impl fmt::Display for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("(nothing known)") } else { f.write_str(&crate::text::escape(&self.0)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(pairs: &[(&str, &str)]) -> NetworkIdentity {
        let mut identity = NetworkIdentity::default();
        for (k, v) in pairs {
            identity.insert(*k, *v);
        }
        identity
    }

    #[test]
    fn the_key_leaves_out_what_differs_from_host_to_host() {
        let a = identity(&[("security_group", "sg-b"), ("security_group", "sg-a"), ("address", "10.0.0.1")]);
        let b = identity(&[("security_group", "sg-a"), ("security_group", "sg-b"), ("address", "10.0.0.2")]);
        assert_eq!(a.key(), b.key());
        assert_eq!(a.key().0, "security_group=sg-a,sg-b");
    }

    #[test]
    fn no_two_identities_share_a_key() {
        let two = identity(&[("security_group", "a"), ("security_group", "b")]);
        let one = identity(&[("security_group", "a,b")]);
        let other = identity(&[("security_group", "a zone=b")]);
        let third = identity(&[("security_group", "a"), ("zone", "b")]);
        assert_ne!(two.key(), one.key());
        assert_ne!(other.key(), third.key());
    }

    #[test]
    fn more_groups_than_stated_is_another_vantage() {
        let stated = identity(&[("security_group", "sg-web")]);
        assert_eq!(identity(&[("security_group", "sg-web"), ("zone", "a")]).mismatch(&stated), None);
        assert!(identity(&[("security_group", "sg-web"), ("security_group", "sg-admin")]).mismatch(&stated).is_some());
        let none = identity(&[]).mismatch(&stated).unwrap();
        assert_eq!(none.to_string(), "security_group is none, the inventory states sg-web");
    }
}

//! Network identity: what network policy sees of a host.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

/// What network policy sees of a host, as attributes with sets of values: `security_group`, `subnet`, `zone`, `vpc`,
/// `namespace`, `label.NAME`, `address`, …
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, schemars::JsonSchema)]
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

    /// The key by the rule where nothing else is configured.
    pub fn key(&self) -> IdentityKey {
        KeyRule::default().key(self)
    }
}

/// Which attributes make an identity's key. By default all but those that differ from host to host: [`NetworkIdentity::PER_HOST`] and
/// [`KeyRule::PER_POD`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyRule(pub Option<BTreeSet<String>>);

impl KeyRule {
    /// Labels that Kubernetes gives each pod, or each revision of a workload, by itself.
    pub const PER_POD: [&str; 6] = [
        "label.pod-template-hash",
        "label.controller-revision-hash",
        "label.pod-template-generation",
        "label.statefulset.kubernetes.io/pod-name",
        "label.apps.kubernetes.io/pod-index",
        "label.batch.kubernetes.io/job-completion-index",
    ];

    /// The key: hosts with the same key are alike to network policy.
    pub fn key(&self, identity: &NetworkIdentity) -> IdentityKey {
        let counts = |attribute: &str| match &self.0 {
            Some(named) => named.contains(attribute),
            None => !Self::PER_POD.contains(&attribute),
        };
        let parts: Vec<String> = identity
            .shared()
            .filter(|(attribute, _)| counts(attribute))
            .map(|(attribute, values)| {
                let values: Vec<_> = values.iter().map(|value| unambiguous(value)).collect();
                format!("{}={}", unambiguous(attribute), values.join(","))
            })
            .collect();
        IdentityKey(parts.join(" "))
    }
}

impl NetworkIdentity {
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

impl IdentityKey {
    /// Its attributes, each with its values as they stand in the key.
    pub fn attributes(&self) -> BTreeMap<&str, &str> {
        let mut attributes = BTreeMap::new();
        let mut rest = self.0.as_str();
        while !rest.is_empty() {
            let end = unquoted(rest, ' ').unwrap_or(rest.len());
            let (part, tail) = rest.split_at(end);
            let at = unquoted(part, '=').unwrap_or(part.len());
            attributes.insert(&part[..at], part[at..].trim_start_matches('='));
            rest = tail.trim_start_matches(' ');
        }
        attributes
    }
}

/// Where the text has that character outside of quotes.
fn unquoted(text: &str, wanted: char) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    text.char_indices().find_map(|(at, c)| {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            c if c == wanted && !quoted => return Some(at),
            _ => {}
        }
        None
    })
}

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
    fn a_key_is_read_back_and_made_of_what_the_rule_names() {
        let host = identity(&[
            ("security_group", "a"),
            ("security_group", "b=c \"d, e"),
            ("zone", "z"),
            ("label.pod-template-hash", "5d"),
        ]);
        let key = host.key();
        let attributes: Vec<_> = key.attributes().into_keys().collect();
        assert_eq!(attributes, ["security_group", "zone"]);
        assert_eq!(key.attributes()["zone"], "z");
        let rule = KeyRule(Some(["zone".to_owned(), "label.pod-template-hash".to_owned()].into()));
        assert_eq!(rule.key(&host).0, "label.pod-template-hash=5d zone=z");
        assert_eq!(KeyRule(Some(BTreeSet::new())).key(&host), IdentityKey::default());
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

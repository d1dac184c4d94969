//! What changed between two manifests, in what they mean: a default that is written out is no change.

use serde::Serialize;

use super::{Dependency, Fleets, Manifest, Targets};
use crate::observation::Proof;
use crate::plan::sha256;
use crate::spec::{Addresses, Expect, Families, TlsVersion, Topology};

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "lowercase")]
pub enum Change {
    /// The manifest is for another application.
    Application {
        /// Before.
        old: String,
        /// After.
        new: String,
    },
    /// A dependency is new.
    Added {
        /// Its name.
        dependency: String,
    },
    /// A dependency is gone.
    Removed {
        /// Its name.
        dependency: String,
    },
    /// A dependency has another name, and is probed as before from the same fleets.
    Renamed {
        /// Its name before.
        old: String,
        /// Its name after.
        new: String,
        /// In what else it changed; nothing of it changes how it is probed.
        fields: Vec<FieldChange>,
    },
    /// A dependency is another than it was.
    Changed {
        /// Its name.
        dependency: String,
        /// In what; at least one.
        fields: Vec<FieldChange>,
    },
}

/// What a difference means for the next gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// There are cells that no earlier verdict can have shown: they are required.
    Required,
    /// There are fewer cells; what is left stays as proven as it was.
    NoLongerProbed,
    /// The cells are the same.
    NoCellChanges,
}

impl Change {
    /// What it means for the next gate.
    pub fn effect(&self) -> Effect {
        match self {
            Self::Application { .. } | Self::Added { .. } => Effect::Required,
            Self::Removed { .. } => Effect::NoLongerProbed,
            Self::Renamed { .. } => Effect::NoCellChanges,
            Self::Changed { fields, .. } => {
                let effects: Vec<Effect> = fields.iter().map(FieldChange::effect).collect();
                let worst = [Effect::Required, Effect::NoLongerProbed, Effect::NoCellChanges];
                worst.into_iter().find(|effect| effects.contains(effect)).unwrap_or(Effect::NoCellChanges)
            }
        }
    }
}

impl FieldChange {
    /// What it means for the next gate by itself. What is not known to change no cell does.
    pub fn effect(&self) -> Effect {
        if !changes_cells(&self.field) {
            return Effect::NoCellChanges;
        }
        match (&self.old, &self.new) {
            (Some(old), Some(new)) if self.field == "fleets" && narrowed(old, new) => Effect::NoLongerProbed,
            // A target of its own for a region that there is no more of.
            (Some(_), None) if self.field.starts_with("targets.") => Effect::NoLongerProbed,
            _ => Effect::Required,
        }
    }
}

/// Whether a key is a part of its dependency's cells: how the code uses it, and why a fleet does not, are for people.
fn changes_cells(field: &str) -> bool {
    field != "fleets.because" && !field.starts_with("usage.")
}

/// Whether all fleets of `new` are among those of `old`, in the form of [`fields`].
fn narrowed(old: &str, new: &str) -> bool {
    let names =
        |text: &str| text.strip_prefix(ONLY).map(|names| names.split(", ").map(str::to_owned).collect::<Vec<_>>());
    match (names(old), names(new)) {
        (None, Some(_)) => true,
        (Some(old), Some(new)) => new.iter().all(|name| old.contains(name)),
        (_, None) => false,
    }
}

/// What stands before the fleets that a dependency is narrowed to.
const ONLY: &str = "only ";

/// A key of a dependency whose value changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldChange {
    /// The key: `target`, `targets.eu`, `tls.server_name`, …
    pub field: String,
    /// Before; none where the key is new.
    pub old: Option<String>,
    /// After; none where the key is gone.
    pub new: Option<String>,
}

/// What is different in `new`, in the order of `new`, with what is gone at the end.
pub fn diff(old: &Manifest, new: &Manifest) -> Vec<Change> {
    let mut changes = Vec::new();
    if old.application != new.application {
        changes.push(Change::Application { old: old.application.to_string(), new: new.application.to_string() });
    }
    let gone = old.dependencies().iter().filter(|d| new.dependency(d.name.as_str()).is_none());
    let mut gone: Vec<&Dependency> = gone.collect();
    for after in new.dependencies() {
        let dependency = after.name.to_string();
        match old.dependency(after.name.as_str()) {
            None => changes.push(match gone.iter().position(|before| same_cells(before, after)) {
                Some(at) => {
                    let before = gone.remove(at);
                    let fields = changed(&fields(before), &fields(after));
                    Change::Renamed { old: before.name.to_string(), new: dependency, fields }
                }
                None => Change::Added { dependency },
            }),
            Some(before) => {
                let fields = changed(&fields(before), &fields(after));
                if !fields.is_empty() {
                    changes.push(Change::Changed { dependency, fields });
                }
            }
        }
    }
    changes.extend(gone.into_iter().map(|d| Change::Removed { dependency: d.name.to_string() }));
    changes
}

/// Whether two dependencies are probed alike from the same fleets.
fn same_cells(before: &Dependency, after: &Dependency) -> bool {
    changed(&fields(before), &fields(after)).iter().all(|change| !changes_cells(&change.field))
}

type Fields = Vec<(String, String)>;

fn changed(old: &Fields, new: &Fields) -> Vec<FieldChange> {
    let value = |fields: &Fields, field: &str| fields.iter().find(|(f, _)| f == field).map(|(_, v)| v.clone());
    let mut names: Vec<&String> = new.iter().chain(old).map(|(field, _)| field).collect();
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(*name));
    names
        .into_iter()
        .map(|field| FieldChange { field: field.clone(), old: value(old, field), new: value(new, field) })
        .filter(|change| change.old != change.new)
        .collect()
}

/// Every key with the value that it has in effect.
fn fields(dependency: &Dependency) -> Fields {
    let mut fields: Vec<(&str, String)> = Vec::new();
    let mut targets: Fields = match &dependency.targets {
        Targets::Same(target) => vec![("target".to_owned(), target.text().to_owned())],
        Targets::PerRegion(targets, _) => {
            targets.iter().map(|t| (format!("targets.{}", t.region), t.target.text().to_owned())).collect()
        }
    };
    match &dependency.fleets {
        Fleets::All => fields.push(("fleets", "all".to_owned())),
        Fleets::Only { fleets: only, because } => {
            let mut names: Vec<&str> = only.iter().map(|(name, _)| name.as_str()).collect();
            names.sort_unstable();
            fields.push(("fleets", format!("{ONLY}{}", names.join(", "))));
            fields.push(("fleets.because", because.clone()));
        }
    }
    fields.push(("connect_timeout", dependency.connect_timeout.to_string()));
    fields.push(("timeout", dependency.timeout.to_string()));
    fields.push(("require", require(dependency)));
    fields.push(("families", families(dependency.families).to_owned()));
    fields.push(("addresses", addresses(dependency.addresses).to_owned()));
    let tls = &dependency.tls;
    fields.extend(tls.server_name.as_ref().map(|name| ("tls.server_name", name.clone())));
    if dependency.expect == Expect::Blocked {
        fields.push(("expect", "blocked".to_owned()));
    }
    fields.extend(dependency.max_latency.map(|most| ("max_latency", most.to_string())));
    fields.extend(dependency.via.as_ref().map(|via| ("via", via.text().to_owned())));
    let http = &dependency.http;
    if !http.status.is_empty() {
        let ranges: Vec<String> = http.status.iter().map(|range| format!("{} to {}", range.from, range.to)).collect();
        fields.push(("http.status", ranges.join(", ")));
    }
    fields.extend(http.body.as_ref().map(|body| ("http.body", body.clone())));
    match &dependency.topology {
        None => {}
        Some(Topology::Cluster) => fields.push(("topology", "cluster".to_owned())),
        Some(Topology::Sentinel { master }) => {
            fields.push(("topology", "sentinel".to_owned()));
            fields.extend(master.as_ref().map(|name| ("sentinel_master", name.clone())));
        }
    }
    let targets_upgrade = match &dependency.targets {
        Targets::Same(target) => target.scheme.can_upgrade(),
        Targets::PerRegion(targets, _) => targets.iter().any(|t| t.target.scheme.can_upgrade()),
    };
    if dependency.tls_given && targets_upgrade {
        fields.push(("tls", "given".to_owned()));
    }
    if tls.min_version == TlsVersion::V1_3 {
        fields.push(("tls.min_version", "1.3".to_owned()));
    }
    fields.extend(tls.ca_file.as_ref().map(|file| ("tls.ca_file", file.clone())));
    fields.extend(tls.client.as_ref().map(|files| ("tls.cert_file", files.cert_file.clone())));
    fields.extend(tls.client.as_ref().map(|files| ("tls.key_file", files.key_file.clone())));
    fields.extend(tls.fingerprint.as_ref().map(|hex| ("tls.fingerprint", hex.clone())));
    fields.extend(tls.ca_pem.as_ref().map(|pem| ("tls.ca_pem", sha256(pem.as_bytes()))));
    let usage = dependency.usage;
    fields.extend(usage.calls_per_request.map(|n| ("usage.calls_per_request", n.to_string())));
    fields.extend(usage.client_timeout.map(|t| ("usage.client_timeout", t.to_string())));
    fields.extend(usage.requests_per_second.map(|n| ("usage.requests_per_second", n.to_string())));
    fields.extend(usage.workers.map(|n| ("usage.workers", n.to_string())));
    targets.extend(fields.into_iter().map(|(field, value)| (field.to_owned(), value)));
    targets
}

/// The proof in effect, where it is the same for all targets.
fn require(dependency: &Dependency) -> String {
    let of = |proof: Proof| match proof {
        Proof::Resolved => "resolved",
        Proof::Connected => "connected",
        Proof::Encrypted => "encrypted",
        Proof::Protocol => "protocol",
    };
    let schemes = match &dependency.targets {
        Targets::Same(target) => vec![target.scheme],
        Targets::PerRegion(targets, _) => targets.iter().map(|t| t.target.scheme).collect(),
    };
    let mut proofs: Vec<&str> =
        schemes.iter().map(|scheme| of(dependency.require.unwrap_or(scheme.default_proof()))).collect();
    proofs.sort_unstable();
    proofs.dedup();
    proofs.join(" or ")
}

fn families(families: Families) -> &'static str {
    match families {
        Families::Any => "any",
        Families::Ipv4 => "ipv4",
        Families::Ipv6 => "ipv6",
        Families::Both => "both",
    }
}

fn addresses(addresses: Addresses) -> &'static str {
    match addresses {
        Addresses::Auto => "all private, any public",
        Addresses::All => "all",
        Addresses::Any => "any",
    }
}

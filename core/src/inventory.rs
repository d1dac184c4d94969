//! Which fleets exist in which region, and which run which application. It does not depend on which agents are alive.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Deserialize;

use crate::diagnostic::{Diagnostic, Place};
use crate::identity::{KeyRule, NetworkIdentity};
use crate::name::{Name, instead};
use crate::plan::FleetId;
use crate::text::{escape, is_plain};
use crate::yaml::{At, Entries, Source, given};

/// What `{placeholders}` in targets mean in a region.
pub type Vars = BTreeMap<Name, String>;

/// The fleets and applications, in the order as written. Empty until one was applied.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    regions: Vec<Region>,
    applications: Vec<Application>,
    /// Which attributes of a host's network identity make its key.
    pub identity_key: KeyRule,
}

/// One deploy target with its own pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// Its name.
    pub name: Name,
    /// For `{placeholders}`; `{region}` is always there and never in here.
    pub vars: Vars,
    /// Its fleets, at least one.
    pub fleets: Vec<Fleet>,
}

/// Hosts of one type and one network role in one region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fleet {
    /// Its name.
    pub name: Name,
    /// What its agents must carry; empty where the inventory states nothing.
    pub identity: NetworkIdentity,
    /// How many agents must have reached a dependency.
    pub min_agents: u32,
}

/// A code base, and where it is deployed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Application {
    /// Its name.
    pub name: Name,
    /// For each region that it runs in, the fleets that run it; at least one each.
    pub fleets: Vec<(Name, Vec<Name>)>,
}

/// The most keys and values: some three thousand fleets with an identity.
const MAX_NODES: usize = 20_000;
/// The shortest inventory, for error messages.
const EXAMPLE: &str = "{regions: {eu: {fleets: {web: {}}}}, applications: {shop: {fleets: {eu: [web]}}}}";

impl Inventory {
    /// `min_agents` of a fleet for which the inventory does not say.
    pub const DEFAULT_MIN_AGENTS: u32 = 2;
    /// The highest `min_agents`.
    pub const MAX_MIN_AGENTS: u32 = 100;

    /// Reads an inventory. `file` is its name for error messages; the text's limit is 256 KiB.
    pub fn parse(file: &str, text: &str) -> Result<Self, Diagnostic> {
        let written: InventoryFile = crate::yaml::read(file, text, EXAMPLE, MAX_NODES)?;
        let source = Source(file);
        if written.regions.value.0.is_empty() {
            return Err(source.error(
                written.regions.place,
                "the inventory has no regions",
                format!("add one: {EXAMPLE}"),
            ));
        }
        let mut inventory = Self { identity_key: key_rule(source, written.identity_key)?, ..Self::default() };
        for (name, written) in written.regions.value.0 {
            inventory.regions.push(region(source, &name, written)?);
        }
        for (name, written) in written.applications.unwrap_or_default().0 {
            let application = application(source, &inventory, &name, written)?;
            inventory.applications.push(application);
        }
        Ok(inventory)
    }

    /// The regions, in the order as written.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The region of that name.
    pub fn region(&self, name: &str) -> Option<&Region> {
        self.regions.iter().find(|region| region.name == *name)
    }

    /// The applications, in the order as written.
    pub fn applications(&self) -> &[Application] {
        &self.applications
    }

    /// The application of that name.
    pub fn application(&self, name: &str) -> Option<&Application> {
        self.applications.iter().find(|application| application.name == *name)
    }

    /// Every fleet of every region, in the order as written.
    pub fn fleets(&self) -> impl Iterator<Item = (FleetId, &Fleet)> {
        self.regions.iter().flat_map(|region| region.fleets.iter().map(|fleet| (region.id(fleet), fleet)))
    }

    /// The fleet of that region and name.
    pub fn fleet(&self, id: &FleetId) -> Option<&Fleet> {
        self.region(&id.region)?.fleet(&id.fleet)
    }
}

impl Region {
    /// The fleet of that name.
    pub fn fleet(&self, name: &str) -> Option<&Fleet> {
        self.fleets.iter().find(|fleet| fleet.name == *name)
    }

    /// The fleet's name together with the region's.
    pub fn id(&self, fleet: &Fleet) -> FleetId {
        FleetId { region: self.name.to_string(), fleet: fleet.name.to_string() }
    }
}

impl Application {
    /// The fleets that run it in a region; none where it does not run there.
    pub fn fleets_in(&self, region: &str) -> Option<&[Name]> {
        self.fleets.iter().find(|(name, _)| *name == *region).map(|(_, fleets)| fleets.as_slice())
    }

    /// The regions that it runs in, in the order as written.
    pub fn regions(&self) -> impl Iterator<Item = &Name> {
        self.fleets.iter().map(|(region, _)| region)
    }
}

/// The JSON Schema of the file, for editors.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(InventoryFile).to_value()
}

/// A list of words, each with where it stands.
type Words = At<Vec<At<String>>>;

/// Which fleets exist in which region, and which run which application.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "preflight inventory", rename = "Inventory")]
struct InventoryFile {
    /// The regions by name. At least one.
    #[schemars(with = "Entries<RegionFile>", extend("minProperties" = 1))]
    regions: At<Entries<RegionFile>>,
    /// The applications by name.
    #[serde(default, deserialize_with = "given")]
    applications: Option<Entries<ApplicationFile>>,
    /// Which attributes tell apart hosts that network policy treats differently: one agent of each kind of host is asked at least. By
    /// default all that hosts tell, but those that differ from host to host.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<Vec<String>>")]
    identity_key: Option<Words>,
}

/// One deploy target with its own pipeline.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Region")]
struct RegionFile {
    /// Values for `{placeholders}` in targets. `{region}` is always there.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<Entries<String>>")]
    vars: Option<Entries<At<String>>>,
    /// The fleets by name. At least one.
    #[schemars(with = "Entries<Option<FleetFile>>", extend("minProperties" = 1))]
    fleets: At<Entries<Option<FleetFile>>>,
}

/// Hosts of one type and one network role.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Fleet")]
struct FleetFile {
    /// What its agents must carry, exactly: `{security_group: [sg-web]}`. An agent with another identity does not count.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<Entries<Vec<String>>>")]
    identity: Option<At<Entries<Words>>>,
    /// How many agents must have reached a dependency: 1 to 100, 2 by default.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<u32>", range(min = 1, max = 100))]
    min_agents: Option<At<String>>,
}

/// A code base, and where it is deployed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Application")]
struct ApplicationFile {
    /// For each region that it runs in, the fleets that run it.
    #[schemars(with = "Entries<Vec<String>>", extend("minProperties" = 1))]
    fleets: At<Entries<Words>>,
}

fn region(source: Source, name: &At<String>, written: RegionFile) -> Result<Region, Diagnostic> {
    let name = source.name(name)?;
    let mut region = Region { name, vars: Vars::new(), fleets: Vec::new() };
    for (var, value) in written.vars.unwrap_or_default().0 {
        let name = source.name(&var)?;
        if name == "region" {
            return Err(source.error(var.place, "{region} is always the region's name", "use another name for this"));
        }
        check_var(source, &name, &value)?;
        region.vars.insert(name, value.value);
    }
    if written.fleets.value.0.is_empty() {
        return Err(source.error(
            written.fleets.place,
            format!("region {} has no fleets", region.name),
            "add one: fleets: {web: {}}; or leave the region out",
        ));
    }
    for (name, written) in written.fleets.value.0 {
        let name = source.name(&name)?;
        let written = written.unwrap_or_default();
        region.fleets.push(Fleet {
            identity: written
                .identity
                .map_or(Ok(NetworkIdentity::default()), |written| identity(source, &name, written))?,
            min_agents: match &written.min_agents {
                Some(at) => source.whole("min_agents", at, 1..=Inventory::MAX_MIN_AGENTS)?,
                None => Inventory::DEFAULT_MIN_AGENTS,
            },
            name,
        });
    }
    Ok(region)
}

fn key_rule(source: Source, written: Option<Words>) -> Result<KeyRule, Diagnostic> {
    let Some(written) = written else { return Ok(KeyRule::default()) };
    if written.value.is_empty() {
        return Err(source.error(
            written.place,
            "identity_key names no attribute",
            "name some: identity_key: [security_group, subnet, zone]; or leave it out",
        ));
    }
    let mut names = BTreeSet::new();
    for attribute in written.value {
        check_attribute(source, &attribute)?;
        names.insert(attribute.value);
    }
    Ok(KeyRule(Some(names)))
}

/// Only what can stand inside a host name or port, so that no value can add a port, path, user or another host to a URL.
fn check_var(source: Source, name: &Name, value: &At<String>) -> Result<(), Diagnostic> {
    let text = value.value.as_bytes();
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let inside = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if (1..=253).contains(&text.len()) && edge(text.first()) && edge(text.last()) && text.iter().all(inside) {
        return Ok(());
    }
    Err(source.error(
        value.place,
        format!("the value '{}' of {{{name}}} could change what a URL means", escape(&value.value)),
        "use letters, digits, '.', '_' and '-', with a letter or digit at both ends; where more differs, write `targets` in the manifest",
    ))
}

fn identity(source: Source, fleet: &Name, written: At<Entries<Words>>) -> Result<NetworkIdentity, Diagnostic> {
    let mut identity = NetworkIdentity::default();
    if written.value.0.is_empty() {
        return Err(source.error(
            written.place,
            format!("the identity of fleet {fleet} states nothing"),
            "state an attribute: {security_group: [sg-web]}; or leave identity out",
        ));
    }
    for (attribute, values) in written.value.0 {
        check_attribute(source, &attribute)?;
        if values.value.is_empty() {
            return Err(source.error(
                values.place,
                format!("{} has no values", attribute.value),
                "name at least one, or leave the attribute out",
            ));
        }
        for value in values.value {
            check_identity_value(source, &value)?;
            identity.insert(&attribute.value, value.value);
        }
    }
    Ok(identity)
}

fn check_attribute(source: Source, attribute: &At<String>) -> Result<(), Diagnostic> {
    let text = attribute.value.as_str();
    if NetworkIdentity::PER_HOST.contains(&text) {
        return Err(source.error(
            attribute.place,
            format!("'{text}' differs from host to host, so a fleet has no one value of it"),
            "state what all its hosts share: security_group, subnet, zone, vpc, namespace, label.NAME",
        ));
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/');
    if text.is_empty() || text.len() > 128 || !text.bytes().all(allowed) {
        return Err(source.error(
            attribute.place,
            format!("'{}' is not an attribute of a network identity", escape(text)),
            "use 1 to 128 letters, digits, '.', '_', '-' and '/', such as security_group or label.app",
        ));
    }
    Ok(())
}

fn check_identity_value(source: Source, value: &At<String>) -> Result<(), Diagnostic> {
    let text = value.value.as_str();
    // A comma or space would make two values look like one in the identity's key.
    let allowed = |c: char| is_plain(c) && !c.is_whitespace() && c != ',';
    if text.is_empty() || text.len() > 256 || !text.chars().all(allowed) {
        return Err(source.error(
            value.place,
            format!("'{}' is not a value of a network identity", escape(text)),
            "write 1 to 256 visible characters without spaces and commas; several values are a list: [a, b]",
        ));
    }
    Ok(())
}

fn application(
    source: Source,
    inventory: &Inventory,
    name: &At<String>,
    written: ApplicationFile,
) -> Result<Application, Diagnostic> {
    let name = source.name(name)?;
    let mut application = Application { name, fleets: Vec::new() };
    let no_fleets = |place: Place, of: String| {
        source.error(place, format!("{of} names no fleets"), "name the fleets that run it, or leave it out")
    };
    if written.fleets.value.0.is_empty() {
        return Err(no_fleets(written.fleets.place, format!("application {}", application.name)));
    }
    for (at, fleets) in written.fleets.value.0 {
        let Some(region) = inventory.region(&at.value) else {
            return Err(source.error(
                at.place,
                format!(
                    "application {} runs in region '{}', which is not in this file",
                    application.name,
                    escape(&at.value)
                ),
                instead(&at.value, inventory.regions.iter().map(|r| r.name.as_str())),
            ));
        };
        if fleets.value.is_empty() {
            return Err(no_fleets(fleets.place, format!("application {} in region {}", application.name, region.name)));
        }
        let mut names = Vec::new();
        let mut seen = BTreeSet::new();
        for at in fleets.value {
            let Some(fleet) = region.fleet(&at.value) else {
                return Err(source.error(
                    at.place,
                    format!("region {} has no fleet '{}'", region.name, escape(&at.value)),
                    instead(&at.value, region.fleets.iter().map(|f| f.name.as_str())),
                ));
            };
            if !seen.insert(fleet.name.clone()) {
                return Err(source.error(
                    at.place,
                    format!("fleet {} is named twice", fleet.name),
                    "remove one of the two",
                ));
            }
            names.push(fleet.name.clone());
        }
        application.fleets.push((region.name.clone(), names));
    }
    Ok(application)
}

#[cfg(test)]
#[path = "inventory_tests.rs"]
mod tests;

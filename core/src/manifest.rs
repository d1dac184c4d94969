//! The file in which an application declares its dependencies: parsed once, into types that hold nothing invalid.

use serde::{Deserialize, Serialize};

use crate::diagnostic::{Diagnostic, Place, Position};
use crate::inventory::Region;
use crate::name::Name;
use crate::observation::Proof;
use crate::plan::sha256;
use crate::spec::{Addresses, Expect, Families, HttpOptions, Millis, ProbeSpec, Proxy, TlsOptions, Topology};
use crate::target::{Host, Scheme, Target};

mod check;
mod diff;
mod file;
mod options;
mod pem;
mod template;

pub use diff::{Change, Effect, FieldChange, diff};
use template::Template;

/// The dependencies of an application, as written. At least one.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// The file's name as the caller gave it.
    pub file: String,
    /// `sha256:…` of the text.
    pub digest: String,
    /// The application.
    pub application: Name,
    /// Where the application's name stands.
    application_place: Place,
    /// The dependencies, in the order as written; names are unique.
    dependencies: Vec<Dependency>,
}

/// One dependency, as written.
#[derive(Debug, Clone, PartialEq)]
pub struct Dependency {
    /// Its name.
    pub name: Name,
    /// Where its name stands.
    pub place: Place,
    /// Which fleets use it.
    pub fleets: Fleets,
    /// When silence after a connect is called a drop.
    pub connect_timeout: Millis,
    /// The deadline of each phase that follows the connect.
    pub timeout: Millis,
    /// How far the probe must get, where the scheme's default is not meant. Every target's scheme can get so far.
    pub require: Option<Proof>,
    /// What is expected of the path.
    pub expect: Expect,
    /// The longest from the first packet to the last proof.
    pub max_latency: Option<Millis>,
    /// What of an HTTP answer is accepted; empty unless every target's scheme is HTTP.
    pub http: HttpOptions,
    /// Which members are probed too; none unless every target's scheme is Redis.
    pub topology: Option<Topology>,
    /// Which families must work.
    pub families: Families,
    /// How many addresses must work.
    pub addresses: Addresses,
    /// TLS options; empty unless every target's scheme speaks TLS or can be upgraded to it.
    pub tls: TlsOptions,
    /// Whether `tls` is written at all: for a protocol with an upgrade of its own, that asks for it.
    tls_given: bool,
    /// How the code uses it.
    pub usage: Usage,
    targets: Targets,
    /// The proxy on the way.
    via: Option<Template>,
}

/// Where a dependency is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Targets {
    /// The same for every region, but for placeholders.
    Same(Template),
    /// One for each region, and where `targets` stands.
    PerRegion(Vec<RegionTarget>, Place),
}

/// One entry of `targets`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct RegionTarget {
    region: Name,
    place: Place,
    target: Template,
}

/// Which fleets use a dependency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fleets {
    /// Every fleet that runs the application.
    All,
    /// Some of them; the others are shown as excluded.
    Only {
        /// Those that use it, and where each stands; at least one.
        fleets: Vec<(Name, Place)>,
        /// Why the others never do; not empty.
        because: String,
    },
}

/// How the code uses a dependency; none where the manifest does not say.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Calls in one request, on average.
    pub calls_per_request: Option<f64>,
    /// How long the client waits for one call.
    pub client_timeout: Option<Millis>,
    /// Requests per second that use it, on one host.
    pub requests_per_second: Option<f64>,
    /// Requests that one host serves at the same time.
    pub workers: Option<u32>,
}

/// The most keys and values: twelve for each of the most dependencies. A debug build reads so many in less than 100 ms, and a
/// manifest comes with every pull request.
const MAX_NODES: usize = 12 * Manifest::MAX_DEPENDENCIES;
/// The shortest manifest, for error messages.
const EXAMPLE: &str = "{application: shop, dependencies: {cache: {target: redis://cache.internal:6379}}}";

impl Manifest {
    /// The most dependencies of one manifest.
    pub const MAX_DEPENDENCIES: usize = 1_000;

    /// Reads a manifest. `file` is its name for error messages; the text's limit is 256 KiB.
    pub fn parse(file: &str, text: &str) -> Result<Self, Diagnostic> {
        let written = crate::yaml::read(file, text, EXAMPLE, MAX_NODES)?;
        check::manifest(file, sha256(text.as_bytes()), written)
    }

    /// The dependencies, in the order as written.
    pub fn dependencies(&self) -> &[Dependency] {
        &self.dependencies
    }

    /// The dependency of that name.
    pub fn dependency(&self, name: &str) -> Option<&Dependency> {
        self.dependencies.iter().find(|d| d.name == *name)
    }

    /// Where a dependency is declared.
    pub fn position(&self, dependency: &str) -> Option<Position> {
        self.dependency(dependency).map(|d| Position { file: self.file.clone(), place: d.place })
    }

    /// Where the application is named.
    pub fn application_position(&self) -> Position {
        Position { file: self.file.clone(), place: self.application_place }
    }

    /// Regions that `targets` name, with where: for the plan to compare with the inventory.
    pub(crate) fn named_regions(&self) -> impl Iterator<Item = (&Name, Place)> {
        self.dependencies
            .iter()
            .flat_map(|d| match &d.targets {
                Targets::Same(_) => &[],
                Targets::PerRegion(targets, _) => targets.as_slice(),
            })
            .map(|t| (&t.region, t.place))
    }
}

impl Dependency {
    /// The probe in a region: the target with its placeholders filled in, and the options.
    pub(crate) fn spec(&self, file: &str, region: &Region) -> Result<ProbeSpec, Diagnostic> {
        let template = match &self.targets {
            Targets::Same(template) => template,
            Targets::PerRegion(targets, place) => {
                targets.iter().find(|t| t.region == region.name).map(|t| &t.target).ok_or_else(|| {
                    Diagnostic::new(
                        file,
                        *place,
                        format!("dependency {} has no target for region {}", self.name, region.name),
                        format!("add '{}: scheme://host:port' to its targets", region.name),
                    )
                })?
            }
        };
        let resolve = |template: &Template| {
            let resolved = template.resolve(&region.name, &region.vars);
            resolved.map_err(|wrong| Diagnostic::new(file, template.place, wrong.message, wrong.fix))
        };
        let target = resolve(template)?;
        let via = self.via.as_ref().map(|via| options::proxy(file, via, resolve(via)?)).transpose()?;
        if let Some(lacking) = self.lacks_family(&target) {
            let (has, host) = (if lacking == "IPv6" { "IPv4" } else { "IPv6" }, &target.host);
            return Err(Diagnostic::new(
                file,
                template.place,
                format!("{host} is an {has} address, and families asks for {lacking}, so this could never pass"),
                "write a name that has addresses of both, or families: any",
            ));
        }
        Ok(self.spec_of(target, via))
    }

    /// The scheme of each target.
    fn schemes(&self) -> impl Iterator<Item = Scheme> {
        let (same, per_region) = match &self.targets {
            Targets::Same(template) => (Some(template), &[][..]),
            Targets::PerRegion(targets, _) => (None, targets.as_slice()),
        };
        same.into_iter().chain(per_region.iter().map(|t| &t.target)).map(|template| template.scheme)
    }

    /// The family that is asked for and that an address written out cannot have.
    fn lacks_family(&self, target: &Target) -> Option<&'static str> {
        let Host::Ip(ip) = target.host else { return None };
        let v6 = ip.to_canonical().is_ipv6();
        match self.families {
            Families::Any => None,
            Families::Ipv4 => v6.then_some("IPv4"),
            Families::Ipv6 => (!v6).then_some("IPv6"),
            Families::Both => Some(if v6 { "IPv4" } else { "IPv6" }),
        }
    }

    /// The probe of a target, with the options as written: asking for TLS where the scheme does not begin with it asks for an upgrade.
    fn spec_of(&self, target: Target, via: Option<Proxy>) -> ProbeSpec {
        ProbeSpec {
            connect_timeout: self.connect_timeout,
            timeout: self.timeout,
            require: self.require.unwrap_or(target.scheme.default_proof()),
            families: self.families,
            addresses: self.addresses,
            tls: TlsOptions { upgrade: self.tls_given && !target.scheme.is_tls(), ..self.tls.clone() },
            expect: self.expect,
            max_latency: self.max_latency,
            via,
            http: self.http.clone(),
            topology: self.topology.clone(),
            target,
        }
    }
}

/// The JSON Schema of the file, for editors.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(file::ManifestFile).to_value()
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;

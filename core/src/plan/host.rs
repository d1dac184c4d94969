//! What one host needs, by a manifest: for a check on the host itself, without a controller.

use super::PlanError;
use super::build::{excluded, planned};
use crate::diagnostic::Diagnostic;
use crate::inventory::{Inventory, Region, Vars};
use crate::manifest::{Dependency, Fleets, Manifest};
use crate::name::{Name, NameError};
use crate::spec::ProbeSpec;
use crate::text::escape;

/// A dependency as one host probes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Need {
    /// Its name.
    pub dependency: String,
    /// The probe; or why this host leaves it out.
    pub probe: Result<ProbeSpec, String>,
}

/// Which host it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place<'a> {
    /// With the regions' `vars`; without one only `{region}` can be filled in.
    pub inventory: Option<&'a Inventory>,
    /// Its region; needed where an inventory is given, or where a target has a placeholder or differs by region.
    pub region: Option<&'a str>,
    /// Its fleet; needed where the manifest narrows a dependency to some fleets.
    pub fleet: Option<&'a str>,
}

/// Where no region is named.
const NOWHERE: &str = "unnamed";

/// What a host needs: each dependency of the manifest, in its order.
pub fn needs(manifest: &Manifest, place: Place<'_>) -> Result<Vec<Need>, PlanError> {
    let region = region(manifest, place)?;
    if let (Some(fleet), Some(_)) = (place.fleet, place.inventory)
        && let Some(application) = place.inventory.and_then(|i| i.application(manifest.application.as_str()))
    {
        let known = application.fleets_in(region.name.as_str()).unwrap_or_default();
        if !known.iter().any(|name| *name == *fleet) {
            let known = known.iter().map(ToString::to_string).collect();
            return Err(PlanError::UnknownFleet { fleet: fleet.to_owned(), known });
        }
    }
    manifest.dependencies().iter().map(|dependency| need(manifest, dependency, &region, place)).collect()
}

fn region(manifest: &Manifest, place: Place<'_>) -> Result<Region, PlanError> {
    if let Some(inventory) = place.inventory {
        let application = super::build::application(inventory, manifest.application.as_str())?;
        let asked: Vec<String> = place.region.iter().map(|name| (*name).to_owned()).collect();
        let regions = planned(inventory, application, &asked, false)?;
        return regions.first().map(|region| (*region).clone()).ok_or(PlanError::NoRegions { known: Vec::new() });
    }
    let name = place.region.unwrap_or(NOWHERE);
    let name: Name = name.parse().map_err(|error: NameError| {
        let message = format!("'{}' is no region: {error}", escape(name));
        PlanError::Manifest(Diagnostic {
            file: "--region".to_owned(),
            line: 1,
            column: 1,
            message,
            fix: Some(error.fix()),
        })
    })?;
    Ok(Region { name, vars: Vars::default(), fleets: Vec::new() })
}

fn need(manifest: &Manifest, dependency: &Dependency, region: &Region, place: Place<'_>) -> Result<Need, PlanError> {
    let named = |probe| Ok(Need { dependency: dependency.name.to_string(), probe });
    match (&dependency.fleets, place.fleet) {
        (Fleets::Only { .. }, None) => {
            return Err(PlanError::Manifest(Diagnostic::new(
                &manifest.file,
                dependency.place,
                format!("{} is for some fleets only, and this host's fleet is not named", dependency.name),
                "name it: --fleet FLEET",
            )));
        }
        (Fleets::Only { .. }, Some(fleet)) => {
            if let Some(because) = excluded(dependency, fleet) {
                if place.inventory.is_none() {
                    return Err(PlanError::Manifest(Diagnostic::new(
                        &manifest.file,
                        dependency.place,
                        format!("{} is not for fleet {}, if that is this host's fleet", dependency.name, escape(fleet)),
                        "give the inventory, which knows the fleets: --inventory FILE; a mistyped name would leave out what this host needs",
                    )));
                }
                return named(Err(format!("not for fleet {}: {because}", escape(fleet))));
            }
        }
        (Fleets::All, _) => {}
    }
    let spec =
        dependency.spec(&manifest.file, region).map_err(|diagnostic| PlanError::Manifest(here(diagnostic, place)))?;
    named(Ok(spec))
}

/// What is missing is mostly to be said on the command line.
fn here(mut diagnostic: Diagnostic, place: Place<'_>) -> Diagnostic {
    if place.region.is_none() {
        diagnostic.fix =
            Some("name this host's region: --region REGION, with --inventory FILE for the regions' vars".to_owned());
    } else if place.inventory.is_none() {
        diagnostic.fix = Some("give the inventory, which has the regions' vars: --inventory FILE".to_owned());
    }
    diagnostic
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "application: shop\ndependencies:\n  \
        cache: {target: \"redis://cache.{dns}:6379\"}\n  \
        queue: {target: tcp://q:1, fleets: {only: [worker], because: batch}}\n  \
        admin: {target: tcp://a:1, expect: blocked}\n";
    const INVENTORY: &str = "regions:\n  eu: {vars: {dns: eu-west-1}, fleets: {web: {}, worker: {}}}\n\
        applications: {shop: {fleets: {eu: [web, worker]}}}\n";

    fn all(region: Option<&str>, fleet: Option<&str>, inventory: bool) -> Result<Vec<String>, PlanError> {
        let manifest = Manifest::parse("preflight.yaml", MANIFEST).unwrap();
        let parsed = Inventory::parse("inventory.yaml", INVENTORY).unwrap();
        let place = Place { inventory: inventory.then_some(&parsed), region, fleet };
        let shown = |need: Need| match need.probe {
            Ok(spec) => spec.target.to_string(),
            Err(why) => format!("{} {why}", need.dependency),
        };
        Ok(needs(&manifest, place)?.into_iter().map(shown).collect())
    }

    #[test]
    fn what_the_hosts_fleet_uses_and_nothing_else() {
        assert_eq!(
            all(Some("eu"), Some("web"), true).unwrap(),
            ["redis://cache.eu-west-1:6379", "queue not for fleet web: batch", "tcp://a:1"]
        );
        assert_eq!(
            all(Some("eu"), Some("worker"), true).unwrap(),
            ["redis://cache.eu-west-1:6379", "tcp://q:1", "tcp://a:1"]
        );
    }

    #[test]
    fn what_is_not_known_of_the_host_is_an_error_and_no_guess() {
        let fix = |error: PlanError| error.fix().unwrap_or_default();
        assert!(fix(all(None, Some("web"), false).unwrap_err()).contains("--region REGION"));
        assert!(fix(all(Some("eu"), Some("web"), false).unwrap_err()).contains("--inventory FILE"));
        assert!(fix(all(Some("eu"), None, true).unwrap_err()).contains("--fleet FLEET"));
        let plain = Manifest::parse("p", &MANIFEST.replace("{dns}", "x")).unwrap();
        let mistyped = Place { fleet: Some("wroker"), ..Place::default() };
        assert!(fix(needs(&plain, mistyped).unwrap_err()).contains("--inventory FILE"));
        assert!(matches!(all(None, Some("web"), true), Err(PlanError::NoRegions { .. })));
        assert!(matches!(all(Some("eu"), Some("wbe"), true), Err(PlanError::UnknownFleet { .. })));
        assert!(matches!(all(Some("us"), Some("web"), true), Err(PlanError::UnknownRegion { .. })));
    }
}

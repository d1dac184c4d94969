//! Makes plans. There is no empty plan, and no region of a plan without a cell: what cannot be proven is an error here,
//! so that nothing downstream can take it for proven.

use std::collections::BTreeSet;

use super::{Cell, Excluded, FleetId, Plan};
use crate::diagnostic::Diagnostic;
use crate::identity::NetworkIdentity;
use crate::inventory::{Application, Fleet, Inventory, Region};
use crate::manifest::{Dependency, Fleets, Manifest, Usage};
use crate::name::{Name, instead, known};
use crate::spec::ProbeSpec;
use crate::target::Target;
use crate::text::escape;

/// Why there is no plan: a usage error, never a pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The manifest does not fit the inventory.
    #[error(transparent)]
    Manifest(#[from] Diagnostic),
    /// The inventory has no such application.
    #[error("the inventory does not know application '{}'", escape(application))]
    UnknownApplication {
        /// What was asked for.
        application: String,
        /// Those that it has.
        known: Vec<String>,
    },
    /// The inventory has no such region.
    #[error("the inventory does not know region '{}'", escape(region))]
    UnknownRegion {
        /// What was asked for.
        region: String,
        /// Those that it has.
        known: Vec<String>,
    },
    /// No region that was asked for has such a fleet.
    #[error("the inventory does not know fleet '{}'", escape(fleet))]
    UnknownFleet {
        /// What was asked for.
        fleet: String,
        /// Those that it has there.
        known: Vec<String>,
    },
    /// The application does not run in that region.
    #[error("application {application} does not run in region {region}")]
    RegionWithoutApplication {
        /// The application.
        application: String,
        /// The region.
        region: String,
        /// Those that it runs in.
        known: Vec<String>,
    },
    /// No region was named.
    #[error("no region is named")]
    NoRegions {
        /// Those that the application runs in.
        known: Vec<String>,
    },
    /// The manifest excludes every fleet of the region from every dependency.
    #[error("nothing would be proven in region {region}: the manifest excludes all of {application}'s fleets there")]
    NothingToProve {
        /// The application.
        application: String,
        /// The region.
        region: String,
    },
    /// Each filter is known, and together they leave no fleet.
    #[error("no fleet of the inventory is {filter}")]
    NoFleets {
        /// What was asked for.
        filter: String,
    },
    /// No target was named.
    #[error("no target is named")]
    NoTargets,
    /// More cells than one run may have.
    #[error("the plan has more than {} cells (one for each dependency and fleet)", Plan::MAX_CELLS)]
    TooManyCells,
}

impl PlanError {
    /// What to do instead.
    pub fn fix(&self) -> Option<String> {
        let names = |asked: &str, known: &[String]| {
            if known.is_empty() {
                "apply an inventory that has it: preflight inventory apply FILE".to_owned()
            } else {
                format!(
                    "{}; or add it with: preflight inventory apply FILE",
                    instead(asked, known.iter().map(String::as_str))
                )
            }
        };
        match self {
            Self::Manifest(diagnostic) => diagnostic.fix.clone(),
            Self::UnknownApplication { application: asked, known }
            | Self::UnknownRegion { region: asked, known }
            | Self::UnknownFleet { fleet: asked, known } => Some(names(asked, known)),
            Self::RegionWithoutApplication { application, region, known: regions } => Some(format!(
                "leave the region out ({}), or add applications.{application}.fleets.{region} to the inventory",
                known(regions.iter().map(String::as_str))
            )),
            Self::NoRegions { known: regions } => Some(format!(
                "name regions with --region, or use --all-regions; {}",
                known(regions.iter().map(String::as_str))
            )),
            Self::NothingToProve { region, .. } => {
                Some(format!("leave region {region} out, or widen `fleets` of the dependencies that its fleets use"))
            }
            Self::NoFleets { .. } => Some("leave one of region, fleet and application out".to_owned()),
            Self::NoTargets => Some("name at least one, such as redis://cache.internal:6379".to_owned()),
            Self::TooManyCells => Some("plan fewer regions, fleets or dependencies at a time".to_owned()),
        }
    }
}

fn strings<'a>(names: impl IntoIterator<Item = &'a Name>) -> Vec<String> {
    names.into_iter().map(ToString::to_string).collect()
}

fn unknown_region(inventory: &Inventory, region: &str) -> PlanError {
    PlanError::UnknownRegion { region: region.to_owned(), known: strings(inventory.regions().iter().map(|r| &r.name)) }
}

pub(super) fn application<'a>(inventory: &'a Inventory, name: &str) -> Result<&'a Application, PlanError> {
    inventory.application(name).ok_or_else(|| PlanError::UnknownApplication {
        application: name.to_owned(),
        known: strings(inventory.applications().iter().map(|a| &a.name)),
    })
}

impl Plan {
    /// The plan of a manifest in `regions`, in the order asked for; with `all_regions`, then in every other region that
    /// the application runs in. Each dependency is seen from each of the application's fleets, less what it excludes.
    pub fn build(
        manifest: &Manifest,
        inventory: &Inventory,
        regions: &[String],
        all_regions: bool,
    ) -> Result<Self, PlanError> {
        let application = application(inventory, manifest.application.as_str())?;
        check_names(manifest, inventory, application)?;
        let mut plan = Self {
            application: application.name.to_string(),
            manifest_digest: manifest.digest.clone(),
            regions: Vec::new(),
            cells: Vec::new(),
            excluded: Vec::new(),
        };
        for region in planned(inventory, application, regions, all_regions)? {
            let before = plan.cells.len();
            for dependency in manifest.dependencies() {
                plan.add(manifest, dependency, application, region)?;
            }
            if plan.cells.len() == before {
                return Err(PlanError::NothingToProve {
                    application: plan.application,
                    region: region.name.to_string(),
                });
            }
            plan.regions.push(region.name.to_string());
        }
        Ok(plan)
    }

    fn push(&mut self, cell: Cell) -> Result<(), PlanError> {
        if self.cells.len() == Self::MAX_CELLS {
            return Err(PlanError::TooManyCells);
        }
        self.cells.push(cell);
        Ok(())
    }

    /// One dependency in one region: a cell or an exclusion for each fleet.
    fn add(
        &mut self,
        manifest: &Manifest,
        dependency: &Dependency,
        application: &Application,
        region: &Region,
    ) -> Result<(), PlanError> {
        let mut spec: Option<ProbeSpec> = None;
        for fleet in fleets_of(application, region) {
            if let Some(because) = excluded(dependency, fleet.name.as_str()) {
                self.excluded.push(Excluded {
                    fleet: region.id(fleet),
                    dependency: dependency.name.to_string(),
                    because: because.to_owned(),
                });
                continue;
            }
            // A region whose fleets are all excluded needs no target.
            let spec = match &mut spec {
                Some(spec) => spec,
                none => none.insert(dependency.spec(&manifest.file, region)?),
            };
            self.push(Cell {
                application: application.name.to_string(),
                fleet: region.id(fleet),
                dependency: dependency.name.to_string(),
                spec: spec.clone(),
                min_agents: fleet.min_agents,
                stated: fleet.identity.clone(),
                usage: dependency.usage,
                line: dependency.place.line,
            })?;
        }
        Ok(())
    }

    /// A plan for targets that an engineer names: each from every fleet of the inventory that passes the filters, by one
    /// agent at least. The dependency's name is the target's text.
    pub fn ad_hoc(
        targets: &[Target],
        inventory: &Inventory,
        region: Option<&str>,
        fleet: Option<&str>,
        application: Option<&str>,
    ) -> Result<Self, PlanError> {
        if targets.is_empty() {
            return Err(PlanError::NoTargets);
        }
        let fleets = select(inventory, region, fleet, application)?;
        let mut plan = Self {
            application: Self::AD_HOC.to_owned(),
            manifest_digest: String::new(),
            regions: Vec::new(),
            cells: Vec::new(),
            excluded: Vec::new(),
        };
        let mut seen = BTreeSet::new();
        let targets: Vec<&Target> = targets.iter().filter(|target| seen.insert(*target)).collect();
        for region in inventory.regions() {
            let fleets: Vec<&(FleetId, NetworkIdentity)> =
                fleets.iter().filter(|(id, _)| region.name == *id.region).collect();
            if fleets.is_empty() {
                continue;
            }
            plan.regions.push(region.name.to_string());
            for target in &targets {
                for (id, stated) in &fleets {
                    plan.push(Cell {
                        application: Self::AD_HOC.to_owned(),
                        fleet: id.clone(),
                        dependency: target.to_string(),
                        spec: ProbeSpec::new((*target).clone()),
                        min_agents: 1,
                        stated: stated.clone(),
                        usage: Usage::default(),
                        line: 0,
                    })?;
                }
            }
        }
        Ok(plan)
    }
}

/// What the manifest says of regions and fleets must be known to the inventory, in the regions that are not planned too.
fn check_names(manifest: &Manifest, inventory: &Inventory, application: &Application) -> Result<(), PlanError> {
    for (region, place) in manifest.named_regions() {
        if inventory.region(region.as_str()).is_none() {
            return Err(PlanError::Manifest(Diagnostic::new(
                &manifest.file,
                place,
                format!("the inventory does not know region {region}"),
                instead(region.as_str(), inventory.regions().iter().map(|r| r.name.as_str())),
            )));
        }
    }
    let fleets: BTreeSet<&str> = application.fleets.iter().flat_map(|(_, fleets)| fleets).map(Name::as_str).collect();
    for dependency in manifest.dependencies() {
        let Fleets::Only { fleets: only, .. } = &dependency.fleets else {
            continue;
        };
        if let Some((fleet, place)) = only.iter().find(|(fleet, _)| !fleets.contains(fleet.as_str())) {
            return Err(PlanError::Manifest(Diagnostic::new(
                &manifest.file,
                *place,
                format!("no fleet of application {} is named {fleet} in any region", application.name),
                instead(fleet.as_str(), fleets.iter().copied()),
            )));
        }
    }
    Ok(())
}

/// The regions to plan for, each once.
pub(super) fn planned<'a>(
    inventory: &'a Inventory,
    application: &Application,
    asked: &[String],
    all: bool,
) -> Result<Vec<&'a Region>, PlanError> {
    let others: Vec<String> = if all { strings(application.regions()) } else { Vec::new() };
    let mut seen = BTreeSet::new();
    let mut regions = Vec::new();
    for name in asked.iter().chain(&others) {
        let region = inventory.region(name).ok_or_else(|| unknown_region(inventory, name))?;
        if application.fleets_in(name).is_none() {
            return Err(PlanError::RegionWithoutApplication {
                application: application.name.to_string(),
                region: name.clone(),
                known: strings(application.regions()),
            });
        }
        if seen.insert(name) {
            regions.push(region);
        }
    }
    if regions.is_empty() {
        return Err(PlanError::NoRegions { known: strings(application.regions()) });
    }
    Ok(regions)
}

/// The fleets of the region that run the application, in the application's order.
fn fleets_of<'a>(application: &Application, region: &'a Region) -> impl Iterator<Item = &'a Fleet> {
    let names = application.fleets_in(region.name.as_str()).unwrap_or_default();
    // `Inventory::parse` has refused names without a fleet.
    names.iter().filter_map(|name| region.fleet(name.as_str()))
}

/// Why the fleet is left out, if it is.
pub(super) fn excluded<'a>(dependency: &'a Dependency, fleet: &str) -> Option<&'a str> {
    match &dependency.fleets {
        Fleets::All => None,
        Fleets::Only { fleets, because } => {
            (!fleets.iter().any(|(name, _)| *name == *fleet)).then_some(because.as_str())
        }
    }
}

/// The fleets that pass the filters, with the identity that the inventory states for them; at least one.
fn select(
    inventory: &Inventory,
    region: Option<&str>,
    fleet: Option<&str>,
    of: Option<&str>,
) -> Result<Vec<(FleetId, NetworkIdentity)>, PlanError> {
    if let Some(region) = region.filter(|region| inventory.region(region).is_none()) {
        return Err(unknown_region(inventory, region));
    }
    let of = of.map(|name| application(inventory, name)).transpose()?;
    let in_region: Vec<(FleetId, &Fleet)> =
        inventory.fleets().filter(|(id, _)| region.is_none_or(|region| id.region == region)).collect();
    if let Some(fleet) = fleet.filter(|fleet| !in_region.iter().any(|(id, _)| id.fleet == *fleet)) {
        let known: BTreeSet<&str> = in_region.iter().map(|(id, _)| id.fleet.as_str()).collect();
        return Err(PlanError::UnknownFleet {
            fleet: fleet.to_owned(),
            known: known.into_iter().map(str::to_owned).collect(),
        });
    }
    let runs = |id: &FleetId| {
        of.is_none_or(|a| a.fleets_in(&id.region).is_some_and(|fleets| fleets.iter().any(|name| *name == *id.fleet)))
    };
    let selected: Vec<(FleetId, NetworkIdentity)> = in_region
        .into_iter()
        .filter(|(id, _)| fleet.is_none_or(|fleet| id.fleet == fleet) && runs(id))
        .map(|(id, fleet)| (id, fleet.identity.clone()))
        .collect();
    if selected.is_empty() {
        let filters = [("in region", region), ("named", fleet), ("running", of.map(|a| a.name.as_str()))];
        let said: Vec<String> =
            filters.iter().filter_map(|(what, value)| value.map(|value| format!("{what} {}", escape(value)))).collect();
        let filter = if said.is_empty() { "there: the inventory is empty".to_owned() } else { said.join(", ") };
        return Err(PlanError::NoFleets { filter });
    }
    Ok(selected)
}

#[cfg(test)]
#[path = "build_tests.rs"]
mod tests;

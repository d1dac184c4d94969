//! `preflight manifest`: checks manifests and compares them, without a controller.

use std::path::PathBuf;

use preflight_core::inventory::Inventory;
use preflight_core::manifest::{self, Change, Effect, Manifest};
use preflight_core::plan::{Excluded, Plan, PlanError};
use serde::Serialize;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::input::{self, Source};
use crate::output::{self, OutputArgs};
use crate::render;

/// Check and compare manifests, without a controller
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  preflight manifest check preflight.yaml --inventory inventory.yaml
  preflight manifest diff old.yaml preflight.yaml
  preflight manifest schema > preflight.schema.json")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Check a manifest; with an inventory, also that its plan can be made
    #[command(after_help = "Example:\n  preflight manifest check preflight.yaml --inventory inventory.yaml")]
    Check {
        /// The manifest
        file: PathBuf,
        /// The inventory that it must fit
        #[arg(long, value_name = "FILE")]
        inventory: Option<PathBuf>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show what changed between two manifests, and what the next gate makes of it
    #[command(after_help = "\
What is new or changed has new cells, which the next gate requires. A new name, `usage` and `fleets.because` change no cell.

Example:\n  preflight manifest diff old.yaml preflight.yaml")]
    Diff {
        /// The manifest before
        old: PathBuf,
        /// The manifest after
        new: PathBuf,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Print the JSON Schema of a manifest, for editors
    #[command(after_help = "Example:\n  preflight manifest schema > preflight.schema.json")]
    Schema,
}

/// A manifest that is right, and the plan it makes.
#[derive(Debug, Serialize)]
pub(crate) struct Checked {
    /// The file.
    pub(crate) file: String,
    /// The application.
    pub(crate) application: String,
    /// `sha256:…` of the manifest's text.
    pub(crate) manifest_digest: String,
    /// The names of its dependencies, as written.
    pub(crate) dependencies: Vec<String>,
    /// The plan over every region of the application; none without an inventory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) plan: Option<Planned>,
}

/// A plan as it is shown.
#[derive(Debug, Serialize)]
pub(crate) struct Planned {
    /// What a gate would have shown to work.
    pub(crate) cells: Vec<PlannedCell>,
    /// What the manifest leaves out on purpose.
    pub(crate) excluded: Vec<Excluded>,
}

/// A cell of a plan.
#[derive(Debug, Serialize)]
pub(crate) struct PlannedCell {
    /// The region.
    pub(crate) region: String,
    /// The fleet.
    pub(crate) fleet: String,
    /// The dependency.
    pub(crate) dependency: String,
    /// The target, resolved for the region.
    pub(crate) target: String,
    /// How many agents must reach it.
    pub(crate) min_agents: u32,
    /// The cell's digest.
    pub(crate) digest: String,
}

/// A difference and what it means for the next gate.
#[derive(Serialize)]
struct Meant<'a> {
    #[serde(flatten)]
    change: &'a Change,
    gate: Effect,
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    match &args.command {
        Command::Check { file, inventory, output } => {
            let source = input::read("manifest", file)?;
            let manifest = parse(&source)?;
            let plan = inventory.as_ref().map(|path| plan(&source, &manifest, path)).transpose()?;
            let checked = Checked {
                file: source.name,
                application: manifest.application.to_string(),
                manifest_digest: manifest.digest.clone(),
                dependencies: manifest.dependencies().iter().map(|d| d.name.to_string()).collect(),
                plan,
            };
            if output.is_json() {
                output::json(&checked)?;
            } else {
                output::text(&render::manifest::checked(&checked, output::width()))?;
            }
        }
        Command::Diff { old, new, output } => {
            let (old, new) = (input::read("manifest", old)?, input::read("manifest", new)?);
            let changes = manifest::diff(&parse(&old)?, &parse(&new)?);
            if output.is_json() {
                let meant = |change| Meant { change, gate: Change::effect(change) };
                output::json(&changes.iter().map(meant).collect::<Vec<_>>())?;
            } else {
                output::text(&render::manifest::changes(&changes, output::width()))?;
            }
        }
        Command::Schema => output::json(&manifest::schema())?,
    }
    Ok(Exit::Proceed)
}

/// The application that a manifest is for, if the manifest is right.
pub(crate) fn application(source: &Source) -> Result<String, Failure> {
    Ok(parse(source)?.application.to_string())
}

/// Whether an inventory is right.
pub(crate) fn check_inventory(source: &Source) -> Result<Inventory, Failure> {
    Inventory::parse(&source.name, &source.text).map_err(|diagnostic| Failure::diagnostic(&diagnostic, &source.text))
}

pub(super) fn parse(source: &Source) -> Result<Manifest, Failure> {
    Manifest::parse(&source.name, &source.text).map_err(|diagnostic| Failure::diagnostic(&diagnostic, &source.text))
}

/// Why a manifest does not fit what it is planned for.
pub(super) fn unplanned(error: &PlanError, source: &Source) -> Failure {
    if let PlanError::Manifest(diagnostic) = error {
        return Failure::diagnostic(diagnostic, &source.text);
    }
    Failure { exit: Exit::Usage, message: error.to_string(), fix: error.fix() }
}

fn plan(source: &Source, manifest: &Manifest, inventory: &std::path::Path) -> Result<Planned, Failure> {
    let inventory = check_inventory(&input::read("inventory", inventory)?)?;
    let plan = Plan::build(manifest, &inventory, &[], true).map_err(|error| unplanned(&error, source))?;
    let cells = plan.cells.iter().map(|cell| PlannedCell {
        region: cell.fleet.region.clone(),
        fleet: cell.fleet.fleet.clone(),
        dependency: cell.dependency.clone(),
        target: cell.spec.target.to_string(),
        min_agents: cell.min_agents,
        digest: cell.digest().0,
    });
    Ok(Planned { cells: cells.collect(), excluded: plan.excluded })
}

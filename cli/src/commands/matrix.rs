//! `preflight matrix`: the latest state of every cell.

use preflight_proto::api::Matrix;

use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, OutputArgs};
use crate::render;

/// Show the latest known state of every cell of what is deployed: fleets across, dependencies down
#[derive(Debug, clap::Args)]
#[command(after_help = "\
These are the cells of the release that was recorded as deployed in each region (`preflight release deployed`), each as the latest
gate that probed it has found it; where none was recorded, those of the latest gate. This exits 0 whatever it is; `preflight gate` decides.

Example:
  preflight matrix --application shop --region eu")]
pub(crate) struct Args {
    /// Only this application
    #[arg(long)]
    application: Option<String>,
    /// Only this region
    #[arg(long)]
    region: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs it.
pub(crate) async fn run(args: Args, client: &Client) -> Result<Exit, Failure> {
    let filters = [("application", &args.application), ("region", &args.region)];
    let query: Vec<String> =
        filters.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", segment(value.as_ref()?)))).collect();
    let path = if query.is_empty() { "/v1/matrix".to_owned() } else { format!("/v1/matrix?{}", query.join("&")) };
    let matrix: Matrix = client.get(&path).await?.body;
    if args.output.is_json() {
        output::json(&matrix)?;
    } else {
        output::text(&render::matrix::render(&matrix, output::width()))?;
    }
    Ok(Exit::Proceed)
}

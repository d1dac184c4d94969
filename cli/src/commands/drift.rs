//! `preflight drift`: whether hosts that should be alike to network policy are.

use preflight_core::text::escape;
use preflight_proto::api::{Drift, DriftRegion};

use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, OutputArgs};
use crate::render;

/// Compare the network identities of each application's fleets, and of each fleet's hosts
#[derive(Debug, clap::Args)]
#[command(after_help = "\
It goes by what agents last told and by what was last seen of each cell; nothing is probed. A scheduled job can alarm by its
exit code: 0 without drift, 2 with, 3 where something could not be compared, such as a fleet without agents.

Examples:
  preflight drift
  preflight drift --application shop --region eu --ignore security_group=sg-bastion")]
pub(crate) struct Args {
    /// Only this application
    #[arg(long)]
    application: Option<String>,
    /// Only this region
    #[arg(long)]
    region: Option<String>,
    /// A difference that is meant: an attribute, or one value of it
    #[arg(long, value_name = "KEY[=VALUE]")]
    ignore: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs it.
pub(crate) async fn run(args: Args, client: &Client) -> Result<Exit, Failure> {
    // Several cross the wire in one word: a comma in a value would leave out more than was meant.
    if let Some(odd) = args.ignore.iter().find(|ignored| ignored.contains(',')) {
        return Err(Failure::usage(format!("--ignore '{}': give each by an --ignore of its own", escape(odd))));
    }
    let ignore = (!args.ignore.is_empty()).then(|| args.ignore.join(","));
    let filters = [("application", &args.application), ("region", &args.region), ("ignore", &ignore)];
    let query: Vec<String> =
        filters.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", segment(value.as_ref()?)))).collect();
    let path = if query.is_empty() { "/v1/drift".to_owned() } else { format!("/v1/drift?{}", query.join("&")) };
    let drift: Drift = client.get(&path).await?.body;
    if args.output.is_json() {
        output::json(&drift)?;
    } else {
        output::text(&render::drift::render(&drift, output::width()))?;
    }
    Ok(exit(&drift))
}

/// By the regions as well as by the whole: neither may hide what the other says. No region at all is unknown.
fn exit(drift: &Drift) -> Exit {
    let by_findings = |region: &DriftRegion| {
        if region.findings.is_empty() { Exit::of_state(region.state) } else { Exit::Fails }
    };
    let regions = drift.regions.iter().map(by_findings);
    Exit::over([Exit::over(regions), Exit::of_state(drift.state)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_is_2_unknown_is_3_and_nothing_compared_is_no_pass() {
        let answer = |state: &str, regions: serde_json::Value| -> Drift {
            serde_json::from_value(serde_json::json!({"state": state, "regions": regions})).unwrap()
        };
        let region = |state: &str, findings: serde_json::Value| {
            serde_json::json!({"application": "app", "region": "eu", "state": state, "fleets": ["web"], "agents": 2,
                "findings": findings, "unknown": []})
        };
        let finding = serde_json::json!([{"kind": "drift", "dependency": "", "text": "they differ", "attributes": []}]);
        let none = serde_json::json!([]);
        assert_eq!(exit(&answer("pass", serde_json::json!([region("pass", none.clone())]))), Exit::Proceed);
        assert_eq!(exit(&answer("fail", serde_json::json!([region("fail", finding.clone())]))), Exit::Fails);
        assert_eq!(exit(&answer("pass", serde_json::json!([region("pass", finding)]))), Exit::Fails);
        assert_eq!(exit(&answer("pass", serde_json::json!([region("unknown", none)]))), Exit::Unknown);
        assert_eq!(exit(&answer("pass", serde_json::json!([]))), Exit::Unknown);
    }
}

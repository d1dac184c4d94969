//! `preflight explain`: what a reason means, and how to find its cause.

use preflight_core::reason::{Short, Unknown, Void, lookup};
use preflight_core::text::escape;
use serde::Serialize;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, OutputArgs};
use crate::render;

/// Say what a reason of a cell or of a verdict means, and what to do about it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  preflight explain connect_timeout
  preflight explain no_change
  preflight explain")]
pub(crate) struct Args {
    /// The reason; all of them if absent
    reason: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

/// What a verdict says of a region: the code, what it means, and what to do next.
const OF_VERDICTS: [(&str, &str, &str); 15] = [
    (
        "no_change",
        "every cell was shown before, by the verdict that is named, and is the same now: nothing was probed, and what was removed \
         is counted",
        "Ship. To see every cell probed now, gate with --scope all.",
    ),
    (
        "inventory_stale",
        "the inventory's source has not been read for longer than --inventory-max-age, so which fleets there are is not known",
        "Repair the source (`preflight inventory show` says what is wrong with it), then run the gate again.",
    ),
    (
        "empty_plan",
        "no dependency of the manifest is for a fleet of the region, so nothing is known of it",
        "Name a fleet of that region for at least one dependency of the manifest.",
    ),
    (
        "overridden",
        "somebody answers for cells that block; the verdict stays as it is, and nothing is proven by that",
        "`preflight verdict show ID` says who, why and until when.",
    ),
    (
        "rollback",
        "the release was recorded as deployed there before, and going back is not held up by what is seen",
        "Look at what is seen all the same.",
    ),
    (
        "other_manifest",
        "the manifest given with --rollback is not the one that the release shipped with: what is shown is of the one given",
        "Give the manifest of the release that you go back to.",
    ),
    (
        "locked",
        "somebody locked the region: nothing ships there but a rollback, whatever the cells say, and no clock lifts it",
        "`preflight release list` says who, why and since when. `preflight unlock --region … --release …` names what should ship.",
    ),
    (
        "quarantined",
        "somebody said that this release, or a cell that it carries, must not ship",
        "Ship a release without what is wrong with it. Who answers for this one: `preflight override --release … --region …`; \
         `preflight release lift ID` ends a quarantine.",
    ),
    (
        "not_named",
        "the region was unlocked for another release, which has to ship first",
        "Ship the one that was named and record it (`preflight release deployed`), or unlock again for this one.",
    ),
    (
        "expired",
        "the verdict was given too long ago, or by a clock that was set back since",
        "Run `preflight gate` for this release and these regions.",
    ),
    (
        "newer_manifest",
        "the release was gated in the region with another manifest since",
        "Run `preflight gate` with the manifest that ships, or name it to `preflight verdict check` by --manifest.",
    ),
    (
        "inventory_changed",
        "the inventory gives the release other cells than those that the verdict is about",
        "Run `preflight gate` for this release and these regions.",
    ),
    (
        "new_identity",
        "a fleet has hosts of a kind that it did not have when the verdict was given",
        "Run `preflight gate` for this release and these regions.",
    ),
    (
        "baseline_changed",
        "another deployment was recorded since, so what the verdict took as proven is not what is deployed",
        "Run `preflight gate` for this release and these regions.",
    ),
    (
        "rolled_back",
        "a rollback was asked for in the region since the verdict was given",
        "Run `preflight gate` for this release and these regions.",
    ),
];

/// A reason, explained.
#[derive(Debug, Serialize)]
pub(crate) struct Explained {
    /// Its contract name.
    pub(crate) reason: &'static str,
    /// Which kind of answer it belongs to.
    pub(crate) kind: &'static str,
    /// What it means, as a sentence fragment.
    pub(crate) meaning: &'static str,
    /// What to do next, as a sentence.
    pub(crate) next: &'static str,
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    let known = names();
    let chosen: Vec<&'static str> = match &args.reason {
        None => known,
        Some(wanted) => match known.iter().find(|name| *name == wanted) {
            Some(name) => vec![name],
            None => return Err(unknown(wanted, &known)),
        },
    };
    let explained: Vec<Explained> = chosen.into_iter().filter_map(explain).collect();
    match (args.output.is_json(), explained.as_slice()) {
        (true, [one]) if args.reason.is_some() => output::json(one)?,
        (true, all) => output::json(&all)?,
        (false, all) => output::text(&render::explain::render(all, output::width()))?,
    }
    Ok(Exit::Proceed)
}

fn names() -> Vec<&'static str> {
    let short = Short::ALL.iter().map(|r| r.as_str());
    let void = Void::ALL.iter().map(|r| r.as_str());
    let unknown = Unknown::ALL.iter().map(|r| r.as_str());
    short.chain(void).chain(unknown).chain(OF_VERDICTS.iter().map(|(name, ..)| *name)).collect()
}

fn explain(reason: &'static str) -> Option<Explained> {
    let of_verdict = OF_VERDICTS.iter().find(|(name, ..)| *name == reason);
    let of_verdict = of_verdict.map(|(_, meaning, next)| ("verdict", *meaning, *next));
    let (kind, meaning, next) = lookup(reason).or(of_verdict)?;
    Some(Explained { reason, kind, meaning, next })
}

fn unknown(wanted: &str, known: &[&'static str]) -> Failure {
    let failure = Failure::usage(format!("'{}' is not a reason", escape(wanted)));
    // A name that is far off is no help.
    let plain = wanted.to_lowercase().replace(['-', ' '], "_");
    match known.iter().map(|name| (distance(&plain, name), name)).min() {
        Some((distance, name)) if distance <= 4 => {
            failure.fix(format!("Do you mean {name}? `preflight explain` lists them all."))
        }
        Some(_) | None => failure.fix("`preflight explain` lists them all."),
    }
}

/// Levenshtein's distance, in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    // Nobody's reason is longer; more would only cost time.
    for (i, ca) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let change = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_reason_is_offered() {
        let fix = |wanted: &str| unknown(wanted, &names()).fix.unwrap();
        assert!(fix("conect_timout").contains("connect_timeout"));
        assert!(fix("CONNECT_TIMEOUT").contains("connect_timeout") && fix("Dns-NxDomain").contains("dns_nxdomain"));
        assert!(!fix("banana_split_with_cream").contains("mean"));
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}

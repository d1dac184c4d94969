//! What is deployed where.

use preflight_proto::api::{Deployed, Releases};

use super::grid::{Grid, Span};
use super::{BOLD, DIM, PLAIN, UNSURE, count, moment, paragraph, styled, word};

/// A grid for each application, with its regions side by side.
pub(crate) fn list(releases: &Releases, width: usize) -> String {
    if releases.deployed.is_empty() {
        return "Nothing is recorded as deployed, so every gate requires every cell. `preflight release deployed` records it.\n"
            .to_owned();
    }
    let groups = releases.deployed.chunk_by(|a, b| a.application == b.application);
    groups.map(|deployed| of_application(deployed, width)).collect::<Vec<_>>().join("\n")
}

fn of_application(deployed: &[Deployed], width: usize) -> String {
    let mut grid = Grid::new(std::iter::once(String::new()).chain(deployed.iter().map(|d| word(&d.region))));
    let mut row = |name: &str, of: &dyn Fn(&Deployed) -> Span| {
        grid.row(std::iter::once(Span::new(DIM, format!("  {name}"))).chain(deployed.iter().map(of)).collect());
    };
    // Regions that do not run the same release are what one looks for here.
    let apart = deployed.iter().any(|d| Some(&d.release) != deployed.first().map(|first| &first.release));
    row("release", &|d| Span::new(if apart { UNSURE } else { PLAIN }, word(&d.release)));
    row("verdict", &|d| d.verdict.as_deref().map_or_else(|| Span::new(UNSURE, "none"), |id| Span::plain(word(id))));
    row("proven", &|d| Span::new(if d.proven == 0 { UNSURE } else { PLAIN }, cells(d)));
    row("since", &|d| Span::plain(moment(&d.at)));
    row("by", &|d| Span::plain(word(&d.by)));
    let title = deployed.first().map(|d| word(&d.application)).unwrap_or_default();
    format!("{}\n{}", styled(BOLD, &title), grid.matrix(width))
}

/// What was recorded just now, and what the next gate makes of it.
pub(crate) fn recorded(releases: &Releases, width: usize) -> String {
    let line = |d: &Deployed| {
        let meaning = match (d.proven, &d.verdict) {
            (0, _) | (_, None) => "nothing is proven by that: the next gate requires every cell".to_owned(),
            (_, Some(id)) => format!("{} proven by verdict {}; the next gate requires what is new", cells(d), word(id)),
        };
        paragraph(
            "",
            &format!("{} {} is deployed in {}: {meaning}", word(&d.application), word(&d.release), word(&d.region)),
            width,
        )
    };
    releases.deployed.iter().map(line).collect()
}

fn cells(deployed: &Deployed) -> String {
    count(usize::try_from(deployed.proven).unwrap_or(usize::MAX), "cell")
}

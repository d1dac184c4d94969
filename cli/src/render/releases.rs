//! The regions side by side: what is deployed, what would ship, and what holds it back.

use std::collections::BTreeSet;

use anstyle::Style;
use preflight_proto::api::{Changed, Deployed, Quarantine, RegionReleases, Releases};

use super::grid::{Grid, Span};
use super::{
    BAD, BOLD, DIM, GOOD, PLAIN, UNSURE, count, glyph, heading, moment, paragraph, sentence, style_of, styled, word,
};

/// A grid for each application, with its regions side by side, and what is quarantined.
pub(crate) fn list(releases: &Releases, width: usize) -> String {
    shown(releases, true, width)
}

/// The same in short: what is deployed, what would ship, and whether it may.
pub(crate) fn brief(releases: &Releases, width: usize) -> String {
    shown(releases, false, width)
}

fn shown(releases: &Releases, whole: bool, width: usize) -> String {
    if releases.regions.is_empty() {
        return "The inventory has no application, and nothing is recorded.\n".to_owned();
    }
    let groups = releases.regions.chunk_by(|a, b| a.application == b.application);
    let of = |rows: &[RegionReleases]| {
        let name = rows.first().map(|row| row.application.as_str()).unwrap_or_default();
        let bad: Vec<&Quarantine> = releases.quarantines.iter().filter(|q| q.application == name).collect();
        of_application(rows, &bad, whole, width)
    };
    groups.map(of).collect::<Vec<_>>().join("\n")
}

fn of_application(rows: &[RegionReleases], bad: &[&Quarantine], whole: bool, width: usize) -> String {
    let mut grid = Grid::new(std::iter::once(String::new()).chain(rows.iter().map(|row| word(&row.region))));
    // A row that says nothing of any region is left out, and so are details where they are not wanted.
    let mut row = |name: &str, of: &dyn Fn(&RegionReleases) -> Option<Span>| {
        let spans: Vec<Option<Span>> = rows.iter().map(of).collect();
        if spans.iter().any(Option::is_some) && (whole || !name.starts_with(' ') || name == VERDICT) {
            let first = std::iter::once(Span::new(DIM, format!("  {name}")));
            grid.row(first.chain(spans.into_iter().map(|span| span.unwrap_or_else(|| Span::new(DIM, "–")))).collect());
        }
    };
    let of_deployed = |of: fn(&Deployed) -> Span| move |row: &RegionReleases| row.deployed.as_ref().map(of);
    let releases = |of: fn(&RegionReleases) -> Option<&str>| apart(rows.iter().filter_map(of));
    let deployed_apart = releases(|row| row.deployed.as_ref().map(|d| d.release.as_str()));
    let candidates_apart = releases(|row| row.candidate.as_ref().map(|c| c.release.as_str()));
    let style = |apart: bool| if apart { UNSURE } else { PLAIN };
    row("deployed", &|row| {
        let style = if row.deployed_quarantined.is_empty() { style(deployed_apart) } else { BAD };
        let text = |d: &Deployed| word(&d.release) + if row.gone_back { ", or gone back" } else { "" };
        row.deployed.as_ref().map(|d| Span::new(if row.gone_back { UNSURE } else { style }, text(d)))
    });
    row("  shipped by", &of_deployed(verdict));
    row("  proven", &of_deployed(proven));
    row("  since", &of_deployed(|d| Span::plain(moment(&d.at))));
    row("  by", &of_deployed(|d| Span::plain(word(&d.by))));
    row("candidate", &|row| {
        let candidate = row.candidate.as_ref()?;
        let style = if candidate.quarantined.is_empty() { style(candidates_apart) } else { BAD };
        Some(Span::new(style, word(&candidate.release)))
    });
    row(VERDICT, &|row| {
        let candidate = row.candidate.as_ref()?;
        Some(match (&candidate.verdict, candidate.state) {
            (Some(id), Some(state)) => {
                Span::new(style_of(state), format!("{} {} ({})", glyph(state), state.as_str(), word(id)))
            }
            (Some(id), None) => Span::new(UNSURE, format!("under way ({})", word(id))),
            (None, _) => Span::new(UNSURE, "none"),
        })
    });
    row("  since", &|row| row.candidate.as_ref().map(|c| Span::plain(moment(&c.at))));
    row("  by", &|row| row.candidate.as_ref().map(|c| Span::plain(word(&c.by))));
    row("may ship", &|row| Some(may_ship(row)));
    let title = rows.first().map(|row| word(&row.application)).unwrap_or_default();
    let mut out = format!("{}\n{}", styled(BOLD, &title), grid.matrix(width));
    let mut said = String::new();
    for row in rows {
        for text in in_words(row) {
            said.push_str(&paragraph(&format!("  {}: ", word(&row.region)), &text, width));
        }
    }
    for quarantine in bad {
        said.push_str(&paragraph("  ", &quarantined(quarantine), width));
    }
    if !said.is_empty() {
        out.push_str(&heading("Held back"));
        out.push_str(&said);
    }
    out
}

/// The row of a candidate's verdict.
const VERDICT: &str = "  verdict";

/// Whether there are several of them.
fn apart<'a>(mut releases: impl Iterator<Item = &'a str>) -> bool {
    releases.next().is_some_and(|first| releases.any(|other| other != first))
}

/// Whether somebody answers for a release that is quarantined.
fn overridden(row: &RegionReleases, release: &str) -> bool {
    row.overrides.iter().any(|given| given.release.as_deref() == Some(release))
}

fn may_ship(row: &RegionReleases) -> Span {
    let bad = |release: &str, ids: &[String]| !ids.is_empty() && !overridden(row, release);
    let candidate = row.candidate.as_ref();
    let (style, text): (Style, String) = match (&row.lock, &row.named) {
        (Some(lock), _) => match lock.except.as_ref().filter(|_| row.deployed_quarantined.is_empty()) {
            Some(except) => (BAD, format!("locked, but for {}", word(except))),
            None => (BAD, "locked".to_owned()),
        },
        (None, Some(named)) if bad(&named.release, &named.quarantined) => (BAD, "nothing".to_owned()),
        (None, Some(named)) => (UNSURE, format!("{} first", word(&named.release))),
        (None, None) => match candidate.filter(|c| !c.quarantined.is_empty()) {
            Some(c) if bad(&c.release, &c.quarantined) => (BAD, format!("open, not for {}", word(&c.release))),
            Some(c) => (UNSURE, format!("open, {} by override", word(&c.release))),
            None => (GOOD, "open".to_owned()),
        },
    };
    Span::new(style, text)
}

/// Who holds a region back, since when, why, and what is odd about it.
fn in_words(row: &RegionReleases) -> Vec<String> {
    let mut texts = Vec::new();
    if let Some(lock) = &row.lock {
        let mut text = format!("locked by {} since {}: {}", word(&lock.by), moment(&lock.at), sentence(&lock.reason));
        for also in &lock.also {
            let (by, at, reason) = (word(&also.by), moment(&also.at), sentence(&also.reason));
            text.extend(["; and by ", &by, " since ", &at, ": ", &reason]);
        }
        if let Some(remind) = &lock.remind_at {
            let due = remind.parse::<jiff::Timestamp>().is_ok_and(|at| at <= jiff::Timestamp::now());
            let (style, verb) = if due { (UNSURE, "was") } else { (PLAIN, "is") };
            let ask = format!("a look whether that is still needed {verb} due at {}", moment(remind));
            text.push_str("; ");
            text.push_str(&styled(style, &ask));
        }
        texts.push(text);
    }
    if let Some(named) = &row.named {
        let why = if named.reason.is_empty() { String::new() } else { format!(": {}", sentence(&named.reason)) };
        texts.push(format!(
            "unlocked by {} at {}; {} is the first that may ship{why}",
            word(&named.by),
            moment(&named.at),
            word(&named.release)
        ));
    }
    texts.extend(quarantines(row));
    if let Some((candidate, differs)) = row.candidate.as_ref().and_then(|c| Some((c, c.differs.as_ref()?))) {
        texts.push(format!("{} {}", word(&candidate.release), sentence(differs)));
    }
    texts
}

/// Which of a region's releases are quarantined, a line each, and who answers for them.
fn quarantines(row: &RegionReleases) -> Vec<String> {
    let deployed = row.deployed.as_ref().map(|d| (&d.release, "deployed", &row.deployed_quarantined));
    let named = row.named.as_ref().map(|n| (&n.release, "to ship first", &n.quarantined));
    let candidate = row.candidate.as_ref().map(|c| (&c.release, "what would ship", &c.quarantined));
    let mut bad: Vec<(&String, Vec<&str>, BTreeSet<&String>)> = Vec::new();
    for (release, role, ids) in [deployed, named, candidate].into_iter().flatten().filter(|(.., ids)| !ids.is_empty()) {
        match bad.iter_mut().find(|(other, ..)| *other == release) {
            Some((_, roles, all)) => {
                roles.push(role);
                all.extend(ids);
            }
            None => bad.push((release, vec![role], ids.iter().collect())),
        }
    }
    let text = |(release, roles, ids): (&String, Vec<&str>, BTreeSet<&String>)| {
        let ids: Vec<String> = ids.into_iter().map(|id| word(id)).collect();
        let first = format!("{} ({}) is quarantined ({})", word(release), roles.join(", "), ids.join(", "));
        let Some(given) = row.overrides.iter().find(|given| given.release.as_ref() == Some(release)) else {
            let stuck = if roles.contains(&"to ship first") { ": name another with `preflight unlock`" } else { "" };
            return styled(BAD, &(first + stuck));
        };
        let (until, id, by) = (moment(&given.expires_at), word(&given.id), word(&given.by));
        let (ticket, reason) = (word(&given.ticket), sentence(&given.reason));
        styled(UNSURE, &format!("{first}, and overridden until {until} (override {id} by {by}, {ticket}: {reason})"))
    };
    bad.into_iter().map(text).collect()
}

fn quarantined(quarantine: &Quarantine) -> String {
    let what = match (&quarantine.release, &quarantine.cell) {
        (Some(release), _) => word(release),
        (None, Some(cell)) => format!("{}, whichever release carries it", word(cell)),
        (None, None) => String::new(),
    };
    let regions: Vec<String> = quarantine.regions.iter().map(|region| word(region)).collect();
    let places = match (regions.is_empty(), &quarantine.cell) {
        (_, Some(_)) => String::new(),
        (true, None) => " in every region".to_owned(),
        (false, None) => format!(" in {}", regions.join(", ")),
    };
    format!(
        "quarantine {}: {what}{places}, by {} since {}: {}",
        word(&quarantine.id),
        word(&quarantine.by),
        moment(&quarantine.at),
        sentence(&quarantine.reason)
    )
}

/// What was done, what was not, and how things stand now.
pub(crate) fn changed(changed: &Changed, width: usize) -> String {
    let mut out = String::new();
    for line in &changed.done {
        out.push_str(&paragraph(&format!("{} ", styled(GOOD, "✓")), &sentence(line), width));
    }
    for line in &changed.notices {
        out.push_str(&paragraph(&format!("{} ", styled(UNSURE, "!")), &sentence(line), width));
    }
    if changed.releases.regions.is_empty() { out } else { out + "\n" + &brief(&changed.releases, width) }
}

/// What was recorded just now, and what the next gate makes of it.
pub(crate) fn recorded(recorded: &[Deployed], width: usize) -> String {
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
    recorded.iter().map(line).collect()
}

fn verdict(deployed: &Deployed) -> Span {
    deployed.verdict.as_deref().map_or_else(|| Span::new(UNSURE, "none"), |id| Span::plain(word(id)))
}

fn proven(deployed: &Deployed) -> Span {
    Span::new(if deployed.proven == 0 { UNSURE } else { PLAIN }, cells(deployed))
}

fn cells(deployed: &Deployed) -> String {
    count(usize::try_from(deployed.proven).unwrap_or(usize::MAX), "cell")
}

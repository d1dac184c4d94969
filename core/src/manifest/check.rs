//! From what is written to what it means: every value is checked here, once.

use std::collections::BTreeSet;

use super::file::{DependencyFile, FleetsFile, ManifestFile, UsageFile};
use super::template::Template;
use super::{Dependency, Fleets, Manifest, RegionTarget, Targets, Usage, options};
use crate::diagnostic::{Diagnostic, Place};
use crate::name::{Name, instead};
use crate::observation::Proof;
use crate::spec::{Addresses, Expect, Families, HttpOptions, Millis, ProbeSpec, TlsOptions};
use crate::text::{escape, is_plain};
use crate::yaml::{At, Source};

/// The longest `because`, in characters.
const MAX_BECAUSE: usize = 500;

pub(super) fn manifest(file: &str, digest: String, written: ManifestFile) -> Result<Manifest, Diagnostic> {
    let source = Source(file);
    let application = source.name(&written.application)?;
    let entries = written.dependencies.0;
    if entries.is_empty() {
        return Err(source.error(
            written.application.place,
            "the manifest declares no dependencies, so there is nothing to prove",
            "add one: dependencies: {cache: {target: redis://cache.internal:6379}}",
        ));
    }
    if let Some((name, _)) = entries.get(Manifest::MAX_DEPENDENCIES) {
        return Err(source.error(
            name.place,
            format!(
                "the manifest declares {} dependencies, and the limit is {}",
                entries.len(),
                Manifest::MAX_DEPENDENCIES
            ),
            "split it over several applications",
        ));
    }
    let dependencies =
        entries.into_iter().map(|(name, written)| dependency(source, &name, written)).collect::<Result<_, _>>()?;
    Ok(Manifest {
        file: file.to_owned(),
        digest,
        application,
        application_place: written.application.place,
        dependencies,
    })
}

fn dependency(source: Source, name: &At<String>, written: DependencyFile) -> Result<Dependency, Diagnostic> {
    let place = name.place;
    let name = source.name(name)?;
    let targets = targets(source, &name, place, &written)?;
    let places = options::Places::new(place, &written);
    let expect = word(source, "expect", written.expect.as_ref(), &EXPECTS)?;
    let require = word(source, "require", written.require.as_ref(), &PROOFS)?;
    let dependency = Dependency {
        fleets: written.fleets.map_or(Ok(Fleets::All), |written| fleets(source, written))?,
        connect_timeout: duration_or(
            source,
            "connect_timeout",
            written.connect_timeout.as_ref(),
            10_000,
            ProbeSpec::DEFAULT_CONNECT_TIMEOUT,
        )?,
        timeout: duration_or(source, "timeout", written.timeout.as_ref(), 60_000, ProbeSpec::DEFAULT_TIMEOUT)?,
        max_latency: written.max_latency.map(|at| duration(source, "max_latency", &at, 1, 60_000)).transpose()?,
        families: word(source, "families", written.families.as_ref(), &FAMILIES)?,
        addresses: word(source, "addresses", written.addresses.as_ref(), &ADDRESSES)?,
        via: written.via.map(|at| options::via(source, &at)).transpose()?,
        http: written.http.map_or(Ok(HttpOptions::default()), |written| options::http(source, &written.value))?,
        topology: options::topology(source, written.topology.as_ref(), written.sentinel_master.as_ref())?,
        tls_given: written.tls.is_some(),
        tls: written.tls.map_or(Ok(TlsOptions::default()), |written| options::tls(source, written.value))?,
        usage: written.usage.map_or(Ok(Usage::default()), |written| usage(source, &written))?,
        // That nothing gets as far as a connection is all that can be shown of a path that must not exist.
        require: require.or((expect == Expect::Blocked).then_some(Proof::Connected)),
        expect,
        name,
        place,
        targets,
    };
    options::fit(source, &dependency, &places)?;
    Ok(dependency)
}

fn targets(source: Source, name: &Name, place: Place, written: &DependencyFile) -> Result<Targets, Diagnostic> {
    let template = |at: &At<String>| {
        Template::parse("target", &at.value, at.place).map_err(|wrong| source.error(at.place, wrong.message, wrong.fix))
    };
    match (&written.target, &written.targets) {
        (Some(target), None) => template(target).map(Targets::Same),
        (None, Some(targets)) if targets.value.0.is_empty() => Err(source.error(
            targets.place,
            format!("dependency {name} has no targets"),
            "add one for each region: targets: {eu: redis://cache.eu.internal:6379}",
        )),
        (None, Some(targets)) => {
            let entries = targets.value.0.iter().map(|(region, target)| {
                Ok(RegionTarget { region: source.name(region)?, place: region.place, target: template(target)? })
            });
            Ok(Targets::PerRegion(entries.collect::<Result<_, _>>()?, targets.place))
        }
        (Some(_), Some(targets)) => Err(source.error(
            targets.place,
            format!("dependency {name} has both target and targets"),
            "keep target where it is the same in all regions, targets where regions differ",
        )),
        (None, None) => Err(source.error(
            place,
            format!("dependency {name} has no target"),
            "add target: scheme://host:port, or targets: {region: url, …}",
        )),
    }
}

fn fleets(source: Source, At { value, place }: At<FleetsFile>) -> Result<Fleets, Diagnostic> {
    let only = match value {
        FleetsFile::Word(word) if word == "all" => return Ok(Fleets::All),
        FleetsFile::Word(word) => {
            return Err(source.error(
                place,
                format!("fleets is '{}', which means nothing", escape(&word)),
                format!("write all, or name fleets with the reason: {{only: [{}], because: \"…\"}}", escape(&word)),
            ));
        }
        FleetsFile::List(list) => {
            return Err(source.error(
                place,
                "fleets is a bare list; to leave fleets out, say why they never use the dependency",
                format!("write {{only: [{}], because: \"…\"}}", escape(&list.join(", "))),
            ));
        }
        FleetsFile::Only(only) => only,
    };
    if only.only.value.is_empty() {
        return Err(source.error(
            only.only.place,
            "only names no fleet",
            "name the fleets that use it; remove the dependency if none does",
        ));
    }
    let mut seen = BTreeSet::new();
    let mut fleets = Vec::new();
    for at in &only.only.value {
        let name = source.name(at)?;
        if !seen.insert(name.clone()) {
            return Err(source.error(at.place, format!("fleet {name} is named twice"), "remove one of the two"));
        }
        fleets.push((name, at.place));
    }
    // A block of text is one reason: its line breaks mean nothing.
    let because = only.because.value.split_whitespace().collect::<Vec<_>>().join(" ");
    if because.is_empty() {
        return Err(source.error(
            only.because.place,
            "because is empty",
            "say why the other fleets never use the dependency; it is shown beside them",
        ));
    }
    if because.chars().count() > MAX_BECAUSE || !because.chars().all(is_plain) {
        return Err(source.error(
            only.because.place,
            format!("because is longer than {MAX_BECAUSE} characters or holds characters that cannot be seen"),
            "say it in a plain sentence",
        ));
    }
    Ok(Fleets::Only { fleets, because })
}

const PROOFS: [(&str, Option<Proof>); 4] = [
    ("connected", Some(Proof::Connected)),
    ("encrypted", Some(Proof::Encrypted)),
    ("protocol", Some(Proof::Protocol)),
    ("resolved", Some(Proof::Resolved)),
];
const EXPECTS: [(&str, Expect); 2] = [("reachable", Expect::Reachable), ("blocked", Expect::Blocked)];
const FAMILIES: [(&str, Families); 4] =
    [("any", Families::Any), ("ipv4", Families::Ipv4), ("ipv6", Families::Ipv6), ("both", Families::Both)];
const ADDRESSES: [(&str, Addresses); 2] = [("all", Addresses::All), ("any", Addresses::Any)];

/// One of a few words, or the default where nothing is written.
pub(super) fn word<T: Copy + Default>(
    source: Source,
    key: &str,
    at: Option<&At<String>>,
    known: &[(&str, T)],
) -> Result<T, Diagnostic> {
    let Some(at) = at else { return Ok(T::default()) };
    known.iter().find(|(text, _)| *text == at.value).map(|(_, value)| *value).ok_or_else(|| {
        source.error(
            at.place,
            format!("{key} cannot be '{}'", escape(&at.value)),
            instead(&at.value, known.iter().map(|(text, _)| *text)),
        )
    })
}

/// A duration from 100 ms to `max` milliseconds, or the default where nothing is written.
fn duration_or(
    source: Source,
    key: &str,
    at: Option<&At<String>>,
    max: u32,
    default: Millis,
) -> Result<Millis, Diagnostic> {
    at.map_or(Ok(default), |at| duration(source, key, at, 100, max))
}

fn duration(source: Source, key: &str, at: &At<String>, min: u32, max: u32) -> Result<Millis, Diagnostic> {
    let text = at.value.as_str();
    let (digits, unit) = match text.strip_suffix("ms") {
        Some(digits) => (digits, 1),
        None => (text.strip_suffix('s').unwrap_or(text), 1000),
    };
    let number = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<u32>().ok()).flatten();
    let Some(number) = number.filter(|_| digits.len() != text.len()) else {
        let fix = match number {
            Some(number) => format!("add the unit: {number}s or {number}ms"),
            None => "write a whole number and its unit: 5s or 250ms".to_owned(),
        };
        return Err(source.error(at.place, format!("{key} '{}' is not a duration", escape(text)), fix));
    };
    match number.checked_mul(unit) {
        Some(ms) if (min..=max).contains(&ms) => Ok(Millis(ms)),
        _ => Err(source.error(
            at.place,
            format!("{key} {text} is out of range"),
            format!("write {} to {}", Millis(min), Millis(max)),
        )),
    }
}

fn usage(source: Source, written: &UsageFile) -> Result<Usage, Diagnostic> {
    Ok(Usage {
        calls_per_request: number(source, "calls_per_request", written.calls_per_request.as_ref())?,
        client_timeout: written
            .client_timeout
            .as_ref()
            .map(|at| duration(source, "client_timeout", at, 1, 3_600_000))
            .transpose()?,
        requests_per_second: number(source, "requests_per_second", written.requests_per_second.as_ref())?,
        workers: written.workers.as_ref().map(|at| source.whole("workers", at, 1..=1_000_000)).transpose()?,
    })
}

/// A number above 0, at most a million.
fn number(source: Source, key: &str, at: Option<&At<String>>) -> Result<Option<f64>, Diagnostic> {
    let Some(at) = at else { return Ok(None) };
    let plain = at.value.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let number = plain.then(|| at.value.parse::<f64>().ok()).flatten().filter(|n| *n > 0.0 && *n <= 1_000_000.0);
    let wrong = || {
        source.error(
            at.place,
            format!("{key} cannot be '{}'", escape(&at.value)),
            "write a number above 0, such as 15 or 0.5",
        )
    };
    number.map(Some).ok_or_else(wrong)
}

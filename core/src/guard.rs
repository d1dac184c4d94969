//! What may ship where, whatever the probes say: the candidates, quarantines and locks of one application.
//!
//! It answers and records; it ships nothing. The clock lifts nothing here.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::decision::{Override, Subject};
use crate::plan::{Cell, CellDigest, FleetId};
use crate::run::Mode;
use crate::text::{escape, shell};
use crate::verdict::Reason;

/// The most quarantines of one application; a rollback makes one beyond that.
pub const MAX_QUARANTINES: usize = 1_000;
/// The most reasons that a lock keeps, and that are shown of what is held back for several.
const MAX_ACTS: usize = 10;

/// Who did something, when and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    /// Who.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
}

impl Act {
    /// The same person said the same.
    fn says_as(&self, other: &Self) -> bool {
        self.by == other.by && self.reason == other.reason
    }
}

/// What would ship in a region if its pipeline ran now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The release.
    pub release: String,
    /// The run of the gate that asked for it last; none where it was only announced.
    pub run: Option<String>,
    /// Who announced it.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// Nothing ships in a region until somebody unlocks it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// Who locked it, and why: the first, then others who wanted it locked as well.
    pub acts: Vec<Act>,
    /// When to ask whether it is still needed. It lifts nothing.
    pub remind_at: Option<Timestamp>,
    /// The release that may ship all the same: the one that a rollback goes to.
    pub except: Option<String>,
}

impl Lock {
    /// By whom, since when and why, as a fragment: `by ana since …: an incident; and by ben since …: audit`.
    pub fn who(&self) -> String {
        let who = |act: &Act| format!("by {} since {:.0}: {}", escape(&act.by), act.at, escape(&act.reason));
        self.acts.iter().map(who).collect::<Vec<_>>().join("; and ")
    }

    /// Somebody else, or for another reason, wants it locked as well. The last one of too many gives way.
    fn join(&mut self, act: Act) {
        if !self.acts.iter().any(|have| have.says_as(&act)) {
            self.acts.truncate(MAX_ACTS - 1);
            self.acts.push(act);
        }
    }
}

/// The release that an unlock named: the first that may ship after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The release.
    pub release: String,
    /// Who unlocked, and why where that was asked for.
    pub act: Act,
}

/// What the guard knows of one region.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// What would ship there.
    pub candidate: Option<Candidate>,
    /// Why nothing does.
    pub lock: Option<Lock>,
    /// What has to ship first, since an unlock named it.
    pub named: Option<Named>,
}

/// What is known to be bad.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bad {
    /// A release.
    Release(String),
    /// A cell, whichever release carries it, and whatever else is asked of it later: the same fleet and target.
    Cell {
        /// Its digest.
        digest: CellDigest,
        /// `REGION/FLEET/DEPENDENCY`, as it was called then.
        name: String,
        /// From where.
        fleet: FleetId,
        /// To where, in canonical form.
        target: String,
    },
}

/// A cell that a release carries in a region, as a quarantine looks at it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Carried {
    /// Its digest.
    pub digest: CellDigest,
    /// The fleet's name.
    pub fleet: String,
    /// The target in canonical form.
    pub target: String,
}

impl Carried {
    /// Of a plan's cell.
    pub fn of(cell: &Cell, digest: CellDigest) -> Self {
        Self { digest, fleet: cell.fleet.fleet.clone(), target: cell.spec.target.to_string() }
    }
}

/// Something bad that must not ship.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// What.
    pub bad: Bad,
    /// Where; empty is everywhere.
    pub regions: BTreeSet<String>,
    /// Who said so, and why.
    pub act: Act,
}

impl Quarantine {
    /// The same person said the same of the same.
    fn says_as(&self, other: &Self) -> bool {
        self.bad == other.bad && self.regions == other.regions && self.act.says_as(&other.act)
    }

    fn holds(&self, region: &str, release: &str, cells: &BTreeSet<Carried>) -> bool {
        let here = self.regions.is_empty() || self.regions.contains(region);
        here && match &self.bad {
            Bad::Release(bad) => bad == release,
            // Another time-out or `min_agents` makes another digest, and not another way.
            Bad::Cell { digest, fleet, target, .. } => cells.iter().any(|cell| {
                cell.digest == *digest
                    || (fleet.region == region && cell.fleet == fleet.fleet && cell.target == *target)
            }),
        }
    }
}

/// The release guard of one application.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// By region. One that is missing is open and has no candidate.
    pub regions: BTreeMap<String, Place>,
    /// By id.
    pub quarantines: BTreeMap<String, Quarantine>,
}

/// What a gate asks for in one region.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The application, for what there is to do.
    pub application: &'a str,
    /// The region.
    pub region: &'a str,
    /// What would ship.
    pub release: &'a str,
    /// What it carries there.
    pub cells: &'a BTreeSet<Carried>,
    /// What the gate is for.
    pub mode: Mode,
}

/// The guard's word on one region.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Word {
    /// Why the release must not ship there: codes `locked`, `quarantined`, `not_named`. None: the guard has no objection.
    pub holds: Vec<Reason>,
    /// The override without which it would be quarantined.
    pub overridden: Option<Override>,
}

/// Whether a reason's code is that of a hold.
pub fn is_hold(code: &str) -> bool {
    matches!(code, "locked" | "quarantined" | "not_named")
}

/// An unlock: compare and set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unlock {
    /// What is expected to ship, by region.
    pub expected: BTreeMap<String, String>,
    /// What becomes of regions that are not ready.
    pub unready: Unready,
    /// Who unlocks, and why where `unready` is `Confirmed`.
    pub act: Act,
}

/// What becomes of an unlock where a region is not ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unready {
    /// Nothing is unlocked.
    Refuse,
    /// That region stays locked, the others are unlocked.
    Leave,
    /// It is unlocked: somebody named its release, and answers for it.
    Confirmed,
}

/// Why a region is not ready to be unlocked for the release that was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotReady {
    /// Nobody announced what would ship there.
    NoCandidate,
    /// Something else would ship there.
    OtherCandidate(String),
    /// What would ship there, or was named, is quarantined: the ids.
    Quarantined(Vec<String>),
}

impl NotReady {
    /// In words, as a fragment.
    pub fn describe(&self, named: &str) -> String {
        match self {
            Self::NoCandidate => "nobody announced what would ship there".to_owned(),
            Self::OtherCandidate(other) => format!("{} would ship there, not {}", escape(other), escape(named)),
            Self::Quarantined(ids) => format!("{} is quarantined ({})", escape(named), ids.join(", ")),
        }
    }
}

/// What candidates carry: the cells, by region and run.
pub type Carries = BTreeMap<(String, String), BTreeSet<Carried>>;

/// What came of an unlock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unlocked {
    /// Unlocked now, or named anew where the first deploy after an unlock is still to come.
    pub unlocked: Vec<String>,
    /// The locks that it lifts, by region.
    pub lifted: BTreeMap<String, Lock>,
    /// Nothing to do: open, or unlocked for that very release already.
    pub open: Vec<String>,
    /// Left as they are, with why.
    pub left: BTreeMap<String, Vec<NotReady>>,
}

/// Why nothing was unlocked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnlockRefused {
    /// What is wrong, by region.
    pub regions: BTreeMap<String, Vec<NotReady>>,
    /// The regions that would be unlocked together do not have the same candidate.
    pub differ: bool,
    /// The regions that something holds back and that are ready.
    pub ready: Vec<String>,
}

/// Why something was not recorded. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuardError {
    /// There is no room for another quarantine.
    #[error("there are {MAX_QUARANTINES} quarantines already; lift those that are not needed any more")]
    TooMany,
    /// A rollback goes from a release to itself.
    #[error("a rollback goes from one release to another one, and {0} is both")]
    SameRelease(String),
}

/// What came of a rollback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolledBack {
    /// The quarantine of what it came from.
    pub quarantine: String,
    /// The regions whose lock has no exception for what they go back to: it is quarantined there, or somebody had locked them for
    /// everything.
    pub without_exception: Vec<String>,
}

impl Guard {
    /// What is known of a region.
    pub fn place(&self, region: &str) -> Option<&Place> {
        self.regions.get(region)
    }

    fn place_mut(&mut self, region: &str) -> &mut Place {
        self.regions.entry(region.to_owned()).or_default()
    }

    /// Notes what would ship in a region. An announcement without a run keeps the run of the same release.
    pub fn announce(&mut self, region: &str, mut candidate: Candidate) {
        let last = &mut self.place_mut(region).candidate;
        let same = last.take().filter(|last| last.release == candidate.release);
        candidate.run = candidate.run.or_else(|| same.and_then(|same| same.run));
        *last = Some(candidate);
    }

    /// Notes that a release has shipped in a region: what an unlock named has now shipped first.
    pub fn deployed(&mut self, region: &str, release: &str) {
        if let Some(place) = self.regions.get_mut(region) {
            place.named.take_if(|named| named.release == release);
        }
    }

    /// Locks a region for everything. Who locked it before stays beside it; a new reminder takes the old one's place. False where it
    /// was locked already.
    pub fn lock(&mut self, region: &str, act: Act, remind_at: Option<Timestamp>) -> bool {
        let place = self.place_mut(region);
        place.named = None;
        let Some(lock) = &mut place.lock else {
            place.lock = Some(Lock { acts: vec![act], remind_at, except: None });
            return true;
        };
        lock.join(act);
        lock.remind_at = remind_at.or(lock.remind_at);
        lock.except = None;
        false
    }

    /// Quarantines something: `id`, or the id of the quarantine by which the same person said the same before. That counts from now, so
    /// that no override of before excuses it.
    ///
    /// # Errors
    /// [`GuardError::TooMany`].
    pub fn quarantine(&mut self, id: &str, new: Quarantine) -> Result<String, GuardError> {
        let known = self.quarantines.values().any(|have| have.says_as(&new));
        if !known && self.quarantines.len() >= MAX_QUARANTINES {
            return Err(GuardError::TooMany);
        }
        Ok(self.keep(id, new))
    }

    fn keep(&mut self, id: &str, new: Quarantine) -> String {
        if let Some((id, have)) = self.quarantines.iter_mut().find(|(_, have)| have.says_as(&new)) {
            have.act.at = new.act.at;
            return id.clone();
        }
        self.quarantines.insert(id.to_owned(), new);
        id.to_owned()
    }

    /// Whether a cell is quarantined, whichever release carries it.
    pub fn has_cells(&self) -> bool {
        self.quarantines.values().any(|quarantine| matches!(quarantine.bad, Bad::Cell { .. }))
    }

    /// Lifts a quarantine: what it was; none if there is none of that id.
    pub fn lift(&mut self, id: &str) -> Option<Quarantine> {
        self.quarantines.remove(id)
    }

    /// Records that regions go back from a release to another: the one that they came from is quarantined everywhere, and each of the
    /// regions is locked for all but the one that they go to. A lock without an exception keeps that. What has happened is recorded
    /// whatever is wrong with it.
    ///
    /// # Errors
    /// [`GuardError::SameRelease`].
    pub fn rollback(
        &mut self,
        regions: &[String],
        from: &str,
        to: &str,
        id: &str,
        act: &Act,
    ) -> Result<RolledBack, GuardError> {
        if from == to {
            return Err(GuardError::SameRelease(escape(from)));
        }
        let act = |words: String| Act { reason: format!("{words}: {}", act.reason), ..act.clone() };
        let bad = Bad::Release(from.to_owned());
        let new = Quarantine { bad, regions: BTreeSet::new(), act: act(format!("rolled back to {to}")) };
        let quarantine = self.keep(id, new);
        let mut without_exception = Vec::new();
        for region in regions {
            let good = self.bad(region, to, &BTreeSet::new()).is_empty().then(|| to.to_owned());
            let place = self.place_mut(region);
            place.named = None;
            let act = act(format!("rollback from {from} to {to}"));
            let lock =
                place.lock.get_or_insert_with(|| Lock { acts: Vec::new(), remind_at: None, except: good.clone() });
            lock.join(act);
            lock.except = lock.except.take().and(good);
            if lock.except.is_none() {
                without_exception.push(region.clone());
            }
        }
        Ok(RolledBack { quarantine, without_exception })
    }

    /// Unlocks regions for the releases that are named, in each of which what is named is what would ship; all, or none unless
    /// `unready` says else. `carries` has the cells that a candidate carries in a region, by region and run, as far as they are known.
    ///
    /// # Errors
    /// Where a region's candidate is missing, another one, or quarantined without an override in force, or where the candidates of the
    /// regions that are unlocked together differ: nothing is unlocked. Where none of those that are held back is ready, too.
    pub fn unlock(
        &mut self,
        unlock: &Unlock,
        carries: &Carries,
        overrides: &[Override],
    ) -> Result<Unlocked, UnlockRefused> {
        let mut done = Unlocked::default();
        let mut refused = UnlockRefused::default();
        let (mut ready, mut would_ship, mut already) = (Vec::new(), BTreeSet::new(), false);
        for (region, named) in &unlock.expected {
            let held = self.is_held(region);
            let place = self.place(region);
            if held && place.is_some_and(|place| place.named.as_ref().is_some_and(|n| n.release == *named)) {
                done.open.push(region.clone());
                already = true;
                continue;
            }
            let wanting = self.unready(region, named, carries, overrides, unlock.act.at);
            let is_ready = wanting.is_empty() || unlock.unready == Unready::Confirmed;
            if !is_ready && (held || unlock.unready == Unready::Refuse) {
                refused.regions.insert(region.clone(), wanting);
            } else if held {
                ready.push((region.clone(), named.clone()));
            } else {
                done.open.push(region.clone());
            }
            if held && (is_ready || unlock.unready == Unready::Refuse) {
                would_ship.extend(place.and_then(|place| place.candidate.as_ref()).map(|c| c.release.as_str()));
            }
        }
        refused.differ = unlock.unready != Unready::Confirmed && would_ship.len() > 1;
        let none = ready.is_empty() && !already && !refused.regions.is_empty();
        refused.ready = ready.iter().map(|(region, _): &(String, String)| region.clone()).collect();
        if refused.differ || none || (unlock.unready == Unready::Refuse && !refused.regions.is_empty()) {
            return Err(refused);
        }
        done.left = refused.regions;
        for (region, release) in ready {
            let place = self.place_mut(&region);
            done.lifted.extend(place.lock.take().map(|lock| (region.clone(), lock)));
            place.named = Some(Named { release, act: unlock.act.clone() });
            done.unlocked.push(region);
        }
        Ok(done)
    }

    /// Whether a region is locked, or its first deploy after an unlock is still to come.
    pub fn is_held(&self, region: &str) -> bool {
        self.place(region).is_some_and(|place| place.lock.is_some() || place.named.is_some())
    }

    /// Whether it holds back the same as another one: candidates alone hold back nothing.
    pub fn holds_alike(&self, other: &Self) -> bool {
        fn held(guard: &Guard) -> impl Iterator<Item = (&String, &Option<Lock>, &Option<Named>)> {
            let held = guard.regions.iter().filter(|(region, _)| guard.is_held(region));
            held.map(|(region, place)| (region, &place.lock, &place.named))
        }
        self.quarantines == other.quarantines && held(self).eq(held(other))
    }

    fn unready(
        &self,
        region: &str,
        named: &str,
        carries: &Carries,
        overrides: &[Override],
        now: Timestamp,
    ) -> Vec<NotReady> {
        let mut unready = Vec::new();
        let candidate = self.place(region).and_then(|place| place.candidate.as_ref());
        match candidate {
            None => unready.push(NotReady::NoCandidate),
            Some(other) if other.release != named => unready.push(NotReady::OtherCandidate(other.release.clone())),
            Some(_) => {}
        }
        let run = candidate.filter(|c| c.release == named).and_then(|c| c.run.clone());
        let none = BTreeSet::new();
        let cells = run.and_then(|run| carries.get(&(region.to_owned(), run))).unwrap_or(&none);
        let bad = self.bad(region, named, cells);
        if !bad.is_empty() && self.excuse(region, named, cells, overrides, now).is_none() {
            unready.push(NotReady::Quarantined(bad));
        }
        unready
    }

    fn under(
        &self,
        region: &str,
        release: &str,
        cells: &BTreeSet<Carried>,
    ) -> impl Iterator<Item = (&String, &Quarantine)> {
        self.quarantines.iter().filter(move |(_, quarantine)| quarantine.holds(region, release, cells))
    }

    /// The quarantines that a release is under in a region: their ids.
    pub fn bad(&self, region: &str, release: &str, cells: &BTreeSet<Carried>) -> Vec<String> {
        self.under(region, release, cells).map(|(id, _)| id.clone()).collect()
    }

    /// The override in force at `now` that excuses all that a release is quarantined by in a region: one that was given since. None, too,
    /// where it is not quarantined.
    pub fn excuse<'a>(
        &self,
        region: &str,
        release: &str,
        cells: &BTreeSet<Carried>,
        overrides: &'a [Override],
        now: Timestamp,
    ) -> Option<&'a Override> {
        let newest = self.under(region, release, cells).map(|(_, quarantine)| quarantine.act.at).max()?;
        let since = overrides.iter().filter(|given| given.at >= newest);
        Override::in_force(since, region, &Subject::Release(release.to_owned()), now)
    }

    /// The guard's word on a release in a region at `now`. A rollback is held by nothing but a quarantine of that very release. An
    /// override excuses what was known to be bad when it was given, and nothing that came after it.
    pub fn word(&self, asked: &Asked<'_>, overrides: &[Override], now: Timestamp) -> Word {
        let Asked { region, release, mode, .. } = *asked;
        let none = BTreeSet::new();
        let cells = if mode == Mode::Rollback { &none } else { asked.cells };
        let overridden = self.excuse(region, release, cells, overrides, now).cloned();
        let mut word = Word { holds: Vec::new(), overridden };
        if word.overridden.is_none() {
            let mut bad: Vec<(&String, &Quarantine)> = self.under(region, release, cells).collect();
            bad.sort_by_key(|(_, quarantine)| std::cmp::Reverse(quarantine.act.at));
            let older = Override::in_force(overrides, region, &Subject::Release(release.to_owned()), now);
            // One remedy for all of them.
            let id = if let [(id, _)] = bad.as_slice() { id.as_str() } else { "ID" };
            let first = self.place(region).is_some_and(|p| p.named.as_ref().is_some_and(|n| n.release == release));
            let fix = remedy(id, first, asked);
            word.holds.extend(bad.iter().take(MAX_ACTS).map(|(of, bad)| quarantined(of, bad, older, &fix, asked)));
        }
        let Some(place) = self.place(region).filter(|_| mode != Mode::Rollback) else { return word };
        let quarantined = !word.holds.is_empty();
        if let Some(lock) = place.lock.as_ref().filter(|lock| lock.except.as_deref() != Some(release)) {
            let other = place.candidate.as_ref().map(|c| c.release.as_str()).filter(|other| *other != release);
            word.holds.push(locked(lock, other, asked, quarantined, now));
        }
        if let Some(named) = place.named.as_ref().filter(|named| named.release != release) {
            let is_bad = !self.bad(region, &named.release, &none).is_empty();
            let other = place.candidate.as_ref().is_some_and(|candidate| candidate.release != release);
            word.holds.push(not_named(named, is_bad, asked, quarantined || other));
        }
        word
    }
}

/// `--application shop --region eu`.
fn flags(asked: &Asked<'_>) -> String {
    format!("--application {} --region {}", shell(asked.application), shell(asked.region))
}

fn locked(lock: &Lock, other: Option<&str>, asked: &Asked<'_>, quarantined: bool, now: Timestamp) -> Reason {
    let except = lock.except.as_ref().map(|except| format!(" (for all but {})", escape(except))).unwrap_or_default();
    let due = lock.remind_at.filter(|due| *due <= now);
    let due = due.map(|due| format!("; a look whether that is still needed was due at {due:.0}")).unwrap_or_default();
    let unlock = format!("`preflight unlock {} --release {}`", flags(asked), shell(asked.release));
    let fix = match other {
        _ if quarantined => format!("Once it may ship: {unlock}."),
        Some(other) => format!(
            "What would ship there now is {}. When {} should ship instead, gate it again, and then: {unlock}.",
            escape(other),
            escape(asked.release)
        ),
        None => format!("When {} is what should ship there: {unlock}.", escape(asked.release)),
    };
    let text = format!("{} has been locked{except} {}{due}", escape(asked.region), lock.who());
    Reason { code: "locked", text, fix: Some(fix) }
}

fn not_named(named: &Named, is_bad: bool, asked: &Asked<'_>, refused: bool) -> Reason {
    let Act { by, at, reason } = &named.act;
    let why = if reason.is_empty() { String::new() } else { format!(" ({})", escape(reason)) };
    let first = escape(&named.release);
    let text = format!(
        "{} named {first} as what ships first in {} when it was unlocked at {at:.0}{why}; this is {}",
        escape(by),
        escape(asked.region),
        escape(asked.release),
    );
    let flags = flags(asked);
    let ship = if is_bad {
        format!("{first} is quarantined by now.")
    } else {
        let release = shell(&named.release);
        format!(
            "Once {first} has shipped, record that: `preflight release deployed {flags} --release {release} --verdict …`."
        )
    };
    // An unlock that would be refused is not advised.
    let other = if refused {
        String::new()
    } else {
        format!(" To ship this one instead: `preflight unlock {flags} --release {}`.", shell(asked.release))
    };
    Reason { code: "not_named", text, fix: Some(ship + &other) }
}

/// What to do about what is quarantined; with `first` it is what an unlock named to ship first.
fn remedy(id: &str, first: bool, asked: &Asked<'_>) -> String {
    let (application, flags, release) = (shell(asked.application), flags(asked), shell(asked.release));
    let ship = if first {
        format!("Name another release to ship first: `preflight unlock {flags} --release …`.")
    } else {
        "Ship a release without what is wrong with it.".to_owned()
    };
    format!(
        "{ship} If nothing is wrong with it after all: `preflight release lift {id} --application {application} --reason …`. Who answers \
         for it as it is: `preflight override {flags} --release {release} --reason … --ticket … --expires 1h`."
    )
}

fn quarantined(id: &str, quarantine: &Quarantine, older: Option<&Override>, fix: &str, asked: &Asked<'_>) -> Reason {
    let Act { by, at, reason } = &quarantine.act;
    let release = escape(asked.release);
    let what = match &quarantine.bad {
        Bad::Release(_) => release,
        Bad::Cell { name, .. } => format!("{}, which {release} carries,", escape(name)),
    };
    let older = older.map(|older| format!("; the override by {} was given before that", escape(&older.by)));
    let (by, reason, older) = (escape(by), escape(reason), older.unwrap_or_default());
    Reason {
        code: "quarantined",
        text: format!("{what} has been quarantined by {by} since {at:.0}: {reason} ({id}){older}"),
        fix: Some(fix.to_owned()),
    }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;

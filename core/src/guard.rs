//! What may ship where, whatever the probes say: the candidates, quarantines and locks of one application.
//!
//! It answers and records; it ships nothing. The clock lifts nothing here.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::decision::{Override, Subject};
use crate::plan::CellDigest;
use crate::run::Mode;
use crate::text::escape;
use crate::verdict::Reason;

/// The most quarantines of one application.
pub const MAX_QUARANTINES: usize = 1_000;

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
    /// Who locked it, and why.
    pub act: Act,
    /// When to ask whether it is still needed. It lifts nothing.
    pub remind_at: Option<Timestamp>,
    /// The release that may ship all the same: the one that a rollback goes to.
    pub except: Option<String>,
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
    /// A cell, whichever release carries it.
    Cell {
        /// Its digest.
        digest: CellDigest,
        /// `REGION/FLEET/DEPENDENCY`, as it was called then.
        name: String,
    },
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
    fn holds(&self, region: &str, release: &str, cells: &BTreeSet<CellDigest>) -> bool {
        let here = self.regions.is_empty() || self.regions.contains(region);
        here && match &self.bad {
            Bad::Release(bad) => bad == release,
            Bad::Cell { digest, .. } => cells.contains(digest),
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
    pub cells: &'a BTreeSet<CellDigest>,
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

/// Whether a reason's code says that what the verdict rests on is not so any more, or not known to be: no override lifts that.
pub fn is_void(code: &str) -> bool {
    matches!(
        code,
        "inventory_stale" | "expired" | "inventory_changed" | "new_identity" | "baseline_changed" | "rolled_back"
    )
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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

/// What came of an unlock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unlocked {
    /// Unlocked now, or named anew where the first deploy after an unlock is still to come.
    pub unlocked: Vec<String>,
    /// Not locked, and nothing was changed.
    pub open: Vec<String>,
    /// Left locked, with why.
    pub left: BTreeMap<String, Vec<NotReady>>,
}

/// Why nothing was unlocked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnlockRefused {
    /// What is wrong, by region.
    pub regions: BTreeMap<String, Vec<NotReady>>,
    /// The regions that would be unlocked together do not have the same candidate.
    pub differ: bool,
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
    /// A rollback goes to something bad.
    #[error("{release} is quarantined in {region} ({id}): it is no release to go back to")]
    ToQuarantined {
        /// The release.
        release: String,
        /// The region.
        region: String,
        /// The quarantine.
        id: String,
    },
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

    /// Locks a region. One that is locked already stays as it is: false.
    pub fn lock(&mut self, region: &str, lock: Lock) -> bool {
        let place = self.place_mut(region);
        if place.lock.is_some() {
            return false;
        }
        *place = Place { candidate: place.candidate.take(), lock: Some(lock), named: None };
        true
    }

    /// Quarantines something; the id of the quarantine that says the same already, if there is one, else `id`.
    ///
    /// # Errors
    /// [`GuardError::TooMany`].
    pub fn quarantine(&mut self, id: &str, new: Quarantine) -> Result<String, GuardError> {
        let same = |have: &&Quarantine| {
            have.bad == new.bad
                && (have.regions.is_empty() || (!new.regions.is_empty() && new.regions.is_subset(&have.regions)))
        };
        if let Some((id, _)) = self.quarantines.iter().find(|(_, have)| same(have)) {
            return Ok(id.clone());
        }
        if self.quarantines.len() >= MAX_QUARANTINES {
            return Err(GuardError::TooMany);
        }
        self.quarantines.insert(id.to_owned(), new);
        Ok(id.to_owned())
    }

    /// Lifts a quarantine: what it was; none if there is none of that id.
    pub fn lift(&mut self, id: &str) -> Option<Quarantine> {
        self.quarantines.remove(id)
    }

    /// Records that regions go back from a release to another: the one that they came from is quarantined everywhere, and each of the
    /// regions is locked for all but the one that they go to. The id of the quarantine.
    ///
    /// # Errors
    /// Where `from` and `to` are the same, where `to` is quarantined in one of the regions, or [`GuardError::TooMany`].
    pub fn rollback(
        &mut self,
        regions: &[String],
        from: &str,
        to: &str,
        id: &str,
        act: &Act,
    ) -> Result<String, GuardError> {
        if from == to {
            return Err(GuardError::SameRelease(escape(from)));
        }
        for region in regions {
            if let Some(id) = self.bad(region, to, &BTreeSet::new()).into_iter().next() {
                let (release, region) = (escape(to), escape(region));
                return Err(GuardError::ToQuarantined { release, region, id: id.to_owned() });
            }
        }
        let quarantine = Quarantine {
            bad: Bad::Release(from.to_owned()),
            regions: BTreeSet::new(),
            act: Act { reason: format!("rolled back in {}: {}", regions.join(", "), act.reason), ..act.clone() },
        };
        let id = self.quarantine(id, quarantine)?;
        for region in regions {
            let place = self.place_mut(region);
            let remind_at = place.lock.take().and_then(|lock| lock.remind_at);
            let act = Act { reason: format!("rollback from {} to {}: {}", from, to, act.reason), ..act.clone() };
            place.named = None;
            place.lock = Some(Lock { act, remind_at, except: Some(to.to_owned()) });
        }
        Ok(id)
    }

    /// Unlocks regions for the releases that are named, in each of which what is named is what would ship; all, or none unless
    /// `unready` says else. `carries` has the cells that a candidate carries, by its run, as far as they are known.
    ///
    /// # Errors
    /// Where a region's candidate is missing, another one or quarantined, or where the candidates of the regions that are
    /// unlocked together differ: nothing is unlocked.
    pub fn unlock(
        &mut self,
        unlock: &Unlock,
        carries: &BTreeMap<String, BTreeSet<CellDigest>>,
    ) -> Result<Unlocked, UnlockRefused> {
        let mut done = Unlocked::default();
        let mut refused = UnlockRefused::default();
        let mut together: BTreeMap<&str, &str> = BTreeMap::new();
        for (region, named) in &unlock.expected {
            let unready = self.unready(region, named, carries);
            if !unready.is_empty() && unlock.unready != Unready::Confirmed {
                refused.regions.insert(region.clone(), unready);
            } else {
                together.insert(region, named);
            }
        }
        let differ = |regions: &mut dyn Iterator<Item = &str>| {
            let would_ship =
                regions.filter(|region| self.holds_back(region)).filter_map(|region| self.candidate(region));
            would_ship.collect::<BTreeSet<&str>>().len() > 1
        };
        refused.differ = match unlock.unready {
            Unready::Refuse => differ(&mut unlock.expected.keys().map(String::as_str)),
            Unready::Leave => differ(&mut together.keys().copied()),
            Unready::Confirmed => false,
        };
        if refused.differ || (unlock.unready == Unready::Refuse && !refused.regions.is_empty()) {
            return Err(refused);
        }
        // With nothing that is ready there is nothing to do, and who asked must not think that it was done.
        if together.is_empty() && !refused.regions.is_empty() {
            return Err(refused);
        }
        done.left = refused.regions;
        for (region, release) in together {
            if !self.holds_back(region) {
                done.open.push(region.to_owned());
                continue;
            }
            let place = self.place_mut(region);
            place.lock = None;
            place.named = Some(Named { release: release.to_owned(), act: unlock.act.clone() });
            done.unlocked.push(region.to_owned());
        }
        Ok(done)
    }

    /// Whether a region is locked, or its first deploy after an unlock is still to come.
    fn holds_back(&self, region: &str) -> bool {
        self.place(region).is_some_and(|place| place.lock.is_some() || place.named.is_some())
    }

    fn candidate(&self, region: &str) -> Option<&str> {
        self.place(region).and_then(|place| place.candidate.as_ref()).map(|candidate| candidate.release.as_str())
    }

    fn unready(&self, region: &str, named: &str, carries: &BTreeMap<String, BTreeSet<CellDigest>>) -> Vec<NotReady> {
        let mut unready = Vec::new();
        let candidate = self.place(region).and_then(|place| place.candidate.as_ref());
        match candidate {
            None => unready.push(NotReady::NoCandidate),
            Some(other) if other.release != named => unready.push(NotReady::OtherCandidate(other.release.clone())),
            Some(_) => {}
        }
        let none = BTreeSet::new();
        let run = candidate.filter(|c| c.release == named).and_then(|c| c.run.as_ref());
        let cells = run.and_then(|run| carries.get(run)).unwrap_or(&none);
        let bad: Vec<String> = self.bad(region, named, cells).into_iter().map(str::to_owned).collect();
        if !bad.is_empty() {
            unready.push(NotReady::Quarantined(bad));
        }
        unready
    }

    /// The quarantines that a release is under in a region.
    pub fn bad(&self, region: &str, release: &str, cells: &BTreeSet<CellDigest>) -> Vec<&str> {
        let holds = |(_, quarantine): &(&String, &Quarantine)| quarantine.holds(region, release, cells);
        self.quarantines.iter().filter(holds).map(|(id, _)| id.as_str()).collect()
    }

    /// The guard's word on a release in a region at `now`. A rollback is held by nothing but a quarantine of that very release.
    pub fn word(&self, asked: &Asked<'_>, overrides: &[Override], now: Timestamp) -> Word {
        let Asked { application, region, release, mode, .. } = *asked;
        let none = BTreeSet::new();
        let cells = if mode == Mode::Rollback { &none } else { asked.cells };
        let mut word = Word::default();
        let bad: Vec<&Quarantine> =
            self.quarantines.values().filter(|quarantine| quarantine.holds(region, release, cells)).collect();
        if !bad.is_empty() {
            let subject = Subject::Release(release.to_owned());
            word.overridden = Override::in_force(overrides, region, &subject, now).cloned();
        }
        if word.overridden.is_none() {
            word.holds.extend(bad.into_iter().map(|quarantine| quarantined(quarantine, asked)));
        }
        let Some(place) = self.place(region).filter(|_| mode != Mode::Rollback) else { return word };
        let flags = format!("--application {} --region {}", escape(application), escape(region));
        if let Some(lock) = place.lock.as_ref().filter(|lock| lock.except.as_deref() != Some(release)) {
            let fix = if word.holds.is_empty() {
                let release = escape(release);
                format!("When {release} is what should ship there: `preflight unlock {flags} --release {release}`.")
            } else {
                "`preflight release list` shows all regions.".to_owned()
            };
            word.holds.push(Reason { code: "locked", text: locked(lock, region, now), fix: Some(fix) });
        }
        if let Some(named) = place.named.as_ref().filter(|named| named.release != release) {
            let text = format!(
                "{} named {} as what ships first in {} when it was unlocked at {:.0}; this is {}",
                escape(&named.act.by),
                escape(&named.release),
                escape(region),
                named.act.at,
                escape(release),
            );
            word.holds.push(Reason { code: "not_named", text, fix: Some(format!(
                "Ship {} and record it (`preflight release deployed {flags} --release …`), or name this one: `preflight unlock {flags} --release {}`.",
                escape(&named.release), escape(release)
            ))});
        }
        word
    }
}

fn locked(lock: &Lock, region: &str, now: Timestamp) -> String {
    let Act { by, at, reason } = &lock.act;
    let except = lock.except.as_ref().map(|except| format!(" (for all but {})", escape(except))).unwrap_or_default();
    let due = lock.remind_at.filter(|due| *due <= now);
    let due =
        due.map(|due| format!("; whether that is still needed was to be looked at by {due:.0}")).unwrap_or_default();
    format!("{} has been locked by {} since {at:.0}: {}{except}{due}", escape(region), escape(by), escape(reason))
}

fn quarantined(quarantine: &Quarantine, asked: &Asked<'_>) -> Reason {
    let Act { by, at, reason } = &quarantine.act;
    let (region, release) = (escape(asked.region), escape(asked.release));
    let what = match &quarantine.bad {
        Bad::Release(_) => release.clone(),
        Bad::Cell { name, .. } => format!("{}, which {release} carries,", escape(name)),
    };
    Reason {
        code: "quarantined",
        text: format!("{what} has been quarantined by {} since {at:.0}: {}", escape(by), escape(reason)),
        fix: Some(format!(
            "Ship a release without what is wrong with it. Who answers for this one: `preflight override --application {} --region {region} \
             --release {release} --reason … --ticket … --expires 1h`.",
            escape(asked.application)
        )),
    }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;

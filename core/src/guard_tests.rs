use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::decision::{Given, decide};
use crate::matrix::State;

fn at(s: i64) -> Timestamp {
    Timestamp::from_second(1_743_000_000 + s).unwrap()
}

fn act(by: &str, s: i64, reason: &str) -> Act {
    Act { by: by.into(), at: at(s), reason: reason.into() }
}

fn incident(s: i64) -> Act {
    act("ana", s, "an incident")
}

fn candidate(release: &str, run: Option<&str>) -> Candidate {
    Candidate { release: release.into(), run: run.map(str::to_owned), by: "ci".into(), at: at(0) }
}

fn unlock(expected: &[(&str, &str)], unready: Unready) -> Unlock {
    let expected = expected.iter().map(|(region, release)| ((*region).to_owned(), (*release).to_owned())).collect();
    Unlock { expected, unready, act: act("ben", 9, "") }
}

fn digest(name: &str) -> CellDigest {
    CellDigest(name.to_owned())
}

/// From the web fleet of `eu` to a target of that name.
fn carries(name: &str) -> Carried {
    Carried { digest: digest(name), fleet: "web".into(), target: format!("tcp://{name}:1") }
}

fn bad_cell(name: &str) -> Bad {
    let fleet = FleetId { region: "eu".into(), fleet: "web".into() };
    Bad::Cell { digest: digest(name), name: format!("eu/web/{name}"), fleet, target: format!("tcp://{name}:1") }
}

fn ask(guard: &Guard, region: &str, release: &str, cells: &[&str], mode: Mode) -> Vec<&'static str> {
    let cells = cells.iter().map(|name| carries(name)).collect();
    let asked = Asked { application: "shop", region, release, cells: &cells, mode };
    guard.word(&asked, &[], at(10)).holds.iter().map(|hold| hold.code).collect()
}

fn codes(guard: &Guard, region: &str, release: &str) -> Vec<&'static str> {
    ask(guard, region, release, &[], Mode::Gate)
}

/// The day of the outage, as the guard sees it.
#[test]
fn the_second_outage_is_refused() {
    let mut guard = Guard::default();
    let regions = ["eu", "us", "au"];
    for region in regions {
        guard.announce(region, candidate("broken", None));
        guard.deployed(region, "broken");
    }
    guard.rollback(&["eu".to_owned()], "broken", "good", "q1", &act("ana", 1, "latency")).unwrap();
    guard.deployed("eu", "good");
    assert_eq!(codes(&guard, "eu", "good"), [""; 0], "eu is locked for all but what it goes back to");
    for region in regions {
        assert_eq!(guard.lock(region, incident(2), None), region != "eu", "{region}");
    }
    assert_eq!(codes(&guard, "us", "broken"), ["quarantined", "locked"]);
    assert_eq!(codes(&guard, "eu", "good"), ["locked"], "a lock is for everything");
    assert_eq!(ask(&guard, "eu", "good", &[], Mode::Rollback), [""; 0], "and holds up no rollback");

    // The revert is ready in two of the regions.
    guard.announce("us", candidate("revert", None));
    guard.announce("au", candidate("revert", None));
    let before = guard.clone();
    let all = unlock(&regions.map(|region| (region, "revert")), Unready::Refuse);
    let refused = guard.unlock(&all, &Carries::new(), &[]).unwrap_err();
    assert_eq!(guard, before);
    assert!(refused.differ);
    assert_eq!(refused.regions, [("eu".to_owned(), vec![NotReady::OtherCandidate("broken".into())])].into());
    // Who names what would ship there is told that it is bad.
    let refused = guard.unlock(&unlock(&[("eu", "broken")], Unready::Refuse), &Carries::new(), &[]).unwrap_err();
    assert_eq!(refused.regions["eu"], [NotReady::Quarantined(vec!["q1".into()])]);

    let ready = Unlock { unready: Unready::Leave, ..all.clone() };
    let done = guard.unlock(&ready, &Carries::new(), &[]).unwrap();
    assert_eq!(done.unlocked, ["au", "us"]);
    assert_eq!(done.left.keys().collect::<Vec<_>>(), ["eu"]);
    assert_eq!(codes(&guard, "us", "revert"), [""; 0]);
    assert_eq!(codes(&guard, "us", "another"), ["not_named"], "the first to ship is the one that was named");
    guard.deployed("us", "revert");
    assert_eq!(codes(&guard, "us", "another"), [""; 0], "from then on pipelines run as they like");
    assert_eq!(codes(&guard, "us", "broken"), ["quarantined"]);

    guard.announce("eu", candidate("revert", None));
    let done = guard.unlock(&all, &Carries::new(), &[]).unwrap();
    assert_eq!((done.unlocked, done.open), (vec!["eu".to_owned()], vec!["au".to_owned(), "us".to_owned()]));
    assert_eq!(codes(&guard, "eu", "revert"), [""; 0]);
    assert_eq!(codes(&guard, "eu", "broken"), ["quarantined", "not_named"]);
}

#[test]
fn a_cell_is_caught_whichever_release_carries_it() {
    let mut guard = Guard::default();
    let bad = bad_cell("cache");
    let quarantine = Quarantine { bad, regions: BTreeSet::new(), act: act("ana", 0, "no path") };
    assert_eq!(guard.quarantine("q1", quarantine.clone()), Ok("q1".into()));
    assert_eq!(guard.quarantine("q2", quarantine.clone()), Ok("q1".into()), "said once");
    let other = Quarantine { act: act("ben", 0, "no path"), ..quarantine };
    assert_eq!(guard.quarantine("q3", other), Ok("q3".into()), "another one says so, too");
    assert!(guard.lift("q3").is_some());
    assert_eq!(ask(&guard, "eu", "r2", &["cache", "db"], Mode::Gate), ["quarantined"]);
    assert_eq!(ask(&guard, "eu", "r2", &["cache"], Mode::Advisory), ["quarantined"]);
    assert_eq!(ask(&guard, "eu", "r2", &["db"], Mode::Gate), [""; 0]);
    // Asked in another way, it is the same way to the same target.
    let other = |fleet: &str| [Carried { digest: digest("other"), fleet: fleet.into(), ..carries("cache") }].into();
    let word = |region, cells: &BTreeSet<Carried>| {
        let asked = Asked { application: "shop", region, release: "r2", cells, mode: Mode::Gate };
        guard.word(&asked, &[], at(10)).holds.len()
    };
    assert_eq!((word("eu", &other("web")), word("eu", &other("worker")), word("us", &other("web"))), (1, 0, 0));
    assert_eq!(ask(&guard, "eu", "r2", &["cache"], Mode::Rollback), [""; 0], "r2 itself is not quarantined");

    guard.lock("eu", incident(1), None);
    guard.announce("eu", candidate("r2", Some("run")));
    // An announcement without a run is of what the run before it showed.
    guard.announce("eu", candidate("r2", None));
    let carries = [(("eu".to_owned(), "run".to_owned()), [carries("cache")].into())].into();
    let refused = guard.unlock(&unlock(&[("eu", "r2")], Unready::Refuse), &carries, &[]).unwrap_err();
    assert_eq!(refused.regions["eu"], [NotReady::Quarantined(vec!["q1".into()])]);
    guard.announce("eu", candidate("r3", None));
    assert!(guard.unlock(&unlock(&[("eu", "r3")], Unready::Refuse), &carries, &[]).is_ok());
    assert!(guard.lift("q1").is_some() && guard.lift("q1").is_none());
}

#[test]
fn a_quarantine_of_some_regions_is_not_one_of_all() {
    let mut guard = Guard::default();
    let of = |regions: &[&str]| Quarantine {
        bad: Bad::Release("r1".into()),
        regions: regions.iter().map(|region| (*region).to_owned()).collect(),
        act: act("ana", 0, "slow"),
    };
    guard.quarantine("q1", of(&["eu"])).unwrap();
    assert_eq!((codes(&guard, "eu", "r1"), codes(&guard, "us", "r1")), (vec!["quarantined"], vec![]));
    guard.quarantine("q2", of(&[])).unwrap();
    assert_eq!((codes(&guard, "eu", "r1").len(), codes(&guard, "us", "r1").len()), (2, 1));
    guard.lift("q2").unwrap();
    assert_eq!((codes(&guard, "eu", "r1"), codes(&guard, "us", "r1")), (vec!["quarantined"], vec![]));
}

#[test]
fn a_rollback_is_recorded_whatever_is_wrong_with_it() {
    let mut guard = Guard::default();
    let eu = ["eu".to_owned()];
    let go = |guard: &mut Guard, from, to, id| guard.rollback(&eu, from, to, id, &act("ana", 0, "slow"));
    assert_eq!(go(&mut guard, "r2", "r2", "q1"), Err(GuardError::SameRelease("r2".into())));
    assert_eq!(guard, Guard::default());
    for nth in 0..MAX_QUARANTINES {
        let bad = Bad::Release(format!("old-{nth}"));
        guard.quarantine(&nth.to_string(), Quarantine { bad, regions: BTreeSet::new(), act: incident(0) }).unwrap();
    }
    let full = Quarantine { bad: Bad::Release("r3".into()), regions: BTreeSet::new(), act: incident(0) };
    assert_eq!(guard.quarantine("q1", full), Err(GuardError::TooMany));
    assert_eq!(go(&mut guard, "r2", "r1", "q1").unwrap().without_exception, [""; 0]);
    assert_eq!(ask(&guard, "eu", "r2", &[], Mode::Rollback), ["quarantined"]);
    assert_eq!(ask(&guard, "eu", "r0", &[], Mode::Rollback), [""; 0]);
    assert_eq!((codes(&guard, "eu", "r1"), codes(&guard, "eu", "r0")), (vec![], vec!["locked"]));
    // From what it went back to, to what is known to be bad.
    assert_eq!(go(&mut guard, "r1", "r2", "q2").unwrap().without_exception, eu);
    for release in ["r1", "r2"] {
        assert_eq!(codes(&guard, "eu", release), ["quarantined", "locked"]);
    }
}

#[test]
fn a_rollback_opens_no_lock_and_forgets_none() {
    let mut guard = Guard::default();
    guard.lock("eu", incident(1), Some(at(7)));
    let back = |guard: &mut Guard, from: &str, to: &str| {
        guard.rollback(&["eu".to_owned()], from, to, from, &act("ben", 3, "slow")).unwrap().without_exception
    };
    assert_eq!(back(&mut guard, "r2", "r1"), ["eu"]);
    assert_eq!(codes(&guard, "eu", "r1"), ["locked"]);
    let lock = guard.regions["eu"].lock.clone().unwrap();
    assert_eq!(lock.acts.iter().map(|act| act.by.as_str()).collect::<Vec<_>>(), ["ana", "ben"]);
    assert_eq!(lock.remind_at, Some(at(7)));
    // A second lock has its say, and its reminder; the same said again does not.
    assert!(!guard.lock("eu", act("cem", 4, "audit"), Some(at(9))));
    assert!(!guard.lock("eu", act("cem", 5, "audit"), None));
    let lock = guard.regions["eu"].lock.clone().unwrap();
    assert_eq!((lock.acts.len(), lock.acts[2].at, lock.remind_at), (3, at(4), Some(at(9))));
    for nth in 0..40 {
        guard.lock("eu", act("cem", 5, &nth.to_string()), None);
    }
    let lock = guard.regions["eu"].lock.clone().unwrap();
    assert_eq!((lock.acts.len(), lock.acts[9].reason.as_str()), (MAX_ACTS, "39"));
}

#[test]
fn an_override_excuses_nothing_that_came_after_it() {
    let mut guard = Guard::default();
    let bad = |id: &str, bad: Bad, s: i64, guard: &mut Guard| {
        let new = Quarantine { bad, regions: BTreeSet::new(), act: act("ana", s, "slow") };
        guard.quarantine(id, new).unwrap();
    };
    let given = |s: i64| Override {
        id: s.to_string(),
        region: "eu".into(),
        subject: Subject::Release("r1".into()),
        by: "ben".into(),
        at: at(s),
        expires: at(100),
    };
    let cells = [carries("cache")].into();
    let asked = Asked { application: "shop", region: "eu", release: "r1", cells: &cells, mode: Mode::Gate };
    bad("q1", Bad::Release("r1".into()), 1, &mut guard);
    let word = guard.word(&asked, &[given(1)], at(10));
    assert_eq!((word.holds.len(), word.overridden.map(|o| o.id)), (0, Some("1".into())));
    let held = guard.word(&asked, &[], at(10)).holds.remove(0);
    assert!(held.fix.unwrap().contains("preflight release lift q1 --application shop"));
    // Something else is wrong with it by now.
    bad("q2", bad_cell("cache"), 2, &mut guard);
    let word = guard.word(&asked, &[given(1)], at(10));
    assert_eq!((word.holds.len(), word.overridden), (2, None));
    assert!(word.holds[0].text.contains("(q2); the override by ben was given before that"), "{}", word.holds[0].text);
    assert!(word.holds[0].fix.as_ref().unwrap().contains("preflight release lift ID --application shop"));
    assert_eq!(word.holds[0].fix, word.holds[1].fix, "one remedy for both");
    assert!(guard.word(&asked, &[given(1), given(2)], at(10)).holds.is_empty());
    // The same said again is said anew.
    bad("q3", Bad::Release("r1".into()), 3, &mut guard);
    assert_eq!(guard.quarantines.len(), 2);
    assert_eq!(guard.word(&asked, &[given(1), given(2)], at(10)).holds.len(), 2);
}

#[test]
fn an_unlock_for_what_is_unlocked_already_changes_nothing() {
    let mut guard = Guard::default();
    for region in ["eu", "us"] {
        guard.announce(region, candidate("r1", None));
        guard.lock(region, incident(0), None);
    }
    let one = unlock(&[("eu", "r1")], Unready::Refuse);
    assert_eq!(guard.unlock(&one, &Carries::new(), &[]).unwrap().unlocked, ["eu"]);
    // Its pipeline has gone on to another one, which does not ship first.
    guard.announce("eu", candidate("r2", None));
    let both = unlock(&[("eu", "r1"), ("us", "r1")], Unready::Refuse);
    let done = guard.unlock(&both, &Carries::new(), &[]).unwrap();
    assert_eq!((done.unlocked, done.open), (vec!["us".to_owned()], vec!["eu".to_owned()]));
    let done = guard.unlock(&unlock(&[("eu", "r2"), ("au", "r2")], Unready::Leave), &Carries::new(), &[]).unwrap();
    assert_eq!((done.unlocked, done.open, done.left.len()), (vec!["eu".to_owned()], vec!["au".to_owned()], 0));
    // Asked once more, it is as it was; where nothing is ready, nobody is told that it is done.
    guard.lock("us", incident(0), None);
    let again = unlock(&[("us", "r2"), ("au", "r2"), ("eu", "r2")], Unready::Leave);
    let done = guard.unlock(&again, &Carries::new(), &[]).unwrap();
    assert_eq!((done.unlocked.len(), done.open, done.left.len()), (0, vec!["au".to_owned(), "eu".to_owned()], 1));
    let none = unlock(&[("us", "r2"), ("au", "r2")], Unready::Leave);
    assert!(guard.unlock(&none, &Carries::new(), &[]).unwrap_err().regions.contains_key("us"));
}

#[test]
fn candidates_alone_hold_back_nothing() {
    let mut guard = Guard::default();
    guard.lock("eu", incident(0), None);
    let before = guard.clone();
    guard.announce("eu", candidate("r1", None));
    guard.announce("us", candidate("r1", None));
    assert!(guard.holds_alike(&before));
    guard.lock("eu", act("ben", 1, "audit"), None);
    assert!(!guard.holds_alike(&before));
    let mut named = before.clone();
    named.unlock(&unlock(&[("eu", "r1")], Unready::Confirmed), &Carries::new(), &[]).unwrap();
    assert!(!named.holds_alike(&before));
}

#[test]
fn the_words_say_who_why_since_when_and_what_to_do() {
    let mut guard = Guard::default();
    let due = Some(at(5));
    guard.lock("eu", incident(0), due);
    guard.lock("eu", act("ben", 1, "audit"), None);
    let cells = BTreeSet::new();
    let asked = Asked { application: "shop", region: "eu", release: "r1", cells: &cells, mode: Mode::Gate };
    let hold = guard.word(&asked, &[], at(10)).holds.remove(0);
    assert_eq!(
        hold.text,
        "eu has been locked by ana since 2025-03-26T14:40:00Z: an incident; and by ben since 2025-03-26T14:40:01Z: audit; a look whether that is still needed was due at 2025-03-26T14:40:05Z"
    );
    assert!(hold.fix.unwrap().contains("preflight unlock --application shop --region eu --release r1"));
    assert!(!guard.word(&asked, &[], at(4)).holds[0].text.contains("was due at"));
}

/// What several people and pipelines do, in any order.
#[derive(Debug, Clone)]
enum Deed {
    Candidate { region: usize, release: usize },
    Deployed { region: usize, release: usize },
    Rollback { region: usize, from: usize, to: usize },
    Quarantine { release: usize, region: Option<usize> },
    QuarantineCell { cell: usize },
    Lift { nth: usize },
    Lock { region: usize },
    Unlock { regions: Vec<usize>, releases: Vec<usize>, unready: Unready },
    Override { region: usize, subject: Result<usize, usize>, lasts: i64 },
    Withdraw { nth: usize },
    Wait { s: i64 },
}

const REGIONS: [&str; 3] = ["eu", "us", "au"];
const RELEASES: [&str; 4] = ["r0", "r1", "r2", "r3"];
/// Each release carries the cell of its number, and the one before it.
const CELLS: [&str; 4] = ["c0", "c1", "c2", "c3"];

fn carried(release: usize) -> BTreeSet<Carried> {
    [carries(CELLS[release]), carries(CELLS[release.saturating_sub(1)])].into()
}

fn deed() -> impl Strategy<Value = Deed> {
    let (region, release) = (0..REGIONS.len(), 0..RELEASES.len());
    let unready = prop_oneof![Just(Unready::Refuse), Just(Unready::Leave), Just(Unready::Confirmed)];
    prop_oneof![
        4 => (region.clone(), release.clone()).prop_map(|(region, release)| Deed::Candidate { region, release }),
        3 => (region.clone(), release.clone()).prop_map(|(region, release)| Deed::Deployed { region, release }),
        1 => (region.clone(), release.clone(), release.clone())
            .prop_map(|(region, from, to)| Deed::Rollback { region, from, to }),
        1 => (release.clone(), proptest::option::of(region.clone()))
            .prop_map(|(release, region)| Deed::Quarantine { release, region }),
        1 => (0..CELLS.len()).prop_map(|cell| Deed::QuarantineCell { cell }),
        1 => (0..4_usize).prop_map(|nth| Deed::Lift { nth }),
        2 => region.clone().prop_map(|region| Deed::Lock { region }),
        4 => (proptest::collection::vec(region.clone(), 1..4), proptest::collection::vec(release.clone(), 3), unready)
            .prop_map(|(regions, releases, unready)| Deed::Unlock { regions, releases, unready }),
        2 => (region, prop_oneof![release.prop_map(Ok), (0..CELLS.len()).prop_map(Err)], 1..30_i64)
            .prop_map(|(region, subject, lasts)| Deed::Override { region, subject, lasts }),
        1 => (0..4_usize).prop_map(|nth| Deed::Withdraw { nth }),
        1 => (1..20_i64).prop_map(|s| Deed::Wait { s }),
    ]
}

/// What is bad in the model: a release or a cell, in one region or everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Evil {
    Release(usize, Option<usize>),
    Cell(usize),
}

/// Somebody answers for a release (`Ok`) or a cell (`Err`) in a region.
#[derive(Debug, Clone, Copy)]
struct Answer {
    region: usize,
    subject: Result<usize, usize>,
    since: i64,
    until: i64,
}

/// The guard as one would tell it: who may ship next, and what is bad.
#[derive(Debug, Default)]
struct Model {
    candidate: HashMap<usize, usize>,
    /// Locked, with the release that may pass.
    locked: HashMap<usize, Option<usize>>,
    /// The one that an unlock named, until it has shipped.
    named: HashMap<usize, usize>,
    /// What is bad, who said so and why, and since when.
    bad: Vec<(Evil, String, i64)>,
    answers: Vec<Answer>,
    now: i64,
}

impl Model {
    /// The same by the same person for the same reason is said anew, and else beside the others.
    fn is_said_to_be_bad(&mut self, evil: Evil, by: &Act, words: &str) {
        let says = format!("{}: {words}{}", by.by, by.reason);
        let now = self.now;
        match self.bad.iter_mut().find(|(known, said, _)| *known == evil && *said == says) {
            Some((.., since)) => *since = now,
            None => self.bad.push((evil, says, now)),
        }
    }

    /// Since when it is known to be bad, by what was said last.
    fn bad_since(&self, region: usize, release: usize, by_cells: bool) -> Option<i64> {
        let counts = |evil: Evil| match evil {
            Evil::Release(bad, place) => bad == release && place.is_none_or(|place| place == region),
            Evil::Cell(cell) => by_cells && carried(release).contains(&carries(CELLS[cell])),
        };
        self.bad.iter().filter(|(evil, ..)| counts(*evil)).map(|(.., since)| *since).max()
    }

    fn is_bad(&self, region: usize, release: usize, by_cells: bool) -> bool {
        self.bad_since(region, release, by_cells).is_some()
    }

    fn answered(&self, region: usize, subject: Result<usize, usize>, since: i64) -> bool {
        self.answers
            .iter()
            .any(|a| a.region == region && a.subject == subject && a.since >= since && a.until > self.now)
    }

    /// Whether it must not ship since it is bad.
    fn stopped(&self, region: usize, release: usize, by_cells: bool) -> bool {
        self.bad_since(region, release, by_cells).is_some_and(|since| !self.answered(region, Ok(release), since))
    }

    /// With a verdict of pass, or one in which the cells named fail.
    fn may_ship(&self, region: usize, release: usize, failing: &[usize]) -> bool {
        let locked = self.locked.get(&region).is_some_and(|except| *except != Some(release));
        let named = self.named.get(&region).is_some_and(|named| *named != release);
        let shown = failing.iter().all(|cell| self.answered(region, Err(*cell), 0));
        !self.stopped(region, release, true) && !locked && !named && shown
    }

    /// As the guard is given them.
    fn overrides(&self) -> Vec<Override> {
        let given = |(nth, answer): (usize, &Answer)| Override {
            id: nth.to_string(),
            region: REGIONS[answer.region].into(),
            subject: match answer.subject {
                Ok(release) => Subject::Release(RELEASES[release].into()),
                Err(cell) => Subject::Cell(digest(CELLS[cell])),
            },
            by: "ana".into(),
            at: at(answer.since),
            expires: at(answer.until),
        };
        self.answers.iter().enumerate().map(given).collect()
    }

    /// What an unlock does: the regions that are unlocked, or none for a refusal.
    fn unlocks(&self, expected: &BTreeMap<usize, usize>, unready: Unready) -> Option<BTreeSet<usize>> {
        let held = |region: &usize| self.locked.contains_key(region) || self.named.contains_key(region);
        let ready = |region: &usize, release: &usize| {
            self.candidate.get(region) == Some(release) && !self.stopped(*region, *release, true)
        };
        // Where that very release is the one to come, there is nothing left to do.
        let open: Vec<(&usize, &usize)> =
            expected.iter().filter(|(region, release)| self.named.get(region) != Some(release)).collect();
        let (able, not): (Vec<_>, Vec<_>) =
            open.iter().copied().partition(|(region, release)| unready == Unready::Confirmed || ready(region, release));
        let able: BTreeSet<usize> = able.into_iter().map(|(region, _)| *region).filter(|region| held(region)).collect();
        let wrong: Vec<usize> = not.into_iter().map(|(region, _)| *region).collect();
        let wrong_and_held = wrong.iter().any(held);
        let ships = |regions: &BTreeSet<usize>| {
            regions.iter().filter_map(|region| self.candidate.get(region)).collect::<BTreeSet<_>>().len()
        };
        let refused = match unready {
            Unready::Confirmed => false,
            Unready::Refuse => !wrong.is_empty() || ships(&able) > 1,
            Unready::Leave => ships(&able) > 1 || (able.is_empty() && open.len() == expected.len() && wrong_and_held),
        };
        (!refused).then_some(able)
    }
}

/// Lifts one of the quarantines that there are.
fn lift(nth: usize, guard: &mut Guard, model: &mut Model) {
    let Some(id) = guard.quarantines.keys().nth(nth).cloned() else { return };
    let what = guard.lift(&id).unwrap();
    let evil = match &what.bad {
        Bad::Release(bad) => {
            let place = what.regions.first().map(|region| REGIONS.iter().position(|name| name == region).unwrap());
            Evil::Release(RELEASES.iter().position(|name| name == bad).unwrap(), place)
        }
        Bad::Cell { digest: bad, .. } => Evil::Cell(CELLS.iter().position(|name| digest(name) == *bad).unwrap()),
    };
    let says = format!("{}: {}", what.act.by, what.act.reason);
    let is_it =
        |(known, said, since): &(Evil, String, i64)| *known == evil && *said == says && at(*since) == what.act.at;
    let nth = model.bad.iter().position(is_it).unwrap();
    model.bad.remove(nth);
}

/// Does it to both; a deed that the guard refuses must leave it as it was, and what it grants must have been right to grant.
fn perform(deed: &Deed, guard: &mut Guard, model: &mut Model, nth: usize) {
    let owned = |region: usize| REGIONS[region].to_owned();
    let before = guard.clone();
    let who = act(["ana", "ben"][nth % 2], model.now, ["slow", "lossy"][nth / 2 % 2]);
    match *deed {
        Deed::Candidate { region, release } => {
            guard.announce(REGIONS[region], candidate(RELEASES[release], Some(RELEASES[release])));
            model.candidate.insert(region, release);
        }
        Deed::Deployed { region, release } => {
            guard.deployed(REGIONS[region], RELEASES[release]);
            if model.named.get(&region) == Some(&release) {
                model.named.remove(&region);
            }
        }
        Deed::Rollback { region, from, to } => {
            let done = guard.rollback(&[owned(region)], RELEASES[from], RELEASES[to], &format!("q{nth}"), &who);
            assert_eq!(done.is_ok(), from != to, "{deed:?}");
            if let Ok(done) = done {
                let words = format!("rolled back to {}: ", RELEASES[to]);
                model.is_said_to_be_bad(Evil::Release(from, None), &who, &words);
                let open = model.locked.get(&region).is_none_or(Option::is_some) && !model.is_bad(region, to, false);
                model.locked.insert(region, open.then_some(to));
                model.named.remove(&region);
                assert_eq!(done.without_exception.is_empty(), open, "{deed:?}");
            }
        }
        Deed::Quarantine { release, region } => {
            let bad = Bad::Release(RELEASES[release].into());
            let regions = region.map(owned).into_iter().collect();
            guard.quarantine(&format!("q{nth}"), Quarantine { bad, regions, act: who.clone() }).unwrap();
            model.is_said_to_be_bad(Evil::Release(release, region), &who, "");
        }
        Deed::QuarantineCell { cell } => {
            let bad = bad_cell(CELLS[cell]);
            let new = Quarantine { bad, regions: BTreeSet::new(), act: who.clone() };
            guard.quarantine(&format!("q{nth}"), new).unwrap();
            model.is_said_to_be_bad(Evil::Cell(cell), &who, "");
        }
        Deed::Lift { nth } => lift(nth, guard, model),
        Deed::Lock { region } => {
            let new = guard.lock(REGIONS[region], who.clone(), Some(at(model.now)));
            assert_eq!(new, !model.locked.contains_key(&region));
            model.locked.insert(region, None);
            model.named.remove(&region);
        }
        Deed::Unlock { ref regions, ref releases, unready } => {
            let expected: BTreeMap<usize, usize> =
                regions.iter().map(|region| (*region, releases[*region % releases.len()])).collect();
            let named = |(region, release): (&usize, &usize)| (owned(*region), RELEASES[*release].to_owned());
            let wanted =
                Unlock { expected: expected.iter().map(named).collect(), unready, act: act("ben", model.now, "sure") };
            let everything =
                (0..REGIONS.len()).flat_map(|region| (0..RELEASES.len()).map(move |release| (region, release)));
            let carries = everything
                .map(|(region, release)| ((owned(region), RELEASES[release].to_owned()), carried(release)))
                .collect();
            let right = model.unlocks(&expected, unready);
            let done = guard.unlock(&wanted, &carries, &model.overrides());
            assert_eq!(done.is_ok(), right.is_some(), "{deed:?} {done:?}");
            let Ok(done) = done else {
                assert_eq!(*guard, before, "a refusal changes nothing");
                return;
            };
            let unlocked: BTreeSet<usize> =
                done.unlocked.iter().map(|region| REGIONS.iter().position(|name| name == region).unwrap()).collect();
            assert_eq!(Some(&unlocked), right.as_ref(), "{deed:?}");
            if unready != Unready::Confirmed {
                let ships: BTreeSet<Option<&usize>> =
                    unlocked.iter().map(|region| model.candidate.get(region)).collect();
                assert!(ships.len() <= 1, "what is unlocked together ships the same: {deed:?} {done:?}");
                assert!(unlocked.iter().all(|region| model.candidate[region] == expected[region]), "{deed:?}");
            }
            for region in unlocked {
                model.locked.remove(&region);
                model.named.insert(region, expected[&region]);
            }
        }
        Deed::Override { region, subject, lasts } => {
            model.answers.push(Answer { region, subject, since: model.now, until: model.now + lasts });
        }
        Deed::Withdraw { nth } => {
            if nth < model.answers.len() {
                model.answers.remove(nth);
            }
        }
        Deed::Wait { s } => model.now += s,
    }
}

proptest! {
    /// Whatever several actors do: a gate proceeds where the model lets it, and nowhere else.
    #[test]
    fn what_ships_is_what_the_model_lets_ship(deeds in proptest::collection::vec(deed(), 0..40)) {
        let (mut guard, mut model) = (Guard::default(), Model::default());
        for (nth, deed) in deeds.iter().enumerate() {
            perform(deed, &mut guard, &mut model, nth);
            // What is stored and read again is the same guard.
            let text = serde_json::to_string(&guard).unwrap();
            prop_assert_eq!(&guard, &serde_json::from_str::<Guard>(&text).unwrap());
            let overrides = model.overrides();
            for (region, name) in REGIONS.iter().enumerate() {
                for (release, called) in RELEASES.iter().enumerate() {
                    let cells = carried(release);
                    let proceeds = |mode: Mode, failing: &[usize]| {
                        let asked = Asked { application: "shop", region: name, release: called, cells: &cells, mode };
                        let word = guard.word(&asked, &overrides, at(model.now));
                        let blocking = failing.iter().map(|cell| digest(CELLS[*cell])).collect();
                        let state = if failing.is_empty() { State::Pass } else { State::Fail };
                        let given = Given { region: name, state, blocking: &blocking, held: false, mode };
                        decide(&given, word, &overrides, at(model.now)).proceed
                    };
                    let back = !model.stopped(region, release, false);
                    for failing in [&[][..], &[release]] {
                        let may = model.may_ship(region, release, failing);
                        prop_assert_eq!(proceeds(Mode::Gate, failing), may, "{} {} {:?}", name, release, failing);
                        prop_assert_eq!(proceeds(Mode::Advisory, failing), may);
                        prop_assert_eq!(proceeds(Mode::Rollback, failing), back, "what is seen holds up no rollback");
                    }
                }
            }
        }
    }
}

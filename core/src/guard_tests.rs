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

fn lock_of(s: i64) -> Lock {
    Lock { act: act("ana", s, "an incident"), remind_at: None, except: None }
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

fn ask(guard: &Guard, region: &str, release: &str, cells: &[&str], mode: Mode) -> Vec<&'static str> {
    let cells = cells.iter().map(|name| digest(name)).collect();
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
    for region in regions {
        assert_eq!(guard.lock(region, lock_of(2)), region != "eu", "{region}");
    }
    assert_eq!(codes(&guard, "us", "broken"), ["quarantined", "locked"]);
    assert_eq!(codes(&guard, "eu", "good"), [""; 0], "eu is locked for all but what it goes back to");
    assert_eq!(codes(&guard, "us", "good"), ["locked"]);

    // The revert is ready in two of the regions.
    guard.announce("us", candidate("revert", None));
    guard.announce("au", candidate("revert", None));
    let before = guard.clone();
    let all = unlock(&regions.map(|region| (region, "revert")), Unready::Refuse);
    let refused = guard.unlock(&all, &BTreeMap::new()).unwrap_err();
    assert_eq!(guard, before);
    assert!(refused.differ);
    assert_eq!(refused.regions, [("eu".to_owned(), vec![NotReady::OtherCandidate("broken".into())])].into());
    // Who names what would ship there is told that it is bad.
    let refused = guard.unlock(&unlock(&[("eu", "broken")], Unready::Refuse), &BTreeMap::new()).unwrap_err();
    assert_eq!(refused.regions["eu"], [NotReady::Quarantined(vec!["q1".into()])]);

    let ready = Unlock { unready: Unready::Leave, ..all.clone() };
    let done = guard.unlock(&ready, &BTreeMap::new()).unwrap();
    assert_eq!(done.unlocked, ["au", "us"]);
    assert_eq!(done.left.keys().collect::<Vec<_>>(), ["eu"]);
    assert_eq!(codes(&guard, "us", "revert"), [""; 0]);
    assert_eq!(codes(&guard, "us", "another"), ["not_named"], "the first to ship is the one that was named");
    guard.deployed("us", "revert");
    assert_eq!(codes(&guard, "us", "another"), [""; 0], "from then on pipelines run as they like");
    assert_eq!(codes(&guard, "us", "broken"), ["quarantined"]);

    guard.announce("eu", candidate("revert", None));
    assert_eq!(guard.unlock(&all, &BTreeMap::new()).unwrap().unlocked, ["au", "eu"]);
    assert_eq!(codes(&guard, "eu", "revert"), [""; 0]);
    assert_eq!(codes(&guard, "eu", "broken"), ["quarantined", "not_named"]);
}

#[test]
fn a_cell_is_caught_whichever_release_carries_it() {
    let mut guard = Guard::default();
    let bad = Bad::Cell { digest: digest("cache"), name: "eu/web/cache".into() };
    let quarantine = Quarantine { bad, regions: BTreeSet::new(), act: act("ana", 0, "no path") };
    assert_eq!(guard.quarantine("q1", quarantine.clone()), Ok("q1".into()));
    assert_eq!(guard.quarantine("q2", quarantine), Ok("q1".into()), "said once");
    assert_eq!(ask(&guard, "eu", "r2", &["cache", "db"], Mode::Gate), ["quarantined"]);
    assert_eq!(ask(&guard, "eu", "r2", &["cache"], Mode::Advisory), ["quarantined"]);
    assert_eq!(ask(&guard, "eu", "r2", &["db"], Mode::Gate), [""; 0]);
    assert_eq!(ask(&guard, "eu", "r2", &["cache"], Mode::Rollback), [""; 0], "r2 itself is not quarantined");

    guard.lock("eu", lock_of(1));
    guard.announce("eu", candidate("r2", Some("run")));
    // An announcement without a run is of what the run before it showed.
    guard.announce("eu", candidate("r2", None));
    let carries = [("run".to_owned(), [digest("cache")].into())].into();
    let refused = guard.unlock(&unlock(&[("eu", "r2")], Unready::Refuse), &carries).unwrap_err();
    assert_eq!(refused.regions["eu"], [NotReady::Quarantined(vec!["q1".into()])]);
    guard.announce("eu", candidate("r3", None));
    assert!(guard.unlock(&unlock(&[("eu", "r3")], Unready::Refuse), &carries).is_ok());
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
    assert_eq!(guard.quarantine("q2", of(&[])), Ok("q2".into()), "that of eu says less");
    assert_eq!(codes(&guard, "us", "r1"), ["quarantined"]);
    assert_eq!(guard.quarantine("q3", of(&["us", "au"])), Ok("q2".into()));
}

#[test]
fn a_rollback_goes_to_another_release_that_is_not_bad() {
    let mut guard = Guard::default();
    let eu = ["eu".to_owned()];
    let go = |guard: &mut Guard, from, to| guard.rollback(&eu, from, to, "q", &act("ana", 0, "slow"));
    assert_eq!(go(&mut guard, "r2", "r2"), Err(GuardError::SameRelease("r2".into())));
    go(&mut guard, "r2", "r1").unwrap();
    let before = guard.clone();
    assert!(matches!(go(&mut guard, "r1", "r2"), Err(GuardError::ToQuarantined { .. })));
    assert_eq!(guard, before);
    assert_eq!(ask(&guard, "eu", "r2", &[], Mode::Rollback), ["quarantined"]);
    assert_eq!(ask(&guard, "eu", "r0", &[], Mode::Rollback), [""; 0]);
}

#[test]
fn the_words_say_who_why_since_when_and_what_to_do() {
    let mut guard = Guard::default();
    let due = Some(at(5));
    guard.lock("eu", Lock { remind_at: due, ..lock_of(0) });
    let cells = BTreeSet::new();
    let asked = Asked { application: "shop", region: "eu", release: "r1", cells: &cells, mode: Mode::Gate };
    let hold = guard.word(&asked, &[], at(10)).holds.remove(0);
    assert_eq!(
        hold.text,
        "eu has been locked by ana since 2025-03-26T14:40:00Z: an incident; whether that is still needed was to be looked at by 2025-03-26T14:40:05Z"
    );
    assert!(hold.fix.unwrap().contains("preflight unlock --application shop --region eu --release r1"));
    assert!(!guard.word(&asked, &[], at(4)).holds[0].text.contains("looked at"));
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
    Override { region: usize, release: usize, lasts: i64 },
    Wait { s: i64 },
}

const REGIONS: [&str; 3] = ["eu", "us", "au"];
const RELEASES: [&str; 4] = ["r0", "r1", "r2", "r3"];
/// Each release carries the cell of its number, and the one before it.
const CELLS: [&str; 4] = ["c0", "c1", "c2", "c3"];

fn carried(release: usize) -> BTreeSet<CellDigest> {
    [digest(CELLS[release]), digest(CELLS[release.saturating_sub(1)])].into()
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
        1 => (region, release, 1..30_i64).prop_map(|(region, release, lasts)| Deed::Override { region, release, lasts }),
        1 => (1..20_i64).prop_map(|s| Deed::Wait { s }),
    ]
}

/// What is bad in the model: a release or a cell, in one region or everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Evil {
    Release(usize, Option<usize>),
    Cell(usize),
}

/// The guard as one would tell it: who may ship next, and what is bad.
#[derive(Debug, Default)]
struct Model {
    candidate: HashMap<usize, usize>,
    ever_deployed: BTreeSet<(usize, usize)>,
    /// Locked, with the release that may pass.
    locked: HashMap<usize, Option<usize>>,
    /// The one that an unlock named, until it has shipped.
    named: HashMap<usize, usize>,
    bad: Vec<Evil>,
    overrides: Vec<(usize, usize, i64)>,
    now: i64,
}

impl Model {
    fn is_bad(&self, region: usize, release: usize, by_cells: bool) -> bool {
        self.bad.iter().any(|evil| match *evil {
            Evil::Release(bad, place) => bad == release && place.is_none_or(|place| place == region),
            Evil::Cell(cell) => by_cells && carried(release).contains(&digest(CELLS[cell])),
        })
    }

    fn excused(&self, region: usize, release: usize) -> bool {
        self.overrides.iter().any(|o| o.0 == region && o.1 == release && o.2 > self.now)
    }

    fn may_ship(&self, region: usize, release: usize) -> bool {
        let bad = self.is_bad(region, release, true) && !self.excused(region, release);
        let locked = self.locked.get(&region).is_some_and(|except| *except != Some(release));
        let named = self.named.get(&region).is_some_and(|named| *named != release);
        !bad && !locked && !named
    }

    fn may_go_back(&self, region: usize, release: usize) -> bool {
        !self.is_bad(region, release, false) || self.excused(region, release)
    }
}

/// Lifts one of the quarantines that there are. What it covered was never kept beside it.
fn lift(nth: usize, guard: &mut Guard, model: &mut Model) {
    let Some((id, what)) = guard.quarantines.iter().nth(nth).map(|(id, q)| (id.clone(), q.clone())) else { return };
    guard.lift(&id).unwrap();
    let covers = |quarantine: &Quarantine, place: Option<usize>| {
        quarantine.regions.is_empty() || place.is_some_and(|place| quarantine.regions.contains(REGIONS[place]))
    };
    model.bad.retain(|evil| match (&what.bad, evil) {
        (Bad::Release(bad), Evil::Release(release, place)) => {
            let kept = guard.quarantines.values().any(|other| other.bad == what.bad && covers(other, *place));
            bad != RELEASES[*release] || !covers(&what, *place) || kept
        }
        (Bad::Cell { digest: bad, .. }, Evil::Cell(cell)) => *bad != digest(CELLS[*cell]),
        (Bad::Release(_), Evil::Cell(_)) | (Bad::Cell { .. }, Evil::Release(..)) => true,
    });
}

/// Does it to both; a deed that the guard refuses must leave it as it was, and what it grants must have been right to grant.
fn perform(deed: &Deed, guard: &mut Guard, model: &mut Model, nth: usize) {
    let owned = |region: usize| REGIONS[region].to_owned();
    let before = guard.clone();
    match *deed {
        Deed::Candidate { region, release } => {
            guard.announce(REGIONS[region], candidate(RELEASES[release], Some(RELEASES[release])));
            model.candidate.insert(region, release);
        }
        Deed::Deployed { region, release } => {
            guard.deployed(REGIONS[region], RELEASES[release]);
            model.ever_deployed.insert((region, release));
            if model.named.get(&region) == Some(&release) {
                model.named.remove(&region);
            }
        }
        Deed::Rollback { region, from, to } => {
            let id = format!("q{nth}");
            let by = act("ana", model.now, "slow");
            let done = guard.rollback(&[owned(region)], RELEASES[from], RELEASES[to], &id, &by);
            assert_eq!(done.is_ok(), from != to && !model.is_bad(region, to, false), "{deed:?}");
            if done.is_ok() {
                model.bad.push(Evil::Release(from, None));
                model.locked.insert(region, Some(to));
                model.named.remove(&region);
            }
        }
        Deed::Quarantine { release, region } => {
            let bad = Bad::Release(RELEASES[release].into());
            let regions = region.map(owned).into_iter().collect();
            guard.quarantine(&format!("q{nth}"), Quarantine { bad, regions, act: act("ana", 0, "slow") }).unwrap();
            model.bad.push(Evil::Release(release, region));
        }
        Deed::QuarantineCell { cell } => {
            let bad = Bad::Cell { digest: digest(CELLS[cell]), name: CELLS[cell].into() };
            let new = Quarantine { bad, regions: BTreeSet::new(), act: act("ana", 0, "slow") };
            guard.quarantine(&format!("q{nth}"), new).unwrap();
            model.bad.push(Evil::Cell(cell));
        }
        Deed::Lift { nth } => lift(nth, guard, model),
        Deed::Lock { region } => {
            let lock = Lock { act: act("ana", model.now, "stop"), remind_at: Some(at(model.now)), except: None };
            let new = guard.lock(REGIONS[region], lock);
            assert_eq!(new, !model.locked.contains_key(&region));
            if new {
                model.locked.insert(region, None);
                model.named.remove(&region);
            }
        }
        Deed::Unlock { ref regions, ref releases, unready } => {
            let expected: BTreeMap<usize, usize> =
                regions.iter().map(|region| (*region, releases[*region % releases.len()])).collect();
            let wanted = Unlock {
                expected: expected
                    .iter()
                    .map(|(region, release)| (owned(*region), RELEASES[*release].into()))
                    .collect(),
                unready,
                act: act("ben", model.now, "sure"),
            };
            let carries = (0..RELEASES.len()).map(|release| (RELEASES[release].to_owned(), carried(release))).collect();
            let ready = |(region, release): (&usize, &usize)| {
                model.candidate.get(region) == Some(release) && !model.is_bad(*region, *release, true)
            };
            let Ok(done) = guard.unlock(&wanted, &carries) else {
                assert_eq!(*guard, before, "a refusal changes nothing");
                assert_ne!(unready, Unready::Confirmed, "somebody answers for it");
                let able: Vec<(&usize, &usize)> = expected.iter().filter(|pair| ready(*pair)).collect();
                let ships: BTreeSet<&usize> = able.iter().map(|(_, release)| *release).collect();
                let one = ships.len() == 1 && (unready == Unready::Leave || able.len() == expected.len());
                assert!(!one, "without a reason: {deed:?}");
                return;
            };
            let unlocked: Vec<(&usize, &usize)> =
                expected.iter().filter(|(region, _)| done.unlocked.contains(&owned(**region))).collect();
            if unready != Unready::Confirmed {
                assert!(unlocked.iter().all(|(region, release)| ready((region, release))), "{deed:?} {done:?}");
                let ships: BTreeSet<&usize> = unlocked.iter().map(|(_, release)| *release).collect();
                assert!(ships.len() <= 1, "{deed:?} {done:?}");
            }
            for (region, release) in unlocked {
                assert!(model.locked.contains_key(region) || model.named.contains_key(region));
                model.locked.remove(region);
                model.named.insert(*region, *release);
            }
        }
        Deed::Override { region, release, lasts } => model.overrides.push((region, release, model.now + lasts)),
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
            let overrides: Vec<Override> = model.overrides.iter().enumerate().map(|(nth, o)| Override {
                id: nth.to_string(),
                region: REGIONS[o.0].into(),
                subject: Subject::Release(RELEASES[o.1].into()),
                by: "ana".into(),
                at: at(0),
                expires: at(o.2),
            }).collect();
            for (region, name) in REGIONS.iter().enumerate() {
                for (release, called) in RELEASES.iter().enumerate() {
                    let cells = carried(release);
                    let proceeds = |mode: Mode| {
                        let asked = Asked { application: "shop", region: name, release: called, cells: &cells, mode };
                        let word = guard.word(&asked, &overrides, at(model.now));
                        let blocking = BTreeSet::new();
                        let given = Given { region: name, state: State::Pass, blocking: &blocking, held: false, mode };
                        decide(&given, word, &overrides, at(model.now)).proceed
                    };
                    prop_assert_eq!(proceeds(Mode::Gate), model.may_ship(region, release), "{} {}", name, release);
                    prop_assert_eq!(proceeds(Mode::Advisory), model.may_ship(region, release));
                    prop_assert_eq!(proceeds(Mode::Rollback), model.may_go_back(region, release));
                }
            }
        }
    }
}

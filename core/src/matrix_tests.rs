//! The table of the verdict rule, row by row, and [`fold`] against a plain model of it.

use proptest::prelude::*;

use super::*;

const WEB: &str = "security_group=sg-web";
const OTHER: &str = "security_group=sg-other";
const SHORT: Answer = Answer::Given(Outcome::Short(Short::ConnectTimeout));
const OK: Answer = Answer::Given(Outcome::Ok);
const VOID: Answer = Answer::Given(Outcome::Void(Void::LocalResources));

fn key(text: &str) -> IdentityKey {
    IdentityKey(text.to_owned())
}

fn roster(agents: &[(&str, &str, Presence)]) -> Vec<Candidate> {
    agents
        .iter()
        .map(|(agent, k, presence)| Candidate { agent: (*agent).into(), key: key(k), presence: *presence })
        .collect()
}

fn fleet(names: &[&str]) -> Vec<Candidate> {
    roster(&names.iter().map(|name| (*name, WEB, Presence::Connected)).collect::<Vec<_>>())
}

fn answers(given: &[(&str, &str, Answer)]) -> BTreeMap<String, Asked> {
    given.iter().map(|(agent, k, answer)| ((*agent).to_owned(), Asked { key: key(k), answer: *answer })).collect()
}

fn web(given: &[(&str, Answer)]) -> BTreeMap<String, Asked> {
    answers(&given.iter().map(|(agent, answer)| (*agent, WEB, *answer)).collect::<Vec<_>>())
}

#[test]
fn a_fleet_without_agents_is_unknown() {
    let folded = fold(2, false, &[], &BTreeMap::new());
    assert_eq!((folded.state, folded.why), (State::Unknown, Some(Why::Unknown(Unknown::NoAgent))));
    assert!(folded.settled());
}

#[test]
fn a_fleet_whose_agents_are_all_lost_is_silent_at_once() {
    let folded = fold(2, false, &roster(&[("a", WEB, Presence::Lost)]), &BTreeMap::new());
    assert_eq!((folded.state, folded.why), (State::Unknown, Some(Why::Unknown(Unknown::Silent))));
    assert!(folded.settled());
}

#[test]
fn asks_one_more_than_must_be_ok_and_one_of_each_identity() {
    assert_eq!(fold(2, false, &fleet(&["a", "b", "c", "d"]), &BTreeMap::new()).ask.len(), 3);
    let many: Vec<(String, String)> = (0..6).map(|i| (format!("a{i}"), format!("subnet={i}"))).collect();
    let many: Vec<_> = many.iter().map(|(a, k)| (a.as_str(), k.as_str(), Presence::Connected)).collect();
    assert_eq!(fold(2, false, &roster(&many), &BTreeMap::new()).ask.len(), 6);
}

#[test]
fn connected_agents_come_first_and_the_caller_s_order_counts() {
    let roster =
        roster(&[("a", WEB, Presence::Away), ("b", WEB, Presence::Connected), ("c", WEB, Presence::Connected)]);
    assert_eq!(fold(1, false, &roster, &BTreeMap::new()).ask.len(), 2);
    assert!(!fold(1, false, &roster, &BTreeMap::new()).ask.contains(&"a".to_owned()));
}

#[test]
fn all_ok_with_enough_agents_passes() {
    let folded = fold(2, false, &fleet(&["a", "b"]), &web(&[("a", OK), ("b", OK)]));
    assert_eq!(folded.state, State::Pass);
    assert!(folded.settled());
}

#[test]
fn too_few_ok_is_unknown() {
    let folded = fold(2, false, &fleet(&["a"]), &web(&[("a", OK)]));
    assert_eq!((folded.state, folded.why), (State::Unknown, Some(Why::Unknown(Unknown::TooFewAgents))));
}

#[test]
fn void_and_silent_agents_are_replaced_and_never_count() {
    for bad in [VOID, Answer::Silent] {
        let folded = fold(1, false, &fleet(&["a", "b", "c"]), &web(&[("a", bad), ("b", OK)]));
        assert_eq!(folded.ask, ["c"], "{bad:?}");
        let folded = fold(2, false, &fleet(&["a", "b"]), &web(&[("a", bad), ("b", OK)]));
        assert_eq!(folded.state, State::Unknown);
    }
}

#[test]
fn an_identity_without_ok_is_named() {
    let roster =
        roster(&[("a", WEB, Presence::Connected), ("b", WEB, Presence::Connected), ("x", OTHER, Presence::Lost)]);
    let folded = fold(1, false, &roster, &web(&[("a", OK), ("b", OK)]));
    assert_eq!((folded.state, folded.identity), (State::Unknown, Some(key(OTHER))));
    assert_eq!(folded.why, Some(Why::Unknown(Unknown::Silent)));
}

#[test]
fn the_identity_told_with_the_answer_is_the_one_that_counts() {
    let roster = fleet(&["a", "b", "c"]);
    let asked = answers(&[("a", OTHER, OK), ("b", OTHER, OK)]);
    let folded = fold(2, false, &roster, &asked);
    assert_eq!(folded.ask, ["c"]);
    assert_eq!(folded.state, State::Unknown);
}

#[test]
fn a_lone_short_is_refuted_by_two_of_its_identity() {
    let names = ["a", "b", "c", "d", "e"];
    let first = fold(2, false, &fleet(&names), &web(&[("a", SHORT), ("b", OK), ("c", OK)]));
    assert_eq!(first.ask, ["d"], "a third one is asked to refute it");
    let done = fold(2, false, &fleet(&names), &web(&[("a", SHORT), ("b", OK), ("c", OK), ("d", OK)]));
    assert_eq!((done.state, done.refuted.as_deref()), (State::Pass, Some("a")));
    assert!(done.settled());
    let strict = fold(2, true, &fleet(&names), &web(&[("a", SHORT), ("b", OK), ("c", OK), ("d", OK)]));
    assert_eq!(strict.state, State::Fail);
}

#[test]
fn a_lone_short_is_not_refuted_by_one_nor_by_another_identity() {
    assert_eq!(fold(1, false, &fleet(&["a", "b"]), &web(&[("a", SHORT), ("b", OK)])).state, State::Fail);
    let asked = answers(&[("a", WEB, SHORT), ("b", OTHER, OK), ("c", OTHER, OK)]);
    assert_eq!(fold(1, false, &[], &asked).state, State::Fail);
}

#[test]
fn refuters_that_were_cut_off_refute_nothing() {
    let names = ["a", "b", "c", "d"];
    let cut = web(&[("a", SHORT), ("b", OK), ("c", OK), ("d", Answer::Silent)]);
    assert_eq!(fold(2, false, &fleet(&names), &cut).state, State::Fail);
    let unasked = web(&[("a", SHORT), ("b", OK), ("c", OK)]);
    assert_eq!(fold(2, false, &fleet(&names), &unasked).state, State::Fail);
}

#[test]
fn two_short_fail_with_the_commonest_reason() {
    let refused = Answer::Given(Outcome::Short(Short::ConnectRefused));
    let folded = fold(2, false, &[], &web(&[("a", SHORT), ("b", OK), ("c", OK), ("d", refused), ("e", refused)]));
    assert_eq!((folded.state, folded.why), (State::Fail, Some(Why::Short(Short::ConnectRefused))));
}

#[test]
fn nothing_at_all_is_unknown() {
    assert_eq!(State::all([]), State::Unknown);
    assert_eq!(State::all([State::Pass, State::Unknown]), State::Unknown);
    assert_eq!(State::all([State::Unknown, State::Fail]), State::Fail);
    assert_eq!(State::all([State::Pass, State::Pass]), State::Pass);
}

/// The rule of the design's section 5 as plain sentences, without a thought for whom to ask.
fn model(min_agents: u32, strict: bool, roster: &[Candidate], asked: &BTreeMap<String, Asked>) -> State {
    let with = |want: fn(&Answer) -> bool| asked.values().filter(|a| want(&a.answer)).collect::<Vec<_>>();
    let ok = with(|a| matches!(a, Answer::Given(Outcome::Ok)));
    let short = with(|a| matches!(a, Answer::Given(Outcome::Short(_))));
    let same = |k: &IdentityKey| ok.iter().filter(|a| a.key == *k).count();
    if short.len() >= 2 {
        return State::Fail;
    }
    if let [lone] = short.as_slice() {
        let waited = asked.values().any(|a| a.key == lone.key && matches!(a.answer, Answer::Pending | Answer::Silent));
        let more = roster.iter().any(|c| c.key == lone.key && c.presence.is_there() && !asked.contains_key(&c.agent));
        let refuted = match same(&lone.key) {
            0 | 1 => false,
            2 => !waited && !more,
            _ => true,
        };
        if strict || !refuted {
            return State::Fail;
        }
    }
    let mut keys: Vec<&IdentityKey> = asked.values().map(|a| &a.key).collect();
    keys.extend(roster.iter().filter(|c| !asked.contains_key(&c.agent)).map(|c| &c.key));
    let covered = !keys.is_empty() && keys.iter().all(|k| same(k) > 0);
    if ok.len() >= min_agents as usize && covered { State::Pass } else { State::Unknown }
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        6 => Just(OK),
        2 => Just(SHORT),
        1 => Just(VOID),
        1 => Just(Answer::Silent),
        1 => Just(Answer::Pending),
    ]
}

fn presence() -> impl Strategy<Value = Presence> {
    prop_oneof![6 => Just(Presence::Connected), 1 => Just(Presence::Away), 1 => Just(Presence::Lost), 1 => Just(Presence::Left)]
}

/// Up to nine agents of up to three identities, some of them asked.
fn situation() -> impl Strategy<Value = (Vec<Candidate>, BTreeMap<String, Asked>)> {
    prop::collection::vec((0..3u8, presence(), prop::option::of((0..4u8, answer()))), 0..9).prop_map(|agents| {
        let mut roster = Vec::new();
        let mut asked = BTreeMap::new();
        for (i, (k, presence, answered)) in agents.into_iter().enumerate() {
            let agent = format!("a{i}");
            let told = format!("subnet={k}");
            roster.push(Candidate { agent: agent.clone(), key: key(&told), presence });
            if let Some((moved, answer)) = answered {
                // Now and then an agent answers with another identity than it had.
                let told = if moved == 0 { "subnet=moved" } else { &told };
                asked.insert(agent, Asked { key: key(told), answer });
            }
        }
        (roster, asked)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn fold_is_the_model((roster, asked) in situation(), min_agents in 1..4u32, strict: bool) {
        let folded = fold(min_agents, strict, &roster, &asked);
        prop_assert_eq!(folded.state, model(min_agents, strict, &roster, &asked));
        prop_assert_eq!(folded.why.is_none(), folded.state == State::Pass);
        prop_assert_eq!(folded.refuted.is_some(), folded.state == State::Pass && folded.counts.short == 1);
    }

    #[test]
    fn only_agents_that_can_answer_are_asked_once((roster, asked) in situation(), min_agents in 1..4u32, strict: bool) {
        let mut ask = fold(min_agents, strict, &roster, &asked).ask;
        for agent in &ask {
            let candidate = roster.iter().find(|c| c.agent == *agent);
            prop_assert!(candidate.is_some_and(|c| c.presence.is_there()));
            prop_assert!(!asked.contains_key(agent));
        }
        let count = ask.len();
        ask.sort();
        ask.dedup();
        prop_assert_eq!(ask.len(), count);
    }

    /// Whatever the fleet's agents would answer, asking as told comes to an end, within bounds while agents are well.
    #[test]
    fn asking_ends(hosts in prop::collection::vec((0..3u8, answer()), 0..30), min_agents in 1..4u32) {
        let roster: Vec<Candidate> = hosts.iter().enumerate()
            .map(|(i, (k, _))| Candidate { agent: format!("a{i}"), key: key(&format!("subnet={k}")), presence: Presence::Connected })
            .collect();
        let mut asked = BTreeMap::new();
        loop {
            let folded = fold(min_agents, false, &roster, &asked);
            if folded.ask.is_empty() { break }
            for agent in folded.ask {
                let i: usize = agent[1..].parse().unwrap();
                let answer = if hosts[i].1 == Answer::Pending { Answer::Silent } else { hosts[i].1 };
                asked.insert(agent, Asked { key: roster[i].key.clone(), answer });
            }
        }
        let well = asked.values().filter(|a| matches!(a.answer, Answer::Given(Outcome::Ok | Outcome::Short(_)))).count();
        prop_assert!(well <= (min_agents as usize + 1).max(3) + 3 + 2);
    }

    /// A pass rests on agents that are ok: without any one of min_agents oks there is none, and losing answers never makes one of a fail.
    #[test]
    fn losing_an_ok_answer_never_makes_a_pass((roster, asked) in situation(), min_agents in 1..4u32) {
        let before = fold(min_agents, false, &roster, &asked).state;
        for (agent, one) in &asked {
            if one.answer == OK {
                let mut fewer = asked.clone();
                fewer.insert(agent.clone(), Asked { answer: Answer::Silent, ..one.clone() });
                let after = fold(min_agents, false, &roster, &fewer).state;
                prop_assert!(after != State::Pass || before == State::Pass);
            }
        }
    }
}

proptest! {
    /// A cell that must be blocked: one agent that gets through is a leak, and whoever is stopped shows nothing without a contrast.
    #[test]
    fn a_blocked_cell_is_the_model((roster, asked) in situation(), min_agents in 1..4u32, shown in prop::sample::select(vec![Shown::Leak, Shown::Nothing, Shown::There])) {
        let folded = fold(min_agents, true, &roster, &asked).in_contrast(shown);
        let short = asked.values().any(|a| matches!(a.answer, Answer::Given(Outcome::Short(_))));
        let want = match (short || shown == Shown::Leak, model(min_agents, true, &roster, &asked), shown) {
            (true, _, _) => State::Fail,
            (false, State::Pass, Shown::There) => State::Pass,
            (false, _, _) => State::Unknown,
        };
        prop_assert_eq!(folded.state, want);
        prop_assert_eq!(folded.why.is_none(), want == State::Pass);
        prop_assert_eq!(folded.refuted, None);
    }
}

#[test]
fn why_an_agent_is_missing_comes_before_that_there_are_too_few() {
    // One has answered; the other, of the same identity, is stopped, lost or comes and goes.
    for presence in [Presence::Left, Presence::Lost, Presence::Unsteady] {
        let roster = roster(&[("a", WEB, Presence::Connected), ("b", WEB, presence)]);
        let folded = fold(2, false, &roster, &web(&[("a", OK)]));
        assert_eq!(folded.why, Some(Why::Unknown(Unknown::Silent)), "{presence:?}");
        assert_eq!(folded.absent, [Absent { agent: "b".into(), presence }]);
        assert!(folded.lacks_agents());
    }
    // Or it answers for itself that it cannot.
    for (other, why) in [(VOID, "local_resources"), (Answer::Silent, "silent")] {
        let roster = roster(&[("a", WEB, Presence::Connected), ("b", WEB, Presence::Connected)]);
        let folded = fold(2, false, &roster, &web(&[("a", OK), ("b", other)]));
        assert_eq!(folded.why.map(Why::as_str), Some(why));
        assert!(!folded.lacks_agents(), "those that there are had their turn");
    }
}

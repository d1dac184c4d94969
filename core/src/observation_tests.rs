use proptest::prelude::*;

use super::*;
use crate::spec::{Millis, Topology};
use crate::target::Target;

const OK: Outcome = Outcome::Ok;
const DROP: Outcome = Outcome::Short(Short::ConnectTimeout);
const REFUSED: Outcome = Outcome::Short(Short::ConnectRefused);
const NO_ROUTE: Outcome = Outcome::Short(Short::NetUnreachable);
const NO_ADDRESS: Outcome = Outcome::Short(Short::DnsNoAddress);
const SERVFAIL: Outcome = Outcome::Short(Short::DnsServfail);
const DENIED: Outcome = Outcome::Void(Void::PolicyDenied);
const CANCELLED: Outcome = Outcome::Void(Void::Cancelled);
const INTERCEPTED: Outcome = Outcome::Void(Void::Intercepted);

// Private and public addresses of both families, and one of IPv4 in IPv6's clothes.
const P4A: &str = "10.0.0.1";
const P4B: &str = "10.0.0.2";
const G4A: &str = "198.51.100.1";
const G4B: &str = "198.51.100.2";
const P6A: &str = "fd00::1";
const P6B: &str = "fd00::2";
const G6A: &str = "2001:db8::1";
const MAPPED: &str = "::ffff:10.0.0.9";
/// In place of an address: the lookup of a family that failed.
const LOOKUP: &str = "";

const NONE: Routes = Routes { ipv4: false, ipv6: false };
const V4: Routes = Routes { ipv4: true, ipv6: false };
const V6: Routes = Routes { ipv4: false, ipv6: true };
const DUAL: Routes = Routes { ipv4: true, ipv6: true };

fn spec(families: Families, addresses: Addresses) -> ProbeSpec {
    let target: Target = "redis://cache.internal".parse().unwrap();
    ProbeSpec { families, addresses, ..ProbeSpec::new(target) }
}

fn observation(address: &str, outcome: Outcome) -> Observation {
    let address = (address != LOOKUP).then(|| SocketAddr::new(address.parse().unwrap(), 6379));
    let proof = match outcome {
        Outcome::Ok => Some(Proof::Protocol),
        Outcome::Short(_) | Outcome::Void(_) => address.map(|_| Proof::Resolved),
    };
    let (phases, attempts) = (Phases::default(), Vec::new());
    Observation { address, member: None, outcome, proof, phases, note: None, detail: None, tls: None, attempts }
}

fn report(routes: Routes, seen: &[(&str, Outcome)]) -> Report {
    let observations: Vec<Observation> = seen.iter().map(|(address, outcome)| observation(address, *outcome)).collect();
    let resolved = observations.iter().filter(|o| o.address.is_some()).count();
    Report {
        observations,
        resolved: u32::try_from(resolved).unwrap(),
        routes,
        control: Control::Unanswered,
        members: 0,
        egress: false,
    }
}

#[test]
#[rustfmt::skip]
fn families_and_addresses() {
    use Addresses as A;
    use Families as F;
    type Case<'a> = (F, A, Routes, &'a [(&'a str, Outcome)], Outcome);
    let cases: &[Case] = &[
        // One family, by default: each of the private ones, one of the public ones.
        (F::Any, A::Auto, V4, &[(P4A, OK)], OK),
        (F::Any, A::Auto, V4, &[(P4A, OK), (P4B, OK)], OK),
        (F::Any, A::Auto, V4, &[(P4A, OK), (P4B, DROP)], DROP),
        (F::Any, A::Auto, V4, &[(P4A, OK), (P4B, DENIED)], DENIED),
        (F::Any, A::Auto, V4, &[(P4A, DENIED), (P4B, DROP)], DROP),
        (F::Any, A::Auto, V4, &[(G4A, DROP), (G4B, OK)], OK),
        (F::Any, A::Auto, V4, &[(G4A, DENIED), (G4B, OK)], OK),
        (F::Any, A::Auto, V4, &[(G4A, DROP), (G4B, REFUSED)], DROP),
        (F::Any, A::Auto, V4, &[(P4A, DROP), (G4B, OK)], OK),
        // As asked.
        (F::Any, A::All, V4, &[(G4A, DROP), (G4B, OK)], DROP),
        (F::Any, A::Any, V4, &[(P4A, DROP), (P4B, OK)], OK),
        (F::Any, A::Any, V4, &[(P4A, DROP), (P4B, DENIED)], DROP),
        // Two families: all of one is enough, all of each where both are asked for.
        (F::Any, A::Auto, DUAL, &[(P4A, OK), (P6A, DROP)], OK),
        (F::Any, A::Auto, DUAL, &[(P4A, DROP), (P6A, OK)], OK),
        (F::Any, A::Auto, DUAL, &[(P4A, DROP), (P4B, OK), (P6A, OK), (P6B, DROP)], DROP),
        (F::Both, A::Auto, DUAL, &[(P4A, OK), (P6A, OK)], OK),
        (F::Both, A::Auto, DUAL, &[(P4A, OK), (P6A, DROP)], DROP),
        (F::Both, A::Auto, DUAL, &[(P4A, OK), (P6A, DENIED)], DENIED),
        (F::Both, A::Any, DUAL, &[(P4A, OK), (P4B, DROP), (P6A, DROP)], DROP),
        (F::Both, A::Any, DUAL, &[(P4A, OK), (P4B, DROP), (P6A, DROP), (P6B, OK)], OK),
        (F::Ipv4, A::Auto, DUAL, &[(P4A, OK), (P6A, DROP)], OK),
        (F::Ipv4, A::Auto, DUAL, &[(P4A, DROP), (P6A, OK)], DROP),
        (F::Ipv6, A::Auto, DUAL, &[(P4A, OK), (P6A, DROP)], DROP),
        (F::Ipv6, A::Auto, DUAL, &[(P4A, DROP), (P6A, OK)], OK),
        // A family that is asked for and has no address.
        (F::Ipv6, A::Auto, DUAL, &[(P4A, OK)], NO_ADDRESS),
        (F::Ipv4, A::Auto, DUAL, &[(P6A, OK)], NO_ADDRESS),
        (F::Both, A::Auto, DUAL, &[(P4A, OK)], NO_ADDRESS),
        // A lookup that failed for one family.
        (F::Any, A::Auto, DUAL, &[(P4A, OK), (LOOKUP, SERVFAIL)], OK),
        (F::Both, A::Auto, DUAL, &[(P4A, OK), (LOOKUP, SERVFAIL)], SERVFAIL),
        (F::Ipv6, A::Auto, DUAL, &[(P4A, OK), (LOOKUP, SERVFAIL)], SERVFAIL),
        (F::Any, A::Auto, DUAL, &[(P4A, DROP), (LOOKUP, SERVFAIL)], DROP),
        // Public IPv6 beside private IPv4 does not soften what is asked of IPv4.
        (F::Any, A::Auto, V4, &[(P4A, OK), (P4B, DROP), (G6A, NO_ROUTE)], DROP),
        (F::Both, A::Auto, DUAL, &[(P4A, OK), (P4B, DROP), (G6A, OK)], DROP),
        (F::Any, A::Auto, DUAL, &[(P4A, OK), (P4B, DROP), (G6A, OK)], OK),
        // IPv4 in IPv6's clothes is IPv4.
        (F::Ipv6, A::Auto, DUAL, &[(MAPPED, OK)], NO_ADDRESS),
        (F::Both, A::Auto, DUAL, &[(P4A, OK), (MAPPED, OK)], NO_ADDRESS),
        (F::Ipv4, A::Auto, V4, &[(MAPPED, OK)], OK),
        (F::Any, A::Auto, V4, &[(P4A, OK), (MAPPED, DROP)], DROP),
        // Routes: a family without one does not count, unless a connection shows that there is.
        (F::Any, A::Auto, V6, &[(P4A, NO_ROUTE)], NO_ROUTE),
        (F::Any, A::Auto, V6, &[(P4A, DENIED)], DENIED),
        (F::Any, A::Auto, V4, &[(P4A, DROP), (P6A, NO_ROUTE)], DROP),
        (F::Any, A::Auto, NONE, &[(P4A, OK)], OK),
        (F::Any, A::Auto, NONE, &[(P4A, OK), (P4B, DROP)], DROP),
        (F::Any, A::Auto, NONE, &[(P4A, NO_ROUTE), (P6A, NO_ROUTE)], NO_ROUTE),
        (F::Any, A::Auto, V6, &[(P4A, NO_ROUTE), (LOOKUP, SERVFAIL)], SERVFAIL),
        (F::Ipv4, A::Auto, NONE, &[(P4A, OK)], OK),
        // No address at all.
        (F::Any, A::Auto, DUAL, &[], CANCELLED),
        (F::Any, A::Any, DUAL, &[(LOOKUP, SERVFAIL)], SERVFAIL),
        (F::Any, A::Any, DUAL, &[(LOOKUP, OK)], CANCELLED),
        (F::Both, A::Any, DUAL, &[(LOOKUP, DENIED), (LOOKUP, SERVFAIL)], SERVFAIL),
    ];
    for (families, addresses, routes, seen, want) in cases {
        let got = report(*routes, seen).outcome(&spec(*families, *addresses));
        assert_eq!(got, *want, "{families:?} {addresses:?} {routes:?} {seen:?}");
    }
}

#[test]
fn ok_without_the_proof_is_not_believed() {
    for (require, proof, want) in [
        (Proof::Protocol, Some(Proof::Protocol), OK),
        (Proof::Protocol, Some(Proof::Connected), Outcome::Short(Short::ProtocolUnexpected)),
        (Proof::Protocol, None, Outcome::Short(Short::ProtocolUnexpected)),
        (Proof::Connected, Some(Proof::Resolved), Outcome::Short(Short::ProtocolUnexpected)),
        (Proof::Connected, Some(Proof::Connected), OK),
        (Proof::Connected, Some(Proof::Protocol), OK),
    ] {
        let mut report = report(V4, &[(P4A, OK)]);
        report.observations[0].proof = proof;
        let spec = ProbeSpec { require, ..spec(Families::Any, Addresses::Auto) };
        assert_eq!(report.outcome(&spec), want, "{require:?} {proof:?}");
    }
}

#[test]
fn a_connect_proves_nothing_where_everything_connects() {
    for (require, proof, want) in [
        (Proof::Resolved, Proof::Resolved, INTERCEPTED),
        (Proof::Resolved, Proof::Connected, INTERCEPTED),
        (Proof::Connected, Proof::Connected, INTERCEPTED),
        (Proof::Connected, Proof::Protocol, OK),
        (Proof::Encrypted, Proof::Encrypted, OK),
        (Proof::Protocol, Proof::Protocol, OK),
    ] {
        let mut report = Report { control: Control::Connected, ..report(V4, &[(G4A, OK), (G4B, OK)]) };
        report.observations.iter_mut().for_each(|o| o.proof = Some(proof));
        let spec = ProbeSpec { require, ..spec(Families::Any, Addresses::Auto) };
        assert_eq!(report.outcome(&spec), want, "{require:?} {proof:?}");
        // What fell short did so with or without something in between.
        report.observations[0].outcome = DROP;
        let all = ProbeSpec { addresses: Addresses::All, ..spec };
        assert_eq!(report.outcome(&all), DROP, "{require:?} {proof:?}");
    }
}

#[test]
fn an_address_that_nobody_tells_of_was_not_shown_to_work() {
    let mut report = report(V4, &[(P4A, OK), (P4A, OK)]);
    for (resolved, addresses, want) in [
        (1, Addresses::Auto, OK),
        (2, Addresses::Auto, CANCELLED),
        (2, Addresses::All, CANCELLED),
        (2, Addresses::Any, OK),
        (u32::MAX, Addresses::All, CANCELLED),
    ] {
        report.resolved = resolved;
        assert_eq!(report.outcome(&spec(Families::Any, addresses)), want, "{resolved} {addresses:?}");
    }
}

#[test]
fn beyond_the_cap_nothing_is_missed() {
    let addresses: Vec<String> = (1..=ProbeSpec::MAX_ADDRESSES).map(|i| format!("10.0.0.{i}")).collect();
    let seen: Vec<(&str, Outcome)> = addresses.iter().map(|a| (a.as_str(), OK)).collect();
    let cut = Report { resolved: 40, ..report(V4, &seen) };
    assert_eq!(cut.outcome(&spec(Families::Any, Addresses::All)), OK);
}

#[test]
fn private_addresses() {
    for (ip, want) in [
        (P4A, true),
        ("172.31.0.1", true),
        ("172.32.0.1", false),
        ("100.64.0.1", true),
        ("100.128.0.1", false),
        ("169.254.1.1", true),
        ("127.0.0.1", true),
        (G4A, false),
        (P6A, true),
        ("fe80::1", true),
        ("::1", true),
        (G6A, false),
        (MAPPED, true),
        ("::ffff:198.51.100.1", false),
    ] {
        assert_eq!(is_private(ip.parse().unwrap()), want, "{ip}");
    }
}

#[test]
fn outcome_and_reason_belong_together() {
    for outcome in [OK, DROP, DENIED] {
        let text = serde_json::to_string(&observation(P4A, outcome)).unwrap();
        assert_eq!(serde_json::from_str::<Observation>(&text).unwrap().outcome, outcome, "{text}");
    }
    for (outcome, reason) in
        [("ok", Some("connect_timeout")), ("short", None), ("short", Some("cancelled")), ("pass", None)]
    {
        assert_eq!(Outcome::from_names(outcome, reason), None, "{outcome} {reason:?}");
    }
}

fn any_outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![Just(OK), Just(DROP), Just(REFUSED), Just(NO_ROUTE), Just(DENIED)]
}

fn any_report() -> impl Strategy<Value = Report> {
    let address = prop::sample::select(vec![P4A, P4B, G4A, G4B, P6A, P6B, G6A, MAPPED, LOOKUP]);
    (prop::collection::vec((address, any_outcome()), 0..6), any::<bool>(), any::<bool>())
        .prop_map(|(seen, ipv4, ipv6)| report(Routes { ipv4, ipv6 }, &seen))
}

fn any_spec() -> impl Strategy<Value = ProbeSpec> {
    let families = prop::sample::select(vec![Families::Any, Families::Ipv4, Families::Ipv6, Families::Both]);
    let addresses = prop::sample::select(vec![Addresses::Auto, Addresses::All, Addresses::Any]);
    (families, addresses).prop_map(|(families, addresses)| spec(families, addresses))
}

proptest! {
    /// Ok needs, of every family that is asked for (of one, where any will do), an address that is ok, and with
    /// `addresses: all` none that is not.
    #[test]
    fn never_ok_without_evidence(report in any_report(), spec in any_spec()) {
        let of = |v6: bool| -> Vec<Outcome> {
            let is = |o: &&Observation| o.address.is_some_and(|a| a.ip().to_canonical().is_ipv6() == v6);
            report.observations.iter().filter(is).map(|o| o.outcome).collect()
        };
        let works = |v6: bool| {
            let outcomes = of(v6);
            outcomes.contains(&OK) && (spec.addresses != Addresses::All || outcomes.iter().all(|o| *o == OK))
        };
        if report.outcome(&spec) == OK {
            let shown = match spec.families {
                Families::Any => works(false) || works(true),
                Families::Ipv4 => works(false),
                Families::Ipv6 => works(true),
                Families::Both => works(false) && works(true),
            };
            prop_assert!(shown);
        }
    }

    #[test]
    fn order_and_duplicates_change_nothing(report in any_report(), spec in any_spec(), turn in 0..6_usize) {
        let mut other = report.clone();
        let by = turn.min(other.observations.len());
        other.observations.rotate_left(by);
        if let Some(first) = other.observations.first().cloned() {
            other.observations.push(first);
        }
        prop_assert_eq!(report.outcome(&spec), other.outcome(&spec));
    }

    /// What turns worse for one address never turns the whole better.
    #[test]
    fn a_worse_address_never_makes_a_pass(report in any_report(), spec in any_spec(), at in 0..6_usize) {
        let mut worse = report.clone();
        if let Some(observation) = worse.observations.get_mut(at) {
            observation.outcome = DROP;
        }
        prop_assert!(worse.outcome(&spec) != OK || report.outcome(&spec) == OK);
    }
}

const REPLICA: &str = "10.0.3.8:7001";
const UNKNOWN: Outcome = Outcome::Void(Void::MembersUnknown);

/// A report of a seed and of the members that it told of: endpoint, address and outcome.
fn with_members(seed: Outcome, told: u32, members: &[(&str, &str, Outcome)]) -> Report {
    let mut report = report(DUAL, &[(P4A, seed)]);
    report.observations.extend(members.iter().map(|(endpoint, address, outcome)| Observation {
        member: Some(Member { role: Role::Replica, endpoint: (*endpoint).to_owned() }),
        ..observation(address, *outcome)
    }));
    Report { members: told, ..report }
}

#[test]
#[rustfmt::skip]
fn every_member_has_to_work() {
    type Case<'a> = (Outcome, u32, &'a [(&'a str, &'a str, Outcome)], Outcome);
    let cases: &[Case] = &[
        (OK, 2, &[("a:1", P4A, OK), ("b:1", P4B, OK)], OK),
        (OK, 2, &[("a:1", P4A, OK), ("b:1", P4B, DROP)], DROP),
        (OK, 2, &[("a:1", P4A, REFUSED), ("b:1", P4B, DROP)], DROP),
        (OK, 2, &[("a:1", P4A, OK), ("b:1", P4B, DENIED)], DENIED),
        (OK, 2, &[("a:1", P4A, DENIED), ("b:1", P4B, DROP)], DROP),
        // Nobody tells of members, or of fewer than there are.
        (OK, 0, &[], UNKNOWN),
        (OK, 2, &[], UNKNOWN),
        (OK, 2, &[("a:1", P4A, OK)], CANCELLED),
        (OK, 3, &[("a:1", P4A, OK), ("a:1", P4A, OK)], CANCELLED),
        (OK, 2, &[("a:1", P4A, DROP)], DROP),
        // The seed itself.
        (DROP, 0, &[], DROP),
        (DROP, 1, &[("a:1", P4A, OK)], DROP),
        (REFUSED, 1, &[("a:1", P4A, DROP)], REFUSED),
        (DENIED, 0, &[], DENIED),
        // Public addresses soften nothing: each member serves what no other does.
        (OK, 2, &[("a:1", G4A, OK), ("b:1", G4B, DROP)], DROP),
        // Names of two addresses, in one family or two.
        (OK, 1, &[("a:1", P4A, OK), ("a:1", P4B, DROP)], DROP),
        (OK, 1, &[("a:1", G4A, OK), ("a:1", G4B, DROP)], DROP),
        (OK, 1, &[("a:1", P4A, OK), ("a:1", P6A, DROP)], OK),
        (OK, 1, &[("a:1", P4A, DROP), ("a:1", P6A, DROP)], DROP),
        (OK, 1, &[("a:1", LOOKUP, SERVFAIL)], SERVFAIL),
        (OK, 1, &[("a:1", P4A, OK), ("a:1", LOOKUP, SERVFAIL)], OK),
        (OK, 1, &[("a:1", P6A, NO_ROUTE)], NO_ROUTE),
        // One that works does not stand for another.
        (OK, 2, &[("a:1", P4A, OK), ("b:1", P6A, DROP)], DROP),
    ];
    for topology in [Topology::Cluster, Topology::Sentinel { master: None }] {
        for (seed, told, members, want) in cases {
            let spec = ProbeSpec { topology: Some(topology.clone()), ..spec(Families::Any, Addresses::Auto) };
            let report = with_members(*seed, *told, members);
            assert_eq!(report.outcome(&spec), *want, "{seed:?} {told} {members:?}");
            let mut turned = report.clone();
            turned.observations.reverse();
            assert_eq!(turned.outcome(&spec), *want, "in any order: {members:?}");
            // Without a topology nobody asked for members.
            assert_eq!(report.outcome(&self::spec(Families::Any, Addresses::Auto)), *seed);
        }
    }
}

#[test]
fn a_member_has_the_families_that_it_has() {
    let spec = ProbeSpec { topology: Some(Topology::Cluster), ..spec(Families::Ipv4, Addresses::Any) };
    assert_eq!(with_members(OK, 1, &[("[fd00::1]:1", P6A, OK)]).outcome(&spec), OK);
    assert_eq!(
        with_members(OK, 1, &[("a:1", G4A, OK), ("a:1", G4B, DROP)]).outcome(&spec),
        DROP,
        "all of its addresses"
    );
}

#[test]
fn members_beyond_the_cap_are_said() {
    let endpoints: Vec<String> = (0..ProbeSpec::MAX_MEMBERS).map(|i| format!("10.0.1.{i}:1")).collect();
    let members: Vec<(&str, &str, Outcome)> = endpoints.iter().map(|e| (e.as_str(), P4A, OK)).collect();
    let spec = ProbeSpec { topology: Some(Topology::Cluster), ..spec(Families::Any, Addresses::Auto) };
    let cut = with_members(OK, 100, &members);
    assert_eq!((cut.outcome(&spec), cut.members_cut()), (OK, Some((64, 100))));
    assert_eq!(cut.cut(), None, "the seed has one address");
    let whole = with_members(OK, 64, &members);
    assert_eq!((whole.outcome(&spec), whole.members_cut()), (OK, None));
    assert_eq!(with_members(OK, 64, &members[1..]).outcome(&spec), CANCELLED);
    assert_eq!(with_members(OK, 100, &members[1..]).outcome(&spec), CANCELLED);
}

#[test]
fn where_something_was_seen() {
    let report = with_members(OK, 3, &[(REPLICA, "10.0.3.8", OK), ("a\u{1b}:1", P4B, OK), ("b:1", LOOKUP, SERVFAIL)]);
    let mut places: Vec<Option<String>> = report.observations.iter().map(Observation::place).collect();
    places.push(observation(LOOKUP, SERVFAIL).place());
    let places: Vec<&str> = places.iter().map(|place| place.as_deref().unwrap_or("-")).collect();
    assert_eq!(
        places,
        [
            "10.0.0.1:6379",
            "member 10.0.3.8:7001 at 10.0.3.8:6379",
            "member a\\u{1b}:1 at 10.0.0.2:6379",
            "member b:1",
            "-"
        ]
    );
}

/// What an address that must be blocked was met with, and how far that got.
fn guarded(seen: &[(&str, Outcome, Proof)]) -> Report {
    let ends: Vec<(&str, Outcome)> = seen.iter().map(|(address, outcome, _)| (*address, *outcome)).collect();
    let mut report = report(DUAL, &ends);
    for (observation, (_, _, proof)) in report.observations.iter_mut().zip(seen) {
        observation.proof = observation.address.map(|_| *proof);
    }
    report
}

fn blocked() -> ProbeSpec {
    ProbeSpec { expect: Expect::Blocked, ..spec(Families::Any, Addresses::Auto) }
}

const REACHABLE: Outcome = Outcome::Short(Short::Reachable);
const UNPROVEN: Outcome = Outcome::Void(Void::BlockedUnproven);

#[test]
#[rustfmt::skip]
fn blocked_is_every_address_stopped_as_a_firewall_stops() {
    type Seen<'a> = &'a [(&'a str, Outcome, Proof)];
    let prohibited = Outcome::Short(Short::ConnectProhibited);
    let untrusted = Outcome::Short(Short::TlsUntrusted);
    let lossy = Outcome::Short(Short::PartialLoss);
    let nothing = Proof::Resolved;
    let cases: &[(Seen<'_>, Outcome)] = &[
        (&[(P4A, DROP, nothing)], OK),
        (&[(P4A, REFUSED, nothing), (P6A, prohibited, nothing)], OK),
        // One that is reached is a leak, whatever it then says, and whatever stands beside it.
        (&[(P4A, OK, Proof::Connected)], REACHABLE),
        (&[(P4A, untrusted, Proof::Connected)], REACHABLE),
        (&[(P4A, DROP, nothing), (P4B, OK, Proof::Connected)], REACHABLE),
        (&[(P4A, DENIED, nothing), (P4B, OK, Proof::Protocol)], REACHABLE),
        (&[(P4A, lossy, nothing)], REACHABLE),
        // Stopped, and not by a rule.
        (&[(P4A, NO_ROUTE, nothing)], UNPROVEN),
        (&[(P4A, DROP, nothing), (P4B, Outcome::Short(Short::HostUnreachable), nothing)], UNPROVEN),
        (&[(P4A, Outcome::Short(Short::ConnectReset), nothing)], UNPROVEN),
        (&[(LOOKUP, Outcome::Short(Short::DnsNxdomain), nothing)], UNPROVEN),
        (&[(P4A, DROP, nothing), (LOOKUP, SERVFAIL, nothing)], UNPROVEN),
        // Not tried.
        (&[(P4A, DROP, nothing), (P4B, DENIED, nothing)], DENIED),
        (&[], UNPROVEN),
        // A word without its proof: neither open nor shown to be stopped.
        (&[(P4A, OK, nothing)], UNPROVEN),
    ];
    for (seen, want) in cases {
        assert_eq!(guarded(seen).outcome(&blocked()), *want, "{seen:?}");
    }
}

#[test]
fn an_address_that_was_not_probed_may_be_open() {
    let all: Vec<String> = (1..=16).map(|n| format!("10.0.0.{n}")).collect();
    let all: Vec<(&str, Outcome, Proof)> = all.iter().map(|a| (a.as_str(), DROP, Proof::Resolved)).collect();
    let mut report = guarded(&all);
    assert_eq!(report.outcome(&blocked()), OK);
    // Cut: the name has one more.
    report.resolved = 17;
    assert_eq!(report.outcome(&blocked()), UNPROVEN);
    // The agent tells of fewer than it had to probe.
    report.observations.pop();
    assert_eq!(report.outcome(&blocked()), CANCELLED);
    // One that was reached is a leak all the same.
    report.observations[3].proof = Some(Proof::Connected);
    assert_eq!(report.outcome(&blocked()), REACHABLE);
}

#[test]
fn one_attempt_that_got_through_is_a_leak() {
    let mut report = guarded(&[(P4A, DROP, Proof::Resolved)]);
    let attempt = |result: &str| Attempt { at_ms: 0.0, result: result.to_owned(), took_ms: 1.0 };
    report.observations[0].attempts = vec![attempt("silent"), attempt("abandoned")];
    assert_eq!(report.outcome(&blocked()), OK);
    report.observations[0].attempts.push(attempt("connected"));
    assert_eq!(report.outcome(&blocked()), REACHABLE);
    // Through a proxy, connected is only the proxy.
    let proxy: Target = "http://10.0.9.9:3128".parse().unwrap();
    let via = ProbeSpec { via: Some(proxy.try_into().unwrap()), ..blocked() };
    assert_ne!(report.outcome(&via), REACHABLE);
}

#[test]
fn where_everything_connects_only_what_the_target_proves_is_a_leak() {
    let cases = [
        (OK, Proof::Connected, INTERCEPTED),
        (Outcome::Short(Short::PartialLoss), Proof::Resolved, INTERCEPTED),
        (DROP, Proof::Resolved, INTERCEPTED),
        (OK, Proof::Encrypted, REACHABLE),
        (Outcome::Short(Short::StatusUnexpected), Proof::Protocol, REACHABLE),
    ];
    for (outcome, proof, want) in cases {
        let mut report = guarded(&[(P4A, outcome, proof)]);
        report.control = Control::Connected;
        assert_eq!(report.outcome(&blocked()), want, "{outcome:?} {proof:?}");
    }
}

#[test]
fn max_latency_counts_all_phases_but_the_lookup() {
    let phases = Phases {
        resolve_ms: Some(900.0),
        connect_ms: Some(10.0),
        proxy_ms: Some(10.0),
        tls_ms: Some(10.0),
        protocol_ms: Some(20.0),
    };
    let outcome = |most: Option<u32>, change: &dyn Fn(&mut Observation)| {
        let mut report = report(V4, &[(P4A, OK)]);
        report.observations[0].phases = phases;
        change(&mut report.observations[0]);
        report.outcome(&ProbeSpec { max_latency: most.map(Millis), ..spec(Families::Any, Addresses::Auto) })
    };
    let slow = Outcome::Short(Short::TooSlow);
    assert_eq!(outcome(None, &|_| {}), OK);
    assert_eq!(outcome(Some(50), &|_| {}), OK);
    assert_eq!(outcome(Some(49), &|_| {}), slow);
    // What fell short, or proves too little, is told for that.
    assert_eq!(outcome(Some(49), &|o| o.outcome = DROP), DROP);
    assert_eq!(outcome(Some(49), &|o| o.outcome = DENIED), DENIED);
    assert_eq!(outcome(Some(49), &|o| o.proof = Some(Proof::Connected)), Outcome::Short(Short::ProtocolUnexpected));
}

#[test]
fn a_slow_address_counts_as_one_that_does_not_work() {
    let mut report = report(V4, &[(P4A, OK), (P4B, OK)]);
    report.observations[1].phases.connect_ms = Some(51.0);
    let most = |addresses| ProbeSpec { max_latency: Some(Millis(50)), ..spec(Families::Any, addresses) };
    assert_eq!(report.outcome(&most(Addresses::All)), Outcome::Short(Short::TooSlow));
    assert_eq!(report.outcome(&most(Addresses::Any)), OK);
    report.observations[0].phases.tls_ms = Some(51.0);
    assert_eq!(report.outcome(&most(Addresses::Any)), Outcome::Short(Short::TooSlow));
}

proptest! {
    #[test]
    fn evidence_reads_as_it_was_written(nanos in 0_u64..10_000_000_000) {
        let took = std::time::Duration::from_nanos(nanos).as_secs_f64() * 1e3;
        let phases = Phases { connect_ms: Some(took), ..Phases::default() };
        let text = serde_json::to_string(&phases).unwrap();
        prop_assert_eq!(serde_json::from_str::<Phases>(&text).unwrap(), phases);
    }
}

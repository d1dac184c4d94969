use super::*;

fn identity(pairs: &[(&str, &str)]) -> NetworkIdentity {
    let mut identity = NetworkIdentity::default();
    for (key, value) in pairs {
        identity.insert(*key, *value);
    }
    identity
}

fn fleet(name: &str, hosts: &[&[(&str, &str)]]) -> Fleet {
    let host = |(n, pairs): (usize, &&[(&str, &str)])| (format!("{name}-{}", n + 1), identity(pairs));
    Fleet {
        id: FleetId { region: "eu".into(), fleet: name.into() },
        stated: NetworkIdentity::default(),
        hosts: hosts.iter().enumerate().map(host).collect(),
    }
}

fn drift(fleets: &[Fleet], last: &[LastSeen], ignored: &[&str]) -> Drift {
    let ignored = Ignored(ignored.iter().map(|text| (*text).to_owned()).collect());
    of_region("app", fleets, last, &KeyRule::default(), &ignored)
}

fn texts(drift: &Drift) -> Vec<&str> {
    drift.findings.iter().map(|finding| finding.text.as_str()).collect()
}

const WEB: &[(&str, &str)] = &[("security_group", "sg-web"), ("zone", "a")];
const WEB_B: &[(&str, &str)] = &[("security_group", "sg-web"), ("zone", "b")];
const WORKER: &[(&str, &str)] = &[("security_group", "sg-worker"), ("zone", "a")];

#[test]
fn the_test_that_did_not_exist_in_the_outage() {
    let fleets = [fleet("web", &[WEB, WEB_B]), fleet("worker", &[WORKER, WORKER])];
    let found = drift(&fleets, &[], &[]);
    assert_eq!(found.state, State::Fail);
    let text = "The fleets of app in eu differ in security_group: web carries sg-web; worker carries sg-worker. What admits one of them \
                may turn the others away: admit each, or give them one in common.";
    assert_eq!(texts(&found), [text]);
    // Somebody knows of both.
    let known = drift(&fleets, &[], &["security_group=sg-web", "security_group=sg-worker"]);
    assert_eq!((known.state, texts(&known)), (State::Pass, vec![]));
    assert_eq!(drift(&fleets, &[], &["security_group"]).state, State::Pass);
    assert_eq!(drift(&fleets, &[], &["security_group=sg-web"]).state, State::Fail, "another one is news");
}

#[test]
fn hosts_of_one_fleet_are_compared_and_the_odd_one_is_named() {
    let odd: &[(&str, &str)] = &[("security_group", "sg-web"), ("security_group", "sg-admin"), ("zone", "a")];
    let found = drift(&[fleet("web", &[WEB, odd, WEB_B])], &[], &[]);
    let text = "The hosts of eu/web are not alike: security_group sg-admin is carried by 1 of 3 (web-2). What admits some of them may \
                turn the others away.";
    assert_eq!((found.state, texts(&found)), (State::Fail, vec![text]));
    let lacking = drift(&[fleet("web", &[odd, odd, WEB])], &[], &[]);
    assert!(texts(&lacking)[0].contains("sg-admin is carried by 2 of 3 (not web-3)"), "{lacking:?}");
    assert_eq!(drift(&[fleet("web", &[WEB, WEB_B])], &[], &[]).state, State::Pass, "a fleet is spread over zones");
}

#[test]
fn what_the_inventory_states_is_compared_and_said_once() {
    let mut web = fleet("web", &[WEB, WORKER]);
    web.stated = identity(&[("security_group", "sg-web")]);
    let found = drift(&[web], &[], &[]);
    assert_eq!(texts(&found), ["web-2 of eu/web: security_group is sg-worker, the inventory states sg-web."]);
}

#[test]
fn what_is_not_known_is_no_pass() {
    assert_eq!(drift(&[], &[], &[]).state, State::Unknown);
    let empty = drift(&[fleet("web", &[WEB, WEB_B]), fleet("worker", &[])], &[], &[]);
    assert_eq!((empty.state, empty.unknown), (State::Unknown, vec!["eu/worker: it has no agent".to_owned()]));
    let mute = drift(&[fleet("web", &[WEB]), fleet("worker", &[&[("zone", "a")]])], &[], &[]);
    assert_eq!(mute.state, State::Unknown, "{mute:?}");
    let vpc: &[(&str, &str)] = &[("vpc", "vpc-1")];
    let half = drift(&[fleet("web", &[WEB]), fleet("worker", &[vpc])], &[], &[]);
    assert_eq!(half.state, State::Unknown, "they have nothing in common to compare: {half:?}");
}

#[test]
fn results_that_differ_are_drift_though_the_identities_are_the_same() {
    let fleets = [fleet("web", &[WEB]), fleet("worker", &[WEB])];
    let seen = |fleet: &str, state, reason: Option<&str>| LastSeen {
        fleet: fleet.into(),
        dependency: "cache".into(),
        state,
        reason: reason.map(str::to_owned),
        at: "2025-03-31T10:46:00Z".into(),
    };
    let last = [seen("web", State::Fail, Some("connect_timeout")), seen("worker", State::Pass, None)];
    let found = drift(&fleets, &last, &[]);
    assert_eq!(
        texts(&found),
        ["cache passes from worker and fails from web (connect_timeout), as last seen at 2025-03-31T10:46:00Z."]
    );
    assert_eq!(found.findings[0].dependency, "cache");
    assert_eq!(
        drift(&fleets, &[seen("web", State::Fail, None), seen("worker", State::Fail, None)], &[]).state,
        State::Pass
    );
    assert_eq!(drift(&fleets, &[last[1].clone(), seen("gone", State::Fail, None)], &[]).state, State::Pass);
}

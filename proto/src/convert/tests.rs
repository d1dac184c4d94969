//! What goes out comes back the same, and what is too much or means nothing is refused by name.

use preflight_core::reason::{Short, Void};
use preflight_core::spec::{ClientFiles, Expect, HttpOptions, Proxy, SpecOption, StatusRange, TlsOptions, Topology};
use preflight_core::target::{Host, Scheme, Target};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::spec::{ADDRESSES, EXPECTS, FAMILIES, FORM, TLS_VERSIONS};
use super::*;

fn plain() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9 ,.=/é-]{0,60}"
}

fn ms() -> impl Strategy<Value = f64> {
    0.0..1e6
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Ok),
        select(Short::ALL).prop_map(Outcome::Short),
        select(Void::ALL).prop_map(Outcome::Void),
    ]
}

fn certificate() -> impl Strategy<Value = Certificate> {
    let time = || (-1_000_000_000i64..10_000_000_000).prop_map(|s| Timestamp::from_second(s).unwrap());
    (plain(), plain(), vec(plain(), 0..4), time(), time(), "[0-9a-f]{64}").prop_map(
        |(subject, issuer, names, not_before, not_after, sha256)| Certificate {
            subject,
            issuer,
            names,
            not_before,
            not_after,
            sha256,
        },
    )
}

fn observation() -> impl Strategy<Value = Observation> {
    let phases = proptest::array::uniform5(option::of(ms())).prop_map(
        |[resolve_ms, connect_ms, proxy_ms, tls_ms, protocol_ms]| Phases {
            resolve_ms,
            connect_ms,
            proxy_ms,
            tls_ms,
            protocol_ms,
        },
    );
    let member = (select(&ROLES[..]), plain()).prop_map(|(role, endpoint)| Member { role, endpoint });
    let tls = (option::of(plain()), option::of(plain()), vec(certificate(), 0..=TlsSeen::MAX_CHAIN))
        .prop_map(|(version, cipher, chain)| TlsSeen { version, cipher, chain });
    let attempt = (ms(), plain(), ms()).prop_map(|(at_ms, result, took_ms)| Attempt { at_ms, result, took_ms });
    let address = any::<(std::net::IpAddr, u16)>().prop_map(SocketAddr::from);
    (
        option::of(address),
        outcome(),
        option::of(select(&PROOFS[..])),
        phases,
        option::of(plain()),
        option::of(plain()),
        option::of(tls),
        vec(attempt, 0..=MAX_ATTEMPTS),
        option::of(member),
    )
        .prop_map(|(address, outcome, proof, phases, note, detail, tls, attempts, member)| Observation {
            address,
            member,
            outcome,
            proof,
            phases,
            note,
            detail,
            tls,
            attempts,
        })
}

fn identity() -> impl Strategy<Value = NetworkIdentity> {
    btree_map("[a-z_.]{1,20}", btree_set(plain(), 0..5), 0..6).prop_map(NetworkIdentity)
}

fn control() -> impl Strategy<Value = Control> {
    prop_oneof![Just(Control::Unanswered), Just(Control::Connected), Just(Control::Untried)]
}

fn agent_report() -> impl Strategy<Value = AgentReport> {
    let report = (vec(observation(), 0..4), any::<[u32; 2]>(), any::<[bool; 3]>(), control()).prop_map(
        |(observations, [resolved, members], [ipv4, ipv6, egress], control)| Report {
            egress,
            members,
            observations,
            resolved,
            routes: Routes { ipv4, ipv6 },
            control,
        },
    );
    (plain(), plain(), plain(), plain(), identity(), any::<i64>(), report).prop_map(
        |(run, cell, region, release, identity, clock_ms, report)| AgentReport {
            run,
            cell: CellDigest(cell),
            region,
            release,
            identity,
            clock_ms,
            report,
        },
    )
}

fn spec() -> impl Strategy<Value = ProbeSpec> {
    let host = prop_oneof!["[a-z]{1,9}\\.internal".prop_map(Host::Name), any::<std::net::IpAddr>().prop_map(Host::Ip)];
    let deadlines = (1..=MAX_TIMEOUT_MS, 1..=MAX_TIMEOUT_MS);
    let options = (tls(), http(), option::of(topology()), option::of(1..=MAX_TIMEOUT_MS), select(&EXPECTS[..]));
    let via = option::of(("[a-z]{1,9}\\.internal".prop_map(Host::Name), 1..=u16::MAX));
    (
        select(&Scheme::ALL[..]),
        host,
        1..=u16::MAX,
        deadlines,
        select(&FAMILIES[..]),
        select(&ADDRESSES[..]),
        options,
        via,
    )
        .prop_flat_map(|(scheme, host, port, (connect, rest), families, addresses, options, via)| {
            let (tls, http, topology, most, expect) = options;
            let target = Target { scheme, host, port, path: String::new() };
            let spec = ProbeSpec {
                connect_timeout: Millis(connect),
                timeout: Millis(rest),
                families,
                addresses,
                tls,
                expect,
                max_latency: most.map(Millis),
                via: via.map(|(host, port)| Proxy { host, port }),
                http,
                topology,
                ..ProbeSpec::new(target)
            };
            select(&PROOFS[..]).prop_map(move |require| fitting(ProbeSpec { require, ..spec.clone() }))
        })
}

/// Without the options that do not fit.
fn fitting(mut spec: ProbeSpec) -> ProbeSpec {
    while let Err(misfit) = spec.check() {
        let plain = ProbeSpec::new(spec.target.clone());
        match misfit.option {
            SpecOption::ConnectTimeout => spec.connect_timeout = plain.connect_timeout,
            SpecOption::Require if spec.expect == Expect::Blocked => spec.require = Proof::Connected,
            SpecOption::Require => spec.require = plain.require,
            SpecOption::Families => spec.families = plain.families,
            SpecOption::Addresses => spec.addresses = plain.addresses,
            SpecOption::Tls if spec.tls.upgrade => spec.tls.upgrade = false,
            SpecOption::Tls => spec.tls = plain.tls,
            SpecOption::MaxLatency => spec.max_latency = None,
            SpecOption::Via => spec.via = None,
            SpecOption::Http => spec.http = plain.http,
            SpecOption::Topology => spec.topology = None,
        }
    }
    spec
}

fn tls() -> impl Strategy<Value = TlsOptions> {
    let client = option::of((plain(), plain()));
    let client = client.prop_map(|files| files.map(|(cert_file, key_file)| ClientFiles { cert_file, key_file }));
    let texts = (option::of(plain()), option::of("[A-Z\n-]{0,80}"), option::of(plain()), option::of("[0-9a-f]{64}"));
    (any::<bool>(), texts, client, select(&TLS_VERSIONS[..])).prop_map(|(upgrade, texts, client, min_version)| {
        let (server_name, ca_pem, ca_file, fingerprint) = texts;
        TlsOptions { upgrade, server_name, ca_pem, ca_file, client, min_version, fingerprint }
    })
}

fn http() -> impl Strategy<Value = HttpOptions> {
    let range = (100..=599_u16, 100..=599_u16).prop_map(|(a, b)| StatusRange { from: a.min(b), to: a.max(b) });
    (vec(range, 0..=MAX_STATUS_RANGES), option::of(plain())).prop_map(|(status, body)| HttpOptions { status, body })
}

fn topology() -> impl Strategy<Value = Topology> {
    let sentinel = option::of(plain()).prop_map(|master| Topology::Sentinel { master });
    prop_oneof![Just(Topology::Cluster), sentinel]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_report_comes_back_the_same(report in agent_report()) {
        let message = agent::Report::from(&report);
        prop_assert_eq!(AgentReport::try_from(message), Ok(report));
    }

    #[test]
    fn a_spec_comes_back_the_same(spec in spec()) {
        let message = agent::ProbeSpec::from(&spec);
        prop_assert_eq!(ProbeSpec::try_from(message), Ok(spec));
    }

    #[test]
    fn what_came_in_is_plain_and_stays_so(text in any::<String>()) {
        let message = agent::Observation {
            outcome: "ok".into(), detail: Some(text.clone()), note: Some(text), ..Default::default()
        };
        let once = Observation::try_from(message).unwrap();
        prop_assert!(once.detail.as_deref().unwrap().chars().all(text::is_plain));
        let twice = Observation::try_from(agent::Observation::from(&once));
        prop_assert_eq!(twice, Ok(once));
    }
}

fn ok_observation() -> agent::Observation {
    agent::Observation {
        address: "10.0.0.1:1".into(),
        outcome: "ok".into(),
        proof: "connected".into(),
        ..Default::default()
    }
}

fn refused(observation: agent::Observation) -> ConvertError {
    Observation::try_from(observation).unwrap_err()
}

#[test]
fn too_much_is_refused() {
    let report = |observations| agent::Report {
        identity: Some(agent::NetworkIdentity::default()),
        observations,
        ..Default::default()
    };
    assert!(AgentReport::try_from(report(vec![ok_observation(); MAX_OBSERVATIONS])).is_ok());
    assert_eq!(
        AgentReport::try_from(report(vec![ok_observation(); MAX_OBSERVATIONS + 1])),
        Err(ConvertError::TooMany { field: "report.observations", count: MAX_OBSERVATIONS + 1, max: MAX_OBSERVATIONS })
    );
    assert_eq!(
        refused(agent::Observation { attempts: vec![agent::Attempt::default(); MAX_ATTEMPTS + 1], ..ok_observation() }),
        ConvertError::TooMany { field: "observation.attempts", count: MAX_ATTEMPTS + 1, max: MAX_ATTEMPTS }
    );
    let chain = vec![agent::Certificate::default(); 9];
    assert_eq!(
        refused(agent::Observation { tls: Some(agent::TlsSeen { chain, ..Default::default() }), ..ok_observation() }),
        ConvertError::TooMany { field: "tls.chain", count: 9, max: 8 }
    );
    assert_eq!(
        refused(agent::Observation { detail: Some("x".repeat(4097)), ..ok_observation() }),
        ConvertError::TooLong { field: "observation.detail", bytes: 4097, max: 4096 }
    );
}

#[test]
fn an_identity_is_bounded_and_unambiguous() {
    let attribute = |key: &str, values: usize| agent::Attribute {
        key: key.into(),
        values: (0..values).map(|i| i.to_string()).collect(),
    };
    let of = |attributes| NetworkIdentity::try_from(agent::NetworkIdentity { attributes });
    assert!(of((0..64).map(|i| attribute(&i.to_string(), 64)).collect()).is_ok());
    assert!(matches!(of(vec![attribute("a", 65)]), Err(ConvertError::TooMany { count: 65, .. })));
    assert!(matches!(
        of((0..65).map(|i| attribute(&i.to_string(), 1)).collect()),
        Err(ConvertError::TooMany { field: "identity.attributes", .. })
    ));
    assert!(matches!(of(vec![attribute("a", 1), attribute("a", 2)]), Err(ConvertError::Invalid { .. })));
    assert!(matches!(of(vec![attribute("", 1)]), Err(ConvertError::Invalid { .. })));
}

#[test]
fn what_means_nothing_is_refused() {
    let field = |error: ConvertError| {
        let ConvertError::Invalid { field, .. } = error else { panic!("{error}") };
        field
    };
    let base = ok_observation;
    for (observation, want) in [
        (agent::Observation { outcome: "fine".into(), ..base() }, "observation.outcome"),
        (agent::Observation { reason: "connect_timeout".into(), ..base() }, "observation.outcome"),
        (agent::Observation { outcome: "short".into(), ..base() }, "observation.outcome"),
        (agent::Observation { address: "example.com:1".into(), ..base() }, "observation.address"),
        (agent::Observation { proof: "total".into(), ..base() }, "observation.proof"),
        (agent::Observation { connect_ms: Some(f64::NAN), ..base() }, "observation.connect_ms"),
        (agent::Observation { tls_ms: Some(-1.0), ..base() }, "observation.tls_ms"),
        (agent::Observation { protocol_ms: Some(f64::INFINITY), ..base() }, "observation.protocol_ms"),
    ] {
        assert_eq!(field(refused(observation)), want);
    }
    assert_eq!(
        AgentReport::try_from(agent::Report::default()),
        Err(ConvertError::Missing { field: "report.identity" })
    );
}

#[test]
fn a_spec_that_no_probe_can_meet_is_refused() {
    let good = || agent::ProbeSpec::from(&ProbeSpec::new("tcp://db.internal:5432".parse().unwrap()));
    assert!(ProbeSpec::try_from(good()).is_ok());
    let with = |change: fn(&mut agent::TlsOptions)| {
        let mut tls = agent::TlsOptions::from(&TlsOptions::default());
        change(&mut tls);
        tls
    };
    for bad in [
        agent::ProbeSpec { target: "ftp://x:1".into(), ..good() },
        agent::ProbeSpec { form: FORM + 1, ..good() },
        agent::ProbeSpec { form: 0, ..good() },
        agent::ProbeSpec { via: Some("http://proxy:3128".into()), ..good() },
        agent::ProbeSpec { via: Some("tcp://proxy:3128".into()), ..good() },
        agent::ProbeSpec { expect: "maybe".into(), ..good() },
        agent::ProbeSpec { topology: Some((&Topology::Cluster).into()), ..good() },
        agent::ProbeSpec { http_status: vec![agent::StatusRange { from: 500, to: 400 }], ..good() },
        agent::ProbeSpec { tls: None, ..good() },
        agent::ProbeSpec { require: "protocol".into(), ..good() },
        agent::ProbeSpec { connect_timeout_ms: 0, ..good() },
        agent::ProbeSpec { timeout_ms: u32::MAX, ..good() },
        agent::ProbeSpec { families: String::new(), ..good() },
        agent::ProbeSpec { addresses: "some".into(), ..good() },
        agent::ProbeSpec { tls: Some(with(|tls| tls.ca_pem = Some("x".repeat(MAX_PEM_BYTES + 1)))), ..good() },
        agent::ProbeSpec { tls: Some(with(|tls| tls.cert_file = Some("/a".into()))), ..good() },
        agent::ProbeSpec { tls: Some(with(|tls| tls.fingerprint = Some("AB".repeat(32)))), ..good() },
        agent::ProbeSpec { tls: Some(with(|tls| tls.upgrade = true)), ..good() },
    ] {
        assert!(ProbeSpec::try_from(bad.clone()).is_err(), "{bad:?}");
    }
}

//! Addresses, policy, the control and how far a probe goes.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::{nobody, probe, reason, report, scripted, spec};
use preflight_core::observation::{Control, Outcome, Proof};
use preflight_core::reason::{Short, Void};
use preflight_core::spec::{Families, Millis};
use preflight_probe::{AllowAll, Engine, EngineOptions, Guard};
use tokio::io::AsyncReadExt as _;

struct Deny(fn(SocketAddr) -> bool);

impl Guard for Deny {
    fn allows(&self, address: SocketAddr) -> bool {
        !(self.0)(address)
    }

    fn may_use(&self, _: &std::path::Path, _: SocketAddr) -> bool {
        false
    }
}

fn engine() -> Engine {
    Engine::new(EngineOptions::default()).unwrap()
}

async fn holds() -> (SocketAddr, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    scripted(|mut stream| async move { while stream.read(&mut [0; 64]).await.is_ok_and(|n| n > 0) {} }).await
}

#[tokio::test]
async fn what_the_policy_denies_is_shown_and_never_dialled() {
    let (address, accepted) = holds().await;
    let port = address.port();
    for host in ["127.0.0.1", "[::ffff:127.0.0.1]", "0.0.0.0"] {
        let spec = spec(&format!("tcp://{host}:{port}"));
        let report = engine().probe(&spec, &Deny(|a| a.ip().is_loopback())).await;
        let [seen] = report.observations.as_slice() else { panic!("{report:#?}") };
        assert_eq!((reason(seen), seen.proof), ("policy_denied", Some(Proof::Resolved)), "{host}");
        assert_eq!(seen.address.unwrap().port(), port);
        assert_eq!(report.outcome(&spec), Outcome::Void(Void::PolicyDenied));
    }
    assert_eq!(accepted.load(Ordering::SeqCst), 0);
    // The same, allowed: the test can tell.
    assert_eq!(reason(&probe(&spec(&format!("tcp://[::ffff:127.0.0.1]:{port}"))).await), "ok");
    // The kernel accepts before the listener's task does.
    let accepts = async {
        while accepted.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), accepts).await.unwrap();
}

#[tokio::test]
async fn where_policy_denies_the_control_a_connect_proves_nothing() {
    let (address, _) = holds().await;
    let report = engine().probe(&spec(&format!("tcp://{address}")), &Deny(|a| a.ip().to_string() == "192.0.2.1")).await;
    let seen = &report.observations[0];
    assert_eq!(seen.outcome.reason(), Some("policy_denied"));
    assert!(seen.detail.as_ref().unwrap().contains("192.0.2.1"), "{:?}", seen.detail);
}

#[tokio::test]
async fn a_port_where_nothing_listens_is_refused_at_once() {
    let mut took = Vec::new();
    for _ in 0..5 {
        let (_held, nobody) = nobody();
        let begin = Instant::now();
        let seen = probe(&spec(&format!("tcp://{nobody}"))).await;
        took.push(begin.elapsed());
        assert_eq!(
            (reason(&seen), seen.proof, seen.phases.connect_ms),
            ("connect_refused", Some(Proof::Resolved), None)
        );
        assert_eq!(seen.attempts.iter().map(|a| a.result.as_str()).collect::<Vec<_>>(), ["connect_refused"]);
    }
    assert!(took.iter().any(|t| *t < Duration::from_millis(40)), "not even the control is waited for: {took:?}");
}

/// A listener whose queue is full: Linux drops the SYNs. For as long as both are kept.
async fn drops() -> (SocketAddr, impl Sized) {
    let listener = tokio::net::TcpSocket::new_v4().unwrap();
    listener.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let fills = tokio::net::TcpStream::connect(address).await.unwrap();
    (address, (listener, fills))
}

#[tokio::test]
async fn silence_is_called_in_the_connect_timeout_after_six_attempts() {
    let (address, _held) = drops().await;
    let begin = Instant::now();
    let spec = spec(&format!("tcp://{address}"));
    let seen = probe(&spec).await;
    assert_eq!((reason(&seen), seen.proof), ("connect_timeout", Some(Proof::Resolved)), "{seen:#?}");
    assert_eq!(seen.attempts.len(), 6);
    assert!(seen.attempts.iter().all(|a| a.result == "silent" && a.took_ms > 300.0), "{seen:#?}");
    // The kernel alone would go on for minutes.
    let took = begin.elapsed();
    assert!((Duration::from_millis(990)..Duration::from_secs(5)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn a_probe_goes_as_far_as_required() {
    let (address, _) = holds().await;
    let mut spec = spec(&format!("redis://{address}"));
    for (require, proof) in [(Proof::Resolved, Proof::Resolved), (Proof::Connected, Proof::Connected)] {
        spec.require = require;
        let report = report(&spec).await;
        assert_eq!(report.observations[0].proof, Some(proof));
        assert_eq!(report.outcome(&spec), Outcome::Ok, "{report:#?}");
    }
    // A proof that the scheme cannot give is not had: Redis in the clear is not encrypted, however well it answers.
    let server = common::Server::redis(&[]);
    for (url, require) in [
        (format!("tcp://{address}"), Proof::Protocol),
        (format!("redis://127.0.0.1:{}", server.port), Proof::Encrypted),
    ] {
        spec.target = url.parse().unwrap();
        spec.require = require;
        assert_eq!(report(&spec).await.outcome(&spec), Outcome::Short(Short::ProtocolUnexpected), "{url}");
    }
}

#[tokio::test]
async fn a_connect_waits_a_moment_for_the_control_and_a_failure_does_not() {
    let (address, _) = holds().await;
    let engine = engine();
    let begin = Instant::now();
    let report = engine.probe(&spec(&format!("tcp://{address}")), &AllowAll).await;
    assert!(report.control != Control::Connected && reason(&report.observations[0]) == "ok", "{report:#?}");
    assert!(begin.elapsed() < Duration::from_millis(900), "{:?}", begin.elapsed());
    // The next probes of the port find the control well under way.
    let mut took = Vec::new();
    for _ in 0..5 {
        let begin = Instant::now();
        engine.probe(&spec(&format!("tcp://{address}")), &AllowAll).await;
        took.push(begin.elapsed());
    }
    assert!(took.iter().any(|t| *t < Duration::from_millis(40)), "{took:?}");
}

#[tokio::test]
async fn names_of_this_host_give_each_family_by_itself() {
    let (address, _) = holds().await;
    let mut spec = spec(&format!("tcp://localhost:{}", address.port()));
    spec.families = Families::Ipv4;
    let only = report(&spec).await;
    assert_eq!(only.observations.iter().map(|o| o.address.unwrap()).collect::<Vec<_>>(), [address]);
    assert!(only.routes.ipv4);
    spec.target = format!("tcp://127.0.0.1:{}", address.port()).parse().unwrap();
    spec.families = Families::Ipv6;
    let none = report(&spec).await;
    assert_eq!(none.outcome(&spec), Outcome::Short(Short::DnsNoAddress));
    spec.families = Families::Both;
    let half = report(&spec).await;
    assert_eq!(half.outcome(&spec), Outcome::Short(Short::DnsNoAddress));
}

#[tokio::test]
async fn few_at_once_still_probes_all() {
    let (address, accepted) = holds().await;
    let engine = Engine::new(EngineOptions { max_concurrent: 1, max_per_second: None }).unwrap();
    let mut spec = spec(&format!("tcp://{address}"));
    spec.connect_timeout = Millis(300);
    let all = futures_util::future::join_all((0..20).map(|_| engine.probe(&spec, &AllowAll))).await;
    assert!(all.iter().all(|report| report.outcome(&spec) == Outcome::Ok));
    assert_eq!(accepted.load(Ordering::SeqCst), 20);
}

#[test]
fn a_probe_can_be_spawned() {
    fn sends<T: Send>(_: T) {}
    let spec = spec("tcp://127.0.0.1:1");
    sends(engine().probe(&spec, &AllowAll));
}

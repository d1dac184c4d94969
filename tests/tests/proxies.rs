//! Through real proxies: what a probe says of a path that leads through squid or tinyproxy, and that they log nothing
//! but the tunnels that they were asked for.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use preflight_core::observation::{Observation, Proof};
use preflight_core::spec::{Millis, ProbeSpec};
use preflight_core::target::Target;
use preflight_probe::{AllowAll, Engine, EngineOptions};
use preflight_tests::certificates::{Authority, TODAY};
use preflight_tests::lab::{Firewall, Host, Lab, wait_for};

const NAME: &str = "api.internal";
const AT_ONCE: usize = 4;

/// Many probes of one target from a host, some at a time.
fn probes(from: &Host, spec: &ProbeSpec, count: usize) -> Vec<Observation> {
    from.within(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let engine = Engine::new(EngineOptions::default()).unwrap();
            let engine = &engine;
            let lanes = AT_ONCE.min(count);
            let seen = join_all((0..lanes).map(async |_| {
                let mut seen = Vec::new();
                for _ in 0..count / lanes {
                    seen.extend(engine.probe(spec, &AllowAll).await.observations);
                }
                seen
            }));
            let seen = seen.await.concat();
            // The engine says goodbye in tasks of its own, which end with the runtime.
            tokio::time::sleep(Duration::from_millis(500)).await;
            seen
        })
    })
}

fn probe(from: &Host, spec: &ProbeSpec) -> Observation {
    // A machine that stood still when a deadline was due says so of itself, and is asked again.
    let starved = |seen: &Observation| seen.detail.as_ref().is_some_and(|detail| detail.contains("stopped or starved"));
    let mut seen = probes(from, spec, 1).remove(0);
    for _ in 0..10 {
        if !starved(&seen) {
            break;
        }
        seen = probes(from, spec, 1).remove(0);
    }
    seen
}

fn reason(seen: &Observation) -> &'static str {
    seen.outcome.reason().unwrap_or("ok")
}

/// The words of an observation that fell short for this reason.
fn short(from: &Host, spec: &ProbeSpec, want: &str) -> String {
    let seen = probe(from, spec);
    assert_eq!(reason(&seen), want, "{} via {:?}: {seen:#?}", spec.target, spec.via);
    assert!(seen.proof < Some(Proof::Connected), "a proxy that fails proves no connection: {seen:#?}");
    seen.detail.unwrap_or_default()
}

fn through(target: &str, proxy: &str, authority: &Authority) -> ProbeSpec {
    let mut spec = ProbeSpec::new(target.parse().unwrap());
    spec.via = Some(proxy.parse::<Target>().unwrap().try_into().unwrap());
    if spec.speaks_tls() {
        spec.tls.ca_pem = Some(authority.pem.clone());
        spec.tls.server_name = Some(NAME.to_owned());
    }
    spec
}

#[test]
fn five_hundred_tunnels_and_not_a_word_more() {
    const COUNT: usize = 500;
    let lab = Lab::new();
    let authority = Authority::new("The lab's authority");
    let (web, way) = (lab.host("web", &["10.1.0.1"]), lab.host("proxy", &["10.8.0.1"]));
    let (api, cache) = (lab.host("api", &["10.9.0.1"]), lab.host("cache", &["10.9.0.2"]));
    let _api = api.https(443, &authority.issue(&[NAME], TODAY));
    let _cache = cache.redis(6379, &[]);
    let squid = way.squid(3128, "");
    let tiny = way.tinyproxy(8888, "");
    let targets = ["https://10.9.0.1", "redis://10.9.0.2", "redis://cache"];
    let all = |proxy: &str| {
        for target in targets {
            let spec = through(target, proxy, &authority);
            let seen = probes(&web, &spec, COUNT);
            assert_eq!(seen.len(), COUNT);
            for seen in seen {
                assert_eq!((reason(&seen), seen.proof), ("ok", Some(Proof::Protocol)), "{target} {proxy} {seen:#?}");
                assert!(seen.phases.proxy_ms.is_some(), "{seen:#?}");
            }
        }
    };

    let (requests, log) = (squid.requests(), squid.log());
    all("http://10.8.0.1:3128");
    let wanted = COUNT * targets.len();
    wait_for("squid to log its tunnels", Duration::from_secs(20), || {
        (squid.requests().lines().count() >= requests.lines().count() + wanted).then_some(())
    });
    let fresh = squid.requests()[requests.len()..].to_owned();
    let good = |line: &&str| {
        line.contains(" TCP_TUNNEL/200 ")
            && ["CONNECT 10.9.0.1:443 ", "CONNECT 10.9.0.2:6379 ", "CONNECT cache:6379 "]
                .iter()
                .any(|it| line.contains(it))
    };
    assert_eq!((fresh.lines().filter(good).count(), fresh.lines().count()), (wanted, wanted), "{fresh}");
    assert_eq!(squid.log(), log, "squid says more than its requests");

    let begin = tiny.log().len();
    all("http://10.8.0.1:8888");
    let fresh = tiny.log()[begin..].to_owned();
    let count = |what: &str| fresh.lines().filter(|line| line.contains(what)).count();
    assert_eq!(count("): CONNECT "), wanted, "{fresh}");
    assert_eq!(count("WARNING") + count("CRITICAL") + count("NOTICE"), 0, "{fresh}");
    // On a host that is busy otherwise a tunnel may be closed before all of it was read, which is a reset: the odd one.
    assert!(count("ERROR") <= wanted / 200, "{fresh}");
}

#[test]
fn what_a_proxy_does_not_let_through() {
    let lab = Lab::new();
    let authority = Authority::new("The lab's authority");
    let (web, way) = (lab.host("web", &["10.1.0.1"]), lab.host("proxy", &["10.8.0.1"]));
    let cache = lab.host("cache", &["10.9.0.2"]);
    let _cache = cache.redis(6379, &[]);
    let _squid = way.squid(3128, "");
    let _tiny = way.tinyproxy(8888, "");
    for proxy in ["http://10.8.0.1:3128", "http://10.8.0.1:8888"] {
        let said = short(&web, &through("redis://10.9.0.2:6380", proxy, &authority), "proxy_refused");
        assert!(said.contains("403"), "{said}");
    }
    let _shut = way.squid(3129, "acl web src 10.1.0.1\nhttp_access deny web");
    let said = short(&web, &through("redis://10.9.0.2", "http://10.8.0.1:3129", &authority), "proxy_refused");
    assert!(said.contains("403") && said.contains("ERR_ACCESS_DENIED"), "{said}");
    let _closed = way.tinyproxy(8889, "BasicAuth app secret");
    let said = short(&web, &through("redis://10.9.0.2", "http://10.8.0.1:8889", &authority), "proxy_refused");
    assert!(said.contains("407") && said.contains("asks for a login"), "{said}");
    let login = "auth_param basic program /bin/cat\nacl known_user proxy_auth REQUIRED\nhttp_access deny !known_user";
    let _locked = way.squid(3130, login);
    let said = short(&web, &through("redis://10.9.0.2", "http://10.8.0.1:3130", &authority), "proxy_refused");
    assert!(said.contains("407") && said.contains("asks for a login"), "{said}");
}

#[test]
fn a_target_that_the_proxy_does_not_reach() {
    let lab = Lab::new();
    let authority = Authority::new("The lab's authority");
    let (web, way) = (lab.host("web", &["10.1.0.1"]), lab.host("proxy", &["10.8.0.1"]));
    let cache = lab.host("cache", &["10.9.0.2"]);
    let _squid = way.squid(3128, "");
    let _hasty = way.squid(3129, "connect_timeout 1 second\nforward_timeout 2 seconds");
    let _tiny = way.tinyproxy(8888, "");
    // Nothing listens: the proxies hear of it and say so.
    for proxy in ["http://10.8.0.1:3128", "http://10.8.0.1:8888"] {
        let said = short(&web, &through("redis://10.9.0.2", proxy, &authority), "proxy_target_failed");
        assert!(said.contains("503") || said.contains("Unable to connect"), "{said}");
    }
    let _cache = cache.redis(6379, &[]);
    let open = through("redis://10.9.0.2", "http://10.8.0.1:3128", &authority);
    assert_eq!(reason(&probe(&web, &open)), "ok");
    // Dropped: a proxy waits for longer than the probe does, and until it gives up nothing tells it from one that hangs.
    cache.firewall(&Firewall::open().drop(6379));
    for proxy in ["http://10.8.0.1:3128", "http://10.8.0.1:8888"] {
        let mut spec = through("redis://10.9.0.2", proxy, &authority);
        spec.timeout = Millis(1_500);
        let begin = Instant::now();
        let said = short(&web, &spec, "proxy_timeout");
        assert!(said.contains("no answer to CONNECT in 1.5s") || said.contains("1500"), "{said}");
        assert!(begin.elapsed() >= Duration::from_millis(1_500), "the deadline is the probe's own");
    }
    // One that gives up sooner than the probe says what it met.
    let mut spec = through("redis://10.9.0.2", "http://10.8.0.1:3129", &authority);
    spec.timeout = Millis(30_000);
    let said = short(&web, &spec, "proxy_target_failed");
    assert!(said.contains("503") || said.contains("504"), "{said}");
}

#[test]
fn a_proxy_that_is_none_or_not_there() {
    let lab = Lab::new();
    let authority = Authority::new("The lab's authority");
    let (web, way) = (lab.host("web", &["10.1.0.1"]), lab.host("proxy", &["10.8.0.1"]));
    let cache = lab.host("cache", &["10.9.0.2"]);
    let _cache = cache.redis(6379, &[]);
    let via = |port: u16| through("redis://10.9.0.2", &format!("http://10.8.0.1:{port}"), &authority);
    short(&web, &via(3128), "proxy_unreachable");
    way.firewall(&Firewall::open().drop(3128));
    let seen = probe(&web, &via(3128));
    assert_eq!(reason(&seen), "proxy_unreachable", "{seen:#?}");
    // The connect's own deadline of one second ends it, not the five seconds of what follows.
    let ended = seen.detail.unwrap_or_default();
    assert!(ended.contains("connect_timeout") && ended.contains("1000 ms"), "{ended}");
    way.firewall(&Firewall::open());
    let _redis = way.redis(6380, &[]);
    short(&web, &via(6380), "proxy_unexpected");
    way.silence(6381);
    let mut mute = via(6381);
    mute.timeout = Millis(500);
    short(&web, &mute, "proxy_timeout");
    // A web server answers in HTTP, and refuses.
    let _nginx = way.http(8080);
    let seen = probe(&web, &via(8080));
    assert!(["proxy_refused", "proxy_unexpected"].contains(&reason(&seen)), "{seen:#?}");
}

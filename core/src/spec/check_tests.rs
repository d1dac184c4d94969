use super::*;
use crate::spec::{Millis, Proxy, Topology};
use crate::target::Host;

fn spec(url: &str) -> ProbeSpec {
    ProbeSpec::new(url.parse().unwrap())
}

fn misfit(spec: &ProbeSpec) -> Option<(SpecOption, String)> {
    spec.check().err().map(|misfit| {
        assert!(!misfit.fix.is_empty() && !misfit.fix.ends_with('.'), "{misfit:?}");
        (misfit.option, format!("{misfit}; {}", misfit.fix))
    })
}

fn set(url: &str, change: impl FnOnce(&mut ProbeSpec)) -> ProbeSpec {
    let mut spec = spec(url);
    change(&mut spec);
    spec
}

fn via(spec: &mut ProbeSpec) {
    spec.via = Some(Proxy { host: Host::Name("proxy".into()), port: 3128 });
}

fn server_name(spec: &mut ProbeSpec) {
    spec.tls.server_name = Some("other".into());
}

fn upgrade(spec: &mut ProbeSpec) {
    spec.tls.upgrade = true;
}

#[test]
fn what_says_nothing_fits_every_scheme() {
    for scheme in Scheme::ALL {
        assert_eq!(misfit(&spec(&format!("{scheme}://a:1"))), None);
        let blocked = set(&format!("{scheme}://a:1"), |spec| {
            spec.expect = Expect::Blocked;
            spec.require = Proof::Connected;
        });
        assert_eq!(misfit(&blocked), None);
    }
}

#[test]
fn what_fits_is_taken() {
    for good in [
        set("postgres://a", |spec| (upgrade(spec), server_name(spec)).0),
        set("rediss://a", server_name),
        set("redis://a", |spec| spec.topology = Some(Topology::Cluster)),
        set("https://a", |spec| spec.http.body = Some("up".into())),
        set("tls://a:1", via),
        set("redis://a", |spec| spec.require = Proof::Connected),
    ] {
        assert_eq!(misfit(&good), None, "{good:?}");
    }
}

#[test]
fn what_would_be_left_unheeded_is_named_with_its_remedy() {
    let blocked = |change: fn(&mut ProbeSpec)| {
        set("redis://a", |spec| {
            spec.expect = Expect::Blocked;
            spec.require = Proof::Connected;
            change(spec);
        })
    };
    for (bad, option, says) in [
        (set("redis://a", upgrade), SpecOption::Tls, "use rediss://, or leave it out"),
        (set("memcached://a", server_name), SpecOption::Tls, "does not speak TLS; leave it out"),
        (set("rediss://a", upgrade), SpecOption::Tls, "speaks TLS from its first byte"),
        (set("mysql://a", server_name), SpecOption::Tls, "without its upgrade to TLS; ask for the upgrade"),
        (set("tcp://a:1", |spec| spec.http.body = Some("up".into())), SpecOption::Http, "it is for http://"),
        (set("http://a", |spec| spec.topology = Some(Topology::Cluster)), SpecOption::Topology, "it is for redis://"),
        (set("tcp://a:1", via), SpecOption::Via, "may say yes before it connects"),
        (
            set("tls://a:1", |spec| {
                via(spec);
                spec.require = Proof::Connected;
            }),
            SpecOption::Via,
            "require no less",
        ),
        (set("tcp://a:1", |spec| spec.require = Proof::Protocol), SpecOption::Require, "write connected, or"),
        (set("postgres://a", |spec| spec.require = Proof::Encrypted), SpecOption::Require, "connected or protocol"),
        (set("tls://a:1", |spec| spec.require = Proof::Resolved), SpecOption::Require, "proves no path"),
        (
            set("redis://a", |spec| {
                spec.topology = Some(Topology::Cluster);
                spec.require = Proof::Connected;
            }),
            SpecOption::Require,
            "before the target is asked for its members",
        ),
        (blocked(|spec| spec.connect_timeout = Millis(999)), SpecOption::ConnectTimeout, "far away"),
        (blocked(|spec| spec.require = Proof::Protocol), SpecOption::Require, "beside 'expect: blocked'"),
        (blocked(|spec| spec.max_latency = Some(Millis(5))), SpecOption::MaxLatency, "beside 'expect: blocked'"),
        (blocked(via), SpecOption::Via, "beside 'expect: blocked'"),
        (blocked(|spec| spec.topology = Some(Topology::Cluster)), SpecOption::Topology, "beside 'expect: blocked'"),
        (blocked(|spec| spec.families = Families::Both), SpecOption::Families, "beside 'expect: blocked'"),
        (blocked(|spec| spec.addresses = Addresses::Any), SpecOption::Addresses, "beside 'expect: blocked'"),
    ] {
        let found = misfit(&bad);
        assert!(found.as_ref().is_some_and(|(of, text)| *of == option && text.contains(says)), "{found:?}, not {says}");
    }
}

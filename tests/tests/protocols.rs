//! Each protocol against its real server: what a probe says of it, and that the server counts nothing against the host
//! that probes it, by its own counters and log.

#![expect(clippy::unwrap_used, reason = "a test")]

use futures_util::future::join_all;
use preflight_core::observation::{Observation, Proof};
use preflight_core::spec::{ClientFiles, Millis, ProbeSpec};
use preflight_probe::{AllowAll, Engine, EngineOptions};
use preflight_tests::certificates::{Authority, TODAY};
use preflight_tests::lab::{Host, Lab};

const NAME: &str = "db.internal";

/// Many probes of one target from a host, some at a time; what each address said.
fn probes(from: &Host, spec: &ProbeSpec, count: usize) -> Vec<Observation> {
    const AT_ONCE: usize = 4;
    from.within(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let engine = Engine::new(EngineOptions::default()).unwrap();
            let engine = &engine;
            let seen = join_all((0..AT_ONCE).map(async |_| {
                let mut seen = Vec::new();
                for _ in 0..count.div_ceil(AT_ONCE) {
                    seen.extend(engine.probe(spec, &AllowAll).await.observations);
                }
                seen
            }));
            let seen = seen.await.concat();
            // The engine says goodbye in tasks of its own, which end with the runtime.
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            seen
        })
    })
}

/// One probe.
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

/// That many probes, every one with this outcome.
fn all(from: &Host, spec: &ProbeSpec, count: usize, want: &str) {
    let seen = probes(from, spec, count);
    assert!(seen.len() >= count);
    for seen in seen {
        assert_eq!(seen.outcome.reason().unwrap_or("ok"), want, "{seen:#?}");
        assert!(want != "ok" || seen.proof == Some(Proof::Protocol), "{seen:#?}");
    }
}

fn said(seen: &Observation) -> (&str, &str) {
    let words = seen.detail.as_deref().or(seen.note.as_deref()).unwrap_or_default();
    (seen.outcome.reason().unwrap_or("ok"), words)
}

/// A probe in the clear; one that asks for TLS; and one that asks for it by another name than the certificate's.
fn specs(url: &str, authority: &Authority) -> [ProbeSpec; 3] {
    let plain = ProbeSpec::new(url.parse().unwrap());
    let upgrade = |name: &str| {
        let mut spec = plain.clone();
        spec.tls.upgrade = spec.target.scheme.can_upgrade();
        spec.tls.ca_pem = Some(authority.pem.clone());
        spec.tls.server_name = Some(name.to_owned());
        spec
    };
    [plain.clone(), upgrade(NAME), upgrade("other.internal")]
}

#[test]
fn postgres_logs_nothing_and_counts_no_session() {
    let lab = Lab::new();
    let authority = Authority::new("The lab's authority");
    let web = lab.host("web", &["10.1.0.1"]);
    let [plain, secure] = [lab.host("plain", &["10.9.0.1"]), lab.host("secure", &["10.9.0.2"])];
    let servers = [plain.postgres(None), secure.postgres(Some(&authority.issue(&[NAME], TODAY)))];
    let counted = "select coalesce(sum(sessions_abandoned + sessions_fatal + sessions_killed + xact_rollback), 0), \
                   (select count(*) from pg_stat_activity where backend_type = 'client backend'), \
                   sum(sessions) < 10 from pg_stat_database";
    for (server, address) in servers.iter().zip(["10.9.0.1", "10.9.0.2"]) {
        let before = (server.log(), server.ask(counted));
        let [clear, upgraded, misnamed] = specs(&format!("postgres://{address}"), &authority);
        all(&web, &clear, 2000, "ok");
        let seen = probe(&web, &clear);
        assert_eq!(seen.tls.is_some(), address == "10.9.0.2", "what is offered is shown: {seen:#?}");
        if address == "10.9.0.2" {
            all(&web, &upgraded, 2000, "ok");
            all(&web, &misnamed, 200, "tls_name_mismatch");
        } else {
            all(&web, &upgraded, 200, "tls_not_spoken");
        }
        assert_eq!((server.log(), server.ask(counted)), before);
    }
}

#[test]
fn mysql_blocks_nobody() {
    let lab = Lab::new();
    let authority = Authority::new("The lab's authority");
    let (web, db) = (lab.host("web", &["10.1.0.1"]), lab.host("db", &["10.9.0.1"]));
    let server = db.mariadb(Some(&authority.issue(&[NAME], TODAY)));
    let [clear, upgraded, misnamed] = specs("mysql://10.9.0.1", &authority);
    let login = || web.run(&["mariadb", "--no-defaults", "-h", "10.9.0.1", "-uapp", "-px", "-e", "select 1"]);
    let seen = probe(&web, &clear);
    assert!(matches!(said(&seen), ("status_unexpected", words) if words.contains("1130")), "{seen:#?}");

    server.sql("create user app@'%' identified by 'x'; flush hosts");
    let seen = probe(&web, &clear);
    assert!(matches!(said(&seen), ("ok", words) if words.contains("'preflight'@'web'")), "{seen:#?}");
    let changed = |before: &preflight_tests::lab::Counters| -> Vec<String> {
        let now = server.counters();
        now.iter().filter(|(name, value)| before.get(*name) != Some(value)).map(|(name, _)| name.clone()).collect()
    };

    // Without an account: each is a login that was denied, and nothing that blocks.
    let (before, logged) = (server.counters(), server.log().len());
    all(&web, &clear, 2000, "ok");
    all(&web, &upgraded, 500, "ok");
    all(&web, &misnamed, 500, "tls_name_mismatch");
    // With a certificate to show, too: the server is judged on a connection without it.
    let client = authority.issue_client("web.internal");
    let file = |name: &str, text: &str| {
        let path = web.dir().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let client =
        ClientFiles { cert_file: file("client.pem", &client.chain_pem), key_file: file("client.key", &client.key_pem) };
    let shows = |spec: &ProbeSpec| {
        let mut spec = spec.clone();
        spec.tls.client = Some(client.clone());
        spec
    };
    all(&web, &shows(&misnamed), 20, "tls_name_mismatch");
    assert_eq!(server.held_against(&web)[..2], [0, 0], "a handshake was broken off");
    assert_eq!(changed(&before), ["Aborted_connects", "Access_denied_errors"]);
    let [blocking, handshakes, logins] = server.held_against(&web);
    assert_eq!((blocking, handshakes), (0, 0));
    assert!(logins >= 3000, "{logins}");
    assert!(login().status.success(), "another client of that host is turned away");
    let log = server.log()[logged..].to_owned();
    let denied = log.lines().filter(|line| line.contains("[Warning] Access denied for user 'preflight'@'web'")).count();
    // One for each probe, and for an attempt or a try more where this machine was slow.
    assert!(denied == log.lines().count() && (3020..3100).contains(&denied), "{denied} {log}");

    server.sql("install soname 'auth_ed25519'; install soname 'auth_pam'");
    // Whatever the login method is that the server makes up for an account that it does not have.
    for method in
        ["ed25519 using password('x')", "pam", "unix_socket", "mysql_native_password using 'invalid' or unix_socket"]
    {
        let accounts: Vec<String> = (0..60).map(|n| format!("decoy{n}@'%'")).collect();
        for account in &accounts {
            server.sql(&format!("create user {account} identified via {method}"));
        }
        server.sql("flush hosts");
        all(&web, &clear, 40, "ok");
        let [blocking, handshakes, logins] = server.held_against(&web);
        assert_eq!((blocking, handshakes), (0, 0), "{method}");
        assert!(logins >= 40, "{method}");
        server.sql(&format!("drop user {}", accounts.join(",")));
    }

    // With an account: nothing at all.
    server.sql("create user preflight@'%'; flush hosts");
    let (before, log) = (server.counters(), server.log());
    all(&web, &clear, 2000, "ok");
    all(&web, &upgraded, 500, "ok");
    assert_eq!(changed(&before), [""; 0]);
    assert_eq!(server.held_against(&web), [0, 0, 0]);
    assert_eq!(server.log(), log);

    // And that a host is blocked for less: three that connect and close.
    for _ in 0..3 {
        let mut stream = web.within(|| std::net::TcpStream::connect("10.9.0.1:3306")).unwrap();
        std::io::Read::read(&mut stream, &mut [0; 512]).unwrap();
    }
    preflight_tests::lab::wait_for("the host to be blocked", std::time::Duration::from_secs(20), || {
        let seen = probe(&web, &clear);
        matches!(said(&seen), ("status_unexpected", words) if words.contains("1129")).then_some(())
    });
    assert!(!login().status.success(), "the server blocks nobody, so the test shows nothing");
}

#[test]
fn mysql_without_tls_says_so_and_is_left_well() {
    let lab = Lab::new();
    let authority = Authority::new("The lab's authority");
    let (web, db) = (lab.host("web", &["10.1.0.1"]), lab.host("db", &["10.9.0.1"]));
    let server = db.mariadb(None);
    server.sql("create user app@'%' identified by 'x'");
    let [clear, upgraded, _] = specs("mysql://10.9.0.1", &authority);
    all(&web, &upgraded, 40, "tls_not_spoken");
    assert_eq!(server.held_against(&web)[..2], [0, 0]);
    server.sql("set global max_connections = 10; set global extra_max_connections = 1");
    let held: Vec<_> = (0..12).map(|_| web.within(|| std::net::TcpStream::connect("10.9.0.1:3306")).unwrap()).collect();
    preflight_tests::lab::wait_for("the server to be full", std::time::Duration::from_secs(20), || {
        let seen = probe(&web, &clear);
        matches!(said(&seen), ("status_unexpected", words) if words.contains("1040")).then_some(())
    });
    drop(held);
}

#[test]
fn memcached_counts_connections_and_nothing_else() {
    // What a connection changes, whoever makes it, and what a clock does.
    let own = |name: &str| {
        ["bytes_", "rusage_", "response_obj_", "read_buf_", "lru_maintainer_", "lru_crawler_"]
            .iter()
            .any(|kind| name.starts_with(kind))
            || ["curr_connections", "max_connections", "total_connections", "connection_structures", "time", "uptime"]
                .contains(&name)
    };
    let lab = Lab::new();
    let (web, cache) = (lab.host("web", &["10.1.0.1"]), lab.host("cache", &["10.9.0.1"]));
    let server = cache.memcached(11211, &[]);
    let spec = ProbeSpec::new("memcached://10.9.0.1".parse().unwrap());
    let before = server.counters();
    all(&web, &spec, 2000, "ok");
    let after = server.counters();
    let changed: Vec<&String> =
        after.keys().filter(|name| before.get(*name) != after.get(*name) && !own(name)).collect();
    assert!(changed.is_empty(), "{changed:?}");
    let connections = |of: &preflight_tests::lab::Counters| of["total_connections"].parse::<usize>().unwrap();
    assert!(connections(&after) >= connections(&before) + 2000, "the probes went elsewhere");

    let file = cache.dir().join("users");
    std::fs::write(&file, "app:secret\n").unwrap();
    let _login = cache.memcached(11212, &["-Y", &file.to_string_lossy()]);
    let seen = probe(&web, &ProbeSpec::new("memcached://10.9.0.1:11212".parse().unwrap()));
    assert_eq!(said(&seen), ("ok", "asks for a login: CLIENT_ERROR unauthenticated"), "{seen:#?}");
    let _binary = cache.memcached(11213, &["-B", "binary"]);
    let mut spec = ProbeSpec::new("memcached://10.9.0.1:11213".parse().unwrap());
    spec.timeout = Millis(1_000);
    let seen = probe(&web, &spec);
    assert_eq!(said(&seen), ("protocol_timeout", "nothing came back"), "{seen:#?}");
}

#[test]
fn rabbitmq_warns_once_and_logs_no_error() {
    let lab = Lab::new();
    let authority = Authority::new("The lab's authority");
    let (web, broker) = (lab.host("web", &["10.1.0.1"]), lab.host("broker", &["10.9.0.1"]));
    let server = broker.rabbitmq(&authority.issue(&[NAME], TODAY));
    let [clear, ..] = specs("amqp://10.9.0.1", &authority);
    let [untrusted, secure, misnamed] = specs("amqps://10.9.0.1", &authority);
    let before = server.log().len();
    all(&web, &clear, 500, "ok");
    all(&web, &secure, 100, "ok");
    all(&web, &misnamed, 20, "tls_name_mismatch");
    assert_eq!(said(&probe(&web, &untrusted)).0, "tls_name_mismatch", "no name is given, and the address is not in it");
    // Longer than the broker waits for a handshake to go on, which it would log as an error.
    std::thread::sleep(std::time::Duration::from_secs(12));
    let log = server.log()[before..].to_owned();
    let lines = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    let counts = ["accepting AMQP connection", "client unexpectedly closed TCP connection", "[warning]"].map(lines);
    // A warning is two lines. The broker leaves lines out where there are more than 500 a second, and so says fewer than there
    // were connections: 620 of them.
    let [accepted, closed, warnings] = counts;
    assert!((100..=621).contains(&accepted) && closed <= 621 && warnings == 2 * closed, "{counts:?} {log}");
    assert_eq!(lines("[error]"), 0, "{log}");
}

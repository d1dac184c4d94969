use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::spec::TlsVersion;

const GOOD: &str = r#"
application: shop
dependencies:
  ai-cache:
    target: redis://ai-cache.{dns}.internal:6379
    fleets: {only: [worker], because: "the é in café is fine"}
    timeout: 5s
    connect_timeout: 250ms
    require: protocol
    expect: reachable
    families: both
    addresses: any
    usage: {calls_per_request: 15, client_timeout: 2s, requests_per_second: 120.5, workers: 40}
  db:
    targets: {eu: "tls://db.eu:5432", us: "rediss://db.us"}
    tls:
      server_name: DB.internal
      ca_pem: |
        -----BEGIN CERTIFICATE-----
        MAYCAQECAQI=
        -----END CERTIFICATE-----
"#;

fn parse(text: &str) -> Result<Manifest, Diagnostic> {
    Manifest::parse("preflight.yaml", text)
}

/// A manifest with one dependency `x` that has the given lines, each indented by four.
fn with(lines: &str) -> String {
    let lines: Vec<String> = lines.lines().map(|line| format!("    {line}\n")).collect();
    format!("application: shop\ndependencies:\n  x:\n{}", lines.concat())
}

#[test]
fn every_key_of_the_contract() {
    let manifest = parse(GOOD).unwrap();
    assert_eq!(manifest.application, "shop");
    assert_eq!(manifest.digest, sha256(GOOD.as_bytes()));
    let [cache, db] = manifest.dependencies() else { panic!("two dependencies") };
    assert_eq!((cache.timeout, cache.connect_timeout), (Millis(5_000), Millis(250)));
    assert_eq!(
        (cache.require, cache.families, cache.addresses),
        (Some(Proof::Protocol), Families::Both, Addresses::Any)
    );
    let Fleets::Only { fleets, because } = &cache.fleets else { panic!("only") };
    assert_eq!((fleets[0].0.as_str(), because.as_str()), ("worker", "the é in café is fine"));
    let usage = Usage {
        calls_per_request: Some(15.0),
        client_timeout: Some(Millis(2_000)),
        requests_per_second: Some(120.5),
        workers: Some(40),
    };
    assert_eq!(cache.usage, usage);
    assert_eq!(db.tls.server_name.as_deref(), Some("db.internal"));
    assert!(db.tls.ca_pem.as_deref().unwrap().starts_with("-----BEGIN"));
    assert_eq!((db.fleets.clone(), db.require, db.timeout), (Fleets::All, None, ProbeSpec::DEFAULT_TIMEOUT));
    assert_eq!(manifest.position("db").unwrap().to_string(), "preflight.yaml:14:3");
    assert_eq!(manifest.application_position().place, Place { line: 2, column: 14 });
    assert_eq!(manifest.position("nobody"), None);
}

#[test]
fn text_that_other_yaml_readers_take_for_something_else_is_text() {
    let manifest =
        parse("application: no\ndependencies:\n  on: {targets: {no: tcp://a:1, 1.10: tcp://a:2}}\n").unwrap();
    assert_eq!(manifest.application, "no");
    assert_eq!(manifest.dependencies()[0].name, "on");
    let regions: Vec<&str> = manifest.named_regions().map(|(region, _)| region.as_str()).collect();
    assert_eq!(regions, ["no", "1.10"]);
}

#[test]
fn options_are_what_is_written() {
    let text = "application: a\ndependencies:\n\
        \x20 db: {target: postgres://db, tls: {}, max_latency: 50ms}\n\
        \x20 plain: {target: mysql://db}\n\
        \x20 api: {target: \"https://api.example/health\", via: \"http://proxy.{region}:3128\", http: {status: [204, 3xx], body: up}}\n\
        \x20 cache: {target: redis://c, topology: sentinel, sentinel_master: shop}\n\
        \x20 shut: {target: redis://d, expect: blocked}\n\
        \x20 pinned: {target: tls://e:1, tls: {min_version: 1.3, cert_file: /a, key_file: /b, fingerprint: 'SHA256:@'}}\n";
    let manifest = parse(&text.replace('@', &"AB:".repeat(32))).unwrap();
    let inventory = "regions: {eu: {fleets: {web: {}}}}\napplications: {a: {fleets: {eu: [web]}}}";
    let inventory = crate::inventory::Inventory::parse("inventory.yaml", inventory).unwrap();
    let built = crate::plan::Plan::build(&manifest, &inventory, &["eu".to_owned()], false).unwrap();
    let [db, plain, api, cache, shut, pinned] = built.cells.iter().map(|c| &c.spec).collect::<Vec<_>>()[..] else {
        panic!("{built:#?}")
    };
    assert_eq!((db.tls.upgrade, db.max_latency, plain.tls.upgrade), (true, Some(Millis(50)), false));
    assert!(db.can_prove(Proof::Encrypted) && !plain.can_prove(Proof::Encrypted));
    assert_eq!(api.target.to_string(), "https://api.example:443/health");
    assert_eq!(api.via.as_ref().unwrap().to_string(), "http://proxy.eu:3128");
    assert!(api.http.accepts(204) && api.http.accepts(301) && !api.http.accepts(200));
    assert!(db.http.accepts(404) && !db.http.accepts(502));
    assert_eq!(cache.topology, Some(Topology::Sentinel { master: Some("shop".into()) }));
    assert_eq!((shut.expect, shut.require), (Expect::Blocked, Proof::Connected));
    assert_eq!(pinned.tls.fingerprint.as_deref(), Some("ab".repeat(32).as_str()));
    assert_eq!(pinned.tls.min_version, TlsVersion::V1_3);
    assert_eq!(pinned.tls.client.as_ref().unwrap().key_file, "/b");
    // A cell that uses none of what came later keeps its digest, and with it what was proven of it.
    let spec = serde_json::to_value(plain).unwrap();
    let keys: Vec<&str> = spec.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["addresses", "connect_timeout", "families", "require", "target", "timeout", "tls"]);
    let back: ProbeSpec = serde_json::from_value(serde_json::to_value(api).unwrap()).unwrap();
    assert_eq!(back, *api);
}

#[test]
fn a_byte_order_mark_and_crlf_are_fine() {
    let text = format!("\u{feff}{}", GOOD.replace('\n', "\r\n"));
    assert_eq!(parse(&text).unwrap().position("db").unwrap().place, Place { line: 14, column: 3 });
}

/// Text, line, column, words of the message, words of the fix.
type Wrong<'a> = (&'a str, u32, u32, &'a str, &'a str);

fn refused((text, line, column, message, fix): Wrong) {
    let error = parse(text).expect_err(text);
    assert_eq!((error.line, error.column), (line, column), "{text}\n{error}");
    assert!(error.message.contains(message), "{text}\n{error}");
    assert!(error.fix.as_ref().is_some_and(|f| f.contains(fix)), "{text}\n{error}");
}

#[test]
#[rustfmt::skip]
fn a_file_that_is_no_manifest() {
    for case in [
        ("", 1, 1, "no content", "application: shop"),
        ("# later\n", 2, 1, "no content", "application: shop"),
        ("[]", 1, 1, "must be a mapping", "application: shop"),
        ("dependencies: {}\n", 1, 1, "'application' is missing", "add 'application"),
        ("application: shop\n", 1, 1, "'dependencies' is missing", "add 'dependencies"),
        ("application: shop\ndependencies: {}\n", 1, 14, "declares no dependencies", "add one"),
        ("application: shop\ndependencies:\n", 2, 13, "must be a mapping", "cache"),
        ("application:\ndependencies: {}\n", 1, 12, "a value is missing", "write a value"),
        ("application: Shop\ndependencies: {}\n", 1, 14, "'S' (U+0053)", "write it in lower case: shop"),
        ("application: a\napplication: b\n", 2, 1, "'application' is here for the second time", "remove one"),
        ("application: a\ndependencies: {}\n---\napplication: b\n", 3, 1, "second document", "---"),
        ("application: a\n\tdependencies: {}\n", 1, 14, "not YAML", "spaces"),
        ("application: a: b\n", 1, 15, "not YAML", "quote"),
        ("application: {a: b}\n", 1, 14, "must be a single value", "no list or mapping"),
        ("application: !env NAME\n", 1, 19, "tags", "remove the tag"),
        ("application: &a shop\n", 1, 17, "anchors and aliases", "write the value out"),
        ("application: *a\n", 1, 14, "anchors and aliases", "write the value out"),
        ("application: a\ndependencies:\n  <<: {x: {}}\n", 3, 3, "merge keys", "write the keys out"),
    ] {
        refused(case);
    }
}

#[test]
#[rustfmt::skip]
fn a_dependency_as_a_person_gets_it_wrong() {
    let t = "target: redis://c";
    for (lines, line, column, message, fix) in [
        ("tagret: redis://c", 4, 5, "unknown key 'tagret'", "write 'target', or leave it out; the keys here are target, targets,"),
        ("mesh: yes", 4, 5, "unknown key 'mesh'", "leave it out"),
        ("timeout: 5s", 3, 3, "x has no target", "scheme://host:port"),
        ("target: c:6379", 4, 13, "no scheme", "redis://cache.internal:6379"),
        ("target: ftp://c", 4, 13, "no probe speaks 'ftp'", "tcp, tls, redis"),
        ("target: redis://a{dns", 4, 13, "brace", "{name}"),
        ("target: [redis://c]", 4, 13, "single value", ""),
        ("target:", 4, 11, "a value is missing", ""),
        ("target: redis://c\ntargets: {eu: redis://c}", 5, 14, "both target and targets", "keep target"),
        ("targets: {}", 4, 14, "no targets", "each region"),
        ("targets: {EU: redis://c}", 4, 15, "'E'", "lower case: eu"),
        ("targets: {eu: redis://c, eu: redis://d}", 4, 30, "second time", "remove"),
        ("targets: {eu: redis//c}", 4, 19, "no scheme", "redis://"),
        (&format!("{t}\nexpect: open"), 5, 13, "'open'", "reachable"),
        (&format!("{t}\nexpect: blocked\nrequire: protocol"), 6, 14, "means nothing beside 'expect: blocked'", "leave it out"),
        (&format!("{t}\nexpect: blocked\naddresses: any"), 6, 16, "addresses means nothing", "no address"),
        (&format!("{t}\nmax_latency: 0ms"), 5, 18, "out of range", "1ms to 60s"),
        (&format!("{t}\ntopology: cluster\nrequire: connected"), 6, 14, "before the target is asked for its members", "leave require out"),
        (&format!("{t}\ntopology: mesh"), 5, 15, "'mesh'", "cluster"),
        (&format!("{t}\ntopology: cluster\nsentinel_master: a"), 6, 22, "beside 'topology: sentinel'", "leave sentinel_master out"),
        (&format!("{t}\ntopology: sentinel\nsentinel_master: a b"), 6, 22, "is no name", "mymaster"),
        ("target: memcached://c\ntopology: cluster", 5, 15, "topology means nothing to memcached://", "redis://"),
        (&format!("{t}\nhttp: {{status: [200]}}"), 5, 11, "http means nothing to redis://", "https://"),
        ("target: http://c\nhttp: {status: []}", 5, 20, "0 entries", "[200, 3xx]"),
        ("target: http://c\nhttp: {status: [2xx, 099]}", 5, 26, "'099' is no HTTP status", "2xx"),
        ("target: http://c\nhttp: {status: [6xx]}", 5, 21, "'6xx'", "2xx"),
        ("target: http://c\nhttp: {body: ''}", 5, 18, "body is empty", "short text"),
        ("target: tcp://c:1\nvia: http://p:3128", 5, 10, "may say yes before it connects", "https://"),
        ("target: tls://c:1\nvia: http://p:3128\nrequire: connected", 5, 10, "may say yes", "https://"),
        ("target: tls://c:1\nvia: p:3128", 5, 10, "via 'p:3128' has no scheme", "http://proxy.internal:3128"),
        ("target: tls://c:1\nvia: https://p:3128", 5, 10, "is no proxy", "http://proxy.internal:3128"),
        ("target: tls://c:1\nvia: http://p:3128/x", 5, 10, "is no proxy", "http://proxy.internal:3128"),
        ("target: tls://c:1\nvia: http://p:3128//", 5, 10, "is no proxy", "http://proxy.internal:3128"),
        ("target: memcached://c\ntls: {}", 5, 10, "tls means nothing to memcached://", "leave it out"),
        ("target: amqp://c\ntls: {}", 5, 10, "tls means nothing to amqp://", "use amqps://"),
        ("target: tls://c:1\ntls: {ca_file: /a, fingerprint: x}", 5, 37, "fingerprint and ca_file both say", "keep one"),
        ("target: tls://c:1\ntls: {ca_file: a.pem}", 5, 20, "not an absolute path", "from / on"),
        ("target: tls://c:1\ntls: {ca_file: /a/../b}", 5, 20, "not an absolute path", "from / on"),
        ("target: tls://c:1\ntls: {cert_file: /a}", 5, 22, "useless without its key", "key_file"),
        ("target: tls://c:1\ntls: {key_file: /a}", 5, 21, "useless without its certificate", "cert_file"),
        ("target: tls://c:1\ntls: {min_version: 1.1}", 5, 24, "'1.1'", "1.2"),
        ("target: tls://c:1\ntls: {fingerprint: sha256:12}", 5, 24, "not a SHA-256", "openssl"),
        (&format!("{t}\ntimeout: 5"), 5, 14, "not a duration", "5s or 5ms"),
        (&format!("{t}\ntimeout: fast"), 5, 14, "not a duration", "5s or 250ms"),
        (&format!("{t}\ntimeout: -5s"), 5, 14, "not a duration", "whole number"),
        (&format!("{t}\ntimeout: s"), 5, 14, "not a duration", "whole number"),
        (&format!("{t}\ntimeout: 61s"), 5, 14, "out of range", "100ms to 60s"),
        (&format!("{t}\ntimeout: 99ms"), 5, 14, "out of range", "100ms to 60s"),
        (&format!("{t}\ntimeout: 4294968s"), 5, 14, "out of range", "100ms to 60s"),
        (&format!("{t}\nconnect_timeout: 11s"), 5, 22, "out of range", "100ms to 10s"),
        (&format!("{t}\nrequire: resolved"), 5, 14, "proves no path", "connected"),
        (&format!("{t}\nrequire: protcol"), 5, 14, "'protcol'", "did you mean 'protocol'?"),
        (&format!("{t}\nrequire: encrypted"), 5, 14, "does not speak TLS", "connected or protocol"),
        ("target: tcp://c:1\nrequire: protocol", 5, 14, "'protocol' cannot be proven by a tcp probe", "write connected"),
        ("target: tls://c:1\nrequire: protocol", 5, 14, "cannot be proven by a tls probe", "connected or encrypted"),
        ("targets: {a: rediss://c, b: tcp://c:1}\nrequire: protocol", 5, 14, "a tcp probe", "connected"),
        (&format!("{t}\nfamilies: ipv5"), 5, 15, "'ipv5'", "did you mean 'ipv4'?"),
        (&format!("{t}\naddresses: auto"), 5, 16, "'auto'", "all, any"),
        (&format!("{t}\ntls: {{server_name: c}}"), 5, 10, "does not speak TLS", "rediss://"),
        (&format!("{t}\ntls: {{}}"), 5, 10, "does not speak TLS", "leave it out"),
        ("target: tcp://c:1\ntls: {}", 5, 10, "does not speak TLS", "tls://"),
        ("target: tls://c:1\ntls: {server_name: a/b}", 5, 24, "'a/b' is not a host name", "certificate carries"),
        ("target: tls://c:1\ntls: {server_name: 'a:1'}", 5, 24, "is not a host name", ""),
        ("target: tls://c:1\ntls: {server_name: '{region}'}", 5, 24, "is not a host name", "placeholders are for targets"),
        ("target: tls://c:1\ntls: {ca_pem: ca.pem}", 5, 19, "BEGIN CERTIFICATE", "ca_pem: |"),
        ("target: tls://c:1\ntls: {verify: false}", 5, 11, "unknown key 'verify'", "server_name, ca_pem"),
        ("target: tls://c:1\ntls:", 5, 8, "must be a mapping", ""),
        (&format!("{t}\nfleets: web"), 5, 13, "'web'", "only: [web]"),
        (&format!("{t}\nfleets: [web]"), 5, 13, "bare list", "only: [web]"),
        (&format!("{t}\nfleets: 5"), 5, 13, "'5'", "write all"),
        (&format!("{t}\nfleets: true"), 5, 13, "'true'", "write all"),
        (&format!("{t}\nfleets:"), 5, 11, "''", "write all"),
        (&format!("{t}\nfleets: {{only: [web]}}"), 5, 14, "'because' is missing", "add 'because"),
        (&format!("{t}\nfleets: {{because: b}}"), 5, 14, "'only' is missing", "add 'only"),
        (&format!("{t}\nfleets: {{only: [], because: b}}"), 5, 20, "names no fleet", "name the fleets"),
        (&format!("{t}\nfleets: {{only: [web, web], because: b}}"), 5, 26, "twice", "remove"),
        (&format!("{t}\nfleets: {{only: [Web], because: b}}"), 5, 21, "'W'", "web"),
        (&format!("{t}\nfleets: {{only: web, because: b}}"), 5, 20, "must be a list", "[a, b]"),
        (&format!("{t}\nfleets: {{only: [web], because: \"\"}}"), 5, 36, "because is empty", "say why"),
        (&format!("{t}\nfleets: {{only: [web], because: \" \"}}"), 5, 36, "because is empty", "say why"),
        (&format!("{t}\nfleets: {{only: [web], because: \"a\\u202eb\"}}"), 5, 36, "cannot be seen", "plain"),
        (&format!("{t}\nfleets: {{exept: [web], because: b}}"), 5, 14, "unknown key 'exept'", "only, because"),
        (&format!("{t}\nusage: {{workers: many}}"), 5, 22, "'many'", "1 to 1000000"),
        (&format!("{t}\nusage: {{workers: 0}}"), 5, 22, "'0'", "1 to 1000000"),
        (&format!("{t}\nusage: {{calls_per_request: 0}}"), 5, 32, "'0'", "above 0"),
        (&format!("{t}\nusage: {{calls_per_request: .inf}}"), 5, 32, "'.inf'", "above 0"),
        (&format!("{t}\nusage: {{client_timeout: 2}}"), 5, 29, "not a duration", "2s"),
    ] {
        refused((&with(lines), line, column, message, fix));
    }
}

#[test]
#[rustfmt::skip]
fn a_dependency_declared_twice() {
    let head = "application: shop\ndependencies:\n";
    for (lines, line, column, message, fix) in [
        ("  db: {target: redis://a}\n  db: {target: redis://b}\n", 4, 3, "'db' is here for the second time", "another name"),
        ("  Db: {target: redis://a}\n", 3, 3, "'D'", "db"),
        ("  db: redis://a\n", 3, 7, "must be a mapping", "target: redis://"),
    ] {
        refused((&format!("{head}{lines}"), line, column, message, fix));
    }
}

#[test]
fn what_a_reviewer_cannot_see_is_refused_wherever_it_stands() {
    for hidden in ['\u{202e}', '\u{2066}', '\u{200b}', '\u{00ad}', '\u{feff}', '\u{1b}', '\u{85}', '\u{2028}', '\0'] {
        for (text, column) in [
            (format!("application: shop\n# a comment{hidden} here\n"), 12),
            (format!("application: shop\n{hidden}dependencies: {{}}\n"), 1),
            (format!("application: shop\ndependencies: {{a{hidden}: {{target: redis://a}}}}\n"), 17),
        ] {
            let error = parse(&text).unwrap_err();
            assert_eq!((error.line, error.column), (2, column), "{error}");
            assert!(error.message.contains(&format!("U+{:04X}", u32::from(hidden))), "{error}");
        }
    }
}

#[test]
fn look_alike_letters_are_refused_in_names_and_targets() {
    // Cyrillic а and е, Greek ο, and a full-width full stop.
    for (text, line, column) in [
        (with("target: redis://c\u{430}che.internal"), 4, 13),
        (with("target: redis://cache\u{ff0e}internal"), 4, 13),
        (with("targets: {\u{435}u: redis://c}"), 4, 15),
        (with("target: redis://c\nfleets: {only: [w\u{435}b], because: b}"), 5, 21),
        (with("target: tls://c:1\ntls: {server_name: c\u{3bf}}"), 5, 24),
        ("application: sh\u{3bf}p\ndependencies: {}\n".to_owned(), 1, 14),
    ] {
        let error = parse(&text).unwrap_err();
        assert_eq!((error.line, error.column), (line, column), "{error}");
    }
}

/// Each must be refused, with a line, long before it could hurt. The limit here is generous for a loaded machine; the
/// goal is 100 ms.
#[test]
#[expect(clippy::disallowed_methods, reason = "this measures how long a refusal takes")]
fn bombs() {
    use std::fmt::Write as _;
    let mut laughs = String::from("application: shop\na: &a [x]\n");
    for (from, to) in ('a'..='y').zip('b'..='z') {
        let _ = writeln!(laughs, "{to}: &{to} [{}]", vec![format!("*{from}"); 9].join(", "));
    }
    let many = |count: usize| {
        (0..count).fold(String::from("application: shop\ndependencies:\n"), |mut text, i| {
            let _ = writeln!(text, "  d{i}: {{target: redis://c}}");
            text
        })
    };
    let head = "application: shop\ndependencies:\n  x:\n    target: redis://c\n    fleets: ";
    let cases = [
        ("aliases", laughs, 2),
        ("aliases in a dependency", with("target: &a redis://c\nfleets: {only: [*a, *a], because: b}"), 4),
        ("depth, flow", format!("{head}{}", "[".repeat(100_000)), 5),
        ("depth, flow mappings", format!("{head}{}", "{a: ".repeat(50_000)), 5),
        ("depth, block", format!("{head}\n      {}", "- ".repeat(100_000)), 6),
        ("100,000 dependencies", many(100_000), 9_000),
        ("as many as fit the size", many(9_000), 1_400),
        ("one too many", many(1_001), 1_003),
        ("a list as long as fits", format!("{head}{{because: b, only: [{}", "a,".repeat(130_000)), 5),
        ("keys as many as fit", format!("{head}{{{}", "a: b,".repeat(50_000)), 5),
        ("1 MiB and more of comments", format!("application: shop\n{}", "# c\n".repeat(300_000)), 60_000),
        ("one long line", "a".repeat(2 << 20), 1),
        ("as much comment as fits", "# c\n".repeat(65_000), 65_001),
        ("a long name", format!("application: {}", "a".repeat(260_000)), 1),
        ("a long key", with(&format!("{}: b", "a".repeat(200_000))), 4),
        ("a quoted string without an end", with(&format!("target: \"{}", "a\n".repeat(30_000))), 4),
        ("a wrong PEM", with(&format!("target: tls://c:1\ntls: {{ca_pem: \"{}\"}}", "-----BEGIN ".repeat(20_000))), 5),
        ("many documents", "---\n".repeat(60_000), 1),
        ("many tags", format!("{head}[{}", "!!str a,".repeat(30_000)), 5),
    ];
    for (what, text, line) in cases {
        let start = Instant::now();
        let error = parse(&text).expect_err(what);
        let took = start.elapsed();
        assert!(took < Duration::from_secs(1), "{what} took {took:?}");
        assert!(error.line >= line, "{what}: {}:{} {}", error.line, error.column, error.message);
        assert!(error.to_string().len() < 1_500, "{what}: {} characters of error", error.to_string().len());
    }
    assert_eq!(parse(&many(1_000)).unwrap().dependencies().len(), 1_000);
}

#[test]
fn the_difference_of_two_manifests() {
    let old = parse(GOOD).unwrap();
    assert_eq!(diff(&old, &old), []);
    let new = GOOD
        .replace("application: shop", "application: store")
        .replace("timeout: 5s\n", "timeout: 2s\n")
        .replace("us: \"rediss://db.us\"", "au: \"rediss://db.au\"")
        .replace("  ai-cache:", "  queue: {target: tcp://q:1}\n  ai-cache:");
    let field = |field: &str, old: Option<&str>, new: Option<&str>| FieldChange {
        field: field.to_owned(),
        old: old.map(str::to_owned),
        new: new.map(str::to_owned),
    };
    assert_eq!(
        diff(&old, &parse(&new).unwrap()),
        [
            Change::Application { old: "shop".to_owned(), new: "store".to_owned() },
            Change::Added { dependency: "queue".to_owned() },
            Change::Changed {
                dependency: "ai-cache".to_owned(),
                fields: vec![field("timeout", Some("5s"), Some("2s"))]
            },
            Change::Changed {
                dependency: "db".to_owned(),
                fields: vec![
                    field("targets.au", None, Some("rediss://db.au")),
                    field("targets.us", Some("rediss://db.us"), None)
                ]
            },
        ]
    );
    let back = diff(&parse(&new).unwrap(), &old);
    assert!(back.contains(&Change::Removed { dependency: "queue".to_owned() }), "{back:?}");
}

#[test]
fn a_default_that_is_written_out_is_no_change() {
    let short = parse(&with("target: redis://c")).unwrap();
    let long =
        with("target: redis://c\nfleets: all\ntimeout: 5000ms\nconnect_timeout: 1s\nrequire: protocol\nfamilies: any");
    assert_eq!(diff(&short, &parse(&long).unwrap()), []);
}

#[test]
fn every_field_shows_in_a_difference() {
    let t = "target: rediss://c";
    let base = parse(&with(t)).unwrap();
    for (lines, field) in [
        ("target: rediss://d", "target"),
        ("target: rediss://c:6380", "target"),
        ("target: rediss://c\nfleets: {only: [a], because: b}", "fleets"),
        ("target: rediss://c\ntimeout: 6s", "timeout"),
        ("target: rediss://c\nconnect_timeout: 2s", "connect_timeout"),
        ("target: rediss://c\nrequire: encrypted", "require"),
        ("target: rediss://c\nfamilies: ipv4", "families"),
        ("target: rediss://c\naddresses: all", "addresses"),
        ("target: rediss://c\ntls: {server_name: d}", "tls.server_name"),
        ("target: rediss://c\nusage: {workers: 1}", "usage.workers"),
    ] {
        let changes = diff(&base, &parse(&with(lines)).unwrap());
        let [Change::Changed { fields, .. }] = changes.as_slice() else { panic!("{lines}: {changes:?}") };
        assert_eq!(fields[0].field, field, "{lines}");
    }
}

#[test]
fn the_schema_knows_the_keys_that_the_parser_knows() {
    let schema = schema();
    let text = schema.to_string();
    let unknown = parse(&with("zzz: 1")).unwrap_err().fix.unwrap();
    let keys = unknown.split("the keys here are ").nth(1).unwrap();
    for key in keys.split(", ") {
        let described = &schema["$defs"]["Dependency"]["properties"][key];
        assert!(described["description"].is_string(), "{key}: {described}");
    }
    assert_eq!(schema["$defs"]["Dependency"]["additionalProperties"], false);
    assert_eq!(schema["required"], serde_json::json!(["application", "dependencies"]));
    assert!(text.contains("connected") && text.contains("ipv6"), "{text}");
}

#[test]
fn the_shipped_example() {
    let manifest = parse(include_str!("../../examples/preflight.yaml")).unwrap();
    assert_eq!(manifest.application, "app");
    assert_eq!(manifest.dependencies().len(), 1);
    assert_eq!(manifest.dependencies()[0].name, "ai-cache");
}

proptest! {
    #[test]
    fn parsing_never_panics(text in any::<String>()) {
        let _ = parse(&text);
    }

    /// A manifest with some bytes changed: nearer to what a person gets wrong than random text.
    #[test]
    fn parsing_a_damaged_manifest_never_panics(at in 0..GOOD.len(), len in 0..20_usize, new in "[a-z{}\\[\\]:,&*!|>\"' \n-]{0,6}") {
        let cut = |i: usize| (0..=i.min(GOOD.len())).rev().find(|i| GOOD.is_char_boundary(*i)).unwrap_or(0);
        let text = format!("{}{new}{}", &GOOD[..cut(at)], &GOOD[cut(at + len)..]);
        match parse(&text) {
            Ok(manifest) => prop_assert!(!manifest.dependencies().is_empty()),
            Err(error) => {
                prop_assert!(error.line >= 1 && error.column >= 1);
                prop_assert!(usize::try_from(error.line).unwrap() <= text.lines().count() + 1, "{error}");
                prop_assert!(error.fix.is_some_and(|fix| !fix.is_empty()));
            }
        }
    }
}

/// What a gate would make of a difference is what the plans' cells say of it.
#[test]
fn what_a_difference_means_is_what_becomes_of_the_cells() {
    use crate::inventory::Inventory;
    use crate::plan::{CellDigest, Plan};
    use std::collections::BTreeSet;
    type Written = (&'static str, &'static str);

    let inventory = "regions: {eu: {fleets: {web: {}, worker: {}}}, us: {fleets: {web: {}, worker: {}}}}\n\
                     applications: {shop: {fleets: {eu: [web, worker], us: [web, worker]}}}\n";
    let inventory = Inventory::parse("i.yaml", inventory).unwrap();
    let manifest = |name: &str, lines: &str| {
        format!("application: shop\ndependencies:\n  other: {{target: tcp://o:1}}\n  {name}: {{{lines}}}\n")
    };
    let cells = |text: &str| -> BTreeSet<CellDigest> {
        let plan = Plan::build(&parse(text).unwrap(), &inventory, &[], true).unwrap();
        plan.cells.iter().map(crate::plan::Cell::digest).collect()
    };
    let base = ("db", "target: postgres://db:5432");
    let narrow = "target: postgres://db:5432, fleets: {only: [web], because: one}";
    let reworded = "target: postgres://db:5432, fleets: {only: [web], because: two}";
    let elsewhere = "target: postgres://db:5432, fleets: {only: [worker], because: one}";
    let cases: [(Written, Written, Effect); 14] = [
        (base, ("database", base.1), Effect::NoCellChanges),
        (base, ("database", "target: postgres://db:5432, usage: {workers: 40}"), Effect::NoCellChanges),
        (
            base,
            ("db", "target: postgres://db:5432, usage: {calls_per_request: 3, client_timeout: 2s}"),
            Effect::NoCellChanges,
        ),
        (("db", narrow), ("db", reworded), Effect::NoCellChanges),
        (base, ("db", "target: postgres://db:5433"), Effect::Required),
        (base, ("db", "target: postgres://db:5432, timeout: 9s"), Effect::Required),
        (base, ("db", "target: postgres://db:5432, tls: {}"), Effect::Required),
        (base, ("db", "target: postgres://db:5432, families: ipv4"), Effect::Required),
        (base, ("db", narrow), Effect::NoLongerProbed),
        (("db", narrow), base, Effect::Required),
        (("db", narrow), ("db", elsewhere), Effect::Required),
        (base, ("database", "target: postgres://db:5433"), Effect::Required),
        (
            ("db", "targets: {eu: tcp://a:1, us: tcp://b:1}"),
            ("db", "targets: {eu: tcp://a:1, us: tcp://c:1}"),
            Effect::Required,
        ),
        (
            ("cache", "target: rediss://c:1"),
            ("cache", "target: rediss://c:1, fleets: {only: [worker], because: x}, usage: {workers: 2}"),
            Effect::NoLongerProbed,
        ),
    ];
    for (old, new, effect) in cases {
        let (old, new) = (manifest(old.0, old.1), manifest(new.0, new.1));
        let changes = diff(&parse(&old).unwrap(), &parse(&new).unwrap());
        let said = changes.iter().map(Change::effect).find(|effect| *effect != Effect::NoLongerProbed);
        let said = said.unwrap_or(Effect::NoLongerProbed);
        let (before, after) = (cells(&old), cells(&new));
        let is = match (after.is_subset(&before), before.is_subset(&after)) {
            (true, true) => Effect::NoCellChanges,
            (true, false) => Effect::NoLongerProbed,
            (false, _) => Effect::Required,
        };
        assert_eq!((is, said), (effect, effect), "{old}{new}{changes:?}");
    }
}

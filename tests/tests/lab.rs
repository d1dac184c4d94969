//! The lab's own test: what it says of a network must be so before it is used to judge preflight.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use preflight_tests::certificates::{self, Authority};
use preflight_tests::lab::{Api, Expect, Firewall, Lab, Metadata, NAME_SERVER, Way};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn ways_are_open_silent_refused_or_prohibited_as_the_rules_say() {
    let lab = Lab::new();
    let web = lab.host("web", &["10.0.1.1", "fd00::1:1"]);
    let worker = lab.host("worker", &["10.0.2.1"]);
    let cache = lab.host("cache", &["10.0.9.1", "fd00::9:1"]);
    let _redis = cache.redis(6379, &[]);
    cache.firewall(&Firewall::open().admit(worker.addresses(), 6379).drop(6379).reset(81).prohibit(82));
    lab.assert_wiring(&[
        Way::new(&web, cache.port(6379), Expect::Silent),
        Way::new(&web, SocketAddr::new(cache.addresses()[1], 6379), Expect::Silent),
        Way::new(&worker, cache.port(6379), Expect::Open),
        Way::new(&worker, cache.port(80), Expect::Refused),
        Way::new(&worker, cache.port(81), Expect::Refused),
        Way::new(&worker, cache.port(82), Expect::Unreachable),
        Way::new(&worker, "192.0.2.1:6379".parse().unwrap(), Expect::Silent),
    ]);
    cache.firewall(&Firewall::open());
    lab.assert_wiring(&[
        Way::new(&web, cache.port(6379), Expect::Open),
        Way::new(&web, SocketAddr::new(cache.addresses()[1], 6379), Expect::Open),
    ]);
    web.firewall(&Firewall::open().drop_output(cache.address()));
    lab.assert_wiring(&[Way::new(&web, cache.port(6379), Expect::Silent)]);
    web.silence(15001);
    web.firewall(&Firewall::open().intercept("10.255.0.1".parse().unwrap(), 15001));
    lab.assert_wiring(&[Way::new(&web, "192.0.2.1:6379".parse().unwrap(), Expect::Open)]);
}

#[test]
#[should_panic(expected = "the lab is wired wrongly")]
fn a_wrong_wire_is_noticed() {
    let lab = Lab::new();
    let (a, b) = (lab.host("a", &["10.0.0.1"]), lab.host("b", &["10.0.0.2"]));
    lab.assert_wiring(&[Way::new(&a, b.port(80), Expect::Open)]);
}

#[test]
fn labs_with_the_same_addresses_do_not_meet() {
    let (one, two) = (Lab::new(), Lab::new());
    let (a, b) = (one.host("same", &["10.0.0.1"]), two.host("same", &["10.0.0.1"]));
    let asks = one.host("asks", &["10.0.0.2"]);
    b.silence(80);
    one.assert_wiring(&[Way::new(&asks, a.port(80), Expect::Refused)]);
}

#[test]
fn a_host_has_its_own_name_and_files_and_the_machine_keeps_its_own() {
    let before = std::fs::read("/etc/machine-id").unwrap();
    let lab = Lab::new();
    let (a, b) = (lab.host("a", &["10.0.0.1"]), lab.host("b", &["10.0.0.2"]));
    let script = "hostname; cat /etc/machine-id /etc/hosts /etc/resolv.conf; env";
    let said = text(&a.run(&["sh", "-c", script]).stdout);
    assert!(said.starts_with("a\n"), "{said}");
    assert!(said.contains("10.0.0.2 b\n") && said.contains(&format!("nameserver {NAME_SERVER}")), "{said}");
    assert!(!said.contains("CARGO"), "the tests' environment reaches the host: {said}");
    let id = |host: &preflight_tests::lab::Host| text(&host.run(&["cat", "/etc/machine-id"]).stdout);
    assert_eq!(id(&a).trim().len(), 32);
    assert_ne!(id(&a), id(&b));
    assert_eq!(std::fs::read("/etc/machine-id").unwrap(), before);
}

#[test]
fn a_process_ends_with_its_handle() {
    let lab = Lab::new();
    let host = lab.host("a", &["10.0.0.1"]);
    let process = host.spawn("sleep", &["sleep", "1000"]);
    let id = process.id();
    drop(process);
    assert!(!std::path::Path::new(&format!("/proc/{id}")).exists());
}

#[test]
fn redis_says_what_its_state_makes_it_say() {
    let lab = Lab::new();
    let asks = lab.host("asks", &["10.0.0.1"]);
    let cases = [
        ("plain", "10.0.9.1", "PONG"),
        ("locked", "10.0.9.2", "-NOAUTH"),
        ("replica", "10.0.9.3", "-MASTERDOWN"),
        ("loading", "10.0.9.4", "-LOADING"),
    ];
    for (name, address, answer) in cases {
        let host = lab.host(name, &[address]);
        let _server = match name {
            "plain" => host.redis(6379, &[]),
            "locked" => host.redis(6379, &["--requirepass", "secret"]),
            "replica" => host.redis_masterdown(6379),
            _ => host.redis_loading(6379),
        };
        let said = asks.within(|| {
            let mut stream = TcpStream::connect(host.port(6379)).unwrap();
            stream.write_all(b"PING\r\n").unwrap();
            let mut bytes = [0; 64];
            let length = stream.read(&mut bytes).unwrap();
            text(&bytes[..length])
        });
        assert!(said.contains(answer), "{name}: {said}");
    }
}

#[test]
fn names_resolve_to_several_addresses_none_or_do_not_exist() {
    let lab = Lab::new();
    let dns = lab.host("dns", &[NAME_SERVER]);
    let host = lab.host("a", &["10.0.0.1"]);
    let names: BTreeMap<_, _> = [
        ("many.internal".to_owned(), vec!["10.0.9.1".parse().unwrap(), "10.0.9.2".parse().unwrap()]),
        ("none.internal".to_owned(), vec![]),
    ]
    .into();
    let _server = dns.dns(&names);
    let found = text(&host.run(&["getent", "ahostsv4", "many.internal"]).stdout);
    assert!(found.contains("10.0.9.1") && found.contains("10.0.9.2"), "{found}");
    assert_eq!(answer_code(&host, "many.internal"), (0, 2));
    assert_eq!(answer_code(&host, "none.internal"), (0, 0));
    assert_eq!(answer_code(&host, "nowhere.internal"), (3, 0));
    let broken = lab.host("broken", &["10.255.255.54"]);
    broken.dns_servfail();
    assert_eq!(ask(&host, "10.255.255.54:53", "many.internal"), Some((2, 0)));
    dns.firewall(&Firewall::open().drop_dns());
    assert_eq!(ask(&host, "10.255.255.53:53", "many.internal"), None);
}

fn answer_code(host: &preflight_tests::lab::Host, name: &str) -> (u8, u16) {
    ask(host, &format!("{NAME_SERVER}:53"), name).expect("an answer from the name server")
}

/// RCODE and number of answers to a question for A, from a plain query (RFC 1035, 4.1).
fn ask(host: &preflight_tests::lab::Host, server: &str, name: &str) -> Option<(u8, u16)> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    host.within(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        socket.send_to(&query, server).unwrap();
        let mut answer = [0; 512];
        socket.recv(&mut answer).ok().map(|_| (answer[3] & 15, u16::from_be_bytes([answer[6], answer[7]])))
    })
}

#[test]
fn tls_servers_show_the_certificate_they_were_given() {
    let lab = Lab::new();
    let asks = lab.host("asks", &["10.0.0.1"]);
    let authority = Authority::new("Lab authority");
    let web = lab.host("web", &["10.0.9.1"]);
    let _nginx = web.https(443, &authority.issue(&["web.internal"], certificates::TODAY));
    let api = Api {
        from: asks.clone(),
        address: web.port(443),
        server_name: "web.internal".to_owned(),
        ca_pem: authority.pem.clone(),
        token: None,
    };
    let answer = api.get("/").unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "hello\n"));
    let other = Api { server_name: "other.internal".to_owned(), ..api };
    assert!(other.get("/").unwrap_err().contains("not valid for name"), "{other:?}");

    let cache = lab.host("cache", &["10.0.9.2"]);
    let _redis = cache.rediss(6379, &authority.issue(&["10.0.9.2"], certificates::TODAY));
    std::fs::write(asks.dir().join("ca.pem"), &authority.pem).unwrap();
    let said = asks.run(&["redis-cli", "-h", "10.0.9.2", "--tls", "--cacert", "ca.pem", "ping"]);
    assert_eq!(text(&said.stdout), "PONG\n", "{}", text(&said.stderr));
}

#[test]
fn the_metadata_service_wants_its_token_first() {
    let lab = Lab::new();
    let host = lab.host("a", &["10.0.0.1"]);
    let metadata = Metadata { entries: [("mac".to_owned(), "0e:00".to_owned())].into() };
    let _server = host.metadata(&metadata);
    let http = |request: &str| {
        host.within(|| {
            let mut stream = TcpStream::connect("169.254.169.254:80").unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut said = String::new();
            stream.read_to_string(&mut said).unwrap();
            said
        })
    };
    let tail = "Host: x\r\nConnection: close\r\n\r\n";
    assert!(http(&format!("GET /latest/meta-data/mac HTTP/1.1\r\n{tail}")).contains("401"));
    assert!(http(&format!("GET /latest/api/token HTTP/1.1\r\n{tail}")).contains("405"));
    let token = http(&format!("PUT /latest/api/token HTTP/1.1\r\nContent-Length: 0\r\n{tail}"));
    let token = token.rsplit("\r\n").next().unwrap().to_owned();
    let mac = http(&format!("GET /latest/meta-data/mac HTTP/1.1\r\nX-aws-ec2-metadata-token: {token}\r\n{tail}"));
    assert!(mac.ends_with("0e:00"), "{mac}");
}

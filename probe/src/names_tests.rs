//! Against scripted name servers: real ones do not fail on request.

use std::net::SocketAddr;

use hickory_resolver::config::{ConnectionConfig, ProtocolConfig};
use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::{RData, Record};
use tokio::net::UdpSocket;

use super::*;

/// What a scripted server does with a query.
enum Script {
    Addresses(&'static [&'static str]),
    Code(ResponseCode),
    Silence,
}

use Script::{Addresses, Code, Silence};

/// A name server that answers by `script`, given the name and `A` or `AAAA`.
async fn server(script: impl Fn(&str, &str) -> Script + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0_u8; 1500];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let question = query.queries[0].clone();
            let kind = question.query_type();
            let mut answer = Message::response(query.id, query.op_code);
            match script(&question.name().to_string(), &kind.to_string()) {
                Silence => continue,
                Code(code) => answer.metadata.response_code = code,
                Addresses(all) => {
                    for ip in all.iter().map(|ip| ip.parse::<IpAddr>().unwrap()) {
                        answer.add_answer(Record::from_rdata(question.name().clone(), 60, RData::from(ip)));
                    }
                }
            }
            answer.add_query(question);
            socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
        }
    });
    address
}

fn config(servers: &[SocketAddr], more: &str, hosts: &str) -> HostConfig {
    let mut config = HostConfig::parse(&format!("nameserver 127.0.0.1\n{more}"), hosts).unwrap();
    let udp = |address: &SocketAddr| {
        let mut connection = ConnectionConfig::new(ProtocolConfig::Udp);
        connection.port = address.port();
        NameServerConfig::new(address.ip(), true, vec![connection])
    };
    config.servers = servers.iter().map(udp).collect();
    config
}

async fn ask(config: &HostConfig, name: &str, families: Families) -> Result<Resolved, Failure> {
    let once = || config.resolve(name, families, Instant::now() + Duration::from_millis(400));
    // A machine that stood still when a deadline was due says so of itself, and is asked again.
    let starved = |failure: &Failure| failure.detail.as_ref().is_some_and(|what| what.contains("stopped or starved"));
    let mut result = once().await;
    for _ in 0..10 {
        if !result.as_ref().is_err_and(starved) {
            break;
        }
        result = once().await;
    }
    result
}

fn reason<T>(result: &Result<T, Failure>) -> &'static str {
    result.as_ref().err().and_then(|f| f.outcome.reason()).unwrap_or("resolved")
}

fn texts(resolved: &Resolved) -> Vec<String> {
    resolved.addresses.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn nothing_no_address_failure_and_silence_are_told_apart() {
    let server = server(|name, _| match name {
        "gone.test." => Code(ResponseCode::NXDomain),
        "empty.test." => Code(ResponseCode::NoError),
        "broken.test." => Code(ResponseCode::ServFail),
        "refused.test." => Code(ResponseCode::Refused),
        _ => Silence,
    })
    .await;
    let config = config(&[server], "options ndots:1", "");
    for (name, want) in [
        ("gone.test", "dns_nxdomain"),
        ("empty.test", "dns_no_address"),
        ("broken.test", "dns_servfail"),
        ("refused.test", "dns_servfail"),
        ("silent.test", "dns_timeout"),
    ] {
        let result = ask(&config, name, Families::Any).await;
        assert_eq!(reason(&result), want, "{name}");
        assert!(result.unwrap_err().detail.unwrap().contains("127.0.0.1"), "the detail names the server");
    }
}

#[tokio::test]
async fn a_family_whose_lookup_fails_is_not_lost_beside_the_other() {
    let server = server(|name, kind| match (name, kind) {
        (_, "A") => Addresses(&["10.0.0.2", "10.0.0.1", "10.0.0.2"]),
        ("silent.test.", _) => Silence,
        ("broken.test.", _) => Code(ResponseCode::ServFail),
        _ => Code(ResponseCode::NoError),
    })
    .await;
    let config = config(&[server], "", "");
    for (name, want) in [("silent.test", Some("dns_timeout")), ("broken.test", Some("dns_servfail")), ("v4.test", None)]
    {
        let resolved = ask(&config, name, Families::Any).await.unwrap();
        assert_eq!(texts(&resolved), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(resolved.failed.and_then(|f| f.outcome.reason()), want, "{name}");
    }
    // What is not asked for cannot fail.
    assert!(ask(&config, "silent.test", Families::Ipv4).await.unwrap().failed.is_none());
    assert_eq!(reason(&ask(&config, "v4.test", Families::Ipv6).await), "dns_no_address");
}

#[tokio::test]
async fn name_servers_are_asked_in_order() {
    let silent = server(|_, _| Silence).await;
    let broken = server(|_, _| Code(ResponseCode::ServFail)).await;
    let public = server(|_, _| Code(ResponseCode::NXDomain)).await;
    let private =
        server(|_, kind| if kind == "A" { Addresses(&["10.0.0.1"]) } else { Code(ResponseCode::NoError) }).await;
    // Taken, and not by one that hears whoever asks.
    let deaf = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    deaf.connect("127.0.0.1:9").unwrap();
    let nobody: SocketAddr = deaf.local_addr().unwrap();
    for first in [silent, broken, nobody] {
        let resolved = ask(&config(&[first, private], "", ""), "a.test", Families::Any).await.unwrap();
        assert_eq!(texts(&resolved), ["10.0.0.1"]);
    }
    assert_eq!(texts(&ask(&config(&[private, public], "", ""), "a.test", Families::Any).await.unwrap()), ["10.0.0.1"]);
    assert_eq!(reason(&ask(&config(&[public, private], "", ""), "a.test", Families::Any).await), "dns_nxdomain");
    assert_eq!(reason(&ask(&config(&[broken, silent], "", ""), "a.test", Families::Any).await), "dns_timeout");
    assert_eq!(reason(&ask(&config(&[nobody], "", ""), "a.test", Families::Any).await), "dns_timeout");
}

#[tokio::test]
async fn both_families_come_from_the_same_name_of_the_search_list() {
    let server = server(|name, kind| match (name, kind) {
        ("cache.one.test.", "A") => Addresses(&["10.0.0.1"]),
        ("cache.two.test.", "AAAA") => Addresses(&["fd00::2"]),
        ("db.two.test.", "A") => Addresses(&["10.0.0.3"]),
        ("db.one.test.", _) => Code(ResponseCode::ServFail),
        ("a.b.", "A") => Addresses(&["10.0.0.4"]),
        ("a.b.one.test.", "A") => Addresses(&["10.0.0.5"]),
        ("cache.one.test.", _) => Code(ResponseCode::NoError),
        _ => Code(ResponseCode::NXDomain),
    })
    .await;
    let search = "search one.test two.test";
    let short = config(&[server], search, "");
    assert_eq!(texts(&ask(&short, "cache", Families::Any).await.unwrap()), ["10.0.0.1"]);
    assert_eq!(texts(&ask(&short, "db", Families::Any).await.unwrap()), ["10.0.0.3"], "goes on after SERVFAIL");
    assert_eq!(texts(&ask(&short, "a.b", Families::Any).await.unwrap()), ["10.0.0.4"]);
    let dotted = config(&[server], "search one.test two.test\noptions ndots:5", "");
    assert_eq!(texts(&ask(&dotted, "a.b", Families::Any).await.unwrap()), ["10.0.0.5"]);
    assert_eq!(texts(&ask(&dotted, "a.b.", Families::Any).await.unwrap()), ["10.0.0.4"]);
    let nothing = ask(&short, "nothing", Families::Any).await;
    assert_eq!(reason(&nothing), "dns_nxdomain");
    assert!(nothing.unwrap_err().detail.unwrap().contains("nothing.two.test."), "says what was asked for");
}

#[tokio::test]
async fn the_hosts_file_goes_before_the_name_servers() {
    let server = server(|_, _| Addresses(&["10.9.9.9"])).await;
    let hosts = "# comment\n10.0.0.1 cache.test Cache\n10.0.0.2\tcache.test # another\nfd00::1 six.test\n";
    let config = config(&[server], "", hosts);
    assert_eq!(texts(&ask(&config, "cache.test", Families::Any).await.unwrap()), ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(texts(&ask(&config, "cache", Families::Any).await.unwrap()), ["10.0.0.1"]);
    assert_eq!(reason(&ask(&config, "six.test", Families::Ipv4).await), "dns_no_address");
}

#[test]
fn without_a_name_server_the_one_on_this_machine_is_asked() {
    let config = HostConfig::parse("", "").unwrap();
    assert_eq!(config.servers.iter().map(|s| s.ip.to_string()).collect::<Vec<_>>(), ["127.0.0.1"]);
}

#[test]
fn the_cut_keeps_both_families_and_is_the_same_everywhere() {
    let many = |v4: u8, v6: u16| -> Vec<IpAddr> {
        let v4 = (0..v4).map(|i| IpAddr::from([10, 0, 0, i]));
        v4.chain((0..v6).map(|i| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, i]))).collect()
    };
    for (v4, v6, want_v4, want_v6) in
        [(40, 0, 16, 0), (0, 40, 0, 16), (40, 40, 8, 8), (40, 2, 14, 2), (2, 40, 2, 14), (3, 3, 3, 3)]
    {
        let mut addresses = many(v4, v6);
        let cut = resolved(addresses.clone(), Families::Any, None).unwrap();
        let kept = cut.addresses.iter().filter(|ip| ip.is_ipv4()).count();
        assert_eq!((kept, cut.addresses.len() - kept), (want_v4, want_v6), "{v4} {v6}");
        assert_eq!(cut.total, usize::from(v4) + usize::from(v6));
        addresses.reverse();
        assert_eq!(resolved(addresses, Families::Any, None).unwrap().addresses, cut.addresses);
    }
}

#[test]
fn a_mapped_address_is_an_ipv4_address() {
    let cut = resolved(vec!["::ffff:169.254.169.254".parse().unwrap()], Families::Any, None).unwrap();
    assert_eq!(texts(&cut), ["169.254.169.254"]);
}

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// What a real node of six said (Redis 7.0), ids shortened.
const SIX: &str = "*3\r\n*4\r\n:0\r\n:5460\r\n*4\r\n$9\r\n127.0.0.1\r\n:17001\r\n$2\r\n04\r\n*0\r\n*4\r\n$9\r\n127.0.0.1\r\n:17004\r\n$2\r\n50\r\n*0\r\n\
    *4\r\n:5461\r\n:10922\r\n*4\r\n$9\r\n127.0.0.1\r\n:17002\r\n$2\r\n1c\r\n*0\r\n*4\r\n$9\r\n127.0.0.1\r\n:17005\r\n$2\r\n00\r\n*0\r\n\
    *4\r\n:10923\r\n:16383\r\n*4\r\n$9\r\n127.0.0.1\r\n:17003\r\n$2\r\nc5\r\n*0\r\n*4\r\n$9\r\n127.0.0.1\r\n:17006\r\n$2\r\nf7\r\n*0\r\n";

/// What it says of itself.
fn info(state: &str, nodes: usize) -> String {
    let text = format!("cluster_state:{state}\r\ncluster_slots_assigned:16384\r\ncluster_known_nodes:{nodes}\r\n");
    format!("${}\r\n{text}\r\n", text.len())
}

/// One range of all slots, served by nodes that are told so: host as RESP, and port.
fn slots(nodes: &[(&str, i64)]) -> String {
    let told = nodes.iter().map(|(host, port)| format!("*3\r\n{host}\r\n:{port}\r\n$1\r\na\r\n"));
    format!("*1\r\n*{}\r\n:0\r\n:16383\r\n{}", nodes.len() + 2, told.collect::<String>())
}

/// An instance as a Sentinel lists it, shortened.
fn instance(name: &str, host: &str, port: u16) -> String {
    let fields = ["name", name, "ip", host, "port", &port.to_string(), "flags", "slave"];
    let bulk = fields.map(|field| format!("${}\r\n{field}\r\n", field.len()));
    format!("*{}\r\n{}", bulk.len(), bulk.concat())
}

fn listed(instances: &[String]) -> String {
    format!("*{}\r\n{}", instances.len(), instances.concat())
}

const MASTERS: Topology = Topology::Sentinel { master: None };

/// Asks a seed that answers one command after the other so, and then stays silent; a reply too many is a failure of the test.
async fn seed(topology: &Topology, replies: &[&str]) -> Result<Shown, Failure> {
    let (mut ours, mut theirs) = tokio::io::duplex(128 * 1024);
    let replies: Vec<String> = replies.iter().map(|reply| (*reply).to_owned()).collect();
    let server = tokio::spawn(async move {
        let mut asked = 0;
        for reply in &replies {
            if theirs.read(&mut [0; 1024]).await.unwrap_or(0) == 0 {
                break;
            }
            asked += 1;
            theirs.write_all(reply.as_bytes()).await.unwrap();
        }
        let more = theirs.read(&mut [0; 1024]).await.unwrap_or(0);
        (asked, replies.len(), more)
    });
    let peer: SocketAddr = "127.0.0.1:17001".parse().unwrap();
    let spec = ProbeSpec::new("redis://seed.test:17001".parse().unwrap());
    let end = ask(&mut Wire::new(&mut ours, peer), &spec, topology).await;
    drop(ours);
    let (asked, replies, more) = server.await.unwrap();
    assert_eq!((asked, more), (replies, 0), "every reply was asked for, and no more: {end:?}");
    end
}

fn names(shown: &Shown) -> Vec<String> {
    shown.told.iter().map(|t| format!("{} {}:{}", t.role.as_str(), t.host, t.port)).collect()
}

#[tokio::test]
async fn a_cluster_tells_its_nodes() {
    let shown = seed(&Topology::Cluster, &[SIX, &info("ok", 6)]).await.unwrap();
    let want: Vec<String> = [("primary", 1..=3), ("replica", 4..=6)]
        .into_iter()
        .flat_map(|(role, ports)| ports.map(move |n| format!("{role} 127.0.0.1:1700{n}")))
        .collect();
    assert_eq!((names(&shown), shown.note), (want, None));
}

#[tokio::test]
async fn endpoints_are_those_that_clients_take() {
    for (host, want) in [
        ("$8\r\n10.0.3.8", "10.0.3.8:7001"),
        ("$14\r\nNode-1.Internal", ""),
        ("$15\r\nNode-1.Internal", "node-1.internal:7001"),
        ("$7\r\nfd00::8", "[fd00::8]:7001"),
        ("$15\r\n::ffff:10.0.3.8", "10.0.3.8:7001"),
        ("$0\r\n", "seed.test:7001"),
        ("$-1", "seed.test:7001"),
        // Nobody can dial these, so that clients cannot either.
        ("$1\r\n?", ""),
        ("$11\r\nfe80::1%eth", ""),
        ("$8\r\na@b.test", ""),
        ("$5\r\nx:1/a", ""),
        ("$2\r\na\n", ""),
        (":1", ""),
    ] {
        let replies = [slots(&[(host, 7001)]), info("ok", 1)];
        let asked = if want.is_empty() { 1 } else { 2 };
        let replies: Vec<&str> = replies.iter().map(String::as_str).take(asked).collect();
        let end = seed(&Topology::Cluster, &replies).await;
        let got = end.as_ref().map(names).unwrap_or_default();
        assert_eq!(got.first().map_or("", |name| name.strip_prefix("primary ").unwrap()), want, "{host}: {end:?}");
    }
}

#[tokio::test]
async fn what_a_cluster_says_and_what_that_means() {
    let ok = info("ok", 1);
    let one = slots(&[("$4\r\na.ab", 7001)]);
    let gap = one.replace(":16383", ":16000");
    let deaf = "-NOPERM this user has no permissions to run the 'cluster|info' command\r\n";
    let long =
        format!("*2000\r\n{}", "$60\r\naaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(1100));
    type Case<'a> = (&'a [&'a str], Result<usize, &'a str>, &'a str);
    let cases: &[Case] = &[
        (&[&one, &ok], Ok(1), ""),
        (&[&one, &info("ok", 3)], Ok(1), "knows 3 nodes and tells clients of 1"),
        (&[&one, &info("fail", 1)], Err("not_ready"), "CLUSTERDOWN"),
        (&[&one, "$2\r\nhi\r\n"], Err("protocol_unexpected"), "CLUSTER INFO"),
        (&[&one, deaf], Ok(1), "CLUSTER INFO: does not tell"),
        (&[&gap], Err("not_ready"), "383 of 16384 slots"),
        (&["*0\r\n"], Err("not_ready"), "16384 of 16384 slots"),
        (&["-CLUSTERDOWN The cluster is down\r\n"], Err("not_ready"), "CLUSTERDOWN"),
        (&["-LOADING Redis is loading\r\n"], Err("not_ready"), "LOADING"),
        (&["-NOAUTH Authentication required.\r\n"], Ok(0), "NOAUTH"),
        (&["-NOPERM this user has no permissions\r\n"], Ok(0), "NOPERM"),
        (&["-ERR This instance has cluster support disabled\r\n"], Err("status_unexpected"), "it is not a cluster"),
        (&["-ERR unknown command 'CLUSTER', with args\r\n"], Err("status_unexpected"), "it is not a cluster"),
        (&["-ERR something\r\n"], Err("protocol_unexpected"), "in answer to CLUSTER SLOTS"),
        (&["+OK\r\n"], Err("protocol_unexpected"), "not a Redis reply to CLUSTER SLOTS"),
        (&["*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$1\r\na\r\n:7\r\n$1\r\nb\r\n+more\r\n"], Err("protocol_unexpected"), ""),
        (&["*1\r\n*2\r\n:0\r\n:16383\r\n"], Err("protocol_unexpected"), ""),
        (&[&one.replace(":16383", ":16384")], Err("protocol_unexpected"), ""),
        (&[&one.replace(":0\r", ":-1\r")], Err("protocol_unexpected"), ""),
        (&[&slots(&[("$1\r\na", 0)])], Err("status_unexpected"), "nobody can dial"),
        (&[&slots(&[("$1\r\na", 65_536)])], Err("protocol_unexpected"), ""),
        (&[&long], Ok(0), "more than 64 KiB"),
    ];
    for (replies, want, says) in cases {
        let end = seed(&Topology::Cluster, replies).await;
        let got = end.as_ref().map(|shown| shown.told.len()).map_err(|f| f.outcome.reason().unwrap_or("ok"));
        let shown: String = replies.concat().chars().take(200).collect();
        assert_eq!(got, *want, "{shown:?}: {end:?}");
        let said = end.map_or_else(|failure| failure.detail, |shown| shown.note).unwrap_or_default();
        assert!(
            said.contains(says) && (got != Ok(1) || says.is_empty() == said.is_empty()),
            "{said} should say {says}"
        );
    }
}

#[tokio::test]
async fn a_sentinel_tells_what_it_watches() {
    let one = listed(&[instance("cache", "10.0.0.1", 6379)]);
    let replicas = listed(&[instance("r", "10.0.0.2", 6379), instance("r", "10.0.0.3", 6379)]);
    let sentinels = listed(&[instance("ab", "10.0.0.2", 26379)]);
    let want = ["primary 10.0.0.1:6379", "replica 10.0.0.2:6379", "replica 10.0.0.3:6379", "sentinel 10.0.0.2:26379"];
    let shown = seed(&MASTERS, &[&one, &replicas, &sentinels]).await.unwrap();
    assert_eq!((names(&shown), shown.note), (want.map(str::to_owned).to_vec(), None));

    let named = Topology::Sentinel { master: Some("cache".to_owned()) };
    let address = "*2\r\n$8\r\n10.0.0.1\r\n$4\r\n6379\r\n";
    let shown = seed(&named, &[address, &replicas, &sentinels]).await.unwrap();
    assert_eq!((names(&shown), shown.note), (want.map(str::to_owned).to_vec(), None));
}

#[tokio::test]
async fn what_a_sentinel_says_and_what_that_means() {
    let named = Topology::Sentinel { master: Some("cache".to_owned()) };
    let one = listed(&[instance("cache", "10.0.0.1", 6379)]);
    let nowhere = listed(&[instance("cache", "?", 6379)]);
    let unknown = "-ERR unknown command 'SENTINEL', with args beginning with: 'MASTERS' \r\n";
    type Case<'a> = (&'a Topology, &'a [&'a str], Result<usize, &'a str>, &'a str);
    let cases: &[Case] = &[
        (&MASTERS, &[&one, "*0\r\n", "*0\r\n"], Ok(1), ""),
        (&MASTERS, &[&one, "*0\r\n", "-NOPERM no permissions\r\n"], Ok(0), "SENTINEL SENTINELS cache"),
        (
            &MASTERS,
            &[&one, "-ERR No such master with that name\r\n"],
            Err("status_unexpected"),
            "SENTINEL REPLICAS cache",
        ),
        (&MASTERS, &["*0\r\n"], Err("status_unexpected"), "watches no primary"),
        (&MASTERS, &[unknown], Err("status_unexpected"), "it is not a Sentinel"),
        (&MASTERS, &["-NOAUTH Authentication required.\r\n"], Ok(0), "NOAUTH"),
        (&MASTERS, &["*1\r\n*1\r\n$4\r\nname\r\n"], Err("protocol_unexpected"), "SENTINEL MASTERS"),
        (&MASTERS, &[&nowhere], Err("status_unexpected"), "nobody can dial"),
        (&named, &["*-1\r\n"], Err("status_unexpected"), "no primary of the name 'cache'"),
        (&named, &["*1\r\n$1\r\na\r\n"], Err("protocol_unexpected"), "GET-MASTER-ADDR-BY-NAME"),
        (&named, &["*2\r\n$1\r\na\r\n$1\r\nb\r\n"], Err("protocol_unexpected"), "GET-MASTER-ADDR-BY-NAME"),
    ];
    for (topology, replies, want, says) in cases {
        let end = seed(topology, replies).await;
        let got = end.as_ref().map(|shown| shown.told.len()).map_err(|f| f.outcome.reason().unwrap_or("ok"));
        assert_eq!(got, *want, "{replies:?}: {end:?}");
        let said = end.map_or_else(|failure| failure.detail, |shown| shown.note).unwrap_or_default();
        assert!(said.contains(says), "{said} should say {says}");
    }
}

#[tokio::test]
async fn a_sentinel_of_many_is_asked_for_some() {
    let primaries: Vec<String> = (0..20).map(|n| instance(&format!("p{n}"), &format!("10.0.0.{n}"), 6379)).collect();
    let primaries = listed(&primaries);
    let mut replies = vec![primaries.as_str()];
    replies.resize(1 + 2 * MAX_PRIMARIES, "*0\r\n");
    let shown = seed(&MASTERS, &replies).await.unwrap();
    assert_eq!(shown.told.len(), 20);
    assert!(shown.note.unwrap().contains("watches 20 primaries"));
}

#[test]
fn slots_are_counted_once() {
    for (ranges, want) in [
        (vec![], 0),
        (vec![(0, 16_383)], SLOTS),
        (vec![(8_192, 16_383), (0, 8_191)], SLOTS),
        (vec![(0, 10), (0, 10)], 11),
        (vec![(0, 10), (2, 4), (5, 20)], 21),
        (vec![(0, 0), (2, 2)], 2),
    ] {
        assert_eq!(covered(ranges.clone()), want, "{ranges:?}");
    }
}

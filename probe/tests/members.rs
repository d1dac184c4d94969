//! Members of a real Redis Cluster of one node, and of a real Sentinel; the lab's tests have whole ones.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{Server, detail, free_port, reason, report, spec};
use preflight_core::observation::{Report, Role};
use preflight_core::spec::{ProbeSpec, Topology};
use preflight_probe::{AllowAll, Engine, EngineOptions};

fn of(server: &Server, topology: Topology) -> ProbeSpec {
    ProbeSpec { topology: Some(topology), ..spec(&format!("redis://127.0.0.1:{}", server.port)) }
}

/// A node of a cluster, without slots. Its bus has a port of its own: 10,000 above the other may be taken.
fn node(more: &[&str]) -> Server {
    let bus = free_port().to_string();
    let fixed = ["--cluster-enabled", "yes", "--cluster-config-file", "nodes", "--cluster-port", &bus];
    Server::redis(&[&fixed, more].concat())
}

fn cluster() -> Server {
    let server = node(&[]);
    assert!(server.ask("CLUSTER ADDSLOTSRANGE 0 16383").starts_with("+OK"));
    while !server.ask("CLUSTER INFO").contains("cluster_state:ok") {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    server
}

fn sentinel(master: Option<&str>) -> Topology {
    Topology::Sentinel { master: master.map(str::to_owned) }
}

/// Role, endpoint and what came of it.
fn members(report: &Report) -> Vec<(Role, &str, &'static str)> {
    let of_members = report.observations.iter().filter_map(|o| Some((o.member.as_ref()?, o)));
    of_members.map(|(member, o)| (member.role, member.endpoint.as_str(), reason(o))).collect()
}

#[tokio::test]
async fn a_node_that_does_not_know_its_own_address_is_dialled_where_it_was_asked() {
    let server = cluster();
    let spec = of(&server, Topology::Cluster);
    let report = report(&spec).await;
    let endpoint = format!("127.0.0.1:{}", server.port);
    assert_eq!(members(&report), [(Role::Primary, endpoint.as_str(), "ok")], "{report:#?}");
    assert_eq!((report.members, report.outcome(&spec).reason()), (1, None));
}

#[tokio::test]
async fn a_cluster_without_its_slots_is_not_ready() {
    let server = cluster();
    assert!(server.ask("CLUSTER DELSLOTS 7").starts_with("+OK"));
    let spec = of(&server, Topology::Cluster);
    let report = report(&spec).await;
    assert_eq!(report.outcome(&spec).reason(), Some("not_ready"), "{report:#?}");
    assert!(detail(&report.observations[0]).starts_with("1 of 16384 slots"), "{report:#?}");
}

#[tokio::test]
async fn what_is_no_cluster_and_no_sentinel_says_so() {
    let server = Server::redis(&[]);
    for (topology, says) in [(Topology::Cluster, "it is not a cluster"), (sentinel(None), "it is not a Sentinel")] {
        let spec = of(&server, topology);
        let report = report(&spec).await;
        assert_eq!(report.outcome(&spec).reason(), Some("status_unexpected"), "{report:#?}");
        assert!(detail(&report.observations[0]).starts_with(says), "{report:#?}");
    }
}

#[tokio::test]
async fn a_seed_that_does_not_tell_is_no_pass() {
    let no_more_than_ping = ["--user", "default", "on", "nopass", "~*", "-@all", "+ping"];
    for options in [["--requirepass", "secret"].as_slice(), &no_more_than_ping] {
        let server = node(options);
        let spec = of(&server, Topology::Cluster);
        let report = report(&spec).await;
        assert_eq!(reason(&report.observations[0]), "ok", "{report:#?}");
        assert_eq!(report.outcome(&spec).reason(), Some("members_unknown"), "{report:#?}");
    }
}

#[tokio::test]
async fn a_sentinel_tells_its_primary_and_a_name_that_it_does_not_watch() {
    let primary = Server::redis(&[]);
    let server = Server::sentinel(&primary);
    let endpoint = format!("127.0.0.1:{}", primary.port);
    for master in [None, Some("cache")] {
        let spec = of(&server, sentinel(master));
        let report = report(&spec).await;
        assert_eq!(members(&report), [(Role::Primary, endpoint.as_str(), "ok")], "{report:#?}");
        assert_eq!(report.outcome(&spec).reason(), None);
    }
    let spec = of(&server, sentinel(Some("basket")));
    let unknown = report(&spec).await;
    assert_eq!(unknown.outcome(&spec).reason(), Some("status_unexpected"), "{unknown:#?}");
    assert!(detail(&unknown.observations[0]).contains("no primary of the name 'basket'"), "{unknown:#?}");
    // The primary that the Sentinel still believes in.
    drop(primary);
    let spec = of(&server, sentinel(Some("cache")));
    let gone = report(&spec).await;
    assert_eq!(gone.outcome(&spec).reason(), Some("connect_refused"), "{gone:#?}");
}

/// All that a server counts. A Sentinel knows no `QUIT`, and so would keep [`Server::ask`] waiting.
fn everything(server: &Server) -> String {
    let port = server.port.to_string();
    let said = std::process::Command::new("redis-cli").args(["-p", &port, "info", "everything"]).output().unwrap();
    String::from_utf8(said.stdout).unwrap()
}

/// The number after `name` and a colon or an equals sign.
fn counter(stats: &str, name: &str) -> u64 {
    let line = stats.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.trim_start_matches([':', '='])
        .chars()
        .take_while(char::is_ascii_digit)
        .collect::<String>()
        .parse()
        .unwrap_or(0)
}

/// Asks a thousand times, each time for the members too, by what the servers count.
#[tokio::test]
async fn a_thousand_probes_leave_nothing_behind() {
    const PROBES: u64 = 1_000;
    let node = cluster();
    let primary = Server::redis(&[]);
    let watcher = Server::sentinel(&primary);
    let engine = Engine::new(EngineOptions::default()).unwrap();
    for (server, topology) in [(&node, Topology::Cluster), (&watcher, sentinel(None))] {
        let before = everything(server);
        for _ in 0..PROBES {
            let spec = of(server, topology.clone());
            let report = engine.probe(&spec, &AllowAll).await;
            assert_eq!(report.outcome(&spec).reason(), None, "{report:#?}");
        }
        // A close is noticed when the server comes round to it.
        let after = loop {
            let after = everything(server);
            let own = u64::from(topology == Topology::Cluster);
            if counter(&after, "connected_clients") <= own.max(counter(&before, "connected_clients")) {
                break after;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        };
        for name in [
            "rejected_connections",
            "blocked_clients",
            "total_error_replies",
            "unexpected_error_replies",
            "acl_access_denied_cmd",
        ] {
            assert_eq!(counter(&after, name), counter(&before, name), "{name}\n{after}");
        }
        assert!(!after.contains("errorstat_") || before.contains("errorstat_"), "{after}");
        if topology == Topology::Cluster {
            // The seed and its one member are asked for a PING; a probe has an attempt or a try more where this machine was slow.
            for (command, calls) in [("cluster|slots", PROBES), ("cluster|info", PROBES), ("ping", 2 * PROBES)] {
                let name = format!("cmdstat_{command}:calls");
                let called = counter(&after, &name) - counter(&before, &name);
                assert!((calls..calls + PROBES / 20).contains(&called), "{command} {called} {after}");
            }
            assert!(server.ask("ACL LOG").starts_with("*0"), "nothing was denied");
        }
    }
}

//! Against real Redis servers, and scripted ones for what a real one does not do on request.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::time::{Duration, Instant};

use common::{Server, detail, nobody, probe, reason, scripted, spec};
use preflight_core::observation::Proof;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn url(server: &Server) -> String {
    format!("redis://127.0.0.1:{}", server.port)
}

#[tokio::test]
async fn pong_is_the_whole_proof() {
    let server = Server::redis(&[]);
    let seen = probe(&spec(&url(&server))).await;
    assert_eq!((reason(&seen), seen.proof), ("ok", Some(Proof::Protocol)), "{seen:#?}");
    assert!(seen.phases.resolve_ms.is_some() && seen.phases.connect_ms.is_some() && seen.phases.protocol_ms.is_some());
    assert_eq!(seen.phases.tls_ms, None, "a phase that was not reached has no time");
    assert_eq!(seen.note, None);
    assert_eq!(seen.attempts.iter().map(|a| a.result.as_str()).collect::<Vec<_>>(), ["connected"]);
}

#[tokio::test]
async fn the_server_counts_one_ping_and_no_error() {
    let server = Server::redis(&[]);
    for _ in 0..20 {
        assert_eq!(reason(&probe(&spec(&url(&server))).await), "ok");
    }
    let stats = server.ask("INFO everything");
    assert!(stats.contains("cmdstat_ping:calls=20,"), "{stats}");
    assert!(!stats.contains("cmdstat_quit:calls=2"), "{stats}");
    assert!(stats.contains("total_error_replies:0\r"), "{stats}");
    let log = std::fs::read_to_string(server.file("log")).unwrap();
    assert!(!log.contains("rror"), "{log}");
}

#[tokio::test]
async fn a_login_is_asked_for() {
    let server = Server::redis(&["--requirepass", "secret"]);
    let seen = probe(&spec(&url(&server))).await;
    assert_eq!((reason(&seen), seen.proof), ("ok", Some(Proof::Protocol)), "{seen:#?}");
    assert_eq!(seen.note.as_deref(), Some("asks for a login: NOAUTH Authentication required."));
}

#[tokio::test]
async fn a_replica_without_its_master_is_not_ready() {
    let (_held, nobody) = nobody();
    let server =
        Server::redis(&["--replicaof", "127.0.0.1", &nobody.port().to_string(), "--replica-serve-stale-data", "no"]);
    let seen = probe(&spec(&url(&server))).await;
    assert_eq!(reason(&seen), "not_ready", "{seen:#?}");
    assert!(detail(&seen).starts_with("MASTERDOWN"), "{seen:#?}");
}

#[tokio::test]
async fn a_loading_server_is_not_ready() {
    let (address, _) = scripted(|mut stream| async move {
        let _ = stream.write_all(b"-LOADING Redis is loading the dataset in memory\r\n").await;
        let _ = stream.read(&mut [0; 64]).await;
    })
    .await;
    assert_eq!(reason(&probe(&spec(&format!("redis://{address}"))).await), "not_ready");
}

/// The one client that a server admits: it may first have to notice that the one before has gone.
fn hold(server: &Server) -> std::net::TcpStream {
    use std::io::{Read as _, Write as _};
    let patience = Instant::now() + Duration::from_secs(10);
    while Instant::now() < patience {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", server.port)).unwrap();
        let mut reply = [0; 7];
        if stream.write_all(b"PING\r\n").is_ok() && stream.read_exact(&mut reply).is_ok() && &reply == b"+PONG\r\n" {
            return stream;
        }
    }
    panic!("the server admits no client");
}

#[tokio::test]
async fn too_many_clients_is_said() {
    let server = Server::redis(&["--maxclients", "1"]);
    let _only = hold(&server);
    let seen = probe(&spec(&url(&server))).await;
    assert_eq!(reason(&seen), "status_unexpected", "{seen:#?}");
    assert!(detail(&seen).contains("max number of clients"), "{seen:#?}");
}

#[tokio::test]
async fn protected_mode_refuses_this_host() {
    // What a real server sends to others than loopback, before it closes.
    let (address, _) = scripted(|mut stream| async move {
        let _ =
            stream.write_all(b"-DENIED Redis is running in protected mode because protected mode is enabled\r\n").await;
    })
    .await;
    let seen = probe(&spec(&format!("redis://{address}"))).await;
    assert_eq!(reason(&seen), "status_unexpected", "{seen:#?}");
    assert!(detail(&seen).contains("refuses this host"), "{seen:#?}");
}

#[tokio::test]
async fn an_http_server_is_not_redis() {
    let server = Server::nginx();
    let seen = probe(&spec(&url(&server))).await;
    assert_eq!((reason(&seen), seen.proof), ("protocol_unexpected", Some(Proof::Connected)), "{seen:#?}");
    assert!(detail(&seen).contains("400 Bad Request"), "{seen:#?}");
}

#[tokio::test]
async fn silence_after_accept_ends_at_the_deadline() {
    let (address, _) =
        scripted(|mut stream| async move { while stream.read(&mut [0; 64]).await.is_ok_and(|n| n > 0) {} }).await;
    let begin = Instant::now();
    let seen = probe(&spec(&format!("redis://{address}"))).await;
    assert_eq!((reason(&seen), seen.phases.protocol_ms), ("protocol_timeout", None), "{seen:#?}");
    let took = begin.elapsed();
    assert!((Duration::from_millis(990)..Duration::from_secs(5)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn a_byte_at_a_time_moves_no_deadline() {
    let (address, _) = scripted(|mut stream| async move {
        for byte in b"-NOAUTH Authentication required" {
            if stream.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await;
    // A deadline that moved would have let the whole answer in.
    let seen = probe(&spec(&format!("redis://{address}"))).await;
    assert_eq!(reason(&seen), "protocol_timeout", "{seen:#?}");
    assert!(detail(&seen).contains("-NOA"), "{seen:#?}");
}

#[tokio::test]
async fn an_error_without_an_end_is_read_to_a_bound() {
    let (address, _) = scripted(|mut stream| async move {
        let _ = stream.write_all(b"-").await;
        while stream.write_all(&[b'x'; 1000]).await.is_ok() {}
    })
    .await;
    let seen = probe(&spec(&format!("redis://{address}"))).await;
    assert_eq!(reason(&seen), "protocol_unexpected", "{seen:#?}");
    assert!(detail(&seen).contains("4 KiB") && detail(&seen).len() < 1_000, "{seen:#?}");
}

#[tokio::test]
async fn garbage_is_shown_escaped() {
    let (address, _) = scripted(|mut stream| async move {
        let _ = stream.write_all(b"\x1b[31mred\x00\xff\r\n\xe2\x80\xae").await;
        let _ = stream.read(&mut [0; 64]).await;
    })
    .await;
    let seen = probe(&spec(&format!("redis://{address}"))).await;
    assert_eq!(reason(&seen), "protocol_unexpected", "{seen:#?}");
    assert!(detail(&seen).contains(r"\u{1b}[31mred\u{0}\xff\r\n\u{202e}"), "{seen:#?}");
}

#[tokio::test]
async fn a_close_and_a_reset_before_the_answer() {
    let (closes, _) = scripted(|mut stream| async move {
        let _ = stream.read(&mut [0; 64]).await;
    })
    .await;
    let (resets, _) = scripted(|stream| async move { stream.set_zero_linger().unwrap() }).await;
    for address in [closes, resets] {
        let seen = probe(&spec(&format!("redis://{address}"))).await;
        assert_eq!((reason(&seen), seen.proof), ("protocol_closed", Some(Proof::Connected)), "{seen:#?}");
    }
}

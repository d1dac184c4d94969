//! gRPC over TLS: ALPN, how a call is left, and that a server counts nothing against two thousand of them.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests")]

mod common;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use common::certificates::{Identity, authority, config, params};
use common::{detail, probe, reason, scripted};
use futures_util::future::join_all;
use preflight_core::observation::Proof;
use preflight_core::spec::{Millis, ProbeSpec};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::Routes;
use tonic_health::ServingStatus;

/// What came of one connection, as the server's side of TLS saw it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Connection {
    alpn: Option<Vec<u8>>,
    /// Whether it ended without an error, which over TLS means by `close_notify`.
    ended_well: bool,
    /// What the client sent inside of TLS.
    sent: Vec<u8>,
}

impl Connection {
    /// The client's HTTP/2 frames (RFC 9113, 4.1): type and payload.
    fn frames(&self) -> Vec<(u8, &[u8])> {
        let mut rest = self.sent.strip_prefix(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("HTTP/2's preface");
        let mut frames = Vec::new();
        while let [a, b, c, kind, _, _, _, _, _, more @ ..] = rest {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            let (payload, after) = more.split_at(length);
            frames.push((*kind, payload));
            rest = after;
        }
        assert!(rest.is_empty(), "a frame was cut");
        frames
    }
}

type Connections = Arc<Mutex<Vec<Connection>>>;

/// A tonic server behind TLS that offers these protocols, and what each connection to it came to.
async fn serve(alpn: &[&[u8]]) -> (SocketAddr, String, Connections) {
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("shop.Search", ServingStatus::NotServing).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let inner = listener.local_addr().unwrap();
    let routes = Routes::new(service);
    tokio::spawn(
        tonic::transport::Server::builder().add_routes(routes).serve_with_incoming(TcpListenerStream::new(listener)),
    );
    let ca = authority("the authority");
    let mut config = config(&Identity::issued(&params("good.test"), &ca));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let connections = Connections::default();
    let tell = connections.clone();
    let (address, _) = scripted(move |stream| {
        let (acceptor, tell) = (acceptor.clone(), tell.clone());
        async move {
            let seen = connection(acceptor, stream, inner).await;
            tell.lock().unwrap().push(seen);
        }
    })
    .await;
    (address, ca.pem(), connections)
}

async fn connection(acceptor: TlsAcceptor, stream: TcpStream, inner: SocketAddr) -> Connection {
    let mut seen = Connection::default();
    let Ok(mut client) = acceptor.accept(stream).await else { return seen };
    seen.alpn = client.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    let mut server = TcpStream::connect(inner).await.unwrap();
    let (mut up, mut down) = (vec![0; 4096], vec![0; 4096]);
    let mut open = true;
    loop {
        tokio::select! {
            read = client.read(&mut up) => match read {
                Ok(0) => { seen.ended_well = true; break }
                Ok(count) => {
                    seen.sent.extend_from_slice(&up[..count]);
                    let _ = server.write_all(&up[..count]).await;
                }
                Err(_) => break,
            },
            read = server.read(&mut down), if open => match read {
                Ok(count) if count > 0 => {
                    let _ = client.write_all(&down[..count]).await;
                    let _ = client.flush().await;
                }
                _ => { open = false; let _ = client.shutdown().await; }
            },
        }
    }
    let _ = client.shutdown().await;
    seen
}

fn grpcs(address: SocketAddr, path: &str, ca: &str) -> ProbeSpec {
    let mut spec = common::spec(&format!("grpcs://{address}{path}"));
    spec.tls.server_name = Some("good.test".to_owned());
    spec.tls.ca_pem = Some(ca.to_owned());
    // Two thousand of them on a busy machine.
    spec.timeout = Millis(30_000);
    spec
}

/// Waits until so many connections have ended.
async fn ended(connections: &Connections, count: usize) {
    let all = async {
        while connections.lock().unwrap().len() < count {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_mins(1), all).await.expect("every connection ends");
}

#[tokio::test]
async fn two_thousand_calls_leave_by_goaway_and_reset_no_stream() {
    const LANES: usize = 4;
    const EACH: usize = 500;
    let (address, ca, connections) = serve(&[b"h2"]).await;
    let spec = grpcs(address, "", &ca);
    join_all((0..LANES).map(async |_| {
        for _ in 0..EACH {
            let seen = probe(&spec).await;
            assert_eq!((reason(&seen), seen.proof), ("ok", Some(Proof::Protocol)), "{seen:#?}");
        }
    }))
    .await;
    ended(&connections, LANES * EACH).await;
    let connections = connections.lock().unwrap();
    // One for each probe, and for an attempt or a try more where this machine was slow.
    assert!((LANES * EACH..LANES * EACH + 100).contains(&connections.len()), "{}", connections.len());
    for seen in connections.iter() {
        assert_eq!(seen.alpn.as_deref(), Some(b"h2".as_slice()));
        assert!(seen.ended_well, "the end came without TLS's goodbye");
        let frames = seen.frames();
        let of = |kind: u8| frames.iter().filter(move |frame| frame.0 == kind);
        assert_eq!(of(3).count(), 0, "RST_STREAM: {frames:?}");
        // The last stream of the server's, of which there is none, and NO_ERROR.
        assert_eq!(of(7).map(|frame| frame.1).collect::<Vec<_>>(), [[0; 8]], "GOAWAY: {frames:?}");
        assert_eq!(of(1).count(), 1, "one call: {frames:?}");
    }
}

#[tokio::test]
async fn a_service_that_is_not_ready_is_so_over_tls_too() {
    let (address, ca, _) = serve(&[b"http/1.1", b"h2"]).await;
    let seen = probe(&grpcs(address, "/shop.Search", &ca)).await;
    assert_eq!(reason(&seen), "not_ready", "{seen:#?}");
}

#[tokio::test]
async fn without_h2_nothing_is_sent() {
    // A server that knows of no ALPN chooses none; one that knows others refuses with an alert (RFC 7301, 3.2).
    let (address, ca, connections) = serve(&[]).await;
    let seen = probe(&grpcs(address, "", &ca)).await;
    assert_eq!((reason(&seen), seen.proof), ("protocol_unexpected", Some(Proof::Encrypted)), "{seen:#?}");
    assert!(detail(&seen).contains("ALPN"), "{seen:#?}");
    ended(&connections, 1).await;
    let well = Connection { alpn: None, ended_well: true, sent: Vec::new() };
    assert_eq!(*connections.lock().unwrap(), [well]);
    let (address, ca, _) = serve(&[b"http/1.1"]).await;
    let seen = probe(&grpcs(address, "", &ca)).await;
    assert_eq!(reason(&seen), "tls_alert", "{seen:#?}");
}

//! Against a tonic server with and without the health service, in the clear and over TLS, and what is no gRPC.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::net::SocketAddr;

use common::{Server, detail, probe, reason, scripted, spec};
use preflight_core::observation::Proof;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::Routes;
use tonic_health::ServingStatus;

/// A server that runs as long as the test.
async fn serve(routes: Routes) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(
        tonic::transport::Server::builder().add_routes(routes).serve_with_incoming(TcpListenerStream::new(listener)),
    );
    address
}

async fn health() -> Routes {
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("shop.Cart", ServingStatus::Serving).await;
    reporter.set_service_status("shop.Search", ServingStatus::NotServing).await;
    reporter.set_service_status("shop.Old", ServingStatus::Unknown).await;
    Routes::new(service)
}

#[tokio::test]
async fn serving_is_the_proof_for_the_server_or_the_service_that_is_named() {
    let address = serve(health().await).await;
    for (path, want, words) in [
        ("", "ok", ""),
        ("/shop.Cart", "ok", ""),
        ("/shop.Search", "not_ready", "the health check of shop.Search says NOT_SERVING"),
        ("/shop.Old", "not_ready", "says UNKNOWN"),
        ("/shop.Nothing", "status_unexpected", "NOT_FOUND (5)"),
    ] {
        let seen = probe(&spec(&format!("grpc://{address}{path}"))).await;
        assert_eq!(reason(&seen), want, "{path}: {seen:#?}");
        assert!(detail(&seen).contains(words), "{path}: {seen:#?}");
        assert_eq!(seen.proof, Some(if want == "ok" { Proof::Protocol } else { Proof::Connected }), "{path}");
        assert_eq!(seen.note, None);
    }
}

#[tokio::test]
async fn a_server_without_a_health_service_speaks_grpc_all_the_same() {
    let address = serve(Routes::default()).await;
    let seen = probe(&spec(&format!("grpc://{address}"))).await;
    assert_eq!((reason(&seen), seen.proof), ("ok", Some(Proof::Protocol)), "{seen:#?}");
    assert_eq!(seen.note.as_deref(), Some("speaks gRPC, has no health service"), "{seen:#?}");
    let seen = probe(&spec(&format!("grpc://{address}/shop.Cart"))).await;
    assert_eq!(reason(&seen), "status_unexpected", "{seen:#?}");
}

#[tokio::test]
async fn what_is_no_grpc_is_said() {
    let server = Server::web(None);
    let seen = probe(&spec(&format!("grpc://127.0.0.1:{}", server.port))).await;
    assert_eq!(reason(&seen), "protocol_unexpected", "{seen:#?}");
    assert!(detail(&seen).contains("HTTP/1"), "{seen:#?}");
    for (answer, want) in [
        (&b""[..], "protocol_closed"),
        (b"+PONG\r\n", "protocol_unexpected"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "protocol_unexpected"),
    ] {
        let (address, _) = scripted(move |mut stream| async move {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(answer).await;
        })
        .await;
        let seen = probe(&spec(&format!("grpc://{address}"))).await;
        assert_eq!(reason(&seen), want, "{seen:#?}");
    }
}

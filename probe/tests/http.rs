//! Against a real nginx, and scripted servers for what a real one does not do on request.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::{Server, detail, probe, reason, scripted, spec};
use preflight_core::observation::{Observation, Proof};
use preflight_core::spec::{ProbeSpec, StatusRange};
use preflight_probe::{AllowAll, Engine, EngineOptions};
use rcgen::{CertificateParams, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

async fn get(server: &Server, path: &str) -> Observation {
    probe(&spec(&format!("http://127.0.0.1:{}{path}", server.port))).await
}

/// The probe of a path that has to contain `body`.
async fn search(server: &Server, path: &str, body: &str) -> Observation {
    let mut spec = spec(&format!("http://127.0.0.1:{}{path}", server.port));
    spec.http.body = Some(body.to_owned());
    probe(&spec).await
}

/// The probe of a server that says `answer` to any request, and closes.
async fn says(answer: impl Into<Vec<u8>>, body: Option<&str>) -> Observation {
    let answer = answer.into();
    let (address, _) = scripted(move |mut stream| {
        let answer = answer.clone();
        async move {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(&answer).await;
            let _ = stream.shutdown().await;
            let _ = stream.read(&mut [0; 1024]).await;
        }
    })
    .await;
    probe(&with_body(address, body)).await
}

fn with_body(address: SocketAddr, body: Option<&str>) -> ProbeSpec {
    let mut spec = spec(&format!("http://{address}"));
    spec.http.body = body.map(str::to_owned);
    spec
}

#[tokio::test]
async fn an_answer_is_the_proof_and_its_status_a_note() {
    let server = Server::web(None);
    for (status, want, note) in [
        (204, "ok", ""),
        (301, "ok", "redirects to http://"),
        (308, "ok", "/elsewhere (308)"),
        (304, "ok", "answers HTTP/1.1 304 Not Modified"),
        (401, "ok", "asks for a login (401)"),
        (403, "ok", "refuses this client (403)"),
        (404, "ok", "answers HTTP/1.1 404 Not Found"),
        (429, "ok", "answers HTTP/1.1 429 Too Many Requests"),
        (500, "ok", "answers HTTP/1.1 500 Internal Server Error"),
        (502, "status_unexpected", ""),
        (503, "status_unexpected", ""),
        (504, "status_unexpected", ""),
    ] {
        let seen = get(&server, &format!("/status/{status}")).await;
        assert_eq!(reason(&seen), want, "{status}: {seen:#?}");
        let noted = seen.note.as_deref().unwrap_or_default();
        assert!(noted.contains(note) && noted.is_empty() == note.is_empty(), "{status}: {seen:#?}");
        assert_eq!(seen.proof, Some(if want == "ok" { Proof::Protocol } else { Proof::Connected }), "{status}");
    }
    let away = get(&server, "/status/503").await;
    assert_eq!(detail(&away), "HTTP/1.1 503 Service Temporarily Unavailable: maintenance");
}

#[tokio::test]
async fn the_manifest_says_which_statuses_are_accepted() {
    let server = Server::web(None);
    let mut spec = spec(&format!("http://127.0.0.1:{}/status/503", server.port));
    spec.http.status = vec![StatusRange { from: 200, to: 299 }, StatusRange { from: 503, to: 503 }];
    let seen = probe(&spec).await;
    assert_eq!((reason(&seen), seen.note.as_deref()), ("ok", None), "{seen:#?}");
    spec.target = format!("http://127.0.0.1:{}/status/404", server.port).parse().unwrap();
    let seen = probe(&spec).await;
    assert_eq!(reason(&seen), "status_unexpected");
    assert!(detail(&seen).starts_with("HTTP/1.1 404 Not Found: <html>"), "{seen:#?}");
}

#[tokio::test]
async fn a_body_has_to_contain_its_text() {
    let server = Server::web(None);
    for (path, body, want) in [
        ("/page", "ready", "ok"),
        ("/page", "the service is ready\n", "ok"),
        ("/page", "Ready", "body_unexpected"),
        ("/chunked", "service is ready", "ok"),
        ("/chunked", "not there", "body_unexpected"),
        ("/large", "xxx", "ok"),
        ("/large", "ready", "body_unexpected"),
        ("/status/204", "ready", "body_unexpected"),
        ("/status/503", "maintenance", "status_unexpected"),
    ] {
        let seen = search(&server, path, body).await;
        assert_eq!(reason(&seen), want, "{path} {body}: {seen:#?}");
    }
    let seen = search(&server, "/page", "steady").await;
    assert_eq!(detail(&seen), "'steady' is not in 21 bytes of the body; it begins: the service is ready\\n");
}

#[tokio::test]
async fn the_request_is_one_get_as_others_send_it() {
    let server = Server::web(None);
    let want = format!("127.0.0.1:{} GET preflight/{} */* close.", server.port, env!("CARGO_PKG_VERSION"));
    let seen = search(&server, "/host", &want).await;
    assert_eq!(reason(&seen), "ok", "{seen:#?}");
}

#[tokio::test]
async fn https_by_a_name_of_its_own_and_a_port_that_wants_tls() {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["web.test".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
    let server = Server::web(Some((&certificate, &key.serialize_pem())));
    let mut spec = spec(&format!("https://127.0.0.1:{}/host", server.port));
    spec.tls.ca_pem = Some(certificate);
    spec.tls.server_name = Some("web.test".to_owned());
    // The host stays the URL's.
    spec.http.body = Some(format!("127.0.0.1:{} GET", server.port));
    let seen = probe(&spec).await;
    assert_eq!((reason(&seen), seen.proof), ("ok", Some(Proof::Protocol)), "{seen:#?}");
    spec.target = format!("https://127.0.0.1:{}/large", server.port).parse().unwrap();
    spec.http.body = Some("no such".to_owned());
    let seen = probe(&spec).await;
    assert_eq!(reason(&seen), "body_unexpected", "{seen:#?}");
    // nginx's answer to plain HTTP is a 400, which every request of the application would get.
    let seen = get(&server, "/").await;
    assert_eq!(reason(&seen), "status_unexpected", "{seen:#?}");
    assert!(detail(&seen).contains("wants TLS"), "{seen:#?}");
}

/// nginx at its own word: every probe is a request that it answered, and none is worth a notice.
#[tokio::test]
async fn two_thousand_probes_leave_nothing_but_their_requests() {
    let server = Server::web(None);
    let engine = Engine::new(EngineOptions::default()).unwrap();
    // nginx listens before it has logged its start; an answer says that it is done with that.
    assert_eq!(reason(&get(&server, "/status/204").await), "ok");
    let before = server.lines("error");
    let mut specs = Vec::new();
    for path in ["/", "/large", "/page", "/status/404"] {
        let mut spec = ProbeSpec::new(format!("http://127.0.0.1:{}{path}", server.port).parse().unwrap());
        spec.http.body = (path == "/page").then(|| "ready".to_owned());
        specs.push(spec);
    }
    for _ in 0..25 {
        let probes = (0..80).map(|n| engine.probe(&specs[n % specs.len()], &AllowAll));
        for report in futures_util::future::join_all(probes).await {
            assert_eq!(report.observations[0].outcome.reason(), None, "{report:#?}");
        }
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut log = server.lines("access");
    while log.len() < 2_001 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
        log = server.lines("access");
    }
    log.sort();
    log.dedup_by_key(|line| line.clone());
    assert_eq!(
        log,
        [
            "GET / HTTP/1.1|200",
            "GET /large HTTP/1.1|200",
            "GET /page HTTP/1.1|200",
            "GET /status/204 HTTP/1.1|204",
            "GET /status/404 HTTP/1.1|404"
        ]
    );
    // One for each probe, and for an attempt or a try more where this machine was slow.
    let requests = server.lines("access").len();
    assert!((2_001..2_100).contains(&requests), "{requests}");
    assert_eq!(server.lines("error"), before);
}

#[tokio::test]
async fn what_is_no_http_is_said() {
    for (answer, want, words) in [
        (&b"+PONG\r\n"[..], "protocol_unexpected", "not an HTTP/1.x answer: +PONG"),
        (b"SSH-2.0-OpenSSH\r\n", "protocol_unexpected", "not an HTTP/1.x answer"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "protocol_unexpected", "wants TLS"),
        (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x80", "protocol_unexpected", "HTTP/2 only"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "protocol_unexpected", ""),
        (b"HTTP/1.1 200 OK\r\n", "protocol_closed", "HTTP/1.1 200 OK"),
        (b"HTTP/1.1 200", "protocol_closed", ""),
        (b"", "protocol_closed", "closed"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "protocol_closed", ""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 x\r\n\r\n", "status_unexpected", ""),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "ok", ""),
    ] {
        let seen = says(answer, None).await;
        assert_eq!(reason(&seen), want, "{seen:#?}");
        assert!(detail(&seen).contains(words), "{seen:#?}");
    }
}

#[tokio::test]
async fn a_body_that_lies_of_its_length_passes_for_nothing() {
    for (answer, want) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nnot ready", "body_unexpected"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\nnot yet", "protocol_closed"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\nready", "ok"),
        ("HTTP/1.1 200 OK\r\n\r\nnot yet", "body_unexpected"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nready\r\n", "protocol_unexpected"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nnot yet", "protocol_closed"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nready", "protocol_unexpected"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nrea\r\n2\r\ndy\r\n0\r\n\r\n", "ok"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nready", "body_unexpected"),
    ] {
        let seen = says(answer, Some("ready")).await;
        assert_eq!(reason(&seen), want, "{answer}: {seen:#?}");
    }
}

/// A server that begins with `head` and goes on with `part` for ever.
async fn endless(head: &'static [u8], part: &'static [u8], pause: Duration) -> SocketAddr {
    let (address, _) = scripted(move |mut stream| async move {
        let _ = stream.write_all(head).await;
        while stream.write_all(part).await.is_ok() {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
    })
    .await;
    address
}

#[tokio::test]
async fn what_never_ends_is_read_to_a_bound() {
    let headers = endless(b"HTTP/1.1 200 OK\r\n", b"X-More: and more\r\n", Duration::ZERO).await;
    let seen = probe(&with_body(headers, None)).await;
    assert_eq!(reason(&seen), "ok", "{seen:#?}");
    assert_eq!(seen.note.as_deref(), Some("the head is longer than is read: HTTP/1.1 200 OK"));
    let seen = probe(&with_body(headers, Some("ready"))).await;
    assert_eq!(reason(&seen), "protocol_unexpected", "{seen:#?}");

    let refused = endless(b"HTTP/1.1 503 x\r\n", b"X-More: and more\r\n", Duration::ZERO).await;
    assert_eq!(reason(&probe(&with_body(refused, None)).await), "status_unexpected");

    let line = endless(b"HTTP/1.1 200 ", b"OK OK OK OK ", Duration::ZERO).await;
    let seen = probe(&with_body(line, None)).await;
    assert_eq!(reason(&seen), "protocol_unexpected", "{seen:#?}");
    assert!(detail(&seen).contains("4 KiB") && detail(&seen).len() < 1_000, "{seen:#?}");

    for head in [&b"HTTP/1.1 200 OK\r\n\r\n"[..], b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n"] {
        let body = endless(head, &[b'x'; 1000], Duration::ZERO).await;
        assert_eq!(reason(&probe(&with_body(body, None)).await), "ok");
        let seen = probe(&with_body(body, Some("ready"))).await;
        assert_eq!(reason(&seen), "body_unexpected", "{seen:#?}");
        assert!(detail(&seen).contains("is not in the first "), "{seen:#?}");
    }
    let interim = endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", Duration::ZERO).await;
    assert_eq!(reason(&probe(&with_body(interim, None)).await), "protocol_unexpected");
}

#[tokio::test]
async fn a_byte_at_a_time_moves_no_deadline() {
    for (head, body) in [(&b"HTTP/1.1 200 OK\r\n"[..], None), (b"HTTP/1.1 200 OK\r\n\r\n", Some("ready"))] {
        let address = endless(head, b"x", Duration::from_millis(200)).await;
        let begin = Instant::now();
        let seen = probe(&with_body(address, body)).await;
        assert_eq!(reason(&seen), "protocol_timeout", "{seen:#?}");
        assert!(detail(&seen).contains("HTTP/1.1 200 OK"), "{seen:#?}");
        assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    }
}

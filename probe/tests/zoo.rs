//! A zoo of hostile servers, for every scheme.
//!
//! For another protocol add a row to [`EXCHANGES`]: what a good server says, as it was recorded from a real one. Everything
//! else here follows from the rows.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::certificates::{Identity, authority, config, params, serve, tls};
use common::{detail, probe, reason, scripted, spec};
use preflight_core::observation::{Observation, Outcome};
use preflight_core::reason::Short;
use preflight_core::spec::{Millis, ProbeSpec};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

/// A protocol's good exchange, in the clear.
struct Exchange {
    scheme: &'static str,
    /// What the server says once the client has spoken, or at once where the server speaks first.
    says: &'static [u8],
    /// How many of those bytes make the proof complete.
    proof: usize,
    server_first: bool,
}

const EXCHANGES: &[Exchange] = &[
    Exchange { scheme: "redis", says: b"+PONG\r\n", proof: 7, server_first: false },
    // -NOAUTH shows Redis too.
    Exchange { scheme: "redis", says: b"-NOAUTH Authentication required.\r\n", proof: 34, server_first: false },
    // A body may end by the close, so the head alone is the proof.
    Exchange { scheme: "http", says: b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\nready\n", proof: 30, server_first: false },
    Exchange { scheme: "http", says: b"HTTP/1.1 204 No Content\r\n\r\n", proof: 27, server_first: false },
    // It speaks no TLS: the whole answer.
    Exchange { scheme: "postgres", says: b"N", proof: 1, server_first: false },
    Exchange { scheme: "memcached", says: b"VERSION 1.6.18\r\n", proof: 16, server_first: false },
    // As recorded for the fuzzer, behind its first byte. A greeting alone, without an answer to the login, is not enough.
    Exchange {
        scheme: "amqp",
        says: include_bytes!("../../fuzz/corpus/amqp/rabbitmq_3_10"),
        proof: 500,
        server_first: false,
    },
    Exchange {
        scheme: "mysql",
        says: include_bytes!("../../fuzz/corpus/mysql/mariadb_10_11_greeting"),
        proof: usize::MAX,
        server_first: true,
    },
    Exchange { scheme: "grpc", says: include_bytes!("../../fuzz/corpus/grpc/good"), proof: 99, server_first: false },
];

/// What an exchange that is cut off comes to.
const CUT: [Short; 2] = [Short::ProtocolClosed, Short::ProtocolUnexpected];

impl Exchange {
    /// A recording begins with the size of the fuzzer's pieces.
    fn says(&self) -> &'static [u8] {
        if matches!(self.scheme, "amqp" | "mysql" | "grpc") { &self.says[1..] } else { self.says }
    }
}

/// Schemes that begin with TLS.
const OVER_TLS: &[&str] = &["tls", "rediss"];

/// A probe with a deadline that a test can wait for.
fn quick(url: &str) -> ProbeSpec {
    let mut spec = spec(url);
    spec.timeout = Millis(300);
    spec
}

/// Every scheme whose proof is more than a connection.
fn schemes() -> impl Iterator<Item = &'static str> {
    let mut schemes: Vec<_> =
        EXCHANGES.iter().map(|exchange| exchange.scheme).chain(OVER_TLS.iter().copied()).collect();
    schemes.dedup();
    schemes.into_iter()
}

/// What every failing observation must be: short, with bounded words that are safe to print.
fn is_fair(seen: &Observation, among: &[Short]) {
    assert!(among.iter().any(|reason| seen.outcome == Outcome::Short(*reason)), "{among:?} {seen:#?}");
    let words = detail(seen);
    assert!(words.chars().count() <= 401 && !words.contains(|c: char| c.is_control()), "{seen:#?}");
}

async fn end(mut stream: TcpStream, reset: bool) {
    if reset {
        stream.set_zero_linger().unwrap();
    } else {
        let _ = stream.shutdown().await;
        while stream.read(&mut [0; 1024]).await.is_ok_and(|count| count > 0) {}
    }
}

#[tokio::test]
async fn what_never_ends_is_ended() {
    for scheme in schemes() {
        for (name, banner) in [
            ("letters", vec![b'a'; 4096]),
            ("line ends", b"\r\n".repeat(2048)),
            ("zeroes", vec![0; 4096]),
            ("ones", vec![0xff; 4096]),
            ("noise", (0..4096_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect()),
            ("an error without an end", [b"-ERR ".as_slice(), &[b'x'; 4091]].concat()),
            ("an oversize Redis bulk", b"$4294967295\r\n".repeat(300)),
            ("oversize records", [22, 3, 3, 0xff, 0xff].repeat(800)),
            ("an oversize message", [&[22, 3, 3, 0x40, 0], [2, 0xff, 0xff, 0xff].repeat(0x1000).as_slice()].concat()),
            ("empty records", [22, 3, 3, 0, 0].repeat(800)),
            ("warnings", [21, 3, 3, 0, 2, 1, 90].repeat(600)),
        ] {
            let (address, _) = scripted(move |mut stream| {
                let banner = banner.clone();
                async move { while stream.write_all(&banner).await.is_ok() {} }
            })
            .await;
            let begin = Instant::now();
            let seen = probe(&quick(&format!("{scheme}://{address}"))).await;
            assert_ne!(reason(&seen), "ok", "{scheme} {name}");
            let among = if OVER_TLS.contains(&scheme) {
                [Short::TlsNotSpoken, Short::TlsAlert].as_slice()
            } else {
                [Short::ProtocolUnexpected, Short::StatusUnexpected].as_slice()
            };
            is_fair(&seen, among);
            assert!(begin.elapsed() < Duration::from_secs(10), "{scheme} {name}: {:?}", begin.elapsed());
        }
    }
}

#[tokio::test]
async fn one_byte_at_a_time_meets_the_absolute_deadline() {
    // Bytes that a good answer begins with, so that only time can end it.
    for (scheme, drip, want) in [
        ("redis", b"-NOAUTH ".as_slice(), "protocol_timeout"),
        ("tls", &[22, 3, 3, 0x40], "tls_timeout"),
        ("rediss", &[22, 3, 3, 0x40], "tls_timeout"),
    ] {
        let (address, _) = scripted(move |mut stream| async move {
            for byte in drip.iter().chain(std::iter::repeat(&b'x')) {
                if stream.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
        let seen = probe(&quick(&format!("{scheme}://{address}"))).await;
        assert_eq!(reason(&seen), want, "{scheme} {seen:#?}");
    }
}

#[tokio::test]
async fn an_end_at_each_byte_in_the_clear() {
    for exchange in EXCHANGES {
        for reset in [false, true] {
            for count in 0..=exchange.says().len() {
                let part = exchange.says()[..count].to_vec();
                let server_first = exchange.server_first;
                let (address, _) = scripted(move |mut stream| {
                    let part = part.clone();
                    async move {
                        if server_first || stream.read(&mut [0; 1024]).await.is_ok() {
                            let _ = stream.write_all(&part).await;
                        }
                        end(stream, reset).await;
                    }
                })
                .await;
                let seen = probe(&spec(&format!("{}://{address}", exchange.scheme))).await;
                let told = format!("{} {count} reset: {reset} {seen:#?}", exchange.scheme);
                // A reset may overtake what was sent before it, so that a complete proof may not have been seen.
                if seen.outcome == Outcome::Ok {
                    assert!(count >= exchange.proof, "{told}");
                } else {
                    assert!(count < exchange.proof || reset, "{told}");
                    // HTTP/2 calls a frame that is cut off what it is.
                    is_fair(&seen, if exchange.scheme == "grpc" { &CUT } else { &CUT[..1] });
                }
            }
        }
    }
}

#[tokio::test]
async fn who_has_answered_and_does_not_close_is_not_slow() {
    const LOGGED_IN: &[u8] = &[7, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0];
    for exchange in EXCHANGES {
        let (says, server_first) = (exchange.says(), exchange.server_first);
        let (address, _) = scripted(move |mut stream| async move {
            let mut parts = if server_first { vec![says, LOGGED_IN] } else { vec![b"".as_slice(), says] }.into_iter();
            let _ = stream.write_all(parts.next().unwrap()).await;
            if stream.read(&mut [0; 1024]).await.is_ok() {
                let _ = stream.write_all(parts.next().unwrap()).await;
            }
            std::future::pending::<()>().await;
        })
        .await;
        let mut spec = spec(&format!("{}://{address}", exchange.scheme));
        // What waits for the end takes longer every time; on a machine that does much else, one of twenty is quick.
        spec.timeout = Millis(200);
        spec.max_latency = Some(Millis(200));
        let mut seen = probe(&spec).await;
        for _ in 0..20 {
            if seen.outcome == Outcome::Ok {
                break;
            }
            seen = probe(&spec).await;
        }
        assert_eq!(reason(&seen), "ok", "{} {seen:#?}", exchange.scheme);
    }
}

/// A server of this certificate that answers `PING`, of which only the first `count` bytes get through; and how many it said.
async fn cut(identity: &Identity, count: usize, reset: bool) -> (SocketAddr, Arc<Mutex<usize>>) {
    let inner = serve(config(identity)).await;
    let said = Arc::new(Mutex::new(0));
    let (tell, counter) = (said.clone(), said);
    let (address, _) = scripted(move |mut client| {
        let tell = tell.clone();
        async move {
            let mut server = TcpStream::connect(inner).await.unwrap();
            let (mut up, mut down) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
            let mut left = count;
            while left > 0 {
                tokio::select! {
                    read = client.read(&mut up) => match read {
                        Ok(read) if read > 0 => { let _ = server.write_all(&up[..read]).await; }
                        _ => break,
                    },
                    read = server.read(&mut down) => match read {
                        Ok(read) if read > 0 => {
                            *tell.lock().unwrap() += read;
                            let part = read.min(left);
                            left -= part;
                            if client.write_all(&down[..part]).await.is_err() { break }
                        }
                        _ => break,
                    },
                }
            }
            end(client, reset).await;
        }
    })
    .await;
    (address, counter)
}

#[tokio::test]
async fn an_end_at_each_byte_over_tls() {
    let ca = authority("the authority");
    let identity = Identity::issued(&params("good.test"), &ca);
    for scheme in OVER_TLS {
        let probed = |address: SocketAddr| {
            let mut spec = tls(address, &ca.pem());
            spec.target = format!("{scheme}://{address}").parse().unwrap();
            spec.require = spec.target.scheme.default_proof();
            spec
        };
        let (address, said) = cut(&identity, usize::MAX, false).await;
        assert_eq!(reason(&probe(&probed(address)).await), "ok");
        let whole = *said.lock().unwrap();
        assert!(whole > 500, "{whole}");
        let mut passed = Vec::new();
        for reset in [false, true] {
            // Every byte of records' headers and of what follows the handshake; within the certificate every fifth.
            for count in (0..whole).filter(|n| *n < 140 || n % 5 == 0 || *n + 100 > whole) {
                let (address, _) = cut(&identity, count, reset).await;
                let seen = probe(&probed(address)).await;
                if seen.outcome == Outcome::Ok {
                    passed.push(count);
                    continue;
                }
                // How long a signature is differs by a byte or two from one handshake to the next.
                assert!(count < whole || reset, "{scheme} {count} of {whole} {seen:#?}");
                is_fair(&seen, &[Short::TlsClosed, Short::ProtocolClosed]);
            }
        }
        // The proof is complete only with the server's Finished, or with PONG, which is near the end.
        let least = if *scheme == "tls" { whole / 2 } else { whole - 8 };
        assert!(passed.iter().all(|count| *count > least), "{scheme}: passed at {passed:?} of {whole}");
    }
}

#[tokio::test]
async fn garbage_after_the_handshake() {
    let ca = authority("the authority");
    let identity = Identity::issued(&params("good.test"), &ca);
    let acceptor = TlsAcceptor::from(Arc::new(config(&identity)));
    // In the clear after the handshake, and as data inside of it.
    for (inside, garbage, among) in [
        (false, b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), [Short::ProtocolClosed]),
        (false, vec![0; 9000], [Short::ProtocolClosed]),
        (false, [23, 3, 3, 0xff, 0xff].repeat(9), [Short::ProtocolClosed]),
        (true, vec![0xff; 9000], [Short::ProtocolUnexpected]),
        (true, b"\x1b[31mred\x07".to_vec(), [Short::ProtocolUnexpected]),
    ] {
        let acceptor = acceptor.clone();
        let (address, _) = scripted(move |stream| {
            let (acceptor, garbage) = (acceptor.clone(), garbage.clone());
            async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                if inside {
                    let _ = stream.write_all(&garbage).await;
                    let _ = stream.flush().await;
                } else {
                    let (tcp, _) = stream.get_mut();
                    let _ = tcp.write_all(&garbage).await;
                }
                while stream.read(&mut [0; 1024]).await.is_ok_and(|count| count > 0) {}
            }
        })
        .await;
        let mut spec = tls(address, &ca.pem());
        spec.target = format!("rediss://{address}").parse().unwrap();
        spec.require = spec.target.scheme.default_proof();
        is_fair(&probe(&spec).await, &among);
    }
}

#[tokio::test]
async fn alerts_in_place_of_a_hello() {
    for (level, description, want) in
        [(2, 40, "tls_alert"), (2, 70, "tls_alert"), (2, 112, "tls_alert"), (2, 255, "tls_alert"), (1, 0, "tls_closed")]
    {
        let (address, _) = scripted(move |mut stream| async move {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(&[21, 3, 3, 0, 2, level, description]).await;
        })
        .await;
        for scheme in OVER_TLS {
            let seen = probe(&quick(&format!("{scheme}://{address}"))).await;
            assert_eq!(reason(&seen), want, "{level} {description} {seen:#?}");
        }
    }
}

#[tokio::test]
async fn half_closed_at_once() {
    for scheme in schemes() {
        let (address, _) = scripted(|stream| end(stream, false)).await;
        let seen = probe(&spec(&format!("{scheme}://{address}"))).await;
        is_fair(&seen, &[Short::ProtocolClosed, Short::TlsClosed]);
    }
}

#[tokio::test]
async fn names_that_would_write_to_the_terminal_or_the_page() {
    let evil = "\u{1b}]0;owned\u{7}<script>alert(1)</script>\u{202e}\r\n";
    let ca = authority(evil);
    let mut wanted = params("good.test");
    wanted.distinguished_name.push(rcgen::DnType::OrganizationName, evil);
    let name = rcgen::string::Ia5String::try_from("\u{1b}[2J<b>".to_owned()).unwrap();
    wanted.subject_alt_names = vec![rcgen::SanType::DnsName(name)];
    let seen = probe(&tls(serve(config(&Identity::issued(&wanted, &ca))).await, &authority("other").pem())).await;
    assert_eq!(reason(&seen), "tls_name_mismatch", "{seen:#?}");
    let shown = &seen.tls.as_ref().unwrap().chain[0];
    for text in [detail(&seen), &shown.subject, &shown.issuer, &shown.names[0]] {
        assert!(!text.contains(|c: char| c.is_control() || c == '\u{202e}'), "{text:?}");
        assert!(text.contains("\\u{1b}"), "{text:?}");
    }
}

#[tokio::test]
async fn a_certificate_is_shown_though_the_handshake_does_not_end() {
    let ca = authority("the authority");
    let identity = Identity::issued(&params("good.test"), &ca);
    // In small records, so that the certificate and its signature are read before the server's Finished has come.
    let mut small = config(&identity);
    small.max_fragment_size = Some(64);
    let inner = serve(small).await;
    let tries = (400..1600).step_by(40).map(|count| {
        let mut spec = tls(inner, &ca.pem());
        async move {
            spec.timeout = Millis(300);
            spec.target = format!("tls://{}", hold(inner, count).await).parse().unwrap();
            probe(&spec).await
        }
    });
    let seen = futures_util::future::join_all(tries).await;
    let held = seen.iter().filter(|seen| reason(seen) == "tls_timeout");
    let shown = held.filter_map(|seen| seen.tls.as_ref()).filter(|tls| tls.version.is_some() && tls.chain.len() == 1);
    assert!(shown.count() > 0, "none of the handshakes that were held showed its certificate: {seen:#?}");
}

/// As [`cut`], but what does not get through is held back and the connection stays.
async fn hold(inner: SocketAddr, count: usize) -> SocketAddr {
    let (address, _) = scripted(move |mut client| async move {
        let mut server = TcpStream::connect(inner).await.unwrap();
        let mut left = count;
        let (mut up, mut down) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
        loop {
            tokio::select! {
                read = client.read(&mut up) => match read {
                    Ok(read) if read > 0 => { let _ = server.write_all(&up[..read]).await; }
                    _ => break,
                },
                read = server.read(&mut down) => match read {
                    Ok(read) if read > 0 => {
                        let part = read.min(left);
                        left -= part;
                        if client.write_all(&down[..part]).await.is_err() { break }
                    }
                    _ => break,
                },
            }
        }
    })
    .await;
    address
}

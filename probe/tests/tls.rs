//! A zoo of certificates and of servers that misbehave in the handshake.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;

use common::certificates::{Identity, authority, config, only, params, serve, tls};
use common::{Server, detail, probe, reason, scripted, spec};
use preflight_core::observation::Proof;
use rcgen::{BasicConstraints, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;

#[tokio::test]
async fn a_good_certificate() {
    let ca = authority("the authority");
    let mut wanted = params("good.test");
    wanted.subject_alt_names.push(rcgen::SanType::IpAddress("127.0.0.1".parse().unwrap()));
    let identity = Identity::issued(&wanted, &ca);
    let address = serve(config(&identity)).await;
    let seen = probe(&tls(address, &ca.pem())).await;
    assert_eq!((reason(&seen), seen.proof), ("ok", Some(Proof::Encrypted)), "{seen:#?}");
    assert!(seen.phases.tls_ms.is_some());
    let shown = seen.tls.unwrap();
    assert_eq!(shown.version.as_deref(), Some("TLSv1.3"));
    assert!(shown.cipher.unwrap().starts_with("TLS13_"));
    assert_eq!((shown.chain[0].subject.as_str(), shown.chain[0].issuer.as_str()), ("CN=good.test", "CN=the authority"));
    assert_eq!(shown.chain[0].names, ["good.test", "127.0.0.1"]);
    assert_eq!(shown.chain[0].sha256.len(), 64);
    // By its address, which the certificate names too.
    let mut by_address = tls(address, &ca.pem());
    by_address.tls.server_name = None;
    assert_eq!(reason(&probe(&by_address).await), "ok");
    // The same as Redis: the answer comes through TLS.
    let mut redis = tls(address, &ca.pem());
    redis.target = format!("rediss://{address}").parse().unwrap();
    redis.require = Proof::Protocol;
    let seen = probe(&redis).await;
    assert_eq!((reason(&seen), seen.proof), ("ok", Some(Proof::Protocol)), "{seen:#?}");
}

#[tokio::test]
async fn each_fault_of_a_certificate_has_its_reason() {
    let ca = authority("the authority");
    let other = authority("another authority");
    let mut expired = params("good.test");
    (expired.not_before, expired.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    let mut early = params("good.test");
    (early.not_before, early.not_after) = (date_time_ymd(2090, 1, 1), date_time_ymd(2091, 1, 1));
    let good = params("good.test");
    let wrong = params("wrong.test");
    for (identity, want, says) in [
        (Identity::issued(&expired, &ca), "tls_expired", vec!["2021-01-01"]),
        (Identity::issued(&early, &ca), "tls_not_yet_valid", vec!["2090-01-01"]),
        (Identity::issued(&wrong, &ca), "tls_name_mismatch", vec!["good.test", "wrong.test"]),
        (Identity::issued(&good, &other), "tls_untrusted", vec!["another authority"]),
        (Identity::self_signed(&good), "tls_self_signed", vec!["self-signed"]),
        // Several at once: the first to put right is the reason, and the others are said.
        (Identity::issued(&expired, &other), "tls_expired", vec!["2021-01-01", "another authority"]),
        (Identity::self_signed(&wrong), "tls_name_mismatch", vec!["wrong.test", "self-signed"]),
    ] {
        let seen = probe(&tls(serve(config(&identity)).await, &ca.pem())).await;
        assert_eq!((reason(&seen), seen.proof), (want, Some(Proof::Connected)), "{seen:#?}");
        for word in says {
            assert!(detail(&seen).contains(word), "{word}: {seen:#?}");
        }
        let shown = seen.tls.expect("the certificate is shown though it fails");
        assert!(shown.chain[0].subject.contains(".test") && shown.version.is_some());
    }
}

#[tokio::test]
async fn what_is_trusted_is_what_was_given() {
    let good = params("good.test");
    let mut as_authority = good.clone();
    as_authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // A self-signed certificate can be given itself, also in the form in which openssl makes it.
    for identity in [Identity::self_signed(&good), Identity::self_signed(&as_authority)] {
        let address = serve(config(&identity)).await;
        assert_eq!(reason(&probe(&tls(address, &identity.pem)).await), "ok");
        // Without it, and with something that is no certificate.
        let mut host = tls(address, "");
        host.tls.ca_pem = None;
        assert_eq!(reason(&probe(&host).await), "tls_self_signed");
        assert_eq!(reason(&probe(&tls(address, "nonsense")).await), "tls_self_signed");
    }
    // A root that the server sends along makes itself no more trusted.
    let root = authority("some root");
    let mut identity = Identity::issued(&good, &root);
    identity.chain.push(root.der().clone());
    let seen = probe(&tls(serve(config(&identity)).await, &authority("the authority").pem())).await;
    assert_eq!(reason(&seen), "tls_untrusted", "{seen:#?}");
    assert_eq!(seen.tls.unwrap().chain.len(), 2);
}

#[tokio::test]
async fn nothing_is_sent_over_tls_that_failed() {
    let ca = authority("the authority");
    let identity = Identity::issued(&params("wrong.test"), &ca);
    let acceptor = TlsAcceptor::from(Arc::new(config(&identity)));
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let (address, _) = scripted(move |stream| {
        let (acceptor, tell) = (acceptor.clone(), tell.clone());
        async move {
            let mut stream = acceptor.accept(stream).await.unwrap();
            let mut received = Vec::new();
            let _ = stream.read_to_end(&mut received).await;
            tell.send(received).unwrap();
        }
    })
    .await;
    let mut spec = tls(address, &ca.pem());
    spec.target = format!("rediss://{address}").parse().unwrap();
    spec.require = Proof::Protocol;
    assert_eq!(reason(&probe(&spec).await), "tls_name_mismatch");
    assert_eq!(told.recv().await.unwrap(), b"");
}

#[tokio::test]
async fn a_client_certificate_that_is_asked_for_is_said() {
    let ca = authority("the authority");
    let identity = Identity::issued(&params("good.test"), &ca);
    let wrong = Identity::issued(&params("wrong.test"), &ca);
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = |identity: &Identity| {
            let builder = only(version).with_client_cert_verifier(verifier.clone());
            builder.with_single_cert(identity.chain.clone(), identity.key()).unwrap()
        };
        let address = serve(config(&identity)).await;
        for scheme in ["tls", "rediss"] {
            let mut spec = tls(address, &ca.pem());
            spec.target = format!("{scheme}://{address}").parse().unwrap();
            spec.require = spec.target.scheme.default_proof();
            let seen = probe(&spec).await;
            assert_eq!((reason(&seen), seen.proof), ("ok", Some(spec.require)), "{scheme} {seen:#?}");
            assert!(seen.note.as_deref().unwrap().contains("client certificate"), "{seen:#?}");
        }
        // That a login is asked for excuses no certificate that is not good.
        let seen = probe(&tls(serve(config(&wrong)).await, &ca.pem())).await;
        assert_eq!(reason(&seen), "tls_name_mismatch", "{seen:#?}");
    }
}

#[tokio::test]
async fn a_real_redis_over_tls() {
    let ca = authority("the authority");
    let identity = Identity::issued(&params("good.test"), &ca);
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = files.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (cert, key, authority) =
        (file("cert", &identity.pem), file("key", &identity.key.serialize_pem()), file("ca", &ca.pem()));
    for (clients, note) in [("no", None), ("yes", Some("client certificate"))] {
        let options = [
            "--tls-cert-file",
            &cert,
            "--tls-key-file",
            &key,
            "--tls-ca-cert-file",
            &authority,
            "--tls-auth-clients",
            clients,
        ];
        let server = Server::redis(&options);
        let mut spec = spec(&format!("rediss://127.0.0.1:{}", server.port));
        spec.tls.server_name = Some("good.test".to_owned());
        spec.tls.ca_pem = Some(ca.pem());
        for _ in 0..50 {
            let seen = probe(&spec).await;
            assert_eq!((reason(&seen), seen.proof), ("ok", Some(Proof::Protocol)), "{clients} {seen:#?}");
            assert_eq!(seen.note.is_some(), note.is_some(), "{seen:#?}");
        }
        if note.is_none() {
            let log = std::fs::read_to_string(server.file("log")).unwrap();
            let complaints = log.lines().filter(|l| l.contains("rror accepting")).count();
            // One is the test's own knock on the door, which speaks no TLS.
            assert!(complaints <= 1, "{log}");
        }
    }
}

#[derive(Debug)]
struct NoCertificate;

impl ResolvesServerCert for NoCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

#[tokio::test]
async fn servers_that_do_not_shake_hands() {
    let ca = authority("the authority").pem();
    let refuses =
        serve(only(&rustls::version::TLS13).with_no_client_auth().with_cert_resolver(Arc::new(NoCertificate))).await;
    let (closes, _) = scripted(|mut stream| async move {
        let _ = stream.read(&mut [0; 4096]).await;
    })
    .await;
    let (resets, _) = scripted(|stream| async move { stream.set_zero_linger().unwrap() }).await;
    let (banner, _) = scripted(|mut stream| async move {
        let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await;
        let _ = stream.read(&mut [0; 4096]).await;
    })
    .await;
    let (short, _) = scripted(|mut stream| async move {
        let _ = stream.write_all(b"no\n").await;
        let _ = stream.read(&mut [0; 4096]).await;
    })
    .await;
    let (silent, _) =
        scripted(|mut stream| async move { while stream.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {} }).await;
    let (slow, _) = scripted(|mut stream| async move {
        while stream.write_all(b"\x16").await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        }
    })
    .await;
    // Handshake records that never complete a message: 16 MiB are announced.
    let (endless, _) = scripted(|mut stream| async move {
        let mut record = vec![22, 3, 3, 0x40, 0];
        record.extend([2, 0xff, 0xff, 0xff].iter().cycle().take(0x4000));
        while stream.write_all(&record).await.is_ok() {}
    })
    .await;
    let http = Server::nginx();
    for (address, want) in [
        (refuses, "tls_alert"),
        (closes, "tls_closed"),
        (resets, "tls_closed"),
        (banner, "tls_not_spoken"),
        (short, "tls_not_spoken"),
        (SocketAddr::from(([127, 0, 0, 1], http.port)), "tls_not_spoken"),
        (silent, "tls_timeout"),
        (endless, "tls_not_spoken"),
        (slow, "tls_not_spoken"),
    ] {
        let seen = probe(&tls(address, &ca)).await;
        assert_eq!((reason(&seen), seen.proof), (want, Some(Proof::Connected)), "{seen:#?}");
        assert!(!detail(&seen).is_empty() && seen.tls.is_none(), "{seen:#?}");
    }
}

#[tokio::test]
async fn a_chain_of_a_hundred_certificates_is_bounded() {
    let root = authority("root");
    let mut issuers = Vec::new();
    let mut ders = Vec::new();
    for index in 0..99 {
        let mut params = params(&format!("ca-{index}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let above = issuers.last().unwrap_or(&root);
        let issuer = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), above).unwrap();
        ders.push(issuer.der().clone());
        issuers.push(issuer);
    }
    let mut identity = Identity::issued(&params("good.test"), issuers.last().unwrap());
    identity.chain.extend(ders.into_iter().rev());
    let seen = probe(&tls(serve(config(&identity)).await, &root.pem())).await;
    assert_eq!(reason(&seen), "tls_untrusted", "{seen:#?}");
    assert_eq!(seen.tls.as_ref().unwrap().chain.len(), 8);
    // More than 64 KiB of it is not even read.
    let copies = identity.chain.clone();
    identity.chain.extend(copies.iter().cycle().take(300).cloned());
    let seen = probe(&tls(serve(config(&identity)).await, &root.pem())).await;
    assert_eq!(reason(&seen), "tls_not_spoken", "{seen:#?}");
}

#[tokio::test]
async fn names_in_a_certificate_are_escaped() {
    let ca = authority("the \u{1b}[31mauthority\u{202e}");
    let identity = Identity::issued(&params("good.test"), &ca);
    let seen = probe(&tls(serve(config(&identity)).await, &authority("other").pem())).await;
    assert_eq!(reason(&seen), "tls_untrusted");
    let text = format!("{}{}", detail(&seen), seen.tls.as_ref().unwrap().chain[0].issuer);
    assert!(text.contains(r"\u{1b}[31m") && !text.contains('\u{1b}') && !text.contains('\u{202e}'), "{text}");
}

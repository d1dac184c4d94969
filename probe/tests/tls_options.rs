//! The TLS options: what is trusted, which versions, the client's certificate, and files of this host.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use common::certificates::{Identity, Issuer, authority, config, only, params, serve, tls};
use common::{detail, probe, reason, scripted};
use preflight_core::observation::Proof;
use preflight_core::spec::{ClientFiles, Millis, ProbeSpec, TlsVersion};
use preflight_probe::{Engine, EngineOptions, Guard};
use rcgen::{KeyPair, PKCS_RSA_SHA256, date_time_ymd};
use rustls::crypto::ring;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;

/// A directory that is gone with the test.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn client(&self, identity: &Identity) -> ClientFiles {
        ClientFiles {
            cert_file: self.write("client.pem", &identity.pem),
            key_file: self.write("client.key", &identity.key.serialize_pem()),
        }
    }
}

fn sha256(seen: &preflight_core::observation::Observation) -> String {
    seen.tls.as_ref().unwrap().chain[0].sha256.clone()
}

#[tokio::test]
async fn a_pin_is_all_that_is_asked_but_for_the_dates() {
    let other = authority("nobody knows it");
    let mut expired = params("elsewhere.test");
    (expired.not_before, expired.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    let wrong = params("elsewhere.test");
    for (identity, want) in [
        (Identity::self_signed(&wrong), "ok"),
        (Identity::issued(&wrong, &other), "ok"),
        (Identity::self_signed(&expired), "tls_expired"),
    ] {
        let address = serve(config(&identity)).await;
        let mut spec = tls(address, "");
        spec.tls.ca_pem = None;
        let shown = probe(&spec).await;
        assert_ne!(reason(&shown), "ok", "without a pin");
        spec.tls.fingerprint = Some(sha256(&shown));
        let seen = probe(&spec).await;
        assert_eq!(reason(&seen), want, "{seen:#?}");
        // Another leaf, also where this one's issuer is trusted.
        spec.tls.fingerprint = Some("ab".repeat(32));
        spec.tls.ca_pem = Some(identity.pem.clone());
        let seen = probe(&spec).await;
        assert_eq!((reason(&seen), seen.proof), ("tls_fingerprint_mismatch", Some(Proof::Connected)), "{seen:#?}");
        assert!(detail(&seen).contains(&sha256(&seen)) && detail(&seen).contains("CN=elsewhere.test"), "{seen:#?}");
    }
}

/// A server that wants a certificate of `ca`'s.
fn wants(ca: &Issuer, identity: &Identity, version: &'static SupportedProtocolVersion) -> ServerConfig {
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    let builder = only(version).with_client_cert_verifier(verifier);
    builder.with_single_cert(identity.chain.clone(), identity.key()).unwrap()
}

#[tokio::test]
async fn a_client_certificate_is_taken_or_refused() {
    let (ca, stranger) = (authority("the authority"), authority("a stranger"));
    let server = Identity::issued(&params("good.test"), &ca);
    let files = (Files::new(), Files::new());
    let good = files.0.client(&Identity::issued(&params("client.test"), &ca));
    let bad = files.1.client(&Identity::issued(&params("client.test"), &stranger));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut without_tickets = wants(&ca, &server, version);
        without_tickets.send_tls13_tickets = 0;
        for config in [wants(&ca, &server, version), without_tickets] {
            let address = serve(config).await;
            for scheme in ["tls", "rediss"] {
                let mut spec = tls(address, &ca.pem());
                spec.target = format!("{scheme}://{address}").parse().unwrap();
                spec.require = spec.target.scheme.default_proof();
                spec.tls.client = Some(good.clone());
                let seen = probe(&spec).await;
                assert_eq!((reason(&seen), seen.proof), ("ok", Some(spec.require)), "{version:?} {scheme} {seen:#?}");
                assert_eq!(seen.note, None);
                spec.tls.client = Some(bad.clone());
                let seen = probe(&spec).await;
                assert_eq!(reason(&seen), "tls_alert", "{version:?} {scheme} {seen:#?}");
                assert!(detail(&seen).contains(&bad.cert_file) && detail(&seen).contains("refused"), "{seen:#?}");
                let shown = seen.tls.unwrap();
                assert!(shown.version.is_some() && shown.chain.len() == 1);
            }
        }
    }
}

#[tokio::test]
async fn who_does_not_say_has_not_taken_it() {
    let ca = authority("the authority");
    let server = Identity::issued(&params("good.test"), &ca);
    let files = Files::new();
    let mut config = wants(&ca, &server, &rustls::version::TLS13);
    config.send_tls13_tickets = 0;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    for (stays, want) in [(true, "tls_timeout"), (false, "tls_closed")] {
        let acceptor = acceptor.clone();
        let (address, _) = scripted(move |stream| {
            let acceptor = acceptor.clone();
            async move {
                let stream = acceptor.accept(stream).await.unwrap();
                if stays {
                    std::future::pending::<()>().await;
                }
                drop(stream);
            }
        })
        .await;
        let mut spec = tls(address, &ca.pem());
        spec.timeout = Millis(300);
        spec.tls.client = Some(files.client(&Identity::issued(&params("client.test"), &ca)));
        let seen = probe(&spec).await;
        assert_eq!(reason(&seen), want, "{seen:#?}");
        assert!(detail(&seen).contains("did not say"), "{seen:#?}");
    }
}

#[tokio::test]
async fn the_client_shows_itself_to_nobody_whose_certificate_is_not_good() {
    let (ca, stranger) = (authority("the authority"), authority("a stranger"));
    let server = Identity::issued(&params("good.test"), &stranger);
    let files = Files::new();
    let client = files.client(&Identity::issued(&params("client.test"), &ca));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let acceptor = TlsAcceptor::from(Arc::new(wants(&ca, &server, version)));
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let (address, _) = scripted(move |stream| {
            let (acceptor, tell) = (acceptor.clone(), tell.clone());
            async move { tell.send(acceptor.accept(stream).await.is_ok()).unwrap() }
        })
        .await;
        let mut spec = tls(address, &ca.pem());
        spec.tls.client = Some(client.clone());
        let seen = probe(&spec).await;
        assert_eq!(reason(&seen), "tls_untrusted", "{seen:#?}");
        assert!(seen.tls.as_ref().is_some_and(|tls| tls.version.is_some() && !tls.chain.is_empty()), "{seen:#?}");
        assert!(!told.recv().await.unwrap(), "{version:?}: the server got as far as the client's certificate");
    }
}

/// MySQL counts a handshake that is broken off against the host.
#[tokio::test]
async fn a_server_that_counts_broken_handshakes_is_judged_before_the_client_shows_itself() {
    const LOGGED_IN: &[u8] = &[7, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0];
    let (ca, stranger) = (authority("the authority"), authority("a stranger"));
    let files = Files::new();
    let client = files.client(&Identity::issued(&params("client.test"), &ca));
    let mut greeting = include_bytes!("../../fuzz/corpus/mysql/mariadb_10_11_greeting")[1..].to_vec();
    // It offers TLS: a bit of the capabilities, which stand behind the version, a number, eight bytes and a zero.
    let version_ends = 5 + greeting[5..].iter().position(|byte| *byte == 0).unwrap();
    greeting[version_ends + 1 + 4 + 8 + 1 + 1] |= 0x08;
    for (issuer, want, logins) in
        [(&ca, "ok", vec![Some(false), Some(true)]), (&stranger, "tls_untrusted", vec![Some(false)])]
    {
        let identity = Identity::issued(&params("good.test"), issuer);
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider()));
        let verifier = verifier.allow_unauthenticated().build().unwrap();
        let config = only(&rustls::version::TLS13).with_client_cert_verifier(verifier);
        let acceptor =
            TlsAcceptor::from(Arc::new(config.with_single_cert(identity.chain.clone(), identity.key()).unwrap()));
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let greeting = greeting.clone();
        let (address, _) = scripted(move |mut stream| {
            let (acceptor, tell, greeting) = (acceptor.clone(), tell.clone(), greeting.clone());
            async move {
                stream.write_all(&greeting).await.unwrap();
                stream.read_exact(&mut [0; 36]).await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else { return tell.send(None).unwrap() };
                let shown = stream.get_ref().1.peer_certificates().is_some();
                let login = stream.read(&mut [0; 1024]).await.is_ok_and(|count| count > 0);
                let _ = stream.write_all(LOGGED_IN).await;
                let quit = stream.read(&mut [0; 1024]).await.is_ok_and(|count| count > 0);
                tell.send((login && quit).then_some(shown)).unwrap();
            }
        })
        .await;
        let mut spec = tls(address, &ca.pem());
        spec.target = format!("mysql://{address}").parse().unwrap();
        spec.require = Proof::Protocol;
        spec.tls.upgrade = true;
        spec.tls.client = Some(client.clone());
        let seen = probe(&spec).await;
        assert_eq!(reason(&seen), want, "{seen:#?}");
        assert!(seen.tls.is_some() && seen.attempts.len() == 1, "{seen:#?}");
        for login in logins {
            assert_eq!(told.recv().await.unwrap(), login, "whether each showed a certificate, and logged in");
        }
        assert!(told.try_recv().is_err());
    }
}

#[tokio::test]
async fn an_older_version_than_asked_for_is_named() {
    let ca = authority("the authority");
    let identity = Identity::issued(&params("good.test"), &ca);
    let older = only(&rustls::version::TLS12).with_no_client_auth();
    let older = serve(older.with_single_cert(identity.chain.clone(), identity.key()).unwrap()).await;
    let newer = serve(config(&identity)).await;
    for (address, want) in [(older, "tls_alert"), (newer, "ok")] {
        let mut spec = tls(address, &ca.pem());
        spec.tls.min_version = TlsVersion::V1_3;
        let seen = probe(&spec).await;
        assert_eq!(reason(&seen), want, "{seen:#?}");
        assert!(want == "ok" || detail(&seen).contains("TLSv1.3 alone"), "{seen:#?}");
    }
    // One that chooses, instead of refusing: ServerHello of TLS 1.2 and of TLS 1.1.
    for (minor, least, says) in [
        (3, TlsVersion::V1_3, "the server chose TLSv1.2, and offered was TLSv1.3 alone"),
        (2, TlsVersion::V1_2, "the server chose TLSv1.1, and offered was TLSv1.2 and TLSv1.3"),
    ] {
        let (address, _) = scripted(move |mut stream| async move {
            let mut hello = vec![22, 3, minor, 0, 42, 2, 0, 0, 38, 3, minor];
            hello.extend([7; 32]);
            hello.extend([0, 0xc0, 0x2b, 0]);
            let _ = stream.write_all(&hello).await;
            while stream.read(&mut [0; 1024]).await.is_ok_and(|n| n > 0) {}
        })
        .await;
        let mut spec = tls(address, &ca.pem());
        spec.tls.min_version = least;
        let seen = probe(&spec).await;
        assert_eq!(reason(&seen), "tls_alert", "{seen:#?}");
        assert!(detail(&seen).contains(says), "{seen:#?}");
    }
}

/// Lets the files that it has be used.
struct Only(Vec<String>);

impl Guard for Only {
    fn allows(&self, _: SocketAddr) -> bool {
        true
    }

    fn may_use(&self, file: &Path, address: SocketAddr) -> bool {
        address.ip().is_loopback() && self.0.iter().any(|allowed| Path::new(allowed) == file)
    }
}

async fn guarded(spec: &ProbeSpec, guard: &dyn Guard) -> preflight_core::observation::Observation {
    Engine::new(EngineOptions::default()).unwrap().probe(spec, guard).await.observations.remove(0)
}

#[tokio::test]
async fn files_are_used_where_the_policy_says_and_read_again_once_they_change() {
    let (ca, other) = (authority("the authority"), authority("another"));
    let files = Files::new();
    let address = serve(wants(&ca, &Identity::issued(&params("good.test"), &ca), &rustls::version::TLS13)).await;
    let mut spec = tls(address, "");
    spec.tls.ca_pem = None;
    spec.tls.ca_file = Some(files.write("ca.pem", &ca.pem()));
    let client = files.client(&Identity::issued(&params("client.test"), &ca));
    spec.tls.client = Some(client.clone());
    let all = vec![files.write("ca.pem", &ca.pem()), client.cert_file.clone(), client.key_file.clone()];
    assert_eq!(reason(&guarded(&spec, &Only(all.clone())).await), "ok");
    for left_out in 0..3 {
        let mut some = all.clone();
        let file = some.remove(left_out);
        let seen = guarded(&spec, &Only(some)).await;
        assert_eq!((reason(&seen), seen.attempts.len()), ("policy_denied", 0), "{seen:#?}");
        let rule = format!("[[files]] paths = [\"{file}\"] addresses = [\"127.0.0.1\"] ports = [{}]", address.port());
        assert!(detail(&seen).contains(&rule), "{seen:#?}");
    }
    // The same engine, and a file that changes.
    let engine = Engine::new(EngineOptions::default()).unwrap();
    for (pem, want) in [(ca.pem(), "ok"), (other.pem(), "tls_untrusted"), (ca.pem(), "ok")] {
        files.write("ca.pem", &pem);
        let seen = engine.probe(&spec, &Only(all.clone())).await.observations.remove(0);
        assert_eq!(reason(&seen), want, "{seen:#?}");
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_this_hosts_trouble() {
    let ca = authority("the authority");
    let files = Files::new();
    let identity = Identity::issued(&params("client.test"), &ca);
    let ClientFiles { cert_file, key_file } = files.client(&identity);
    let stranger = files.write("stranger.key", &KeyPair::generate().unwrap().serialize_pem());
    let nonsense = files.write("nonsense", "no PEM at all");
    let broken = files.write("broken", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let missing = files.0.path().join("missing").display().to_string();
    let large = files.write("large", &"x".repeat(2 << 20));
    let directory = files.0.path().display().to_string();
    let (address, count) = scripted(|_| async {}).await;
    let pair = |cert: &str, key: &str| Some(ClientFiles { cert_file: cert.to_owned(), key_file: key.to_owned() });
    for (ca_file, client, names) in [
        (Some(missing.clone()), None, &missing),
        (Some(nonsense.clone()), None, &nonsense),
        (Some(broken.clone()), None, &broken),
        (Some(directory.clone()), None, &directory),
        (Some(large.clone()), None, &large),
        (None, pair(&missing, &key_file), &missing),
        (None, pair(&cert_file, &missing), &missing),
        (None, pair(&nonsense, &key_file), &nonsense),
        (None, pair(&cert_file, &nonsense), &nonsense),
        (None, pair(&cert_file, &cert_file), &cert_file),
        (None, pair(&cert_file, &stranger), &stranger),
    ] {
        let mut spec = tls(address, "");
        spec.tls.ca_pem = None;
        (spec.tls.ca_file, spec.tls.client) = (ca_file, client);
        let seen = probe(&spec).await;
        assert_eq!(reason(&seen), "local_resources", "{names} {seen:#?}");
        assert!(detail(&seen).contains(names.as_str()), "{names} {seen:#?}");
    }
    assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), 0, "the target saw nothing of it");
}

/// Keys as OpenSSL writes them.
#[tokio::test]
async fn keys_in_each_form() {
    let ca = authority("the authority");
    let files = Files::new();
    let address = serve(wants(&ca, &Identity::issued(&params("good.test"), &ca), &rustls::version::TLS13)).await;
    let openssl = |arguments: &[&str]| {
        let done = std::process::Command::new("openssl").args(arguments).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    for (make, traditional) in [
        (["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"], "-----BEGIN RSA PRIVATE KEY-----"),
        (["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"], "-----BEGIN EC PRIVATE KEY-----"),
    ] {
        let new = files.write("pkcs8.key", "");
        openssl(&[make.as_slice(), &["-out", &new]].concat());
        let old = files.write("old.key", "");
        openssl(&["pkey", "-in", &new, "-traditional", "-out", &old]);
        assert!(std::fs::read_to_string(&old).unwrap().starts_with(traditional));
        let pem = std::fs::read_to_string(&new).unwrap();
        let key = if traditional.contains("RSA") {
            KeyPair::from_pem_and_sign_algo(&pem, &PKCS_RSA_SHA256).unwrap()
        } else {
            KeyPair::from_pem(&pem).unwrap()
        };
        let leaf = params("client.test").signed_by(&key, &ca).unwrap();
        let cert_file = files.write("client.pem", &leaf.pem());
        for key_file in [new, old] {
            let mut spec = tls(address, &ca.pem());
            spec.tls.client = Some(ClientFiles { cert_file: cert_file.clone(), key_file });
            assert_eq!(reason(&probe(&spec).await), "ok");
        }
    }
}

//! Who may do what: join tokens, API tokens, and servers that are not the controller.

use std::fs;
use std::io::Read as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use preflight_tests::certificates::{Authority, TODAY};
use preflight_tests::lab::{AgentOptions, Lab, wait_for};
use preflight_tests::small::{GATE, INVENTORY, MANIFEST, Small};
use serde_json::json;

const SOON: Duration = Duration::from_secs(30);

/// What an agent logs whose token the controller does not take.
const REFUSED: &str = "the join token is not valid here";

/// An agent with this token comes to nothing, and says why.
fn assert_enrols_nobody(small: &Small, lab: &Lab, token: &str, why: &str) {
    let before = small.controller.agents().len();
    let host = lab.host("stranger", &["10.6.6.6"]);
    let options = AgentOptions { token: Some(token.to_owned()), ..AgentOptions::default() };
    let agent = small.controller.agent(&host, "us", "web", &options);
    wait_for("the agent to say why it was refused", SOON, || agent.process.log().contains(why).then_some(()));
    assert_eq!(small.controller.agents().len(), before);
    assert!(!agent.process.log().contains(token), "the token is in the log");
}

#[test]
fn a_join_token_that_is_used_up_enrols_nobody() {
    let lab = Lab::new();
    let small = Small::new(&lab, 1);
    let used = fs::read_to_string(small.agents[0].host.dir().join("join-token")).unwrap();
    assert_enrols_nobody(&small, &lab, &used, REFUSED);
}

#[test]
fn a_join_token_that_has_expired_enrols_nobody() {
    let lab = Lab::new();
    let small = Small::new(&lab, 0);
    let token = small.controller.join_token("us", "web", &["--ttl", "1s"]);
    let started = std::time::Instant::now();
    wait_for("the token to expire", SOON, || (started.elapsed() > Duration::from_secs(2)).then_some(()));
    assert_enrols_nobody(&small, &lab, &token, REFUSED);
}

#[test]
fn a_join_token_that_was_altered_enrols_nobody() {
    let lab = Lab::new();
    let small = Small::new(&lab, 0);
    let token = small.controller.join_token("us", "web", &[]);
    // The secret, in the middle.
    let middle = token.len() / 2;
    let other = if token.as_bytes()[middle] == b'0' { "1" } else { "0" };
    let altered = format!("{}{other}{}", &token[..middle], &token[middle + 1..]);
    assert_enrols_nobody(&small, &lab, &altered, REFUSED);
}

#[test]
fn a_join_token_counts_its_uses_whoever_comes_first() {
    let lab = Lab::new();
    let small = Small::new(&lab, 0);
    let token = small.controller.join_token("us", "web", &["--uses", "2"]);
    let options = AgentOptions { token: Some(token), ..AgentOptions::default() };
    let hosts: Vec<_> = (1..=5).map(|n| lab.host(&format!("us-web-{n}"), &[&format!("10.1.1.{n}")])).collect();
    let agents: Vec<_> = hosts.iter().map(|host| small.controller.agent(host, "us", "web", &options)).collect();
    small.controller.await_agents(2);
    wait_for("three to be refused", SOON, || {
        (agents.iter().filter(|agent| agent.process.log().contains(REFUSED)).count() == 3).then_some(())
    });
    assert_eq!(small.controller.agents().len(), 2);
}

#[test]
fn a_join_token_for_a_source_enrols_nobody_from_elsewhere() {
    let lab = Lab::new();
    let small = Small::new(&lab, 0);
    let token = small.controller.join_token("us", "web", &["--source", "10.1.0.0/16"]);
    assert_enrols_nobody(&small, &lab, &token, REFUSED);
    let host = lab.host("us-web-1", &["10.1.1.1"]);
    let options = AgentOptions { token: Some(token), ..AgentOptions::default() };
    let _agent = small.controller.agent(&host, "us", "web", &options);
    small.controller.await_agents(1);
}

#[test]
fn a_server_of_another_authority_gets_no_token() {
    let lab = Lab::new();
    let mut small = Small::new(&lab, 0);
    let token = small.controller.join_token("us", "web", &[]);
    small.controller.kill();
    // Somebody else stands where the controller was, with a certificate for its name that is valid for all but the agent.
    let heard = Arc::new(Mutex::new(Vec::new()));
    let config = {
        use rustls::pki_types::pem::PemObject as _;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        let pair = Authority::new("Somebody else").issue(&["controller.lab", "10.255.0.1"], TODAY);
        let chain = CertificateDer::pem_slice_iter(pair.chain_pem.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).unwrap();
        let mut config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    };
    let (ears, tried) = (heard.clone(), Arc::new(Mutex::new(0)));
    let count = tried.clone();
    small.controller.host.listen(7444, move |mut tcp| {
        *count.lock().unwrap() += 1;
        let mut tls = rustls::ServerConnection::new(config.clone()).unwrap();
        let mut bytes = Vec::new();
        let _ = rustls::Stream::new(&mut tls, &mut tcp).read_to_end(&mut bytes);
        ears.lock().unwrap().extend(bytes);
    });
    let host = lab.host("us-web-1", &["10.1.1.1"]);
    let options = AgentOptions { token: Some(token), ..AgentOptions::default() };
    let agent = small.controller.agent(&host, "us", "web", &options);
    wait_for("the agent to try twice", SOON, || (*tried.lock().unwrap() >= 2).then_some(()));
    assert!(heard.lock().unwrap().is_empty(), "it was told {} bytes", heard.lock().unwrap().len());
    assert!(!agent.process.log().is_empty());
}

#[test]
fn without_a_token_nothing_and_with_a_small_one_little() {
    let lab = Lab::new();
    let small = Small::new(&lab, 0);
    let api = small.controller.api();
    let gate = json!({ "manifest": MANIFEST, "regions": ["us"], "release": "r1" });
    let calls = [
        ("GET", "/v1/agents", None),
        ("POST", "/v1/gate", Some(&gate)),
        ("GET", "/v1/verdicts/none", None),
        ("GET", "/v1/audit", None),
    ];
    for (method, path, body) in calls {
        for token in [None, Some("nonsense"), Some("pf1.000000000000.0000")] {
            let answer = api.with_token(token).request(method, path, body).unwrap();
            assert_eq!(answer.status, 401, "{method} {path} with {token:?}: {}", answer.body);
            assert!(!answer.body.contains("us"), "it says what there is: {}", answer.body);
        }
    }
    let made = small.controller.preflight(&["token", "create", "--name", "reader", "--scope", "read"]).expect_code(0);
    let reader = api.with_token(Some(made.stdout.trim()));
    assert_eq!(reader.get("/v1/agents").unwrap().status, 200);
    assert_eq!(reader.request("POST", "/v1/gate", Some(&gate)).unwrap().status, 403);
    let inventory = json!({ "inventory": INVENTORY });
    assert_eq!(reader.request("PUT", "/v1/inventory", Some(&inventory)).unwrap().status, 403);
    let join = json!({ "region": "us", "fleet": "web", "ttl_s": 60, "uses": 1 });
    assert_eq!(reader.request("POST", "/v1/tokens/join", Some(&join)).unwrap().status, 403);

    let audit = api.get("/v1/audit").unwrap();
    assert_eq!(audit.status, 200, "{}", audit.body);
    let (unknown, known) = (audit.body.contains("POST /v1/gate"), audit.body.contains("reader"));
    assert!(unknown && known, "{}", audit.body);
}

#[test]
fn an_expired_api_token_is_no_token() {
    let lab = Lab::new();
    let small = Small::new(&lab, 0);
    let words = ["token", "create", "--name", "brief", "--scope", "read", "--expires", "1s"];
    let made = small.controller.preflight(&words).expect_code(0);
    let brief = small.controller.api().with_token(Some(made.stdout.trim()));
    wait_for("the token to expire", SOON, || (brief.get("/v1/agents").unwrap().status == 401).then_some(()));
}

#[test]
fn another_url_never_gets_the_files_token() {
    let lab = Lab::new();
    let small = Small::new(&lab, 0);
    let context = small.controller.context();
    let environment = [("PREFLIGHT_URL", "https://10.9.0.1:6379"), ("PREFLIGHT_CONTEXT", context.to_str().unwrap())];
    let answer = small.controller.preflight_with(&GATE, &environment);
    assert!([1, 64].contains(&answer.code), "{}: {}", answer.code, answer.text());
}

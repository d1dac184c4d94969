//! The agents' port as a hostile or broken agent would use it: real TLS and gRPC over loopback, against the real service.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use preflight_core::plan::{Cell, FleetId, Plan};
use preflight_core::run::{AgentId, RunSpec};
use preflight_core::spec::ProbeSpec;
use preflight_proto::agent::controller_client::ControllerClient;
use preflight_proto::agent::{
    EnrolRequest, FromAgent, Hello, NetworkIdentity, Observation, Report, ToAgent, from_agent, to_agent,
};
use preflight_proto::convert::MAX_MESSAGE_BYTES;
use rcgen::{KeyPair, PublicKeyData as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Streaming};

use crate::app::{App, Strangers};
use crate::authority::{self, Authority, ServerCertificate};
use crate::listen::{self, Protocol};
use crate::roster::Roster;
use crate::runs::{Handle, Kind, RunResult, Runs};
use crate::secret::NewSecret;
use crate::store::Store;

/// The one in force; runs here are of plans of their own.
const INVENTORY: &str = "";

/// A controller's agent port on loopback.
struct Port {
    app: Arc<App>,
    address: SocketAddr,
    _dir: TempDir,
}

type Identity = (Vec<u8>, KeyPair);

impl Port {
    async fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), false).await.unwrap();
        let entry = crate::app::audit_entry("test", "inventory apply", "ok", "", "", Timestamp::now());
        store.put_inventory("inventory.yaml", INVENTORY, Timestamp::now(), "test", &entry).await.unwrap();
        let authority = Authority::open(dir.path()).unwrap();
        let certificate = ServerCertificate::new(&authority, vec!["127.0.0.1".into()]).unwrap();
        let tls = authority::agent_tls(&authority, certificate).unwrap();
        let roster = Arc::new(Roster::new(&[], Timestamp::now()));
        let runs = Runs::new(store.clone(), roster.clone(), None);
        let app = Arc::new(App {
            store,
            authority,
            roster,
            runs,
            strangers: Strangers::default(),
            quota: Arc::default(),
            target_rate: RunSpec::TARGET_RATE,
            followed: None,
            longest_override: Duration::from_hours(1),
            allow_advisory: true,
            ports: Vec::new(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let grpc = tonic::service::Routes::new(crate::agents::service(app.clone())).into_axum_router();
        tokio::spawn(listen::serve(listener, tls, grpc, Protocol::Agents));
        Self { app, address, _dir: dir }
    }

    async fn client(&self, identity: Option<&Identity>) -> ControllerClient<Channel> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(self.app.authority.root_der().to_vec())).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots);
        let mut config = match identity {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
                config.with_client_auth_cert(vec![CertificateDer::from(certificate.clone())], key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::from(self.address.ip());
        let mut once = Some(TokioIo::new(TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()));
        let connector =
            tower::service_fn(move |_| std::future::ready(once.take().ok_or_else(|| io::Error::other("used"))));
        let channel = Endpoint::from_static("http://controller").connect_with_connector(connector).await.unwrap();
        ControllerClient::new(channel).max_encoding_message_size(usize::MAX)
    }

    async fn enrol(&self, fleet: &str) -> Identity {
        let secret = NewSecret::new().unwrap();
        let fleet = FleetId { region: "eu".into(), fleet: fleet.into() };
        let expires = Timestamp::now().checked_add(Duration::from_mins(1)).unwrap();
        self.app.store.put_join_token(&secret, &fleet, 1, None, "test", expires).await.unwrap();
        let key = KeyPair::generate().unwrap();
        let token = secret.join_token(&self.app.authority.fingerprint());
        let request = EnrolRequest { token, public_key: key.subject_public_key_info() };
        let credentials = self.client(None).await.enrol(request).await.unwrap().into_inner();
        (credentials.certificate, key)
    }

    async fn connect(&self, fleet: &str) -> Talk {
        let identity = self.enrol(fleet).await;
        let id = authority::peer(&identity.0).unwrap().id;
        let (say, said) = mpsc::channel(16);
        say.send(hello()).await.unwrap();
        let mut client = self.client(Some(&identity)).await;
        let mut hear = client.connect(ReceiverStream::new(said)).await.unwrap().into_inner();
        assert!(matches!(next(&mut hear).await, to_agent::Message::Welcome(_)));
        Talk { id, say, hear }
    }

    async fn start_run(&self, fleets: &[&str], seconds: u64) -> Handle {
        let cell = |fleet: &&str| Cell {
            application: "shop".into(),
            fleet: FleetId { region: "eu".into(), fleet: (*fleet).into() },
            dependency: "cache".into(),
            spec: ProbeSpec::new("tcp://10.0.0.1:6379".parse().unwrap()),
            min_agents: 1,
            stated: preflight_core::identity::NetworkIdentity::default(),
            usage: preflight_core::manifest::Usage::default(),
            line: 0,
        };
        let started = Timestamp::now();
        let spec = RunSpec {
            id: "run-0123456789abcdef".into(),
            release: "r1".into(),
            plan: Plan {
                application: "shop".into(),
                manifest_digest: String::new(),
                regions: vec!["eu".into()],
                cells: fleets.iter().map(cell).collect(),
                excluded: Vec::new(),
            },
            started,
            deadline: started.checked_add(Duration::from_secs(seconds)).unwrap(),
            fail_fast: false,
            strict: false,
            await_agents: false,
            unlisted: Vec::new(),
            target_rate: RunSpec::TARGET_RATE,
            duties: Vec::new(),
            mode: preflight_core::run::Mode::Gate,
            basis: preflight_core::run::Basis {
                inventory_digest: preflight_core::plan::sha256(INVENTORY.as_bytes()),
                ..preflight_core::run::Basis::default()
            },
            only: None,
        };
        self.app.runs.start(Kind::Gate, "request", spec, "test", None).await.unwrap()
    }
}

/// An agent's stream.
struct Talk {
    id: AgentId,
    say: mpsc::Sender<FromAgent>,
    hear: Streaming<ToAgent>,
}

fn hello() -> FromAgent {
    let identity = Some(NetworkIdentity::default());
    let hello = Hello { version: "test".into(), instance: "1".into(), identity, clock_ms: 0 };
    FromAgent { message: Some(from_agent::Message::Hello(hello)) }
}

async fn next(hear: &mut Streaming<ToAgent>) -> to_agent::Message {
    let message = tokio::time::timeout(Duration::from_secs(10), hear.message()).await.expect("an answer in time");
    message.unwrap().unwrap().message.unwrap()
}

/// An ok from 10.0.0.1:6379.
fn ok(run: &str, cell: &str, detail: String) -> FromAgent {
    let observation = Observation {
        address: "10.0.0.1:6379".into(),
        member: None,
        outcome: "ok".into(),
        proof: "connected".into(),
        detail: Some(detail),
        ..Observation::default()
    };
    let report = Report {
        run: run.into(),
        cell: cell.into(),
        region: "eu".into(),
        release: "r1".into(),
        identity: Some(NetworkIdentity::default()),
        observations: vec![observation],
        resolved: 1,
        route_ipv4: true,
        ..Report::default()
    };
    FromAgent { message: Some(from_agent::Message::Report(report)) }
}

async fn asked(talk: &mut Talk) -> (String, String) {
    let to_agent::Message::Ask(ask) = next(&mut talk.hear).await else { panic!("a question") };
    (ask.run, ask.probes[0].cell.clone())
}

#[tokio::test]
async fn an_oversize_message_is_refused_with_its_size_and_the_limit_and_others_go_on() {
    let port = Port::open().await;
    let (mut large, mut other) = (port.connect("web").await, port.connect("web").await);
    large.say.send(ok("run", "cell", "x".repeat(2 * MAX_MESSAGE_BYTES))).await.unwrap();
    let end = loop {
        match tokio::time::timeout(Duration::from_secs(10), large.hear.message()).await.unwrap() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it must be told why"),
            Err(status) => break status,
        }
    };
    assert_eq!(end.code(), Code::OutOfRange, "{end}");
    assert!(end.message().contains(&MAX_MESSAGE_BYTES.to_string()) && end.message().contains("found 209"), "{end}");
    other.say.send(ok("run", "cell", String::new())).await.unwrap();
    assert!(matches!(next(&mut other.hear).await, to_agent::Message::Acknowledge(_)));
}

#[tokio::test]
async fn an_agent_of_one_fleet_cannot_answer_for_another() {
    let port = Port::open().await;
    let (mut web, worker) = (port.connect("web").await, port.connect("worker").await);
    let Handle::Active(active) = port.start_run(&["web"], 20).await else { panic!("a new run") };
    let (run, cell) = asked(&mut web).await;
    // The worker has heard of run and cell, and says that all is well.
    worker.say.send(ok(&run, &cell, String::new())).await.unwrap();
    drop(web);
    let RunResult::Gate(gate) = active.result().await.unwrap() else { panic!("a verdict") };
    assert_eq!(gate.verdict.as_str(), "unknown", "the worker's word does not count");
    assert!(!format!("{gate:?}").contains(&worker.id.agent));
}

#[tokio::test]
async fn a_late_answer_is_kept_and_the_verdict_stays() {
    let port = Port::open().await;
    let mut web = port.connect("web").await;
    let Handle::Active(active) = port.start_run(&["web"], 1).await else { panic!("a new run") };
    let (run, cell) = asked(&mut web).await;
    let RunResult::Gate(gate) = active.result().await.unwrap() else { panic!("a verdict") };
    assert_eq!(gate.verdict.as_str(), "unknown");
    web.say.send(ok(&run, &cell, String::new())).await.unwrap();
    while !matches!(next(&mut web.hear).await, to_agent::Message::Acknowledge(_)) {}
    assert_eq!(port.app.store.late_answers(&run).await.unwrap(), 1);
    let stored = port.app.runs.find(&run, "request").await.unwrap();
    let Some(Handle::Ended(RunResult::Gate(again))) = stored else { panic!("the run has ended") };
    assert_eq!(*again, *gate);
}

#[tokio::test]
async fn without_a_client_certificate_there_is_only_enrolment() {
    let port = Port::open().await;
    let (say, said) = mpsc::channel(1);
    say.send(hello()).await.unwrap();
    let refused = port.client(None).await.connect(ReceiverStream::new(said)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let key = KeyPair::generate().unwrap().subject_public_key_info();
    let renewal = preflight_proto::agent::RenewRequest { public_key: key };
    let refused = port.client(None).await.renew(renewal).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_revoked_agent_s_stream_ends_at_once() {
    let port = Port::open().await;
    let mut web = port.connect("web").await;
    assert!(port.app.revoke(&web.id.agent, "stolen").await.unwrap());
    let end = tokio::time::timeout(Duration::from_secs(5), web.hear.message()).await.expect("at once");
    assert_eq!(end.unwrap_err().code(), Code::Aborted);
}

//! A controller to test against: a real authority, real TLS and the real protocol; what it says is the test's.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use preflight_agent::token::Fingerprint;
use preflight_proto::agent::controller_server::{Controller, ControllerServer};
use preflight_proto::agent::{
    Credentials, EnrolRequest, FromAgent, RenewRequest, ToAgent, Welcome, from_agent, to_agent,
};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType, SubjectPublicKeyInfo,
};
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub root: CertificateDer<'static>,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), root }
    }

    /// A join token that names this authority.
    pub fn token(&self) -> String {
        format!("pfj1.id.s3cret.{}", Fingerprint::of(&self.root))
    }

    fn server(&self, name: SanType, usage: ExtendedKeyUsagePurpose) -> (CertificateDer<'static>, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![name];
        params.extended_key_usages = vec![usage];
        (params.signed_by(&key, &self.issuer).unwrap().der().clone(), key)
    }

    fn agent(&self, public_key: &[u8], until: OffsetDateTime) -> Vec<u8> {
        let key = SubjectPublicKeyInfo::from_der(public_key).unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI("preflight://eu/web/a1".try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = OffsetDateTime::now_utc() - Duration::from_hours(9 * 24);
        params.not_after = until;
        params.signed_by(&key, &self.issuer).unwrap().der().to_vec()
    }
}

/// How a server presents itself.
pub struct Face {
    pub name: SanType,
    pub usage: ExtendedKeyUsagePurpose,
    pub sends_root: bool,
}

impl Default for Face {
    fn default() -> Self {
        let name = SanType::IpAddress(Ipv4Addr::LOCALHOST.into());
        Self { name, usage: ExtendedKeyUsagePurpose::ServerAuth, sends_root: true }
    }
}

/// What the controller does next, where it is not the usual.
#[derive(Default)]
pub struct Script {
    /// Answers to the next calls of `Connect`, in place of the stream.
    pub refuse_connect: VecDeque<Status>,
    /// The lives of the next certificates, in seconds from now; a day where none is said.
    pub lives_s: VecDeque<i64>,
    /// What `Welcome` says, and `Credentials`.
    pub renew_after_s: Option<u64>,
}

/// What was seen of agents.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The tokens presented.
    pub tokens: Vec<String>,
    /// Renewals.
    pub renewals: usize,
    /// How TLS handshakes ended that failed.
    pub failed_handshakes: Vec<String>,
}

/// A running controller.
pub struct Running {
    pub authority: Arc<Authority>,
    pub address: SocketAddr,
    pub script: Arc<Mutex<Script>>,
    pub seen: Arc<Mutex<Seen>>,
    streams: mpsc::UnboundedReceiver<Stream>,
    handshakes: mpsc::UnboundedReceiver<bool>,
    _tasks: JoinSet<()>,
}

/// One agent's stream, from the controller's side.
pub struct Stream {
    /// The certificate of its connection.
    pub certificate: Vec<u8>,
    pub incoming: Streaming<FromAgent>,
    pub outgoing: mpsc::Sender<Result<ToAgent, Status>>,
}

impl Stream {
    pub async fn send(&self, message: to_agent::Message) {
        self.outgoing.send(Ok(ToAgent { message: Some(message) })).await.unwrap();
    }

    /// The next message; none at the stream's end.
    pub async fn next(&mut self) -> Option<from_agent::Message> {
        let message = timeout(PATIENCE, self.incoming.message()).await.expect("a message in time");
        message.ok().flatten().and_then(|message| message.message)
    }

    pub async fn report(&mut self) -> preflight_proto::agent::Report {
        match self.next().await {
            Some(from_agent::Message::Report(report)) => report,
            other => panic!("a report was due, not {other:?}"),
        }
    }
}

impl Running {
    pub async fn start(authority: Arc<Authority>, face: Face) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (script, seen) = (Arc::<Mutex<Script>>::default(), Arc::<Mutex<Seen>>::default());
        let (streams_in, streams) = mpsc::unbounded_channel();
        let (handshakes_in, handshakes) = mpsc::unbounded_channel();
        let acceptor = acceptor(&authority, face);
        let mut tasks = JoinSet::new();
        let shared = (authority.clone(), script.clone(), seen.clone());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                let (authority, script, seen) = shared.clone();
                let (streams, handshakes) = (streams_in.clone(), handshakes_in.clone());
                connections.spawn(async move {
                    let tls = match acceptor.accept(tcp).await {
                        Ok(tls) => tls,
                        Err(error) => {
                            seen.lock().unwrap().failed_handshakes.push(error.to_string());
                            handshakes.send(false).ok();
                            return;
                        }
                    };
                    handshakes.send(true).ok();
                    let certificate = tls.get_ref().1.peer_certificates().map(|chain| chain[0].to_vec());
                    let service = Service { authority, certificate, script, seen, streams };
                    let service = TowerToHyperService::new(ControllerServer::new(service));
                    let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    http2.serve_connection(TokioIo::new(tls), service).await.ok();
                });
            }
        });
        Self { authority, address, script, seen, streams, handshakes, _tasks: tasks }
    }

    /// The next agent's stream, after its `Hello` and our `Welcome`.
    pub async fn stream(&mut self) -> (Stream, preflight_proto::agent::Hello) {
        let mut stream = timeout(PATIENCE, self.streams.recv()).await.expect("a stream in time").unwrap();
        let Some(from_agent::Message::Hello(hello)) = stream.next().await else { panic!("hello comes first") };
        let renew_after_s = self.script.lock().unwrap().renew_after_s.unwrap_or(86_400);
        let clock_ms = hello.clock_ms;
        let welcome = Welcome { agent: "eu/web/a1".into(), clock_ms, renew_after_s, controller_ports: vec![17_443] };
        stream.send(to_agent::Message::Welcome(welcome)).await;
        (stream, hello)
    }

    /// Whether the next TLS handshake came to its end.
    pub async fn handshake(&mut self) -> bool {
        timeout(PATIENCE, self.handshakes.recv()).await.expect("a handshake in time").unwrap()
    }
}

fn acceptor(authority: &Authority, face: Face) -> TlsAcceptor {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.root.clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let verifier = verifier.allow_unauthenticated().build().unwrap();
    let (leaf, key) = authority.server(face.name, face.usage);
    let chain = if face.sends_root { vec![leaf, authority.root.clone()] } else { vec![leaf] };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

struct Service {
    authority: Arc<Authority>,
    certificate: Option<Vec<u8>>,
    script: Arc<Mutex<Script>>,
    seen: Arc<Mutex<Seen>>,
    streams: mpsc::UnboundedSender<Stream>,
}

impl Service {
    fn issue(&self, public_key: &[u8]) -> Credentials {
        let mut script = self.script.lock().unwrap();
        let life_s = script.lives_s.pop_front().unwrap_or(86_400);
        let until = OffsetDateTime::now_utc() + time::Duration::seconds(life_s);
        Credentials {
            certificate: self.authority.agent(public_key, until),
            authority: self.authority.root.to_vec(),
            renew_after_s: script.renew_after_s.unwrap_or(86_400),
        }
    }
}

#[tonic::async_trait]
impl Controller for Service {
    type ConnectStream = ReceiverStream<Result<ToAgent, Status>>;

    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<Credentials>, Status> {
        assert!(self.certificate.is_none(), "enrolment is the one call without a certificate");
        let request = request.into_inner();
        self.seen.lock().unwrap().tokens.push(request.token);
        Ok(Response::new(self.issue(&request.public_key)))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<Credentials>, Status> {
        assert!(self.certificate.is_some());
        self.seen.lock().unwrap().renewals += 1;
        Ok(Response::new(self.issue(&request.into_inner().public_key)))
    }

    async fn connect(&self, request: Request<Streaming<FromAgent>>) -> Result<Response<Self::ConnectStream>, Status> {
        let certificate = self.certificate.clone().ok_or_else(|| Status::unauthenticated("no certificate"))?;
        if let Some(status) = self.script.lock().unwrap().refuse_connect.pop_front() {
            return Err(status);
        }
        let (outgoing, answers) = mpsc::channel(16);
        self.streams.send(Stream { certificate, incoming: request.into_inner(), outgoing }).ok();
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

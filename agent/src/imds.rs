//! EC2's instance metadata, version 2 (session-oriented):
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-categories.html>.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use preflight_core::identity::NetworkIdentity;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Where EC2 serves it, the same on every instance.
pub const ENDPOINT: SocketAddr =
    SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::new(169, 254, 169, 254), 80));

/// How long a connect may take. The service answers from the host's own hypervisor.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);
/// How long one reading may take, all requests together.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest answer that is read, in bytes.
const MAX_BODY: usize = 16 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ImdsError {
    /// Nothing is there: this is no EC2 instance, or a container that the hop limit cuts off.
    #[error("the instance metadata service does not answer: {0}")]
    Unreachable(#[from] io::Error),
    /// Something is there, and it does not speak the protocol.
    #[error("the instance metadata service answered {path} with {problem}")]
    Unexpected {
        /// The path asked for.
        path: String,
        /// What came back.
        problem: String,
    },
}

/// Whether the service is there.
pub async fn is_there(endpoint: SocketAddr) -> bool {
    timeout(READ_TIMEOUT, Session::open(endpoint)).await.is_ok_and(|session| session.is_ok())
}

/// Reads what network policy sees of the interface that carries `source`. Without one that does, the instance is said
/// and the interface's attributes are not: a guess would vouch for another's security groups.
pub async fn read(endpoint: SocketAddr, source: IpAddr) -> Result<NetworkIdentity, ImdsError> {
    let late = io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
    timeout(READ_TIMEOUT, read_all(endpoint, source)).await.unwrap_or(Err(ImdsError::Unreachable(late)))
}

async fn read_all(endpoint: SocketAddr, source: IpAddr) -> Result<NetworkIdentity, ImdsError> {
    let mut session = Session::open(endpoint).await?;
    let mut identity = NetworkIdentity::default();
    for (attribute, path) in
        [("instance", "instance-id"), ("zone", "placement/availability-zone"), ("region", "placement/region")]
    {
        for value in session.lines(path).await? {
            identity.insert(attribute, value);
        }
    }
    let macs = session.lines("network/interfaces/macs/").await?;
    for mac in macs {
        let mac = format!("network/interfaces/macs/{}", mac.trim_end_matches('/'));
        let list = if source.is_ipv4() { "local-ipv4s" } else { "ipv6s" };
        let addresses = session.lines(&format!("{mac}/{list}")).await?;
        if !addresses.iter().any(|address| address.parse() == Ok(source)) {
            continue;
        }
        for (attribute, item) in [
            ("security_group", "security-group-ids"),
            ("security_group_name", "security-groups"),
            ("subnet", "subnet-id"),
            ("vpc", "vpc-id"),
            ("interface", "interface-id"),
        ] {
            let values = session.lines(&format!("{mac}/{item}")).await?;
            for value in values {
                identity.insert(attribute, value);
            }
        }
        break;
    }
    Ok(identity)
}

/// A connection with a session token.
struct Session {
    sender: SendRequest<Empty<Bytes>>,
    token: String,
    /// Dropping it ends the connection.
    _connection: tokio::task::JoinSet<()>,
}

impl Session {
    async fn open(endpoint: SocketAddr) -> Result<Self, ImdsError> {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no answer to a connect");
        let tcp = timeout(CONNECT_TIMEOUT, TcpStream::connect(endpoint)).await.map_err(late)??;
        let path = "/latest/api/token";
        let failed = |error: hyper::Error| unexpected(path, &error);
        let (sender, connection) = http1::handshake(TokioIo::new(tcp)).await.map_err(failed)?;
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            // How it ended is told by the request that was under way.
            let _ = connection.await;
        });
        let mut session = Self { sender, token: String::new(), _connection: tasks };
        let header = ("x-aws-ec2-metadata-token-ttl-seconds", "60");
        session.token = session.call(Method::PUT, path, header).await?.unwrap_or_default();
        if session.token.is_empty() {
            return Err(unexpected(path, &"no token"));
        }
        Ok(session)
    }

    /// The lines of a metadata item; none where this instance does not have it.
    async fn lines(&mut self, item: &str) -> Result<Vec<String>, ImdsError> {
        let path = format!("/latest/meta-data/{item}");
        let token = self.token.clone();
        let text = self.call(Method::GET, &path, ("x-aws-ec2-metadata-token", &token)).await?.unwrap_or_default();
        Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }

    /// The body of an answer; none for 404.
    async fn call(&mut self, method: Method, path: &str, header: (&str, &str)) -> Result<Option<String>, ImdsError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "169.254.169.254")
            .header(header.0, header.1)
            .body(Empty::new())
            .map_err(|error| unexpected(path, &error))?;
        let answer = self.sender.send_request(request).await.map_err(|error| unexpected(path, &error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_BODY).collect().await;
        let body = body.map_err(|error| unexpected(path, &error))?.to_bytes();
        match status {
            StatusCode::OK => Ok(Some(String::from_utf8_lossy(&body).into_owned())),
            StatusCode::NOT_FOUND => Ok(None),
            other => Err(unexpected(path, &other)),
        }
    }
}

fn unexpected(path: &str, problem: &dyn std::fmt::Display) -> ImdsError {
    ImdsError::Unexpected { path: path.to_owned(), problem: problem.to_string() }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use http_body_util::Full;
    use hyper::Response;
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use tokio::net::TcpListener;

    use super::*;

    /// An instance with two interfaces, served on loopback over real HTTP.
    pub(crate) struct Instance {
        pub(crate) endpoint: SocketAddr,
        pub(crate) groups: Arc<Mutex<String>>,
        pub(crate) tasks: tokio::task::JoinSet<()>,
    }

    pub(crate) async fn instance() -> Instance {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap();
        let groups = Arc::new(Mutex::new("sg-1\nsg-2".to_owned()));
        let mut tasks = tokio::task::JoinSet::new();
        let shared = groups.clone();
        tasks.spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let groups = shared.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let answer = answer(&request, &groups.lock().unwrap());
                    async move { Ok::<_, Infallible>(answer) }
                });
                connections.spawn(async move {
                    let _ =
                        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tcp), service).await;
                });
            }
        });
        Instance { endpoint, groups, tasks }
    }

    fn answer(request: &Request<Incoming>, groups: &str) -> Response<Full<Bytes>> {
        let status = |code, text: &str| Response::builder().status(code).body(Full::from(text.to_owned())).unwrap();
        let header = |name| request.headers().get(name).and_then(|v| v.to_str().ok());
        let path = request.uri().path();
        if path == "/latest/api/token" {
            let asked = request.method() == Method::PUT && header("x-aws-ec2-metadata-token-ttl-seconds").is_some();
            return if asked { status(200, "T0K3N") } else { status(400, "") };
        }
        if header("x-aws-ec2-metadata-token") != Some("T0K3N") {
            return status(401, "");
        }
        let text = match path.trim_start_matches("/latest/meta-data/") {
            "instance-id" => "i-1",
            "placement/availability-zone" => "eu-west-1a",
            "placement/region" => "eu-west-1",
            "network/interfaces/macs/" => "02:01/\n02:02/",
            "network/interfaces/macs/02:01/local-ipv4s" => "10.0.0.1",
            "network/interfaces/macs/02:02/local-ipv4s" => "10.0.1.1\n127.0.0.1",
            "network/interfaces/macs/02:01/security-group-ids" => "sg-other",
            "network/interfaces/macs/02:02/security-group-ids" => groups,
            "network/interfaces/macs/02:02/security-groups" => "web\nbase",
            "network/interfaces/macs/02:02/subnet-id" => "subnet-2",
            "network/interfaces/macs/02:02/interface-id" => "eni-2",
            _ => return status(404, "none"),
        };
        status(200, text)
    }

    #[tokio::test]
    async fn the_interface_that_carries_the_source_address() {
        let instance = instance().await;
        assert!(is_there(instance.endpoint).await);
        let identity = read(instance.endpoint, "10.0.1.1".parse().unwrap()).await.unwrap();
        let text = identity.0.iter().map(|(k, v)| format!("{k}={}", v.iter().cloned().collect::<Vec<_>>().join(",")));
        assert_eq!(
            text.collect::<Vec<_>>(),
            [
                "instance=i-1",
                "interface=eni-2",
                "region=eu-west-1",
                "security_group=sg-1,sg-2",
                "security_group_name=base,web",
                "subnet=subnet-2",
                "zone=eu-west-1a"
            ]
        );
    }

    #[tokio::test]
    async fn a_source_that_no_interface_carries_has_no_groups() {
        let instance = instance().await;
        let identity = read(instance.endpoint, "10.7.7.7".parse().unwrap()).await.unwrap();
        assert!(!identity.0.contains_key("security_group") && identity.0.contains_key("instance"));
    }

    #[tokio::test]
    async fn nothing_there_is_said_quickly() {
        // Taken, and nothing listens there.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let endpoint = socket.local_addr().unwrap();
        assert!(!is_there(endpoint).await);
        let error = read(endpoint, "10.0.0.1".parse().unwrap()).await.unwrap_err();
        assert!(matches!(error, ImdsError::Unreachable(_)), "{error}");
    }
}

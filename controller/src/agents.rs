//! The agents' side of the controller: enrolment, renewal and the stream. Who speaks is read from the certificate, never from a message.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use preflight_core::identity::NetworkIdentity;
use preflight_core::run::{AgentId, Label, Testimony};
use preflight_core::text::escape;
use preflight_proto::agent::controller_server::{Controller, ControllerServer};
use preflight_proto::agent::{
    Acknowledge, Credentials, EnrolRequest, FromAgent, RenewRequest, ToAgent, Welcome, from_agent, to_agent,
};
use preflight_proto::convert::{AgentReport, ConvertError, MAX_MESSAGE_BYTES};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::app::App;
use crate::authority::{self, AGENT_LIFE, PeerCertificate};
use crate::roster::{Arrival, Connection};
use crate::secret;
use crate::store::{Certificate, CertificateCheck, JoinRefused};

/// Messages that may wait for an agent that does not read.
const OUTBOX: usize = 1_024;
/// The first message must have come by then.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// Reports of one agent that are taken in at the same time.
const REPORTS_AT_ONCE: usize = 64;

/// Who is at the other end of a connection: set by the listener, from TLS.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// None where no client certificate was shown.
    pub(crate) certificate: Option<PeerCertificate>,
}

/// The gRPC service.
#[derive(Clone)]
pub(crate) struct AgentService {
    app: Arc<App>,
}

/// The service, with its limits.
pub(crate) fn service(app: Arc<App>) -> ControllerServer<AgentService> {
    ControllerServer::new(AgentService { app }).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

fn peer<T>(request: &Request<T>) -> Result<Peer, Status> {
    request.extensions().get::<Peer>().cloned().ok_or_else(|| Status::internal("the connection has no peer"))
}

fn certificate(peer: &Peer) -> Result<PeerCertificate, Status> {
    peer.certificate.clone().ok_or_else(|| Status::unauthenticated("a client certificate is required; enrol first"))
}

impl AgentService {
    /// Checks a certificate as it is used. A line that is revoked, or shows itself copied, is refused for good.
    async fn admit(&self, peer: &Peer) -> Result<PeerCertificate, Status> {
        let certificate = certificate(peer)?;
        if certificate.not_after_ms <= Timestamp::now().as_millisecond() {
            return Err(Status::unauthenticated("the certificate has expired"));
        }
        let agent = &certificate.id.agent;
        let (code, refused) = match self.app.store.use_certificate(&certificate.serial, Timestamp::now()).await {
            Ok(CertificateCheck::Good) => return Ok(certificate),
            Ok(CertificateCheck::Unknown) => {
                (Code::PermissionDenied, "this controller did not issue that certificate; enrol anew".to_owned())
            }
            // Enrolling anew by itself would undo a revocation: that takes a person.
            Ok(CertificateCheck::Revoked(why)) => (Code::FailedPrecondition, format!("the agent is revoked: {why}")),
            Ok(CertificateCheck::Copied) => {
                self.app.expel(agent).await;
                let why =
                    "the certificate's successor has been used: its key has been copied, and the agent is now revoked";
                (Code::FailedPrecondition, why.to_owned())
            }
            Err(error) => return Err(unavailable(&error)),
        };
        self.app.audit(&format!("agent {agent}"), "connect", &refused, &peer.address.to_string(), "").await;
        Err(Status::new(code, refused))
    }

    async fn issue(
        &self,
        id: &AgentId,
        predecessor: Option<&str>,
        public_key: &[u8],
    ) -> Result<Response<Credentials>, Status> {
        let issued = self
            .app
            .authority
            .issue_agent(id, public_key)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let noted =
            Certificate { serial: &issued.serial, agent: &id.agent, predecessor, not_after_ms: issued.not_after_ms };
        self.app.store.put_certificate(&noted).await.map_err(|error| unavailable(&error))?;
        Ok(Response::new(Credentials {
            certificate: issued.der,
            authority: self.app.authority.root_der().to_vec(),
            renew_after_s: AGENT_LIFE.as_secs() / 2,
        }))
    }
}

fn unavailable(error: &crate::store::StoreError) -> Status {
    tracing::error!(%error, "the store failed an agent");
    let mut status = Status::unavailable(error.to_string());
    status.metadata_mut().insert("retry-after-ms", tonic::metadata::MetadataValue::from_static("2000"));
    status
}

#[tonic::async_trait]
impl Controller for AgentService {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<Credentials>, Status> {
        let peer = peer(&request)?;
        let source = peer.address.to_string();
        let EnrolRequest { token, public_key } = request.into_inner();
        // Before the token is spent.
        authority::public_key(&public_key).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let enrolled = match secret::split_join_token(&token, &self.app.authority.fingerprint()) {
            Some((id, secret)) => self.app.store.enrol(id, secret, peer.address.ip(), Timestamp::now()).await,
            None => Err(JoinRefused::Unknown),
        };
        match enrolled {
            Ok(id) => {
                let credentials = self.issue(&id, None, &public_key).await?;
                tracing::info!(agent = id.agent, fleet = %id.fleet, source, "enrolled");
                self.app.audit(&format!("agent {}", id.agent), "enrol", "ok", &source, &id.fleet.to_string()).await;
                Ok(credentials)
            }
            Err(JoinRefused::Store(error)) => Err(unavailable(&error)),
            Err(refused) => {
                self.app.audit("-", "enrol", &refused.to_string(), &source, "").await;
                Err(Status::permission_denied(
                    "the join token is not valid here (unknown, expired, used up or bound to another source); make another one",
                ))
            }
        }
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<Credentials>, Status> {
        let certificate = self.admit(&peer(&request)?).await?;
        let renewed = self.issue(&certificate.id, Some(&certificate.serial), &request.into_inner().public_key).await?;
        tracing::info!(agent = certificate.id.agent, "renewed");
        Ok(renewed)
    }

    type ConnectStream = Pin<Box<dyn Stream<Item = Result<ToAgent, Status>> + Send>>;

    async fn connect(&self, request: Request<Streaming<FromAgent>>) -> Result<Response<Self::ConnectStream>, Status> {
        let peer = peer(&request)?;
        let certificate = self.admit(&peer).await?;
        let mut incoming = request.into_inner();
        let first = tokio::time::timeout(HELLO_WITHIN, incoming.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no hello came"))??;
        let Some(FromAgent { message: Some(from_agent::Message::Hello(hello)) }) = first else {
            return Err(Status::invalid_argument("the first message must be hello"));
        };
        let now = Timestamp::now();
        let identity = hello.identity.unwrap_or_default().try_into().map_err(|error| invalid(&error))?;
        let clock_skew_ms = hello.clock_ms.saturating_sub(now.as_millisecond());
        let (sender, outgoing) = mpsc::channel(OUTBOX);
        let agent = certificate.id.agent.clone();
        let version = escape(&hello.version);
        self.app
            .store
            .agent_connected(&agent, &identity, &version, clock_skew_ms, now)
            .await
            .map_err(|error| unavailable(&error))?;
        // The first message, before the roster lets runs send questions.
        let left_ms = certificate.not_after_ms.saturating_sub(now.as_millisecond());
        let half_life_ms = i64::try_from(AGENT_LIFE.as_millis() / 2).unwrap_or(i64::MAX);
        let welcome = Welcome {
            agent: agent.clone(),
            clock_ms: now.as_millisecond(),
            renew_after_s: u64::try_from((left_ms - half_life_ms) / 1_000).unwrap_or(0),
            controller_ports: self.app.ports.iter().map(|port| u32::from(*port)).collect(),
        };
        let welcome = ToAgent { message: Some(to_agent::Message::Welcome(welcome)) };
        sender.try_send(welcome).map_err(|_| Status::internal("the stream was full before it began"))?;
        let arrival = Arrival {
            id: certificate.id.clone(),
            instance: bounded_instance(hello.instance)?,
            identity,
            sender: sender.clone(),
        };
        let Ok(connection) = self.app.roster.arrive(arrival, now) else {
            let why = "two processes take turns with its certificate: its key has been copied";
            self.app.revoke(&agent, why).await.map_err(|error| unavailable(&error))?;
            self.app.audit(&format!("agent {agent}"), "connect", why, &peer.address.to_string(), "").await;
            return Err(Status::failed_precondition(format!("{why}; the agent is now revoked")));
        };
        tracing::info!(agent, fleet = %certificate.id.fleet, source = %peer.address, clock_skew_ms, "connected");
        let (results, stream) = mpsc::channel(1);
        // From the arrival on nothing may be awaited here: whoever hangs up would leave the roster with a stream that is none.
        let talk = Talk { app: self.app.clone(), certificate, connection, sender };
        let service = self.clone();
        tokio::spawn(async move {
            // A revocation while the hello was waited for found nothing in the roster to remove. Nothing is read before this.
            match service.admit(&peer).await {
                Ok(_) => talk.hold(incoming, outgoing, results).await,
                Err(refused) => {
                    talk.ended(false, &refused).await;
                    let _ = results.try_send(Err(refused));
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

fn bounded_instance(instance: String) -> Result<String, Status> {
    const MAX: usize = 64;
    if instance.len() <= MAX {
        Ok(instance)
    } else {
        Err(Status::invalid_argument("the instance has more than 64 bytes"))
    }
}

fn invalid(error: &ConvertError) -> Status {
    Status::invalid_argument(error.to_string())
}

/// Sends a message and those that wait behind it, in their order. What was acknowledged together is told together: with a thousand
/// agents, a wake-up and a record for each cell would cost more than the probes.
async fn send_all(
    first: ToAgent,
    waiting: &mut mpsc::Receiver<ToAgent>,
    results: &mpsc::Sender<Result<ToAgent, Status>>,
) -> Result<(), mpsc::error::SendError<Result<ToAgent, Status>>> {
    // Reports that were stored together are acknowledged one after the other: let them come.
    tokio::task::yield_now().await;
    let mut last = first;
    while let Ok(next) = waiting.try_recv() {
        match (&mut last.message, next.message) {
            (Some(to_agent::Message::Acknowledge(all)), Some(to_agent::Message::Acknowledge(one)))
                if all.run == one.run =>
            {
                all.more.push(one.cell);
                all.more.extend(one.more);
            }
            (_, message) => results.send(Ok(std::mem::replace(&mut last, ToAgent { message }))).await?,
        }
    }
    results.send(Ok(last)).await
}

/// One agent's stream.
struct Talk {
    app: Arc<App>,
    certificate: PeerCertificate,
    connection: Connection,
    sender: mpsc::Sender<ToAgent>,
}

impl Talk {
    /// Until the agent goes, its certificate ends, or it is told to go.
    async fn hold(
        self,
        mut incoming: Streaming<FromAgent>,
        mut outgoing: mpsc::Receiver<ToAgent>,
        results: mpsc::Sender<Result<ToAgent, Status>>,
    ) {
        let left_ms = self.certificate.not_after_ms.saturating_sub(Timestamp::now().as_millisecond());
        let expiry = tokio::time::sleep(Duration::from_millis(u64::try_from(left_ms).unwrap_or(0)));
        tokio::pin!(expiry);
        let talk = Arc::new(self);
        let slots = Arc::new(tokio::sync::Semaphore::new(REPORTS_AT_ONCE));
        let (failed, mut failures) = mpsc::channel::<Status>(1);
        let mut goodbye = false;
        let end = loop {
            tokio::select! {
                biased;
                status = talk.told_to_end(expiry.as_mut()) => break status,
                Some(status) = failures.recv() => break status,
                () = results.closed() => break Status::cancelled("the agent is gone"),
                Some(message) = outgoing.recv() => tokio::select! {
                    status = talk.told_to_end(expiry.as_mut()) => break status,
                    sent = send_all(message, &mut outgoing, &results) => if sent.is_err() {
                        break Status::cancelled("the agent is gone");
                    }
                },
                message = incoming.message() => match message {
                    Ok(Some(FromAgent { message: Some(from_agent::Message::Report(report)) })) => {
                        let slot = tokio::select! {
                            status = talk.told_to_end(expiry.as_mut()) => break status,
                            slot = slots.clone().acquire_owned() => slot,
                        };
                        let (talk, failed) = (talk.clone(), failed.clone());
                        // Reports of several runs are on their way to the disk at the same time.
                        tokio::spawn(async move {
                            if let Err(status) = talk.report(report).await {
                                let _ = failed.try_send(status);
                            }
                            drop(slot);
                        });
                    }
                    Ok(Some(FromAgent { message: Some(from_agent::Message::Identity(identity)) })) => {
                        let told = identity.try_into().map_err(|error| invalid(&error));
                        let noted = match told {
                            Ok(identity) => talk.told(&identity).await,
                            Err(status) => Err(status),
                        };
                        if let Err(status) = noted {
                            break status;
                        }
                    }
                    Ok(Some(FromAgent { message: Some(from_agent::Message::Goodbye(_)) })) => {
                        goodbye = true;
                        break Status::ok("goodbye");
                    }
                    Ok(Some(FromAgent { message: Some(from_agent::Message::Hello(_)) | None })) => {
                        break Status::invalid_argument("this message may not come here");
                    }
                    Ok(None) => break Status::ok("the agent closed the stream"),
                    Err(status) => break status,
                },
            }
        };
        talk.ended(goodbye, &end).await;
        if end.code() != Code::Ok {
            let _ = results.try_send(Err(end));
        }
    }

    /// Waits until the stream must end, whatever the agent does or does not read.
    async fn told_to_end(&self, expiry: Pin<&mut tokio::time::Sleep>) -> Status {
        tokio::select! {
            () = self.connection.kick.notified() => Status::aborted("the controller ended this stream"),
            () = expiry => Status::unauthenticated("the certificate has expired"),
        }
    }

    async fn ended(&self, goodbye: bool, end: &Status) {
        let agent = &self.certificate.id.agent;
        let now = Timestamp::now();
        if self.app.roster.depart(agent, self.connection.number, goodbye, now)
            && let Err(error) = self.app.store.agent_gone(agent, goodbye, now).await
        {
            tracing::error!(agent, %error, "failed to note that an agent is gone");
        }
        tracing::info!(agent, goodbye, why = end.message(), "disconnected");
    }

    async fn told(&self, identity: &NetworkIdentity) -> Result<(), Status> {
        let agent = &self.certificate.id.agent;
        if self.app.roster.told(agent, identity) {
            tracing::info!(agent, identity = %identity.key(), "has another network identity than before");
            self.app.store.put_identity(agent, identity).await.map_err(|error| unavailable(&error))?;
        }
        Ok(())
    }

    /// Takes in a report and acknowledges it once it is on disk.
    async fn report(&self, report: preflight_proto::agent::Report) -> Result<(), Status> {
        let at = Timestamp::now();
        let AgentReport { run, cell, region, release, identity, report, clock_ms } =
            report.try_into().map_err(|error| invalid(&error))?;
        let agent = &self.certificate.id.agent;
        self.told(&identity).await?;
        let label = Label { run: run.clone(), cell: cell.clone(), region, release };
        let clock_skew_ms = clock_ms.saturating_sub(at.as_millisecond());
        let testimony = Testimony { identity, report, clock_skew_ms };
        match self.app.runs.report(label, self.certificate.id.clone(), testimony, at).await {
            Ok(None) => {}
            Ok(Some(refused)) => tracing::info!(agent, run = escape(&run), %refused, "a report does not count"),
            Err(error) => return Err(unavailable(&error)),
        }
        let acknowledge = to_agent::Message::Acknowledge(Acknowledge { run, cell: cell.0, more: Vec::new() });
        let _ = self.sender.send(ToAgent { message: Some(acknowledge) }).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use preflight_proto::agent::Cancel;

    use super::*;

    #[tokio::test]
    async fn what_waits_is_sent_in_order_and_acknowledged_together() {
        let (say, mut waiting) = mpsc::channel(16);
        let (results, mut sent) = mpsc::channel(16);
        let acknowledge = |run: &str, cell: &str, more: &[&str]| {
            let more = more.iter().map(|cell| (*cell).to_owned()).collect();
            to_agent::Message::Acknowledge(Acknowledge { run: run.into(), cell: cell.into(), more })
        };
        let cancel = to_agent::Message::Cancel(Cancel { run: "r1".into() });
        let all = [
            acknowledge("r1", "a", &[]),
            acknowledge("r1", "b", &[]),
            acknowledge("r2", "c", &[]),
            cancel.clone(),
            acknowledge("r2", "d", &[]),
            acknowledge("r2", "e", &[]),
        ];
        for message in all {
            say.send(ToAgent { message: Some(message) }).await.unwrap();
        }
        let first = waiting.recv().await.unwrap();
        send_all(first, &mut waiting, &results).await.unwrap();
        drop(results);
        let mut got = Vec::new();
        while let Some(message) = sent.recv().await {
            got.push(message.unwrap().message.unwrap());
        }
        let want =
            [acknowledge("r1", "a", &["b"]), acknowledge("r2", "c", &[]), cancel, acknowledge("r2", "d", &["e"])];
        assert_eq!(got, want);
    }
}

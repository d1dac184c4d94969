//! One stream, from `Hello` to its end.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use preflight_core::identity::NetworkIdentity;
use preflight_core::text;
use preflight_proto::agent::{self, from_agent, to_agent};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{interval_at, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tracing::{debug, error, info, warn};

use crate::answers::Key;
use crate::backoff::{Backoff, Setback};
use crate::dial::Link;
use crate::enrol::{EnrolError, renew};
use crate::identity::Identity;
use crate::life::{random, told_to_stop};
use crate::metrics::Metrics;
use crate::prober::{HostGuard, Prober};
use crate::refusal;
use crate::runs::{Runs, clock_ms};
use crate::state::{Credentials, StateDir};

/// How long the controller may take to say `Welcome`.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a goodbye may take.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Messages on their way to the connection; the rest waits here, so that a slow controller holds up nothing else.
const IN_TRANSIT: usize = 8;
/// A clock that is off by more is worth a warning.
const SKEW: Duration = Duration::from_mins(1);
/// How often this host's network identity is read again between runs: groups change while a host lives, and the controller
/// must know of every identity that a fleet has, also of hosts that a run does not ask.
const FOLLOW: Duration = Duration::from_secs(15);
/// The least time between two renewals, and the most that a timer is set for.
const RENEW_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(24 * 30));

/// How a stream ended.
#[derive(Debug)]
pub enum End {
    /// The process was told to stop, and the controller knows.
    Stopped,
    /// There is a new certificate, on disk: connect with that.
    Renewed(Credentials),
    /// It broke, or never came about.
    Lost(Setback),
}

/// What a stream works with.
pub struct Context<'a, P> {
    /// The connection.
    pub link: Link,
    /// The certificate that it uses.
    pub credentials: &'a Credentials,
    /// Random for each start of the process.
    pub instance: &'a str,
    /// Where a new certificate goes.
    pub state: &'a StateDir,
    /// What this host is to network policy.
    pub identity: &'a Identity,
    /// The host's say on what is dialled.
    pub guard: &'a HostGuard,
    /// What is asked, under way and answered.
    pub runs: &'a mut Runs<P>,
    /// Told when the stream is up.
    pub metrics: &'a Metrics,
    /// Turns true when the process is to stop.
    pub stop: watch::Receiver<bool>,
    /// Told when the stream is up.
    pub backoff: &'a mut Backoff,
}

/// Holds the stream until it ends.
pub async fn attend<P: Prober>(mut context: Context<'_, P>) -> End {
    match open(&mut context).await {
        Ok((stream, welcome, told)) => stream.attend(context, &welcome, told).await,
        Err(status) => {
            warn!("the controller does not take the stream: {}", refusal::describe(&status));
            End::Lost(refusal::of_status(&status))
        }
    }
}

/// Says `Hello` and waits for `Welcome`. Returns also the identity that was told.
async fn open<P>(context: &mut Context<'_, P>) -> Result<(Stream, agent::Welcome, NetworkIdentity), Status> {
    let (outgoing, receiver) = mpsc::channel(IN_TRANSIT);
    let identity = context.identity.current().await.unwrap_or_default();
    let hello = agent::Hello {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        instance: context.instance.to_owned(),
        identity: Some((&identity).into()),
        clock_ms: clock_ms(),
    };
    let full = |_| Status::internal("a new stream is full");
    outgoing.try_send(message(from_agent::Message::Hello(hello))).map_err(full)?;
    let opening = async {
        let mut incoming = context.link.client.connect(ReceiverStream::new(receiver)).await?.into_inner();
        match incoming.message().await?.and_then(|message| message.message) {
            Some(to_agent::Message::Welcome(welcome)) => Ok((incoming, welcome)),
            Some(_) => Err(Status::internal("the controller's first message is no welcome")),
            None => Err(Status::unavailable("the controller ended the stream at once")),
        }
    };
    let late = |_| Status::deadline_exceeded("no welcome in time");
    let (incoming, welcome) = timeout(WELCOME_TIMEOUT, opening).await.map_err(late)??;
    Ok((Stream { outgoing, incoming, outbox: VecDeque::new(), reported: 0 }, welcome, identity))
}

fn message(message: from_agent::Message) -> agent::FromAgent {
    agent::FromAgent { message: Some(message) }
}

/// An open stream.
struct Stream {
    outgoing: mpsc::Sender<agent::FromAgent>,
    incoming: Streaming<agent::ToAgent>,
    /// Reports to send.
    outbox: VecDeque<Key>,
    /// Reports sent since the last time that nothing was under way.
    reported: u32,
}

impl Stream {
    async fn attend<P: Prober>(
        mut self,
        context: Context<'_, P>,
        welcome: &agent::Welcome,
        mut told: NetworkIdentity,
    ) -> End {
        let Context { link, credentials, state, identity, guard, runs, metrics, mut stop, backoff, .. } = context;
        greet(welcome);
        metrics.connected(true);
        guard.controller_listens_on(welcome.controller_ports.iter().filter_map(|port| u16::try_from(*port).ok()));
        backoff.up(Instant::now());
        self.outbox.extend(runs.unacknowledged());
        if !self.outbox.is_empty() {
            info!(reports = self.outbox.len(), "sending again what was not acknowledged");
        }
        let mut follow = interval_at(tokio::time::Instant::now() + FOLLOW, FOLLOW);
        let mut renewal = Renewal::new(welcome.renew_after_s);
        loop {
            tokio::select! {
                received = self.incoming.message() => match received {
                    Ok(Some(message)) => self.receive(message, runs),
                    Ok(None) => return lost(&Status::unavailable("the controller ended the stream")),
                    Err(status) => return lost(&status),
                },
                key = runs.finished() => self.outbox.push_back(key),
                permit = self.outgoing.clone().reserve_owned(), if !self.outbox.is_empty() => match permit {
                    Ok(permit) => {
                        // What was cancelled meanwhile has no report any more.
                        if let Some(report) = self.outbox.pop_front().and_then(|key| runs.report(&key)) {
                            debug!(run = %text::escape(&report.run), cell = %text::escape(&report.cell), "reporting");
                            permit.send(message(from_agent::Message::Report(report.clone())));
                            self.reported += 1;
                        }
                        if self.outbox.is_empty() && runs.is_idle() {
                            info!(reports = std::mem::take(&mut self.reported), "reported; nothing is under way");
                        }
                    }
                    // The connection is gone; `incoming` says why.
                    Err(_) => self.outbox.clear(),
                },
                _ = follow.tick() => self.follow(identity, &mut told).await,
                outcome = renewal.next(&link, credentials) => if let Some(renewed) = renewal.settle(outcome, state) {
                    return End::Renewed(renewed);
                },
                () = told_to_stop(&mut stop) => {
                    self.goodbye().await;
                    return End::Stopped;
                }
            }
        }
    }

    fn receive<P: Prober>(&mut self, message: agent::ToAgent, runs: &mut Runs<P>) {
        match message.message {
            Some(to_agent::Message::Ask(ask)) => self.outbox.extend(runs.ask(ask)),
            Some(to_agent::Message::Acknowledge(agent::Acknowledge { run, cell, more })) => {
                for cell in std::iter::once(cell).chain(more) {
                    debug!(run = %text::escape(&run), cell = %text::escape(&cell), "acknowledged");
                    runs.acknowledge(&Key { run: run.clone(), cell });
                }
            }
            Some(to_agent::Message::Cancel(agent::Cancel { run })) => runs.cancel(&run),
            Some(to_agent::Message::Welcome(_)) => debug!("the controller said welcome twice"),
            // A newer controller's message.
            None => debug!("the controller sent a message that this version does not know"),
        }
    }

    /// Tells the controller if this host's identity has changed. One that cannot be read now voids what a run asks for.
    async fn follow(&self, identity: &Identity, told: &mut NetworkIdentity) {
        let Ok(current) = identity.current().await else { return };
        if current == *told {
            return;
        }
        // A connection that is busy is told at the next turn.
        if self.outgoing.try_send(message(from_agent::Message::Identity((&current).into()))).is_ok() {
            info!(identity = %current.key(), "the network identity of this host has changed");
            *told = current;
        }
    }

    /// Tells the controller that this agent stops on purpose, and waits until it has understood.
    async fn goodbye(mut self) {
        let said = async {
            let _ = self.outgoing.send(message(from_agent::Message::Goodbye(agent::Goodbye {}))).await;
            drop(self.outgoing);
            while let Ok(Some(_)) = self.incoming.message().await {}
        };
        if timeout(GOODBYE_TIMEOUT, said).await.is_err() {
            warn!("the controller did not answer the goodbye");
        }
    }
}

fn greet(welcome: &agent::Welcome) {
    let agent = text::escape(&welcome.agent);
    info!(%agent, "connected");
    let skew_ms = clock_ms().saturating_sub(welcome.clock_ms);
    if u128::from(skew_ms.unsigned_abs()) > SKEW.as_millis() {
        warn!(skew_s = skew_ms / 1000, "this host's clock is ahead of the controller's by that much");
    }
}

fn lost(status: &Status) -> End {
    warn!("lost the controller: {}", refusal::describe(status));
    End::Lost(refusal::of_status(status))
}

/// When the certificate is renewed, and the renewal under way.
struct Renewal {
    at: tokio::time::Instant,
    backoff: Backoff,
    task: JoinSet<Result<Credentials, EnrolError>>,
}

impl Renewal {
    fn new(after_s: u64) -> Self {
        let after = Duration::from_secs(after_s).clamp(RENEW_RANGE.0, RENEW_RANGE.1);
        Self { at: tokio::time::Instant::now() + after, backoff: Backoff::default(), task: JoinSet::new() }
    }

    /// Begins the renewal when it is due, and waits for its end. Can be dropped at any point without loss.
    async fn next(&mut self, link: &Link, credentials: &Credentials) -> Result<Credentials, EnrolError> {
        if self.task.is_empty() {
            sleep_until(self.at).await;
            info!("renewing the certificate");
            self.task.spawn(renew(link.clone(), credentials.clone()));
        }
        match self.task.join_next().await {
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) | None => Err(EnrolError::Silent),
        }
    }

    /// A new certificate is of use only once it is on disk: its first use makes the controller refuse the old one, and
    /// with that every start from what is still there.
    fn settle(&mut self, outcome: Result<Credentials, EnrolError>, state: &StateDir) -> Option<Credentials> {
        let setback = match outcome {
            Ok(credentials) => match state.store(&credentials) {
                Ok(()) => {
                    info!("renewed the certificate");
                    return Some(credentials);
                }
                Err(problem) => {
                    error!("the new certificate is not used: {problem}");
                    Setback::Refusal
                }
            },
            Err(problem) => {
                warn!("the certificate is not renewed: {problem}");
                refusal::of_enrolment(&problem)
            }
        };
        let wait = self.backoff.next(Instant::now(), setback, random());
        self.at = tokio::time::Instant::now() + wait.max(RENEW_RANGE.0);
        None
    }
}

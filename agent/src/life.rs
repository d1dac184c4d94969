//! An agent's life: enrol, connect, answer, renew, until it is told to stop.
//!
//! Once it has begun, nothing but being told to stop ends it: whatever the controller or the network does, it backs off and tries again, for
//! an agent that exits is one that somebody has to miss first. A revoked agent stays out until a person empties its state
//! directory. A certificate that is refused otherwise (unknown, expired) or that belongs to another authority is replaced with the join token if there is one to use, and tried again if not,
//! in windows of up to five minutes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::address::ControllerAddress;
use crate::backoff::{Backoff, Setback};
use crate::dial::{DialError, dial};
use crate::enrol::enrol;
use crate::identity::Identity;
use crate::metrics::Metrics;
use crate::policy::ControllerPorts;
use crate::prober::{HostGuard, Prober};
use crate::refusal;
use crate::runs::Runs;
use crate::state::{Credentials, Found, StateDir, StateError};
use crate::stream::{self, Context, End};
use crate::token::{Fingerprint, JoinToken, TokenError};
use crate::trust;

/// What an agent is made of.
#[derive(Debug)]
pub struct Agent<P> {
    /// Where the controller is.
    pub controller: ControllerAddress,
    /// Where the join token is, when one is needed.
    pub token_file: PathBuf,
    /// Where key and certificate are.
    pub state: StateDir,
    /// What this host is to network policy.
    pub identity: Arc<Identity>,
    /// The host's say on what is dialled.
    pub guard: Arc<HostGuard>,
    /// What is asked, under way and answered.
    pub runs: Runs<P>,
    /// What this agent tells of itself.
    pub metrics: Arc<Metrics>,
}

/// What to do next.
#[derive(Debug)]
enum Step {
    /// Get a certificate. The refused one, if any, is tried again should that fail.
    Enrol(Option<Credentials>),
    /// Connect with this one.
    Connect(Credentials),
}

/// How a step ended.
#[derive(Debug)]
enum Turn {
    /// The process was told to stop.
    Stopped,
    /// Go on at once.
    Next(Step),
    /// Go on after a wait.
    Wait(Step, Setback),
}

/// Why an agent cannot begin: waiting would not help, a person must act.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state directory cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// There is no certificate yet, and no join token to get one with.
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// Lives until `stop` turns true. Fails only at the start: if the state directory cannot be read, or if it holds no
/// certificate and there is no join token.
pub async fn live<P: Prober>(mut agent: Agent<P>, mut stop: watch::Receiver<bool>) -> Result<(), StartError> {
    let instance = format!("{:016x}{:016x}", random_bits(), random_bits());
    let mut backoff = Backoff::default();
    // Each step is on the heap while it lasts, so that enrolling costs nothing for the rest of the life.
    let mut next_step = first_step(agent.state.load()?);
    if matches!(next_step, Step::Enrol(_)) {
        JoinToken::read(&agent.token_file)?;
    }
    loop {
        let turn = match next_step {
            Step::Enrol(refused) => Box::pin(agent.enrol(refused, &mut stop)).await,
            Step::Connect(credentials) => {
                Box::pin(agent.connect(credentials, &instance, &mut backoff, &mut stop)).await
            }
        };
        next_step = match turn {
            Turn::Stopped => break,
            Turn::Next(next) => next,
            Turn::Wait(next, setback) => {
                let wait = backoff.next(Instant::now(), setback, random());
                info!(ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX), "retry in");
                if unless(&mut stop, tokio::time::sleep(wait)).await.is_none() {
                    break;
                }
                next
            }
        };
    }
    info!("stopped");
    Ok(())
}

fn first_step(found: Found) -> Step {
    match found {
        Found::Credentials(credentials) => Step::Connect(credentials),
        Found::Nothing => Step::Enrol(None),
        Found::PutAside { why, to } => {
            warn!(why, kept_as = %to.display(), "what the state directory held is of no use here; enrolling anew");
            Step::Enrol(None)
        }
    }
}

impl<P: Prober> Agent<P> {
    async fn enrol(&mut self, refused: Option<Credentials>, stop: &mut watch::Receiver<bool>) -> Turn {
        info!(controller = %self.controller, token_file = %self.token_file.display(), "enrolling");
        let Some(outcome) = unless(stop, enrol(&self.controller, &self.token_file)).await else { return Turn::Stopped };
        match outcome {
            Ok(credentials) => {
                match self.state.store(&credentials) {
                    Ok(()) => info!("enrolled"),
                    // The token was spent on it, so it is used as long as this process lives.
                    Err(problem) => error!("enrolled, but this agent must enrol anew at its next start: {problem}"),
                }
                Turn::Next(Step::Connect(credentials))
            }
            Err(problem) => {
                let setback = refusal::of_enrolment(&problem);
                match setback {
                    Setback::Passing { .. } => warn!("not enrolled, and tried again: {problem}"),
                    Setback::Refusal | Setback::Revoked => error!(
                        "not enrolled: {problem}. Waiting does not help: `preflight token join --region R --fleet F` prints a join \
                         token; write it to {}, which is read again at each try",
                        self.token_file.display()
                    ),
                }
                match refused {
                    Some(credentials) => Turn::Wait(Step::Connect(credentials), Setback::Refusal),
                    None => Turn::Wait(Step::Enrol(None), setback),
                }
            }
        }
    }

    async fn connect(
        &mut self,
        credentials: Credentials,
        instance: &str,
        backoff: &mut Backoff,
        stop: &mut watch::Receiver<bool>,
    ) -> Turn {
        let tls = match trust::mutual(&credentials) {
            Ok(tls) => tls,
            Err(problem) => {
                error!("the stored certificate cannot be used, enrolling anew: {problem}");
                return Turn::Next(Step::Enrol(None));
            }
        };
        info!(controller = %self.controller, "connecting");
        let dialling = async { tokio::join!(dial(&self.controller, tls), self.identity.detect()).0 };
        let Some(dialled) = unless(stop, Box::pin(dialling)).await else { return Turn::Stopped };
        let link = match dialled {
            Ok(link) => link,
            Err(problem) => {
                warn!("{problem}");
                let setback = self.verdict_on(&problem, &credentials);
                return self.after(credentials, setback);
            }
        };
        let own = Some(link.local);
        let ports = ControllerPorts::new(link.controller.iter().copied(), self.controller.port, own);
        self.guard.controller_is_at(ports);
        self.identity.connected_from(link.local).await;
        let context = Context {
            link,
            credentials: &credentials,
            instance,
            state: &self.state,
            identity: &self.identity,
            guard: &self.guard,
            runs: &mut self.runs,
            metrics: &self.metrics,
            stop: stop.clone(),
            backoff,
        };
        let end = stream::attend(context).await;
        self.metrics.connected(false);
        match end {
            End::Stopped => Turn::Stopped,
            End::Renewed(renewed) => Turn::Next(Step::Connect(renewed)),
            End::Lost(setback) => self.after(credentials, setback),
        }
    }

    /// A controller of another authority is an impostor, which may be gone the next time; unless the join token names
    /// another authority too: then the operator has moved this agent.
    fn verdict_on(&self, problem: &DialError, credentials: &Credentials) -> Setback {
        let current = Fingerprint::of(&credentials.authority);
        let moved = || JoinToken::read(&self.token_file).is_ok_and(|token| token.authority != current);
        if problem.is_another_authority() && moved() { Setback::Refusal } else { refusal::of_dial(problem) }
    }

    fn after(&self, credentials: Credentials, setback: Setback) -> Turn {
        match setback {
            Setback::Passing { .. } => Turn::Wait(Step::Connect(credentials), setback),
            // Enrolling anew would undo what somebody decided.
            Setback::Revoked => {
                error!(
                    "this agent is revoked and stays out; to let it in again, empty {} and start it with a fresh join token",
                    self.state.path().display()
                );
                Turn::Wait(Step::Connect(credentials), setback)
            }
            Setback::Refusal => {
                error!(
                    "certificate and controller do not accept each other; to enrol this agent anew, make a join token \
                     with `preflight token join --region R --fleet F` and write it to {}",
                    self.token_file.display()
                );
                Turn::Wait(Step::Enrol(Some(credentials)), setback)
            }
        }
    }
}

/// What a future gives, or nothing once the process is to stop.
async fn unless<T>(stop: &mut watch::Receiver<bool>, future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = told_to_stop(stop) => None,
        output = future => Some(output),
    }
}

/// Waits until the process is to stop, also if whoever tells it so is gone.
pub(crate) async fn told_to_stop(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Uniform in 0 … 1.
pub(crate) fn random() -> f64 {
    // 53 bits are what an f64 holds exactly.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    let fraction = (random_bits() >> 11) as f64 / (1u64 << 53) as f64;
    fraction
}

fn random_bits() -> u64 {
    // Without the kernel's randomness there is no TLS either; time spreads retries well enough until that is said.
    getrandom::u64().unwrap_or_else(|_| std::process::id().into())
}

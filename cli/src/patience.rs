//! How long a call is made again and again: until the caller's wait is over, and a little longer for a run that has begun.

use std::time::Duration;

use preflight_core::text::escape_to;
use tokio::time::Instant;

use crate::client::{CallError, Client};
use crate::failure::Failure;
use crate::progress::Reporter;

/// What a run that began may take beyond the wait until its answer is here.
const GRACE: Duration = Duration::from_secs(5);
/// The first pause between two attempts; each later one is twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The time that is left for a call, and what came of the attempts so far.
pub(crate) struct Patience {
    wait: Duration,
    start: Instant,
    pause: Duration,
    reached: bool,
    /// For a caller that must not be held up: how long to try while nobody answers.
    hurry: Option<Duration>,
    /// Somebody has taken this attempt up.
    in_touch: bool,
    /// When somebody answered last, or the start.
    answered: Instant,
}

/// Why a call was given up.
#[derive(Debug)]
pub(crate) struct GivenUp {
    /// As a command says it.
    pub(crate) failure: Failure,
    /// What it means for who may go on without.
    pub(crate) cause: Cause,
}

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Nobody could be asked, and why.
    Unavailable(String),
    /// The controller took the call up and did not end it in time, and why.
    Slow(String),
    /// Whoever answered is not known to be the controller, or does not know this token; and why.
    Stranger(String),
    /// The controller refuses what was asked for.
    Refused,
    /// Anything else: somebody answered, or the question was wrong.
    Other,
}

impl Cause {
    fn of(error: &CallError) -> Self {
        let why = || escape_to(&error.to_string(), 500);
        if error.is_unavailable() {
            Self::Unavailable(why())
        } else if error.is_a_stranger() {
            Self::Stranger(why())
        } else if error.is_refusal() {
            Self::Refused
        } else {
            Self::Other
        }
    }
}

impl From<Failure> for GivenUp {
    fn from(failure: Failure) -> Self {
        Self { failure, cause: Cause::Other }
    }
}

impl From<GivenUp> for Failure {
    fn from(given_up: GivenUp) -> Self {
        given_up.failure
    }
}

impl Patience {
    /// Starts the clock.
    pub(crate) fn new(wait: Duration) -> Self {
        let now = Instant::now();
        Self { wait, start: now, pause: FIRST_PAUSE, reached: false, in_touch: false, hurry: None, answered: now }
    }

    /// The same for a caller that must not be held up: who cannot be asked is tried for `hurry` only.
    pub(crate) fn hurried(wait: Duration, hurry: Duration) -> Self {
        Self { hurry: Some(hurry), ..Self::new(wait) }
    }

    /// Somebody is there and carries out the call.
    pub(crate) fn answered(&mut self) {
        (self.reached, self.in_touch, self.answered) = (true, true, Instant::now());
    }

    /// By when an attempt that has got through must be answered.
    pub(crate) fn deadline(&self) -> Instant {
        self.start + self.wait + GRACE
    }

    /// By when there must be a connection: who was never reached is not waited for beyond the wait.
    pub(crate) fn connect_by(&self) -> Instant {
        match self.hurry {
            Some(hurry) => (self.answered + hurry).min(self.deadline()),
            None if self.reached => self.deadline(),
            None => self.start + self.wait,
        }
    }

    /// Pauses before the next attempt, or gives up.
    pub(crate) async fn again(
        &mut self,
        error: CallError,
        client: &Client,
        progress: &mut Reporter,
    ) -> Result<(), GivenUp> {
        self.reached |= error.reached();
        let end = self.connect_by();
        let next = Instant::now() + self.pause.mul_f64(jitter());
        let cause = self.cause(&error);
        let may_pass = error.may_pass() || (self.hurry.is_some() && error.is_unavailable());
        if matches!(error, CallError::Late) || (may_pass && next >= end) {
            return Err(GivenUp { failure: self.given_up(&error, client), cause });
        }
        if !may_pass {
            return Err(GivenUp { failure: error.failure(client.url()), cause });
        }
        progress.note(&format!(
            "controller {}: {error}; trying again until {} s are over",
            client.url(),
            self.hurry.unwrap_or(self.wait).as_secs_f32()
        ));
        tokio::time::sleep_until(next).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }

    /// What an attempt that ended in this way means.
    fn cause(&mut self, error: &CallError) -> Cause {
        let taken_up = std::mem::take(&mut self.in_touch);
        if taken_up && matches!(error, CallError::Late) {
            return Cause::Slow(escape_to(&error.to_string(), 500));
        }
        Cause::of(error)
    }

    fn given_up(&self, error: &CallError, client: &Client) -> Failure {
        let waited = self.start.elapsed().as_secs_f32();
        let what = if self.reached { "gave no answer that is whole" } else { "could not be reached" };
        let last = escape_to(&error.to_string(), 500);
        Failure::no_verdict(format!("controller {} {what} within {waited:.1} s: {last}", client.url())).fix(
            "Nothing is known, so do not ship on this. Check that preflight-controller runs and that this host may reach it, \
             then run the same command again, with a longer --wait if it needs one.",
        )
    }
}

/// From a half to one, so that pipelines which lost the same controller do not come back at the same moment.
fn jitter() -> f64 {
    let random = getrandom::u32().unwrap_or(u32::MAX);
    0.5 + f64::from(random) / f64::from(u32::MAX) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_took_the_call_up_and_was_slow_was_reached() {
        let mut patience = Patience::new(Duration::from_secs(1));
        assert!(matches!(patience.cause(&CallError::Late), Cause::Unavailable(_)));
        patience.answered();
        assert!(matches!(patience.cause(&CallError::Late), Cause::Slow(_)));
        assert!(matches!(patience.cause(&CallError::Late), Cause::Unavailable(_)), "the next attempt met nobody");
    }
}

//! Answers: a JSON body at the end of a run, or a line for each event while it is under way.

use std::convert::Infallible;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use preflight_proto::api::{Event, Gate, ProbeResults};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::problem::Failure;
use crate::runs::{Active, Handle, RunResult};

const NDJSON: &str = "application/x-ndjson";

/// Whether the caller asks for a line for each event.
pub(super) fn wanted(headers: &HeaderMap) -> bool {
    headers.get(ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|value| value.contains(NDJSON))
}

/// Waits for a run's result.
pub(super) async fn result(handle: Handle) -> Result<RunResult, Failure> {
    match handle {
        Handle::Ended(result) => Ok(result),
        Handle::Active(active) => Ok(active.result().await?),
    }
}

/// The gate's answer; an error if the run was of another kind.
pub(super) fn gate(result: RunResult) -> Result<Box<Gate>, Failure> {
    match result {
        RunResult::Gate(gate) => Ok(gate),
        RunResult::Probe(_) => Err(Failure::internal("a probe run in a gate's place")),
    }
}

/// The results of an ad hoc run; an error if the run was of another kind.
pub(super) fn probe(result: RunResult) -> Result<ProbeResults, Failure> {
    match result {
        RunResult::Probe(results) => Ok(results),
        RunResult::Gate(_) => Err(Failure::internal("a probe's run gave a verdict")),
    }
}

/// A line for each event, the result last. With `abandon` a caller that goes away ends the run: nobody could join it again.
pub(super) fn lines(handle: Handle, abandon: bool) -> Response {
    let (lines, received) = mpsc::channel::<Event>(64);
    tokio::spawn(async move {
        let last = match handle {
            Handle::Ended(result) => Ok(result),
            Handle::Active(active) => tokio::select! {
                result = follow(&active, &lines) => result,
                () = lines.closed(), if abandon => return active.abandon(),
            },
        };
        let _ = lines
            .send(match last {
                Ok(RunResult::Gate(gate)) => Event::Gate(gate),
                Ok(RunResult::Probe(results)) => Event::Done(results),
                Err(failure) => Event::Error(failure.into_problem()),
            })
            .await;
    });
    let body = ReceiverStream::new(received).map(|event| {
        let mut line = serde_json::to_vec(&event).unwrap_or_default();
        line.push(b'\n');
        Ok::<_, Infallible>(line)
    });
    ([(CONTENT_TYPE, NDJSON)], Body::from_stream(body)).into_response()
}

async fn follow(active: &Active, lines: &mpsc::Sender<Event>) -> Result<RunResult, Failure> {
    let mut events = active.events();
    let result = active.result();
    tokio::pin!(result);
    loop {
        tokio::select! {
            biased;
            event = events.recv() => match event {
                // A caller that reads slowly misses progress, never the result.
                Ok(event) => { let _ = lines.try_send(event); }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(result.await?),
            },
            ended = &mut result => return Ok(ended?),
        }
    }
}

//! Errors as the API tells them: `{"error": {"code", "message", "fix"}}`.

use std::sync::Arc;

use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use preflight_core::diagnostic::Diagnostic;
use preflight_core::plan::PlanError;
use preflight_proto::api::{Problem, ProblemBody, Releases};

use crate::quota::Busy;
use crate::runs::RunError;
use crate::store::StoreError;

const REFUSED: &str = "refused";

/// What a response says was refused, for the audit log.
#[derive(Debug, Clone)]
pub(super) struct Refusal(pub(super) String);

/// A request that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    body: ProblemBody,
    /// In how many seconds it is worth trying again.
    retry_after_s: Option<u64>,
}

impl Failure {
    fn new(status: StatusCode, code: &str, message: impl Into<String>, fix: Option<String>) -> Self {
        Self {
            status,
            body: ProblemBody { code: code.to_owned(), message: message.into(), fix, releases: None },
            retry_after_s: None,
        }
    }

    /// What the caller wrote is wrong.
    pub(crate) fn usage(message: impl Into<String>, fix: impl Into<Option<String>>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "usage", message, fix.into())
    }

    pub(crate) fn unauthorized() -> Self {
        let fix = "Look where the token came from (PREFLIGHT_TOKEN, or the context file) and whether it is this controller's; \
                   `preflight token create` makes a new one.";
        let message = "the token is missing, unknown, expired or revoked";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message, Some(fix.to_owned()))
    }

    pub(crate) fn forbidden(scope: &str) -> Self {
        let fix = format!(
            "Ask an administrator for a token with that scope: `preflight token create --name … --scope {scope}`."
        );
        let message = format!("the token lacks the scope '{scope}'");
        Self::new(StatusCode::FORBIDDEN, "forbidden", message, Some(fix))
    }

    /// What was asked for must not be done as things stand: exit 4.
    pub(crate) fn refused(message: impl Into<String>, fix: impl Into<Option<String>>) -> Self {
        Self::new(StatusCode::CONFLICT, REFUSED, message, fix.into())
    }

    /// The same with the regions side by side.
    pub(crate) fn beside(mut self, releases: Releases) -> Self {
        self.body.releases = Some(Box::new(releases));
        self
    }

    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("there is no {what}"), None)
    }

    /// There is nothing of the name that the caller gave.
    pub(crate) fn unknown(what: &str, fix: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "usage", format!("there is no {what}"), Some(fix.to_owned()))
    }

    /// There is no verdict of that id.
    pub(crate) fn no_verdict(id: &str) -> Self {
        let what = format!("verdict {}", preflight_core::text::escape(id));
        Self::unknown(&what, "`preflight audit --action verdict` has the ids of those that were given.")
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message, None)
    }

    /// The error as a streamed answer tells it.
    pub(crate) fn into_problem(self) -> Problem {
        Problem { error: self.body }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let wait = self.retry_after_s.map(|seconds| [(RETRY_AFTER, seconds.to_string())]);
        let refusal = (self.body.code == REFUSED).then(|| Extension(Refusal(self.body.message.clone())));
        (self.status, wait, refusal, Json(self.into_problem())).into_response()
    }
}

impl From<&StoreError> for Failure {
    fn from(error: &StoreError) -> Self {
        tracing::error!(%error, "the store failed");
        if error.is_retryable() {
            let fix = Some("Try again in a moment.".to_owned());
            Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", error.to_string(), fix)
        } else {
            Self::internal(error.to_string())
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::from(&error)
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        match &error {
            RunError::Store(store) => Self::from(Arc::as_ref(store)),
            RunError::OtherRequest(_) | RunError::Stale(..) => {
                Self::new(StatusCode::CONFLICT, "conflict", error.to_string(), None)
            }
            RunError::Stopping => Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", error.to_string(), None),
        }
    }
}

impl From<Busy> for Failure {
    fn from(busy: Busy) -> Self {
        let seconds = busy.retry_after_s();
        let fix = match busy {
            Busy::Principal | Busy::Controller => "Try again when one of them has ended.".to_owned(),
            Busy::Targets { .. } => format!("Try again in {seconds} s, or name fewer targets."),
        };
        let failure = Self::new(StatusCode::TOO_MANY_REQUESTS, "busy", busy.to_string(), Some(fix));
        Self { retry_after_s: Some(seconds), ..failure }
    }
}

impl From<Diagnostic> for Failure {
    fn from(error: Diagnostic) -> Self {
        let Diagnostic { file, line, column, message, fix } = error;
        Self::usage(format!("{file}:{line}:{column}: {message}"), fix)
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        if let PlanError::Manifest(diagnostic) = error {
            return diagnostic.into();
        }
        let fix = error.fix();
        Self::usage(error.to_string(), fix)
    }
}

/// What nothing answers.
pub(crate) async fn not_found() -> Failure {
    Failure::not_found("such page; GET /openapi.json lists them all")
}

/// Errors that the framework answers by itself (a body that is too large, or not JSON) get the same form.
pub(crate) async fn as_json(request: Request, next: Next) -> Response {
    const MAX_TEXT: usize = 4_096;
    let response = next.run(request).await;
    let status = response.status();
    let json = response.headers().get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/"));
    if !(status.is_client_error() || status.is_server_error()) || json {
        return response;
    }
    let text = to_bytes(response.into_body(), MAX_TEXT).await.unwrap_or_default();
    let message = preflight_core::text::escape(&String::from_utf8_lossy(&text));
    let code = match status {
        StatusCode::PAYLOAD_TOO_LARGE => "too_large",
        StatusCode::METHOD_NOT_ALLOWED => "not_found",
        _ if status.is_client_error() => "usage",
        _ => "internal",
    };
    let message = if message.is_empty() { status.to_string() } else { message };
    Failure::new(status, code, message, None).into_response()
}

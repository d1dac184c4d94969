//! What a controller's error means for the next try.

use std::time::Duration;

use preflight_core::text;
use tonic::{Code, Status};

use crate::backoff::Setback;
use crate::dial::DialError;
use crate::enrol::EnrolError;

/// When to try again after `status`: a certificate or token that is refused stays refused until a person acts.
pub fn of_status(status: &Status) -> Setback {
    if status.code() == Code::FailedPrecondition {
        return Setback::Revoked;
    }
    if matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated) || alert(&chain(status)) {
        return Setback::Refusal;
    }
    let hint = status.metadata().get("retry-after-ms").and_then(|value| value.to_str().ok()?.parse().ok());
    Setback::Passing { retry_after: hint.map(Duration::from_millis) }
}

/// When to try again after a connection that did not come about.
pub fn of_dial(error: &DialError) -> Setback {
    let refused = match error {
        DialError::Tls { source, .. } => alert(&source.to_string()),
        DialError::Http2 { source, .. } => alert(&chain(source)),
        DialError::Address(_) | DialError::Resolve { .. } | DialError::Connect { .. } => false,
    };
    if refused { Setback::Refusal } else { Setback::Passing { retry_after: None } }
}

/// When to try again after an enrolment that came to nothing.
pub fn of_enrolment(error: &EnrolError) -> Setback {
    match error {
        EnrolError::Call(status) => of_status(status),
        EnrolError::Dial(error) => of_dial(error),
        EnrolError::Unfit(_) => Setback::Refusal,
        EnrolError::Token(_) | EnrolError::Silent | EnrolError::Key(_) => Setback::Passing { retry_after: None },
    }
}

/// A controller's error as one safe line.
pub fn describe(status: &Status) -> String {
    let causes = std::error::Error::source(status).map(|cause| format!(": {}", chain(cause))).unwrap_or_default();
    format!("{} ({:?})", text::escape(&format!("{}{causes}", status.message())), status.code())
}

/// Whether the peer ended TLS because it does not accept our certificate (RFC 8446, 6.2). In TLS 1.3 that comes after the
/// handshake, through layers that keep of it only the text.
fn alert(text: &str) -> bool {
    let refusals = [
        "BadCertificate",
        "UnsupportedCertificate",
        "CertificateRevoked",
        "CertificateExpired",
        "CertificateUnknown",
        "UnknownCA",
        "AccessDenied",
    ];
    refusals.iter().any(|name| text.contains(&format!("received fatal alert: {name}")))
}

/// An error with its causes, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_must_change_is_a_refusal() {
        for status in [Status::permission_denied("revoked"), Status::unauthenticated("who?")] {
            assert_eq!(of_status(&status), Setback::Refusal);
        }
        let alert = Status::unknown("transport error: received fatal alert: CertificateExpired");
        assert_eq!(of_status(&alert), Setback::Refusal);
        assert_eq!(of_status(&Status::failed_precondition("revoked")), Setback::Revoked);
        let busy = Status::unavailable("starting");
        assert_eq!(of_status(&busy), Setback::Passing { retry_after: None });
    }

    #[test]
    fn a_hint_is_read() {
        let mut status = Status::resource_exhausted("too many at once");
        status.metadata_mut().insert("retry-after-ms", "1500".parse().unwrap());
        let want = Setback::Passing { retry_after: Some(Duration::from_millis(1500)) };
        assert_eq!(of_status(&status), want);
        status.metadata_mut().insert("retry-after-ms", "soon".parse().unwrap());
        assert_eq!(of_status(&status), Setback::Passing { retry_after: None });
    }

    #[test]
    fn a_message_cannot_paint_the_terminal() {
        assert_eq!(describe(&Status::permission_denied("\x1b[31mno")), "\\u{1b}[31mno (PermissionDenied)");
    }
}

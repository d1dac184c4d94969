//! Why a phase ended a probe.

use preflight_core::observation::Outcome;
use preflight_core::reason::{Short, Void};
use preflight_core::text;

/// Where a probe ended short of what is required, and what was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Short or void.
    pub(crate) outcome: Outcome,
    /// One bounded, escaped line.
    pub(crate) detail: Option<String>,
}

impl Failure {
    /// The target or the path falls short.
    pub(crate) fn short(reason: Short, detail: impl AsRef<str>) -> Self {
        Self { outcome: Outcome::Short(reason), detail: line(detail.as_ref()) }
    }

    /// The agent's own trouble.
    pub(crate) fn void(reason: Void, detail: impl AsRef<str>) -> Self {
        Self { outcome: Outcome::Void(reason), detail: line(detail.as_ref()) }
    }
}

/// Details are made of our words and the peer's: escaping the whole leaves ours as they are. What is escaped already comes
/// out the same, since an escape is plain text.
fn line(detail: &str) -> Option<String> {
    (!detail.is_empty()).then(|| text::escape_to(detail, 2 * text::MAX_CHARS))
}

//! Who calls, and whether they may: tokens with scopes, sent as bearer tokens, or as the password of those who can only do that.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::Response;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use jiff::Timestamp;

use super::problem::{Failure, Refusal};
use crate::agents::Peer;
use crate::app::App;
use crate::secret;

/// What a token lets its holder do. `admin` includes all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Any token at all.
    Any,
    Read,
    Probe,
    Gate,
    Release,
    Override,
    Admin,
}

/// The scopes that a token may be given.
pub(crate) const SCOPES: [&str; 6] = ["read", "probe", "gate", "release", "override", "admin"];

impl Scope {
    fn admits(self, scopes: &str) -> bool {
        let has = |name: &str| scopes.split(',').any(|scope| scope == name || scope == "admin");
        match self {
            Self::Any => true,
            // Who may ask for verdicts or probes may look at them.
            Self::Read => ["read", "gate", "probe", "release", "override"].into_iter().any(has),
            Self::Probe => has("probe"),
            Self::Gate => has("gate"),
            Self::Release => has("release"),
            Self::Override => has("override"),
            Self::Admin => has("admin"),
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Any | Self::Read => "read",
            Self::Probe => "probe",
            Self::Gate => "gate",
            Self::Release => "release",
            Self::Override => "override",
            Self::Admin => "admin",
        }
    }
}

/// The caller, as handlers see it.
#[derive(Debug, Clone)]
pub(crate) struct Principal {
    pub(crate) name: String,
    pub(crate) source: String,
    scopes: String,
}

impl Principal {
    /// Whether the caller may do what takes this scope, too.
    pub(crate) fn may(&self, scope: Scope) -> bool {
        scope.admits(&self.scopes)
    }
}

/// Lets a request through if its token has the scope; writes into the audit log if not.
pub(crate) async fn require(
    State((app, scope)): State<(Arc<App>, Scope)>,
    mut request: Request,
    next: Next,
) -> Result<Response, Failure> {
    let source = request.extensions().get::<Peer>().map(|peer| peer.address.to_string()).unwrap_or_default();
    let action = format!("{} {}", request.method(), request.uri().path());
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let sent = header.and_then(sent);
    let token = sent.as_deref().and_then(secret::split_api_token);
    let known = match token {
        Some((id, secret)) => app.store.api_token(id, secret, Timestamp::now()).await?,
        None => None,
    };
    let Some((name, scopes)) = known else {
        app.audit("-", &action, "401", &source, "no valid token").await;
        return Err(Failure::unauthorized());
    };
    if !scope.admits(&scopes) {
        app.audit(&name, &action, "403", &source, &format!("the token has {scopes}")).await;
        return Err(Failure::forbidden(scope.as_str()));
    }
    request.extensions_mut().insert(Principal { name: name.clone(), source: source.clone(), scopes });
    let response = next.run(request).await;
    if let Some(Refusal(why)) = response.extensions().get() {
        app.audit(&name, &action, "refused", &source, why).await;
    }
    Ok(response)
}

/// The token of an `Authorization` header: `Bearer TOKEN`, or `Basic` with it as the password and any user's name (RFC 7617), which
/// is what clients send for credentials in a URL.
fn sent(header: &str) -> Option<String> {
    let (scheme, rest) = header.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(BASE64_STANDARD.decode(rest.trim()).ok()?).ok()?;
    // A user's name holds no colon.
    pair.split_once(':').map(|(_, password)| password.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_sent_in_either_way() {
        let basic = |text: &str| format!("Basic {}", BASE64_STANDARD.encode(text));
        for header in ["Bearer pf1.a.b", "bearer pf1.a.b", &basic("preflight:pf1.a.b"), &basic(":pf1.a.b")] {
            assert_eq!(sent(header).as_deref(), Some("pf1.a.b"), "{header}");
        }
        for header in ["", "pf1.a.b", "Digest pf1.a.b", "Basic pf1.a.b", "Basic !", &basic("pf1.a.b"), "Basic //4="] {
            assert_eq!(sent(header), None, "{header}");
        }
    }
}

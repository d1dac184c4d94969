//! HTTP/1.1 (RFC 9110, RFC 9112): one `GET` of the target's path, without credentials, and the head of its answer.
//!
//! - **Sent**: `GET`, `Host` as in the URL (also where TLS asks for another name), `User-Agent`, `Accept: */*` and `Connection: close`. No
//!   `Accept-Encoding`, so that a body comes as it is (RFC 9110, 12.5.3). Over TLS, ALPN offers `http/1.1`.
//! - **Accepted**: a well-formed head with an accepted status; interim answers (1xx) are skipped (RFC 9110, 15.2). Where a text is asked for,
//!   it has to stand in the body's first 64 KiB, chunks joined. A head longer than 4 KiB is known by its status line.
//! - **Left** by closing after the answer, what the server still sends being read for a moment: nobody counts that as an error.

mod body;
pub(crate) mod head;

use futures_util::future::BoxFuture;
use preflight_core::reason::Short;
use preflight_core::spec::{HttpOptions, ProbeSpec};
use preflight_core::target::{Host, Target};
use preflight_core::text;

use self::body::Body;
use self::head::{Head, Read, StatusLine};
use crate::failure::Failure;
use crate::protocol::{Protocol, Shown, Wire};

/// The HTTP/1.1 protocol.
pub(crate) struct Http;

/// How probes name themselves.
pub(crate) const USER_AGENT: &str = concat!("preflight/", env!("CARGO_PKG_VERSION"));

/// The longest head, in bytes, where a body is looked at; without one the wire's bound is shorter.
const MAX_HEAD: usize = 16 * 1024;

/// What servers that want TLS on a port say in plain HTTP, with a 400: nginx, Apache, Go, and those who copy them.
const WANTS_TLS: [&str; 4] = ["to HTTPS port", "to an HTTPS server", "SSL-enabled server port", "requires TLS"];

impl Protocol for Http {
    fn alpn(&self) -> &'static [&'static [u8]] {
        &[b"http/1.1"]
    }

    fn lingers(&self) -> bool {
        true
    }

    fn open<'a>(&'a self, wire: &'a mut Wire<'_>, spec: &'a ProbeSpec) -> BoxFuture<'a, Result<Shown, Failure>> {
        Box::pin(async move {
            let options = &spec.http;
            if options.body.is_some() {
                wire.allow(MAX_HEAD + HttpOptions::MAX_BODY);
            }
            wire.send(request(&spec.target).as_bytes()).await;
            let (head, begin) = match answer(wire).await? {
                Answer::Whole(head, begin) => (head, begin),
                Answer::TooLong(first) => return too_long(&first, options),
            };
            let first = &head.first;
            if !options.accepts(first.status) {
                return Err(unaccepted(first, wire.received().get(begin..).unwrap_or_default()));
            }
            if let Some(wanted) = &options.body {
                search(wire, &head, begin, wanted).await?;
            } else if first.status == 400 && !spec.target.scheme.is_tls() && wants_tls(wire, &head, begin).await {
                return Err(Failure::short(
                    Short::StatusUnexpected,
                    format!("the port wants TLS, so use https: {}", first.line),
                ));
            }
            let note = options.status.is_empty().then(|| note(&head)).flatten();
            Ok(Shown { note, ..Shown::default() })
        })
    }
}

/// The target's host and port as an HTTP authority (RFC 9110, 7.2), without the dot at the end of a name.
pub(crate) fn authority(target: &Target) -> String {
    format!("{}:{}", host(target), target.port)
}

fn host(target: &Target) -> String {
    match &target.host {
        Host::Name(name) => name.trim_end_matches('.').to_owned(),
        Host::Ip(_) => target.host.to_string(),
    }
}

fn request(target: &Target) -> String {
    let path = if target.path.is_empty() { "/" } else { &target.path };
    let default = target.scheme.default_port() == Some(target.port);
    let host = if default { host(target) } else { authority(target) };
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {USER_AGENT}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    )
}

/// What came back.
enum Answer {
    /// A head, and where the body begins.
    Whole(Head, usize),
    /// A head that is longer than what is read.
    TooLong(StatusLine),
}

/// Waits for the final answer's head.
async fn answer(wire: &mut Wire<'_>) -> Result<Answer, Failure> {
    let mut begin = 0;
    let mut seen = 0;
    loop {
        let bytes = wire.received().get(begin..).unwrap_or_default();
        // A line that is not at its end changes nothing but the very first one, which garbage shows by.
        let fresh = bytes.get(seen..).unwrap_or_default();
        if seen < 64 || fresh.contains(&b'\n') || wire.room() == 0 {
            match head::read(bytes) {
                Read::Foreign => return Err(foreign(wire)),
                Read::Whole(head, length) if head.first.status < 200 => {
                    begin += length;
                    seen = 0;
                    continue;
                }
                Read::Whole(head, length) => return Ok(Answer::Whole(head, begin + length)),
                Read::Incomplete(Some(first))
                    if first.status >= 200 && (bytes.len() >= MAX_HEAD || wire.room() == 0) =>
                {
                    return Ok(Answer::TooLong(first));
                }
                Read::Incomplete(_) => {}
            }
        }
        seen = bytes.len();
        wire.more().await?;
    }
}

/// What answers is not HTTP/1.x.
fn foreign(wire: &Wire<'_>) -> Failure {
    // RFC 9113, 3.4: a server's first frame is SETTINGS, type 4 on stream 0.
    let is_settings = matches!(wire.received(), [0, 0, _, 4, _, 0, 0, 0, 0, ..]);
    let what = match wire.received() {
        _ if is_settings => "it speaks HTTP/2 only, and this probe HTTP/1.1",
        [0x15, 3, ..] => "the port wants TLS, so use https",
        _ => "not an HTTP/1.x answer",
    };
    wire.unexpected(what)
}

fn too_long(first: &StatusLine, options: &HttpOptions) -> Result<Shown, Failure> {
    if !options.accepts(first.status) {
        return Err(unaccepted(first, &[]));
    }
    if options.body.is_some() {
        let detail = format!("the head has no end within what is read: {}", first.line);
        return Err(Failure::short(Short::ProtocolUnexpected, detail));
    }
    Ok(Shown { note: Some(format!("the head is longer than is read: {}", first.line)), ..Shown::default() })
}

fn unaccepted(first: &StatusLine, body: &[u8]) -> Failure {
    let begin = if body.is_empty() { String::new() } else { format!(": {}", text::escape_bytes(body)) };
    Failure::short(Short::StatusUnexpected, format!("{}{begin}", first.line))
}

/// What to know of a status that is accepted only because the manifest names none.
fn note(head: &Head) -> Option<String> {
    let StatusLine { status, line } = &head.first;
    match status {
        300..=399 => Some(match &head.location {
            Some(location) => format!("redirects to {location} ({status})"),
            None => format!("answers {line}"),
        }),
        401 | 407 => Some(format!("asks for a login ({status})")),
        403 => Some(format!("asks for a login, or refuses this client ({status})")),
        400.. => Some(format!("answers {line}, which `http: {{status: [2xx]}}` in the manifest would not accept")),
        _ => None,
    }
}

/// Reads the body until it contains `wanted`.
async fn search(wire: &mut Wire<'_>, head: &Head, begin: usize, wanted: &str) -> Result<(), Failure> {
    let mut body = Body::new(head.framing);
    loop {
        let taken = body.take(wire.received().get(begin..).unwrap_or_default());
        if body.contains(wanted) {
            return Ok(());
        }
        if let Err(broken) = taken {
            return Err(wire.unexpected(broken.0));
        }
        if body.is_whole() || body.is_full() || wire.room() == 0 {
            return Err(absent(&body, head, wanted));
        }
        if !wire.more_or_end().await? {
            return Err(if body.ends_by_close() { absent(&body, head, wanted) } else { wire.closed("closed") });
        }
    }
}

fn absent(body: &Body, head: &Head, wanted: &str) -> Failure {
    let packed = head.encoding.as_ref().map(|how| format!(", compressed by {how} though unasked")).unwrap_or_default();
    let (all, length) = (if body.is_whole() && !body.is_full() { "" } else { "the first " }, body.len());
    let begins = if length == 0 { String::new() } else { format!("; it begins: {}", body.begin()) };
    let detail = format!("'{wanted}' is not in {all}{length} bytes of the body{packed}{begins}");
    Failure::short(Short::BodyUnexpected, detail)
}

/// Whether a 400 says that the port wants TLS: every request in the clear would be told so.
async fn wants_tls(wire: &mut Wire<'_>, head: &Head, begin: usize) -> bool {
    let mut body = Body::new(head.framing);
    loop {
        let taken = body.take(wire.received().get(begin..).unwrap_or_default());
        if WANTS_TLS.iter().any(|words| body.says(words)) {
            return true;
        }
        if taken.is_err() || body.is_whole() || wire.room() == 0 || !wire.more_or_end().await.is_ok_and(|more| more) {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_one_get() {
        for (url, path, host) in [
            ("http://api.internal", "/", "api.internal"),
            ("http://api.internal.:80/", "/", "api.internal"),
            ("http://api.internal:8080/health?full=1", "/health?full=1", "api.internal:8080"),
            ("https://api.internal:443/a", "/a", "api.internal"),
            ("https://api.internal:80/a", "/a", "api.internal:80"),
            ("http://[fd00::1]:8080", "/", "[fd00::1]:8080"),
            ("http://[fd00::1]", "/", "[fd00::1]"),
            ("http://10.0.0.1", "/", "10.0.0.1"),
        ] {
            let request = request(&url.parse().unwrap());
            let mut lines = request.split("\r\n");
            assert_eq!(lines.next(), Some(format!("GET {path} HTTP/1.1").as_str()));
            assert_eq!(lines.next(), Some(format!("Host: {host}").as_str()));
            assert!(request.ends_with("\r\nConnection: close\r\n\r\n"), "{request}");
        }
    }
}

//! gRPC over HTTP/2 (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>, RFC 9113): one unary call of
//! `grpc.health.v1.Health/Check`, for the service that the URL's path names, or for the server as a whole.
//!
//! - **Sent**: the HTTP/2 preface, by prior knowledge in the clear and over TLS after ALPN has chosen `h2`; one request without credentials. The
//!   server may push nothing, and its headers, frames and window are small.
//! - **Accepted**: `SERVING`, with `grpc-status: 0`. A server without a health service speaks gRPC all the same, which is the proof unless a service
//!   was named; one that asks for a login has proven the path too.
//! - **Left** by `GOAWAY` with `NO_ERROR` once the call has ended (RFC 9113, 6.8).

mod message;

use std::io::Cursor;

use futures_util::future::{BoxFuture, Either, select};
use h2::client::{Builder, SendRequest};
use h2::{Reason, RecvStream};
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version};
use preflight_core::reason::Short;
use preflight_core::spec::ProbeSpec;
use preflight_core::target::Target;
use preflight_core::text;

use self::message::Health;
use crate::failure::Failure;
use crate::http::authority;
use crate::protocol::{Protocol, Shown, Wire};

/// The gRPC protocol.
pub(crate) struct Grpc;

const CHECK: &str = "/grpc.health.v1.Health/Check";

/// The most of an answer's message that is looked at, in bytes.
const MAX_MESSAGE: usize = 2 * 1024;

type Call = SendRequest<Cursor<Vec<u8>>>;

impl Protocol for Grpc {
    fn alpn(&self) -> &'static [&'static [u8]] {
        &[b"h2"]
    }

    fn lingers(&self) -> bool {
        true
    }

    fn open<'a>(&'a self, wire: &'a mut Wire<'_>, spec: &'a ProbeSpec) -> BoxFuture<'a, Result<Shown, Failure>> {
        Box::pin(async move {
            if spec.speaks_tls() && wire.alpn() != Some(b"h2") {
                let detail = "over TLS the server does not choose h2 (ALPN), which gRPC clients insist on";
                return Err(Failure::short(Short::ProtocolUnexpected, detail));
            }
            let service = spec.target.path.strip_prefix('/').unwrap_or_default();
            let ended = exchange(wire, &spec.target, service).await;
            // What the connection itself met says more than what HTTP/2 makes of it.
            let answer = ended.map_err(|error| broken(wire, &error))?;
            judge(&answer, service)
        })
    }
}

/// How the server ended the call.
#[derive(Debug, Default)]
struct Answer {
    http: StatusCode,
    headers: HeaderMap,
    message: Vec<u8>,
    trailers: HeaderMap,
}

async fn exchange(wire: &mut Wire<'_>, target: &Target, service: &str) -> Result<Answer, h2::Error> {
    let handshake = Builder::new()
        .enable_push(false)
        .max_header_list_size(4 * 1024)
        .max_frame_size(16 * 1024)
        .header_table_size(0)
        .initial_window_size(4 * 1024)
        .initial_connection_window_size(64 * 1024)
        .max_concurrent_reset_streams(1)
        .max_pending_accept_reset_streams(1)
        .handshake::<_, Cursor<Vec<u8>>>(wire);
    let (client, connection) = handshake.await?;
    let call = std::pin::pin!(call(client, target, service));
    // The call's end drops its handle, and a connection without one leaves by GOAWAY.
    match select(call, connection).await {
        Either::Left((answer, connection)) => {
            let answer = answer?;
            // How the goodbye goes changes nothing of what was said.
            let _ = connection.await;
            Ok(answer)
        }
        Either::Right((ended, call)) => {
            ended?;
            call.await
        }
    }
}

/// The call, by a handle that it takes with it.
async fn call(client: Call, target: &Target, service: &str) -> Result<Answer, h2::Error> {
    let mut client = client.ready().await?;
    let (answer, mut sending) = client.send_request(request(target), false)?;
    sending.send_data(Cursor::new(message::request(service)), true)?;
    let (head, mut body) = answer.await?.into_parts();
    let mut answer = Answer { http: head.status, headers: head.headers, ..Answer::default() };
    // What is no gRPC is judged by its head.
    if is_grpc(&answer) {
        read(&mut body, &mut answer).await?;
    }
    Ok(answer)
}

async fn read(body: &mut RecvStream, answer: &mut Answer) -> Result<(), h2::Error> {
    while let Some(part) = body.data().await {
        let part = part?;
        answer.message.extend_from_slice(&part);
        body.flow_control().release_capacity(part.len())?;
        if answer.message.len() > MAX_MESSAGE {
            return Ok(());
        }
    }
    answer.trailers = body.trailers().await?.unwrap_or_default();
    Ok(())
}

fn request(target: &Target) -> Request<()> {
    let scheme = if target.scheme.is_tls() { "https" } else { "http" };
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    // A host is a DNS name or an address, and those are always authorities.
    *request.uri_mut() = format!("{scheme}://{}{CHECK}", authority(target)).parse().unwrap_or_default();
    let headers = request.headers_mut();
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(USER_AGENT, HeaderValue::from_static(crate::http::USER_AGENT));
    request
}

fn is_grpc(answer: &Answer) -> bool {
    let typed = |value: &HeaderValue| value.as_bytes().starts_with(b"application/grpc");
    answer.http == StatusCode::OK && answer.headers.get(CONTENT_TYPE).is_some_and(typed)
}

/// What the answer comes to.
fn judge(answer: &Answer, service: &str) -> Result<Shown, Failure> {
    if !is_grpc(answer) {
        return Err(plain(answer));
    }
    if answer.message.len() > MAX_MESSAGE {
        return Err(unexpected("the answer is too long for a health check's"));
    }
    // An answer without a message carries its status in the head ("Trailers-Only").
    let code = answer.trailers.get(STATUS).or_else(|| answer.headers.get(STATUS));
    let Some(code) = code.and_then(|code| code.to_str().ok()) else {
        return Err(unexpected("it speaks gRPC and ends the call without a status (grpc-status)"));
    };
    let said = answer.trailers.get(MESSAGE).or_else(|| answer.headers.get(MESSAGE));
    let said = said.map(|said| format!(": {}", text::escape_bytes(said.as_bytes()))).unwrap_or_default();
    let named = if service.is_empty() { String::new() } else { format!(" of {service}") };
    let status = |name: &str| format!("the health check{named} ends with {name}{said}");
    let noted = |note: String| Ok(Shown { note: Some(note), ..Shown::default() });
    match code {
        "0" => serving(&answer.message, &named),
        "5" => Err(Failure::short(Short::StatusUnexpected, status("NOT_FOUND (5): it does not know the service"))),
        "7" => noted(format!("asks for a login (PERMISSION_DENIED){said}")),
        "12" if service.is_empty() => noted(format!("speaks gRPC, has no health service{said}")),
        "12" => Err(Failure::short(Short::StatusUnexpected, status("UNIMPLEMENTED (12): it has no health service"))),
        "14" => Err(Failure::short(Short::NotReady, status("UNAVAILABLE (14)"))),
        "16" => noted(format!("asks for a login (UNAUTHENTICATED){said}")),
        _ => match code.parse::<u8>().ok().and_then(|code| NAMES.get(usize::from(code))) {
            Some(name) => Err(Failure::short(Short::StatusUnexpected, status(&format!("{name} ({code})")))),
            None => Err(unexpected(&format!("a status that gRPC does not have: {}", text::escape(code)))),
        },
    }
}

const STATUS: &str = "grpc-status";
const MESSAGE: &str = "grpc-message";

/// The names of the status codes, from 0 (<https://github.com/grpc/grpc/blob/master/doc/statuscodes.md>).
const NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

fn serving(message: &[u8], named: &str) -> Result<Shown, Failure> {
    let not_ready = |what: &str| Err(Failure::short(Short::NotReady, format!("the health check{named} says {what}")));
    match message::response(message) {
        Ok(Some(Health::Serving)) => Ok(Shown::default()),
        Ok(Some(Health::NotServing)) => not_ready("NOT_SERVING"),
        Ok(Some(Health::Unknown)) => not_ready("UNKNOWN"),
        Ok(Some(Health::ServiceUnknown)) => {
            let detail = format!("the health check{named} says SERVICE_UNKNOWN");
            Err(Failure::short(Short::StatusUnexpected, detail))
        }
        Ok(None) => Err(unexpected("the health check ends well, and without a whole answer")),
        Err(what) => Err(unexpected(what)),
    }
}

fn unexpected(what: &str) -> Failure {
    Failure::short(Short::ProtocolUnexpected, what)
}

/// An answer of HTTP/2 that is none of gRPC: mostly a proxy's own, or a web server's.
fn plain(answer: &Answer) -> Failure {
    let kind = answer.headers.get(CONTENT_TYPE).map(|kind| text::escape_bytes(kind.as_bytes()));
    let kind = kind.unwrap_or_else(|| "without a type".to_owned());
    let detail = format!("an answer of HTTP/2, but not of gRPC: {} ({kind})", answer.http);
    let reason = if answer.http == StatusCode::OK { Short::ProtocolUnexpected } else { Short::StatusUnexpected };
    Failure::short(reason, detail)
}

/// Why there is no answer.
fn broken(wire: &mut Wire<'_>, error: &h2::Error) -> Failure {
    if wire.received().starts_with(b"HTTP/1.") {
        return wire.unexpected("it answers in HTTP/1, and gRPC needs HTTP/2");
    }
    if wire.received().starts_with(&[0x15, 3]) {
        return wire.unexpected("the port wants TLS, so use grpcs");
    }
    // RFC 9113, 8.7 and 6.8: the request was not looked at, or the server is about to leave.
    let leaving = error.is_remote() && matches!(error.reason(), Some(Reason::REFUSED_STREAM | Reason::NO_ERROR));
    if leaving {
        return Failure::short(Short::NotReady, format!("it speaks HTTP/2, and takes no calls: {error}"));
    }
    if let Some(failure) = wire.failed().filter(|_| error.is_io() || !error.is_remote()) {
        return failure;
    }
    wire.unexpected(&format!("not gRPC over HTTP/2 ({error})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVING: &[u8] = &[0, 0, 0, 0, 2, 8, 1];

    fn headers(text: &str) -> HeaderMap {
        let pairs = text.split('|').filter_map(|pair| pair.split_once('='));
        pairs
            .map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    #[test]
    fn what_an_answer_comes_to() {
        let grpc = "content-type=application/grpc";
        let proto = "content-type=application/grpc+proto";
        let html = "content-type=text/html";
        let with = |status: &str| format!("{grpc}|grpc-status={status}");
        for (service, http, head, message, trailers, want, words) in [
            ("", 200, grpc, SERVING, "grpc-status=0", "ok", ""),
            ("a.B", 200, proto, SERVING, "grpc-status=0", "ok", ""),
            ("", 200, grpc, &[0, 0, 0, 0, 2, 8, 2], "grpc-status=0", "not_ready", "NOT_SERVING"),
            ("", 200, grpc, &[0, 0, 0, 0, 0], "grpc-status=0", "not_ready", "UNKNOWN"),
            ("", 200, grpc, &[0, 0, 0, 0, 2, 8, 3], "grpc-status=0", "status_unexpected", "SERVICE_UNKNOWN"),
            // Only the whole message with a good status is a proof.
            ("", 200, grpc, &SERVING[..6], "grpc-status=0", "protocol_unexpected", "whole"),
            ("", 200, grpc, b"", "grpc-status=0", "protocol_unexpected", "whole"),
            ("", 200, &with("0"), b"", "", "protocol_unexpected", "whole"),
            ("", 200, grpc, SERVING, "", "protocol_unexpected", "without a status"),
            ("", 200, grpc, SERVING, "grpc-message=x", "protocol_unexpected", "without a status"),
            ("", 200, grpc, SERVING, "grpc-status=17", "protocol_unexpected", "does not have: 17"),
            ("", 200, grpc, SERVING, "grpc-status=00", "status_unexpected", "OK (00)"),
            ("", 200, grpc, SERVING, "grpc-status=-1", "protocol_unexpected", "does not have"),
            // The trailers have the last word.
            ("", 200, &with("0"), SERVING, "grpc-status=14", "not_ready", "UNAVAILABLE (14)"),
            // Trailers-Only.
            ("", 200, &with("14|grpc-message=draining"), b"", "", "not_ready", "UNAVAILABLE (14): draining"),
            ("a.B", 200, &with("14"), b"", "", "not_ready", "of a.B"),
            ("", 200, &with("16"), b"", "", "ok", "UNAUTHENTICATED"),
            ("", 200, &with("7"), b"", "", "ok", "PERMISSION_DENIED"),
            ("", 200, &with("12"), b"", "", "ok", "no health service"),
            ("a.B", 200, &with("12"), b"", "", "status_unexpected", "UNIMPLEMENTED (12)"),
            ("a.B", 200, &with("5"), b"", "", "status_unexpected", "NOT_FOUND (5)"),
            ("", 200, &with("13"), b"", "", "status_unexpected", "INTERNAL (13)"),
            ("", 200, &with("4"), b"", "", "status_unexpected", "DEADLINE_EXCEEDED (4)"),
            // No gRPC, whatever its body and status say.
            ("", 502, html, b"", "", "status_unexpected", "502"),
            ("", 503, "", b"", "", "status_unexpected", "without a type"),
            ("", 401, html, b"", "", "status_unexpected", "401"),
            ("", 502, &with("0"), SERVING, "grpc-status=0", "status_unexpected", "502"),
            ("", 200, html, SERVING, "grpc-status=0", "protocol_unexpected", "text/html"),
            ("", 200, "", SERVING, "grpc-status=0", "protocol_unexpected", "without a type"),
        ] {
            let http = StatusCode::from_u16(http).unwrap();
            let answer =
                Answer { http, headers: headers(head), message: message.to_vec(), trailers: headers(trailers) };
            let (got, said) = match judge(&answer, service) {
                Ok(shown) => ("ok", shown.note.unwrap_or_default()),
                Err(failure) => (failure.outcome.reason().unwrap(), failure.detail.unwrap_or_default()),
            };
            assert_eq!(got, want, "{answer:?}: {said}");
            assert!(said.contains(words), "{answer:?}: {said}");
        }
        let long = Answer { message: vec![0; MAX_MESSAGE + 1], headers: headers(&with("0")), ..Answer::default() };
        assert!(judge(&long, "").is_err());
    }
}

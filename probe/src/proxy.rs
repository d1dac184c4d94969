//! An HTTP proxy that is asked to `CONNECT` to the target (RFC 9110, 9.3.6), without credentials.
//!
//! - **Sent**: `CONNECT host:port HTTP/1.1`, `Host` and `User-Agent`. The proxy resolves the target's name.
//! - **Accepted**: a well-formed head with a status of 2xx, which has no body, whatever it says of a length. Not one byte beyond it is read:
//!   what follows is the target's.
//! - **Otherwise**: 502, 503 and 504 say that the proxy could not reach the target, other statuses that it does not want to. Silence is a
//!   reason of its own, since a proxy that waits for a target that is dropped and one that hangs look the same.

use preflight_core::reason::Short;
use preflight_core::spec::{ProbeSpec, Proxy};
use preflight_core::target::Target;
use preflight_core::text;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::deadline;
use crate::failure::Failure;
use crate::http::head::{self, Head, Read};
use crate::http::{USER_AGENT, authority};

/// The longest head, in bytes.
const MAX_HEAD: usize = 4 * 1024;

/// Asks the proxy for a tunnel to the target.
pub(crate) async fn connect(stream: &mut TcpStream, spec: &ProbeSpec, via: &Proxy) -> Result<(), Failure> {
    let deadline = Instant::now() + spec.timeout.duration();
    // An error is left to the read that follows: a proxy that has refused already may have said why.
    let _ = stream.write_all(request(&spec.target).as_bytes()).await;
    let mut bytes = Vec::new();
    let end = deadline::until(deadline, answer(stream, &mut bytes)).await?;
    match end {
        Some(Ok(head)) => judge(via, &head),
        Some(Err(what)) => Err(unexpected(via, &what, &bytes)),
        None if bytes.is_empty() => {
            Err(Failure::short(Short::ProxyTimeout, format!("{via}: no answer to CONNECT in {}", spec.timeout)))
        }
        None => Err(unexpected(via, "no end of its answer in time", &bytes)),
    }
}

fn request(target: &Target) -> String {
    let authority = authority(target);
    format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: {USER_AGENT}\r\n\r\n")
}

/// Reads the final answer's head, and not a byte more.
async fn answer(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Result<Head, String> {
    let mut begin = 0;
    loop {
        let mut waiting = [0; 1024];
        let count = stream.peek(&mut waiting).await.map_err(|error| error.to_string())?;
        if count == 0 {
            return Err("closed".to_owned());
        }
        let waiting = waiting.get(..count).unwrap_or_default();
        let take = head_ends(bytes.get(begin..).unwrap_or_default(), waiting).unwrap_or(count);
        let before = bytes.len();
        bytes.resize(before + take, 0);
        // What was peeked is there: this does not wait.
        let taken = stream.read_exact(bytes.get_mut(before..).unwrap_or_default()).await;
        taken.map_err(|error| error.to_string())?;
        match head::read(bytes.get(begin..).unwrap_or_default()) {
            Read::Foreign => return Err("it does not answer as an HTTP proxy".to_owned()),
            Read::Whole(head, length) if head.first.status < 200 => begin += length,
            Read::Whole(head, _) => return Ok(head),
            Read::Incomplete(_) => {}
        }
        if bytes.len() >= MAX_HEAD {
            return Err("more than 4 KiB without an end".to_owned());
        }
    }
}

/// How many bytes of `fresh` belong to the head that `before` begins, if its end is among them: the first empty line.
fn head_ends(before: &[u8], fresh: &[u8]) -> Option<usize> {
    let tail = before.get(before.len().saturating_sub(3)..).unwrap_or_default();
    let both = [tail, fresh].concat();
    (tail.len()..both.len())
        .find(|end| {
            let seen = both.get(..=*end).unwrap_or_default();
            seen.ends_with(b"\n\r\n") || seen.ends_with(b"\n\n")
        })
        .map(|end| end + 1 - tail.len())
}

fn judge(via: &Proxy, head: &Head) -> Result<(), Failure> {
    let squid = head.squid_error.as_ref().map(|error| format!(" (X-Squid-Error: {error})")).unwrap_or_default();
    let detail = format!("{via}: {}{squid}", head.first.line);
    match head.first.status {
        200..=299 => Ok(()),
        // tinyproxy's word for a target that it cannot reach.
        500 if head.first.line.contains("Unable to connect") => Err(Failure::short(Short::ProxyTargetFailed, detail)),
        502..=504 => Err(Failure::short(Short::ProxyTargetFailed, detail)),
        407 => {
            Err(Failure::short(Short::ProxyRefused, format!("{detail}: it asks for a login, and probes carry none")))
        }
        _ => Err(Failure::short(Short::ProxyRefused, detail)),
    }
}

fn unexpected(via: &Proxy, what: &str, bytes: &[u8]) -> Failure {
    let shown = if bytes.is_empty() { String::new() } else { format!(": {}", text::escape_bytes(bytes)) };
    Failure::short(Short::ProxyUnexpected, format!("{via}: {what}{shown}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_names_the_target() {
        for (url, authority) in [
            ("https://api.example.com/health", "api.example.com:443"),
            ("tls://api.example.com.:8443", "api.example.com:8443"),
            ("https://[fd00::1]", "[fd00::1]:443"),
        ] {
            let request = request(&url.parse().unwrap());
            let want = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
            assert!(request.starts_with(&want) && request.ends_with("\r\n\r\n"), "{request}");
        }
    }

    #[test]
    fn the_end_of_a_head_is_found_wherever_it_is_cut() {
        let whole = b"HTTP/1.1 200 OK\r\nVia: x\r\n\r\n\x16\x03\x03";
        for cut in 0..whole.len() - 3 {
            assert_eq!(head_ends(&whole[..cut], &whole[cut..]), Some(whole.len() - 3 - cut), "{cut}");
        }
        assert_eq!(head_ends(b"HTTP/1.0 200 OK\n", b"\nx"), Some(1));
        assert_eq!(head_ends(b"", b"HTTP/1.0 200 OK\r\n\r"), None);
    }

    #[test]
    fn what_a_proxy_answers_and_what_it_means() {
        let via: Proxy = "http://proxy:3128".parse::<Target>().unwrap().try_into().unwrap();
        for (answer, want) in [
            ("200 Connection established\r\nContent-Length: 5\r\n", None),
            ("204 x\r\n", None),
            ("301 x\r\n", Some("proxy_refused")),
            ("400 x\r\n", Some("proxy_refused")),
            ("403 Forbidden\r\nX-Squid-Error: ERR_ACCESS_DENIED 0\r\n", Some("proxy_refused")),
            ("405 x\r\n", Some("proxy_refused")),
            ("407 x\r\n", Some("proxy_refused")),
            ("500 x\r\n", Some("proxy_refused")),
            ("500 Unable to connect\r\n", Some("proxy_target_failed")),
            ("501 x\r\n", Some("proxy_refused")),
            ("502 x\r\n", Some("proxy_target_failed")),
            ("503 x\r\nX-Squid-Error: ERR_CONNECT_FAIL 111\r\n", Some("proxy_target_failed")),
            ("504 x\r\n", Some("proxy_target_failed")),
        ] {
            let Read::Whole(head, _) = head::read(format!("HTTP/1.1 {answer}\r\n").as_bytes()) else {
                panic!("{answer} is a head")
            };
            let got = judge(&via, &head);
            assert_eq!(got.as_ref().err().and_then(|f| f.outcome.reason()), want, "{answer}");
            let squid = answer.contains("Squid");
            assert_eq!(got.is_err_and(|f| f.detail.is_some_and(|d| d.contains("X-Squid-Error: ERR_"))), squid);
        }
    }
}

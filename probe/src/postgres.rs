//! PostgreSQL: an `SSLRequest` and its one byte of answer (<https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL>).
//!
//! | the server answers | means |
//! | --- | --- |
//! | `N` and nothing more | it speaks PostgreSQL and offers no TLS |
//! | `S` and nothing more | it speaks PostgreSQL and waits for a TLS handshake |
//! | an error, as older servers and poolers send one | `not_ready` for 57P03, `status_unexpected` for 53300 |
//!
//! Nothing is said of a user or a database: a start-up message is a login, and one that fails is logged as FATAL. So a server
//! that starts up, recovers or is full answers like one that is ready; its port and its protocol are shown, not its sessions.
//!
//! It leaves by closing. After `N`, and after a TLS handshake, the server takes that for a client that did not like the
//! answer, and logs nothing. After `S` without a handshake it logs a failed SSL connection, so the handshake is made even
//! where nobody asked for TLS; its certificate is shown then and not judged. Measured with PostgreSQL 15: over 2,000 probes
//! each way the log stays empty at its default settings, and no database counts a session. Where `log_connections` is on,
//! each probe is a line of it, as every connection is.
//!
//! No ALPN is offered: `postgresql` is asked for only where TLS begins without the `SSLRequest` (PostgreSQL 17).

use futures_util::future::BoxFuture;
use preflight_core::reason::Short;
use preflight_core::spec::ProbeSpec;
use preflight_core::text;

use crate::failure::Failure;
use crate::fields::{Fields, length};
use crate::protocol::{Protocol, Shown, Start, Wire};

/// The PostgreSQL protocol.
pub(crate) struct Postgres;

/// Length 8, code 80877103.
const SSL_REQUEST: &[u8] = &[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

impl Protocol for Postgres {
    fn start<'a>(&'a self, wire: &'a mut Wire<'_>, spec: &'a ProbeSpec) -> BoxFuture<'a, Result<Start, Failure>> {
        Box::pin(async move {
            wire.send(SSL_REQUEST).await;
            loop {
                wire.more().await?;
                match read(wire.received()) {
                    Answer::Incomplete => {}
                    Answer::Secure if spec.tls.upgrade => return Ok(Start::Secure),
                    Answer::Secure => return Ok(Start::Show(Shown::default())),
                    Answer::Plain if spec.tls.upgrade => {
                        let words = "the server answers that it speaks no TLS";
                        return Ok(Start::Last(Err(Failure::short(Short::TlsNotSpoken, words))));
                    }
                    Answer::Plain => return Ok(Start::Last(Ok(Shown::default()))),
                    Answer::Error { state, message } => return Err(error(&state, &message)),
                    Answer::Foreign => return Err(wire.unexpected("not a PostgreSQL answer to SSLRequest")),
                }
            }
        })
    }

    fn open<'a>(&'a self, _wire: &'a mut Wire<'_>, _spec: &'a ProbeSpec) -> BoxFuture<'a, Result<Shown, Failure>> {
        // The answer and the handshake are all the proof: what follows would be a login.
        Box::pin(std::future::ready(Ok(Shown::default())))
    }
}

/// What the bytes so far are.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Incomplete,
    Secure,
    Plain,
    /// An `ErrorResponse`, escaped.
    Error {
        state: String,
        message: String,
    },
    Foreign,
}

fn read(bytes: &[u8]) -> Answer {
    match bytes {
        [] | [b'E'] => Answer::Incomplete,
        b"S" => Answer::Secure,
        b"N" => Answer::Plain,
        [b'E', body @ ..] => error_response(body),
        _ => Answer::Foreign,
    }
}

/// `ErrorResponse` without its type: the length, itself included, then fields of a type and a text, and a NUL
/// (<https://www.postgresql.org/docs/current/protocol-message-formats.html>).
fn error_response(body: &[u8]) -> Answer {
    const LEAST: usize = 5;
    const MOST: usize = 2048;
    let mut all = Fields::new(body);
    let Some(stated) = all.u32_be().map(length) else { return Answer::Incomplete };
    if !(LEAST..=MOST).contains(&stated) {
        return Answer::Foreign;
    }
    let Some(message) = all.take(stated - 4) else { return Answer::Incomplete };
    if !all.is_empty() {
        return Answer::Foreign;
    }
    let mut fields = Fields::new(message);
    let (mut state, mut said) = (None, None);
    loop {
        match fields.u8() {
            Some(0) if fields.is_empty() => break,
            Some(kind) if kind.is_ascii_alphabetic() => {
                let Some(value) = fields.text() else { return Answer::Foreign };
                match kind {
                    b'C' => state = Some(text::escape_bytes(value)),
                    b'M' => said = Some(text::escape_bytes(value)),
                    _ => {}
                }
            }
            _ => return Answer::Foreign,
        }
    }
    // Both are always there.
    match (state, said) {
        (Some(state), Some(message)) => Answer::Error { state, message },
        _ => Answer::Foreign,
    }
}

/// By `SQLSTATE` (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).
fn error(state: &str, message: &str) -> Failure {
    let reason = match state {
        "57P03" => Short::NotReady,
        "53300" => Short::StatusUnexpected,
        _ => Short::ProtocolUnexpected,
    };
    Failure::short(reason, format!("{state}: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(fields: &[u8]) -> Vec<u8> {
        let length = u32::try_from(fields.len() + 4).unwrap();
        [b"E".as_slice(), &length.to_be_bytes(), fields].concat()
    }

    #[test]
    fn answers_are_read_strictly() {
        let error = |state: &str, message: &str| Answer::Error { state: state.to_owned(), message: message.to_owned() };
        let starting = response(b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0");
        let said = error("57P03", "the database system is starting up");
        for cut in 0..starting.len() {
            assert_eq!(read(&starting[..cut]), Answer::Incomplete, "{cut}");
        }
        for (bytes, want) in [
            (&b"S"[..], Answer::Secure),
            (b"N", Answer::Plain),
            (b"SS", Answer::Foreign),
            (b"NN", Answer::Foreign),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Answer::Foreign),
            (b"G", Answer::Foreign),
            (b"s", Answer::Foreign),
            (b"HTTP/1.1 400 Bad Request\r\n", Answer::Foreign),
            (b"\0", Answer::Foreign),
            (b"ERROR unknown command\r\n", Answer::Foreign),
            (b"E\0\0\0\x04", Answer::Foreign),
            (b"E\0\0\0\x05\0", Answer::Foreign),
            (b"E\0\0\x08\x01", Answer::Foreign),
            (&starting, said),
            (&[starting.as_slice(), b"x"].concat(), Answer::Foreign),
            (&response(b"C57P03\0Mno end\0"), Answer::Foreign),
            (&response(b"C57P03\0\0"), Answer::Foreign),
            (&response(b"Monly words\0\0"), Answer::Foreign),
            (&response(b"C53300\0Mfull\0\0\0"), Answer::Foreign),
            (&response(b"C53300\0M\x1b[2Jfull\0\0"), error("53300", "\\u{1b}[2Jfull")),
        ] {
            assert_eq!(read(bytes), want, "{}", text::escape_bytes(bytes));
        }
    }

    #[test]
    fn states_and_what_they_mean() {
        for (state, want) in [
            ("57P03", "not_ready"),
            ("53300", "status_unexpected"),
            ("0A000", "protocol_unexpected"),
            ("28000", "protocol_unexpected"),
            ("", "protocol_unexpected"),
        ] {
            let failure = error(state, "said");
            assert_eq!(failure.outcome.reason(), Some(want), "{state}");
            assert_eq!(failure.detail, Some(format!("{state}: said")));
        }
    }
}

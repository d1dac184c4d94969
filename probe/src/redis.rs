//! Redis: one `PING` (<https://redis.io/docs/latest/commands/ping/>), in RESP (<https://redis.io/docs/latest/develop/reference/protocol-spec/>).
//!
//! Where the manifest names a topology, the members are asked for on the same connection (`members.rs`).
//!
//! The connection is closed without `QUIT`, as clients do: a real server counts a command more for it, and nothing for the close.

use futures_util::future::BoxFuture;
use preflight_core::reason::Short;
use preflight_core::spec::ProbeSpec;
use preflight_core::text;

use crate::failure::Failure;
use crate::members;
use crate::protocol::{Protocol, Shown, Wire};

/// The Redis protocol; Valkey and others that answer `PING` with `PONG` speak it too.
pub(crate) struct Redis;

const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";
const PONG: &[u8] = b"+PONG\r\n";

impl Protocol for Redis {
    fn open<'a>(&'a self, wire: &'a mut Wire<'_>, spec: &'a ProbeSpec) -> BoxFuture<'a, Result<Shown, Failure>> {
        Box::pin(async move {
            wire.send(PING).await;
            loop {
                wire.more().await?;
                match read(wire.received()) {
                    Reply::Incomplete => {}
                    Reply::Pong => {
                        return match &spec.topology {
                            Some(topology) => members::ask(wire, spec, topology).await,
                            None => Ok(Shown::default()),
                        };
                    }
                    // One that wants a login would refuse what comes next too, and count it.
                    Reply::Error(line) => {
                        return error("PING", &line).map(|note| Shown { note: Some(note), told: Vec::new() });
                    }
                    Reply::Foreign => return Err(wire.unexpected("not a Redis reply to PING")),
                }
            }
        })
    }
}

/// What the bytes so far are.
#[derive(Debug, PartialEq, Eq)]
enum Reply {
    /// May become a reply.
    Incomplete,
    /// Exactly `PONG`.
    Pong,
    /// Exactly one error line, without its `-`, escaped.
    Error(String),
    /// Anything else.
    Foreign,
}

fn read(bytes: &[u8]) -> Reply {
    if PONG.starts_with(bytes) {
        return if bytes == PONG { Reply::Pong } else { Reply::Incomplete };
    }
    let Some(line) = bytes.strip_prefix(b"-") else {
        return Reply::Foreign;
    };
    match line.iter().position(|b| matches!(b, b'\r' | b'\n')) {
        None => Reply::Incomplete,
        Some(end) => match line.get(end..) {
            Some(b"\r") => Reply::Incomplete,
            Some(b"\r\n") => Reply::Error(text::escape_bytes(line.get(..end).unwrap_or_default())),
            _ => Reply::Foreign,
        },
    }
}

/// What an error in answer to a command means: a note if it asks for a login. The server has spoken Redis; whether the
/// application can use it depends on the code.
pub(crate) fn error(asked: &str, line: &str) -> Result<String, Failure> {
    let code = line.split(' ').next().unwrap_or_default();
    match code {
        "NOAUTH" | "NOPERM" | "WRONGPASS" => Ok(format!("asks for a login: {line}")),
        // MISCONF: `PING` is refused like a write while snapshots fail.
        "LOADING" | "MASTERDOWN" | "BUSY" | "UNKILLABLE" | "MISCONF" => Err(Failure::short(Short::NotReady, line)),
        // Protected mode: Redis, but not for this host. Neither another protocol nor a login that would help.
        "DENIED" => Err(Failure::short(
            Short::StatusUnexpected,
            format!("Redis refuses this host (protected mode: it admits loopback only): {line}"),
        )),
        "ERR" if line.starts_with("ERR max number of clients") => Err(Failure::short(Short::StatusUnexpected, line)),
        _ => Err(Failure::short(Short::ProtocolUnexpected, format!("an error in answer to {asked}: {line}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read_strictly() {
        for (bytes, want) in [
            (&b"+PONG\r\n"[..], Reply::Pong),
            (b"+PON", Reply::Incomplete),
            (b"+", Reply::Incomplete),
            (b"+PONG\r\n+PONG\r\n", Reply::Foreign),
            (b"+PONG\n", Reply::Foreign),
            (b"+OK\r\n", Reply::Foreign),
            (b"$4\r\nPONG\r\n", Reply::Foreign),
            (b"-NOAUTH Authentication required.\r\n", Reply::Error("NOAUTH Authentication required.".into())),
            (b"-NOAUTH Authentication required.\r", Reply::Incomplete),
            (b"-NOAUTH", Reply::Incomplete),
            (b"-NOAUTH\n", Reply::Foreign),
            (b"-NOAUTH\r\nmore", Reply::Foreign),
            (b"HTTP/1.1 400 Bad Request\r\n", Reply::Foreign),
            (b"\x15\x03\x03\x00\x02", Reply::Foreign),
            (b"\x00", Reply::Foreign),
        ] {
            assert_eq!(read(bytes), want, "{}", text::escape_bytes(bytes));
        }
    }

    #[test]
    fn error_codes_and_what_they_mean() {
        for (line, want) in [
            ("NOAUTH Authentication required.", None),
            ("NOPERM this user has no permissions to run the 'ping' command", None),
            ("WRONGPASS invalid username-password pair", None),
            ("LOADING Redis is loading the dataset in memory", Some("not_ready")),
            ("MASTERDOWN Link with MASTER is down", Some("not_ready")),
            ("BUSY Redis is busy running a script", Some("not_ready")),
            ("MISCONF Redis is configured to save RDB snapshots", Some("not_ready")),
            ("DENIED Redis is running in protected mode", Some("status_unexpected")),
            ("ERR max number of clients reached", Some("status_unexpected")),
            ("ERR unknown command", Some("protocol_unexpected")),
            ("NOAUTHX", Some("protocol_unexpected")),
            ("", Some("protocol_unexpected")),
        ] {
            let got = error("PING", line);
            assert_eq!(got.err().and_then(|f| f.outcome.reason()), want, "{line}");
        }
    }
}

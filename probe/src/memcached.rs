//! memcached: `version`, then `quit`, of the text protocol (<https://docs.memcached.org/protocols/basic/>).
//!
//! Accepted is exactly one line `VERSION` and what follows it. A server that wants a login first (`-Y`) answers `CLIENT_ERROR
//! unauthenticated`, which proves the protocol. `SERVER_ERROR` is `status_unexpected`. One that speaks only the binary
//! protocol, as with SASL (`-S` or `-B binary`), waits in silence for what would be the rest of a binary request:
//! `protocol_timeout`. Of such a server `tcp://` shows as much as can be shown without a login.
//!
//! After `quit` the server closes. Measured with memcached 1.6.18: over 2,000 probes its counters change by what they are
//! there to count (connections, bytes, buffers, time), and by no command, key, miss, error or rejected connection.

use futures_util::future::BoxFuture;
use preflight_core::reason::Short;
use preflight_core::spec::ProbeSpec;
use preflight_core::text;

use crate::failure::Failure;
use crate::protocol::{Protocol, Shown, Wire};

/// The memcached text protocol.
pub(crate) struct Memcached;

const VERSION: &[u8] = b"version\r\n";
const QUIT: &[u8] = b"quit\r\n";

impl Protocol for Memcached {
    fn lingers(&self) -> bool {
        true
    }

    fn open<'a>(&'a self, wire: &'a mut Wire<'_>, _spec: &'a ProbeSpec) -> BoxFuture<'a, Result<Shown, Failure>> {
        Box::pin(async move {
            wire.send(VERSION).await;
            loop {
                wire.more().await?;
                let note = match read(wire.received()) {
                    Reply::Incomplete => continue,
                    Reply::Version => None,
                    Reply::Login(line) => Some(format!("asks for a login: {line}")),
                    Reply::Error(line) => return Err(Failure::short(Short::StatusUnexpected, line)),
                    Reply::Foreign => return Err(wire.unexpected("not a memcached reply to version")),
                };
                wire.send(QUIT).await;
                return Ok(Shown { note, ..Shown::default() });
            }
        })
    }
}

/// What the bytes so far are.
#[derive(Debug, PartialEq, Eq)]
enum Reply {
    /// May become a reply.
    Incomplete,
    Version,
    /// The whole line, escaped.
    Login(String),
    /// The whole line, escaped.
    Error(String),
    Foreign,
}

fn read(bytes: &[u8]) -> Reply {
    const MOST: usize = 512;
    const STARTS: [&[u8]; 3] = [b"VERSION ", b"SERVER_ERROR ", b"CLIENT_ERROR "];
    let may_start = STARTS.iter().any(|start| start.iter().zip(bytes).all(|(want, got)| want == got));
    let end = bytes.iter().position(u8::is_ascii_control);
    let (true, true) = (may_start, end.unwrap_or(bytes.len()) <= MOST) else { return Reply::Foreign };
    let Some(end) = end else { return Reply::Incomplete };
    let (line, rest) = bytes.split_at(end);
    match rest {
        b"\r" => return Reply::Incomplete,
        b"\r\n" => {}
        _ => return Reply::Foreign,
    }
    let shown = text::escape_bytes(line);
    if line.strip_prefix(b"VERSION ").is_some_and(|version| version.first().is_some_and(u8::is_ascii_alphanumeric)) {
        Reply::Version
    } else if line == b"CLIENT_ERROR unauthenticated" {
        Reply::Login(shown)
    } else if line.starts_with(b"SERVER_ERROR ") {
        Reply::Error(shown)
    } else {
        Reply::Foreign
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read_strictly() {
        let long = [b"VERSION ".as_slice(), &[b'1'; 600]].concat();
        for (bytes, want) in [
            (&b""[..], Reply::Incomplete),
            (b"VERSION 1.6.18\r\n", Reply::Version),
            (b"VERSION 1.6.18\r", Reply::Incomplete),
            (b"VERSION 1.6.18", Reply::Incomplete),
            (b"VER", Reply::Incomplete),
            (b"VERSION \r\n", Reply::Foreign),
            (b"VERSION 1.6.18\n", Reply::Foreign),
            (b"VERSION 1.6.18\r\nVERSION 1.6.18\r\n", Reply::Foreign),
            (b"VERSION\r\n", Reply::Foreign),
            (b"VERSIONS 1\r\n", Reply::Foreign),
            (b"VERSION 1\x1b[2J\r\n", Reply::Foreign),
            (b"ERROR\r\n", Reply::Foreign),
            (b"-ERR unknown command 'version'\r\n", Reply::Foreign),
            (b"HTTP/1.1 400 Bad Request\r\n", Reply::Foreign),
            (b"CLIENT_ERROR unauthenticated\r\n", Reply::Login("CLIENT_ERROR unauthenticated".into())),
            (b"CLIENT_ERROR bad command line\r\n", Reply::Foreign),
            (b"SERVER_ERROR out of memory\r\n", Reply::Error("SERVER_ERROR out of memory".into())),
            (b"\x81\x0b\0\0", Reply::Foreign),
            (&long, Reply::Foreign),
        ] {
            assert_eq!(read(bytes), want, "{}", text::escape_bytes(bytes));
        }
    }
}

//! MySQL and MariaDB: the server's greeting, and a login that is meant to be turned away
//! (<https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase.html>,
//! <https://mariadb.com/kb/en/connection/>).
//!
//! The greeting proves the protocol, but a client that leaves after it, whichever way, has failed the handshake for the
//! server: it counts that against the client's host, and after `max_connect_errors` of them (100 by default) it blocks every
//! client of that host. Closing at once, `COM_QUIT` in place of an answer, a TLS handshake without a login: all of them block
//! (measured). What does not count against the host is a handshake that is finished. So the answer is a well-formed one, for
//! the user [`USER`] and without a password; the server turns it away or lets it in, and then hears `COM_QUIT`.
//!
//! What the server counts for a probe, measured with MariaDB 10.11 and `max_connect_errors=2` over 2,000 probes:
//!
//! | an account `preflight` without a password and privileges | counted | logged |
//! | --- | --- | --- |
//! | there is one (`CREATE USER preflight@'%'`) | nothing | nothing |
//! | there is none | `Aborted_connects`, `Access_denied_errors`; in `host_cache` `COUNT_AUTH_PLUGIN_ERRORS` or `COUNT_AUTHENTICATION_ERRORS`, neither of which blocks | with `log_warnings` of 2, the default, a warning "Access denied for user 'preflight'" |
//!
//! `Aborted_connects_preauth`, `Connection_errors_%`, `COUNT_HANDSHAKE_ERRORS` and `SUM_CONNECT_ERRORS` stay as they were.
//!
//! Where there is no such account the server acts as if there were, with the login method of some other account, so as not to
//! tell. The answer is one that each method takes for a wrong or empty password ([`no_password`]); of a method that is not
//! known here the server may count a failed handshake, as it does for accounts with passwords of before MySQL 4.1.
//!
//! With `tls.upgrade` the greeting must offer TLS; the login then goes inside, also where the certificate failed, since the
//! host would be blocked otherwise. It holds no secret. A client certificate is shown to nobody whose own failed, and to break
//! the handshake off for that would count; so with one the server is judged first on a connection of its own, without it
//! ([`ProbeSpec::is_judged_first`]). What is left to count is a client certificate that the server refuses, and an exchange
//! that is cut off, by its time-out or by who asked for it. A connect without more, as of `tcp://` and `require: connected`,
//! counts as a failed handshake like any other: such a server is better probed by its own scheme.
//!
//! MySQL itself was not at hand; its source (`sql_authentication.cc`) counts by the same rules: what its method calls a wrong
//! password does not count towards `max_connect_errors`, what it calls a failed handshake does.

use futures_util::future::BoxFuture;
use preflight_core::reason::Short;
use preflight_core::spec::ProbeSpec;
use preflight_core::text;

use crate::failure::Failure;
use crate::fields::Fields;
use crate::protocol::{Protocol, Shown, Start, Wire};

/// The MySQL and MariaDB protocol.
pub(crate) struct Mysql;

/// Who the server is told is there: what a person finds in its log, and may give an account to.
const USER: &[u8] = b"preflight";

const LONG_PASSWORD: u32 = 0x1;
const PROTOCOL_41: u32 = 0x200;
const SSL: u32 = 0x800;
const SECURE_CONNECTION: u32 = 0x8000;
const PLUGIN_AUTH: u32 = 0x8_0000;
/// What is asked for, where it is offered.
const WANTED: u32 = LONG_PASSWORD | PROTOCOL_41 | SECURE_CONNECTION | PLUGIN_AUTH;
/// What every server since MySQL 5.0 guesses, or asks to change.
const NATIVE: &[u8] = b"mysql_native_password";

impl Protocol for Mysql {
    fn leaves_by_speaking(&self) -> bool {
        true
    }

    fn lingers(&self) -> bool {
        true
    }

    fn start<'a>(&'a self, wire: &'a mut Wire<'_>, spec: &'a ProbeSpec) -> BoxFuture<'a, Result<Start, Failure>> {
        Box::pin(async move {
            let greeting = loop {
                wire.more().await?;
                match packet(wire.received(), 0) {
                    Packet::Incomplete => {}
                    Packet::Foreign => return Err(wire.unexpected("not a MySQL greeting")),
                    Packet::Whole(payload) => match (greeting(payload), refusal(payload)) {
                        (Some(greeting), _) => break greeting,
                        (None, Some(refusal)) => return Err(refusal.at_once()),
                        (None, None) => return Err(wire.unexpected("not a MySQL greeting")),
                    },
                }
            };
            if spec.tls.upgrade && greeting.capabilities & SSL != 0 {
                wire.send(&framed(1, &answer_head(WANTED & greeting.capabilities | SSL))).await;
                return Ok(Start::Secure);
            }
            let end = log_in(wire, 1, WANTED & greeting.capabilities, &greeting.plugin).await;
            if spec.tls.upgrade {
                return Err(Failure::short(Short::TlsNotSpoken, "the server's greeting offers no TLS"));
            }
            end.map(Start::Done)
        })
    }

    fn open<'a>(&'a self, wire: &'a mut Wire<'_>, _spec: &'a ProbeSpec) -> BoxFuture<'a, Result<Shown, Failure>> {
        // After the greeting, the request for TLS and the handshake.
        Box::pin(log_in(wire, 2, WANTED | SSL, NATIVE))
    }
}

/// Sends the answer to the greeting, as packet `sequence`, and follows the server to the end of the login.
async fn log_in(wire: &mut Wire<'_>, sequence: u8, capabilities: u32, plugin: &[u8]) -> Result<Shown, Failure> {
    const MAX_ROUNDS: u8 = 8;
    let mut seen = wire.received().len();
    let mut sequence = sequence;
    let mut reply = answer(capabilities, plugin);
    for _ in 0..MAX_ROUNDS {
        wire.send(&framed(sequence, &reply)).await;
        let payload = loop {
            wire.more().await?;
            match packet(wire.received().get(seen..).unwrap_or_default(), sequence.wrapping_add(1)) {
                Packet::Incomplete => {}
                Packet::Whole(payload) => break payload,
                Packet::Foreign => return Err(wire.unexpected("not a MySQL reply to a login")),
            }
        };
        match payload.split_first() {
            Some((0, rest)) if rest.len() >= 6 => {
                wire.send(&framed(0, &[COM_QUIT])).await;
                return Ok(Shown::default());
            }
            Some((0xff, _)) => {
                let Some(refusal) = refusal(payload) else { return Err(wire.unexpected("not a MySQL error")) };
                let note = Some(refusal.of_login()?);
                return Ok(Shown { note, ..Shown::default() });
            }
            // AuthSwitchRequest: the method by its name; without one, that of before MySQL 4.1.
            Some((0xfe, data)) => reply = no_password(Fields::new(data).text().unwrap_or_default()),
            // AuthMoreData: whatever is asked, there is nothing to say.
            Some((0x01, _)) => reply = Vec::new(),
            Some(_) | None => return Err(wire.unexpected("not a MySQL reply to a login")),
        }
        sequence = sequence.wrapping_add(2);
        seen = wire.received().len();
    }
    Err(wire.unexpected("a login without an end"))
}

const COM_QUIT: u8 = 1;

/// A packet: the payload's length, a sequence number, the payload.
fn framed(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let [a, b, c, _] = u32::try_from(payload.len()).unwrap_or_default().to_le_bytes();
    [&[a, b, c, sequence], payload].concat()
}

/// `SSLRequest`, and how `HandshakeResponse41` begins: capabilities, the largest packet, the character set, 23 of nothing.
fn answer_head(capabilities: u32) -> Vec<u8> {
    const LARGEST: u32 = 1 << 24;
    const UTF8: u8 = 33;
    [&capabilities.to_le_bytes()[..], &LARGEST.to_le_bytes(), &[UTF8], &[0; 23]].concat()
}

/// `HandshakeResponse41`: the user, and no password.
fn answer(capabilities: u32, plugin: &[u8]) -> Vec<u8> {
    let password = no_password(plugin);
    let length = u8::try_from(password.len()).unwrap_or_default();
    let name: &[&[u8]] = if capabilities & PLUGIN_AUTH == 0 { &[] } else { &[plugin, b"\0"] };
    [&answer_head(capabilities), USER, b"\0", &[length], &password, &name.concat()].concat()
}

/// What a client says that has no password, by the login method; for Ed25519 a signature that is none. Anything else these
/// take for a failed handshake.
fn no_password(plugin: &[u8]) -> Vec<u8> {
    match plugin {
        b"sha256_password" | b"caching_sha2_password" => vec![0],
        b"client_ed25519" => vec![0; 64],
        _ => Vec::new(),
    }
}

/// What the bytes so far are.
#[derive(Debug, PartialEq, Eq)]
enum Packet<'a> {
    Incomplete,
    /// Exactly one packet.
    Whole(&'a [u8]),
    Foreign,
}

fn packet(bytes: &[u8], sequence: u8) -> Packet<'_> {
    const MOST: usize = 2048;
    let mut fields = Fields::new(bytes);
    let Some([a, b, c]) = fields.array() else { return Packet::Incomplete };
    let stated = usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16;
    if !(1..=MOST).contains(&stated) {
        return Packet::Foreign;
    }
    match fields.u8() {
        None => return Packet::Incomplete,
        Some(number) if number == sequence => {}
        Some(_) => return Packet::Foreign,
    }
    match fields.take(stated) {
        None => Packet::Incomplete,
        Some(payload) if fields.is_empty() => Packet::Whole(payload),
        Some(_) => Packet::Foreign,
    }
}

/// What of a greeting matters for the answer.
#[derive(Debug, PartialEq, Eq)]
struct Greeting {
    capabilities: u32,
    /// The login method that the server guesses.
    plugin: Vec<u8>,
}

/// `HandshakeV10`, as far as MySQL 5.0 and MariaDB 5.1 and their successors agree.
fn greeting(payload: &[u8]) -> Option<Greeting> {
    const VERSION: u8 = 10;
    let mut fields = Fields::new(payload);
    let version = (fields.u8()? == VERSION).then_some(fields.text()?)?;
    let _thread: [u8; 4] = fields.array()?;
    let _nonce: [u8; 8] = fields.array()?;
    let filler = fields.u8()?;
    let low = fields.u16_le()?;
    let _character_set = fields.u8()?;
    let _status = fields.u16_le()?;
    let high = fields.u16_le()?;
    let nonce = usize::from(fields.u8()?);
    // The other four are MariaDB's own capabilities.
    let reserved: [u8; 6] = fields.array()?;
    let _more: [u8; 4] = fields.array()?;
    let capabilities = u32::from(low) | u32::from(high) << 16;
    let [.., end] = fields.take(nonce.saturating_sub(8).max(13))? else { return None };
    let plugin = if capabilities & PLUGIN_AUTH == 0 { NATIVE } else { fields.text()? };
    let graphic = |text: &[u8]| !text.is_empty() && text.iter().all(|b| (b' '..=b'~').contains(b));
    let strict = graphic(version)
        && graphic(plugin)
        && (filler, *end, reserved) == (0, 0, [0; 6])
        && capabilities & PROTOCOL_41 != 0
        && capabilities & SECURE_CONNECTION != 0
        && fields.is_empty();
    strict.then(|| Greeting { capabilities, plugin: plugin.to_vec() })
}

/// An error packet: the number, and words.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    code: u16,
    /// Escaped.
    words: String,
}

/// `ERR_Packet`; without a state where it is sent before the client said what it can read.
fn refusal(payload: &[u8]) -> Option<Refusal> {
    let mut fields = Fields::new(payload);
    let code = (fields.u8()? == 0xff).then_some(fields.u16_le()?)?;
    let words = fields.rest();
    let words = match words.strip_prefix(b"#") {
        Some(stated) => {
            let (state, words) = stated.split_at_checked(5)?;
            state.iter().all(u8::is_ascii_alphanumeric).then_some(words)?
        }
        None => words,
    };
    // MySQL's numbers for what a server says begin at 1000.
    (code >= 1000 && !words.is_empty()).then(|| Refusal { code, words: text::escape_bytes(words) })
}

impl Refusal {
    /// In place of a greeting (<https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html>).
    fn at_once(&self) -> Failure {
        let reason = match self.code {
            // Shutdown in progress, offline mode.
            1053 | 3032 => Short::NotReady,
            // Too many connections, this host is blocked, this host is not admitted, this user has too many.
            1040 | 1129 | 1130 | 1203 | 1226 => Short::StatusUnexpected,
            _ => Short::ProtocolUnexpected,
        };
        Failure::short(reason, format!("error {}: {}", self.code, self.words))
    }

    /// In reply to a login: the server has spoken MySQL, and whether the application may log in is its own matter.
    fn of_login(&self) -> Result<String, Failure> {
        match self.code {
            // Access denied (with a database, with no password), no database, a method that the client lacks or is too old
            // for, a password to be changed, an account that is locked, TLS is required.
            1044 | 1045 | 1046 | 1049 | 1251 | 1275 | 1524 | 1698 | 1820 | 1862 | 3118 | 3159 | 4151 => {
                Ok(format!("asks for a login: error {}: {}", self.code, self.words))
            }
            _ => Err(self.at_once()),
        }
    }
}

#[cfg(test)]
#[path = "mysql_tests.rs"]
mod tests;

//! AMQP 0-9-1: the protocol header, and the server's `Connection.Start`
//! (<https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf>, 2.2.4, 4.2; field types as RabbitMQ has them,
//! <https://www.rabbitmq.com/docs/amqp-0-9-1-errata>).
//!
//! Accepted is exactly one method frame on channel 0 that is a `Connection.Start` of version 0-9 and ends where it says. A
//! server that answers with a protocol header of its own speaks another version: `protocol_unexpected`, with that version.
//!
//! It leaves by closing. The protocol has no other way before a login, and RabbitMQ notes each: measured with 3.10.8, a close
//! after `Connection.Start` is one line of level info that it was accepted, and one of level warning that the client "closed
//! TCP connection"; a `Connection.Close` or any other method is one of level error instead, and holds the connection for 3 s;
//! so is another version's header. Over 600 probes, 100 of them over TLS, there were 600 lines of each of the two levels and
//! none of level error. By its source no login is counted and no connection listed as created; nothing is held against the
//! host. The warnings are of the category `connection`, which `log.connection.level = error` leaves out.

use futures_util::future::BoxFuture;
use preflight_core::spec::ProbeSpec;

use crate::failure::Failure;
use crate::fields::{Fields, length};
use crate::protocol::{Protocol, Shown, Wire};

/// The AMQP 0-9-1 protocol.
pub(crate) struct Amqp;

const HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";

impl Protocol for Amqp {
    fn open<'a>(&'a self, wire: &'a mut Wire<'_>, _spec: &'a ProbeSpec) -> BoxFuture<'a, Result<Shown, Failure>> {
        Box::pin(async move {
            wire.send(HEADER).await;
            loop {
                wire.more().await?;
                match read(wire.received()) {
                    Reply::Incomplete => {}
                    Reply::Start => return Ok(Shown::default()),
                    Reply::Header([protocol, major, minor, revision]) => {
                        let what = format!(
                            "the server speaks AMQP, but not 0-9-1: its header names protocol {protocol}, version \
                             {major}-{minor}-{revision}"
                        );
                        return Err(wire.unexpected(&what));
                    }
                    Reply::Foreign => return Err(wire.unexpected("not a Connection.Start of AMQP 0-9-1")),
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
    /// Exactly one `Connection.Start` of version 0-9.
    Start,
    /// A protocol header: its id and version.
    Header([u8; 4]),
    Foreign,
}

/// The end of every frame.
const FRAME_END: u8 = 0xce;
/// No frame may be longer than this before a longer one was agreed on (4.2.3, `frame-min-size`).
const MAX_FRAME: usize = 4096;

/// How a method frame on channel 0 begins.
const BEGIN: &[u8] = &[1, 0, 0];

fn read(bytes: &[u8]) -> Reply {
    const NAME: &[u8] = b"AMQP";
    if let Some(version) = bytes.strip_prefix(NAME) {
        return match version.try_into() {
            Ok(version) => Reply::Header(version),
            Err(_) if version.len() < 4 => Reply::Incomplete,
            Err(_) => Reply::Foreign,
        };
    }
    if NAME.starts_with(bytes) || BEGIN.starts_with(bytes) {
        return Reply::Incomplete;
    }
    let Some(frame) = bytes.strip_prefix(BEGIN) else { return Reply::Foreign };
    let mut frame = Fields::new(frame);
    let Some(stated) = frame.u32_be().map(length) else { return Reply::Incomplete };
    if stated > MAX_FRAME - BEGIN.len() - 5 {
        return Reply::Foreign;
    }
    let (Some(payload), Some(end)) = (frame.take(stated), frame.u8()) else { return Reply::Incomplete };
    if end == FRAME_END && frame.is_empty() && is_start(payload).is_some() { Reply::Start } else { Reply::Foreign }
}

/// `Connection.Start`: class and method 10, the version, a table of properties, mechanisms to log in by, locales.
fn is_start(payload: &[u8]) -> Option<()> {
    let mut fields = Fields::new(payload);
    let head = (fields.u16_be()?, fields.u16_be()?, fields.u8()?, fields.u8()?);
    table(long_string(&mut fields)?, 0)?;
    let (mechanisms, locales) = (long_string(&mut fields)?, long_string(&mut fields)?);
    let there =
        [mechanisms, locales].iter().all(|words| !words.is_empty() && words.iter().all(|b| (b' '..=b'~').contains(b)));
    (head == (10, 10, 0, 9) && there && fields.is_empty()).then_some(())
}

fn long_string<'a>(fields: &mut Fields<'a>) -> Option<&'a [u8]> {
    let stated = fields.u32_be()?;
    fields.take(length(stated))
}

/// Names and values up to the end.
fn table(bytes: &[u8], depth: u8) -> Option<()> {
    let mut fields = Fields::new(bytes);
    while !fields.is_empty() {
        let name = fields.u8()?;
        fields.take(usize::from(name))?;
        value(&mut fields, depth)?;
    }
    Some(())
}

fn value(fields: &mut Fields<'_>, depth: u8) -> Option<()> {
    const MAX_DEPTH: u8 = 8;
    let fixed = match fields.u8()? {
        b'V' => 0,
        b't' | b'b' | b'B' => 1,
        b's' | b'u' | b'U' => 2,
        b'I' | b'i' | b'f' => 4,
        b'D' => 5,
        b'L' | b'l' | b'd' | b'T' => 8,
        b'S' | b'x' => return long_string(fields).map(|_| ()),
        b'F' if depth < MAX_DEPTH => return table(long_string(fields)?, depth + 1),
        b'A' if depth < MAX_DEPTH => {
            let mut values = Fields::new(long_string(fields)?);
            while !values.is_empty() {
                value(&mut values, depth + 1)?;
            }
            return Some(());
        }
        _ => return None,
    };
    fields.take(fixed).map(|_| ())
}

#[cfg(test)]
mod tests {
    use preflight_core::text;

    use super::*;

    fn frame(payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap();
        [&[1, 0, 0][..], &length.to_be_bytes(), payload, &[0xce]].concat()
    }

    fn long(bytes: &[u8]) -> Vec<u8> {
        [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
    }

    fn start(head: [u8; 6], properties: &[u8], mechanisms: &[u8]) -> Vec<u8> {
        frame(&[&head[..], &long(properties), &long(mechanisms), &long(b"en_US")].concat())
    }

    const HEAD: [u8; 6] = [0, 10, 0, 10, 0, 9];

    #[test]
    fn a_real_one() {
        let said = include_bytes!("../../fuzz/corpus/amqp/rabbitmq_3_10");
        // The first byte is the fuzzer's.
        let said = &said[1..];
        assert_eq!(read(said), Reply::Start);
        for cut in 0..said.len() {
            assert_eq!(read(&said[..cut]), Reply::Incomplete, "{cut}");
        }
        assert_eq!(read(&[said, b"\x01"].concat()), Reply::Foreign);
    }

    #[test]
    fn replies_are_read_strictly() {
        let good = start(HEAD, b"\x07productS\0\0\0\x08RabbitMQ\x01xt\x01", b"PLAIN AMQPLAIN");
        let ended = |byte| [&good[..good.len() - 1], &[byte]].concat();
        let nested = (0..12).fold(Vec::new(), |inner, _| [b"\x01aF".as_slice(), &long(&inner)].concat());
        for (bytes, want) in [
            (good.clone(), Reply::Start),
            (start(HEAD, b"", b"PLAIN"), Reply::Start),
            (start(HEAD, b"\x01aF\0\0\0\x04\x01bt\x01\x01cA\0\0\0\x02t\0", b"PLAIN"), Reply::Start),
            (start(HEAD, b"", b""), Reply::Foreign),
            (start(HEAD, b"", b"\0"), Reply::Foreign),
            (start(HEAD, b"\x09product", b"PLAIN"), Reply::Foreign),
            (start(HEAD, b"\x01a?", b"PLAIN"), Reply::Foreign),
            (start(HEAD, b"\x01aS\0\0\0\xffx", b"PLAIN"), Reply::Foreign),
            (start(HEAD, &nested, b"PLAIN"), Reply::Foreign),
            (start([0, 10, 0, 11, 0, 9], b"", b"PLAIN"), Reply::Foreign),
            (start([0, 20, 0, 10, 0, 9], b"", b"PLAIN"), Reply::Foreign),
            (start([0, 10, 0, 10, 8, 0], b"", b"PLAIN"), Reply::Foreign),
            (ended(0xcd), Reply::Foreign),
            (ended(0), Reply::Foreign),
            (frame(b""), Reply::Foreign),
            (frame(b"\0\x0a\0\x0a"), Reply::Foreign),
            (b"AMQP\0\x01\0\0".to_vec(), Reply::Header([0, 1, 0, 0])),
            (b"AMQP\0\0\x09\x01".to_vec(), Reply::Header([0, 0, 9, 1])),
            (b"AMQP\0\x01\0".to_vec(), Reply::Incomplete),
            (b"AMQP\0\x01\0\0x".to_vec(), Reply::Foreign),
            (b"A".to_vec(), Reply::Incomplete),
            (b"AMX".to_vec(), Reply::Foreign),
            (b"\x08\0\0\0\0\0\0\xce".to_vec(), Reply::Foreign),
            (b"\x01\0\x01\0\0\0\0\xce".to_vec(), Reply::Foreign),
            (b"\x01\0\0\xff\xff\xff\xff".to_vec(), Reply::Foreign),
            (b"\x01\0\0\0\0\x0f\xf9".to_vec(), Reply::Foreign),
            (b"\x01\0\0\0\0\x0f\xf8".to_vec(), Reply::Incomplete),
            (b"HTTP/1.1 400 Bad Request\r\n".to_vec(), Reply::Foreign),
            (b"\x15\x03\x03\0\x02\x02\x0a".to_vec(), Reply::Foreign),
        ] {
            assert_eq!(read(&bytes), want, "{}", text::escape_bytes(&bytes));
        }
    }
}

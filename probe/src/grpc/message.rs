//! The two messages of the health service, and their frames
//! (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>, <https://protobuf.dev/programming-guides/encoding/>).

/// What the health service says of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    Unknown,
    Serving,
    NotServing,
    ServiceUnknown,
}

/// The longest answer, in bytes; one that says a status takes two.
const MAX: usize = 1024;

/// A framed `HealthCheckRequest`: not compressed, its length, and field 1, the service's name.
pub(super) fn request(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    // A field at its default, the empty name, is left out.
    if !service.is_empty() {
        message.push(0x0a);
        varint(service.len(), &mut message);
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0], length.to_be_bytes().as_slice(), &message].concat()
}

fn varint(mut value: usize, out: &mut Vec<u8>) {
    while let Some(byte) = u8::try_from(value & 0x7f).ok().filter(|_| value > 0x7f) {
        out.push(byte | 0x80);
        value >>= 7;
    }
    out.extend(u8::try_from(value));
}

/// Reads exactly one framed `HealthCheckResponse`; none while it is incomplete.
pub(super) fn response(bytes: &[u8]) -> Result<Option<Health>, &'static str> {
    let [compressed, a, b, c, d, message @ ..] = bytes else { return Ok(None) };
    if *compressed != 0 {
        return Err("the answer is compressed, though unasked");
    }
    let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
    if length > MAX {
        return Err("the answer is too long for a health check's");
    }
    if message.len() < length {
        return Ok(None);
    }
    if message.len() > length {
        return Err("more than one answer to one question");
    }
    status(message).map(Some).ok_or("the answer is no HealthCheckResponse")
}

/// Field 1 of the message, an enum, the last one where it stands more than once; fields that came later are skipped.
fn status(mut message: &[u8]) -> Option<Health> {
    let mut status = 0;
    while !message.is_empty() {
        let key = number(&mut message)?;
        let (field, kind) = (key >> 3, key & 7);
        match (field, kind) {
            (1, 0) => status = number(&mut message)?,
            (0 | 1, _) => return None,
            (_, 0) => drop(number(&mut message)?),
            (_, 1) => message = message.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(number(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            (_, 5) => message = message.get(4..)?,
            _ => return None,
        }
    }
    match status {
        0 => Some(Health::Unknown),
        1 => Some(Health::Serving),
        2 => Some(Health::NotServing),
        3 => Some(Health::ServiceUnknown),
        _ => None,
    }
}

/// A varint of at most ten bytes, taken off the front.
fn number(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..70).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_one_frame() {
        assert_eq!(request(""), [0, 0, 0, 0, 0]);
        assert_eq!(request("a.B"), [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'B']);
        let long = request(&"x".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 2]);
        assert_eq!(long.len(), 5 + 3 + 300);
    }

    #[test]
    fn an_answer_is_read_strictly() {
        let framed =
            |message: &[u8]| response(&[&[0, 0, 0, 0, u8::try_from(message.len()).unwrap()], message].concat());
        for (message, want) in [
            (&[][..], Some(Health::Unknown)),
            (&[8, 0], Some(Health::Unknown)),
            (&[8, 1], Some(Health::Serving)),
            (&[8, 2], Some(Health::NotServing)),
            (&[8, 3], Some(Health::ServiceUnknown)),
            (&[8, 2, 8, 1], Some(Health::Serving)),
            (&[8, 0x81, 0x00], Some(Health::Serving)),
            (
                &[0x12, 2, b'h', b'i', 8, 1, 0x18, 0xff, 1, 0x21, 0, 0, 0, 0, 0, 0, 0, 0, 0x2d, 0, 0, 0, 0],
                Some(Health::Serving),
            ),
            (&[8, 4], None),
            (&[8], None),
            (&[8, 0x80], None),
            (&[10, 1, 1], None),
            (&[0, 1], None),
            (&[0x12, 9, 1], None),
            (&[0x13], None),
            (b"<html>", None),
            (&[8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], None),
        ] {
            assert_eq!(framed(message).ok().flatten(), want, "{message:?}");
        }
        assert_eq!(response(&[0, 0, 0, 0, 2, 8]), Ok(None));
        assert_eq!(response(&[0, 0, 0]), Ok(None));
        assert!(response(&[1, 0, 0, 0, 2, 8, 1]).is_err(), "compressed");
        assert!(response(&[0, 0, 0, 0, 2, 8, 1, 0]).is_err(), "a second one");
        assert!(response(&[0, 0xff, 0xff, 0xff, 0xff]).is_err(), "too long");
    }
}

//! Replies of a Redis server as they come in (RESP2, <https://redis.io/docs/latest/develop/reference/protocol-spec/>), read strictly.
//!
//! A reply is built while its bytes arrive, and none is looked at again once its value is whole: a peer that sends a byte at a time
//! costs no more than one that sends all. How many bytes there are is bounded by the wire that they come from.

/// One reply, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// A status line or a string.
    Text(Vec<u8>),
    /// An error line, without its `-`.
    Error(Vec<u8>),
    /// A number.
    Number(i64),
    /// An array.
    List(Vec<Value>),
    /// The string or array that is not there.
    Null,
}

impl Value {
    /// The bytes of a string.
    pub(crate) fn text(&self) -> Option<&[u8]> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The parts of an array.
    pub(crate) fn list(&self) -> Option<&[Self]> {
        if let Self::List(items) = self { Some(items) } else { None }
    }
}

/// Not RESP2, or beyond what any reply that is asked for has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Reads one reply after the other out of bytes that only grow.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// Where what was not taken in yet begins.
    at: usize,
    /// Arrays that wait for more parts, the outermost first.
    open: Vec<Open>,
}

/// An array of which parts are still to come.
#[derive(Debug)]
struct Open {
    left: usize,
    items: Vec<Value>,
}

impl Reader {
    /// Arrays within arrays: `CLUSTER SLOTS` has four.
    const MAX_DEPTH: usize = 6;
    /// The longest line: an error that quotes what was asked for.
    const MAX_LINE: usize = 1024;
    /// The most parts that an array may claim to have, and the longest string: no wire carries more.
    const MAX_LENGTH: usize = 64 * 1024;

    /// A reader of what follows the first `at` bytes.
    pub(crate) fn after(at: usize) -> Self {
        Self { at, open: Vec::new() }
    }

    /// Where what follows the last whole reply begins.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// The next reply, once all of it is there. `bytes` are all that were received, those that were taken in before included.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Result<Option<Value>, Malformed> {
        while let Some(part) = self.part(bytes)? {
            let mut whole = part;
            loop {
                let Some(mut around) = self.open.pop() else {
                    return Ok(Some(whole));
                };
                around.items.push(whole);
                around.left -= 1;
                if around.left > 0 {
                    self.open.push(around);
                    break;
                }
                whole = Value::List(around.items);
            }
        }
        Ok(None)
    }

    /// The next value that is no array with parts; those are left open on the way.
    fn part(&mut self, bytes: &[u8]) -> Result<Option<Value>, Malformed> {
        loop {
            let rest = bytes.get(self.at..).unwrap_or_default();
            let Some(line) = line(rest, Self::MAX_LINE)? else { return Ok(None) };
            let after = self.at + line.len() + 2;
            let Some((kind, text)) = line.split_first() else { return Err(Malformed) };
            let value = match kind {
                b'+' => Value::Text(text.to_vec()),
                b'-' => Value::Error(text.to_vec()),
                b':' => Value::Number(number(text)?),
                b'$' => match length(text)? {
                    None => Value::Null,
                    Some(length) => {
                        let Some(string) = bytes.get(after..after + length + 2) else {
                            // Only the end can be wrong before it is there.
                            return Ok(None);
                        };
                        let string = string.strip_suffix(b"\r\n").ok_or(Malformed)?;
                        self.at = after + length + 2;
                        return Ok(Some(Value::Text(string.to_vec())));
                    }
                },
                b'*' => match length(text)? {
                    None => Value::Null,
                    Some(0) => Value::List(Vec::new()),
                    Some(left) => {
                        if self.open.len() == Self::MAX_DEPTH {
                            return Err(Malformed);
                        }
                        self.open.push(Open { left, items: Vec::new() });
                        self.at = after;
                        continue;
                    }
                },
                _ => return Err(Malformed),
            };
            self.at = after;
            return Ok(Some(value));
        }
    }
}

/// The line that `rest` begins with, without its end; none if the end is still to come.
fn line(rest: &[u8], longest: usize) -> Result<Option<&[u8]>, Malformed> {
    match rest.iter().position(|b| matches!(b, b'\r' | b'\n')) {
        Some(end) if end > longest => Err(Malformed),
        None if rest.len() > longest => Err(Malformed),
        None => Ok(None),
        Some(end) => match rest.get(end..).unwrap_or_default() {
            [b'\r', b'\n', ..] => Ok(rest.get(..end)),
            b"\r" => Ok(None),
            _ => Err(Malformed),
        },
    }
}

/// How long a string or array is; none if it is not there.
fn length(text: &[u8]) -> Result<Option<usize>, Malformed> {
    match number(text)? {
        -1 => Ok(None),
        length => usize::try_from(length).ok().filter(|n| *n <= Reader::MAX_LENGTH).map(Some).ok_or(Malformed),
    }
}

/// Digits, with a `-` before them or not.
fn number(text: &[u8]) -> Result<i64, Malformed> {
    let text = std::str::from_utf8(text).map_err(|_| Malformed)?;
    if text.starts_with('+') { Err(Malformed) } else { text.parse().map_err(|_| Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    #[test]
    fn replies_are_read_strictly() {
        let nested = Value::List(vec![Value::Number(-5), Value::List(vec![text("a\r\nb"), Value::Null]), text("")]);
        for (bytes, want) in [
            ("+OK\r\n", Ok(Some(text("OK")))),
            ("-ERR no\r\n", Ok(Some(Value::Error(b"ERR no".to_vec())))),
            ("*0\r\n", Ok(Some(Value::List(Vec::new())))),
            ("*-1\r\n", Ok(Some(Value::Null))),
            ("*3\r\n:-5\r\n*2\r\n$4\r\na\r\nb\r\n$-1\r\n$0\r\n\r\n", Ok(Some(nested))),
            ("", Ok(None)),
            ("*1\r\n", Ok(None)),
            ("*2\r\n:1\r\n", Ok(None)),
            ("$4\r\nabc", Ok(None)),
            ("+OK\r", Ok(None)),
            ("+OK\n", Err(Malformed)),
            ("+O\rK\r\n", Err(Malformed)),
            ("\r\n", Err(Malformed)),
            ("$1\r\nab\r\n", Err(Malformed)),
            ("$-2\r\n", Err(Malformed)),
            ("$+1\r\na\r\n", Err(Malformed)),
            ("$\r\n", Err(Malformed)),
            ("$65537\r\n", Err(Malformed)),
            ("*65537\r\n", Err(Malformed)),
            ("*99999999999999999999\r\n", Err(Malformed)),
            (":1.5\r\n", Err(Malformed)),
            ("%1\r\n+a\r\n+b\r\n", Err(Malformed)),
            ("HTTP/1.1 400 Bad Request\r\n", Err(Malformed)),
            (
                "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
                Ok(Some((0..6).fold(Value::Number(1), |v, _| Value::List(vec![v])))),
            ),
            ("*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n", Err(Malformed)),
        ] {
            assert_eq!(Reader::after(0).read(bytes.as_bytes()), want, "{bytes:?}");
            // However it is cut, it is the same.
            let mut reader = Reader::after(0);
            let mut came = Ok(None);
            for end in 0..=bytes.len() {
                came = reader.read(&bytes.as_bytes()[..end]);
                if !matches!(came, Ok(None)) {
                    break;
                }
            }
            assert_eq!(came, want, "a byte at a time: {bytes:?}");
        }
        assert_eq!(Reader::after(0).read(&[b'-'; 1026]), Err(Malformed), "a line without an end");
    }

    #[test]
    fn one_reply_after_the_other() {
        let bytes = b"+PONG\r\n:1\r\n:2\r\n";
        let mut reader = Reader::after(7);
        assert_eq!(reader.read(bytes), Ok(Some(Value::Number(1))));
        assert_eq!(reader.at(), 11);
        assert_eq!(reader.read(bytes), Ok(Some(Value::Number(2))));
        assert_eq!((reader.read(bytes), reader.at()), (Ok(None), bytes.len()));
    }
}

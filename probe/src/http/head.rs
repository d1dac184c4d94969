//! The head of an HTTP/1.x answer (RFC 9112, 4 and 6.3).

use preflight_core::text;

/// As many headers as an answer may have; one with more is known by its status line only.
const MAX_HEADERS: usize = 96;

/// What the bytes so far are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// May become a head. The status line, where it is whole already.
    Incomplete(Option<StatusLine>),
    /// A head, and how many bytes it takes.
    Whole(Head, usize),
    /// Anything else.
    Foreign,
}

/// The first line of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StatusLine {
    pub(crate) status: u16,
    /// Escaped, without its end.
    pub(crate) line: String,
}

/// What of an answer's head means something to a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) first: StatusLine,
    pub(crate) framing: Framing,
    /// Where a redirect leads, escaped.
    pub(crate) location: Option<String>,
    /// How the body is compressed, escaped.
    pub(crate) encoding: Option<String>,
    /// What Squid says of its failure, escaped.
    pub(crate) squid_error: Option<String>,
}

/// How long the body is (RFC 9112, 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
    /// Until the connection is closed.
    Close,
}

/// Reads the head of an answer, of HTTP/1.0 or 1.1.
pub(crate) fn read(bytes: &[u8]) -> Read {
    let begins = b"HTTP/1.";
    if !begins.starts_with(bytes.get(..begins.len()).unwrap_or(bytes)) {
        return Read::Foreign;
    }
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(bytes);
    let first = response
        .code
        .filter(|_| bytes.contains(&b'\n'))
        .map(|status| StatusLine { status, line: text::escape_bytes(first_line(bytes)) });
    match (parsed, first) {
        (Ok(httparse::Status::Complete(length)), Some(first)) if (100..=999).contains(&first.status) => {
            match framing(first.status, response.headers) {
                Some(framing) => Read::Whole(head(first, framing, response.headers), length),
                None => Read::Foreign,
            }
        }
        (Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders), first) => Read::Incomplete(first),
        (Ok(httparse::Status::Complete(_)) | Err(_), _) => Read::Foreign,
    }
}

fn first_line(bytes: &[u8]) -> &[u8] {
    let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn head(first: StatusLine, framing: Framing, headers: &[httparse::Header<'_>]) -> Head {
    let escaped = |name: &str| values(headers, name).next().map(text::escape_bytes);
    Head {
        first,
        framing,
        location: escaped("location"),
        encoding: escaped("content-encoding"),
        squid_error: escaped("x-squid-error"),
    }
}

fn values<'h>(headers: &'h [httparse::Header<'h>], name: &str) -> impl Iterator<Item = &'h [u8]> {
    headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

/// None where the length is not one that could be kept: several that differ, or no number. Such an answer is an error that
/// clients do not recover from (RFC 9112, 6.3).
fn framing(status: u16, headers: &[httparse::Header<'_>]) -> Option<Framing> {
    if status < 200 || status == 204 || status == 304 {
        return Some(Framing::Length(0));
    }
    if let Some(last) = values(headers, "transfer-encoding").last() {
        let coding = last.rsplit(|b| *b == b',').next().unwrap_or_default().trim_ascii();
        return Some(if coding.eq_ignore_ascii_case(b"chunked") { Framing::Chunked } else { Framing::Close });
    }
    let mut lengths = values(headers, "content-length").flat_map(|value| value.split(|b| *b == b','));
    let Some(first) = lengths.next().map(<[u8]>::trim_ascii) else { return Some(Framing::Close) };
    let same = lengths.all(|other| other.trim_ascii() == first);
    let digits = !first.is_empty() && first.iter().all(u8::is_ascii_digit);
    let length = std::str::from_utf8(first).ok()?.parse().ok()?;
    (same && digits).then_some(Framing::Length(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(headers: &str) -> Option<Framing> {
        match read(format!("HTTP/1.1 200 OK\r\n{headers}\r\n").as_bytes()) {
            Read::Whole(head, _) => Some(head.framing),
            Read::Incomplete(_) => panic!("{headers}: incomplete"),
            Read::Foreign => None,
        }
    }

    #[test]
    fn heads_are_read_strictly() {
        let status = |bytes: &[u8]| match read(bytes) {
            Read::Whole(head, length) => format!("{} {length}", head.first.status),
            Read::Incomplete(first) => format!("incomplete {:?}", first.map(|f| f.status)),
            Read::Foreign => "foreign".to_owned(),
        };
        for (bytes, want) in [
            (&b""[..], "incomplete None"),
            (b"HT", "incomplete None"),
            (b"HTTP/1.1 200", "incomplete None"),
            (b"HTTP/1.1 200 OK\r", "incomplete None"),
            (b"HTTP/1.1 200 OK\r\n", "incomplete Some(200)"),
            (b"HTTP/1.1 200 OK\r\nServer: x\r\n", "incomplete Some(200)"),
            (b"HTTP/1.1 200 OK\r\n\r\nbody", "200 19"),
            (b"HTTP/1.0 404\r\n\r\n", "404 16"),
            (b"HTTP/1.1 200 OK\n\n", "200 17"),
            (b"HTTP/2 200\r\n\r\n", "foreign"),
            (b"HTTP/1.2 200 OK\r\n\r\n", "foreign"),
            (b"HTTP/1.1 20 OK\r\n\r\n", "foreign"),
            (b"HTTP/1.1 099 OK\r\n\r\n", "foreign"),
            (b"HTTP/1.1 200 OK\r\nno header\r\n\r\n", "foreign"),
            (b"HTTP/1.1 200 OK\r\nA b: c\r\n\r\n", "foreign"),
            (b"HTTP/1.1 2000 OK\r\n\r\n", "foreign"),
            (b" HTTP/1.1 200 OK\r\n\r\n", "foreign"),
            (b"ICY 200 OK\r\n\r\n", "foreign"),
            (b"\x15\x03\x03\x00\x02", "foreign"),
            (b"+PONG\r\n", "foreign"),
        ] {
            assert_eq!(status(bytes), want, "{}", text::escape_bytes(bytes));
        }
        let many = "a: b\r\n".repeat(MAX_HEADERS + 1);
        assert_eq!(status(format!("HTTP/1.1 200 OK\r\n{many}\r\n").as_bytes()), "incomplete Some(200)");
    }

    #[test]
    fn the_body_is_as_long_as_its_head_says() {
        for (headers, want) in [
            ("", Some(Framing::Close)),
            ("Content-Length: 5\r\n", Some(Framing::Length(5))),
            ("content-length: 5, 5\r\ncontent-length: 5\r\n", Some(Framing::Length(5))),
            ("Content-Length: 5\r\nContent-Length: 6\r\n", None),
            ("Content-Length: -5\r\n", None),
            ("Content-Length: +5\r\n", None),
            ("Content-Length: \r\n", None),
            ("Content-Length: 99999999999999999999\r\n", None),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Some(Framing::Chunked)),
            ("Transfer-Encoding: gzip, Chunked\r\n", Some(Framing::Chunked)),
            ("Transfer-Encoding: gzip\r\n", Some(Framing::Close)),
        ] {
            assert_eq!(framed(headers), want, "{headers}");
        }
        assert!(matches!(
            read(b"HTTP/1.1 204 No Content\r\n\r\n"),
            Read::Whole(Head { framing: Framing::Length(0), .. }, _)
        ));
    }

    #[test]
    fn what_a_head_says_is_escaped() {
        let Read::Whole(head, _) =
            read(b"HTTP/1.1 302 \xff\r\nLocation: http://x/\xe2\x80\xae\r\nX-Squid-Error: ERR_ACCESS_DENIED 0\r\n\r\n")
        else {
            panic!("a head")
        };
        assert_eq!(head.first.line, "HTTP/1.1 302 \\xff");
        assert_eq!(head.location.as_deref(), Some("http://x/\\u{202e}"));
        assert_eq!(head.squid_error.as_deref(), Some("ERR_ACCESS_DENIED 0"));
    }
}

//! The body of an HTTP/1.x answer, read piece by piece, and searched for a text (RFC 9112, 6 and 7.1).

use preflight_core::spec::HttpOptions;
use preflight_core::text;

use super::head::Framing;

/// The longest line that may hold a chunk's size; extensions are skipped.
const MAX_SIZE_LINE: usize = 256;

/// A body while it comes in.
#[derive(Debug)]
pub(super) struct Body {
    next: Next,
    /// What it says, without chunks' frames.
    decoded: Vec<u8>,
    /// How many bytes of the raw answer have been taken in.
    taken: usize,
    /// How much of `decoded` holds no beginning of what is searched for.
    searched: usize,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// So many bytes, and then the end.
    Rest(u64),
    /// All until the close.
    UntilClose,
    /// The line with a chunk's size.
    Size,
    /// So many bytes of a chunk.
    Chunk(u64),
    /// The end of a chunk's line.
    ChunkEnd,
    /// Nothing.
    End,
}

/// The frames of a body are broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken(pub(super) &'static str);

impl Body {
    pub(super) fn new(framing: Framing) -> Self {
        let next = match framing {
            Framing::Length(0) => Next::End,
            Framing::Length(length) => Next::Rest(length),
            Framing::Chunked => Next::Size,
            Framing::Close => Next::UntilClose,
        };
        Self { next, decoded: Vec::new(), taken: 0, searched: 0 }
    }

    /// Takes in what is new of `raw`, all that came after the head so far.
    pub(super) fn take(&mut self, raw: &[u8]) -> Result<(), Broken> {
        loop {
            let fresh = raw.get(self.taken..).unwrap_or_default();
            let (count, next) = match self.next {
                Next::End => return Ok(()),
                Next::UntilClose => (self.keep(fresh, u64::MAX), Next::UntilClose),
                Next::Rest(left) => {
                    let count = self.keep(fresh, left);
                    let left = left.saturating_sub(count as u64);
                    (count, if left == 0 { Next::End } else { Next::Rest(left) })
                }
                Next::Chunk(left) => {
                    let count = self.keep(fresh, left);
                    let left = left.saturating_sub(count as u64);
                    (count, if left == 0 { Next::ChunkEnd } else { Next::Chunk(left) })
                }
                Next::ChunkEnd => match fresh {
                    [b'\r', b'\n', ..] => (2, Next::Size),
                    [] | [b'\r'] => return Ok(()),
                    _ => return Err(Broken("a chunk is longer than its size")),
                },
                Next::Size => match httparse::parse_chunk_size(fresh) {
                    Ok(httparse::Status::Complete((count, size))) => {
                        (count, if size == 0 { Next::End } else { Next::Chunk(size) })
                    }
                    Ok(httparse::Status::Partial) if fresh.len() < MAX_SIZE_LINE => return Ok(()),
                    Ok(httparse::Status::Partial) | Err(_) => return Err(Broken("a chunk's size is no number")),
                },
            };
            if count == 0 {
                return Ok(());
            }
            self.taken += count;
            self.next = next;
        }
    }

    fn keep(&mut self, fresh: &[u8], most: u64) -> usize {
        let count = usize::try_from(most).unwrap_or(usize::MAX).min(fresh.len());
        let room = HttpOptions::MAX_BODY.saturating_sub(self.decoded.len());
        self.decoded.extend(fresh.iter().take(count.min(room)));
        count
    }

    /// Whether it contains these words so far; for bodies that are short.
    pub(super) fn says(&self, words: &str) -> bool {
        self.decoded.windows(words.len()).any(|window| window == words.as_bytes())
    }

    /// Whether it contains `text` so far. Asked for the same text as the body grows, it looks at what is new.
    pub(super) fn contains(&mut self, text: &str) -> bool {
        let fresh = self.decoded.get(self.searched..).unwrap_or_default();
        let found = text.is_empty() || fresh.windows(text.len()).any(|window| window == text.as_bytes());
        self.searched = (self.decoded.len() + 1).saturating_sub(text.len()).max(self.searched);
        found
    }

    /// Whether all of it is here.
    pub(super) fn is_whole(&self) -> bool {
        self.next == Next::End
    }

    /// Whether a close in good order ends it.
    pub(super) fn ends_by_close(&self) -> bool {
        self.next == Next::UntilClose
    }

    /// Whether as much of it is here as is looked at.
    pub(super) fn is_full(&self) -> bool {
        self.decoded.len() >= HttpOptions::MAX_BODY
    }

    /// How much of it is here, in bytes.
    pub(super) fn len(&self) -> usize {
        self.decoded.len()
    }

    /// How it begins, escaped.
    pub(super) fn begin(&self) -> String {
        text::escape_bytes(&self.decoded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body's text, by pieces of `piece` bytes; what is broken; or none while it is incomplete.
    fn decode(framing: Framing, raw: &[u8], piece: usize) -> Result<Option<String>, Broken> {
        let mut body = Body::new(framing);
        for end in (0..raw.len()).step_by(piece).chain([raw.len()]) {
            body.take(&raw[..end])?;
        }
        let text = String::from_utf8_lossy(&body.decoded).into_owned();
        Ok((body.is_whole() || body.ends_by_close()).then_some(text))
    }

    #[test]
    fn chunks_are_joined_however_they_come() {
        let whole = |text: &str| Ok(Some(text.to_owned()));
        for (raw, want) in [
            (&b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"[..], whole("hello world")),
            (b"5;a=\"b\"\r\nhello\r\n0\r\nTrailer: x\r\n\r\n", whole("hello")),
            (b"0005\r\nhello\r\n000\r\n\r\n", whole("hello")),
            (b"5\r\nhell", Ok(None)),
            (b"5\r\nhello\r\n", Ok(None)),
            (b"5\r\nhello world", Err(Broken("a chunk is longer than its size"))),
            (b"x\r\n", Err(Broken("a chunk's size is no number"))),
            (b"-1\r\n", Err(Broken("a chunk's size is no number"))),
            (b"fffffffffffffffff\r\n", Err(Broken("a chunk's size is no number"))),
            (b"ffffffffffffffff\r\nand then", Ok(None)),
        ] {
            for piece in [1, 2, 3, 1000] {
                assert_eq!(decode(Framing::Chunked, raw, piece), want, "{} by {piece}", text::escape_bytes(raw));
            }
        }
        let endless = [b"5;".as_slice(), &[b'x'; MAX_SIZE_LINE]].concat();
        assert!(decode(Framing::Chunked, &endless, 1).is_err());
    }

    #[test]
    fn a_length_ends_the_body_and_a_close_does_where_there_is_none() {
        assert_eq!(decode(Framing::Length(5), b"hello world", 1), Ok(Some("hello".into())));
        assert_eq!(decode(Framing::Length(50), b"hello world", 1), Ok(None));
        assert_eq!(decode(Framing::Length(0), b"hello", 1), Ok(Some(String::new())));
        assert_eq!(decode(Framing::Close, b"hello", 1), Ok(Some("hello".into())));
    }

    #[test]
    fn a_text_is_found_across_pieces_and_chunks() {
        for (text, want) in [("o w", true), ("hello world", true), ("d", true), ("worlds", false), ("ow", false)] {
            let mut body = Body::new(Framing::Chunked);
            let raw = b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
            let mut found = false;
            for end in 0..=raw.len() {
                body.take(&raw[..end]).unwrap();
                found |= body.contains(text);
            }
            assert_eq!(found, want, "{text}");
        }
    }
}

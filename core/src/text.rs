//! Text that came from a target, a manifest or an agent is data: bounded and escaped before anybody shows it.

use std::fmt::Write as _;

/// At most this many characters of foreign text are kept.
pub const MAX_CHARS: usize = 200;

/// One line that is safe to print: control, bidirectional and invisible characters escaped, cut at [`MAX_CHARS`].
pub fn escape(text: &str) -> String {
    escape_to(text, MAX_CHARS)
}

/// As [`escape`], cut at `max` characters of the result.
pub fn escape_to(text: &str, max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(max));
    let mut left = max;
    for c in text.chars() {
        let plain = is_plain(c);
        let width = if plain { 1 } else { c.escape_default().len() };
        if width > left {
            out.push('…');
            break;
        }
        left -= width;
        if plain {
            out.push(c);
        } else {
            out.extend(c.escape_default());
        }
    }
    out
}

/// Bytes from a peer as one safe line.
pub fn escape_bytes(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
        if out.len() > MAX_CHARS * 4 {
            break;
        }
    }
    escape(&out)
}

/// Whether a character shows as itself and nothing else: no control, no format character (bidirectional overrides,
/// zero-width joiners, soft hyphens), no filler that shows as nothing, no line or paragraph separator.
pub fn is_plain(c: char) -> bool {
    !c.is_control()
        && !matches!(c,
            '\u{00ad}' | '\u{034f}' | '\u{061c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180e}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// One word of a command line, escaped, that a shell takes as it is: quoted where it has to be.
pub fn shell(word: &str) -> String {
    let word = escape(word);
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_quoted_where_a_shell_would_break_it() {
        assert_eq!(shell("2025-03-31.1"), "2025-03-31.1");
        assert_eq!(shell("a b;$(c)"), "'a b;$(c)'");
        assert_eq!((shell("it's"), shell("")), (r"'it'\''s'".to_owned(), "''".to_owned()));
    }

    #[test]
    fn nothing_reaches_the_terminal_raw() {
        assert_eq!(escape("a\x1b[31mb\r\n"), "a\\u{1b}[31mb\\r\\n");
        assert_eq!(escape("\u{202e}evil\u{200b}"), "\\u{202e}evil\\u{200b}");
        assert_eq!(escape_bytes(b"\xff\x00ok"), "\\xff\\u{0}ok");
        assert_eq!(escape("né"), "né");
        assert!(['\u{3164}', '\u{115f}', '\u{ffa0}', '\u{034f}'].iter().all(|filler| !is_plain(*filler)));
        assert!(escape(&"x".repeat(5_000)).chars().count() <= MAX_CHARS + 1);
    }
}

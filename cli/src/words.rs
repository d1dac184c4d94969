//! What a person says on the command line, to be kept and shown to others.

use std::time::Duration;

use jiff::Timestamp;

/// The longest reason or ticket, in bytes: what a controller takes.
const LONGEST: usize = 500;

/// Reads a reason or a ticket. The error fits after "invalid value 'x' for '--reason': ".
pub(crate) fn visible(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() || text.len() > LONGEST || !text.chars().all(preflight_core::text::is_plain) {
        return Err(format!("it must be 1 to {LONGEST} bytes of visible text on one line"));
    }
    Ok(text.to_owned())
}

/// Reads a time: RFC 3339, or a span before now such as `2h`.
pub(crate) fn time(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let wrong = || format!("'{text}' is neither a time such as 2025-03-31T10:30:00Z nor a span before now such as 2h");
    let span: Duration = crate::duration::parse(text).map_err(|_| wrong())?;
    Timestamp::now().checked_sub(span).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_are_shown_can_be_seen() {
        assert_eq!(visible(" the cache is down "), Ok("the cache is down".to_owned()));
        for text in ["", "  ", "two\nlines", "\u{1b}[31m", "\u{202e}x", &"a".repeat(501)] {
            assert!(visible(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(time("2025-03-31T10:30:00Z").unwrap().to_string(), "2025-03-31T10:30:00Z");
        assert!(time("2h").unwrap() < Timestamp::now());
        for text in ["yesterday", "", "99999999d"] {
            assert!(time(text).is_err(), "{text}");
        }
    }
}

//! A peer's bytes: what is shown is bounded and plain, whatever came.
#![no_main]

use libfuzzer_sys::fuzz_target;
use preflight_core::text::{MAX_CHARS, escape_bytes, is_plain};

fuzz_target!(|bytes: &[u8]| {
    let shown = escape_bytes(bytes);
    assert!(shown.chars().all(is_plain));
    assert!(shown.chars().count() <= MAX_CHARS + 1);
});

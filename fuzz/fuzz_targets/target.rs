//! A target's URL: what parses has one canonical form, which parses to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use preflight_core::target::Target;

fuzz_target!(|text: &str| {
    if let Ok(target) = text.parse::<Target>() {
        assert_eq!(target.to_string().parse::<Target>(), Ok(target));
    }
});

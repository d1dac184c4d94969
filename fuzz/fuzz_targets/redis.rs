//! A server that answers a redis probe with any bytes: the exchange ends, within its bounds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use preflight_core::spec::ProbeSpec;
use preflight_probe::fuzz::exchange;

fuzz_target!(|bytes: &[u8]| {
    let Ok(target) = "redis://x:1".parse() else { return };
    let spec = ProbeSpec::new(target);
    exchange(&spec, bytes);
});

//! A server that answers a http probe with any bytes: the exchange ends, within its bounds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use preflight_core::spec::ProbeSpec;
use preflight_probe::fuzz::exchange;

fuzz_target!(|bytes: &[u8]| {
    let Ok(target) = "http://x:1".parse() else { return };
    let mut spec = ProbeSpec::new(target);
    spec.http.body = Some("ready".to_owned());
    exchange(&spec, bytes);
});

//! A report as a hostile agent sends it: decoded and bounded, or refused; what is taken survives the way to the store.
#![no_main]

use libfuzzer_sys::fuzz_target;
use preflight_core::observation::Report;
use preflight_proto::agent;
use preflight_proto::convert::AgentReport;
use prost::Message as _;

fuzz_target!(|bytes: &[u8]| {
    let Ok(message) = agent::Report::decode(bytes) else { return };
    let Ok(report) = AgentReport::try_from(message) else { return };
    let text = match serde_json::to_string(&report.report) {
        Ok(text) => text,
        Err(error) => panic!("a report that was taken cannot be stored: {error}"),
    };
    let back: Result<Report, _> = serde_json::from_str(&text);
    assert!(back.is_ok_and(|back| back.observations.len() == report.report.observations.len()));
});

//! An inventory: parsed or refused, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use preflight_core::inventory::Inventory;

fuzz_target!(|text: &str| {
    let _ = Inventory::parse("inventory.yaml", text);
});

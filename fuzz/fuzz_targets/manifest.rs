//! A manifest from a pull request: it parses into a plan or is refused with a line that exists; never a panic.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use preflight_core::inventory::Inventory;
use preflight_core::manifest::Manifest;
use preflight_core::plan::Plan;

static INVENTORY: LazyLock<Inventory> = LazyLock::new(|| {
    Inventory::parse("inventory.yaml", include_str!("../../examples/inventory.yaml")).expect("the example is right")
});

fuzz_target!(|text: &str| {
    match Manifest::parse("preflight.yaml", text) {
        Ok(manifest) => {
            if let Ok(plan) = Plan::build(&manifest, &INVENTORY, &[], true) {
                assert!(!plan.cells.is_empty(), "an empty plan must be an error");
            }
        }
        // To YAML a carriage return by itself ends a line too.
        Err(error) => assert!(error.line as usize <= text.matches(['\n', '\r']).count() + 1, "{error}"),
    }
});

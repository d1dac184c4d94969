//! Measures what the design sets goals for, in one run, as one Markdown table. Absolute figures are of this machine; the ratios
//! against what is measured beside them in the same run travel. Its only argument, if any, names the one part to measure.
#![expect(clippy::print_stdout, reason = "prints a table")]
#![expect(clippy::expect_used, reason = "a bench that cannot measure ends")]

mod core;
mod dropped;
mod exporter;
mod gate;
mod memory;
mod prober;
mod probes;
mod table;

use prober::Ground;
use table::Table;

/// A part of the bench: its name, and what measures it.
type Part = (&'static str, fn(&Table));

fn main() {
    let only = std::env::args().nth(1);
    let parts: [Part; 5] = [
        ("core", core::measure),
        ("probes", |table| probes::measure(&Ground::new(), table)),
        ("dropped", |table| dropped::measure(&Ground::new(), table)),
        ("memory", |table| memory::measure(&Ground::new(), table)),
        ("gate", gate::measure),
    ];
    assert!(only.iter().all(|only| parts.iter().any(|(name, _)| name == only)), "no part is called {only:?}");
    let table = Table::begin();
    for (name, part) in parts {
        if only.as_deref().is_none_or(|only| only == name) {
            part(&table);
        }
    }
    println!("\n{} processors; time figures are medians, with the slowest in brackets", processors());
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}

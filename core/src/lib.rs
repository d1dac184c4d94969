//! The stages from a manifest to a verdict, each a file of its name:
//!
//! ```text
//! manifest ─▶ plan ─▶ (probe) ─▶ observation ─▶ matrix ─▶ verdict ─▶ findings
//! ```
//!
//! Plain types and functions: no runtime, sockets, clock, files or environment. Time comes in as a value.

pub mod baseline;
pub mod contrast;
pub mod decision;
pub mod diagnostic;
pub mod drift;
pub mod findings;
mod fix;
pub mod guard;
pub mod identity;
pub mod impact;
pub mod inventory;
pub mod manifest;
pub mod matrix;
pub mod name;
pub mod observation;
pub mod plan;
pub mod reason;
pub mod run;
pub mod spec;
mod splay;
pub mod target;
pub mod text;
pub mod verdict;
mod yaml;

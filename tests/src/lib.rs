//! End to end: a lab of network namespaces with real servers and the built binaries, and scenarios as data.
//!
//! This is test code, also where it is a library: what goes wrong in it ends the test with a panic that says what.
#![expect(clippy::expect_used, clippy::missing_panics_doc, reason = "a lab that does not stand up fails its test")]

pub mod bench;
pub mod certificates;
pub mod lab;
pub mod scenario;
pub mod small;

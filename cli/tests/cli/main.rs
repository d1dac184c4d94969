//! The command through its real binary, against controllers that the tests make.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "the helpers of a test fail as a test does")]

mod drift;
mod emergency;
mod gate;
mod probe;
mod reports;
mod shown;
mod standing;
mod support;
mod usage;

//! The command through its real binary, against controllers that the tests make.

mod gate;
mod probe;
mod shown;
mod support;
mod usage;

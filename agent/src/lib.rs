//! preflight's agent: sits on a host, probes from its network identity, and reports to the controller.
//!
//! [`life::live`] is the whole of it: enrol, connect, answer, renew, until it is told to stop.

pub mod address;
pub mod answers;
pub mod backoff;
pub mod conntrack;
pub mod control;
pub mod dial;
pub mod downward;
pub mod enrol;
pub mod fit;
pub mod identity;
pub mod imds;
mod labels;
pub mod life;
pub mod limits;
pub mod metrics;
pub mod policy;
pub mod prober;
pub mod refusal;
pub mod runs;
pub mod serve;
pub mod state;
pub mod stream;
pub mod token;
pub mod trust;

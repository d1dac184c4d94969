//! The probe engine: names, connects, TLS and one file per protocol, from a [`ProbeSpec`] to a [`Report`].
//!
//! | file | does |
//! | --- | --- |
//! | `engine.rs`, `pace.rs` | one probe from start to end, members included; the ceilings over all probes |
//! | `address.rs` | one address, phase by phase |
//! | `names.rs` | a name to addresses, as the host's own configuration says |
//! | `connect.rs`, `socket.rs` | the ladder of connect attempts; sockets with their error queue |
//! | `paths.rs` | whether silence beside a connect is loss or a dead path |
//! | `deadline.rs`, `failure.rs` | deadlines that blame nobody for this process's stalls; why a phase ended a probe |
//! | `control.rs`, `routes.rs`, `conntrack.rs` | what the host itself does: accepts everything, has no route, is full |
//! | `tls.rs`, `judge.rs`, `trust.rs` | handshake, then judgement, by which authorities or which certificate |
//! | `goodbye.rs` | how connections are left |
//! | `descriptors.rs` | how many descriptors this process can have |
//! | `files.rs` | files of this host that probes use |
//! | `proxy.rs` | the tunnel through an HTTP proxy |
//! | `protocol.rs` | what a protocol's opening exchange is given |
//! | `members.rs`, `resp.rs` | the members that a Redis seed tells of; its replies |
//! | `fields.rs` | the fields of a binary message |
//! | `redis.rs`, `http.rs`, `postgres.rs`, `mysql.rs`, `memcached.rs`, `amqp.rs`, `grpc.rs` | one protocol each |
//!
//! Every phase has one absolute deadline, every read a bound, and text from a peer is escaped before it is kept.

mod address;
mod amqp;
mod connect;
pub mod conntrack;
mod control;
mod deadline;
mod descriptors;
mod engine;
mod failure;
mod fields;
mod files;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod goodbye;
mod grpc;
mod http;
mod judge;
mod members;
mod memcached;
mod mysql;
mod names;
mod pace;
mod paths;
mod postgres;
mod protocol;
mod proxy;
mod redis;
mod resp;
mod routes;
mod socket;
mod tls;
mod trust;

pub use descriptors::raise_descriptors;
pub use engine::{AllowAll, Engine, EngineError, EngineOptions, Guard};

use preflight_core::observation::Report;
use preflight_core::spec::ProbeSpec;

/// One probe from this host, by no policy but the caller's own.
pub async fn local(spec: &ProbeSpec) -> Result<Report, EngineError> {
    Ok(Engine::new(EngineOptions::default())?.probe(spec, &AllowAll).await)
}

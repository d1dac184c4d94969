//! What crosses a wire: the agent stream (feature `grpc`) and the HTTP API's JSON types.

pub mod api;
#[cfg(feature = "grpc")]
pub mod convert;

/// The agent stream, generated from `proto/agent.proto`.
#[cfg(feature = "grpc")]
#[expect(clippy::pedantic, unused_qualifications, reason = "generated")]
pub mod agent {
    tonic::include_proto!("preflight.agent.v1");
}

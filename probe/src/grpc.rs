//! gRPC.

use futures_util::future::BoxFuture;
use preflight_core::reason::Void;
use preflight_core::spec::ProbeSpec;

use crate::failure::Failure;
use crate::protocol::{Protocol, Shown, Wire};

/// The gRPC protocol.
pub(crate) struct Grpc;

impl Protocol for Grpc {
    fn open<'a>(&'a self, _wire: &'a mut Wire<'_>, _spec: &'a ProbeSpec) -> BoxFuture<'a, Result<Shown, Failure>> {
        Box::pin(std::future::ready(Err(Failure::void(Void::PolicyDenied, "this version cannot probe it"))))
    }
}

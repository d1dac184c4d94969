//! An HTTP proxy that is asked to `CONNECT` to the target (RFC 9110, 9.3.6).

use preflight_core::reason::Void;
use preflight_core::target::Target;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::failure::Failure;

/// Asks the proxy for a tunnel.
pub(crate) async fn connect(_stream: &mut TcpStream, _target: &Target, _deadline: Instant) -> Result<(), Failure> {
    Err(Failure::void(Void::PolicyDenied, "this version cannot go through proxies"))
}

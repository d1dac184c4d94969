//! Web servers that answer one thing.

use std::path::Path;

use super::{Host, Server};

impl Host {
    /// A web server that answers every request with this status.
    pub fn http_status(&self, port: u16, status: u16) -> Server {
        let server = format!("listen {port}; location / {{ return {status} \"status {status}\\n\"; }}");
        self.nginx("http", port, &server)
    }

    /// A web server that serves this file.
    pub fn http_file(&self, port: u16, path: &Path) -> Server {
        let server = format!("listen {port}; location / {{ root {}; }}", path.parent().unwrap_or(path).display());
        self.nginx("http-file", port, &server)
    }

    /// A server of HTTP/2 in the clear that ends every call with this status of gRPC in the head, and no message
    /// ("Trailers-Only").
    pub fn grpc_status(&self, port: u16, status: u8) -> Server {
        let server = format!(
            "listen {port} http2; default_type application/grpc; add_header grpc-status {status} always; \
             add_header grpc-message lab always; location / {{ return 200 \"\"; }}"
        );
        self.nginx("grpc", port, &server)
    }
}

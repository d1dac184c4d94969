//! Servers that ask more of TLS than most, and what an agent's host needs for them.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Host, Server};
use crate::certificates::{Authority, Pair, TODAY, self_signed};

/// Certificates in files that every host sees.
#[derive(Debug)]
pub struct TlsFiles {
    /// The directory's path: `ca.pem`, the lab's authority; `client.pem` and `client.key`, issued by it; `stranger.pem` and
    /// `stranger.key`, issued by nobody that counts.
    pub directory: String,
    /// A certificate that vouches for itself.
    pub pinned: Pair,
    /// Its SHA-256, as OpenSSL prints it.
    pub pin: String,
}

impl TlsFiles {
    /// Writes them below `directory`.
    pub fn new(directory: &Path, authority: &Authority) -> Self {
        let directory = directory.join("tls");
        fs::create_dir_all(&directory).expect("make a directory");
        let write = |name: &str, text: &str| fs::write(directory.join(name), text).expect("write a certificate");
        let client = authority.issue_client("client.internal");
        let stranger = Authority::new("Nobody's authority").issue_client("client.internal");
        let pinned = self_signed(&["nobody.asks.internal"], TODAY);
        write("ca.pem", &authority.pem);
        write("client.pem", &client.chain_pem);
        write("client.key", &client.key_pem);
        write("stranger.pem", &stranger.chain_pem);
        write("stranger.key", &stranger.key_pem);
        write("pinned.pem", &pinned.chain_pem);
        let printed = Command::new("openssl")
            .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
            .arg(directory.join("pinned.pem"))
            .output()
            .expect("openssl runs");
        let printed = String::from_utf8_lossy(&printed.stdout).trim().to_owned();
        let (_, pin) = printed.split_once('=').unwrap_or_else(|| panic!("openssl prints no fingerprint: {printed}"));
        Self { directory: directory.to_string_lossy().into_owned(), pin: pin.to_owned(), pinned }
    }

    /// A scenario's text with `@FILES@` and `@PIN@` filled in.
    pub fn fill_in(&self, text: &str) -> String {
        text.replace("@FILES@", &self.directory).replace("@PIN@", &self.pin)
    }
}

impl Host {
    /// A Redis server over TLS that lets in clients with a certificate of this authority only.
    pub fn rediss_for_clients(&self, port: u16, pair: &Pair, authority: &Authority) -> Server {
        let (chain, key) = self.write_pair(pair);
        let clients = self.dir().join("clients.pem");
        fs::write(&clients, &authority.pem).expect("write an authority");
        let port_text = port.to_string();
        let [chain, key, clients] = [chain, key, clients].map(|path| path.to_string_lossy().into_owned());
        let options = ["--tls-port", &port_text, "--tls-cert-file", &chain, "--tls-key-file", &key];
        let more = ["--tls-ca-cert-file", &clients, "--tls-auth-clients", "yes"];
        let server = self.redis_start(0, &[options.as_slice(), &more].concat());
        self.await_listener(port);
        server
    }

    /// A web server that speaks TLS 1.2 and nothing newer.
    pub fn https_old(&self, port: u16, pair: &Pair) -> Server {
        let (chain, key) = self.write_pair(pair);
        let server = format!(
            "listen {port} ssl; ssl_protocols TLSv1.2; ssl_certificate {}; ssl_certificate_key {}; return 204;",
            chain.display(),
            key.display()
        );
        self.nginx("https", port, &server)
    }
}

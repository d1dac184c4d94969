//! HTTP proxies with the logs that they keep of their clients.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::{Host, Server, wait_for};

const START: Duration = Duration::from_secs(20);

/// A proxy on a host.
#[derive(Debug)]
pub struct Proxy {
    server: Server,
    /// Where each request is a line, if not in the proxy's own log.
    access: Option<PathBuf>,
    errors: PathBuf,
}

impl Host {
    /// squid on a port, which lets 10.0.0.0/8 through to 443 and 6379, with more lines for its configuration; they come
    /// first, and the first that fits decides.
    pub fn squid(&self, port: u16, more: &str) -> Proxy {
        let dir = self.dir().join(format!("squid-{port}"));
        fs::create_dir_all(&dir).expect("make squid's directory");
        let here = dir.display();
        let configuration = format!(
            "http_port {port}\npid_filename none\naccess_log stdio:{here}/access\ncache_log {here}/errors\n\
             logfile_rotate 0\ncache deny all\nnetdb_filename none\npinger_enable off\ncoredump_dir {here}\n\
             shutdown_lifetime 0 seconds\nacl lab src 10.0.0.0/8\nacl known port 443 6379\nacl tunnel method CONNECT\n\
             {more}\nhttp_access deny !known\nhttp_access allow tunnel lab\nhttp_access deny all\n"
        );
        let file = dir.join("conf");
        fs::write(&file, configuration).expect("write squid's configuration");
        // It refuses to run as root, so it is somebody else in a namespace of its own, with the same rights to files.
        let user = ["unshare", "--user", "--map-user=proxy", "--map-group=proxy"];
        let file = file.to_string_lossy();
        let words = [user.as_slice(), &["squid", "-N", "-f", &file]].concat();
        let server = self.spawn(&format!("squid-{port}"), &words);
        self.await_listener(port);
        let proxy = Proxy { server, access: Some(dir.join("access")), errors: dir.join("errors") };
        // A second after its start it logs this, whoever talks to it.
        wait_for("squid to have started", START, || proxy.log().contains("storeLateRelease").then_some(()));
        proxy
    }

    /// tinyproxy on a port, which lets 10.0.0.0/8 through to 443 and 6379, with more lines for its configuration.
    pub fn tinyproxy(&self, port: u16, more: &str) -> Proxy {
        let dir = self.dir().join(format!("tinyproxy-{port}"));
        fs::create_dir_all(&dir).expect("make tinyproxy's directory");
        let errors = dir.join("errors");
        let configuration = format!(
            "Port {port}\nMaxClients 100\nLogFile \"{}\"\nLogLevel Info\nAllow 10.0.0.0/8\nAllow 127.0.0.1\n\
             ConnectPort 443\nConnectPort 6379\n{more}\n",
            errors.display()
        );
        let file = dir.join("conf");
        fs::write(&file, configuration).expect("write tinyproxy's configuration");
        let name = format!("tinyproxy-{port}");
        let server = self.spawn(&name, &["tinyproxy", "-d", "-c", &file.to_string_lossy()]);
        self.await_listener(port);
        Proxy { server, access: None, errors }
    }
}

impl Proxy {
    /// A line for each request, where the proxy keeps them apart from its log.
    pub fn requests(&self) -> String {
        self.access.as_ref().map(read).unwrap_or_default()
    }

    /// All that it has logged beside them.
    pub fn log(&self) -> String {
        read(&self.errors) + &self.server.log() + &self.server.stdout()
    }
}

fn read(file: &PathBuf) -> String {
    String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned()
}

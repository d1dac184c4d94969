//! Databases, caches and brokers with the counters and logs that they keep of their clients.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use super::{Host, Server, wait_for};
use crate::certificates::Pair;

/// These make their own directories and accounts first, and Erlang is slow to begin with.
const START: Duration = Duration::from_mins(2);

/// What a server counts, by name.
pub type Counters = BTreeMap<String, String>;

/// A `PostgreSQL` server.
#[derive(Debug)]
pub struct Postgres {
    host: Host,
    server: Server,
    socket: String,
}

/// A `MariaDB` server.
#[derive(Debug)]
pub struct Mariadb {
    host: Host,
    server: Server,
    socket: String,
}

/// A memcached.
#[derive(Debug)]
pub struct Memcached {
    host: Host,
    port: u16,
    _server: Server,
}

/// A `RabbitMQ` node.
#[derive(Debug)]
pub struct Rabbitmq {
    server: Server,
}

impl Host {
    /// A `PostgreSQL` server on 5432, at its default log settings; with TLS where it is given a certificate.
    pub fn postgres(&self, pair: Option<&Pair>) -> Postgres {
        // It refuses to run as root, so it is somebody else in a namespace of its own, with the same rights to files.
        const SCRIPT: &str = r#"
            set -e
            bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
            "$bin/initdb" -A trust -U postgres -D "$1/data" --no-sync >"$1/initdb.log" 2>&1
            data=$1/data socket=$1; shift
            exec "$bin/postgres" -D "$data" -k "$socket" -c listen_addresses='*' "$@"
        "#;
        let dir = self.dir().join("postgres");
        fs::create_dir_all(&dir).expect("make the server's directory");
        let socket = dir.to_string_lossy().into_owned();
        let mut words = vec!["unshare", "--user", "--map-user=postgres", "--map-group=postgres", "sh", "-c", SCRIPT];
        words.extend(["postgres", &socket]);
        let files = pair.map(|pair| {
            let (chain, key) = self.write_pair(pair);
            fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("keep the key");
            (format!("ssl_cert_file={}", chain.display()), format!("ssl_key_file={}", key.display()))
        });
        if let Some((chain, key)) = &files {
            words.extend(["-c", "ssl=on", "-c", chain, "-c", key]);
        }
        let server = self.spawn("postgres", &words);
        let postgres = Postgres { host: self.clone(), server, socket };
        wait_for("PostgreSQL to be ready", START, || {
            postgres.server.log().contains("ready to accept connections").then_some(())
        });
        postgres
    }

    /// A `MariaDB` server on 3306, at its default log settings, that blocks a host after two connection errors and admits
    /// no other host yet; with TLS where it is given a certificate.
    pub fn mariadb(&self, pair: Option<&Pair>) -> Mariadb {
        const SCRIPT: &str = r#"
            set -e
            # Temporary tables are named by process ids, which are the same in every lab.
            export TMPDIR=$1
            mariadb-install-db --no-defaults --user=root --datadir="$1/data" --skip-test-db --force \
                --auth-root-authentication-method=normal >"$1/install.log" 2>&1
            data=$1/data socket=$2; shift 2
            exec mariadbd --no-defaults --user=root --datadir="$data" --socket="$socket" --port=3306 \
                --max-connect-errors=2 --performance-schema=ON "$@"
        "#;
        let dir = self.dir().join("mariadb");
        fs::create_dir_all(&dir).expect("make the server's directory");
        let (dir_text, socket) = (dir.to_string_lossy(), dir.join("socket").to_string_lossy().into_owned());
        let mut words = vec!["sh", "-c", SCRIPT, "mariadb", &dir_text, &socket];
        let files = pair.map(|pair| {
            let (chain, key) = self.write_pair(pair);
            (format!("--ssl-cert={}", chain.display()), format!("--ssl-key={}", key.display()))
        });
        if let Some((chain, key)) = &files {
            words.extend([chain.as_str(), key]);
        }
        let server = self.spawn("mariadb", &words);
        let mut mariadb = Mariadb { host: self.clone(), server, socket };
        wait_for("MariaDB to be ready", START, || {
            let install = || fs::read_to_string(dir.join("install.log")).unwrap_or_default();
            assert!(mariadb.server.running(), "MariaDB ended: {}\n{}", mariadb.server.log(), install());
            mariadb.try_sql("select 1").map(drop)
        });
        mariadb
    }

    /// A memcached on a port, with more of its options.
    pub fn memcached(&self, port: u16, options: &[&str]) -> Memcached {
        let text = port.to_string();
        let words = [&["memcached", "-u", "root", "-l", "0.0.0.0", "-p", &text], options].concat();
        let server = self.spawn("memcached", &words);
        self.await_listener(port);
        Memcached { host: self.clone(), port, _server: server }
    }

    /// A `RabbitMQ` node on 5672, and on 5671 with TLS.
    pub fn rabbitmq(&self, pair: &Pair) -> Rabbitmq {
        let dir = self.dir().join("rabbitmq");
        fs::create_dir_all(&dir).expect("make the broker's directory");
        let (chain, key) = self.write_pair(pair);
        let settings = format!(
            "listeners.ssl.default = 5671\nssl_options.certfile = {}\nssl_options.keyfile = {}\nssl_options.verify = verify_none\n",
            chain.display(),
            key.display()
        );
        fs::write(dir.join("rabbitmq.conf"), settings).expect("write rabbitmq.conf");
        let at = |name: &str| dir.join(name).to_string_lossy().into_owned();
        let own = [
            ("HOME", at("")),
            ("RABBITMQ_NODENAME", "lab@localhost".to_owned()),
            ("RABBITMQ_MNESIA_BASE", at("mnesia")),
            ("RABBITMQ_LOG_BASE", at("log")),
            ("RABBITMQ_LOGS", "-".to_owned()),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", at("plugins")),
            ("RABBITMQ_CONFIG_FILE", at("rabbitmq")),
            ("RABBITMQ_CONF_ENV_FILE", "/dev/null".to_owned()),
        ];
        let own: Vec<String> = own.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut words = vec!["env"];
        words.extend(own.iter().map(String::as_str));
        // The one in PATH asks to be root or rabbitmq, and becomes rabbitmq.
        words.push("/usr/lib/rabbitmq/bin/rabbitmq-server");
        let server = self.spawn("rabbitmq", &words);
        let rabbitmq = Rabbitmq { server };
        wait_for("RabbitMQ to be ready", START, || rabbitmq.log().contains("Server startup complete").then_some(()));
        rabbitmq
    }
}

impl Postgres {
    /// What it has logged.
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// One value.
    pub fn ask(&self, query: &str) -> String {
        let said = self.host.run(&["psql", "-h", &self.socket, "-U", "postgres", "-Atc", query]);
        assert!(said.status.success(), "{query}: {}", String::from_utf8_lossy(&said.stderr));
        String::from_utf8_lossy(&said.stdout).trim().to_owned()
    }
}

impl Mariadb {
    /// What it has logged.
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// Rows, their columns separated by tabs.
    ///
    /// # Panics
    /// If it refuses.
    pub fn sql(&self, statements: &str) -> String {
        self.try_sql(statements).unwrap_or_else(|| panic!("MariaDB refuses {statements}"))
    }

    fn try_sql(&self, statements: &str) -> Option<String> {
        let said = self.host.run(&[
            "mariadb",
            "--no-defaults",
            "-S",
            &self.socket,
            "-uroot",
            "--batch",
            "-N",
            "-e",
            statements,
        ]);
        said.status.success().then(|| String::from_utf8_lossy(&said.stdout).into_owned())
    }

    /// What it counts of connections that went wrong.
    pub fn counters(&self) -> Counters {
        let query = "show global status where Variable_name like 'Aborted_%' or Variable_name like 'Connection_errors%' \
                     or Variable_name = 'Access_denied_errors'";
        pairs(&self.sql(query), '\t')
    }

    /// What it holds against the host of that address: the errors that block, and those of a login.
    pub fn held_against(&self, host: &Host) -> [u64; 3] {
        let query = format!(
            "select SUM_CONNECT_ERRORS, COUNT_HANDSHAKE_ERRORS, COUNT_AUTHENTICATION_ERRORS + COUNT_AUTH_PLUGIN_ERRORS \
             from performance_schema.host_cache where IP = '{}'",
            host.address()
        );
        let said = self.sql(&query);
        let mut columns = said.split_whitespace().map(|column| column.parse().expect("a count"));
        std::array::from_fn(|_| columns.next().unwrap_or_else(|| panic!("nothing is kept of {}", host.name())))
    }
}

impl Memcached {
    /// All that it counts.
    pub fn counters(&self) -> Counters {
        let mut said = String::new();
        let at = (std::net::Ipv4Addr::LOCALHOST, self.port);
        let mut stream = self.host.within(|| TcpStream::connect(at)).expect("connect to memcached");
        stream.write_all(b"stats\r\nquit\r\n").expect("ask memcached");
        stream.read_to_string(&mut said).expect("hear memcached");
        said.lines()
            .filter_map(|line| line.strip_prefix("STAT ")?.split_once(' '))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }
}

impl Rabbitmq {
    /// What it has logged.
    pub fn log(&self) -> String {
        self.server.stdout()
    }
}

fn pairs(text: &str, between: char) -> Counters {
    text.lines()
        .filter_map(|line| line.split_once(between))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

//! A web server with a path for each kind of answer.

use super::Server;

/// What nginx answers where.
const LOCATIONS: &str = r#"
    location = / { return 200 "hello"; }
    location = /status/301 { return 301 /elsewhere; }
    location = /status/308 { return 308 /elsewhere; }
    location = /status/204 { return 204; }
    location = /status/304 { return 304; }
    location = /status/400 { return 400; }
    location = /status/401 { return 401; }
    location = /status/403 { return 403; }
    location = /status/404 { return 404; }
    location = /status/429 { return 429; }
    location = /status/500 { return 500; }
    location = /status/502 { return 502; }
    location = /status/503 { return 503 "maintenance"; }
    location = /status/504 { return 504; }
    location = /host { return 200 "$http_host $request_method $http_user_agent $http_accept $http_connection."; }
    location = /chunked { ssi on; ssi_types *; alias DIR/page; }
    location = /page { default_type text/plain; alias DIR/page; }
    location = /large { default_type text/plain; alias DIR/large; }
"#;

impl Server {
    /// nginx with an access log of each request line, and an error log that holds whatever is worth a notice or more. `tls` has a
    /// certificate's chain and key, as PEM.
    pub(crate) fn web(tls: Option<(&str, &str)>) -> Self {
        Self::start("nginx", |port, directory| {
            let here = directory.display().to_string();
            std::fs::write(directory.join("page"), "the service is ready\n").unwrap();
            std::fs::write(directory.join("large"), format!("{}ready", "x".repeat(70_000))).unwrap();
            let (mut ssl, mut files) = ("", "");
            if let Some((chain, key)) = tls {
                std::fs::write(directory.join("chain"), chain).unwrap();
                std::fs::write(directory.join("key"), key).unwrap();
                ssl = " ssl";
                files = "ssl_certificate DIR/chain; ssl_certificate_key DIR/key;";
            }
            // Without a master there is no worker that would outlive it.
            let config = format!(
                "user root; daemon off; master_process off; pid DIR/pid; error_log DIR/error notice; events {{}}\n\
                 http {{ log_format line '$request|$status'; access_log DIR/access line; client_body_temp_path DIR/a; \
                 proxy_temp_path DIR/b; fastcgi_temp_path DIR/c; uwsgi_temp_path DIR/d; scgi_temp_path DIR/e;\n\
                 server {{ listen 127.0.0.1:{port}{ssl}; {files} {LOCATIONS} }} }}"
            );
            std::fs::write(directory.join("conf"), config.replace("DIR", &here)).unwrap();
            ["-e", &format!("{here}/error"), "-c", &format!("{here}/conf")].map(str::to_owned).to_vec()
        })
    }

    /// The lines of a file that it writes.
    pub(crate) fn lines(&self, name: &str) -> Vec<String> {
        std::fs::read_to_string(self.file(name)).unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

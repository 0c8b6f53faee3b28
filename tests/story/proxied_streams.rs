//! TLS, WebSockets, SPDY and answers without end through `pods/proxy` and `services/proxy`, and that they end with the leave
//! of who asked.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::PrivateKeyDer;

use crate::cluster::Cluster;
use crate::policy::{serve, server, wait_in_force};
use crate::proxy::Proxy;

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {role: web}
  ports: [{name: plain, port: 80, targetPort: 8080}, {name: tls, port: 443, targetPort: 8443}]
";

/// Lets in whom the address block names: the one who asks here is the host.
const FROM: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {role: web}}
  ingress: [{from: [{ipBlock: {cidr: CIDR}}]}]
";

/// After a policy is in force, as docs/network-policy.md says.
const CUT_WITHIN: Duration = Duration::from_millis(200);

trait Wire: Read + Write {}
impl<T: Read + Write> Wire for T {}

/// A program of the pod: switches to any protocol and echoes, answers `/events` without an end, and all else with the path.
fn run(listener: TcpListener, tls: Option<Arc<rustls::ServerConfig>>) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, tls) = (stream.expect("a connection comes"), tls.clone());
            std::thread::spawn(move || match tls {
                None => converse(stream),
                Some(tls) => {
                    let session = rustls::ServerConnection::new(tls).expect("a session");
                    converse(rustls::StreamOwned::new(session, stream));
                }
            });
        }
    });
}

/// Whatever fails is seen by the client.
fn converse(mut stream: impl Wire) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => head.extend(byte),
            Ok(_) | Err(_) => return,
        }
    }
    let head = String::from_utf8(head).expect("a head is text");
    let named = |wanted: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value)
    };
    let path = head.split(' ').nth(1).expect("a request line");
    if let Some(protocol) = named("upgrade") {
        let key = named("sec-websocket-key").unwrap_or("none");
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\nX-Key: {key}\r\n\r\n"
        );
        let _ = stream.write_all(answer.as_bytes());
        let mut block = [0; 1024];
        while let Ok(read @ 1..) = stream.read(&mut block) {
            if stream.write_all(&block[..read]).is_err() {
                return;
            }
        }
    } else if path == "/events" {
        let begin = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut written = stream.write_all(begin);
        while written.is_ok() {
            written = stream.write_all(b"5\r\nevent\r\n");
            std::thread::sleep(Duration::from_millis(20));
        }
    } else {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len());
        let _ = stream.write_all(answer.as_bytes());
    }
}

fn tls() -> Arc<rustls::ServerConfig> {
    let made = rcgen::generate_simple_self_signed(["nobody.example".to_owned()]).expect("a pair");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring speaks the default versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key);
    Arc::new(config.expect("key and certificate fit"))
}

struct Asked {
    stream: BufReader<TcpStream>,
    head: String,
}

/// Asks `path` of the default namespace, and reads the head of the answer.
fn ask(proxy: &Proxy, path: &str, headers: &str) -> Asked {
    let mut stream = TcpStream::connect(("127.0.0.1", proxy.port)).expect("kubectl listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket has a time limit");
    let head = format!(
        "GET /api/v1/namespaces/default/{path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).expect("kubectl reads");
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        let read = stream.read_line(&mut head).expect("an answer");
        assert!(read > 0, "{path}: {head}");
    }
    Asked { stream, head: head.to_lowercase() }
}

fn switched(proxy: &Proxy, path: &str, protocol: &str, more: &str) -> Asked {
    let headers = format!("Connection: Upgrade\r\nUpgrade: {protocol}\r\n{more}");
    let mut asked = ask(proxy, path, &headers);
    let head = &asked.head;
    assert!(head.starts_with("http/1.1 101"), "{path}: {head}");
    assert!(head.contains(&format!("upgrade: {}\r\n", protocol.to_lowercase())), "{path}: {head}");
    asked.stream.get_mut().write_all(b"to the pod\n").expect("kubectl reads");
    let mut heard = String::new();
    asked.stream.read_line(&mut heard).expect("an echo");
    assert_eq!(heard, "to the pod\n", "{path}");
    asked
}

#[test]
fn tls_and_other_protocols_go_through_the_api_until_a_policy_denies_them() {
    let mut cluster = Cluster::start("proxied-streams");
    cluster.apply(&[&server("default", "web", "web"), SERVICE].concat()).ok();
    cluster.wait_running("web");
    run(serve(&cluster, "web", 8080), None);
    run(serve(&cluster, "web", 8443), Some(tls()));
    let proxy = Proxy::start(&cluster);
    cluster.wait_for("the Service has its pod", |_| {
        ask(&proxy, "services/web:plain/proxy/x", "").head.starts_with("http/1.1 200")
    });
    for path in [
        "services/https:web:443/proxy/x",
        "services/https:web:tls/proxy/x",
        "pods/https:web:8443/proxy/x",
    ] {
        let mut answer = ask(&proxy, path, "Connection: close\r\n");
        assert!(answer.head.starts_with("http/1.1 200"), "{path}: {}", answer.head);
        let mut body = String::new();
        answer.stream.read_to_string(&mut body).expect("text");
        assert!(body.contains("/x"), "{path}: {body}");
    }
    // Neither is guessed from the other: TLS to who speaks none, and plain text to who speaks TLS.
    for path in
        ["services/https:web:80/proxy/x", "services/http:web:443/proxy/x", "pods/web:8443/proxy/x"]
    {
        let answer = ask(&proxy, path, "");
        assert!(answer.head.starts_with("http/1.1 503"), "{path}: {}", answer.head);
    }

    cluster.apply(&FROM.replace("CIDR", "0.0.0.0/0")).ok();
    wait_in_force(&mut cluster, "networkpolicy/web");
    let websocket = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZQ==\r\n";
    let mut streams = Vec::new();
    for (path, protocol, more) in [
        ("services/web:plain/proxy/", "websocket", websocket),
        ("services/https:web:tls/proxy/", "websocket", websocket),
        ("pods/web:8080/proxy/", "SPDY/3.1", ""),
        ("pods/https:web:8443/proxy/", "SPDY/3.1", ""),
    ] {
        let asked = switched(&proxy, path, protocol, more);
        let key = if more.is_empty() { "none" } else { "dghlihnhbxbszq==" };
        assert!(asked.head.contains(&format!("x-key: {key}\r\n")), "{path}: {}", asked.head);
        streams.push((format!("{protocol} {path}"), asked));
    }
    for path in ["services/web:plain/proxy/events", "pods/https:web:8443/proxy/events"] {
        let mut asked = ask(&proxy, path, "");
        assert!(asked.head.starts_with("http/1.1 200"), "{path}: {}", asked.head);
        asked.stream.read_exact(&mut [0; 64]).expect("events come");
        streams.push((path.to_owned(), asked));
    }

    // Another policy that allows the same: all go on.
    cluster.apply(&FROM.replace("CIDR", "10.42.0.0/16")).ok();
    wait_in_force(&mut cluster, "networkpolicy/web");
    for (name, asked) in streams.iter_mut().filter(|(name, _)| !name.contains("events")) {
        asked.stream.get_mut().write_all(b"still here\n").expect("kubectl reads");
        let mut heard = String::new();
        asked.stream.read_line(&mut heard).expect("an echo");
        assert_eq!(heard, "still here\n", "{name}");
    }
    let ends = streams.into_iter().map(|(name, mut asked)| {
        std::thread::spawn(move || {
            let mut block = [0; 4096];
            // What is cut off may be reset: either way nothing comes any more.
            while let Ok(1..) = asked.stream.read(&mut block) {}
            (name, Instant::now())
        })
    });
    let ends: Vec<_> = ends.collect();
    cluster.apply(&FROM.replace("CIDR", "192.0.2.0/24")).ok();
    wait_in_force(&mut cluster, "networkpolicy/web");
    let in_force = Instant::now();
    for end in ends {
        let (name, ended) = end.join().expect("a reader ends");
        let late = ended.saturating_duration_since(in_force);
        println!("{name}: {late:?} after the policy was seen in force");
        assert!(late < CUT_WITHIN, "{name}: ended {late:?} after the policy was in force");
    }
    let denied = ask(&proxy, "services/https:web:tls/proxy/x", "");
    assert!(denied.head.starts_with("http/1.1 503"), "{}", denied.head);
    drop(proxy);
    cluster.finish();
}

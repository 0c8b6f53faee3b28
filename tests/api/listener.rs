//! The TLS listener: certificates, tokens, hosts, limits, shutdown.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use joey::api::pki::{self, PkiConfig};
use joey::api::serve::Tls;
use joey::api::streams::Dial;
use joey::api::{Api, ApiConfig};
use joey::store::Store;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::harness::{Cluster, LIMIT, NoNode};

/// A directory that goes away with the test.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "joey-api-test-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Scratch(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub struct Server {
    pub cluster: Cluster,
    pub data: Scratch,
    address: std::net::SocketAddr,
    shutdown: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

fn pki_config(listen: std::net::SocketAddr) -> PkiConfig {
    PkiConfig {
        listen: vec![listen],
        cluster_domain: "cluster.local".to_owned(),
        hostname: "box".to_owned(),
        extra_names: Vec::new(),
    }
}

impl Server {
    pub async fn start(dial: Arc<dyn Dial>) -> Server {
        let data = Scratch::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pki = pki::ensure(data.path(), &pki_config(address)).unwrap();
        let config = ApiConfig {
            cluster_domain: "cluster.local".to_owned(),
            token_key: pki.token_key.clone(),
            ca_pem: pki.ca_pem.clone(),
            service_cidr: "10.43.0.0/16".parse().unwrap(),
            figures: Default::default(),
            translates_sctp: true,
        };
        let api = Api::new(Store::in_memory(), config, dial).await.unwrap();
        let identity = joey::api::identity::Identity::component("system:test");
        let client = api.client(identity, "default");
        let shutdown = CancellationToken::new();
        let tls = Tls { config: pki.server_tls.clone(), names: Arc::new(pki.server_names.clone()) };
        let serving = {
            let (api, shutdown) = (api.clone(), shutdown.clone());
            tokio::spawn(async move { api.serve(listener, tls, shutdown).await })
        };
        Server { cluster: Cluster { api, client }, data, address, shutdown, serving }
    }

    /// A TLS connection that presents the named certificate of the data directory.
    pub async fn connect(&self, certificate: Option<&str>) -> io::Result<TlsStream<TcpStream>> {
        let dir = self.data.path().join("pki");
        self.connect_from(certificate.map(|name| (dir.clone(), name))).await
    }

    async fn connect_from(
        &self,
        certificate: Option<(PathBuf, &str)>,
    ) -> io::Result<TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        let ca = self.data.path().join("pki/ca.crt");
        roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match certificate {
            None => builder.with_no_client_auth(),
            Some((dir, name)) => {
                let own = CertificateDer::from_pem_file(dir.join(format!("{name}.crt"))).unwrap();
                let key = PrivateKeyDer::from_pem_file(dir.join(format!("{name}.key"))).unwrap();
                builder.with_client_auth_cert(vec![own], key).unwrap()
            }
        };
        let socket = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, socket).await
    }

    async fn get(&self, certificate: Option<&str>, path: &str, headers: &str) -> String {
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n");
        raw(self.connect(certificate).await.unwrap(), &request).await
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(LIMIT, self.serving).await.expect("an end in time").unwrap();
    }
}

/// Sends `request` and reads the answer to the end.
pub async fn raw(mut stream: TlsStream<TcpStream>, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await;
    let _ = read.expect("an answer in time");
    String::from_utf8_lossy(&answer).into_owned()
}

fn code(answer: &str) -> &str {
    answer.get(9..12).unwrap_or(answer)
}

#[tokio::test]
async fn credentials_decide_who_gets_what() {
    let server = Server::start(Arc::new(NoNode)).await;
    let token_of = async |namespace: &str| {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/default/token");
        let made = server.cluster.post(&path, json!({})).await.json();
        made["status"]["token"].as_str().unwrap().to_owned()
    };
    let system = token_of("kube-system").await;
    let other = token_of("default").await;
    let path = "/api/v1/namespaces/kube-system/serviceaccounts/default/token";
    let vault = server.cluster.post(path, json!({"spec": {"audiences": ["vault"]}})).await.json();
    let vault = vault["status"]["token"].as_str().unwrap().to_owned();
    let bearer = |token: &str| format!("authorization: Bearer {token}\r\n");
    let pods = "/api/v1/pods";
    for (certificate, headers, path, expected) in [
        (Some("admin"), String::new(), pods, "200"),
        (None, String::new(), pods, "401"),
        (None, String::new(), "/livez", "200"),
        (None, String::new(), "/version", "200"),
        (None, String::new(), "/apis", "401"),
        (None, bearer(&system), pods, "200"),
        (None, bearer(&other), pods, "403"),
        (None, bearer(&other), "/apis", "200"),
        (None, bearer(&vault), pods, "401"),
        (None, bearer("x.y.z"), pods, "401"),
        (None, bearer("x"), "/livez", "401"),
        (None, "authorization: Basic YTpi\r\n".to_owned(), pods, "401"),
        (
            None,
            "x-remote-user: system:admin\r\nx-remote-group: system:masters\r\n".to_owned(),
            pods,
            "401",
        ),
        (None, "impersonate-user: x\r\n".to_owned(), pods, "401"),
        (
            None,
            format!(
                "{}impersonate-user: kubernetes-admin\r\nimpersonate-group: system:masters\r\n",
                bearer(&other)
            ),
            pods,
            "403",
        ),
        (Some("admin"), "impersonate-user: jo\r\n".to_owned(), pods, "403"),
        (Some("admin"), "impersonate-group: jo\r\n".to_owned(), pods, "400"),
        (Some("admin"), "impersonate-user: j\u{f6}\r\n".to_owned(), pods, "400"),
        (Some("admin"), "impersonate-user: a\r\nimpersonate-user: b\r\n".to_owned(), pods, "400"),
        (Some("admin"), "impersonate-role: jo\r\n".to_owned(), pods, "400"),
        (
            Some("admin"),
            "impersonate-user: system:serviceaccount:kube-system:x\r\n".to_owned(),
            pods,
            "200",
        ),
        (
            Some("admin"),
            "impersonate-user: system:serviceaccount:default:x\r\n".to_owned(),
            pods,
            "403",
        ),
    ] {
        let answer = server.get(certificate, path, &headers).await;
        assert_eq!(code(&answer), expected, "{certificate:?} {headers} {path}");
    }
    server
        .cluster
        .delete("/api/v1/namespaces/kube-system/serviceaccounts/default", json!(null))
        .await;
    let answer = server.get(None, pods, &bearer(&system)).await;
    assert_eq!(code(&answer), "401", "the account is gone");
    server
        .cluster
        .post(
            "/api/v1/namespaces/kube-system/serviceaccounts",
            json!({"metadata": {"name": "default"}}),
        )
        .await;
    let answer = server.get(None, pods, &bearer(&system)).await;
    assert_eq!(code(&answer), "401", "another account of the same name");
    server.stop().await;
}

#[tokio::test]
async fn a_token_bound_to_a_pod_dies_with_it() {
    let server = Server::start(Arc::new(NoNode)).await;
    server.cluster.pod("p", "").await;
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let body =
        json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p"}}});
    let made = server.cluster.post(path, body).await.json();
    let header = format!("authorization: Bearer {}\r\n", made["status"]["token"].as_str().unwrap());
    assert_eq!(code(&server.get(None, "/apis", &header).await), "200");
    server.cluster.delete("/api/v1/namespaces/default/pods/p", json!(null)).await;
    assert_eq!(code(&server.get(None, "/apis", &header).await), "401");
    server.stop().await;
}

#[tokio::test]
async fn certificates_of_another_authority_are_refused_in_the_handshake() {
    let server = Server::start(Arc::new(NoNode)).await;
    let stranger = Scratch::new();
    pki::ensure(stranger.path(), &pki_config(server.address)).unwrap();
    let connected = server.connect_from(Some((stranger.path().join("pki"), "admin"))).await;
    // In TLS 1.3 the refusal arrives with the first read.
    let refused = match connected {
        Err(_) => true,
        Ok(stream) => {
            raw(stream, "GET /version HTTP/1.1\r\nhost: localhost\r\n\r\n").await.is_empty()
        }
    };
    assert!(refused);
    server.stop().await;
}

#[tokio::test]
async fn another_host_name_is_misdirected() {
    let server = Server::start(Arc::new(NoNode)).await;
    let request = "GET /version HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n";
    let answer = raw(server.connect(None).await.unwrap(), request).await;
    assert_eq!(code(&answer), "421");
    server.stop().await;
}

#[tokio::test]
async fn an_open_watch_ends_cleanly_at_shutdown() {
    let server = Server::start(Arc::new(NoNode)).await;
    let mut stream = server.connect(Some("admin")).await.unwrap();
    stream
        .write_all(b"GET /api/v1/pods?watch=true HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut head = [0u8; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    let mut rest = Vec::new();
    let (read, ()) =
        tokio::join!(tokio::time::timeout(LIMIT, stream.read_to_end(&mut rest)), server.stop());
    read.expect("an end in time").unwrap();
    assert!(rest.ends_with(b"0\r\n\r\n"), "the last chunk was sent");
}

#[tokio::test]
async fn the_kubeconfig_opens_the_door() {
    let server = Server::start(Arc::new(NoNode)).await;
    let path = server.data.path().join("admin.kubeconfig");
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = kube::config::Kubeconfig::read_from(&path).unwrap();
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
    let client = kube::Client::try_from(config).unwrap();
    let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> = kube::Api::all(client);
    let list = namespaces.list(&Default::default()).await.unwrap();
    assert_eq!(list.items.len(), 4);
    server.stop().await;
}

#[test]
fn keys_are_made_once_and_renewed_only_when_they_no_longer_fit() {
    let data = Scratch::new();
    let mut config = pki_config("127.0.0.1:6443".parse().unwrap());
    let read = |name: &str| std::fs::read(data.path().join("pki").join(name)).unwrap();
    pki::ensure(data.path(), &config).unwrap();
    let (ca, server, admin) = (read("ca.crt"), read("server.crt"), read("admin.crt"));
    let tokens = read("service-account.key");
    pki::ensure(data.path(), &config).unwrap();
    assert_eq!(read("server.crt"), server);
    config.listen.push("192.0.2.7:6443".parse().unwrap());
    let pki = pki::ensure(data.path(), &config).unwrap();
    assert!(pki.server_names.contains("192.0.2.7"));
    assert_ne!(read("server.crt"), server);
    assert_eq!((read("ca.crt"), read("admin.crt")), (ca, admin));
    assert_eq!(read("service-account.key"), tokens);
    // A crash between key and certificate leaves a pair that does not match.
    std::fs::write(data.path().join("pki/server.key"), read("admin.key")).unwrap();
    pki::ensure(data.path(), &config).unwrap();
    std::fs::write(data.path().join("pki/ca.key"), "garbage").unwrap();
    assert!(pki::ensure(data.path(), &config).is_err());
}

#[tokio::test]
async fn a_connection_that_brings_no_request_loses_its_place() {
    let server = Server::start(Arc::new(NoNode)).await;
    let mut silent = server.connect(None).await.unwrap();
    let mut preface = server.connect(None).await.unwrap();
    let opening = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    preface.write_all(opening).await.unwrap();
    let mut settings = [0u8; 9];
    preface.read_exact(&mut settings).await.unwrap();
    let mut watching = server.connect(Some("admin")).await.unwrap();
    watching
        .write_all(b"GET /api/v1/pods?watch=true HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut head = [0u8; 12];
    watching.read_exact(&mut head).await.unwrap();
    let mut rest = Vec::new();
    for stream in [&mut silent, &mut preface] {
        let ended = tokio::time::timeout(2 * LIMIT, stream.read_to_end(&mut rest)).await;
        let _ = ended.expect("an end in time");
    }
    // Whoever has asked for something keeps the connection.
    server.cluster.pod("p", "").await;
    let mut more = [0u8; 1];
    tokio::time::timeout(LIMIT, watching.read_exact(&mut more)).await.unwrap().unwrap();
    drop(watching);
    server.stop().await;
}

#[tokio::test]
async fn a_body_announced_too_large_is_refused_unread() {
    let server = Server::start(Arc::new(NoNode)).await;
    let request = "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-type: application/json\r\ncontent-length: 3145729\r\nconnection: close\r\n\r\n";
    let answer = raw(server.connect(Some("admin")).await.unwrap(), request).await;
    assert_eq!(code(&answer), "413", "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn a_request_that_never_ends_does_not_hold_up_shutdown() {
    let server = Server::start(Arc::new(NoNode)).await;
    let mut stream = server.connect(Some("admin")).await.unwrap();
    stream
        .write_all(
            b"POST /api/v1/namespaces HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{",
        )
        .await
        .unwrap();
    // Another request on a connection of its own, so that the first has certainly been accepted.
    let answer = server.get(None, "/livez", "").await;
    assert_eq!(code(&answer), "200");
    server.stop().await;
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(LIMIT, stream.read_to_end(&mut rest)).await.expect("cut off");
}

const WATCH: &[u8] = b"GET /api/v1/pods?watch=true HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// Opens a watch and reads the code of its answer.
async fn watch(server: &Server) -> (TlsStream<TcpStream>, String) {
    let mut stream = server.connect(Some("admin")).await.unwrap();
    stream.write_all(WATCH).await.unwrap();
    let mut head = [0u8; 12];
    stream.read_exact(&mut head).await.unwrap();
    (stream, code(&String::from_utf8_lossy(&head)).to_owned())
}

#[tokio::test]
async fn who_shows_no_credentials_keeps_nobody_out() {
    let server = Server::start(Arc::new(NoNode)).await;
    let (_watching, first) = watch(&server).await;
    assert_eq!(first, "200");
    // Sockets that say nothing, handshakes that end and say nothing more: far more than there is room for.
    let mut silent = Vec::new();
    for _ in 0..400 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(server.connect(None).await.unwrap());
    }
    let answer = server.get(Some("admin"), "/api/v1/namespaces", "").await;
    assert_eq!(code(&answer), "200");
    // The oldest have made room.
    let ended = tokio::time::timeout(LIMIT, silent[0].read(&mut [0u8; 1])).await;
    assert!(matches!(ended, Ok(Ok(0) | Err(_))), "{ended:?}");
    server.stop().await;
}

#[tokio::test]
async fn one_identity_cannot_take_the_places_of_the_others() {
    let server = Server::start(Arc::new(NoNode)).await;
    let mut open = Vec::new();
    let refused = loop {
        let (stream, code) = watch(&server).await;
        match code.as_str() {
            "200" => open.push(stream),
            _ => break code,
        }
        assert!(open.len() <= 1000, "nobody says stop");
    };
    assert_eq!(refused, "429");
    // Others are served, by certificate and by token.
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let made = server.cluster.post(path, json!({})).await.json();
    let token = made["status"]["token"].as_str().unwrap();
    let bearer = format!("authorization: Bearer {token}\r\n");
    let answer = server.get(None, "/version", &bearer).await;
    assert_eq!(code(&answer), "200", "{answer}");
    // And the identity itself, once it has let go of something.
    let begin = std::time::Instant::now();
    drop(open.pop());
    while watch(&server).await.1 != "200" {
        assert!(begin.elapsed() < LIMIT, "the place of a closed connection stays taken");
    }
    server.stop().await;
}

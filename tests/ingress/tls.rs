//! Handshakes: names, versions, protocols, resumption, certificates that change under load.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use joey::net::ingress::tls::Certificates;
use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::scene::*;

/// An authority that clients trust.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    roots: RootCertStore,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        Authority { issuer: Issuer::new(params, key), roots }
    }

    /// A certificate for one host, ready to be served.
    fn sign(&self, host: &str) -> Arc<rustls::sign::CertifiedKey> {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([host.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signing = rustls::crypto::ring::sign::any_supported_type(&der).unwrap();
        Arc::new(rustls::sign::CertifiedKey::new(vec![certificate.der().clone()], signing))
    }

    fn client(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
        protocols: &[&[u8]],
    ) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    }
}

async fn handshake(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    host: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(host.to_owned()).unwrap();
    TlsConnector::from(Arc::clone(config)).connect(name, stream).await
}

async fn get(stream: &mut TlsStream<TcpStream>, host: &str) -> std::io::Result<String> {
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
    let mut block = vec![0; 4096];
    let read = stream.read(&mut block).await?;
    Ok(String::from_utf8_lossy(&block[..read]).into_owned())
}

fn leaf(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn certificates(list: &[(&str, &Arc<rustls::sign::CertifiedKey>)]) -> Certificates {
    list.iter().map(|(host, key)| ((*host).to_owned(), Arc::clone(key))).collect()
}

use rustls::version::{TLS12, TLS13};

#[tokio::test]
async fn each_host_gets_its_certificate_and_pods_get_plain_http() {
    let authority = Authority::new();
    let pod = Pod::start("inside").await;
    let scene = Scene::start(&[pod.address]).await;
    let (shop, wild) = (authority.sign("shop.example"), authority.sign("*.farm.example"));
    scene
        .ingress
        .apply_certificates(certificates(&[("shop.example", &shop), ("*.farm.example", &wild)]));
    for version in [&TLS12, &TLS13] {
        let client = authority.client(&[version], &[b"http/1.1"]);
        for host in ["shop.example", "roo.farm.example"] {
            let mut stream = handshake(scene.https, &client, host).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
            let answer = get(&mut stream, host).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("inside"), "{answer}");
        }
        // A host without a certificate gets one that nobody trusts, and the others do not notice.
        let refused = handshake(scene.https, &client, "other.example").await;
        assert!(refused.is_err(), "{refused:?}");
    }
    let seen = pod.requests();
    assert!(
        seen.iter().all(|seen| seen.head.starts_with("GET / HTTP/1.1\r\n")),
        "plain at the pod"
    );
    assert!(seen.iter().all(|seen| seen.header("x-forwarded-proto") == ["https"]));
    scene.await_metric("joey_ingress_tls_handshakes_total{outcome=\"done\"", "4").await;
}

#[tokio::test]
async fn http2_is_agreed_on_and_sessions_are_resumed() {
    let authority = Authority::new();
    let pod = Pod::start("ok").await;
    let scene = Scene::start(&[pod.address]).await;
    let shop = authority.sign("shop.example");
    scene.ingress.apply_certificates(certificates(&[("shop.example", &shop)]));
    let client = authority.client(&[&TLS13], &[b"h2", b"http/1.1"]);
    let stream = handshake(scene.https, &client, "shop.example").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    for version in [&TLS12, &TLS13] {
        let client = authority.client(&[version], &[b"http/1.1"]);
        let mut first = handshake(scene.https, &client, "shop.example").await.unwrap();
        get(&mut first, "shop.example").await.unwrap();
        let second = handshake(scene.https, &client, "shop.example").await.unwrap();
        let kind = second.get_ref().1.handshake_kind();
        assert_eq!(kind, Some(rustls::HandshakeKind::Resumed), "{version:?}");
    }
}

/// Chapter 14: "if something goes wrong, you might accidentally turn off all traffic".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_replaced_under_load_serves_the_next_handshake_and_drops_no_connection() {
    let authority = Authority::new();
    let pod = Pod::start("ok").await;
    let scene = Scene::start(&[pod.address]).await;
    let address = scene.https;
    scene
        .ingress
        .apply_certificates(certificates(&[("shop.example", &authority.sign("shop.example"))]));
    // No resumption: each handshake must show the certificate in force.
    let mut config = (*authority.client(&[&TLS13], &[b"http/1.1"])).clone();
    config.resumption = rustls::client::Resumption::disabled();
    let config = Arc::new(config);
    let mut kept = handshake(address, &config, "shop.example").await.unwrap();
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (config, stop, done) = (Arc::clone(&config), Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let mut stream = handshake(address, &config, "shop.example").await.unwrap();
                    for _ in 0..3 {
                        assert!(get(&mut stream, "shop.example").await.unwrap().ends_with("ok"));
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for _ in 0..20 {
        let before = done.load(Ordering::Relaxed);
        let next = authority.sign("shop.example");
        scene.ingress.apply_certificates(certificates(&[("shop.example", &next)]));
        let stream = handshake(address, &config, "shop.example").await.unwrap();
        assert_eq!(leaf(&stream), next.cert[0].to_vec(), "the next handshake has the new one");
        assert!(
            get(&mut kept, "shop.example").await.unwrap().ends_with("ok"),
            "the old one goes on"
        );
        eventually("connections go on", || done.load(Ordering::Relaxed) > before).await;
    }
    stop.store(true, Ordering::Relaxed);
    for task in load {
        task.await.unwrap();
    }
}

//! How much may be under way at once: of one client, and at one pod.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, StatusCode};
use joey::net::ingress::Bounds;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Semaphore;

use super::protocols::http2;
use super::scene::*;

/// A server that answers one request for each permit.
struct Slow {
    address: SocketAddr,
    begun: Arc<AtomicUsize>,
    permits: Arc<Semaphore>,
}

impl Slow {
    async fn start() -> Slow {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (begun, permits) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let slow = Slow { address, begun: Arc::clone(&begun), permits: Arc::clone(&permits) };
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (begun, permits) = (Arc::clone(&begun), Arc::clone(&permits));
                tokio::spawn(async move {
                    while stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {
                        begun.fetch_add(1, Ordering::SeqCst);
                        permits.acquire().await.unwrap().forget();
                        let _ = stream
                            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                            .await;
                    }
                });
            }
        });
        slow
    }

    async fn has_begun(&self, requests: usize) {
        eventually("the pod is asked", || self.begun.load(Ordering::SeqCst) == requests).await;
    }
}

/// A client at another address of the loopback.
async fn client_at(source: &str, scene: &Scene) -> Client {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(source.parse().unwrap(), 0)).unwrap();
    Client::new(socket.connect(scene.http).await.unwrap())
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n";

#[tokio::test]
async fn one_client_has_only_so_many_requests_under_way() {
    let pod = Slow::start().await;
    let scene = Scene::bare(Bounds { requests_per_client: 3, ..Bounds::default() }).await;
    scene.route(&[("", "/", "web")], &[Service::new("web", &[pod.address])]);

    // Over one connection or over several: what counts is who asks.
    let sender = http2(scene.http).await;
    let ask = || {
        let mut sender = sender.clone();
        let request =
            Request::get("http://shop.example/").body(Full::<Bytes>::default().boxed()).unwrap();
        tokio::spawn(async move { sender.send_request(request).await.unwrap() })
    };
    let (one, two) = (ask(), ask());
    let mut three = scene.connect().await;
    three.send(GET).await;
    pod.has_begun(3).await;

    let refused = ask().await.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()["retry-after"], "1");
    let mut four = scene.connect().await;
    let refused = four.get("/").await;
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
    assert!(refused.body.contains("3 requests of this client are under way"), "{}", refused.body);
    scene.await_metric("joey_ingress_requests_refused_total{reason=\"client\"}", "2").await;

    // Others do not suffer, and a proxy that is trusted speaks for many.
    let mut other = client_at("127.0.0.2", &scene).await;
    other.send(GET).await;
    pod.has_begun(4).await;
    let mut trusted = Vec::new();
    for number in 1..=5 {
        let mut one = client_at("127.0.0.9", &scene).await;
        one.send(GET).await;
        pod.has_begun(4 + number).await;
        trusted.push(one);
    }

    // The refused have reached no pod, and their connections go on.
    pod.permits.add_permits(9);
    assert_eq!(one.await.unwrap().status(), StatusCode::OK);
    assert_eq!(two.await.unwrap().status(), StatusCode::OK);
    assert_eq!((three.answer().await.status, other.answer().await.status), (200, 200));
    pod.permits.add_permits(1);
    assert_eq!(four.get("/").await.status, 200);
    assert_eq!(pod.begun.load(Ordering::SeqCst), 10);
}

#[tokio::test]
async fn no_pod_has_more_requests_under_way_than_it_may() {
    let (one, other) = (Slow::start().await, Slow::start().await);
    let scene = Scene::bare(Bounds { requests_per_pod: 2, ..Bounds::default() }).await;
    scene.route(&[("", "/", "web")], &[Service::new("web", &[one.address, other.address])]);
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut client = scene.connect().await;
        client.send(GET).await;
        held.push(client);
    }
    one.has_begun(2).await;
    other.has_begun(2).await;

    let refused = scene.get("/").await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    let expected = "every ready pod of Service shop/web has as many requests under way";
    assert!(refused.body.contains(expected), "{}", refused.body);
    scene.await_metric("joey_ingress_requests_refused_total{reason=\"pods\"}", "1").await;
    let counted = "joey_ingress_requests_total{namespace=\"shop\",ingress=\"rules\",service=\"web\",\
                   method=\"GET\",code=\"5xx\"}";
    scene.await_metric(counted, "1").await;

    // One place is enough for one more.
    one.permits.add_permits(2);
    one.has_begun(2).await;
    scene.await_metric("joey_ingress_requests_in_flight{namespace=\"shop\"", "2").await;
    one.permits.add_permits(1);
    assert_eq!(scene.get("/").await.status, 200);
}

const UPGRADE: &[u8] =
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// An office behind one address has so many WebSockets open and no more.
#[tokio::test]
async fn an_open_websocket_is_a_request_under_way_and_a_connection_of_its_client() {
    let pod = Pod::answering(|seen| match seen.header("upgrade").is_empty() {
        true => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
        false => {
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
                .to_owned()
        }
    })
    .await;
    let bounds = Bounds { requests_per_client: 3, per_client: 5, ..Bounds::default() };
    let scene = Scene::bare(bounds).await;
    scene.route(&[("", "/", "web")], &[Service::new("web", &[pod.address])]);
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut client = scene.connect().await;
        client.send(UPGRADE).await;
        assert_eq!(client.head().await.0, 101);
        open.push(client);
    }
    let mut more = scene.connect().await;
    more.send(UPGRADE).await;
    assert_eq!(more.answer().await.status, 429);
    assert_eq!(more.get("/").await.status, 429);
    assert_eq!(client_at("127.0.0.2", &scene).await.get("/").await.status, 200);

    let mut fifth = scene.connect().await;
    assert_eq!(fifth.get("/").await.status, 429);
    assert_eq!(scene.connect().await.rest().await, "", "a sixth connection is closed unheard");
    scene.await_metric("joey_ingress_connections_refused_total{reason=\"client\"}", "1").await;

    // One that is closed makes room for both.
    drop(open.pop());
    scene.await_metric("joey_ingress_connections{port=", "4").await;
    let mut last = scene.connect().await;
    last.send(UPGRADE).await;
    assert_eq!(last.head().await.0, 101);
}

//! What is sent again, and what never is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::scene::*;

/// A port where nobody listens.
async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

#[tokio::test]
async fn a_pod_that_takes_no_connection_is_passed_over() {
    let pod = Pod::start("alive").await;
    let scene = Scene::start(&[nobody().await, pod.address]).await;
    for _ in 0..50 {
        let answer = scene.get("/").await;
        assert_eq!((answer.status, &*answer.body), (200, "alive"));
    }
    let mut client = scene.connect().await;
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody").await;
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(pod.requests().last().unwrap().body, "body");
}

#[tokio::test]
async fn without_any_pod_that_takes_connections_the_service_is_named() {
    let scene = Scene::start(&[nobody().await]).await;
    let answer = scene.get("/").await;
    assert_eq!(answer.status, 502);
    assert_eq!(answer.body, "502 no pod of Service shop/web takes connections\n");
}

#[tokio::test]
async fn a_request_that_a_pod_has_seen_is_not_sent_again() {
    let pods = [Pod::answering(|_| String::new()).await, Pod::answering(|_| String::new()).await];
    let scene = Scene::start(&[pods[0].address, pods[1].address]).await;
    for _ in 0..20 {
        assert_eq!(scene.get("/").await.status, 502);
    }
    let seen: usize = pods.iter().map(|pod| pod.requests().len()).sum();
    assert_eq!(seen, 20);
}

/// Answers once and closes when told, which is when the proxy is about to use the connection again.
#[tokio::test]
async fn requests_on_connections_that_pods_close_between_two_of_them_are_not_lost() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut block = vec![0; 4096];
                if stream.read(&mut block).await.unwrap_or(0) > 0 {
                    count.fetch_add(1, Ordering::Relaxed);
                    // It promises to keep the connection and closes it at once: the race of every idle timeout.
                    let _ =
                        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                }
            });
        }
    });
    let scene = Scene::start(&[address]).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(scene.connect().await);
    }
    for round in 0..250 {
        for client in &mut clients {
            let answer = client.get("/").await;
            assert_eq!(answer.status, 200, "round {round}: {answer:?}");
        }
    }
    assert_eq!(served.load(Ordering::Relaxed), 2000, "each request was seen exactly once");
}

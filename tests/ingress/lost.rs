//! What is sent again, and what never is.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

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

/// A pod of threads that answers each connection once, promises to keep it, and closes it a moment later: the race of
/// every idle timeout, with the pod's end of it on another processor than ours.
fn closer(served: &Arc<AtomicUsize>) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let served = Arc::clone(served);
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let (mut stream, served) = (stream.unwrap(), Arc::clone(&served));
            std::thread::spawn(move || {
                let mut block = [0; 4096];
                if stream.read(&mut block).unwrap_or(0) > 0 {
                    served.fetch_add(1, Ordering::Relaxed);
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                    let end = Instant::now() + Duration::from_micros(number as u64 * 7 % 400);
                    while Instant::now() < end {
                        std::hint::spin_loop();
                    }
                }
            });
        }
    });
    address
}

/// What the pod's kernel had acknowledged before the pod closed may have been seen: such a request is answered 502. All
/// others find another connection, whatever their method.
#[tokio::test]
async fn a_request_that_meets_a_closing_connection_is_sent_again_only_when_nobody_can_have_seen_it()
{
    let served = Arc::new(AtomicUsize::new(0));
    let scene = Scene::start(&[closer(&served)]).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(scene.connect().await);
    }
    let (mut good, mut doubtful) = (0, 0);
    for round in 0..500 {
        for client in &mut clients {
            let body = if round % 2 == 0 { "" } else { "body" };
            let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:";
            client.send(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes()).await;
            match client.answer().await.status {
                200 => good += 1,
                502 => doubtful += 1,
                other => panic!("{other} in round {round}"),
            }
        }
    }
    eprintln!("{good} good, {doubtful} met a pod that closed on what it had received");
    assert_eq!(served.load(Ordering::Relaxed), good, "each was seen exactly once");
    let retries = scene.metrics();
    let retries = retries
        .lines()
        .find(|line| line.starts_with("joey_ingress_retries_total{namespace=\"shop\""));
    assert!(retries.is_some_and(|line| !line.ends_with(" 0")), "{retries:?}");
}

#[tokio::test]
async fn a_request_that_a_pod_has_read_on_a_kept_connection_is_not_sent_again() {
    let known = std::sync::Mutex::new(std::collections::HashSet::new());
    let pod = Pod::answering(move |seen| match known.lock().unwrap().insert(seen.connection) {
        true => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        false => String::new(),
    })
    .await;
    let scene = Scene::start(&[pod.address]).await;
    let mut client = scene.connect().await;
    let (mut good, mut lost) = (0, 0);
    for _ in 0..50 {
        match client.get("/").await.status {
            200 => good += 1,
            502 => lost += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!(pod.requests().len(), good + lost, "{good} good, {lost} lost");
    assert!(lost > 0, "no kept connection was used");
}

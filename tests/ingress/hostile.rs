//! Peers that stall, flood and hoard, while others are served (security C11).

use std::time::Duration;

use joey::net::ingress::Bounds;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;

use super::frames::*;
use super::protocols::{alone, resident};
use super::scene::*;

/// Who floods waits at the door; normal clients come from elsewhere.
const ATTACKER: &str = "127.0.0.2";

/// A normal client meanwhile: a hundred requests, none of which may fail.
async fn is_served(scene: &Scene) {
    let mut kept = scene.connect().await;
    for _ in 0..50 {
        assert_eq!(kept.get("/").await.status, 200);
        assert_eq!(scene.get("/").await.status, 200);
    }
}

async fn from(source: &str, scene: &Scene) -> Client {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
    Client::new(socket.connect(scene.http).await.unwrap())
}

/// Both ends of each connection are ours.
fn allow_descriptors(count: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.map(|hard| hard.max(count));
    setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard }).unwrap();
}

#[tokio::test]
async fn five_thousand_idle_dripping_and_stalling_connections_disturb_nobody() {
    if alone("hostile::five_thousand_idle_dripping_and_stalling_connections_disturb_nobody") {
        return;
    }
    allow_descriptors(16_384);
    let pod = Pod::start("ok").await;
    let scene = Scene::start(&[pod.address]).await;
    let before = resident();
    let mut held = Vec::new();
    for number in 0..5000 {
        // No single address may hold as many.
        let source = if number % 2 == 0 { "127.0.0.2" } else { "127.0.0.3" };
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
        let is_stalling = number % 5 == 4;
        let port = if is_stalling { scene.https } else { scene.http };
        let mut client = Client::new(socket.connect(port).await.unwrap());
        match number % 5 {
            0 | 1 => client.send(b"GET / HTTP/1.1\r\nX-Slow: ").await,
            // The begin of a ClientHello whose rest never comes.
            4 => client.send(b"\x16\x03\x01\x02\x00\x01").await,
            _ => {}
        }
        held.push(client);
    }
    is_served(&scene).await;
    for client in held.iter_mut().step_by(5) {
        client.send(b"x").await;
    }
    is_served(&scene).await;
    let grown = resident().saturating_sub(before);
    println!("5,000 connections took {} KiB each, both ends", grown / 5000 / 1024);
    assert!(grown < 320 << 20, "5,000 idle connections took {grown} bytes on both sides");
}

#[tokio::test]
async fn one_client_cannot_take_every_connection() {
    let pod = Pod::start("ok").await;
    let scene = Scene::bare(Bounds { connections: 64, per_client: 16, ..Bounds::default() }).await;
    scene.route(&[("", "/", "web")], &[Service::new("web", &[pod.address])]);
    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(from("127.0.0.2", &scene).await);
    }
    is_served(&scene).await;
    scene.await_metric("joey_ingress_connections_refused_total{reason=\"client\"", "84").await;
}

#[tokio::test]
async fn giant_heads_are_refused_without_being_held() {
    if alone("hostile::giant_heads_are_refused_without_being_held") {
        return;
    }
    let pod = Pod::start("ok").await;
    let scene = Scene::start(&[pod.address]).await;
    let before = resident();
    for _ in 0..10 {
        let mut client = from(ATTACKER, &scene).await;
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: ").await;
        client.send(&vec![b'x'; 1 << 20]).await;
        let heard = client.rest().await;
        assert!(heard.is_empty() || heard.starts_with("HTTP/1.1 431"), "{heard}");
    }
    for (count, status) in [(100, "200"), (101, "431"), (1000, "431")] {
        let many = "X: y\r\n".repeat(count - 2);
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{many}\r\n");
        let heard = scene.raw(head.as_bytes()).await;
        assert!(heard.starts_with(&format!("HTTP/1.1 {status}")), "{count} headers: {heard}");
    }
    assert_eq!(pod.requests().len(), 1);
    assert!(resident() < before + (32 << 20));
    is_served(&scene).await;
}

/// Sends a flood until the server ends the connection; fails when it never does.
async fn flood(scene: &Scene, name: &str, mut next: impl FnMut(u32) -> Vec<u8>) {
    let mut stream = from(ATTACKER, scene).await.stream.into_inner();
    stream.write_all(PREFACE).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let sent = async {
        for number in 0..200_000 {
            if write.write_all(&next(number)).await.is_err() {
                return true;
            }
        }
        false
    };
    let heard = async {
        let mut block = vec![0; 64 << 10];
        while read.read(&mut block).await.is_ok_and(|read| read > 0) {}
    };
    let ended = async {
        tokio::select! {
            ended = sent => ended,
            () = heard => true,
        }
    };
    let ended = tokio::time::timeout(PATIENCE, ended).await;
    assert_eq!(ended, Ok(true), "{name}: the server goes along with 200,000 frames");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_floods_end_their_connection_and_disturb_nobody() {
    if alone("hostile::http2_floods_end_their_connection_and_disturb_nobody") {
        return;
    }
    let pod = Pod::start("ok").await;
    let scene = Scene::start(&[pod.address]).await;
    is_served(&scene).await;
    let before = resident();
    let odd = |number: u32| number * 2 + 1;
    flood(&scene, "PING", |_| frame(6, 0, 0, &[0; 8])).await;
    flood(&scene, "SETTINGS", |_| frame(4, 0, 0, &[])).await;
    flood(&scene, "PRIORITY", |_| frame(2, 0, 1, &[0; 5])).await;
    flood(&scene, "empty DATA", |number| match number {
        0 => frame(1, 4, 1, REQUEST),
        _ => frame(0, 0, 1, &[]),
    })
    .await;
    flood(&scene, "WINDOW_UPDATE", |_| frame(8, 0, 0, &[0, 0, 0, 1])).await;
    flood(&scene, "Rapid Reset", |number| {
        [frame(1, 5, odd(number), REQUEST), frame(3, 0, odd(number), &[0, 0, 0, 8])].concat()
    })
    .await;
    flood(&scene, "MadeYouReset", |number| {
        // A window update of zero makes the server reset the stream (CVE-2025-8671).
        [frame(1, 4, odd(number), REQUEST), frame(8, 0, odd(number), &[0; 4])].concat()
    })
    .await;
    flood(&scene, "CONTINUATION", |number| match number {
        0 => frame(1, 0, 1, REQUEST),
        _ => frame(9, 0, 1, &[0x00, 0x01, b'x', 0x01, b'y']),
    })
    .await;
    // An indexed header of 4 KiB, named again and again.
    let mut bomb = vec![0x40, 0x01, b'x', 0x7f, 0x81, 0x1e];
    bomb.extend(vec![b'y'; 4000]);
    let again = [REQUEST, &bomb, &vec![0xbe; 12_000]].concat();
    flood(&scene, "HPACK bomb", |number| {
        frame(1, 5, odd(number), &again[..again.len().min(16_384)])
    })
    .await;
    is_served(&scene).await;
    let grown = resident().saturating_sub(before);
    assert!(grown < 48 << 20, "grew by {grown}");
}

/// Streams that are reset in the same breath as they are opened cost a pod nothing, not even a connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_taken_back_at_once_reaches_no_pod() {
    let pod = Pod::start("ok").await;
    let scene = Scene::start(&[pod.address]).await;
    let mut client = RawHttp2::connect(scene.http, &[]).await;
    // Below what h2 says GOAWAY to.
    let mut batch = Vec::new();
    for stream in (1..30).step_by(2) {
        batch.extend(frame(1, 5, stream, REQUEST));
        batch.extend(frame(3, 0, stream, &[0, 0, 0, 8]));
    }
    batch.extend(frame(1, 5, 31, REQUEST));
    client.send(&batch).await;
    loop {
        let heard = client.hear().await.expect("the connection goes on");
        if heard.kind == 0 && heard.stream == 31 {
            break;
        }
    }
    assert_eq!(pod.requests().len(), 1, "only the one that was not taken back");
    assert_eq!(pod.connections(), 1);
}

/// Not many frames of a flood are answered before it ends its connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_over_before_much_of_it_is_answered() {
    let pod = Pod::start("ok").await;
    let scene = Scene::start(&[pod.address]).await;
    let mut client = RawHttp2::connect(scene.http, &[]).await;
    let mut pongs = 0;
    // In pieces, so that each could be answered before the next.
    for _ in 0..200 {
        client.send(&frame(PING, 0, 0, &[0; 8]).repeat(50)).await;
        let mut awaited = 50;
        while awaited > 0 {
            let Some(heard) = client.hear().await else {
                assert!((400..1000).contains(&pongs), "{pongs} were answered");
                return;
            };
            let is_pong = u32::from(heard.kind == PING);
            (pongs, awaited) = (pongs + is_pong, awaited - is_pong);
        }
    }
    panic!("{pongs} PING frames and no end");
}

/// gRPC measures its way with a PING an answer, Go's client acknowledges small answers with window updates, and both may end a
/// request with an empty DATA frame: thousands of each on one connection, and none of them a flood.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_client_that_acknowledges_every_small_answer_is_no_flood() {
    let pod = Pod::start("ok").await;
    let scene = Scene::start(&[pod.address]).await;
    let mut client = RawHttp2::connect(scene.http, &[]).await;
    for number in 0..1500 {
        let stream = number * 2 + 1;
        let request = [
            frame(HEADERS, END_HEADERS, stream, POST),
            frame(DATA, 0, stream, b"x"),
            frame(DATA, END_STREAM, stream, &[]),
            frame(PING, 0, 0, &[0; 8]),
            frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 2]),
        ];
        client.send(&request.concat()).await;
        loop {
            let heard = client.hear().await;
            let heard = heard.unwrap_or_else(|| panic!("ended at request {number}"));
            if heard.stream == stream && heard.flags & END_STREAM != 0 {
                break;
            }
        }
    }
    assert_eq!(pod.requests().len(), 1500);
}

/// The next connection of who has flooded is heard later; nobody else's is, and nobody is locked out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_floods_again_and_again_waits_at_the_door() {
    let pod = Pod::start("ok").await;
    let scene = Scene::start(&[pod.address]).await;
    let delayed = || {
        let text = scene.metrics();
        let line =
            text.lines().find_map(|l| l.strip_prefix("joey_ingress_connections_delayed_total "));
        line.expect("there from the start").parse::<u32>().unwrap()
    };
    flood(&scene, "PING", |_| frame(6, 0, 0, &[0; 8])).await;
    assert_eq!(from(ATTACKER, &scene).await.get("/").await.status, 200);
    assert_eq!(delayed(), 0, "once is a broken client");
    for round in 0.. {
        assert!(round < 100, "a hundred floods and no delay");
        flood(&scene, &format!("Rapid Reset, round {round}"), |number| {
            let stream = number * 2 + 1;
            [frame(1, 5, stream, REQUEST), frame(3, 0, stream, &[0, 0, 0, 8])].concat()
        })
        .await;
        if delayed() > 0 {
            break;
        }
    }
    let before = delayed();
    is_served(&scene).await;
    assert_eq!(delayed(), before, "another client does not wait");
    assert_eq!(from(ATTACKER, &scene).await.get("/").await.status, 200);
}

/// Slow reads: hundreds of answers without end, of which nobody takes a byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_cost_little_and_disturb_nobody() {
    if alone("hostile::answers_that_nobody_reads_cost_little_and_disturb_nobody") {
        return;
    }
    allow_descriptors(16_384);
    // What the kernel holds is not the proxy's: little of it, so that it is soon full.
    let small = || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_send_buffer_size(16 << 10).unwrap();
        socket.set_recv_buffer_size(16 << 10).unwrap();
        socket
    };
    let endless = small();
    endless.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let endless = endless.listen(1024).unwrap();
    let pod = Pod::start("ok").await;
    let scene = Scene::bare(Bounds::default()).await;
    scene.route(
        &[("", "/", "web"), ("endless", "/", "endless")],
        &[
            Service::new("web", &[pod.address]),
            Service::new("endless", &[endless.local_addr().unwrap()]),
        ],
    );
    let begun = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&begun);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = endless.accept().await.unwrap();
            let counted = std::sync::Arc::clone(&counted);
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 1024]).await;
                counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                while stream.write_all(&[b'x'; 16 << 10]).await.is_ok() {}
            });
        }
    });
    is_served(&scene).await;
    let before = resident();
    let mut held = Vec::new();
    for _ in 0..200 {
        let mut slow = Client::new(small().connect(scene.http).await.unwrap());
        slow.send(b"GET / HTTP/1.1\r\nHost: endless\r\n\r\n").await;
        held.push(slow);
    }
    for _ in 0..4 {
        // As much room as there can be, which no byte ever leaves.
        let mut slow = Client::new(small().connect(scene.http).await.unwrap());
        let window = frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]);
        let more = frame(8, 0, 0, &[0x7f, 0, 0, 0]);
        slow.send(&[&PREFACE[..24], &window, &more].concat()).await;
        for stream in 0..50 {
            slow.send(&frame(1, 5, stream * 2 + 1, ENDLESS)).await;
        }
        held.push(slow);
    }
    let all = || begun.load(std::sync::atomic::Ordering::Relaxed) == 400;
    eventually("every answer has begun", all).await;
    // Until nothing grows any more: what is to be held, is.
    let mut last = (resident(), tokio::time::Instant::now());
    while last.1.elapsed() < Duration::from_secs(1) {
        is_served(&scene).await;
        if resident() > last.0 + (1 << 20) {
            last = (resident(), tokio::time::Instant::now());
        }
    }
    let grown = resident().saturating_sub(before);
    println!("400 answers that nobody reads hold {} KiB each", grown / 400 / 1024);
    assert!(grown < 160 << 20, "400 answers that nobody reads hold {grown} bytes");
    drop(held);
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_its_pod_back() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let scene = Scene::start(&[address]).await;
    let mut slow = scene.connect().await;
    slow.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (mut pod, _) = listener.accept().await.unwrap();
    pod.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    let block = vec![b'x'; 64 << 10];
    let mut written = 0;
    // The kernels' buffers take some megabytes; the proxy must not take the rest.
    while written < 256 << 20 {
        match tokio::time::timeout(Duration::from_secs(1), pod.write_all(&block)).await {
            Ok(done) => done.unwrap(),
            Err(_blocked) => break,
        }
        written += block.len();
    }
    assert!(written < 64 << 20, "the proxy took {written} bytes for a client that reads nothing");
}

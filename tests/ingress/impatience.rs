//! Clients that take nothing, give nothing, or are not there any more: what they hold is given back.

use std::net::SocketAddr;
use std::time::Duration;

use joey::net::ingress::Patience;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::frames::*;
use super::scene::*;

/// Every clock stands still but those that a test is about.
const CALM: Patience = Patience {
    handshake: Duration::from_secs(3600),
    idle: Duration::from_secs(3600),
    head: Duration::from_secs(3600),
    stall: Duration::from_secs(3600),
    ping: Duration::from_secs(3600),
};
const SHORT: Duration = Duration::from_millis(300);

async fn bare_pod() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A request's connection at the pod, its head read.
async fn next_request(pod: &TcpListener) -> TcpStream {
    let accepted = tokio::time::timeout(PATIENCE, pod.accept()).await;
    let (mut stream, _) = accepted.expect("a request in time").unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    stream
}

/// Sends without end until the proxy closes; fails when it never does.
async fn pour(mut pod: TcpStream) {
    let poured = async {
        let block = [b'x'; 64 << 10];
        while pod.write_all(&block).await.is_ok() {}
    };
    tokio::time::timeout(PATIENCE, poured).await.expect("the pod's connection is given up");
}

/// Waits for the proxy to close.
async fn closed(mut pod: TcpStream) {
    let mut rest = Vec::new();
    let read = tokio::time::timeout(PATIENCE, pod.read_to_end(&mut rest)).await;
    let _ = read.expect("the pod's connection is given up");
}

const NONE_IN_FLIGHT: &str = "joey_ingress_requests_in_flight{namespace=\"shop\"";

#[tokio::test]
async fn an_http2_client_that_gives_no_window_gives_its_pods_back() {
    let (pod, address) = bare_pod().await;
    let scene = Scene::impatient(&[address], Patience { stall: SHORT, ..CALM }).await;
    let mut client = RawHttp2::connect(scene.http, NO_WINDOW).await;
    let mut held = Vec::new();
    for stream in [1, 3, 5] {
        client.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, REQUEST)).await;
        let mut at_pod = next_request(&pod).await;
        at_pod.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await.unwrap();
        held.push(tokio::spawn(pour(at_pod)));
    }
    let mut reset = Vec::new();
    for _ in 0..3 {
        let told = client.hear_kind(RST_STREAM).await;
        // CANCEL
        assert_eq!(told.number(0), 8);
        reset.push(told.stream);
    }
    reset.sort_unstable();
    assert_eq!(reset, [1, 3, 5]);
    for pour in held {
        pour.await.unwrap();
    }
    scene.await_metric(NONE_IN_FLIGHT, "0").await;
    // Its connection goes on, and with room for the answer it gets one.
    client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 7, REQUEST)).await;
    let mut at_pod = next_request(&pod).await;
    at_pod.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    client.send(&frame(WINDOW_UPDATE, 0, 7, &[0, 0, 0, 9])).await;
    let data = client.hear_kind(DATA).await;
    assert_eq!((data.stream, &*data.payload), (7, &b"ok"[..]));
}

/// The proxy's own words wait for a window like any other's.
#[tokio::test]
async fn an_http2_client_that_does_not_take_a_plain_answer_is_reset() {
    let scene = Scene::impatient(&[], Patience { stall: SHORT, ..CALM }).await;
    let mut client = RawHttp2::connect(scene.http, NO_WINDOW).await;
    client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, REQUEST)).await;
    assert_eq!(client.hear_kind(RST_STREAM).await.stream, 1);
    scene.await_metric(NONE_IN_FLIGHT, "0").await;
}

#[tokio::test]
async fn an_http1_client_that_reads_nothing_gives_its_pod_back() {
    let (pod, address) = bare_pod().await;
    let scene = Scene::impatient(&[address], Patience { stall: SHORT, ..CALM }).await;
    let mut client = scene.connect().await;
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut at_pod = next_request(&pod).await;
    at_pod.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await.unwrap();
    pour(at_pod).await;
    scene.await_metric(NONE_IN_FLIGHT, "0").await;
    scene.await_metric("joey_ingress_connections{", "0").await;
}

#[tokio::test]
async fn a_body_that_does_not_go_on_holds_no_pod() {
    let (pod, address) = bare_pod().await;
    let scene = Scene::impatient(&[address], Patience { stall: SHORT, ..CALM }).await;
    // Over h2 other streams may be busy; the pod is not asked to wait for this one.
    let mut client = RawHttp2::connect(scene.http, &[]).await;
    client.send(&frame(HEADERS, END_HEADERS, 1, POST)).await;
    let at_pod = next_request(&pod).await;
    let head = client.hear_kind(HEADERS).await;
    // `:status 408`, literal with the name indexed.
    assert!(
        head.payload.windows(3).any(|digits| digits == b"408") || is_huffman_408(&head),
        "{head:?}"
    );
    closed(at_pod).await;
    // Nor when it has answered already and hears nothing of the rest.
    client.send(&frame(HEADERS, END_HEADERS, 3, POST)).await;
    let mut at_pod = next_request(&pod).await;
    at_pod.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    closed(at_pod).await;
    let mut client = scene.connect().await;
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n").await;
    closed(next_request(&pod).await).await;
    scene.await_metric(NONE_IN_FLIGHT, "0").await;
}

/// RFC 7541 appendix B: `4` is 011010, `0` is 00000, `8` is 011110.
fn is_huffman_408(head: &Frame) -> bool {
    head.payload.windows(3).any(|bytes| bytes[0] == 0x83 && bytes[1..] == [0x68, 0x0f])
}

#[tokio::test]
async fn an_http1_client_that_is_gone_is_noticed_while_it_waits() {
    let (pod, address) = bare_pod().await;
    let scene = Scene::impatient(&[address], CALM).await;
    let requests = [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ];
    for request in requests {
        let mut client = scene.connect().await;
        client.send(request.as_bytes()).await;
        let at_pod = next_request(&pod).await;
        drop(client);
        closed(at_pod).await;
    }
    scene.await_metric(NONE_IN_FLIGHT, "0").await;
    scene.await_metric("joey_ingress_connections{", "0").await;
}

#[tokio::test]
async fn what_an_http1_client_asks_while_it_waits_is_answered_in_its_turn() {
    let (pod, address) = bare_pod().await;
    let scene = Scene::impatient(&[address], CALM).await;
    let mut client = scene.connect().await;
    client.send(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut at_pod = next_request(&pod).await;
    // Longer than what is taken in one piece, and cut in the middle of a head.
    let long = format!("GET /second HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(3000));
    client.send(long.as_bytes()).await;
    client.send(b"GET /third HTTP/1.1\r\nHo").await;
    for answer in ["one", "two", "six"] {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{answer}");
        at_pod.write_all(head.as_bytes()).await.unwrap();
        assert_eq!(client.answer().await.body, answer);
        if answer == "two" {
            client.send(b"st: a\r\n\r\n").await;
        }
        if answer != "six" {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(at_pod.read_u8().await.unwrap());
            }
        }
    }
}

#[tokio::test]
async fn an_http2_client_that_is_gone_is_noticed_while_it_waits() {
    let (pod, address) = bare_pod().await;
    let scene = Scene::impatient(&[address], Patience { ping: SHORT, ..CALM }).await;
    let mut client = RawHttp2::connect(scene.http, &[]).await;
    client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, REQUEST)).await;
    let at_pod = next_request(&pod).await;
    let ping = client.hear_kind(PING).await;
    assert_eq!(ping.flags, 0);
    client.hear_the_end().await;
    closed(at_pod).await;
    scene.await_metric("joey_ingress_connections{", "0").await;
}

#[tokio::test]
async fn an_http2_client_that_answers_pings_may_wait() {
    let (pod, address) = bare_pod().await;
    let ping = Duration::from_secs(1);
    let scene = Scene::impatient(&[address], Patience { ping, ..CALM }).await;
    let mut client = RawHttp2::connect(scene.http, &[]).await;
    client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, REQUEST)).await;
    let mut at_pod = next_request(&pod).await;
    for _ in 0..3 {
        let ping = client.hear_kind(PING).await;
        client.send(&frame(PING, ACK, 0, &ping.payload)).await;
    }
    at_pod.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    assert_eq!(client.hear_kind(DATA).await.payload, b"ok");
}

/// RFC 9113 §9.1: a client learns which of its requests were heard. Pings and windows are no reason to stay.
#[tokio::test]
async fn an_idle_http2_client_is_told_before_its_connection_ends() {
    let pod = Pod::start("ok").await;
    let patience = Patience { idle: SHORT, head: SHORT, ..CALM };
    let scene = Scene::impatient(&[pod.address], patience).await;
    let mut client = RawHttp2::connect(scene.http, &[]).await;
    client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, REQUEST)).await;
    assert_eq!(client.hear_kind(DATA).await.payload, b"ok");
    let mut goodbyes = Vec::new();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        assert!(tokio::time::Instant::now() < deadline, "pings keep the connection: {goodbyes:?}");
        client.send(&frame(PING, 0, 0, &[7; 8])).await;
        client.send(&frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])).await;
        match client.hear().await {
            Some(said) if said.kind == GOAWAY => goodbyes.push((said.number(0), said.number(4))),
            // It shows that it has heard, as every library does; then it is told what was heard of it.
            Some(said) if said.kind == PING && said.flags == 0 => {
                client.send(&frame(PING, ACK, 0, &said.payload)).await;
            }
            Some(_) => {}
            None => break,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // NO_ERROR, of what will come first, then of what has come.
    assert_eq!(goodbyes, [(0x7fff_ffff, 0), (1, 0)]);
}

#[tokio::test]
async fn an_idle_http2_client_that_does_not_go_is_shown_out() {
    let pod = Pod::start("ok").await;
    let patience = Patience { idle: SHORT, head: SHORT, ..CALM };
    let scene = Scene::impatient(&[pod.address], patience).await;
    let mut client = RawHttp2::connect(scene.http, &[]).await;
    client.hear_kind(GOAWAY).await;
    client.hear_the_end().await;
}

#[tokio::test]
async fn a_handshake_that_does_not_go_on_ends() {
    let scene = Scene::impatient(&[], Patience { handshake: SHORT, ..CALM }).await;
    let mut client = TcpStream::connect(scene.https).await.unwrap();
    // The begin of a ClientHello.
    client.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
    closed(client).await;
    scene.await_metric("joey_ingress_tls_handshakes_total{outcome=\"timeout\"", "1").await;
    scene.await_metric("joey_ingress_connections{", "0").await;
}

/// A byte at a time does not move the end of a head's time.
#[tokio::test]
async fn a_head_that_comes_byte_by_byte_is_not_awaited() {
    let scene = Scene::impatient(&[], Patience { head: SHORT, ..CALM }).await;
    let stream = TcpStream::connect(scene.http).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let dripping = tokio::spawn(async move {
        write.write_all(b"GET / HTTP/1.1\r\nX-Slow: ").await.unwrap();
        while write.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let mut heard = Vec::new();
    let end = tokio::time::timeout(PATIENCE, read.read_to_end(&mut heard)).await;
    let _ = end.expect("the connection ends");
    assert!(heard.is_empty(), "{heard:?}");
    tokio::time::timeout(PATIENCE, dripping).await.expect("nothing more is taken").unwrap();
    scene.await_metric("joey_ingress_connections{", "0").await;
}

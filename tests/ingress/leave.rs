//! What is under way ends when policies take its client's leave back, whichever way it goes; what keeps its leave does not.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use joey::net::ingress::Verdict;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::scene::*;

/// Lets everybody through until told otherwise.
#[derive(Clone)]
struct Switch {
    denies: Arc<AtomicBool>,
    changes: watch::Sender<u64>,
}

impl Verdict for Switch {
    fn permits(&self, _: IpAddr, _: SocketAddr) -> bool {
        !self.denies.load(Ordering::SeqCst)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

impl Switch {
    fn in_front_of(scene: &Scene) -> Switch {
        let switch = Switch { denies: Arc::default(), changes: watch::Sender::new(0) };
        scene.ingress.ask_before_connecting(Box::new(switch.clone()));
        switch
    }

    /// Another policy has changed.
    fn touch(&self) {
        self.changes.send_modify(|times| *times += 1);
    }

    fn deny(&self) {
        self.denies.store(true, Ordering::SeqCst);
        self.touch();
    }
}

/// A pod of which the test holds the other end, and a proxy in front of it.
async fn pod() -> (TcpListener, Scene, Switch) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let scene = Scene::start(&[listener.local_addr().unwrap()]).await;
    let switch = Switch::in_front_of(&scene);
    (listener, scene, switch)
}

/// The pod's side, when the head of the request has come.
async fn accept(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    stream
}

/// What comes until the end, which comes.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset is an end, too.
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    let _ = read.expect("the pod's side ends");
    bytes
}

#[tokio::test]
async fn a_tunnel_ends_on_both_sides() {
    let (listener, scene, switch) = pod().await;
    let mut client = scene.connect().await;
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: own\r\n\r\n").await;
    let mut served = accept(&listener).await;
    let switching =
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: own\r\nConnection: Upgrade\r\n\r\n";
    served.write_all(switching.as_bytes()).await.unwrap();
    assert_eq!(client.head().await.0, 101);
    for _ in ["before anything changes", "when others are denied"] {
        client.send(b"up\n").await;
        let mut word = [0; 3];
        served.read_exact(&mut word).await.unwrap();
        served.write_all(b"down\n").await.unwrap();
        assert_eq!(client.line().await, "down\n");
        switch.touch();
    }
    switch.deny();
    // Neither side says anything: the end comes to them.
    assert_eq!(client.rest().await, "");
    assert_eq!(rest(&mut served).await, b"");
}

#[tokio::test]
async fn an_answer_that_streams_breaks_off() {
    let (listener, scene, switch) = pod().await;
    let mut client = scene.connect().await;
    client.send(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut served = accept(&listener).await;
    served
        .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none\n\r\n")
        .await
        .unwrap();
    client.head().await;
    assert_eq!((client.line().await, client.line().await), ("4\r\n".into(), "one\n".into()));
    client.line().await;
    switch.touch();
    served.write_all(b"4\r\ntwo\n\r\n").await.unwrap();
    assert_eq!((client.line().await, client.line().await), ("4\r\n".into(), "two\n".into()));
    client.line().await;
    switch.deny();
    assert_eq!(client.rest().await, "", "not even an end that looks like a whole answer's");
    rest(&mut served).await;
}

#[tokio::test]
async fn a_request_that_waits_for_its_answer_is_answered_403_and_its_upload_ends() {
    let (listener, scene, switch) = pod().await;
    let mut client = scene.connect().await;
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nfirst").await;
    let mut served = accept(&listener).await;
    let mut first = [0; 5];
    served.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"first");
    switch.deny();
    client.send(b"second").await;
    assert_eq!(client.head().await.0, 403);
    assert_eq!(rest(&mut served).await, b"", "the pod gets nothing more");
    assert_eq!(scene.get("/").await.status, 403, "and nobody else is let in");
}

//! What is under way ends when policies take its client's leave back, whichever way it goes; what keeps its leave does not.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use futures::StreamExt as _;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use joey::net::ingress::Verdict;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use super::protocols::{Body, http2, tokio_stream};
use super::scene::*;

/// Lets everybody through until told otherwise.
#[derive(Clone)]
struct Switch {
    denies: Arc<AtomicBool>,
    /// Of all pods this one alone.
    only: Arc<OnceLock<SocketAddr>>,
    changes: watch::Sender<u64>,
}

impl Verdict for Switch {
    fn permits(&self, _: IpAddr, pod: SocketAddr) -> bool {
        let is_another = self.only.get().is_some_and(|only| *only != pod);
        is_another || !self.denies.load(Ordering::SeqCst)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

impl Switch {
    fn in_front_of(scene: &Scene) -> Switch {
        let (denies, only) = (Arc::default(), Arc::default());
        let switch = Switch { denies, only, changes: watch::Sender::new(0) };
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

/// A pod that sends back over HTTP/2 what comes, frame by frame. Tells of each call that ends.
async fn echo() -> (SocketAddr, mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = mpsc::channel(8);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let tell = tell.clone();
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                // The last one that holds it tells.
                let ends = Ends(tell.clone());
                async move {
                    let upload = request.into_body().into_data_stream();
                    let back = upload.map(move |data| {
                        let _held = &ends;
                        data.map(Frame::data)
                    });
                    Ok::<_, Infallible>(Response::new(StreamBody::new(back)))
                }
            });
            let io = TokioIo::new(stream);
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(io, service));
        }
    });
    (address, told)
}

struct Ends(mpsc::Sender<()>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.try_send(()).ok();
    }
}

/// A call in both directions.
struct Call {
    tell: mpsc::Sender<&'static str>,
    answer: Response<Incoming>,
}

impl Call {
    async fn begin(connection: &mut SendRequest<Body>, host: &str) -> Call {
        let (tell, told) = mpsc::channel(1);
        let request = Request::builder()
            .method("POST")
            .uri(format!("http://{host}/kangaroo.Jumps/Watch"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(BodyExt::boxed(StreamBody::new(tokio_stream(told))))
            .unwrap();
        let answer = connection.send_request(request);
        let answer = tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap();
        Call { tell, answer }
    }

    async fn is_answered(&mut self, word: &'static str) {
        self.tell.send(word).await.unwrap();
        let back = tokio::time::timeout(PATIENCE, self.answer.frame()).await.unwrap();
        assert_eq!(back.unwrap().unwrap().into_data().unwrap(), word);
    }
}

#[tokio::test]
async fn of_the_grpc_calls_of_a_connection_those_end_that_lose_their_leave() {
    let ((one, mut one_ends), (two, mut two_ends)) = (echo().await, echo().await);
    let scene = Scene::bare(Default::default()).await;
    let service = |name, pods| Service { name, app_protocol: Some("kubernetes.io/h2c"), pods };
    scene.route(
        &[("one.example", "/", "one"), ("two.example", "/", "two")],
        &[service("one", &[one]), service("two", &[two])],
    );
    let switch = Switch::in_front_of(&scene);
    let mut connection = http2(scene.http).await;
    let mut first = Call::begin(&mut connection, "one.example").await;
    let mut second = Call::begin(&mut connection, "two.example").await;
    for call in [&mut first, &mut second] {
        call.is_answered("before").await;
    }
    switch.touch();
    for call in [&mut first, &mut second] {
        call.is_answered("when others are denied").await;
    }
    switch.only.set(one).unwrap();
    switch.deny();
    let end = tokio::time::timeout(PATIENCE, first.answer.frame()).await.expect("it ends");
    assert!(end.expect("an end that says nothing is a whole answer's").is_err());
    tokio::time::timeout(PATIENCE, one_ends.recv()).await.expect("the pod's side ends, too");
    // The other call, in the same connection, never notices.
    second.is_answered("after").await;
    assert!(two_ends.try_recv().is_err());
    let again = Call::begin(&mut connection, "one.example").await;
    assert_eq!(again.answer.status(), StatusCode::FORBIDDEN);
    second.is_answered("and after that").await;
}

#[tokio::test]
async fn an_http2_stream_from_an_http1_pod_is_reset_and_its_connection_lives() {
    let (listener, scene, switch) = pod().await;
    let mut connection = http2(scene.http).await;
    let request = |path: &str| {
        let none = http_body_util::Empty::new().map_err(|never: Infallible| match never {});
        Request::get(format!("http://shop.example{path}")).body(BodyExt::boxed(none)).unwrap()
    };
    let answer = connection.send_request(request("/events"));
    let pod = async {
        let mut served = accept(&listener).await;
        let begin = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none\n\r\n";
        served.write_all(begin).await.unwrap();
        served
    };
    let (answer, mut served) = tokio::join!(answer, pod);
    let mut answer = answer.unwrap();
    assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "one\n");
    switch.deny();
    let end = tokio::time::timeout(PATIENCE, answer.frame()).await.expect("it ends");
    assert!(end.expect("an end that says nothing is a whole answer's").is_err());
    rest(&mut served).await;
    let again = connection.send_request(request("/")).await.expect("the connection lives");
    assert_eq!(again.status(), StatusCode::FORBIDDEN);
}

//! What is carried besides plain exchanges: WebSockets, streams, HTTP/2, gRPC, trailers, 100-continue.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::scene::*;

/// RFC 6455 §1.3.
const SWITCHING: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

#[tokio::test]
async fn websockets_pass_and_their_connections_are_never_used_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                while stream.read_line(&mut line).await.unwrap() > 2 {
                    line.clear();
                }
                stream.write_all(SWITCHING).await.unwrap();
                let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_close() || socket.send(message).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let scene = Scene::start(&[address]).await;
    for _ in 0..3 {
        let mut client = scene.connect().await;
        client
            .send(
                b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                  Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            )
            .await;
        let (status, head) = client.head().await;
        assert_eq!(status, 101);
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        let mut socket = WebSocketStream::from_raw_socket(client.stream, Role::Client, None).await;
        // A change of rules does not disturb it.
        scene.route(&[("", "/", "web")], &[Service::new("web", &[])]);
        for text in ["one", "two"] {
            socket.send(Message::text(text)).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(text));
        }
        let large = vec![7u8; 1 << 20];
        socket.send(Message::binary(large.clone())).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::binary(large));
        socket.close(None).await.unwrap();
        scene.route(&[("", "/", "web")], &[Service::new("web", &[address])]);
    }
    scene.await_metric("joey_ingress_requests_in_flight{namespace=\"shop\"", "0").await;
}

#[tokio::test]
async fn an_upgrade_that_a_pod_does_not_take_is_an_answer_like_any_other() {
    let pod = Pod::start("no").await;
    let scene = Scene::start(&[pod.address]).await;
    let mut client = scene.connect().await;
    client
        .send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(pod.requests()[0].header("upgrade"), ["websocket"]);
}

#[tokio::test]
async fn events_arrive_as_they_are_sent() {
    let (tell, told) = tokio::sync::mpsc::channel::<&'static str>(1);
    let told = std::sync::Arc::new(tokio::sync::Mutex::new(Some(told)));
    let address = serve_http1(move |_| {
        let told = std::sync::Arc::clone(&told);
        async move {
            let told = told.lock().await.take().unwrap();
            let stream = tokio_stream(told);
            Response::builder()
                .header("content-type", "text/event-stream")
                .body(http_body_util::BodyExt::boxed(StreamBody::new(stream)))
                .unwrap()
        }
    })
    .await;
    let scene = Scene::start(&[address]).await;
    let mut client = scene.connect().await;
    client.send(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.head().await;
    for event in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
        // Each is awaited before the next is sent: nothing in between collects them.
        tell.send(event).await.unwrap();
        assert_eq!(client.line().await, format!("{:X}\r\n", event.len()));
        let mut chunk = vec![0; event.len() + 2];
        client.stream.read_exact(&mut chunk).await.unwrap();
        assert_eq!(&chunk[..event.len()], event.as_bytes());
    }
}

#[tokio::test]
async fn a_large_body_is_streamed_both_ways_with_bounded_memory() {
    if alone("protocols::a_large_body_is_streamed_both_ways_with_bounded_memory") {
        return;
    }
    const SIZE: usize = 256 << 20;
    let address = serve_http1(|request: Request<Incoming>| async move {
        // An echo that never holds more than a frame.
        Response::new(request.into_body().map_err(|error| panic!("{error}")).boxed())
    })
    .await;
    let scene = Scene::start(&[address]).await;
    let before = resident();
    let stream = TcpStream::connect(scene.http).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let sending = tokio::spawn(async move {
        let head = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\nConnection: close\r\n\r\n"
        );
        write.write_all(head.as_bytes()).await.unwrap();
        let block = vec![b'x'; 1 << 20];
        for _ in 0..SIZE >> 20 {
            write.write_all(&block).await.unwrap();
        }
        write
    });
    let mut received = 0;
    let mut most = 0;
    let mut block = vec![0; 1 << 20];
    loop {
        let count = read.read(&mut block).await.unwrap();
        if count == 0 {
            break;
        }
        received += count;
        most = most.max(resident());
    }
    sending.await.unwrap();
    assert!(received > SIZE, "{received} of {SIZE}");
    assert!(most < before + (48 << 20), "grew from {before} to {most}");
}

#[tokio::test]
async fn a_client_that_expects_100_gets_it_when_a_pod_wants_the_body() {
    let pod = Pod::start("took it").await;
    let scene = Scene::start(&[pod.address]).await;
    let mut client = scene.connect().await;
    client
        .send(b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        .await;
    assert_eq!(client.head().await.0, 100);
    client.send(b"body").await;
    assert_eq!(client.answer().await.body, "took it");
    assert_eq!(pod.requests()[0].body, "body");

    scene.route(&[("", "/", "web")], &[Service::new("web", &[])]);
    let mut client = scene.connect().await;
    client
        .send(b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.status, 503, "a body that nobody wants is not asked for");
}

/// Upload servers do so: the client has its answer, the pod the rest.
#[tokio::test]
async fn a_pod_that_answers_before_it_has_read_everything_gets_the_rest() {
    let answers = [
        "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 202 Accepted\r\nContent-Length: 5\r\n\r\nsoon.",
        "HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nsoon.\r\n0\r\n\r\n",
    ];
    for answer in answers {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scene = Scene::start(&[listener.local_addr().unwrap()]).await;
        let mut client = scene.connect().await;
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\nfirst ").await;
        let (mut pod, _) = listener.accept().await.unwrap();
        let mut came = Vec::new();
        while !came.ends_with(b"first ") {
            assert!(pod.read_buf(&mut came).await.unwrap() > 0);
        }
        pod.write_all(answer.as_bytes()).await.unwrap();
        assert_eq!(client.answer().await.status, 202);
        client.send(b"second").await;
        while !came.ends_with(b"first second") {
            assert!(pod.read_buf(&mut came).await.unwrap() > 0, "{answer:?}");
        }
        // Who has the answer and the rest is a client like any other.
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let (mut pod, _) = listener.accept().await.unwrap();
        pod.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        assert_eq!(client.answer().await.body, "ok");
    }
}

/// What a client could take for another client's answer never reaches one.
#[tokio::test]
async fn an_answer_in_doubt_is_no_answer_and_its_connection_carries_no_other() {
    let doubtful = [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: y\r\n folded\r\n\r\n",
    ];
    for answer in doubtful {
        let pod = Pod::answering(move |_| answer.to_owned()).await;
        let scene = Scene::start(&[pod.address]).await;
        let mut client = scene.connect().await;
        for _ in 0..2 {
            let told = client.get("/").await;
            assert_eq!(told.status, 502, "{answer:?}");
            assert!(told.body.contains("Service shop/web gave an answer that is none"), "{told:?}");
        }
        let connections: Vec<_> = pod.requests().iter().map(|seen| seen.connection).collect();
        assert_eq!(connections.len(), 2, "each was asked once");
        assert_ne!(connections[0], connections[1], "{answer:?}");
    }
    // With something after it the answer is whole, and the connection its last.
    let spare = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let pod = Pod::answering(move |_| spare.to_owned()).await;
    let scene = Scene::start(&[pod.address]).await;
    let mut client = scene.connect().await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.body, "ok");
    }
    let mut connections: Vec<_> = pod.requests().iter().map(|seen| seen.connection).collect();
    connections.dedup();
    assert_eq!(connections.len(), 3);
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let pod = Pod::answering(|_| {
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n"
            .to_owned()
    })
    .await;
    let scene = Scene::start(&[pod.address]).await;
    let mut client = scene.connect().await;
    client
        .send(
            b"POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: X-Up\r\n\
              Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-Up: 5\r\n\r\n",
        )
        .await;
    let answer = client.answer().await;
    assert_eq!(answer.header("x-sum"), Some("7"), "{answer:?}");
    assert_eq!(pod.requests()[0].header("x-up"), ["5"]);
}

#[tokio::test]
async fn a_silent_pod_is_given_up_and_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let scene = Scene::bare(Default::default()).await;
    let options = joey::net::ingress::routes::Options {
        response_timeout: Duration::from_millis(200),
        ..Default::default()
    };
    let fact = ingress("rules", &[("", "/", "web")], options);
    scene.ingress.apply(&[fact], &directory(&[Service::new("web", &[address])]));
    let answer = scene.get("/").await;
    assert_eq!(answer.status, 504);
    assert!(answer.body.contains("Service shop/web did not answer"), "{answer:?}");
}

pub type Body = http_body_util::combinators::BoxBody<Bytes, Infallible>;

#[tokio::test]
async fn http2_clients_are_served_from_http1_pods() {
    let pod = Pod::start("old").await;
    let scene = Scene::start(&[pod.address]).await;
    let mut sender = http2(scene.http).await;
    let requests = (0..50).map(|number| {
        let request = Request::builder()
            .uri(format!("http://shop.example/{number}"))
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .body(Full::new(Bytes::from("body")).boxed())
            .unwrap();
        sender.send_request(request)
    });
    for answer in futures::future::join_all(requests).await {
        let answer = answer.unwrap();
        assert_eq!((answer.status(), answer.version()), (hyper::StatusCode::OK, Version::HTTP_2));
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "old");
    }
    let seen = pod.requests();
    assert_eq!(seen.len(), 50);
    assert!(seen.iter().all(|seen| seen.header("cookie") == ["a=1; b=2"] && seen.body == "body"));
    assert!(seen.iter().all(|seen| seen.header("host") == ["shop.example"]));
}

#[tokio::test]
async fn grpc_passes_with_its_trailers_over_h2c() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = hyper::service::service_fn(|request: Request<Incoming>| async move {
                assert_eq!(request.version(), Version::HTTP_2);
                assert_eq!(request.headers()["te"], "trailers");
                assert_eq!(request.uri().authority().unwrap(), "shop.example");
                // Every frame is answered before the stream ends: a call in both directions.
                let mut trailers = hyper::HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                let echo = request
                    .into_body()
                    .into_data_stream()
                    .map(|data| Ok::<_, Infallible>(Frame::data(data.unwrap())));
                let end = futures::stream::iter([Ok(Frame::trailers(trailers))]);
                let body = StreamBody::new(echo.chain(end));
                Ok::<_, Infallible>(
                    Response::builder()
                        .header("content-type", "application/grpc")
                        .body(body)
                        .unwrap(),
                )
            });
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    for app_protocol in [Some("kubernetes.io/h2c"), None] {
        let scene = Scene::bare(Default::default()).await;
        scene
            .route(&[("", "/", "web")], &[Service { name: "web", app_protocol, pods: &[address] }]);
        let mut sender = http2(scene.http).await;
        let (tell, told) = tokio::sync::mpsc::channel(1);
        let body = http_body_util::BodyExt::boxed(StreamBody::new(tokio_stream(told)));
        let request = Request::builder()
            .method("POST")
            .uri("http://shop.example/kangaroo.Jumps/Watch")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(body)
            .unwrap();
        let answer = sender.send_request(request);
        tell.send("\0\0\0\0\x05first").await.unwrap();
        let mut answer = answer.await.unwrap();
        let mut next = async || answer.frame().await.unwrap().unwrap();
        assert_eq!(next().await.into_data().unwrap(), "\0\0\0\0\x05first");
        tell.send("\0\0\0\0\x06second").await.unwrap();
        assert_eq!(next().await.into_data().unwrap(), "\0\0\0\0\x06second");
        drop(tell);
        let trailers = next().await.into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
    }
}

pub async fn http2(address: std::net::SocketAddr) -> hyper::client::conn::http2::SendRequest<Body> {
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub fn tokio_stream(
    receiver: tokio::sync::mpsc::Receiver<&'static str>,
) -> impl futures::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + Sync {
    futures::stream::unfold(receiver, |mut receiver| async move {
        let text = receiver.recv().await?;
        Some((Ok(Frame::data(Bytes::from(text))), receiver))
    })
}

async fn serve_http1<F>(
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
) -> std::net::SocketAddr
where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            let service = hyper::service::service_fn(move |request| {
                let answer = answer.clone();
                async move { Ok::<_, Infallible>(answer(request).await) }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    address
}

/// Runs the test `name` (as the harness lists it) in a process of its own and demands that it passes; false in there.
pub fn alone(name: &str) -> bool {
    const NAME: &str = "JOEY_TEST_ALONE";
    if std::env::var(NAME).is_ok_and(|alone| alone == name) {
        return false;
    }
    let mut test = std::process::Command::new(std::env::current_exe().unwrap());
    let output = test.args(["--exact", name, "--nocapture"]).env(NAME, name).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("1 passed"), "no test is called {name}: {told}");
    true
}

/// Resident bytes of this process. A test that asks runs [`alone`], where nothing of other tests is among them.
pub fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap() * 4096
}

//! What no client gets past the proxy by saying it in HTTP/2, or after the body: too many headers, trailers that headers may
//! not be.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

use super::protocols::http2;
use super::scene::*;

/// What would route, delimit, authenticate or describe a request, and what is the client's own to say.
const TRAILERS: [(&str, &str); 17] = [
    ("x-sum", "7"),
    ("grpc-status", "0"),
    ("content-digest", "sha-256=:1:"),
    ("x-forwarded-for", "10.0.0.1"),
    ("x-forwarded-user", "root"),
    ("forwarded", "for=10.0.0.1"),
    ("x-real-ip", "10.0.0.1"),
    ("x_real_ip", "10.0.0.1"),
    ("x-request-id", "mine"),
    ("host", "intranet"),
    ("content-length", "9"),
    ("authorization", "Basic cm9vdDo="),
    ("proxy-authorization", "Basic cm9vdDo="),
    ("cookie", "session=1"),
    ("content-type", "text/html"),
    ("if-match", "*"),
    ("trailer", "x-more"),
];
const ALLOWED: [&str; 3] = ["content-digest", "grpc-status", "x-sum"];

fn with_trailers() -> Request<http_body_util::combinators::BoxBody<Bytes, Infallible>> {
    let mut trailers = HeaderMap::new();
    for (name, value) in TRAILERS {
        trailers.insert(name, value.parse().unwrap());
    }
    let frames = [Ok(Frame::data(Bytes::from("x"))), Ok(Frame::trailers(trailers))];
    let names = TRAILERS.map(|(name, _)| name).join(", ");
    Request::builder()
        .method("POST")
        .uri("http://shop.example/")
        // HTTP/1.1 carries only those that were announced.
        .header("trailer", names)
        .header("te", "trailers")
        .body(StreamBody::new(futures::stream::iter(frames)).boxed())
        .unwrap()
}

#[tokio::test]
async fn trailers_that_speak_for_the_proxy_reach_no_http1_pod() {
    let pod = Pod::start("ok").await;
    let scene = Scene::start(&[pod.address]).await;
    let mut sender = http2(scene.http).await;
    assert_eq!(sender.send_request(with_trailers()).await.unwrap().status(), 200);
    let mut client = scene.connect().await;
    // Those that the gate refuses outright are in the corpus.
    client
        .send(
            b"POST / HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\
              Trailer: X-Sum, X-Forwarded-For, X-Real-IP, Forwarded, X-Request-Id, Cookie, X_Real_IP\r\n\r\n\
              1\r\nx\r\n0\r\nX-Sum: 7\r\nX-Forwarded-For: 10.0.0.1\r\nX-Real-IP: 10.0.0.1\r\n\
              Forwarded: for=10.0.0.1\r\nX-Request-Id: mine\r\nCookie: a=1\r\nX_Real_IP: 10.0.0.1\r\n\r\n",
        )
        .await;
    assert_eq!(client.answer().await.status, 200);
    for seen in pod.requests() {
        assert_eq!((&*seen.body, seen.header("x-sum")), ("x", vec!["7"]), "{}", seen.head);
        assert_eq!(seen.header("x-forwarded-for"), ["127.0.0.1"], "{}", seen.head);
        assert_eq!(seen.header("x-real-ip"), ["127.0.0.1"], "{}", seen.head);
        assert_eq!(seen.header("host"), ["shop.example"], "{}", seen.head);
        for once in ["forwarded", "x-request-id", "trailer"] {
            assert_eq!(seen.header(once).len(), 1, "{once} in {}", seen.head);
        }
        for never in ["x-forwarded-user", "x_real_ip", "authorization", "proxy-authorization"] {
            assert!(seen.header(never).is_empty(), "{never} in {}", seen.head);
        }
        for never in ["content-length", "cookie", "content-type", "if-match"] {
            assert!(seen.header(never).is_empty(), "{never} in {}", seen.head);
        }
    }
    assert_eq!(pod.requests().len(), 2);
}

#[tokio::test]
async fn trailers_that_speak_for_the_proxy_reach_no_h2_pod_and_no_client() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen: Arc<Mutex<Vec<HeaderMap>>> = Arc::default();
    let record = Arc::clone(&seen);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let record = Arc::clone(&record);
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let record = Arc::clone(&record);
                async move {
                    let body = request.into_body().collect().await.unwrap();
                    let trailers = body.trailers().cloned().unwrap();
                    record.lock().unwrap().push(trailers);
                    let mut trailers = HeaderMap::new();
                    trailers.insert("x-sum", "8".parse().unwrap());
                    trailers.insert("content-length", "9".parse().unwrap());
                    trailers.insert("set-cookie", "a=1".parse().unwrap());
                    let end: Result<Frame<Bytes>, Infallible> = Ok(Frame::trailers(trailers));
                    let end = futures::stream::iter([end]);
                    Ok::<_, Infallible>(Response::new(StreamBody::new(end).boxed()))
                }
            });
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    let scene = Scene::bare(Default::default()).await;
    let app_protocol = Some("kubernetes.io/h2c");
    scene.route(&[("", "/", "web")], &[Service { name: "web", app_protocol, pods: &[address] }]);
    let mut sender = http2(scene.http).await;
    let answer = sender.send_request(with_trailers()).await.unwrap();
    let body = answer.into_body().collect().await.unwrap();
    let told: Vec<&str> = body.trailers().unwrap().keys().map(|name| name.as_str()).collect();
    assert_eq!(told, ["x-sum"]);
    let mut names: Vec<String> =
        seen.lock().unwrap()[0].keys().map(|name| name.as_str().to_owned()).collect();
    names.sort();
    assert_eq!(names, ALLOWED);
}

#[tokio::test]
async fn a_hundred_headers_and_64_kib_are_enough_in_http2_too() {
    let pod = Pod::start("ok").await;
    let scene = Scene::start(&[pod.address]).await;
    let mut sender = http2(scene.http).await;
    let mut ask = async |headers: usize, crumbs: usize, bytes: usize| {
        let mut request = Request::builder().uri("http://shop.example/");
        for number in 0..headers {
            request = request.header(format!("x-{number}"), "y");
        }
        // One header in many pieces (RFC 9113 §8.2.3).
        for number in 0..crumbs {
            request = request.header("cookie", format!("c{number}=1"));
        }
        if bytes > 0 {
            request = request.header("x-large", "z".repeat(bytes));
        }
        let body = Full::new(Bytes::new()).boxed();
        sender.send_request(request.body(body).unwrap()).await.unwrap().status().as_u16()
    };
    assert_eq!(ask(100, 0, 0).await, 200);
    assert_eq!(ask(99, 150, 0).await, 200);
    assert_eq!(ask(1, 0, 32 << 10).await, 200);
    let good = pod.requests().len();
    assert_eq!(ask(101, 0, 0).await, 431);
    assert_eq!(ask(100, 2, 0).await, 431);
    assert_eq!(ask(0, 0, 65 << 10).await, 431);
    // The connection is as good as before.
    assert_eq!(ask(1, 0, 0).await, 200);
    assert_eq!(pod.requests().len(), good + 1);
    assert_eq!(pod.requests()[1].header("cookie").len(), 1);
}

#[tokio::test]
async fn trailers_are_counted_as_headers_are() {
    let pod = Pod::start("ok").await;
    let scene = Scene::start(&[pod.address]).await;
    let mut sender = http2(scene.http).await;
    let mut ask = async |count: usize| {
        let mut trailers = HeaderMap::new();
        for number in 0..count {
            let name: hyper::header::HeaderName = format!("x-{number}").parse().unwrap();
            trailers.insert(name, "y".parse().unwrap());
        }
        let frames = [Ok(Frame::data(Bytes::from("x"))), Ok(Frame::trailers(trailers))];
        let body = StreamBody::new(futures::stream::iter(frames)).boxed();
        let request = Request::post("http://shop.example/").body(body).unwrap();
        sender.send_request(request).await.unwrap().status().as_u16()
    };
    assert_eq!(ask(100).await, 200);
    assert_eq!(ask(101).await, 400);
    assert_eq!(pod.requests().iter().filter(|seen| !seen.head.starts_with("BROKEN")).count(), 1);
}

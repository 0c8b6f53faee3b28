use std::future::poll_fn;

use http::header::{HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

async fn pair() -> (Link, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (pod, _) = listener.accept().await.unwrap();
    (Link::new(ours), pod)
}

fn begin(link: &mut Link) {
    let head = Head {
        method: &Method::GET,
        target: &PathAndQuery::from_static("/"),
        host: HeaderValue::from_static("x"),
        headers: &HeaderMap::new(),
        upgrade: None,
    };
    link.begin(&head, RequestBody::empty());
}

/// Sends the request and reads it at the pod.
async fn ask(link: &mut Link, pod: &mut TcpStream) {
    begin(link);
    poll_fn(|cx| link.poll_sent(cx)).await;
    let mut request = [0; 64];
    let length = pod.read(&mut request).await.unwrap();
    assert_eq!(&request[..length], b"GET / HTTP/1.1\r\nhost: x\r\n\r\n");
}

async fn body(link: &mut Link) -> Result<String, Broken> {
    let mut text = String::new();
    while let Some(frame) = poll_fn(|cx| link.poll_frame(cx)).await {
        text += std::str::from_utf8(&frame?.into_data().unwrap()).unwrap();
    }
    Ok(text)
}

#[tokio::test]
async fn one_exchange_follows_another_and_only_after_its_end() {
    let (mut link, mut pod) = pair().await;
    for _ in 0..3 {
        ask(&mut link, &mut pod).await;
        pod.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel").await.unwrap();
        let head = poll_fn(|cx| link.poll_head(cx)).await.unwrap();
        assert_eq!(head.status(), 200);
        assert!(!link.is_at_rest());
        pod.write_all(b"lo").await.unwrap();
        assert_eq!(body(&mut link).await.unwrap(), "hello");
        assert!(link.is_at_rest() && !link.has_ended());
    }
}

#[tokio::test]
async fn an_answer_with_something_after_it_is_the_connections_last() {
    let (mut link, mut pod) = pair().await;
    ask(&mut link, &mut pod).await;
    pod.write_all(b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    poll_fn(|cx| link.poll_head(cx)).await.unwrap();
    assert!(link.is_over() && !link.is_at_rest());
}

#[tokio::test]
async fn a_pod_that_ends_or_speaks_unasked_is_noticed_at_rest() {
    for said in ["", "HTTP/1.1 408 Too late\r\n\r\n"] {
        let (link, mut pod) = pair().await;
        assert!(!link.has_ended());
        pod.write_all(said.as_bytes()).await.unwrap();
        if said.is_empty() {
            drop(pod);
        }
        link.stream.readable().await.unwrap();
        assert!(link.has_ended());
    }
}

#[tokio::test]
async fn what_a_pod_cannot_have_seen_is_known() {
    // Nothing was sent.
    let (mut link, pod) = pair().await;
    begin(&mut link);
    assert!(link.is_unseen());
    // The pod ended the connection before the request came.
    pod.set_zero_linger().unwrap();
    drop(pod);
    let broken = poll_fn(|cx| link.poll_head(cx)).await.unwrap_err();
    assert!(matches!(broken, Broken::Unsent(_) | Broken::Read(_)), "{broken:?}");
    // It ended it having read it.
    let (mut link, mut pod) = pair().await;
    ask(&mut link, &mut pod).await;
    drop(pod);
    let broken = poll_fn(|cx| link.poll_head(cx)).await.unwrap_err();
    assert!(matches!(broken, Broken::Closed), "{broken:?}");
    assert!(!link.is_unseen());
    // It broke off in the middle of the head.
    let (mut link, mut pod) = pair().await;
    ask(&mut link, &mut pod).await;
    pod.write_all(b"HTTP/1.1 2").await.unwrap();
    drop(pod);
    let broken = poll_fn(|cx| link.poll_head(cx)).await.unwrap_err();
    assert!(matches!(broken, Broken::Answer(Malformed::Short)), "{broken:?}");
    assert!(!link.is_unseen());
}

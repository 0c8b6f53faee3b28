//! Logs and upgraded streams, with a node made of a few lines.

use std::io;
use std::sync::Arc;

use futures::future::BoxFuture;
use joey::api::streams::{Dial, Stream};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use crate::harness::{LIMIT, PODS, cluster, cluster_with};
use crate::listener::{Server, raw};

/// Answers upgrades with 101 and an echo that says goodbye at the end, everything else with its path.
pub struct EchoNode;

impl Dial for EchoNode {
    fn dial(&self, node: &str) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        assert_eq!(node, "n");
        Box::pin(async {
            let (ours, theirs) = tokio::io::duplex(4096);
            tokio::spawn(echo(theirs));
            Ok(Box::new(ours) as Box<dyn Stream>)
        })
    }
}

async fn echo(mut stream: DuplexStream) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    if !head.contains("upgrade: spdy/3.1") {
        let path = head.split(' ').nth(1).unwrap_or_default();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}", path.len());
        return stream.write_all(answer.as_bytes()).await;
    }
    assert!(!head.contains("authorization"), "credentials stay at the API");
    stream
        .write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: SPDY/3.1\r\nx-stream-protocol-version: v4.channel.k8s.io\r\n\r\n")
        .await?;
    let mut buffer = [0u8; 512];
    loop {
        match stream.read(&mut buffer).await? {
            0 => break,
            count => stream.write_all(&buffer[..count]).await?,
        }
    }
    stream.write_all(b"goodbye").await?;
    stream.shutdown().await
}

#[tokio::test]
async fn logs_come_from_the_node_of_the_pod() {
    let cluster = cluster_with(Arc::new(EchoNode)).await;
    cluster.pod("p", "n").await;
    let log = cluster.get(&format!("{PODS}/p/log?container=a&tailLines=3")).await;
    assert_eq!(log.code, 200);
    assert_eq!(log.text, "/containerlogs/default/p/a?container=a&taillines=3");
    let other = cluster.get(&format!("{PODS}/p/log?container=b")).await;
    assert_eq!(other.refusal(), (400, "container b is not valid for pod p".to_owned()));
    assert_eq!(cluster.get(&format!("{PODS}/x/log")).await.code, 404);
}

#[tokio::test]
async fn a_pod_without_a_node_has_no_logs_and_no_shell() {
    let cluster = cluster().await;
    cluster.pod("p", "").await;
    let log = cluster.get(&format!("{PODS}/p/log")).await;
    assert_eq!((log.code.as_u16(), log.text.as_str()), (200, ""));
    let exec = cluster.post(&format!("{PODS}/p/exec?command=sh"), json!({})).await;
    assert_eq!(exec.refusal(), (400, "pod p does not have a host assigned".to_owned()));
}

#[tokio::test]
async fn an_unreachable_node_is_an_error_and_no_hang() {
    let cluster = cluster().await;
    cluster.pod("p", "n").await;
    let log = cluster.get(&format!("{PODS}/p/log")).await;
    assert_eq!(log.code, 500);
}

#[tokio::test]
async fn after_101_bytes_flow_both_ways_and_each_side_ends_alone() {
    let server = Server::start(Arc::new(EchoNode)).await;
    server.cluster.pod("p", "n").await;
    let mut stream = server.connect(Some("admin")).await.unwrap();
    let request = format!(
        "POST {PODS}/p/exec?command=sh&stdin=true HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\nupgrade: SPDY/3.1\r\nx-stream-protocol-version: v4.channel.k8s.io\r\ncontent-length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    assert!(head.starts_with("http/1.1 101"), "{head}");
    assert!(head.contains("x-stream-protocol-version: v4.channel.k8s.io"));
    stream.write_all(b"hello ").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(LIMIT, stream.read_to_string(&mut answer))
        .await
        .expect("an end in time")
        .unwrap();
    assert_eq!(answer, "hello goodbye");
    server.stop().await;
}

#[tokio::test]
async fn an_upgrade_without_credentials_never_reaches_the_node() {
    let server = Server::start(Arc::new(EchoNode)).await;
    server.cluster.pod("p", "n").await;
    let request = format!(
        "GET {PODS}/p/exec?command=sh HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\nupgrade: SPDY/3.1\r\n\r\n"
    );
    let mut stream = server.connect(None).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut code = [0u8; 12];
    stream.read_exact(&mut code).await.unwrap();
    assert_eq!(&code, b"HTTP/1.1 401");
    drop(stream);
    let plain =
        format!("GET {PODS}/p/exec HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    let answer = raw(server.connect(Some("admin")).await.unwrap(), &plain).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    server.stop().await;
}

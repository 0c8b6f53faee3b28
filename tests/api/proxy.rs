//! pods/proxy and services/proxy, with a node that tells what it was asked.

use std::io;
use std::sync::Arc;

use futures::future::BoxFuture;
use http::Request;
use joey::api::streams::{Dial, Stream};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use crate::harness::{Cluster, LIMIT, NoNode, PODS, cluster_with};
use crate::listener::{Server, raw};

const SERVICES: &str = "/api/v1/namespaces/default/services";

/// Answers with the request as it came, of which `/moved` is redirected and an upgrade becomes an echo.
struct Mirror;

impl Dial for Mirror {
    fn dial(&self, node: &str) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        assert_eq!(node, "n");
        Box::pin(async {
            let (ours, theirs) = tokio::io::duplex(4096);
            tokio::spawn(mirror(theirs));
            Ok(Box::new(ours) as Box<dyn Stream>)
        })
    }
}

async fn mirror(mut stream: DuplexStream) -> io::Result<()> {
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        seen.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&seen).into_owned();
    if head.contains("upgrade: echo") {
        let answer =
            "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: echo\r\n\r\n";
        stream.write_all(answer.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        stream.write_all(text.to_uppercase().as_bytes()).await?;
        return stream.shutdown().await;
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).await?;
    let (status, more) = match head.contains("/moved") {
        true => ("302 Found", "location: /login\r\n"),
        false => ("200 OK", "content-type: application/json\r\nconnection: x-hop\r\nx-hop: 1\r\n"),
    };
    let text = [seen, body].concat();
    let answer = format!("HTTP/1.1 {status}\r\n{more}content-length: {}\r\n\r\n", text.len());
    stream.write_all(answer.as_bytes()).await?;
    stream.write_all(&text).await
}

/// A pod with an address at node `n`, and a Service in front of it.
async fn scene(cluster: &Cluster) {
    let pod = json!({
        "metadata": {"name": "p"},
        "spec": {"containers": [
            {"name": "a", "image": "x:1", "ports": [{"name": "web", "containerPort": 8080}]},
        ]},
    });
    assert_eq!(cluster.post(PODS, pod).await.code, 201);
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    assert_eq!(cluster.post(&format!("{PODS}/p/binding"), binding).await.code, 201);
    let status = json!({"status": {
        "phase": "Running", "podIP": "10.42.0.5", "podIPs": [{"ip": "10.42.0.5"}],
    }});
    assert_eq!(cluster.merge(&format!("{PODS}/p/status"), status).await.code, 200);
    let service = json!({
        "metadata": {"name": "web"}, "spec": {"ports": [{"port": 80, "targetPort": 8080}]},
    });
    assert_eq!(cluster.post(SERVICES, service).await.code, 201);
}

async fn endpoints(cluster: &Cluster, address: &str, pod: &str) {
    let target = json!({"kind": "Pod", "namespace": "default", "name": pod});
    let endpoints = json!({
        "metadata": {"name": "web"},
        "subsets": [{"addresses": [{"ip": address, "targetRef": target}], "ports": [{"port": 8080}]}],
    });
    let path = "/api/v1/namespaces/default/endpoints";
    let written = match cluster.get(&format!("{path}/web")).await.code.as_u16() {
        404 => cluster.post(path, endpoints).await,
        _ => cluster.put(&format!("{path}/web"), endpoints).await,
    };
    assert!(written.code.is_success(), "{}", written.text);
}

/// Request line and body as the node saw them.
fn seen(text: &str) -> (String, String) {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text}"));
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

#[tokio::test]
async fn every_method_reaches_the_pod_with_its_path_query_and_body() {
    let cluster = cluster_with(Arc::new(Mirror)).await;
    scene(&cluster).await;
    endpoints(&cluster, "10.42.0.5", "p").await;
    for (path, expected) in [
        ("pods/p/proxy/", "/proxy/default/p/http/8080/-/"),
        (
            "pods/p/proxy/a%2Fb//c/?x=%41&watch=1",
            "/proxy/default/p/http/8080/-/a%2Fb//c/?x=%41&watch=1",
        ),
        ("pods/https:p:9/proxy/x?", "/proxy/default/p/https/9/-/x?"),
        ("pods/p:web/proxy/x", "/proxy/default/p/http/8080/-/x"),
        ("services/web/proxy/x", "/proxy/default/p/http/8080/-/x"),
        ("services/https:web:80/proxy/x?%zz", "/proxy/default/p/https/8080/-/x?%zz"),
    ] {
        let got = cluster.get(&format!("/api/v1/namespaces/default/{path}")).await;
        assert_eq!(got.code, 200, "{path}: {}", got.text);
        assert_eq!(seen(&got.text).0, format!("GET {expected} HTTP/1.1"), "{path}");
    }
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let path = format!("{PODS}/p/proxy/x");
        let got = cluster.write(method, &path, "text/plain", "a body".to_owned()).await;
        let line = format!("{method} /proxy/default/p/http/8080/-/x HTTP/1.1");
        assert_eq!(seen(&got.text), (line, "a body".to_owned()), "{method}");
        // Nobody indents or packs what is the pod's.
        assert_eq!(got.headers["content-type"], "application/json");
        assert!(!got.headers.contains_key("x-hop"));
    }
}

#[tokio::test]
async fn a_path_begins_with_a_slash_and_redirects_stay_below_it() {
    let cluster = cluster_with(Arc::new(Mirror)).await;
    scene(&cluster).await;
    let got = cluster.get(&format!("{PODS}/p/proxy?x=1")).await;
    assert_eq!(got.code, 301);
    assert_eq!(got.headers["location"], format!("{PODS}/p/proxy/?x=1"));
    let posted = cluster.post(&format!("{PODS}/p/proxy"), json!({})).await;
    assert_eq!(seen(&posted.text).0, "POST /proxy/default/p/http/8080/-/ HTTP/1.1");
    let got = cluster.get(&format!("{PODS}/p/proxy/moved")).await;
    assert_eq!(got.code, 302, "no redirect is followed");
    assert_eq!(got.headers["location"], format!("{PODS}/p/proxy/login"));
}

#[tokio::test]
async fn only_live_pods_of_the_namespace_are_reached() {
    let cluster = cluster_with(Arc::new(Mirror)).await;
    scene(&cluster).await;
    let web = format!("{SERVICES}/web/proxy/");
    let none = (503, "no endpoints available for service \"web\"".to_owned());
    assert_eq!(cluster.get(&web).await.refusal(), none);
    // Somebody else's address under the pod's name, and a pod that is not there.
    for (address, pod) in [("10.42.0.6", "p"), ("10.42.0.5", "gone")] {
        endpoints(&cluster, address, pod).await;
        assert_eq!(cluster.get(&web).await.refusal(), none, "{address} {pod}");
    }
    for (path, code, message) in [
        ("services/none/proxy/", 404, "services \"none\" not found"),
        ("services/web:81/proxy/", 503, "no service port 81 found for service \"web\""),
        ("services/ftp:web:80/proxy/", 400, "invalid service request \"ftp:web:80\""),
        ("pods/none/proxy/", 404, "pods \"none\" not found"),
        ("pods/p:x/proxy/", 400, "pod \"p\" has no port \"x\""),
        ("pods/a:b:c:d/proxy/", 400, "invalid pod request \"a:b:c:d\""),
    ] {
        let got = cluster.get(&format!("/api/v1/namespaces/default/{path}")).await;
        assert_eq!(got.refusal(), (code, message.to_owned()), "{path}");
    }
    let trace = format!("{PODS}/p/proxy/");
    assert_eq!(cluster.write("TRACE", &trace, "text/plain", String::new()).await.code, 405);
    let climbing = Request::get(format!("{PODS}/p/proxy/%2e%2e/log")).body(Body::empty()).unwrap();
    assert_eq!(cluster.send(climbing).await.code, 404);
}

#[tokio::test]
async fn an_upgrade_is_carried_and_credentials_stay_at_the_api() {
    let server = Server::start(Arc::new(Mirror)).await;
    scene(&server.cluster).await;
    let mut stream = server.connect(Some("admin")).await.unwrap();
    let head = format!(
        "GET {PODS}/p/proxy/socket HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\nupgrade: echo\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    let answer = String::from_utf8_lossy(&answer).to_lowercase();
    assert!(answer.starts_with("http/1.1 101"), "{answer}");
    assert!(answer.contains("upgrade: echo"), "{answer}");
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut echoed = String::new();
    tokio::time::timeout(LIMIT, stream.read_to_string(&mut echoed)).await.unwrap().unwrap();
    assert_eq!(echoed, "HELLO");

    let told = format!(
        "GET {PODS}/p/proxy/x HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer secret\r\nx-remote-user: root\r\nconnection: close\r\n\r\n"
    );
    let answer = raw(server.connect(Some("admin")).await.unwrap(), &told).await;
    let low = answer.to_lowercase();
    assert!(!low.contains("secret") && !low.contains("x-remote-user"), "{answer}");
    assert!(answer.contains("GET /proxy/default/p/http/8080/127.0.0.1/x "), "{answer}");
    assert!(low.contains("x-forwarded-for: 127.0.0.1"), "{answer}");
    assert!(low.contains(&format!("x-forwarded-uri: {PODS}/p/proxy/x")), "{answer}");

    let stranger =
        format!("GET {PODS}/p/proxy/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    let answer = raw(server.connect(None).await.unwrap(), &stranger).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn a_proxy_needs_create_whatever_the_method_and_is_found_by_discovery() {
    let cluster = cluster_with(Arc::new(NoNode)).await;
    let jo = joey::api::identity::Identity::authenticated("jo", []);
    let client = cluster.api.client(jo, "default");
    for (id, resource) in [("pods/p", "pods"), ("services/https:web:80", "services")] {
        let path = format!("/api/v1/namespaces/default/{id}/proxy/x");
        let request = Request::get(path).body(Body::empty()).unwrap();
        let refused = crate::harness::send(&client, request).await;
        assert_eq!(refused.code, 403);
        let why = format!("User \"jo\" cannot create resource \"{resource}/proxy\"");
        assert!(refused.refusal().1.contains(&why), "{}", refused.text);
    }
    let resources = cluster.get("/api/v1").await.json();
    let listed = |name: &str| -> Value {
        let all = resources["resources"].as_array().unwrap();
        all.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("no {name}")).clone()
    };
    for (name, kind) in
        [("pods/proxy", "PodProxyOptions"), ("services/proxy", "ServiceProxyOptions")]
    {
        let one = listed(name);
        assert_eq!(one["kind"], kind);
        assert_eq!(one["verbs"], json!(["create", "delete", "get", "patch", "update"]));
    }
}

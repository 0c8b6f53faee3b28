//! An API over an empty in-memory store, and raw requests to it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use joey::api::identity::Identity;
use joey::api::streams::{Dial, Stream};
use joey::api::{Api, ApiConfig, token};
use joey::store::Store;
use kube::client::Body;
use serde_json::{Value, json};

/// Nothing in these tests takes longer than this unless it hangs.
pub const LIMIT: Duration = Duration::from_secs(10);

/// A node that nobody reaches.
pub struct NoNode;

impl Dial for NoNode {
    fn dial(&self, _: &str) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async { Err(io::Error::other("there is no node")) })
    }
}

pub struct Cluster {
    pub api: Api,
    pub client: kube::Client,
}

#[derive(Debug)]
pub struct Reply {
    pub code: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }

    /// Code and message of a Status.
    pub fn refusal(&self) -> (u16, String) {
        let status = self.json();
        assert_eq!(status["kind"], "Status", "{status}");
        let message = status["message"].as_str().unwrap_or_default().to_owned();
        (self.code.as_u16(), message)
    }
}

pub async fn cluster() -> Cluster {
    cluster_with(Arc::new(NoNode)).await
}

pub async fn cluster_with(dial: Arc<dyn Dial>) -> Cluster {
    let der = token::Key::generate_pkcs8().unwrap();
    let config = ApiConfig {
        cluster_domain: "cluster.local".to_owned(),
        token_key: token::Key::from_pkcs8(&der).unwrap(),
        ca_pem: "-----BEGIN CERTIFICATE-----\n".to_owned(),
        service_cidr: "10.43.0.0/16".parse().unwrap(),
        figures: Default::default(),
        translates_sctp: true,
    };
    let api = Api::new(Store::in_memory(), config, dial).await.unwrap();
    let client = api.client(Identity::component("system:test"), "default");
    Cluster { api, client }
}

impl Cluster {
    pub async fn send(&self, request: Request<Body>) -> Reply {
        send(&self.client, request).await
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub async fn get_as(&self, path: &str, accept: &str) -> Reply {
        let request = Request::get(path).header("accept", accept);
        self.send(request.body(Body::empty()).unwrap()).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Reply {
        self.write("POST", path, "application/json", body.to_string()).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Reply {
        self.write("PUT", path, "application/json", body.to_string()).await
    }

    pub async fn merge(&self, path: &str, body: Value) -> Reply {
        let kind = "application/merge-patch+json";
        self.write("PATCH", path, kind, body.to_string()).await
    }

    pub async fn delete(&self, path: &str, options: Value) -> Reply {
        let body = match options {
            Value::Null => String::new(),
            options => options.to_string(),
        };
        self.write("DELETE", path, "application/json", body).await
    }

    pub async fn write(&self, method: &str, path: &str, kind: &str, body: String) -> Reply {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", kind)
            .body(Body::from(body.into_bytes()))
            .unwrap();
        self.send(request).await
    }

    /// Creates a ConfigMap in `default`.
    pub async fn config_map(&self, name: &str) -> Value {
        let body = json!({"metadata": {"name": name}, "data": {"a": "1"}});
        let reply = self.post(CONFIG_MAPS, body).await;
        assert_eq!(reply.code, 201, "{}", reply.text);
        reply.json()
    }

    /// Creates a pod in `default`, bound to `node` unless that is empty.
    pub async fn pod(&self, name: &str, node: &str) -> Value {
        let reply = self.post(PODS, pod(name)).await;
        assert_eq!(reply.code, 201, "{}", reply.text);
        if !node.is_empty() {
            let binding = json!({
                "apiVersion": "v1", "kind": "Binding",
                "metadata": {"name": name}, "target": {"kind": "Node", "name": node},
            });
            let bound = self.post(&format!("{PODS}/{name}/binding"), binding).await;
            assert_eq!(bound.code, 201, "{}", bound.text);
        }
        self.get(&format!("{PODS}/{name}")).await.json()
    }

    /// A GET whose body is read piece by piece.
    pub async fn pieces(
        &self,
        path: &str,
        accept: &str,
    ) -> futures::stream::BoxStream<'static, Result<bytes::Bytes, kube::Error>> {
        let request = Request::get(path).header("accept", accept).body(Body::empty()).unwrap();
        let response = self.client.send(request).await.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body().into_data_stream().boxed()
    }

    /// Opens a watch.
    pub async fn watch(&self, path: &str) -> Lines {
        self.watch_as(path, "application/json").await
    }

    pub async fn watch_as(&self, path: &str, accept: &str) -> Lines {
        let request = Request::get(path).header("accept", accept).body(Body::empty()).unwrap();
        let response = self.client.send(request).await.unwrap();
        assert_eq!(response.status(), 200);
        Lines { chunks: response.into_body().into_data_stream().boxed(), buffer: Vec::new() }
    }
}

pub async fn send(client: &kube::Client, request: Request<Body>) -> Reply {
    let response = tokio::time::timeout(LIMIT, client.send(request))
        .await
        .expect("an answer in time")
        .unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    Reply {
        code: parts.status,
        headers: parts.headers,
        text: String::from_utf8_lossy(&bytes).into_owned(),
    }
}

pub const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub const PODS: &str = "/api/v1/namespaces/default/pods";

pub fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "a", "image": "x:1"}]},
    })
}

/// The lines of a watch.
pub struct Lines {
    chunks: futures::stream::BoxStream<'static, Result<bytes::Bytes, kube::Error>>,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next event; `None` when the watch has ended.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let chunk =
                tokio::time::timeout(LIMIT, self.chunks.next()).await.expect("an event in time")?;
            self.buffer.extend_from_slice(&chunk.unwrap());
        }
    }

    /// The next event as `TYPE name`.
    pub async fn brief(&mut self) -> String {
        match self.next().await {
            None => "end".to_owned(),
            Some(event) => format!(
                "{} {}",
                event["type"].as_str().unwrap(),
                event["object"]["metadata"]["name"].as_str().unwrap_or_default()
            ),
        }
    }
}

//! The two Services that every cluster has: the API as pods call it, and DNS. They come back when somebody takes them away.
//!
//! Neither has a selector, since both are the daemon itself, at the gateway's address that only pods and the host reach.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::discovery::ApiResource;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// How long one that was taken away may be missing.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
const AFTER_A_FAILURE: Duration = Duration::from_secs(1);

/// Where the daemon itself is to be found.
#[derive(Debug, Clone)]
pub struct Places {
    /// Of the Service `kubernetes`, and where it leads.
    pub api: (IpAddr, SocketAddr),
    /// Of the Service `kube-dns`, and where it leads; nothing when the host has no room for it.
    pub dns: Option<(IpAddr, SocketAddr)>,
}

/// Keeps them until cancelled.
pub async fn run(client: Client, places: Places, stop: CancellationToken) {
    let objects = objects(&places);
    let keep = async {
        loop {
            let pause = match put(&client, &objects).await {
                Ok(()) => LOOK_AGAIN,
                Err(error) => {
                    tracing::warn!(%error, "the cluster's own Services are not as they should be");
                    AFTER_A_FAILURE
                }
            };
            tokio::time::sleep(pause).await;
        }
    };
    stop.run_until_cancelled(keep).await;
}

async fn put(client: &Client, objects: &[(ApiResource, Value)]) -> kube::Result<()> {
    for (resource, object) in objects {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, resource);
        match api.get_opt(name).await? {
            Some(held) if contains(&serde_json::to_value(&held).unwrap_or_default(), object) => {}
            Some(_) => {
                api.patch(name, &PatchParams::default(), &Patch::Merge(object)).await?;
            }
            None => {
                let object =
                    serde_json::from_value(object.clone()).map_err(kube::Error::SerdeError)?;
                api.create(&PostParams::default(), &object).await?;
            }
        }
    }
    Ok(())
}

/// Whether `held` says everything that `wanted` says.
fn contains(held: &Value, wanted: &Value) -> bool {
    match (held, wanted) {
        (Value::Object(held), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, value)| held.get(key).is_some_and(|held| contains(held, value))),
        (Value::Array(held), Value::Array(wanted)) => {
            held.len() == wanted.len()
                && held.iter().zip(wanted).all(|(held, wanted)| contains(held, wanted))
        }
        (held, wanted) => held == wanted, // Plain values.
    }
}

/// The Services and their endpoints (pure).
fn objects(places: &Places) -> Vec<(ApiResource, Value)> {
    let port = |name: &str, protocol: &str, port: u16| json!({"name": name, "protocol": protocol, "port": port});
    let (address, listens) = places.api;
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let mut all =
        of(("default", "kubernetes"), address, &labels, &[port("https", "TCP", 443)], listens);
    if let Some((address, listens)) = places.dns {
        // What policies of the world select DNS by, and what tools look for. The last is how `kubectl cluster-info` calls it.
        let labels = json!({
            "k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "KubeDNS",
        });
        let ports = [port("dns", "UDP", 53), port("dns-tcp", "TCP", 53)];
        all.extend(of(("kube-system", "kube-dns"), address, &labels, &ports, listens));
    }
    all
}

fn of(
    (namespace, name): (&str, &str),
    address: IpAddr,
    labels: &Value,
    ports: &[Value],
    listens: SocketAddr,
) -> Vec<(ApiResource, Value)> {
    let there: Vec<Value> = ports
        .iter()
        .map(|port| {
            let mut port = port.clone();
            port["port"] = json!(listens.port());
            port
        })
        .collect();
    let service_ports: Vec<Value> = ports
        .iter()
        .map(|port| {
            let mut port = port.clone();
            port["targetPort"] = json!(listens.port());
            port
        })
        .collect();
    let mut slice_labels = labels.clone();
    slice_labels["kubernetes.io/service-name"] = json!(name);
    let mut endpoints_labels = labels.clone();
    endpoints_labels["endpointslice.kubernetes.io/skip-mirror"] = json!("true");
    let metadata = |labels: &Value| json!({"namespace": namespace, "name": name, "labels": labels});
    vec![
        (
            ApiResource::erase::<Service>(&()),
            json!({
                "apiVersion": "v1", "kind": "Service", "metadata": metadata(labels),
                "spec": {
                    "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address],
                    "ports": service_ports,
                },
            }),
        ),
        (
            ApiResource::erase::<Endpoints>(&()),
            json!({
                "apiVersion": "v1", "kind": "Endpoints", "metadata": metadata(&endpoints_labels),
                "subsets": [{"addresses": [{"ip": listens.ip()}], "ports": there}],
            }),
        ),
        (
            ApiResource::erase::<EndpointSlice>(&()),
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": metadata(&slice_labels),
                "addressType": "IPv4",
                "ports": there,
                "endpoints": [{"addresses": [listens.ip()], "conditions": {"ready": true}}],
            }),
        ),
    ]
}

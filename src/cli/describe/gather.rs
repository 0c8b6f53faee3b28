//! Asks the server for what is described together with an object. It lays nothing out.

use serde_json::Value;

use super::ingress::{self, Backend, Backends};
use super::text::{items, plain, selector};
use crate::cli::get::encode;
use crate::cli::resources::Resource;

/// Reads one document.
///
/// # Errors
/// The server's refusal.
pub async fn read(client: &kube::Client, path: &str) -> Result<Value, kube::Error> {
    let request = http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
    client.request(request).await
}

async fn list(client: &kube::Client, path: &str) -> Result<Vec<Value>, kube::Error> {
    let mut list = read(client, path).await?;
    Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
}

/// The events about an object.
pub async fn events(
    client: &kube::Client,
    resource: &Resource,
    object: &Value,
) -> Result<Vec<Value>, kube::Error> {
    let metadata = &object["metadata"];
    let (name, uid) = (plain(&metadata["name"]), plain(&metadata["uid"]));
    let namespace = plain(&metadata["namespace"]);
    let collection = match namespace.is_empty() {
        true => "/api/v1/events".to_owned(),
        false => format!("/api/v1/namespaces/{namespace}/events"),
    };
    // The node agent has a node's name for its uid.
    let uids = if resource.kind == "Node" { vec![uid, name.clone()] } else { vec![uid] };
    let mut events = Vec::new();
    for uid in uids {
        let about = format!(
            "involvedObject.kind={},involvedObject.name={name},involvedObject.namespace={namespace},involvedObject.uid={uid}",
            resource.kind
        );
        events
            .extend(list(client, &format!("{collection}?fieldSelector={}", encode(&about))).await?);
    }
    Ok(events)
}

/// The objects of a collection (`api/v1 pods`) that the selector of `owner` chooses, in its namespace.
pub async fn chosen(
    client: &kube::Client,
    api: &str,
    plural: &str,
    owner: &Value,
) -> Result<Vec<Value>, kube::Error> {
    let namespace = plain(&owner["metadata"]["namespace"]);
    let labels = encode(&selector(&owner["spec"]["selector"]));
    list(client, &format!("/{api}/namespaces/{namespace}/{plural}?labelSelector={labels}")).await
}

/// A Service's EndpointSlices.
pub async fn slices(
    client: &kube::Client,
    namespace: &str,
    service: &str,
) -> Result<Vec<Value>, kube::Error> {
    let label = encode(&format!("kubernetes.io/service-name={service}"));
    let collection = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
    list(client, &format!("{collection}?labelSelector={label}")).await
}

/// The Services that an Ingress names.
pub async fn backends(client: &kube::Client, ingress: &Value) -> Backends {
    let namespace = plain(&ingress["metadata"]["namespace"]);
    let mut backends = Backends::new();
    for name in ingress::services(ingress) {
        let path = format!("/api/v1/namespaces/{namespace}/services/{name}");
        let found = async {
            let slices = slices(client, &namespace, &name).await?;
            Ok(Backend { service: read(client, &path).await?, slices })
        };
        let found = found.await.map_err(words);
        backends.insert(name, found);
    }
    backends
}

/// A node's Lease, or why it cannot be read.
pub async fn lease(client: &kube::Client, node: &str) -> Result<Value, String> {
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    read(client, &format!("{leases}/{node}")).await.map_err(words)
}

/// The pods on a node that have not ended.
pub async fn pods_on(client: &kube::Client, node: &str) -> Result<Vec<Value>, kube::Error> {
    let fields = format!("spec.nodeName={node},status.phase!=Failed,status.phase!=Succeeded");
    list(client, &format!("/api/v1/pods?fieldSelector={}", encode(&fields))).await
}

/// The objects of a collection, each with the type that its list tells once.
///
/// # Errors
/// The server's refusal.
pub async fn collection(
    client: &kube::Client,
    resource: &Resource,
    path: &str,
) -> Result<Vec<Value>, kube::Error> {
    let list = read(client, path).await?;
    let typed = |item: &Value| {
        let mut item = item.clone();
        item["kind"] = resource.kind.clone().into();
        item["apiVersion"] = resource.api_version().into();
        item
    };
    Ok(items(&list["items"]).iter().map(typed).collect())
}

fn words(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message,
        other => other.to_string(),
    }
}

//! Endpoints that somebody wrote for a Service without selector, as slices (pure; KEP-1412, mirroring).

use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints, Service};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::slices::Group;

const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";

pub fn groups(service: &Service, endpoints: Option<&Endpoints>) -> Vec<Group> {
    let is_external =
        service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("ExternalName");
    let Some(endpoints) = endpoints.filter(|_| !is_external) else {
        return Vec::new();
    };
    if endpoints.labels().get(SKIP).is_some_and(|skip| skip == "true") {
        return Vec::new();
    }
    let subsets = endpoints.subsets.iter().flatten();
    subsets
        .map(|subset| {
            let ports = subset.ports.iter().flatten().map(|port| {
                json!({
                    "name": port.name.clone().unwrap_or_default(),
                    "port": port.port,
                    "protocol": port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                })
            });
            let mut group = Group { ports: ports.collect(), ..Group::default() };
            for address in subset.addresses.iter().flatten() {
                group.endpoints.insert(address.ip.clone(), endpoint(address, true));
            }
            for address in subset.not_ready_addresses.iter().flatten() {
                group.endpoints.insert(address.ip.clone(), endpoint(address, false));
            }
            group.endpoints.retain(|address, _| !address.contains(':'));
            group
        })
        .filter(|group| !group.endpoints.is_empty())
        .collect()
}

fn endpoint(address: &EndpointAddress, is_ready: bool) -> Value {
    let mut endpoint = json!({"addresses": [address.ip], "conditions": {"ready": is_ready}});
    if let Some(hostname) = &address.hostname {
        endpoint["hostname"] = json!(hostname);
    }
    if let Some(node) = &address.node_name {
        endpoint["nodeName"] = json!(node);
    }
    if let Some(reference) = &address.target_ref {
        endpoint["targetRef"] = json!(reference);
    }
    endpoint
}

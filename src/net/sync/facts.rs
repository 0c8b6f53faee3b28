//! Kubernetes objects become the facts that rules and names follow from (pure).
//!
//! The API has admitted them, so what does not parse is from another release and is left out.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::Protocol;
use super::super::service::{Endpoint, Facts, Service, ServiceName, ServicePort, Slice, SlicePort};

/// Names a slice's Service (KEP-752).
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// What the API defaults to.
const AFFINITY_SECONDS: i32 = 10_800;

pub fn read<'a>(
    services: impl Iterator<Item = &'a core::Service>,
    slices: impl Iterator<Item = &'a discovery::EndpointSlice>,
) -> Facts {
    let mut facts = Facts::default();
    facts.services.extend(services.map(service));
    for (name, own, slice) in slices.filter_map(slice) {
        facts.slices.entry(name).or_default().insert(own, slice);
    }
    facts
}

pub fn service(object: &core::Service) -> (ServiceName, Service) {
    (service_name(&object.metadata, object.metadata.name.as_deref()), service_of(object))
}

/// Whose it is, and its own name; nothing where it says of no Service that it is its.
pub fn slice(object: &discovery::EndpointSlice) -> Option<(ServiceName, String, Slice)> {
    let service = object.metadata.labels.as_ref()?.get(SERVICE_LABEL)?;
    let own = object.metadata.name.clone().unwrap_or_default();
    Some((service_name(&object.metadata, Some(service)), own, slice_of(object)))
}

fn service_name(metadata: &ObjectMeta, name: Option<&str>) -> ServiceName {
    ServiceName {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: name.unwrap_or_default().to_owned(),
    }
}

fn service_of(object: &core::Service) -> Service {
    let spec = object.spec.clone().unwrap_or_default();
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    let addresses = match &spec.cluster_ips {
        Some(addresses) => addresses.clone(),
        None => spec.cluster_ip.clone().into_iter().collect(),
    };
    let has_affinity = spec.session_affinity.as_deref() == Some("ClientIP");
    let seconds = spec
        .session_affinity_config
        .and_then(|config| config.client_ip)
        .and_then(|client| client.timeout_seconds)
        .unwrap_or(AFFINITY_SECONDS);
    let ingress = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let has_ingress =
        ingress.and_then(|all| all.ingress.as_ref()).is_some_and(|all| !all.is_empty());
    Service {
        // "None" is no address.
        addresses: addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok()).collect(),
        ports: spec
            .ports
            .unwrap_or_default()
            .into_iter()
            .filter_map(|port| {
                Some(ServicePort {
                    name: port.name.unwrap_or_default(),
                    protocol: protocol(port.protocol.as_deref())?,
                    port: number(port.port)?,
                    node_port: port.node_port.and_then(number),
                })
            })
            .collect(),
        affinity: has_affinity
            .then(|| Duration::from_secs(u64::try_from(seconds).unwrap_or_default())),
        is_internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        is_external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
        is_on_host: kind == "LoadBalancer" && has_ingress,
        external_name: spec.external_name.filter(|_| kind == "ExternalName"),
    }
}

fn slice_of(object: &discovery::EndpointSlice) -> Slice {
    let ports = object.ports.as_deref().unwrap_or_default();
    let endpoint = |endpoint: &discovery::Endpoint| {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        // Unknown is ready (discovery.k8s.io/v1), serving follows ready.
        let is_ready = conditions.ready.unwrap_or(true);
        Some(Endpoint {
            // All addresses of an endpoint are one and the same; consumers use the first.
            address: endpoint.addresses.first()?.parse().ok()?,
            is_ready,
            is_serving: conditions.serving.unwrap_or(is_ready),
            is_terminating: conditions.terminating.unwrap_or(false),
            hostname: endpoint.hostname.clone(),
            node: endpoint.node_name.clone(),
        })
    };
    Slice {
        ports: ports
            .iter()
            .filter_map(|port| {
                Some(SlicePort {
                    name: port.name.clone().unwrap_or_default(),
                    protocol: protocol(port.protocol.as_deref())?,
                    port: number(port.port?)?,
                })
            })
            .collect(),
        endpoints: object.endpoints.iter().flatten().filter_map(endpoint).collect(),
    }
}

fn protocol(word: Option<&str>) -> Option<Protocol> {
    match word {
        None | Some("TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(_) => None,
    }
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

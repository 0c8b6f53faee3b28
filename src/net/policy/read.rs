//! From the API's NetworkPolicy and Pod to what they mean (pure).
//!
//! The API has validated what it stored. Should something be unreadable all the same, it is read to the safe side: such
//! a peer or port allows nothing, such a selector isolates its whole namespace.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{NamedPort, Nature, Peer, Pod, Policy, Port, PortNumber, Rule, Within};
use crate::model::cidr::Cidr;
use crate::model::selector::LabelSelector;
use crate::net::Protocol;

impl Policy {
    pub fn read(object: &networking::NetworkPolicy) -> Policy {
        let namespace = object.metadata.namespace.clone().unwrap_or_default();
        let spec = object.spec.clone().unwrap_or_default();
        let types = spec.policy_types.unwrap_or_default();
        let says = |word: &str| types.iter().any(|kind| kind == word);
        let egress = spec.egress.unwrap_or_default();
        let is_egress = says("Egress") || (types.is_empty() && !egress.is_empty());
        let is_ingress = says("Ingress") || types.is_empty();
        let rule = |peers: Option<Vec<networking::NetworkPolicyPeer>>,
                    ports: Option<Vec<networking::NetworkPolicyPort>>| {
            let (peers, ports) = (peers.unwrap_or_default(), ports.unwrap_or_default());
            Rule {
                peers: (!peers.is_empty())
                    .then(|| peers.iter().filter_map(|peer| peer_of(peer, &namespace)).collect()),
                ports: (!ports.is_empty()).then(|| ports.iter().filter_map(port_of).collect()),
            }
        };
        let ingress = spec.ingress.unwrap_or_default();
        let ingress = ingress.into_iter().map(|said| rule(said.from, said.ports)).collect();
        let egress = egress.into_iter().map(|said| rule(said.to, said.ports)).collect();
        Policy {
            selects: spec
                .pod_selector
                .as_ref()
                .map_or(Some(LabelSelector::everything()), selector)
                .unwrap_or_else(LabelSelector::everything),
            ingress: is_ingress.then_some(ingress),
            egress: is_egress.then_some(egress),
            name: object.metadata.name.clone().unwrap_or_default(),
            namespace,
        }
    }
}

impl Pod {
    /// Without its address, which the owner of the network knows first. `None` for a pod that shares the host's
    /// addresses, and for one that has ended: no policy concerns them.
    pub fn read(object: &core::Pod) -> Option<Pod> {
        let spec = object.spec.as_ref()?;
        let phase = object.status.as_ref().and_then(|status| status.phase.as_deref());
        if spec.host_network == Some(true) || matches!(phase, Some("Succeeded" | "Failed")) {
            return None;
        }
        // Init containers that end before the others start serve nobody.
        let sidecars = spec.init_containers.iter().flatten();
        let sidecars = sidecars.filter(|one| one.restart_policy.as_deref() == Some("Always"));
        let ports =
            spec.containers.iter().chain(sidecars).flat_map(|one| one.ports.iter().flatten());
        let named = ports.filter_map(|port| {
            let number = u16::try_from(port.container_port).ok()?;
            Some(NamedPort::new(port.name.as_ref()?, protocol(port.protocol.as_deref())?, number))
        });
        Some(Pod {
            namespace: object.metadata.namespace.clone().unwrap_or_default(),
            name: object.metadata.name.clone().unwrap_or_default(),
            labels: object.metadata.labels.clone().unwrap_or_default(),
            addresses: Vec::new(),
            ports: named.collect(),
            nature: Nature::Pod,
        })
    }
}

/// Without a word it is TCP.
fn protocol(word: Option<&str>) -> Option<Protocol> {
    match word {
        None | Some("TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(_) => None,
    }
}

fn selector(said: &meta::LabelSelector) -> Option<LabelSelector> {
    LabelSelector::from_json(&serde_json::to_value(said).ok()?).ok()
}

fn peer_of(said: &networking::NetworkPolicyPeer, namespace: &str) -> Option<Peer> {
    let pods = said.pod_selector.as_ref().map(selector);
    let namespaces = said.namespace_selector.as_ref().map(selector);
    match (&said.ip_block, namespaces, pods) {
        (Some(block), None, None) => {
            let except = block.except.iter().flatten();
            Some(Peer::Block {
                cidr: block.cidr.parse().ok()?,
                // A hole that cannot be read leaves nothing of the block.
                except: except.map(|hole| hole.parse::<Cidr>().ok()).collect::<Option<_>>()?,
            })
        }
        (None, Some(namespaces), pods) => Some(Peer::Pods {
            within: Within::Namespaces(namespaces?),
            pods: pods.unwrap_or_else(|| Some(LabelSelector::everything()))?,
        }),
        (None, None, Some(pods)) => {
            Some(Peer::Pods { within: Within::Namespace(namespace.to_owned()), pods: pods? })
        }
        (Some(_), _, _) | (None, None, None) => None,
    }
}

fn port_of(said: &networking::NetworkPolicyPort) -> Option<Port> {
    let protocol = protocol(said.protocol.as_deref())?;
    let number = match (&said.port, said.end_port) {
        (None, None) => PortNumber::Any,
        (Some(IntOrString::Int(first)), last) => {
            let first = u16::try_from(*first).ok()?;
            PortNumber::Between(first, last.map_or(Ok(first), u16::try_from).ok()?)
        }
        (Some(IntOrString::String(name)), None) => PortNumber::Named(name.clone()),
        (None | Some(IntOrString::String(_)), Some(_)) => return None,
    };
    Some(Port { protocol, number })
}

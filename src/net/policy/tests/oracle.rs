//! The statements of the NetworkPolicy documentation, evaluated as naively as they are written.
//!
//! It looks at the API's objects, shares no code with the product, and makes no attempt to be fast.

use std::net::IpAddr;

use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::{Asked, Flow, Labels, NamedPort, Nature, Pod};
use super::Cluster;
use crate::net::Protocol;

/// A connection needs the egress of its source and the ingress of its destination (statement 2).
pub fn allows(cluster: &Cluster, flow: Flow) -> bool {
    if flow.source == flow.destination {
        return true; // 17
    }
    // What the daemon serves is no source, and a destination at its own ports only.
    let source = at(cluster, flow.source).filter(|pod| pod.nature == Nature::Pod);
    let destination = at(cluster, flow.destination).filter(|pod| match flow.asked {
        Asked::Port(protocol, number) => {
            let serves = |port: &NamedPort| port.protocol == protocol && port.listens_at == number;
            pod.nature == Nature::Pod || pod.ports.iter().any(serves)
        }
        Asked::Echo | Asked::Other => pod.nature == Nature::Pod,
    });
    // It is known by the port that it should have, and like any address by the one that it has.
    let known = destination.filter(|pod| pod.nature == Nature::Daemon).and_then(|pod| {
        let listens = |port: &&NamedPort| flow.asked == Asked::Port(port.protocol, port.listens_at);
        let port = pod.ports.iter().find(listens)?;
        Some(Flow { asked: Asked::Port(port.protocol, port.number), ..flow })
    });
    let goes_out = match known {
        Some(known) => {
            egress(cluster, source, known, destination) || egress(cluster, source, flow, None)
        }
        None => egress(cluster, source, flow, destination),
    };
    goes_out && ingress(cluster, destination, flow, source)
}

fn at(cluster: &Cluster, address: IpAddr) -> Option<&Pod> {
    cluster.pods.iter().find(|pod| pod.addresses.contains(&address))
}

fn egress(cluster: &Cluster, source: Option<&Pod>, flow: Flow, destination: Option<&Pod>) -> bool {
    let Some(pod) = source.filter(|pod| pod.nature == Nature::Pod) else {
        return true;
    };
    let mut isolated = false;
    for policy in &cluster.policies {
        let spec = policy.spec.as_ref().unwrap();
        if !selected(policy, pod) {
            continue;
        }
        let rules = spec.egress.as_deref().unwrap_or_default();
        // 3: absent types mean egress only if there is a rule.
        let applies = match spec.policy_types.as_deref() {
            None | Some([]) => !rules.is_empty(),
            Some(types) => types.iter().any(|one| one == "Egress"),
        };
        if !applies {
            continue;
        }
        isolated = true;
        for rule in rules {
            let to = rule.to.as_deref().unwrap_or_default();
            let ports = rule.ports.as_deref().unwrap_or_default();
            if peers(cluster, policy, to, flow.destination, destination)
                && served(ports, flow.asked, destination)
            {
                return true;
            }
        }
    }
    !isolated
}

fn ingress(cluster: &Cluster, destination: Option<&Pod>, flow: Flow, source: Option<&Pod>) -> bool {
    let Some(pod) = destination.filter(|pod| pod.nature == Nature::Pod) else {
        return true;
    };
    let mut isolated = false;
    for policy in &cluster.policies {
        let spec = policy.spec.as_ref().unwrap();
        if !selected(policy, pod) {
            continue;
        }
        // 3: absent types always mean ingress.
        let applies = match spec.policy_types.as_deref() {
            None | Some([]) => true,
            Some(types) => types.iter().any(|one| one == "Ingress"),
        };
        if !applies {
            continue;
        }
        isolated = true;
        for rule in spec.ingress.as_deref().unwrap_or_default() {
            let from = rule.from.as_deref().unwrap_or_default();
            let ports = rule.ports.as_deref().unwrap_or_default();
            if peers(cluster, policy, from, flow.source, source)
                && served(ports, flow.asked, Some(pod))
            {
                return true;
            }
        }
    }
    !isolated
}

fn selected(policy: &networking::NetworkPolicy, pod: &Pod) -> bool {
    let spec = policy.spec.as_ref().unwrap();
    policy.metadata.namespace.as_ref() == Some(&pod.namespace)
        && spec.pod_selector.as_ref().is_none_or(|selector| label_match(selector, &pod.labels))
}

/// 4: no peers mean all; 6: elements are ORed, the parts of one are ANDed; 10: a hole is one element's.
fn peers(
    cluster: &Cluster,
    policy: &networking::NetworkPolicy,
    peers: &[networking::NetworkPolicyPeer],
    address: IpAddr,
    pod: Option<&Pod>,
) -> bool {
    if peers.is_empty() {
        return true;
    }
    for peer in peers {
        if let Some(block) = &peer.ip_block {
            let mut holes = block.except.iter().flatten();
            if in_cidr(&block.cidr, address) && !holes.any(|hole| in_cidr(hole, address)) {
                return true;
            }
            continue;
        }
        let Some(pod) = pod else {
            continue;
        };
        let namespace = match &peer.namespace_selector {
            Some(selector) => label_match(selector, &cluster.namespaces[&pod.namespace]),
            None => policy.metadata.namespace.as_ref() == Some(&pod.namespace),
        };
        let labels =
            peer.pod_selector.as_ref().is_none_or(|selector| label_match(selector, &pod.labels));
        if namespace && labels {
            return true;
        }
    }
    false
}

/// 12, 13, 15.
fn served(
    ports: &[networking::NetworkPolicyPort],
    asked: Asked,
    destination: Option<&Pod>,
) -> bool {
    let (protocol, number) = match asked {
        Asked::Other => return false,
        Asked::Echo => return ports.is_empty(),
        Asked::Port(protocol, number) => (protocol, number),
    };
    if ports.is_empty() {
        return true;
    }
    for port in ports {
        let wanted = port.protocol.as_deref().unwrap_or("TCP");
        let spoken = match protocol {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        };
        if wanted != spoken {
            continue;
        }
        let number = i32::from(number);
        let hit = match &port.port {
            None => true,
            Some(IntOrString::Int(first)) => {
                *first <= number && number <= port.end_port.unwrap_or(*first)
            }
            Some(IntOrString::String(name)) => destination.is_some_and(|pod| {
                pod.ports.iter().any(|served| {
                    served.name == *name
                        && served.protocol == protocol
                        && i32::from(served.number) == number
                })
            }),
        };
        if hit {
            return true;
        }
    }
    false
}

/// 7.
fn label_match(selector: &meta::LabelSelector, labels: &Labels) -> bool {
    for (key, value) in selector.match_labels.iter().flatten() {
        if labels.get(key) != Some(value) {
            return false;
        }
    }
    for wish in selector.match_expressions.iter().flatten() {
        let value = labels.get(&wish.key);
        let listed =
            value.is_some_and(|value| wish.values.iter().flatten().any(|one| one == value));
        let holds = match wish.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            other => panic!("{other}"),
        };
        if !holds {
            return false;
        }
    }
    true
}

fn in_cidr(cidr: &str, address: IpAddr) -> bool {
    let (base, length) = cidr.split_once('/').unwrap();
    let length: u32 = length.parse().unwrap();
    match (base.parse().unwrap(), address) {
        (IpAddr::V4(base), IpAddr::V4(address)) => {
            (base.to_bits() ^ address.to_bits()).leading_zeros() >= length
        }
        (IpAddr::V6(base), IpAddr::V6(address)) => {
            (base.to_bits() ^ address.to_bits()).leading_zeros() >= length
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

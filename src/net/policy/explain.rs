//! Why a flow is allowed or denied: the policy and the rule that decided (pure).
//!
//! It answers from the policies themselves, not from the compiled rules; tests hold the two against each other.

use std::net::IpAddr;

use super::{Direction, Pod, Rule, World};
use crate::net::Protocol;

/// The beginning of a flow, as policies see it: after translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub asked: Asked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    Port(Protocol, u16),
    /// An ICMP echo request.
    Echo,
    /// Any other protocol or message that begins a flow.
    Other,
}

/// One end's part of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Side {
    /// No pod that policies could concern.
    NoPod,
    /// No policy isolates the pod in this direction.
    Open,
    /// `rule` counts from 0 in the direction's list.
    Allowed { policy: String, rule: usize },
    /// These isolate the pod, and none has a rule for it.
    Denied { policies: Vec<String> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub egress: Side,
    pub ingress: Side,
}

impl Explanation {
    pub fn is_allowed(&self) -> bool {
        let denies = |side: &Side| matches!(side, Side::Denied { .. });
        !denies(&self.egress) && !denies(&self.ingress)
    }
}

/// What becomes of `flow`.
pub fn explain(world: &World, flow: Flow) -> Explanation {
    explain_through(world, None, flow)
}

/// What becomes of `flow` when `proxy` connects on its source's behalf. A pod is judged as itself, so that a detour gives it
/// nothing; somebody outside by the address, or as the proxy that lets them in.
pub fn explain_through(world: &World, proxy: Option<&Pod>, flow: Flow) -> Explanation {
    // A pod cannot block itself, through its own Service neither.
    if flow.source == flow.destination {
        return Explanation { egress: Side::Open, ingress: Side::Open };
    }
    Explanation {
        egress: side(world, Direction::Egress, None, flow),
        ingress: side(world, Direction::Ingress, proxy, flow),
    }
}

/// What a rule may take the other end for: what the daemon serves is a pod at the port that policies know, and an address
/// at the port where it listens.
struct View<'a> {
    asked: Asked,
    peer: Option<&'a Pod>,
    served: Option<&'a Pod>,
}

fn side(world: &World, direction: Direction, proxy: Option<&Pod>, flow: Flow) -> Side {
    let (own, other) = match direction {
        Direction::Egress => (flow.source, flow.destination),
        Direction::Ingress => (flow.destination, flow.source),
    };
    let Some(pod) = world.pod_at(own) else {
        return Side::NoPod;
    };
    let plain = |peer, served| View { asked: flow.asked, peer, served };
    let views = match (direction, flow.asked) {
        (Direction::Ingress, _) => vec![plain(world.pod_at(other).or(proxy), Some(pod))],
        (Direction::Egress, Asked::Port(protocol, number)) => match world.pod_at(other) {
            Some(peer) => vec![plain(Some(peer), Some(peer))],
            None => {
                let served = world.served_at(other, protocol, number).map(|(peer, spoken)| View {
                    asked: Asked::Port(protocol, spoken),
                    peer: Some(peer),
                    served: Some(peer),
                });
                served.into_iter().chain([plain(None, None)]).collect()
            }
        },
        (Direction::Egress, Asked::Echo | Asked::Other) => vec![plain(world.pod_at(other), None)],
    };
    let mut policies = Vec::new();
    for (policy, rules) in world.isolating(pod, direction) {
        let allows = |rule: &Rule| {
            views.iter().any(|view| {
                is_peer(world, rule, other, view.peer) && is_asked(rule, view.asked, view.served)
            })
        };
        if let Some(rule) = rules.iter().position(allows) {
            return Side::Allowed { policy: policy.key(), rule };
        }
        policies.push(policy.key());
    }
    if policies.is_empty() { Side::Open } else { Side::Denied { policies } }
}

fn is_peer(world: &World, rule: &Rule, address: IpAddr, pod: Option<&Pod>) -> bool {
    rule.peers.as_ref().is_none_or(|peers| {
        peers.iter().any(|peer| {
            peer.covers(address) || pod.is_some_and(|pod| peer.selects(pod, &world.namespaces))
        })
    })
}

fn is_asked(rule: &Rule, asked: Asked, served: Option<&Pod>) -> bool {
    match (&rule.ports, asked) {
        (None, Asked::Port(..) | Asked::Echo) => true,
        (Some(ports), Asked::Port(protocol, number)) => {
            ports.iter().any(|port| port.covers(protocol, number, served))
        }
        (Some(_), Asked::Echo) | (_, Asked::Other) => false,
    }
}

//! What the kernel would do with a plan, rule by rule.

use super::super::plan::{Allow, Chain, Members, Peers, Plan, Service, Verdict};
use super::super::{Asked, Direction, Flow, Nature, World};
use std::net::IpAddr;

/// The first packet of `flow`, at the source's and at the destination's chain.
pub fn allows(plan: &Plan, world: &World, flow: Flow) -> bool {
    let is_pod = |address| {
        world.pods.iter().any(|pod| pod.nature == Nature::Pod && pod.addresses.contains(&address))
    };
    // The skeleton lets a pod talk to itself before it asks any chain.
    let passes = |direction, own| !is_pod(own) || verdict(plan, direction, own, flow);
    flow.source == flow.destination
        || (passes(Direction::Egress, flow.source) && passes(Direction::Ingress, flow.destination))
}

fn verdict(plan: &Plan, direction: Direction, own: IpAddr, flow: Flow) -> bool {
    match plan.verdicts.get(&(direction, own)) {
        None => false,
        Some(Verdict::Open) => true,
        Some(Verdict::Chain(name)) => {
            let chain = &plan.chains[name];
            assert_eq!(chain.direction, direction);
            !chain.is_isolating
                || chain.allows.iter().any(|allow| matches(plan, chain, allow, flow))
        }
    }
}

fn matches(plan: &Plan, chain: &Chain, allow: &Allow, flow: Flow) -> bool {
    let other = match chain.direction {
        Direction::Egress => flow.destination,
        Direction::Ingress => flow.source,
    };
    match allow {
        Allow::Listed(set) => match (&plan.sets[set], flow.asked) {
            (Members::Ports(_, members), Asked::Port(protocol, port)) => {
                members.contains(&(flow.destination, protocol, port))
            }
            (Members::Ports(..), Asked::Echo | Asked::Other) => false,
            (Members::Addresses(..) | Members::Ranges(..), _) => panic!("{set} lists no ports"),
        },
        Allow::Flow { peers, service } => {
            let is_peer = match peers {
                Peers::Anyone => true,
                Peers::In(set) => match &plan.sets[set] {
                    Members::Addresses(_, members) => members.contains(&other),
                    Members::Ranges(_, ranges) => {
                        ranges.iter().any(|(first, last)| *first <= other && other <= *last)
                    }
                    Members::Ports(..) => panic!("{set} lists ports"),
                },
            };
            is_peer
                && match (service, flow.asked) {
                    (Service::Everything, Asked::Port(..) | Asked::Echo) => true,
                    (Service::Ports(wanted, ranges), Asked::Port(protocol, port)) => {
                        *wanted == protocol
                            && ranges.iter().any(|(first, last)| (*first..=*last).contains(&port))
                    }
                    (Service::Ports(..), Asked::Echo) | (_, Asked::Other) => false,
                }
        }
    }
}

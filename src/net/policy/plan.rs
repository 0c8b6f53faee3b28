//! What the rules of all policies come to, as data.
//!
//! A pod's address leads, in each direction, to one chain. Chains and sets are named after what they say, so two pods of
//! one Deployment share theirs, a chain never changes under its name, and a pod that comes or goes changes members of
//! sets and nothing else. What a packet costs depends on the rules that select its two pods, not on how many others exist.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::IpAddr;

use sha2::{Digest, Sha256};

use super::Direction;
use super::ranges::{AddressRange, Family};
use crate::net::Protocol;

/// Equal worlds give equal plans.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// By direction and the pod's own address. An address that is missing here is isolated altogether.
    pub verdicts: BTreeMap<(Direction, IpAddr), Verdict>,
    pub chains: BTreeMap<String, Chain>,
    pub sets: BTreeMap<String, Members>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// No policy isolates the pod, in neither direction.
    Open,
    Chain(String),
}

/// What is asked about the first packet of a flow, in order: is it one that may begin a flow? Is it allowed? Then it goes
/// on its way; otherwise it is denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    pub direction: Direction,
    /// False for a pod that is isolated in the other direction only: here just the first question is asked. Without it
    /// an answer of a flow that has been cut would pass for the beginning of one and revive it (conntrack picks TCP up
    /// in the middle, nf_conntrack_tcp_loose).
    pub is_isolating: bool,
    pub allows: BTreeSet<Allow>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Allow {
    Flow {
        peers: Peers,
        service: Service,
    },
    /// Address, protocol and port of the destination are in a set.
    Listed(String),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peers {
    Anyone,
    /// The other's address is in a set.
    In(String),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// Every port of TCP, UDP and SCTP, and echo requests.
    Everything,
    /// Ranges with both ends included, in order.
    Ports(Protocol, Vec<(u16, u16)>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Members {
    Addresses(Family, BTreeSet<IpAddr>),
    Ranges(Family, Vec<AddressRange>),
    Ports(Family, BTreeSet<(IpAddr, Protocol, u16)>),
}

impl Plan {
    /// Whether something may be denied that `before` allowed, between pods that both know: flows of others end with their
    /// addresses. A rule that is said in other words counts as lost.
    pub fn may_deny_more(&self, before: &Plan) -> bool {
        let is_gone = |address: IpAddr| {
            let egress = (Direction::Egress, address);
            before.verdicts.contains_key(&egress) && !self.verdicts.contains_key(&egress)
        };
        let loses_rules = |(key, old): (&(Direction, IpAddr), &Verdict)| {
            self.verdicts.get(key).is_some_and(|new| !self.allows_all_of(new, before, old))
        };
        let loses_members = |(set, old): (&String, &Members)| {
            self.sets.get(set).is_some_and(|new| !new.hold_all_of(old, is_gone))
        };
        before.verdicts.iter().any(loses_rules) || before.sets.iter().any(loses_members)
    }

    /// Whether `own` lets through whatever `other` of `before` does, as long as their sets hold the same.
    fn allows_all_of(&self, own: &Verdict, before: &Plan, other: &Verdict) -> bool {
        let isolating = |plan: &Plan, verdict: &Verdict| match verdict {
            Verdict::Open => None,
            Verdict::Chain(name) => {
                plan.chains.get(name).filter(|chain| chain.is_isolating).cloned()
            }
        };
        match (isolating(self, own), isolating(before, other)) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(other)) => own.allows.is_superset(&other.allows),
        }
    }
}

impl Members {
    fn hold_all_of(&self, old: &Members, is_gone: impl Fn(IpAddr) -> bool) -> bool {
        match (self, old) {
            (Members::Addresses(_, new), Members::Addresses(_, old)) => {
                old.difference(new).all(|address| is_gone(*address))
            }
            (Members::Ports(_, new), Members::Ports(_, old)) => {
                old.difference(new).all(|(address, ..)| is_gone(*address))
            }
            // Named after what they hold.
            (Members::Ranges(_, new), Members::Ranges(_, old)) => new == old,
            (Members::Addresses(..) | Members::Ports(..) | Members::Ranges(..), _) => false,
        }
    }
}

/// A name for whatever `identity` tells from others. Its text in Rust's debug notation quotes what users wrote, so
/// different identities have different texts; 128 bits of SHA-256 cannot be made to collide.
pub fn name(kind: &str, identity: &impl Debug) -> String {
    let digest = Sha256::digest(format!("{identity:?}"));
    let digits: String = digest[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("policy_{kind}_{digits}")
}

//! Policies at the owner of the table: who is in them is still who they were compiled for, and what they end ends.
//!
//! Whether a flow is allowed is `policy`'s answer; here it is carried out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use super::Owner;
use crate::net::names::{PROBE_MARK, PROXY_MARK};
use crate::net::part::{Before, Part, PlanChange};
use crate::net::policy::{Asked, Flow, Plan, World, explain};
use crate::net::ruleset::{Element, ElementChanges, Elements, Field, Verdict, diff};
use crate::net::skeleton::{ENDED, ENDED_FOR};
use crate::net::{NetError, Policies, Protocol, conntrack, nfnetlink, policy, step};

/// How long an address that was given back is nobody's: caches and open connections of its peers outlive a pod.
pub const REST: Duration = Duration::from_secs(60);
/// Who has an address next hears answers of its last pod's flows no more.
const _: () = assert!(ENDED_FOR.as_secs() <= REST.as_secs());
/// Members of a set that one transaction brings.
const TOGETHER: usize = 8192;

/// A plan, and what it was compiled from.
#[derive(Debug, Clone, Default)]
pub struct PolicyOrder {
    pub plan: Arc<Plan>,
    pub world: Arc<World>,
    /// Addresses by pod, as they were when the plan was compiled.
    pub leases: Arc<BTreeMap<String, IpAddr>>,
}

/// What is known to hold.
#[derive(Debug, Clone, Default)]
pub struct InForce {
    /// Whether there has been a plan at all since we started; the rules in the kernel may be an earlier daemon's.
    pub is_known: bool,
    pub world: Arc<World>,
    /// Pods that the rules know, by the addresses they know.
    pub pods: BTreeMap<String, IpAddr>,
}

impl Owner {
    /// Puts the plan in force and ends the flows that it denies.
    pub fn put_policies(&mut self, order: &PolicyOrder) -> Result<(), NetError> {
        let is_gone = |pod: &String, address: IpAddr| {
            self.leases.get(pod).is_none_or(|lease| IpAddr::V4(lease.address) != address)
        };
        let leases = order.leases.iter();
        let gone: BTreeSet<IpAddr> = leases
            .filter(|(pod, address)| is_gone(pod, **address))
            .map(|(_, address)| *address)
            .collect();
        let plan = order.plan.render(self.fabric.names.log_group()).without(&gone);
        let is_known = |address: IpAddr| {
            order.plan.verdicts.contains_key(&(policy::Direction::Egress, address))
        };
        let change = self.way_to(Part::Policies, &plan);
        // Owed until it is done: the next try finds this plan in force, and nothing new that it denies.
        self.owes_end |= change.is_none() || order.plan.may_deny_more(&self.ordered);
        match &change {
            Some(change) => self.change_part(Part::Policies, change)?,
            None => self.put(Part::Policies, plan)?,
        }
        self.ordered = Arc::clone(&order.plan);
        let has_ended = self.owes_end;
        if self.owes_end {
            self.end_denied(&order.world)?;
            self.owes_end = false;
        }
        let known = |(pod, address): (&String, &IpAddr)| {
            (is_known(*address) && !gone.contains(address)).then(|| (pod.clone(), *address))
        };
        self.seen.in_force.send_replace(Arc::new(InForce {
            is_known: true,
            world: Arc::clone(&order.world),
            pods: order.leases.iter().filter_map(known).collect(),
        }));
        if has_ended {
            self.seen.tightened.send_modify(|times| *times += 1);
        }
        Ok(())
    }

    /// An answer of a denied flow would pass as the beginning of a new one where the rules did not ask for the first
    /// packet of a connection (`policy::plan::Chain`), and where datagrams know no first one, for `skeleton::ENDED`; with
    /// that, a flow that is forgotten here is over.
    pub fn end_denied(&mut self, world: &World) -> Result<(), NetError> {
        let is_denied = |flow: &conntrack::Flow| {
            ![PROBE_MARK, PROXY_MARK].contains(&flow.mark)
                && !explain(
                    world,
                    Flow {
                        source: flow.from.into(),
                        destination: flow.answered_by.into(),
                        asked: asked(flow),
                    },
                )
                .is_allowed()
        };
        let denied = conntrack::those(&mut self.elements, is_denied)
            .map_err(step("find flows that policies deny"))?;
        // Before they are forgotten: from then on an answer has no flow of its own any more.
        let late: Vec<Element> = denied.iter().filter_map(answer).collect();
        for some in late.chunks(TOGETHER) {
            let add = Elements::from([(ENDED.into(), some.iter().cloned().collect())]);
            let changes = ElementChanges { add, ..ElementChanges::default() };
            nfnetlink::apply(&mut self.elements, &self.table, &changes)
                .map_err(step("keep late answers of denied flows out"))?;
        }
        conntrack::forget_all(&mut self.elements, &denied)
            .map_err(step("end flows that policies deny"))
    }

    /// Whoever has the address next inherits nothing: neither what policies allow it nor its flows, which go soon.
    pub fn retire(&mut self, address: Ipv4Addr) -> Result<(), NetError> {
        if let Some(Before::InForce(plan)) = self.parts.get(&Part::Policies) {
            let told = plan.telling_of(&BTreeSet::from([address.into()]));
            self.change_part(Part::Policies, &PlanChange::removing(told))?;
        }
        self.sweeper.retire(address);
        Ok(())
    }

    /// Tells everybody who holds which address.
    pub fn publish_leases(&self) {
        let leases = self.leases.iter();
        let leases = leases.map(|(pod, lease)| (pod.clone(), IpAddr::V4(lease.address))).collect();
        self.seen.leases.send_replace(Arc::new(leases));
    }

    /// Lets `address` through, or no more: for probes, which no policy knows.
    pub fn open_to(&mut self, address: Ipv4Addr, is_open: bool) -> Result<(), NetError> {
        if self.policies == Policies::Open {
            return Ok(());
        }
        let entry = Element::entry(
            vec![Field::Address(address.into())],
            Field::Verdict(Verdict::Goto(policy::OPEN.to_owned())),
        );
        let members: Elements = policy::VERDICTS
            .iter()
            .map(|map| ((*map).into(), BTreeSet::from([entry.clone()])))
            .collect();
        let outcome = match is_open {
            true => {
                let changes = diff(&Elements::new(), &members);
                nfnetlink::apply(&mut self.elements, &self.table, &changes)
            }
            false => nfnetlink::remove(&mut self.elements, &self.table, &members),
        };
        outcome.map_err(step("open the way for a probe"))
    }
}

/// How answers of a flow without beginning or end look; those of TCP are told by their flags.
fn answer(flow: &conntrack::Flow) -> Option<Element> {
    let protocol = nfnetlink::protocol(flow.protocol).filter(|other| *other != Protocol::Tcp)?;
    Some(Element::member(vec![
        Field::Protocol(protocol),
        Field::Address(flow.answered_by.into()),
        Field::Port(flow.answered_at?),
        Field::Address(flow.answered_to.into()),
        Field::Port(flow.answered_to_port?),
    ]))
}

fn asked(flow: &conntrack::Flow) -> Asked {
    match (nfnetlink::protocol(flow.protocol), flow.answered_at, flow.icmp_type) {
        (Some(protocol), Some(port), _) => Asked::Port(protocol, port),
        (None, _, Some(8)) => Asked::Echo,
        (Some(_) | None, _, _) => Asked::Other,
    }
}

//! Policies at the owner of the table: who is in them is still who they were compiled for, and what they end is asked for.
//!
//! Whether a flow is allowed is `policy`'s answer, and `ends` ends it; here the rules are put in force.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use super::{Ended, Owner};
use crate::net::part::{Before, Part, PlanChange};
use crate::net::policy::{Plan, World};
use crate::net::ruleset::{Element, ElementChanges, Elements, Field, Verdict, diff};
use crate::net::skeleton::{ENDED, ENDED_FOR};
use crate::net::{NetError, Policies, nfnetlink, policy, step};

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
    /// Puts the plan in force for all that begins, and has the flows ended that it denies.
    pub fn put_policies(&mut self, order: &PolicyOrder) -> Result<Ended, NetError> {
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
        // Owed until it is in force: a next try may find nothing new that this plan denies.
        self.owes_end |= change.is_none() || order.plan.may_deny_more(&self.ordered);
        self.ender.expect(&order.world);
        match &change {
            Some(change) => self.change_part(Part::Policies, change)?,
            None => self.put(Part::Policies, plan)?,
        }
        self.ender.enforce(&order.world);
        self.ordered = Arc::clone(&order.plan);
        let known = |(pod, address): (&String, &IpAddr)| {
            (is_known(*address) && !gone.contains(address)).then(|| (pod.clone(), *address))
        };
        self.seen.in_force.send_replace(Arc::new(InForce {
            is_known: true,
            world: Arc::clone(&order.world),
            pods: order.leases.iter().filter_map(known).collect(),
        }));
        if std::mem::take(&mut self.owes_end) {
            self.ender.owe();
            self.seen.tightened.send_modify(|times| *times += 1);
        }
        Ok(self.ender.ended())
    }

    /// Has packets dropped that look like answers of flows that policies have ended.
    pub fn keep_out(&mut self, late: &[Element]) -> Result<(), NetError> {
        for some in late.chunks(TOGETHER) {
            let add = Elements::from([(ENDED.into(), some.iter().cloned().collect())]);
            let changes = ElementChanges { add, ..ElementChanges::default() };
            nfnetlink::apply(&mut self.elements, &self.table, &changes)
                .map_err(step("keep late answers of denied flows out"))?;
        }
        Ok(())
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

//! Where datagrams to Services and to ports of the host are led, and which flows have to follow because that has changed
//! (pure).
//!
//! Translation is decided once a flow: one that has begun goes on to whom it was led first, until connection tracking has
//! forgotten it. `ends` looks for those that are owed here.

use std::collections::BTreeSet;

use crate::model::cidr::Cidr;
use crate::net::conntrack::{self, Strays, goes_wrong};
use crate::net::host_port::Lease;
use crate::net::part::Flow;

/// What rules in the kernel say of datagrams, and what was said of them before.
#[derive(Debug, Default)]
pub struct Led {
    now: BTreeSet<Flow>,
    /// What may be in force as well, until it is known what is.
    coming: BTreeSet<Flow>,
    /// By the request that they go with.
    owed: Vec<(u64, Wrong)>,
}

/// Why flows may lead where they should not.
#[derive(Debug, Clone)]
pub enum Wrong {
    /// Nobody is led there any more.
    Gone(BTreeSet<Flow>),
    /// A pod has come that has ports of the host,
    Came(Lease),
    /// or has gone.
    Left(Lease),
}

impl Led {
    /// Rules that lead there are about to be put in force.
    pub fn expect(&mut self, new: &BTreeSet<Flow>) {
        self.coming.extend(new.iter().cloned());
    }

    /// They are in force, and others no more.
    pub fn change(&mut self, gone: &BTreeSet<Flow>, new: &BTreeSet<Flow>) {
        for flow in gone {
            self.now.remove(flow);
        }
        self.now.extend(new.iter().cloned());
        self.coming.clear();
    }

    /// What is led to now and not by `flows`.
    pub fn beside(&self, flows: &BTreeSet<Flow>) -> BTreeSet<Flow> {
        self.now.difference(flows).cloned().collect()
    }

    pub fn owe(&mut self, request: u64, wrong: Wrong) {
        self.owed.push((request, wrong));
    }

    /// The last request that is owed.
    pub fn owes(&self) -> Option<u64> {
        self.owed.last().map(|(request, _)| *request)
    }

    /// All is done up to this request.
    pub fn settle(&mut self, request: u64) {
        self.owed.retain(|(other, _)| *other > request);
    }

    /// Which flows have to end, by what is known now; `services` is the range of the Services.
    pub fn judge(&self, services: Cidr) -> Judgement {
        let mut gone = BTreeSet::new();
        let mut judgement = Judgement::default();
        let mut changes = false;
        for (_, wrong) in &self.owed {
            match wrong {
                Wrong::Gone(flows) => {
                    changes = true;
                    gone.extend(flows);
                }
                Wrong::Came(lease) => judgement.came.push(lease.clone()),
                Wrong::Left(lease) => judgement.left.push(lease.clone()),
            }
        }
        if changes {
            let served = self.now.iter().chain(&self.coming);
            judgement.strays = Some(Strays::of(services, served, &gone));
        }
        judgement
    }
}

#[derive(Debug, Default)]
pub struct Judgement {
    strays: Option<Strays>,
    came: Vec<Lease>,
    left: Vec<Lease>,
}

impl Judgement {
    /// Whether the flow leads where it should not.
    pub fn ends(&self, flow: &conntrack::Flow) -> bool {
        self.strays.as_ref().is_some_and(|strays| strays.have(flow))
            || self.came.iter().any(|lease| goes_wrong(flow, lease, false))
            || self.left.iter().any(|lease| goes_wrong(flow, lease, true))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::net::Protocol;

    const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 2);
    const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 9);
    const A: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 3);
    const B: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 4);

    fn to(backend: Ipv4Addr) -> BTreeSet<Flow> {
        let flow = Flow {
            protocol: Protocol::Udp,
            to: Some(SERVICE.into()),
            port: 53,
            backend: backend.into(),
        };
        BTreeSet::from([flow])
    }

    /// Which of the flows to `A` and `B` end.
    fn ended(led: &Led) -> [bool; 2] {
        let judgement = led.judge("10.43.0.0/16".parse().unwrap());
        [A, B].map(|backend| {
            let mut flow = conntrack::Flow::tcp(CLIENT, SERVICE, 53);
            (flow.protocol, flow.answered_by) = (17, backend);
            judgement.ends(&flow)
        })
    }

    #[test]
    fn flows_end_that_lead_where_nobody_is_led_now_nor_soon() {
        let mut led = Led::default();
        led.change(&BTreeSet::new(), &to(A));
        assert_eq!(ended(&led), [false, false], "nothing is owed");
        led.expect(&to(B));
        led.change(&to(A), &to(B));
        led.owe(1, Wrong::Gone(to(A)));
        assert_eq!(ended(&led), [true, false]);

        // The rules may be back before it is known that they are, and a flow may have begun by them.
        led.expect(&to(A));
        assert_eq!(ended(&led), [false, false]);
        led.change(&to(B), &to(A));
        led.owe(2, Wrong::Gone(to(B)));
        assert_eq!(ended(&led), [false, true]);

        // What came after a walk began is not done by it.
        led.settle(1);
        assert_eq!(led.owes(), Some(2));
        assert_eq!(ended(&led), [false, true]);
        led.settle(2);
        assert_eq!((led.owes(), ended(&led)), (None, [false, false]));
    }
}

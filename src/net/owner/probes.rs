//! Tries whether the host lets pods' packets through: makes two ends as pods have them, and takes them away again.
//!
//! What is sent, and what its not arriving means, is `probe`'s.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use super::{Owner, door_elements};
use crate::net::attach::Prepared;
use crate::net::host_port::{self, Lease};
use crate::net::probe::{self, Culprit, Passed};
use crate::net::ruleset::{ElementChanges, Elements};
use crate::net::{NetError, Protocol, nfnetlink, nft, step};

impl Owner {
    /// Publishes the problems of the host, found with packets. A probe that cannot be made is a problem, not a failure.
    pub fn probe(&mut self) {
        let problems = self.problems();
        self.seen.problems.send_if_modified(|known| {
            let is_news = *known != problems;
            *known = problems;
            is_news
        });
    }

    fn problems(&mut self) -> Vec<String> {
        let first = self.pool.spare(None);
        let second = self.pool.spare(first);
        let (Some(first), Some(second)) = (first, second) else {
            return Vec::new(); // Every address is in use: the pods themselves are the proof.
        };
        let outcome = self.probe_between(first, second);
        for offset in [first, second] {
            let address = self.pool.address(offset);
            let lease = Lease { address, ports: Vec::new() };
            let members = host_port::elements(&self.fabric.names, offset, &lease);
            let removed = nfnetlink::remove(&mut self.elements, &self.table, &members);
            if let Err(error) = removed.and(self.fabric.delete_port(offset)) {
                tracing::warn!(%error, "could not remove a probe; the next start does");
            }
            if let Err(error) = self.open_to(address, false) {
                tracing::warn!(%error, "could not close the way of a probe; the first plan does");
            }
        }
        match outcome {
            Ok(passed) if passed.is_everything() => Vec::new(),
            Ok(passed) => {
                let listing = nft::list_all().unwrap_or_default();
                let pods = self.surroundings.pod_cidr;
                let culprit = Culprit::find(&listing, pods, probe::has_legacy_rules());
                probe::explain(passed, pods, &culprit)
            }
            Err(error) => vec![format!("whether pods' packets pass could not be tried ({error})")],
        }
    }

    fn probe_between(&mut self, first: u32, second: u32) -> Result<Passed, NetError> {
        let (one, other) = (self.probe_at(first)?, self.probe_at(second)?);
        let host = probe::host_end(self.fabric.gateway).map_err(step("make the host's end"))?;
        // Nothing is read from it: it keeps its port free of others.
        let led = probe::host_end(self.fabric.gateway).map_err(step("make the host's end"))?;
        let of = |end: &UdpSocket| end.local_addr().map_err(step("make the host's end"));
        let (port, led) = (of(&host)?.port(), of(&led)?);
        // One that is open already stays so.
        let door: BTreeSet<_> = BTreeSet::from([(Protocol::Udp, port)]);
        let mut ways = door_elements(&door.difference(&self.doors).copied().collect());
        let from = (Some(led.ip()), led.port());
        ways.extend(host_port::led(Protocol::Udp, from, SocketAddr::new(led.ip(), port)));
        self.change(&Elements::new(), &ways)?;
        let passed = probe::run((&one.0, one.1), (&other.0, other.1), &host, led);
        self.change(&ways, &Elements::new())?;
        passed.map_err(step("send a probe"))
    }

    fn change(&mut self, before: &Elements, after: &Elements) -> Result<(), NetError> {
        let changes = crate::net::ruleset::diff(before, after);
        nfnetlink::apply(&mut self.elements, &self.table, &changes)
            .map_err(step("let a probe reach the host"))
    }

    fn probe_at(&mut self, offset: u32) -> Result<(Prepared, Ipv4Addr), NetError> {
        let address = self.pool.address(offset);
        let mut prepared = Prepared::make().map_err(step("make a network namespace"))?;
        self.fabric.connect(offset, address, &mut prepared)?;
        let lease = Lease { address, ports: Vec::new() };
        let changes = ElementChanges {
            add: host_port::elements(&self.fabric.names, offset, &lease),
            ..ElementChanges::default()
        };
        nfnetlink::apply(&mut self.elements, &self.table, &changes)
            .map_err(step("put the probe's rules in force"))?;
        self.open_to(address, true)?;
        Ok((prepared, address))
    }
}

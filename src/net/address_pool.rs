//! Which pod holds which address (pure).
//!
//! Addresses go round: a freed one comes last, so that caches and connections of its former owner cannot meet a
//! new one soon. The pool neither touches links nor remembers anything beyond its owner's life.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::model::cidr::Cidr;

/// Sixteen million pods; also what a port's name has room for.
const LARGEST: u32 = 1 << 24;

/// Addresses of one IPv4 range. Offset 0 names the network, 1 is the gateway, the last is the broadcast address:
/// those are never given away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressPool {
    network: u32,
    /// Offsets below this may be given away.
    end: u32,
    held: BTreeMap<String, u32>,
    taken: BTreeSet<u32>,
    /// Where the search for a free one begins.
    cursor: u32,
    /// Given back, and held by nobody until then; in order.
    resting: VecDeque<(Duration, u32)>,
}

const FIRST: u32 = 2;

impl AddressPool {
    /// `None` when the range is not IPv4 or has no room for a pod.
    pub fn new(cidr: Cidr) -> Option<AddressPool> {
        let IpAddr::V4(network) = cidr.address() else {
            return None;
        };
        let size = 1u64 << (32 - u32::from(cidr.prefix()));
        let end = size.saturating_sub(1).min(u64::from(LARGEST)) as u32;
        (end > FIRST).then(|| AddressPool {
            network: network.to_bits(),
            end,
            held: BTreeMap::new(),
            taken: BTreeSet::new(),
            cursor: FIRST,
            resting: VecDeque::new(),
        })
    }

    pub fn gateway(&self) -> Ipv4Addr {
        self.address(1)
    }

    pub fn address(&self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network + offset)
    }

    /// The place of `address` in the range, if it is one that pods may hold.
    pub fn offset(&self, address: Ipv4Addr) -> Option<u32> {
        let offset = address.to_bits().checked_sub(self.network)?;
        (FIRST..self.end).contains(&offset).then_some(offset)
    }

    pub fn of(&self, pod: &str) -> Option<Ipv4Addr> {
        self.held.get(pod).map(|offset| self.address(*offset))
    }

    /// The pod's own address again, or the next free one; `None` when all are held.
    pub fn take(&mut self, pod: &str) -> Option<Ipv4Addr> {
        if let Some(address) = self.of(pod) {
            return Some(address);
        }
        let offset = (self.cursor..self.end)
            .chain(FIRST..self.cursor)
            .find(|offset| !self.taken.contains(offset))?;
        self.hold(pod, offset);
        Some(self.address(offset))
    }

    /// Gives `pod` a certain address, as recorded earlier. False when it is outside the range or held by another.
    pub fn restore(&mut self, pod: &str, address: Ipv4Addr) -> bool {
        match self.offset(address) {
            Some(offset) if !self.taken.contains(&offset) && !self.held.contains_key(pod) => {
                self.hold(pod, offset);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Continues the round after `address`, which was given away last before a restart.
    pub fn continue_after(&mut self, address: Ipv4Addr) {
        if let Some(offset) = self.offset(address) {
            self.cursor = self.after(offset);
        }
    }

    /// Gives the pod's address back, for others only from `until` on: somebody may still take it for the old pod's.
    /// `until` never lies before that of an earlier call.
    pub fn rest(&mut self, pod: &str, until: Duration) {
        if let Some(offset) = self.held.remove(pod) {
            self.resting.push_back((until, offset));
        }
    }

    /// Frees those that have rested long enough and are `clean`; who came later waits for who came before.
    pub fn wake(&mut self, now: Duration, is_clean: impl Fn(Ipv4Addr) -> bool) {
        while let Some((until, offset)) = self.resting.front().copied()
            && until <= now
            && is_clean(self.address(offset))
        {
            self.resting.pop_front();
            self.taken.remove(&offset);
        }
    }

    /// The highest free offset, held by nobody afterwards either: for what is over before it is given away.
    pub fn spare(&self, besides: Option<u32>) -> Option<u32> {
        (FIRST..self.end)
            .rev()
            .find(|offset| !self.taken.contains(offset) && Some(*offset) != besides)
    }

    fn hold(&mut self, pod: &str, offset: u32) {
        self.held.insert(pod.to_owned(), offset);
        self.taken.insert(offset);
        self.cursor = self.after(offset);
    }

    fn after(&self, offset: u32) -> u32 {
        if offset + 1 < self.end { offset + 1 } else { FIRST }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl AddressPool {
        fn free(&mut self, pod: &str) -> Option<Ipv4Addr> {
            let address = self.of(pod);
            self.rest(pod, Duration::ZERO);
            self.wake(Duration::ZERO, |_| true);
            address
        }
    }

    fn pool(cidr: &str) -> AddressPool {
        AddressPool::new(cidr.parse().unwrap()).unwrap()
    }

    #[test]
    fn the_gateway_comes_first_and_pods_after_it() {
        let mut pool = pool("10.42.0.0/16");
        assert_eq!(pool.gateway(), Ipv4Addr::new(10, 42, 0, 1));
        assert_eq!(pool.take("a"), Some(Ipv4Addr::new(10, 42, 0, 2)));
        assert_eq!(pool.take("a"), Some(Ipv4Addr::new(10, 42, 0, 2)));
        assert_eq!(pool.take("b"), Some(Ipv4Addr::new(10, 42, 0, 3)));
    }

    #[test]
    fn a_freed_address_comes_last() {
        let mut pool = pool("10.0.0.0/29");
        let first = pool.take("a");
        pool.free("a");
        let others: Vec<_> = (0..4).map(|n| pool.take(&format!("p{n}"))).collect();
        assert!(!others.contains(&first));
        assert_eq!(pool.take("last"), first);
        assert_eq!(pool.take("none"), None);
    }

    #[test]
    fn an_address_rests_before_others_get_it() {
        let mut pool = pool("10.0.0.0/30");
        let only = pool.take("a");
        pool.rest("a", Duration::from_secs(60));
        pool.wake(Duration::from_secs(59), |_| true);
        assert_eq!(pool.take("b"), None);
        pool.wake(Duration::from_secs(60), |address| Some(address) != only);
        assert_eq!(pool.take("b"), None, "something is still known of the pod before");
        pool.wake(Duration::from_secs(60), |_| true);
        assert_eq!(pool.take("b"), only);
    }

    #[test]
    fn ranges_without_room_are_refused() {
        for cidr in ["10.0.0.0/31", "10.0.0.0/32", "fd00::/64"] {
            assert_eq!(AddressPool::new(cidr.parse().unwrap()), None, "{cidr}");
        }
        assert!(AddressPool::new("10.0.0.0/30".parse().unwrap()).is_some());
        assert!(AddressPool::new("0.0.0.0/0".parse().unwrap()).is_some());
    }

    #[test]
    fn a_restored_round_goes_on_where_it_was() {
        let mut pool = pool("10.0.0.0/24");
        assert!(pool.restore("a", Ipv4Addr::new(10, 0, 0, 9)));
        assert!(!pool.restore("b", Ipv4Addr::new(10, 0, 0, 9)));
        assert!(!pool.restore("c", Ipv4Addr::new(10, 0, 0, 1)));
        assert!(!pool.restore("d", Ipv4Addr::new(10, 0, 0, 255)));
        pool.continue_after(Ipv4Addr::new(10, 0, 0, 20));
        assert_eq!(pool.take("e"), Some(Ipv4Addr::new(10, 0, 0, 21)));
    }

    proptest! {
        #[test]
        fn no_two_pods_ever_hold_one_address(steps in prop::collection::vec((0u8..12, any::<bool>()), 1..200)) {
            let mut pool = pool("10.0.0.0/28");
            let mut model: BTreeMap<String, Ipv4Addr> = BTreeMap::new();
            for (number, is_take) in steps {
                let pod = format!("p{number}");
                if is_take {
                    if let Some(address) = pool.take(&pod) {
                        prop_assert!(model.iter().all(|(other, held)| *other == pod || *held != address));
                        model.insert(pod, address);
                    }
                } else {
                    prop_assert_eq!(pool.free(&pod), model.remove(&pod));
                }
            }
        }
    }
}

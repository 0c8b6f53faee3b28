//! Who may hold how many connections, so that no client can keep the others out.
//!
//! Pure. A connection is a stranger, counted by its address, until it has shown who it is, and counts for that
//! identity from then on. Where strangers are too many the oldest of them goes: whoever has credentials needs
//! little time to show them. An identity that has too many is told so.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// Names a connection.
pub type Seat = u64;

/// How many at a time.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Strangers altogether, whatever happens.
    pub strangers: usize,
    /// Strangers of one address that are older than `patience`: many clients may begin at once.
    pub strangers_per_address: usize,
    pub patience: Duration,
    /// Connections of one identity, and of all.
    pub per_identity: usize,
    pub identified: usize,
}

/// The identity, or all of them, have as many connections as they may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

#[derive(Debug)]
enum Holder {
    Stranger(IpAddr),
    Identity(String),
}

/// Every open connection and for whom it counts.
#[derive(Debug)]
pub struct Seats {
    limits: Limits,
    next: Seat,
    holders: BTreeMap<Seat, Holder>,
    /// Oldest first.
    strangers: BTreeMap<IpAddr, VecDeque<(Seat, Duration)>>,
    identities: BTreeMap<String, usize>,
}

impl Seats {
    pub fn new(limits: Limits) -> Seats {
        Seats {
            limits,
            next: 0,
            holders: BTreeMap::new(),
            strangers: BTreeMap::new(),
            identities: BTreeMap::new(),
        }
    }

    /// A connection from `address` at `now` on a clock that never goes back; also, whose place it takes.
    pub fn arrive(&mut self, address: IpAddr, now: Duration) -> (Seat, Option<Seat>) {
        let address = client(address);
        let all: usize = self.strangers.values().map(VecDeque::len).sum();
        let evicted = if all >= self.limits.strangers {
            let most = self.strangers.values().max_by_key(|seats| seats.len());
            most.and_then(VecDeque::front)
        } else {
            let own = self.strangers.get(&address);
            own.filter(|seats| seats.len() >= self.limits.strangers_per_address)
                .and_then(VecDeque::front)
                .filter(|(_, since)| now.saturating_sub(*since) >= self.limits.patience)
        };
        let evicted = evicted.map(|(seat, _)| *seat);
        if let Some(evicted) = evicted {
            self.leave(evicted);
        }
        let seat = self.next;
        self.next += 1;
        self.holders.insert(seat, Holder::Stranger(address));
        self.strangers.entry(address).or_default().push_back((seat, now));
        (seat, evicted)
    }

    /// The connection has shown to be `user`'s. It stays a stranger when the user has too many; one that is
    /// known, or gone, already changes nothing.
    pub fn identify(&mut self, seat: Seat, user: &str) -> Result<(), Full> {
        if !matches!(self.holders.get(&seat), Some(Holder::Stranger(_))) {
            return Ok(());
        }
        let of_user = self.identities.get(user).copied().unwrap_or(0);
        let all: usize = self.identities.values().sum();
        if of_user >= self.limits.per_identity || all >= self.limits.identified {
            return Err(Full);
        }
        self.leave(seat);
        self.holders.insert(seat, Holder::Identity(user.to_owned()));
        *self.identities.entry(user.to_owned()).or_default() += 1;
        Ok(())
    }

    pub fn leave(&mut self, seat: Seat) {
        match self.holders.remove(&seat) {
            Some(Holder::Stranger(address)) => {
                if let Some(seats) = self.strangers.get_mut(&address) {
                    seats.retain(|(other, _)| *other != seat);
                    if seats.is_empty() {
                        self.strangers.remove(&address);
                    }
                }
            }
            Some(Holder::Identity(user)) => {
                if let Some(count) = self.identities.get_mut(&user) {
                    *count -= 1;
                    if *count == 0 {
                        self.identities.remove(&user);
                    }
                }
            }
            None => {}
        }
    }
}

/// Whom an address stands for: an IPv6 host chooses its own lower half (RFC 8981).
fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        strangers: 5,
        strangers_per_address: 3,
        patience: Duration::from_secs(1),
        per_identity: 2,
        identified: 3,
    };
    const EARLY: Duration = Duration::ZERO;
    const LATE: Duration = Duration::from_secs(9);

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_oldest_stranger_of_a_crowded_address_goes() {
        let mut seats = Seats::new(LIMITS);
        let crowd = address("10.0.0.1");
        let times = [EARLY, EARLY, EARLY, LATE, LATE];
        let evicted = times.map(|now| seats.arrive(crowd, now).1);
        assert_eq!(evicted, [None, None, None, Some(0), Some(1)]);
        // Others have room until all strangers are too many; then the crowd gives way.
        assert_eq!(seats.arrive(address("10.0.0.2"), LATE).1, None);
        assert_eq!(seats.arrive(address("10.0.0.3"), LATE).1, None);
        assert_eq!(seats.arrive(address("10.0.0.4"), LATE).1, Some(2));
    }

    #[test]
    fn many_may_begin_at_once_but_not_without_end() {
        let mut seats = Seats::new(LIMITS);
        let here = address("127.0.0.1");
        let evicted: Vec<_> = (0..7).map(|_| seats.arrive(here, EARLY).1).collect();
        assert_eq!(evicted, [None, None, None, None, None, Some(0), Some(1)]);
    }

    #[test]
    fn who_has_shown_an_identity_is_never_evicted_and_counts_for_it() {
        let mut seats = Seats::new(LIMITS);
        let here = address("127.0.0.1");
        let (first, _) = seats.arrive(here, LATE);
        assert_eq!(seats.identify(first, "a"), Ok(()));
        assert_eq!(seats.identify(first, "a"), Ok(()));
        for _ in 0..9 {
            assert_ne!(seats.arrive(here, LATE).1, Some(first));
        }
        let newest = seats.arrive(here, LATE).0;
        assert_eq!(seats.identify(newest, "a"), Ok(()));
        let newest = seats.arrive(here, LATE).0;
        assert_eq!(seats.identify(newest, "a"), Err(Full));
        assert_eq!(seats.identify(newest, "b"), Ok(()));
        let newest = seats.arrive(here, LATE).0;
        assert_eq!(seats.identify(newest, "c"), Err(Full));
        seats.leave(first);
        assert_eq!(seats.identify(newest, "c"), Ok(()));
    }

    #[test]
    fn hosts_are_told_apart_by_what_they_cannot_choose() {
        let mut seats = Seats::new(LIMITS);
        for host in ["2001:db8::1", "2001:db8::2", "2001:db8::3"] {
            assert_eq!(seats.arrive(address(host), EARLY).1, None);
        }
        assert_eq!(seats.arrive(address("2001:db8::4"), LATE).1, Some(0));
        assert_eq!(seats.arrive(address("2001:db8:0:1::4"), LATE).1, None);
        assert_eq!(client(address("::ffff:10.0.0.1")), address("10.0.0.1"));
    }

    #[test]
    fn nothing_is_kept_of_who_has_left() {
        let mut seats = Seats::new(LIMITS);
        let (one, _) = seats.arrive(address("10.0.0.1"), LATE);
        let (two, _) = seats.arrive(address("10.0.0.2"), LATE);
        seats.identify(two, "a").unwrap();
        for seat in [one, two, two, 99] {
            seats.leave(seat);
        }
        assert!(seats.holders.is_empty());
        assert!(seats.strangers.is_empty() && seats.identities.is_empty());
    }
}

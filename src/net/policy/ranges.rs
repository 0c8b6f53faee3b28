//! Ranges of addresses and of ports, merged and with holes (pure).

use std::net::IpAddr;

use crate::model::cidr::Cidr;

/// Both ends included, both of one family.
pub type AddressRange = (IpAddr, IpAddr);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(address: IpAddr) -> Family {
        match address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    fn address(self, bits: u128) -> IpAddr {
        match self {
            Family::V4 => IpAddr::V4((bits as u32).into()),
            Family::V6 => IpAddr::V6(bits.into()),
        }
    }
}

fn bits(cidr: Cidr) -> (u128, u128) {
    let (first, width) = match cidr.address() {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    let hosts = u128::MAX.checked_shr(128 - (width - u32::from(cidr.prefix()))).unwrap_or(0);
    (first, first | hosts)
}

/// What `cidr` leaves beside `holes`, in order.
pub fn without(cidr: Cidr, holes: &[Cidr]) -> Vec<AddressRange> {
    let family = Family::of(cidr.address());
    let (mut next, last) = bits(cidr);
    let mut holes: Vec<_> = holes
        .iter()
        .filter(|hole| Family::of(hole.address()) == family)
        .map(|hole| bits(*hole))
        .collect();
    holes.sort_unstable();
    let mut left = Vec::new();
    for (from, to) in holes {
        if to < next || from > last {
            continue;
        }
        if from > next {
            left.push((family.address(next), family.address(from - 1)));
        }
        match to.checked_add(1) {
            Some(after) if after <= last => next = after,
            Some(_) | None => return left,
        }
    }
    left.push((family.address(next), family.address(last)));
    left
}

/// Those of one family, in order, none of which meets another.
pub fn merged(mut ranges: Vec<AddressRange>) -> Vec<AddressRange> {
    ranges.sort_unstable();
    let mut merged: Vec<AddressRange> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if first <= before.1 || follows(before.1, first) => {
                before.1 = before.1.max(last);
            }
            Some(_) | None => merged.push((first, last)),
        }
    }
    merged
}

fn follows(one: IpAddr, other: IpAddr) -> bool {
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => {
            one.to_bits().checked_add(1) == Some(other.to_bits())
        }
        (IpAddr::V6(one), IpAddr::V6(other)) => {
            one.to_bits().checked_add(1) == Some(other.to_bits())
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

/// Ports in order, none of which meets another; ranges without a port are left out.
pub fn merged_ports(mut ranges: Vec<(u16, u16)>) -> Vec<(u16, u16)> {
    ranges.retain(|(first, last)| first <= last);
    ranges.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            Some(_) | None => merged.push((first, last)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(cidr: &str, holes: &[&str], expected: &[(&str, &str)]) {
        let holes: Vec<Cidr> = holes.iter().map(|hole| hole.parse().unwrap()).collect();
        let found = without(cidr.parse().unwrap(), &holes);
        let found: Vec<_> = found.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
        let expected: Vec<_> =
            expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        assert_eq!(found, expected, "{cidr}");
    }

    #[test]
    fn an_exception_is_a_hole() {
        check("10.0.0.0/8", &[], &[("10.0.0.0", "10.255.255.255")]);
        check(
            "10.0.0.0/30",
            &["10.0.0.1/32"],
            &[("10.0.0.0", "10.0.0.0"), ("10.0.0.2", "10.0.0.3")],
        );
        check("10.0.0.0/30", &["10.0.0.2/31"], &[("10.0.0.0", "10.0.0.1")]);
        check("10.0.0.0/30", &["10.0.0.2/31", "10.0.0.0/31"], &[]);
        check("10.0.0.0/24", &["10.0.0.0/25", "10.0.0.64/26"], &[("10.0.0.128", "10.0.0.255")]);
        check("0.0.0.0/0", &["255.255.255.255/32"], &[("0.0.0.0", "255.255.255.254")]);
        check("::/0", &["8000::/1"], &[("::", "7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")]);
        check("2001:db8::/64", &["10.0.0.0/8"], &[("2001:db8::", "2001:db8::ffff:ffff:ffff:ffff")]);
    }

    proptest! {
        #[test]
        fn merging_changes_nobodys_membership(
            ranges in prop::collection::vec((0u16..40, 0u16..6), 0..8),
            asked in 0u16..50,
        ) {
            let ranges: Vec<_> = ranges.iter().map(|(first, more)| (*first, first + more)).collect();
            let holds = |ranges: &[(u16, u16)]| {
                ranges.iter().any(|(first, last)| (*first..=*last).contains(&asked))
            };
            prop_assert_eq!(holds(&merged_ports(ranges.clone())), holds(&ranges));
            let address = |number: u16| Family::V4.address(u128::from(number));
            let wide: Vec<_> = ranges.iter().map(|(a, b)| (address(*a), address(*b))).collect();
            let merged = merged(wide);
            let held = merged.iter().filter(|(a, b)| (*a..=*b).contains(&address(asked))).count();
            prop_assert_eq!(held, usize::from(holds(&ranges)));
        }
    }
}

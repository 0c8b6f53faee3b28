//! What the kernel holds of a table, as `nft -j list table` tells it (pure).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::Value;

use super::{Element, Field};

/// By name; of sets of address ranges also what is in them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Present {
    pub chains: BTreeSet<String>,
    /// "set" or "map" by name.
    pub sets: BTreeMap<String, &'static str>,
    /// Both ends belong to it.
    pub ranges: BTreeMap<String, BTreeSet<(IpAddr, IpAddr)>>,
}

impl Present {
    pub fn read(listing: &Value) -> Present {
        let mut present = Present::default();
        for object in listing["nftables"].as_array().into_iter().flatten() {
            if let Some(name) = object["chain"]["name"].as_str() {
                present.chains.insert(name.to_owned());
            }
            for kind in ["set", "map"] {
                if let Some(name) = object[kind]["name"].as_str() {
                    present.sets.insert(name.to_owned(), kind);
                }
            }
            let set = &object["set"];
            let flags = set["flags"].as_array().into_iter().flatten();
            if flags.map(|flag| flag.as_str()).any(|flag| flag == Some("interval"))
                && let Some(name) = set["name"].as_str()
            {
                let members = set["elem"].as_array().into_iter().flatten().map(range);
                // What cannot be read is not known.
                if let Some(ranges) = members.collect() {
                    present.ranges.insert(name.to_owned(), ranges);
                }
            }
        }
        present
    }

    /// Whether the set is there and holds these ranges, and no others.
    pub fn holds(&self, set: &str, members: Option<&BTreeSet<Element>>) -> bool {
        let range = |member: &Element| match member.key.as_slice() {
            [Field::Between(first, last)] => match (&**first, &**last) {
                (Field::Address(first), Field::Address(last)) => Some((*first, *last)),
                _ => None,
            },
            _ => None,
        };
        let wanted = members.into_iter().flatten().map(range).collect::<Option<BTreeSet<_>>>();
        let held = self.ranges.get(set);
        wanted.is_some_and(|wanted| held.is_some_and(|held| *held == wanted))
    }

    /// Only what begins with `prefix`.
    pub fn below(&self, prefix: &str) -> Present {
        let is_own = |name: &String| name.starts_with(prefix);
        let sets = self.sets.iter().filter(|(name, _)| is_own(name));
        let ranges = self.ranges.iter().filter(|(name, _)| is_own(name));
        Present {
            chains: self.chains.iter().filter(|name| is_own(name)).cloned().collect(),
            sets: sets.map(|(name, kind)| (name.clone(), *kind)).collect(),
            ranges: ranges.map(|(name, members)| (name.clone(), members.clone())).collect(),
        }
    }
}

/// nft writes a range as one address, a prefix or both ends, whichever is shortest.
fn range(member: &Value) -> Option<(IpAddr, IpAddr)> {
    let address = |value: &Value| value.as_str()?.parse::<IpAddr>().ok();
    if let Some(only) = address(member) {
        return Some((only, only));
    }
    if let Some([first, last]) = member["range"].as_array().map(Vec::as_slice) {
        return Some((address(first)?, address(last)?));
    }
    let prefix = &member["prefix"];
    let length = u8::try_from(prefix["len"].as_u64()?).ok()?;
    Some(ends(address(&prefix["addr"])?, length))
}

fn ends(first: IpAddr, length: u8) -> (IpAddr, IpAddr) {
    let hosts = |width: u8| u128::MAX.checked_shr(u32::from(128 - (width - length))).unwrap_or(0);
    let last = match first {
        IpAddr::V4(address) => IpAddr::V4((address.to_bits() | hosts(32) as u32).into()),
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() | hosts(128)).into()),
    };
    (first, last)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_set_of_ranges_is_known_by_its_members_however_nft_writes_them() {
        let set = |members: Value| {
            let set = json!({"name": "policy_block", "flags": ["interval"], "elem": members});
            Present::read(&json!({"nftables": [{"set": set}]}))
        };
        let between = |first: &str, last: &str| {
            let field = |text: &str| Box::new(Field::Address(text.parse().unwrap()));
            Element::member(vec![Field::Between(field(first), field(last))])
        };
        let wanted = BTreeSet::from([
            between("10.0.0.0", "10.255.255.255"),
            between("192.0.2.1", "192.0.2.1"),
            between("192.0.2.7", "192.0.2.9"),
        ]);
        let ten = json!({"prefix": {"addr": "10.0.0.0", "len": 8}});
        let some = json!({"range": ["192.0.2.7", "192.0.2.9"]});
        let all = set(json!([ten, "192.0.2.1", some]));
        assert!(all.holds("policy_block", Some(&wanted)));
        assert!(!all.holds("policy_other", Some(&wanted)));
        assert!(!set(json!([ten, "192.0.2.2", some])).holds("policy_block", Some(&wanted)));
        assert!(!set(json!([ten, "192.0.2.1"])).holds("policy_block", Some(&wanted)));
        assert!(!set(json!([ten, "192.0.2.1", "what"])).holds("policy_block", Some(&wanted)));
        assert_eq!(
            ends("0.0.0.0".parse().unwrap(), 0).1,
            "255.255.255.255".parse::<IpAddr>().unwrap()
        );
        assert_eq!(ends("::".parse().unwrap(), 128).1, "::".parse::<IpAddr>().unwrap());
    }
}

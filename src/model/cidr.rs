//! Address ranges.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A network prefix whose host bits are zero, `10.42.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is not a CIDR.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCidr {
    #[error("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")]
    Form,
    #[error("must not have bits set beyond the prefix length")]
    HostBits,
}

impl Cidr {
    pub fn address(self) -> IpAddr {
        self.address
    }

    pub fn prefix(self) -> u8 {
        self.prefix
    }

    pub fn contains(self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(base), IpAddr::V4(other)) => {
                let shift = 32 - u32::from(self.prefix);
                base.to_bits().checked_shr(shift) == other.to_bits().checked_shr(shift)
            }
            (IpAddr::V6(base), IpAddr::V6(other)) => {
                let shift = 128 - u32::from(self.prefix);
                base.to_bits().checked_shr(shift) == other.to_bits().checked_shr(shift)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }

    /// Whether some address is in both.
    pub fn overlaps(self, other: Cidr) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// The address `offset` places after the network address; `None` beyond the range.
    pub fn nth(self, offset: u128) -> Option<IpAddr> {
        let address = match self.address {
            IpAddr::V4(base) => {
                let bits =
                    u32::try_from(offset).ok().and_then(|o| base.to_bits().checked_add(o))?;
                IpAddr::V4(bits.into())
            }
            IpAddr::V6(base) => IpAddr::V6(base.to_bits().checked_add(offset)?.into()),
        };
        self.contains(address).then_some(address)
    }
}

impl FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Cidr, InvalidCidr> {
        let (address, prefix) = text.split_once('/').ok_or(InvalidCidr::Form)?;
        let address: IpAddr = address.parse().map_err(|_| InvalidCidr::Form)?;
        let prefix: u8 = match prefix.as_bytes() {
            [b'0'] => 0,
            [b'1'..=b'9', ..] => prefix.parse().map_err(|_| InvalidCidr::Form)?,
            _ => return Err(InvalidCidr::Form),
        };
        let cidr = Cidr { address, prefix };
        let host_bits = match address {
            IpAddr::V4(a) if prefix <= 32 => {
                u128::from(a.to_bits()) & ((1u128 << (32 - u32::from(prefix))) - 1)
            }
            IpAddr::V6(a) if prefix <= 128 => {
                a.to_bits()
                    & 1u128.checked_shl(128 - u32::from(prefix)).unwrap_or(0).wrapping_sub(1)
            }
            IpAddr::V4(_) | IpAddr::V6(_) => return Err(InvalidCidr::Form),
        };
        if host_bits == 0 { Ok(cidr) } else { Err(InvalidCidr::HostBits) }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn ranges_contain_what_their_prefix_says() {
        for (range, address, is_inside) in [
            ("10.42.0.0/16", "10.42.255.255", true),
            ("10.42.0.0/16", "10.43.0.0", false),
            ("0.0.0.0/0", "255.1.2.3", true),
            ("10.0.0.1/32", "10.0.0.1", true),
            ("10.0.0.1/32", "10.0.0.2", false),
            ("fd00::/8", "fdff::1", true),
            ("::/0", "fe80::1", true),
            ("::/0", "10.0.0.1", false),
        ] {
            let address = address.parse().expect("an address");
            assert_eq!(cidr(range).contains(address), is_inside, "{range} {address}");
        }
    }

    #[test]
    fn the_nth_address_stays_inside() {
        let nth = |range: &str, offset| cidr(range).nth(offset).map(|a| a.to_string());
        assert_eq!(nth("10.42.0.0/24", 255).as_deref(), Some("10.42.0.255"));
        assert_eq!(nth("10.42.0.0/24", 256), None);
        assert_eq!(nth("255.255.255.0/24", 300), None);
        assert_eq!(nth("10.0.0.0/8", u128::MAX), None);
        assert_eq!(nth("fd00::/64", 1).as_deref(), Some("fd00::1"));
    }

    #[test]
    fn sloppy_ranges_are_refused() {
        for (text, error) in [
            ("10.42.0.1/16", InvalidCidr::HostBits),
            ("fd00::1/64", InvalidCidr::HostBits),
            ("10.42.0.0", InvalidCidr::Form),
            ("10.42.0.0/33", InvalidCidr::Form),
            ("10.42.0.0/016", InvalidCidr::Form),
            ("10.42.0.0/+8", InvalidCidr::Form),
            ("10.42.0.0/", InvalidCidr::Form),
            ("010.0.0.0/8", InvalidCidr::Form),
            ("::/129", InvalidCidr::Form),
        ] {
            assert_eq!(text.parse::<Cidr>(), Err(error), "{text}");
        }
    }
}

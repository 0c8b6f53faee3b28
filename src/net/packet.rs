//! What the first bytes of a packet say: who sends what to whom (pure).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Protocol;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;

/// As much as policies ask of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Head {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub speaks: Speaks,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Speaks {
    Ports {
        protocol: Protocol,
        source: u16,
        destination: u16,
    },
    /// An ICMP echo request.
    Echo,
    /// IANA's number of a protocol whose packets have no ports, or whose ports are cut off.
    Other(u8),
}

impl Head {
    /// Reads a packet from its IP header on; `None` when it is none or ends within its addresses.
    pub fn read(packet: &[u8]) -> Option<Head> {
        let address = |at: usize| packet.get(at..at + 4)?.first_chunk::<4>().copied();
        let long = |at: usize| packet.get(at..at + 16)?.first_chunk::<16>().copied();
        let (source, destination, protocol, payload): (IpAddr, IpAddr, _, _) =
            match packet.first()? >> 4 {
                4 => {
                    let length = usize::from(packet[0] & 0xf) * 4;
                    let is_first =
                        u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x1fff == 0;
                    (
                        Ipv4Addr::from(address(12)?).into(),
                        Ipv4Addr::from(address(16)?).into(),
                        *packet.get(9)?,
                        packet.get(length..).filter(|_| is_first).unwrap_or_default(),
                    )
                }
                6 => (
                    Ipv6Addr::from(long(8)?).into(),
                    Ipv6Addr::from(long(24)?).into(),
                    *packet.get(6)?,
                    packet.get(40..).unwrap_or_default(),
                ),
                _ => return None, // No other version travels.
            };
        Some(Head { source, destination, speaks: Speaks::read(protocol, payload) })
    }
}

impl Speaks {
    fn read(number: u8, payload: &[u8]) -> Speaks {
        let protocol = match (number, payload.first()) {
            (TCP, _) => Protocol::Tcp,
            (UDP, _) => Protocol::Udp,
            (SCTP, _) => Protocol::Sctp,
            (ICMP, Some(8)) | (ICMPV6, Some(128)) => return Speaks::Echo,
            (other, _) => return Speaks::Other(other),
        };
        match payload.first_chunk::<4>() {
            Some([a, b, c, d]) => Speaks::Ports {
                protocol,
                source: u16::from_be_bytes([*a, *b]),
                destination: u16::from_be_bytes([*c, *d]),
            },
            None => Speaks::Other(number),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SYN: [u8; 24] = [
        0x45, 0, 0, 60, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 42, 0, 5, 10, 42, 0, 7, 0x9c, 0x40, 0x1f,
        0x90,
    ];

    #[test]
    fn a_packet_says_who_sends_what_to_whom() {
        let head = Head::read(&SYN).unwrap();
        let speaks = Speaks::Ports { protocol: Protocol::Tcp, source: 40_000, destination: 8080 };
        let (source, destination) = ([10, 42, 0, 5].into(), [10, 42, 0, 7].into());
        assert_eq!(head, Head { source, destination, speaks });
        let mut later = SYN;
        later[7] = 1;
        assert_eq!(Head::read(&later).unwrap().speaks, Speaks::Other(6), "a fragment has no ports");
        assert_eq!(Head::read(&SYN[..19]), None);
        let mut echo = SYN;
        (echo[9], echo[20]) = (1, 8);
        assert_eq!(Head::read(&echo).unwrap().speaks, Speaks::Echo);
    }

    proptest! {
        #[test]
        fn no_packet_is_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Head::read(&bytes);
        }
    }
}

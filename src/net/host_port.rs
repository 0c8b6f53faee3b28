//! Ports of the host that lead into pods (pure): which are acceptable, which collide, which map members they are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::names::{Names, pod_mac};
use super::ruleset::{Element, Elements, Field};
use super::skeleton::{HAIRPIN, HOST_PORTS, HOST_PORTS_AT, SOURCES};
use super::{HostPort, Protocol};

/// What a pod holds of the network as long as it lives.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Lease {
    pub address: Ipv4Addr,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<HostPort>,
}

impl Lease {
    /// Ports whose flows know no end (UDP and SCTP).
    pub fn connectionless(&self) -> impl Iterator<Item = &HostPort> {
        self.ports.iter().filter(|port| port.protocol != Protocol::Tcp)
    }
}

/// Why a host port cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// Another pod, by name, has it.
    Taken(u16, String),
    /// It would never work.
    Address(u16, IpAddr),
}

/// The ports with "every address" spelled one way, or the first that cannot be had beside `leases`.
pub fn admit(
    pod: &str,
    ports: &[HostPort],
    leases: &BTreeMap<String, Lease>,
) -> Result<Vec<HostPort>, Refused> {
    let mut admitted: Vec<HostPort> = Vec::with_capacity(ports.len());
    for port in ports {
        let host_ip = match port.host_ip {
            Some(ip) if ip.is_unspecified() => None,
            // Translated loopback traffic needs route_localnet (CVE-2020-8558), and pods have no IPv6 yet.
            Some(ip) if ip.is_loopback() || ip.is_ipv6() => {
                return Err(Refused::Address(port.host_port, ip));
            }
            other => other,
        };
        let port = HostPort { host_ip, ..port.clone() };
        let others = leases.iter().filter(|(other, _)| *other != pod);
        for (other, lease) in others {
            if lease.ports.iter().any(|held| collide(held, &port)) {
                return Err(Refused::Taken(port.host_port, other.clone()));
            }
        }
        if admitted.iter().any(|earlier| collide(earlier, &port) && *earlier != port) {
            return Err(Refused::Taken(port.host_port, pod.to_owned()));
        }
        admitted.push(port);
    }
    admitted.dedup();
    Ok(admitted)
}

fn collide(one: &HostPort, other: &HostPort) -> bool {
    one.protocol == other.protocol
        && one.host_port == other.host_port
        && (one.host_ip.is_none() || other.host_ip.is_none() || one.host_ip == other.host_ip)
}

/// Everything about a pod that stands in sets and maps.
pub fn elements(names: &Names, offset: u32, lease: &Lease) -> Elements {
    let address = Field::Address(lease.address.into());
    let source = Element::member(vec![
        Field::Link(names.port(offset)),
        address.clone(),
        Field::Mac(pod_mac(lease.address)),
    ]);
    let itself = Element::member(vec![address.clone(), address.clone()]);
    let mut elements = Elements::from([
        (SOURCES.into(), BTreeSet::from([source])),
        (HAIRPIN.into(), BTreeSet::from([itself])),
    ]);
    for port in &lease.ports {
        let from = (port.host_ip.filter(IpAddr::is_ipv4), port.host_port);
        let to = SocketAddr::new(lease.address.into(), port.container_port);
        for (map, members) in led(port.protocol, from, to) {
            elements.entry(map).or_default().extend(members);
        }
    }
    elements
}

/// What leads a port of the host, at one of its addresses or at all, to `to`.
pub fn led(protocol: Protocol, (ip, port): (Option<IpAddr>, u16), to: SocketAddr) -> Elements {
    let (maps, mut key) = match ip {
        Some(ip) => (HOST_PORTS_AT, vec![Field::Address(ip)]),
        None => (HOST_PORTS, Vec::new()),
    };
    key.extend([Field::Protocol(protocol), Field::Port(port)]);
    let values = [Field::Address(to.ip()), Field::Port(to.port())];
    let member = |(map, value): (&'static str, Field)| {
        (map.into(), BTreeSet::from([Element::entry(key.clone(), value)]))
    };
    maps.into_iter().zip(values).map(member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(protocol: Protocol, ip: Option<&str>, host_port: u16) -> HostPort {
        HostPort {
            protocol,
            host_ip: ip.map(|text| text.parse().unwrap()),
            host_port,
            container_port: 80,
        }
    }

    fn held(ip: Option<&str>) -> BTreeMap<String, Lease> {
        let lease = Lease {
            address: Ipv4Addr::new(10, 42, 0, 2),
            ports: vec![port(Protocol::Tcp, ip, 8080)],
        };
        BTreeMap::from([("other".to_owned(), lease)])
    }

    #[test]
    fn a_port_is_taken_where_the_addresses_overlap() {
        let taken = Err(Refused::Taken(8080, "other".to_owned()));
        let cases = [
            (None, None, true),
            (Some("10.0.0.1"), None, true),
            (None, Some("10.0.0.1"), true),
            (Some("10.0.0.1"), Some("10.0.0.1"), true),
            (Some("10.0.0.1"), Some("10.0.0.2"), false),
            (Some("0.0.0.0"), Some("10.0.0.2"), true),
        ];
        for (mine, theirs, is_taken) in cases {
            let answer = admit("me", &[port(Protocol::Tcp, mine, 8080)], &held(theirs));
            assert_eq!(answer == taken, is_taken, "{mine:?} {theirs:?}");
        }
        assert!(admit("me", &[port(Protocol::Udp, None, 8080)], &held(None)).is_ok());
        assert!(admit("other", &[port(Protocol::Tcp, None, 8080)], &held(None)).is_ok());
    }

    #[test]
    fn loopback_and_ipv6_are_refused_by_name() {
        for ip in ["127.0.0.1", "::1", "2001:db8::1"] {
            let answer = admit("me", &[port(Protocol::Tcp, Some(ip), 80)], &BTreeMap::new());
            assert_eq!(answer, Err(Refused::Address(80, ip.parse().unwrap())));
        }
        let any = admit("me", &[port(Protocol::Tcp, Some("::"), 80)], &BTreeMap::new()).unwrap();
        assert_eq!(any[0].host_ip, None);
    }
}

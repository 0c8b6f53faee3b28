//! Small clusters in which much may coincide: few labels, few ports, overlapping blocks, both families.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Value, json};

use super::super::{Asked, Labels, NamedPort, Nature, Pod};
use super::{Cluster, policy};
use crate::net::Protocol;

const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const KEYS: [&str; 3] = ["pod", "tier", "role"];
const VALUES: [&str; 3] = ["a", "b", "c"];
const NAMES: [&str; 3] = ["serve-80", "serve-81", "other"];
const BLOCKS: [&str; 12] = [
    "0.0.0.0/0",
    "::/0",
    "10.42.0.0/16",
    "10.42.0.0/28",
    "10.42.0.4/30",
    "10.42.0.5/32",
    "10.42.0.8/29",
    "192.0.2.0/24",
    "192.0.2.1/32",
    "2001:db8::/64",
    "2001:db8::4/126",
    "2001:db8::5/128",
];
const OUTSIDE: [&str; 3] = ["192.0.2.1", "192.0.2.200", "2001:db8:1::1"];
const PORTS: [u16; 5] = [80, 81, 82, 1, 65535];

/// splitmix64: a seed gives the same cluster for ever.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ mixed >> 31) % end as u64) as usize
    }

    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    pub fn several<T>(&mut self, most: usize, mut make: impl FnMut(&mut Random) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| make(self)).collect()
    }

    pub fn cluster(&mut self) -> Cluster {
        let mut namespaces = BTreeMap::new();
        for name in NAMESPACES {
            let mut labels = self.labels();
            labels.insert("kubernetes.io/metadata.name".to_owned(), name.to_owned());
            namespaces.insert(name.to_owned(), labels);
        }
        let count = 3 + self.below(8);
        let pods = (0..count).map(|number| self.pod(number)).collect();
        let policies = self.several(6, Random::policy);
        Cluster { policies, namespaces, pods }
    }

    pub fn labels(&mut self) -> Labels {
        let pairs = self.several(3, |random| (random.pick(&KEYS), random.pick(&VALUES)));
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    fn pod(&mut self, number: usize) -> Pod {
        let v4 = format!("10.42.0.{}", number + 2).parse().unwrap();
        let v6 = format!("2001:db8::{:x}", number + 2).parse().unwrap();
        let nature = if self.one_in(6) { Nature::Daemon } else { Nature::Pod };
        // What the daemon serves may lie one further.
        let step = usize::from(nature == Nature::Daemon && self.one_in(2));
        let ports = self.several(3, |random| {
            let place = random.below(PORTS.len());
            let name = random.pick(&NAMES);
            NamedPort {
                listens_at: PORTS[(place + step) % PORTS.len()],
                ..NamedPort::new(name, random.protocol(), PORTS[place])
            }
        });
        Pod {
            namespace: self.pick(&NAMESPACES).to_owned(),
            name: number.to_string(),
            labels: self.labels(),
            addresses: match self.below(4) {
                0 => vec![v6],
                1 => vec![v4, v6],
                _ => vec![v4],
            },
            ports: BTreeSet::from_iter(ports),
            nature,
        }
    }

    fn protocol(&mut self) -> Protocol {
        self.pick(&[Protocol::Tcp, Protocol::Tcp, Protocol::Udp, Protocol::Sctp])
    }

    pub fn policy(&mut self) -> k8s_openapi::api::networking::v1::NetworkPolicy {
        let namespace = self.pick(&NAMESPACES);
        let mut spec = json!({"podSelector": self.selector()});
        match self.below(5) {
            0 => {}
            1 => spec["policyTypes"] = json!(["Ingress"]),
            2 => spec["policyTypes"] = json!(["Egress"]),
            3 => spec["policyTypes"] = json!(["Ingress", "Egress"]),
            _ => spec["policyTypes"] = json!([]),
        }
        for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
            if !self.one_in(4) {
                let rules = self.several(3, |random| random.rule(peers));
                spec[direction] = json!(rules);
            }
        }
        let name = self.below(1000).to_string();
        policy(namespace, &name, spec)
    }

    fn rule(&mut self, peers: &str) -> Value {
        let mut rule = json!({});
        if !self.one_in(4) {
            rule[peers] = json!(self.several(3, Random::peer));
        }
        if !self.one_in(3) {
            rule["ports"] = json!(self.several(3, Random::port));
        }
        rule
    }

    fn peer(&mut self) -> Value {
        match self.below(5) {
            0 => {
                let cidr = self.pick(&BLOCKS);
                let mut block = json!({"cidr": cidr});
                if self.one_in(2) {
                    block["except"] = json!(self.several(3, |random| random.pick(&BLOCKS)));
                }
                json!({"ipBlock": block})
            }
            1 => json!({"podSelector": self.selector()}),
            2 => json!({"namespaceSelector": self.selector()}),
            _ => json!({"namespaceSelector": self.selector(), "podSelector": self.selector()}),
        }
    }

    fn port(&mut self) -> Value {
        let mut port = json!({});
        if !self.one_in(3) {
            port["protocol"] = json!(self.pick(&["TCP", "UDP", "SCTP"]));
        }
        match self.below(6) {
            0 => {}
            1 | 2 => port["port"] = json!(self.pick(&NAMES)),
            3 => {
                let first = self.pick(&PORTS);
                port["port"] = json!(first);
                port["endPort"] = json!(first.saturating_add(self.pick(&[0, 1, 100])));
            }
            _ => port["port"] = json!(self.pick(&PORTS)),
        }
        port
    }

    fn selector(&mut self) -> Value {
        let mut selector = json!({});
        if self.one_in(3) {
            return selector;
        }
        if self.one_in(2) {
            selector["matchLabels"] = json!({self.pick(&KEYS): self.pick(&VALUES)});
        } else {
            let key = match self.one_in(5) {
                true => "kubernetes.io/metadata.name",
                false => self.pick(&KEYS),
            };
            let values = [self.pick(&["a", "b", "x", "y"]), self.pick(&["a", "c", "z"])];
            selector["matchExpressions"] = json!([match self.below(4) {
                0 => json!({"key": key, "operator": "In", "values": values}),
                1 => json!({"key": key, "operator": "NotIn", "values": values}),
                2 => json!({"key": key, "operator": "Exists"}),
                _ => json!({"key": key, "operator": "DoesNotExist"}),
            }]);
        }
        selector
    }

    /// Everybody who may send or receive.
    pub fn ends(&mut self, cluster: &Cluster) -> Vec<IpAddr> {
        let pods = cluster.pods.iter().flat_map(|pod| pod.addresses.clone());
        pods.chain(OUTSIDE.iter().map(|address| address.parse().unwrap())).collect()
    }

    /// What is worth asking at `destination`.
    pub fn questions(&mut self, cluster: &Cluster, destination: IpAddr) -> Vec<Asked> {
        let served = cluster.pods.iter().filter(|pod| pod.addresses.contains(&destination));
        let mut asked: Vec<_> = served
            .flat_map(|pod| &pod.ports)
            .map(|port| Asked::Port(port.protocol, port.number))
            .collect();
        asked.extend([Asked::Echo, Asked::Other]);
        asked.extend((0..4).map(|_| Asked::Port(self.protocol(), self.pick(&PORTS))));
        asked
    }
}

//! From policies, namespaces and pods to a plan (pure).
//!
//! Pods that nothing tells apart (namespace, labels, ports) are decided once, and policies that select nobody are not compiled:
//! what it costs depends on the pods that there are. Named ports are the reason that ports belong
//! to it: an ingress rule means the number that the isolated pod itself gives the name, an egress rule the number that
//! each destination gives it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::plan::{Allow, Chain, Members, Peers, Plan, Service, Verdict, name};
use super::ranges::{AddressRange, Family, merged, merged_ports, without};
use super::{Direction, NamedPort, Nature, Peer, Pod, Port, PortNumber, Rule, World};
use crate::net::Protocol;

/// The rules that `world` asks for.
pub fn compile(world: &World) -> Plan {
    let alike = alike(world);
    let mut compiler = Compiler::of(world, &alike);
    // By place in its namespace; of those alone that select somebody.
    let mut rules: BTreeMap<(&str, usize), PolicyRules> = BTreeMap::new();
    for (pod, addresses) in &alike {
        if pod.nature == Nature::Daemon {
            continue;
        }
        let policies = world.policies.get(&pod.namespace).into_iter().flatten().enumerate();
        let selecting: Vec<_> =
            policies.filter(|(_, policy)| policy.selects.matches(&pod.labels)).collect();
        for (place, policy) in &selecting {
            rules.entry((&pod.namespace, *place)).or_insert_with(|| PolicyRules {
                ingress: policy.ingress.as_deref().map(|rules| compiler.ingress_rules(rules)),
                egress: policy.egress.as_deref().map(|rules| compiler.egress_rules(rules)),
            });
        }
        let selecting: Vec<&PolicyRules> =
            selecting.iter().map(|(place, _)| &rules[&(pod.namespace.as_str(), *place)]).collect();
        let ingress: Vec<_> = selecting.iter().filter_map(|rules| rules.ingress.as_ref()).collect();
        let egress: Vec<_> = selecting.iter().filter_map(|rules| rules.egress.as_ref()).collect();
        let is_isolated = !ingress.is_empty() || !egress.is_empty();
        let chains = [
            Chain {
                direction: Direction::Ingress,
                is_isolating: !ingress.is_empty(),
                allows: ingress.into_iter().flatten().flat_map(|rule| rule.allows(pod)).collect(),
            },
            Chain {
                direction: Direction::Egress,
                is_isolating: !egress.is_empty(),
                allows: egress.into_iter().flatten().cloned().collect(),
            },
        ];
        for chain in chains {
            let verdict = match is_isolated {
                true => Verdict::Chain(compiler.chain_of(&chain)),
                false => Verdict::Open,
            };
            for address in addresses {
                compiler.plan.verdicts.insert((chain.direction, *address), verdict.clone());
            }
            if let Verdict::Chain(name) = verdict {
                compiler.plan.chains.entry(name).or_insert(chain);
            }
        }
    }
    compiler.finish()
}

/// What a policy's rules come to; `None` where it does not isolate.
struct PolicyRules {
    ingress: Option<Vec<IngressRule>>,
    egress: Option<Vec<Allow>>,
}

/// Waits for the pod whose names its ports are.
struct IngressRule {
    peers: Vec<Peers>,
    ports: Option<Vec<Port>>,
}

impl IngressRule {
    fn allows(&self, pod: &Pod) -> Vec<Allow> {
        let resolve = |port: &Port| match &port.number {
            PortNumber::Any => vec![(port.protocol, (0, u16::MAX))],
            PortNumber::Between(first, last) => vec![(port.protocol, (*first, *last))],
            PortNumber::Named(name) => pod
                .ports
                .iter()
                .filter(|named| named.name == *name && named.protocol == port.protocol)
                .map(|named| (port.protocol, (named.number, named.number)))
                .collect(),
        };
        let services = match &self.ports {
            None => vec![Service::Everything],
            Some(ports) => services_of(ports.iter().flat_map(resolve)),
        };
        flows(&self.peers, &services)
    }
}

/// One for each protocol.
fn services_of(ports: impl Iterator<Item = (Protocol, (u16, u16))>) -> Vec<Service> {
    let mut ranges: BTreeMap<Protocol, Vec<(u16, u16)>> = BTreeMap::new();
    for (protocol, range) in ports {
        ranges.entry(protocol).or_default().push(range);
    }
    ranges
        .into_iter()
        .map(|(protocol, ranges)| (protocol, merged_ports(ranges)))
        .filter(|(_, ranges)| !ranges.is_empty())
        .map(|(protocol, ranges)| Service::Ports(protocol, ranges))
        .collect()
}

fn flows(peers: &[Peers], services: &[Service]) -> Vec<Allow> {
    let pairs = peers.iter().flat_map(|peers| services.iter().map(move |service| (peers, service)));
    pairs
        .map(|(peers, service)| Allow::Flow { peers: peers.clone(), service: service.clone() })
        .collect()
}

/// One of those that nothing tells apart, and the addresses of all.
type Alike<'a> = (&'a Pod, BTreeSet<IpAddr>);

fn alike(world: &World) -> Vec<Alike<'_>> {
    let mut alike: BTreeMap<_, Alike<'_>> = BTreeMap::new();
    for pod in &world.pods {
        if world.namespaces.contains_key(&pod.namespace) {
            let key = (&pod.namespace, &pod.labels, &pod.ports, pod.nature);
            let (_, addresses) = alike.entry(key).or_insert((pod, BTreeSet::new()));
            addresses.extend(&pod.addresses);
        }
    }
    alike.into_values().collect()
}

struct Compiler<'a> {
    world: &'a World,
    alike: &'a [Alike<'a>],
    /// Those that pods have; sets of addresses are made for no others.
    families: BTreeSet<Family>,
    plan: Plan,
}

impl<'a> Compiler<'a> {
    fn of(world: &'a World, alike: &'a [Alike<'a>]) -> Compiler<'a> {
        // IPv4 always, so that the first pod changes members only.
        let mut families = BTreeSet::from([Family::V4]);
        let addresses = alike.iter().flat_map(|(_, addresses)| addresses);
        families.extend(addresses.map(|address| Family::of(*address)));
        Compiler { world, alike, families, plan: Plan::default() }
    }

    fn ingress_rules(&mut self, rules: &[Rule]) -> Vec<IngressRule> {
        rules
            .iter()
            .map(|rule| IngressRule { peers: self.peers(rule), ports: rule.ports.clone() })
            .collect()
    }

    fn egress_rules(&mut self, rules: &[Rule]) -> Vec<Allow> {
        rules.iter().flat_map(|rule| self.egress_rule(rule)).collect()
    }

    fn egress_rule(&mut self, rule: &Rule) -> Vec<Allow> {
        let mut services = vec![Service::Everything];
        let mut has_names = false;
        if let Some(ports) = &rule.ports {
            let mut numbers = Vec::new();
            for port in ports {
                match &port.number {
                    PortNumber::Any => numbers.push((port.protocol, (0, u16::MAX))),
                    PortNumber::Between(first, last) => {
                        numbers.push((port.protocol, (*first, *last)));
                    }
                    PortNumber::Named(_) => has_names = true,
                }
            }
            services = services_of(numbers.into_iter());
        }
        let mut allows = match services.is_empty() {
            true => Vec::new(),
            false => flows(&self.peers(rule), &services),
        };
        for family in self.families.clone() {
            let set = name("ports", &(family, rule));
            let members = self.listed(family, rule);
            if has_names || !members.is_empty() {
                self.plan.sets.insert(set.clone(), Members::Ports(family, members));
                allows.push(Allow::Listed(set));
            }
        }
        allows
    }

    /// Where those peers that are not simply addresses serve what `rule` asks for: ports that pods name, and all of
    /// what the daemon serves.
    fn listed(&self, family: Family, rule: &Rule) -> BTreeSet<(IpAddr, Protocol, u16)> {
        let mut listed = BTreeSet::new();
        for (pod, addresses) in self.alike {
            let is_asked = |port: &&NamedPort| {
                let covers = |asked: &Port| match (&asked.number, pod.nature) {
                    (PortNumber::Named(_), _) | (_, Nature::Daemon) => {
                        asked.covers(port.protocol, port.number, Some(pod))
                    }
                    (PortNumber::Any | PortNumber::Between(..), Nature::Pod) => false,
                };
                match &rule.ports {
                    Some(ports) => ports.iter().any(covers),
                    None => pod.nature == Nature::Daemon,
                }
            };
            for port in pod.ports.iter().filter(is_asked) {
                let is_meant = |address: &&IpAddr| {
                    Family::of(**address) == family
                        && rule.peers.as_ref().is_none_or(|peers| {
                            peers.iter().any(|peer| {
                                peer.selects(pod, &self.world.namespaces) || peer.covers(**address)
                            })
                        })
                };
                let meant = addresses.iter().filter(is_meant);
                listed.extend(meant.map(|address| (*address, port.protocol, port.listens_at)));
            }
        }
        listed
    }

    /// Sets that hold the peers of a rule.
    fn peers(&mut self, rule: &Rule) -> Vec<Peers> {
        let Some(peers) = &rule.peers else {
            return vec![Peers::Anyone];
        };
        let mut sets = Vec::new();
        let mut blocks: BTreeMap<Family, Vec<AddressRange>> = BTreeMap::new();
        for peer in peers {
            match peer {
                Peer::Pods { .. } => {
                    for family in self.families.clone() {
                        sets.push(self.pods(family, peer));
                    }
                }
                Peer::Block { cidr, except } => {
                    blocks
                        .entry(Family::of(cidr.address()))
                        .or_default()
                        .extend(without(*cidr, except));
                }
            }
        }
        for (family, ranges) in blocks {
            let ranges = merged(ranges);
            if !ranges.is_empty() {
                let set = name("block", &ranges);
                self.plan.sets.entry(set.clone()).or_insert(Members::Ranges(family, ranges));
                sets.push(set);
            }
        }
        sets.into_iter().map(Peers::In).collect()
    }

    fn pods(&mut self, family: Family, peer: &Peer) -> String {
        let set = name("pods", &(family, peer));
        if !self.plan.sets.contains_key(&set) {
            let selected = self.alike.iter().filter(|(pod, _)| {
                pod.nature == Nature::Pod && peer.selects(pod, &self.world.namespaces)
            });
            let addresses = selected.flat_map(|(_, addresses)| addresses);
            let members =
                addresses.copied().filter(|address| Family::of(*address) == family).collect();
            self.plan.sets.insert(set.clone(), Members::Addresses(family, members));
        }
        set
    }

    fn chain_of(&self, chain: &Chain) -> String {
        let kind = match chain.direction {
            Direction::Ingress => "in",
            Direction::Egress => "out",
        };
        name(kind, chain)
    }

    /// Sets that no chain names are of policies that select nobody: left out.
    fn finish(self) -> Plan {
        let mut plan = self.plan;
        let named: BTreeSet<&String> = plan
            .chains
            .values()
            .flat_map(|chain| &chain.allows)
            .filter_map(|allow| match allow {
                Allow::Listed(set) | Allow::Flow { peers: Peers::In(set), .. } => Some(set),
                Allow::Flow { peers: Peers::Anyone, .. } => None,
            })
            .collect();
        let named: BTreeSet<String> = named.into_iter().cloned().collect();
        plan.sets.retain(|set, _| named.contains(set));
        plan
    }
}

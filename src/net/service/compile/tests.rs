use proptest::prelude::*;

use super::super::{Endpoint, ServicePort, SlicePort};
use super::*;
use crate::net::dns::zone::{Ranges, Zone};

pub fn endpoint(last: u8) -> Endpoint {
    Endpoint {
        address: Ipv4Addr::new(10, 42, 0, last).into(),
        is_ready: true,
        is_serving: true,
        is_terminating: false,
        hostname: None,
        node: Some("here".to_owned()),
    }
}

fn facts(endpoints: Vec<Endpoint>, change: impl FnOnce(&mut Service)) -> Facts {
    let name = ServiceName { namespace: "default".to_owned(), name: "web".to_owned() };
    let mut service = Service {
        addresses: vec![Ipv4Addr::new(10, 43, 0, 9).into()],
        ports: vec![ServicePort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
        }],
        affinity: None,
        is_internal_local: false,
        is_external_local: false,
        is_on_host: false,
        external_name: None,
    };
    change(&mut service);
    let ports = service.ports.iter().map(|port| SlicePort {
        name: port.name.clone(),
        protocol: port.protocol,
        port: 8080,
    });
    let slice = Slice { ports: ports.collect(), endpoints };
    Facts {
        services: BTreeMap::from([(name.clone(), service)]),
        slices: BTreeMap::from([(name, BTreeMap::from([("web-abcde".to_owned(), slice)]))]),
    }
}

fn served_by(facts: &Facts) -> Vec<u8> {
    let last = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(_) => unreachable!("only IPv4 is served"),
    };
    led_to(facts, &BTreeSet::new()).into_iter().map(last).collect()
}

fn led_to(facts: &Facts, withheld: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    Compiled::default().whole(facts, "here", withheld).1
}

#[test]
fn only_the_ready_serve_unless_nobody_is() {
    let not_ready = Endpoint { is_ready: false, is_serving: false, ..endpoint(3) };
    let ending = Endpoint { is_ready: false, is_terminating: true, ..endpoint(4) };
    let ended = Endpoint { is_serving: false, ..ending.clone() };
    let cases: [(Vec<Endpoint>, &[u8]); 5] = [
        (vec![endpoint(2), not_ready.clone(), ending.clone()], &[2]),
        (vec![not_ready.clone(), ending.clone()], &[4]),
        (vec![not_ready.clone(), ended], &[]),
        (vec![not_ready], &[]),
        (vec![], &[]),
    ];
    for (endpoints, expected) in cases {
        assert_eq!(served_by(&facts(endpoints.clone(), |_| {})), expected, "{endpoints:?}");
    }
}

#[test]
fn local_means_endpoints_of_this_node() {
    let elsewhere = Endpoint { node: Some("there".to_owned()), ..endpoint(3) };
    let nowhere = Endpoint { node: None, ..endpoint(4) };
    let all = vec![endpoint(2), elsewhere, nowhere];
    assert_eq!(served_by(&facts(all.clone(), |_| {})), [2, 3, 4]);
    assert_eq!(served_by(&facts(all.clone(), |service| service.is_internal_local = true)), [2]);
    let external = facts(all, |service| {
        service.addresses.clear();
        service.is_external_local = true;
        service.ports[0].node_port = Some(30080);
    });
    assert_eq!(served_by(&external), [2]);
}

#[test]
fn a_withheld_address_serves_nobody() {
    let facts = facts(vec![endpoint(2), endpoint(3)], |_| {});
    let withheld = BTreeSet::from([endpoint(2).address]);
    assert_eq!(led_to(&facts, &withheld), [endpoint(3).address].into());
}

#[test]
fn a_service_without_endpoints_is_in_no_map() {
    let plan = compile(&facts(vec![], |_| {}), "here", &BTreeSet::new());
    assert!(plan.elements.values().all(BTreeSet::is_empty), "{plan:?}");
}

#[test]
fn ten_thousand_services_need_no_chain_of_their_own() {
    let one = facts(vec![endpoint(2), endpoint(3), endpoint(4)], |_| {});
    let (name, service) = one.services.first_key_value().unwrap();
    let mut many = Facts::default();
    for number in 0..10_000u32 {
        let name = ServiceName { name: format!("web-{number}"), ..name.clone() };
        let addresses = vec![Ipv4Addr::from(0x0a2b_0000 + number).into()];
        many.services.insert(name.clone(), Service { addresses, ..service.clone() });
        many.slices.insert(name, one.slices.first_key_value().unwrap().1.clone());
    }
    let plan = compile(&many, "here", &BTreeSet::new());
    assert_eq!(plan.programs.len(), 3);
    assert_eq!(plan.elements[BACKENDS].len(), 30_000);
    // The kernel validates all members that lead to chains whenever one comes.
    let leads = |member: &&Element| matches!(*member.value, [Field::Verdict(_)]);
    assert_eq!(plan.elements.values().flatten().filter(leads).count(), 1);
}

proptest! {
    /// Whatever a chain draws has a backend, and every backend can be drawn.
    #[test]
    fn each_number_that_may_be_drawn_leads_somewhere(
        pods in prop::collection::btree_set(1u8..40, 0..20),
        sticks in any::<bool>(),
        port in prop::option::of(30000u16..30010),
    ) {
        let endpoints = pods.iter().map(|last| endpoint(*last)).collect();
        let facts = facts(endpoints, |service| {
            service.affinity = sticks.then_some(Duration::from_secs(60));
            service.ports[0].node_port = port;
        });
        let plan = compile(&facts, "here", &BTreeSet::new());
        let maps = usize::from(!pods.is_empty()) * (1 + usize::from(port.is_some()));
        let members = |set: &str| plan.elements.get(set).cloned().unwrap_or_default();
        let is_sole = pods.len() == 1 && !sticks;
        let drawn = if is_sole { 0 } else { maps };
        prop_assert_eq!(members(BACKENDS).len(), pods.len() * drawn);
        for set in [STAYING, MEMBERS] {
            prop_assert_eq!(members(set).len(), usize::from(sticks) * pods.len() * maps);
        }
        prop_assert!(USED_UP.iter().all(|name| !plan.declarations.contains_key(*name)));
        for is_node in [false, true] {
            let affinity = sticks.then_some(Duration::from_secs(60));
            let choice = Choice { is_node, count: pods.len() as u32, affinity };
            let asked = members(CHOICES[choice.place()]);
            let is_asked = maps > usize::from(is_node);
            prop_assert_eq!(asked.len(), usize::from(is_asked && !is_sole));
            prop_assert_eq!(members(SOLE[choice.place()]).len(), usize::from(is_asked && is_sole));
            prop_assert!(asked.iter().all(|entry| entry.value[1..] == choice.key()));
            let goto = Field::Verdict(Verdict::Goto(choice.chain()));
            let leads = asked.iter().map(|_| Element::entry(choice.key(), goto.clone())).collect();
            prop_assert_eq!(members(CHAINS[choice.place()]), leads);
            prop_assert_eq!(plan.programs.contains_key(&choice.chain()), !asked.is_empty());
        }
        prop_assert_eq!(plan.strays(crate::net::part::Part::Services), Vec::<String>::new());
    }
}

/// What the API may do to one of four Services, of which two may want the same address or port of the host.
#[derive(Debug, Clone)]
enum Told {
    Service {
        ports: BTreeSet<(u8, bool)>,
        node_port: Option<u16>,
        address: u8,
        flags: u8,
    },
    ServiceGone,
    /// One of two slices, and who is in it, ready or ending.
    Slice(u8, BTreeMap<u8, bool>),
    SliceGone(u8),
    Withheld(u8),
    Released(u8),
}

fn told() -> impl Strategy<Value = Told> {
    let ports = prop::collection::btree_set((0u8..2, any::<bool>()), 0..3);
    let service = (ports, prop::option::of(30_000u16..30_003), 0u8..4, any::<u8>());
    let endpoints = prop::collection::btree_map(2u8..8, any::<bool>(), 0..5);
    prop_oneof![
        3 => service.prop_map(|(ports, node_port, address, flags)| Told::Service {
            ports, node_port, address, flags,
        }),
        1 => Just(Told::ServiceGone),
        6 => (0u8..2, endpoints).prop_map(|(slice, endpoints)| Told::Slice(slice, endpoints)),
        1 => (0u8..2).prop_map(Told::SliceGone),
        1 => (2u8..8).prop_map(Told::Withheld),
        1 => (2u8..8).prop_map(Told::Released),
    ]
}

const PORT_NAMES: [&str; 2] = ["one", "two"];

impl Told {
    /// Whose Services are others now.
    fn happens(
        &self,
        to: &ServiceName,
        facts: &mut Facts,
        withheld: &mut BTreeSet<IpAddr>,
    ) -> BTreeSet<ServiceName> {
        match self {
            Told::Service { ports, node_port, address, flags } => {
                let is = |bit: u8| flags & 1 << bit != 0;
                let port = |(number, (which, is_udp)): (usize, &(u8, bool))| ServicePort {
                    name: PORT_NAMES[usize::from(*which)].to_owned(),
                    protocol: if *is_udp { Protocol::Udp } else { Protocol::Tcp },
                    port: 80 + u16::from(*which),
                    node_port: node_port.filter(|_| number == 0),
                };
                let address = Ipv4Addr::new(10, 43, 0, *address).into();
                let service = Service {
                    addresses: if is(0) { vec![] } else { vec![address] },
                    ports: ports.iter().enumerate().map(port).collect(),
                    affinity: is(1).then_some(Duration::from_secs(60)),
                    is_internal_local: is(2),
                    is_external_local: is(3),
                    is_on_host: is(4),
                    external_name: None,
                };
                facts.services.insert(to.clone(), service);
            }
            Told::ServiceGone => drop(facts.services.remove(to)),
            Told::Slice(slice, endpoints) => {
                let endpoints = endpoints.iter().map(|(last, is_ready)| Endpoint {
                    is_ready: *is_ready,
                    is_terminating: !is_ready,
                    node: (last % 3 != 0).then(|| "here".to_owned()),
                    ..endpoint(*last)
                });
                let both = [Protocol::Tcp, Protocol::Udp];
                let ports =
                    PORT_NAMES.iter().flat_map(|name| both.map(|protocol| (name, protocol)));
                let ports = ports.map(|(name, protocol)| SlicePort {
                    name: (*name).to_owned(),
                    protocol,
                    port: 8080 + u16::from(*slice),
                });
                let told = Slice { ports: ports.collect(), endpoints: endpoints.collect() };
                let slices = facts.slices.entry(to.clone()).or_default();
                slices.insert(format!("slice-{slice}"), told);
            }
            Told::SliceGone(slice) => {
                if let Some(slices) = facts.slices.get_mut(to) {
                    slices.remove(&format!("slice-{slice}"));
                }
            }
            Told::Withheld(last) => drop(withheld.insert(endpoint(*last).address)),
            Told::Released(last) => drop(withheld.remove(&endpoint(*last).address)),
        }
        match self {
            Told::Withheld(last) | Told::Released(last) => {
                facts.services_at(endpoint(*last).address)
            }
            _ => BTreeSet::from([to.clone()]), // Everything else is told of one.
        }
    }
}

proptest! {
    /// However Services came to be as they are, one at a time or several together.
    #[test]
    fn changes_come_to_the_same_as_compiling_from_scratch(
        story in prop::collection::vec(prop::collection::vec((0u8..4, told()), 1..4), 1..12),
    ) {
        let mut facts = Facts::default();
        let mut withheld = BTreeSet::new();
        let mut compiled = Compiled::default();
        let (mut plan, mut led_to) = compiled.whole(&facts, "here", &withheld);
        let range = |text: &str| text.parse().unwrap();
        let ranges = Ranges { pods: range("10.42.0.0/16"), services: range("10.43.0.0/16") };
        let empty = Zone::empty("cluster.local", ranges);
        let mut zone = empty.clone();
        for at_once in &story {
            let mut changed = BTreeSet::new();
            for (which, told) in at_once {
                let name = ServiceName { namespace: "default".into(), name: format!("s{which}") };
                changed.extend(told.happens(&name, &mut facts, &mut withheld));
            }
            let Compilation { change, led_to: more, left } =
                compiled.update(&changed, &facts, "here", &withheld);
            let before = plan.clone();
            plan.change(&change);
            led_to.extend(more);
            led_to.retain(|address| !left.contains(address));
            let (anew, anew_led_to) = Compiled::default().whole(&facts, "here", &withheld);
            prop_assert_eq!(&plan, &anew);
            prop_assert_eq!(&led_to, &anew_led_to);
            zone = zone.with(&changed, &facts, &withheld);
            prop_assert_eq!(&zone, &Zone::of(&empty, &facts, &withheld));
            // What is told to the kernel is what differs, and no more.
            prop_assert_eq!(before.difference(&plan), change);
            // No key leads to two.
            for members in plan.elements.values() {
                let keys: BTreeSet<_> = members.iter().map(|member| &member.key).collect();
                prop_assert_eq!(keys.len(), members.len());
            }
        }
    }
}

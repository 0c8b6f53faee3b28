use proptest::prelude::*;

use super::*;

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
    let plan = compile(facts, "here", &BTreeSet::new());
    let last = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(_) => unreachable!("only IPv4 is served"),
    };
    addresses(&plan).into_iter().map(last).collect()
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
    assert_eq!(addresses(&compile(&facts, "here", &withheld)), [endpoint(3).address].into());
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
        prop_assert_eq!(plan.elements[BACKENDS].len(), pods.len() * maps);
        for (set, place) in [(PORTS, false), (NODE_PORTS, true)] {
            for entry in &plan.elements[set] {
                let choice = Choice {
                    is_node: place,
                    count: pods.len() as u32,
                    affinity: sticks.then_some(Duration::from_secs(60)),
                };
                let goto = Field::Verdict(Verdict::Goto(choice.chain()));
                prop_assert_eq!(&entry.value, &vec![goto]);
                prop_assert!(plan.programs.contains_key(&choice.chain()));
            }
        }
        prop_assert_eq!(plan.strays(super::super::part::Part::Services), Vec::<String>::new());
    }
}

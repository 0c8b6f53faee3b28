use std::collections::BTreeMap;

use super::super::super::service::{ServicePort, SlicePort};
use super::*;

/// `web` with an address, `db` headless with two pods (one named), `ext` a name for another.
pub fn zone() -> Zone {
    let ranges =
        Ranges { pods: "10.42.0.0/16".parse().unwrap(), services: "10.43.0.0/16".parse().unwrap() };
    let service = |addresses: Vec<IpAddr>, external_name: Option<&str>| Service {
        addresses,
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
        }],
        affinity: None,
        is_internal_local: false,
        is_external_local: false,
        is_on_host: false,
        external_name: external_name.map(str::to_owned),
    };
    let name = |name: &str| ServiceName { namespace: "shop".into(), name: name.into() };
    let endpoint = |last: u8, hostname: Option<&str>, is_ready: bool| Endpoint {
        address: IpAddr::from([10, 42, 0, last]),
        is_ready,
        is_serving: is_ready,
        is_terminating: false,
        hostname: hostname.map(str::to_owned),
        node: None,
    };
    let slice = Slice {
        ports: vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: vec![
            endpoint(5, Some("db-0"), true),
            endpoint(6, None, true),
            endpoint(7, Some("db-2"), false),
            endpoint(8, Some("db-3"), true),
        ],
    };
    let facts = Facts {
        services: BTreeMap::from([
            (name("web"), service(vec![IpAddr::from([10, 43, 0, 9])], None)),
            (name("db"), service(vec![], None)),
            (name("ext"), service(vec![], Some("Example.org."))),
            (name("near"), service(vec![], Some("web.shop.svc.cluster.local"))),
            (name("round"), service(vec![], Some("round.shop.svc.cluster.local"))),
        ]),
        slices: BTreeMap::from([(name("db"), BTreeMap::from([("db-1".to_owned(), slice)]))]),
    };
    let withheld = BTreeSet::from([IpAddr::from([10, 42, 0, 8])]);
    Zone::of(&Zone::empty("Cluster.local.", ranges), &facts, &withheld)
}

#[test]
fn addresses_that_are_given_away_are_those_of_headless_services() {
    let zone = zone();
    let given = (0..20).filter(|last| zone.gives(IpAddr::from([10, 42, 0, *last])));
    assert_eq!(given.collect::<Vec<_>>(), [5, 6]);
    assert!(!zone.gives(IpAddr::from([10, 43, 0, 9])), "a Service's own");
}

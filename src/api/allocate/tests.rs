use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::api::catalog;

fn range(text: &str) -> Cidr {
    text.parse().unwrap()
}

#[test]
fn sctp_is_refused_by_the_ports_name_unless_the_service_has_it_already() {
    let service = |protocols: &[&str]| {
        let ports: Vec<Value> = protocols.iter().map(|word| json!({"protocol": word})).collect();
        json!({"spec": {"ports": ports}})
    };
    let fields = |old: Option<&Value>, new: &Value| -> Vec<String> {
        sctp_ports(old, new).into_iter().map(|error| error.field).collect()
    };
    let (mixed, plain) = (service(&["TCP", "SCTP"]), service(&["TCP", "UDP"]));
    assert_eq!(fields(None, &mixed), ["spec.ports[1].protocol"]);
    assert_eq!(fields(Some(&plain), &mixed), ["spec.ports[1].protocol"]);
    assert!(fields(Some(&mixed), &mixed).is_empty() && fields(None, &plain).is_empty());
}

#[test]
fn a_small_range_is_used_to_the_last_address_and_then_full() {
    let range = range("10.0.0.0/28");
    let mut taken = BTreeSet::new();
    let mut found = Vec::new();
    while let Some(address) =
        choose_address(range, &mut |bound| bound / 2, &mut |claim| !taken.contains(&claim))
    {
        assert!(taken.insert(Claim::Address(address)), "{address} twice");
        found.push(address.to_string());
    }
    found.sort();
    // Not the network, not the broadcast address, not the cluster's own.
    assert_eq!(found.len(), 12, "{found:?}");
    for own in ["10.0.0.0", "10.0.0.1", "10.0.0.10", "10.0.0.15"] {
        assert!(!found.contains(&own.to_owned()), "{own}");
    }
}

#[test]
fn what_is_chosen_stays_out_of_the_part_that_is_asked_for_by_number() {
    let first = choose_address(range("10.43.0.0/16"), &mut |_| 0, &mut |_| true);
    assert_eq!(first, Some("10.43.1.1".parse().unwrap()));
    assert_eq!(choose_node_port(&mut |_| 0, &mut |_| true), Some(30086));
    assert_eq!(choose_node_port(&mut |bound| bound - 1, &mut |_| true), Some(32767));
    let only_low = choose_node_port(&mut |_| 0, &mut |port| port == 30005);
    assert_eq!(only_low, Some(30005));
    assert_eq!(choose_node_port(&mut |_| 0, &mut |_| false), None);
}

#[test]
fn protocols_of_one_port_share_a_node_port() {
    let mut spec = json!({"ports": [
        {"port": 53, "protocol": "UDP"}, {"port": 80}, {"port": 53, "protocol": "TCP", "nodePort": 30053},
    ]});
    let mut next = [31000].into_iter();
    fill_node_ports(spec.as_object_mut().unwrap(), || next.next()).unwrap();
    let ports: Vec<&Value> =
        spec["ports"].as_array().unwrap().iter().map(|port| &port["nodePort"]).collect();
    assert_eq!(ports, [30053, 31000, 30053]);
}

#[test]
fn other_kinds_claim_nothing() {
    let object = json!({"spec": {"clusterIPs": ["10.0.0.1"]}});
    assert!(changes(catalog::pods(), None, Some(&object)).is_empty());
}

proptest! {
    /// Records follow a Service through any life: after each change they are exactly its claims.
    #[test]
    fn records_are_exactly_the_claims(
        lives in proptest::collection::vec(
            proptest::option::of((proptest::collection::btree_set(1u8..6, 0..2), proptest::collection::btree_set(30000u16..30006, 0..4))),
            1..8,
        )
    ) {
        let kind = catalog::find("", "v1", "services").unwrap();
        let mut records: BTreeSet<ObjectKey> = BTreeSet::new();
        let mut old: Option<Value> = None;
        for life in lives {
            let new = life.map(|(addresses, ports)| {
                let addresses: Vec<String> = addresses.iter().map(|n| format!("10.0.0.{n}")).collect();
                let ports: Vec<Value> = ports.iter().map(|n| json!({"nodePort": n})).collect();
                json!({"metadata": {"name": "s"}, "spec": {"clusterIPs": addresses, "ports": ports}})
            });
            for change in changes(kind, old.as_ref(), new.as_ref()) {
                match change.op {
                    Op::Put(_) => prop_assert!(records.insert(change.key)),
                    Op::Delete => prop_assert!(records.remove(&change.key)),
                }
            }
            let expected: BTreeSet<ObjectKey> =
                new.iter().flat_map(claims).map(Claim::key).collect();
            prop_assert_eq!(&records, &expected);
            old = new;
        }
    }
}

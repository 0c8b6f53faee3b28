//! Plans of parts meet packets: in force when acknowledged, kept across a restart, all or nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, TcpListener};

use super::super::expression::{counted, ip, matches, rule, verdict};
use super::machine::*;
use super::*;

const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 9);

/// An address of the Service range leads to `pods` of which each serves what its own map says.
fn plan(pod: Option<&Attached>) -> PartPlan {
    let map = "services_to";
    let to = serde_json::json!({"dnat": {"family": "ip", "addr":
        {"map": {"key": ip("daddr"), "data": format!("@{map}")}}}});
    let entry = |pod: &Attached| {
        Element::entry(vec![Field::Address(SERVICE.into())], Field::Address(pod.address))
    };
    PartPlan {
        chains: BTreeMap::from([(SERVICES_NAT.to_owned(), vec![rule([to])])]),
        sets: BTreeMap::from([(map.into(), Set::map(&["ipv4_addr"], "ipv4_addr"))]),
        elements: Elements::from([(map.into(), pod.into_iter().map(entry).collect())]),
        ..PartPlan::default()
    }
}

#[test]
fn a_plan_is_in_force_when_it_is_acknowledged_and_stays_over_a_restart() {
    on_a_host(|_| async {
        let network = network().await;
        let a = network.attach("a", &[]).await.unwrap();
        let (b, c) =
            (network.attach("b", &[]).await.unwrap(), network.attach("c", &[]).await.unwrap());
        let (on_b, on_c) = (listen(&b, 80), listen(&c, 80));
        let call = || inside(&a, || connect((SERVICE, 80)));

        assert_eq!(call().unwrap_err().kind(), io::ErrorKind::ConnectionRefused, "no plan yet");
        network.put(Part::Services, plan(Some(&b))).await.unwrap();
        assert_eq!(talk(&on_b, call()).unwrap().ip(), a.address);
        assert_eq!(talk(&on_b, connect((SERVICE, 80))).unwrap().ip(), a.gateway, "from the host");

        // Members only: no rule is written.
        network.put(Part::Services, plan(Some(&c))).await.unwrap();
        talk(&on_c, call()).unwrap();

        drop(network);
        let network = machine::network().await;
        talk(&on_c, call()).unwrap();
        network.put(Part::Services, plan(Some(&b))).await.unwrap();
        talk(&on_b, call()).unwrap();
        network.put(Part::Services, plan(None)).await.unwrap();
        assert_eq!(call().unwrap_err().kind(), io::ErrorKind::ConnectionRefused, "nobody serves");
        network.put(Part::Services, PartPlan::default()).await.unwrap();
        assert!(!sh("nft list table inet joey_abc123").contains("services_to"));
    });
}

#[test]
fn a_plan_that_the_kernel_refuses_changes_nothing_and_the_next_one_heals() {
    on_a_host(|_| async {
        let network = network().await;
        let (a, b) =
            (network.attach("a", &[]).await.unwrap(), network.attach("b", &[]).await.unwrap());
        let server = listen(&b, 80);
        network.put(Part::Services, plan(Some(&b))).await.unwrap();
        let mut wrong = plan(None);
        let nowhere = vec![rule([expression::jump("services_missing")])];
        wrong.chains.insert("services_wrong".to_owned(), nowhere);
        network.put(Part::Services, wrong).await.unwrap_err();
        talk(&server, inside(&a, || connect((SERVICE, 80)))).unwrap();

        // Members that somebody took away are no reason to fail.
        sh("nft flush map inet joey_abc123 services_to");
        network.put(Part::Services, plan(None)).await.unwrap();
        network.put(Part::Services, plan(Some(&b))).await.unwrap();
        talk(&server, inside(&a, || connect((SERVICE, 80)))).unwrap();
    });
}

#[test]
fn ranges_mean_the_same_by_either_way_in() {
    on_a_host(|_| async {
        let network = network().await;
        let a = network.attach("a", &[]).await.unwrap();
        let b = network.attach("b", &[]).await.unwrap();
        let between = |first: Field, last: Field| Field::Between(Box::new(first), Box::new(last));
        let here = |last: u8| Field::Address(Ipv4Addr::new(10, 42, 0, last).into());
        let port = |first, last| between(Field::Port(first), Field::Port(last));
        let plan = |is_on: bool| {
            let deny = |left, set: &str| {
                rule([
                    matches("==", left, serde_json::json!(format!("@{set}"))),
                    counted(),
                    verdict("drop"),
                ])
            };
            let pair =
                serde_json::json!({"concat": [ip("daddr"), expression::payload("th", "dport")]});
            let members = [
                ("policy_one", Element::member(vec![between(here(200), here(255))])),
                ("policy_two", Element::member(vec![between(here(2), here(9)), port(80, 90)])),
            ];
            let sets = [
                ("policy_one".into(), Set::of(&["ipv4_addr"]).interval()),
                ("policy_two".into(), Set::of(&["ipv4_addr", "inet_service"]).interval()),
            ];
            PartPlan {
                chains: BTreeMap::from([(
                    "policy_ranges".to_owned(),
                    vec![deny(ip("daddr"), "policy_one"), deny(pair, "policy_two")],
                )]),
                sets: BTreeMap::from(sets),
                elements: members
                    .into_iter()
                    .filter(|_| is_on)
                    .map(|(set, member)| (set.into(), BTreeSet::from([member])))
                    .collect(),
                ..PartPlan::default()
            }
        };
        // Once through nft, once as members alone; both list alike.
        let listing = || {
            sh("nft list set inet joey_abc123 policy_one; nft list set inet joey_abc123 policy_two")
        };
        network.put(Part::Policies, plan(true)).await.unwrap();
        let through_nft = listing();
        assert!(through_nft.contains("10.42.0.200-10.42.0.255"), "{through_nft}");
        assert!(through_nft.contains("10.42.0.2-10.42.0.9 . 80-90"), "{through_nft}");
        network.put(Part::Policies, plan(false)).await.unwrap();
        assert!(!listing().contains("80-90"));
        network.put(Part::Policies, plan(true)).await.unwrap();
        assert_eq!(listing(), through_nft);
        let _: (Attached, TcpListener) = (a, listen(&b, 80));
    });
}

//! Plans of parts meet packets: in force when acknowledged, kept across a restart, all or nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

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

/// An earlier release declared its sets through nft, in the same words and under the same names.
#[test]
fn sets_that_nft_declared_are_those_of_programs() {
    on_a_host(|_| async {
        let network = network().await;
        let between = |first: Field, last: Field| Field::Between(Box::new(first), Box::new(last));
        let here = |last: u8| Field::Address(Ipv4Addr::new(10, 42, 0, last).into());
        let six = Field::Address("fd00::2".parse().unwrap());
        let (tcp, port) = (Field::Protocol(Protocol::Tcp), Field::Port(80));
        type Declared = (&'static str, &'static [&'static str], Vec<Kind>, Element);
        let sets: [Declared; 5] = [
            (
                "policy_block",
                &["ipv4_addr"],
                vec![Kind::Address],
                Element::member(vec![between(here(200), here(255))]),
            ),
            ("policy_pods", &["ipv4_addr"], vec![Kind::Address], Element::member(vec![here(3)])),
            (
                "policy_pods6",
                &["ipv6_addr"],
                vec![Kind::Address6],
                Element::member(vec![six.clone()]),
            ),
            (
                "policy_ports",
                &["ipv4_addr", "inet_proto", "inet_service"],
                vec![Kind::Address, Kind::Protocol, Kind::Port],
                Element::member(vec![here(3), tcp.clone(), port.clone()]),
            ),
            (
                "policy_ports6",
                &["ipv6_addr", "inet_proto", "inet_service"],
                vec![Kind::Address6, Kind::Protocol, Kind::Port],
                Element::member(vec![six, tcp, port]),
            ),
        ];
        let is_interval = |name: &str| name == "policy_block";
        let deny = |key: serde_json::Value, set: &str| {
            let set = serde_json::json!(format!("@{set}"));
            rule([matches("==", key, set), counted(), verdict("drop")])
        };
        let through_nft = PartPlan {
            chains: BTreeMap::from([(
                "policy_in_a".to_owned(),
                vec![deny(ip("daddr"), "policy_block")],
            )]),
            sets: sets
                .iter()
                .map(|(name, key, ..)| {
                    let set = Set::of(key);
                    ((*name).into(), if is_interval(name) { set.interval() } else { set })
                })
                .collect(),
            ..PartPlan::default()
        };
        let members: Elements = sets
            .iter()
            .map(|(name, .., member)| ((*name).into(), BTreeSet::from([member.clone()])))
            .collect();
        let drop = vec![
            Expression::DestinationAddress(Register(0)),
            Expression::Require { set: "policy_block".into(), key: Register(0) },
            Expression::Drop,
        ];
        let as_programs = PartPlan {
            programs: BTreeMap::from([("policy_in_a".to_owned(), vec![drop])]),
            declarations: sets
                .iter()
                .map(|(name, _, key, _)| {
                    let set = Declaration::set(key.clone());
                    ((*name).into(), Declaration { is_interval: is_interval(name), ..set })
                })
                .collect(),
            elements: members.clone(),
            ..PartPlan::default()
        };
        // Protocols by number: their names are in a file that not every host has.
        let list = "nft --numeric-protocol list table inet joey_abc123 | grep -A4 'set policy_'";
        let listing = || sh(list);
        let through_nft = PartPlan { elements: members, ..through_nft };
        network.put(Part::Policies, through_nft).await.unwrap();
        let before = listing();
        for word in ["10.42.0.200-10.42.0.255", "10.42.0.3 . 6 . 80", "fd00::2 . 6 . 80"] {
            assert!(before.contains(word), "{word} in {before}");
        }
        std::mem::drop(network);
        let network = machine::network().await;
        network.put(Part::Policies, as_programs.clone()).await.unwrap();
        assert_eq!(listing(), before);
        // A set of its own name is declared in the same way where nothing is.
        network.put(Part::Policies, PartPlan::default()).await.unwrap();
        assert!(!sh("nft list table inet joey_abc123").contains("set policy_"));
        network.put(Part::Policies, as_programs).await.unwrap();
        assert_eq!(listing(), before);
    });
}

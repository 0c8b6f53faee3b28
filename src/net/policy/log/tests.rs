use expect_test::expect;
use serde_json::json;

use super::super::tests::{labels, policy};
use super::super::{Nature, Pod, Policy, by_namespace};
use super::*;
use crate::net::Protocol;
use crate::net::packet::{Head, Speaks};

fn world() -> World {
    let pod = |name: &str, at: &str| Pod {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        labels: labels(&[("app", name)]),
        addresses: vec![at.parse().unwrap()],
        ports: Default::default(),
        nature: Nature::Pod,
    };
    let types = json!(["Ingress", "Egress"]);
    let spec = json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": types});
    let deny = policy("shop", "deny", spec);
    World {
        policies: by_namespace([Policy::read(&deny).into()]),
        namespaces: [("shop".to_owned(), labels(&[]))].into(),
        pods: vec![pod("web", "10.42.0.2"), pod("db", "10.42.0.3")],
    }
}

fn logged(prefix: &str, source: &str, destination: &str, speaks: Speaks) -> Option<Denial> {
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    let head = Head { source, destination, speaks };
    denial(&world(), &Logged { prefix: prefix.to_owned(), head })
}

#[test]
fn a_denial_says_who_was_denied_what_and_by_whom() {
    let tcp = Speaks::Ports { protocol: Protocol::Tcp, source: 40000, destination: 5432 };
    let mut lines = Vec::new();
    for (prefix, source, destination, speaks) in [
        ("egress", "10.42.0.2", "10.42.0.3", tcp),
        ("egress", "10.42.0.2", "203.0.113.7", Speaks::Other(47)),
        ("ingress", "10.42.0.3", "10.42.0.2", Speaks::Echo),
        ("ingress", "192.0.2.1", "10.42.0.2", tcp),
        // The policy that denied it has gone meanwhile.
        ("ingress", "192.0.2.1", "10.42.0.3", tcp),
    ] {
        let denial = logged(prefix, source, destination, speaks).unwrap();
        lines.push(denial.to_string());
        lines.push(format!("  {}", denial.sentence()));
    }
    expect![[r#"
        egress 10.42.0.2:40000 (shop/web) -> 10.42.0.3:5432 (shop/db) TCP denied by shop/deny
          NetworkPolicy shop/deny denies TCP 5432 to shop/db (10.42.0.3) (egress)
        egress 10.42.0.2 (shop/web) -> 203.0.113.7 protocol 47 denied by shop/deny
          NetworkPolicy shop/deny denies protocol 47 to 203.0.113.7 (egress)
        ingress 10.42.0.3 (shop/db) -> 10.42.0.2 (shop/web) ICMP echo denied by shop/deny
          NetworkPolicy shop/deny denies ICMP echo from shop/db (10.42.0.3) (ingress)
        ingress 192.0.2.1:40000 -> 10.42.0.2:5432 (shop/web) TCP denied by shop/deny
          NetworkPolicy shop/deny denies TCP 5432 from 192.0.2.1 (ingress)
        ingress 192.0.2.1:40000 -> 10.42.0.3:5432 (shop/db) TCP denied by policies that have changed since
          No NetworkPolicy allowed TCP 5432 from 192.0.2.1 (ingress)"#]].assert_eq(&lines.join("\n"));
    assert_eq!(logged("another's", "10.42.0.2", "10.42.0.3", tcp), None);
}

#[test]
fn a_flow_is_told_once_in_a_while_and_scans_are_not_remembered_for_ever() {
    let mut told = Told::default();
    let trial = |port| {
        let tcp = |source| Speaks::Ports { protocol: Protocol::Tcp, source, destination: port };
        logged("egress", "10.42.0.2", "10.42.0.3", tcp(1024 + port % 100)).unwrap()
    };
    let now = Instant::now();
    assert!(told.is_first(&trial(1), now));
    let mut again = trial(1);
    again.source.port = Some(9);
    assert!(!told.is_first(&again, now), "the same flow from another port");
    for port in 2..=u16::try_from(REMEMBERED).unwrap() + 9 {
        told.is_first(&trial(port), now);
    }
    assert_eq!(told.0.len(), REMEMBERED);
    assert!(told.is_first(&trial(1), now + AGAIN));
    assert!(told.0.len() < REMEMBERED);
}

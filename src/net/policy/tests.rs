//! The compiled rules, the explanation and a naive evaluator must agree on every flow.

mod interpreter;
pub mod oracle;
pub mod random;

use std::net::IpAddr;

use expect_test::{Expect, expect};
use k8s_openapi::api::networking::v1 as networking;
use serde_json::{Value, json};

pub use self::random::Random;
use super::*;

/// One small cluster, for tests that name what they mean.
pub struct Cluster {
    pub policies: Vec<networking::NetworkPolicy>,
    pub namespaces: BTreeMap<String, Labels>,
    pub pods: Vec<Pod>,
}

impl Cluster {
    pub fn world(&self) -> World {
        World {
            policies: by_namespace(self.policies.iter().map(|object| Policy::read(object).into())),
            namespaces: self.namespaces.clone(),
            pods: self.pods.clone(),
        }
    }
}

/// Decisions in the normal suite; `JOEY_TEST_LONG=1` makes ten times as many.
const DECISIONS: usize = 1_000_000;

#[test]
fn compiled_rules_decide_as_the_statements_say() {
    let seed = std::env::var("JOEY_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let long = std::env::var_os("JOEY_TEST_LONG").is_some();
    let wanted = DECISIONS * if long { 10 } else { 1 };
    let first = seed.unwrap_or(1);
    let (mut decisions, mut allowed) = (0, 0);
    for seed in first.. {
        let mut random = Random::new(seed);
        let cluster = random.cluster();
        let world = cluster.world();
        let plan = compile(&world);
        let ends = random.ends(&cluster);
        for source in &ends {
            for destination in &ends {
                for asked in random.questions(&cluster, *destination) {
                    let flow = Flow { source: *source, destination: *destination, asked };
                    let expected = oracle::allows(&cluster, flow);
                    assert_eq!(
                        interpreter::allows(&plan, &world, flow),
                        expected,
                        "JOEY_TEST_SEED={seed}: the rules on {flow:?}\n{}",
                        explained(&cluster, flow),
                    );
                    assert_eq!(
                        explain(&world, flow).is_allowed(),
                        expected,
                        "JOEY_TEST_SEED={seed}: the explanation of {flow:?}\n{}",
                        explained(&cluster, flow),
                    );
                    decisions += 1;
                    allowed += usize::from(expected);
                }
            }
        }
        if decisions >= wanted {
            break;
        }
    }
    println!("{decisions} decisions from seed {first} on, {allowed} of them to allow");
    // Worlds in which everything is allowed, or nothing, would prove nothing.
    assert!((decisions / 5..decisions * 4 / 5).contains(&allowed), "{allowed} of {decisions}");
}

fn explained(cluster: &Cluster, flow: Flow) -> String {
    let policies = serde_json::to_string_pretty(&cluster.policies).unwrap();
    format!("{:?}\n{:#?}\n{policies}", explain(&cluster.world(), flow), cluster.pods)
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn pod(namespace: &str, name: &str, at: &str, ports: &[(&str, Protocol, u16)]) -> Pod {
    Pod {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        labels: labels(&[("app", name)]),
        addresses: vec![address(at)],
        ports: ports
            .iter()
            .map(|(name, protocol, number)| NamedPort::new(name, *protocol, *number))
            .collect(),
        nature: Nature::Pod,
    }
}

pub fn policy(namespace: &str, name: &str, spec: Value) -> networking::NetworkPolicy {
    let metadata = json!({"namespace": namespace, "name": name});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

/// `web` and `db` in `shop`, `probe` in `monitoring`, and DNS as everybody knows it.
fn shop(policies: Vec<networking::NetworkPolicy>) -> Cluster {
    let namespace = |name: &str, more: &[(&str, &str)]| {
        let mut all = labels(more);
        all.insert("kubernetes.io/metadata.name".to_owned(), name.to_owned());
        (name.to_owned(), all)
    };
    let mut dns = pod("kube-system", "dns", "10.43.0.10", &[("dns", Protocol::Udp, 53)]);
    dns.labels = labels(&[("k8s-app", "kube-dns")]);
    dns.nature = Nature::Daemon;
    Cluster {
        policies,
        namespaces: BTreeMap::from([
            namespace("shop", &[]),
            namespace("monitoring", &[("project", "monitoring-system")]),
            namespace("kube-system", &[]),
        ]),
        pods: vec![
            pod("shop", "web", "10.42.0.2", &[("http", Protocol::Tcp, 8080)]),
            pod("shop", "db", "10.42.0.3", &[("http", Protocol::Tcp, 80)]),
            pod("monitoring", "probe", "10.42.0.4", &[]),
            dns,
        ],
    }
}

const WEB: &str = "10.42.0.2";
const DB: &str = "10.42.0.3";
const PROBE: &str = "10.42.0.4";
const DNS: &str = "10.43.0.10";
const OUTSIDE: &str = "192.0.2.1";

/// Asks all three and shows what `explain` says.
fn check(cluster: &Cluster, source: &str, destination: &str, asked: Asked, expected: Expect) {
    let flow = Flow { source: address(source), destination: address(destination), asked };
    let world = cluster.world();
    let answer = explain(&world, flow);
    assert_eq!(oracle::allows(cluster, flow), answer.is_allowed(), "{answer:?}");
    assert_eq!(interpreter::allows(&compile(&world), &world, flow), answer.is_allowed());
    expected.assert_eq(&format!("{:?} → {:?}", answer.egress, answer.ingress));
}

const fn tcp(port: u16) -> Asked {
    Asked::Port(Protocol::Tcp, port)
}

#[test]
fn default_deny_denies_dns_and_the_usual_recipe_allows_it() {
    let deny =
        policy("shop", "deny", json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}));
    let dns = Asked::Port(Protocol::Udp, 53);
    let cluster = shop(vec![deny.clone()]);
    check(&cluster, WEB, DNS, dns, expect![[r#"Denied { policies: ["shop/deny"] } → NoPod"#]]);
    let recipe = policy(
        "shop",
        "dns",
        json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{
            "to": [{
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
                "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
            }],
            "ports": [{"protocol": "UDP", "port": 53}],
        }]}),
    );
    let cluster = shop(vec![deny, recipe]);
    check(&cluster, WEB, DNS, dns, expect![[r#"Allowed { policy: "shop/dns", rule: 0 } → NoPod"#]]);
    check(
        &cluster,
        WEB,
        DNS,
        tcp(53),
        expect![[r#"Denied { policies: ["shop/deny", "shop/dns"] } → NoPod"#]],
    );
}

#[test]
fn a_named_port_is_the_number_that_the_destination_gives_it() {
    let named = json!([{"port": "http"}]);
    let cluster = shop(vec![
        policy("shop", "in", json!({"podSelector": {}, "ingress": [{"ports": named}]})),
        policy(
            "monitoring",
            "out",
            json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": named}]}),
        ),
    ]);
    for (to, port, is_served) in
        [(WEB, 8080, true), (WEB, 80, false), (DB, 80, true), (DB, 8080, false)]
    {
        let flow = Flow { source: address(PROBE), destination: address(to), asked: tcp(port) };
        assert_eq!(explain(&cluster.world(), flow).is_allowed(), is_served, "{flow:?}");
    }
    check(
        &cluster,
        PROBE,
        WEB,
        tcp(8080),
        expect![[
            r#"Allowed { policy: "monitoring/out", rule: 0 } → Allowed { policy: "shop/in", rule: 0 }"#
        ]],
    );
    check(
        &cluster,
        PROBE,
        OUTSIDE,
        tcp(80),
        expect![[r#"Denied { policies: ["monitoring/out"] } → NoPod"#]],
    );
}

#[test]
fn a_policy_without_egress_rules_and_types_isolates_ingress_only() {
    let cluster = shop(vec![policy("shop", "in", json!({"podSelector": {}, "egress": []}))]);
    check(&cluster, WEB, OUTSIDE, tcp(443), expect!["Open → NoPod"]);
    check(
        &cluster,
        OUTSIDE,
        WEB,
        tcp(443),
        expect![[r#"NoPod → Denied { policies: ["shop/in"] }"#]],
    );
    check(&cluster, WEB, WEB, tcp(443), expect!["Open → Open"]);
}

#[test]
fn an_exception_holds_in_its_own_block_only() {
    let block = |cidr: &str, except: &[&str]| json!({"ipBlock": {"cidr": cidr, "except": except}});
    let egress = |peers: Value| {
        shop(vec![policy(
            "shop",
            "out",
            json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": peers}]}),
        )])
    };
    let cluster = egress(json!([block("192.0.2.0/24", &["192.0.2.0/28"])]));
    check(
        &cluster,
        WEB,
        OUTSIDE,
        tcp(1),
        expect![[r#"Denied { policies: ["shop/out"] } → NoPod"#]],
    );
    let cluster =
        egress(json!([block("192.0.2.0/24", &["192.0.2.0/28"]), block("192.0.2.1/32", &[])]));
    check(
        &cluster,
        WEB,
        OUTSIDE,
        tcp(1),
        expect![[r#"Allowed { policy: "shop/out", rule: 0 } → NoPod"#]],
    );
    let cluster = egress(json!([block("0.0.0.0/0", &[])]));
    check(
        &cluster,
        WEB,
        "2001:db8::1",
        tcp(1),
        expect![[r#"Denied { policies: ["shop/out"] } → NoPod"#]],
    );
}

#[test]
fn echo_follows_only_from_a_rule_for_all_ports() {
    let ingress = |rules: Value| {
        shop(vec![policy("shop", "in", json!({"podSelector": {}, "ingress": rules}))])
    };
    let all = ingress(json!([{"from": [{"podSelector": {}}]}]));
    check(
        &all,
        DB,
        WEB,
        Asked::Echo,
        expect![[r#"Open → Allowed { policy: "shop/in", rule: 0 }"#]],
    );
    check(&all, DB, WEB, Asked::Other, expect![[r#"Open → Denied { policies: ["shop/in"] }"#]]);
    let some = ingress(json!([{"from": [{"podSelector": {}}], "ports": [{"port": 80}]}]));
    check(&some, DB, WEB, Asked::Echo, expect![[r#"Open → Denied { policies: ["shop/in"] }"#]]);
}

#[test]
fn a_pod_that_comes_or_goes_changes_members_only() {
    let cluster = shop(vec![policy(
        "shop",
        "in",
        json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {}}]}]}),
    )]);
    let mut world = cluster.world();
    let before = compile(&world);
    let mut another = world.pods[0].clone();
    another.addresses = vec![address("10.42.0.9")];
    world.pods.push(another);
    let after = compile(&world);
    assert_eq!(before.chains, after.chains);
    let names = |plan: &Plan| plan.sets.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&before), names(&after));
    assert_ne!(before, after);
}

#[test]
fn what_is_read_to_the_safe_side_allows_nothing() {
    let rules = |rules: Value| {
        Policy::read(&policy("shop", "in", json!({"podSelector": {}, "ingress": rules}))).ingress
    };
    let nobody = |peers: Value| {
        let rules = rules(json!([{"from": peers}])).unwrap();
        assert_eq!(rules[0].peers, Some(vec![]), "{peers}");
    };
    nobody(json!([{}]));
    nobody(json!([{"ipBlock": {"cidr": "10.0.0.1/8"}}]));
    nobody(json!([{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.1/16"]}}]));
    nobody(json!([{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]));
    nobody(json!([{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}]));
    let rules = rules(json!([{"ports": [
        {"port": 70000}, {"protocol": "ICMP"}, {"port": "http", "endPort": 9}, {"endPort": 9}
    ]}]));
    assert_eq!(rules.unwrap()[0].ports, Some(vec![]));
}

#[test]
fn dns_is_known_by_port_53_wherever_it_listens() {
    let recipe = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{
        "to": [{
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
            "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
        }],
        "ports": [{"protocol": "UDP", "port": 53}],
    }]});
    let mut cluster = shop(vec![policy("shop", "dns", recipe)]);
    let dns = cluster.pods.last_mut().unwrap();
    dns.ports =
        [NamedPort { listens_at: 10053, ..NamedPort::new("dns", Protocol::Udp, 53) }].into();
    let udp = |port| Asked::Port(Protocol::Udp, port);
    let allowed = expect![[r#"Allowed { policy: "shop/dns", rule: 0 } → NoPod"#]];
    check(&cluster, WEB, DNS, udp(10053), allowed);
    let denied = expect![[r#"Denied { policies: ["shop/dns"] } → NoPod"#]];
    check(&cluster, WEB, DNS, udp(53), denied);
}

/// Statements 19 and 39.
#[test]
fn a_pod_is_one_to_policies_from_its_address_to_its_end_unless_it_is_the_hosts() {
    let is_pod = |more: Value| {
        let mut object = json!({
            "metadata": {"name": "web", "namespace": "shop"}, "spec": {"containers": []},
        });
        for (section, fields) in more.as_object().unwrap() {
            for (field, value) in fields.as_object().unwrap() {
                object[section][field] = value.clone();
            }
        }
        Pod::read(&serde_json::from_value(object).unwrap()).is_some()
    };
    assert!(is_pod(json!({})), "before anybody has said how it is");
    for phase in ["Pending", "Running", "Unknown"] {
        assert!(is_pod(json!({"status": {"phase": phase}})), "{phase}");
        // Told to stop, it may take as long as it likes.
        let ending = json!({"deletionTimestamp": "2024-01-01T00:00:00Z"});
        let ending = json!({"status": {"phase": phase}, "metadata": ending});
        assert!(is_pod(ending), "{phase} and ending");
    }
    for phase in ["Succeeded", "Failed"] {
        assert!(!is_pod(json!({"status": {"phase": phase}})), "{phase}");
    }
    assert!(!is_pod(json!({"spec": {"hostNetwork": true}})), "its addresses are the host's");
}

#[test]
fn a_pod_of_a_namespace_that_is_not_known_yet_is_isolated() {
    let mut cluster = shop(vec![]);
    cluster.namespaces.remove("shop");
    let plan = compile(&cluster.world());
    assert!(!plan.verdicts.contains_key(&(Direction::Egress, address(WEB))));
    assert!(plan.verdicts.contains_key(&(Direction::Egress, address(PROBE))));
}

#[test]
fn a_detour_through_a_proxy_gives_a_pod_nothing_and_lets_those_outside_in_by_its_name() {
    let mut proxy = pod("kube-system", "joey-ingress", "192.0.2.1", &[]);
    proxy.labels = labels(&[("app.kubernetes.io/name", "joey-ingress")]);
    proxy.nature = Nature::Daemon;
    let peer = json!({
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "joey-ingress"}},
    });
    let block = json!({"ipBlock": {"cidr": "198.51.100.0/24"}});
    const OUTSIDE: &str = "198.51.100.7";
    for (from, from_pod, from_outside) in [
        (json!([]), false, false),
        (json!([{"from": [peer]}]), false, true),
        (json!([{"from": [block]}]), false, true),
        (json!([{"from": [{"podSelector": {}}]}]), true, false),
        (json!([{}]), true, true),
    ] {
        let spec = json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": from});
        let world = shop(vec![policy("shop", "in", spec)]).world();
        for (source, is_allowed) in [(DB, from_pod), (OUTSIDE, from_outside)] {
            let asked = Asked::Port(Protocol::Tcp, 8080);
            let flow = Flow { source: address(source), destination: address(WEB), asked };
            let explained = explain_through(&world, Some(&proxy), flow);
            assert_eq!(explained.is_allowed(), is_allowed, "{from} from {source}");
        }
    }
}

/// A walk through the kernel's table of connections is not made for nothing, and never left out.
#[test]
fn flows_are_looked_through_when_somebody_who_stays_may_do_less() {
    let allow = |ports: Value| {
        let rule = json!({"from": [{"podSelector": {}}], "ports": ports});
        vec![policy("shop", "in", json!({"podSelector": {}, "ingress": [rule]}))]
    };
    let plan = |policies: &[networking::NetworkPolicy], pods: &dyn Fn(&mut Vec<Pod>)| {
        let mut world = shop(policies.to_vec()).world();
        pods(&mut world.pods);
        compile(&world)
    };
    let (as_is, none): (&dyn Fn(&mut Vec<Pod>), _) = (&|_| {}, vec![]);
    let (one, two) = (allow(json!([{"port": 80}])), allow(json!([{"port": 80}, {"port": 81}])));
    let without_db = |pods: &mut Vec<Pod>| pods.retain(|pod| pod.name != "db");
    let relabelled = |pods: &mut Vec<Pod>| {
        pods.iter_mut()
            .filter(|pod| pod.name == "db")
            .for_each(|pod| pod.namespace = "monitoring".into());
    };
    for (what, before, after, expected) in [
        ("the same again", plan(&one, as_is), plan(&one, as_is), false),
        ("nobody is isolated any more", plan(&one, as_is), plan(&none, as_is), false),
        ("everybody is isolated now", plan(&none, as_is), plan(&one, as_is), true),
        ("another port is closed", plan(&two, as_is), plan(&one, as_is), true),
        ("a pod has gone", plan(&one, as_is), plan(&one, &without_db), false),
        ("a pod has come", plan(&one, &without_db), plan(&one, as_is), false),
        ("a pod is nobody's peer any more", plan(&one, as_is), plan(&one, &relabelled), true),
        ("a pod has gone, a port with it", plan(&two, as_is), plan(&one, &without_db), true),
    ] {
        assert_eq!(after.may_deny_more(&before), expected, "{what}");
    }
}

/// Whoever stays keeps what he had wherever flows are not looked through.
#[test]
fn what_is_said_to_deny_no_more_denies_no_more() {
    let (mut looked_through, mut spared, mut flows) = (0, 0, 0);
    for seed in 1..1500 {
        let mut random = Random::new(seed);
        let before = random.cluster();
        let mut after = Cluster {
            policies: before.policies.clone(),
            namespaces: before.namespaces.clone(),
            pods: before.pods.clone(),
        };
        for _ in 0..=random.below(2) {
            let place = random.below(6);
            match random.below(5) {
                0 if place < after.policies.len() => drop(after.policies.remove(place)),
                1 => after.policies.push(random.policy()),
                2 if after.pods.len() > 1 => drop(after.pods.remove(place % after.pods.len())),
                3 => {
                    let place = place % after.pods.len();
                    after.pods[place].labels = random.labels();
                }
                _ => {} // Nothing happens.
            }
        }
        let plans = [&before, &after].map(|cluster| compile(&cluster.world()));
        if plans[1].may_deny_more(&plans[0]) {
            looked_through += 1;
            continue;
        }
        spared += 1;
        let is_pod = |cluster: &Cluster, at: IpAddr| {
            cluster.pods.iter().any(|pod| pod.addresses.contains(&at))
        };
        let ends = random.ends(&before);
        let stay = |at: &&IpAddr| is_pod(&after, **at) || !is_pod(&before, **at);
        for source in ends.iter().filter(stay) {
            for destination in ends.iter().filter(stay) {
                for asked in random.questions(&before, *destination) {
                    let flow = Flow { source: *source, destination: *destination, asked };
                    let is_lost = oracle::allows(&before, flow) && !oracle::allows(&after, flow);
                    assert!(!is_lost, "seed {seed}: {flow:?}\n{}", explained(&after, flow));
                    flows += 1;
                }
            }
        }
    }
    println!("{looked_through} looked through, {spared} not, with {flows} flows");
    assert!(spared > 200 && looked_through > 200, "{spared} and {looked_through}");
}

use expect_test::{Expect, expect};
use k8s_openapi::api::networking::v1 as networking;

use super::super::{Labels, NamedPort, Nature, Pod, Policy, World, compile};
use super::*;
use crate::net::Protocol;

/// Whatever it is.
const GROUP: u16 = 0x4a59;

fn web(policy: Value) -> World {
    let metadata = json!({"namespace": "shop", "name": "only"});
    let object: networking::NetworkPolicy =
        serde_json::from_value(json!({"metadata": metadata, "spec": policy})).unwrap();
    let port = NamedPort::new("http", Protocol::Tcp, 8080);
    World {
        policies: vec![Policy::read(&object)],
        namespaces: BTreeMap::from([("shop".to_owned(), Labels::new())]),
        pods: vec![Pod {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            labels: Labels::new(),
            addresses: vec!["10.42.0.2".parse().unwrap()],
            ports: [port].into(),
            nature: Nature::Pod,
        }],
    }
}

/// The rules and members that a policy adds, one a line.
fn check(policy: Value, expected: Expect) {
    let plan = compile(&web(policy)).render(GROUP);
    let nothing = Plan::default().render(GROUP);
    let mut lines = Vec::new();
    for (name, rules) in plan.chains.iter().filter(|(name, _)| !nothing.chains.contains_key(*name))
    {
        lines.extend(rules.iter().map(|rule| format!("{} {rule}", &name[..13])));
    }
    for (set, members) in &plan.elements {
        let name = set.split('_').take(2).collect::<Vec<_>>().join("_");
        lines.extend(members.iter().map(|member| format!("{name} {member:?}")));
    }
    expected.assert_eq(&lines.join("\n"));
}

#[test]
fn a_policy_becomes_a_chain_for_its_pods() {
    check(
        json!({"podSelector": {}, "ingress": [
            {"from": [{"podSelector": {}}], "ports": [{"port": "http"}, {"port": 90, "endPort": 99}]},
            {"from": [{"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.0/25"]}}]},
        ]}),
        expect![[r#"
            policy_in_c72 [{"match":{"op":"!=","left":{"&":[{"payload":{"protocol":"tcp","field":"flags"}},{"|":[{"|":[{"|":["fin","syn"]},"rst"]},"ack"]}]},"right":"syn"}},{"counter":{"packets":0,"bytes":0}},{"drop":null}]
            policy_in_c72 [{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"saddr"}},"right":"@policy_block_67a6f01cd9e884ac218dbedaab44f25e"}},{"match":{"op":"==","left":{"meta":{"key":"l4proto"}},"right":{"set":["tcp","udp","sctp"]}}},{"return":null}]
            policy_in_c72 [{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"saddr"}},"right":"@policy_block_67a6f01cd9e884ac218dbedaab44f25e"}},{"match":{"op":"==","left":{"payload":{"protocol":"icmp","field":"type"}},"right":"echo-request"}},{"return":null}]
            policy_in_c72 [{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"saddr"}},"right":"@policy_pods_b57e36f331ad8702458ef5f1607dcf7d"}},{"match":{"op":"==","left":{"payload":{"protocol":"tcp","field":"dport"}},"right":{"set":[{"range":[90,99]},8080]}}},{"return":null}]
            policy_in_c72 [{"jump":{"target":"policy_ignore"}}]
            policy_out_5a [{"match":{"op":"!=","left":{"&":[{"payload":{"protocol":"tcp","field":"flags"}},{"|":[{"|":[{"|":["fin","syn"]},"rst"]},"ack"]}]},"right":"syn"}},{"counter":{"packets":0,"bytes":0}},{"drop":null}]
            policy_block Element { key: [Between(Address(192.0.2.128), Address(192.0.2.255))], value: [] }
            policy_egress4 Element { key: [Address(10.42.0.2)], value: [Verdict(Goto("policy_out_5a3adc3e2c863e364ad4d46d53f05348"))] }
            policy_ingress4 Element { key: [Address(10.42.0.2)], value: [Verdict(Goto("policy_in_c72693deeb6c884bc0839710a14b68a9"))] }
            policy_pods Element { key: [Address(10.42.0.2)], value: [] }"#]],
    );
}

#[test]
fn names_are_those_of_the_part() {
    let plan = compile(&web(json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [
        {"to": [{"podSelector": {}}], "ports": [{"port": "http"}]},
    ]})));
    assert_eq!(plan.render(GROUP).strays(crate::net::part::Part::Policies), Vec::<String>::new());
}

use expect_test::{Expect, expect};
use k8s_openapi::api::networking::v1 as networking;

use super::super::{Labels, NamedPort, Nature, Pod, Policy, World, by_namespace, compile};
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
        policies: by_namespace([Policy::read(&object).into()]),
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
    let frame = Plan::default().render(GROUP);
    assert_eq!((&plan.chains, &plan.sets), (&frame.chains, &frame.sets));
    let mut lines = Vec::new();
    for (name, rules) in &plan.programs {
        lines.extend(rules.iter().map(|rule| format!("{} {rule:?}", &name[..13])));
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
            policy_in_c72 [Version(Register(0)), Compare { register: Register(0), operator: Equal, value: [2] }, SourceAddress(Register(0)), DestinationAddress(Register(1)), Require { set: "hairpin", key: Register(0) }, Return]
            policy_in_c72 [Protocol(Register(0)), Compare { register: Register(0), operator: Equal, value: [6] }, TcpFlags(Register(0)), Mask { register: Register(0), mask: 23 }, Compare { register: Register(0), operator: NotEqual, value: [2] }, Count, Drop]
            policy_in_c72 [Version(Register(0)), Compare { register: Register(0), operator: Equal, value: [2] }, SourceAddress(Register(0)), Require { set: "policy_block_67a6f01cd9e884ac218dbedaab44f25e", key: Register(0) }, Protocol(Register(0)), Compare { register: Register(0), operator: Equal, value: [6] }, Return]
            policy_in_c72 [Version(Register(0)), Compare { register: Register(0), operator: Equal, value: [2] }, SourceAddress(Register(0)), Require { set: "policy_block_67a6f01cd9e884ac218dbedaab44f25e", key: Register(0) }, Protocol(Register(0)), Compare { register: Register(0), operator: Equal, value: [17] }, Return]
            policy_in_c72 [Version(Register(0)), Compare { register: Register(0), operator: Equal, value: [2] }, SourceAddress(Register(0)), Require { set: "policy_block_67a6f01cd9e884ac218dbedaab44f25e", key: Register(0) }, Protocol(Register(0)), Compare { register: Register(0), operator: Equal, value: [132] }, Return]
            policy_in_c72 [Version(Register(0)), Compare { register: Register(0), operator: Equal, value: [2] }, SourceAddress(Register(0)), Require { set: "policy_block_67a6f01cd9e884ac218dbedaab44f25e", key: Register(0) }, Version(Register(0)), Compare { register: Register(0), operator: Equal, value: [2] }, Protocol(Register(0)), Compare { register: Register(0), operator: Equal, value: [1] }, IcmpType(Register(0)), Compare { register: Register(0), operator: Equal, value: [8] }, Return]
            policy_in_c72 [Version(Register(0)), Compare { register: Register(0), operator: Equal, value: [2] }, SourceAddress(Register(0)), Require { set: "policy_pods_b57e36f331ad8702458ef5f1607dcf7d", key: Register(0) }, Protocol(Register(0)), Compare { register: Register(0), operator: Equal, value: [6] }, DestinationPort(Register(0)), Compare { register: Register(0), operator: AtLeast, value: [0, 90] }, Compare { register: Register(0), operator: AtMost, value: [0, 99] }, Return]
            policy_in_c72 [Version(Register(0)), Compare { register: Register(0), operator: Equal, value: [2] }, SourceAddress(Register(0)), Require { set: "policy_pods_b57e36f331ad8702458ef5f1607dcf7d", key: Register(0) }, Protocol(Register(0)), Compare { register: Register(0), operator: Equal, value: [6] }, DestinationPort(Register(0)), Compare { register: Register(0), operator: Equal, value: [31, 144] }, Return]
            policy_in_c72 [Jump("policy_ignore")]
            policy_out_5a [Version(Register(0)), Compare { register: Register(0), operator: Equal, value: [2] }, SourceAddress(Register(0)), DestinationAddress(Register(1)), Require { set: "hairpin", key: Register(0) }, Return]
            policy_out_5a [Protocol(Register(0)), Compare { register: Register(0), operator: Equal, value: [6] }, TcpFlags(Register(0)), Mask { register: Register(0), mask: 23 }, Compare { register: Register(0), operator: NotEqual, value: [2] }, Count, Drop]
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

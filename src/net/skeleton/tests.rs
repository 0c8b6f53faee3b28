use expect_test::{Expect, expect};

use super::super::Protocol;
use super::super::ruleset::{Element, Field, Present};
use super::*;

fn plan(guarded: &[&str]) -> RulesetPlan {
    let surroundings = Surroundings {
        pod_cidr: "10.42.0.0/16".parse().unwrap(),
        service_cidr: "10.43.0.0/16".parse().unwrap(),
        gateway: "10.42.0.1".parse().unwrap(),
        guarded_links: guarded.iter().map(|link| (*link).to_owned()).collect(),
    };
    let key = vec![Field::Protocol(Protocol::Tcp), Field::Port(8080)];
    let element = Element::entry(key, Field::Port(80));
    let elements = Elements::from([(HOST_PORTS[1].into(), BTreeSet::from([element]))]);
    compile(&Names::new("abc123").unwrap(), &surroundings, elements)
}

/// One command a line.
fn check(present: &Present, expected: Expect) {
    let rendered = plan(&["eth0"]).render(present);
    let commands = rendered["nftables"].as_array().unwrap();
    let lines: Vec<String> = commands.iter().map(ToString::to_string).collect();
    expected.assert_eq(&lines.join("\n"));
}

#[test]
fn a_first_start_makes_everything_in_one_transaction() {
    check(
        &Present::default(),
        expect![[r#"
            {"add":{"table":{"name":"joey_abc123","family":"inet","table":"joey_abc123"}}}
            {"add":{"set":{"name":"answering","type":["ipv4_addr","inet_service"],"flags":["timeout"],"timeout":10,"size":16384,"family":"inet","table":"joey_abc123"}}}
            {"add":{"set":{"name":"doors","type":["inet_proto","inet_service"],"family":"inet","table":"joey_abc123"}}}
            {"add":{"set":{"name":"ended","type":["inet_proto","ipv4_addr","inet_service","ipv4_addr","inet_service"],"flags":["timeout"],"timeout":60,"family":"inet","table":"joey_abc123"}}}
            {"add":{"set":{"name":"hairpin","type":["ipv4_addr","ipv4_addr"],"family":"inet","table":"joey_abc123"}}}
            {"add":{"map":{"name":"host_ports_address","type":["inet_proto","inet_service"],"map":"ipv4_addr","family":"inet","table":"joey_abc123"}}}
            {"add":{"map":{"name":"host_ports_at_address","type":["ipv4_addr","inet_proto","inet_service"],"map":"ipv4_addr","family":"inet","table":"joey_abc123"}}}
            {"add":{"map":{"name":"host_ports_at_port","type":["ipv4_addr","inet_proto","inet_service"],"map":"inet_service","family":"inet","table":"joey_abc123"}}}
            {"add":{"map":{"name":"host_ports_port","type":["inet_proto","inet_service"],"map":"inet_service","family":"inet","table":"joey_abc123"}}}
            {"add":{"set":{"name":"refused","type":["ipv4_addr","inet_service"],"flags":["timeout"],"timeout":3,"size":16384,"family":"inet","table":"joey_abc123"}}}
            {"add":{"set":{"name":"sources","type":["ifname","ipv4_addr","ether_addr"],"family":"inet","table":"joey_abc123"}}}
            {"add":{"chain":{"name":"admitted","family":"inet","table":"joey_abc123"}}}
            {"add":{"chain":{"name":"between_pods","family":"inet","table":"joey_abc123"}}}
            {"add":{"chain":{"name":"endings","family":"inet","table":"joey_abc123"}}}
            {"add":{"chain":{"name":"from_pods","family":"inet","table":"joey_abc123"}}}
            {"add":{"chain":{"name":"guard","family":"inet","table":"joey_abc123"}}}
            {"add":{"chain":{"name":"host_ports","family":"inet","table":"joey_abc123"}}}
            {"add":{"chain":{"name":"impostors","family":"inet","table":"joey_abc123"}}}
            {"add":{"chain":{"name":"node","family":"inet","table":"joey_abc123"}}}
            {"add":{"chain":{"name":"outbound","family":"inet","table":"joey_abc123"}}}
            {"add":{"chain":{"name":"refusals","family":"inet","table":"joey_abc123"}}}
            {"add":{"chain":{"name":"strangers","family":"inet","table":"joey_abc123"}}}
            {"add":{"chain":{"name":"to_host","family":"inet","table":"joey_abc123"}}}
            {"add":{"chain":{"name":"to_pods","family":"inet","table":"joey_abc123"}}}
            {"add":{"chain":{"name":"to_ports","family":"inet","table":"joey_abc123"}}}
            {"add":{"chain":{"name":"transit","family":"inet","table":"joey_abc123"}}}
            {"add":{"chain":{"name":"unserved","family":"inet","table":"joey_abc123"}}}
            {"add":{"chain":{"name":"limits_flows","family":"inet","table":"joey_abc123"}}}
            {"add":{"chain":{"name":"policy_egress","family":"inet","table":"joey_abc123"}}}
            {"add":{"chain":{"name":"policy_ingress","family":"inet","table":"joey_abc123"}}}
            {"add":{"chain":{"name":"services_nat","family":"inet","table":"joey_abc123"}}}
            {"add":{"chain":{"name":"services_node","family":"inet","table":"joey_abc123"}}}
            {"add":{"chain":{"name":"hooks_1c5a83179545","family":"inet","table":"joey_abc123"}}}
            {"add":{"chain":{"name":"admit_hook","type":"filter","hook":"prerouting","prio":-50,"policy":"accept","family":"inet","table":"joey_abc123"}}}
            {"add":{"chain":{"name":"forward_hook","type":"filter","hook":"forward","prio":-5,"policy":"accept","family":"inet","table":"joey_abc123"}}}
            {"add":{"chain":{"name":"guard_hook","type":"filter","hook":"prerouting","prio":-300,"policy":"accept","family":"inet","table":"joey_abc123"}}}
            {"add":{"chain":{"name":"inbound_hook","type":"nat","hook":"prerouting","prio":-100,"policy":"accept","family":"inet","table":"joey_abc123"}}}
            {"add":{"chain":{"name":"local_hook","type":"nat","hook":"output","prio":-100,"policy":"accept","family":"inet","table":"joey_abc123"}}}
            {"add":{"chain":{"name":"node_hook","type":"filter","hook":"input","prio":-5,"policy":"accept","family":"inet","table":"joey_abc123"}}}
            {"add":{"chain":{"name":"outbound_hook","type":"nat","hook":"postrouting","prio":100,"policy":"accept","family":"inet","table":"joey_abc123"}}}
            {"add":{"chain":{"name":"output_hook","type":"filter","hook":"output","prio":-5,"policy":"accept","family":"inet","table":"joey_abc123"}}}
            {"flush":{"chain":{"name":"admitted","family":"inet","table":"joey_abc123"}}}
            {"flush":{"chain":{"name":"between_pods","family":"inet","table":"joey_abc123"}}}
            {"flush":{"chain":{"name":"endings","family":"inet","table":"joey_abc123"}}}
            {"flush":{"chain":{"name":"from_pods","family":"inet","table":"joey_abc123"}}}
            {"flush":{"chain":{"name":"guard","family":"inet","table":"joey_abc123"}}}
            {"flush":{"chain":{"name":"host_ports","family":"inet","table":"joey_abc123"}}}
            {"flush":{"chain":{"name":"impostors","family":"inet","table":"joey_abc123"}}}
            {"flush":{"chain":{"name":"node","family":"inet","table":"joey_abc123"}}}
            {"flush":{"chain":{"name":"outbound","family":"inet","table":"joey_abc123"}}}
            {"flush":{"chain":{"name":"refusals","family":"inet","table":"joey_abc123"}}}
            {"flush":{"chain":{"name":"strangers","family":"inet","table":"joey_abc123"}}}
            {"flush":{"chain":{"name":"to_host","family":"inet","table":"joey_abc123"}}}
            {"flush":{"chain":{"name":"to_pods","family":"inet","table":"joey_abc123"}}}
            {"flush":{"chain":{"name":"to_ports","family":"inet","table":"joey_abc123"}}}
            {"flush":{"chain":{"name":"transit","family":"inet","table":"joey_abc123"}}}
            {"flush":{"chain":{"name":"unserved","family":"inet","table":"joey_abc123"}}}
            {"flush":{"set":{"name":"doors","family":"inet","table":"joey_abc123"}}}
            {"flush":{"set":{"name":"hairpin","family":"inet","table":"joey_abc123"}}}
            {"flush":{"map":{"name":"host_ports_address","family":"inet","table":"joey_abc123"}}}
            {"flush":{"map":{"name":"host_ports_at_address","family":"inet","table":"joey_abc123"}}}
            {"flush":{"map":{"name":"host_ports_at_port","family":"inet","table":"joey_abc123"}}}
            {"flush":{"map":{"name":"host_ports_port","family":"inet","table":"joey_abc123"}}}
            {"flush":{"set":{"name":"sources","family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"admit_hook","expr":[{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":"jyabc123-*"}},{"jump":{"target":"admitted"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"admit_hook","expr":[{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"daddr"}},"right":{"prefix":{"addr":"10.42.0.0","len":16}}}},{"mangle":{"key":{"meta":{"key":"mark"}},"value":{"|":[{"meta":{"key":"mark"}},4096]}}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"forward_hook","expr":[{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":"jyabc123-*"}},{"jump":{"target":"from_pods"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"forward_hook","expr":[{"match":{"op":"==","left":{"meta":{"key":"oifname"}},"right":"jyabc123-*"}},{"jump":{"target":"to_pods"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"forward_hook","expr":[{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"daddr"}},"right":{"prefix":{"addr":"10.43.0.0","len":16}}}},{"jump":{"target":"unserved"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"forward_hook","expr":[{"jump":{"target":"transit"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"guard_hook","expr":[{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":"jyabc123-*"}},{"jump":{"target":"guard"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"guard_hook","expr":[{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"saddr"}},"right":{"prefix":{"addr":"10.42.0.0","len":16}}}},{"match":{"op":"!=","left":{"meta":{"key":"iifname"}},"right":"lo"}},{"jump":{"target":"impostors"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"inbound_hook","expr":[{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":"jyabc123-*"}},{"jump":{"target":"services_nat"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"inbound_hook","expr":[{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"daddr"}},"right":{"prefix":{"addr":"10.42.0.0","len":16}}}},{"match":{"op":"!=","left":{"payload":{"protocol":"ip","field":"daddr"}},"right":"10.42.0.1"}},{"accept":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"inbound_hook","expr":[{"match":{"op":"==","left":{"fib":{"result":"type","flags":["daddr"]}},"right":"local"}},{"jump":{"target":"to_host"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"local_hook","expr":[{"jump":{"target":"services_nat"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"local_hook","expr":[{"match":{"op":"!=","left":{"payload":{"protocol":"ip","field":"daddr"}},"right":{"prefix":{"addr":"127.0.0.0","len":8}}}},{"match":{"op":"==","left":{"fib":{"result":"type","flags":["daddr"]}},"right":"local"}},{"jump":{"target":"to_host"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"node_hook","expr":[{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":"jyabc123-*"}},{"jump":{"target":"node"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"node_hook","expr":[{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"daddr"}},"right":"10.42.0.1"}},{"match":{"op":"!=","left":{"meta":{"key":"iifname"}},"right":"jyabc123-*"}},{"match":{"op":"!=","left":{"meta":{"key":"iifname"}},"right":"lo"}},{"jump":{"target":"strangers"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"outbound_hook","expr":[{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"saddr"}},"right":{"prefix":{"addr":"10.42.0.0","len":16}}}},{"jump":{"target":"outbound"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"output_hook","expr":[{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"daddr"}},"right":{"prefix":{"addr":"10.43.0.0","len":16}}}},{"jump":{"target":"unserved"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"output_hook","expr":[{"match":{"op":"==","left":{"meta":{"key":"oifname"}},"right":"jyabc123-*"}},{"jump":{"target":"to_ports"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"admitted","expr":[{"match":{"op":"in","left":{"payload":{"protocol":"tcp","field":"flags"}},"right":["fin","rst"]}},{"match":{"op":"in","left":{"ct":{"key":"status"}},"right":"dnat"}},{"jump":{"target":"endings"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"admitted","expr":[{"mangle":{"key":{"meta":{"key":"mark"}},"value":{"|":[{"meta":{"key":"mark"}},4096]}}},{"accept":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"between_pods","expr":[{"match":{"op":"in","left":{"ct":{"key":"state"}},"right":"invalid"}},{"counter":{"packets":0,"bytes":0}},{"drop":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"between_pods","expr":[{"match":{"op":"!=","left":{"meta":{"key":"l4proto"}},"right":"tcp"}},{"match":{"op":"==","left":{"concat":[{"meta":{"key":"l4proto"}},{"payload":{"protocol":"ip","field":"saddr"}},{"payload":{"protocol":"th","field":"sport"}},{"payload":{"protocol":"ip","field":"daddr"}},{"payload":{"protocol":"th","field":"dport"}}]},"right":"@ended"}},{"counter":{"packets":0,"bytes":0}},{"drop":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"between_pods","expr":[{"jump":{"target":"limits_flows"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"between_pods","expr":[{"jump":{"target":"policy_egress"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"between_pods","expr":[{"jump":{"target":"policy_ingress"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"between_pods","expr":[{"accept":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"endings","expr":[{"match":{"op":"==","left":{"ct":{"key":"direction"}},"right":"original"}},{"match":{"op":"in","left":{"payload":{"protocol":"tcp","field":"flags"}},"right":"rst"}},{"match":{"op":"in","left":{"ct":{"key":"status"}},"right":"assured"}},{"set":{"op":"update","elem":{"concat":[{"payload":{"protocol":"ip","field":"daddr"}},{"payload":{"protocol":"tcp","field":"dport"}}]},"set":"@answering"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"endings","expr":[{"match":{"op":"==","left":{"ct":{"key":"direction"}},"right":"original"}},{"return":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"endings","expr":[{"match":{"op":"in","left":{"payload":{"protocol":"tcp","field":"flags"}},"right":"rst"}},{"goto":{"target":"refusals"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"endings","expr":[{"set":{"op":"update","elem":{"concat":[{"payload":{"protocol":"ip","field":"saddr"}},{"payload":{"protocol":"tcp","field":"sport"}}]},"set":"@answering"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"from_pods","expr":[{"match":{"op":"in","left":{"ct":{"key":"state"}},"right":["established","related"]}},{"accept":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"from_pods","expr":[{"match":{"op":"==","left":{"meta":{"key":"oifname"}},"right":"jyabc123-*"}},{"jump":{"target":"between_pods"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"from_pods","expr":[{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"daddr"}},"right":{"prefix":{"addr":"10.43.0.0","len":16}}}},{"jump":{"target":"unserved"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"from_pods","expr":[{"match":{"op":"in","left":{"ct":{"key":"state"}},"right":"invalid"}},{"counter":{"packets":0,"bytes":0}},{"drop":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"from_pods","expr":[{"match":{"op":"!=","left":{"meta":{"key":"l4proto"}},"right":"tcp"}},{"match":{"op":"==","left":{"concat":[{"meta":{"key":"l4proto"}},{"payload":{"protocol":"ip","field":"saddr"}},{"payload":{"protocol":"th","field":"sport"}},{"payload":{"protocol":"ip","field":"daddr"}},{"payload":{"protocol":"th","field":"dport"}}]},"right":"@ended"}},{"counter":{"packets":0,"bytes":0}},{"drop":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"from_pods","expr":[{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"daddr"}},"right":{"prefix":{"addr":"10.42.0.0","len":16}}}},{"reject":{"type":"icmpx","expr":"host-unreachable"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"from_pods","expr":[{"jump":{"target":"limits_flows"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"from_pods","expr":[{"jump":{"target":"policy_egress"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"from_pods","expr":[{"accept":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"guard","expr":[{"match":{"op":"!=","left":{"concat":[{"meta":{"key":"iifname"}},{"payload":{"protocol":"ip","field":"saddr"}},{"payload":{"protocol":"ether","field":"saddr"}}]},"right":"@sources"}},{"counter":{"packets":0,"bytes":0}},{"drop":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"guard","expr":[{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"daddr"}},"right":{"prefix":{"addr":"10.42.0.0","len":16}}}},{"accept":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"guard","expr":[{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"daddr"}},"right":{"prefix":{"addr":"10.43.0.0","len":16}}}},{"accept":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"guard","expr":[{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"daddr"}},"right":{"prefix":{"addr":"127.0.0.0","len":8}}}},{"counter":{"packets":0,"bytes":0}},{"drop":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"guard","expr":[{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"daddr"}},"right":{"prefix":{"addr":"169.254.0.0","len":16}}}},{"counter":{"packets":0,"bytes":0}},{"drop":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"guard","expr":[{"match":{"op":"!=","left":{"meta":{"key":"nfproto"}},"right":"ipv4"}},{"counter":{"packets":0,"bytes":0}},{"drop":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"guard","expr":[{"accept":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"host_ports","expr":[{"dnat":{"family":"ip","addr":{"map":{"key":{"concat":[{"payload":{"protocol":"ip","field":"daddr"}},{"meta":{"key":"l4proto"}},{"payload":{"protocol":"th","field":"dport"}}]},"data":"@host_ports_at_address"}},"port":{"map":{"key":{"concat":[{"payload":{"protocol":"ip","field":"daddr"}},{"meta":{"key":"l4proto"}},{"payload":{"protocol":"th","field":"dport"}}]},"data":"@host_ports_at_port"}}}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"host_ports","expr":[{"dnat":{"family":"ip","addr":{"map":{"key":{"concat":[{"meta":{"key":"l4proto"}},{"payload":{"protocol":"th","field":"dport"}}]},"data":"@host_ports_address"}},"port":{"map":{"key":{"concat":[{"meta":{"key":"l4proto"}},{"payload":{"protocol":"th","field":"dport"}}]},"data":"@host_ports_port"}}}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"impostors","expr":[{"counter":{"packets":0,"bytes":0}},{"drop":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"node","expr":[{"match":{"op":"in","left":{"ct":{"key":"state"}},"right":["established","related"]}},{"accept":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"node","expr":[{"match":{"op":"in","left":{"ct":{"key":"state"}},"right":"invalid"}},{"counter":{"packets":0,"bytes":0}},{"drop":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"node","expr":[{"match":{"op":"!=","left":{"meta":{"key":"l4proto"}},"right":"tcp"}},{"match":{"op":"==","left":{"concat":[{"meta":{"key":"l4proto"}},{"payload":{"protocol":"ip","field":"saddr"}},{"payload":{"protocol":"th","field":"sport"}},{"payload":{"protocol":"ip","field":"daddr"}},{"payload":{"protocol":"th","field":"dport"}}]},"right":"@ended"}},{"counter":{"packets":0,"bytes":0}},{"drop":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"node","expr":[{"jump":{"target":"limits_flows"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"node","expr":[{"jump":{"target":"policy_egress"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"node","expr":[{"match":{"op":"==","left":{"payload":{"protocol":"icmp","field":"type"}},"right":"echo-request"}},{"accept":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"node","expr":[{"match":{"op":"in","left":{"ct":{"key":"status"}},"right":"dnat"}},{"accept":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"node","expr":[{"match":{"op":"==","left":{"concat":[{"meta":{"key":"l4proto"}},{"payload":{"protocol":"th","field":"dport"}}]},"right":"@doors"}},{"accept":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"node","expr":[{"match":{"op":"==","left":{"meta":{"key":"l4proto"}},"right":"tcp"}},{"reject":{"type":"tcp reset"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"node","expr":[{"reject":{"type":"icmpx","expr":"admin-prohibited"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"outbound","expr":[{"match":{"op":"!=","left":{"meta":{"key":"oifname"}},"right":"jyabc123-*"}},{"masquerade":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"outbound","expr":[{"match":{"op":"in","left":{"ct":{"key":"status"}},"right":"dnat"}},{"match":{"op":"==","left":{"concat":[{"payload":{"protocol":"ip","field":"saddr"}},{"payload":{"protocol":"ip","field":"daddr"}}]},"right":"@hairpin"}},{"masquerade":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"refusals","expr":[{"match":{"op":"in","left":{"ct":{"key":"status"}},"right":"assured"}},{"set":{"op":"update","elem":{"concat":[{"payload":{"protocol":"ip","field":"saddr"}},{"payload":{"protocol":"tcp","field":"sport"}}]},"set":"@answering"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"refusals","expr":[{"match":{"op":"in","left":{"ct":{"key":"status"}},"right":"assured"}},{"return":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"refusals","expr":[{"match":{"op":"!=","left":{"concat":[{"payload":{"protocol":"ip","field":"saddr"}},{"payload":{"protocol":"tcp","field":"sport"}}]},"right":"@answering"}},{"return":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"refusals","expr":[{"match":{"op":"==","left":{"concat":[{"payload":{"protocol":"ip","field":"daddr"}},{"payload":{"protocol":"tcp","field":"dport"}}]},"right":"@refused"}},{"return":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"refusals","expr":[{"set":{"op":"add","elem":{"concat":[{"payload":{"protocol":"ip","field":"daddr"}},{"payload":{"protocol":"tcp","field":"dport"}}]},"set":"@refused"}},{"counter":{"packets":0,"bytes":0}},{"drop":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"strangers","expr":[{"match":{"op":"in","left":{"ct":{"key":"state"}},"right":["established","related"]}},{"accept":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"strangers","expr":[{"counter":{"packets":0,"bytes":0}},{"drop":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"to_host","expr":[{"jump":{"target":"services_node"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"to_host","expr":[{"jump":{"target":"host_ports"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"to_pods","expr":[{"match":{"op":"in","left":{"ct":{"key":"state"}},"right":["established","related"]}},{"accept":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"to_pods","expr":[{"match":{"op":"in","left":{"ct":{"key":"state"}},"right":"invalid"}},{"counter":{"packets":0,"bytes":0}},{"drop":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"to_pods","expr":[{"match":{"op":"!","left":{"ct":{"key":"status"}},"right":"dnat"}},{"counter":{"packets":0,"bytes":0}},{"drop":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"to_pods","expr":[{"jump":{"target":"policy_ingress"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"to_pods","expr":[{"accept":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"to_ports","expr":[{"match":{"op":"==","left":{"payload":{"protocol":"icmp","field":"type"}},"right":"redirect"}},{"drop":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"to_ports","expr":[{"match":{"op":"in","left":{"ct":{"key":"state"}},"right":["established","related"]}},{"accept":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"to_ports","expr":[{"match":{"op":"==","left":{"meta":{"key":"mark"}},"right":42}},{"mangle":{"key":{"ct":{"key":"mark"}},"value":42}},{"accept":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"to_ports","expr":[{"match":{"op":"==","left":{"meta":{"key":"mark"}},"right":43}},{"mangle":{"key":{"ct":{"key":"mark"}},"value":43}},{"accept":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"to_ports","expr":[{"match":{"op":"!=","left":{"meta":{"key":"l4proto"}},"right":"tcp"}},{"match":{"op":"==","left":{"concat":[{"meta":{"key":"l4proto"}},{"payload":{"protocol":"ip","field":"saddr"}},{"payload":{"protocol":"th","field":"sport"}},{"payload":{"protocol":"ip","field":"daddr"}},{"payload":{"protocol":"th","field":"dport"}}]},"right":"@ended"}},{"counter":{"packets":0,"bytes":0}},{"drop":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"to_ports","expr":[{"jump":{"target":"policy_ingress"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"transit","expr":[{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":{"set":["eth0"]}}},{"match":{"op":"!=","left":{"meta":{"key":"oifname"}},"right":"jy*"}},{"counter":{"packets":0,"bytes":0}},{"drop":null}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"unserved","expr":[{"match":{"op":"==","left":{"meta":{"key":"l4proto"}},"right":"tcp"}},{"reject":{"type":"tcp reset"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"rule":{"chain":"unserved","expr":[{"reject":{"type":"icmpx","expr":"port-unreachable"}}],"family":"inet","table":"joey_abc123"}}}
            {"add":{"element":{"name":"host_ports_port","elem":[[{"concat":["tcp",8080]},80]],"family":"inet","table":"joey_abc123"}}}"#]],
    );
}

fn there() -> Present {
    let plan = plan(&[]);
    let chains = plan.base.keys().chain(plan.chains.keys()).chain(&plan.slots);
    let mut present =
        Present { chains: chains.map(|name| (*name).to_owned()).collect(), ..Present::default() };
    present.chains.insert(plan.mark());
    present
}

#[test]
fn a_restart_touches_neither_base_chains_nor_slots() {
    let rendered = plan(&["eth0"]).render(&there()).to_string();
    assert!(!rendered.contains("_hook"), "{rendered}");
    assert!(!rendered.contains("delete"), "{rendered}");
    for slot in part::SLOTS {
        assert!(!rendered.contains(&format!(r#"{{"flush":{{"chain":{{"name":"{slot}""#)), "{slot}");
    }
}

#[test]
fn an_upgrade_adds_the_base_chains_that_are_missing_and_deletes_none() {
    let mut present = there();
    assert!(present.chains.remove(&plan(&[]).mark()));
    assert!(present.chains.remove("output_hook"));
    present.chains.insert("hooks_0123456789ab".to_owned());
    let rendered = plan(&[]).render(&present).to_string();
    assert_eq!(rendered.matches(r#""hook""#).count(), 1);
    assert_eq!(rendered.matches("delete").count(), 1, "of the old mark: {rendered}");
    assert!(rendered.contains(r#"{"flush":{"chain":{"name":"forward_hook""#));
}

#[test]
fn nothing_is_dropped_in_transit_unless_we_opened_the_way() {
    let rendered = plan(&[]).render(&there()).to_string();
    assert!(!rendered.contains(r#""chain":"transit""#), "{rendered}");
}

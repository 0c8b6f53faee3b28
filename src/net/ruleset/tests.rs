use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

fn plan(guarded: &[&str]) -> RulesetPlan {
    let surroundings = Surroundings {
        pod_cidr: "10.42.0.0/16".parse().unwrap(),
        guarded_links: guarded.iter().map(|link| (*link).to_owned()).collect(),
    };
    let key = vec![Field::Protocol(Protocol::Tcp), Field::Port(8080)];
    let element = Element { key, value: Some(Field::Port(80)) };
    let elements = Elements::from([(HOST_PORTS[1], BTreeSet::from([element]))]);
    compile(&Names::new("abc123").unwrap(), &surroundings, elements)
}

/// One command a line.
fn check(is_new: bool, expected: Expect) {
    let rendered = plan(&["eth0"]).render(is_new);
    let commands = rendered["nftables"].as_array().unwrap();
    let lines: Vec<String> = commands.iter().map(ToString::to_string).collect();
    expected.assert_eq(&lines.join("\n"));
}

#[test]
fn a_first_start_makes_everything_in_one_transaction() {
    check(
        true,
        expect![[r#"
        {"add":{"table":{"name":"joey_abc123","family":"inet","table":"joey_abc123"}}}
        {"add":{"set":{"name":"hairpin","type":["ipv4_addr","ipv4_addr"],"family":"inet","table":"joey_abc123"}}}
        {"add":{"map":{"name":"host_ports_address","type":["inet_proto","inet_service"],"map":"ipv4_addr","family":"inet","table":"joey_abc123"}}}
        {"add":{"map":{"name":"host_ports_at_address","type":["ipv4_addr","inet_proto","inet_service"],"map":"ipv4_addr","family":"inet","table":"joey_abc123"}}}
        {"add":{"map":{"name":"host_ports_at_port","type":["ipv4_addr","inet_proto","inet_service"],"map":"inet_service","family":"inet","table":"joey_abc123"}}}
        {"add":{"map":{"name":"host_ports_port","type":["inet_proto","inet_service"],"map":"inet_service","family":"inet","table":"joey_abc123"}}}
        {"add":{"set":{"name":"sources","type":["ifname","ipv4_addr","ether_addr"],"family":"inet","table":"joey_abc123"}}}
        {"add":{"chain":{"name":"from_pods","family":"inet","table":"joey_abc123"}}}
        {"add":{"chain":{"name":"guard","family":"inet","table":"joey_abc123"}}}
        {"add":{"chain":{"name":"host_ports","family":"inet","table":"joey_abc123"}}}
        {"add":{"chain":{"name":"node","family":"inet","table":"joey_abc123"}}}
        {"add":{"chain":{"name":"outbound","family":"inet","table":"joey_abc123"}}}
        {"add":{"chain":{"name":"to_pods","family":"inet","table":"joey_abc123"}}}
        {"add":{"chain":{"name":"to_ports","family":"inet","table":"joey_abc123"}}}
        {"add":{"chain":{"name":"transit","family":"inet","table":"joey_abc123"}}}
        {"add":{"chain":{"name":"forward_hook","type":"filter","hook":"forward","prio":-5,"policy":"accept","family":"inet","table":"joey_abc123"}}}
        {"add":{"rule":{"chain":"forward_hook","expr":[{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":"jyabc123-*"}},{"jump":{"target":"from_pods"}}],"family":"inet","table":"joey_abc123"}}}
        {"add":{"rule":{"chain":"forward_hook","expr":[{"match":{"op":"==","left":{"meta":{"key":"oifname"}},"right":"jyabc123-*"}},{"jump":{"target":"to_pods"}}],"family":"inet","table":"joey_abc123"}}}
        {"add":{"rule":{"chain":"forward_hook","expr":[{"jump":{"target":"transit"}}],"family":"inet","table":"joey_abc123"}}}
        {"add":{"chain":{"name":"guard_hook","type":"filter","hook":"prerouting","prio":-300,"policy":"accept","family":"inet","table":"joey_abc123"}}}
        {"add":{"rule":{"chain":"guard_hook","expr":[{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":"jyabc123-*"}},{"jump":{"target":"guard"}}],"family":"inet","table":"joey_abc123"}}}
        {"add":{"chain":{"name":"inbound_hook","type":"nat","hook":"prerouting","prio":-100,"policy":"accept","family":"inet","table":"joey_abc123"}}}
        {"add":{"rule":{"chain":"inbound_hook","expr":[{"match":{"op":"==","left":{"fib":{"result":"type","flags":["daddr"]}},"right":"local"}},{"jump":{"target":"host_ports"}}],"family":"inet","table":"joey_abc123"}}}
        {"add":{"chain":{"name":"local_hook","type":"nat","hook":"output","prio":-100,"policy":"accept","family":"inet","table":"joey_abc123"}}}
        {"add":{"rule":{"chain":"local_hook","expr":[{"match":{"op":"==","left":{"fib":{"result":"type","flags":["daddr"]}},"right":"local"}},{"match":{"op":"!=","left":{"payload":{"protocol":"ip","field":"daddr"}},"right":{"prefix":{"addr":"127.0.0.0","len":8}}}},{"jump":{"target":"host_ports"}}],"family":"inet","table":"joey_abc123"}}}
        {"add":{"chain":{"name":"node_hook","type":"filter","hook":"input","prio":-5,"policy":"accept","family":"inet","table":"joey_abc123"}}}
        {"add":{"rule":{"chain":"node_hook","expr":[{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":"jyabc123-*"}},{"jump":{"target":"node"}}],"family":"inet","table":"joey_abc123"}}}
        {"add":{"chain":{"name":"outbound_hook","type":"nat","hook":"postrouting","prio":100,"policy":"accept","family":"inet","table":"joey_abc123"}}}
        {"add":{"rule":{"chain":"outbound_hook","expr":[{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"saddr"}},"right":{"prefix":{"addr":"10.42.0.0","len":16}}}},{"jump":{"target":"outbound"}}],"family":"inet","table":"joey_abc123"}}}
        {"add":{"chain":{"name":"output_hook","type":"filter","hook":"output","prio":-5,"policy":"accept","family":"inet","table":"joey_abc123"}}}
        {"add":{"rule":{"chain":"output_hook","expr":[{"match":{"op":"==","left":{"meta":{"key":"oifname"}},"right":"jyabc123-*"}},{"jump":{"target":"to_ports"}}],"family":"inet","table":"joey_abc123"}}}
        {"flush":{"chain":{"family":"inet","table":"joey_abc123","name":"from_pods"}}}
        {"flush":{"chain":{"family":"inet","table":"joey_abc123","name":"guard"}}}
        {"flush":{"chain":{"family":"inet","table":"joey_abc123","name":"host_ports"}}}
        {"flush":{"chain":{"family":"inet","table":"joey_abc123","name":"node"}}}
        {"flush":{"chain":{"family":"inet","table":"joey_abc123","name":"outbound"}}}
        {"flush":{"chain":{"family":"inet","table":"joey_abc123","name":"to_pods"}}}
        {"flush":{"chain":{"family":"inet","table":"joey_abc123","name":"to_ports"}}}
        {"flush":{"chain":{"family":"inet","table":"joey_abc123","name":"transit"}}}
        {"flush":{"set":{"family":"inet","table":"joey_abc123","name":"hairpin"}}}
        {"flush":{"map":{"family":"inet","table":"joey_abc123","name":"host_ports_address"}}}
        {"flush":{"map":{"family":"inet","table":"joey_abc123","name":"host_ports_at_address"}}}
        {"flush":{"map":{"family":"inet","table":"joey_abc123","name":"host_ports_at_port"}}}
        {"flush":{"map":{"family":"inet","table":"joey_abc123","name":"host_ports_port"}}}
        {"flush":{"set":{"family":"inet","table":"joey_abc123","name":"sources"}}}
        {"add":{"rule":{"family":"inet","table":"joey_abc123","chain":"from_pods","expr":[{"match":{"op":"in","left":{"ct":{"key":"state"}},"right":["established","related"]}},{"accept":null}]}}}
        {"add":{"rule":{"family":"inet","table":"joey_abc123","chain":"from_pods","expr":[{"match":{"op":"in","left":{"ct":{"key":"state"}},"right":"invalid"}},{"counter":{"packets":0,"bytes":0}},{"drop":null}]}}}
        {"add":{"rule":{"family":"inet","table":"joey_abc123","chain":"from_pods","expr":[{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"daddr"}},"right":{"prefix":{"addr":"10.42.0.0","len":16}}}},{"match":{"op":"!=","left":{"meta":{"key":"oifname"}},"right":"jyabc123-*"}},{"reject":{"type":"icmpx","expr":"host-unreachable"}}]}}}
        {"add":{"rule":{"family":"inet","table":"joey_abc123","chain":"from_pods","expr":[{"accept":null}]}}}
        {"add":{"rule":{"family":"inet","table":"joey_abc123","chain":"guard","expr":[{"match":{"op":"!=","left":{"meta":{"key":"nfproto"}},"right":"ipv4"}},{"counter":{"packets":0,"bytes":0}},{"drop":null}]}}}
        {"add":{"rule":{"family":"inet","table":"joey_abc123","chain":"guard","expr":[{"match":{"op":"!=","left":{"concat":[{"meta":{"key":"iifname"}},{"payload":{"protocol":"ip","field":"saddr"}},{"payload":{"protocol":"ether","field":"saddr"}}]},"right":"@sources"}},{"counter":{"packets":0,"bytes":0}},{"drop":null}]}}}
        {"add":{"rule":{"family":"inet","table":"joey_abc123","chain":"guard","expr":[{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"daddr"}},"right":{"set":[{"prefix":{"addr":"127.0.0.0","len":8}},{"prefix":{"addr":"169.254.0.0","len":16}}]}}},{"counter":{"packets":0,"bytes":0}},{"drop":null}]}}}
        {"add":{"rule":{"family":"inet","table":"joey_abc123","chain":"host_ports","expr":[{"dnat":{"family":"ip","addr":{"map":{"key":{"concat":[{"payload":{"protocol":"ip","field":"daddr"}},{"meta":{"key":"l4proto"}},{"payload":{"protocol":"th","field":"dport"}}]},"data":"@host_ports_at_address"}},"port":{"map":{"key":{"concat":[{"payload":{"protocol":"ip","field":"daddr"}},{"meta":{"key":"l4proto"}},{"payload":{"protocol":"th","field":"dport"}}]},"data":"@host_ports_at_port"}}}}]}}}
        {"add":{"rule":{"family":"inet","table":"joey_abc123","chain":"host_ports","expr":[{"dnat":{"family":"ip","addr":{"map":{"key":{"concat":[{"meta":{"key":"l4proto"}},{"payload":{"protocol":"th","field":"dport"}}]},"data":"@host_ports_address"}},"port":{"map":{"key":{"concat":[{"meta":{"key":"l4proto"}},{"payload":{"protocol":"th","field":"dport"}}]},"data":"@host_ports_port"}}}}]}}}
        {"add":{"rule":{"family":"inet","table":"joey_abc123","chain":"node","expr":[{"match":{"op":"in","left":{"ct":{"key":"state"}},"right":["established","related"]}},{"accept":null}]}}}
        {"add":{"rule":{"family":"inet","table":"joey_abc123","chain":"node","expr":[{"match":{"op":"in","left":{"ct":{"key":"state"}},"right":"invalid"}},{"counter":{"packets":0,"bytes":0}},{"drop":null}]}}}
        {"add":{"rule":{"family":"inet","table":"joey_abc123","chain":"node","expr":[{"match":{"op":"==","left":{"payload":{"protocol":"icmp","field":"type"}},"right":"echo-request"}},{"accept":null}]}}}
        {"add":{"rule":{"family":"inet","table":"joey_abc123","chain":"node","expr":[{"match":{"op":"==","left":{"meta":{"key":"l4proto"}},"right":"tcp"}},{"reject":{"type":"tcp reset"}}]}}}
        {"add":{"rule":{"family":"inet","table":"joey_abc123","chain":"node","expr":[{"reject":{"type":"icmpx","expr":"admin-prohibited"}}]}}}
        {"add":{"rule":{"family":"inet","table":"joey_abc123","chain":"outbound","expr":[{"match":{"op":"!=","left":{"meta":{"key":"oifname"}},"right":"jyabc123-*"}},{"masquerade":null}]}}}
        {"add":{"rule":{"family":"inet","table":"joey_abc123","chain":"outbound","expr":[{"match":{"op":"==","left":{"concat":[{"payload":{"protocol":"ip","field":"saddr"}},{"payload":{"protocol":"ip","field":"daddr"}}]},"right":"@hairpin"}},{"masquerade":null}]}}}
        {"add":{"rule":{"family":"inet","table":"joey_abc123","chain":"to_pods","expr":[{"match":{"op":"in","left":{"ct":{"key":"state"}},"right":["established","related"]}},{"accept":null}]}}}
        {"add":{"rule":{"family":"inet","table":"joey_abc123","chain":"to_pods","expr":[{"match":{"op":"in","left":{"ct":{"key":"state"}},"right":"invalid"}},{"counter":{"packets":0,"bytes":0}},{"drop":null}]}}}
        {"add":{"rule":{"family":"inet","table":"joey_abc123","chain":"to_pods","expr":[{"match":{"op":"in","left":{"ct":{"key":"status"}},"right":"dnat"}},{"accept":null}]}}}
        {"add":{"rule":{"family":"inet","table":"joey_abc123","chain":"to_pods","expr":[{"counter":{"packets":0,"bytes":0}},{"drop":null}]}}}
        {"add":{"rule":{"family":"inet","table":"joey_abc123","chain":"to_ports","expr":[{"match":{"op":"==","left":{"payload":{"protocol":"icmp","field":"type"}},"right":"redirect"}},{"drop":null}]}}}
        {"add":{"rule":{"family":"inet","table":"joey_abc123","chain":"transit","expr":[{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":{"set":["eth0"]}}},{"match":{"op":"!=","left":{"meta":{"key":"oifname"}},"right":"jy*"}},{"counter":{"packets":0,"bytes":0}},{"drop":null}]}}}
        {"add":{"element":{"family":"inet","table":"joey_abc123","name":"host_ports_port","elem":[[{"concat":["tcp",8080]},80]]}}}"#]],
    );
}

#[test]
fn a_restart_never_names_a_base_chain() {
    let rendered = plan(&["eth0"]).render(false).to_string();
    assert!(!rendered.contains("_hook"), "{rendered}");
    assert!(!rendered.contains("delete"), "{rendered}");
}

#[test]
fn nothing_is_dropped_in_transit_unless_we_opened_the_way() {
    let rendered = plan(&[]).render(false).to_string();
    assert!(!rendered.contains(r#""chain":"transit""#), "{rendered}");
}

fn elements() -> impl Strategy<Value = Elements> {
    let sets = prop_oneof![Just(SOURCES), Just(HAIRPIN)];
    let member = (0u16..6).prop_map(|port| Element { key: vec![Field::Port(port)], value: None });
    prop::collection::btree_map(sets, prop::collection::btree_set(member, 1..6), 0..3)
}

proptest! {
    #[test]
    fn what_differs_applied_to_the_old_gives_the_new(old in elements(), new in elements()) {
        let changes = diff(&old, &new);
        let mut result = old;
        for (set, members) in changes.remove {
            for member in members {
                prop_assert!(result.get_mut(set).is_some_and(|held| held.remove(&member)));
            }
        }
        for (set, members) in changes.add {
            for member in members {
                prop_assert!(result.entry(set).or_default().insert(member));
            }
        }
        result.retain(|_, members| !members.is_empty());
        prop_assert_eq!(result, new);
    }
}

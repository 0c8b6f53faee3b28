use std::net::Ipv4Addr;

use expect_test::{Expect, expect};

use super::super::expression::{jump, rule};
use super::super::ruleset::{Element, Field, Verdict};
use super::*;

/// A map of one address to a chain of its own, called from a slot.
fn plan(chain: &str, last: u8) -> PartPlan {
    let address = Field::Address(Ipv4Addr::new(10, 43, 0, last).into());
    let entry = Element::entry(vec![address], Field::Verdict(Verdict::Goto(chain.to_owned())));
    PartPlan {
        chains: BTreeMap::from([
            (SERVICES_NAT.to_owned(), vec![rule([jump(chain)])]),
            (chain.to_owned(), Vec::new()),
        ]),
        sets: BTreeMap::from([("services_map".into(), Set::map(&["ipv4_addr"], "verdict"))]),
        elements: Elements::from([("services_map".into(), BTreeSet::from([entry]))]),
        ..PartPlan::default()
    }
}

fn check(before: &Before, after: &PartPlan, expected: Expect) {
    let text = match transition("joey_abc123", Part::Services, before, after) {
        Transition::Nothing => "nothing".to_owned(),
        Transition::Elements(changes) => format!("{changes:?}"),
        Transition::Programs(changes) => format!("{changes:?}"),
        Transition::Both(..) => panic!("the plan has no programs"),
        Transition::Rules(transaction) => {
            let commands = transaction["nftables"].as_array().unwrap();
            let lines: Vec<String> = commands
                .iter()
                .map(|command| {
                    command.to_string().replace(r#","family":"inet","table":"joey_abc123""#, "")
                })
                .collect();
            lines.join("\n")
        }
    };
    expected.assert_eq(&text);
}

#[test]
fn the_same_plan_again_is_nothing() {
    check(&Before::InForce(plan("services_a", 1)), &plan("services_a", 1), expect!["nothing"]);
}

#[test]
fn members_alone_change_without_a_rule() {
    check(
        &Before::InForce(plan("services_a", 1)),
        &plan("services_a", 2),
        expect![[
            r#"ElementChanges { remove: {"services_map": {Element { key: [Address(10.43.0.1)], value: [Verdict(Goto("services_a"))] }}}, add: {"services_map": {Element { key: [Address(10.43.0.2)], value: [Verdict(Goto("services_a"))] }}} }"#
        ]],
    );
}

#[test]
fn other_rules_come_in_one_transaction_references_first() {
    check(
        &Before::InForce(plan("services_a", 1)),
        &plan("services_b", 1),
        expect![[r#"
            {"add":{"map":{"name":"services_map","type":"ipv4_addr","map":"verdict"}}}
            {"add":{"chain":{"name":"services_b"}}}
            {"add":{"chain":{"name":"services_nat"}}}
            {"flush":{"chain":{"name":"services_b"}}}
            {"flush":{"chain":{"name":"services_nat"}}}
            {"flush":{"chain":{"name":"services_a"}}}
            {"delete":{"element":{"name":"services_map","elem":[["10.43.0.1",{"goto":{"target":"services_a"}}]]}}}
            {"add":{"rule":{"chain":"services_nat","expr":[{"jump":{"target":"services_b"}}]}}}
            {"add":{"element":{"name":"services_map","elem":[["10.43.0.1",{"goto":{"target":"services_b"}}]]}}}
            {"delete":{"chain":{"name":"services_a"}}}"#]],
    );
}

#[test]
fn what_is_new_is_whole_before_anything_leads_there() {
    let before = Before::InForce(plan("services_a", 1));
    let mut after = plan("services_b", 1);
    after.chains.insert("services_b".to_owned(), vec![rule([jump("services_b")])]);
    let Transition::Rules(transaction) = transition("joey_abc123", Part::Services, &before, &after)
    else {
        panic!("other rules")
    };
    let all = transaction["nftables"].as_array().unwrap().len();
    let [first, second] = apart(transaction.clone(), &before).try_into().unwrap();
    let commands = |part: &Value| part["nftables"].as_array().unwrap().clone();
    // Its flush as well: later it would empty what is to be led to.
    let kinds = commands(&first).into_iter().map(|command| {
        assert!(command.to_string().contains("services_b"), "{command}");
        command.as_object().unwrap().keys().next().unwrap().clone()
    });
    assert_eq!(kinds.collect::<Vec<_>>(), ["add", "flush", "add"]);
    assert_eq!(commands(&first).len() + commands(&second).len(), all);
    // As for what an earlier daemon left.
    let left = Present {
        chains: ["services_nat", "services_a"].map(str::to_owned).into(),
        sets: [("services_map".to_owned(), "map")].into(),
        ..Present::default()
    };
    assert_eq!(apart(transaction, &Before::Unknown(left)), [first, second]);
}

#[test]
fn what_an_earlier_daemon_left_is_replaced_under_our_prefix_only() {
    let present = Present {
        chains: ["services_nat", "services_node", "services_old", "policy_a", "node"]
            .map(str::to_owned)
            .into(),
        sets: BTreeMap::from([
            ("services_old_map".to_owned(), "map"),
            ("sources".to_owned(), "set"),
        ]),
        ..Present::default()
    };
    check(
        &Before::Unknown(present),
        &plan("services_a", 1),
        expect![[r#"
            {"add":{"map":{"name":"services_map","type":"ipv4_addr","map":"verdict"}}}
            {"add":{"chain":{"name":"services_a"}}}
            {"add":{"chain":{"name":"services_nat"}}}
            {"flush":{"chain":{"name":"services_a"}}}
            {"flush":{"chain":{"name":"services_nat"}}}
            {"flush":{"chain":{"name":"services_node"}}}
            {"flush":{"chain":{"name":"services_old"}}}
            {"flush":{"map":{"name":"services_map"}}}
            {"add":{"rule":{"chain":"services_nat","expr":[{"jump":{"target":"services_a"}}]}}}
            {"add":{"element":{"name":"services_map","elem":[["10.43.0.1",{"goto":{"target":"services_a"}}]]}}}
            {"delete":{"map":{"name":"services_old_map"}}}
            {"delete":{"chain":{"name":"services_old"}}}"#]],
    );
}

#[test]
fn a_plan_without_a_slot_empties_it() {
    check(
        &Before::InForce(plan("services_a", 1)),
        &PartPlan::default(),
        expect![[r#"
        {"flush":{"chain":{"name":"services_a"}}}
        {"flush":{"chain":{"name":"services_nat"}}}
        {"delete":{"map":{"name":"services_map"}}}
        {"delete":{"chain":{"name":"services_a"}}}"#]],
    );
}

#[test]
fn names_of_others_and_members_of_nothing_are_strays() {
    let mut plan = plan("services_a", 1);
    assert_eq!(plan.strays(Part::Services), Vec::<String>::new());
    plan.chains.insert("node".to_owned(), Vec::new());
    plan.elements.insert("services_missing".into(), BTreeSet::new());
    assert_eq!(plan.strays(Part::Services), ["node", "services_missing"]);
}

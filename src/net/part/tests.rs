use std::net::Ipv4Addr;

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::super::expression::{jump, rule};
use super::super::program::{Expression, Kind};
use super::super::ruleset::{Element, Field, Verdict};
use super::*;

/// A map of one address to a chain of its own, called from a slot.
fn plan(chain: &str, last: u8) -> PartPlan {
    let address = Field::Address(Ipv4Addr::new(10, 43, 0, last).into());
    let entry = Element::entry(vec![address], Field::Verdict(Verdict::Goto(chain.to_owned())));
    PartPlan {
        chains: BTreeMap::from([(SERVICES_NAT.to_owned(), vec![rule([jump("services_frame")])])]),
        sets: BTreeMap::from([("services_map".into(), Set::map(&["ipv4_addr"], "verdict"))]),
        programs: BTreeMap::from([(chain.to_owned(), vec![vec![Expression::Drop]])]),
        elements: Elements::from([("services_map".into(), BTreeSet::from([entry]))]),
        ..PartPlan::default()
    }
}

/// Each step that there is, on its own line.
fn check(changes: &ProgramChanges, expected: Expect) {
    let ProgramChanges {
        declare,
        write,
        empty_sets,
        members,
        delete_sets,
        empty_chains,
        delete_chains,
    } = changes;
    let steps = [
        ("declare", format!("{:?}", declare.keys())),
        ("write", format!("{:?}", write.keys())),
        ("empty", format!("{empty_sets:?}")),
        ("remove", format!("{:?}", members.remove)),
        ("add", format!("{:?}", members.add)),
        ("delete", format!("{delete_sets:?}")),
        ("empty", format!("{empty_chains:?}")),
        ("delete", format!("{delete_chains:?}")),
    ];
    let lines = steps.iter().filter(|(_, what)| what != "{}" && what != "[]");
    let lines: Vec<_> = lines.map(|(step, what)| format!("{step} {what}")).collect();
    expected.assert_eq(&lines.join("\n"));
}

#[test]
fn the_same_plan_again_is_nothing() {
    assert!(plan("services_a", 1).difference(&plan("services_a", 1)).is_empty());
}

#[test]
fn members_alone_change_without_a_rule() {
    let change = plan("services_a", 1).difference(&plan("services_a", 2));
    check(
        &change.programs,
        expect![[r#"
        remove {"services_map": {Element { key: [Address(10.43.0.1)], value: [Verdict(Goto("services_a"))] }}}
        add {"services_map": {Element { key: [Address(10.43.0.2)], value: [Verdict(Goto("services_a"))] }}}"#]],
    );
}

#[test]
fn other_rules_come_with_what_leads_to_them() {
    let change = plan("services_a", 1).difference(&plan("services_b", 1));
    check(
        &change.programs,
        expect![[r#"
        write ["services_b"]
        remove {"services_map": {Element { key: [Address(10.43.0.1)], value: [Verdict(Goto("services_a"))] }}}
        add {"services_map": {Element { key: [Address(10.43.0.1)], value: [Verdict(Goto("services_b"))] }}}
        empty {"services_a"}
        delete {"services_a"}"#]],
    );
}

#[test]
fn what_an_earlier_daemon_left_is_replaced_under_our_prefix_only() {
    let present = Present {
        chains: ["services_nat", "services_node", "services_old", "policy_a", "node"]
            .map(str::to_owned)
            .into(),
        sets: BTreeMap::from([
            ("services_map".to_owned(), "map"),
            ("services_old_map".to_owned(), "map"),
            ("sources".to_owned(), "set"),
        ]),
        ..Present::default()
    };
    let present = present.below(Part::Services.prefix());
    check(
        &replacement(&present, &plan("services_a", 1)),
        expect![[r#"
        write ["services_a"]
        empty {"services_map"}
        add {"services_map": {Element { key: [Address(10.43.0.1)], value: [Verdict(Goto("services_a"))] }}}
        delete {"services_old_map"}
        empty {"services_node", "services_old"}
        delete {"services_old"}"#]],
    );
    // What the frame's sets hold is not taken out before there is something else.
    let frame = frame("joey_abc123", &plan("services_a", 1)).unwrap();
    let commands = frame["nftables"].as_array().unwrap().iter();
    let lines: Vec<String> = commands.map(ToString::to_string).collect();
    expect![[r#"
        {"add":{"map":{"name":"services_map","type":"ipv4_addr","map":"verdict"}}}
        {"add":{"chain":{"name":"services_nat"}}}
        {"flush":{"chain":{"name":"services_nat"}}}
        {"add":{"rule":{"chain":"services_nat","expr":[{"jump":{"target":"services_frame"}}]}}}"#]]
    .assert_eq(&lines.join("\n").replace(r#","family":"inet","table":"joey_abc123""#, ""));
}

#[test]
fn nothing_at_all_empties_a_slot_and_takes_the_rest_away() {
    let before = plan("services_a", 1).present();
    assert_eq!(frame("joey_abc123", &PartPlan::default()), None);
    check(
        &replacement(&before, &PartPlan::default()),
        expect![[r#"
        delete {"services_map"}
        empty {"services_a", "services_nat"}
        delete {"services_a"}"#]],
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

/// Few names, so that plans meet.
fn any_plan() -> impl Strategy<Value = PartPlan> {
    let member = |last: u8| Field::Address(Ipv4Addr::new(10, 43, 0, last).into());
    let element = (0u8..5).prop_map(move |last| Element::member(vec![member(last)]));
    let set = prop::option::of(prop::collection::btree_set(element, 1..4));
    let flow = (0u16..4).prop_map(|port| Flow {
        protocol: Protocol::Udp,
        to: None,
        port,
        backend: Ipv4Addr::LOCALHOST.into(),
    });
    (
        prop::collection::btree_map(0u8..4, any::<bool>(), 0..4),
        prop::collection::btree_map(0u8..3, set, 0..3),
        prop::collection::btree_set(flow, 0..3),
    )
        .prop_map(|(programs, sets, flows)| {
            let end = |counts: bool| if counts { Expression::Count } else { Expression::Drop };
            let program = |(name, counts)| (format!("policy_{name}"), vec![vec![end(counts)]]);
            let name = |name: u8| SetName::from(format!("policy_set_{name}"));
            let declare = |set: &u8| (name(*set), Declaration::set(vec![Kind::Address]));
            PartPlan {
                programs: programs.into_iter().map(program).collect(),
                declarations: sets.keys().map(declare).collect(),
                elements: sets
                    .into_iter()
                    .filter_map(|(set, members)| Some((name(set), members?)))
                    .collect(),
                flows,
                ..PartPlan::default()
            }
        })
}

proptest! {
    #[test]
    fn whoever_goes_the_way_arrives(before in any_plan(), after in any_plan()) {
        let change = before.difference(&after);
        prop_assert_eq!(change.is_empty(), before == after);
        let mut plan = before.clone();
        plan.change(&change);
        prop_assert_eq!(&plan, &after);
        // What both hold stands still.
        let is_kept = |name: &String| before.programs.get(name) == after.programs.get(name);
        prop_assert!(!change.programs.write.keys().any(is_kept));
    }
}

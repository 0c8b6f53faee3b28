use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::api::catalog;

fn deployments() -> &'static Kind {
    catalog::find("apps", "v1", "deployments").unwrap()
}

fn writer(manager: &str) -> Writer<'_> {
    Writer { manager, subresource: "", now: Timestamp::from_unix(1_000_000_000, 0) }
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec})
}

fn containers(list: Value) -> Value {
    deployment(json!({"template": {"spec": {"containers": list}}}))
}

/// Applies one after the other, each unforced.
fn applied(steps: &[(&str, &Value)]) -> Value {
    let mut live: Option<Value> = None;
    for (manager, value) in steps {
        live = Some(apply(deployments(), live.as_ref(), value, &writer(manager), false).unwrap());
    }
    live.unwrap()
}

fn owners(object: &Value) -> String {
    let entries = read(object).unwrap_or_default();
    let lines = entries.iter().map(|entry| {
        format!(
            "{} {}: {}\n",
            entry.manager,
            entry.operation.as_str(),
            entry.fields.paths().join(" ")
        )
    });
    lines.collect()
}

fn check(object: &Value, expected: Expect) {
    expected.assert_eq(&format!("{}\n{}", object["spec"], owners(object)));
}

#[test]
fn fields_are_written_as_kubernetes_writes_them() {
    let object = applied(&[(
        "m",
        &deployment(json!({
            "replicas": 3, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}, "finalizers": ["x/y"]}, "spec": {"containers": [
                {"name": "c", "image": "i", "ports": [{"containerPort": 80}], "args": ["x"]},
            ]}},
        })),
    )]);
    expect![[r#"{"manager":"m","operation":"Apply","apiVersion":"apps/v1","time":"2001-09-09T01:46:40Z","fieldsType":"FieldsV1","fieldsV1":{"f:spec":{"f:replicas":{},"f:selector":{},"f:template":{"f:metadata":{"f:finalizers":{"v:\"x/y\"":{}},"f:labels":{"f:a":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:args":{},"f:image":{},"f:name":{},"f:ports":{"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{}}}}}}}}}}"#]]
        .assert_eq(&object["metadata"]["managedFields"][0].to_string());
    let fields = &object["metadata"]["managedFields"][0]["fieldsV1"];
    assert_eq!(Fields::from_json(fields).unwrap().to_json(), *fields);
}

#[test]
fn what_a_manager_no_longer_says_goes_unless_others_say_it() {
    let first = deployment(json!({"replicas": 3, "paused": true, "minReadySeconds": 5}));
    let same = deployment(json!({"paused": true}));
    let less = deployment(json!({"replicas": 3}));
    check(
        &applied(&[("a", &first), ("b", &same), ("a", &less)]),
        expect![[r#"
        {"replicas":3,"paused":true}
        a Apply: .spec.replicas
        b Apply: .spec.paused
    "#]],
    );
    let two = containers(json!([{"name": "c", "image": "i"}, {"name": "s", "image": "j"}]));
    let extra = containers(json!([{"name": "c", "tty": true}]));
    let none = deployment(json!({}));
    check(
        &applied(&[("a", &two), ("b", &extra), ("a", &none)]),
        expect![[r#"
        {"template":{"spec":{"containers":[{"name":"c","tty":true}]}}}
        a Apply: .spec
        b Apply: .spec.template.spec.containers[name="c"] .spec.template.spec.containers[name="c"].name .spec.template.spec.containers[name="c"].tty
    "#]],
    );
}

#[test]
fn another_value_is_a_conflict_until_it_is_forced() {
    let live = applied(&[("a", &containers(json!([{"name": "c", "image": "i"}])))]);
    let other = containers(json!([{"name": "c", "image": "j"}]));
    let refused = apply(deployments(), Some(&live), &other, &writer("b"), false);
    assert_eq!(
        refused,
        Err(Refused::Conflicts(vec![(
            "\"a\"".to_owned(),
            ".spec.template.spec.containers[name=\"c\"].image".to_owned()
        )]))
    );
    let forced = apply(deployments(), Some(&live), &other, &writer("b"), true).unwrap();
    check(
        &forced,
        expect![[r#"
        {"template":{"spec":{"containers":[{"name":"c","image":"j"}]}}}
        a Apply: .spec.template.spec.containers[name="c"] .spec.template.spec.containers[name="c"].name
        b Apply: .spec.template.spec.containers[name="c"] .spec.template.spec.containers[name="c"].image .spec.template.spec.containers[name="c"].name
    "#]],
    );
}

#[test]
fn writes_of_others_are_recorded_and_conflict() {
    let live = applied(&[("a", &deployment(json!({"replicas": 3, "paused": true})))]);
    let mut scaled = live.clone();
    scaled["spec"]["replicas"] = 5.into();
    scaled["spec"].as_object_mut().unwrap().remove("paused");
    scaled["metadata"]["annotations"] = json!({"x": "y"});
    track(deployments(), &live, &mut scaled, &writer("kubectl-edit"));
    check(
        &scaled,
        expect![[r#"
        {"replicas":5}
        kubectl-edit Update: .metadata.annotations .metadata.annotations.x .spec.replicas
    "#]],
    );
    let again = deployment(json!({"replicas": 3}));
    let Err(Refused::Conflicts(found)) =
        apply(deployments(), Some(&scaled), &again, &writer("a"), false)
    else {
        panic!("no conflict");
    };
    assert_eq!(found, [("\"kubectl-edit\" using apps/v1".to_owned(), ".spec.replicas".to_owned())]);
}

#[test]
fn nothing_is_recorded_before_the_first_apply_and_all_of_it_then() {
    let mut live = deployment(json!({"replicas": 3}));
    let mut next = deployment(json!({"replicas": 4}));
    track(deployments(), &live, &mut next, &writer("kubectl-edit"));
    assert_eq!(owners(&next), "");
    live["spec"]["paused"] = true.into();
    let same = deployment(json!({"replicas": 3}));
    let object = apply(deployments(), Some(&live), &same, &writer("a"), false).unwrap();
    check(
        &object,
        expect![[r#"
        {"replicas":3,"paused":true}
        a Apply: .spec.replicas
        before-first-apply Update: .spec.paused .spec.replicas
    "#]],
    );
}

#[test]
fn at_most_ten_writers_are_kept_apart() {
    let mut live = applied(&[("a", &deployment(json!({"replicas": 3})))]);
    for n in 0..15 {
        let mut next = live.clone();
        next["metadata"]["labels"][format!("l{n}")] = "x".into();
        track(deployments(), &live, &mut next, &writer(&format!("w{n:02}")));
        live = next;
    }
    let managers: Vec<String> = read(&live)
        .unwrap()
        .into_iter()
        .filter(|entry| entry.operation == Operation::Update)
        .map(|entry| entry.manager)
        .collect();
    assert_eq!(managers.len(), 10);
    assert!(managers.contains(&ANCIENT.to_owned()));
}

#[test]
fn a_client_may_forget_all_owners_but_not_spoil_them() {
    let live = applied(&[("a", &deployment(json!({"replicas": 3})))]);
    for (sent, is_kept) in [
        (json!([]), false),
        (json!([{}]), false),
        (json!(null), true),
        (json!("x"), true),
        (json!([{"manager": "x", "operation": "Nonsense", "fieldsV1": {}}]), true),
        (json!([{"manager": "x", "operation": "Apply", "fieldsV1": {"spec": 1}}]), true),
    ] {
        let mut new = live.clone();
        new["metadata"]["managedFields"] = sent.clone();
        carry_over(&live, &mut new);
        let kept = new["metadata"]["managedFields"] == live["metadata"]["managedFields"];
        assert_eq!(kept, is_kept, "{sent}");
    }
}

#[test]
fn a_list_may_not_name_an_item_twice() {
    let twice = containers(json!([{"name": "c"}, {"name": "c"}]));
    let refused = apply(deployments(), None, &twice, &writer("a"), false);
    assert_eq!(
        refused,
        Err(Refused::Duplicate(
            ".spec.template.spec.containers: duplicate entries for key {\"name\":\"c\"}".to_owned()
        ))
    );
}

/// Deployments whose every part is there or not.
fn some_deployment() -> impl Strategy<Value = Value> {
    let text = || prop_oneof![Just("x"), Just("y")];
    let container = (
        prop::option::of(text()),
        prop::option::of(prop::collection::btree_map(80u16..83, prop::option::of(text()), 0..3)),
        prop::option::of(prop::collection::btree_map("[ab]", text(), 0..3)),
        prop::option::of(prop::collection::vec(text(), 0..2)),
    );
    let parts = (
        prop::option::of(0i64..3),
        prop::option::of(prop::collection::btree_map("[abc]", text(), 0..3)),
        prop::collection::btree_map("[cd]", container, 0..3),
        prop::collection::btree_set("[xyz]/f", 0..3),
    );
    parts.prop_map(|(replicas, labels, containers, finalizers)| {
        let mut object = deployment(json!({}));
        if let Some(replicas) = replicas {
            object["spec"]["replicas"] = replicas.into();
        }
        if let Some(labels) = labels {
            object["metadata"]["labels"] = json!(labels);
        }
        if !finalizers.is_empty() {
            object["metadata"]["finalizers"] = json!(finalizers);
        }
        let list = containers.into_iter().map(|(name, (image, ports, env, args))| {
            let mut container = json!({"name": name});
            if let Some(image) = image {
                container["image"] = image.into();
            }
            if let Some(ports) = ports {
                let ports = ports.into_iter().map(|(number, name)| match name {
                    Some(name) => json!({"containerPort": number, "name": name}),
                    None => json!({"containerPort": number}),
                });
                container["ports"] = ports.collect();
            }
            if let Some(env) = env {
                let env =
                    env.into_iter().map(|(name, value)| json!({"name": name, "value": value}));
                container["env"] = env.collect();
            }
            if let Some(args) = args {
                container["args"] = json!(args);
            }
            container
        });
        let list: Vec<Value> = list.collect();
        if !list.is_empty() {
            object["spec"]["template"] = json!({"spec": {"containers": list}});
        }
        object
    })
}

/// What a client can tell of an object: empty maps and lists are as good as none.
fn essence(value: &Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(
            members
                .iter()
                .filter(|(name, _)| *name != "managedFields")
                .map(|(name, value)| (name.clone(), essence(value)))
                .filter(|(_, value)| !matches!(value, Value::Object(m) if m.is_empty()))
                .filter(|(_, value)| !matches!(value, Value::Array(l) if l.is_empty()))
                .collect(),
        ),
        Value::Array(items) => {
            let mut items: Vec<Value> = items.iter().map(essence).collect();
            items.sort_by_key(Value::to_string);
            Value::Array(items)
        }
        other => other.clone(),
    }
}

proptest! {
    #[test]
    fn the_same_apply_again_changes_nothing(live in some_deployment(), one in some_deployment()) {
        let kind = deployments();
        let first = apply(kind, Some(&live), &one, &writer("a"), true).unwrap();
        let later = Writer { now: Timestamp::from_unix(2_000_000_000, 0), ..writer("a") };
        prop_assert_eq!(apply(kind, Some(&first), &one, &later, false).unwrap(), first);
    }

    #[test]
    fn what_is_applied_is_there(live in some_deployment(), one in some_deployment()) {
        let form = form(deployments()).unwrap();
        let object = apply(deployments(), Some(&live), &one, &writer("a"), true).unwrap();
        let merged = typed::merge(&object, &one, form);
        prop_assert_eq!(essence(&merged), essence(&object));
    }

    /// One manager alone: the object is what it said last, whatever it said before.
    #[test]
    fn the_last_word_of_a_lone_manager_is_the_object(words in prop::collection::vec(some_deployment(), 1..5)) {
        let kind = deployments();
        let mut live: Option<Value> = None;
        for word in &words {
            live = Some(apply(kind, live.as_ref(), word, &writer("a"), false).unwrap());
        }
        prop_assert_eq!(essence(&live.unwrap()), essence(words.last().unwrap()));
    }

    /// Two managers: when one has withdrawn everything, what the other said is left.
    #[test]
    fn who_withdraws_leaves_what_others_said(one in some_deployment(), other in some_deployment()) {
        let kind = deployments();
        let first = apply(kind, None, &one, &writer("a"), false).unwrap();
        let both = apply(kind, Some(&first), &other, &writer("b"), true).unwrap();
        let left = apply(kind, Some(&both), &deployment(json!({})), &writer("a"), false).unwrap();
        prop_assert_eq!(essence(&left), essence(&other));
    }

    #[test]
    fn two_objects_differ_where_they_differ(old in some_deployment(), new in some_deployment()) {
        let form = form(deployments()).unwrap();
        let found = typed::compare(&old, &new, form);
if found == typed::Difference::default() {
            prop_assert_eq!(essence(&old), essence(&new));
        }
        let same = typed::compare(&new, &new, form);
        prop_assert_eq!(same, typed::Difference::default());
    }

    #[test]
    fn sets_are_sets(one in some_deployment(), other in some_deployment()) {
        let form = form(deployments()).unwrap();
        let (a, b) = (typed::fields(&one, form), typed::fields(&other, form));
        let both = a.intersection(&b);
        prop_assert_eq!(a.difference(&b).union(&both), a.clone());
        prop_assert!(a.difference(&b).intersection(&b).paths().is_empty());
        prop_assert_eq!(a.union(&b), b.union(&a));
        let json = a.to_json();
        let again = Fields::from_json(&json).unwrap();
        prop_assert_eq!(again.paths(), a.paths().into_iter().filter(|path| !path.is_empty()).collect::<Vec<_>>());
    }
}

#[test]
fn server_side_apply_takes_over_what_client_side_apply_said() {
    let said = containers(json!([{"name": "c", "image": "one"}]));
    let mut live = said.clone();
    live["metadata"]["annotations"] = json!({LAST_APPLIED: format!("{said}\n")});
    live["spec"]["replicas"] = json!(3);
    let next = containers(json!([{"name": "c", "image": "two"}]));
    let made = apply(deployments(), Some(&live), &next, &writer("kubectl"), false).unwrap();
    assert_eq!(made["spec"]["template"]["spec"]["containers"][0]["image"], "two");
    // What somebody else has set is not its own, nor is the annotation anybody else's.
    let mut scaled = next.clone();
    scaled["spec"]["replicas"] = json!(5);
    let refused = apply(deployments(), Some(&live), &scaled, &writer("kubectl"), false);
    let Err(Refused::Conflicts(conflicts)) = refused else { panic!("no conflict") };
    let paths: Vec<_> = conflicts.iter().map(|(_, path)| path.as_str()).collect();
    assert_eq!(paths, [".spec.replicas"]);
    let refused = apply(deployments(), Some(&live), &next, &writer("helm"), false);
    assert!(matches!(refused, Err(Refused::Conflicts(_))));
}

#[test]
fn a_first_apply_of_the_status_leaves_the_spec_to_who_wrote_it() {
    let live = containers(json!([{"name": "c", "image": "one"}]));
    let status = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "status": {"replicas": 1}});
    let writer_of_status = Writer { subresource: "status", ..writer("controller") };
    let made = apply(deployments(), Some(&live), &status, &writer_of_status, false).unwrap();
    let next = containers(json!([{"name": "c", "image": "two"}]));
    let refused = apply(deployments(), Some(&made), &next, &writer("helm"), false);
    assert!(matches!(refused, Err(Refused::Conflicts(_))), "nobody owned the image");
}

//! Strategic merge: every directive, observed patches, and the properties of a patch made by difference.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn patched(kind: &str, current: Value, patch: Value) -> Result<Value, PatchError> {
    let api_version = if kind == "Deployment" { "apps/v1" } else { "v1" };
    apply(&current, &patch, api_version, kind)
}

#[track_caller]
fn check(kind: &str, current: Value, patch: Value, expected: Value) {
    let got = patched(kind, current, patch).unwrap();
    // As text: the order of lists and members counts for lists, `json!` keeps both.
    assert_eq!(got, expected, "got {got}");
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|element| element["name"].as_str().unwrap()).collect()
}

fn containers(names: &[&str]) -> Value {
    let list: Vec<Value> = names.iter().map(|name| json!({"name": name, "image": "i"})).collect();
    json!({"spec": {"containers": list}})
}

#[test]
fn set_env_merges_containers_and_env_by_name() {
    check(
        "Deployment",
        json!({"spec": {"template": {"spec": {"containers": [
            {"name": "c", "image": "i", "env": [{"name": "A", "value": "1"}]},
        ]}}}}),
        json!({"spec": {"template": {"spec": {
            "$setElementOrder/containers": [{"name": "c"}],
            "containers": [{
                "$setElementOrder/env": [{"name": "A"}, {"name": "FOO"}],
                "env": [{"name": "FOO", "value": "bar"}],
                "name": "c",
            }],
        }}}}),
        json!({"spec": {"template": {"spec": {"containers": [
            {"name": "c", "image": "i", "env": [
                {"name": "A", "value": "1"}, {"name": "FOO", "value": "bar"},
            ]},
        ]}}}}),
    );
}

#[test]
fn null_removes_members_and_whole_lists() {
    check(
        "Service",
        json!({"spec": {"selector": {"app": "x", "tier": "t"}}}),
        json!({"spec": {"selector": {"a": "b", "app": null}}}),
        json!({"spec": {"selector": {"tier": "t", "a": "b"}}}),
    );
    check(
        "Node",
        json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}], "podCIDR": "x"}}),
        json!({"spec": {"taints": null}}),
        json!({"spec": {"podCIDR": "x"}}),
    );
    check(
        "Node",
        json!({"spec": {"unschedulable": true}}),
        json!({"spec": {"unschedulable": null}}),
        json!({"spec": {}}),
    );
    // A null for something that is not there leaves no trace, at any depth.
    check("Node", json!({}), json!({"spec": {"taints": null}}), json!({"spec": {}}));
}

#[test]
fn service_ports_are_deleted_by_port() {
    check(
        "Service",
        json!({"spec": {"ports": [{"port": 80}, {"port": 81}]}}),
        json!({"spec": {
            "$setElementOrder/ports": [{"port": 80}],
            "ports": [{"$patch": "delete", "port": 81}],
        }}),
        json!({"spec": {"ports": [{"port": 80}]}}),
    );
}

#[test]
fn replace_in_a_list_replaces_the_list() {
    check(
        "Pod",
        containers(&["a", "b"]),
        json!({"spec": {"containers": [{"name": "n", "image": "x"}, {"$patch": "replace"}]}}),
        json!({"spec": {"containers": [{"name": "n", "image": "x"}]}}),
    );
}

#[test]
fn patch_directives_in_maps_replace_delete_or_merge() {
    let current = || json!({"metadata": {"labels": {"a": "1", "b": "2"}}});
    for (patch, expected) in [
        (json!({"$patch": "replace", "c": "3"}), json!({"c": "3"})),
        (json!({"$patch": "delete"}), json!({})),
        (json!({"$patch": "merge", "c": "3"}), json!({"a": "1", "b": "2", "c": "3"})),
    ] {
        check(
            "Pod",
            current(),
            json!({"metadata": {"labels": patch}}),
            json!({"metadata": {"labels": expected}}),
        );
    }
    let refused = patched("Pod", current(), json!({"metadata": {"$patch": "dance"}}));
    assert_eq!(refused.unwrap_err().code(), 422);
}

#[test]
fn retain_keys_drops_the_other_members() {
    check(
        "Deployment",
        json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
        json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
        json!({"spec": {"strategy": {"type": "Recreate"}}}),
    );
    check(
        "Pod",
        json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
        json!({"spec": {"volumes": [
            {"$retainKeys": ["hostPath", "name"], "name": "v", "hostPath": {"path": "/x"}},
        ]}}),
        json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}}),
    );
    let stray = json!({"spec": {"strategy": {"$retainKeys": ["type"], "rollingUpdate": {}}}});
    assert_eq!(patched("Deployment", json!({}), stray).unwrap_err().code(), 400);
}

#[test]
fn scalar_lists_are_sets() {
    check(
        "Pod",
        json!({"metadata": {"finalizers": ["a", "b"]}}),
        json!({"metadata": {"finalizers": ["c", "a"]}}),
        json!({"metadata": {"finalizers": ["c", "a", "b"]}}),
    );
    check(
        "Pod",
        json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
        json!({"metadata": {
            "$deleteFromPrimitiveList/finalizers": ["b"],
            "$setElementOrder/finalizers": ["c", "a"],
        }}),
        json!({"metadata": {"finalizers": ["c", "a"]}}),
    );
}

#[test]
fn elements_only_the_server_has_keep_their_place() {
    let patch = json!({"spec": {
        "$setElementOrder/containers": [{"name": "c"}, {"name": "new"}, {"name": "a"}],
        "containers": [{"name": "new", "image": "n"}],
    }});
    let got = patched("Pod", containers(&["a", "side", "c", "tail"]), patch).unwrap();
    assert_eq!(names(&got["spec"]["containers"]), ["side", "c", "new", "a", "tail"]);
    let sidecar_first = json!({"spec": {
        "$setElementOrder/containers": [{"name": "a"}, {"name": "b"}],
    }});
    let got = patched("Pod", containers(&["proxy", "b", "a"]), sidecar_first).unwrap();
    assert_eq!(names(&got["spec"]["containers"]), ["proxy", "a", "b"]);
}

#[test]
fn an_element_missing_from_the_order_list_is_400() {
    let patch = json!({"spec": {
        "$setElementOrder/containers": [{"name": "a"}],
        "containers": [{"name": "new", "image": "n"}],
    }});
    assert_eq!(patched("Pod", containers(&["a"]), patch).unwrap_err().code(), 400);
}

#[test]
fn an_element_without_its_merge_key_is_400() {
    let patch = json!({"spec": {"containers": [{"image": "n"}]}});
    let refused = patched("Pod", containers(&["a"]), patch).unwrap_err();
    assert_eq!(refused.code(), 400);
    assert_eq!(refused.to_string(), "map: map[image] does not contain declared merge key: name");
}

#[test]
fn atomic_lists_are_replaced() {
    check(
        "Pod",
        json!({"spec": {"tolerations": [{"key": "a"}], "containers": [{"name": "c", "args": ["1"]}]}}),
        json!({"spec": {"tolerations": [{"key": "b"}], "containers": [{"name": "c", "args": ["2"]}]}}),
        json!({"spec": {"tolerations": [{"key": "b"}], "containers": [{"name": "c", "args": ["2"]}]}}),
    );
}

#[test]
fn a_disruption_budget_s_selector_is_replaced_whole() {
    let got = apply(
        &json!({"spec": {"selector": {"matchLabels": {"a": "1"}}}}),
        &json!({"spec": {"selector": {"matchLabels": {"b": "2"}}}}),
        "policy/v1",
        "PodDisruptionBudget",
    );
    assert_eq!(got.unwrap(), json!({"spec": {"selector": {"matchLabels": {"b": "2"}}}}));
}

#[test]
fn custom_resources_are_415() {
    let refused = apply(&json!({}), &json!({}), "example.com/v1", "Roo").unwrap_err();
    assert_eq!(refused.code(), 415);
    assert!(!refused.to_string().contains("strategic"));
}

#[test]
fn directives_never_reach_the_object() {
    let patch = json!({
        "$patch": "merge",
        "metadata": {"$setElementOrder/finalizers": ["a"], "finalizers": ["a"]},
        "spec": {"$retainKeys": ["containers", "volumes"], "containers": [
            {"name": "c", "$patch": "merge", "env": [
                {"name": "x", "$patch": "delete"}, {"name": "y", "value": "1", "$patch": "merge"},
            ]},
        ], "volumes": [{"name": "v", "$retainKeys": ["name", "emptyDir"], "emptyDir": {}}]},
        "unknown": {"$patch": "replace", "deep": [{"$patch": "replace"}, {"a": {"$patch": "delete"}}]},
    });
    let got = patched("Pod", json!({}), patch).unwrap();
    assert!(!got.to_string().contains('$'), "{got}");
}

#[test]
fn a_hundred_thousand_elements_merge_in_linear_time() {
    let list: Vec<Value> = (0..50_000).map(|n| json!({"name": n.to_string()})).collect();
    let reversed: Vec<Value> = list.iter().rev().cloned().collect();
    let patch = json!({"spec": {"containers": reversed, "$setElementOrder/containers": reversed}});
    patched("Pod", json!({"spec": {"containers": list}}), patch).unwrap();
}

/// What kubectl sends to turn `from` into `to`: changed members, nulls, deletions and orders.
fn diff(from: &Map<String, Value>, to: &Map<String, Value>, known: Known) -> Map<String, Value> {
    let mut patch = Map::new();
    for name in from.keys().filter(|name| !to.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    for (name, wanted) in to {
        let rule = known.rule(name);
        match (from.get(name), wanted) {
            (Some(current), wanted) if current == wanted => {}
            (Some(Value::Object(current)), Value::Object(wanted)) if !rule.replaces => {
                patch.insert(name.clone(), Value::Object(diff(current, wanted, rule.inner)));
            }
            (Some(Value::Array(current)), Value::Array(wanted)) => match rule.list {
                None => {
                    patch.insert(name.clone(), Value::Array(wanted.clone()));
                }
                Some(None) => {
                    let gone: Vec<_> =
                        current.iter().filter(|one| !wanted.contains(one)).cloned().collect();
                    let new: Vec<_> =
                        wanted.iter().filter(|one| !current.contains(one)).cloned().collect();
                    patch.insert(format!("{DELETE_FROM}{name}"), Value::Array(gone));
                    patch.insert(format!("{SET_ORDER}{name}"), Value::Array(wanted.clone()));
                    if !new.is_empty() {
                        patch.insert(name.clone(), Value::Array(new));
                    }
                }
                Some(Some(key)) => {
                    let find = |list: &[Value], one: &Value| {
                        list.iter().find(|other| other[key] == one[key]).cloned()
                    };
                    let mut changes = Vec::new();
                    for one in wanted {
                        let change = match find(current, one) {
                            Some(current) if current == *one => continue,
                            Some(current) => {
                                let (current, one) =
                                    (current.as_object().unwrap(), one.as_object().unwrap());
                                let mut change = diff(current, one, rule.inner);
                                change.insert(key.into(), one[key].clone());
                                Value::Object(change)
                            }
                            None => one.clone(),
                        };
                        changes.push(change);
                    }
                    for one in current.iter().filter(|one| find(wanted, one).is_none()) {
                        changes.push(json!({DIRECTIVE: "delete", key: one[key]}));
                    }
                    let order = wanted.iter().map(|one| json!({key: one[key]})).collect();
                    patch.insert(format!("{SET_ORDER}{name}"), Value::Array(order));
                    if !changes.is_empty() {
                        patch.insert(name.clone(), Value::Array(changes));
                    }
                }
            },
            _ => {
                patch.insert(name.clone(), wanted.clone());
            }
        }
    }
    patch
}

fn pod() -> impl Strategy<Value = Value> {
    let name = prop::sample::select(vec!["a", "b", "c", "d", "e"]);
    let value = prop::sample::select(vec!["1", "2"]);
    let labels = prop::collection::btree_map(name.clone(), value.clone(), 0..4);
    let finalizers = prop::sample::subsequence(vec!["f1", "f2", "f3", "f4"], 0..=4).prop_shuffle();
    let env = prop::collection::btree_map(name.clone(), value.clone(), 0..4);
    let container = (env, prop::collection::vec(value.clone(), 0..3), any::<bool>()).prop_map(
        |(env, args, tty)| {
            let env: Vec<Value> =
                env.into_iter().map(|(n, v)| json!({"name": n, "value": v})).collect();
            let mut container = json!({"image": "i", "args": args, "env": env});
            if tty {
                container["tty"] = true.into();
            }
            container
        },
    );
    let containers = prop::collection::btree_map(name, container, 0..5)
        .prop_map(|containers| {
            let add_name = |(name, mut container): (&str, Value)| {
                container["name"] = name.into();
                container
            };
            containers.into_iter().map(add_name).collect::<Vec<Value>>()
        })
        .prop_shuffle();
    (labels, finalizers, containers, prop::option::of(value)).prop_map(
        |(labels, finalizers, containers, host)| {
            let mut pod = json!({
                "metadata": {"labels": labels, "finalizers": finalizers},
                "spec": {"containers": containers},
            });
            if let Some(host) = host {
                pod["spec"]["hostname"] = host.into();
            }
            pod
        },
    )
}

/// Any JSON, with directives in right and wrong places.
fn hostile() -> impl Strategy<Value = Value> {
    let name = prop::sample::select(vec![
        "name",
        "containers",
        "env",
        "finalizers",
        "spec",
        DIRECTIVE,
        RETAIN_KEYS,
        "$setElementOrder/containers",
        "$setElementOrder/finalizers",
        "$deleteFromPrimitiveList/finalizers",
        "$deleteFromPrimitiveList/containers",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        Just(json!(1)),
        prop::sample::select(vec!["a", "b", "merge", "replace", "delete"]).prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name.clone().prop_map(str::to_owned), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn holds_directive(value: &Value) -> bool {
    match value {
        Value::Object(map) => {
            map.iter().any(|(name, value)| name.starts_with('$') || holds_directive(value))
        }
        Value::Array(list) => list.iter().any(holds_directive),
        _ => false,
    }
}

proptest! {
    #[test]
    fn a_patch_made_by_difference_leads_to_the_target_and_stays_there(from in pod(), to in pod()) {
        let known = Known::Object(schema::lookup("v1", "Pod").unwrap());
        let patch = diff(from.as_object().unwrap(), to.as_object().unwrap(), known);
        let patch = Value::Object(patch);
        let once = patched("Pod", from, patch.clone()).unwrap();
        prop_assert_eq!(&once, &to, "patch {}", patch);
        prop_assert_eq!(patched("Pod", once, patch).unwrap(), to);
    }

    #[test]
    fn whatever_is_sent_directives_are_never_stored(pod in pod(), patch in hostile(), place in 0..4) {
        let patch = match place {
            0 => json!({"spec": patch}),
            1 => json!({"spec": {"containers": [patch]}}),
            2 => json!({"metadata": {"finalizers": [patch], "labels": patch}}),
            _ => patch,
        };
        if let Ok(got) = patched("Pod", pod, patch) {
            prop_assert!(!holds_directive(&got), "{}", got);
        }
    }

    #[test]
    fn an_empty_patch_changes_nothing(pod in pod()) {
        prop_assert_eq!(patched("Pod", pod.clone(), json!({})).unwrap(), pod);
    }
}

#[test]
fn the_deepest_legal_patch_does_not_exhaust_the_stack() {
    use crate::api::decode;
    let levels = decode::MAX_DEPTH - 1;
    let nested = format!("{}1{}", "{\"spec\":".repeat(levels), "}".repeat(levels));
    let mut deep = decode::json(nested.as_bytes()).unwrap().value;
    let merged = patched("Pod", deep.clone(), deep.clone()).unwrap();
    assert_eq!(merged, deep);
    assert_eq!(super::super::merge::apply(&deep, &deep).unwrap(), deep);
    assert_eq!(schema::check("v1", "Pod", &mut deep), Ok(vec!["spec.spec".to_owned()]));
}

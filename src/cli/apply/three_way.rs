//! The three-way merge of `joey apply`: what the manifest says now, what it said before, what the object is.
//!
//! Pure. What others set (defaults, admission, controllers) stays; what the manifest no longer says goes. Lists are
//! merged as a strategic merge would, by the keys of the kind's schema; a list without one is a single value.

use serde_json::{Map, Value};

use crate::api::schema::{self, Field, Item, Shape, Type};

/// The object as it should be: `current`, with what `wanted` says, without what only `before` said.
pub fn merged(before: &Value, wanted: &Value, current: &Value) -> Value {
    let word = |name: &str| wanted[name].as_str().unwrap_or_default();
    let kind = schema::lookup(word("apiVersion"), word("kind"));
    object(kind, before, wanted, current)
}

fn object(kind: Option<&Type>, before: &Value, wanted: &Value, current: &Value) -> Value {
    let (Some(members), Some(present)) = (wanted.as_object(), current.as_object()) else {
        return wanted.clone();
    };
    let none = Map::new();
    let before = before.as_object().unwrap_or(&none);
    let mut result = present.clone();
    for (name, value) in members {
        let field = kind.and_then(|kind| kind.field(name));
        let old = before.get(name).unwrap_or(&Value::Null);
        let now = present.get(name).unwrap_or(&Value::Null);
        result.insert(name.clone(), member(field, old, value, now));
    }
    result.retain(|name, _| members.contains_key(name) || !before.contains_key(name));
    Value::Object(result)
}

fn member(field: Option<&Field>, before: &Value, wanted: &Value, current: &Value) -> Value {
    let inner = field.and_then(|field| match field.shape {
        Shape::One(item) | Shape::List(item) | Shape::Map(item) => match item {
            Item::Object(id) => Some(id.get()),
            _ => None,
        },
    });
    match (wanted, field) {
        (Value::Object(_), Some(field)) if field.merge.replaces => wanted.clone(),
        // Of what retains its keys, only those that are named stay.
        (Value::Object(members), Some(field)) if field.merge.retains_keys => {
            let mut result = object(inner, before, wanted, current);
            if let Some(result) = result.as_object_mut() {
                result.retain(|name, _| members.contains_key(name));
            }
            result
        }
        // The values of a map have no names that the schema knows.
        (Value::Object(_), Some(field)) if matches!(field.shape, Shape::Map(_)) => {
            object(None, before, wanted, current)
        }
        (Value::Object(_), _) => object(inner, before, wanted, current),
        (Value::Array(items), Some(field)) => match field.merge.list {
            Some(Some(key)) => by_key(key, inner, before, items, current),
            Some(None) => as_set(before, items, current),
            None => wanted.clone(),
        },
        _ => wanted.clone(),
    }
}

fn items(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}

/// The manifest's elements in its order, then those of others.
fn by_key(
    key: &str,
    kind: Option<&Type>,
    before: &Value,
    wanted: &[Value],
    current: &Value,
) -> Value {
    let same = |list: &[Value], element: &Value| {
        list.iter().find(|other| other[key] == element[key]).cloned().unwrap_or(Value::Null)
    };
    let ours = wanted.iter().map(|element| {
        object(kind, &same(items(before), element), element, &same(items(current), element))
    });
    let theirs = items(current).iter().filter(|element| {
        same(wanted, element).is_null() && same(items(before), element).is_null()
    });
    Value::Array(ours.chain(theirs.cloned()).collect())
}

fn as_set(before: &Value, wanted: &[Value], current: &Value) -> Value {
    let theirs = items(current)
        .iter()
        .filter(|element| !wanted.contains(element) && !items(before).contains(element));
    Value::Array(wanted.iter().chain(theirs).cloned().collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_removes_only_what_it_applied_before() {
        let before = json!({"data": {"a": "1", "b": "2"}});
        let wanted = json!({"data": {"a": "3"}});
        let current = json!({"data": {"a": "1", "b": "2", "theirs": "x"}, "status": {}});
        let next = merged(&before, &wanted, &current);
        assert_eq!(next, json!({"data": {"a": "3", "theirs": "x"}, "status": {}}));
        assert_eq!(merged(&wanted, &wanted, &next), next);
    }

    #[test]
    fn lists_are_merged_by_their_keys_and_keep_what_admission_added() {
        let pod = |spec: Value| json!({"apiVersion": "v1", "kind": "Pod", "spec": spec});
        let before = pod(json!({"containers": [
            {"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}]},
            {"name": "gone", "image": "g:1"}]}));
        let wanted = pod(json!({"containers": [{"name": "a", "image": "a:2"}]}));
        let current = pod(json!({"containers": [
            {"name": "a", "image": "a:1", "imagePullPolicy": "Always",
             "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}],
             "volumeMounts": [{"name": "token", "mountPath": "/t"}]},
            {"name": "gone", "image": "g:1"},
            {"name": "injected", "image": "i:1"}],
            "volumes": [{"name": "token"}]}));
        let next = merged(&before, &wanted, &current);
        // The manifest said env before and does not now: the list as it was said goes, as with kubectl's own merge of
        // a field that is dropped whole.
        assert_eq!(
            next["spec"],
            json!({"containers": [
                {"name": "a", "image": "a:2", "imagePullPolicy": "Always",
                 "volumeMounts": [{"name": "token", "mountPath": "/t"}]},
                {"name": "injected", "image": "i:1"}],
                "volumes": [{"name": "token"}]})
        );
    }

    #[test]
    fn a_list_without_a_key_is_one_value_and_a_strategy_keeps_only_its_own_keys() {
        let rules = |list: Value| json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "spec": {"egress": list}});
        let current = rules(json!([{"ports": [{"port": 1, "protocol": "TCP"}]}]));
        let wanted = rules(json!([{"ports": [{"port": 2}]}]));
        assert_eq!(merged(&json!({}), &wanted, &current), wanted);
        let deployment = |strategy: Value| json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"strategy": strategy}});
        let current =
            deployment(json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}));
        let wanted = deployment(json!({"type": "Recreate"}));
        assert_eq!(merged(&json!({}), &wanted, &current), wanted);
    }
}

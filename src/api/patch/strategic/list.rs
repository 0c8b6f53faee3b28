//! Lists in a strategic merge: union by key or by value, deletion, replacement, order.
//!
//! It hashes keys, so that lists of a hundred thousand elements cost no more than reading them.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::super::PatchError;
use super::{DIRECTIVE, Directive, Rule, bad, directive, fresh, merge_map};

/// Merges a patch's list into the current one, by the field's rule.
pub(super) fn merge(
    current: Vec<Value>,
    patch: &[Value],
    order: Option<&Value>,
    rule: Rule,
) -> Result<Vec<Value>, PatchError> {
    let Some(key) = rule.list else {
        // Atomic: the patch's list is the value. Directives have no meaning in it and no place either.
        return patch.iter().filter_map(|element| plain(element, rule).transpose()).collect();
    };
    let Some(key) = key else {
        return merge_scalars(current, patch, order);
    };
    let mut replaces = false;
    let mut deleted = HashSet::new();
    let mut merged_in: Vec<(&Map<String, Value>, String)> = Vec::new();
    for element in patch {
        let Value::Object(element) = element else {
            return Err(bad(format!("expected a list of objects with key {key}")));
        };
        match directive(element)? {
            // As in Kubernetes, it speaks for the whole list; members beside it are an element.
            Some(Directive::Replace) => {
                replaces = true;
                if element.len() > 1 {
                    merged_in.push((element, identity(element, key)?));
                }
            }
            Some(Directive::Delete) => {
                deleted.insert(identity(element, key)?);
            }
            Some(Directive::Merge) | None => merged_in.push((element, identity(element, key)?)),
        }
    }
    let current = if replaces { Vec::new() } else { current };
    let before: Vec<Option<String>> =
        current.iter().map(|element| known_identity(element, key)).collect();
    let mut merged: Vec<(Option<String>, Value)> = before.iter().cloned().zip(current).collect();
    merged.retain(|(id, _)| id.as_ref().is_none_or(|id| !deleted.contains(id)));
    let mut places: HashMap<String, usize> = HashMap::new();
    for (place, (id, _)) in merged.iter().enumerate() {
        if let Some(id) = id {
            places.entry(id.clone()).or_insert(place);
        }
    }
    for (element, id) in &merged_in {
        match places.get(id).map(|place| &mut merged[*place].1) {
            Some(Value::Object(member)) => {
                merge_map(member, element, rule.inner)?;
            }
            _ => {
                let member = Value::Object(fresh(element, rule.inner)?);
                places.insert(id.clone(), merged.len());
                merged.push((Some(id.clone()), member));
            }
        }
    }
    let named: Vec<String> = merged_in.into_iter().map(|(_, id)| id).collect();
    let wanted = match order {
        Some(order) => {
            let order = order_identities(order, Some(key))?;
            check_order(&named, &order)?;
            order
        }
        None => named,
    };
    Ok(arrange(merged, &wanted, &before))
}

fn merge_scalars(
    current: Vec<Value>,
    patch: &[Value],
    order: Option<&Value>,
) -> Result<Vec<Value>, PatchError> {
    let before: Vec<Option<String>> = current.iter().map(|value| Some(value.to_string())).collect();
    let mut seen = HashSet::new();
    let mut merged = Vec::new();
    for value in current.into_iter().chain(patch.iter().cloned()) {
        if value.is_object() || value.is_array() {
            return Err(bad("expected a list of scalars"));
        }
        let id = value.to_string();
        if seen.insert(id.clone()) {
            merged.push((Some(id), value));
        }
    }
    let named: Vec<String> = patch.iter().map(Value::to_string).collect();
    let wanted = match order {
        Some(order) => {
            let order = order_identities(order, None)?;
            check_order(&named, &order)?;
            order
        }
        None => named,
    };
    Ok(arrange(merged, &wanted, &before))
}

/// `$setElementOrder` for a list the patch does not otherwise touch.
pub(super) fn reorder(
    target: &mut Map<String, Value>,
    name: &str,
    order: &Value,
    rule: Rule,
) -> Result<(), PatchError> {
    let key = rule.list.flatten();
    let wanted = order_identities(order, key)?;
    if rule.list.is_none() {
        return Err(bad(format!("{name} is not a merged list: it has no element order to set")));
    }
    if let Some(Value::Array(list)) = target.get_mut(name) {
        let id = |value: &Value| match key {
            Some(key) => known_identity(value, key),
            None => Some(value.to_string()),
        };
        let before: Vec<Option<String>> = list.iter().map(id).collect();
        let merged = before.iter().cloned().zip(std::mem::take(list)).collect();
        *list = arrange(merged, &wanted, &before);
    }
    Ok(())
}

/// `$deleteFromPrimitiveList`.
pub(super) fn delete_primitives(
    target: &mut Map<String, Value>,
    name: &str,
    gone: &Value,
) -> Result<(), PatchError> {
    let malformed = || bad("invalid patch format of primitive list");
    let gone = gone.as_array().ok_or_else(malformed)?;
    if gone.iter().any(|value| value.is_object() || value.is_array()) {
        return Err(malformed());
    }
    let gone: HashSet<String> = gone.iter().map(Value::to_string).collect();
    if let Some(Value::Array(list)) = target.get_mut(name) {
        list.retain(|value| !gone.contains(&value.to_string()));
    }
    Ok(())
}

/// The elements named in `wanted` in that order, the others where the server had them among those.
///
/// Kubernetes merges the two sequences like a merge sort: another element goes first only if it stood
/// before the next named one in the server's list.
fn arrange(
    merged: Vec<(Option<String>, Value)>,
    wanted: &[String],
    before: &[Option<String>],
) -> Vec<Value> {
    let rank = first_places(wanted.iter().map(Some));
    let place = first_places(before.iter().map(Option::as_ref));
    let rank_of = |id: &Option<String>| id.as_ref().and_then(|id| rank.get(id.as_str()).copied());
    let place_of = |id: &Option<String>| id.as_ref().and_then(|id| place.get(id.as_str()).copied());
    let (mut named, others): (Vec<_>, Vec<_>) =
        merged.into_iter().partition(|(id, _)| rank_of(id).is_some());
    named.sort_by_key(|(id, _)| rank_of(id));
    let mut arranged = Vec::with_capacity(named.len() + others.len());
    let mut others = others.into_iter().peekable();
    for (id, value) in named {
        while let Some((other, _)) = others.peek() {
            match (place_of(other), place_of(&id)) {
                (Some(other), Some(this)) if other < this => {
                    arranged.extend(others.next().map(|o| o.1))
                }
                _ => break,
            }
        }
        arranged.push(value);
    }
    arranged.extend(others.map(|(_, value)| value));
    arranged
}

fn first_places<'a>(ids: impl Iterator<Item = Option<&'a String>>) -> HashMap<&'a str, usize> {
    let mut places = HashMap::new();
    for (place, id) in ids.enumerate() {
        if let Some(id) = id {
            places.entry(id.as_str()).or_insert(place);
        }
    }
    places
}

/// The patch's elements must come in the order they ask for.
fn check_order(named: &[String], order: &[String]) -> Result<(), PatchError> {
    let mut order = order.iter();
    match named.iter().find(|id| !order.any(|one| one == *id)) {
        None => Ok(()),
        Some(id) => Err(bad(format!(
            "The order in patch list doesn't match $setElementOrder list: {id} is missing or misplaced"
        ))),
    }
}

fn order_identities(order: &Value, key: Option<&str>) -> Result<Vec<String>, PatchError> {
    let malformed = || bad("invalid patch format of setElementOrder list");
    let order = order.as_array().ok_or_else(malformed)?;
    order
        .iter()
        .map(|element| match (key, element) {
            (Some(key), Value::Object(element)) => identity(element, key),
            (None, Value::Object(_) | Value::Array(_)) | (Some(_), _) => Err(malformed()),
            (None, scalar) => Ok(scalar.to_string()),
        })
        .collect()
}

fn identity(element: &Map<String, Value>, key: &str) -> Result<String, PatchError> {
    match element.get(key) {
        None | Some(Value::Null) => {
            Err(bad(format!("map: {} does not contain declared merge key: {key}", brief(element))))
        }
        Some(value) => Ok(value.to_string()),
    }
}

/// Enough of an element to recognise it; never a megabyte of someone's own patch.
fn brief(element: &Map<String, Value>) -> String {
    let names: Vec<&str> = element.keys().take(8).map(String::as_str).collect();
    let mut text = format!("map[{}]", names.join(" "));
    text.truncate(text.floor_char_boundary(200));
    text
}

fn known_identity(element: &Value, key: &str) -> Option<String> {
    element.get(key).filter(|value| !value.is_null()).map(Value::to_string)
}

/// An element of an atomic list; `None` if it was nothing but a directive.
fn plain(element: &Value, rule: Rule) -> Result<Option<Value>, PatchError> {
    match element {
        Value::Object(map) if map.contains_key(DIRECTIVE) => match directive(map)? {
            Some(Directive::Delete) => Ok(None),
            _ if map.len() == 1 => Ok(None),
            _ => Ok(Some(Value::Object(fresh(map, rule.inner)?))),
        },
        Value::Object(map) => Ok(Some(Value::Object(fresh(map, rule.inner)?))),
        // A list in a list has no schema and no merge; directives do not belong there either.
        Value::Array(list) => {
            let elements = list.iter().filter_map(|element| plain(element, rule).transpose());
            Ok(Some(Value::Array(elements.collect::<Result<_, _>>()?)))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            Ok(Some(element.clone()))
        }
    }
}

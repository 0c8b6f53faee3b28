//! Strategic merge patch: Kubernetes' merge that knows which lists are maps in disguise.
//!
//! The schema says how each list merges; directives in the patch override it and are never stored. It
//! never validates the result: unknown members merge like any map and are found by `schema::check`.
//!
//! Order of merged lists follows Kubernetes' rule: elements named by the patch (or by
//! `$setElementOrder`) come in that order, the server's others keep their place among them.

mod list;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

use super::PatchError;
use crate::api::schema::{self, Item, Shape, Type};

/// Accepted patch types for kinds without a schema.
const UNSUPPORTED: &str = "the body of the request was in an unknown format - accepted media types \
    include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// Applies `patch` to an object of the given type.
///
/// # Errors
/// `Unsupported` for kinds that are not built in, `BadRequest` for a malformed patch or directive,
/// `Invalid` for an unknown `$patch` word.
pub fn apply(
    current: &Value,
    patch: &Value,
    api_version: &str,
    kind: &str,
) -> Result<Value, PatchError> {
    let Some(root) = schema::lookup(api_version, kind) else {
        return Err(PatchError::Unsupported(UNSUPPORTED.into()));
    };
    let (Value::Object(current), Value::Object(patch)) = (current, patch) else {
        return Err(bad("a strategic merge patch must be a JSON object"));
    };
    let mut next = current.clone();
    merge_map(&mut next, patch, Known::Object(root))?;
    Ok(Value::Object(next))
}

fn bad(text: impl Into<String>) -> PatchError {
    PatchError::BadRequest(text.into())
}

/// What the schema knows of a JSON object.
#[derive(Clone, Copy)]
enum Known {
    Object(&'static Type),
    /// A map whose values are all alike.
    Values(Item),
    Nothing,
}

/// How one member merges.
#[derive(Clone, Copy)]
struct Rule {
    /// For an object, what it is; for a list, what its elements are.
    inner: Known,
    /// As in [`schema::Merge::list`].
    list: Option<Option<&'static str>>,
    replaces: bool,
}

impl Known {
    fn rule(self, name: &str) -> Rule {
        let plain = Rule { inner: Known::Nothing, list: None, replaces: false };
        match self {
            Known::Nothing => plain,
            Known::Values(item) => Rule { inner: Known::of(item), ..plain },
            Known::Object(object) => match object.field(name) {
                None => plain,
                Some(field) => Rule {
                    inner: match field.shape {
                        Shape::One(item) | Shape::List(item) => Known::of(item),
                        Shape::Map(item) => Known::Values(item),
                    },
                    list: field.merge.list,
                    replaces: field.merge.replaces,
                },
            },
        }
    }

    fn of(item: Item) -> Known {
        item.object().map_or(Known::Nothing, Known::Object)
    }
}

/// What a `$patch` directive asks for.
#[derive(Clone, Copy, PartialEq)]
enum Directive {
    Merge,
    Replace,
    Delete,
}

fn directive(patch: &Map<String, Value>) -> Result<Option<Directive>, PatchError> {
    match patch.get(DIRECTIVE) {
        None => Ok(None),
        Some(Value::String(word)) if word == "merge" => Ok(Some(Directive::Merge)),
        Some(Value::String(word)) if word == "replace" => Ok(Some(Directive::Replace)),
        Some(Value::String(word)) if word == "delete" => Ok(Some(Directive::Delete)),
        Some(other) => Err(PatchError::Invalid(format!("unknown patch type: {other}"))),
    }
}

fn merge_map(
    target: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    known: Known,
) -> Result<(), PatchError> {
    match directive(patch)? {
        Some(Directive::Delete) => {
            target.clear();
            return Ok(());
        }
        // The rest of the patch is the new value: merging it into nothing also strips directives.
        Some(Directive::Replace) => target.clear(),
        Some(Directive::Merge) | None => {}
    }
    retain_keys(target, patch)?;
    for (name, value) in patch {
        if let Some(list) = name.strip_prefix(DELETE_FROM) {
            list::delete_primitives(target, list, value)?;
        }
    }
    for (name, value) in patch {
        if let Some(list) = name.strip_prefix(SET_ORDER) {
            if patch.get(list).is_none() {
                list::reorder(target, list, value, known.rule(list))?;
            }
        } else if !name.starts_with(DELETE_FROM) && name != DIRECTIVE && name != RETAIN_KEYS {
            let order = patch.get(&format!("{SET_ORDER}{name}"));
            merge_member(target, name, value, order, known.rule(name))?;
        }
    }
    Ok(())
}

fn merge_member(
    target: &mut Map<String, Value>,
    name: &str,
    patch: &Value,
    order: Option<&Value>,
    rule: Rule,
) -> Result<(), PatchError> {
    match patch {
        Value::Null => {
            target.remove(name);
        }
        Value::Object(patch) => {
            let member = target.entry(name).or_insert(Value::Null);
            match member {
                Value::Object(member) if !rule.replaces => merge_map(member, patch, rule.inner)?,
                _ => *member = Value::Object(fresh(patch, rule.inner)?),
            }
        }
        Value::Array(patch) => {
            let member = target.entry(name).or_insert(Value::Null);
            let current = match member.take() {
                Value::Array(list) => list,
                _ => Vec::new(),
            };
            *member = Value::Array(list::merge(current, patch, order, rule)?);
        }
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            target.insert(name.into(), patch.clone());
        }
    }
    Ok(())
}

/// A patch that meets nothing, without its directives and nulls.
fn fresh(patch: &Map<String, Value>, known: Known) -> Result<Map<String, Value>, PatchError> {
    let mut value = Map::new();
    merge_map(&mut value, patch, known)?;
    Ok(value)
}

/// `$retainKeys` names every member that may be there afterwards.
fn retain_keys(
    target: &mut Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<(), PatchError> {
    let Some(kept) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let malformed = || bad("invalid patch format of retainKeys");
    let kept: Option<Vec<&str>> =
        kept.as_array().ok_or_else(malformed)?.iter().map(Value::as_str).collect();
    let kept: std::collections::HashSet<&str> = kept.ok_or_else(malformed)?.into_iter().collect();
    let is_stray = patch.iter().any(|(name, value)| {
        !value.is_null()
            && name != RETAIN_KEYS
            && name != DIRECTIVE
            && !name.starts_with(DELETE_FROM)
            && !name.starts_with(SET_ORDER)
            && !kept.contains(name.as_str())
    });
    if is_stray {
        return Err(malformed());
    }
    target.retain(|name, _| kept.contains(name.as_str()));
    Ok(())
}

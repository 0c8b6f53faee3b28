//! Holds a typed object against its schema, as Kubernetes' decoder does: unknown members are found and
//! dropped, wrong types refused in Go's words, nulls and unset values removed.
//!
//! It never fills a default and never judges a value's meaning.

mod scalar;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

use super::{Field, Item, Shape, Type};
use crate::api::decode::path::{Findings, Path};

/// Checks `value` and prunes it in place.
///
/// Returns the paths of unknown members, as `spec.containers[0].imagee` (they are gone from `value`), in
/// document order, at most a hundred. Kinds that are not built in are left alone: their schema is
/// their CustomResourceDefinition's.
///
/// # Errors
/// The first type error in document order, as
/// `json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32`.
/// `value` is then half pruned and of no use.
pub fn check(api_version: &str, kind: &str, value: &mut Value) -> Result<Vec<String>, String> {
    let Some(root) = super::lookup(api_version, kind) else {
        return Ok(Vec::new());
    };
    let mut check = Check::default();
    let Value::Object(object) = value else {
        let found = scalar::json_type(value);
        return Err(format!(
            "json: cannot unmarshal {found} into Go value of type {}",
            root.go_type()
        ));
    };
    check.object(object, root, &Path::ROOT)?;
    Ok(check.unknown.into_paths())
}

/// What Go leaves out when it writes the object again (`omitempty`): JSON and protobuf bodies of equal
/// meaning become equal objects.
fn is_unset(value: &Value, field: &Field) -> bool {
    match value {
        Value::Array(list) => {
            list.is_empty() && matches!(field.shape, Shape::List(_)) && !field.is_required
        }
        Value::Object(map) => {
            map.is_empty() && matches!(field.shape, Shape::Map(_)) && !field.is_required
        }
        Value::Bool(value) => !value && field.omits_zero,
        Value::Number(number) => number.as_i64() == Some(0) && field.omits_zero,
        Value::Null | Value::String(_) => false,
    }
}

#[derive(Default)]
struct Check {
    unknown: Findings,
}

/// Where Go would say that something went wrong.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// The struct whose member it is.
    owner: &'static Type,
    path: &'a Path<'a>,
}

impl Place<'_> {
    fn mismatch(&self, found: &str, wanted: &str) -> String {
        let owner = self.owner.go_name();
        let path = self.path.fields_text();
        format!(
            "json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {wanted}"
        )
    }
}

impl Check {
    fn object(
        &mut self,
        object: &mut Map<String, Value>,
        known: &'static Type,
        path: &Path<'_>,
    ) -> Result<(), String> {
        let mut result = Ok(());
        object.retain(|name, value| {
            if result.is_err() {
                return true;
            }
            let path = path.member(name);
            let Some(field) = known.field(name) else {
                self.unknown.push(&path);
                return false;
            };
            if value.is_null() {
                return false;
            }
            result = self.member(value, field, Place { owner: known, path: &path });
            result.is_err() || !is_unset(value, field)
        });
        result
    }

    fn member(&mut self, value: &mut Value, field: &Field, place: Place<'_>) -> Result<(), String> {
        match (field.shape, value) {
            (Shape::One(item), value) => self.item(value, item, Some(field), place),
            (Shape::List(item), Value::Array(list)) => self.list(list, item, Some(field), place),
            (Shape::Map(item), Value::Object(map)) => {
                // Go names the member of the struct for whatever is wrong inside its map.
                for value in map.values_mut() {
                    if value.is_null() {
                        *value = scalar::zero(item);
                    }
                    self.item(value, item, None, place)?;
                }
                Ok(())
            }
            (shape, value) => {
                Err(place.mismatch(scalar::json_type(value), &scalar::go_shape(shape, field)))
            }
        }
    }

    fn list(
        &mut self,
        list: &mut [Value],
        item: Item,
        field: Option<&Field>,
        place: Place<'_>,
    ) -> Result<(), String> {
        for (index, element) in list.iter_mut().enumerate() {
            if element.is_null() {
                *element = scalar::zero(item);
            }
            let path = place.path.index(index);
            self.item(element, item, field, Place { path: &path, ..place })?;
        }
        Ok(())
    }

    fn item(
        &mut self,
        value: &mut Value,
        item: Item,
        field: Option<&Field>,
        place: Place<'_>,
    ) -> Result<(), String> {
        match (item, value) {
            (Item::Object(id), Value::Object(object)) => self.object(object, id.get(), place.path),
            (Item::Strings, Value::Array(list)) => self.list(list, Item::String, None, place),
            (item, value) => scalar::check(value, item, field, place),
        }
    }
}

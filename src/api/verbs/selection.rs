//! Which objects a list, watch or collection delete is about: label and field selectors of the query.
//!
//! It never reads the store.

use std::borrow::Cow;

use serde_json::Value;

use crate::api::catalog::Kind;
use crate::api::failure::Failure;
use crate::api::fields;
use crate::api::query::Query;
use crate::model::key::ObjectKey;
use crate::model::selector::{FieldSelector, LabelSelector};

/// What an object must be like to be chosen.
#[derive(Debug, Clone)]
pub struct Selection {
    resource: String,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    /// Every object of `kind`.
    pub fn everything(kind: &Kind) -> Selection {
        Selection {
            resource: kind.resource(),
            labels: LabelSelector::everything(),
            fields: FieldSelector::everything(),
        }
    }

    pub fn parse(kind: &Kind, query: &Query) -> Result<Selection, Failure> {
        let labels = LabelSelector::parse(query.get("labelSelector").unwrap_or_default())
            .map_err(|error| Failure::bad_request(error.to_string()))?;
        let resource = kind.resource();
        let fields = FieldSelector::parse(query.get("fieldSelector").unwrap_or_default())
            .and_then(|selector| {
                selector.check(|label| fields::get(&resource, &Value::Null, label).is_some())
            })
            .map_err(|error| Failure::bad_request(error.to_string()))?;
        Ok(Selection { resource, labels, fields })
    }

    /// Narrows to one name, as a watch of one object does.
    pub fn named(kind: &Kind, query: &Query, name: &str) -> Result<Selection, Failure> {
        let mut selection = Selection::parse(kind, query)?;
        let text = match query.get("fieldSelector") {
            None => format!("metadata.name={name}"),
            Some(others) => format!("{others},metadata.name={name}"),
        };
        selection.fields =
            FieldSelector::parse(&text).map_err(|error| Failure::bad_request(error.to_string()))?;
        Ok(selection)
    }

    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// The only name that can match, if a selector says so.
    pub fn only_name(&self) -> Option<&str> {
        self.fields.exact("metadata.name")
    }

    /// Whether nothing under `key` can match: told without reading the object.
    pub fn excludes(&self, key: &ObjectKey) -> bool {
        self.only_name().is_some_and(|name| *key.name != *name)
    }

    pub fn matches(&self, object: &Value) -> bool {
        self.fields.matches(|label| {
            Cow::Owned(fields::get(&self.resource, object, label).unwrap_or_default())
        }) && self.labels.matches(&object["metadata"]["labels"].as_object())
    }
}

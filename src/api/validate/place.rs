//! A value together with where it stands in its object, so that every refusal names its field.
//!
//! It never judges. The path is spelt out only when an error is made: a valid object costs no text.

use std::fmt;

use serde_json::{Map, Value};

use super::field::FieldError;

static ABSENT: Value = Value::Null;

/// A value (null if absent) and the way to it from the root of its object.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    above: Option<&'a Place<'a>>,
    step: Step<'a>,
    pub value: &'a Value,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Place<'a> {
    /// The top-level field `name` of `object`.
    pub fn root(object: &'a Value, name: &'a str) -> Place<'a> {
        Place { above: None, step: Step::Field(name), value: member(object, name) }
    }

    /// The field `name` of this object.
    pub fn child<'b>(&'b self, name: &'b str) -> Place<'b> {
        Place { above: Some(self), step: Step::Field(name), value: member(self.value, name) }
    }

    /// This value, blamed on a field beside its parts: errors that Kubernetes reports at another path.
    pub fn blame<'b>(&'b self, name: &'b str, value: &'b Value) -> Place<'b> {
        Place { above: Some(self), step: Step::Field(name), value }
    }

    /// This place, with another value standing there.
    pub fn holding(self, value: &'a Value) -> Place<'a> {
        Place { value, ..self }
    }

    /// The items of this list; nothing if it is not a list.
    pub fn items<'b>(&'b self) -> impl Iterator<Item = Place<'b>> {
        let items = self.value.as_array().map(Vec::as_slice).unwrap_or_default();
        items.iter().enumerate().map(|(i, value)| Place {
            above: Some(self),
            step: Step::Index(i),
            value,
        })
    }

    /// The entries of this map in the order of their keys, as `path[key]`.
    pub fn entries<'b>(&'b self) -> impl Iterator<Item = (&'b str, Place<'b>)> {
        let mut entries: Vec<(&String, &Value)> =
            self.value.as_object().into_iter().flatten().collect();
        entries.sort_unstable_by_key(|(key, _)| *key);
        entries.into_iter().map(|(key, value)| {
            (key.as_str(), Place { above: Some(self), step: Step::Key(key), value })
        })
    }

    pub fn is_set(&self) -> bool {
        !self.value.is_null()
    }

    /// Set, and neither "" nor [] nor {}.
    pub fn is_filled(&self) -> bool {
        match self.value {
            Value::Null => false,
            Value::String(text) => !text.is_empty(),
            Value::Array(items) => !items.is_empty(),
            Value::Object(map) => !map.is_empty(),
            Value::Bool(_) | Value::Number(_) => true,
        }
    }

    /// The text, "" if absent.
    pub fn text(&self) -> &'a str {
        self.value.as_str().unwrap_or_default()
    }

    pub fn number(&self) -> Option<i64> {
        self.value.as_i64()
    }

    /// True only if the value is `true`.
    pub fn is_true(&self) -> bool {
        self.value.as_bool() == Some(true)
    }

    pub fn map(&self) -> Option<&'a Map<String, Value>> {
        self.value.as_object()
    }

    pub fn required(&self) -> FieldError {
        self.required_because("")
    }

    pub fn required_because(&self, detail: &str) -> FieldError {
        FieldError::required(self, detail)
    }

    pub fn invalid(&self, detail: &str) -> FieldError {
        FieldError::invalid(self, self.value, detail)
    }

    /// Invalid, but quoting `value` instead of what stands here.
    pub fn invalid_value(&self, value: &Value, detail: &str) -> FieldError {
        FieldError::invalid(self, value, detail)
    }

    /// One error for each complaint about the text here.
    pub fn complain(&self, complaints: Vec<String>) -> impl Iterator<Item = FieldError> {
        complaints.into_iter().map(|detail| self.invalid(&detail))
    }

    /// `supported` in the order Kubernetes prints it.
    pub fn not_supported(&self, supported: &[&str]) -> FieldError {
        FieldError::not_supported(self, self.value, supported)
    }

    pub fn forbidden(&self, detail: &str) -> FieldError {
        FieldError::forbidden(self, detail)
    }

    pub fn duplicate(&self) -> FieldError {
        FieldError::duplicate(self, self.value)
    }

    pub fn not_found(&self) -> FieldError {
        FieldError::not_found(self, self.value)
    }
}

fn member<'a>(object: &'a Value, name: &str) -> &'a Value {
    object.get(name).unwrap_or(&ABSENT)
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(above) = self.above {
            above.fmt(f)?;
        }
        match self.step {
            Step::Field(name) if self.above.is_some() => write!(f, ".{name}"),
            Step::Field(name) => f.write_str(name),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{key}]"),
        }
    }
}

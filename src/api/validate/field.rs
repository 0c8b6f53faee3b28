//! One refused field: where, why, in the words of Kubernetes' field errors.
//!
//! It never decides whether a field is wrong.

use std::fmt;

use serde_json::Value;

/// The class of a field error; [`Reason::as_cause`] is its name in `details.causes[].reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Required,
    Invalid,
    NotSupported,
    Duplicate,
    Forbidden,
    TooLong,
    TooMany,
    NotFound,
    TypeInvalid,
    Internal,
}

impl Reason {
    pub fn as_cause(self) -> &'static str {
        match self {
            Reason::Required => "FieldValueRequired",
            Reason::Invalid => "FieldValueInvalid",
            Reason::NotSupported => "FieldValueNotSupported",
            Reason::Duplicate => "FieldValueDuplicate",
            Reason::Forbidden => "FieldValueForbidden",
            Reason::TooLong => "FieldValueTooLong",
            Reason::TooMany => "FieldValueTooMany",
            Reason::NotFound => "FieldValueNotFound",
            Reason::TypeInvalid => "FieldValueTypeInvalid",
            Reason::Internal => "InternalError",
        }
    }
}

/// A field and what is wrong with it. Display is `spec.containers: Required value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    pub reason: Reason,
    /// `spec.containers[0].image`, `data[key]`.
    pub field: String,
    /// Everything after the field: `Invalid value: "x": must be …`.
    pub message: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl FieldError {
    pub(super) fn new(
        reason: Reason,
        field: impl fmt::Display,
        head: String,
        detail: &str,
    ) -> FieldError {
        let message = if detail.is_empty() { head } else { format!("{head}: {detail}") };
        FieldError { reason, field: field.to_string(), message }
    }

    pub fn required(field: impl fmt::Display, detail: &str) -> FieldError {
        FieldError::new(Reason::Required, field, "Required value".into(), detail)
    }

    /// `value` is printed as Go does: strings quoted, numbers and booleans bare, the rest as JSON.
    pub fn invalid(field: impl fmt::Display, value: &Value, detail: &str) -> FieldError {
        FieldError::new(
            Reason::Invalid,
            field,
            format!("Invalid value: {}", printed(value)),
            detail,
        )
    }

    pub fn type_invalid(field: impl fmt::Display, value: &Value, detail: &str) -> FieldError {
        FieldError::new(
            Reason::TypeInvalid,
            field,
            format!("Invalid value: {}", printed(value)),
            detail,
        )
    }

    /// `supported` is printed in the order given; Kubernetes sorts most such lists.
    pub fn not_supported(
        field: impl fmt::Display,
        value: &Value,
        supported: &[&str],
    ) -> FieldError {
        let list: Vec<String> = supported.iter().map(|s| quoted(s)).collect();
        let detail = if list.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", list.join(", "))
        };
        FieldError::new(
            Reason::NotSupported,
            field,
            format!("Unsupported value: {}", printed(value)),
            &detail,
        )
    }

    pub fn duplicate(field: impl fmt::Display, value: &Value) -> FieldError {
        FieldError::new(
            Reason::Duplicate,
            field,
            format!("Duplicate value: {}", printed(value)),
            "",
        )
    }

    pub fn forbidden(field: impl fmt::Display, detail: &str) -> FieldError {
        FieldError::new(Reason::Forbidden, field, "Forbidden".into(), detail)
    }

    pub fn too_long(field: impl fmt::Display, max_bytes: usize) -> FieldError {
        let detail = format!("may not be more than {max_bytes} bytes");
        FieldError::new(Reason::TooLong, field, "Too long".into(), &detail)
    }

    pub fn too_many(field: impl fmt::Display, actual: usize, max: usize) -> FieldError {
        let detail = format!("must have at most {max} items");
        FieldError::new(Reason::TooMany, field, format!("Too many: {actual}"), &detail)
    }

    pub fn not_found(field: impl fmt::Display, value: &Value) -> FieldError {
        FieldError::new(Reason::NotFound, field, format!("Not found: {}", printed(value)), "")
    }
}

/// The text as Go's `%q` writes it.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\0'..=' ' if c != ' ' => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            '\x7f' => quoted.push_str("\\x7f"),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// As Go's field errors print a value: an unset one is the text "null", lists and maps of texts are
/// literals. Structs have no such form outside Go and are printed as JSON.
fn printed(value: &Value) -> String {
    match value {
        Value::Null => quoted("null"),
        Value::String(text) => quoted(text),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            let items: Vec<String> = items.iter().map(printed).collect();
            format!("[]string{{{}}}", items.join(", "))
        }
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

//! Label selectors as fields of an object: `matchLabels` and `matchExpressions`.
//!
//! It never matches anything; see `model::selector`.

use super::field::FieldError;
use super::place::Place;
use super::{metadata, name};

/// Errors of the selector at `selector`, if there is one. An empty one is legal here.
pub(super) fn label_selector(selector: &Place<'_>) -> Vec<FieldError> {
    let mut errors = metadata::labels(&selector.child("matchLabels"));
    for requirement in selector.child("matchExpressions").items() {
        let operator = requirement.child("operator");
        let values = requirement.child("values");
        match operator.text() {
            "In" | "NotIn" if !values.is_filled() => errors.push(
                values.required_because("must be specified when `operator` is 'In' or 'NotIn'"),
            ),
            "Exists" | "DoesNotExist" if values.is_filled() => {
                errors.push(values.forbidden(
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                ))
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                errors.push(operator.invalid_value(&other.into(), "not a valid selector operator"))
            }
        }
        let key = requirement.child("key");
        for complaint in name::qualified_name(key.text()) {
            errors.push(key.invalid_value(&key.text().into(), &complaint));
        }
        for value in values.items() {
            errors.extend(value.complain(name::label_value(value.text())));
        }
    }
    errors
}

/// Whether the selector at `selector` names no requirement.
pub(super) fn is_empty(selector: &Place<'_>) -> bool {
    !selector.child("matchLabels").is_filled() && !selector.child("matchExpressions").is_filled()
}

//! Tolerations, and the taints they answer.
//!
//! It never decides whether a pod fits a node.

use super::Errors;
use crate::api::validate::field::{FieldError, Reason};
use crate::api::validate::name;
use crate::api::validate::place::Place;

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub(super) fn tolerations(tolerations: &Place<'_>, errors: &mut Errors) {
    for toleration in tolerations.items() {
        let key = toleration.child("key");
        let operator = toleration.child("operator");
        let value = toleration.child("value");
        let effect = toleration.child("effect");
        if key.is_filled() {
            errors.extend(key.complain(name::qualified_name(key.text())));
        } else if operator.text() != "Exists" {
            errors.push(operator.invalid_value(
                &operator.text().into(),
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            ));
        }
        if toleration.child("tolerationSeconds").is_set() && effect.text() != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(effect.invalid_value(&effect.text().into(), detail));
        }
        match operator.text() {
            "" | "Equal" => {
                let complaints = name::label_value(value.text());
                if !complaints.is_empty() {
                    errors
                        .push(operator.invalid_value(&value.text().into(), &complaints.join(";")));
                }
            }
            "Exists" if value.is_filled() => {
                let detail = "value must be empty when `operator` is 'Exists'";
                errors.push(operator.invalid_value(value.value, detail));
            }
            "Exists" => {}
            _ => errors.push(operator.not_supported(&["Equal", "Exists"])),
        }
        if effect.is_filled() && !EFFECTS.contains(&effect.text()) {
            errors.push(effect.not_supported(&EFFECTS));
        }
    }
}

/// The taints of a Node, at the path Kubernetes reports them: `metadata.taints`.
pub(in crate::api::validate) fn taints(taints: &Place<'_>, errors: &mut Errors) {
    let mut seen: Vec<(String, String)> = Vec::new();
    for taint in taints.items() {
        let key = taint.child("key");
        let value = taint.child("value");
        let effect = taint.child("effect");
        for complaint in name::qualified_name(key.text()) {
            errors.push(key.invalid_value(&key.text().into(), &complaint));
        }
        let complaints = name::label_value(value.text());
        if !complaints.is_empty() {
            errors.push(value.invalid(&complaints.join(";")));
        }
        super::choice(&effect, &EFFECTS, errors);
        let identity = (key.text().to_owned(), effect.text().to_owned());
        if seen.contains(&identity) {
            let head = FieldError::duplicate(taint, taint.value).message;
            let detail = "taints must be unique by key and effect pair";
            errors.push(FieldError::new(Reason::Duplicate, taint, head, detail));
        }
        seen.push(identity);
    }
}

//! Labels and selectors as one cell of text.
//!
//! It never matches anything.

use serde_json::Value;

/// A label selector, `a=b,c in (x,y),!d`; `<none>` if it is empty.
pub(super) fn selector(selector: &Value) -> String {
    let mut requirements: Vec<(String, String)> = pairs(&selector["matchLabels"]);
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = expression["key"].as_str().unwrap_or_default();
        let values = || {
            let values = expression["values"].as_array().into_iter().flatten();
            let mut values: Vec<&str> = values.filter_map(Value::as_str).collect();
            values.sort_unstable();
            values.join(",")
        };
        let requirement = match expression["operator"].as_str().unwrap_or_default() {
            "In" => format!("{key} in ({})", values()),
            "NotIn" => format!("{key} notin ({})", values()),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => return "<invalid>".to_owned(),
        };
        requirements.push((key.to_owned(), requirement));
    }
    requirements.sort();
    joined(requirements)
}

/// A map of labels, `a=b,c=d`; `<none>` if it is empty.
pub(super) fn labels(labels: &Value) -> String {
    joined(pairs(labels))
}

fn pairs(labels: &Value) -> Vec<(String, String)> {
    let entries = labels.as_object().into_iter().flatten();
    let mut pairs: Vec<(String, String)> = entries
        .map(|(key, value)| (key.clone(), format!("{key}={}", value.as_str().unwrap_or_default())))
        .collect();
    pairs.sort();
    pairs
}

fn joined(requirements: Vec<(String, String)>) -> String {
    if requirements.is_empty() {
        return "<none>".to_owned();
    }
    let texts: Vec<String> = requirements.into_iter().map(|(_, text)| text).collect();
    texts.join(",")
}

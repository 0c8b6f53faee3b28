//! A set of fields of an object, as FieldsV1 writes it.
//!
//! It never sees an object or a schema.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Fields below one place. Each step is spelt as in FieldsV1: `f:name`, `k:{"name":"a"}`, `v:"x"`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields {
    /// Whether the place itself is in the set.
    pub is_member: bool,
    below: BTreeMap<String, Fields>,
}

impl Fields {
    /// The place itself and nothing below it.
    pub fn member() -> Fields {
        Fields { is_member: true, below: BTreeMap::new() }
    }

    pub fn is_empty(&self) -> bool {
        !self.is_member && self.below.is_empty()
    }

    /// Puts `fields` below `step`; nothing if they are empty.
    pub fn put(&mut self, step: String, fields: Fields) {
        if !fields.is_empty() {
            self.below.insert(step, fields);
        }
    }

    pub fn at(&self, step: &str) -> Option<&Fields> {
        self.below.get(step)
    }

    pub fn remove(&mut self, step: &str) {
        self.below.remove(step);
    }

    pub fn keep(&mut self, step: &str) {
        self.below.retain(|own, _| own == step);
        self.is_member = false;
    }

    pub fn entries(&self) -> impl Iterator<Item = (&str, &Fields)> {
        self.below.iter().map(|(step, fields)| (step.as_str(), fields))
    }

    pub fn union(&self, other: &Fields) -> Fields {
        let mut all = self.clone();
        all.is_member |= other.is_member;
        for (step, fields) in &other.below {
            let joined = match all.below.get(step) {
                Some(own) => own.union(fields),
                None => fields.clone(),
            };
            all.below.insert(step.clone(), joined);
        }
        all
    }

    pub fn difference(&self, other: &Fields) -> Fields {
        let mut rest =
            Fields { is_member: self.is_member && !other.is_member, below: BTreeMap::new() };
        for (step, fields) in &self.below {
            match other.below.get(step) {
                Some(gone) => rest.put(step.clone(), fields.difference(gone)),
                None => rest.put(step.clone(), fields.clone()),
            }
        }
        rest
    }

    pub fn intersection(&self, other: &Fields) -> Fields {
        let mut both =
            Fields { is_member: self.is_member && other.is_member, below: BTreeMap::new() };
        for (step, fields) in &self.below {
            if let Some(others) = other.below.get(step) {
                both.put(step.clone(), fields.intersection(others));
            }
        }
        both
    }

    /// Every member, as messages name it: `.spec.containers[name="a"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect(&mut String::new(), &mut paths);
        paths
    }

    fn collect(&self, at: &mut String, paths: &mut Vec<String>) {
        if self.is_member {
            paths.push(at.clone());
        }
        for (step, fields) in &self.below {
            let length = at.len();
            at.push_str(&shown(step));
            fields.collect(at, paths);
            at.truncate(length);
        }
    }

    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        if self.is_member {
            map.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for (step, fields) in &self.below {
            let value = match fields.below.is_empty() {
                true => Value::Object(Map::new()),
                false => fields.to_json(),
            };
            map.insert(step.clone(), value);
        }
        Value::Object(map)
    }

    /// `None` if `value` is no FieldsV1. The root itself is never a member.
    pub fn from_json(value: &Value) -> Option<Fields> {
        Fields::read(value, 0)
    }

    fn read(value: &Value, depth: usize) -> Option<Fields> {
        // No object is that deep; a client's document may be.
        if depth > 100 {
            return None;
        }
        let mut fields = Fields::default();
        for (step, value) in value.as_object()? {
            if step == "." {
                fields.is_member = depth > 0;
                continue;
            }
            if !["f:", "k:", "v:", "i:"].iter().any(|kind| step.starts_with(kind)) {
                return None;
            }
            let below = match value.as_object()?.is_empty() {
                true => Fields::member(),
                false => Fields::read(value, depth + 1)?,
            };
            fields.put(step.clone(), below);
        }
        Some(fields)
    }
}

fn shown(step: &str) -> String {
    match step.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("k", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let keys: Vec<String> =
                keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("[{}]", keys.join(","))
        }
        Some(("v", value)) => format!("[={value}]"),
        Some((_, rest)) => format!("[{rest}]"),
        None => step.to_owned(),
    }
}

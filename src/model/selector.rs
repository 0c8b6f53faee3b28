//! Label and field selectors: their text and object forms, and what they match.
//!
//! It never decides which fields of a kind may be selected; the kind's catalogue row does.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

mod field;
mod parse;
mod syntax;

pub use field::{FieldRequirement, FieldSelector, InvalidFieldSelector};
pub use syntax::{label_key_problems, label_value_problems};

/// Requirements on labels, all of which must hold. Ordered by key, as Kubernetes prints them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelSelector {
    /// `None` matches nothing: a selector that is absent in an object, not an empty one.
    requirements: Option<Vec<Requirement>>,
}

/// One demand on one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    key: String,
    operator: Operator,
    /// Sorted, without duplicates.
    values: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    Equals,
    DoubleEquals,
    NotEquals,
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// Why a label selector cannot be used; the words are those of `k8s.io/apimachinery`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSelector(pub(self) String);

/// What a selector looks at: the labels of one object.
pub trait Labels {
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labels for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl Labels for serde_json::Map<String, Value> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

impl<L: Labels> Labels for Option<L> {
    fn label(&self, key: &str) -> Option<&str> {
        self.as_ref().and_then(|labels| labels.label(key))
    }
}

impl<L: Labels + ?Sized> Labels for &L {
    fn label(&self, key: &str) -> Option<&str> {
        (**self).label(key)
    }
}

impl LabelSelector {
    /// Matches every object; the empty selector.
    pub fn everything() -> LabelSelector {
        LabelSelector::of(Vec::new())
    }

    /// Matches no object.
    pub fn nothing() -> LabelSelector {
        LabelSelector { requirements: None }
    }

    /// All of `requirements`.
    pub fn of(mut requirements: Vec<Requirement>) -> LabelSelector {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        LabelSelector { requirements: Some(requirements) }
    }

    /// Reads the text of `?labelSelector=`: `a=b,c in (d,e),!f`.
    pub fn parse(text: &str) -> Result<LabelSelector, InvalidSelector> {
        parse::requirements(text).map(LabelSelector::of).map_err(InvalidSelector)
    }

    /// Reads a `metav1.LabelSelector`. An absent one (`null`) matches nothing, an empty one everything.
    pub fn from_json(selector: &Value) -> Result<LabelSelector, InvalidSelector> {
        if selector.is_null() {
            return Ok(LabelSelector::nothing());
        }
        let mut requirements = Vec::new();
        for (key, value) in object(&selector["matchLabels"], "matchLabels")? {
            let value = text(value, "matchLabels")?;
            requirements.push(Requirement::new(key, Operator::Equals, vec![value])?);
        }
        for expression in array(&selector["matchExpressions"], "matchExpressions")? {
            let operator = match text(&expression["operator"], "operator")?.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(InvalidSelector(format!(
                        "{other:?} is not a valid label selector operator"
                    )));
                }
            };
            let values = array(&expression["values"], "values")?
                .iter()
                .map(|value| text(value, "values"))
                .collect::<Result<Vec<String>, InvalidSelector>>()?;
            let key = text(&expression["key"], "key")?;
            requirements.push(Requirement::new(&key, operator, values)?);
        }
        Ok(LabelSelector::of(requirements))
    }

    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        self.requirements
            .as_ref()
            .is_some_and(|all| all.iter().all(|requirement| requirement.matches(labels)))
    }

    /// True if it restricts nothing.
    pub fn is_everything(&self) -> bool {
        self.requirements.as_ref().is_some_and(Vec::is_empty)
    }

    /// The requirements in key order; empty also for [`LabelSelector::nothing`].
    pub fn requirements(&self) -> &[Requirement] {
        self.requirements.as_deref().unwrap_or_default()
    }
}

impl Requirement {
    /// Checks key, values and their number as `labels.NewRequirement` does.
    pub fn new(
        key: &str,
        operator: Operator,
        mut values: Vec<String>,
    ) -> Result<Requirement, InvalidSelector> {
        values.sort();
        values.dedup();
        let problems = syntax::requirement_problems(key, operator, &values);
        match problems.as_slice() {
            [] => Ok(Requirement { key: key.to_owned(), operator, values }),
            [only] => Err(InvalidSelector(only.clone())),
            several => Err(InvalidSelector(format!("[{}]", several.join(", ")))),
        }
    }

    pub fn key(&self) -> &str {
        &self.key
    }

    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// Sorted; one for the comparing operators, none for the existence ones.
    pub fn values(&self) -> &[String] {
        &self.values
    }

    /// `!=` and `notin` also hold for objects without the label.
    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        let label = labels.label(&self.key);
        let is_among = |label: &str| self.values.iter().any(|value| value == label);
        match self.operator {
            Operator::Equals | Operator::DoubleEquals | Operator::In => label.is_some_and(is_among),
            Operator::NotEquals | Operator::NotIn => !label.is_some_and(is_among),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::GreaterThan => self.compares(label, |label, bound| label > bound),
            Operator::LessThan => self.compares(label, |label, bound| label < bound),
        }
    }

    fn compares(&self, label: Option<&str>, holds: fn(i64, i64) -> bool) -> bool {
        let integer = |text: &str| text.parse::<i64>().ok();
        let label = label.and_then(integer);
        let bound = self.values.first().and_then(|value| integer(value));
        matches!((label, bound), (Some(label), Some(bound)) if holds(label, bound))
    }
}

/// The text form; parses to an equal selector. Empty for everything and for nothing.
impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, requirement) in self.requirements().iter().enumerate() {
            if position > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

fn object<'a>(
    value: &'a Value,
    field: &str,
) -> Result<impl Iterator<Item = (&'a String, &'a Value)>, InvalidSelector> {
    match value {
        Value::Null => Ok(None.into_iter().flatten()),
        Value::Object(map) => Ok(Some(map.iter()).into_iter().flatten()),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(InvalidSelector(format!("{field}: must be an object")))
        }
    }
}

fn array<'a>(value: &'a Value, field: &str) -> Result<&'a [Value], InvalidSelector> {
    match value {
        Value::Null => Ok(&[]),
        Value::Array(items) => Ok(items),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            Err(InvalidSelector(format!("{field}: must be an array")))
        }
    }
}

/// An absent text is the empty one, as in Go.
fn text(value: &Value, field: &str) -> Result<String, InvalidSelector> {
    match value {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text.clone()),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            Err(InvalidSelector(format!("{field}: must be a string")))
        }
    }
}

#[cfg(test)]
mod tests;

//! What the query of a request asks for, parsed once.
//!
//! It never reads the path, headers or body.

use http::Uri;

use crate::api::failure::Failure;

/// Decoded query parameters in the order they came.
#[derive(Debug, Clone, Default)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

/// What to do with fields that the schema does not know or that come twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// Whether a write persists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    Persist,
    DryRun,
}

impl Query {
    pub fn parse(uri: &Uri) -> Result<Query, Failure> {
        let axum::extract::Query(pairs) = axum::extract::Query::try_from_uri(uri)
            .map_err(|_| Failure::bad_request("the query of the request cannot be decoded"))?;
        Ok(Query { pairs })
    }

    /// The first value of `key`; an empty value counts as absent, as in Kubernetes.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// Every value of `key`, in order.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Whether `key` is present at all, empty values included.
    pub fn has(&self, key: &str) -> bool {
        self.pairs.iter().any(|(name, _)| name == key)
    }

    /// Booleans as Go's conversion reads them: present without a value means true.
    pub fn flag(&self, key: &str) -> bool {
        match self.pairs.iter().find(|(name, _)| name == key) {
            None => false,
            Some((_, value)) => !matches!(value.to_ascii_lowercase().as_str(), "false" | "0"),
        }
    }

    pub fn number(&self, key: &str) -> Result<Option<i64>, Failure> {
        self.get(key)
            .map(|text| {
                text.parse().map_err(|_| {
                    Failure::bad_request(format!(
                        "Invalid value: \"{text}\": strconv.ParseInt: parsing \"{text}\": invalid syntax"
                    ))
                })
            })
            .transpose()
    }

    pub fn field_validation(&self) -> Result<FieldValidation, Failure> {
        match self.get("fieldValidation") {
            None | Some("Warn") => Ok(FieldValidation::Warn),
            Some("Ignore") => Ok(FieldValidation::Ignore),
            Some("Strict") => Ok(FieldValidation::Strict),
            Some(other) => Err(Failure::bad_request(format!(
                "Invalid value: fieldValidation: Unsupported value: \"{other}\": supported values: \"Ignore\", \"Strict\", \"Warn\""
            ))),
        }
    }

    pub fn effect(&self) -> Result<Effect, Failure> {
        effect(
            self.pairs.iter().filter(|(name, _)| name == "dryRun").map(|(_, value)| value.as_str()),
        )
    }
}

/// The effect that `dryRun` values ask for, from a query or from DeleteOptions.
pub fn effect<'a>(values: impl Iterator<Item = &'a str>) -> Result<Effect, Failure> {
    let mut effect = Effect::Persist;
    for value in values {
        match value {
            "All" => effect = Effect::DryRun,
            "" => {}
            other => {
                return Err(Failure::bad_request(format!(
                    "Invalid value: dryRun: Unsupported value: \"{other}\": supported values: \"All\""
                )));
            }
        }
    }
    Ok(effect)
}

/// A resource version of a read: zero is "any state".
pub fn resource_version(text: &str) -> Result<u64, Failure> {
    text.parse().map_err(|_| {
        Failure::bad_request(format!(
            "Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax"
        ))
    })
}

//! Field selectors: `metadata.name=web,status.phase!=Running`, with `\` before a literal `,`, `=` or `\`.
//!
//! It never knows which fields a kind offers.

use std::fmt;

/// Requirements on fields, all of which must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

/// One demand on one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldRequirement {
    pub field: String,
    pub value: String,
    /// `!=` instead of `=`.
    pub is_negated: bool,
}

/// Why a field selector cannot be used; the words are those of `k8s.io/apimachinery`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFieldSelector {
    #[error("invalid selector: '{selector}'; can't understand '{term}'")]
    Term { selector: String, term: String },
    #[error("invalid field selector: invalid escape sequence: {0}")]
    Escape(String),
    #[error("invalid field selector: unescaped character in value: {0}")]
    Unescaped(char),
    #[error("field label not supported: {0}")]
    Unsupported(String),
}

impl FieldSelector {
    /// Demands nothing.
    pub fn everything() -> FieldSelector {
        FieldSelector { requirements: Vec::new() }
    }

    /// Reads the text of `?fieldSelector=`. Empty terms are skipped.
    pub fn parse(text: &str) -> Result<FieldSelector, InvalidFieldSelector> {
        let mut requirements = Vec::new();
        for term in split_terms(text) {
            if term.is_empty() {
                continue;
            }
            let Some((field, is_negated, value)) = split_term(term) else {
                return Err(InvalidFieldSelector::Term {
                    selector: text.to_owned(),
                    term: term.to_owned(),
                });
            };
            requirements.push(FieldRequirement {
                field: field.to_owned(),
                value: unescape(value)?,
                is_negated,
            });
        }
        Ok(FieldSelector { requirements })
    }

    /// Refuses the first field that `is_supported` does not know, as a kind's field label conversion does.
    pub fn check(
        self,
        is_supported: impl Fn(&str) -> bool,
    ) -> Result<FieldSelector, InvalidFieldSelector> {
        match self.requirements.iter().find(|r| !is_supported(&r.field)) {
            Some(unknown) => Err(InvalidFieldSelector::Unsupported(unknown.field.clone())),
            None => Ok(self),
        }
    }

    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }

    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The value that `field` must have, if a requirement says so; `metadata.name=web` narrows a list to a get.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.requirements
            .iter()
            .find(|requirement| requirement.field == field && !requirement.is_negated)
            .map(|requirement| requirement.value.as_str())
    }

    /// `field` gives the text of a field, empty for an unset one.
    pub fn matches<'a>(&self, field: impl Fn(&str) -> std::borrow::Cow<'a, str>) -> bool {
        self.requirements.iter().all(|requirement| {
            (field(&requirement.field) == requirement.value) != requirement.is_negated
        })
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, requirement) in self.requirements.iter().enumerate() {
            let comma = if position > 0 { "," } else { "" };
            let operator = if requirement.is_negated { "!=" } else { "=" };
            write!(f, "{comma}{}{operator}", requirement.field)?;
            for letter in requirement.value.chars() {
                if matches!(letter, '\\' | ',' | '=') {
                    f.write_str("\\")?;
                }
                write!(f, "{letter}")?;
            }
        }
        Ok(())
    }
}

/// Cuts at commas that no backslash protects.
fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let mut start = 0;
    let mut is_escaped = false;
    for (position, letter) in text.char_indices() {
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            ',' => {
                terms.push(&text[start..position]);
                start = position + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    let position = term.char_indices().find_map(|(position, letter)| {
        let is_operator = letter == '=' || term[position..].starts_with("!=");
        is_operator.then_some(position)
    })?;
    let (field, rest) = term.split_at(position);
    let (is_negated, value) = match rest.strip_prefix("!=") {
        Some(value) => (true, value),
        None => (false, rest.strip_prefix("==").or(rest.strip_prefix('='))?),
    };
    Some((field, is_negated, value))
}

fn unescape(value: &str) -> Result<String, InvalidFieldSelector> {
    let mut plain = String::with_capacity(value.len());
    let mut letters = value.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => match letters.next() {
                Some(escaped @ ('\\' | ',' | '=')) => plain.push(escaped),
                Some(other) => return Err(InvalidFieldSelector::Escape(format!("\\{other}"))),
                None => return Err(InvalidFieldSelector::Escape("\\".to_owned())),
            },
            ',' | '=' => return Err(InvalidFieldSelector::Unescaped(letter)),
            other => plain.push(other),
        }
    }
    Ok(plain)
}

//! The text form of label selectors: tokens, grammar, and the very words of its syntax errors.
//!
//! ```text
//! selector    = [ requirement { "," requirement } ]
//! requirement = [ "!" ] key | key ( "=" | "==" | "!=" | "<" | ">" ) [ value ] | key ( "in" | "notin" ) "(" values ")"
//! ```
//!
//! It never decides what a requirement matches.

use super::{Operator, Requirement, syntax};

/// Parses a whole selector; the error is the message of the 400 that Kubernetes answers.
pub(super) fn requirements(text: &str) -> Result<Vec<Requirement>, String> {
    let mut parser = Parser { tokens: tokens(text), position: 0 };
    let mut found = Vec::new();
    loop {
        let next = parser.peek();
        match next.kind {
            Kind::Word | Kind::Not => {
                let requirement = parser
                    .requirement()
                    .map_err(|error| format!("unable to parse requirement: {error}"))?;
                found.push(requirement);
            }
            Kind::End => return Ok(found),
            Kind::Comma | Kind::Open | Kind::Close | Kind::Compare(_) | Kind::Unknown => {
                return Err(format!(
                    "found '{}', expected: !, identifier, or 'end of string'",
                    next.text
                ));
            }
        }
        let separator = parser.take();
        match separator.kind {
            Kind::End => return Ok(found),
            Kind::Comma => {
                let after = parser.peek();
                if !matches!(after.kind, Kind::Word | Kind::Not) {
                    return Err(format!("found '{}', expected: identifier after ','", after.text));
                }
            }
            Kind::Word
            | Kind::Not
            | Kind::Open
            | Kind::Close
            | Kind::Compare(_)
            | Kind::Unknown => {
                return Err(format!(
                    "found '{}', expected: ',' or 'end of string'",
                    separator.text
                ));
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    kind: Kind,
    /// As Kubernetes quotes it in errors.
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A key, a value, or the keywords `in` and `notin` (both may also be keys and values).
    Word,
    Not,
    Comma,
    Open,
    Close,
    Compare(Operator),
    Unknown,
    End,
}

fn is_symbol(letter: char) -> bool {
    matches!(letter, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

fn is_space(letter: char) -> bool {
    matches!(letter, ' ' | '\t' | '\r' | '\n')
}

fn symbol(text: &str) -> Option<Kind> {
    Some(match text {
        ")" => Kind::Close,
        "(" => Kind::Open,
        "," => Kind::Comma,
        "!" => Kind::Not,
        "=" => Kind::Compare(Operator::Equals),
        "==" => Kind::Compare(Operator::DoubleEquals),
        "!=" => Kind::Compare(Operator::NotEquals),
        ">" => Kind::Compare(Operator::GreaterThan),
        "<" => Kind::Compare(Operator::LessThan),
        _ => return None,
    })
}

/// Cuts `text` into tokens; the last one is always [`Kind::End`].
fn tokens(text: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while let Some(first) = rest.chars().next().filter(|letter| *letter != '\0') {
        let token = if is_symbol(first) {
            // The longest symbol wins; every single symbol is one, so two letters are enough.
            let pair = rest.get(..2).and_then(|pair| Some((symbol(pair)?, pair)));
            match pair.or_else(|| Some((symbol(&rest[..1])?, &rest[..1]))) {
                Some((kind, text)) => Token { kind, text: text.to_owned() },
                None => Token { kind: Kind::Unknown, text: rest[..1].to_owned() },
            }
        } else {
            let end = rest
                .find(|letter| is_symbol(letter) || is_space(letter) || letter == '\0')
                .unwrap_or(rest.len());
            Token { kind: Kind::Word, text: rest[..end].to_owned() }
        };
        rest = rest[token.text.len()..].trim_start_matches(is_space);
        found.push(token);
    }
    found.push(Token { kind: Kind::End, text: String::new() });
    found
}

struct Parser {
    tokens: Vec<Token>,
    position: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens
            .get(self.position)
            .or(self.tokens.last())
            .expect("tokens() ends every list with End")
    }

    fn take(&mut self) -> Token {
        let token = self.peek().clone();
        self.position += 1;
        token
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let is_negated = self.peek().kind == Kind::Not;
        if is_negated {
            self.take();
        }
        let key = self.take();
        if key.kind != Kind::Word {
            return Err(format!("found '{}', expected: identifier", key.text));
        }
        if let Some(problem) = syntax::key_problem("<nil>", &key.text) {
            return Err(problem);
        }
        let (operator, values) = if is_negated {
            (Operator::DoesNotExist, Vec::new())
        } else if matches!(self.peek().kind, Kind::End | Kind::Comma) {
            (Operator::Exists, Vec::new())
        } else {
            let operator = self.operator()?;
            let values = match operator {
                Operator::In | Operator::NotIn => self.values()?,
                Operator::Equals
                | Operator::DoubleEquals
                | Operator::NotEquals
                | Operator::GreaterThan
                | Operator::LessThan
                | Operator::Exists
                | Operator::DoesNotExist => vec![self.value()?],
            };
            (operator, values)
        };
        Requirement::new(&key.text, operator, values).map_err(|error| error.to_string())
    }

    fn operator(&mut self) -> Result<Operator, String> {
        let token = self.take();
        match (token.kind, token.text.as_str()) {
            (Kind::Compare(operator), _) => Ok(operator),
            (Kind::Word, "in") => Ok(Operator::In),
            (Kind::Word, "notin") => Ok(Operator::NotIn),
            (
                Kind::Word
                | Kind::Not
                | Kind::Comma
                | Kind::Open
                | Kind::Close
                | Kind::Unknown
                | Kind::End,
                other,
            ) => Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
        }
    }

    /// The single value of a comparison; `a=` compares with the empty one.
    fn value(&mut self) -> Result<String, String> {
        if matches!(self.peek().kind, Kind::End | Kind::Comma) {
            return Ok(String::new());
        }
        let token = self.take();
        match token.kind {
            Kind::Word => Ok(token.text),
            Kind::Not
            | Kind::Comma
            | Kind::Open
            | Kind::Close
            | Kind::Compare(_)
            | Kind::Unknown
            | Kind::End => Err(format!("found '{}', expected: identifier", token.text)),
        }
    }

    /// `(a,b)`; an empty place, as in `()`, `(,a)` and `(a,)`, is the empty value.
    fn values(&mut self) -> Result<Vec<String>, String> {
        let open = self.take();
        if open.kind != Kind::Open {
            return Err(format!("found '{}' expected: '('", open.text));
        }
        let first = self.peek();
        if !matches!(first.kind, Kind::Word | Kind::Comma | Kind::Close) {
            return Err(format!("found '{}', expected: ',', ')' or identifier", first.text));
        }
        let mut values = Vec::new();
        loop {
            let token = self.peek().clone();
            match token.kind {
                Kind::Word => {
                    self.take();
                    values.push(token.text);
                }
                Kind::Comma | Kind::Close => values.push(String::new()),
                Kind::Not | Kind::Open | Kind::Compare(_) | Kind::Unknown | Kind::End => {
                    return Err(format!("found '{}', expected: ',', or identifier", token.text));
                }
            }
            let separator = self.take();
            match separator.kind {
                Kind::Comma => {}
                Kind::Close => return Ok(values),
                Kind::Word
                | Kind::Not
                | Kind::Open
                | Kind::Compare(_)
                | Kind::Unknown
                | Kind::End => {
                    return Err(format!("found '{}', expected: ',' or ')'", separator.text));
                }
            }
        }
    }
}

//! GET of a collection: a consistent snapshot, whole or in pages.
//!
//! It never follows changes; see [`super::watch`].

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use crate::api::Api;
use crate::api::catalog::Kind;
use crate::api::failure::{Cause, Failure};
use crate::api::query::{self, Query};
use crate::api::reply::{Answer, Content, Wish};
use crate::api::verbs::selection::Selection;
use crate::api::verbs::{Call, key, write};
use crate::model::key::ObjectKey;
use crate::model::revision::Revision;
use crate::store::{Listed, Scope, Stored, Unavailable};

mod stream;

/// How many stored objects are looked at in one go while a selector discards most of them.
const SCAN: usize = 500;

pub fn list(
    api: &Api,
    call: &Call,
    kind: &'static Kind,
    namespace: Option<&str>,
) -> Result<Answer, Failure> {
    let selection = Selection::parse(kind, &call.query)?;
    let from = Start::of(api, &call.query)?;
    let limit = match call.query.number("limit")?.unwrap_or(0) {
        limit @ 0.. => usize::try_from(limit).unwrap_or(usize::MAX),
        negative => {
            return Err(invalid_option(
                "limit",
                "FieldValueInvalid",
                &format!("Invalid value: {negative}: must be greater than or equal to 0"),
            ));
        }
    };
    if limit == 0 && selection.only_name().is_none() && call.wish.takes_pieces() {
        return whole(api, kind, namespace, selection, &from, call.wish);
    }
    let page = page(api, kind, namespace, &selection, &from, limit)?;
    let mut metadata = Map::new();
    let shown = from.shown.unwrap_or(page.revision);
    metadata.insert("resourceVersion".to_owned(), shown.to_string().into());
    if let Some(last) = &page.next_after {
        let token = Token { revision: Some(shown), after: last.clone() };
        metadata.insert("continue".to_owned(), token.encode().into());
        if selection.is_everything() {
            metadata.insert("remainingItemCount".to_owned(), page.remaining.into());
        }
    }
    Ok(Answer::ok(Content::Stored { items: page.items, metadata: Value::Object(metadata) }))
}

/// A list without a limit: a long one is read while it is sent.
fn whole(
    api: &Api,
    kind: &'static Kind,
    namespace: Option<&str>,
    selection: Selection,
    from: &Start,
    wish: Wish,
) -> Result<Answer, Failure> {
    let mut reader = stream::Reader::new(api, kind, namespace, selection, from);
    let items = reader.next()?;
    let revision = from.shown.or(reader.revision());
    let metadata =
        json!({"resourceVersion": revision.map_or(String::new(), |revision| revision.to_string())});
    Ok(Answer::ok(match reader.is_done() {
        true => Content::Stored { items, metadata },
        false => Content::Raw(stream::response(items, reader, &metadata, wish)),
    }))
}

/// Every object now that `selection` chooses.
pub fn all(
    api: &Api,
    kind: &Kind,
    namespace: Option<&str>,
    selection: &Selection,
) -> Result<Vec<Value>, Failure> {
    let from = Start { at: None, shown: None, after: None };
    page(api, kind, namespace, selection, &from, 0)?
        .items
        .iter()
        .map(|stored| write::show(kind, stored))
        .collect()
}

/// Where a list begins.
struct Start {
    /// The state to list; `None` is the newest.
    at: Option<Revision>,
    /// The revision to name, if it is not that of the state listed.
    shown: Option<Revision>,
    /// The position after which the list goes on.
    after: Option<Position>,
}

/// A place in the order of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Position {
    namespace: Option<String>,
    name: String,
}

impl Position {
    fn key(&self, kind: &Kind) -> ObjectKey {
        key(kind, self.namespace.as_deref(), &self.name)
    }
}

/// The continue token: which state, after which object.
#[derive(Debug, PartialEq, Eq)]
struct Token {
    /// `None` goes on in the newest state, whatever has changed.
    revision: Option<Revision>,
    after: Position,
}

struct Page {
    items: Vec<Stored>,
    revision: Revision,
    next_after: Option<Position>,
    remaining: u64,
}

impl Token {
    fn encode(&self) -> String {
        let text = json!({
            "rv": self.revision.map_or(0, Revision::get),
            "ns": self.after.namespace,
            "name": self.after.name,
        });
        BASE64_URL_SAFE_NO_PAD.encode(text.to_string())
    }

    fn decode(text: &str) -> Result<Token, Failure> {
        let read = || {
            let raw = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
            let value: Value = serde_json::from_slice(&raw).ok()?;
            Some(Token {
                revision: Revision::new(value["rv"].as_u64()?),
                after: Position {
                    namespace: value["ns"].as_str().map(str::to_owned),
                    name: value["name"].as_str()?.to_owned(),
                },
            })
        };
        read().ok_or_else(|| {
            Failure::bad_request("continue key is not valid: it was not made by this server")
        })
    }
}

impl Start {
    fn of(api: &Api, query: &Query) -> Result<Start, Failure> {
        if query.has("sendInitialEvents") {
            return Err(invalid_option(
                "sendInitialEvents",
                "FieldValueForbidden",
                "Forbidden: sendInitialEvents is forbidden for list",
            ));
        }
        let matching = query.get("resourceVersionMatch");
        let asked = query.get("resourceVersion").map(query::resource_version).transpose()?;
        if let Some(text) = query.get("continue") {
            if matching.is_some() {
                return Err(forbidden_match(
                    "resourceVersionMatch is forbidden when continue is provided",
                ));
            }
            if asked.is_some_and(|asked| asked != 0) {
                return Err(Failure::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            let token = Token::decode(text)?;
            return Ok(Start {
                at: token.revision,
                shown: token.revision,
                after: Some(token.after),
            });
        }
        let current = api.inner.store.revision();
        if let Some(asked) = asked
            && asked > current.get()
        {
            return Err(Failure::future_version(asked, current));
        }
        let at = match (matching, asked) {
            (None | Some("NotOlderThan"), Some(_)) | (None, None) => None,
            (Some("Exact"), Some(asked)) => match Revision::new(asked) {
                Some(exact) => Some(exact),
                None => {
                    return Err(forbidden_match(
                        "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                    ));
                }
            },
            (Some("Exact" | "NotOlderThan"), None) => {
                return Err(forbidden_match(
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                ));
            }
            (Some(other), _) => {
                return Err(invalid_option(
                    "resourceVersionMatch",
                    "FieldValueNotSupported",
                    &format!(
                        "Unsupported value: \"{other}\": supported values: \"Exact\", \"NotOlderThan\", \"\""
                    ),
                ));
            }
        };
        Ok(Start { at, shown: at, after: None })
    }
}

fn page(
    api: &Api,
    kind: &Kind,
    namespace: Option<&str>,
    selection: &Selection,
    from: &Start,
    limit: usize,
) -> Result<Page, Failure> {
    // `metadata.name=x` in one namespace is a read of one key.
    if let (Some(name), None, true) =
        (selection.only_name(), from.at, namespace.is_some() || !kind.is_namespaced())
    {
        let revision = api.inner.store.revision();
        let found = api.inner.store.get(&key(kind, namespace, name)).map_err(write::unavailable)?;
        let mut items = Vec::new();
        if let Some(stored) = found
            && selection.matches(&write::show(kind, &stored)?)
        {
            items.push(stored);
        }
        return Ok(Page { items, revision, next_after: None, remaining: 0 });
    }
    let scope = Scope { resource: kind.stored_as(), namespace: namespace.map(Arc::from) };
    let mut after = from.after.as_ref().map(|position| position.key(kind));
    let mut at = from.at;
    let mut items = Vec::new();
    loop {
        let wanted = match (limit, selection.is_everything()) {
            (0, _) => 0,
            (limit, true) => limit - items.len(),
            (_, false) => SCAN,
        };
        let store = &api.inner.store;
        let listed = match selection.is_everything() {
            true => store.list(&scope, after.as_ref(), wanted, at),
            // Nobody is told how many objects remain that a selector has not seen.
            false => store.list_some(&scope, after.as_ref(), wanted, at),
        };
        let listed = listed.map_err(|error| expired(error, after.as_ref()))?;
        at = Some(listed.revision);
        let Listed { items: found, revision, remaining } = listed;
        let count = found.len();
        for (index, stored) in found.into_iter().enumerate() {
            after = Some(stored.key.clone());
            if selection.excludes(&stored.key)
                || !selection.is_everything() && !selection.matches(&write::show(kind, &stored)?)
            {
                continue;
            }
            let position = Position {
                namespace: stored.key.namespace.as_deref().map(str::to_owned),
                name: stored.key.name.to_string(),
            };
            items.push(stored);
            let is_last = index + 1 == count && remaining == 0;
            if limit > 0 && items.len() == limit && !is_last {
                return Ok(Page {
                    items,
                    revision,
                    next_after: Some(position),
                    remaining: remaining + (count - index - 1) as u64,
                });
            }
        }
        if remaining == 0 || count == 0 {
            return Ok(Page { items, revision, next_after: None, remaining: 0 });
        }
    }
}

fn expired(error: Unavailable, after: Option<&ObjectKey>) -> Failure {
    let (Unavailable::Expired { .. }, Some(after)) = (&error, after) else {
        return write::unavailable(error);
    };
    let token = Token {
        revision: None,
        after: Position {
            namespace: after.namespace.as_deref().map(str::to_owned),
            name: after.name.to_string(),
        },
    };
    Failure::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    )
    .with_continue(token.encode())
}

fn forbidden_match(why: &str) -> Failure {
    invalid_option("resourceVersionMatch", "FieldValueForbidden", &format!("Forbidden: {why}"))
}

/// A 422 about one of the ListOptions.
pub fn invalid_option(field: &str, reason: &str, message: &str) -> Failure {
    Failure::invalid_causes(
        "meta.k8s.io",
        "ListOptions",
        "",
        vec![Cause {
            reason: reason.to_owned(),
            message: message.to_owned(),
            field: field.to_owned(),
        }],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_way_there_and_back_and_garbage_does_not() {
        let token = Token {
            revision: Some(Revision::FIRST),
            after: Position { namespace: Some("a".to_owned()), name: "b".to_owned() },
        };
        assert_eq!(Token::decode(&token.encode()).ok(), Some(token));
        for garbage in ["", "x", "e30", "////", "bnVsbA"] {
            assert!(Token::decode(garbage).is_err(), "{garbage}");
        }
    }
}

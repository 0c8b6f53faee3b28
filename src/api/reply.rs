//! From what a verb found to the HTTP answer: shape (object, table, metadata only), encoding, headers.
//!
//! It never decides what a client may see.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value, json};

use crate::api::catalog::Kind;
use crate::api::failure::Failure;
use crate::api::negotiate::{self, Encoding, Representation, Shape};
use crate::api::table::{self, IncludeObject};
use crate::api::verbs::write;
use crate::api::{object, presentation};
use crate::store::Stored;
use crate::sys::clock;

/// What a verb answers.
#[derive(Debug)]
pub enum Content {
    /// One object of the kind.
    One(Value),
    /// Objects of the kind, and the list's own metadata.
    Many { items: Vec<Value>, metadata: Value },
    /// As `Many`, not read yet: a long list is never held as parsed objects unless it must be.
    Stored { items: Vec<Stored>, metadata: Value },
    /// A workload's Scale.
    Scale(Value),
    /// Something that is not of the kind (a Status, a TokenRequest): never a table.
    Other(Value),
    /// A finished answer (streams).
    Raw(Response<Body>),
}

/// A verb's answer with its code and the warnings it earned.
#[derive(Debug)]
pub struct Answer {
    pub code: StatusCode,
    pub content: Content,
    pub warnings: Vec<String>,
}

impl Answer {
    pub fn ok(content: Content) -> Answer {
        Answer { code: StatusCode::OK, content, warnings: Vec::new() }
    }

    pub fn created(content: Content) -> Answer {
        Answer { code: StatusCode::CREATED, ..Answer::ok(content) }
    }

    pub fn with_warnings(mut self, warnings: Vec<String>) -> Answer {
        self.warnings.extend(warnings);
        self
    }
}

/// How the client wants it.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    pub representation: Representation,
    pub include_object: IncludeObject,
    /// Indented JSON.
    pub is_pretty: bool,
}

impl Wish {
    /// Whether a long list may be answered in pieces: as JSON that is not indented.
    pub fn takes_pieces(&self) -> bool {
        self.representation.encoding == Encoding::Json && !self.is_pretty
    }
}

/// Renders `answer` about objects of `kind`.
pub fn render(kind: &Kind, wish: Wish, answer: Answer) -> Result<Response<Body>, Failure> {
    let content = match answer.content {
        Content::Stored { items, metadata } => {
            if wish.representation == negotiate::JSON
                && let Some(text) = splice_list(kind, &items, &metadata)
            {
                let mut response = text_response(answer.code, "application/json", text);
                add_warnings(&mut response, &answer.warnings);
                return Ok(response);
            }
            Content::Many {
                items: items
                    .iter()
                    .map(|stored| write::show(kind, stored))
                    .collect::<Result<_, _>>()?,
                metadata,
            }
        }
        other => other,
    };
    let value = match content {
        Content::Stored { .. } => unreachable!("read above"),
        Content::Raw(mut response) => {
            add_warnings(&mut response, &answer.warnings);
            return Ok(response);
        }
        Content::Other(value) => value,
        Content::One(value) => one(&kind.resource(), value, wish),
        Content::Scale(value) => one("scales.autoscaling", value, wish),
        Content::Many { items, metadata } => match wish.representation.shape {
            Shape::Object => {
                list(&format!("{}List", kind.kind), &kind.api_version(), metadata, items)
            }
            Shape::PartialMetadata => list(
                "PartialObjectMetadataList",
                "meta.k8s.io/v1",
                metadata,
                items.into_iter().map(partial_metadata).collect(),
            ),
            Shape::Table => {
                table::render(&kind.resource(), &items, wish.include_object, metadata, clock::now())
            }
        },
    };
    let mut response = encode(&value, wish.representation.encoding)?;
    *response.status_mut() = answer.code;
    add_warnings(&mut response, &answer.warnings);
    Ok(response)
}

/// A single object of `resource` in the shape of `wish`.
fn one(resource: &str, value: Value, wish: Wish) -> Value {
    match wish.representation.shape {
        Shape::Object => value,
        Shape::PartialMetadata => partial_metadata(value),
        Shape::Table => {
            let metadata = json!({"resourceVersion": value["metadata"]["resourceVersion"]});
            let rows = std::slice::from_ref(&value);
            table::render(resource, rows, wish.include_object, metadata, clock::now())
        }
    }
}

/// The list as text, put together from what is stored; `None` if something must be read first.
fn splice_list(kind: &Kind, items: &[Stored], metadata: &Value) -> Option<Vec<u8>> {
    if !presentation::shows_as_stored(kind) {
        return None;
    }
    let size: usize = items.iter().map(|stored| stored.value.len() + 40).sum();
    let mut text = Vec::with_capacity(size + 200);
    text.extend_from_slice(list_head(kind, Shape::Object, metadata).as_bytes());
    for (index, stored) in items.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        if !object::splice(&mut text, &stored.value, stored.revision) {
            return None;
        }
    }
    text.extend_from_slice(b"]}\n");
    Some(text)
}

/// A list's text up to its first item; `]}` ends it.
pub fn list_head(kind: &Kind, shape: Shape, metadata: &Value) -> String {
    let head = |kind: &str, api_version: &str| {
        format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{metadata}")
    };
    match shape {
        Shape::Object => head(&format!("{}List", kind.kind), &kind.api_version()) + ",\"items\":[",
        Shape::PartialMetadata => {
            head("PartialObjectMetadataList", "meta.k8s.io/v1") + ",\"items\":["
        }
        Shape::Table => {
            let columns = Value::Array(table::columns(&kind.resource()));
            let head = head("Table", "meta.k8s.io/v1");
            format!("{head},\"columnDefinitions\":{columns},\"rows\":[")
        }
    }
}

/// Appends one item of such a list.
pub fn list_item(
    kind: &Kind,
    wish: Wish,
    stored: &Stored,
    text: &mut Vec<u8>,
) -> Result<(), Failure> {
    let shape = wish.representation.shape;
    let is_as_stored = shape == Shape::Object && presentation::shows_as_stored(kind);
    if is_as_stored && object::splice(text, &stored.value, stored.revision) {
        return Ok(());
    }
    let item = write::show(kind, stored)?;
    let item = match shape {
        Shape::Object => item,
        Shape::PartialMetadata => partial_metadata(item),
        Shape::Table => table::row(&kind.resource(), &item, wish.include_object, clock::now()),
    };
    text.extend_from_slice(item.to_string().as_bytes());
    Ok(())
}

/// The same JSON, indented by two as encoding/json does it for `?pretty=true`; `None` if it is none.
pub fn indented(text: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(text).ok()?;
    serde_json::to_string_pretty(&value).ok()
}

/// `object` reduced to what PartialObjectMetadata carries.
pub fn partial_metadata(mut object: Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object["metadata"].take(),
    })
}

fn list(kind: &str, api_version: &str, metadata: Value, items: Vec<Value>) -> Value {
    let mut list = Map::new();
    list.insert("kind".to_owned(), kind.into());
    list.insert("apiVersion".to_owned(), api_version.into());
    list.insert("metadata".to_owned(), metadata);
    list.insert("items".to_owned(), Value::Array(items));
    Value::Object(list)
}

/// A 200 with `value` as JSON or YAML.
pub fn encode(value: &Value, encoding: Encoding) -> Result<Response<Body>, Failure> {
    let (text, content_type) = match encoding {
        Encoding::Json => (format!("{value}\n"), "application/json"),
        Encoding::Yaml => (
            serde_saphyr::to_string(value)
                .map_err(|_| Failure::internal("the object has no YAML form"))?,
            "application/yaml",
        ),
    };
    Ok(text_response(StatusCode::OK, content_type, text))
}

/// A finished text.
pub fn text_response(
    code: StatusCode,
    content_type: &'static str,
    text: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::new(Body::from(text.into()));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Beyond this many characters in all, each warning is cut and the rest left out, as in Kubernetes: headers
/// have their limits in every client.
const WARNINGS_LENGTH: usize = 4096;
/// What remains of a warning that is cut.
const WARNING_LENGTH: usize = 256;

/// kubectl prints each as "Warning: text".
pub fn add_warnings(response: &mut Response<Body>, warnings: &[String]) {
    let length = |text: &String| text.chars().count();
    let longest = match warnings.iter().map(length).sum() {
        0..=WARNINGS_LENGTH => WARNINGS_LENGTH,
        _ => WARNING_LENGTH,
    };
    let mut room = WARNINGS_LENGTH;
    for text in warnings {
        let text: String = text.chars().filter(|c| !c.is_control()).take(longest).collect();
        let Some(left) = room.checked_sub(length(&text)) else { break };
        room = left;
        let quoted = text.replace('\\', r"\\").replace('"', r#"\""#);
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

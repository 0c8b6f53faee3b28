//! Request bodies: decoded, typed, and judged by `fieldValidation`.
//!
//! It never changes what a known field says.

use http::header;
use serde_json::Value;

use crate::api::catalog::GroupVersionKind;
use crate::api::decode::{self, DecodeError, Decoded};
use crate::api::failure::Failure;
use crate::api::negotiate::{self, BodyType};
use crate::api::query::FieldValidation;
use crate::api::schema;
use crate::api::verbs::Call;

/// A body that has the expected type.
#[derive(Debug)]
pub struct Typed {
    pub object: Value,
    /// Fields that were dropped, as warnings.
    pub warnings: Vec<String>,
}

/// Reads the body as an object of `expected`.
pub fn read(call: &Call, expected: GroupVersionKind) -> Result<Typed, Failure> {
    let decoded = decode(call)?;
    typed(decoded, expected, call.query.field_validation()?, |why| cannot_be(expected, why))
}

/// Reads the body, whatever it is.
pub fn decode(call: &Call) -> Result<Decoded, Failure> {
    let body = &call.body;
    match negotiate::body_type(call.header(header::CONTENT_TYPE))? {
        BodyType::Json => decode::json(body),
        BodyType::Yaml => decode::yaml(body),
        BodyType::Protobuf => decode::protobuf(body),
    }
    .map_err(malformed)
}

/// A body that does not decode.
pub fn malformed(error: DecodeError) -> Failure {
    Failure::bad_request(format!(
        "the object provided is unrecognized: couldn't get version/kind; {error}"
    ))
}

/// Checks a decoded value against `expected`; `cannot` makes the refusal of what has other fields.
pub fn typed(
    decoded: Decoded,
    expected: GroupVersionKind,
    validation: FieldValidation,
    cannot: impl Fn(&str) -> Failure,
) -> Result<Typed, Failure> {
    let mut object = decoded.value;
    let api_version = expected.api_version();
    let kind = expected.kind;
    if !object.is_object() {
        return Err(Failure::bad_request(
            "the object provided is unrecognized: the body must be an object",
        ));
    }
    match object["apiVersion"].as_str() {
        None | Some("") => object["apiVersion"] = api_version.clone().into(),
        Some(own) if own == api_version => {}
        Some(own) => {
            return Err(Failure::bad_request(format!(
                "the API version in the data ({own}) does not match the expected API version ({api_version})"
            )));
        }
    }
    match object["kind"].as_str() {
        None | Some("") => object["kind"] = kind.into(),
        Some(own) if own == kind => {}
        Some(own) => {
            return Err(Failure::bad_request(format!(
                "{own} in version \"{}\" cannot be handled as a {kind}: the kinds differ",
                expected.version
            )));
        }
    }
    let unknown = schema::check(&api_version, kind, &mut object).map_err(|why| cannot(&why))?;
    let findings: Vec<String> = unknown
        .iter()
        .map(|path| format!("unknown field \"{path}\""))
        .chain(decoded.duplicates.iter().map(|path| format!("duplicate field \"{path}\"")))
        .collect();
    let warnings = match validation {
        FieldValidation::Strict if !findings.is_empty() => {
            return Err(cannot(&format!("strict decoding error: {}", findings.join(", "))));
        }
        FieldValidation::Strict | FieldValidation::Ignore => Vec::new(),
        FieldValidation::Warn => findings,
    };
    Ok(Typed { object, warnings })
}

fn cannot_be(expected: GroupVersionKind, why: &str) -> Failure {
    let GroupVersionKind { version, kind, .. } = expected;
    Failure::bad_request(format!(
        "{kind} in version \"{version}\" cannot be handled as a {kind}: {why}"
    ))
}

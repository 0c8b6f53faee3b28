//! Single values: what Go accepts for each type, and what it says otherwise.

use std::borrow::Cow;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value};

use super::super::{Field, Item, Shape};
use super::Place;
use crate::model::quantity::Quantity;
use crate::model::time::Timestamp;

/// As lenient as Go's `base64.StdEncoding`.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

pub(super) fn check(
    value: &mut Value,
    item: Item,
    field: Option<&Field>,
    place: Place<'_>,
) -> Result<(), String> {
    let mismatch = |value: &Value| {
        let found = match value {
            // Go shows the text of a number that does not fit a numeric type.
            Value::Number(number) if matches!(item, Item::Int32 | Item::Int64) => {
                Cow::from(format!("number {number}"))
            }
            _ => Cow::from(json_type(value)),
        };
        Err(place.mismatch(&found, &go_item(item, field)))
    };
    match (item, &*value) {
        (Item::Raw, _) => Ok(()),
        (Item::String, Value::String(_)) | (Item::Bool, Value::Bool(_)) => Ok(()),
        (Item::Double, Value::Number(_)) => Ok(()),
        (Item::Int32, Value::Number(number)) => match number.as_i64().map(i32::try_from) {
            Some(Ok(_)) => Ok(()),
            _ => mismatch(value),
        },
        (Item::Int64, Value::Number(number)) if number.is_i64() => Ok(()),
        (Item::Bytes, Value::String(text)) => base64(text).map(|clean| {
            if let Some(clean) = clean {
                *value = clean.into();
            }
        }),
        (Item::IntOrString, Value::String(_)) => Ok(()),
        (Item::IntOrString, Value::Number(number)) => match number.as_i64().map(i32::try_from) {
            Some(Ok(_)) => Ok(()),
            _ => Err(go_value(&format!("number {number}"), "int32")),
        },
        (Item::IntOrString, other) => Err(go_value(json_type(other), "int32")),
        (Item::Quantity, other) => {
            Quantity::from_json(other).map(|_| ()).map_err(|error| error.to_string())
        }
        (Item::Time, Value::String(text)) => {
            let time = time(text, "2006-01-02T15:04:05Z07:00")?;
            *value = time.to_seconds_text().into();
            Ok(())
        }
        (Item::MicroTime, Value::String(text)) => {
            let time = time(text, "2006-01-02T15:04:05.000000Z07:00")?;
            *value = time.to_micros_text().into();
            Ok(())
        }
        (Item::Time | Item::MicroTime, other) => Err(go_value(json_type(other), "string")),
        (
            Item::String
            | Item::Bytes
            | Item::Int32
            | Item::Int64
            | Item::Bool
            | Item::Double
            | Item::Strings
            | Item::Object(_),
            other,
        ) => mismatch(other),
    }
}

/// A type's own decoder does not know where it stands.
fn go_value(found: &str, wanted: &str) -> String {
    format!("json: cannot unmarshal {found} into Go value of type {wanted}")
}

/// What Go leaves for a null in a list or map.
pub(super) fn zero(item: Item) -> Value {
    match item {
        Item::String | Item::Bytes => "".into(),
        Item::Int32 | Item::Int64 | Item::Double | Item::IntOrString => 0.into(),
        Item::Bool => false.into(),
        Item::Quantity => "0".into(),
        Item::Strings => Value::Array(Vec::new()),
        Item::Object(_) => Value::Object(Map::new()),
        Item::Time | Item::MicroTime | Item::Raw => Value::Null,
    }
}

pub(super) fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

pub(super) fn go_shape(shape: Shape, field: &Field) -> String {
    match shape {
        Shape::One(item) => go_item(item, Some(field)).into_owned(),
        Shape::List(item) => format!("[]{}", go_item(item, Some(field))),
        Shape::Map(Item::Quantity) => "v1.ResourceList".into(),
        Shape::Map(item) => format!("map[string]{}", go_item(item, None)),
    }
}

fn go_item(item: Item, field: Option<&Field>) -> Cow<'static, str> {
    Cow::from(match item {
        Item::String => {
            let named =
                field.and_then(|field| NAMED_STRINGS.iter().find(|(name, _)| *name == field.name));
            named.map_or("string", |(_, go)| go)
        }
        Item::Bytes => "[]uint8",
        Item::Int32 | Item::IntOrString => "int32",
        Item::Int64 => "int64",
        Item::Bool => "bool",
        Item::Double => "float64",
        Item::Quantity => "resource.Quantity",
        Item::Time => "v1.Time",
        Item::MicroTime => "v1.MicroTime",
        Item::Raw => "runtime.RawExtension",
        Item::Strings => "[]string",
        Item::Object(id) => id.get().go_type(),
    })
}

/// Members whose Go type is a named string wherever they occur.
const NAMED_STRINGS: &[(&str, &str)] = &[
    ("accessModes", "v1.PersistentVolumeAccessMode"),
    ("concurrencyPolicy", "v1.ConcurrencyPolicy"),
    ("dnsPolicy", "v1.DNSPolicy"),
    ("imagePullPolicy", "v1.PullPolicy"),
    ("mountPropagation", "v1.MountPropagationMode"),
    ("pathType", "v1.PathType"),
    ("persistentVolumeReclaimPolicy", "v1.PersistentVolumeReclaimPolicy"),
    ("policyTypes", "v1.PolicyType"),
    ("preemptionPolicy", "v1.PreemptionPolicy"),
    ("propagationPolicy", "v1.DeletionPropagation"),
    ("protocol", "v1.Protocol"),
    ("scheme", "v1.URIScheme"),
    ("sessionAffinity", "v1.ServiceAffinity"),
    ("terminationMessagePolicy", "v1.TerminationMessagePolicy"),
    ("uid", "types.UID"),
    ("volumeMode", "v1.PersistentVolumeMode"),
    ("whenUnsatisfiable", "v1.UnsatisfiableConstraintAction"),
];

/// The text without the line breaks Go ignores, if it has any.
fn base64(text: &str) -> Result<Option<String>, String> {
    let has_breaks = text.contains(['\n', '\r']);
    let clean = has_breaks.then(|| text.replace(['\n', '\r'], ""));
    let decoded = BASE64.decode(clean.as_deref().unwrap_or(text));
    decoded.map(|_| clean).map_err(|error| {
        let at = match error {
            base64::DecodeError::InvalidByte(at, _)
            | base64::DecodeError::InvalidLastSymbol(at, _) => at,
            base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => {
                // Go points at the start of the broken last group.
                text.len() / 4 * 4
            }
        };
        format!("illegal base64 data at input byte {at}")
    })
}

/// RFC 3339 and nothing else, told apart as Go's `time.Parse` does.
fn time(text: &str, layout: &str) -> Result<Timestamp, String> {
    const STEPS: [(usize, &str); 6] =
        [(4, "2006"), (7, "01"), (10, "02"), (13, "15"), (16, "04"), (19, "05")];
    let bytes = text.as_bytes();
    let fail = |rest: &str, element: &str| {
        let shown = |text: &str| text.chars().take(64).collect::<String>();
        Err(format!(
            "parsing time {:?} as {layout:?}: cannot parse {:?} as {element:?}",
            shown(text),
            shown(rest),
        ))
    };
    let mut start = 0;
    for ((end, element), separator) in STEPS.into_iter().zip(*b"--T::\0") {
        let rest = text.get(start..).unwrap_or("");
        let digits = bytes.get(start..end);
        if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_digit)) {
            return fail(rest, element);
        }
        start = end;
        if separator != 0 {
            if bytes.get(end) != Some(&separator) {
                return fail(text.get(end..).unwrap_or(""), &char::from(separator).to_string());
            }
            start += 1;
        }
    }
    let zone = text[start..].trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let zone_digits = zone.get(1..).unwrap_or("").as_bytes();
    let is_offset = zone.starts_with(['+', '-'])
        && matches!(zone_digits, [a, b, b':', c, d] if [a, b, c, d].iter().all(|d| d.is_ascii_digit()));
    if zone != "Z" && !is_offset {
        return fail(zone, "Z07:00");
    }
    text.parse().map_err(|_| format!("parsing time {text:?}: day out of range"))
}

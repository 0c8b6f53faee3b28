//! Values that JSON writes as one piece, and which zeros mean "unset".

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Number, Value};

use super::super::{DecodeError, json};
use super::broken;
use super::wire::{Reader, Wire};
use crate::api::schema::{Field, Item};
use crate::model::time::Timestamp;

/// A struct's member; `None` if Go would leave it out of JSON.
pub(super) fn member(
    field: &Field,
    item: Item,
    wire: Wire<'_>,
) -> Result<Option<Value>, DecodeError> {
    let value = element(item, wire)?;
    let is_unset = match (&value, item) {
        (Value::Null, _) => true,
        (Value::String(text), Item::IntOrString) => text.is_empty() && field.omits_zero,
        (Value::String(text), _) => text.is_empty() && !field.is_required && !field.keeps_empty,
        (Value::Bool(value), _) => !value && field.omits_zero,
        (Value::Number(number), _) => number.as_i64() == Some(0) && field.omits_zero,
        (Value::Array(_) | Value::Object(_), _) => false,
    };
    Ok((!is_unset).then_some(value))
}

/// A list's element or map's value: empty strings and zeros stay.
pub(super) fn element(item: Item, wire: Wire<'_>) -> Result<Value, DecodeError> {
    Ok(match item {
        Item::String => wire.text()?.into(),
        Item::Bytes => STANDARD.encode(wire.bytes()?).into(),
        // Narrowing as Go does: a negative int32 travels as ten bytes.
        Item::Int32 => (wire.number()? as i32).into(),
        Item::Int64 => (wire.number()? as i64).into(),
        Item::Bool => (wire.number()? != 0).into(),
        Item::Double => match wire {
            Wire::Fixed64(bits) => Number::from_f64(f64::from_bits(bits))
                .map(Value::Number)
                .ok_or_else(|| broken("not a finite number"))?,
            Wire::Varint(_) | Wire::Bytes(_) | Wire::Fixed32(_) => {
                return Err(broken("wrong wireType"));
            }
        },
        Item::IntOrString => int_or_string(wire.bytes()?)?,
        Item::Quantity => first(wire.bytes()?)?.map_or(Ok(""), Wire::text)?.into(),
        Item::Time => time(wire.bytes()?)?.map(Timestamp::to_seconds_text).into(),
        Item::MicroTime => time(wire.bytes()?)?.map(Timestamp::to_micros_text).into(),
        Item::Raw => match first(wire.bytes()?)?.map_or(Ok(&b""[..]), Wire::bytes)? {
            b"" => Value::Null,
            text => json::decode(text)?.value,
        },
        // Both are messages of their own, decoded where recursion is counted.
        Item::Strings | Item::Object(_) => return Err(broken("wrong wireType")),
    })
}

/// What a map entry without a value holds.
pub(super) fn unset(item: Item) -> Wire<'static> {
    match item {
        Item::Int32 | Item::Int64 | Item::Bool => Wire::Varint(0),
        Item::Double => Wire::Fixed64(0),
        Item::String
        | Item::Bytes
        | Item::IntOrString
        | Item::Quantity
        | Item::Time
        | Item::MicroTime
        | Item::Raw
        | Item::Strings
        | Item::Object(_) => Wire::Bytes(&[]),
    }
}

/// Field 1 of a wrapper message.
fn first(bytes: &[u8]) -> Result<Option<Wire<'_>>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let mut found = None;
    while let Some((tag, wire)) = reader.next()? {
        if tag == 1 {
            found = Some(wire);
        }
    }
    Ok(found)
}

/// `{1 type (0 int, 1 string), 2 intVal, 3 strVal}`.
fn int_or_string(bytes: &[u8]) -> Result<Value, DecodeError> {
    let (mut is_string, mut number, mut text) = (false, 0, "");
    let mut reader = Reader::new(bytes);
    while let Some((tag, wire)) = reader.next()? {
        match tag {
            1 => is_string = wire.number()? != 0,
            2 => number = wire.number()? as i32,
            3 => text = wire.text()?,
            _ => {}
        }
    }
    Ok(if is_string { text.into() } else { number.into() })
}

/// `{1 seconds, 2 nanos}`; an empty message is Go's zero time, null in JSON.
fn time(bytes: &[u8]) -> Result<Option<Timestamp>, DecodeError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader::new(bytes);
    while let Some((tag, wire)) = reader.next()? {
        match tag {
            1 => seconds = wire.number()? as i64,
            2 => nanos = wire.number()? as i32,
            _ => {}
        }
    }
    if !(-62_135_596_800..=253_402_300_799).contains(&seconds)
        || !(0..1_000_000_000).contains(&nanos)
    {
        return Err(broken("time out of range"));
    }
    Ok(Some(Timestamp::from_unix(seconds, nanos)))
}

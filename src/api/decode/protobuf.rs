//! Kubernetes' protobuf bodies, decoded by the table of types into the JSON they stand for.
//!
//! It never needs a compiled message: names, numbers and types come from [`crate::api::schema`]. Field
//! numbers without a row are skipped, as every protobuf decoder does.
//!
//! ```text
//! "k8s\0"  Unknown { 1 typeMeta { 1 apiVersion, 2 kind }, 2 raw, 3 contentEncoding, 4 contentType }
//! ```

mod scalar;
#[cfg(test)]
mod tests;
mod wire;

use serde_json::{Map, Value};

use self::wire::{Reader, Wire};
use super::{DecodeError, Decoded, MAX_DEPTH, MAX_NODES};
use crate::api::schema::{self, Field, Item, Shape, Type};

/// First bytes of every Kubernetes protobuf body.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// Decodes an enveloped object of any kind the table knows.
///
/// Zero values that Go would leave out of JSON are left out: protobuf carries every field that is not
/// a pointer. There can be no duplicates.
///
/// # Errors
/// [`DecodeError::Protobuf`] for a broken envelope or message, [`DecodeError::UnknownKind`],
/// [`DecodeError::TooDeep`], [`DecodeError::TooMany`].
pub fn decode(body: &[u8]) -> Result<Decoded, DecodeError> {
    let envelope = Envelope::read(body)?;
    let Envelope { api_version, kind, raw } = envelope;
    let Some(shape) = schema::lookup(api_version, kind) else {
        return Err(DecodeError::UnknownKind {
            api_version: api_version.into(),
            kind: kind.into(),
        });
    };
    let mut object = Map::new();
    object.insert("kind".into(), kind.into());
    object.insert("apiVersion".into(), api_version.into());
    Decoding { nodes: 0 }.message(raw, shape, &mut object, 0)?;
    Ok(Decoded { value: Value::Object(object), duplicates: Vec::new() })
}

struct Envelope<'a> {
    api_version: &'a str,
    kind: &'a str,
    raw: &'a [u8],
}

impl Envelope<'_> {
    fn read(body: &[u8]) -> Result<Envelope<'_>, DecodeError> {
        let unknown = body
            .strip_prefix(MAGIC)
            .ok_or_else(|| broken("provided data does not appear to be a protobuf message"))?;
        let mut envelope = Envelope { api_version: "", kind: "", raw: &[] };
        let mut reader = Reader::new(unknown);
        while let Some((tag, wire)) = reader.next()? {
            match (tag, wire) {
                (1, Wire::Bytes(type_meta)) => {
                    let mut reader = Reader::new(type_meta);
                    while let Some((tag, wire)) = reader.next()? {
                        match tag {
                            1 => envelope.api_version = wire.text()?,
                            2 => envelope.kind = wire.text()?,
                            _ => {}
                        }
                    }
                }
                (2, Wire::Bytes(raw)) => envelope.raw = raw,
                (3, Wire::Bytes(encoding)) if !encoding.is_empty() => {
                    return Err(broken("the envelope's content encoding is not supported"));
                }
                (4, Wire::Bytes(content))
                    if !content.is_empty() && content != b"application/vnd.kubernetes.protobuf" =>
                {
                    return Err(broken("the envelope's content type is not supported"));
                }
                _ => {}
            }
        }
        Ok(envelope)
    }
}

fn broken(text: &str) -> DecodeError {
    DecodeError::Protobuf(text.into())
}

struct Decoding {
    nodes: usize,
}

impl Decoding {
    /// Embedded JSON counts by its length: at least four bytes a value in real objects.
    fn count_raw(&mut self, item: Item, wire: Wire<'_>) -> Result<(), DecodeError> {
        if item == Item::Raw {
            self.nodes = self.nodes.saturating_add(wire.bytes()?.len() / 4);
        }
        self.count()
    }

    fn count(&mut self) -> Result<(), DecodeError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES { Err(DecodeError::TooMany) } else { Ok(()) }
    }

    /// Merges the members of one message into `object`.
    fn message(
        &mut self,
        bytes: &[u8],
        shape: &'static Type,
        object: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), DecodeError> {
        if depth >= MAX_DEPTH {
            return Err(DecodeError::TooDeep);
        }
        let mut reader = Reader::new(bytes);
        while let Some((tag, wire)) = reader.next()? {
            if let Some(field) = shape.tagged(tag) {
                self.count_raw(field.shape.item(), wire)?;
                self.field(field, wire, object, depth)?;
            } else if let Some(embedded) = shape.embedded(tag) {
                self.message(wire.bytes()?, embedded, object, depth + 1)?;
            }
        }
        Ok(())
    }

    fn field(
        &mut self,
        field: &Field,
        wire: Wire<'_>,
        object: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), DecodeError> {
        match field.shape {
            Shape::One(Item::Object(id)) => {
                let bytes = wire.bytes()?;
                let member = object.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(member) = member {
                    self.message(bytes, id.get(), member, depth + 1)?;
                }
            }
            Shape::One(item) => match scalar::member(field, item, wire)? {
                Some(value) => {
                    object.insert(field.name.into(), value);
                }
                // The last occurrence counts, also when it says "unset".
                None => {
                    object.shift_remove(field.name);
                }
            },
            Shape::List(item) => {
                let list = object.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                let Value::Array(list) = list else { return Ok(()) };
                match (item, wire) {
                    (Item::Int32 | Item::Int64, Wire::Bytes(packed)) => {
                        let mut reader = Reader::new(packed);
                        while !reader.is_empty() {
                            self.count()?;
                            list.push(scalar::element(item, Wire::Varint(reader.varint()?))?);
                        }
                    }
                    (item, wire) => list.push(self.element(item, wire, depth)?),
                }
            }
            Shape::Map(item) => {
                let mut key = "";
                let mut value = None;
                let mut reader = Reader::new(wire.bytes()?);
                while let Some((tag, wire)) = reader.next()? {
                    match tag {
                        1 => key = wire.text()?,
                        2 => value = Some(self.element(item, wire, depth)?),
                        _ => {}
                    }
                }
                let value = match value {
                    Some(value) => value,
                    None => self.element(item, scalar::unset(item), depth)?,
                };
                let map = object.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(map) = map {
                    map.insert(key.into(), value);
                }
            }
        }
        Ok(())
    }

    /// A value in a list or map, where zero values count.
    fn element(&mut self, item: Item, wire: Wire<'_>, depth: usize) -> Result<Value, DecodeError> {
        match item {
            Item::Object(id) => {
                let mut object = Map::new();
                self.message(wire.bytes()?, id.get(), &mut object, depth + 1)?;
                Ok(Value::Object(object))
            }
            Item::Strings => {
                let mut list = Vec::new();
                let mut reader = Reader::new(wire.bytes()?);
                while let Some((tag, wire)) = reader.next()? {
                    if tag == 1 {
                        self.count()?;
                        list.push(wire.text()?.into());
                    }
                }
                Ok(Value::Array(list))
            }
            item => scalar::element(item, wire),
        }
    }
}

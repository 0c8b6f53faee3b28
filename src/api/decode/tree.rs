//! Builds a JSON value from any self-describing text, noting members that occur twice.
//!
//! It bounds depth and node count, whatever the format in front of it allows.

use std::cell::RefCell;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::path::{Findings, Path};
use super::{MAX_DEPTH, MAX_NODES, TOO_DEEP, TOO_MANY};

/// What one decoding run collects.
#[derive(Debug, Default)]
pub(super) struct Run {
    pub(super) duplicates: Findings,
    nodes: usize,
}

/// Decodes one value at `path`.
#[derive(Clone, Copy)]
pub(super) struct Seed<'a> {
    pub(super) run: &'a RefCell<Run>,
    pub(super) path: &'a Path<'a>,
    pub(super) depth: usize,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let mut run = self.run.borrow_mut();
        run.nodes += 1;
        if run.nodes > MAX_NODES {
            return Err(de::Error::custom(TOO_MANY));
        }
        drop(run);
        deserializer.deserialize_any(self)
    }
}

impl Seed<'_> {
    fn enter<E: de::Error>(&self) -> Result<usize, E> {
        match self.depth {
            MAX_DEPTH.. => Err(E::custom(TOO_DEEP)),
            depth => Ok(depth + 1),
        }
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("unsupported value: not a finite number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let depth = self.enter()?;
        let mut list = Vec::new();
        loop {
            let path = self.path.index(list.len());
            match elements.next_element_seed(Seed { run: self.run, path: &path, depth })? {
                Some(element) => list.push(element),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let depth = self.enter()?;
        let mut map = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let path = self.path.member(&name);
            if map.contains_key(&name) {
                self.run.borrow_mut().duplicates.push(&path);
            }
            let value = members.next_value_seed(Seed { run: self.run, path: &path, depth })?;
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

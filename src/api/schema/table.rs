//! Reads `types.txt` once into memory.
//!
//! It never checks the table against its sources; the `generate` test does.
//!
//! ```text
//! core.v1.Container                       a type (then its kinds as apiVersion:Kind, then `atomic`)
//!  env 7 []core.v1.EnvVar merge=name …    member, protobuf number or -, type, properties
//!  < 1 core.v1.probehandler               embedded struct: protobuf number, type
//! ```

use std::collections::HashMap;
use std::sync::OnceLock;

use super::{Field, Item, Merge, Shape, Structure, Type, TypeId};

static TEXT: &str = include_str!("types.txt");

/// All types, built at first use (about 300 KiB, a millisecond).
pub(super) fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| parse(TEXT))
}

pub(super) struct Table {
    types: Vec<Type>,
    by_name: HashMap<&'static str, TypeId>,
    by_kind: HashMap<(&'static str, &'static str), TypeId>,
}

impl Table {
    pub(super) fn at(&self, id: TypeId) -> &Type {
        &self.types[usize::from(id.0)]
    }

    pub(super) fn named(&self, name: &str) -> Option<&Type> {
        self.by_name.get(name).map(|id| self.at(*id))
    }

    pub(super) fn kind(&self, api_version: &str, kind: &str) -> Option<&Type> {
        match kind {
            // Options may be posted in any group's version.
            "DeleteOptions" => self.named("meta.v1.DeleteOptions"),
            "Status" if api_version == "v1" => self.named("meta.v1.Status"),
            _ => self.by_kind.get(&(api_version, kind)).map(|id| self.at(*id)),
        }
    }
}

fn parse(text: &'static str) -> Table {
    let heads = text.lines().filter(|line| !line.starts_with(' '));
    let by_name: HashMap<&'static str, TypeId> = heads
        .map(|line| line.split(' ').next().unwrap_or(line))
        .zip((0u16..).map(TypeId))
        .collect();
    let mut types: Vec<Type> = Vec::with_capacity(by_name.len());
    let mut by_kind = HashMap::new();
    for line in text.lines() {
        if let Some(embedded) = line.strip_prefix(" < ") {
            let (tag, name) = embedded.split_once(' ').expect("the table's form");
            let current = types.last_mut().expect("a type precedes its members");
            current.embedded.push((number(tag), by_name[name]));
        } else if let Some(member) = line.strip_prefix(' ') {
            let current = types.last_mut().expect("a type precedes its members");
            current.fields.push(field(member, &by_name));
        } else {
            let mut words = line.split(' ');
            let name = words.next().unwrap_or(line);
            let mut is_atomic = false;
            for word in words {
                match word.split_once(':') {
                    Some((api_version, kind)) => {
                        by_kind.insert((api_version, kind), by_name[name]);
                    }
                    None => is_atomic = true,
                }
            }
            types.push(Type { name, is_atomic, fields: Vec::new(), embedded: Vec::new() });
        }
    }
    for one in &mut types {
        one.fields.shrink_to_fit();
    }
    Table { types, by_name, by_kind }
}

fn number(text: &str) -> u32 {
    text.parse().expect("the table's form")
}

fn field(line: &'static str, by_name: &HashMap<&'static str, TypeId>) -> Field {
    let mut words = line.split(' ');
    let mut next = || words.next().expect("the table's form");
    let (name, tag, shape) = (next(), next(), shape(next(), by_name));
    let mut field = Field {
        name,
        tag: if tag == "-" { 0 } else { number(tag) },
        shape,
        is_required: false,
        omits_zero: false,
        keeps_empty: false,
        structure: Structure::Granular,
        merge: Merge::default(),
    };
    for word in words {
        match word.split_once('=') {
            Some(("merge", key)) => field.merge.list = Some(Some(key)),
            Some(("map", keys)) => {
                // A few dozen short slices, once per process.
                let keys: Vec<&'static str> = keys.split(',').collect();
                field.structure = Structure::Map(keys.leak());
            }
            _ => match word {
                "required" => field.is_required = true,
                "omitzero" => field.omits_zero = true,
                "keepempty" => field.keeps_empty = true,
                "merge" => field.merge.list = Some(None),
                "retainkeys" => field.merge.retains_keys = true,
                "replace" => field.merge.replaces = true,
                "atomic" => field.structure = Structure::Atomic,
                "set" => field.structure = Structure::Set,
                _ => unreachable!("the table has no property {word}"),
            },
        }
    }
    field
}

fn shape(text: &'static str, by_name: &HashMap<&'static str, TypeId>) -> Shape {
    if let Some(element) = text.strip_prefix("map:") {
        return Shape::Map(item(element, by_name));
    }
    match text.strip_prefix("[]") {
        Some(element) => Shape::List(item(element, by_name)),
        None => Shape::One(item(text, by_name)),
    }
}

fn item(text: &'static str, by_name: &HashMap<&'static str, TypeId>) -> Item {
    match text {
        "string" => Item::String,
        "bytes" => Item::Bytes,
        "int32" => Item::Int32,
        "int64" => Item::Int64,
        "bool" => Item::Bool,
        "double" => Item::Double,
        "intstr" => Item::IntOrString,
        "quantity" => Item::Quantity,
        "time" => Item::Time,
        "microtime" => Item::MicroTime,
        "raw" => Item::Raw,
        "[]string" => Item::Strings,
        name => Item::Object(by_name[name]),
    }
}

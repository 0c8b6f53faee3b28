//! `components.schemas` of one document: k8s-openapi's schemas in Kubernetes' dialect.
//!
//! Kubernetes writes references with siblings as `allOf`, names kinds by
//! `x-kubernetes-group-version-kind`, and tells how lists merge; k8s-openapi leaves these out.

use std::collections::{BTreeMap, BTreeSet};

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::{ResourceDoc, enums, group_version};
use crate::api::schema::kinds;
use crate::api::schema::{self, Field, Structure};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const PREFIX: &str = "#/components/schemas/";

/// The schemas of a document, and which kinds they stand for.
pub(super) struct Schemas {
    definitions: BTreeMap<String, Value>,
    /// Schema names by `apiVersion` and kind.
    names: BTreeMap<(String, String), String>,
}

impl Schemas {
    /// Everything that the served kinds and their subresources' bodies refer to.
    pub(super) fn of(main: &str, served: &[&ResourceDoc]) -> Schemas {
        use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
        let mut generator = SchemaSettings::openapi3().into_generator();
        let mut versions = BTreeSet::from([main.to_owned()]);
        for one in served.iter().flat_map(|one| &one.subresources) {
            versions.insert(group_version(&one.group, &one.version));
        }
        let built_ins: Vec<kinds::BuiltIn> =
            versions.iter().flat_map(|version| kinds::register(version, &mut generator)).collect();
        generator.subschema_for::<meta::DeleteOptions>();
        generator.subschema_for::<meta::ListMeta>();
        generator.subschema_for::<meta::Status>();
        let mut all: BTreeMap<String, Value> =
            generator.take_definitions(false).into_iter().collect();
        for (name, definition) in &mut all {
            adapt(name, definition);
        }
        let mut names = BTreeMap::new();
        for built_in in &built_ins {
            let (group, version) = split(built_in.api_version);
            if let Some(definition) = all.get_mut(&built_in.schema) {
                name_kind(definition, group, version, built_in.kind);
            }
            if built_in.is_listed {
                let name = format!("{}List", built_in.schema);
                let mut list = list_of(&built_in.schema, built_in.kind);
                name_kind(&mut list, group, version, &format!("{}List", built_in.kind));
                all.insert(name, list);
            }
            let key = (built_in.api_version.to_owned(), built_in.kind.to_owned());
            names.insert(key, built_in.schema.clone());
        }
        name_meta(&mut all, main);
        for one in served {
            let key = (one.group_version(), one.kind.clone());
            names.entry(key).or_insert_with(|| {
                let name = foreign_name(one);
                let mut object =
                    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
                name_kind(&mut object, &one.group, &one.version, &one.kind);
                let mut list = list_of(&name, &one.kind);
                name_kind(&mut list, &one.group, &one.version, &format!("{}List", one.kind));
                all.insert(format!("{name}List"), list);
                all.insert(name.clone(), object);
                name
            });
        }
        let mut schemas = Schemas { definitions: BTreeMap::new(), names };
        schemas.keep_reachable(served, all);
        schemas
    }

    fn keep_reachable(&mut self, served: &[&ResourceDoc], mut all: BTreeMap<String, Value>) {
        let mut queue: Vec<String> =
            ["DeleteOptions", "Patch", "Status"].map(|name| format!("{META}{name}")).into();
        for one in served {
            if let Some(name) = self.name(&one.group, &one.version, &one.kind) {
                queue.push(format!("{name}List"));
                queue.push(name.to_owned());
            }
            for sub in &one.subresources {
                queue.extend(self.name(&sub.group, &sub.version, &sub.kind).map(str::to_owned));
            }
        }
        while let Some(name) = queue.pop() {
            if let Some(definition) = all.remove(&name) {
                references(&definition, &mut queue);
                self.definitions.insert(name, definition);
            }
        }
    }

    /// The schema of a kind, if the document has one.
    pub(super) fn name(&self, group: &str, version: &str, kind: &str) -> Option<&str> {
        let key = (group_version(group, version), kind.to_owned());
        self.names.get(&key).map(String::as_str)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.definitions.contains_key(name)
    }

    pub(super) fn into_components(self) -> Map<String, Value> {
        self.definitions.into_iter().collect()
    }
}

/// `{"$ref": …}` to a schema of the document.
pub(super) fn reference(name: &str) -> Value {
    json!({ "$ref": format!("{PREFIX}{name}") })
}

/// A schema of `apis/meta/v1`.
pub(super) fn meta(kind: &str) -> Value {
    reference(&format!("{META}{kind}"))
}

fn split(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// `com.example.v1.Roo`, as Kubernetes names the schemas of custom resources.
fn foreign_name(one: &ResourceDoc) -> String {
    let mut parts: Vec<&str> = one.group.split('.').rev().collect();
    parts.extend([one.version.as_str(), one.kind.as_str()]);
    parts.join(".")
}

fn name_kind(definition: &mut Value, group: &str, version: &str, kind: &str) {
    const KEY: &str = "x-kubernetes-group-version-kind";
    let Some(definition) = definition.as_object_mut() else { return };
    let named = definition.entry(KEY).or_insert_with(|| json!([]));
    if let Some(named) = named.as_array_mut() {
        named.push(json!({"group": group, "kind": kind, "version": version}));
    }
}

/// The kinds every group version has, and the body of PATCH.
fn name_meta(all: &mut BTreeMap<String, Value>, main: &str) {
    let (group, version) = split(main);
    if let Some(options) = all.get_mut(&format!("{META}DeleteOptions")) {
        name_kind(options, group, version, "DeleteOptions");
        if !group.is_empty() {
            name_kind(options, "", "v1", "DeleteOptions");
        }
    }
    if let Some(status) = all.get_mut(&format!("{META}Status")) {
        name_kind(status, "", "v1", "Status");
    }
    let patch = json!({
        "description": "A patch in the dialect its content type names.",
        "type": "object",
    });
    all.insert(format!("{META}Patch"), patch);
}

fn list_of(item: &str, kind: &str) -> Value {
    json!({
        "description": format!("{kind}List is a list of {kind} objects."),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": API_VERSION},
            "items": {
                "type": "array",
                "description": format!("The {kind} objects."),
                "items": {"allOf": [reference(item)], "default": {}},
            },
            "kind": {"type": "string", "description": KIND},
            "metadata": {
                "allOf": [meta("ListMeta")],
                "default": {},
                "description": "Standard list metadata.",
            },
        },
    })
}

const API_VERSION: &str = "The versioned schema of this representation of an object.";
const KIND: &str = "The REST resource this object represents, in CamelCase.";

/// From k8s-openapi's dialect to Kubernetes'.
fn adapt(name: &str, definition: &mut Value) {
    let Some(map) = definition.as_object_mut() else { return };
    match name.rsplit('.').next() {
        Some("Quantity") => {
            map.remove("x-kubernetes-int-or-string");
            map.insert("oneOf".into(), json!([{"type": "string"}, {"type": "number"}]));
        }
        Some("IntOrString") => {
            map.remove("x-kubernetes-int-or-string");
            map.insert("format".into(), "int-or-string".into());
            map.insert("oneOf".into(), json!([{"type": "integer"}, {"type": "string"}]));
        }
        _ => {}
    }
    let known = schema::by_name(short(name));
    if known.is_some_and(|known| known.is_atomic) {
        map.insert("x-kubernetes-map-type".into(), "atomic".into());
    }
    if let Some(Value::Array(required)) = map.get_mut("required") {
        // k8s-openapi's Rust types have it always; Kubernetes does not require it.
        required.retain(|name| name != "metadata");
        if required.is_empty() {
            map.remove("required");
        }
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        for (name, property) in properties {
            wrap_references(property);
            let Some(known) = known else { continue };
            if let Some(field) = known.field(name) {
                extend(property, field);
            }
            let words = enums::of(known.name, name);
            if let (false, Some(property)) = (words.is_empty(), property.as_object_mut()) {
                property.insert("enum".into(), json!(words));
            }
        }
    }
}

fn short(name: &str) -> &str {
    name.strip_prefix("io.k8s.api.")
        .or_else(|| name.strip_prefix("io.k8s.apimachinery.pkg.apis."))
        .unwrap_or(name)
}

/// `{"$ref": X, …}` becomes `{"allOf": [{"$ref": X}], …}`: JSON references have no siblings.
fn wrap_references(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    if let Some(target) = map.remove("$ref") {
        map.insert("allOf".into(), json!([{ "$ref": target }]));
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(inner) {
            wrap_references(inner);
        }
    }
}

fn extend(property: &mut Value, field: &Field) {
    let Some(map) = property.as_object_mut() else { return };
    let mut strategies = Vec::new();
    if let Some(key) = field.merge.list {
        strategies.push("merge");
        if let Some(key) = key {
            map.insert("x-kubernetes-patch-merge-key".into(), key.into());
        }
    }
    if field.merge.retains_keys {
        strategies.push("retainKeys");
    }
    if field.merge.replaces {
        strategies.push("replace");
    }
    if !strategies.is_empty() {
        map.insert("x-kubernetes-patch-strategy".into(), strategies.join(",").into());
    }
    let is_list = matches!(field.shape, schema::Shape::List(_));
    let kind = if is_list { "x-kubernetes-list-type" } else { "x-kubernetes-map-type" };
    match field.structure {
        Structure::Granular => {}
        Structure::Atomic => {
            map.insert(kind.into(), "atomic".into());
        }
        Structure::Set => {
            map.insert(kind.into(), "set".into());
        }
        Structure::Map(keys) => {
            map.insert("x-kubernetes-list-map-keys".into(), json!(keys));
            map.insert(kind.into(), "map".into());
        }
    }
}

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(name) = map.get("$ref").and_then(Value::as_str) {
                found.extend(name.strip_prefix(PREFIX).map(str::to_owned));
            }
            map.values().for_each(|member| references(member, found));
        }
        Value::Array(list) => list.iter().for_each(|element| references(element, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

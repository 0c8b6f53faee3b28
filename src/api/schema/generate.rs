//! Derives `types.txt` from what the libraries know, so that the committed table stays honest.
//!
//! Shapes come from k8s-openapi's schemas, protobuf numbers and list types from k8s-pb's source,
//! merge keys from `merge-keys.json`. Run the test with `UPDATE_EXPECT=1` to rewrite the table.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use expect_test::expect_file;
use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::kinds;

#[test]
fn table_agrees_with_its_sources() {
    expect_file!["types.txt"].assert_eq(&render());
}

/// Integers and booleans that are not pointers in Go and are left out of JSON when zero
/// (`omitempty`): protobuf always carries them, so there a zero means "unset".
const OMITTED_ZERO: &str = include_str!("omitted-zero.txt");

/// Strings that are pointers in Go, where empty means something else than unset.
const MEANINGFUL_EMPTY: &[(&str, &str)] = &[
    ("coordination.v1.LeaseSpec", "holderIdentity"),
    ("core.v1.PersistentVolumeClaimSpec", "storageClassName"),
    ("core.v1.PersistentVolumeClaimSpec", "volumeAttributesClassName"),
    ("discovery.v1.EndpointPort", "name"),
    ("networking.v1.IngressSpec", "ingressClassName"),
];

struct Field {
    type_text: String,
    required: bool,
}

#[derive(Default, Clone)]
struct Wire {
    tag: u32,
    /// `string`, `int32`, `message`, `map string message` …
    form: String,
    repeated: bool,
    /// Short name of the Rust message type, lower case.
    message: Option<String>,
    marks: Vec<String>,
}

fn render() -> String {
    let settings = SchemaSettings::openapi3();
    let mut generator = settings.into_generator();
    let mut kinds_of: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for group_version in kinds::GROUP_VERSIONS {
        for built_in in kinds::register(group_version, &mut generator) {
            kinds_of
                .entry(short(&built_in.schema))
                .or_default()
                .push((built_in.api_version.into(), built_in.kind.into()));
        }
    }
    use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
    generator.subschema_for::<meta::DeleteOptions>();
    generator.subschema_for::<meta::Status>();
    let definitions = generator.take_definitions(false);
    let wires = wires();
    let merges: BTreeMap<String, Vec<String>> =
        serde_json::from_str(include_str!("merge-keys.json")).unwrap();
    let omitted: BTreeSet<&str> = OMITTED_ZERO.lines().collect();
    let mut used_omitted = BTreeSet::new();
    let mut text = String::new();
    let mut embedded: BTreeSet<String> = BTreeSet::new();
    let mut blocks: BTreeMap<String, String> = BTreeMap::new();
    let mut queue: Vec<String> = Vec::new();
    for (name, schema) in &definitions {
        let name = short(name);
        if scalar(&name).is_some() {
            continue;
        }
        let mut block = name.clone();
        for (api_version, kind) in kinds_of.get(&name).into_iter().flatten() {
            block += &format!(" {api_version}:{kind}");
        }
        let (wire, marks) = wires.get(&name.to_lowercase()).cloned().unwrap_or_default();
        if marks.iter().any(|mark| mark == "structType=atomic") {
            block += " atomic";
        }
        block.push('\n');
        let mut seen = BTreeSet::new();
        for (json, field) in fields(schema) {
            let normal = normal(&json);
            seen.insert(normal.clone());
            let on_wire = wire.get(&normal);
            let mut line = format!(
                " {json} {} {}",
                on_wire.map_or("-".to_string(), |w| w.tag.to_string()),
                field.type_text
            );
            let path = format!("{name}.{json}");
            if field.required {
                line += " required";
            }
            if omitted.contains(path.as_str()) {
                used_omitted.insert(path.clone());
                line += " omitzero";
            }
            if MEANINGFUL_EMPTY.contains(&(name.as_str(), json.as_str())) {
                line += " keepempty";
            }
            let merge = merges
                .get(&name)
                .into_iter()
                .flatten()
                .find_map(|text| text.strip_prefix(&format!("{json}:")));
            let marks = on_wire.map(|w| w.marks.as_slice()).unwrap_or_default();
            line += &strategy(&path, &field, merge, marks);
            block += &line;
            block.push('\n');
        }
        for (normal, wire) in &wire {
            if seen.contains(normal) {
                continue;
            }
            match &wire.message {
                // An embedded Go struct: its members are the parent's in JSON. Anything else was
                // an alpha field that the schema's release no longer has; decoders skip it.
                Some(message)
                    if wire.form == "message"
                        && !wire.repeated
                        && is_embedded(message, &wires, &seen) =>
                {
                    embedded.insert(message.clone());
                    queue.push(message.clone());
                    block += &format!(" < {} {}\n", wire.tag, message);
                }
                _ => eprintln!("{name}: protobuf has {normal}, the schema has not"),
            }
        }
        blocks.insert(name, block);
    }
    // Embedded Go structs that the schemas have flattened: only their wire side is needed.
    let by_lower: BTreeMap<String, String> =
        blocks.keys().map(|name| (name.to_lowercase(), name.clone())).collect();
    let mut done = BTreeSet::new();
    while let Some(lower) = queue.pop() {
        if by_lower.contains_key(&lower) || !done.insert(lower.clone()) {
            continue;
        }
        let (wire, _) = wires.get(&lower).unwrap_or_else(|| panic!("no message {lower}"));
        let parents: Vec<&String> = blocks
            .iter()
            .filter(|(_, block)| {
                block.lines().any(|l| l.starts_with(" < ") && l.ends_with(&format!(" {lower}")))
            })
            .map(|(name, _)| name)
            .collect();
        let mut block = format!("{lower}\n");
        for (normal, wire) in wire {
            // The parent's schema names and types the member.
            let found = parents.iter().find_map(|parent| {
                blocks[*parent].lines().find_map(|line| {
                    let mut words = line.trim_start().splitn(3, ' ');
                    let json = words.next()?;
                    words.next()?;
                    let rest = words.next()?;
                    (self::normal(json) == *normal).then(|| (json.to_string(), rest.to_string()))
                })
            });
            match found {
                Some((json, rest)) => block += &format!(" {json} {} {rest}\n", wire.tag),
                None if wire.form == "message" => {
                    let message = wire.message.clone().unwrap();
                    block += &format!(" < {} {message}\n", wire.tag);
                    queue.push(message);
                }
                None => panic!("{lower}: nobody names {normal}"),
            }
        }
        blocks.insert(lower, block);
    }
    for block in blocks.values() {
        for line in block.lines() {
            let line = match line.strip_prefix(" < ") {
                Some(rest) => {
                    let (tag, lower) = rest.split_once(' ').unwrap();
                    format!(" < {tag} {}", by_lower.get(lower).map_or(lower, |name| name))
                }
                None => line.to_string(),
            };
            text += &line;
            text.push('\n');
        }
    }
    let unused: Vec<_> =
        omitted.difference(&used_omitted.iter().map(String::as_str).collect()).cloned().collect();
    assert!(unused.is_empty(), "no such optional fields: {unused:?}");
    text
}

fn is_embedded(message: &str, wires: &BTreeMap<String, Message>, seen: &BTreeSet<String>) -> bool {
    wires[message].0.iter().all(|(member, wire)| {
        seen.contains(member)
            || wire.message.as_ref().is_some_and(|message| is_embedded(message, wires, seen))
    })
}

/// Merge strategy and list type of one field, as words of the table.
fn strategy(path: &str, field: &Field, merge: Option<&str>, marks: &[String]) -> String {
    let mut line = String::new();
    let mark =
        |name: &str| -> Vec<&str> { marks.iter().filter_map(|m| m.strip_prefix(name)).collect() };
    let marked_type = mark("listType=").first().copied();
    if let Some(merge) = merge {
        let parts: Vec<&str> = merge.split('/').collect();
        let [strategies, key, list] = parts[..] else { panic!("{path}: {merge}") };
        for word in strategies.split(',') {
            line += match word {
                "merge" => " merge",
                "retainKeys" => " retainkeys",
                "replace" => " replace",
                other => panic!("{path}: strategy {other}"),
            };
            if word == "merge" && key != "-" {
                line += &format!("={key}");
            }
        }
        match list.split_once(':') {
            Some(("map", keys)) => line += &format!(" map={keys}"),
            Some((other, _)) if other != "-" => line += &format!(" {other}"),
            _ => {}
        }
    } else if field.type_text.starts_with("[]") {
        match marked_type {
            Some("map") => line += &format!(" map={}", mark("listMapKey=").join(",")),
            Some("set") => line += " set",
            Some("atomic") | None => line += " atomic",
            Some(other) => panic!("{path}: list type {other}"),
        }
    }
    if mark("mapType=").first() == Some(&"atomic") || mark("structType=").first() == Some(&"atomic")
    {
        line += " atomic";
    }
    line
}

fn fields(schema: &Value) -> BTreeMap<String, Field> {
    let required: BTreeSet<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    schema["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, schema)| {
            let field = Field {
                type_text: type_text(schema),
                // k8s-openapi calls the metadata of top-level kinds required; Kubernetes does not.
                required: required.contains(name.as_str()) && name != "metadata",
            };
            (name.clone(), field)
        })
        .collect()
}

fn type_text(schema: &Value) -> String {
    if let Some(target) = schema["$ref"].as_str() {
        let name = short(target.rsplit('/').next().unwrap());
        return scalar(&name).map(str::to_string).unwrap_or(name);
    }
    match (schema["type"].as_str(), schema["format"].as_str()) {
        (Some("string"), None) => "string".into(),
        (Some("string"), Some("byte")) => "bytes".into(),
        (Some("integer"), Some(format)) => format.into(),
        (Some("boolean"), None) => "bool".into(),
        (Some("number"), _) => "double".into(),
        (Some("array"), _) => format!("[]{}", type_text(&schema["items"])),
        (Some("object"), _) if schema.get("additionalProperties").is_some() => {
            format!("map:{}", type_text(&schema["additionalProperties"]))
        }
        _ => panic!("{schema}"),
    }
}

/// Types that JSON writes as one value.
fn scalar(name: &str) -> Option<&'static str> {
    Some(match name {
        "meta.v1.Time" => "time",
        "meta.v1.MicroTime" => "microtime",
        "meta.v1.FieldsV1" => "raw",
        "io.k8s.apimachinery.pkg.runtime.RawExtension" => "raw",
        "io.k8s.apimachinery.pkg.api.resource.Quantity" => "quantity",
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString" => "intstr",
        _ => return None,
    })
}

fn short(name: &str) -> String {
    name.strip_prefix("io.k8s.api.")
        .map(str::to_string)
        .or_else(|| name.strip_prefix("io.k8s.apimachinery.pkg.apis.").map(str::to_string))
        .unwrap_or_else(|| name.to_string())
}

fn normal(name: &str) -> String {
    name.trim_start_matches("r#").replace(['_', '-', '$'], "").to_lowercase()
}

type Message = (BTreeMap<String, Wire>, Vec<String>);

/// Every message of k8s-pb by its lower-case name: `core.v1.pod`.
fn wires() -> BTreeMap<String, Message> {
    let root = crate_source("k8s-pb");
    let mut found = BTreeMap::new();
    let mut queue = vec![root.clone()];
    while let Some(directory) = queue.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                queue.push(path);
            } else if path.file_name().is_some_and(|name| name == "mod.rs") {
                let module = directory.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
                read_messages(&module, &std::fs::read_to_string(&path).unwrap(), &mut found);
            }
        }
    }
    found
}

fn package(module: &str) -> String {
    module
        .strip_prefix("api/")
        .or_else(|| module.strip_prefix("apimachinery/pkg/apis/"))
        .map(|rest| rest.replace('/', "."))
        .unwrap_or_else(|| format!("io.k8s.{}", module.replace('/', ".")))
}

fn read_messages(module: &str, source: &str, found: &mut BTreeMap<String, Message>) {
    let mut marks: Vec<String> = Vec::new();
    let mut name: Option<String> = None;
    let mut fields = BTreeMap::new();
    let mut struct_marks = Vec::new();
    let mut attribute = String::new();
    let mut declaration = String::new();
    for line in source.lines() {
        let trimmed = line.trim();
        if let Some(comment) = trimmed.strip_prefix("/// ") {
            marks.extend(comment.strip_prefix('+').map(str::to_string));
        } else if trimmed.starts_with("#[prost(") {
            attribute = trimmed.to_string();
        } else if let Some(rest) = trimmed.strip_prefix("pub struct ").filter(|_| name.is_none()) {
            name = Some(
                format!("{}.{}", package(module), rest.split([' ', '{']).next().unwrap())
                    .to_lowercase(),
            );
            struct_marks = std::mem::take(&mut marks);
            if trimmed.ends_with("{}") {
                found.insert(
                    name.take().unwrap(),
                    (BTreeMap::new(), std::mem::take(&mut struct_marks)),
                );
            }
        } else if name.is_some() && line == "}" {
            found.insert(
                name.take().unwrap(),
                (std::mem::take(&mut fields), std::mem::take(&mut struct_marks)),
            );
            marks.clear();
        } else if name.is_some() && !attribute.is_empty() {
            declaration += trimmed;
            if trimmed.ends_with(',')
                && declaration.matches('<').count() == declaration.matches('>').count()
            {
                let (field, wire) =
                    read_field(module, &attribute, &declaration, std::mem::take(&mut marks));
                fields.insert(field, wire);
                attribute.clear();
                declaration.clear();
            }
        } else if trimmed == "}" {
            marks.clear();
        }
    }
}

fn read_field(
    module: &str,
    attribute: &str,
    declaration: &str,
    marks: Vec<String>,
) -> (String, Wire) {
    let inner = attribute.strip_prefix("#[prost(").unwrap().strip_suffix(")]").unwrap();
    let tag = inner.rsplit("tag = \"").next().unwrap().trim_end_matches('"').parse().unwrap();
    let form = match inner.split_once('"') {
        Some((before, after)) if before.contains("map") => {
            format!("map {}", after.split('"').next().unwrap())
        }
        _ => inner.split([',', ' ', '=']).next().unwrap().to_string(),
    };
    let (field, rust_type) = declaration.strip_prefix("pub ").unwrap().split_once(':').unwrap();
    let message = inner.contains("message").then(|| {
        let innermost = rust_type
            .rsplit(['<', ','])
            .find(|part| part.contains(|c: char| c.is_ascii_uppercase()))
            .unwrap();
        let innermost = innermost.trim_matches(|c| c == '>' || c == ',' || c == ' ');
        let mut path: Vec<&str> = module.split('/').collect();
        let mut parts: Vec<&str> = innermost.split("::").collect();
        while parts[0] == "super" {
            parts.remove(0);
            path.pop();
        }
        let last = parts.pop().unwrap();
        path.extend(parts);
        format!("{}.{last}", package(&path.join("/"))).to_lowercase()
    });
    let wire = Wire { tag, form, repeated: inner.contains("repeated"), message, marks };
    (normal(field.trim()), wire)
}

fn crate_source(name: &str) -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let package = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .find(|package| package["name"] == name)
        .expect("a development dependency");
    Path::new(package["manifest_path"].as_str().unwrap()).parent().unwrap().join("src")
}

//! `paths` of one document: an operation for every verb of every resource and subresource.
//!
//! kubectl asks three things of them: the kind behind a resource's GET, whether PATCH knows
//! `fieldValidation`, and which operations exist.

use serde_json::{Map, Value, json};

use super::ResourceDoc;
use super::schemas::{Schemas, meta, reference};

/// The operations of all resources of one group and version.
pub(super) fn of(served: &[&ResourceDoc], schemas: &Schemas) -> Map<String, Value> {
    let mut paths = Map::new();
    for one in served {
        resource(one, schemas, &mut paths);
    }
    paths.sort_keys();
    paths
}

/// One row of the table of operations.
struct Operation<'a> {
    method: &'static str,
    /// `x-kubernetes-action`.
    action: &'static str,
    /// Start of the operation's id.
    verb: &'static str,
    /// Group, version and kind of its body.
    target: (&'a str, &'a str, &'a str),
    /// Schemas of request and answer; none is text.
    request: Option<Value>,
    answer: Option<Value>,
    query: Vec<&'static Query>,
}

/// A query parameter: name, type, description.
struct Query(&'static str, &'static str, &'static str);

static PRETTY: Query = Query("pretty", "string", "If 'true', then the output is pretty printed.");
static DRY_RUN: Query = Query(
    "dryRun",
    "string",
    "Process the request fully but do not persist it. The only valid value is All.",
);
static FIELD_MANAGER: Query = Query(
    "fieldManager",
    "string",
    "Name of the actor or entity that is making these changes, at most 128 characters.",
);
static FIELD_VALIDATION: Query = Query(
    "fieldValidation",
    "string",
    "What to do with unknown or duplicate fields: Ignore, Warn (the default) or Strict.",
);
static FORCE: Query = Query(
    "force",
    "boolean",
    "Take over conflicting fields of other managers. Only for apply patches.",
);
static GRACE: Query = Query(
    "gracePeriodSeconds",
    "integer",
    "Seconds before the object is deleted; zero means at once.",
);
static PROPAGATION: Query = Query(
    "propagationPolicy",
    "string",
    "What happens to dependents: Orphan, Background or Foreground.",
);
static CONTINUE: Query = Query("continue", "string", "Token of the next page of a list.");
static FIELDS: Query = Query("fieldSelector", "string", "Restricts the list by field values.");
static LABELS: Query = Query("labelSelector", "string", "Restricts the list by label values.");
static LIMIT: Query = Query("limit", "integer", "Most objects to return in one page.");
static VERSION: Query = Query("resourceVersion", "string", "Version the answer is taken from.");
static MATCH: Query =
    Query("resourceVersionMatch", "string", "How resourceVersion constrains the answer.");
static WATCH: Query = Query("watch", "boolean", "Follow changes instead of listing.");
static BOOKMARKS: Query =
    Query("allowWatchBookmarks", "boolean", "Also send BOOKMARK events on a watch.");
static INITIAL: Query =
    Query("sendInitialEvents", "boolean", "Begin a watch with the present state.");
static TIMEOUT: Query =
    Query("timeoutSeconds", "integer", "Seconds after which a list or watch ends.");

fn list_query() -> Vec<&'static Query> {
    vec![
        &PRETTY, &BOOKMARKS, &CONTINUE, &FIELDS, &LABELS, &LIMIT, &VERSION, &MATCH, &INITIAL,
        &TIMEOUT, &WATCH,
    ]
}

fn write_query() -> Vec<&'static Query> {
    vec![&PRETTY, &DRY_RUN, &FIELD_MANAGER, &FIELD_VALIDATION]
}

fn delete_query() -> Vec<&'static Query> {
    vec![&PRETTY, &DRY_RUN, &GRACE, &PROPAGATION]
}

fn resource(one: &ResourceDoc, schemas: &Schemas, paths: &mut Map<String, Value>) {
    let root = if one.group.is_empty() { "/api/" } else { "/apis/" };
    let root = format!("{root}{}", one.group_version());
    let everywhere = format!("{root}/{}", one.plural);
    let collection = if one.namespaced {
        format!("{root}/namespaces/{{namespace}}/{}", one.plural)
    } else {
        everywhere.clone()
    };
    let target = (one.group.as_str(), one.version.as_str(), one.kind.as_str());
    let name = schemas.name(&one.group, &one.version, &one.kind).unwrap_or_default().to_owned();
    let list_name = format!("{name}List");
    let list = if schemas.has(&list_name) { reference(&list_name) } else { meta("Status") };
    let itself = || Some(reference(&name));
    let has = |verb: &str| one.verbs.iter().any(|one| one == verb);
    let op = |method, action, verb, request, answer, query| Operation {
        method,
        action,
        verb,
        target,
        request,
        answer,
        query,
    };
    let listing = || op("get", "list", "list", None, Some(list.clone()), list_query());
    let mut operations = Vec::new();
    if has("list") {
        operations.push(listing());
    }
    if has("create") {
        operations.push(op("post", "post", "create", itself(), itself(), write_query()));
    }
    if has("deletecollection") {
        let query = [list_query(), delete_query()[1..].to_vec()].concat();
        let (request, answer) = (Some(meta("DeleteOptions")), Some(meta("Status")));
        operations.push(op(
            "delete",
            "deletecollection",
            "deleteCollection",
            request,
            answer,
            query,
        ));
    }
    add(paths, &collection, one, "", operations);
    if one.namespaced && has("list") {
        let path = paths.entry(everywhere).or_insert_with(|| json!({}));
        path["get"] = render(one, "ForAllNamespaces", listing());
        path["parameters"] = json!([]);
    }
    let item = format!("{collection}/{{name}}");
    let mut operations = Vec::new();
    if has("get") {
        operations.push(op("get", "get", "read", None, itself(), vec![&PRETTY]));
    }
    if has("update") {
        operations.push(op("put", "put", "replace", itself(), itself(), write_query()));
    }
    if has("patch") {
        let query = [write_query(), vec![&FORCE]].concat();
        operations.push(op("patch", "patch", "patch", Some(meta("Patch")), itself(), query));
    }
    if has("delete") {
        let (request, answer) = (Some(meta("DeleteOptions")), Some(meta("Status")));
        operations.push(op("delete", "delete", "delete", request, answer, delete_query()));
    }
    add(paths, &item, one, "", operations);
    for sub in &one.subresources {
        subresource(one, sub, &item, schemas, paths);
    }
}

fn subresource(
    one: &ResourceDoc,
    sub: &super::SubresourceDoc,
    item: &str,
    schemas: &Schemas,
    paths: &mut Map<String, Value>,
) {
    let target = (sub.group.as_str(), sub.version.as_str(), sub.kind.as_str());
    let body = schemas
        .name(&sub.group, &sub.version, &sub.kind)
        .filter(|name| schemas.has(name))
        .map(reference);
    let is_stream = matches!(sub.name.as_str(), "attach" | "exec" | "portforward" | "proxy");
    let mut operations = Vec::new();
    for verb in &sub.verbs {
        let (method, action, start, query) = match verb.as_str() {
            "get" => ("get", "get", "read", vec![&PRETTY]),
            "create" => ("post", "post", "create", write_query()),
            "update" => ("put", "put", "replace", write_query()),
            "patch" => ("patch", "patch", "patch", [write_query(), vec![&FORCE]].concat()),
            "delete" => ("delete", "delete", "delete", delete_query()),
            _ => continue,
        };
        let (action, start) = if is_stream { ("connect", "connect") } else { (action, start) };
        let request = match method {
            "get" => None,
            "patch" => Some(meta("Patch")),
            _ if is_stream => None,
            _ => body.clone(),
        };
        let answer = if is_stream || sub.name == "log" { None } else { body.clone() };
        let query = if is_stream { Vec::new() } else { query };
        operations.push(Operation { method, action, verb: start, target, request, answer, query });
    }
    add(paths, &format!("{item}/{}", sub.name), one, &sub.name, operations);
}

/// Adds operations at a path, with the parameters its template names.
fn add(
    paths: &mut Map<String, Value>,
    path: &str,
    one: &ResourceDoc,
    subresource: &str,
    operations: Vec<Operation<'_>>,
) {
    if operations.is_empty() {
        return;
    }
    let mut parameters = Vec::new();
    for name in ["name", "namespace"] {
        if path.contains(&format!("{{{name}}}")) {
            parameters.push(json!({
                "name": name, "in": "path", "required": true,
                "schema": {"type": "string", "uniqueItems": true},
            }));
        }
    }
    let mut entry = Map::new();
    for operation in operations {
        let method = operation.method.to_owned();
        entry.insert(method, render(one, &capital(subresource), operation));
    }
    entry.insert("parameters".into(), Value::Array(parameters));
    paths.insert(path.to_owned(), Value::Object(entry));
}

fn render(one: &ResourceDoc, suffix: &str, operation: Operation<'_>) -> Value {
    let group = if one.group.is_empty() { "core" } else { &one.group };
    let group = group.split('.').next().unwrap_or(group);
    let scope = if one.namespaced && suffix != "ForAllNamespaces" { "Namespaced" } else { "" };
    let version = capital(&one.version);
    let (verb, kind) = (operation.verb, &one.kind);
    let id = format!("{verb}{}{version}{scope}{kind}{suffix}", capital(group));
    let query: Vec<Value> = operation
        .query
        .iter()
        .map(|Query(name, kind, description)| {
            json!({
                "name": name, "in": "query", "description": description,
                "schema": {"type": kind, "uniqueItems": true},
            })
        })
        .collect();
    let (target_group, target_version, target_kind) = operation.target;
    let mut rendered = json!({
        "tags": [format!("{group}_{}", one.version)],
        "operationId": id,
        "parameters": query,
        "responses": responses(&operation),
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": {
            "group": target_group, "version": target_version, "kind": target_kind,
        },
    });
    if let Some(request) = &operation.request {
        rendered["requestBody"] = request_body(operation.method, request);
    }
    rendered
}

fn request_body(method: &str, request: &Value) -> Value {
    let types: &[&str] = match method {
        "patch" => &[
            "application/apply-patch+yaml",
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
        ],
        _ => BODY_TYPES,
    };
    // A DELETE may come without options.
    json!({"content": content(types, request), "required": method != "delete"})
}

const BODY_TYPES: &[&str] =
    &["application/json", "application/vnd.kubernetes.protobuf", "application/yaml"];

fn responses(operation: &Operation<'_>) -> Value {
    let types: &[&str] = if operation.action == "list" {
        &["application/json", "application/json;stream=watch", "application/yaml"]
    } else {
        &["application/json", "application/yaml"]
    };
    let text = json!({"type": "string"});
    let body = match &operation.answer {
        Some(answer) => content(types, answer),
        None => content(&["text/plain"], &text),
    };
    let answer = |description: &str| json!({"description": description, "content": body});
    let mut responses = Map::new();
    responses.insert("200".into(), answer("OK"));
    if matches!(operation.action, "post" | "put" | "patch") {
        responses.insert("201".into(), answer("Created"));
    }
    responses.insert("401".into(), json!({"description": "Unauthorized"}));
    Value::Object(responses)
}

fn content(types: &[&str], schema: &Value) -> Map<String, Value> {
    types.iter().map(|one| ((*one).to_owned(), json!({ "schema": schema }))).collect()
}

fn capital(word: &str) -> String {
    let mut characters = word.chars();
    characters
        .next()
        .map_or(String::new(), |first| first.to_uppercase().chain(characters).collect())
}

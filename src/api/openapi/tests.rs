//! The documents as kubectl reads them.

use std::time::Instant;

use super::*;
use crate::api::schema;

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

const ALL: &str = "create delete deletecollection get list patch update watch";

fn resource(group: &str, version: &str, kind: &str, plural: &str, namespaced: bool) -> ResourceDoc {
    ResourceDoc {
        group: group.into(),
        version: version.into(),
        kind: kind.into(),
        plural: plural.into(),
        namespaced,
        verbs: words(ALL),
        subresources: Vec::new(),
    }
}

fn sub(name: &str, group: &str, version: &str, kind: &str, verbs: &str) -> SubresourceDoc {
    SubresourceDoc {
        name: name.into(),
        group: group.into(),
        version: version.into(),
        kind: kind.into(),
        verbs: words(verbs),
    }
}

/// A catalog like the real one.
pub fn catalog() -> Vec<ResourceDoc> {
    let mut pods = resource("", "v1", "Pod", "pods", true);
    pods.subresources = vec![
        sub("status", "", "v1", "Pod", "get patch update"),
        sub("log", "", "v1", "Pod", "get"),
        sub("exec", "", "v1", "PodExecOptions", "create get"),
        sub("eviction", "policy", "v1", "Eviction", "create"),
    ];
    let mut deployments = resource("apps", "v1", "Deployment", "deployments", true);
    deployments.subresources = vec![sub("scale", "autoscaling", "v1", "Scale", "get patch update")];
    vec![
        pods,
        deployments,
        resource("", "v1", "Namespace", "namespaces", false),
        resource("", "v1", "Service", "services", true),
        resource("coordination.k8s.io", "v1", "Lease", "leases", true),
        resource("example.com", "v1", "Roo", "roos", true),
    ]
}

fn parsed(documents: &Documents, group_version: &str) -> Value {
    serde_json::from_slice(&documents.document_v3(group_version).unwrap().bytes).unwrap()
}

#[test]
fn the_index_names_every_document_with_its_hash() {
    let documents = Documents::new(catalog());
    let index: Value = serde_json::from_slice(&documents.index_v3()).unwrap();
    let paths: Vec<_> = index["paths"].as_object().unwrap().keys().collect();
    assert_eq!(
        paths,
        ["apis/apps/v1", "apis/coordination.k8s.io/v1", "apis/example.com/v1", "api/v1"]
    );
    let core = documents.document_v3("v1").unwrap();
    assert_eq!(
        index["paths"]["api/v1"]["serverRelativeURL"],
        format!("/openapi/v3/api/v1?hash={}", core.hash)
    );
    let mut hash = String::new();
    for byte in Sha512::digest(&core.bytes) {
        write!(hash, "{byte:02X}").unwrap();
    }
    assert_eq!(core.hash, hash);
    assert!(documents.document_v3("batch/v1").is_none());
}

#[test]
fn equal_catalogs_make_equal_documents() {
    let (one, other) = (Documents::new(catalog()), Documents::new(catalog()));
    assert_eq!(one.index_v3(), other.index_v3());
}

#[test]
fn every_patch_knows_field_validation_and_its_kind() {
    let documents = Documents::new(catalog());
    for (group_version, path, kind) in [
        ("v1", "/api/v1/namespaces/{namespace}/pods/{name}", "Pod"),
        ("apps/v1", "/apis/apps/v1/namespaces/{namespace}/deployments/{name}", "Deployment"),
        ("example.com/v1", "/apis/example.com/v1/namespaces/{namespace}/roos/{name}", "Roo"),
    ] {
        let document = parsed(&documents, group_version);
        let patch = &document["paths"][path]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], kind);
        assert_eq!(patch["x-kubernetes-action"], "patch");
        let parameters = patch["parameters"].as_array().unwrap();
        assert!(
            parameters.iter().any(|one| one["name"] == "fieldValidation" && one["in"] == "query")
        );
    }
}

#[test]
fn schemas_are_named_and_extended_as_kubernetes_does() {
    let documents = Documents::new(catalog());
    let document = parsed(&documents, "v1");
    let schemas = &document["components"]["schemas"];
    assert_eq!(
        schemas["io.k8s.api.core.v1.Pod"]["x-kubernetes-group-version-kind"],
        json!([{"group": "", "kind": "Pod", "version": "v1"}])
    );
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
    assert_eq!(containers["x-kubernetes-list-type"], "map");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    assert!(containers["description"].as_str().unwrap().starts_with("List of containers"));
    assert_eq!(
        containers["items"]["allOf"][0]["$ref"],
        "#/components/schemas/io.k8s.api.core.v1.Container"
    );
    let metadata = &schemas["io.k8s.api.core.v1.Pod"]["properties"]["metadata"];
    assert_eq!(
        metadata["allOf"][0]["$ref"],
        "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
    );
    let node_selector = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["nodeSelector"];
    assert_eq!(node_selector["x-kubernetes-map-type"], "atomic");
    let eviction =
        &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}/eviction"]["post"];
    assert_eq!(eviction["x-kubernetes-group-version-kind"]["group"], "policy");
}

#[test]
fn every_reference_leads_somewhere() {
    fn walk(value: &Value, schemas: &Value) {
        match value {
            Value::Object(map) => {
                if let Some(target) = map.get("$ref").and_then(Value::as_str) {
                    assert_eq!(map.len(), 1, "{target} has siblings");
                    let name = target.strip_prefix("#/components/schemas/").unwrap();
                    assert!(schemas.get(name).is_some(), "{name}");
                }
                map.values().for_each(|member| walk(member, schemas));
            }
            Value::Array(list) => list.iter().for_each(|element| walk(element, schemas)),
            _ => {}
        }
    }
    let documents = Documents::new(catalog());
    for group_version in documents.built.keys() {
        let document = parsed(&documents, group_version);
        walk(&document, &document["components"]["schemas"]);
    }
}

#[test]
fn documents_rest_compressed() {
    let documents = Documents::new(catalog());
    let started = Instant::now();
    documents.index_v3();
    eprintln!("all built in {:?}", started.elapsed());
    for (name, slot) in &documents.built {
        let packed = slot.get().unwrap();
        eprintln!("{name}: {} → {}", packed.length, packed.deflated.len());
        assert!(packed.deflated.len() < 128 << 10, "{name}: {}", packed.deflated.len());
    }
}

#[test]
fn the_constant_v2_document_is_27_bytes_of_swagger() {
    assert_eq!(v2_protobuf().len(), 27);
    assert!(v2_protobuf().starts_with(b"\x0a\x032.0"));
}

#[test]
fn every_served_kind_has_a_schema_and_a_document() {
    let served = crate::api::discovery::resource_docs();
    assert!(served.len() > 5);
    let documents = Documents::new(served.clone());
    documents.index_v3();
    for one in served {
        let group_version = one.group_version();
        if !one.verbs.iter().any(|verb| verb == "create") {
            // Measured when asked for; none of the table's sources describes it.
            parsed(&documents, &group_version);
            continue;
        }
        assert!(
            schema::lookup(&group_version, &one.kind).is_some(),
            "{group_version} {}",
            one.kind
        );
        let document = parsed(&documents, &group_version);
        let named = json!([{"group": one.group, "kind": one.kind, "version": one.version}]);
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let found = |name: &Value| {
            schemas.values().any(|one| one["x-kubernetes-group-version-kind"] == *name)
        };
        assert!(found(&named), "{named}");
    }
}

//! `/api` and `/apis`, legacy and aggregated, rendered once from the catalog.
//!
//! It never lists a group that cannot answer.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use ring::digest;
use serde_json::{Map, Value, json};

use crate::api::catalog::{self, GroupVersionKind, Kind, Scope, Subresource, Verb};
use crate::api::failure::Failure;
use crate::api::negotiate;
use crate::api::openapi::{ResourceDoc, SubresourceDoc};
use crate::api::path::Target;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// A rendered document with its ETag.
struct Document {
    bytes: Bytes,
    etag: HeaderValue,
}

/// Every discovery document.
pub struct Documents {
    core_aggregated: Document,
    groups_aggregated: Document,
    core_versions: Document,
    groups: Document,
    by_group: BTreeMap<&'static str, Document>,
    by_version: BTreeMap<(&'static str, &'static str), Document>,
}

impl Documents {
    pub fn new() -> Documents {
        let named: Vec<_> =
            catalog::groups().into_iter().filter(|(group, _)| !group.is_empty()).collect();
        let mut by_version = BTreeMap::new();
        for (group, versions) in catalog::groups() {
            for version in versions {
                by_version.insert((group, version), Document::new(&resources(group, version)));
            }
        }
        Documents {
            core_aggregated: Document::new(&aggregated(|group| group.is_empty())),
            groups_aggregated: Document::new(&aggregated(|group| !group.is_empty())),
            core_versions: Document::new(&json!({
                "kind": "APIVersions",
                "versions": ["v1"],
                "serverAddressByClientCIDRs": [],
            })),
            groups: Document::new(&json!({
                "kind": "APIGroupList",
                "apiVersion": "v1",
                "groups": named
                    .iter()
                    .map(|(group, versions)| group_entry(group, versions))
                    .collect::<Vec<_>>(),
            })),
            by_group: named
                .iter()
                .map(|(group, versions)| {
                    let mut entry = Map::new();
                    entry.insert("kind".to_owned(), "APIGroup".into());
                    entry.insert("apiVersion".to_owned(), "v1".into());
                    if let Value::Object(fields) = group_entry(group, versions) {
                        entry.extend(fields);
                    }
                    (*group, Document::new(&Value::Object(entry)))
                })
                .collect(),
            by_version,
        }
    }

    /// The answer for a discovery target; `None` if it is none.
    pub fn answer(
        &self,
        target: &Target,
        headers: &HeaderMap,
    ) -> Option<Result<Response<Body>, Failure>> {
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
        let is_aggregated = negotiate::wants_aggregated_discovery(accept);
        let (document, content_type) = match target {
            Target::CoreVersions if is_aggregated => (&self.core_aggregated, AGGREGATED),
            Target::Groups if is_aggregated => (&self.groups_aggregated, AGGREGATED),
            Target::CoreVersions => (&self.core_versions, "application/json"),
            Target::Groups => (&self.groups, "application/json"),
            Target::Group(group) => (self.by_group.get(group)?, "application/json"),
            Target::Resources { group, version } => {
                (self.by_version.get(&(*group, *version))?, "application/json")
            }
            Target::Health { .. }
            | Target::Version
            | Target::OpenApiIndex
            | Target::OpenApiDocument(_)
            | Target::OpenApiV2
            | Target::Collection { .. }
            | Target::Object(_)
            | Target::Subresource { .. }
            | Target::Proxy { .. }
            | Target::Metric(_) => return None,
        };
        if !is_aggregated && let Err(failure) = negotiate::representation(accept) {
            return Some(Err(failure));
        }
        Some(Ok(document.response(content_type, headers)))
    }
}

impl Document {
    fn new(value: &Value) -> Document {
        let text = format!("{value}\n");
        let mut hex = String::from("\"");
        for byte in digest::digest(&digest::SHA512, text.as_bytes()).as_ref() {
            // Writing to a String cannot fail.
            let _ = write!(hex, "{byte:02X}");
        }
        hex.push('"');
        Document {
            bytes: text.into(),
            etag: HeaderValue::from_str(&hex).expect("hexadecimal digits in quotes"),
        }
    }

    fn response(&self, content_type: &'static str, headers: &HeaderMap) -> Response<Body> {
        let mut response = match matches_etag(headers, &self.etag) {
            true => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                response
            }
            false => {
                let mut response = Response::new(Body::from(self.bytes.clone()));
                response
                    .headers_mut()
                    .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
                response
            }
        };
        response.headers_mut().insert(header::ETAG, self.etag.clone());
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
        response
    }
}

/// Whether `If-None-Match` names `etag`.
pub fn matches_etag(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let (Some(asked), Ok(etag)) =
        (headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()), etag.to_str())
    else {
        return false;
    };
    asked
        .split(',')
        .map(|one| one.trim().trim_start_matches("W/"))
        .any(|one| one == etag || one == "*")
}

/// The catalog as the OpenAPI documents need it.
pub fn resource_docs() -> Vec<ResourceDoc> {
    catalog::groups()
        .into_iter()
        .flat_map(|(group, versions)| {
            versions.into_iter().flat_map(move |version| catalog::kinds(group, version))
        })
        // Figures have no schema to speak of.
        .filter(|kind| kind.keeping != catalog::Keeping::Measured(catalog::Measured::Figure))
        .map(|kind| ResourceDoc {
            group: kind.group.to_owned(),
            version: kind.version.to_owned(),
            kind: kind.kind.to_owned(),
            plural: kind.plural.to_owned(),
            namespaced: kind.is_namespaced(),
            verbs: words(kind.verbs),
            subresources: offered(kind)
                .map(|subresource| SubresourceDoc {
                    name: subresource.name.to_owned(),
                    group: subresource.kind.group.to_owned(),
                    version: subresource.kind.version.to_owned(),
                    kind: subresource.kind.kind.to_owned(),
                    verbs: words(subresource.verbs),
                })
                .collect(),
        })
        .collect()
}

fn words(verbs: &[Verb]) -> Vec<String> {
    verbs.iter().map(|verb| verb.as_str().to_owned()).collect()
}

fn offered(kind: &'static Kind) -> impl Iterator<Item = &'static Subresource> {
    kind.subresources.iter().filter(|subresource| !subresource.verbs.is_empty())
}

fn group_entry(group: &str, versions: &[&str]) -> Value {
    let entries: Vec<Value> = versions
        .iter()
        .map(|version| json!({"groupVersion": format!("{group}/{version}"), "version": version}))
        .collect();
    json!({"name": group, "versions": entries, "preferredVersion": entries[0]})
}

fn resources(group: &str, version: &str) -> Value {
    let mut entries = Vec::new();
    for kind in catalog::kinds(group, version) {
        let mut entry = Map::new();
        entry.insert("name".to_owned(), kind.plural.into());
        entry.insert("singularName".to_owned(), kind.singular.into());
        entry.insert("namespaced".to_owned(), kind.is_namespaced().into());
        entry.insert("kind".to_owned(), kind.kind.into());
        entry.insert("verbs".to_owned(), words(kind.verbs).into());
        if !kind.short_names.is_empty() {
            entry.insert("shortNames".to_owned(), json!(kind.short_names));
        }
        if !kind.categories.is_empty() {
            entry.insert("categories".to_owned(), json!(kind.categories));
        }
        entries.push(Value::Object(entry));
        for subresource in offered(kind) {
            let mut entry = Map::new();
            let name = format!("{}/{}", kind.plural, subresource.name);
            entry.insert("name".to_owned(), name.into());
            entry.insert("singularName".to_owned(), "".into());
            entry.insert("namespaced".to_owned(), kind.is_namespaced().into());
            if subresource.kind.group != group || subresource.kind.version != version {
                entry.insert("group".to_owned(), subresource.kind.group.into());
                entry.insert("version".to_owned(), subresource.kind.version.into());
            }
            entry.insert("kind".to_owned(), subresource.kind.kind.into());
            entry.insert("verbs".to_owned(), words(subresource.verbs).into());
            entries.push(Value::Object(entry));
        }
    }
    let group_version = match group {
        "" => version.to_owned(),
        group => format!("{group}/{version}"),
    };
    let mut list = Map::new();
    list.insert("kind".to_owned(), "APIResourceList".into());
    // The reference server leaves apiVersion out for the core group only.
    if !group.is_empty() {
        list.insert("apiVersion".to_owned(), "v1".into());
    }
    list.insert("groupVersion".to_owned(), group_version.into());
    list.insert("resources".to_owned(), Value::Array(entries));
    Value::Object(list)
}

fn aggregated(is_wanted: fn(&str) -> bool) -> Value {
    let items: Vec<Value> = catalog::groups()
        .into_iter()
        .filter(|(group, _)| is_wanted(group))
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .into_iter()
                .map(|version| {
                    let resources: Vec<Value> = catalog::kinds(group, version)
                        .into_iter()
                        .map(aggregated_resource)
                        .collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let metadata = match group {
                "" => json!({}),
                group => json!({"name": group}),
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    })
}

fn aggregated_resource(kind: &'static Kind) -> Value {
    let response_kind = |gvk: GroupVersionKind| json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind});
    let own = GroupVersionKind { group: kind.group, version: kind.version, kind: kind.kind };
    let mut entry = Map::new();
    entry.insert("resource".to_owned(), kind.plural.into());
    entry.insert("responseKind".to_owned(), response_kind(own));
    let scope = match kind.scope {
        Scope::Namespaced => "Namespaced",
        Scope::Cluster => "Cluster",
    };
    entry.insert("scope".to_owned(), scope.into());
    entry.insert("singularResource".to_owned(), kind.singular.into());
    entry.insert("verbs".to_owned(), words(kind.verbs).into());
    if !kind.short_names.is_empty() {
        entry.insert("shortNames".to_owned(), json!(kind.short_names));
    }
    if !kind.categories.is_empty() {
        entry.insert("categories".to_owned(), json!(kind.categories));
    }
    let below: Vec<Value> = offered(kind)
        .map(|subresource| {
            json!({
                "subresource": subresource.name,
                "responseKind": response_kind(subresource.kind),
                "verbs": words(subresource.verbs),
            })
        })
        .collect();
    if !below.is_empty() {
        entry.insert("subresources".to_owned(), Value::Array(below));
    }
    Value::Object(entry)
}

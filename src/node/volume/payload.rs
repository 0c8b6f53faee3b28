//! What the files of a configMap, secret, downwardAPI or projected volume are.
//!
//! Pure: from the volume as written and the objects as fetched to paths, bytes and modes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;

use crate::node::compile::ObjectFacts;
use crate::node::compile::downward::{self, Addresses, ResourceDefaults};

/// Files by their path below the volume.
pub type Files = BTreeMap<String, File>;

/// One file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub bytes: Vec<u8>,
    pub mode: u32,
}

/// What the files are made from.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    pub objects: &'a ObjectFacts,
    pub addresses: &'a Addresses,
    pub defaults: ResourceDefaults,
    /// Tokens of the pod's service account.
    pub tokens: &'a BTreeMap<TokenWant, String>,
}

/// A service-account token that a projected volume asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenWant {
    /// Empty: the API server's own.
    pub audience: String,
    pub expiration_seconds: i64,
}

impl TokenWant {
    fn of(source: &core::ServiceAccountTokenProjection) -> TokenWant {
        TokenWant {
            audience: source.audience.clone().unwrap_or_default(),
            expiration_seconds: source.expiration_seconds.unwrap_or(3600),
        }
    }
}

/// The files of a volume; `None` for volumes that are not made of objects.
pub(super) fn files(
    pod: &core::Pod,
    volume: &core::Volume,
    facts: &Facts<'_>,
) -> Result<Option<Files>, String> {
    let mut files = Files::new();
    if let Some(source) = &volume.config_map {
        let list = Items {
            name: &source.name,
            items: source.items.as_deref(),
            optional: source.optional == Some(true),
            mode: mode(source.default_mode),
        };
        config_map(facts, list, &mut files)?;
    } else if let Some(source) = &volume.secret {
        let list = Items {
            name: source.secret_name.as_deref().unwrap_or_default(),
            items: source.items.as_deref(),
            optional: source.optional == Some(true),
            mode: mode(source.default_mode),
        };
        secret(facts, list, &mut files)?;
    } else if let Some(source) = &volume.downward_api {
        let items = source.items.iter().flatten();
        downward_api(pod, items, mode(source.default_mode), facts, &mut files)?;
    } else if let Some(source) = &volume.projected {
        let default_mode = mode(source.default_mode);
        for source in source.sources.iter().flatten() {
            projection(pod, source, default_mode, facts, &mut files)?;
        }
    } else {
        return Ok(None);
    }
    match files.keys().find(|path| !stays_below(path)) {
        Some(path) => Err(format!("invalid path {path:?} in volume")),
        None => Ok(Some(files)),
    }
}

/// The ConfigMaps and Secrets that the pod's volumes and environment name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct References {
    pub config_maps: std::collections::BTreeSet<String>,
    pub secrets: std::collections::BTreeSet<String>,
    pub tokens: std::collections::BTreeSet<TokenWant>,
}

pub fn references(pod: &core::Pod) -> References {
    let mut found = References::default();
    let spec = pod.spec.as_ref();
    let spec = spec.into_iter();
    for volume in spec.clone().flat_map(|s| s.volumes.iter().flatten()) {
        if let Some(source) = &volume.config_map {
            found.config_maps.insert(source.name.clone());
        }
        if let Some(name) = volume.secret.as_ref().and_then(|s| s.secret_name.clone()) {
            found.secrets.insert(name);
        }
        let sources = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
        for source in sources {
            found.config_maps.extend(source.config_map.as_ref().map(|s| s.name.clone()));
            found.secrets.extend(source.secret.as_ref().map(|s| s.name.clone()));
            found.tokens.extend(source.service_account_token.as_ref().map(TokenWant::of));
        }
    }
    let containers = spec.flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers));
    for container in containers {
        for source in container.env_from.iter().flatten() {
            found.config_maps.extend(source.config_map_ref.as_ref().map(|r| r.name.clone()));
            found.secrets.extend(source.secret_ref.as_ref().map(|r| r.name.clone()));
        }
        for source in container.env.iter().flatten().filter_map(|env| env.value_from.as_ref()) {
            found.config_maps.extend(source.config_map_key_ref.as_ref().map(|r| r.name.clone()));
            found.secrets.extend(source.secret_key_ref.as_ref().map(|r| r.name.clone()));
        }
    }
    found
}

struct Items<'a> {
    name: &'a str,
    items: Option<&'a [core::KeyToPath]>,
    optional: bool,
    mode: u32,
}

fn projection(
    pod: &core::Pod,
    source: &core::VolumeProjection,
    mode: u32,
    facts: &Facts<'_>,
    files: &mut Files,
) -> Result<(), String> {
    if let Some(source) = &source.config_map {
        let optional = source.optional == Some(true);
        let list = Items { name: &source.name, items: source.items.as_deref(), optional, mode };
        config_map(facts, list, files)
    } else if let Some(source) = &source.secret {
        let optional = source.optional == Some(true);
        let list = Items { name: &source.name, items: source.items.as_deref(), optional, mode };
        secret(facts, list, files)
    } else if let Some(source) = &source.downward_api {
        downward_api(pod, source.items.iter().flatten(), mode, facts, files)
    } else if let Some(source) = &source.service_account_token {
        let token = facts
            .tokens
            .get(&TokenWant::of(source))
            .ok_or("the service account token could not be fetched")?;
        files.insert(source.path.clone(), File { bytes: token.clone().into_bytes(), mode });
        Ok(())
    } else {
        Err("this kind of projection is not supported".into())
    }
}

fn config_map(facts: &Facts<'_>, list: Items<'_>, files: &mut Files) -> Result<(), String> {
    let Some(map) = facts.objects.config_map(list.name) else {
        return missing("configmap", &list);
    };
    let mut data: BTreeMap<&str, &[u8]> = BTreeMap::new();
    data.extend(map.data.iter().flatten().map(|(k, v)| (k.as_str(), v.as_bytes())));
    data.extend(map.binary_data.iter().flatten().map(|(k, v)| (k.as_str(), v.0.as_slice())));
    select(&data, &list, "configmap references non-existent config key", files)
}

fn secret(facts: &Facts<'_>, list: Items<'_>, files: &mut Files) -> Result<(), String> {
    let Some(secret) = facts.objects.secret(list.name) else {
        return missing("secret", &list);
    };
    let data = secret.data.iter().flatten().map(|(k, v)| (k.as_str(), v.0.as_slice())).collect();
    select(&data, &list, "references non-existent secret key", files)
}

fn missing(kind: &str, list: &Items<'_>) -> Result<(), String> {
    if list.optional { Ok(()) } else { Err(format!("{kind} {:?} not found", list.name)) }
}

fn select(
    data: &BTreeMap<&str, &[u8]>,
    list: &Items<'_>,
    complaint: &str,
    files: &mut Files,
) -> Result<(), String> {
    let Some(items) = list.items.filter(|items| !items.is_empty()) else {
        let all = data.iter().map(|(key, bytes)| {
            ((*key).to_owned(), File { bytes: bytes.to_vec(), mode: list.mode })
        });
        files.extend(all);
        return Ok(());
    };
    for item in items {
        match data.get(item.key.as_str()) {
            Some(bytes) => {
                let mode = item.mode.map_or(list.mode, |own| mode(Some(own)));
                files.insert(item.path.clone(), File { bytes: bytes.to_vec(), mode });
            }
            None if list.optional => {}
            None => return Err(format!("{complaint}: {}", item.key)),
        }
    }
    Ok(())
}

fn downward_api<'a>(
    pod: &core::Pod,
    items: impl Iterator<Item = &'a core::DownwardAPIVolumeFile>,
    default_mode: u32,
    facts: &Facts<'_>,
    files: &mut Files,
) -> Result<(), String> {
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => downward::field(pod, &field.field_path, facts.addresses),
            (None, Some(resource)) => downward::resource(pod, None, resource, facts.defaults),
            (None, None) => return Err(format!("file {:?} names no source", item.path)),
        };
        let text = text.map_err(|refusal| refusal.message)?;
        let mode = item.mode.map_or(default_mode, |own| mode(Some(own)));
        files.insert(item.path.clone(), File { bytes: text.into_bytes(), mode });
    }
    Ok(())
}

fn mode(given: Option<i32>) -> u32 {
    given.and_then(|mode| u32::try_from(mode).ok()).map_or(0o644, |mode| mode & 0o777)
}

/// A relative path without `..`, whose first part cannot be mistaken for ours (`..data`).
fn stays_below(path: &str) -> bool {
    !path.is_empty()
        && !path.contains('\0')
        && !path.starts_with("..")
        && path.split('/').all(|part| !part.is_empty() && part != ".." && part != ".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    fn check(volume: Value, expected: Expect) {
        let pod: core::Pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "labels": {"b": "2", "a": "1"}},
            "spec": {"containers": [{"name": "a", "resources": {"limits": {"cpu": "250m"}}}]},
        }))
        .unwrap();
        let objects = ObjectFacts {
            config_maps: [(
                "conf".into(),
                serde_json::from_value(
                    json!({"data": {"x": "1", "y": "2"}, "binaryData": {"z": "AP8="}}),
                )
                .unwrap(),
            )]
            .into(),
            secrets: [(
                "keys".into(),
                serde_json::from_value(json!({"data": {"token": "c2VjcmV0"}})).unwrap(),
            )]
            .into(),
        };
        let facts = Facts {
            objects: &objects,
            addresses: &Addresses::default(),
            defaults: ResourceDefaults { cpu_millis: 2000, memory_bytes: 1 << 30 },
            tokens: &BTreeMap::new(),
        };
        let mut volume = volume;
        volume["name"] = "v".into();
        let volume = serde_json::from_value(volume).unwrap();
        let text = match files(&pod, &volume, &facts) {
            Ok(Some(files)) => files
                .iter()
                .map(|(path, f)| {
                    format!("{path} {:o} {:?}", f.mode, String::from_utf8_lossy(&f.bytes))
                })
                .collect::<Vec<_>>()
                .join("\n"),
            Ok(None) => "not of objects".into(),
            Err(reason) => format!("! {reason}"),
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn objects_become_files() {
        check(
            json!({"configMap": {"name": "conf"}}),
            expect![[r#"
                x 644 "1"
                y 644 "2"
                z 644 "\0�""#]],
        );
        check(
            json!({"configMap": {"name": "conf", "defaultMode": 0o400, "items": [
                {"key": "x", "path": "a/b"}, {"key": "y", "path": "c", "mode": 0o755}]}}),
            expect![[r#"
                a/b 400 "1"
                c 755 "2""#]],
        );
        check(json!({"secret": {"secretName": "keys"}}), expect![[r#"token 644 "secret""#]]);
        check(
            json!({"projected": {"sources": [
                {"configMap": {"name": "conf", "items": [{"key": "x", "path": "same"}]}},
                {"secret": {"name": "keys", "items": [{"key": "token", "path": "same"}]}},
                {"downwardAPI": {"items": [
                    {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                    {"path": "cpu", "resourceFieldRef": {"containerName": "a", "resource": "limits.cpu", "divisor": "1m"}},
                ]}},
            ]}}),
            expect![[r#"
                cpu 644 "250"
                labels 644 "a=\"1\"\nb=\"2\""
                same 644 "secret""#]],
        );
        check(json!({"emptyDir": {}}), expect!["not of objects"]);
    }

    #[test]
    fn what_is_missing_is_named_unless_optional() {
        check(json!({"configMap": {"name": "no"}}), expect![[r#"! configmap "no" not found"#]]);
        check(json!({"configMap": {"name": "no", "optional": true}}), expect![""]);
        check(
            json!({"configMap": {"name": "conf", "items": [{"key": "no", "path": "p"}]}}),
            expect!["! configmap references non-existent config key: no"],
        );
        check(
            json!({"secret": {"secretName": "keys", "optional": true, "items": [{"key": "no", "path": "p"}]}}),
            expect![""],
        );
    }

    #[test]
    fn paths_never_leave_the_volume() {
        for path in ["../x", "/x", "a/../../x", "..data", "a//b", ".", ""] {
            assert!(!stays_below(path), "{path}");
        }
        assert!(stays_below("a/b") && stays_below(".hidden") && stays_below("a..b"));
        check(
            json!({"configMap": {"name": "conf", "items": [{"key": "x", "path": "../x"}]}}),
            expect![[r#"! invalid path "../x" in volume"#]],
        );
    }
}

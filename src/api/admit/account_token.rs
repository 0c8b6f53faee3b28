//! The account token in every container of a new pod, as ServiceAccount admission mounts it: token, certificate of
//! the API and namespace in `/var/run/secrets/kubernetes.io/serviceaccount`.
//!
//! It never makes a token; the node asks for one that is bound to the pod. Pure.

use serde_json::{Value, json};

use crate::api::object;

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME: &str = "kube-api-access-";
/// An hour and a bit, by which Kubernetes tells its own tokens from those that manifests ask for.
const EXPIRATION_SECONDS: i64 = 3607;

/// Mounts the token unless pod or account say no, or a container has a mount of its own there.
pub fn mount(pod: &mut Value, account: &Value, uid: &str) {
    let says = |value: &Value| value["automountServiceAccountToken"].as_bool();
    if says(&pod["spec"]).or_else(|| says(account)) == Some(false) {
        return;
    }
    let spec = object::map_mut(pod, "spec");
    let found = spec.get("volumes").and_then(Value::as_array).and_then(|volumes| {
        let mut names = volumes.iter().filter_map(|volume| volume["name"].as_str());
        names.find(|name| name.starts_with(VOLUME)).map(str::to_owned)
    });
    let name = found.clone().unwrap_or_else(|| format!("{VOLUME}{}", suffix(uid)));
    let mut is_needed = false;
    for list in ["initContainers", "containers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
            let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
            if mounts.is_null() {
                *mounts = json!([]);
            }
            let Value::Array(mounts) = mounts else {
                continue; // Validation names the wrong type.
            };
            if mounts.iter().any(|mount| mount["mountPath"] == MOUNT_PATH) {
                continue;
            }
            mounts.push(json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH}));
            is_needed = true;
        }
    }
    if !is_needed || found.is_some() {
        return;
    }
    let volumes = spec.entry("volumes").or_insert_with(|| json!([]));
    if volumes.is_null() {
        *volumes = json!([]);
    }
    if let Value::Array(volumes) = volumes {
        volumes.push(volume(&name));
    }
}

fn volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": EXPIRATION_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{
            "path": "namespace",
            "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
        }]}},
    ]}})
}

/// Five characters that look like a generated name's: the uid is random, so they need no randomness of their own.
fn suffix(uid: &str) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    // FNV-1a.
    let mut hash = uid.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    let mut suffix = String::new();
    for _ in 0..5 {
        suffix.push(char::from(ALPHABET[(hash % 27) as usize]));
        hash /= 27;
    }
    suffix
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(spec: Value, account: Value) -> Value {
        let mut pod = json!({ "spec": spec });
        mount(&mut pod, &account, "0b7d2c1e-6a1f-4f0e-9d7a-3f1d5a1c9e11");
        pod["spec"].clone()
    }

    fn paths(spec: &Value) -> Vec<String> {
        let lists = ["initContainers", "containers"].into_iter();
        let containers = lists.filter_map(|list| spec[list].as_array()).flatten();
        let mounts = containers.filter_map(|c| c["volumeMounts"].as_array()).flatten();
        mounts.map(|mount| format!("{} {}", mount["name"], mount["mountPath"])).collect()
    }

    #[test]
    fn every_container_gets_the_token_from_one_volume() {
        let spec = mounted(
            json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}, {"name": "b"}]}),
            json!({}),
        );
        let name = spec["volumes"][0]["name"].as_str().unwrap();
        assert!(name.starts_with(VOLUME) && name.len() == VOLUME.len() + 5, "{name}");
        assert_eq!(spec["volumes"].as_array().unwrap().len(), 1);
        assert_eq!(paths(&spec), vec![format!("{name:?} {MOUNT_PATH:?}"); 3]);
    }

    #[test]
    fn the_pod_decides_before_its_account_and_yes_is_the_default() {
        for (pod, account, is_mounted) in [
            (json!(null), json!(null), true),
            (json!(null), json!(false), false),
            (json!(true), json!(false), true),
            (json!(false), json!(true), false),
        ] {
            let spec = mounted(
                json!({"automountServiceAccountToken": pod, "containers": [{"name": "a"}]}),
                json!({"automountServiceAccountToken": account}),
            );
            assert_eq!(!paths(&spec).is_empty(), is_mounted, "{pod} {account}");
            assert_eq!(spec.get("volumes").is_some(), is_mounted);
        }
    }

    #[test]
    fn what_a_manifest_mounts_there_itself_stays() {
        let own = json!([{"name": "mine", "mountPath": MOUNT_PATH}]);
        let spec = mounted(json!({"containers": [{"name": "a", "volumeMounts": own}]}), json!({}));
        assert_eq!(paths(&spec), [format!("\"mine\" {MOUNT_PATH:?}")]);
        assert_eq!(spec.get("volumes"), None);
        // A pod that is created again as it was read has its volume already.
        let again = mounted(json!({"containers": [{"name": "a"}]}), json!({}));
        assert_eq!(mounted(again.clone(), json!({})), again);
    }
}

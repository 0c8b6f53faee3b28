//! Registry credentials out of image pull secrets.
//!
//! Pure. Entries that cannot be read are passed over: a pull without them says what is missing.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1 as core;
use serde_json::Value;

use crate::runtime::image::Credentials;

/// The credentials of a `kubernetes.io/dockerconfigjson` or `kubernetes.io/dockercfg` secret.
pub fn credentials(secret: &core::Secret) -> Vec<Credentials> {
    let data = secret.data.as_ref();
    let read = |key: &str| -> Option<Value> { serde_json::from_slice(&data?.get(key)?.0).ok() };
    let auths = match secret.type_.as_deref() {
        Some("kubernetes.io/dockerconfigjson") => {
            read(".dockerconfigjson").and_then(|config| config.get("auths").cloned())
        }
        Some("kubernetes.io/dockercfg") => read(".dockercfg"),
        Some(_) | None => None,
    };
    let Some(Value::Object(auths)) = auths else {
        return Vec::new();
    };
    auths
        .iter()
        .filter_map(|(registry, auth)| {
            let text = |key: &str| auth.get(key).and_then(Value::as_str).map(str::to_owned);
            let (username, password) = match (text("username"), text("password")) {
                (Some(username), Some(password)) => (username, password),
                _ => {
                    let decoded = STANDARD.decode(text("auth")?.trim()).ok()?;
                    let decoded = String::from_utf8(decoded).ok()?;
                    let (username, password) = decoded.split_once(':')?;
                    (username.to_owned(), password.trim_end_matches('\0').to_owned())
                }
            };
            Some(Credentials { registry: registry.clone(), username, password })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn docker_configs_are_read_in_both_forms() {
        let config = json!({"auths": {
            "registry.example.com": {"auth": STANDARD.encode("user:pa:ss")},
            "other": {"username": "u", "password": "p"},
            "broken": {"auth": "%%"},
        }});
        let secret: core::Secret = serde_json::from_value(json!({
            "type": "kubernetes.io/dockerconfigjson",
            "data": {".dockerconfigjson": STANDARD.encode(config.to_string())},
        }))
        .unwrap();
        let mut found: Vec<String> = credentials(&secret)
            .into_iter()
            .map(|c| format!("{} {} {}", c.registry, c.username, c.password))
            .collect();
        found.sort();
        assert_eq!(found, ["other u p", "registry.example.com user pa:ss"]);
        let opaque = core::Secret { type_: Some("Opaque".into()), ..secret };
        assert!(credentials(&opaque).is_empty());
    }
}

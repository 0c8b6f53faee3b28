//! A container's environment and the `$(VAR)` rules (S31).
//!
//! Pure. Order: the image's variables, then those of Services, then `envFrom`, then `env`; later ones replace earlier
//! ones.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;

use super::downward::{self, ResourceDefaults};
use super::service_env;
use super::{ContainerFacts, ObjectFacts, Refusal};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables in the order of their first appearance; the last value of a name counts.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Environment {
    order: Vec<String>,
    values: BTreeMap<String, String>,
    /// Keys of `envFrom` that cannot be variable names, by where they come from.
    pub skipped: Vec<Skipped>,
}

/// Keys that were passed over, told in an InvalidEnvironmentVariableNames Event.
#[derive(Debug, Clone, PartialEq)]
pub struct Skipped {
    /// `ConfigMap default/settings`.
    pub from: String,
    pub keys: Vec<String>,
}

impl Environment {
    fn set(&mut self, name: &str, value: String) {
        if self.values.insert(name.to_owned(), value).is_none() {
            self.order.push(name.to_owned());
        }
    }

    /// `NAME=value` lines.
    pub fn lines(&self) -> Vec<String> {
        self.order.iter().map(|name| format!("{name}={}", self.values[name])).collect()
    }
}

/// What the manifest says, without what the image and we add: the variables that `$(VAR)` sees.
pub(super) fn declared(
    pod: &core::Pod,
    container: &core::Container,
    facts: &ContainerFacts<'_>,
) -> Result<Environment, Refusal> {
    let mut env = Environment::default();
    for (name, value) in service_env::variables(pod, facts.services) {
        env.set(&name, value);
    }
    for source in container.env_from.iter().flatten() {
        env_from(pod, source, facts.objects, &mut env)?;
    }
    for var in container.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (Some(value), _) if !value.is_empty() => Some(expand(value, &env.values)),
            (_, Some(source)) => value_from(pod, container, source, facts)?,
            (_, None) => Some(String::new()),
        };
        if let Some(value) = value {
            env.set(&var.name, value);
        }
    }
    Ok(env)
}

/// The complete environment of the process.
pub(super) fn complete(
    declared: Environment,
    container: &core::Container,
    facts: &ContainerFacts<'_>,
    hostname: &str,
    home: Option<&str>,
) -> Environment {
    let mut env = Environment { skipped: declared.skipped, ..Environment::default() };
    env.set("PATH", DEFAULT_PATH.into());
    env.set("HOSTNAME", hostname.into());
    if container.tty.unwrap_or(false) {
        env.set("TERM", "xterm".into());
    }
    if let Some(home) = home.filter(|home| !home.is_empty()) {
        env.set("HOME", home.into());
    }
    let of_image = facts.image.env.iter().filter_map(|line| line.split_once('='));
    for (name, value) in of_image.filter(|(name, _)| !name.is_empty()) {
        env.set(name, value.into());
    }
    for name in declared.order {
        if let Some(value) = declared.values.get(&name) {
            env.set(&name, value.clone());
        }
    }
    env
}

/// Replaces `$(NAME)` by its value; `$$` is a dollar; what is unknown or malformed stays as it is.
pub(super) fn expand(text: &str, values: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|t| t.split_once(')')) {
            match values.get(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

impl Environment {
    /// Expands `$(VAR)` in `command` and `args`.
    pub fn expand(&self, text: &str) -> String {
        expand(text, &self.values)
    }
}

fn env_from(
    pod: &core::Pod,
    source: &core::EnvFromSource,
    objects: &ObjectFacts,
    env: &mut Environment,
) -> Result<(), Refusal> {
    let prefix = source.prefix.as_deref().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(reference) = &source.config_map_ref {
        match objects.config_map(&reference.name) {
            Some(map) => {
                let data = map.data.iter().flatten().map(|(k, v)| (k.as_str(), v.clone()));
                let from = format!("ConfigMap {namespace}/{}", reference.name);
                add_all(env, prefix, data, from);
            }
            None if reference.optional == Some(true) => {}
            None => return Err(Refusal::missing("configmap", &reference.name)),
        }
    }
    if let Some(reference) = &source.secret_ref {
        match objects.secret(&reference.name) {
            Some(secret) => {
                let data = secret.data.iter().flatten();
                let data =
                    data.map(|(k, v)| (k.as_str(), String::from_utf8_lossy(&v.0).into_owned()));
                let from = format!("Secret {namespace}/{}", reference.name);
                add_all(env, prefix, data, from);
            }
            None if reference.optional == Some(true) => {}
            None => return Err(Refusal::missing("secret", &reference.name)),
        }
    }
    Ok(())
}

fn add_all<'a>(
    env: &mut Environment,
    prefix: &str,
    data: impl Iterator<Item = (&'a str, String)>,
    from: String,
) {
    let mut keys = Vec::new();
    for (key, value) in data {
        let name = format!("{prefix}{key}");
        // Relaxed names (KEP-4369): printable ASCII without `=`. A value with NUL cannot be passed at all.
        let fits = name.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=');
        if fits && !value.contains('\0') {
            env.set(&name, value);
        } else {
            keys.push(name);
        }
    }
    if !keys.is_empty() {
        env.skipped.push(Skipped { from, keys });
    }
}

/// `None`: an optional reference leads nowhere, so the variable is not set.
fn value_from(
    pod: &core::Pod,
    container: &core::Container,
    source: &core::EnvVarSource,
    facts: &ContainerFacts<'_>,
) -> Result<Option<String>, Refusal> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(reference) = &source.config_map_key_ref {
        let optional = reference.optional == Some(true);
        let Some(map) = facts.objects.config_map(&reference.name) else {
            return if optional {
                Ok(None)
            } else {
                Err(Refusal::missing("configmap", &reference.name))
            };
        };
        return match map.data.as_ref().and_then(|data| data.get(&reference.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(Refusal::config(format!(
                "couldn't find key {} in ConfigMap {namespace}/{}",
                reference.key, reference.name
            ))),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let optional = reference.optional == Some(true);
        let Some(secret) = facts.objects.secret(&reference.name) else {
            return if optional {
                Ok(None)
            } else {
                Err(Refusal::missing("secret", &reference.name))
            };
        };
        return match secret.data.as_ref().and_then(|data| data.get(&reference.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None if optional => Ok(None),
            None => Err(Refusal::config(format!(
                "couldn't find key {} in Secret {namespace}/{}",
                reference.key, reference.name
            ))),
        };
    }
    if let Some(field) = &source.field_ref {
        return downward::field(pod, &field.field_path, &facts.addresses()).map(Some);
    }
    if let Some(resource) = &source.resource_field_ref {
        let defaults = ResourceDefaults {
            cpu_millis: facts.node.cpu_millis,
            memory_bytes: facts.node.memory_bytes,
        };
        return downward::resource(pod, Some(container), resource, defaults).map(Some);
    }
    Err(Refusal::config("env valueFrom names no source that is supported".into()))
}

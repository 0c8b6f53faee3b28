//! POST to a collection: names, admission, the first commit of an object.
//!
//! It never overwrites.

use serde_json::Value;

use crate::api::admit::{self, CreateFacts, NamespaceFact, Part};
use crate::api::catalog::{self, GroupVersionKind, Kind};
use crate::api::failure::Failure;
use crate::api::query::Effect;
use crate::api::reply::{Answer, Content};
use crate::api::verbs::selection::Selection;
use crate::api::verbs::{Call, body, key, list, pod_security, write};
use crate::api::{Api, bootstrap, object};
use crate::sys::clock;

/// How many generated names may be taken before the client is told (S7).
const NAME_ATTEMPTS: usize = 8;
/// Of a generated name's base, so that name and suffix fit into a DNS label.
const BASE_LENGTH: usize = 58;
const SUFFIX_LENGTH: usize = 5;
/// No vowels, no look-alikes: a suffix spells nothing.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

pub async fn create(
    api: &Api,
    call: &Call,
    kind: &'static Kind,
    namespace: Option<&str>,
) -> Result<Answer, Failure> {
    let effect = call.query.effect()?;
    let mut typed = body::read(call, own_kind(kind))?;
    // Whose a field is, only an apply records at once.
    object::metadata_mut(&mut typed.object).shift_remove("managedFields");
    match insert(api, kind, namespace, typed.object, effect).await {
        Ok(created) => {
            let noted = pod_security::warnings(api, kind, Part::Main, None, &created);
            let warnings = [typed.warnings, noted].concat();
            Ok(Answer::created(Content::One(created)).with_warnings(warnings))
        }
        Err(failure) => Err(failure.with_warnings(typed.warnings)),
    }
}

/// The kind of the bodies of `kind` itself.
pub fn own_kind(kind: &Kind) -> GroupVersionKind {
    GroupVersionKind { group: kind.group, version: kind.version, kind: kind.kind }
}

/// Creates `new` in `namespace`.
pub async fn insert(
    api: &Api,
    kind: &'static Kind,
    namespace: Option<&str>,
    new: Value,
    effect: Effect,
) -> Result<Value, Failure> {
    check_identity(kind, namespace, &new)?;
    let given = object::name(&new).to_owned();
    let base = object::text(&new, &["metadata", "generateName"]).to_owned();
    let is_generated = given.is_empty() && !base.is_empty();
    let attempts = if is_generated { NAME_ATTEMPTS } else { 1 };
    let mut name = given;
    let _living = api.inner.namespace_gate.read().await;
    for _ in 0..attempts {
        if is_generated {
            name = generate(&base);
        }
        let admitted = admit_new(api, kind, namespace, new.clone(), &name)?;
        let mut objects = vec![(key(kind, namespace, &name), kind, admitted)];
        if kind.plural == "namespaces" {
            objects.extend(bootstrap::companions(api, &name)?);
        }
        if let Some(created) = write::create(api, objects, effect).await? {
            return Ok(created);
        }
    }
    Err(match is_generated {
        true => Failure::no_unique_name(kind, &name),
        false => Failure::already_exists(kind, &name),
    })
}

fn check_identity(kind: &Kind, namespace: Option<&str>, new: &Value) -> Result<(), Failure> {
    let own = object::text(new, &["metadata", "namespace"]);
    if kind.is_namespaced() && !own.is_empty() && Some(own) != namespace {
        return Err(Failure::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    if !object::resource_version(new).is_empty() {
        return Err(Failure::unknown_500(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    Ok(())
}

/// Gathers the facts of a creation, then admits.
fn admit_new(
    api: &Api,
    kind: &'static Kind,
    namespace: Option<&str>,
    new: Value,
    name: &str,
) -> Result<admit::Admitted, Failure> {
    let namespaces = catalog::namespaces();
    let found = namespace
        .map(|namespace| write::read(api, namespaces, &key(namespaces, None, namespace)))
        .transpose()?
        .flatten();
    let account = match kind.resource().as_str() {
        "pods" => {
            let accounts = catalog::service_accounts();
            let wanted = admit::pod::service_account_name(&new);
            write::read(api, accounts, &key(accounts, namespace, wanted))?
        }
        _ => None,
    };
    let classes = match kind.resource().as_str() {
        "ingresses.networking.k8s.io" if admit::ingress::wants_class(&new) => {
            let classes = catalog::ingress_classes();
            list::all(api, classes, None, &Selection::everything(classes))?
        }
        _ => Vec::new(),
    };
    let facts = CreateFacts {
        now: clock::now(),
        uid: clock::uuid(),
        name: name.to_owned(),
        namespace: namespace.map(|name| NamespaceFact { name, object: found.as_ref() }),
        service_account: account.as_ref(),
        ingress_classes: &classes,
    };
    admit::create(kind, new, &facts)
}

fn generate(base: &str) -> String {
    let end = base
        .char_indices()
        .map(|(index, c)| index + c.len_utf8())
        .take_while(|end| *end <= BASE_LENGTH)
        .last()
        .unwrap_or(0);
    let mut name = base[..end].to_owned();
    // Bytes beyond the largest multiple of 27 would make the first letters likelier.
    let fair = u8::MAX - u8::MAX % 27;
    while name.len() < end + SUFFIX_LENGTH {
        let mut raw = [0u8; 16];
        clock::random(&mut raw);
        for byte in raw.into_iter().filter(|byte| *byte < fair) {
            if name.len() < end + SUFFIX_LENGTH {
                name.push(char::from(ALPHABET[usize::from(byte % 27)]));
            }
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_fit_into_a_label() {
        let name = generate(&"a".repeat(80));
        assert_eq!(name.len(), 63);
        let short = generate("web-");
        assert_eq!(short.len(), 9);
        assert!(short[4..].bytes().all(|byte| ALPHABET.contains(&byte)));
    }
}

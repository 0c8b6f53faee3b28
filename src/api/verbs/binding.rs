//! POST pods/NAME/binding: a pod gets its node, once.
//!
//! It never chooses a node.

use crate::api::catalog::Subresource;
use crate::api::failure::{self, Failure};
use crate::api::path::Object;
use crate::api::reply::{Answer, Content};
use crate::api::verbs::{Call, body, key_of, update, write};
use crate::api::{Api, admit, object};
use crate::sys::clock;

pub async fn bind(
    api: &Api,
    call: &Call,
    target: &Object,
    subresource: &Subresource,
) -> Result<Answer, Failure> {
    let effect = call.query.effect()?;
    let typed = body::read(call, subresource.kind)?;
    let binding = update::named_as(target, typed.object)?;
    let node = object::text(&binding, &["target", "name"]).to_owned();
    let kind = object::text(&binding, &["target", "kind"]);
    if node.is_empty() || !matches!(kind, "" | "Node") {
        let (field, reason, message) = match node.is_empty() {
            true => ("target.name", "FieldValueRequired", "Required value".to_owned()),
            false => (
                "target.kind",
                "FieldValueNotSupported",
                format!("Unsupported value: \"{kind}\": supported values: \"Node\", \"\""),
            ),
        };
        return Err(Failure::invalid_causes(
            "",
            "Binding",
            &target.name,
            vec![failure::Cause { reason: reason.to_owned(), message, field: field.to_owned() }],
        ));
    }
    let uid = object::uid(&binding).to_owned();
    write::change(api, target.kind, &key_of(target), effect, |pod| {
        let conflict = |why: &str| Failure::conflict_in(target, "binding", why);
        if !uid.is_empty() && uid != object::uid(pod) {
            return Err(conflict(&format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                object::uid(pod)
            )));
        }
        if object::is_terminating(pod) {
            return Err(conflict(&format!(
                "pod {} is being deleted, cannot be assigned to a host",
                target.name
            )));
        }
        let current = object::text(pod, &["spec", "nodeName"]);
        if !current.is_empty() {
            return Err(conflict(&format!(
                "pod {} is already assigned to node \"{current}\"",
                target.name
            )));
        }
        let now = clock::now();
        Ok(write::Next::Put(admit::bind(target.kind, pod, &node, now)))
    })
    .await?;
    Ok(Answer::created(Content::Other(failure::success())).with_warnings(typed.warnings))
}

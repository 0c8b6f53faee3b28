//! The class of an Ingress that names none.
//!
//! It never changes an Ingress that has said what it wants.

use serde_json::Value;

use crate::api::object;
use crate::api::validate::ingress::CLASS_ANNOTATION;

const DEFAULT_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";

/// Whether `ingress` leaves its class to the cluster.
pub fn wants_class(ingress: &Value) -> bool {
    ingress["spec"]["ingressClassName"].is_null()
        && ingress["metadata"]["annotations"][CLASS_ANNOTATION].is_null()
}

/// The name of the default class: of several the newest, of equally old ones the first by name.
pub(super) fn default_class(classes: &[Value]) -> Option<&str> {
    let defaults = classes
        .iter()
        .filter(|class| class["metadata"]["annotations"][DEFAULT_ANNOTATION] == "true");
    let newest = defaults.min_by(|one, other| {
        let made = |class| object::text(class, &["metadata", "creationTimestamp"]);
        made(other).cmp(made(one)).then_with(|| object::name(one).cmp(object::name(other)))
    });
    newest.map(object::name)
}

/// Gives `ingress` the default class, if there is one.
pub(super) fn prepare(ingress: &mut Value, classes: &[Value]) {
    if wants_class(ingress)
        && let Some(class) = default_class(classes)
    {
        object::map_mut(ingress, "spec").insert("ingressClassName".to_owned(), class.into());
    }
}

//! Questions a client asks about itself: who am I, may I, what may I.
//!
//! Nothing is stored.

use serde_json::{Value, json};

use crate::api::authorize::{self, Attributes, ResourceAttributes, Verdict};
use crate::api::catalog::{Kind, Review};
use crate::api::failure::{Cause, Failure};
use crate::api::identity::Identity;
use crate::api::object;
use crate::api::reply::{Answer, Content};
use crate::api::verbs::{Call, body, create};

pub fn review(call: &Call, kind: &Kind, review: Review) -> Result<Answer, Failure> {
    let mut typed = body::read(call, create::own_kind(kind))?;
    let spec = typed.object["spec"].clone();
    let status = match review {
        Review::WhoAmI => who_am_i(&call.identity),
        Review::Access => access(kind, &call.identity, &spec)?,
        Review::Rules => rules(kind, &call.identity, &spec)?,
    };
    typed.object["metadata"] = json!({"creationTimestamp": null});
    typed.object["status"] = status;
    let answered = object::canonical(typed.object);
    Ok(Answer::created(Content::Other(answered)).with_warnings(typed.warnings))
}

fn who_am_i(identity: &Identity) -> Value {
    let mut info = json!({"username": identity.user});
    if let Some(uid) = &identity.uid {
        info["uid"] = uid.clone().into();
    }
    info["groups"] = json!(identity.groups);
    if !identity.extra.is_empty() {
        info["extra"] = json!(identity.extra);
    }
    json!({"userInfo": info})
}

fn access(kind: &Kind, identity: &Identity, spec: &Value) -> Result<Value, Failure> {
    let resource = &spec["resourceAttributes"];
    let path = &spec["nonResourceAttributes"];
    let text = |from: &'static str, value: &Value| -> String {
        value[from].as_str().unwrap_or_default().to_owned()
    };
    let (verb, group, plural, subresource, namespace, name) = (
        text("verb", resource),
        text("group", resource),
        text("resource", resource),
        text("subresource", resource),
        text("namespace", resource),
        text("name", resource),
    );
    let (path_verb, path_text) = (text("verb", path), text("path", path));
    let attributes = match (resource.is_object(), path.is_object()) {
        (true, false) => Attributes::Resource(ResourceAttributes {
            verb: &verb,
            group: &group,
            resource: &plural,
            subresource: &subresource,
            namespace: &namespace,
            name: &name,
        }),
        (false, true) => Attributes::Path { verb: &path_verb, path: &path_text },
        (true, true) => {
            return Err(invalid(
                kind,
                "spec.nonResourceAttributes",
                "FieldValueInvalid",
                "Invalid value: cannot be specified in combination with resourceAttributes",
            ));
        }
        (false, false) => {
            return Err(invalid(
                kind,
                "spec.resourceAttributes",
                "FieldValueInvalid",
                "Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified",
            ));
        }
    };
    Ok(match authorize::decide(identity, &attributes) {
        Verdict::Allowed { reason: "" } => json!({"allowed": true}),
        Verdict::Allowed { reason } => json!({"allowed": true, "reason": reason}),
        Verdict::NotAllowed => json!({"allowed": false}),
    })
}

fn rules(kind: &Kind, identity: &Identity, spec: &Value) -> Result<Value, Failure> {
    if object::text(spec, &["namespace"]).is_empty() {
        return Err(invalid(
            kind,
            "spec.namespace",
            "FieldValueRequired",
            "Required value: no namespace on request",
        ));
    }
    let mut resources = vec![
        json!({"verbs": ["create"], "apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"]}),
        json!({
            "verbs": ["create"],
            "apiGroups": ["authorization.k8s.io"],
            "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
        }),
    ];
    let mut paths = vec![json!({
        "verbs": ["get"],
        "nonResourceURLs": ["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version", "/version/"],
    })];
    if authorize::is_all_powerful(identity) {
        resources.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        paths.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    Ok(json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false}))
}

fn invalid(kind: &Kind, field: &str, reason: &str, message: &str) -> Failure {
    Failure::invalid_causes(
        kind.group,
        kind.kind,
        "",
        vec![Cause {
            reason: reason.to_owned(),
            message: message.to_owned(),
            field: field.to_owned(),
        }],
    )
}

//! Every "no" of the API as a `metav1.Status`: the single place where codes, reasons and texts meet.
//!
//! It never carries internal detail: what an internal error knows is logged, the client learns only
//! that it happened.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value, json};

use crate::api::catalog::{Kind, qualified};
use crate::api::path::Object;
use crate::api::reply;
use crate::api::validate::FieldError;
use crate::model::revision::Revision;

/// One finding about one part of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    pub reason: String,
    pub message: String,
    pub field: String,
}

/// A refused or failed request, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    /// Boxed: every verb's result has room for a failure.
    details: Box<Details>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Details {
    name: String,
    group: String,
    kind: String,
    uid: String,
    causes: Vec<Cause>,
    retry_after_seconds: Option<u32>,
    /// A token for `metadata.continue` (an expired list goes on with it).
    continue_token: Option<String>,
    /// What the request earned before it was refused.
    warnings: Vec<String>,
}

impl Failure {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Failure {
        Failure { code, reason, message: message.into(), details: Box::default() }
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Failure {
        self.details.group = group.to_owned();
        self.details.kind = kind.to_owned();
        self.details.name = name.to_owned();
        self
    }

    pub fn bad_request(message: impl Into<String>) -> Failure {
        Failure::new(400, "BadRequest", message)
    }

    pub fn unauthorized() -> Failure {
        Failure::new(401, "Unauthorized", "Unauthorized")
    }

    /// `why` follows "pods \"x\" is forbidden: ".
    pub fn forbidden(group: &str, plural: &str, name: &str, why: &str) -> Failure {
        let resource = qualified(group, plural);
        let message = match name {
            "" => format!("{resource} is forbidden: {why}"),
            name => format!("{resource} \"{name}\" is forbidden: {why}"),
        };
        Failure::new(403, "Forbidden", message).about(group, plural, name)
    }

    pub fn forbidden_path(user: &str, verb: &str, path: &str) -> Failure {
        Failure::new(
            403,
            "Forbidden",
            format!("forbidden: User \"{user}\" cannot {verb} path \"{path}\""),
        )
    }

    pub fn not_found(kind: &Kind, name: &str) -> Failure {
        Failure::resource_not_found(kind.group, kind.plural, name)
    }

    pub fn resource_not_found(group: &str, plural: &str, name: &str) -> Failure {
        Failure::new(404, "NotFound", format!("{} \"{name}\" not found", qualified(group, plural)))
            .about(group, plural, name)
    }

    /// A verb target this server does not know, of a resource; `message` names what is missing.
    pub fn nothing_here(group: &str, resource: &str, message: &str) -> Failure {
        Failure::new(404, "NotFound", message).about(group, resource, "")
    }

    pub fn method_not_allowed() -> Failure {
        Failure::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    pub fn not_acceptable() -> Failure {
        Failure::new(
            406,
            "NotAcceptable",
            "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf",
        )
    }

    pub fn already_exists(kind: &Kind, name: &str) -> Failure {
        Failure::new(409, "AlreadyExists", format!("{} \"{name}\" already exists", kind.resource()))
            .about(kind.group, kind.plural, name)
    }

    /// Every generated name was taken (S7).
    pub fn no_unique_name(kind: &Kind, name: &str) -> Failure {
        Failure::new(
            409,
            "AlreadyExists",
            format!(
                "{} \"{name}\" already exists, the server was not able to generate a unique name for the object",
                kind.resource()
            ),
        )
        .about(kind.group, kind.plural, name)
    }

    /// `why` follows "Operation cannot be fulfilled on pods \"x\": ".
    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Failure {
        Failure::new(
            409,
            "Conflict",
            format!("Operation cannot be fulfilled on {} \"{name}\": {why}", kind.resource()),
        )
        .about(kind.group, kind.plural, name)
    }

    /// A conflict on a subresource: `pods/binding "x"`.
    pub fn conflict_in(target: &Object, subresource: &str, why: &str) -> Failure {
        let kind = target.kind;
        let mut failure = Failure::conflict(kind, &target.name, why);
        failure.message = format!(
            "Operation cannot be fulfilled on {}/{subresource} \"{}\": {why}",
            kind.resource(),
            target.name
        );
        failure.details.kind = format!("{}/{subresource}", kind.plural);
        failure
    }

    pub fn modified(kind: &Kind, name: &str) -> Failure {
        Failure::conflict(
            kind,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// Others have set what an apply would change; each as (who, field).
    pub fn apply_conflict(conflicts: &[(String, String)]) -> Failure {
        let message = match conflicts {
            [(who, field)] => format!("Apply failed with 1 conflict: conflict with {who}: {field}"),
            several => {
                let mut managers: Vec<&String> = several.iter().map(|(who, _)| who).collect();
                managers.sort();
                managers.dedup();
                let mut lines = Vec::new();
                for manager in managers {
                    lines.push(format!("conflicts with {manager}:"));
                    let own = several.iter().filter(|(who, _)| who == manager);
                    lines.extend(own.map(|(_, field)| format!("- {field}")));
                }
                format!("Apply failed with {} conflicts: {}", several.len(), lines.join("\n"))
            }
        };
        let mut failure = Failure::new(409, "Conflict", message);
        failure.details.causes = conflicts
            .iter()
            .map(|(who, field)| Cause {
                reason: "FieldManagerConflict".to_owned(),
                message: format!("conflict with {who}"),
                field: field.clone(),
            })
            .collect();
        failure
    }

    pub fn expired(message: impl Into<String>) -> Failure {
        Failure::new(410, "Expired", message)
    }

    pub fn too_old(asked: u64, oldest: Revision) -> Failure {
        Failure::expired(format!("too old resource version: {asked} ({oldest})"))
    }

    pub fn too_large(limit: usize) -> Failure {
        Failure::new(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {limit}"),
        )
    }

    /// Too much work in a small body (a patch of many operations).
    pub fn too_large_because(why: String) -> Failure {
        Failure::new(413, "RequestEntityTooLarge", why)
    }

    pub fn unsupported_media_type(message: impl Into<String>) -> Failure {
        Failure::new(415, "UnsupportedMediaType", message)
    }

    /// The connection was opened for other names than the request asks for.
    pub fn misdirected(host: &str) -> Failure {
        Failure::new(421, "BadRequest", format!("this server does not serve host {host:?}"))
    }

    /// `errors` is not empty.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Failure {
        let causes: Vec<Cause> = errors
            .iter()
            .map(|error| Cause {
                reason: error.reason.as_cause().to_owned(),
                message: error.message.clone(),
                field: error.field.clone(),
            })
            .collect();
        Failure::invalid_causes(group, kind, name, causes)
    }

    pub fn invalid_causes(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Failure {
        let texts: Vec<String> =
            causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
        let what = match texts.as_slice() {
            [one] => one.clone(),
            several => format!("[{}]", several.join(", ")),
        };
        let mut failure = Failure::new(
            422,
            "Invalid",
            format!("{} \"{name}\" is invalid: {what}", qualified(group, kind)),
        )
        .about(group, kind, name);
        failure.details.causes = causes;
        failure
    }

    /// A patch that parsed but cannot be carried out. Clients print it as a request's fault, not as an
    /// object's: no details.
    pub fn unprocessable(message: &str) -> Failure {
        Failure::new(422, "Invalid", message)
    }

    pub fn internal(why: &str) -> Failure {
        Failure::new(500, "InternalError", format!("Internal error occurred: {why}")).with_cause(
            Cause { reason: String::new(), message: why.to_owned(), field: String::new() },
        )
    }

    /// What the reference server answers as a plain 500.
    pub fn unknown_500(message: &str) -> Failure {
        Failure::new(500, "", message)
    }

    pub fn unavailable(message: &str) -> Failure {
        Failure::new(503, "ServiceUnavailable", message)
    }

    pub fn overloaded() -> Failure {
        let mut failure = Failure::new(
            429,
            "TooManyRequests",
            "the server has received too many requests and has asked us to try again later",
        );
        failure.details.retry_after_seconds = Some(1);
        failure
    }

    /// Of one identity, or of all.
    pub fn too_many_connections(user: &str) -> Failure {
        let message = format!("too many connections are open; {user:?} gets none more for now");
        Failure { message, ..Failure::overloaded() }
    }

    pub fn timed_out(why: &str) -> Failure {
        Failure::new(504, "Timeout", format!("Timeout: {why}"))
    }

    /// A read demands a state this store has not reached.
    pub fn future_version(asked: u64, current: Revision) -> Failure {
        let mut failure = Failure::new(
            504,
            "Timeout",
            format!("Timeout: Too large resource version: {asked}, current: {current}"),
        )
        .with_cause(Cause {
            reason: "ResourceVersionTooLarge".to_owned(),
            message: "Too large resource version".to_owned(),
            field: String::new(),
        });
        failure.details.retry_after_seconds = Some(1);
        failure
    }

    pub fn with_cause(mut self, cause: Cause) -> Failure {
        self.details.causes.push(cause);
        self
    }

    pub fn with_uid(mut self, uid: &str) -> Failure {
        self.details.uid = uid.to_owned();
        self
    }

    pub fn with_warnings(mut self, warnings: Vec<String>) -> Failure {
        self.details.warnings.extend(warnings);
        self
    }

    pub fn with_continue(mut self, token: String) -> Failure {
        self.details.continue_token = Some(token);
        self
    }

    /// The Status object, keys in the order clients compare.
    pub fn to_value(&self) -> Value {
        let mut details = Map::new();
        for (key, text) in [
            ("name", &self.details.name),
            ("group", &self.details.group),
            ("kind", &self.details.kind),
            ("uid", &self.details.uid),
        ] {
            if !text.is_empty() {
                details.insert(key.to_owned(), text.clone().into());
            }
        }
        if !self.details.causes.is_empty() {
            let causes = self.details.causes.iter().map(cause_value).collect();
            details.insert("causes".to_owned(), Value::Array(causes));
        }
        if let Some(seconds) = self.details.retry_after_seconds {
            details.insert("retryAfterSeconds".to_owned(), seconds.into());
        }
        let mut metadata = Map::new();
        if let Some(token) = &self.details.continue_token {
            metadata.insert("continue".to_owned(), token.clone().into());
        }
        let mut status = Map::new();
        status.insert("kind".to_owned(), "Status".into());
        status.insert("apiVersion".to_owned(), "v1".into());
        status.insert("metadata".to_owned(), metadata.into());
        status.insert("status".to_owned(), "Failure".into());
        status.insert("message".to_owned(), self.message.clone().into());
        if !self.reason.is_empty() {
            status.insert("reason".to_owned(), self.reason.into());
        }
        if !details.is_empty() {
            status.insert("details".to_owned(), details.into());
        }
        status.insert("code".to_owned(), self.code.into());
        Value::Object(status)
    }

    /// The whole answer.
    pub fn into_response(self) -> Response<axum::body::Body> {
        let mut text = self.to_value().to_string();
        text.push('\n');
        let mut response = Response::new(axum::body::Body::from(Bytes::from(text)));
        *response.status_mut() =
            StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        reply::add_warnings(&mut response, &self.details.warnings);
        // client-go retries on its own wherever this header stands, so only true overload carries it.
        if self.code == 429
            && let Some(seconds) = self.details.retry_after_seconds
        {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

fn cause_value(cause: &Cause) -> Value {
    let mut value = Map::new();
    for (key, text) in
        [("reason", &cause.reason), ("message", &cause.message), ("field", &cause.field)]
    {
        if !text.is_empty() {
            value.insert(key.to_owned(), text.clone().into());
        }
    }
    Value::Object(value)
}

/// The Status of a deletion that removed `name` at once.
pub fn deleted(kind: &Kind, name: &str, uid: &str) -> Value {
    let mut details = Map::new();
    details.insert("name".to_owned(), name.into());
    if !kind.group.is_empty() {
        details.insert("group".to_owned(), kind.group.into());
    }
    details.insert("kind".to_owned(), kind.plural.into());
    details.insert("uid".to_owned(), uid.into());
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details,
    })
}

/// The Status of a success that has no object (bindings).
pub fn success() -> Value {
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "code": 201,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::catalog;

    fn check(failure: Failure, expected: expect_test::Expect) {
        expected.assert_eq(&failure.to_value().to_string());
    }

    #[test]
    fn keys_come_in_the_order_clients_compare() {
        check(
            Failure::not_found(catalog::pods(), "x"),
            expect_test::expect![[
                r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"pods \"x\" not found","reason":"NotFound","details":{"name":"x","kind":"pods"},"code":404}"#
            ]],
        );
        check(
            Failure::unauthorized(),
            expect_test::expect![[
                r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Unauthorized","reason":"Unauthorized","code":401}"#
            ]],
        );
    }

    #[test]
    fn one_cause_stands_alone_and_several_in_brackets() {
        let cause = |field: &str| Cause {
            reason: "FieldValueRequired".to_owned(),
            message: "Required value".to_owned(),
            field: field.to_owned(),
        };
        let one = Failure::invalid_causes("", "Pod", "p", vec![cause("spec.containers")]);
        assert_eq!(one.message, r#"Pod "p" is invalid: spec.containers: Required value"#);
        let two = Failure::invalid_causes("apps", "Deployment", "d", vec![cause("a"), cause("b")]);
        assert_eq!(
            two.message,
            r#"Deployment.apps "d" is invalid: [a: Required value, b: Required value]"#
        );
    }
}

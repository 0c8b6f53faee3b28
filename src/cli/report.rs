//! Prints an error with its whole chain, once, where it stops travelling. What the server refuses is said in kubectl's
//! words.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use kube::core::response::Status;

/// Writes the error to stderr. A closed pipe on stdout is not worth a word.
pub fn failure(error: &anyhow::Error) -> ExitCode {
    let broken_pipe = error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    });
    if broken_pipe {
        return ExitCode::SUCCESS;
    }
    let mut stderr = io::stderr().lock();
    let mut words = words(error);
    if let (true, Some(rest)) = (stderr.is_terminal(), words.strip_prefix("error:")) {
        words = format!("\x1b[1;31merror:\x1b[0m{rest}");
    }
    // Nothing is left to tell anybody when stderr itself is closed.
    let _ = writeln!(stderr, "{words}");
    ExitCode::FAILURE
}

/// `error: step: cause: cause`, or what kubectl says when the first cause is the server's refusal.
fn words(error: &anyhow::Error) -> String {
    let mut steps: Vec<String> = Vec::new();
    for cause in error.chain() {
        let refused = cause.downcast_ref::<kube::Error>().and_then(|error| match error {
            kube::Error::Api(status) => Some(status),
            _ => None,
        });
        match refused {
            Some(status) if steps.is_empty() => return refusal(status),
            Some(status) => {
                steps.push(status.message.clone());
                break;
            }
            None => {
                let words = cause.to_string();
                // Some errors say their cause themselves.
                if steps.last().is_none_or(|step| !step.ends_with(&words)) {
                    steps.push(words);
                }
            }
        }
    }
    format!("error: {}", steps.join(": "))
}

/// A Status as kubectl prints it (k8s.io/kubectl pkg/cmd/util, `checkErr`).
fn refusal(status: &Status) -> String {
    let details = status.details.as_ref().filter(|_| status.reason == "Invalid");
    let Some(details) = details.filter(|details| !details.causes.is_empty()) else {
        return match status.reason.as_str() {
            "Unauthorized" => {
                format!("error: You must be logged in to the server ({})", status.message)
            }
            "" => format!("Error from server: {}", status.message),
            reason => format!("Error from server ({reason}): {}", status.message),
        };
    };
    let mut causes: Vec<String> = Vec::new();
    for cause in &details.causes {
        let cause = match cause.field.as_str() {
            "" => cause.message.clone(),
            field => format!("{field}: {}", cause.message),
        };
        if !causes.contains(&cause) {
            causes.push(cause);
        }
    }
    let what = format!("The {} {:?} is invalid: ", details.kind, details.name);
    match &causes[..] {
        [cause] => format!("{what}{cause}"),
        causes => format!("{what}\n* {}", causes.join("\n* ")),
    }
}

/// The same refusal, which says what was tried: `error when creating "pod.yaml": …`. kubectl leaves an invalid object's
/// own sentence as it is.
pub fn when(error: kube::Error, what: &str) -> kube::Error {
    match error {
        kube::Error::Api(mut status) if status.reason != "Invalid" => {
            status.message = format!("error when {what}: {}", status.message);
            kube::Error::Api(status)
        }
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;
    use serde_json::{Value, json};

    use super::*;

    fn api(status: Value) -> kube::Error {
        kube::Error::Api(Box::new(serde_json::from_value(status).unwrap()))
    }

    fn not_found() -> kube::Error {
        api(json!({"code": 404, "reason": "NotFound", "message": "pods \"web\" not found"}))
    }

    fn invalid(causes: Value) -> kube::Error {
        api(json!({"code": 422, "reason": "Invalid", "message": "Pod \"web\" is invalid: …",
            "details": {"kind": "Pod", "name": "web", "causes": causes}}))
    }

    #[test]
    fn refusals_are_told_in_kubectls_words() {
        let image = json!({"field": "spec.containers[0].image", "message": "Required value"});
        let name = json!({"field": "metadata.name", "message": "Required value"});
        for (error, expected) in [
            (not_found(), "Error from server (NotFound): pods \"web\" not found"),
            (
                when(not_found(), "creating \"pod.yaml\""),
                "Error from server (NotFound): error when creating \"pod.yaml\": pods \"web\" not found",
            ),
            (
                when(invalid(json!([image])), "creating \"pod.yaml\""),
                "The Pod \"web\" is invalid: spec.containers[0].image: Required value",
            ),
            (
                invalid(json!([image, name, image])),
                "The Pod \"web\" is invalid: \n* spec.containers[0].image: Required value\n* metadata.name: Required value",
            ),
            (
                api(json!({"code": 401, "reason": "Unauthorized", "message": "Unauthorized"})),
                "error: You must be logged in to the server (Unauthorized)",
            ),
            (api(json!({"code": 500, "message": "no"})), "Error from server: no"),
        ] {
            assert_eq!(words(&error.into()), expected);
        }
    }

    #[test]
    fn steps_are_told_once_and_in_order() {
        let within = Err::<(), _>(not_found()).context("reading the log").unwrap_err();
        assert_eq!(words(&within), "error: reading the log: pods \"web\" not found");
        let refused = io::Error::new(io::ErrorKind::ConnectionRefused, "refused");
        let service = kube::Error::Service(Box::new(refused));
        let told = words(&anyhow::Error::from(service).context("asking"));
        assert_eq!(told.matches("refused").count(), 1, "{told}");
        assert_eq!(words(&anyhow::anyhow!("b").context("a")), "error: a: b");
    }
}

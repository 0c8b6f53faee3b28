//! Which field labels a resource can be selected by, and their values.
//!
//! It never parses selectors; see `model::selector`.

use serde_json::Value;

/// The value of field label `label` in `object`; `None` if `resource` does not support the label
/// ("field label not supported"). An absent field has the value "" (or what stands for it in Go).
pub fn get(resource: &str, object: &Value, label: &str) -> Option<String> {
    let path = match (resource, label) {
        (_, "metadata.name" | "metadata.namespace") => label,
        (
            "pods",
            "spec.nodeName"
            | "spec.restartPolicy"
            | "spec.schedulerName"
            | "spec.serviceAccountName"
            | "status.phase"
            | "status.podIP"
            | "status.nominatedNodeName",
        ) => label,
        ("pods", "spec.hostNetwork") | ("nodes", "spec.unschedulable") => {
            return Some(at(object, label).as_bool().unwrap_or_default().to_string());
        }
        ("pods", "status.podIPs") => return Some(pod_ips(object)),
        ("namespaces", "status.phase") => label,
        ("secrets", "type") => label,
        ("services", "spec.clusterIP" | "spec.type") => label,
        ("certificatesigningrequests.certificates.k8s.io", "spec.signerName") => label,
        ("jobs.batch", "status.successful") => return Some(count(object, "status.succeeded")),
        ("replicasets.apps" | "replicationcontrollers", "status.replicas") => {
            return Some(count(object, label));
        }
        ("events" | "events.events.k8s.io", label) => return event(object, label),
        _ => return None,
    };
    Some(text(object, path))
}

/// Both versions of Event are one object; each is selected in its own words.
fn event(event: &Value, label: &str) -> Option<String> {
    let regarded = label.strip_prefix("involvedObject.").or(label.strip_prefix("regarding."));
    let paths: &[&str] = match (label, regarded) {
        (
            _,
            Some(
                "kind" | "namespace" | "name" | "uid" | "apiVersion" | "resourceVersion"
                | "fieldPath",
            ),
        ) => {
            let field = regarded.unwrap_or_default();
            let object = ["involvedObject", "regarding"].map(|part| &event[part]);
            let object = object.into_iter().find(|part| !part.is_null()).unwrap_or(&Value::Null);
            return Some(text(object, field));
        }
        ("reason" | "type", _) => return Some(text(event, label)),
        ("reportingComponent" | "reportingController", _) => {
            &["reportingComponent", "reportingController"]
        }
        // A new-style event has no source; Kubernetes then compares the reporter.
        ("source", _) => &[
            "source.component",
            "deprecatedSource.component",
            "reportingComponent",
            "reportingController",
        ],
        _ => return None,
    };
    let values = paths.iter().map(|path| text(event, path));
    Some(values.into_iter().find(|value| !value.is_empty()).unwrap_or_default())
}

fn pod_ips(pod: &Value) -> String {
    let addresses = pod["status"]["podIPs"].as_array().into_iter().flatten();
    addresses.filter_map(|entry| entry["ip"].as_str()).collect::<Vec<_>>().join(",")
}

fn count(object: &Value, path: &str) -> String {
    at(object, path).as_i64().unwrap_or_default().to_string()
}

fn text(object: &Value, path: &str) -> String {
    at(object, path).as_str().unwrap_or_default().to_owned()
}

fn at<'a>(object: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(object, |value, step| &value[step])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels_have_the_values_clients_select_by() {
        let pod = json!({"metadata": {"name": "a", "namespace": "d"}, "spec": {"nodeName": "n", "hostNetwork": true}, "status": {"phase": "Running", "podIPs": [{"ip": "1.1.1.1"}, {"ip": "::1"}]}});
        let event_core = json!({"involvedObject": {"kind": "Pod", "name": "a"}, "source": {"component": "kubelet"}, "reason": "R"});
        let event_new = json!({"regarding": {"kind": "Pod"}, "reportingController": "x"});
        for (resource, object, label, value) in [
            ("anything.example.com", &pod, "metadata.name", Some("a")),
            ("pods", &pod, "metadata.namespace", Some("d")),
            ("pods", &pod, "spec.nodeName", Some("n")),
            ("pods", &pod, "spec.hostNetwork", Some("true")),
            ("pods", &pod, "status.podIPs", Some("1.1.1.1,::1")),
            ("pods", &pod, "status.nominatedNodeName", Some("")),
            ("pods", &pod, "spec.foo", None),
            ("nodes", &pod, "spec.unschedulable", Some("false")),
            ("configmaps", &pod, "status.phase", None),
            ("events", &event_core, "involvedObject.kind", Some("Pod")),
            ("events", &event_core, "involvedObject.namespace", Some("")),
            ("events", &event_core, "source", Some("kubelet")),
            ("events", &event_core, "involvedObject.foo", None),
            ("events.events.k8s.io", &event_new, "regarding.kind", Some("Pod")),
            ("events.events.k8s.io", &event_core, "regarding.kind", Some("Pod")),
            ("events", &event_new, "source", Some("x")),
            ("jobs.batch", &json!({"status": {"succeeded": 2}}), "status.successful", Some("2")),
        ] {
            assert_eq!(get(resource, object, label).as_deref(), value, "{resource} {label}");
        }
    }
}

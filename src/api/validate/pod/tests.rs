mod changes;
mod containers;

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use crate::api::{defaults, validate};

/// A pod that is valid and implemented.
fn valid() -> Value {
    json!({
        "metadata": {"name": "a", "namespace": "default"},
        "spec": {
            "containers": [{
                "name": "c", "image": "nginx",
                "ports": [{"name": "http", "containerPort": 80}],
                "env": [{"name": "A", "value": "1"}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}},
                "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                "securityContext": {},
            }],
            "initContainers": [{"name": "i", "image": "busybox"}],
            "volumes": [{"name": "v"}],
        },
    })
}

/// The valid pod with `value` at JSON pointer `at`, made if missing.
fn with(at: &str, value: Value) -> Value {
    let mut pod = valid();
    set(&mut pod, at, value);
    pod
}

fn set(object: &mut Value, at: &str, value: Value) {
    let mut target = object;
    for step in at.trim_start_matches('/').split('/') {
        target = match step.parse::<usize>() {
            Ok(index) => &mut target[index],
            Err(_) => &mut target[step],
        };
    }
    *target = value;
}

fn lines(errors: Vec<validate::FieldError>) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// The errors of creating the valid pod with `value` at `at`.
fn check(at: &str, value: Value, expected: Expect) {
    let mut pod = with(at, value);
    defaults::apply("pods", &mut pod);
    expected.assert_eq(&lines(validate::create("pods", &pod)));
}

fn check_update(change: impl Fn(&mut Value), expected: Expect) {
    let mut old = valid();
    defaults::apply("pods", &mut old);
    let mut new = old.clone();
    change(&mut new);
    defaults::apply("pods", &mut new);
    expected.assert_eq(&lines(validate::update("pods", &old, &new)));
}

fn check_status(old: Value, new: Value, expected: Expect) {
    let pod = |status: Value| json!({"metadata": {"name": "a"}, "spec": {"restartPolicy": "Never"}, "status": status});
    expected.assert_eq(&lines(validate::update_status("pods", &pod(old), &pod(new))));
}

#[test]
fn a_good_pod_passes() {
    check("/metadata/labels", json!({"app": "x", "example.com/Tier": ""}), expect![[r#""#]]);
    check(
        "/spec/dnsConfig",
        json!({"nameservers": ["1.1.1.1"], "searches": ["a.b.", "_x.y", "."], "options": [{"name": "ndots", "value": "2"}]}),
        expect![[r#""#]],
    );
    check(
        "/spec/tolerations",
        json!([{"operator": "Exists"}, {"key": "a", "value": "b", "effect": "NoExecute", "tolerationSeconds": 3}]),
        expect![[r#""#]],
    );
    check(
        "/spec/securityContext",
        json!({"sysctls": [{"name": "net/ipv4/tcp_syncookies", "value": "1"}], "fsGroup": 0, "runAsUser": 4294967295_u32, "seccompProfile": {"type": "Localhost", "localhostProfile": "a/b.json"}, "supplementalGroupsPolicy": "Strict"}),
        expect![[r#""#]],
    );
    check(
        "/spec/volumes/0",
        json!({"name": "v", "projected": {"sources": [{"configMap": {"name": "x"}}, {"downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels['a']"}}]}}]}}),
        expect![[r#""#]],
    );
    check(
        "/spec/volumes/0",
        json!({"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}),
        expect![[r#""#]],
    );
    check("/spec/hostNetwork", json!(true), expect![[r#""#]]);
    check(
        "/spec/containers/0/env",
        json!([{"name": "A B", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1024Ki"}}}]),
        expect![[r#""#]],
    );
}

#[test]
fn issue_story_29_containers_and_images_are_required() {
    check("/spec/containers", json!([]), expect!["spec.containers: Required value"]);
    check("/spec/containers", Value::Null, expect!["spec.containers: Required value"]);
    check("/spec", json!({}), expect!["spec.containers: Required value"]);
    check(
        "/spec/containers/0/image",
        json!(""),
        expect!["spec.containers[0].image: Required value"],
    );
    check(
        "/spec/containers/0/image",
        json!(" nginx"),
        expect![[
            r#"spec.containers[0].image: Invalid value: " nginx": must not have leading or trailing whitespace"#
        ]],
    );
    check(
        "/spec/containers/0/name",
        Value::Null,
        expect!["spec.containers[0].name: Required value"],
    );
    check(
        "/spec/containers/0/name",
        json!("C_1"),
        expect![[
            r#"spec.containers[0].name: Invalid value: "C_1": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"#
        ]],
    );
    check(
        "/spec/initContainers/0/name",
        json!("c"),
        expect![[r#"spec.initContainers[0].name: Duplicate value: "c""#]],
    );
}

#[test]
fn choices_name_what_is_supported() {
    check(
        "/spec/restartPolicy",
        json!("Sometimes"),
        expect![[
            r#"spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never""#
        ]],
    );
    check(
        "/spec/dnsPolicy",
        json!("clusterFirst"),
        expect![[
            r#"spec.dnsPolicy: Unsupported value: "clusterFirst": supported values: "ClusterFirstWithHostNet", "ClusterFirst", "Default", "None""#
        ]],
    );
    check(
        "/spec/containers/0/imagePullPolicy",
        json!("always"),
        expect![[
            r#"spec.containers[0].imagePullPolicy: Unsupported value: "always": supported values: "Always", "IfNotPresent", "Never""#
        ]],
    );
    check(
        "/spec/containers/0/terminationMessagePolicy",
        json!("Log"),
        expect![[
            r#"spec.containers[0].terminationMessagePolicy: Unsupported value: "Log": supported values: "File", "FallbackToLogsOnError""#
        ]],
    );
    check(
        "/spec/preemptionPolicy",
        json!("Maybe"),
        expect![[
            r#"spec.preemptionPolicy: Unsupported value: "Maybe": supported values: "PreemptLowerPriority", "Never""#
        ]],
    );
}

#[test]
fn names_and_numbers_of_the_pod() {
    check(
        "/spec/hostname",
        json!("a.b"),
        expect![[r#"spec.hostname: Invalid value: "a.b": must not contain dots"#]],
    );
    check(
        "/spec/subdomain",
        json!("-"),
        expect![[
            r#"spec.subdomain: Invalid value: "-": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"#
        ]],
    );
    check(
        "/spec/nodeName",
        json!("N"),
        expect![[
            r#"spec.nodeName: Invalid value: "N": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"#
        ]],
    );
    check(
        "/spec/serviceAccountName",
        json!("a b"),
        expect![[
            r#"spec.serviceAccountName: Invalid value: "a b": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"#
        ]],
    );
    check(
        "/spec/activeDeadlineSeconds",
        json!(0),
        expect![
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"
        ],
    );
    check(
        "/spec/nodeSelector",
        json!({"a/b/c": "x y"}),
        expect![[r#"
            spec.nodeSelector: Invalid value: "a/b/c": a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')
            spec.nodeSelector: Invalid value: "x y": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"#]],
    );
    check(
        "/spec/readinessGates",
        json!([{"conditionType": ""}]),
        expect![[r#"
            spec.readinessGates[0].conditionType: Invalid value: "": name part must be non-empty
            spec.readinessGates[0].conditionType: Invalid value: "": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"#]],
    );
    check(
        "/spec/hostAliases",
        json!([{"ip": "1.2.3", "hostnames": ["A"]}]),
        expect![[r#"
            spec.hostAliases[0].ip: Invalid value: "1.2.3": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)
            spec.hostAliases[0].hostnames[0]: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"#]],
    );
}

#[test]
fn name_resolution() {
    check(
        "/spec/dnsPolicy",
        json!("None"),
        expect![
            "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"
        ],
    );
    check(
        "/spec/dnsConfig",
        json!({"nameservers": ["a", "1.1.1.1", "1.1.1.2", "::1"], "searches": ["a..b"], "options": [{}]}),
        expect![[r#"
            spec.dnsConfig.nameservers: Invalid value: []string{"a", "1.1.1.1", "1.1.1.2", "::1"}: must not have more than 3 nameservers
            spec.dnsConfig.nameservers[0]: Invalid value: "a": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)
            spec.dnsConfig.searches[0]: Invalid value: "a..b": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')
            spec.dnsConfig.options[0]: Required value: must not be empty"#]],
    );
}

#[test]
fn tolerations() {
    check(
        "/spec/tolerations",
        json!([{"operator": "Equal"}, {"key": "a", "operator": "Exists", "value": "b"}, {"key": "a", "operator": "In"}, {"key": "a b", "effect": "No"}, {"key": "a", "tolerationSeconds": 1}]),
        expect![[r#"
            spec.tolerations[0].operator: Invalid value: "Equal": operator must be Exists when `key` is empty, which means "match all values and all keys"
            spec.tolerations[1].operator: Invalid value: "b": value must be empty when `operator` is 'Exists'
            spec.tolerations[2].operator: Unsupported value: "In": supported values: "Equal", "Exists"
            spec.tolerations[3].key: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            spec.tolerations[3].effect: Unsupported value: "No": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"
            spec.tolerations[4].effect: Invalid value: "": effect must be 'NoExecute' when `tolerationSeconds` is set"#]],
    );
}

#[test]
fn metadata() {
    check(
        "/metadata/name",
        json!(""),
        expect!["metadata.name: Required value: name or generateName is required"],
    );
    check(
        "/metadata/name",
        json!("Kangaroo_Backend"),
        expect![[
            r#"metadata.name: Invalid value: "Kangaroo_Backend": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"#
        ]],
    );
    check("/metadata/generateName", json!("a--"), expect![[r#""#]]);
    check("/metadata/namespace", Value::Null, expect!["metadata.namespace: Required value"]);
    check(
        "/metadata/labels",
        json!({"a b": "x", "c": "-"}),
        expect![[r#"
            metadata.labels: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            metadata.labels: Invalid value: "-": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"#]],
    );
    check(
        "/metadata/annotations",
        json!({"UPPER.io/x": "ok", "a b": "", "big": "x".repeat(256 << 10)}),
        expect![[r#"
            metadata.annotations: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            metadata.annotations: Too long: may not be more than 262144 bytes"#]],
    );
    check(
        "/metadata/ownerReferences",
        json!([{"apiVersion": "v1", "kind": "Event", "name": "e", "uid": "", "controller": true}, {"apiVersion": "apps/v1", "kind": "B", "name": "b", "uid": "1", "controller": true}]),
        expect![[r#"
            metadata.ownerReferences.uid: Invalid value: "": must not be empty
            metadata.ownerReferences: Invalid value: {"apiVersion":"v1","kind":"Event","name":"e","uid":"","controller":true}: /v1, Kind=Event is disallowed from being an owner
            metadata.ownerReferences: Invalid value: [{"apiVersion":"v1","kind":"Event","name":"e","uid":"","controller":true},{"apiVersion":"apps/v1","kind":"B","name":"b","uid":"1","controller":true}]: Only one reference can have Controller set to true. Found "true" in references for Event/e and B/b"#]],
    );
    check(
        "/metadata/finalizers",
        json!(["x", "orphan", "foregroundDeletion"]),
        expect![[r#"
            metadata.finalizers: Invalid value: []string{"x", "orphan", "foregroundDeletion"}: finalizer orphan and foregroundDeletion cannot be both set
            metadata.finalizers[0]: Invalid value: "x": name is neither a standard finalizer name nor is it fully qualified"#]],
    );
}

#[test]
fn templates_allow_what_only_pods_must_not() {
    let mut template = valid();
    set(&mut template, "/spec/containers/0/image", json!(" nginx"));
    let mut deployment = json!({"spec": {"template": template}});
    defaults::apply("deployments.apps", &mut deployment);
    let place = validate::place::Place::root(&deployment, "spec");
    expect![[r#""#]].assert_eq(&lines(super::template(&place.child("template"))));
}

#[test]
fn garbage_is_judged_without_panic() {
    for spec in [
        json!(null),
        json!(1),
        json!([]),
        json!("x"),
        json!({"containers": 1, "volumes": {}, "tolerations": "x", "securityContext": []}),
        json!({"containers": [1, null, [], {"env": [1], "ports": ["x"], "volumeMounts": [null], "resources": {"limits": [1]}, "envFrom": [2], "livenessProbe": 3}], "volumes": [1, {"projected": {"sources": [1]}}]}),
    ] {
        let pod = json!({"metadata": [], "spec": spec});
        validate::create("pods", &pod);
        validate::update("pods", &pod, &pod);
        validate::update_status("pods", &pod, &pod);
    }
}

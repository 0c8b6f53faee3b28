use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;

fn lines(errors: Vec<FieldError>) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// `rest` with metadata that is right for `resource`.
fn object(resource: &str, rest: Value) -> Value {
    let mut object = json!({"metadata": {"name": "a"}});
    if metadata::rules(resource).0 == metadata::Scope::Namespaced {
        object["metadata"]["namespace"] = "default".into();
    }
    for (key, value) in rest.as_object().unwrap() {
        match value {
            Value::Object(map) if key == "metadata" => {
                object[key].as_object_mut().unwrap().extend(map.clone());
            }
            value => object[key] = value.clone(),
        }
    }
    object
}

fn check(resource: &str, rest: Value, expected: Expect) {
    expected.assert_eq(&lines(create(resource, &object(resource, rest))));
}

fn check_update(resource: &str, old: Value, new: Value, expected: Expect) {
    let (old, new) = (object(resource, old), object(resource, new));
    expected.assert_eq(&lines(update(resource, &old, &new)));
}

#[test]
fn errors_read_as_kubernetes_prints_them() {
    for (error, text) in [
        (FieldError::required("a", ""), "a: Required value"),
        (FieldError::required("a", "why"), "a: Required value: why"),
        (FieldError::invalid("a", &json!(-1), "why"), "a: Invalid value: -1: why"),
        (
            FieldError::invalid("a", &json!("x\"\n\u{1}\u{7f}é"), "why"),
            r#"a: Invalid value: "x\"\n\x01\x7fé": why"#,
        ),
        (FieldError::invalid("a", &Value::Null, "why"), r#"a: Invalid value: "null": why"#),
        (
            FieldError::not_supported("a", &json!("x"), &["A", "B"]),
            r#"a: Unsupported value: "x": supported values: "A", "B""#,
        ),
        (FieldError::duplicate("a", &json!("x")), r#"a: Duplicate value: "x""#),
        (FieldError::forbidden("a", "why"), "a: Forbidden: why"),
        (FieldError::too_long("a", 3), "a: Too long: may not be more than 3 bytes"),
        (FieldError::too_many("a", 5, 3), "a: Too many: 5: must have at most 3 items"),
        (
            FieldError::invalid("a", &json!(["x", "y"]), "why"),
            r#"a: Invalid value: []string{"x", "y"}: why"#,
        ),
        (FieldError::not_found("a", &json!("x")), r#"a: Not found: "x""#),
    ] {
        assert_eq!(error.to_string(), text);
    }
    assert_eq!(Reason::TooLong.as_cause(), "FieldValueTooLong");
}

#[test]
fn config_maps() {
    check(
        "configmaps",
        json!({"data": {"a.b_C-1": "x"}, "binaryData": {"c": "AAA="}}),
        expect![[r#""#]],
    );
    check(
        "configmaps",
        json!({"data": {"a b": "x", "..": "y"}, "binaryData": {"a b": "?"}}),
        expect![[r#"
            data[..]: Invalid value: "..": must not be '..'
            data[a b]: Invalid value: "a b": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')
            data[a b]: Invalid value: "a b": duplicate of key present in binaryData
            binaryData[a b]: Invalid value: "a b": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')
            binaryData[a b]: Invalid value: "<secret contents redacted>": must be base64-encoded"#]],
    );
    check(
        "configmaps",
        json!({"data": {"a": "x".repeat((1 << 20) + 1)}}),
        expect!["[]: Too long: may not be more than 1048576 bytes"],
    );
    check("configmaps", json!({"data": {"a": "x".repeat(1 << 20)}}), expect![[r#""#]]);
    check(
        "configmaps",
        json!({"metadata": {"name": "A"}}),
        expect![[
            r#"metadata.name: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"#
        ]],
    );
}

#[test]
fn immutable_maps_stay() {
    let frozen = json!({"immutable": true, "data": {"a": "1"}});
    check_update(
        "configmaps",
        frozen.clone(),
        json!({"immutable": true, "data": {"a": "1"}, "metadata": {"labels": {"x": "y"}}}),
        expect![[r#""#]],
    );
    check_update(
        "configmaps",
        frozen.clone(),
        json!({"data": {"a": "2"}, "binaryData": {"b": ""}}),
        expect![[r#"
            immutable: Forbidden: field is immutable when `immutable` is set
            data: Forbidden: field is immutable when `immutable` is set
            binaryData: Forbidden: field is immutable when `immutable` is set"#]],
    );
    check_update(
        "configmaps",
        json!({"data": {"a": "1"}}),
        json!({"data": {"a": "2"}, "immutable": true}),
        expect![[r#""#]],
    );
    check_update(
        "secrets",
        json!({"type": "Opaque", "immutable": true, "data": {"a": "MQ=="}}),
        json!({"type": "x/y", "immutable": true, "data": {"a": "Mg=="}}),
        expect![[r#"
            type: Invalid value: "x/y": field is immutable
            data: Forbidden: field is immutable when `immutable` is set"#]],
    );
}

#[test]
fn secrets_hold_what_their_type_says_and_errors_hide_it() {
    check(
        "secrets",
        json!({"type": "Opaque", "data": {"a": "not base64!"}}),
        expect![[
            r#"data[a]: Invalid value: "<secret contents redacted>": must be base64-encoded"#
        ]],
    );
    check(
        "secrets",
        json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}),
        expect!["data[tls.key]: Required value"],
    );
    check(
        "secrets",
        json!({"type": "kubernetes.io/basic-auth"}),
        expect![[r#"
            data[username]: Required value
            data[password]: Required value"#]],
    );
    check(
        "secrets",
        json!({"type": "kubernetes.io/basic-auth", "data": {"password": ""}}),
        expect![[r#""#]],
    );
    check(
        "secrets",
        json!({"type": "kubernetes.io/ssh-auth", "data": {"ssh-privatekey": ""}}),
        expect!["data[ssh-privatekey]: Required value"],
    );
    check(
        "secrets",
        json!({"type": "kubernetes.io/dockerconfigjson"}),
        expect!["data[.dockerconfigjson]: Required value"],
    );
    // "{secret"
    check(
        "secrets",
        json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "e3NlY3JldA=="}}),
        expect![[
            r#"data[.dockerconfigjson]: Invalid value: "<secret contents redacted>": must be a JSON object"#
        ]],
    );
    check(
        "secrets",
        json!({"type": "kubernetes.io/dockercfg", "data": {".dockercfg": "e30="}}),
        expect![[r#""#]],
    );
    check(
        "secrets",
        json!({"type": "kubernetes.io/service-account-token"}),
        expect!["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
    );
}

#[test]
fn namespaces() {
    check("namespaces", json!({}), expect![[r#""#]]);
    check(
        "namespaces",
        json!({"metadata": {"name": "a.b", "namespace": "x"}, "spec": {"finalizers": ["mine"]}}),
        expect![[r#"
            metadata.name: Invalid value: "a.b": must not contain dots
            metadata.namespace: Forbidden: not allowed on this type
            spec.finalizers: Invalid value: "mine": name is neither a standard finalizer name nor is it fully qualified"#]],
    );
    let status = |metadata: Value, phase: &str| {
        let new = object("namespaces", json!({"metadata": metadata, "status": {"phase": phase}}));
        lines(update_status("namespaces", &new, &new))
    };
    assert_eq!(status(json!({}), "Active"), "");
    expect![[r#"status.Phase: Invalid value: "Terminating": may only be 'Active' if `deletionTimestamp` is empty"#]].assert_eq(&status(json!({}), "Terminating"));
    expect![[r#"status.Phase: Invalid value: "Active": may only be 'Terminating' if `deletionTimestamp` is not empty"#]].assert_eq(&status(
        json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}),
        "Active",
    ));
}

#[test]
fn nodes() {
    check(
        "nodes",
        json!({"spec": {"podCIDRs": ["10.0.0.0/24", "fd00::/64"], "taints": [{"key": "a", "effect": "NoSchedule"}]}, "status": {"capacity": {"cpu": "4", "memory": "1Gi", "pods": "110"}}}),
        expect![[r#""#]],
    );
    check(
        "nodes",
        json!({"spec": {"podCIDRs": ["10.0.0.0/24", "10.1.0.0/33"], "taints": [{"key": "", "value": "a b"}, {"key": "a", "effect": "NoExecute"}, {"key": "a", "effect": "NoExecute"}], "configSource": {"configMap": {}}}, "status": {"capacity": {"cpu": "-1", "pods": "1500m"}}}),
        expect![[r#"
            metadata.taints[0].key: Invalid value: "": name part must be non-empty
            metadata.taints[0].key: Invalid value: "": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            metadata.taints[0].value: Invalid value: "a b": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')
            metadata.taints[0].effect: Required value
            metadata.taints[2]: Duplicate value: {"key":"a","effect":"NoExecute"}: taints must be unique by key and effect pair
            status.capacity.cpu: Invalid value: "-1": must be greater than or equal to 0
            status.capacity.pods: Invalid value: "1500m": must be an integer
            spec.podCIDRs[1]: Invalid value: "10.1.0.0/33": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)
            spec.podCIDRs: Invalid value: []string{"10.0.0.0/24", "10.1.0.0/33"}: may specify no more than one CIDR for each IP family
            spec.configSource: Forbidden: not implemented by this version of Joey"#]],
    );
    check_update(
        "nodes",
        json!({"spec": {"podCIDRs": ["10.0.0.0/24"], "providerID": "a"}}),
        json!({"spec": {"podCIDRs": ["10.1.0.0/24"], "providerID": "b"}, "status": {"addresses": [{"type": "Hostname", "address": "h"}, {"type": "Hostname", "address": "h"}]}}),
        expect![[r#"
            status.addresses[1]: Duplicate value: {"type":"Hostname","address":"h"}
            spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid
            spec.providerID: Forbidden: node updates may not change providerID except from "" to valid"#]],
    );
    check_update(
        "nodes",
        json!({}),
        json!({"spec": {"podCIDRs": ["10.1.0.0/24"], "providerID": "b", "unschedulable": true}}),
        expect![[r#""#]],
    );
}

#[test]
fn leases_and_service_accounts() {
    check(
        "leases.coordination.k8s.io",
        json!({"spec": {"holderIdentity": "a", "leaseDurationSeconds": 40, "leaseTransitions": 0}}),
        expect![[r#""#]],
    );
    check(
        "leases.coordination.k8s.io",
        json!({"spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1, "strategy": "OldestEmulationVersion"}}),
        expect![[r#"
            spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0
            spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0
            spec.strategy: Forbidden: not implemented by this version of Joey"#]],
    );
    check("serviceaccounts", json!({}), expect![[r#""#]]);
    check(
        "serviceaccounts",
        json!({"metadata": {"name": "a_b"}}),
        expect![[
            r#"metadata.name: Invalid value: "a_b": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"#
        ]],
    );
}

#[test]
fn events() {
    check("events", json!({"involvedObject": {"namespace": "default"}}), expect![[r#""#]]);
    check("events", json!({"involvedObject": {}}), expect![[r#""#]]);
    check(
        "events",
        json!({"involvedObject": {"namespace": "other"}}),
        expect![[
            r#"involvedObject.namespace: Invalid value: "other": does not match event.namespace"#
        ]],
    );
    check(
        "events",
        json!({"metadata": {"namespace": "kube-system"}, "involvedObject": {}}),
        expect![[r#"involvedObject.namespace: Invalid value: "": does not match event.namespace"#]],
    );
    check(
        "events",
        json!({"eventTime": "2026-01-01T00:00:00.000000Z", "involvedObject": {"namespace": "default"}, "message": "x".repeat(1025)}),
        expect![[r#"
            reportingController: Invalid value: "": name part must be non-empty
            reportingController: Invalid value: "": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            reportingController: Required value
            reportingInstance: Required value
            action: Required value
            reason: Required value
            message: Invalid value: "": can have at most 1024 characters"#]],
    );
    let full = json!({"eventTime": "2026-01-01T00:00:00.000000Z", "regarding": {"namespace": "default"}, "reportingController": "a.b/c", "reportingInstance": "i", "action": "A", "reason": "R", "type": "Normal", "note": "n"});
    check("events.events.k8s.io", full.clone(), expect![[r#""#]]);
    let mut wrong = full.clone();
    wrong["type"] = "Bad".into();
    wrong["deprecatedCount"] = 2.into();
    wrong["series"] = json!({"count": 1});
    check(
        "events.events.k8s.io",
        wrong.clone(),
        expect![[r#"
        series.count: Invalid value: "": should be at least 2
        series.lastObservedTime: Required value
        type: Invalid value: "": has invalid value: Bad
        count: Invalid value: "": needs to be unset"#]],
    );
    check_update(
        "events.events.k8s.io",
        full,
        wrong,
        expect![[r#"
        series.count: Invalid value: "": should be at least 2
        series.lastObservedTime: Required value
        count: Invalid value: 2: field is immutable
        type: Invalid value: "Bad": field is immutable"#]],
    );
}

#[test]
fn each_fault_is_told_once() {
    let errors = create(
        "pods",
        &json!({"metadata": {"name": "a", "namespace": "b"}, "spec": {"terminationGracePeriodSeconds": 1, "restartPolicy": "Always", "dnsPolicy": "Default",
        "containers": [{"name": "c", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File", "envFrom": [{}, {}]}]}}),
    );
    assert_eq!(errors.len(), 1, "{}", lines(errors));
}

mod anything {
    //! Objects nobody would write: the shape of a pod with wrong types anywhere.

    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use crate::api::{defaults, fields, table, validate};
    use crate::model::time::Timestamp;

    const KEYS: &[&str] = &[
        "metadata",
        "spec",
        "status",
        "data",
        "type",
        "name",
        "namespace",
        "labels",
        "annotations",
        "finalizers",
        "ownerReferences",
        "containers",
        "initContainers",
        "ephemeralContainers",
        "image",
        "ports",
        "containerPort",
        "hostPort",
        "env",
        "valueFrom",
        "fieldRef",
        "fieldPath",
        "envFrom",
        "resourceFieldRef",
        "divisor",
        "resources",
        "limits",
        "requests",
        "cpu",
        "memory",
        "volumes",
        "volumeMounts",
        "mountPath",
        "subPath",
        "emptyDir",
        "sizeLimit",
        "configMap",
        "items",
        "path",
        "projected",
        "sources",
        "downwardAPI",
        "securityContext",
        "sysctls",
        "seccompProfile",
        "tolerations",
        "key",
        "effect",
        "hostNetwork",
        "dnsConfig",
        "nameservers",
        "livenessProbe",
        "httpGet",
        "port",
        "containerStatuses",
        "initContainerStatuses",
        "state",
        "terminated",
        "conditions",
        "podIPs",
        "ip",
        "taints",
        "capacity",
        "template",
        "series",
        "involvedObject",
        "eventTime",
        "stringData",
    ];

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(|number| json!(number)),
            "[a-z./%'\\[\\]-]{0,6}".prop_map(Value::from),
            ".{0,3}".prop_map(Value::from),
            Just(json!("1Gi")),
        ];
        leaf.prop_recursive(7, 120, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((prop::sample::select(KEYS), inner), 0..6).prop_map(
                    |entries| {
                        Value::Object(
                            entries
                                .into_iter()
                                .map(|(key, value)| (key.to_owned(), value))
                                .collect::<Map<_, _>>(),
                        )
                    }
                ),
            ]
        })
    }

    proptest! {
        #[test]
        fn is_judged_completed_and_printed_without_panic(spec in value(), metadata in value(), status in value()) {
            let object = json!({"metadata": metadata, "spec": spec, "status": status, "data": spec});
            let now = Timestamp::from_unix(0, 0);
            for resource in [
                "pods", "nodes", "namespaces", "configmaps", "secrets", "events", "events.events.k8s.io",
                "leases.coordination.k8s.io", "services", "deployments.apps", "jobs.batch", "endpoints",
            ] {
                let mut completed = object.clone();
                defaults::apply(resource, &mut completed);
                let mut again = completed.clone();
                defaults::apply(resource, &mut again);
                prop_assert_eq!(&completed, &again, "{}", resource);
                validate::create(resource, &completed);
                validate::update(resource, &object, &completed);
                validate::update_status(resource, &object, &completed);
                table::render(resource, std::slice::from_ref(&object), table::IncludeObject::Object, json!({}), now);
                fields::get(resource, &object, "involvedObject.name");
            }
        }
    }
}

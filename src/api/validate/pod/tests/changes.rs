//! Updates, statuses, and what this version refuses.

use super::*;

#[test]
fn what_is_not_implemented_is_refused_by_name() {
    for (at, value) in [
        ("/spec/affinity", json!({"nodeAffinity": {}})),
        ("/spec/topologySpreadConstraints", json!([{"maxSkew": 1}])),
        ("/spec/shareProcessNamespace", json!(true)),
        ("/spec/hostUsers", json!(false)),
        ("/spec/runtimeClassName", json!("kata")),
        ("/spec/resourceClaims", json!([{"name": "x"}])),
        ("/spec/overhead", json!({"cpu": "1"})),
        ("/spec/os", json!({"name": "windows"})),
        ("/spec/resources", json!({"limits": {"cpu": "1"}})),
        ("/spec/schedulingGates", json!([{"name": "g"}])),
        ("/spec/schedulerName", json!("mine")),
        ("/spec/setHostnameAsFQDN", json!(true)),
        ("/spec/volumes/0/nfs", json!({})),
        ("/spec/volumes/0/emptyDir", json!({"sizeLimit": "1Gi"})),
        ("/spec/volumes/0/emptyDir", json!({"medium": "HugePages"})),
        ("/spec/containers/0/lifecycle", json!({"preStop": {"tcpSocket": {"port": 1}}})),
        (
            "/spec/containers/0/resizePolicy",
            json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]),
        ),
        ("/spec/containers/0/securityContext/seLinuxOptions", json!({"level": "x"})),
        ("/spec/containers/0/volumeMounts/0/subPathExpr", json!("$(A)")),
        ("/spec/securityContext", json!({"sysctls": [{"name": "kernel.msgmax", "value": "1"}]})),
        ("/spec/securityContext", json!({"fsGroupChangePolicy": "OnRootMismatch"})),
    ] {
        let mut pod = with(at, value);
        defaults::apply("pods", &mut pod);
        let errors = validate::create("pods", &pod);
        let refused: Vec<_> = errors
            .iter()
            .filter(|e| e.message == "Forbidden: not implemented by this version of Joey")
            .collect();
        assert!(!refused.is_empty() && errors.len() == refused.len(), "{at}: {}", lines(errors));
        let field = at.trim_start_matches('/').replace("/0", "[0]").replace('/', ".");
        assert!(refused.iter().all(|e| e.field.starts_with(&field)), "{at}: {refused:?}");
    }
}

#[test]
fn harmless_values_of_what_is_not_implemented_pass() {
    for (at, value) in [
        ("/spec/affinity", json!({})),
        ("/spec/shareProcessNamespace", json!(false)),
        ("/spec/hostUsers", json!(true)),
        ("/spec/os", json!({"name": "linux"})),
        ("/spec/setHostnameAsFQDN", json!(false)),
        (
            "/spec/containers/0/resizePolicy",
            json!([{"resourceName": "cpu", "restartPolicy": "NotRequired"}]),
        ),
        ("/spec/containers/0/securityContext/procMount", json!("Default")),
        ("/spec/securityContext", json!({"fsGroupChangePolicy": "Always"})),
    ] {
        check(at, value, expect![[r#""#]]);
    }
}

#[test]
fn a_running_pod_changes_only_in_images_deadline_and_tolerations() {
    check_update(|pod| set(pod, "/spec/containers/0/image", json!("nginx:2")), expect![[r#""#]]);
    check_update(|pod| set(pod, "/spec/activeDeadlineSeconds", json!(5)), expect![[r#""#]]);
    check_update(
        |pod| set(pod, "/spec/tolerations", json!([{"operator": "Exists"}])),
        expect![[r#""#]],
    );
    check_update(|pod| set(pod, "/metadata/labels", json!({"a": "b"})), expect![[r#""#]]);
    check_update(|pod| set(pod, "/spec/containers/0/args", json!([])), expect![[r#""#]]);
    check_update(
        |pod| set(pod, "/spec/containers/0/command", json!(["x"])),
        expect![[r#"
            spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)
              spec.containers[0].command: null -> ["x"]
        "#]],
    );
    check_update(
        |pod| set(pod, "/spec/nodeName", json!("n")),
        expect![[r#"
            spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)
              spec.nodeName: null -> "n"
        "#]],
    );
    check_update(
        |pod| set(pod, "/spec/initContainers", json!([])),
        expect!["spec.initContainers: Forbidden: pod updates may not add or remove containers"],
    );
}

#[test]
fn deadlines_only_shrink_and_tolerations_only_grow() {
    let update = |old: Value, new: Value| {
        let (mut before, mut after) = (valid(), valid());
        for (pod, fields) in [(&mut before, old), (&mut after, new)] {
            for (key, value) in fields.as_object().unwrap() {
                pod["spec"][key] = value.clone();
            }
            defaults::apply("pods", pod);
        }
        lines(validate::update("pods", &before, &after))
    };
    expect![
        "spec.activeDeadlineSeconds: Invalid value: 6: must be less than or equal to previous value"
    ]
    .assert_eq(&update(json!({"activeDeadlineSeconds": 5}), json!({"activeDeadlineSeconds": 6})));
    expect![[r#"spec.activeDeadlineSeconds: Invalid value: "null": must not update from a positive integer to nil value"#]].assert_eq(&update(json!({"activeDeadlineSeconds": 5}), json!({})));
    expect![[r#""#]].assert_eq(&update(
        json!({"activeDeadlineSeconds": 5}),
        json!({"activeDeadlineSeconds": 4}),
    ));
    let toleration =
        json!({"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1});
    let longer =
        json!({"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 9});
    expect!["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"].assert_eq(&update(
        json!({"tolerations": [toleration]}),
        json!({"tolerations": []}),
    ));
    expect![[r#""#]]
        .assert_eq(&update(json!({"tolerations": [toleration]}), json!({"tolerations": [longer]})));
}

#[test]
fn identity_is_immutable_and_no_finalizer_comes_after_deletion() {
    check_update(
        |pod| set(pod, "/metadata/name", json!("b")),
        expect![[r#"metadata.name: Invalid value: "b": field is immutable"#]],
    );
    let old = json!({"metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["a/b"]}});
    let mut new = old.clone();
    new["metadata"]["finalizers"] = json!(["c/d"]);
    expect![[r#"metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{"c/d"}"#]].assert_eq(&lines(validate::update_status("pods", &old, &new)));
}

#[test]
fn statuses() {
    let terminated = json!({"containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 0}}}], "qosClass": "Burstable"});
    check_status(terminated.clone(), terminated.clone(), expect![[r#""#]]);
    check_status(
        terminated,
        json!({"containerStatuses": [{"name": "c", "state": {"running": {}}}], "qosClass": "Guaranteed"}),
        expect![[r#"
            status.qosClass: Invalid value: "Guaranteed": field is immutable
            status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"#]],
    );
    check_status(
        json!({}),
        json!({"podIPs": [{"ip": "x"}], "hostIP": "1.1.1.1", "hostIPs": [{"ip": "2.2.2.2"}], "conditions": [{"type": ""}], "nominatedNodeName": "N"}),
        expect![[r#"
            status.conditions[0].Type: Invalid value: "": name part must be non-empty
            status.conditions[0].Type: Invalid value: "": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            status.nominatedNodeName: Invalid value: "N": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            status.podIPs[0]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)
            status.hostIPs[0].ip: Invalid value: "2.2.2.2": must be equal to `hostIP`"#]],
    );
}

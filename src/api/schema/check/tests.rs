//! What the schema check finds, prunes and says.

use serde_json::json;

use super::*;

#[track_caller]
fn refused(api_version: &str, kind: &str, mut value: Value, expected: &str) {
    assert_eq!(check(api_version, kind, &mut value).unwrap_err(), expected);
}

#[test]
fn unknown_members_are_found_at_every_depth_and_pruned() {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "foo": 1,
        "metadata": {"name": "p", "nam": "q", "labels": {"anything": "goes"}},
        "spec": {
            "containers": [{"name": "a"}, {"name": "b", "imagee": "i", "env": [{"valueFrom": {"x": {}}}]}],
            "nodeSelector": {"k": "v"},
        },
    });
    let unknown = check("v1", "Pod", &mut pod).unwrap();
    assert_eq!(
        unknown,
        [
            "foo",
            "metadata.nam",
            "spec.containers[1].imagee",
            "spec.containers[1].env[0].valueFrom.x"
        ]
    );
    assert_eq!(
        pod,
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "labels": {"anything": "goes"}},
            "spec": {
                "containers": [{"name": "a"}, {"name": "b", "env": [{"valueFrom": {}}]}],
                "nodeSelector": {"k": "v"},
            },
        })
    );
    assert_eq!(check("v1", "Pod", &mut pod).unwrap(), Vec::<String>::new());
}

#[test]
fn type_errors_are_go_s() {
    refused(
        "apps/v1",
        "Deployment",
        json!({"spec": {"replicas": "three"}}),
        "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
    );
    refused(
        "apps/v1",
        "Deployment",
        json!({"spec": {"template": {"spec": {"containers": [{"env": [{"name": "A", "value": 1}]}]}}}}),
        "json: cannot unmarshal number into Go struct field \
         EnvVar.spec.template.spec.containers.env.value of type string",
    );
    refused(
        "v1",
        "Pod",
        json!({"metadata": {"labels": {"a": true}}}),
        "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string",
    );
    refused(
        "v1",
        "Pod",
        json!({"spec": {"containers": {}}}),
        "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
    );
    refused(
        "v1",
        "Pod",
        json!({"spec": []}),
        "json: cannot unmarshal array into Go struct field Pod.spec of type v1.PodSpec",
    );
    refused(
        "v1",
        "Pod",
        json!({"spec": {"containers": ["a"]}}),
        "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type v1.Container",
    );
    refused(
        "v1",
        "Pod",
        json!({"spec": {"priority": 3_000_000_000u64}}),
        "json: cannot unmarshal number 3000000000 into Go struct field PodSpec.spec.priority of type int32",
    );
    refused(
        "v1",
        "Pod",
        json!({"spec": {"activeDeadlineSeconds": 1.5}}),
        "json: cannot unmarshal number 1.5 into Go struct field PodSpec.spec.activeDeadlineSeconds of type int64",
    );
    refused(
        "v1",
        "Pod",
        json!({"spec": {"containers": [{"imagePullPolicy": 1}]}}),
        "json: cannot unmarshal number into Go struct field Container.spec.containers.imagePullPolicy \
         of type v1.PullPolicy",
    );
    refused("v1", "Pod", json!([]), "json: cannot unmarshal array into Go value of type v1.Pod");
}

#[test]
fn values_with_a_form_of_their_own_are_checked() {
    refused(
        "v1",
        "Pod",
        json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "lots"}}}]}}),
        "quantities must match the regular expression \
         '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
    );
    refused(
        "v1",
        "Service",
        json!({"spec": {"ports": [{"targetPort": true}]}}),
        "json: cannot unmarshal bool into Go value of type int32",
    );
    refused("v1", "Secret", json!({"data": {"k": "a*b="}}), "illegal base64 data at input byte 1");
    refused(
        "v1",
        "Secret",
        json!({"data": {"k": 1}}),
        "json: cannot unmarshal number into Go struct field Secret.data of type []uint8",
    );
    refused(
        "v1",
        "Pod",
        json!({"metadata": {"creationTimestamp": "yesterday"}}),
        "parsing time \"yesterday\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"yesterday\" as \"2006\"",
    );
    let mut good = json!({
        "metadata": {"creationTimestamp": "2024-01-02T03:04:05.678+01:00"},
        "spec": {"containers": [{
            "resources": {"limits": {"cpu": 1, "memory": "1Gi"}},
            "livenessProbe": {"httpGet": {"port": "web"}},
        }]},
    });
    assert!(check("v1", "Pod", &mut good).unwrap().is_empty());
    assert_eq!(good["metadata"]["creationTimestamp"], "2024-01-02T02:04:05Z");
    let mut secret = json!({"data": {"k": "YWJj\nZGVm"}});
    assert!(check("v1", "Secret", &mut secret).unwrap().is_empty());
    assert_eq!(secret["data"]["k"], "YWJjZGVm");
}

#[test]
fn nulls_are_absence() {
    let mut pod = json!({
        "metadata": {"creationTimestamp": null, "annotations": {"a": null}},
        "spec": {"nodeSelector": null, "containers": [{"name": "a", "args": [null]}, null]},
        "status": null, "stray": null,
    });
    assert_eq!(check("v1", "Pod", &mut pod).unwrap(), ["stray"]);
    assert_eq!(
        pod,
        json!({
            "metadata": {"annotations": {"a": ""}},
            "spec": {"containers": [{"name": "a", "args": [""]}, {}]},
        })
    );
}

#[test]
fn custom_resources_are_left_alone() {
    let mut roo = json!({"spec": {"anything": [null]}});
    assert_eq!(check("example.com/v1", "Roo", &mut roo), Ok(Vec::new()));
    assert_eq!(roo, json!({"spec": {"anything": [null]}}));
}

#[test]
fn managed_fields_and_revisions_hold_any_json() {
    let mut revision = json!({
        "metadata": {"managedFields": [{"fieldsV1": {"f:spec": {"f:x": {}}}}]},
        "data": {"spec": {"whatever": null}},
    });
    let before = revision.clone();
    assert!(check("apps/v1", "ControllerRevision", &mut revision).unwrap().is_empty());
    assert_eq!(revision, before);
}

#[test]
fn what_go_would_not_write_again_is_dropped() {
    let mut pod = json!({
        "metadata": {"labels": {}, "finalizers": [], "generation": 0},
        "spec": {
            "containers": [], "hostNetwork": false, "enableServiceLinks": false, "volumes": [],
            "terminationGracePeriodSeconds": 0, "nodeSelector": {}, "securityContext": {},
            "hostname": "",
        },
    });
    assert!(check("v1", "Pod", &mut pod).unwrap().is_empty());
    assert_eq!(
        pod,
        json!({
            "metadata": {},
            "spec": {
                "containers": [], "enableServiceLinks": false, "terminationGracePeriodSeconds": 0,
                "securityContext": {}, "hostname": "",
            },
        })
    );
    // A selector that selects everything is not an absent one.
    let mut policy = json!({"spec": {"podSelector": {}, "ingress": [{}], "egress": []}});
    check("networking.k8s.io/v1", "NetworkPolicy", &mut policy).unwrap();
    assert_eq!(policy, json!({"spec": {"podSelector": {}, "ingress": [{}]}}));
}

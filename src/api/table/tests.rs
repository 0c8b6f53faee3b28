use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;

/// 2026-01-01T01:00:00Z: an hour after everything here was created.
fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

const CREATED: &str = "2026-01-01T00:00:00Z";

fn object(rest: Value) -> Value {
    let mut object = json!({"metadata": {"name": "a", "creationTimestamp": CREATED}});
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

/// The cells of one row, wide ones included.
fn check(resource: &str, rest: Value, expected: Expect) {
    let table = render(resource, &[object(rest)], IncludeObject::None, json!({}), now());
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(cells.len(), columns(resource).len(), "as many cells as columns");
    let texts: Vec<String> = cells
        .iter()
        .map(|cell| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned))
        .collect();
    expected.assert_eq(&texts.join(" | "));
}

/// READY, STATUS and RESTARTS of a pod with one container and the given status.
fn check_status(status: Value, expected: Expect) {
    check_pod(json!({"spec": {"containers": [{"name": "c"}]}, "status": status}), expected);
}

fn check_pod(rest: Value, expected: Expect) {
    let table = render("pods", &[object(rest)], IncludeObject::None, json!({}), now());
    let cells = &table["rows"][0]["cells"];
    let texts: Vec<&str> = (1..4).map(|i| cells[i].as_str().unwrap()).collect();
    expected.assert_eq(&texts.join(" | "));
}

#[test]
fn a_pod_from_pending_to_running() {
    check_status(json!({"phase": "Pending"}), expect!["0/1 | Pending | 0"]);
    check_status(
        json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}),
        expect!["0/1 | SchedulingGated | 0"],
    );
    check_status(
        json!({"phase": "Pending", "containerStatuses": [{"name": "c", "state": {"waiting": {"reason": "ContainerCreating"}}}]}),
        expect!["0/1 | ContainerCreating | 0"],
    );
    check_status(
        json!({"phase": "Pending", "containerStatuses": [{"name": "c", "state": {"waiting": {"reason": "ErrImagePull"}}}]}),
        expect!["0/1 | ErrImagePull | 0"],
    );
    check_status(
        json!({"phase": "Pending", "containerStatuses": [{"name": "c", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]}),
        expect!["0/1 | ImagePullBackOff | 0"],
    );
    check_status(
        json!({"phase": "Running", "containerStatuses": [{"name": "c", "ready": true, "state": {"running": {}}}]}),
        expect!["1/1 | Running | 0"],
    );
    check_status(
        json!({"phase": "Running", "containerStatuses": [{"name": "c", "ready": false, "state": {"running": {}}}]}),
        expect!["0/1 | Running | 0"],
    );
}

#[test]
fn a_pod_that_crashes() {
    let last = json!({"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:55:00Z"}});
    check_status(
        json!({"phase": "Running", "containerStatuses": [{"name": "c", "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": last}]}),
        expect!["0/1 | CrashLoopBackOff | 3 (5m ago)"],
    );
    check_status(
        json!({"phase": "Running", "containerStatuses": [{"name": "c", "restartCount": 1, "ready": true, "state": {"running": {}}, "lastState": last}]}),
        expect!["1/1 | Running | 1 (5m ago)"],
    );
    check_status(
        json!({"phase": "Running", "containerStatuses": [{"name": "c", "restartCount": 2, "ready": true, "state": {"running": {}}}]}),
        expect!["1/1 | Running | 2"],
    );
    check_status(
        json!({"phase": "Running", "containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]}),
        expect!["0/1 | Error | 0"],
    );
    check_status(
        json!({"phase": "Running", "containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]}),
        expect!["0/1 | OOMKilled | 0"],
    );
    check_status(
        json!({"phase": "Failed", "containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 3}}}]}),
        expect!["0/1 | ExitCode:3 | 0"],
    );
    check_status(
        json!({"phase": "Failed", "containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 137, "signal": 9}}}]}),
        expect!["0/1 | Signal:9 | 0"],
    );
    check_status(json!({"phase": "Failed", "reason": "Evicted"}), expect!["0/1 | Evicted | 0"]);
}

#[test]
fn a_pod_that_ends() {
    check_status(
        json!({"phase": "Succeeded", "containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}),
        expect!["0/1 | Completed | 0"],
    );
    let half_done = |ready: &str| {
        json!({"spec": {"containers": [{"name": "c"}, {"name": "d"}]}, "status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": ready}],
            "containerStatuses": [
                {"name": "c", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}},
                {"name": "d", "ready": true, "state": {"running": {}}}]}})
    };
    check_pod(half_done("True"), expect!["1/2 | Running | 0"]);
    check_pod(half_done("False"), expect!["1/2 | NotReady | 0"]);
    let deleted = |phase: &str, reason: &str| {
        json!({"metadata": {"deletionTimestamp": CREATED}, "spec": {"containers": [{"name": "c"}]},
            "status": {"phase": phase, "reason": reason}})
    };
    check_pod(deleted("Running", ""), expect!["0/1 | Terminating | 0"]);
    check_pod(deleted("Succeeded", ""), expect!["0/1 | Succeeded | 0"]);
    check_pod(deleted("Running", "NodeLost"), expect!["0/1 | Unknown | 0"]);
}

#[test]
fn a_pod_that_initializes() {
    let pod = |statuses: Value, conditions: Value| {
        json!({"spec": {"containers": [{"name": "c"}], "initContainers": [{"name": "i"}, {"name": "j"}]},
            "status": {"phase": "Pending", "initContainerStatuses": statuses, "conditions": conditions,
                "containerStatuses": [{"name": "c", "restartCount": 7, "state": {"waiting": {"reason": "PodInitializing"}}}]}})
    };
    let done = json!({"name": "i", "restartCount": 1, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
    check_pod(
        pod(json!([{"name": "i", "state": {"running": {}}}, {"name": "j"}]), json!([])),
        expect!["0/1 | Init:0/2 | 0"],
    );
    check_pod(
        pod(
            json!([done, {"name": "j", "state": {"waiting": {"reason": "PodInitializing"}}}]),
            json!([]),
        ),
        expect!["0/1 | Init:1/2 | 1"],
    );
    check_pod(
        pod(
            json!([{"name": "i", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]),
            json!([]),
        ),
        expect!["0/1 | Init:Error | 0"],
    );
    check_pod(
        pod(
            json!([{"name": "i", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:59:30Z"}}}]),
            json!([]),
        ),
        expect!["0/1 | Init:CrashLoopBackOff | 2 (30s ago)"],
    );
    check_pod(
        pod(
            json!([{"name": "i", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]),
            json!([]),
        ),
        expect!["0/1 | Init:ImagePullBackOff | 0"],
    );
    check_pod(
        pod(json!([{"name": "i", "state": {"terminated": {"exitCode": 2}}}]), json!([])),
        expect!["0/1 | Init:ExitCode:2 | 0"],
    );
    check_pod(
        pod(
            json!([{"name": "i", "state": {"terminated": {"exitCode": 2, "signal": 9}}}]),
            json!([]),
        ),
        expect!["0/1 | Init:Signal:9 | 0"],
    );
    check_pod(pod(json!([done, done]), json!([])), expect!["0/1 | PodInitializing | 7"]);
    check_pod(
        pod(
            json!([{"name": "i", "state": {"running": {}}}]),
            json!([{"type": "Initialized", "status": "True"}]),
        ),
        expect!["0/1 | PodInitializing | 7"],
    );
}

#[test]
fn a_sidecar_counts_as_a_container() {
    check_pod(
        json!({"spec": {"containers": [{"name": "c"}], "initContainers": [{"name": "s", "restartPolicy": "Always"}]},
            "status": {"phase": "Running",
                "initContainerStatuses": [{"name": "s", "started": true, "ready": true, "restartCount": 2, "state": {"running": {}}}],
                "containerStatuses": [{"name": "c", "ready": true, "restartCount": 1, "state": {"running": {}}}]}}),
        expect!["2/2 | Running | 3"],
    );
}

#[test]
fn pods_in_the_wide_form() {
    check(
        "pods",
        json!({"spec": {"containers": [{}]}, "status": {"phase": "Pending"}}),
        expect!["a | 0/1 | Pending | 0 | 60m | <none> | <none> | <none> | <none>"],
    );
    check(
        "pods",
        json!({"spec": {"containers": [{}], "nodeName": "n", "readinessGates": [{"conditionType": "x/y"}, {"conditionType": "z"}]},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}], "conditions": [{"type": "x/y", "status": "True"}]}}),
        expect!["a | 0/1 | Running | 0 | 60m | 10.0.0.1 | n | <none> | 1/2"],
    );
}

#[test]
fn kinds_of_this_version() {
    check(
        "nodes",
        json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "agent"}}, "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}], "nodeInfo": {"kubeletVersion": "v1.36.0", "osImage": "Debian", "kernelVersion": "6.1", "containerRuntimeVersion": "joey://0.1.0"}}}),
        expect![
            "a | Ready,SchedulingDisabled | agent,control-plane | 60m | v1.36.0 | 10.0.0.1 | <none> | Debian | 6.1 | joey://0.1.0"
        ],
    );
    check(
        "nodes",
        json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}),
        expect![
            "a | NotReady | <none> | 60m |  | <none> | <none> | <unknown> | <unknown> | <unknown>"
        ],
    );
    check(
        "nodes",
        json!({}),
        expect![
            "a | Unknown | <none> | 60m |  | <none> | <none> | <unknown> | <unknown> | <unknown>"
        ],
    );
    check("namespaces", json!({"status": {"phase": "Active"}}), expect!["a | Active | 60m"]);
    check(
        "configmaps",
        json!({"data": {"a": ""}, "binaryData": {"b": "", "c": ""}}),
        expect!["a | 3 | 60m"],
    );
    check("secrets", json!({"type": "Opaque", "data": {"a": ""}}), expect!["a | Opaque | 1 | 60m"]);
    check("serviceaccounts", json!({}), expect!["a | 0 | 60m"]);
    check(
        "leases.coordination.k8s.io",
        json!({"spec": {"holderIdentity": "n"}}),
        expect!["a | n | 60m"],
    );
    check("clusterroles.rbac.authorization.k8s.io", json!({}), expect!["a | 2026-01-01T00:00:00Z"]);
}

#[test]
fn events_of_both_versions() {
    check(
        "events",
        json!({"type": "Warning", "reason": "BackOff", "message": " Back-off\n", "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{c}"}, "source": {"component": "kubelet", "host": "n"}, "firstTimestamp": "2026-01-01T00:10:00Z", "lastTimestamp": "2026-01-01T00:59:00Z", "count": 4}),
        expect![
            "60s | Warning | BackOff | pod/p | spec.containers{c} | kubelet, n | Back-off | 50m | 4 | a"
        ],
    );
    check(
        "events.events.k8s.io",
        json!({"type": "Normal", "reason": "R", "note": "n", "regarding": {"kind": "Node"}, "reportingController": "x", "reportingInstance": "x-1", "eventTime": "2026-01-01T00:59:00.000000Z"}),
        expect!["60s | Normal | R | node |  | x, x-1 | n | 60s | 1 | a"],
    );
    check(
        "events",
        json!({"eventTime": "2026-01-01T00:00:00Z", "series": {"count": 9, "lastObservedTime": "2026-01-01T00:59:58.5Z"}}),
        expect!["1s |  |  |  |  |  |  | 60m | 9 | a"],
    );
}

#[test]
fn workloads() {
    let template = json!({"spec": {"containers": [{"name": "c", "image": "i:1"}, {"name": "d", "image": "j"}], "nodeSelector": {"k": "v"}}});
    let selector = json!({"matchLabels": {"b": "2", "a": "1"}, "matchExpressions": [{"key": "c", "operator": "NotIn", "values": ["z", "y"]}, {"key": "d", "operator": "DoesNotExist"}]});
    check(
        "deployments.apps",
        json!({"spec": {"replicas": 3, "template": template, "selector": selector}, "status": {"readyReplicas": 1, "updatedReplicas": 2}}),
        expect!["a | 1/3 | 2 | 0 | 60m | c,d | i:1,j | a=1,b=2,c notin (y,z),!d"],
    );
    check(
        "replicasets.apps",
        json!({"spec": {"replicas": 3, "template": template, "selector": {}}, "status": {"replicas": 2}}),
        expect!["a | 3 | 2 | 0 | 60m | c,d | i:1,j | <none>"],
    );
    check(
        "replicationcontrollers",
        json!({"spec": {"selector": {"a": "b"}}}),
        expect!["a | 0 | 0 | 0 | 60m |  |  | a=b"],
    );
    check(
        "statefulsets.apps",
        json!({"spec": {"replicas": 3, "template": template}}),
        expect!["a | 0/3 | 60m | c,d | i:1,j"],
    );
    check(
        "daemonsets.apps",
        json!({"spec": {"template": template, "selector": selector}, "status": {"numberReady": 1}}),
        expect!["a | 0 | 0 | 1 | 0 | 0 | k=v | 60m | c,d | i:1,j | a=1,b=2,c notin (y,z),!d"],
    );
    check(
        "jobs.batch",
        json!({"spec": {"completions": 2, "template": template}, "status": {"succeeded": 1, "startTime": "2026-01-01T00:30:00Z"}}),
        expect!["a | Running | 1/2 | 30m | 60m | c,d | i:1,j | <none>"],
    );
    check(
        "jobs.batch",
        json!({"spec": {"parallelism": 3}, "status": {"startTime": CREATED, "completionTime": "2026-01-01T00:00:09Z", "conditions": [{"type": "Complete", "status": "True"}]}}),
        expect!["a | Complete | 0/1 of 3 | 9s | 60m |  |  | <none>"],
    );
    check(
        "cronjobs.batch",
        json!({"spec": {"schedule": "* * * * *", "suspend": false}}),
        expect!["a | * * * * * | <none> | False | 0 | <none> | 60m |  |  | <none>"],
    );
    check(
        "controllerrevisions.apps",
        json!({"metadata": {"ownerReferences": [{"controller": true, "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d"}]}, "revision": 2}),
        expect!["a | daemonset.apps/d | 2 | 60m"],
    );
}

#[test]
fn networking_and_storage() {
    check(
        "services",
        json!({"spec": {"type": "NodePort", "clusterIPs": ["10.1.0.1"], "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30001}, {"port": 53, "protocol": "UDP"}], "selector": {"a": "b"}}}),
        expect!["a | NodePort | 10.1.0.1 | <none> | 80:30001/TCP,53/UDP | 60m | a=b"],
    );
    check(
        "services",
        json!({"spec": {"type": "LoadBalancer", "clusterIP": "None", "externalIPs": ["3.3.3.3"]}, "status": {"loadBalancer": {"ingress": [{"ip": "2.2.2.2"}, {"hostname": "a.b"}]}}}),
        expect!["a | LoadBalancer | None | 2.2.2.2,a.b,3.3.3.3 | <none> | 60m | <none>"],
    );
    check(
        "services",
        json!({"spec": {"type": "LoadBalancer"}}),
        expect!["a | LoadBalancer | <none> | <pending> | <none> | 60m | <none>"],
    );
    check(
        "services",
        json!({"spec": {"type": "ExternalName", "externalName": "x.y"}}),
        expect!["a | ExternalName | <none> | x.y | <none> | 60m | <none>"],
    );
    check(
        "endpoints",
        json!({"subsets": [{"addresses": [{"ip": "1.1.1.1"}, {"ip": "::1"}], "ports": [{"port": 80}, {"port": 81}]}]}),
        expect!["a | 1.1.1.1:80,[::1]:80,1.1.1.1:81 + 1 more... | 60m"],
    );
    check(
        "endpointslices.discovery.k8s.io",
        json!({"addressType": "IPv4", "ports": [{"port": 80}, {"name": "x"}, {}], "endpoints": [{"addresses": ["1.1.1.1"]}]}),
        expect!["a | IPv4 | 80,x,* | 1.1.1.1 | 60m"],
    );
    check("endpointslices.discovery.k8s.io", json!({}), expect!["a |  | <unset> | <unset> | 60m"]);
    check(
        "ingresses.networking.k8s.io",
        json!({"spec": {"rules": [{"host": "a"}, {"host": "b"}, {"host": "c"}, {"host": "d"}], "tls": [{}]}}),
        expect!["a | <none> | a,b,c + 1 more... |  | 80, 443 | 60m"],
    );
    check(
        "networkpolicies.networking.k8s.io",
        json!({"spec": {"podSelector": {}}}),
        expect!["a | <none> | 60m"],
    );
    check(
        "persistentvolumeclaims",
        json!({"metadata": {"deletionTimestamp": CREATED}, "spec": {"volumeName": "v", "volumeMode": "Filesystem"}, "status": {"accessModes": ["ReadWriteMany", "ReadWriteOnce"], "capacity": {"storage": "1Gi"}}}),
        expect!["a | Terminating | v | 1Gi | RWO,RWX |  | <unset> | 60m | Filesystem"],
    );
    check(
        "persistentvolumes",
        json!({"spec": {"capacity": {"storage": "1Gi"}, "claimRef": {"namespace": "n", "name": "c"}}, "status": {"phase": "Bound"}}),
        expect!["a | 1Gi |  |  | Bound | n/c |  | <unset> |  | 60m | <unset>"],
    );
    check(
        "storageclasses.storage.k8s.io",
        json!({"metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": "p"}),
        expect!["a (default) | p | Delete | Immediate | false | 60m"],
    );
    check(
        "rolebindings.rbac.authorization.k8s.io",
        json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "namespace": "n", "name": "s"}]}),
        expect!["a | Role/r | 60m | u |  | n/s"],
    );
    check(
        "poddisruptionbudgets.policy",
        json!({"spec": {"minAvailable": 1}}),
        expect!["a | 1 | N/A | 0 | 60m"],
    );
}

#[test]
fn rows_carry_what_was_asked_for() {
    let pod = object(
        json!({"kind": "Pod", "spec": {"containers": []}, "status": {"phase": "Succeeded"}}),
    );
    let row = |include| {
        render("pods", std::slice::from_ref(&pod), include, json!({}), now())["rows"][0].clone()
    };
    assert_eq!(row(IncludeObject::None)["object"], Value::Null);
    assert_eq!(row(IncludeObject::Object)["object"], pod);
    assert_eq!(
        row(IncludeObject::Metadata)["object"],
        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": pod["metadata"]})
    );
    assert_eq!(row(IncludeObject::None)["conditions"][0]["reason"], "Succeeded");
}

#[test]
fn a_table_is_what_clients_decode() {
    let table =
        render("namespaces", &[], IncludeObject::Metadata, json!({"resourceVersion": "7"}), now());
    expect![[r#"
        {
          "kind": "Table",
          "apiVersion": "meta.k8s.io/v1",
          "metadata": {
            "resourceVersion": "7"
          },
          "columnDefinitions": [
            {
              "name": "Name",
              "type": "string",
              "format": "name",
              "description": "The name, unique among the objects of this kind in its namespace.",
              "priority": 0
            },
            {
              "name": "Status",
              "type": "string",
              "format": "",
              "description": "Active, or Terminating.",
              "priority": 0
            },
            {
              "name": "Age",
              "type": "string",
              "format": "",
              "description": "How long ago the object was created.",
              "priority": 0
            }
          ],
          "rows": []
        }"#]]
    .assert_eq(&serde_json::to_string_pretty(&table).unwrap());
}

#[test]
fn columns_are_those_of_kubernetes() {
    let names = |resource: &str| {
        let columns = columns(resource);
        let names = columns.iter().map(|column| {
            let mark = if column["priority"] == 1 { "(w)" } else { "" };
            format!("{}{mark}", column["name"].as_str().unwrap())
        });
        names.collect::<Vec<_>>().join(", ")
    };
    let all = [
        "pods",
        "nodes",
        "namespaces",
        "configmaps",
        "secrets",
        "serviceaccounts",
        "events",
        "leases.coordination.k8s.io",
        "deployments.apps",
        "jobs.batch",
        "services",
        "roles.rbac.authorization.k8s.io",
    ];
    let lines: Vec<String> =
        all.iter().map(|resource| format!("{resource}: {}", names(resource))).collect();
    expect![[r#"
        pods: Name, Ready, Status, Restarts, Age, IP(w), Node(w), Nominated Node(w), Readiness Gates(w)
        nodes: Name, Status, Roles, Age, Version, Internal-IP(w), External-IP(w), OS-Image(w), Kernel-Version(w), Container-Runtime(w)
        namespaces: Name, Status, Age
        configmaps: Name, Data, Age
        secrets: Name, Type, Data, Age
        serviceaccounts: Name, Secrets, Age
        events: Last Seen, Type, Reason, Object, Subobject(w), Source(w), Message, First Seen(w), Count(w), Name(w)
        leases.coordination.k8s.io: Name, Holder, Age
        deployments.apps: Name, Ready, Up-to-date, Available, Age, Containers(w), Images(w), Selector(w)
        jobs.batch: Name, Status, Completions, Duration, Age, Containers(w), Images(w), Selector(w)
        services: Name, Type, Cluster-IP, External-IP, Port(s), Age, Selector(w)
        roles.rbac.authorization.k8s.io: Name, Created At"#]].assert_eq(&lines.join("\n"));
}

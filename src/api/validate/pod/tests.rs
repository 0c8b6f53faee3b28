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
    errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
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
    expected.assert_eq(&lines(validate::update_status(
        "pods",
        &pod(old),
        &pod(new),
    )));
}

#[test]
fn a_good_pod_passes() {
    check(
        "/metadata/labels",
        json!({"app": "x", "example.com/Tier": ""}),
        expect![[r#""#]],
    );
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
    check(
        "/spec/containers",
        json!([]),
        expect!["spec.containers: Required value"],
    );
    check(
        "/spec/containers",
        Value::Null,
        expect!["spec.containers: Required value"],
    );
    check(
        "/spec",
        json!({}),
        expect!["spec.containers: Required value"],
    );
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
            r#"spec.containers[0].name: Invalid value: "C_1": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name', or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"#
        ]],
    );
    check(
        "/spec/initContainers/0/name",
        json!("c"),
        expect![[r#"spec.initContainers[0].name: Duplicate value: "c""#]],
    );
}

#[test]
fn ports() {
    check(
        "/spec/containers/0/ports",
        json!([{"containerPort": 0}, {"containerPort": 65536}, {}]),
        expect![[r#"
            spec.containers[0].ports[0].containerPort: Required value
            spec.containers[0].ports[1].containerPort: Invalid value: 65536: must be between 1 and 65535, inclusive
            spec.containers[0].ports[2].containerPort: Required value"#]],
    );
    check(
        "/spec/containers/0/ports",
        json!([{"containerPort": 1, "name": "HTTP"}, {"containerPort": 2, "protocol": "tcp"}]),
        expect![[r#"
            spec.containers[0].ports[0].name: Invalid value: "HTTP": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)
            spec.containers[0].ports[0].name: Invalid value: "HTTP": must contain at least one letter (a-z)
            spec.containers[0].ports[1].protocol: Unsupported value: "tcp": supported values: "SCTP", "TCP", "UDP""#]],
    );
    check(
        "/spec/containers/0/ports",
        json!([{"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}]),
        expect![[r#"spec.containers[0].ports[1].name: Duplicate value: "a""#]],
    );
    check(
        "/spec/containers/0/ports",
        json!([{"containerPort": 1, "hostPort": 80}, {"containerPort": 2, "hostPort": 80}, {"containerPort": 2, "hostPort": 80, "protocol": "UDP"}]),
        expect![[r#"spec.containers[0].ports[1].hostPort: Duplicate value: "TCP//80""#]],
    );
    check(
        "/spec/containers/0/ports",
        json!([{"containerPort": 1, "hostPort": -1}]),
        expect![
            "spec.containers[0].ports[0].hostPort: Invalid value: -1: must be between 1 and 65535, inclusive"
        ],
    );
}

#[test]
fn with_the_hosts_network_ports_are_themselves() {
    let mut pod = with("/spec/hostNetwork", json!(true));
    set(&mut pod, "/spec/containers/0/ports/0/hostPort", json!(81));
    defaults::apply("pods", &mut pod);
    expect!["spec.containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true"].assert_eq(&lines(validate::create("pods", &pod)));
}

#[test]
fn environment() {
    check(
        "/spec/containers/0/env",
        json!([{"name": ""}, {"name": "A=B"}]),
        expect![[r#"
            spec.containers[0].env[0].name: Required value
            spec.containers[0].env[1].name: Invalid value: "A=B": a valid environment variable name must consist only of printable ASCII characters other than '='"#]],
    );
    check(
        "/spec/containers/0/env/0/valueFrom",
        json!({}),
        expect![[
            r#"spec.containers[0].env[0].valueFrom: Invalid value: "": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`"#
        ]],
    );
    check(
        "/spec/containers/0/env/0/valueFrom",
        json!({"secretKeyRef": {"name": "x", "key": "k"}}),
        expect![[
            r#"spec.containers[0].env[0].valueFrom: Invalid value: "": may not be specified when `value` is not empty"#
        ]],
    );
    check(
        "/spec/containers/0/env/0",
        json!({"name": "A", "valueFrom": {"secretKeyRef": {"name": "X_", "key": "a b"}, "configMapKeyRef": {"name": "x"}}}),
        expect![[r#"
            spec.containers[0].env[0].valueFrom.configMapKeyRef.key: Required value
            spec.containers[0].env[0].valueFrom.secretKeyRef.name: Invalid value: "X_": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            spec.containers[0].env[0].valueFrom.secretKeyRef.key: Invalid value: "a b": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name', or 'KEY_NAME', or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')
            spec.containers[0].env[0].valueFrom: Invalid value: "": may not have more than one field specified at a time"#]],
    );
    check(
        "/spec/containers/0/env/0",
        json!({"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.foo"}}}),
        expect![[
            r#"spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: "spec.foo": error converting fieldPath: field label not supported: spec.foo"#
        ]],
    );
    check(
        "/spec/containers/0/env/0",
        json!({"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels"}}}),
        expect![[
            r#"spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value: "metadata.labels": supported values: "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs""#
        ]],
    );
    check(
        "/spec/containers/0/env/0",
        json!({"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName['x']"}}}),
        expect![[
            r#"spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: "spec.nodeName['x']": error converting fieldPath: field label does not support subscript: spec.nodeName['x']"#
        ]],
    );
    check(
        "/spec/containers/0/env/0",
        json!({"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v2", "fieldPath": ""}}}),
        expect!["spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Required value"],
    );
    check(
        "/spec/containers/0/env/0",
        json!({"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.gpu"}}}),
        expect![[
            r#"spec.containers[0].env[0].valueFrom.resourceFieldRef.resource: Unsupported value: "limits.gpu": supported values: "limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory""#
        ]],
    );
    check(
        "/spec/containers/0/env/0",
        json!({"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "2"}}}),
        expect![[
            r#"spec.containers[0].env[0].valueFrom.resourceFieldRef.divisor: Invalid value: "limits.cpu": only divisor's values 1m and 1 are supported with the cpu resource"#
        ]],
    );
    check(
        "/spec/containers/0/envFrom",
        json!([{}, {"configMapRef": {}, "secretRef": {"name": "x"}, "prefix": "A="}]),
        expect![[r#"
            spec.containers[0].envFrom: Invalid value: "": must specify one of: `configMapRef` or `secretRef`
            spec.containers[0].envFrom[1].prefix: Invalid value: "A=": a valid environment variable name must consist only of printable ASCII characters other than '='
            spec.containers[0].envFrom[1].configMapRef.name: Required value
            spec.containers[0].envFrom: Invalid value: "": may not have more than one field specified at a time"#]],
    );
}

#[test]
fn requests_stay_below_limits() {
    check(
        "/spec/containers/0/resources/requests",
        json!({"cpu": "1500m", "memory": "2Gi"}),
        expect![[r#"
            spec.containers[0].resources.requests: Invalid value: "1500m": must be less than or equal to cpu limit of 1
            spec.containers[0].resources.requests: Invalid value: "2Gi": must be less than or equal to memory limit of 1Gi"#]],
    );
    check(
        "/spec/containers/0/resources",
        json!({"limits": {"cpu": "-1", "foo": "1", "memory": "1x"}}),
        expect![[r#"
            spec.containers[0].resources.limits[cpu]: Invalid value: "-1": must be greater than or equal to 0
            spec.containers[0].resources.limits[foo]: Invalid value: "foo": must be a standard resource type or fully qualified
            spec.containers[0].resources.limits[foo]: Invalid value: "foo": must be a standard resource for containers
            spec.containers[0].resources.limits[memory]: Invalid value: "1x": quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'
            spec.containers[0].resources.requests[cpu]: Invalid value: "-1": must be greater than or equal to 0
            spec.containers[0].resources.requests[foo]: Invalid value: "foo": must be a standard resource type or fully qualified
            spec.containers[0].resources.requests[foo]: Invalid value: "foo": must be a standard resource for containers
            spec.containers[0].resources.requests[memory]: Invalid value: "1x": quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'
            spec.containers[0].resources.limits[foo]: Forbidden: not implemented by this version of Joey
            spec.containers[0].resources.requests[foo]: Forbidden: not implemented by this version of Joey"#]],
    );
    check(
        "/spec/containers/0/resources",
        json!({"requests": {"example.com/gpu": "1"}}),
        expect![
            "spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources"
        ],
    );
    check(
        "/spec/containers/0/resources",
        json!({"limits": {"example.com/gpu": "1.5"}, "requests": {"example.com/gpu": "1"}}),
        expect![[r#"
            spec.containers[0].resources.limits[example.com/gpu]: Invalid value: "1500m": must be an integer
            spec.containers[0].resources.requests: Invalid value: "1": must be equal to example.com/gpu limit of 1500m"#]],
    );
    check(
        "/spec/containers/0/resources",
        json!({"limits": {"ephemeral-storage": "1Gi", "hugepages-2Mi": "4Mi"}}),
        expect![[r#"
            spec.containers[0].resources: Forbidden: HugePages require cpu or memory
            spec.containers[0].resources.limits[ephemeral-storage]: Forbidden: not implemented by this version of Joey
            spec.containers[0].resources.limits[hugepages-2Mi]: Forbidden: not implemented by this version of Joey
            spec.containers[0].resources.requests[ephemeral-storage]: Forbidden: not implemented by this version of Joey
            spec.containers[0].resources.requests[hugepages-2Mi]: Forbidden: not implemented by this version of Joey"#]],
    );
}

#[test]
fn volumes_have_one_source_and_a_name() {
    check(
        "/spec/volumes/0",
        json!({"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}),
        expect![[r#"
            spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type
            spec.containers[0].volumeMounts[0].name: Not found: "v""#]],
    );
    check(
        "/spec/volumes",
        json!([{"name": "v"}, {"name": "v"}, {"emptyDir": {}}, {"name": "V"}]),
        expect![[r#"
            spec.volumes[1].name: Duplicate value: "v"
            spec.volumes[2].name: Required value
            spec.volumes[3].name: Invalid value: "V": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name', or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"#]],
    );
    check(
        "/spec/volumes/0",
        json!({"name": "v", "hostPath": {"path": ""}}),
        expect![[r#"
            spec.volumes[0].hostPath.path: Required value
            spec.containers[0].volumeMounts[0].name: Not found: "v""#]],
    );
    check(
        "/spec/volumes/0",
        json!({"name": "v", "hostPath": {"path": "/a/../b", "type": "Pipe"}}),
        expect![[r#"
            spec.volumes[0].hostPath.path: Invalid value: "/a/../b": must not contain '..'
            spec.volumes[0].hostPath.type: Unsupported value: "Pipe": supported values: "", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"
            spec.containers[0].volumeMounts[0].name: Not found: "v""#]],
    );
    check(
        "/spec/volumes/0",
        json!({"name": "v", "secret": {"defaultMode": 512, "items": [{"key": "", "path": "/a"}, {"key": "k", "path": "../a", "mode": -1}]}}),
        expect![[r#"
            spec.volumes[0].secret.secretName: Required value
            spec.volumes[0].secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive
            spec.volumes[0].secret.items[0].key: Required value
            spec.volumes[0].secret.items[0].path: Invalid value: "/a": must be a relative path
            spec.volumes[0].secret.items[1].path: Invalid value: "../a": must not contain '..'
            spec.volumes[0].secret.items[1].mode: Invalid value: -1: must be a number between 0 and 0777 (octal), both inclusive
            spec.containers[0].volumeMounts[0].name: Not found: "v""#]],
    );
    check(
        "/spec/volumes/0",
        json!({"name": "v", "configMap": {"items": [{"key": "k", "path": "..data"}]}}),
        expect![[r#"
            spec.volumes[0].configMap.name: Required value
            spec.volumes[0].configMap.items[0].path: Invalid value: "..data": must not start with '..'
            spec.containers[0].volumeMounts[0].name: Not found: "v""#]],
    );
    check(
        "/spec/volumes/0",
        json!({"name": "v", "downwardAPI": {"items": [{"path": "a"}, {"path": "b", "resourceFieldRef": {"resource": "limits.cpu"}}, {"path": "c", "fieldRef": {"fieldPath": "status.podIP"}}]}}),
        expect![[r#"
            spec.volumes[0].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required
            spec.volumes[0].downwardAPI.resourceFieldRef.containerName: Required value
            spec.volumes[0].downwardAPI.fieldRef.fieldPath: Unsupported value: "status.podIP": supported values: "metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"
            spec.containers[0].volumeMounts[0].name: Not found: "v""#]],
    );
    check(
        "/spec/volumes/0",
        json!({"name": "v", "projected": {"sources": [{"secret": {"name": "s", "items": [{"key": "a", "path": "p"}]}}, {"configMap": {"name": "c", "items": [{"key": "a", "path": "p"}]}, "secret": {"name": "t"}}]}}),
        expect![[r#"
            spec.volumes[0].projected: Invalid value: "c": conflicting duplicate paths
            spec.volumes[0].projected.sources[1]: Forbidden: may not specify more than 1 volume type per source
            spec.containers[0].volumeMounts[0].name: Not found: "v""#]],
    );
    check(
        "/spec/volumes/0/emptyDir",
        json!({"medium": "Memory", "sizeLimit": "-1"}),
        expect![[r#"
            spec.volumes[0].emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity
            spec.containers[0].volumeMounts[0].name: Not found: "v""#]],
    );
}

#[test]
fn mounts_name_volumes_and_paths_are_unique() {
    check(
        "/spec/containers/0/volumeMounts",
        json!([{"name": "x", "mountPath": "/x"}, {"name": "v", "mountPath": "/y"}, {"name": "v", "mountPath": "/y"}, {}]),
        expect![[r#"
            spec.containers[0].volumeMounts[0].name: Not found: "x"
            spec.containers[0].volumeMounts[2].mountPath: Invalid value: "/y": must be unique
            spec.containers[0].volumeMounts[3].name: Required value
            spec.containers[0].volumeMounts[3].name: Not found: ""
            spec.containers[0].volumeMounts[3].mountPath: Required value"#]],
    );
    check(
        "/spec/containers/0/volumeMounts/0/subPath",
        json!("../x"),
        expect![[
            r#"spec.containers[0].volumeMounts.subPath: Invalid value: "../x": must not contain '..'"#
        ]],
    );
    check(
        "/spec/containers/0/volumeMounts/0/subPath",
        json!("/x"),
        expect![[
            r#"spec.containers[0].volumeMounts.subPath: Invalid value: "/x": must be a relative path"#
        ]],
    );
    check(
        "/spec/containers/0/volumeMounts/0/mountPropagation",
        json!("Bidirectional"),
        expect![
            "spec.containers[0].volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers"
        ],
    );
    check(
        "/spec/containers/0/volumeMounts/0/mountPropagation",
        json!("Private"),
        expect![[
            r#"spec.containers[0].volumeMounts.mountPropagation: Unsupported value: "Private": supported values: "Bidirectional", "HostToContainer", "None""#
        ]],
    );
    check(
        "/spec/containers/0/volumeMounts/0/recursiveReadOnly",
        json!("Enabled"),
        expect![[r#"
            spec.containers[0].volumeMounts.recursiveReadOnly: Forbidden: may only be specified when readOnly is true
            spec.containers[0].volumeMounts[0].recursiveReadOnly: Forbidden: not implemented by this version of Joey"#]],
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
            r#"spec.subdomain: Invalid value: "-": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name', or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"#
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
            spec.nodeSelector: Invalid value: "a/b/c": a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName', or 'my.name', or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')
            spec.nodeSelector: Invalid value: "x y": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue', or 'my_value', or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"#]],
    );
    check(
        "/spec/readinessGates",
        json!([{"conditionType": ""}]),
        expect![[r#"
            spec.readinessGates[0].conditionType: Invalid value: "": name part must be non-empty
            spec.readinessGates[0].conditionType: Invalid value: "": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName', or 'my.name', or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"#]],
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
            spec.dnsConfig.nameservers: Invalid value: ["a","1.1.1.1","1.1.1.2","::1"]: must not have more than 3 nameservers
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
            spec.tolerations[3].key: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName', or 'my.name', or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            spec.tolerations[3].effect: Unsupported value: "No": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"
            spec.tolerations[4].effect: Invalid value: "": effect must be 'NoExecute' when `tolerationSeconds` is set"#]],
    );
}

#[test]
fn security_contexts() {
    check(
        "/spec/securityContext",
        json!({"runAsUser": -1, "runAsGroup": 4294967296_i64, "supplementalGroups": [-1], "fsGroupChangePolicy": "Never", "seccompProfile": {}, "sysctls": [{"name": ""}, {"name": "A"}, {"name": "net.ipv4.tcp_rmem"}, {"name": "net/ipv4/tcp_rmem"}]}),
        expect![[r#"
            spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 4294967295, inclusive
            spec.securityContext.runAsGroup: Invalid value: 4294967296: must be between 0 and 4294967295, inclusive
            spec.securityContext.supplementalGroups[0]: Invalid value: -1: must be between 0 and 4294967295, inclusive
            spec.securityContext.sysctls[0].name: Required value
            spec.securityContext.sysctls[1].name: Invalid value: "A": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$
            spec.securityContext.sysctls[3].name: Duplicate value: "net/ipv4/tcp_rmem"
            spec.securityContext.fsGroupChangePolicy: Unsupported value: "Never": supported values: "Always", "OnRootMismatch"
            spec.securityContext.seccompProfile.type: Required value: type is required when seccompProfile is set
            spec.securityContext.fsGroupChangePolicy: Forbidden: not implemented by this version of Joey
            spec.securityContext.sysctls[1].name: Forbidden: not implemented by this version of Joey"#]],
    );
    check(
        "/spec/containers/0/securityContext",
        json!({"privileged": true, "allowPrivilegeEscalation": false, "seccompProfile": {"type": "Localhost"}, "procMount": "Unmasked"}),
        expect![[r#"
            spec.containers[0].securityContext.procMount: Invalid value: "Unmasked": `hostUsers` must be false to use `Unmasked`
            spec.containers[0].securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost
            spec.containers[0].securityContext: Invalid value: {"privileged":true,"allowPrivilegeEscalation":false,"seccompProfile":{"type":"Localhost"},"procMount":"Unmasked"}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true
            spec.containers[0].securityContext.procMount: Forbidden: not implemented by this version of Joey"#]],
    );
    check(
        "/spec/containers/0/securityContext",
        json!({"allowPrivilegeEscalation": false, "capabilities": {"add": ["CAP_SYS_ADMIN"]}, "seccompProfile": {"type": "RuntimeDefault", "localhostProfile": "x"}}),
        expect![[r#"
            spec.containers[0].securityContext.seccompProfile.localhostProfile: Invalid value: {"type":"RuntimeDefault","localhostProfile":"x"}: can only be set when seccomp type is Localhost
            spec.containers[0].securityContext: Invalid value: {"allowPrivilegeEscalation":false,"capabilities":{"add":["CAP_SYS_ADMIN"]},"seccompProfile":{"type":"RuntimeDefault","localhostProfile":"x"}}: cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"#]],
    );
    check(
        "/spec/containers/0/securityContext",
        json!({"seccompProfile": {"type": "Docker"}}),
        expect![[
            r#"spec.containers[0].securityContext.seccompProfile.type: Unsupported value: "Docker": supported values: "Localhost", "RuntimeDefault", "Unconfined""#
        ]],
    );
}

#[test]
fn probes_are_judged_before_they_are_refused() {
    check(
        "/spec/containers/0/livenessProbe",
        json!({"successThreshold": 2, "periodSeconds": -1}),
        expect![[r#"
            spec.containers[0].livenessProbe: Required value: must specify a handler type
            spec.containers[0].livenessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0
            spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1
            spec.containers[0].livenessProbe: Forbidden: not implemented by this version of Joey"#]],
    );
    check(
        "/spec/containers/0/readinessProbe",
        json!({"httpGet": {"scheme": "ftp", "httpHeaders": [{"name": "a b"}]}, "exec": {"command": []}, "terminationGracePeriodSeconds": 0}),
        expect![[r#"
            spec.containers[0].readinessProbe.exec.command: Required value
            spec.containers[0].readinessProbe.httpGet: Forbidden: may not specify more than 1 handler type
            spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0
            spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 0: must not be set for readinessProbes
            spec.containers[0].readinessProbe: Forbidden: not implemented by this version of Joey"#]],
    );
    check(
        "/spec/containers/0/lifecycle",
        json!({"preStop": {"sleep": {"seconds": 31}}, "postStart": {}}),
        expect![[r#"
            spec.containers[0].lifecycle.postStart: Required value: must specify a handler type
            spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)
            spec.containers[0].lifecycle: Forbidden: not implemented by this version of Joey"#]],
    );
    check(
        "/spec/initContainers/0/livenessProbe",
        json!({"tcpSocket": {"port": "x"}}),
        expect![[r#"
            spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always
            spec.initContainers[0].livenessProbe: Forbidden: not implemented by this version of Joey"#]],
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
    check(
        "/metadata/namespace",
        Value::Null,
        expect!["metadata.namespace: Required value"],
    );
    check(
        "/metadata/labels",
        json!({"a b": "x", "c": "-"}),
        expect![[r#"
            metadata.labels: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName', or 'my.name', or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            metadata.labels: Invalid value: "-": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue', or 'my_value', or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"#]],
    );
    check(
        "/metadata/annotations",
        json!({"UPPER.io/x": "ok", "a b": "", "big": "x".repeat(256 << 10)}),
        expect![[r#"
            metadata.annotations: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName', or 'my.name', or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
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
            metadata.finalizers: Invalid value: ["x","orphan","foregroundDeletion"]: finalizer orphan and foregroundDeletion cannot be both set
            metadata.finalizers[0]: Invalid value: "x": name is neither a standard finalizer name nor is it fully qualified"#]],
    );
}

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
        ("/spec/initContainers/0/restartPolicy", json!("Always")),
        (
            "/spec/containers/0/startupProbe",
            json!({"tcpSocket": {"port": 1}}),
        ),
        (
            "/spec/containers/0/lifecycle",
            json!({"preStop": {"exec": {"command": ["a"]}}}),
        ),
        (
            "/spec/containers/0/resizePolicy",
            json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]),
        ),
        (
            "/spec/containers/0/securityContext/seLinuxOptions",
            json!({"level": "x"}),
        ),
        (
            "/spec/containers/0/volumeMounts/0/subPathExpr",
            json!("$(A)"),
        ),
        (
            "/spec/securityContext",
            json!({"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}),
        ),
        (
            "/spec/securityContext",
            json!({"fsGroupChangePolicy": "OnRootMismatch"}),
        ),
    ] {
        let mut pod = with(at, value);
        defaults::apply("pods", &mut pod);
        let errors = validate::create("pods", &pod);
        let refused: Vec<_> = errors
            .iter()
            .filter(|e| e.message == "Forbidden: not implemented by this version of Joey")
            .collect();
        assert!(
            !refused.is_empty() && errors.len() == refused.len(),
            "{at}: {}",
            lines(errors)
        );
        let field = at
            .trim_start_matches('/')
            .replace("/0", "[0]")
            .replace('/', ".");
        assert!(
            refused.iter().all(|e| e.field.starts_with(&field)),
            "{at}: {refused:?}"
        );
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
        (
            "/spec/containers/0/securityContext/procMount",
            json!("Default"),
        ),
        (
            "/spec/securityContext",
            json!({"fsGroupChangePolicy": "Always"}),
        ),
    ] {
        check(at, value, expect![[r#""#]]);
    }
}

#[test]
fn a_running_pod_changes_only_in_images_deadline_and_tolerations() {
    check_update(
        |pod| set(pod, "/spec/containers/0/image", json!("nginx:2")),
        expect![[r#""#]],
    );
    check_update(
        |pod| set(pod, "/spec/activeDeadlineSeconds", json!(5)),
        expect![[r#""#]],
    );
    check_update(
        |pod| set(pod, "/spec/tolerations", json!([{"operator": "Exists"}])),
        expect![[r#""#]],
    );
    check_update(
        |pod| set(pod, "/metadata/labels", json!({"a": "b"})),
        expect![[r#""#]],
    );
    check_update(
        |pod| set(pod, "/spec/containers/0/args", json!([])),
        expect![[r#""#]],
    );
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
    .assert_eq(&update(
        json!({"activeDeadlineSeconds": 5}),
        json!({"activeDeadlineSeconds": 6}),
    ));
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
    expect![[r#""#]].assert_eq(&update(
        json!({"tolerations": [toleration]}),
        json!({"tolerations": [longer]}),
    ));
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
            status.conditions[0].Type: Invalid value: "": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName', or 'my.name', or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            status.nominatedNodeName: Invalid value: "N": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            status.podIPs[0]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)
            status.hostIPs[0].ip: Invalid value: "2.2.2.2": must be equal to `hostIP`"#]],
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

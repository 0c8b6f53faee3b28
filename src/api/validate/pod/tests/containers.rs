//! Parts of containers and volumes.

use super::*;

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
            spec.containers[0].env[0].valueFrom.secretKeyRef.key: Invalid value: "a b": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')
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
            spec.containers[0].resources.requests[memory]: Invalid value: "1x": quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"#]],
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
            spec.containers[0].resources.requests[ephemeral-storage]: Forbidden: not implemented by this version of Joey"#]],
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
            spec.volumes[3].name: Invalid value: "V": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"#]],
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
            spec.securityContext.seccompProfile.type: Required value: type is required when seccompProfile is set"#]],
    );
    check(
        "/spec/containers/0/securityContext",
        json!({"privileged": true, "allowPrivilegeEscalation": false, "seccompProfile": {"type": "Localhost"}, "procMount": "Unmasked"}),
        expect![[r#"
            spec.containers[0].securityContext.procMount: Invalid value: "Unmasked": `hostUsers` must be false to use `Unmasked`
            spec.containers[0].securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost
            spec.containers[0].securityContext: Invalid value: {"privileged":true,"allowPrivilegeEscalation":false,"seccompProfile":{"type":"Localhost"},"procMount":"Unmasked"}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true"#]],
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
fn probes_and_hooks_are_judged_before_they_are_made() {
    check(
        "/spec/containers/0/livenessProbe",
        json!({"successThreshold": 2, "periodSeconds": -1}),
        expect![[r#"
            spec.containers[0].livenessProbe: Required value: must specify a handler type
            spec.containers[0].livenessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0
            spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1"#]],
    );
    check(
        "/spec/containers/0/readinessProbe",
        json!({"httpGet": {"scheme": "ftp", "httpHeaders": [{"name": "a b"}]}, "exec": {"command": []}, "terminationGracePeriodSeconds": 0}),
        expect![[r#"
            spec.containers[0].readinessProbe.exec.command: Required value
            spec.containers[0].readinessProbe.httpGet: Forbidden: may not specify more than 1 handler type
            spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0
            spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 0: must not be set for readinessProbes"#]],
    );
    check(
        "/spec/containers/0/lifecycle",
        json!({"preStop": {"sleep": {"seconds": 31}}, "postStart": {}}),
        expect![[r#"
            spec.containers[0].lifecycle.postStart: Required value: must specify a handler type
            spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)"#]],
    );
    check(
        "/spec/initContainers/0/livenessProbe",
        json!({"tcpSocket": {"port": "x"}}),
        expect![
            "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always"
        ],
    );
}

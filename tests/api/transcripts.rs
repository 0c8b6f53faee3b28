//! Golden transcripts: what every kubectl prints for tables, changes and the commonest mistakes.

use expect_test::{Expect, expect};

use crate::kubectl::Terminal;

/// Runs `script` with every kubectl; they must agree.
pub async fn check(script: &str, expected: Expect) {
    let mut first = None;
    for terminal in Terminal::every().await {
        let transcript = terminal.session(script).await;
        terminal.close().await;
        match &first {
            None => first = Some(transcript),
            Some(first) => assert_eq!(first, &transcript, "two kubectls differ"),
        }
    }
    if let Some(transcript) = first {
        expected.assert_eq(&transcript);
    }
}

#[tokio::test]
async fn mistakes_in_a_manifest_are_told_in_the_words_of_kubernetes() {
    check(
        "$ create -f -
apiVersion: v1
kind: Podd
metadata: {name: x}
$ create -f -
apiVersion: apps/v1
kind: Deployment
metadata: {name: x}
$ create -f -
apiVersion: v1
kind: Pod
metadata: {name: My_Pod}
spec: {containers: [{name: a, image: b}]}
$ create -f -
apiVersion: v1
kind: Pod
metadata: {}
spec: {containers: [{name: a, image: b}]}
$ create -f -
apiVersion: v1
kind: Pod
metadata: {name: x}
spec: {containers: [{name: a, image: b}, {name: a, image: b}]}
$ create -f -
apiVersion: v1
kind: Pod
metadata: {name: x}
spec: {containers: [{name: a, image: b, ports: [{containerPort: \"80\"}]}]}
$ create -f -
apiVersion: v1
kind: Pod
metadata: {name: x}
spec: {containers: [{name: a, image: b, ports: [{containerPort: 0}, {containerPort: 70000}]}]}
$ create -f -
apiVersion: v1
kind: Pod
metadata: {name: x}
spec: {containers: [{name: a, image: b, env: {A: b}}]}
$ create -f -
apiVersion: v1
kind: Pod
metadata: {name: x}
spec: {containers: [{name: a, image: b, env: [{name: A, value: 1}]}]}
$ create -f -
apiVersion: v1
kind: Pod
metadata: {name: x}
spec: {containers: [{name: a, image: b, command: ls}]}
$ create -f -
apiVersion: v1
kind: Pod
metadata: {name: x}
spec: {containers: [{name: a, image: b, imagePullPolicy: Sometimes}]}
$ create -f -
apiVersion: v1
kind: Pod
metadata: {name: x}
spec: {restartPolicy: Maybe, containers: [{name: a, image: b}]}
$ create -f -
apiVersion: v1
kind: Pod
metadata: {name: x}
spec: {containers: [{name: a, image: b, resources: {limits: {cpu: much}}}]}
$ create -f -
apiVersion: v1
kind: Pod
metadata: {name: x}
spec: {containers: [{name: a, image: b, resources: {requests: {cpu: 2}, limits: {cpu: 1}}}]}
$ create -f -
apiVersion: v1
kind: Pod
metadata: {name: x}
spec: {containers: [{name: a, image: b, volumeMounts: [{name: v, mountPath: /x}]}]}
$ create -f -
apiVersion: v1
kind: Pod
metadata: {name: x}
spec: {serviceAccountName: nobody, containers: [{name: a, image: b}]}
$ create -f -
apiVersion: v1
kind: Pod
metadata: {name: x, labels: {a: \"b c\"}}
spec: {containers: [{name: a, image: b}]}
$ create -f -
apiVersion: v1
kind: Pod
metadata: {name: x}
spec: {containers: [{name: a, imagee: b}], restartpolicy: Never}
$ create --validate=warn -f -
apiVersion: v1
kind: Pod
metadata: {name: x}
spec: {containers: [{name: a, imagee: b}]}
$ create -f -
apiVersion: v1
kind: Secret
metadata: {name: x}
data: {a: \"plain text\"}
$ create -f -
apiVersion: v1
kind: ConfigMap
metadata: {name: x}
data: {port: 80, a/b: c}
$ create -f -
apiVersion: v1
kind: Namespace
metadata: {name: a.b}
$ create -n nowhere -f -
apiVersion: v1
kind: ConfigMap
metadata: {name: x}
$ create -n other -f -
apiVersion: v1
kind: ConfigMap
metadata: {name: x, namespace: default}
",
        expect![[r#"
            $ create -f -
            error: resource mapping not found for name: "x" namespace: "" from "STDIN": no matches for kind "Podd" in version "v1"
            ensure CRDs are installed first
            $ create -f -
            The Deployment "x" is invalid:
            * spec.selector: Required value
            * spec.template.metadata.labels: Invalid value: {}: `selector` does not match template `labels`
            * spec.template.spec.containers: Required value
            $ create -f -
            The Pod "My_Pod" is invalid: metadata.name: Invalid value: "My_Pod": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            $ create -f -
            The Pod "" is invalid: metadata.name: Required value: name or generateName is required
            $ create -f -
            The Pod "x" is invalid: spec.containers[1].name: Duplicate value: "a"
            $ create -f -
            Error from server (BadRequest): error when creating "STDIN": Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal string into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32
            $ create -f -
            The Pod "x" is invalid:
            * spec.containers[0].ports[0].containerPort: Required value
            * spec.containers[0].ports[1].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive
            $ create -f -
            Error from server (BadRequest): error when creating "STDIN": Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal object into Go struct field Container.spec.containers.env of type []v1.EnvVar
            $ create -f -
            Error from server (BadRequest): error when creating "STDIN": Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value of type string
            $ create -f -
            Error from server (BadRequest): error when creating "STDIN": Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal string into Go struct field Container.spec.containers.command of type []string
            $ create -f -
            The Pod "x" is invalid: spec.containers[0].imagePullPolicy: Unsupported value: "Sometimes": supported values: "Always", "IfNotPresent", "Never"
            $ create -f -
            The Pod "x" is invalid: spec.restartPolicy: Unsupported value: "Maybe": supported values: "Always", "OnFailure", "Never"
            $ create -f -
            Error from server (BadRequest): error when creating "STDIN": Pod in version "v1" cannot be handled as a Pod: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'
            $ create -f -
            The Pod "x" is invalid: spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1
            $ create -f -
            The Pod "x" is invalid: spec.containers[0].volumeMounts[0].name: Not found: "v"
            $ create -f -
            Error from server (Forbidden): error when creating "STDIN": pods "x" is forbidden: error looking up service account default/nobody: serviceaccount "nobody" not found
            $ create -f -
            The Pod "x" is invalid: metadata.labels: Invalid value: "b c": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue', or 'my_value', or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')
            $ create -f -
            Error from server (BadRequest): error when creating "STDIN": Pod in version "v1" cannot be handled as a Pod: strict decoding error: unknown field "spec.containers[0].imagee", unknown field "spec.restartpolicy"
            $ create --validate=warn -f -
            Warning: unknown field "spec.containers[0].imagee"
            The Pod "x" is invalid: spec.containers[0].image: Required value
            $ create -f -
            Error from server (BadRequest): error when creating "STDIN": Secret in version "v1" cannot be handled as a Secret: illegal base64 data at input byte 5
            $ create -f -
            Error from server (BadRequest): error when creating "STDIN": ConfigMap in version "v1" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field ConfigMap.data of type string
            $ create -f -
            The Namespace "a.b" is invalid: metadata.name: Invalid value: "a.b": must not contain dots
            $ create -n nowhere -f -
            Error from server (NotFound): error when creating "STDIN": namespaces "nowhere" not found
            $ create -n other -f -
            error: the namespace from the provided object "default" does not match the namespace "other". You must pass '--namespace=default' to perform this operation.
        "#]],
    )
    .await;
}

#[tokio::test]
async fn changes_and_refused_changes() {
    check(
        "$ create configmap c --from-literal=a=1
$ create configmap c --from-literal=a=1
$ patch configmap c -p {\"data\":{\"b\":2}}
$ patch configmap c -p {\"dat\":{}}
$ patch configmap c --type=json -p [{\"op\":\"test\",\"path\":\"/data/a\",\"value\":\"2\"}]
$ patch configmap c --type=json -p {}
$ patch configmap c --type=merge -p {\"metadata\":{\"resourceVersion\":\"1\"}}
$ patch configmap c --type=merge -p {\"immutable\":true}
$ patch configmap c --type=merge -p {\"data\":{\"a\":\"2\"}}
$ label configmap c app=x
$ label configmap c app=y
$ label configmap c bad/key/twice=1
$ annotate configmap c note=1 --overwrite
$ replace -f -
apiVersion: v1
kind: ConfigMap
metadata: {name: missing}
$ replace --force -f -
apiVersion: v1
kind: ConfigMap
metadata: {name: c}
data: {z: new}
$ get configmap c -o jsonpath={.data}{.metadata.labels}
$ apply --dry-run=server -f -
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: one}}
- {apiVersion: v1, kind: Secret, metadata: {name: two}, stringData: {a: b}}
$ get configmaps one
$ get configmaps --field-selector spec.x=1
$ get configmaps -l a=(
$ get configmaps --sort-by=.metadata.name -L app
$ delete configmap c
$ delete configmap c
$ delete configmap c --ignore-not-found
$ wait --for=delete configmap/kube-root-ca.crt --timeout=1s
$ create token nobody
$ create token default --duration=1m
$ --as=jo get configmaps
$ --as=jo get --raw /metrics
$ auth can-i get pods --as=system:serviceaccount:kube-system:x
$ auth whoami
$ get nosuch
$ explain pod.spec.nosuch
",
        expect![[r#"
            $ create configmap c --from-literal=a=1
            configmap/c created
            $ create configmap c --from-literal=a=1
            error: failed to create configmap: configmaps "c" already exists
            $ patch configmap c -p {"data":{"b":2}}
            The request is invalid: patch: Invalid value: "map[data:map[b:2]]": json: cannot unmarshal number into Go struct field ConfigMap.data of type string
            $ patch configmap c -p {"dat":{}}
            configmap/c patched (no change)
            Warning: unknown field "dat"
            $ patch configmap c --type=json -p [{"op":"test","path":"/data/a","value":"2"}]
            The request is invalid: the server rejected our request due to an error in our request
            $ patch configmap c --type=json -p {}
            Error from server (BadRequest): json: cannot unmarshal object into Go value of type jsonpatch.Patch
            $ patch configmap c --type=merge -p {"metadata":{"resourceVersion":"1"}}
            Error from server (Conflict): Operation cannot be fulfilled on configmaps "c": the object has been modified; please apply your changes to the latest version and try again
            $ patch configmap c --type=merge -p {"immutable":true}
            configmap/c patched
            $ patch configmap c --type=merge -p {"data":{"a":"2"}}
            The ConfigMap "c" is invalid: data: Forbidden: field is immutable when `immutable` is set
            $ label configmap c app=x
            configmap/c labeled
            $ label configmap c app=y
            error: 'app' already has a value (x), and --overwrite is false
            $ label configmap c bad/key/twice=1
            The ConfigMap "c" is invalid: metadata.labels: Invalid value: "bad/key/twice": a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName', or 'my.name', or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')
            $ annotate configmap c note=1 --overwrite
            configmap/c annotated
            $ replace -f -
            Error from server (NotFound): error when replacing "STDIN": configmaps "missing" not found
            $ replace --force -f -
            configmap "c" deleted
            configmap/c replaced
            $ get configmap c -o jsonpath={.data}{.metadata.labels}
            {"z":"new"}
            $ apply --dry-run=server -f -
            configmap/one created (server dry run)
            secret/two created (server dry run)
            $ get configmaps one
            Error from server (NotFound): configmaps "one" not found
            $ get configmaps --field-selector spec.x=1
            Error from server (BadRequest): Unable to find "/v1, Resource=configmaps" that match label selector "", field selector "spec.x=1": field label not supported: spec.x
            $ get configmaps -l a=(
            Error from server (BadRequest): Unable to find "/v1, Resource=configmaps" that match label selector "a=(", field selector "": unable to parse requirement: found '(', expected: identifier
            $ get configmaps --sort-by=.metadata.name -L app
            NAME DATA AGE APP
            c 1 AGE
            kube-root-ca.crt 1 AGE
            $ delete configmap c
            configmap "c" deleted
            $ delete configmap c
            Error from server (NotFound): configmaps "c" not found
            $ delete configmap c --ignore-not-found
            $ wait --for=delete configmap/kube-root-ca.crt --timeout=1s
            error: timed out waiting for the condition on configmaps/kube-root-ca.crt
            $ create token nobody
            error: failed to create token: serviceaccounts "nobody" not found
            $ create token default --duration=1m
            error: failed to create token: TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: 60: may not specify a duration less than 10 minutes
            $ --as=jo get configmaps
            Error from server (Forbidden): configmaps is forbidden: User "jo" cannot list resource "configmaps" in API group "" in the namespace "default"
            $ --as=jo get --raw /metrics
            Error from server (Forbidden): forbidden: User "jo" cannot get path "/metrics"
            $ auth can-i get pods --as=system:serviceaccount:kube-system:x
            yes
            $ auth whoami
            ATTRIBUTE VALUE
            Username kubernetes-admin
            Groups [system:masters system:authenticated]
            $ get nosuch
            error: the server doesn't have a resource type "nosuch"
            $ explain pod.spec.nosuch
            KIND: Pod
            VERSION: v1
            error: field "nosuch" does not exist
        "#]],
    )
    .await;
}

#[tokio::test]
async fn tables_are_those_of_kubernetes() {
    check(
        "$ create -f -
apiVersion: v1
kind: Node
metadata: {name: node-1, labels: {node-role.kubernetes.io/worker: \"\"}}
spec: {unschedulable: true}
$ patch node node-1 --subresource=status --type=merge -p {\"status\":{\"conditions\":[{\"type\":\"Ready\",\"status\":\"True\"}],\"addresses\":[{\"type\":\"InternalIP\",\"address\":\"10.0.0.1\"}],\"nodeInfo\":{\"kubeletVersion\":\"v1.36.0\",\"osImage\":\"Debian\",\"kernelVersion\":\"6.1\",\"containerRuntimeVersion\":\"joey://1\"}}}
$ get nodes -o wide
$ create -f -
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {app: web}}
spec: {nodeName: node-1, containers: [{name: a, image: x:1}, {name: b, image: y:2}]}
$ patch pod p --subresource=status --type=merge -p {\"status\":{\"phase\":\"Running\",\"podIP\":\"10.0.0.7\",\"podIPs\":[{\"ip\":\"10.0.0.7\"}],\"containerStatuses\":[{\"name\":\"a\",\"image\":\"x:1\",\"imageID\":\"\",\"ready\":true,\"restartCount\":2,\"state\":{\"running\":{}}},{\"name\":\"b\",\"image\":\"y:2\",\"imageID\":\"\",\"ready\":false,\"restartCount\":0,\"state\":{\"waiting\":{\"reason\":\"ImagePullBackOff\"}}}]}}
$ get pods -o wide --show-labels
$ get pods -A
$ get pod p --subresource=status
$ delete pod p --wait=false
$ get pods
$ create -f -
apiVersion: v1
kind: Event
metadata: {name: e, namespace: default}
involvedObject: {kind: Pod, name: p, namespace: default, fieldPath: \"spec.containers{a}\"}
reason: BackOff
message: Back-off pulling image
type: Warning
count: 3
source: {component: joey, host: node-1}
$ get events -o wide
$ create secret generic s --from-literal=a=1
$ get secrets,serviceaccounts,configmaps
$ get namespaces
$ create -f -
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: l, namespace: default}
spec: {holderIdentity: me}
$ get leases
$ get pods,configmaps -n kube-public
$ api-resources --no-headers=true -o name
",
        expect![[r#"
            $ create -f -
            node/node-1 created
            $ patch node node-1 --subresource=status --type=merge -p {"status":{"conditions":[{"type":"Ready","status":"True"}],"addresses":[{"type":"InternalIP","address":"10.0.0.1"}],"nodeInfo":{"kubeletVersion":"v1.36.0","osImage":"Debian","kernelVersion":"6.1","containerRuntimeVersion":"joey://1"}}}
            node/node-1 patched
            $ get nodes -o wide
            NAME STATUS ROLES AGE VERSION INTERNAL-IP EXTERNAL-IP OS-IMAGE KERNEL-VERSION CONTAINER-RUNTIME
            node-1 Ready,SchedulingDisabled worker AGE v1.36.0 10.0.0.1 <none> Debian 6.1 joey://1
            $ create -f -
            pod/p created
            $ patch pod p --subresource=status --type=merge -p {"status":{"phase":"Running","podIP":"10.0.0.7","podIPs":[{"ip":"10.0.0.7"}],"containerStatuses":[{"name":"a","image":"x:1","imageID":"","ready":true,"restartCount":2,"state":{"running":{}}},{"name":"b","image":"y:2","imageID":"","ready":false,"restartCount":0,"state":{"waiting":{"reason":"ImagePullBackOff"}}}]}}
            pod/p patched
            $ get pods -o wide --show-labels
            NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES LABELS
            p 1/2 ImagePullBackOff 2 AGE 10.0.0.7 node-1 <none> <none> app=web
            $ get pods -A
            NAMESPACE NAME READY STATUS RESTARTS AGE
            default p 1/2 ImagePullBackOff 2 AGE
            $ get pod p --subresource=status
            NAME READY STATUS RESTARTS AGE
            p 1/2 ImagePullBackOff 2 AGE
            $ delete pod p --wait=false
            pod "p" deleted
            $ get pods
            NAME READY STATUS RESTARTS AGE
            p 1/2 Terminating 2 AGE
            $ create -f -
            event/e created
            $ get events -o wide
            LAST SEEN TYPE REASON OBJECT SUBOBJECT SOURCE MESSAGE FIRST SEEN COUNT NAME
            <unknown> Warning BackOff pod/p spec.containers{a} joey, node-1 Back-off pulling image <unknown> 3 e
            $ create secret generic s --from-literal=a=1
            secret/s created
            $ get secrets,serviceaccounts,configmaps
            NAME TYPE DATA AGE
            secret/s Opaque 1 AGE
            NAME SECRETS AGE
            serviceaccount/default 0 AGE
            NAME DATA AGE
            configmap/kube-root-ca.crt 1 AGE
            $ get namespaces
            NAME STATUS AGE
            default Active AGE
            kube-node-lease Active AGE
            kube-public Active AGE
            kube-system Active AGE
            $ create -f -
            lease.coordination.k8s.io/l created
            $ get leases
            NAME HOLDER AGE
            l me AGE
            $ get pods,configmaps -n kube-public
            NAME DATA AGE
            configmap/kube-root-ca.crt 1 AGE
            $ api-resources --no-headers=true -o name
            configmaps
            endpoints
            events
            namespaces
            nodes
            pods
            secrets
            serviceaccounts
            services
            deployments.apps
            replicasets.apps
            selfsubjectreviews.authentication.k8s.io
            selfsubjectaccessreviews.authorization.k8s.io
            selfsubjectrulesreviews.authorization.k8s.io
            horizontalpodautoscalers.autoscaling
            leases.coordination.k8s.io
            endpointslices.discovery.k8s.io
            events.events.k8s.io
            nodes.metrics.k8s.io
            pods.metrics.k8s.io
            ingressclasses.networking.k8s.io
            ingresses.networking.k8s.io
            networkpolicies.networking.k8s.io
        "#]],
    )
    .await;
}

//! Deployments and ReplicaSets without their controllers: what is accepted, shown, scaled and refused.

use expect_test::expect;
use serde_json::{Value, json};

use crate::harness::cluster;
use crate::transcripts::check;

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "a", "image": "x:1"}]},
            },
        },
    })
}

#[tokio::test]
async fn a_scale_shows_and_changes_the_replicas_alone() {
    let cluster = cluster().await;
    let made = cluster.post(DEPLOYMENTS, deployment("web")).await.json();
    let path = format!("{DEPLOYMENTS}/web/scale");
    let shown = cluster.get(&path).await.json();
    assert_eq!(shown["apiVersion"], "autoscaling/v1");
    assert_eq!(shown["spec"], json!({"replicas": 3}));
    assert_eq!(shown["status"], json!({"replicas": 0, "selector": "app=web"}));
    assert_eq!(shown["metadata"]["uid"], made["metadata"]["uid"]);

    let scaled = cluster.merge(&path, json!({"spec": {"replicas": 5}})).await.json();
    assert_eq!(scaled["spec"]["replicas"], 5);
    let now = cluster.get(&format!("{DEPLOYMENTS}/web")).await.json();
    assert_eq!((&now["spec"]["replicas"], &now["metadata"]["generation"]), (&5.into(), &2.into()));

    let stale = cluster.put(&path, shown.clone()).await;
    assert_eq!(stale.code, 409, "{}", stale.text);
    let mut fresh = scaled;
    fresh["spec"] = json!({});
    assert_eq!(cluster.put(&path, fresh).await.json()["spec"], json!({}));
    assert_eq!(cluster.get(&format!("{DEPLOYMENTS}/web")).await.json()["spec"]["replicas"], 0);

    let (code, message) = cluster.merge(&path, json!({"spec": {"replicas": -1}})).await.refusal();
    assert_eq!(code, 422);
    assert_eq!(
        message,
        r#"Scale.autoscaling "web" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0"#
    );
    assert_eq!(cluster.get(&format!("{DEPLOYMENTS}/nosuch/scale")).await.code, 404);
    let dry = cluster.merge(&format!("{path}?dryRun=All"), json!({"spec": {"replicas": 9}})).await;
    assert_eq!(dry.json()["spec"]["replicas"], 9);
    assert_eq!(cluster.get(&path).await.json()["spec"], json!({}));
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let cluster = cluster().await;
    let mut sent = deployment("web");
    sent["status"] = json!({"replicas": 7});
    let made = cluster.post(DEPLOYMENTS, sent).await.json();
    assert_eq!(made["status"]["replicas"], Value::Null, "a client's status is not believed");
    let path = format!("{DEPLOYMENTS}/web/status");
    let status = json!({"status": {"replicas": 3, "readyReplicas": 1}, "spec": {"replicas": 9}});
    let written = cluster.merge(&path, status).await.json();
    assert_eq!(written["status"]["readyReplicas"], 1);
    assert_eq!(written["spec"]["replicas"], 3);
    assert_eq!(written["metadata"]["generation"], 1);
    let wrong = json!({"status": {"readyReplicas": 4, "availableReplicas": 5}});
    let (_, message) = cluster.merge(&path, wrong).await.refusal();
    expect![[r#"Deployment.apps "web" is invalid: [status.readyReplicas: Invalid value: 4: cannot be greater than status.replicas, status.availableReplicas: Invalid value: 5: cannot be greater than status.replicas, status.availableReplicas: Invalid value: 5: cannot be greater than readyReplicas]"#]]
        .assert_eq(&message);
}

/// The story's own manifest: the labels of the Deployment are not those it selects.
const STORY: &str = "apiVersion: apps/v1
kind: Deployment
metadata:
  name: kangaroo-backend-deployment
  labels:
    app: kangaroo-backend
spec:
  replicas: 3
  selector:
    matchLabels:
      app: kangaroo
      role: backend
  template:
    metadata:
      labels:
        app: kangaroo
        role: backend
    spec:
      containers:
      - name: kangaroo-backend
        image: kangaroo-backend:1.14.2
        ports:
        - containerPort: 80
";

#[tokio::test]
async fn a_deployment_is_applied_scaled_changed_and_deleted() {
    let newer = STORY.replace("1.14.2", "1.15");
    let script = format!(
        "$ apply -f -
{STORY}$ apply -f -
{STORY}$ diff -f -
{newer}$ apply -f -
{newer}$ get deployment kangaroo-backend-deployment -o wide
$ get deploy -o jsonpath={{.items[0].spec.strategy}}{{.items[0].spec.revisionHistoryLimit}}
$ scale deployment kangaroo-backend-deployment --replicas=5
$ scale deployment kangaroo-backend-deployment --current-replicas=5 --replicas=4
$ scale deployment kangaroo-backend-deployment --current-replicas=5 --replicas=3
$ get deploy kangaroo-backend-deployment --subresource=scale
$ get deploy kangaroo-backend-deployment --subresource=status
$ set image deployment/kangaroo-backend-deployment kangaroo-backend=kangaroo-backend:1.16
$ set env deployment/kangaroo-backend-deployment A=b
$ set resources deployment/kangaroo-backend-deployment --limits=cpu=200m
$ rollout pause deployment/kangaroo-backend-deployment
$ rollout resume deployment/kangaroo-backend-deployment
$ rollout restart deployment/kangaroo-backend-deployment
$ label deployment kangaroo-backend-deployment tier=back
$ annotate deployment kangaroo-backend-deployment kubernetes.io/change-cause=because
$ patch deployment kangaroo-backend-deployment -p {{\"spec\":{{\"strategy\":{{\"type\":\"Recreate\",\"rollingUpdate\":null}}}}}}
$ get deployment kangaroo-backend-deployment -o jsonpath={{.spec.strategy}}{{.metadata.generation}}
$ get all
$ explain deployment.spec.strategy.type
$ delete deployment kangaroo-backend-deployment --cascade=background
$ get deployments
"
    );
    check(&script, expect![[r#"
        $ apply -f -
        deployment.apps/kangaroo-backend-deployment created
        $ apply -f -
        deployment.apps/kangaroo-backend-deployment unchanged
        $ diff -f -
        @@ -5,7 +5,7 @@
        kubectl.kubernetes.io/last-applied-configuration: |
        {"apiVersion":"apps/v1","kind":"Deployment","metadata":{"annotations":{},"labels":{"app":"kangaroo-backend"},"name":"kangaroo-backend-deployment","namespace":"default"},"spec":{"replicas":3,"selector":{"matchLabels":{"app":"kangaroo","role":"backend"}},"template":{"metadata":{"labels":{"app":"kangaroo","role":"backend"}},"spec":{"containers":[{"image":"kangaroo-backend:1.14.2","name":"kangaroo-backend","ports":[{"containerPort":80}]}]}}}}
        - generation: 1
        + generation: 2
        labels:
        app: kangaroo-backend
        name: kangaroo-backend-deployment
        @@ -32,7 +32,7 @@
        role: backend
        spec:
        containers:
        - - image: kangaroo-backend:1.14.2
        + - image: kangaroo-backend:1.15
        imagePullPolicy: IfNotPresent
        name: kangaroo-backend
        ports:
        $ apply -f -
        deployment.apps/kangaroo-backend-deployment configured
        $ get deployment kangaroo-backend-deployment -o wide
        NAME READY UP-TO-DATE AVAILABLE AGE CONTAINERS IMAGES SELECTOR
        kangaroo-backend-deployment 0/3 0 0 AGE kangaroo-backend kangaroo-backend:1.15 app=kangaroo,role=backend
        $ get deploy -o jsonpath={.items[0].spec.strategy}{.items[0].spec.revisionHistoryLimit}
        {"rollingUpdate":{"maxSurge":"25%","maxUnavailable":"25%"},"type":"RollingUpdate"}10
        $ scale deployment kangaroo-backend-deployment --replicas=5
        deployment.apps/kangaroo-backend-deployment scaled
        $ scale deployment kangaroo-backend-deployment --current-replicas=5 --replicas=4
        deployment.apps/kangaroo-backend-deployment scaled
        $ scale deployment kangaroo-backend-deployment --current-replicas=5 --replicas=3
        error: Expected replicas to be 5, was 4
        $ get deploy kangaroo-backend-deployment --subresource=scale
        NAME DESIRED AVAILABLE AGE
        kangaroo-backend-deployment 4 0 AGE
        $ get deploy kangaroo-backend-deployment --subresource=status
        NAME READY UP-TO-DATE AVAILABLE AGE
        kangaroo-backend-deployment 0/4 0 0 AGE
        $ set image deployment/kangaroo-backend-deployment kangaroo-backend=kangaroo-backend:1.16
        deployment.apps/kangaroo-backend-deployment image updated
        $ set env deployment/kangaroo-backend-deployment A=b
        deployment.apps/kangaroo-backend-deployment env updated
        $ set resources deployment/kangaroo-backend-deployment --limits=cpu=200m
        deployment.apps/kangaroo-backend-deployment resource requirements updated
        $ rollout pause deployment/kangaroo-backend-deployment
        deployment.apps/kangaroo-backend-deployment paused
        $ rollout resume deployment/kangaroo-backend-deployment
        deployment.apps/kangaroo-backend-deployment resumed
        $ rollout restart deployment/kangaroo-backend-deployment
        deployment.apps/kangaroo-backend-deployment restarted
        $ label deployment kangaroo-backend-deployment tier=back
        deployment.apps/kangaroo-backend-deployment labeled
        $ annotate deployment kangaroo-backend-deployment kubernetes.io/change-cause=because
        deployment.apps/kangaroo-backend-deployment annotated
        $ patch deployment kangaroo-backend-deployment -p {"spec":{"strategy":{"type":"Recreate","rollingUpdate":null}}}
        deployment.apps/kangaroo-backend-deployment patched
        $ get deployment kangaroo-backend-deployment -o jsonpath={.spec.strategy}{.metadata.generation}
        {"type":"Recreate"}11
        $ get all
        NAME READY UP-TO-DATE AVAILABLE AGE
        deployment.apps/kangaroo-backend-deployment 0/4 0 0 AGE
        $ explain deployment.spec.strategy.type
        GROUP: apps
        KIND: Deployment
        VERSION: v1
        FIELD: type <string>
        ENUM:
        Recreate
        RollingUpdate
        DESCRIPTION:
        Type of deployment. Can be "Recreate" or "RollingUpdate". Default is
        RollingUpdate.

        $ delete deployment kangaroo-backend-deployment --cascade=background
        deployment.apps "kangaroo-backend-deployment" deleted
        $ get deployments
        No resources found in default namespace.
    "#]]).await;
}

#[tokio::test]
async fn mistakes_in_a_deployment_are_told_in_the_words_of_kubernetes() {
    let with = |from: &str, to: &str| STORY.replace(from, to);
    let cases = [
        ("create", with("      app: kangaroo\n      role: backend\n", "      app: wallaby\n")),
        (
            "create",
            with("    matchLabels:\n      app: kangaroo\n      role: backend\n", "    {}\n"),
        ),
        (
            "create",
            with("  selector:\n    matchLabels:\n      app: kangaroo\n      role: backend\n", ""),
        ),
        ("create", with("replicas: 3", "replicas: -3")),
        ("create", with("replicas: 3", "replicas: \"3\"")),
        ("create", with("replicas: 3", "minReadySeconds: 600")),
        ("create", with("replicas: 3", "strategy: {type: Recreate, rollingUpdate: {maxSurge: 1}}")),
        ("create", with("replicas: 3", "strategy: {type: Blue}")),
        (
            "create",
            with("replicas: 3", "strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 0%}}"),
        ),
        (
            "create",
            with(
                "replicas: 3",
                "strategy: {rollingUpdate: {maxSurge: a lot, maxUnavailable: 101%}}",
            ),
        ),
        (
            "create",
            with(
                "    spec:\n",
                "    spec:\n      restartPolicy: Never\n      activeDeadlineSeconds: 5\n",
            ),
        ),
        ("create", with("        image: kangaroo-backend:1.14.2\n", "")),
        (
            "create",
            with(
                "        image:",
                "        volumeDevices: [{name: a, devicePath: /dev/a}]\n        image:",
            ),
        ),
        (
            "create",
            with(
                "      app: kangaroo\n      role: backend\n  template",
                "      app: kangaroo\n    matchExpressions: [{key: role, operator: Equals, values: [backend]}, {key: x, operator: In}]\n  template",
            ),
        ),
        ("apply", STORY.to_owned()),
        ("apply", with("role: backend", "role: back")),
    ];
    let script: String =
        cases.iter().map(|(verb, manifest)| format!("$ {verb} -f -\n{manifest}")).collect();
    check(&script, expect![[r#"
        $ create -f -
        The Deployment "kangaroo-backend-deployment" is invalid: spec.template.metadata.labels: Invalid value: {"app":"kangaroo","role":"backend"}: `selector` does not match template `labels`
        $ create -f -
        The Deployment "kangaroo-backend-deployment" is invalid: spec.selector: Invalid value: {}: empty selector is invalid for deployment
        $ create -f -
        The Deployment "kangaroo-backend-deployment" is invalid:
        * spec.selector: Required value
        * spec.template.metadata.labels: Invalid value: {"app":"kangaroo","role":"backend"}: `selector` does not match template `labels`
        $ create -f -
        The Deployment "kangaroo-backend-deployment" is invalid: spec.replicas: Invalid value: -3: must be greater than or equal to 0
        $ create -f -
        Error from server (BadRequest): error when creating "STDIN": Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32
        $ create -f -
        The Deployment "kangaroo-backend-deployment" is invalid: spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds
        $ create -f -
        The Deployment "kangaroo-backend-deployment" is invalid: spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'
        $ create -f -
        The Deployment "kangaroo-backend-deployment" is invalid: spec.strategy: Unsupported value: {"type":"Blue"}: supported values: "Recreate", "RollingUpdate"
        $ create -f -
        The Deployment "kangaroo-backend-deployment" is invalid: spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "0%": may not be 0 when `maxSurge` is 0
        $ create -f -
        The Deployment "kangaroo-backend-deployment" is invalid:
        * spec.strategy.rollingUpdate.maxSurge: Invalid value: "a lot": a valid percent string must be a numeric value followed by an ending '%' (e.g. '1%', or '93%', regex used for validation is '[0-9]+%')
        * spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "101%": must not be greater than 100%
        $ create -f -
        The Deployment "kangaroo-backend-deployment" is invalid:
        * spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"
        * spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported
        $ create -f -
        The Deployment "kangaroo-backend-deployment" is invalid: spec.template.spec.containers[0].image: Required value
        $ create -f -
        The Deployment "kangaroo-backend-deployment" is invalid:
        * spec.template.spec.containers[0].volumeDevices[0].name: Not found: "a"
        * spec.template.spec.containers[0].volumeDevices: Forbidden: not implemented by this version of Joey
        $ create -f -
        The Deployment "kangaroo-backend-deployment" is invalid:
        * spec.selector.matchExpressions[0].operator: Invalid value: "Equals": not a valid selector operator
        * spec.selector.matchExpressions[1].values: Required value: must be specified when `operator` is 'In' or 'NotIn'
        * spec.selector: Invalid value: {"matchExpressions":[{"key":"role","operator":"Equals","values":["backend"]},{"key":"x","operator":"In"}],"matchLabels":{"app":"kangaroo"}}: invalid label selector
        $ apply -f -
        deployment.apps/kangaroo-backend-deployment created
        $ apply -f -
        The Deployment "kangaroo-backend-deployment" is invalid: spec.selector: Invalid value: {"matchLabels":{"app":"kangaroo","role":"back"}}: field is immutable
    "#]]).await;
}

//! "I never want to have downtime", "I can't handle the traffic" and "I want to deploy a new version".

use std::collections::BTreeSet;

use crate::cluster::{Cluster, kubectls};
use crate::service::SERVICE;

/// As the story has it, word for word: the Deployment's own labels are not those it selects.
pub const DEPLOYMENT: &str = "
# Standard Kubernetes fields for all resources: apiVersion, kind, metadata, spec
apiVersion: apps/v1
kind: Deployment
metadata:
  name: kangaroo-backend-deployment
  labels:
    app: kangaroo-backend

# The `spec` is where the Deployment-specific stuff is defined
spec:
  replicas: 3

  # The `selector` defines which pods will get managed by this deployment.
  # We tell Kubernetes to replicate the pod matching the label `app: kangaroo`
  selector:
    matchLabels:
      app: kangaroo
      role: backend

  # The `template` defines a pod which will get managed by this deployment.
  template:
    metadata:
      # Make sure the pod's labels match the labels the deployment is selecting (see above)
      labels:
        app: kangaroo
        role: backend
    # The Pod has its own spec, inside the spec of the Deployment. 
    # This spec defines what containers the Pod should run.
    spec:
      containers:
      - name: kangaroo-backend
        image: kangaroo-backend:1.14.2
        ports:
        - containerPort: 80
";

pub const NAME: &str = "deployment/kangaroo-backend-deployment";
pub const SELECTOR: &str = "app=kangaroo,role=backend";

/// Names of the replicas that are not being stopped.
fn pods(cluster: &Cluster, namespace: &str) -> BTreeSet<String> {
    let path =
        "jsonpath={range .items[*]}{.metadata.name} {.metadata.deletionTimestamp}{\"\\n\"}{end}";
    let args = ["get", "pods", "-n", namespace, "-l", SELECTOR, "-o", path];
    let lines = cluster.kubectl(&args).ok();
    let words = lines.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    words.filter(|words| words.len() == 1).map(|words| words[0].to_owned()).collect()
}

/// What every replica answers.
fn answers(cluster: &Cluster) -> Vec<String> {
    pods(cluster, "default")
        .iter()
        .map(|pod| {
            let address = cluster.value(&format!("pod/{pod}"), "{.status.podIP}");
            cluster.fetch(&format!("http://{address}/")).ok()
        })
        .collect()
}

pub fn roll_out(cluster: &Cluster) {
    let status = cluster.kubectl(&["rollout", "status", NAME, "--timeout=120s"]).ok();
    assert!(status.contains("successfully rolled out"), "{status}");
}

fn available(cluster: &Cluster) -> String {
    cluster.value(NAME, "{.status.availableReplicas}")
}

/// The same with each, on one cluster, which has no Deployment before and after.
fn with_every_kubectl(name: &str, story: impl Fn(&mut Cluster)) {
    let mut cluster = Cluster::start(name);
    for kubectl in kubectls() {
        cluster.use_kubectl(&kubectl);
        story(&mut cluster);
        let args = ["delete", NAME, "--ignore-not-found", "--cascade=foreground"];
        cluster.kubectl(&args).ok();
    }
    cluster.finish();
}

#[test]
fn the_storys_deployment_heals_with_every_kubectl() {
    let mut cluster = Cluster::start("heals");
    for kubectl in kubectls() {
        cluster.use_kubectl(&kubectl);
        let created = cluster.apply(DEPLOYMENT).ok();
        assert_eq!(created.trim(), "deployment.apps/kangaroo-backend-deployment created");
        roll_out(&cluster);
        assert!(cluster.apply(DEPLOYMENT).ok().contains("unchanged"));
        let before = pods(&cluster, "default");
        assert_eq!(before.len(), 3);
        for answer in answers(&cluster) {
            assert!(answer.contains("1.14.2"), "{answer}");
        }
        // It does not make the pods itself.
        let sets = cluster.kubectl(&["get", "replicasets", "-o", "name"]).ok();
        assert_eq!(sets.lines().count(), 1, "{sets}");
        let owner = "{.metadata.ownerReferences[0].kind}/{.metadata.ownerReferences[0].name}";
        assert_eq!(cluster.value(sets.trim(), owner), "Deployment/kangaroo-backend-deployment");
        let first = before.first().unwrap();
        let set = cluster.value(&format!("pod/{first}"), "{.metadata.ownerReferences[0].name}");
        assert!(sets.contains(&set), "{set} is not in {sets}");

        // One that is taken away is replaced; the others are not touched.
        cluster.kubectl(&["delete", "pod", first, "--wait=false"]).ok();
        cluster.wait_for("a third pod is back", |cluster| {
            let now = pods(cluster, "default");
            now.len() == 3 && !now.contains(first) && available(cluster) == "3"
        });
        assert_eq!(before.intersection(&pods(&cluster, "default")).count(), 2);
        let described = cluster.kubectl(&["describe", NAME]).ok();
        for expected in
            ["ScalingReplicaSet", "3 desired", "MinimumReplicasAvailable", "NewReplicaSetAvailable"]
        {
            assert!(described.contains(expected), "no {expected:?} in\n{described}");
        }
        // Deleting and creating again works too, with nobody left of the first and nobody of it taken over.
        let before = pods(&cluster, "default");
        std::fs::write(cluster.dir.join("deployment.yaml"), DEPLOYMENT).expect("it can be written");
        cluster.kubectl(&["replace", "--force", "-f", "deployment.yaml"]).ok();
        roll_out(&cluster);
        assert!(pods(&cluster, "default").is_disjoint(&before));
        cluster.kubectl(&["delete", NAME]).ok();
        cluster.wait_for("everything it made is collected", |cluster| {
            pods(cluster, "default").is_empty()
                && cluster.kubectl(&["get", "replicasets", "-o", "name"]).ok().is_empty()
        });
    }
    cluster.finish();
}

#[test]
fn more_traffic_is_met_with_more_replicas() {
    with_every_kubectl("scales", |cluster| {
        cluster.apply(DEPLOYMENT).ok();
        roll_out(cluster);
        let first = pods(cluster, "default");
        cluster.apply(&DEPLOYMENT.replace("replicas: 3", "replicas: 5")).ok();
        cluster.wait_for("five serve", |cluster| available(cluster) == "5");
        assert!(pods(cluster, "default").is_superset(&first), "nobody was replaced");
        let scaled = cluster.kubectl(&["scale", NAME, "--replicas=2"]).ok();
        assert!(scaled.contains("scaled"), "{scaled}");
        cluster.wait_for("two are left", |cluster| {
            pods(cluster, "default").len() == 2 && available(cluster) == "2"
        });
        let scaled = cluster.joey(&["scale", NAME, "--replicas=1"]).ok();
        assert_eq!(scaled.trim(), "deployment.apps/kangaroo-backend-deployment scaled");
        cluster.wait_for("one is left", |cluster| pods(cluster, "default").len() == 1);
    });
}

#[test]
fn a_new_version_rolls_and_a_bad_one_leaves_the_old_pods_serving() {
    with_every_kubectl("rolls", |cluster| {
        cluster.apply(DEPLOYMENT).ok();
        roll_out(cluster);
        cluster.kubectl(&["set", "image", NAME, "kangaroo-backend=kangaroo-backend:1.15"]).ok();
        roll_out(cluster);
        assert!(answers(cluster).iter().all(|answer| answer.contains("1.15")));
        cluster.apply(&DEPLOYMENT.replace("1.14.2", "1.16")).ok();
        roll_out(cluster);
        let because = "kubernetes.io/change-cause=kangaroos jump further";
        cluster.kubectl(&["annotate", NAME, because]).ok();
        let served = pods(cluster, "default");
        assert!(answers(cluster).iter().all(|answer| answer.contains("1.16")));

        let mut edit = cluster.kubectl_command();
        edit.args(["edit", NAME])
            .env("KUBE_EDITOR", "sed -i s/kangaroo-backend:1.16/kangaroo-backend:1.99/");
        assert!(edit.output().expect("kubectl can run").status.success());
        cluster.wait_for("the bad version has got as far as it gets", |cluster| {
            let reason = "{.items[*].status.containerStatuses[*].state.waiting.reason}";
            let args = ["get", "pods", "-l", SELECTOR, "-o", &format!("jsonpath={reason}")];
            cluster.kubectl(&args).ok().contains("ImagePull")
        });
        assert!(pods(cluster, "default").is_superset(&served), "the old pods are left alone");
        assert_eq!(available(cluster), "3");
        let why = cluster.joey(&["why", NAME]);
        assert_eq!(why.code, 1, "{}{}", why.stdout, why.stderr);
        let sentence = why.stdout.lines().next().unwrap_or_default().to_owned();
        for expected in ["1.99", "cannot be had", "3 pods of the version before still serve"] {
            assert!(sentence.contains(expected), "no {expected:?} in {sentence}");
        }

        let because = "kubernetes.io/change-cause=a slip of the pen";
        cluster.kubectl(&["annotate", "--overwrite", NAME, because]).ok();
        cluster.wait_for("the revision has its cause", |cluster| {
            let history = cluster.kubectl(&["rollout", "history", NAME]).ok();
            let causes = ["3 kangaroos jump further", "4 a slip of the pen"];
            let lines: Vec<String> = history
                .lines()
                .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
                .collect();
            causes.iter().all(|cause| lines.iter().any(|line| line == cause))
        });
        let history = cluster.kubectl(&["rollout", "history", NAME]).ok();
        let revisions: Vec<_> =
            history.lines().filter_map(|l| l.split_whitespace().next()).collect();
        assert_eq!(revisions[2..], ["1", "2", "3", "4"], "{history}");
        assert_eq!(cluster.joey(&["rollout", "history", NAME]).ok().trim_end(), history.trim_end());
        cluster.kubectl(&["rollout", "undo", NAME]).ok();
        roll_out(cluster);
        assert_eq!(pods(cluster, "default"), served, "the same pods serve on");
        let sets = cluster.kubectl(&["get", "replicasets", "-o", "name"]).ok();
        assert_eq!(sets.lines().count(), 4, "a rollback makes no new set: {sets}");
        let revision = "{.metadata.annotations.deployment\\.kubernetes\\.io/revision}";
        assert_eq!(cluster.value(NAME, revision), "5");
        let cause = "{.metadata.annotations.kubernetes\\.io/change-cause}";
        assert_eq!(cluster.value(NAME, cause), "kangaroos jump further");
        let why = cluster.joey(&["why", NAME]).ok();
        assert!(why.contains("is as declared"), "{why}");

        // Back to the first one with our own words.
        let back = cluster.joey(&["rollout", "undo", NAME, "--to-revision=1"]).ok();
        assert_eq!(back.trim(), "deployment.apps/kangaroo-backend-deployment rolled back");
        let status = cluster.joey(&["rollout", "status", NAME, "--timeout=120"]).ok();
        assert!(status.contains("successfully rolled out"), "{status}");
        assert!(answers(cluster).iter().all(|answer| answer.contains("1.14.2")));
        assert_eq!(cluster.value(NAME, cause), "", "the first revision was made without a cause");
    });
}

#[test]
fn a_paused_rollout_waits_and_a_restart_replaces_every_pod() {
    with_every_kubectl("pauses", |cluster| {
        cluster.apply(DEPLOYMENT).ok();
        roll_out(cluster);
        let before = pods(cluster, "default");
        cluster.kubectl(&["rollout", "pause", NAME]).ok();
        cluster.kubectl(&["set", "image", NAME, "kangaroo-backend=kangaroo-backend:1.15"]).ok();
        cluster.wait_for("the change is seen", |cluster| {
            let both = cluster.value(NAME, "{.status.observedGeneration} {.metadata.generation}");
            both.split_once(' ').is_some_and(|(seen, is)| seen == is)
        });
        assert_eq!(pods(cluster, "default"), before);
        cluster.kubectl(&["rollout", "resume", NAME]).ok();
        roll_out(cluster);
        let resumed = pods(cluster, "default");
        assert!(resumed.is_disjoint(&before));
        let restarted = cluster.joey(&["rollout", "restart", NAME]).ok();
        assert!(restarted.contains("restarted"), "{restarted}");
        roll_out(cluster);
        assert!(pods(cluster, "default").is_disjoint(&resumed));
    });
}

#[test]
fn orphans_outlive_their_owner_and_are_adopted_again() {
    with_every_kubectl("orphans", |cluster| {
        cluster.apply(DEPLOYMENT).ok();
        roll_out(cluster);
        let before = pods(cluster, "default");
        cluster.kubectl(&["delete", NAME, "--cascade=orphan"]).ok();
        let set = cluster.kubectl(&["get", "replicasets", "-o", "name"]).ok();
        cluster.wait_for("the set has lost its owner", |cluster| {
            cluster.value(set.trim(), "{.metadata.ownerReferences}").is_empty()
        });
        assert_eq!(pods(cluster, "default"), before);
        cluster.apply(DEPLOYMENT).ok();
        roll_out(cluster);
        assert_eq!(pods(cluster, "default"), before, "adopted, not replaced");
        // In the foreground it goes last.
        cluster.kubectl(&["delete", NAME, "--cascade=foreground"]).ok();
        assert!(pods(cluster, "default").is_empty());
    });
}

#[test]
fn equal_names_and_labels_in_two_namespaces_never_touch() {
    with_every_kubectl("namespaces", |cluster| {
        cluster.kubectl(&["create", "namespace", "other"]).ok();
        cluster.apply(DEPLOYMENT).ok();
        roll_out(cluster);
        let here = pods(cluster, "default");
        let other =
            DEPLOYMENT.replace("metadata:\n  name", "metadata:\n  namespace: other\n  name");
        cluster.apply(&other.replace("replicas: 3", "replicas: 1")).ok();
        cluster.kubectl(&["rollout", "status", NAME, "-n", "other", "--timeout=120s"]).ok();
        assert_eq!(pods(cluster, "other").len(), 1);
        assert_eq!(pods(cluster, "default"), here);
        // Nor do Services lead to the namesakes, whatever namespace they are asked for in.
        cluster.apply(SERVICE).ok();
        cluster.apply(&SERVICE.replace("metadata:\n", "metadata:\n  namespace: other\n")).ok();
        cluster.wait_for("each Service has its own pods", |cluster| {
            let led_to = |namespace: &str| -> BTreeSet<String> {
                let path =
                    "jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].targetRef.name}";
                let args = ["get", "endpointslices", "-n", namespace, "-o", path];
                let select = "kubernetes.io/service-name=kangaroo-backend";
                let names = cluster.kubectl(&[&args[..], &["-l", select]].concat()).ok();
                names.split_whitespace().map(str::to_owned).collect()
            };
            led_to("default") == pods(cluster, "default")
                && led_to("other") == pods(cluster, "other")
        });
        let all = cluster.kubectl(&["get", "pods", "-A", "-l", SELECTOR, "--no-headers"]).ok();
        assert_eq!(all.lines().count(), 4, "{all}");
        // A context may have a namespace of its own.
        let config = cluster.dir.join("team.kubeconfig");
        std::fs::copy(cluster.data_dir().join("admin.kubeconfig"), &config)
            .expect("it can be copied");
        let config = config.display().to_string();
        let of_team = ["--kubeconfig", config.as_str()];
        let set = ["config", "set-context", "--current", "--namespace=other"];
        cluster.kubectl(&[&of_team[..], &set].concat()).ok();
        let theirs = cluster.kubectl(&[&of_team[..], &["get", "pods", "-o", "name"]].concat()).ok();
        assert_eq!(
            theirs.lines().filter_map(|line| line.strip_prefix("pod/")).collect::<BTreeSet<_>>(),
            pods(cluster, "other").iter().map(String::as_str).collect()
        );

        cluster.kubectl(&["delete", "service", "kangaroo-backend"]).ok();
        cluster.kubectl(&["delete", "namespace", "other"]).ok();
        assert_eq!(pods(cluster, "default"), here);
        assert_eq!(available(cluster), "3");
    });
}

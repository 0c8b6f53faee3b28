use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;

fn check(resource: &str, mut object: Value, expected: Expect) {
    apply(resource, &mut object);
    let once = object.clone();
    apply(resource, &mut object);
    assert_eq!(once, object, "defaulting is idempotent");
    expected.assert_eq(&serde_json::to_string_pretty(&object).unwrap());
}

#[test]
fn smallest_pod_gets_what_clients_rely_on() {
    check(
        "pods",
        json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "nginx", "ports": [{"containerPort": 80, "hostPort": 0}]}], "hostNetwork": false}}),
        expect![[r#"
            {
              "metadata": {
                "name": "a"
              },
              "spec": {
                "containers": [
                  {
                    "name": "c",
                    "image": "nginx",
                    "ports": [
                      {
                        "containerPort": 80,
                        "protocol": "TCP"
                      }
                    ],
                    "imagePullPolicy": "Always",
                    "terminationMessagePath": "/dev/termination-log",
                    "terminationMessagePolicy": "File",
                    "resources": {}
                  }
                ],
                "restartPolicy": "Always",
                "terminationGracePeriodSeconds": 30,
                "dnsPolicy": "ClusterFirst",
                "securityContext": {},
                "schedulerName": "default-scheduler",
                "enableServiceLinks": true
              },
              "status": {
                "phase": "Pending",
                "qosClass": "BestEffort"
              }
            }"#]],
    );
}

#[test]
fn template_gets_no_pod_only_defaults() {
    check(
        "deployments.apps",
        json!({"spec": {"template": {"spec": {"hostNetwork": true, "serviceAccount": "sa", "containers": [{"name": "c", "image": "a:1", "resources": {"limits": {"cpu": 1}}, "ports": [{"containerPort": 1}]}]}}}}),
        expect![[r#"
            {
              "spec": {
                "template": {
                  "spec": {
                    "hostNetwork": true,
                    "serviceAccount": "sa",
                    "containers": [
                      {
                        "name": "c",
                        "image": "a:1",
                        "resources": {
                          "limits": {
                            "cpu": "1"
                          }
                        },
                        "ports": [
                          {
                            "containerPort": 1,
                            "protocol": "TCP"
                          }
                        ],
                        "imagePullPolicy": "IfNotPresent",
                        "terminationMessagePath": "/dev/termination-log",
                        "terminationMessagePolicy": "File"
                      }
                    ],
                    "restartPolicy": "Always",
                    "terminationGracePeriodSeconds": 30,
                    "dnsPolicy": "ClusterFirst",
                    "securityContext": {},
                    "schedulerName": "default-scheduler",
                    "serviceAccountName": "sa"
                  }
                },
                "replicas": 1,
                "strategy": {
                  "type": "RollingUpdate",
                  "rollingUpdate": {
                    "maxUnavailable": "25%",
                    "maxSurge": "25%"
                  }
                },
                "revisionHistoryLimit": 10,
                "progressDeadlineSeconds": 600
              }
            }"#]],
    );
}

#[test]
fn volumes_environment_and_probes() {
    check(
        "pods",
        json!({"spec": {"hostNetwork": true,
            "containers": [{"name": "c", "image": "a@sha256:0", "imagePullPolicy": "",
                "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "1000m"}, "requests": {"memory": "1024Ki"}},
                "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "livenessProbe": {"httpGet": {"port": 80}, "periodSeconds": 0, "initialDelaySeconds": 0}}],
            "volumes": [{"name": "a"}, {"name": "b", "configMap": {"name": "x"}}, {"name": "h", "hostPath": {"path": "/"}},
                {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}, {"downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}}]}}),
        expect![[r#"
            {
              "spec": {
                "hostNetwork": true,
                "containers": [
                  {
                    "name": "c",
                    "image": "a@sha256:0",
                    "imagePullPolicy": "IfNotPresent",
                    "ports": [
                      {
                        "containerPort": 80,
                        "protocol": "TCP",
                        "hostPort": 80
                      }
                    ],
                    "resources": {
                      "limits": {
                        "cpu": "1"
                      },
                      "requests": {
                        "memory": "1Mi",
                        "cpu": "1"
                      }
                    },
                    "env": [
                      {
                        "name": "A",
                        "valueFrom": {
                          "fieldRef": {
                            "fieldPath": "metadata.name",
                            "apiVersion": "v1"
                          }
                        }
                      }
                    ],
                    "livenessProbe": {
                      "httpGet": {
                        "port": 80,
                        "path": "/",
                        "scheme": "HTTP"
                      },
                      "periodSeconds": 10,
                      "timeoutSeconds": 1,
                      "successThreshold": 1,
                      "failureThreshold": 3
                    },
                    "terminationMessagePath": "/dev/termination-log",
                    "terminationMessagePolicy": "File"
                  }
                ],
                "volumes": [
                  {
                    "name": "a",
                    "emptyDir": {}
                  },
                  {
                    "name": "b",
                    "configMap": {
                      "name": "x",
                      "defaultMode": 420
                    }
                  },
                  {
                    "name": "h",
                    "hostPath": {
                      "path": "/",
                      "type": ""
                    }
                  },
                  {
                    "name": "p",
                    "projected": {
                      "sources": [
                        {
                          "serviceAccountToken": {
                            "path": "t",
                            "expirationSeconds": 3600
                          }
                        },
                        {
                          "downwardAPI": {
                            "items": [
                              {
                                "path": "l",
                                "fieldRef": {
                                  "fieldPath": "metadata.labels",
                                  "apiVersion": "v1"
                                }
                              }
                            ]
                          }
                        }
                      ],
                      "defaultMode": 420
                    }
                  }
                ],
                "restartPolicy": "Always",
                "terminationGracePeriodSeconds": 30,
                "dnsPolicy": "ClusterFirst",
                "securityContext": {},
                "schedulerName": "default-scheduler",
                "enableServiceLinks": true
              },
              "status": {
                "phase": "Pending",
                "qosClass": "Burstable"
              }
            }"#]],
    );
}

#[test]
fn pull_policy_follows_the_tag() {
    for (image, policy) in [
        ("a", "Always"),
        ("a:latest", "Always"),
        ("a:1", "IfNotPresent"),
        ("h:5000/a", "Always"),
        ("h:5000/a:2", "IfNotPresent"),
        ("a@sha256:00", "IfNotPresent"),
        ("a:latest@sha256:00", "Always"),
    ] {
        let mut pod = json!({"spec": {"containers": [{"image": image}]}});
        apply("pods", &mut pod);
        assert_eq!(pod["spec"]["containers"][0]["imagePullPolicy"], policy, "{image}");
    }
}

#[test]
fn qos_class_follows_requests_and_limits() {
    for (containers, class) in [
        (json!([{}]), "BestEffort"),
        (json!([{"resources": {"requests": {"cpu": "0"}}}]), "BestEffort"),
        (json!([{"resources": {"requests": {"cpu": "1"}}}]), "Burstable"),
        (json!([{"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]), "Guaranteed"),
        (
            json!([{"resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}}]),
            "Guaranteed",
        ),
        (
            json!([{"resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}}]),
            "Burstable",
        ),
        (json!([{"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}, {}]), "Burstable"),
        (json!([{"resources": {"limits": {"cpu": "1"}}}]), "Burstable"),
    ] {
        let pod = json!({"spec": {"containers": containers}});
        assert_eq!(pod::qos_class(&pod), class, "{pod}");
    }
}

#[test]
fn string_data_is_folded_and_wins() {
    check(
        "secrets",
        json!({"data": {"a": "MQ==", "b": "Mg=="}, "stringData": {"b": "three", "c": ""}}),
        expect![[r#"
            {
              "data": {
                "a": "MQ==",
                "b": "dGhyZWU=",
                "c": ""
              },
              "type": "Opaque"
            }"#]],
    );
}

#[test]
fn namespaces_are_labelled_and_active_but_an_emptied_one_stays_empty() {
    check(
        "namespaces",
        json!({"metadata": {"name": "a"}}),
        expect![[r#"
            {
              "metadata": {
                "name": "a",
                "labels": {
                  "kubernetes.io/metadata.name": "a"
                }
              },
              "status": {
                "phase": "Active"
              }
            }"#]],
    );
    let mut emptied = json!({"metadata": {"name": "a"}, "spec": {"finalizers": []}});
    apply("namespaces", &mut emptied);
    assert_eq!(emptied["spec"]["finalizers"], json!([]));
}

#[test]
fn workloads_services_and_jobs() {
    check(
        "statefulsets.apps",
        json!({}),
        expect![[r#"
            {
              "spec": {
                "replicas": 1,
                "podManagementPolicy": "OrderedReady",
                "updateStrategy": {
                  "type": "RollingUpdate",
                  "rollingUpdate": {
                    "partition": 0
                  }
                },
                "revisionHistoryLimit": 10,
                "persistentVolumeClaimRetentionPolicy": {
                  "whenDeleted": "Retain",
                  "whenScaled": "Retain"
                },
                "template": {
                  "spec": {
                    "restartPolicy": "Always",
                    "terminationGracePeriodSeconds": 30,
                    "dnsPolicy": "ClusterFirst",
                    "securityContext": {},
                    "schedulerName": "default-scheduler"
                  }
                }
              }
            }"#]],
    );
    check(
        "daemonsets.apps",
        json!({"spec": {"updateStrategy": {"type": "OnDelete"}}}),
        expect![[r#"
            {
              "spec": {
                "updateStrategy": {
                  "type": "OnDelete"
                },
                "revisionHistoryLimit": 10,
                "template": {
                  "spec": {
                    "restartPolicy": "Always",
                    "terminationGracePeriodSeconds": 30,
                    "dnsPolicy": "ClusterFirst",
                    "securityContext": {},
                    "schedulerName": "default-scheduler"
                  }
                }
              }
            }"#]],
    );
    check(
        "services",
        json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 0}], "sessionAffinity": "ClientIP"}}),
        expect![[r#"
            {
              "spec": {
                "type": "NodePort",
                "ports": [
                  {
                    "port": 80,
                    "protocol": "TCP",
                    "targetPort": 80
                  }
                ],
                "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {
                  "clientIP": {
                    "timeoutSeconds": 10800
                  }
                },
                "externalTrafficPolicy": "Cluster",
                "internalTrafficPolicy": "Cluster"
              },
              "status": {
                "loadBalancer": {}
              }
            }"#]],
    );
    check(
        "jobs.batch",
        json!({"spec": {"template": {}}}),
        expect![[r#"
        {
          "spec": {
            "template": {
              "spec": {
                "restartPolicy": "Always",
                "terminationGracePeriodSeconds": 30,
                "dnsPolicy": "ClusterFirst",
                "securityContext": {},
                "schedulerName": "default-scheduler"
              }
            },
            "completions": 1,
            "parallelism": 1,
            "backoffLimit": 6,
            "completionMode": "NonIndexed",
            "suspend": false,
            "podReplacementPolicy": "TerminatingOrFailed",
            "manualSelector": false
          }
        }"#]],
    );
    check(
        "cronjobs.batch",
        json!({}),
        expect![[r#"
        {
          "spec": {
            "concurrencyPolicy": "Allow",
            "suspend": false,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 1
          }
        }"#]],
    );
}

#[test]
fn wrong_types_pass_through() {
    for resource in [
        "pods",
        "secrets",
        "namespaces",
        "nodes",
        "services",
        "deployments.apps",
        "jobs.batch",
        "cronjobs.batch",
    ] {
        for object in [
            json!({"metadata": 1, "spec": "x", "status": [], "data": 2, "stringData": 3}),
            json!({"spec": {"containers": {}, "volumes": [1], "template": 2, "ports": "x", "strategy": 1, "jobTemplate": []}}),
            json!({"spec": {"containers": [{"resources": 1, "env": [{"valueFrom": 1}], "ports": 3, "image": {}}], "volumes": [{"projected": {"sources": 1}}]}}),
            json!([]),
            json!(null),
        ] {
            apply(resource, &mut object.clone());
        }
    }
}

//! Protobuf bodies: made by k8s-pb, recorded from kubectl, mutilated.

use std::collections::BTreeMap;

use expect_test::{Expect, expect};
use k8s_pb::api::{apps::v1 as apps, coordination::v1 as coordination, core::v1 as core};
use k8s_pb::apimachinery::pkg::api::resource::Quantity;
use k8s_pb::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_pb::apimachinery::pkg::util::intstr::IntOrString;
use proptest::prelude::*;
use prost::Message;
use serde_json::json;

use super::*;

#[derive(Clone, PartialEq, Message)]
struct TypeMeta {
    #[prost(string, tag = "1")]
    api_version: String,
    #[prost(string, tag = "2")]
    kind: String,
}

#[derive(Clone, PartialEq, Message)]
struct Unknown {
    #[prost(message, tag = "1")]
    type_meta: Option<TypeMeta>,
    #[prost(bytes, tag = "2")]
    raw: Vec<u8>,
    #[prost(string, tag = "3")]
    content_encoding: String,
    #[prost(string, tag = "4")]
    content_type: String,
}

fn wrap(api_version: &str, kind: &str, raw: Vec<u8>) -> Vec<u8> {
    let type_meta = TypeMeta { api_version: api_version.into(), kind: kind.into() };
    let unknown = Unknown { type_meta: Some(type_meta), raw, ..Unknown::default() };
    [MAGIC.to_vec(), unknown.encode_to_vec()].concat()
}

fn enveloped(api_version: &str, kind: &str, message: &impl Message) -> Vec<u8> {
    wrap(api_version, kind, message.encode_to_vec())
}

fn check(api_version: &str, kind: &str, message: &impl Message, expected: Expect) {
    let decoded = decode(&enveloped(api_version, kind, message)).unwrap();
    expected.assert_eq(&serde_json::to_string_pretty(&decoded.value).unwrap());
}

fn text(text: &str) -> Option<String> {
    Some(text.into())
}

fn named(name: &str) -> Option<meta::ObjectMeta> {
    // As Go's generated code: everything that is not a pointer is on the wire.
    Some(meta::ObjectMeta {
        name: text(name),
        generate_name: text(""),
        namespace: text(""),
        uid: text(""),
        resource_version: text(""),
        generation: Some(0),
        creation_timestamp: Some(meta::Time { seconds: None, nanos: None }),
        ..meta::ObjectMeta::default()
    })
}

fn pod() -> core::Pod {
    let port = IntOrString { r#type: Some(1), int_val: Some(0), str_val: text("web") };
    let probe = core::Probe {
        handler: Some(core::ProbeHandler {
            http_get: Some(core::HttpGetAction {
                path: text("/"),
                port: Some(port),
                host: text(""),
                scheme: text(""),
                http_headers: Vec::new(),
            }),
            ..core::ProbeHandler::default()
        }),
        initial_delay_seconds: Some(0),
        timeout_seconds: Some(5),
        termination_grace_period_seconds: Some(0),
        ..core::Probe::default()
    };
    let quantity = |amount: &str| Quantity { string: text(amount) };
    let container = core::Container {
        name: text("web"),
        image: text("kangaroo:1"),
        args: vec!["".into(), "-v".into()],
        working_dir: text(""),
        ports: vec![core::ContainerPort {
            name: text("web"),
            container_port: Some(80),
            host_port: Some(0),
            protocol: text("TCP"),
            host_ip: text(""),
        }],
        env: vec![core::EnvVar {
            name: text("KEY"),
            value: text(""),
            value_from: Some(core::EnvVarSource {
                secret_key_ref: Some(core::SecretKeySelector {
                    local_object_reference: Some(core::LocalObjectReference { name: text("s") }),
                    key: text("k"),
                    optional: Some(false),
                }),
                ..core::EnvVarSource::default()
            }),
        }],
        resources: Some(core::ResourceRequirements {
            limits: BTreeMap::from([("cpu".to_string(), quantity("500m"))]),
            ..core::ResourceRequirements::default()
        }),
        liveness_probe: Some(probe),
        stdin: Some(false),
        tty: Some(true),
        security_context: Some(core::SecurityContext {
            run_as_user: Some(0),
            privileged: Some(false),
            ..core::SecurityContext::default()
        }),
        ..core::Container::default()
    };
    core::Pod {
        metadata: named("p"),
        spec: Some(core::PodSpec {
            containers: vec![container],
            volumes: vec![core::Volume {
                name: text("data"),
                volume_source: Some(core::VolumeSource {
                    empty_dir: Some(core::EmptyDirVolumeSource::default()),
                    ..core::VolumeSource::default()
                }),
            }],
            host_network: Some(false),
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(0),
            ephemeral_containers: vec![core::EphemeralContainer {
                ephemeral_container_common: Some(core::EphemeralContainerCommon {
                    name: text("debug"),
                    stdin: Some(true),
                    tty: Some(false),
                    ..core::EphemeralContainerCommon::default()
                }),
                target_container_name: text("web"),
            }],
            ..core::PodSpec::default()
        }),
        status: Some(core::PodStatus { phase: text(""), ..core::PodStatus::default() }),
    }
}

#[test]
fn pods_lose_what_go_would_not_write_and_keep_what_it_means() {
    check(
        "v1",
        "Pod",
        &pod(),
        expect![[r#"
        {
          "kind": "Pod",
          "apiVersion": "v1",
          "metadata": {
            "name": "p"
          },
          "spec": {
            "volumes": [
              {
                "name": "data",
                "emptyDir": {}
              }
            ],
            "containers": [
              {
                "name": "web",
                "image": "kangaroo:1",
                "args": [
                  "",
                  "-v"
                ],
                "ports": [
                  {
                    "name": "web",
                    "containerPort": 80,
                    "protocol": "TCP"
                  }
                ],
                "env": [
                  {
                    "name": "KEY",
                    "valueFrom": {
                      "secretKeyRef": {
                        "name": "s",
                        "key": "k",
                        "optional": false
                      }
                    }
                  }
                ],
                "resources": {
                  "limits": {
                    "cpu": "500m"
                  }
                },
                "livenessProbe": {
                  "httpGet": {
                    "path": "/",
                    "port": "web"
                  },
                  "timeoutSeconds": 5,
                  "terminationGracePeriodSeconds": 0
                },
                "securityContext": {
                  "privileged": false,
                  "runAsUser": 0
                },
                "tty": true
              }
            ],
            "terminationGracePeriodSeconds": 0,
            "enableServiceLinks": false,
            "ephemeralContainers": [
              {
                "name": "debug",
                "stdin": true,
                "targetContainerName": "web"
              }
            ]
          },
          "status": {}
        }"#]],
    );
}

#[test]
fn bytes_maps_and_pointers_survive() {
    let secret = core::Secret {
        metadata: named("s"),
        data: BTreeMap::from([("k".to_string(), vec![0, 255, 7]), ("none".to_string(), vec![])]),
        string_data: BTreeMap::from([("empty".to_string(), String::new())]),
        r#type: text("Opaque"),
        immutable: Some(false),
    };
    check(
        "v1",
        "Secret",
        &secret,
        expect![[r#"
        {
          "kind": "Secret",
          "apiVersion": "v1",
          "metadata": {
            "name": "s"
          },
          "data": {
            "k": "AP8H",
            "none": ""
          },
          "type": "Opaque",
          "stringData": {
            "empty": ""
          },
          "immutable": false
        }"#]],
    );
    let claim = core::PersistentVolumeClaim {
        spec: Some(core::PersistentVolumeClaimSpec {
            storage_class_name: text(""),
            volume_name: text(""),
            ..core::PersistentVolumeClaimSpec::default()
        }),
        ..core::PersistentVolumeClaim::default()
    };
    check(
        "v1",
        "PersistentVolumeClaim",
        &claim,
        expect![[r#"
        {
          "kind": "PersistentVolumeClaim",
          "apiVersion": "v1",
          "spec": {
            "storageClassName": ""
          }
        }"#]],
    );
}

#[test]
fn deployments_keep_replicas_zero_and_integer_percentages() {
    let deployment = apps::Deployment {
        metadata: named("d"),
        spec: Some(apps::DeploymentSpec {
            replicas: Some(0),
            min_ready_seconds: Some(0),
            paused: Some(false),
            strategy: Some(apps::DeploymentStrategy {
                r#type: text(""),
                rolling_update: Some(apps::RollingUpdateDeployment {
                    max_unavailable: Some(IntOrString {
                        r#type: Some(0),
                        int_val: Some(0),
                        str_val: text(""),
                    }),
                    max_surge: Some(IntOrString {
                        r#type: Some(1),
                        int_val: Some(0),
                        str_val: text("25%"),
                    }),
                }),
            }),
            ..apps::DeploymentSpec::default()
        }),
        status: None,
    };
    check(
        "apps/v1",
        "Deployment",
        &deployment,
        expect![[r#"
        {
          "kind": "Deployment",
          "apiVersion": "apps/v1",
          "metadata": {
            "name": "d"
          },
          "spec": {
            "replicas": 0,
            "strategy": {
              "rollingUpdate": {
                "maxUnavailable": 0,
                "maxSurge": "25%"
              }
            }
          }
        }"#]],
    );
}

#[test]
fn times_are_text_and_delete_options_have_any_version() {
    let lease = coordination::Lease {
        metadata: Some(meta::ObjectMeta {
            creation_timestamp: Some(meta::Time { seconds: Some(1_700_000_000), nanos: Some(5) }),
            managed_fields: vec![meta::ManagedFieldsEntry {
                manager: text("m"),
                fields_v1: Some(meta::FieldsV1 { raw: Some(br#"{"f:spec":{}}"#.to_vec()) }),
                ..meta::ManagedFieldsEntry::default()
            }],
            ..meta::ObjectMeta::default()
        }),
        spec: Some(coordination::LeaseSpec {
            renew_time: Some(meta::MicroTime {
                seconds: Some(1_700_000_000),
                nanos: Some(123_456_789),
            }),
            lease_duration_seconds: Some(40),
            ..coordination::LeaseSpec::default()
        }),
    };
    check(
        "coordination.k8s.io/v1",
        "Lease",
        &lease,
        expect![[r#"
        {
          "kind": "Lease",
          "apiVersion": "coordination.k8s.io/v1",
          "metadata": {
            "creationTimestamp": "2023-11-14T22:13:20Z",
            "managedFields": [
              {
                "manager": "m",
                "fieldsV1": {
                  "f:spec": {}
                }
              }
            ]
          },
          "spec": {
            "leaseDurationSeconds": 40,
            "renewTime": "2023-11-14T22:13:20.123456Z"
          }
        }"#]],
    );
    let options = meta::DeleteOptions {
        grace_period_seconds: Some(0),
        preconditions: Some(meta::Preconditions { uid: text("u"), resource_version: None }),
        propagation_policy: text("Background"),
        ..meta::DeleteOptions::default()
    };
    check(
        "v1",
        "DeleteOptions",
        &options,
        expect![[r#"
        {
          "kind": "DeleteOptions",
          "apiVersion": "v1",
          "gracePeriodSeconds": 0,
          "preconditions": {
            "uid": "u"
          },
          "propagationPolicy": "Background"
        }"#]],
    );
}

/// Bodies recorded from `kubectl create …` 1.32: what clients really send.
#[test]
fn what_kubectl_sends_is_what_it_means() {
    let mut decoded = String::new();
    for (name, body) in [
        ("configmap", include_bytes!("kubectl/configmap.bin").as_slice()),
        ("cronjob", include_bytes!("kubectl/cronjob.bin").as_slice()),
        ("deployment", include_bytes!("kubectl/deployment.bin").as_slice()),
        ("ingress", include_bytes!("kubectl/ingress.bin").as_slice()),
        ("job", include_bytes!("kubectl/job.bin").as_slice()),
        ("namespace", include_bytes!("kubectl/namespace.bin").as_slice()),
        ("pdb", include_bytes!("kubectl/pdb.bin").as_slice()),
        ("priorityclass", include_bytes!("kubectl/priorityclass.bin").as_slice()),
        ("quota", include_bytes!("kubectl/quota.bin").as_slice()),
        ("role", include_bytes!("kubectl/role.bin").as_slice()),
        ("rolebinding", include_bytes!("kubectl/rolebinding.bin").as_slice()),
        ("secret", include_bytes!("kubectl/secret.bin").as_slice()),
        ("service", include_bytes!("kubectl/service.bin").as_slice()),
        ("serviceaccount", include_bytes!("kubectl/serviceaccount.bin").as_slice()),
        ("token", include_bytes!("kubectl/token.bin").as_slice()),
        ("whoami", include_bytes!("kubectl/whoami.bin").as_slice()),
    ] {
        let mut value = decode(body).unwrap().value;
        let text = |name: &str| value[name].as_str().unwrap().to_owned();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        decoded += &format!("{name}: {value}\n");
        assert_eq!(schema::check(&api_version, &kind, &mut value), Ok(Vec::new()), "{name}");
    }
    expect_test::expect_file!["kubectl.txt"].assert_eq(&decoded);
}

#[test]
fn unknown_kinds_numbers_and_envelopes_are_told_apart() {
    let body = wrap("example.com/v1", "Roo", Vec::new());
    assert_eq!(
        decode(&body).unwrap_err().to_string(),
        "no kind \"Roo\" is registered for version \"example.com/v1\""
    );
    assert!(matches!(decode(b"{}"), Err(DecodeError::Protobuf(_))));
    assert!(matches!(decode(b"k8s\0\xff"), Err(DecodeError::Protobuf(_))));
    // Field 999 of a newer release: skipped, as protobuf prescribes.
    let body = wrap("v1", "ConfigMap", vec![0xba, 0x3e, 0x01, b'x']);
    assert_eq!(decode(&body).unwrap().value, json!({"kind": "ConfigMap", "apiVersion": "v1"}));
}

#[test]
fn every_prefix_of_a_pod_is_an_error_or_a_pod() {
    let body = enveloped("v1", "Pod", &pod());
    for end in 0..body.len() {
        let _ = decode(&body[..end]);
    }
    let raw = pod().encode_to_vec();
    let cut = raw.len() - 1;
    assert!(decode(&wrap("v1", "Pod", raw[..cut].to_vec())).is_err());
}

#[test]
fn many_empty_messages_are_refused() {
    // Two bytes each on the wire: 1.5 million containers in a legal body.
    let spec: Vec<u8> = [0x12, 0].repeat(1_000_000);
    let mut raw = vec![0x12];
    prost::encoding::encode_varint(spec.len() as u64, &mut raw);
    raw.extend(spec);
    assert_eq!(decode(&wrap("v1", "Pod", raw)), Err(DecodeError::TooMany));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(raw in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = decode(&wrap("v1", "Pod", raw.clone()));
        let _ = decode(&[MAGIC.to_vec(), raw].concat());
    }

    #[test]
    fn mutations_never_panic(flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut body = enveloped("v1", "Pod", &pod());
        for (index, byte) in flips {
            let at = index.index(body.len());
            body[at] = byte;
        }
        let _ = decode(&body);
    }
}

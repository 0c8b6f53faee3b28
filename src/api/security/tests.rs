use expect_test::{Expect, expect};
use serde_json::json;

use super::*;
use crate::api::validate;

fn namespace(labels: &Value) -> Value {
    json!({"metadata": {"name": "team", "labels": labels}})
}

fn standard(level: &str) -> Standard {
    let (level, version) = level.split_once(':').unwrap_or((level, "latest"));
    Standard {
        level: Level::parse(level).expect("a level"),
        version: Version::parse(version).expect("a version"),
    }
}

fn check(level: &str, pod: &Value, expected: Expect) {
    expected.assert_eq(&told(&violations(standard(level), pod)).replace("), ", ")\n"));
}

/// A pod with these fields of its spec, and a container with those.
fn pod(spec: Value, container: Value) -> Value {
    let mut pod = json!({"metadata": {"name": "p"}, "spec": spec});
    let mut one = container;
    one["name"] = "a".into();
    pod["spec"]["containers"] = json!([one]);
    pod
}

#[test]
fn labels_name_a_level_and_a_release() {
    let (policy, bad) = Policy::of(&namespace(&json!({
        "pod-security.kubernetes.io/enforce": "baseline",
        "pod-security.kubernetes.io/enforce-version": "v1.24",
        "pod-security.kubernetes.io/warn": "restricted",
    })));
    assert_eq!(policy.enforce.to_string(), "baseline:v1.24");
    assert_eq!(policy.warn.to_string(), "restricted:latest");
    assert_eq!(policy.audit.to_string(), "privileged:latest");
    assert!(bad.is_empty());
    let (without, _) = Policy::of(&namespace(&json!(null)));
    assert_eq!(without.enforce.level, Level::Privileged);
}

#[test]
fn a_label_that_does_not_read_protects_most_and_tells_least() {
    let (policy, bad) = Policy::of(&namespace(&json!({
        "pod-security.kubernetes.io/enforce": "Baseline",
        "pod-security.kubernetes.io/warn": "strict",
        "pod-security.kubernetes.io/audit-version": "1.24",
        "pod-security.kubernetes.io/warn-version": "v1.024",
    })));
    assert_eq!(policy.enforce.level, Level::Restricted);
    assert_eq!(policy.warn.level, Level::Privileged);
    let told: Vec<&str> = bad.iter().map(|bad| bad.label.as_str()).collect();
    assert_eq!(
        told,
        [
            "pod-security.kubernetes.io/enforce",
            "pod-security.kubernetes.io/audit-version",
            "pod-security.kubernetes.io/warn",
            "pod-security.kubernetes.io/warn-version",
        ]
    );
}

#[test]
fn what_a_change_may_forbid_is_looked_for_and_nothing_else() {
    let policy = |level: &str| Policy { enforce: standard(level), ..Policy::of(&Value::Null).0 };
    for (before, now, is_more) in [
        ("privileged", "baseline", true),
        ("baseline", "restricted", true),
        ("baseline:v1.20", "baseline:v1.34", true),
        ("restricted", "baseline", false),
        ("restricted", "restricted", false),
        ("restricted:v1.24", "privileged", false),
    ] {
        assert_eq!(policy(now).enforces_more_than(&policy(before)), is_more, "{before} {now}");
    }
}

#[test]
fn a_plain_pod_is_baseline_and_not_restricted() {
    let plain = pod(json!({}), json!({"image": "x"}));
    check("privileged", &plain, expect![[""]]);
    check("baseline", &plain, expect![[""]]);
    check(
        "restricted",
        &plain,
        expect![[r#"
            allowPrivilegeEscalation != false (container "a" must set securityContext.allowPrivilegeEscalation=false)
            unrestricted capabilities (container "a" must set securityContext.capabilities.drop=["ALL"])
            runAsNonRoot != true (pod or container "a" must set securityContext.runAsNonRoot=true)
            seccompProfile (pod or container "a" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")"#]],
    );
}

#[test]
fn a_pod_as_the_restricted_standard_wants_it_passes() {
    let container = json!({"securityContext": {
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
    }});
    let of_pod = json!({
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": [{"name": "v", "emptyDir": {}}, {"name": "c", "configMap": {"name": "c"}}],
    });
    check("restricted", &pod(of_pod, container.clone()), expect![[""]]);
    // What every container says for itself the pod need not say.
    let mut own = container;
    own["securityContext"]["runAsNonRoot"] = true.into();
    own["securityContext"]["seccompProfile"] = json!({"type": "Localhost"});
    check("restricted", &pod(json!({}), own), expect![[""]]);
}

fn bad() -> Value {
    let mut bad = pod(
        json!({
            "hostNetwork": true, "hostPID": true, "hostIPC": true,
            "securityContext": {
                "runAsNonRoot": false, "runAsUser": 0,
                "seccompProfile": {"type": "Unconfined"},
                "sysctls": [
                    {"name": "kernel.msgmax"}, {"name": "net.ipv4.tcp_rmem"},
                    {"name": "net.ipv4.tcp_syncookies"},
                ],
            },
            "volumes": [
                {"name": "root", "hostPath": {"path": "/"}}, {"name": "t", "emptyDir": {}},
                {"name": "share", "nfs": {"server": "s"}},
            ],
        }),
        json!({
            "ports": [{"containerPort": 1, "hostPort": 80}, {"containerPort": 2, "hostPort": 443}],
            "livenessProbe": {"httpGet": {"host": "169.254.169.254"}},
            "lifecycle": {"preStop": {"tcpSocket": {"host": "db"}}},
            "securityContext": {
                "privileged": true, "allowPrivilegeEscalation": true, "runAsUser": 0,
                "capabilities": {"add": ["SYS_ADMIN", "CHOWN", "NET_RAW"], "drop": ["all"]},
                "seccompProfile": {"type": "Unconfined"},
            },
        }),
    );
    bad["spec"]["initContainers"] = json!([{
        "name": "i", "securityContext": {"capabilities": {"add": ["NET_ADMIN"]}},
    }]);
    bad["metadata"]["annotations"] = json!({
        "container.apparmor.security.beta.kubernetes.io/a": "unconfined",
        "container.apparmor.security.beta.kubernetes.io/i": "localhost/mine",
    });
    bad
}

#[test]
fn baseline_names_everything_that_reaches_for_the_host() {
    check(
        "baseline",
        &bad(),
        expect![[r#"
            forbidden AppArmor profile (container.apparmor.security.beta.kubernetes.io/a="unconfined")
            non-default capabilities (containers "i", "a" must not include "NET_ADMIN", "NET_RAW", "SYS_ADMIN" in securityContext.capabilities.add)
            host namespaces (hostNetwork=true, hostPID=true, hostIPC=true)
            hostPath volumes (volume "root")
            hostPort (container "a" uses hostPorts 443, 80)
            probe or lifecycle host (container "a" uses probe or lifecycle hosts "169.254.169.254", "db")
            privileged (container "a" must not set securityContext.privileged=true)
            seccompProfile (pod and container "a" must not set securityContext.seccompProfile.type to "Unconfined")
            forbidden sysctls (kernel.msgmax)"#]],
    );
}

#[test]
fn restricted_takes_the_place_of_what_it_tightens() {
    check(
        "restricted",
        &bad(),
        expect![[r#"
            forbidden AppArmor profile (container.apparmor.security.beta.kubernetes.io/a="unconfined")
            host namespaces (hostNetwork=true, hostPID=true, hostIPC=true)
            hostPort (container "a" uses hostPorts 443, 80)
            probe or lifecycle host (container "a" uses probe or lifecycle hosts "169.254.169.254", "db")
            privileged (container "a" must not set securityContext.privileged=true)
            forbidden sysctls (kernel.msgmax)
            allowPrivilegeEscalation != false (containers "i", "a" must set securityContext.allowPrivilegeEscalation=false)
            unrestricted capabilities (containers "i", "a" must set securityContext.capabilities.drop=["ALL"]; containers "i", "a" must not include "CHOWN", "NET_ADMIN", "NET_RAW", "SYS_ADMIN" in securityContext.capabilities.add)
            restricted volume types (volumes "root", "share" use restricted volume types "hostPath", "nfs")
            runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false)
            runAsUser=0 (pod and container "a" must not set runAsUser=0)
            seccompProfile (pod and container "a" must not set securityContext.seccompProfile.type to "Unconfined")"#]],
    );
}

#[test]
fn an_older_release_asks_for_what_it_asked_for_then() {
    let names = |level: &str| reasons(&violations(standard(level), &bad()));
    assert!(names("baseline:v1.33").contains("privileged"));
    assert!(!names("baseline:v1.33").contains("lifecycle"));
    assert!(names("baseline:v1.34").contains("lifecycle"));
    // A release that is not out yet is the latest one.
    assert_eq!(names("restricted:v1.99"), names("restricted"));
    let old = names("restricted:v1.7");
    assert!(!old.contains("allowPrivilegeEscalation") && !old.contains("runAsUser"), "{old}");
    assert!(old.contains("non-default capabilities"), "{old}");
    check(
        "baseline:v1.31",
        &pod(json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}}), json!({})),
        expect![["forbidden sysctls (net.ipv4.tcp_rmem)"]],
    );
}

#[test]
fn pods_that_run_already_are_told_once_for_each_way_of_violating() {
    let named = |mut pod: Value, name: &str| {
        pod["metadata"]["name"] = name.into();
        pod
    };
    let host = pod(json!({"hostPID": true}), json!({}));
    let port = pod(json!({}), json!({"ports": [{"hostPort": 80}]}));
    let plain = pod(json!({}), json!({}));
    let pods = [
        named(host.clone(), "c"),
        named(plain, "fine"),
        named(host.clone(), "b"),
        named(host, "d"),
        named(port, "a"),
    ];
    assert_eq!(
        existing("team", standard("baseline"), &pods),
        [
            "existing pods in namespace \"team\" violate the new PodSecurity enforce level \"baseline:latest\"",
            "a: hostPort",
            "b (and 2 other pods): host namespaces",
        ]
    );
    assert!(existing("team", standard("baseline"), &pods[1..2]).is_empty());
}

/// The standards speak of these fields as well; the day one of them is implemented it needs a check.
#[test]
fn what_has_no_check_is_refused_in_every_pod() {
    for (field, spec) in [
        ("spec.hostUsers", json!({"hostUsers": false})),
        ("spec.os.name", json!({"os": {"name": "windows"}})),
        (
            "spec.securityContext.appArmorProfile",
            json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}),
        ),
        (
            "spec.securityContext.seLinuxOptions",
            json!({"securityContext": {"seLinuxOptions": {"type": "spc_t"}}}),
        ),
        (
            "spec.securityContext.windowsOptions",
            json!({"securityContext": {"windowsOptions": {"hostProcess": true}}}),
        ),
        (
            "spec.containers[0].securityContext.procMount",
            json!({"containers": [{"name": "a", "securityContext": {"procMount": "Unmasked"}}]}),
        ),
        (
            "spec.containers[0].securityContext.appArmorProfile",
            json!({"containers": [{"name": "a", "securityContext": {"appArmorProfile": {"type": "Unconfined"}}}]}),
        ),
        (
            "spec.containers[0].securityContext.seLinuxOptions",
            json!({"containers": [{"name": "a", "securityContext": {"seLinuxOptions": {"type": "spc_t"}}}]}),
        ),
    ] {
        let pod = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec});
        let errors = validate::create("pods", &pod);
        let is_refused =
            errors.iter().any(|error| error.to_string().starts_with(&format!("{field}: ")));
        assert!(is_refused, "{field}: {errors:?}");
    }
}

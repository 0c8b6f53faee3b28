//! Broken pods.

use super::*;

pub fn all() -> Vec<Broken> {
    let b = |name, case, cause, says| Broken { name, case, cause, says };
    let probe = |kind: &str| json!({"containers": [{"name": "web", "image": "web:1", kind: {"httpGet": {"port": 80}}}]});
    vec![
        b(
            "image absent, first try",
            of(pod(json!({}), waiting("ErrImagePull", "web:1: not found in the registry")), vec![]),
            Cause::ImageMissing,
            &["web:1", "not found"],
        ),
        b(
            "image absent, backing off",
            of(
                pod(json!({}), waiting("ImagePullBackOff", "Back-off pulling image \"web:1\"")),
                vec![event("Failed", NOT_FOUND)],
            ),
            Cause::ImageMissing,
            &["web:1", "not found in the registry"],
        ),
        b(
            "registry away",
            of(pod(json!({}), waiting("ErrImagePull", "connection refused")), vec![]),
            Cause::ImageMissing,
            &["connection refused"],
        ),
        b(
            "registry refuses",
            of(pod(json!({}), waiting("ErrImagePull", "401 Unauthorized")), vec![]),
            Cause::ImageRefused,
            &["401"],
        ),
        b(
            "registry denies after back-off",
            of(
                pod(json!({}), waiting("ImagePullBackOff", "Back-off pulling image \"web:1\"")),
                vec![event(
                    "Failed",
                    "Failed to pull image \"web:1\": requested access to the resource is denied",
                )],
            ),
            Cause::ImageRefused,
            &["denied"],
        ),
        b(
            "never pull",
            of(
                pod(
                    json!({}),
                    waiting(
                        "ErrImageNeverPull",
                        "Container image \"web:1\" is not present with pull policy of Never",
                    ),
                ),
                vec![],
            ),
            Cause::ImageMissing,
            &["Never"],
        ),
        b(
            "no image name",
            of(
                pod(
                    json!({"containers": [{"name": "web", "image": "Web:1:2"}]}),
                    waiting("InvalidImageName", "invalid reference format"),
                ),
                vec![],
            ),
            Cause::ImageNameInvalid,
            &["Web:1:2"],
        ),
        b(
            "config map absent",
            of(
                pod(
                    json!({}),
                    waiting("CreateContainerConfigError", "configmap \"settings\" not found"),
                ),
                vec![],
            ),
            Cause::ConfigurationMissing,
            &["configmap \"settings\" not found"],
        ),
        b(
            "secret key absent",
            of(
                pod(
                    json!({}),
                    waiting(
                        "CreateContainerConfigError",
                        "couldn't find key token in Secret default/keys",
                    ),
                ),
                vec![],
            ),
            Cause::ConfigurationMissing,
            &["token"],
        ),
        b(
            "runs as root",
            of(
                pod(
                    json!({}),
                    waiting(
                        "CreateContainerConfigError",
                        "container has runAsNonRoot and image will run as root",
                    ),
                ),
                vec![],
            ),
            Cause::ConfigurationMissing,
            &["runAsNonRoot"],
        ),
        b(
            "no such program",
            of(
                pod(
                    json!({}),
                    waiting(
                        "RunContainerError",
                        "exec: \"serve\": executable file not found in $PATH",
                    ),
                ),
                vec![],
            ),
            Cause::CannotStart,
            &["serve"],
        ),
        b(
            "no such directory",
            of(
                pod(json!({}), waiting("CreateContainerError", "workingDir /srv is no directory")),
                vec![],
            ),
            Cause::CannotStart,
            &["/srv"],
        ),
        b(
            "crash",
            of(pod(json!({}), crashed(json!({"exitCode": 3, "reason": "Error"}))), vec![]),
            Cause::Crashes,
            &["exited with code 3"],
        ),
        b(
            "crash with last words",
            of(
                pod(
                    json!({}),
                    crashed(json!({"exitCode": 1, "reason": "Error", "message": "no database"})),
                ),
                vec![],
            ),
            Cause::Crashes,
            &["no database"],
        ),
        b(
            "crash by signal",
            of(pod(json!({}), crashed(json!({"exitCode": 139, "reason": "Error"}))), vec![]),
            Cause::Crashes,
            &["signal 11"],
        ),
        b(
            "ends with 0 and is to run for ever",
            of(pod(json!({}), crashed(json!({"exitCode": 0, "reason": "Completed"}))), vec![]),
            Cause::Crashes,
            &["exited with code 0"],
        ),
        b(
            "out of memory",
            of(pod(json!({}), crashed(json!({"exitCode": 137, "reason": "OOMKilled"}))), vec![]),
            Cause::OutOfMemory,
            &["memory"],
        ),
        b(
            "start error",
            of(
                pod(
                    json!({}),
                    crashed(
                        json!({"exitCode": 128, "reason": "StartError", "message": "permission denied"}),
                    ),
                ),
                vec![],
            ),
            Cause::CannotStart,
            &["permission denied"],
        ),
        b(
            "liveness",
            of(
                pod(json!({}), crashed(run(0, 30, 137))),
                vec![
                    event(
                        "Unhealthy",
                        "Liveness probe failed: HTTP probe failed with statuscode: 500",
                    ),
                    event("Killing", "Container web failed liveness probe, will be restarted"),
                ],
            ),
            Cause::LivenessFails,
            &["statuscode: 500"],
        ),
        b(
            "liveness of an exec probe that says nothing",
            of(
                pod(json!({}), crashed(run(0, 30, 137))),
                vec![
                    event_of("web", 28, "Unhealthy", "Liveness probe failed: "),
                    event_of(
                        "web",
                        28,
                        "Killing",
                        "Container web failed liveness probe, will be restarted",
                    ),
                    event_of("web", 30, "BackOff", "Back-off restarting failed container web"),
                ],
            ),
            Cause::LivenessFails,
            &["the command failed and printed nothing."],
        ),
        b(
            "a crash beside a container that a probe has killed",
            of(
                pod(json!({}), crashed(run(0, 30, 3))),
                vec![
                    event_of("log", 28, "Unhealthy", "Liveness probe failed: it is full"),
                    event_of(
                        "log",
                        28,
                        "Killing",
                        "Container log failed liveness probe, will be restarted",
                    ),
                ],
            ),
            Cause::Crashes,
            &["container web exited with code 3"],
        ),
        b(
            "a crash after a run that a probe has ended",
            of(
                pod(json!({}), crashed(run(31, 40, 3))),
                vec![
                    event_of("web", 28, "Unhealthy", "Liveness probe failed: it is full"),
                    event_of(
                        "web",
                        28,
                        "Killing",
                        "Container web failed liveness probe, will be restarted",
                    ),
                ],
            ),
            Cause::Crashes,
            &["container web exited with code 3"],
        ),
        b(
            "readiness beside a container whose probe fails, too",
            of(
                pod(probe("readinessProbe"), running(json!({}))),
                vec![
                    event_of("web", 10, "Unhealthy", "Readiness probe failed: web is busy"),
                    event_of("log", 11, "Unhealthy", "Readiness probe failed: log is full"),
                ],
            ),
            Cause::ReadinessFails,
            &["container web fails: web is busy"],
        ),
        b(
            "startup",
            of(
                pod(json!({}), crashed(run(0, 30, 137))),
                vec![
                    event(
                        "Unhealthy",
                        "Startup probe failed: dial tcp 10.42.0.2:80: connect: connection refused",
                    ),
                    event("Killing", "Container web failed startup probe, will be restarted"),
                ],
            ),
            Cause::StartupFails,
            &["connection refused"],
        ),
        b(
            "readiness",
            of(
                pod(probe("readinessProbe"), running(json!({}))),
                vec![event(
                    "Unhealthy",
                    "Readiness probe failed: HTTP probe failed with statuscode: 503",
                )],
            ),
            Cause::ReadinessFails,
            &["statuscode: 503"],
        ),
        b(
            "readiness by command",
            of(
                pod(probe("readinessProbe"), running(json!({}))),
                vec![event(
                    "Unhealthy",
                    "Readiness probe failed: cat: /ready: No such file or directory",
                )],
            ),
            Cause::ReadinessFails,
            &["/ready"],
        ),
        b(
            "readiness not tried yet",
            of(pod(probe("readinessProbe"), running(json!({}))), vec![]),
            Cause::UnderWay,
            &["readiness probe"],
        ),
        b(
            "readiness gate",
            of(
                pod(
                    json!({"readinessGates": [{"conditionType": "example.org/warm"}]}),
                    running(json!({
            "containerStatuses": [{"name": "web", "ready": true, "state": {"running": {}}}]})),
                ),
                vec![],
            ),
            Cause::Wanted,
            &["example.org/warm"],
        ),
        b(
            "too much cpu",
            of(
                unscheduled(requests("100", "1Gi"), "0/1 nodes are available: 1 Insufficient cpu."),
                vec![],
            ),
            Cause::Unschedulable,
            &["100 cpu", "2 of 2 free"],
        ),
        b(
            "too much memory",
            of(
                unscheduled(
                    requests("1", "64Gi"),
                    "0/1 nodes are available: 1 Insufficient memory.",
                ),
                vec![],
            ),
            Cause::Unschedulable,
            &["64Gi memory", "4Gi of 4Gi"],
        ),
        b(
            "others hold it",
            Case {
                bound: vec![pod(requests("1500m", "1Gi"), json!({"phase": "Running"}))],
                ..of(
                    unscheduled(
                        requests("1", "1Gi"),
                        "0/1 nodes are available: 1 Insufficient cpu.",
                    ),
                    vec![],
                )
            },
            Cause::Unschedulable,
            &["1 cpu", "0.5 of 2 free"],
        ),
        b(
            "node selector",
            of(
                unscheduled(
                    json!({"nodeSelector": {"disk": "ssd"}}),
                    "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. preemption: none.",
                ),
                vec![],
            ),
            Cause::Unschedulable,
            &["node affinity/selector"],
        ),
        b(
            "taint",
            of(
                unscheduled(
                    json!({}),
                    "0/1 nodes are available: 1 node(s) had untolerated taint(s).",
                ),
                vec![],
            ),
            Cause::Unschedulable,
            &["taint"],
        ),
        b(
            "another scheduler",
            {
                let mut p = pod(json!({"schedulerName": "mine"}), json!({}));
                p["spec"]["nodeName"] = Value::Null;
                of(p, vec![])
            },
            Cause::Unschedulable,
            &["mine"],
        ),
        b(
            "gate",
            {
                let mut p =
                    pod(json!({"schedulingGates": [{"name": "example.org/later"}]}), json!({}));
                p["spec"]["nodeName"] = Value::Null;
                of(p, vec![])
            },
            Cause::Wanted,
            &["example.org/later"],
        ),
        b(
            "volume's secret absent",
            of(
                pod(json!({}), waiting("ContainerCreating", "")),
                vec![event(
                    "FailedMount",
                    "MountVolume.SetUp failed for volume \"keys\" : secret \"keys\" not found",
                )],
            ),
            Cause::VolumeMissing,
            &["secret \"keys\" not found"],
        ),
        b(
            "no address left",
            of(
                pod(json!({}), waiting("ContainerCreating", "")),
                vec![event(
                    "FailedCreatePodSandBox",
                    "Failed to create pod sandbox: no address is free in 10.42.0.0/30",
                )],
            ),
            Cause::NetworkFailed,
            &["no address is free"],
        ),
        b(
            "init container crashes",
            of(
                pod(
                    json!({"initContainers": [{"name": "prepare", "image": "web:1"}]}),
                    json!({
            "initContainerStatuses": [{"name": "prepare", "ready": false, "restartCount": 2,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 2}}}],
            "containerStatuses": [{"name": "web", "ready": false, "state": {"waiting": {"reason": "PodInitializing"}}}]}),
                ),
                vec![],
            ),
            Cause::Crashes,
            &["prepare", "code 2"],
        ),
        b(
            "init container runs",
            of(preparing(json!({"running": {"startedAt": "2025-12-31T23:57:58Z"}})), vec![]),
            Cause::UnderWay,
            &[
                "its init container prepare has been running for 2m2s (since 2025-12-31T23:57:58Z)",
                "has not ended, and check, web and log wait for it.",
            ],
        ),
        b(
            "init container never ends",
            of(preparing(json!({"running": {"startedAt": "2025-12-31T23:50:00Z"}})), vec![]),
            Cause::NeverDone,
            &["its init container prepare has been running for 10m ", "web and log wait for it."],
        ),
        b(
            "init container has not begun",
            of(preparing(json!({"waiting": {"reason": "PodInitializing"}})), vec![]),
            Cause::UnderWay,
            &["its init container prepare does not run yet, and check, web and log wait for it."],
        ),
        b(
            "startup probe of a sidecar",
            of(
                pod(
                    json!({"initContainers": [{"name": "mesh", "image": "web:1", "restartPolicy": "Always"}]}),
                    json!({
            "initContainerStatuses": [{"name": "mesh", "ready": false, "started": false, "state": {"running": {}}}],
            "containerStatuses": [{"name": "web", "ready": false, "state": {"waiting": {"reason": "PodInitializing"}}}]}),
                ),
                vec![event(
                    "Unhealthy",
                    "Startup probe failed: HTTP probe failed with statuscode: 500",
                )],
            ),
            Cause::StartupFails,
            &["the startup probe of its sidecar mesh fails", "500"],
        ),
        b(
            "a sidecar has not started, one before it has",
            of(
                pod(
                    json!({"initContainers": [
                        {"name": "log", "image": "web:1", "restartPolicy": "Always"},
                        {"name": "mesh", "image": "web:1", "restartPolicy": "Always"}]}),
                    json!({
            "initContainerStatuses": [
                {"name": "log", "ready": true, "started": true, "state": {"running": {}}},
                {"name": "mesh", "ready": false, "started": false,
                    "state": {"running": {"startedAt": "2025-12-31T23:59:59Z"}}}],
            "containerStatuses": [{"name": "web", "ready": false, "state": {"waiting": {"reason": "PodInitializing"}}}]}),
                ),
                vec![],
            ),
            Cause::UnderWay,
            &[
                "its sidecar mesh has been running for 1s ",
                "has not started up, and web waits for it.",
            ],
        ),
        b(
            "failed for good",
            of(
                pod(
                    json!({}),
                    json!({"phase": "Failed", "containerStatuses": [
            {"name": "web", "state": {"terminated": {"exitCode": 7, "reason": "Error"}}}]}),
                ),
                vec![],
            ),
            Cause::Ended,
            &["code 7"],
        ),
        b(
            "deadline",
            of(
                pod(
                    json!({}),
                    json!({"phase": "Failed", "reason": "DeadlineExceeded", "message": "Pod was active on the node longer than the specified deadline"}),
                ),
                vec![],
            ),
            Cause::Ended,
            &["DeadlineExceeded"],
        ),
        b(
            "done",
            of(pod(json!({}), json!({"phase": "Succeeded"})), vec![]),
            Cause::Done,
            &["Pod web-1 has done its work and ended with exit code 0."],
        ),
        b(
            "held by a finalizer",
            {
                let mut p = serving();
                p["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
                p["metadata"]["finalizers"] = json!(["example.org/keep"]);
                of(p, vec![])
            },
            Cause::Terminating,
            &["example.org/keep"],
        ),
        b("nothing wrong", of(serving(), vec![]), Cause::AsDeclared, &["as declared"]),
    ]
}

/// A pod whose first of two init containers is in this state, before its two containers.
pub fn preparing(state: Value) -> Value {
    pod(
        json!({
            "initContainers": [{"name": "prepare", "image": "web:1"}, {"name": "check", "image": "web:1"}],
            "containers": [{"name": "web", "image": "web:1"}, {"name": "log", "image": "web:1"}]}),
        json!({
            "initContainerStatuses": [
                {"name": "prepare", "ready": false, "state": state},
                {"name": "check", "ready": false, "state": {"waiting": {"reason": "PodInitializing"}}}],
            "containerStatuses": [
                {"name": "web", "ready": false, "state": {"waiting": {"reason": "PodInitializing"}}},
                {"name": "log", "ready": false, "state": {"waiting": {"reason": "PodInitializing"}}}]}),
    )
}

//! Sidecars (KEP-753): init containers that run on beside the containers.

use k8s_openapi::api::core::v1 as core;
use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::scene::{Scene, main_status, phase, status};
use crate::tests;

tests![
    sidecars_start_before_the_containers_and_end_after_them,
    a_job_ends_with_its_containers_whatever_its_sidecar_does,
    a_new_agent_keeps_a_sidecar_and_its_place,
];

/// Writes what happens to it, and takes its time to end.
fn writer(name: &str) -> Value {
    let script = format!(
        "trap 'echo {name}-term >> /ctl/log; sleep 0.3; echo {name}-end >> /ctl/log; exit 0' TERM; \
         echo {name} >> /ctl/log; while true; do sleep 0.05; done"
    );
    container(name, &script)
}

fn container(name: &str, script: &str) -> Value {
    json!({
        "name": name,
        "image": "box:1",
        "command": ["sh", "-c", script],
        "volumeMounts": [{"name": "ctl", "mountPath": "/ctl"}],
    })
}

fn sidecar(mut container: Value, more: Value) -> Value {
    container["restartPolicy"] = json!("Always");
    container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    container
}

fn pod(scene: &Scene, policy: &str, init: &[Value], main: Value) -> Value {
    json!({
        "restartPolicy": policy,
        "terminationGracePeriodSeconds": 20,
        "initContainers": init,
        "containers": [main],
        "volumes": [{"name": "ctl", "hostPath": {"path": scene.control()}}],
    })
}

fn init_status<'a>(pod: &'a core::Pod, name: &str) -> &'a core::ContainerStatus {
    let all = status(pod).init_container_statuses.as_ref().unwrap();
    all.iter().find(|status| status.name == name).unwrap()
}

fn is_true(pod: &core::Pod, condition: &str) -> bool {
    let all = status(pod).conditions.iter().flatten();
    all.into_iter().any(|c| c.type_ == condition && c.status == "True")
}

fn is_ready(pod: &core::Pod) -> bool {
    is_true(pod, "Ready")
}

async fn sidecars_start_before_the_containers_and_end_after_them(scene: Scene) {
    let starts = json!({"startupProbe": {
        "exec": {"command": ["sh", "-c", "[ -e /ctl/up ]"]}, "periodSeconds": 1, "failureThreshold": 100}});
    let init = [
        sidecar(writer("first"), starts),
        container("between", "echo between >> /ctl/log"),
        sidecar(writer("second"), json!({})),
    ];
    scene.create("web", pod(&scene, "Always", &init, writer("main"))).await;
    scene.until_told("web", "Startup probe failed").await;
    assert_eq!(scene.said("log"), "first\n", "nobody goes ahead of its startup probe");
    let early = scene.pods().get("web").await.unwrap();
    assert_eq!(phase(&early), "Pending");
    assert!(!is_true(&early, "Initialized"));
    scene.signal("up");
    let up = scene.until("web", is_ready).await;
    assert!(is_true(&up, "Initialized"));
    assert!(init_status(&up, "second").ready && init_status(&up, "first").started == Some(true));
    assert_eq!(scene.said("log"), "first\nbetween\nsecond\nmain\n");

    scene.pods().delete("web", &DeleteParams::default()).await.unwrap();
    scene.until_gone("web").await;
    let log = scene.said("log");
    let expected = "main-term\nmain-end\nsecond-term\nsecond-end\nfirst-term\nfirst-end\n";
    assert!(log.ends_with(expected), "{log}");
}

async fn a_job_ends_with_its_containers_whatever_its_sidecar_does(scene: Scene) {
    let mut crashes_once = writer("beside");
    let script = crashes_once["command"][2].as_str().unwrap().to_owned();
    crashes_once["command"][2] =
        json!(format!("[ -e /ctl/once ] || {{ touch /ctl/once; exit 1; }}; {script}"));
    let main = container("main", "while [ ! -e /ctl/go ]; do sleep 0.05; done");
    let spec = pod(&scene, "Never", &[sidecar(crashes_once, json!({}))], main);
    scene.create("job", spec).await;
    let up =
        scene.until("job", |pod| is_ready(pod) && init_status(pod, "beside").restart_count == 1);
    assert_eq!(phase(&up.await), "Running");
    scene.signal("go");
    let over = scene.until("job", |pod| phase(pod) == "Succeeded").await;
    assert!(scene.said("log").ends_with("beside-term\nbeside-end\n"), "{}", scene.said("log"));
    let ended = init_status(&over, "beside").state.clone().and_then(|state| state.terminated);
    assert_eq!(ended.map(|ended| ended.exit_code), Some(0));
    let ended = main_status(&over).and_then(|main| main.state.clone()?.terminated);
    assert_eq!(ended.map(|ended| ended.exit_code), Some(0));
}

async fn a_new_agent_keeps_a_sidecar_and_its_place(mut scene: Scene) {
    let init = [sidecar(writer("beside"), json!({}))];
    scene.create("web", pod(&scene, "Always", &init, writer("main"))).await;
    let before = scene.until("web", is_ready).await;
    scene.stop_agent().await;
    scene.start_agent().await;
    scene.pods().delete("web", &DeleteParams::default()).await.unwrap();
    scene.until_gone("web").await;
    assert_eq!(init_status(&before, "beside").restart_count, 0);
    let expected = "beside\nmain\nmain-term\nmain-end\nbeside-term\nbeside-end\n";
    assert_eq!(scene.said("log"), expected);
}

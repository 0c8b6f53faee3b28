//! Hooks and the order in which a container ends, also when the agent is replaced in the middle.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1 as core;
use kube::api::DeleteParams;
use serde_json::json;

use crate::scene::{Scene, main_status, phase, status};
use crate::tests;

tests![
    hooks_run_around_the_life_of_a_container,
    a_failed_post_start_hook_kills_the_container,
    a_failed_pre_stop_hook_is_told_and_delays_nothing,
    a_hook_that_takes_all_the_grace_is_given_up,
    a_new_agent_goes_on_where_the_hook_was,
    a_new_agent_does_not_ask_a_container_to_end_twice,
    a_pod_is_told_to_stop_only_when_nobody_talks_to_it,
    a_pod_that_does_not_want_to_wait_is_told_to_stop_at_once,
];

fn is_up(pod: &core::Pod) -> bool {
    main_status(pod).is_some_and(|c| c.state.as_ref().is_some_and(|s| s.running.is_some()))
}

fn hook(script: &str) -> serde_json::Value {
    json!({"exec": {"command": ["sh", "-c", script]}})
}

/// Says what it hears.
const LISTENER: &str = "trap 'echo term >> /ctl/log; exit 0' TERM; echo start >> /ctl/log; \
                        while true; do sleep 0.05; done";
/// Hears SIGTERM, and ends when the test says so.
const PATIENT: &str =
    "trap 'echo term >> /ctl/log' TERM; while [ ! -e /ctl/end ]; do sleep 0.05; done";

async fn delete(scene: &Scene, name: &str) {
    scene.pods().delete(name, &DeleteParams::default()).await.unwrap();
}

async fn hooks_run_around_the_life_of_a_container(scene: Scene) {
    let post = hook("echo post >> /ctl/log; while [ ! -e /ctl/go ]; do sleep 0.05; done");
    let lifecycle = json!({"postStart": post, "preStop": hook("echo pre >> /ctl/log")});
    scene.create_controlled("web", LISTENER, json!({ "lifecycle": lifecycle })).await;
    // Beside its entrypoint, and not running before it is done.
    scene.until_said("log", |log| log.contains("post") && log.contains("start")).await;
    let is_created = |pod: &core::Pod| {
        let waiting = main_status(pod).and_then(|c| c.state.clone()?.waiting);
        waiting.and_then(|waiting| waiting.reason).as_deref() == Some("ContainerCreating")
    };
    let pod = scene.until("web", is_created).await;
    assert_eq!(phase(&pod), "Pending");
    scene.signal("go");
    let pod = scene.until("web", is_up).await;
    assert!(main_status(&pod).unwrap().ready);
    delete(&scene, "web").await;
    scene.until_gone("web").await;
    let log = scene.said("log");
    assert!(log.ends_with("pre\nterm\n"), "{log}");
    scene.until_told("web", "Killing").await;
    let killing =
        scene.events("web").await.into_iter().filter(|e| e.starts_with("Killing")).count();
    assert_eq!(killing, 1);
}

async fn a_failed_post_start_hook_kills_the_container(scene: Scene) {
    let lifecycle = json!({"postStart": hook("echo secret; exit 3")});
    scene.create_controlled("web", LISTENER, json!({ "lifecycle": lifecycle })).await;
    scene.until("web", |p| main_status(p).is_some_and(|c| c.restart_count > 0)).await;
    scene.until_told("web", "FailedPostStartHook PostStartHook failed: command").await;
    scene.until_told("web", "Killing FailedPostStartHook").await;
    assert!(scene.said("log").starts_with("start\nterm\n"), "{}", scene.said("log"));
    let events = scene.events("web").await;
    assert!(!events.iter().any(|event| event.contains("exited with 3: ")), "{events:?}");
    let pod = scene.pods().get("web").await.unwrap();
    assert!(!main_status(&pod).unwrap().ready);
}

async fn a_failed_pre_stop_hook_is_told_and_delays_nothing(scene: Scene) {
    let lifecycle = json!({"preStop": {"exec": {"command": ["/no/such/program"]}}});
    scene.create_controlled("web", LISTENER, json!({ "lifecycle": lifecycle })).await;
    scene.until_said("log", |log| log.contains("start")).await;
    scene.until("web", is_up).await;
    delete(&scene, "web").await;
    scene.until_gone("web").await;
    assert_eq!(scene.said("log"), "start\nterm\n");
    scene.until_told("web", "FailedPreStopHook PreStopHook failed: ").await;
}

async fn a_hook_that_takes_all_the_grace_is_given_up(scene: Scene) {
    let lifecycle = json!({"preStop": hook("echo pre >> /ctl/log; sleep 1000")});
    scene.create_controlled("web", LISTENER, json!({ "lifecycle": lifecycle })).await;
    scene.until_said("log", |log| log.contains("start")).await;
    scene.until("web", is_up).await;
    let params = DeleteParams { grace_period_seconds: Some(2), ..DeleteParams::default() };
    let began = Instant::now();
    scene.pods().delete("web", &params).await.unwrap();
    scene.until_gone("web").await;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(scene.said("log"), "start\npre\nterm\n", "it still hears its signal");
}

async fn a_new_agent_goes_on_where_the_hook_was(mut scene: Scene) {
    let wait = "echo pre >> /ctl/log; while [ ! -e /ctl/done ]; do sleep 0.05; done";
    let lifecycle = json!({"preStop": hook(wait)});
    scene.create_controlled("web", LISTENER, json!({ "lifecycle": lifecycle })).await;
    scene.until_said("log", |log| log.contains("start")).await;
    scene.until("web", is_up).await;
    delete(&scene, "web").await;
    scene.until_said("log", |log| log.contains("pre")).await;
    scene.stop_agent().await;
    scene.start_agent().await;
    // At least once, as Kubernetes promises; and the signal still comes after it.
    scene.until_said("log", |log| log.matches("pre").count() == 2).await;
    scene.signal("done");
    scene.until_gone("web").await;
    assert_eq!(scene.said("log"), "start\npre\npre\nterm\n");
}

async fn a_new_agent_does_not_ask_a_container_to_end_twice(mut scene: Scene) {
    let lifecycle = json!({"preStop": hook("echo pre >> /ctl/log")});
    scene.create_controlled("web", PATIENT, json!({ "lifecycle": lifecycle })).await;
    scene.until("web", is_up).await;
    delete(&scene, "web").await;
    scene.until_said("log", |log| log.contains("term")).await;
    scene.stop_agent().await;
    scene.start_agent().await;
    // A marker pod shows that the new agent is at work.
    scene.create_script("marker", "Never", "true").await;
    scene.until("marker", |p| phase(p) == "Succeeded").await;
    scene.signal("end");
    scene.until_gone("web").await;
    assert_eq!(scene.said("log"), "pre\nterm\n");
}

/// Answers on port 80. The listener dies with the first process, as a server that ends at once would.
const SERVER: &str = "trap 'echo term >> /ctl/log; exit 0' TERM; nc -ll -p 80 -e cat & \
                      while true; do sleep 0.05; done";

async fn a_pod_that_does_not_want_to_wait_is_told_to_stop_at_once(scene: Scene) {
    scene.create_controlled("web", SERVER, json!({"ports": [{"containerPort": 80}]})).await;
    let pod = scene.until("web", |p| main_status(p).is_some_and(|c| c.ready)).await;
    let annotation = json!({"metadata": {"annotations": {"joey/wait-for-connections": "false"}}});
    let patch = kube::api::Patch::Merge(annotation);
    scene.pods().patch("web", &kube::api::PatchParams::default(), &patch).await.unwrap();
    let address = status(&pod).pod_ip.clone().unwrap();
    let mut client = TcpStream::connect((address.as_str(), 80)).unwrap();
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    // Half of this grace would be waited for whoever holds a connection.
    let grace = DeleteParams { grace_period_seconds: Some(600), ..DeleteParams::default() };
    scene.pods().delete("web", &grace).await.unwrap();
    scene.until_gone("web").await;
    assert_eq!(scene.said("log"), "term\n");
}

async fn a_pod_is_told_to_stop_only_when_nobody_talks_to_it(scene: Scene) {
    let script = SERVER;
    scene.create_controlled("web", script, json!({"ports": [{"containerPort": 80}]})).await;
    let pod = scene.until("web", |p| main_status(p).is_some_and(|c| c.ready)).await;
    let address = status(&pod).pod_ip.clone().unwrap();
    let mut client = TcpStream::connect((address.as_str(), 80)).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut ask = move || {
        client.write_all(b"x")?;
        client.read_exact(&mut [0]).map(|()| client.try_clone())?
    };
    ask().unwrap();
    let grace = DeleteParams { grace_period_seconds: Some(20), ..DeleteParams::default() };
    scene.pods().delete("web", &grace).await.unwrap();
    // Long enough for a signal that does not wait: it would end the pod within milliseconds.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        ask().expect("the connection was cut while it was in use");
    }
    assert_eq!(scene.said("log"), "", "asked to stop while somebody talks to it");
    drop(ask);
    let ended = Instant::now();
    scene.until_gone("web").await;
    assert_eq!(scene.said("log"), "term\n");
    assert!(ended.elapsed() < Duration::from_secs(8), "{:?}", ended.elapsed());
}

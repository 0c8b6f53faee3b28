//! Lives of pods from their creation to their end.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};

use crate::scene::{Scene, main_status, phase, status};
use crate::tests;

tests![
    a_pod_runs_answers_by_its_status_and_goes_without_a_trace,
    a_crashing_container_is_restarted_at_once_and_then_after_its_backoff,
    a_pod_that_never_restarts_ends_with_its_code_and_message,
    a_container_that_cannot_run_says_why,
    a_missing_image_is_waited_for_and_found_at_once,
    configuration_reaches_the_process_and_changes_reach_its_files,
    a_pod_holds_a_token_that_names_it,
    init_containers_run_in_order_before_the_others,
    a_new_agent_takes_over_what_runs_and_what_ended_meanwhile,
    a_stubborn_container_is_killed_when_its_grace_is_over,
    a_pod_that_is_removed_by_force_leaves_nothing_running,
    a_pod_whose_shim_dies_is_restarted_and_keeps_its_address,
    after_a_reboot_pods_return_with_one_restart_more,
    after_a_reboot_a_finished_pod_gets_no_network,
    what_the_api_no_longer_knows_is_cleared_away,
    two_pods_of_one_name_never_share_anything,
    an_active_deadline_ends_a_pod,
    what_an_earlier_agent_told_is_counted_on,
    an_agent_that_comes_back_to_what_it_left_writes_nothing,
    a_shim_that_is_held_up_holds_up_nobody_and_loses_nothing,
    a_pod_that_the_node_cannot_hold_is_rejected_and_stays_so,
];

fn is_running(pod: &core::Pod) -> bool {
    phase(pod) == "Running" && main_status(pod).is_some_and(|c| c.ready)
}

fn waiting_reason(pod: &core::Pod) -> Option<String> {
    main_status(pod)?.state.as_ref()?.waiting.as_ref()?.reason.clone()
}

async fn a_pod_runs_answers_by_its_status_and_goes_without_a_trace(scene: Scene) {
    scene.create_script("web", "Always", "trap 'exit 0' TERM; echo hello; sleep 1000 & wait").await;
    let pod = scene.until("web", is_running).await;
    let seen = status(&pod);
    assert!(seen.pod_ip.as_deref().is_some_and(|ip| ip.starts_with("10.42.")), "{seen:?}");
    assert_eq!(seen.qos_class.as_deref(), Some("BestEffort"));
    let ready = seen.conditions.iter().flatten().filter(|c| c.status == "True").count();
    assert_eq!(ready, 5, "{:?}", seen.conditions);
    let main = main_status(&pod).unwrap();
    assert_eq!(main.restart_count, 0);
    assert!(main.container_id.as_deref().is_some_and(|id| id.starts_with("joey://")));
    scene.pods().delete("web", &DeleteParams::default()).await.unwrap();
    scene.until_gone("web").await;
    let uid = pod.metadata.uid.as_deref().unwrap();
    assert!(!scene.place.join("data/pods").join(uid).exists());
    assert!(!scene.place.join("run/volumes").join(uid).exists());
    assert!(scene.runtime.adopt().await.unwrap().is_empty());
    for expected in [
        "Scheduled Successfully assigned default/web to box",
        "Pulled Container image \"box:1\" already present on machine",
        "Created Created container: main",
        "Started Started container main",
        "Killing Stopping container main",
    ] {
        scene.until_told("web", expected).await;
    }
}

async fn a_crashing_container_is_restarted_at_once_and_then_after_its_backoff(scene: Scene) {
    scene.create_script("web", "Always", "exit 3").await;
    let crashed = |pod: &core::Pod| {
        waiting_reason(pod).as_deref() == Some("CrashLoopBackOff")
            && main_status(pod).is_some_and(|c| c.restart_count == 1)
    };
    let pod = scene.until("web", crashed).await;
    let main = main_status(&pod).unwrap();
    let last = main.last_state.as_ref().and_then(|s| s.terminated.as_ref()).unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (3, Some("Error")));
    let ended = last.finished_at.clone().unwrap().0;
    let pod = scene.until("web", |p| main_status(p).is_some_and(|c| c.restart_count == 2)).await;
    let main = main_status(&pod).unwrap();
    let state = main.state.as_ref().unwrap();
    let started = match (&state.running, &state.terminated, &main.last_state) {
        (Some(running), ..) => running.started_at.clone(),
        (_, Some(ended), _) => ended.started_at.clone(),
        (.., last) => last.as_ref().and_then(|s| s.terminated.as_ref()?.started_at.clone()),
    };
    let waited = started.unwrap().0.duration_since(ended).as_secs();
    assert!((9..=12).contains(&waited), "restarted after {waited} s");
}

async fn a_pod_that_never_restarts_ends_with_its_code_and_message(scene: Scene) {
    scene.create_script("good", "Never", "echo -n done > /dev/termination-log").await;
    scene.create_script("bad", "Never", "exit 9").await;
    let good = scene.until("good", |p| phase(p) == "Succeeded").await;
    let ended = |pod: &core::Pod| {
        main_status(pod).and_then(|c| c.state.clone()?.terminated).expect("terminated")
    };
    let end = ended(&good);
    assert_eq!((end.exit_code, end.reason.as_deref()), (0, Some("Completed")));
    assert_eq!(end.message.as_deref(), Some("done"));
    let bad = scene.until("bad", |p| phase(p) == "Failed").await;
    let end = ended(&bad);
    assert_eq!((end.exit_code, end.reason.as_deref()), (9, Some("Error")));
}

async fn a_container_that_cannot_run_says_why(scene: Scene) {
    let container = json!({"name": "main", "image": "box:1", "command": ["/no/such/program"]});
    scene.create("web", json!({"restartPolicy": "Never", "containers": [container]})).await;
    let pod = scene.until("web", |p| phase(p) == "Failed").await;
    let end = main_status(&pod).and_then(|c| c.state.clone()?.terminated).unwrap();
    assert_eq!((end.exit_code, end.reason.as_deref()), (128, Some("StartError")));
    assert!(end.message.unwrap().contains("/no/such/program"));
    let container = json!({"name": "main", "image": "box:1",
        "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "late", "key": "a"}}}]});
    scene
        .create("late", json!({"terminationGracePeriodSeconds": 0, "containers": [container]}))
        .await;
    let refused =
        |p: &core::Pod| waiting_reason(p).as_deref() == Some("CreateContainerConfigError");
    let pod = scene.until("late", refused).await;
    let message = main_status(&pod).and_then(|c| c.state.clone()?.waiting?.message).unwrap();
    assert_eq!(message, "configmap \"late\" not found");
    // It starts as soon as what was missing is there, not after the next back-off.
    let began = Instant::now();
    create_map(&scene, "late", json!({"a": "1"})).await;
    scene.until("late", is_running).await;
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
}

async fn create_map(scene: &Scene, name: &str, data: Value) {
    let maps: kube::Api<core::ConfigMap> = kube::Api::default_namespaced(scene.client.clone());
    let map = serde_json::from_value(json!({"metadata": {"name": name}, "data": data})).unwrap();
    maps.create(&PostParams::default(), &map).await.unwrap();
}

async fn a_missing_image_is_waited_for_and_found_at_once(scene: Scene) {
    let container = json!({"name": "main", "image": "localhost:1/late:2"});
    scene
        .create("web", json!({"terminationGracePeriodSeconds": 0, "containers": [container]}))
        .await;
    let in_backoff = |p: &core::Pod| waiting_reason(p).as_deref() == Some("ImagePullBackOff");
    scene.until("web", in_backoff).await;
    let began = Instant::now();
    scene.import("localhost:1/late:2").await;
    scene.until("web", is_running).await;
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    let container = json!({"name": "main", "image": "none:1", "imagePullPolicy": "Never"});
    scene.create("never", json!({"containers": [container]})).await;
    let never = |p: &core::Pod| waiting_reason(p).as_deref() == Some("ErrImageNeverPull");
    scene.until("never", never).await;
}

async fn configuration_reaches_the_process_and_changes_reach_its_files(scene: Scene) {
    create_map(&scene, "settings", json!({"colour": "green"})).await;
    scene
        .create(
            "web",
            json!({
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 0,
                "securityContext": {"runAsUser": 1000, "fsGroup": 2000},
                "volumes": [
                    {"name": "conf", "configMap": {"name": "settings"}},
                    {"name": "scratch", "emptyDir": {}},
                ],
                "containers": [{
                    "name": "main",
                    "image": "box:1",
                    "env": [
                        {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "colour"}}},
                        {"name": "TEXT", "value": "$(COLOUR) $(NONE)"},
                        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    ],
                    "volumeMounts": [
                        {"name": "conf", "mountPath": "/conf"},
                        {"name": "scratch", "mountPath": "/scratch"},
                    ],
                    "command": ["sh", "-c",
                        "echo $TEXT; echo $IP; id; echo 1 > /scratch/x && ls -ln /scratch; cat /conf/colour; echo; \
                         hostname; cat /etc/hosts; while [ $(cat /conf/colour) = green ]; do sleep 0.1; done; \
                         cat /conf/colour"],
                }],
            }),
        )
        .await;
    let pod = scene.until("web", is_running).await;
    let maps: kube::Api<core::ConfigMap> = kube::Api::default_namespaced(scene.client.clone());
    let patch = kube::api::Patch::Merge(json!({"data": {"colour": "blue"}}));
    maps.patch("settings", &Default::default(), &patch).await.unwrap();
    scene.until("web", |p| phase(p) == "Succeeded").await;
    let log = scene.log(&pod, 0);
    let ip = status(&pod).pod_ip.clone().unwrap();
    for expected in [
        "green $(NONE)",
        ip.as_str(),
        "uid=1000(app) gid=1000",
        "groups=1000,2000",
        "2000",
        "web",
        "blue",
    ] {
        assert!(log.contains(expected), "no {expected:?} in:\n{log}");
    }
    assert!(log.contains(&format!("{ip}\tweb")), "{log}");
}

async fn a_pod_holds_a_token_that_names_it(scene: Scene) {
    let script = "cd /var/run/secrets/kubernetes.io/serviceaccount; cat token > /ctl/token; \
                  cat namespace > /ctl/namespace; cat ca.crt > /ctl/ca; sleep 1000";
    scene.create_controlled("web", script, json!({})).await;
    scene.until_said("ca", |ca| !ca.is_empty()).await;
    assert_eq!(scene.said("namespace"), "default");
    assert!(scene.said("ca").starts_with("-----BEGIN CERTIFICATE-----"));
    // What the API makes of it is in the story; here, whom it names.
    let token = scene.said("token");
    let claims = base64::Engine::decode(
        &base64::engine::general_purpose::URL_SAFE_NO_PAD,
        token.split('.').nth(1).unwrap(),
    );
    let claims: Value = serde_json::from_slice(&claims.unwrap()).unwrap();
    assert_eq!(claims["sub"], "system:serviceaccount:default:default");
    let pod = scene.pods().get("web").await.unwrap();
    assert_eq!(claims["kubernetes.io"]["pod"]["uid"].as_str(), pod.metadata.uid.as_deref());
    let life = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
    assert_eq!(life, 3607);

    let none = json!({"automountServiceAccountToken": false, "restartPolicy": "Never", "containers": [
        {"name": "main", "image": "box:1", "command": ["ls", "/var/run/secrets"]}]});
    scene.create("without", none).await;
    scene.until("without", |p| phase(p) == "Failed").await;
}

async fn init_containers_run_in_order_before_the_others(scene: Scene) {
    let step = |name: &str, script: &str| {
        json!({"name": name, "image": "box:1", "command": ["sh", "-c", script],
               "volumeMounts": [{"name": "v", "mountPath": "/v"}]})
    };
    scene
        .create(
            "web",
            json!({
                "restartPolicy": "Never",
                "volumes": [{"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}],
                "initContainers": [step("one", "echo one >> /v/x"), step("two", "echo two >> /v/x")],
                "containers": [step("main", "cat /v/x")],
            }),
        )
        .await;
    let pod = scene.until("web", |p| phase(p) == "Succeeded").await;
    assert_eq!(scene.log(&pod, 0), "one\ntwo");
    let inits = status(&pod).init_container_statuses.as_ref().unwrap();
    assert!(inits.iter().all(|c| c.ready && c.restart_count == 0));
}

async fn a_new_agent_takes_over_what_runs_and_what_ended_meanwhile(mut scene: Scene) {
    scene.create_script("runs", "Always", "sleep 1000").await;
    scene.create_script("ends", "Never", "while [ ! -e /tmp/x ]; do sleep 0.1; done; exit 7").await;
    scene.until("runs", is_running).await;
    scene.until("ends", is_running).await;
    let before = scene.main_pid("runs").await;
    let ends = scene.main_pid("ends").await;
    scene.stop_agent().await;
    std::fs::create_dir_all(format!("/proc/{ends}/root/tmp")).unwrap();
    std::fs::write(format!("/proc/{ends}/root/tmp/x"), "").unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::path::Path::new(&format!("/proc/{ends}/root/tmp/x")).exists() {
        assert!(Instant::now() < deadline, "it does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    scene.start_agent().await;
    let pod = scene.until("ends", |p| phase(p) == "Failed").await;
    let end = main_status(&pod).and_then(|c| c.state.clone()?.terminated).unwrap();
    assert_eq!(end.exit_code, 7);
    let pod = scene.until("runs", is_running).await;
    assert_eq!(main_status(&pod).unwrap().restart_count, 0);
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        // The snapshot is there as soon as the worker has taken over.
        let found = std::panic::AssertUnwindSafe(scene.main_pid("runs"));
        if let Ok(pid) = futures::FutureExt::catch_unwind(found).await {
            assert_eq!(pid, before);
            break;
        }
        assert!(Instant::now() < deadline, "nobody took over");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn a_stubborn_container_is_killed_when_its_grace_is_over(scene: Scene) {
    scene.create_script("web", "Always", "trap '' TERM; while true; do sleep 0.1; done").await;
    scene.until("web", is_running).await;
    let began = Instant::now();
    let params = DeleteParams { grace_period_seconds: Some(2), ..DeleteParams::default() };
    scene.pods().delete("web", &params).await.unwrap();
    scene.until_gone("web").await;
    let took = began.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(6)).contains(&took), "{took:?}");
}

async fn a_pod_that_is_removed_by_force_leaves_nothing_running(scene: Scene) {
    scene.create_script("web", "Always", "trap '' TERM; while true; do sleep 0.1; done").await;
    scene.until("web", is_running).await;
    let pid = scene.main_pid("web").await;
    let params = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    scene.pods().delete("web", &params).await.unwrap();
    scene.until_gone("web").await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::path::Path::new(&format!("/proc/{pid}")).exists()
        || !scene.runtime.adopt().await.unwrap().is_empty()
    {
        assert!(Instant::now() < deadline, "it still runs");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn parent_of(pid: u32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    after_name.split_whitespace().nth(1).unwrap().parse().unwrap()
}

async fn a_pod_whose_shim_dies_is_restarted_and_keeps_its_address(scene: Scene) {
    scene.create_script("web", "Always", "sleep 1000").await;
    let before = scene.until("web", is_running).await;
    let shim = parent_of(scene.main_pid("web").await);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    let restarted =
        |p: &core::Pod| is_running(p) && main_status(p).is_some_and(|c| c.restart_count == 1);
    let pod = scene.until("web", restarted).await;
    assert_eq!(status(&pod).pod_ip, status(&before).pod_ip);
    let last = main_status(&pod).and_then(|c| c.last_state.clone()?.terminated).unwrap();
    assert_eq!(last.exit_code, 137);
    scene.pods().delete("web", &DeleteParams::default()).await.unwrap();
    scene.until_gone("web").await;
}

async fn after_a_reboot_pods_return_with_one_restart_more(mut scene: Scene) {
    let script = |name: &str, script: &str| json!({"name": name, "image": "box:1", "command": ["sh", "-c", script]});
    scene
        .create(
            "web",
            json!({
                "terminationGracePeriodSeconds": 0,
                "initContainers": [script("first", "true")],
                "containers": [script("main", "sleep 1000")],
            }),
        )
        .await;
    scene.until("web", is_running).await;
    scene.stop_agent().await;
    for found in scene.runtime.adopt().await.unwrap() {
        scene.forget_network(found.plan.uid.as_str()).await;
        found.pod.remove().await.unwrap();
    }
    scene.start_agent().await;
    let restarted =
        |p: &core::Pod| is_running(p) && main_status(p).is_some_and(|c| c.restart_count == 1);
    let pod = scene.until("web", restarted).await;
    let inits = status(&pod).init_container_statuses.as_ref().unwrap();
    assert_eq!((inits[0].restart_count, inits[0].ready), (1, true));
    let last = main_status(&pod).and_then(|c| c.last_state.clone()?.terminated).unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (137, Some("ContainerStatusUnknown")));
}

async fn after_a_reboot_a_finished_pod_gets_no_network(mut scene: Scene) {
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
    scene.create_script("job", "Never", "true").await;
    let pod = scene.until("job", |pod| phase(pod) == "Succeeded").await;
    let uid = pod.metadata.uid.unwrap();
    scene.until_detached(&uid).await;
    scene.stop_agent().await;
    // The machine went down before the end of the address was durable.
    scene.leave_only_the_address(&uid).await;
    let namespaces = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).unwrap();
    namespaces.add_watch(&scene.place.join("run/netns"), AddWatchFlags::IN_CREATE).unwrap();
    scene.start_agent().await;
    scene.until_detached(&uid).await;
    assert_eq!(namespaces.read_events().map(|events| events.len()), Err(nix::Error::EAGAIN));
}

async fn what_the_api_no_longer_knows_is_cleared_away(mut scene: Scene) {
    scene.create_script("web", "Always", "trap '' TERM; while true; do sleep 0.1; done").await;
    let pod = scene.until("web", is_running).await;
    scene.stop_agent().await;
    let params = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    scene.pods().delete("web", &params).await.unwrap();
    scene.until_gone("web").await;
    scene.start_agent().await;
    let directory = scene.place.join("data/pods").join(pod.metadata.uid.as_deref().unwrap());
    let deadline = Instant::now() + Duration::from_secs(20);
    while directory.exists() || !scene.runtime.adopt().await.unwrap().is_empty() {
        assert!(Instant::now() < deadline, "it is still there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn two_pods_of_one_name_never_share_anything(scene: Scene) {
    scene
        .create_script("web", "Always", "trap '' TERM; echo first; while true; do sleep 0.1; done")
        .await;
    let first = scene.until("web", is_running).await;
    let params = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    scene.pods().delete("web", &params).await.unwrap();
    // The first one's processes still run when the second comes.
    scene.create_script("web", "Always", "echo second; sleep 1000").await;
    let second = scene.until("web", is_running).await;
    assert_ne!(first.metadata.uid, second.metadata.uid);
    assert_ne!(status(&first).pod_ip, status(&second).pod_ip);
    assert_eq!(main_status(&second).unwrap().restart_count, 0);
    let deadline = Instant::now() + Duration::from_secs(20);
    while scene.runtime.adopt().await.unwrap().len() > 1 {
        assert!(Instant::now() < deadline, "the first one is still there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(scene.log(&second, 0), "second");
    scene.until("web", is_running).await;
    assert!(scene.main_pid("web").await > 0);
}

async fn an_active_deadline_ends_a_pod(scene: Scene) {
    let container = json!({"name": "main", "image": "box:1"});
    scene
        .create(
            "web",
            json!({
                "activeDeadlineSeconds": 2,
                "terminationGracePeriodSeconds": 1,
                "containers": [container],
            }),
        )
        .await;
    let pod = scene.until("web", |p| phase(p) == "Failed").await;
    assert_eq!(status(&pod).reason.as_deref(), Some("DeadlineExceeded"));
    let ended = |p: &core::Pod| {
        main_status(p).is_some_and(|c| c.state.as_ref().is_some_and(|s| s.terminated.is_some()))
    };
    scene.until("web", ended).await;
}

async fn what_an_earlier_agent_told_is_counted_on(mut scene: Scene) {
    let container = json!({"name": "main", "image": "absent:1", "imagePullPolicy": "Never"});
    scene.create("web", json!({ "containers": [container] })).await;
    let api: kube::Api<core::Event> = kube::Api::default_namespaced(scene.client.clone());
    let mut before = 0;
    for _ in 1..=3 {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let events = api.list(&ListParams::default()).await.unwrap().items;
            let told = |event: &&core::Event| event.reason.as_deref() == Some("ErrImageNeverPull");
            let counts: Vec<_> = events.iter().filter(told).map(|event| event.count).collect();
            assert!(counts.len() <= 1, "told anew: {counts:?}");
            if let [Some(count)] = counts[..]
                && count > before
            {
                before = count;
                break;
            }
            assert!(Instant::now() < deadline, "{counts:?}, and {before} before this start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        scene.stop_agent().await;
        scene.start_agent().await;
    }
}

async fn an_agent_that_comes_back_to_what_it_left_writes_nothing(mut scene: Scene) {
    scene.create_script("web", "Always", "exec sleep 1000").await;
    scene.until("web", is_running).await;
    let leases: kube::Api<Lease> = kube::Api::namespaced(scene.client.clone(), "kube-node-lease");
    let all = ListParams::default();
    let deadline = Instant::now() + Duration::from_secs(60);
    // The last things that a start writes, and a pod.
    while leases.list(&all).await.unwrap().items.is_empty()
        || !scene.events("web").await.iter().any(|event| event.starts_with("Started "))
    {
        assert!(Instant::now() < deadline, "the start does not come to its end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    scene.stop_agent().await;
    let before = leases.list(&all).await.unwrap();
    scene.start_agent().await;
    let after = loop {
        let now = leases.list(&all).await.unwrap();
        if now.items[0].spec != before.items[0].spec {
            break now;
        }
        assert!(Instant::now() < deadline, "the lease is not renewed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    // Of all that is in the API, the renewal ten seconds later is the first to change.
    let revision = |text: Option<String>| text.unwrap().parse::<u64>().unwrap();
    let left = revision(before.metadata.resource_version);
    let nodes = kube::Api::<core::Node>::all(scene.client.clone()).list(&all).await.unwrap();
    let events = kube::Api::<core::Event>::all(scene.client.clone()).list(&all).await.unwrap();
    let is_new = |metadata: &ObjectMeta| revision(metadata.resource_version.clone()) > left;
    let nodes: Vec<_> = nodes.items.iter().filter(|node| is_new(&node.metadata)).collect();
    let events: Vec<_> = events.items.iter().filter(|event| is_new(&event.metadata)).collect();
    let renewed = revision(after.items[0].metadata.resource_version.clone());
    assert_eq!(renewed, left + 1, "written: {nodes:#?} {events:#?}");
}

async fn a_shim_that_is_held_up_holds_up_nobody_and_loses_nothing(mut scene: Scene) {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    scene.create_script("web", "Always", "exec sleep 1000").await;
    scene.until("web", is_running).await;
    let main = scene.main_pid("web").await;
    let stat = std::fs::read_to_string(format!("/proc/{main}/stat")).unwrap();
    let after_name = stat.rsplit(") ").next().unwrap();
    let shim: i32 = after_name.split(' ').nth(1).unwrap().parse().unwrap();
    scene.stop_agent().await;
    kill(Pid::from_raw(shim), Signal::SIGSTOP).unwrap();
    scene.start_agent().await;
    // Others come and go meanwhile, so whatever was to be done about the first list has been done.
    scene.create_script("other", "Always", "exec sleep 1000").await;
    scene.until("other", is_running).await;
    kill(Pid::from_raw(shim), Signal::SIGCONT).unwrap();
    // It has been adopted when its end is heard of; and it had not ended before.
    kill(Pid::from_raw(i32::try_from(main).unwrap()), Signal::SIGKILL).unwrap();
    let again = |pod: &core::Pod| {
        is_running(pod) && main_status(pod).is_some_and(|main| main.restart_count == 1)
    };
    let pod = scene.until("web", again).await;
    let last = main_status(&pod).and_then(|main| main.last_state.clone()?.terminated).unwrap();
    assert_eq!((last.exit_code, last.message), (137, None), "the shim has told it");
}

async fn a_pod_that_the_node_cannot_hold_is_rejected_and_stays_so(mut scene: Scene) {
    let container = |resources: Value, port: u16| {
        json!([{"name": "main", "image": "box:1", "command": ["sh", "-c", "exec sleep 1000"],
                "resources": resources, "ports": [{"containerPort": 80, "hostPort": port}]}])
    };
    let big = json!({"requests": {"cpu": "5000"}});
    // Past the scheduler.
    let chosen = |containers: Value| json!({"nodeName": "box", "containers": containers});
    scene.create("big", chosen(container(big, 8080))).await;
    scene.create("own", chosen(container(json!({}), 6443))).await;
    let elsewhere = json!({"nodeName": "box", "nodeSelector": {"disk": "tape"},
        "containers": container(json!({}), 8081)});
    scene.create("elsewhere", elsewhere).await;
    for (name, reason) in [("big", "OutOfcpu"), ("own", "NodePorts"), ("elsewhere", "NodeAffinity")]
    {
        let pod = scene.until(name, |pod| phase(pod) == "Failed").await;
        let seen = status(&pod);
        assert_eq!(seen.reason.as_deref(), Some(reason));
        assert!(
            seen.message.as_ref().is_some_and(|m| m.starts_with("Pod was rejected: ")),
            "{seen:?}"
        );
        assert!(seen.container_statuses.is_none(), "{seen:?}");
        scene.until_told(name, &format!("{reason} ")).await;
    }
    scene.stop_agent().await;
    scene.start_agent().await;
    // Who is taken is taken on, and beside nobody who was not.
    scene.create("fits", chosen(container(json!({"requests": {"cpu": "100m"}}), 8080))).await;
    scene.until("fits", is_running).await;
    for name in ["big", "own", "elsewhere"] {
        assert_eq!(phase(&scene.pods().get(name).await.unwrap()), "Failed");
        scene.pods().delete(name, &DeleteParams::default()).await.unwrap();
        scene.until_gone(name).await;
    }
}

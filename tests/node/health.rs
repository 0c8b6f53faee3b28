//! Probes of every kind against real processes and servers, and what follows from them.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use joey::net::DataPlane;
use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::scene::{Scene, main_status, phase, status};
use crate::tests;

tests![
    readiness_follows_its_probe_and_says_why_not,
    a_failed_liveness_probe_restarts_the_container,
    a_startup_probe_holds_the_others_back,
    a_command_that_takes_too_long_is_killed_and_counts_as_a_failure,
    a_probe_asks_as_kubelet_does,
    a_container_with_ports_is_ready_once_they_are_listened_on,
    a_new_agent_keeps_what_probes_said_and_restarts_nothing,
    readiness_gates_are_anded,
    nobody_is_led_to_a_pod_whose_process_has_just_died,
];

/// A data plane that writes down what it is told.
#[derive(Default)]
struct Notes(Mutex<Vec<(&'static str, IpAddr)>>);

impl Notes {
    fn told(&self) -> Vec<(&'static str, IpAddr)> {
        self.0.lock().expect("nobody panics while it holds this").clone()
    }
}

impl DataPlane for Notes {
    fn name(&self) -> &'static str {
        "notes"
    }

    fn without(&self, _: IpAddr) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn withhold(&self, address: IpAddr) {
        self.0.lock().expect("nobody panics while it holds this").push(("out", address));
    }

    fn release(&self, address: IpAddr) {
        self.0.lock().expect("nobody panics while it holds this").push(("back", address));
    }
}

fn is_ready(pod: &core::Pod) -> bool {
    let ready = status(pod).conditions.iter().flatten().find(|c| c.type_ == "Ready");
    let ready = ready.is_some_and(|c| c.status == "True");
    assert!(!ready || main_status(pod).is_some_and(|c| c.ready), "ready without its container");
    ready
}

fn is_up(pod: &core::Pod) -> bool {
    main_status(pod).is_some_and(|c| c.state.as_ref().is_some_and(|s| s.running.is_some()))
}

fn restarts(pod: &core::Pod) -> i32 {
    main_status(pod).map_or(0, |c| c.restart_count)
}

/// Serves `/ctl` over HTTP once `/ctl/go` is there.
const SERVER: &str = "while [ ! -e /ctl/go ]; do sleep 0.05; done; exec httpd -f -p 80 -h /ctl";

async fn readiness_follows_its_probe_and_says_why_not(scene: Scene) {
    let probe = json!({
        "httpGet": {"path": "/ready", "port": "http"},
        "periodSeconds": 1, "failureThreshold": 1,
    });
    let ports = json!([{"name": "http", "containerPort": 80}]);
    scene.create_controlled("web", SERVER, json!({"readinessProbe": probe, "ports": ports})).await;
    let pod = scene.until("web", is_up).await;
    assert!(!is_ready(&pod));
    assert_eq!(main_status(&pod).unwrap().started, Some(true));
    let address = status(&pod).pod_ip.clone().unwrap();
    scene
        .until_told(
            "web",
            &format!(
                "Unhealthy Readiness probe failed: Get \"http://{address}:80/ready\": dial tcp {address}:80: connect: connection refused"
            ),
        )
        .await;
    scene.signal("ready");
    scene.signal("go");
    scene.until("web", is_ready).await;
    std::fs::remove_file(scene.control().join("ready")).unwrap();
    let pod = scene.until("web", |p| !is_ready(p)).await;
    let message = |kind: &str| {
        let found = status(&pod).conditions.iter().flatten().find(|c| c.type_ == kind);
        found.and_then(|c| c.message.clone())
    };
    assert_eq!(message("Ready").as_deref(), Some("containers with unready status: [main]"));
    scene
        .until_told(
            "web",
            "Unhealthy Readiness probe failed: HTTP probe failed with statuscode: 404",
        )
        .await;
    scene.signal("ready");
    let pod = scene.until("web", is_ready).await;
    assert_eq!(restarts(&pod), 0, "readiness restarts nothing");
}

async fn a_failed_liveness_probe_restarts_the_container(scene: Scene) {
    let script = "trap 'echo term >> /ctl/log; exit 0' TERM; echo start >> /ctl/log; \
                  while true; do sleep 0.05; done";
    let probe = json!({
        "exec": {"command": ["sh", "-c", "echo not well; [ ! -e /ctl/sick ]"]},
        "periodSeconds": 1, "failureThreshold": 2,
    });
    scene.create_controlled("web", script, json!({ "livenessProbe": probe })).await;
    scene.until("web", is_ready).await;
    scene.signal("sick");
    scene.until_told("web", "Unhealthy Liveness probe failed: not well").await;
    scene
        .until_told("web", "Killing Container main failed liveness probe, will be restarted")
        .await;
    std::fs::remove_file(scene.control().join("sick")).unwrap();
    let pod = scene.until("web", |p| restarts(p) == 1 && is_ready(p)).await;
    let last = main_status(&pod).and_then(|c| c.last_state.clone()?.terminated).unwrap();
    assert_eq!(last.exit_code, 0, "it was asked to end before it was killed");
    assert_eq!(scene.said("log"), "start\nterm\nstart\n");
}

async fn a_startup_probe_holds_the_others_back(scene: Scene) {
    let say = |word: &str, and: &str| json!({"command": ["sh", "-c", format!("echo {word} >> /ctl/log; {and}")]});
    let probes = json!({
        "startupProbe": {"exec": say("startup", "[ -e /ctl/up ]"), "periodSeconds": 1, "failureThreshold": 60},
        "livenessProbe": {"exec": say("liveness", "true"), "periodSeconds": 1},
        "readinessProbe": {"exec": say("readiness", "true"), "periodSeconds": 1},
    });
    scene.create_controlled("web", "sleep 1000", probes).await;
    scene.until_said("log", |log| log.lines().count() >= 3).await;
    let pod = scene.until("web", is_up).await;
    let main = main_status(&pod).unwrap();
    assert_eq!((main.started, main.ready), (Some(false), false));
    assert!(scene.said("log").lines().all(|line| line == "startup"), "{}", scene.said("log"));
    scene.signal("up");
    let pod = scene.until("web", is_ready).await;
    assert_eq!(main_status(&pod).unwrap().started, Some(true));
    scene.until_said("log", |log| log.contains("liveness")).await;
    assert_eq!(restarts(&pod), 0);
}

async fn a_command_that_takes_too_long_is_killed_and_counts_as_a_failure(scene: Scene) {
    let probe = json!({
        "exec": {"command": ["sh", "-c", "echo begun >> /ctl/log; sleep 86399; true"]},
        "timeoutSeconds": 1, "periodSeconds": 1, "failureThreshold": 1000,
    });
    scene.create_controlled("web", "sleep 1000", json!({ "readinessProbe": probe })).await;
    scene.until_told("web", "Unhealthy Readiness probe failed: command timed out: ").await;
    scene.until_said("log", |log| log.lines().count() >= 3).await;
    // Only the newest may still be there, with its shell.
    let sleeping = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .filter(|line| line.starts_with(b"sleep\x0086399\0"))
        .count();
    assert!(sleeping <= 1, "{sleeping} commands of probes were left behind");
    assert!(!is_ready(&scene.pods().get("web").await.unwrap()));
}

type Heard = tokio::sync::mpsc::UnboundedReceiver<(String, HeaderMap)>;

/// An HTTP server of ours on the node, which is where probes of pods in the host's network go.
async fn serve(port: u16, answer: fn(&str) -> Response<Full<Bytes>>) -> Heard {
    let listener = TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))).await.unwrap();
    let (tell, heard) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let tell = tell.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let uri = request.uri().to_string();
                let _ = tell.send((uri.clone(), request.headers().clone()));
                async move { Ok::<_, Infallible>(answer(&uri)) }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    heard
}

/// grpc.health.v1.Health of a server that is well, and of "sick", which is not.
async fn serve_grpc(port: u16) {
    let listener = TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(|request: Request<Incoming>| async {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                let asked = request.into_body().collect().await.unwrap().to_bytes();
                let status = if asked.ends_with(b"sick") { 2 } else { 1 };
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                let frames = [
                    Ok::<_, Infallible>(Frame::data(Bytes::from(vec![0, 0, 0, 0, 2, 8, status]))),
                    Ok(Frame::trailers(trailers)),
                ];
                let body = StreamBody::new(futures::stream::iter(frames));
                Ok::<_, Infallible>(
                    Response::builder()
                        .header("content-type", "application/grpc")
                        .body(body)
                        .unwrap(),
                )
            });
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
}

/// A TLS server with a certificate that nobody knows.
async fn serve_tls(port: u16) {
    let made = rcgen::generate_simple_self_signed(["nobody.example".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(
        rustls::crypto::ring::default_provider().into(),
    )
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(vec![made.cert.der().clone()], key)
    .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let service = service_fn(|_: Request<Incoming>| async {
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
}

fn on_the_host(name: &str, probe: Value) -> Value {
    json!({
        "hostNetwork": true,
        "terminationGracePeriodSeconds": 1,
        "containers": [{
            "name": "main", "image": "box:1", "command": ["sleep", "1000"],
            "env": [{"name": "WHICH", "value": name}],
            "readinessProbe": probe,
        }],
    })
}

async fn a_probe_asks_as_kubelet_does(scene: Scene) {
    let mut heard = serve(8101, |uri| {
        let (status, location) = match uri {
            "/moved" => (302, "/well?again=1"),
            "/away" => (302, "http://192.0.2.9/"),
            "/loop" => (302, "/loop"),
            "/sick" => (500, ""),
            _ => (204, ""),
        };
        let answer = Response::builder().status(status);
        let answer = if location.is_empty() { answer } else { answer.header("location", location) };
        answer.body(Full::new(Bytes::from("body"))).unwrap()
    })
    .await;
    serve_grpc(8102).await;
    serve_tls(8103).await;
    let http = |path: &str| json!({"httpGet": {"port": 8101, "path": path}, "periodSeconds": 1});
    let headers = json!({"httpGet": {"port": 8101, "path": "/head", "httpHeaders": [
        {"name": "Host", "value": "shop.example"}, {"name": "X-Two", "value": "a"},
        {"name": "X-Two", "value": "b"}, {"name": "User-Agent", "value": "me"},
        {"name": "Accept", "value": ""}]}, "periodSeconds": 1});
    let grpc =
        |service: &str| json!({"grpc": {"port": 8102, "service": service}, "periodSeconds": 1});
    let tls = json!({"httpGet": {"port": 8103, "scheme": "HTTPS"}, "periodSeconds": 1});
    for (name, probe, told) in [
        ("moved", http("/moved"), None),
        (
            "away",
            http("/away"),
            Some(
                "ProbeWarning Readiness probe warning: Probe terminated redirects, Response body: body",
            ),
        ),
        ("headers", headers, None),
        ("tls", tls, None),
        ("grpc", grpc(""), None),
        ("tcp", json!({"tcpSocket": {"port": 8101}}), None),
    ] {
        scene.create(name, on_the_host(name, probe)).await;
        scene.until(name, is_ready).await;
        if let Some(told) = told {
            scene.until_told(name, told).await;
        }
    }
    for (name, probe, told) in [
        ("sick", http("/sick"), "HTTP probe failed with statuscode: 500"),
        ("loop", http("/loop"), "stopped after 10 redirects"),
        ("grpc-sick", grpc("sick"), "service unhealthy (responded with \"NOT_SERVING\")"),
        ("not-tls", json!({"httpGet": {"port": 8101, "scheme": "HTTPS"}}), "Get \"https://"),
        ("not-grpc", json!({"grpc": {"port": 8101}}), "failed to connect service"),
        ("closed", json!({"tcpSocket": {"port": 8109}}), ":8109: connect: connection refused"),
    ] {
        scene.create(name, on_the_host(name, probe)).await;
        scene.until_told(name, told).await;
        assert!(!is_ready(&scene.pods().get(name).await.unwrap()), "{name}");
    }
    let mut seen = std::collections::BTreeMap::new();
    while let Ok((uri, headers)) = heard.try_recv() {
        seen.entry(uri).or_insert(headers);
    }
    let plain = &seen["/moved"];
    assert!(plain["user-agent"].to_str().unwrap().starts_with("kube-probe/"), "{plain:?}");
    assert!(plain["host"].to_str().unwrap().ends_with(":8101"), "{plain:?}");
    assert_eq!(
        (&plain["accept"], &plain["connection"]),
        (&"*/*".parse().unwrap(), &"close".parse().unwrap())
    );
    assert!(seen.contains_key("/well?again=1"), "a redirect to the same host is followed");
    let own = &seen["/head"];
    assert_eq!(
        (&own["host"], &own["user-agent"]),
        (&"shop.example".parse().unwrap(), &"me".parse().unwrap())
    );
    assert_eq!(own.get_all("x-two").iter().count(), 2);
    assert!(own.get("accept").is_none(), "an empty value takes the header away");
}

async fn a_container_with_ports_is_ready_once_they_are_listened_on(scene: Scene) {
    let ports = json!({"ports": [{"containerPort": 80}]});
    scene.create_controlled("web", SERVER, ports.clone()).await;
    let pod = scene.until("web", is_up).await;
    assert!(!is_ready(&pod), "nobody listens yet");
    scene.signal("go");
    scene.until("web", is_ready).await;

    // One that never does is not held back for ever, one that says so not at all.
    scene.create_controlled("mute", "sleep 1000", ports).await;
    let pod = scene.until("mute", is_up).await;
    assert!(!is_ready(&pod));
    let pod = scene.until("mute", is_ready).await;
    let main = main_status(&pod).unwrap();
    let started = main.state.clone().unwrap().running.unwrap().started_at.unwrap();
    let ready = status(&pod).conditions.clone().unwrap();
    let ready = ready.iter().find(|c| c.type_ == "Ready").unwrap().last_transition_time.clone();
    let waited = ready.unwrap().0.duration_since(started.0).as_secs();
    assert!((9..14).contains(&waited), "{waited}");
}

async fn a_new_agent_keeps_what_probes_said_and_restarts_nothing(mut scene: Scene) {
    let command = json!({"command": ["sh", "-c", "echo asked >> /ctl/log; [ ! -e /ctl/sick ]"]});
    let probe =
        |failures: u32| json!({"exec": command, "periodSeconds": 1, "failureThreshold": failures});
    let probes =
        json!({"livenessProbe": probe(3), "readinessProbe": probe(1000), "startupProbe": probe(5)});
    scene.create_controlled("web", "sleep 1000", probes).await;
    let before = scene.until("web", is_ready).await;
    scene.stop_agent().await;
    let asked = scene.said("log").lines().count();
    scene.signal("sick");
    scene.start_agent().await;
    // Asked again, by the new one; startup, which had succeeded, is not made a second time or it would restart.
    scene.until_said("log", |log| log.lines().count() >= asked + 2).await;
    let pod = scene.pods().get("web").await.unwrap();
    assert_eq!(restarts(&pod), 0, "{:?}", scene.events("web").await);
    assert!(is_ready(&pod), "two failures are not a thousand");
    std::fs::remove_file(scene.control().join("sick")).unwrap();
    let now = scene.said("log").lines().count();
    scene.until_said("log", |log| log.lines().count() >= now + 6).await;
    let pod = scene.pods().get("web").await.unwrap();
    assert_eq!(restarts(&pod), 0);
    let when = |pod: &core::Pod| {
        let ready = status(pod).conditions.clone().unwrap();
        ready.into_iter().find(|c| c.type_ == "Ready").unwrap().last_transition_time
    };
    assert_eq!(when(&pod), when(&before), "it was ready throughout");
}

async fn readiness_gates_are_anded(scene: Scene) {
    let spec = json!({
        "readinessGates": [{"conditionType": "example.com/fed"}],
        "containers": [{"name": "main", "image": "box:1", "command": ["sleep", "1000"]}],
    });
    scene.create("web", spec).await;
    let pod = scene.until("web", |p| main_status(p).is_some_and(|c| c.ready)).await;
    assert!(!is_ready(&pod));
    let fed = json!({"status": {"conditions": [{"type": "example.com/fed", "status": "True"}]}});
    let patch = kube::api::Patch::Strategic(&fed);
    scene.pods().patch_status("web", &Default::default(), &patch).await.unwrap();
    let pod = scene.until("web", is_ready).await;
    assert_eq!(phase(&pod), "Running");
}

async fn nobody_is_led_to_a_pod_whose_process_has_just_died(scene: Scene) {
    let notes = Arc::new(Notes::default());
    scene.network.register(notes.clone());
    let mortal = "while [ ! -e /ctl/crash ]; do sleep 0.05; done; rm /ctl/crash; exit 1";
    scene.create_controlled("web", mortal, json!({})).await;
    let pod = scene.until("web", is_ready).await;
    let address: IpAddr = status(&pod).pod_ip.as_ref().unwrap().parse().unwrap();
    assert_eq!(notes.told(), [], "all is well");
    scene.signal("crash");
    scene.until("web", |pod| main_status(pod).is_some_and(|c| c.restart_count == 1)).await;
    scene.until("web", is_ready).await;
    // It comes back when it is ready again, at the latest when the API had its time.
    let deadline = Instant::now() + Duration::from_secs(30);
    while notes.told() != [("out", address), ("back", address)] {
        assert!(Instant::now() < deadline, "{:?}", notes.told());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

//! What every test starts with: namespaces of its own, an API, a runtime, a network, an image, and an agent.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use joey::api::identity::Identity;
use joey::api::streams::{Dial, Stream};
use joey::api::{Api, ApiConfig, token};
use joey::net::{Network, NetworkConfig};
use joey::node::{Agent, NodeConfig};
use joey::runtime::image::{Images, Registries};
use joey::runtime::zygote::Zygote;
use joey::runtime::{Runtime, RuntimeConfig};
use joey::store::Store;
use k8s_openapi::api::core::v1 as core;
use kube::api::PostParams;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::alone::{self, Test};

/// Longest that a test may take.
const LIMIT: Duration = Duration::from_secs(90);
/// Longest that one condition may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster of one node.
pub struct Scene {
    pub client: kube::Client,
    pub place: PathBuf,
    pub images: Images,
    pub runtime: Runtime,
    pub network: Network,
    stop: CancellationToken,
    agent: Option<Agent>,
}

struct NoNode;

impl Dial for NoNode {
    fn dial(&self, _: &str) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async { Err(io::Error::other("there is no stream")) })
    }
}

/// Runs one test in this process, which is the test's own.
pub fn run(test: &Test<Scene>) -> ExitCode {
    let place = alone::settle("node");
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    assert!(up.is_ok_and(|status| status.success()), "lo could not be set up");
    let zygote = Zygote::spawn().unwrap();
    let tokio =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let passed = tokio.block_on(async {
        let scene = Scene::new(&place, zygote).await;
        let runtime = scene.runtime.clone();
        let passed = alone::ends_well((test.body)(scene), LIMIT).await;
        for found in runtime.adopt().await.unwrap() {
            found.pod.remove().await.unwrap();
        }
        runtime.remove_cgroup().await.unwrap();
        passed
    });
    tokio.shutdown_timeout(Duration::from_secs(2));
    alone::leave(&place);
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Scene {
    async fn new(place: &Path, zygote: Zygote) -> Scene {
        let der = token::Key::generate_pkcs8().unwrap();
        let config = ApiConfig {
            cluster_domain: "cluster.local".to_owned(),
            token_key: token::Key::from_pkcs8(&der).unwrap(),
            ca_pem: "-----BEGIN CERTIFICATE-----\n".to_owned(),
            service_cidr: "10.43.0.0/16".parse().unwrap(),
            figures: Default::default(),
            translates_sctp: true,
        };
        let api = Api::new(Store::in_memory(), config, Arc::new(NoNode)).await.unwrap();
        let client = api.client(Identity::component("system:test"), "default");
        let runtime_config = RuntimeConfig {
            data_dir: place.join("data"),
            run_dir: place.join("run"),
            cgroup: format!("joey-node-test-{}", std::process::id()),
        };
        let runtime = Runtime::start(runtime_config, zygote).await.unwrap();
        let images = open_images(place);
        let network = Network::start(NetworkConfig {
            instance: "abc123".into(),
            data_dir: place.join("data"),
            run_dir: place.join("run"),
            pod_cidr: "10.42.0.0/16".parse().unwrap(),
            service_cidr: "10.43.0.0/16".parse().unwrap(),
            policies: joey::net::Policies::Open,
        })
        .await
        .unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(joey::reconcile::scheduler::run(client.clone(), stop.clone()));
        let mut scene =
            Scene { client, place: place.to_owned(), images, runtime, network, stop, agent: None };
        scene.import("box:1").await;
        scene.start_agent().await;
        scene
    }

    /// An agent such as a daemon that has just started has.
    pub async fn start_agent(&mut self) {
        self.stop = CancellationToken::new();
        let config = NodeConfig {
            node_name: "box".into(),
            data_dir: self.place.join("data"),
            run_dir: self.place.join("run"),
            cluster_domain: "cluster.local".into(),
            cluster_dns: None,
            version: "0".into(),
            kubelet_version: "v1.36.0".into(),
            ready_when_listening: true,
            max_pods: 110,
            kubelet_port: 0,
            reserved_ports: vec!["0.0.0.0:6443".parse().unwrap()],
        };
        let agent = Agent::start(
            self.client.clone(),
            self.runtime.clone(),
            self.images.clone(),
            self.network.clone(),
            config,
            self.stop.clone(),
        );
        self.agent = Some(agent.await.unwrap());
    }

    /// The image store as a daemon finds it that has just started.
    pub fn reopen_images(&mut self) {
        self.images = open_images(&self.place);
    }

    /// Ends the agent as the end of the daemon does: nothing happens to the pods.
    pub async fn stop_agent(&mut self) {
        self.stop.cancel();
        self.agent.take().unwrap().ended().await;
    }

    /// Takes a pod's network away, as a reboot does.
    pub async fn forget_network(&self, uid: &str) {
        self.network.detach(uid).await.unwrap();
    }

    /// Leaves of a pod's network what a reboot leaves: the record of its address.
    pub async fn leave_only_the_address(&self, uid: &str) {
        self.network.attach(uid, &[]).await.unwrap();
        let pin = self.place.join("run/netns").join(uid);
        rustix::mount::unmount(&pin, rustix::mount::UnmountFlags::DETACH).unwrap();
        fs::remove_file(pin).unwrap();
    }

    pub async fn until_detached(&self, uid: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.network.attached().iter().any(|attached| attached == uid) {
            assert!(Instant::now() < deadline, "{uid} keeps its address");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn import(&self, name: &str) {
        let archive = archive(name);
        self.images.import(Box::new(io::Cursor::new(archive))).await.unwrap();
    }

    pub fn pods(&self) -> kube::Api<core::Pod> {
        kube::Api::default_namespaced(self.client.clone())
    }

    pub async fn create(&self, name: &str, spec: Value) {
        let pod =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
        let pod: core::Pod = serde_json::from_value(pod).unwrap();
        self.pods().create(&PostParams::default(), &pod).await.unwrap();
    }

    /// One container that runs `sh -c script`.
    pub async fn create_script(&self, name: &str, policy: &str, script: &str) {
        let container = json!({"name": "main", "image": "box:1", "command": ["sh", "-c", script]});
        let spec = json!({
            "restartPolicy": policy,
            "terminationGracePeriodSeconds": 5,
            "containers": [container],
        });
        self.create(name, spec).await;
    }

    /// A directory that is `/ctl` in pods made by [`Scene::create_controlled`].
    pub fn control(&self) -> PathBuf {
        let path = self.place.join("ctl");
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// A container `main` that runs `sh -c script` with the control directory at `/ctl`; `more` joins its spec.
    pub async fn create_controlled(&self, name: &str, script: &str, more: Value) {
        let mut container = json!({
            "name": "main",
            "image": "box:1",
            "command": ["sh", "-c", script],
            "volumeMounts": [{"name": "ctl", "mountPath": "/ctl"}],
        });
        container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let spec = json!({
            "terminationGracePeriodSeconds": 20,
            "containers": [container],
            "volumes": [{"name": "ctl", "hostPath": {"path": self.control()}}],
        });
        self.create(name, spec).await;
    }

    /// Tells the scripts something by a file that they wait for.
    pub fn signal(&self, file: &str) {
        fs::write(self.control().join(file), "").unwrap();
    }

    /// What scripts have written so far.
    pub fn said(&self, file: &str) -> String {
        fs::read_to_string(self.control().join(file)).unwrap_or_default()
    }

    /// Waits until the scripts have written what is wanted.
    pub async fn until_said(&self, file: &str, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = self.said(file);
            if wanted(&said) {
                return said;
            }
            assert!(Instant::now() < deadline, "{file} still says {said:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until an Event about the pod contains the words.
    pub async fn until_told(&self, name: &str, words: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let events = self.events(name).await;
            if events.iter().any(|event| event.contains(words)) {
                return;
            }
            assert!(Instant::now() < deadline, "no {words:?} in {events:#?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the pod is as wanted; the pod then.
    pub async fn until(&self, name: &str, wanted: impl Fn(&core::Pod) -> bool) -> core::Pod {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let pod = self.pods().get_opt(name).await.unwrap();
            match pod {
                Some(pod) if wanted(&pod) => return pod,
                pod if Instant::now() > deadline => {
                    let events = self.events(name).await.join("\n");
                    panic!("{name} is still {:#?}\n{events}", pod.map(|pod| pod.status));
                }
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    pub async fn until_gone(&self, name: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.pods().get_opt(name).await.unwrap().is_some() {
            assert!(Instant::now() < deadline, "{name} is still there");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn events(&self, name: &str) -> Vec<String> {
        let api: kube::Api<core::Event> = kube::Api::default_namespaced(self.client.clone());
        let events = api.list(&Default::default()).await.unwrap();
        let about =
            events.items.into_iter().filter(|e| e.involved_object.name.as_deref() == Some(name));
        about
            .map(|e| format!("{} {}", e.reason.unwrap_or_default(), e.message.unwrap_or_default()))
            .collect()
    }

    pub fn log(&self, pod: &core::Pod, attempt: u32) -> String {
        let uid = pod.metadata.uid.as_deref().unwrap();
        let path = self.place.join(format!("data/pods/{uid}/logs/main/{attempt}.log"));
        let text = fs::read_to_string(path).unwrap_or_default();
        let lines = text.lines().map(|line| line.splitn(4, ' ').last().unwrap_or_default());
        lines.collect::<Vec<_>>().join("\n")
    }

    pub async fn main_pid(&self, name: &str) -> u32 {
        let entry = self.agent.as_ref().unwrap().pods().find("default", name).unwrap();
        let state = entry.pod.as_ref().unwrap().state();
        let state = state.borrow().containers["main"].phase.clone();
        match state {
            joey::runtime::ContainerPhase::Running { pid, .. } => pid,
            joey::runtime::ContainerPhase::Exited(exit) => panic!("exited: {exit:?}"),
        }
    }
}

pub fn status(pod: &core::Pod) -> &core::PodStatus {
    pod.status.as_ref().unwrap()
}

pub fn main_status(pod: &core::Pod) -> Option<&core::ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.iter().find(|c| c.name == "main")
}

pub fn phase(pod: &core::Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// The registry of the tests speaks plain HTTP.
fn open_images(place: &Path) -> Images {
    let registries = Registries { plain_http: vec!["127.0.0.1:5000".into()], ca_file: None };
    Images::open(&place.join("images"), registries).unwrap()
}

/// A docker-archive with one layer: busybox.
pub fn archive(name: &str) -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    let file = |layer: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(mode);
        header.set_cksum();
        layer.append_data(&mut header, path, bytes).unwrap();
    };
    file(&mut layer, "bin/busybox", 0o755, &fs::read("/bin/busybox").unwrap());
    for name in [
        "sh", "cat", "sleep", "echo", "env", "id", "ls", "true", "false", "hostname", "kill",
        "httpd", "nc", "touch",
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        header.set_cksum();
        layer.append_link(&mut header, format!("bin/{name}"), "busybox").unwrap();
    }
    file(
        &mut layer,
        "etc/passwd",
        0o644,
        b"root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/:/bin/sh\n",
    );
    let layer = layer.into_inner().unwrap();
    let digest = |bytes: &[u8]| -> String {
        Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        // Images of different names are different images.
        "config": {
            "Cmd": ["sleep", "1000"],
            "Env": ["PATH=/bin"],
            "Labels": {"name": name.rsplit('/').next()},
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", digest(&layer))]},
    })
    .to_string();
    let config_name = format!("{}.json", digest(config.as_bytes()));
    let manifest = json!([{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]);
    let mut archive = tar::Builder::new(Vec::new());
    file(&mut archive, "manifest.json", 0o644, manifest.to_string().as_bytes());
    file(&mut archive, &config_name, 0o644, config.as_bytes());
    file(&mut archive, "layer.tar", 0o644, &layer);
    archive.into_inner().unwrap()
}

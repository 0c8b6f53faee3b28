//! Images of a registry that wants credentials, and who may use them once they are here (KEP-2535).

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1 as core;
use kube::api::PostParams;
use serde_json::json;

use crate::scene::{Scene, archive, main_status, phase};
use crate::tests;

tests![
    a_private_image_is_for_those_who_can_pull_it,
    a_missing_pull_secret_is_told_though_the_image_is_here,
];

const USER: &str = "tenant-a";
const PASSWORD: &str = "pass-a";
/// bcrypt of the password, as `htpasswd -B` makes it.
const HTPASSWD: &str = "tenant-a:$2b$05$BV2iWkao0S8q.oeXPLOFiegMObhO7m1EoWoCLccXa9imn9VWyAqUm\n";
const ADDRESS: &str = "127.0.0.1:5000";
const IMAGE: &str = "127.0.0.1:5000/team/private:1";

/// Debian's registry with basic authentication, in this test's network.
struct Registry(Child);

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Registry {
    fn start(scene: &Scene) -> Registry {
        let place = scene.place.join("registry");
        std::fs::create_dir(&place).unwrap();
        std::fs::write(place.join("htpasswd"), HTPASSWD).unwrap();
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {root}/blobs}}}}\nhttp: {{addr: {ADDRESS}}}\n\
             auth: {{htpasswd: {{realm: test, path: {root}/htpasswd}}}}\n",
            root = place.display()
        );
        std::fs::write(place.join("config.yml"), config).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(place.join("config.yml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Registry(child);
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(ADDRESS).is_err() {
            assert!(Instant::now() < deadline, "the registry did not come up");
            std::thread::yield_now();
        }
        std::fs::write(place.join("image.tar"), archive("private:1")).unwrap();
        let pushed = Command::new("skopeo")
            .args(["--insecure-policy", "copy", "-q", "--dest-tls-verify=false"])
            .args(["--dest-creds", &format!("{USER}:{PASSWORD}")])
            .arg(format!("docker-archive:{}", place.join("image.tar").display()))
            .arg(format!("docker://{IMAGE}"))
            .output()
            .unwrap();
        assert!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));
        registry
    }
}

async fn secret(scene: &Scene, name: &str, password: &str) {
    let auth = STANDARD.encode(format!("{USER}:{password}"));
    let config = json!({"auths": {ADDRESS: {"auth": auth}}}).to_string();
    let secret: core::Secret = serde_json::from_value(json!({
        "metadata": {"name": name},
        "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": STANDARD.encode(config)},
    }))
    .unwrap();
    let api: kube::Api<core::Secret> = kube::Api::default_namespaced(scene.client.clone());
    api.create(&PostParams::default(), &secret).await.unwrap();
}

async fn pod(scene: &Scene, name: &str, policy: &str, secret: Option<&str>) {
    let secrets: Vec<_> = secret.iter().map(|name| json!({"name": name})).collect();
    let container = json!({"name": "main", "image": IMAGE, "imagePullPolicy": policy,
        "command": ["sleep", "1000"]});
    let spec = json!({"terminationGracePeriodSeconds": 0, "containers": [container],
        "imagePullSecrets": secrets});
    scene.create(name, spec).await;
}

fn is_ready(pod: &core::Pod) -> bool {
    phase(pod) == "Running" && main_status(pod).is_some_and(|status| status.ready)
}

fn waits_with(pod: &core::Pod, reasons: &[&str]) -> bool {
    let waiting = main_status(pod).and_then(|status| status.state.clone()?.waiting);
    waiting.and_then(|waiting| waiting.reason).is_some_and(|reason| reasons.contains(&&*reason))
}

async fn a_private_image_is_for_those_who_can_pull_it(mut scene: Scene) {
    let registry = Registry::start(&scene);
    secret(&scene, "good", PASSWORD).await;
    secret(&scene, "bad", "wrong").await;
    pod(&scene, "owner", "IfNotPresent", Some("good")).await;
    scene.until("owner", is_ready).await;
    // The image is here now, and its name is all that others know.
    for (name, policy, secret) in
        [("nobody", "IfNotPresent", None), ("liar", "IfNotPresent", Some("bad"))]
    {
        pod(&scene, name, policy, secret).await;
        scene.until(name, |pod| waits_with(pod, &["ErrImagePull", "ImagePullBackOff"])).await;
    }
    pod(&scene, "offline", "Never", None).await;
    scene.until("offline", |pod| waits_with(pod, &["ErrImageNeverPull"])).await;
    scene.until_told("offline", "does not have the proper credentials").await;

    // What opened it once opens it again without the registry, also for the next daemon.
    drop(registry);
    scene.stop_agent().await;
    scene.reopen_images();
    scene.start_agent().await;
    for policy in ["IfNotPresent", "Never"] {
        let name = format!("again-{}", policy.to_lowercase());
        pod(&scene, &name, policy, Some("good")).await;
        scene.until(&name, is_ready).await;
    }
    pod(&scene, "later", "IfNotPresent", None).await;
    scene.until("later", |pod| waits_with(pod, &["ErrImagePull", "ImagePullBackOff"])).await;
    // What the administrator brings is everybody's.
    scene.import("127.0.0.1:5000/team/private:1").await;
    scene.until("later", is_ready).await;
    scene.until("offline", is_ready).await;
}

async fn a_missing_pull_secret_is_told_though_the_image_is_here(scene: Scene) {
    let container = json!({"name": "main", "image": "box:1", "command": ["sleep", "1000"]});
    let spec = json!({"terminationGracePeriodSeconds": 0, "containers": [container],
        "imagePullSecrets": [{"name": "nowhere"}]});
    scene.create("p", spec).await;
    scene.until("p", is_ready).await;
    scene.until_told("p", "Unable to retrieve some image pull secrets (nowhere)").await;
}

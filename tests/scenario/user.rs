//! What a user does to Deployments: two of the same name and labels, in two namespaces.

use joey::reconcile::decide::Key;
use joey::reconcile::deployment::revision;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use super::Random;
use super::api::Server;
use super::machine::BAD;
use super::rules::Rules;

const IMAGES: &[&str] = &["web:1", "web:2", "web:3", BAD];

/// Where there are many there is something to lose.
const SIZES: &[i32] = &[0, 1, 3, 3, 4, 5];

pub struct User {
    strategies: [Value; 2],
    /// `minReadySeconds`.
    probation: [u32; 2],
}

impl User {
    pub fn new(random: &mut Random) -> User {
        let strategies = [strategy(random), strategy(random)];
        User { strategies, probation: [0, 30 * u32::from(random.below(2) == 0)] }
    }

    pub fn begin(&self, server: &mut Server) {
        for index in 0..2 {
            self.create(server, index);
        }
    }

    fn create(&self, server: &mut Server, index: usize) {
        let mut object = deployment(["a", "b"][index], 3, "web:1", &self.strategies[index]);
        object.spec.as_mut().unwrap().min_ready_seconds = Some(self.probation[index] as i32);
        server.create::<Deployment>(object).unwrap();
    }

    pub fn act(&self, server: &mut Server, rules: &mut Rules, random: &mut Random) {
        let index = random.below(2);
        // Said for those who replay a seed.
        let namespace = ["a", "b"][index];
        let key = Key::new(namespace, "web");
        let Some(held) = server.get::<Deployment>(&key) else {
            return self.create(server, index);
        };
        let patch = match random.below(13) {
            0..3 => json!({"spec": {"replicas": SIZES[random.below(SIZES.len())]}}),
            3..6 => image(IMAGES[random.below(IMAGES.len())]),
            6 => json!({"spec": {"paused": true}}),
            7..9 => json!({"spec": {"paused": false}}),
            9 => match undo(server, &held, random) {
                Some(patch) => patch,
                None => return,
            },
            10 => {
                self.take_a_pod(server, namespace, rules, random);
                return;
            }
            11 => switch(random),
            _ if random.below(4) == 0 => {
                server.delete::<Deployment>(&key, None).unwrap();
                return;
            }
            _ => return,
        };
        server.patch::<Deployment>(&key, &patch, false).unwrap();
    }

    /// Deletes a pod, or takes it out of the selection.
    fn take_a_pod(
        &self,
        server: &mut Server,
        namespace: &str,
        rules: &mut Rules,
        random: &mut Random,
    ) {
        let pods: Vec<Key> = server
            .pods
            .objects
            .iter()
            .filter(|(key, pod)| {
                &*key.namespace == namespace && pod.metadata.deletion_timestamp.is_none()
            })
            .map(|(key, _)| key.clone())
            .collect();
        let Some(key) = pods.get(random.below(pods.len().max(1))) else { return };
        // Whether it serves or not: a place that is empty until a controller notices.
        rules.disturbed(namespace);
        match random.below(2) {
            0 => server.delete::<Pod>(key, None).unwrap(),
            _ => {
                let patch = json!({"metadata": {"labels": {"app": "taken"}}});
                server.patch::<Pod>(key, &patch, false).map(|_| ()).unwrap();
            }
        }
    }

    /// A last wish that can be fulfilled.
    pub fn leave_in_order(&self, server: &mut Server) {
        for (index, namespace) in ["a", "b"].into_iter().enumerate() {
            let key = Key::new(namespace, "web");
            let Some(held) = server.get::<Deployment>(&key) else {
                self.create(server, index);
                continue;
            };
            let template = &held.spec.as_ref().unwrap().template;
            let is_bad =
                template.spec.as_ref().unwrap().containers[0].image.as_deref() == Some(BAD);
            let mut patch = if is_bad { image("web:2") } else { json!({"spec": {}}) };
            patch["spec"]["paused"] = false.into();
            server.patch::<Deployment>(&key, &patch, false).unwrap();
        }
    }
}

fn strategy(random: &mut Random) -> Value {
    match random.below(5) {
        0 => json!({"type": "Recreate"}),
        1 => rolling(json!("25%"), json!("25%")),
        _ => rolling(json!(random.below(3)), json!(random.below(3))),
    }
}

/// Another strategy, sometimes with a pause in the same breath.
fn switch(random: &mut Random) -> Value {
    let mut strategy = strategy(random);
    if strategy["rollingUpdate"].is_null() {
        // A merge patch keeps what it does not name, and Recreate may not have it.
        strategy["rollingUpdate"] = Value::Null;
    }
    match random.below(3) {
        0 => json!({"spec": {"paused": true, "strategy": strategy}}),
        _ => json!({"spec": {"strategy": strategy}}),
    }
}

fn rolling(surge: Value, unavailable: Value) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

pub fn image(image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "image": image}]}}}})
}

/// The template of a random older set, as `kubectl rollout undo --to-revision` puts it back.
fn undo(server: &Server, held: &Deployment, random: &mut Random) -> Option<Value> {
    let sets: Vec<_> = server
        .replica_sets
        .objects
        .values()
        .filter(|set| set.owner_references()[0].uid == *held.metadata.uid.as_ref().unwrap())
        .collect();
    let set = sets.get(random.below(sets.len().max(1)))?;
    let mut template = serde_json::to_value(set.spec.as_ref()?.template.as_ref()?).unwrap();
    template["metadata"]["labels"].as_object_mut()?.remove(revision::HASH_LABEL);
    Some(json!({"spec": {"template": template}}))
}

pub fn deployment(namespace: &str, replicas: i32, image: &str, strategy: &Value) -> Deployment {
    let mut deployment: Deployment = serde_json::from_value(json!({
        "metadata": {"namespace": namespace, "name": "web"},
        "spec": {
            "replicas": replicas,
            "progressDeadlineSeconds": 600,
            "revisionHistoryLimit": 3,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": strategy,
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": image}]},
            },
        },
    }))
    .unwrap();
    deployment.meta_mut().labels = Some([("team".to_owned(), "kangaroo".to_owned())].into());
    deployment
}

//! An API server that is small enough to be asked a million times: objects, revisions, and logs to watch.
//!
//! It does what the controllers rely on (revisions, preconditions, generations, grace), and nothing else.

use std::collections::BTreeMap;

use joey::model::time::Timestamp;
use joey::reconcile::caches::Kind;
use joey::reconcile::decide::{Key, Target, Write};
use joey::reconcile::settle::Written;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::core::Status;
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// All objects of one kind, and what has happened to them.
#[derive(Default)]
pub struct Table<K> {
    pub objects: BTreeMap<Key, K>,
    pub log: Vec<Event<K>>,
}

#[derive(Default)]
pub struct Server {
    pub revision: u64,
    /// Virtual seconds since the beginning.
    pub now: u64,
    pub deployments: Table<Deployment>,
    pub replica_sets: Table<ReplicaSet>,
    pub pods: Table<Pod>,
    made: u64,
}

/// A kind that the server holds.
pub trait Served:
    Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + Send + Sync + 'static
{
    fn table(server: &mut Server) -> &mut Table<Self>;
}

impl Served for Deployment {
    fn table(server: &mut Server) -> &mut Table<Deployment> {
        &mut server.deployments
    }
}

impl Served for ReplicaSet {
    fn table(server: &mut Server) -> &mut Table<ReplicaSet> {
        &mut server.replica_sets
    }
}

impl Served for Pod {
    fn table(server: &mut Server) -> &mut Table<Pod> {
        &mut server.pods
    }
}

/// 2026-01-01.
pub fn instant(seconds: u64) -> Timestamp {
    Timestamp::from_unix(1_767_225_600 + seconds as i64, 0)
}

impl Server {
    pub fn time(&self) -> Time {
        Time(instant(self.now).as_jiff())
    }

    fn next(&mut self) -> String {
        self.revision += 1;
        self.revision.to_string()
    }

    pub fn create<K: Served>(&mut self, mut object: K) -> Result<K, Box<Status>> {
        self.made += 1;
        let (made, time) = (self.made, self.time());
        let metadata = object.meta_mut();
        if let Some(prefix) = metadata.generate_name.clone().filter(|_| metadata.name.is_none()) {
            metadata.name = Some(format!("{prefix}{made:05}"));
        }
        metadata.uid = Some(format!("uid-{made:05}"));
        metadata.creation_timestamp = Some(time);
        metadata.generation = Some(1);
        let key = Key::of(object.meta());
        if K::table(self).objects.contains_key(&key) {
            return Err(refusal(409, "AlreadyExists"));
        }
        self.put(object)
    }

    /// Stores an object under a new revision.
    pub fn put<K: Served>(&mut self, mut object: K) -> Result<K, Box<Status>> {
        object.meta_mut().resource_version = Some(self.next());
        let table = K::table(self);
        table.objects.insert(Key::of(object.meta()), object.clone());
        table.log.push(Event::Apply(object.clone()));
        Ok(object)
    }

    pub fn remove<K: Served>(&mut self, key: &Key) {
        let revision = self.next();
        let table = K::table(self);
        if let Some(mut object) = table.objects.remove(key) {
            object.meta_mut().resource_version = Some(revision);
            table.log.push(Event::Delete(object));
        }
    }

    pub fn get<K: Served>(&mut self, key: &Key) -> Option<K> {
        K::table(self).objects.get(key).cloned()
    }

    /// A JSON merge patch of the object, or of its status alone; without effect when nothing changes.
    pub fn patch<K: Served>(
        &mut self,
        key: &Key,
        patch: &Value,
        only_status: bool,
    ) -> Result<K, Box<Status>> {
        let Some(held) = self.get::<K>(key) else { return Err(refusal(404, "NotFound")) };
        let wanted = patch["metadata"]["resourceVersion"].as_str();
        if wanted.is_some_and(|wanted| held.resource_version().as_deref() != Some(wanted)) {
            return Err(refusal(409, "Conflict"));
        }
        let before = serde_json::to_value(&held).unwrap();
        let mut after = before.clone();
        merge(&mut after, patch);
        let other = if only_status { "spec" } else { "status" };
        after[other] = before[other].clone();
        if after == before {
            return Ok(held);
        }
        if after["spec"] != before["spec"] {
            let generation = before["metadata"]["generation"].as_i64().unwrap_or(0);
            after["metadata"]["generation"] = (generation + 1).into();
        }
        self.put(serde_json::from_value(after).unwrap())
    }

    /// Deletes as the API does: a pod that runs is only told to stop.
    pub fn delete<K: Served>(&mut self, key: &Key, uid: Option<&str>) -> Result<(), Box<Status>> {
        let Some(mut held) = self.get::<K>(key) else { return Err(refusal(404, "NotFound")) };
        if uid.is_some_and(|uid| held.uid().as_deref() != Some(uid)) {
            return Err(refusal(409, "Conflict"));
        }
        let running = self.pods.objects.get(key).is_some_and(|pod| {
            pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()) && !is_over(pod)
        });
        if K::kind(&()) == "Pod" && running {
            if held.meta().deletion_timestamp.is_none() {
                held.meta_mut().deletion_timestamp = Some(self.time());
                self.put(held)?;
            }
            return Ok(());
        }
        self.remove::<K>(key);
        Ok(())
    }

    /// One write of a controller.
    pub fn write(&mut self, write: &Write, root: Option<(&Target, Kind)>) -> Written {
        if let (Write::Adopt { .. }, Some((root, kind))) = (write, root) {
            let found = match kind {
                Kind::Deployment => self.get::<Deployment>(&root.key).map(|r| r.metadata),
                Kind::ReplicaSet => self.get::<ReplicaSet>(&root.key).map(|r| r.metadata),
                other => panic!("no root is a {other:?}"),
            };
            let lives = |m: ObjectMeta| {
                m.uid.as_deref() == Some(&root.uid) && m.deletion_timestamp.is_none()
            };
            if !found.is_some_and(lives) {
                return Ok(None);
            }
        }
        match write.kind() {
            Kind::Pod => self.write_as::<Pod>(write),
            Kind::ReplicaSet => self.write_as::<ReplicaSet>(write),
            Kind::Deployment => self.write_as::<Deployment>(write),
            #[allow(unreachable_patterns, reason = "kinds that no controller here writes")]
            other => panic!("no controller here writes a {other:?}"),
        }
    }

    fn write_as<K: Served>(&mut self, write: &Write) -> Written {
        let written = match write {
            Write::Create { object, .. } => {
                let mut object = object.clone();
                // Server-side defaults that the decisions see.
                if K::kind(&()) == "ReplicaSet" {
                    object["status"] = json!({"replicas": 0});
                }
                self.create::<K>(serde_json::from_value(object).unwrap())
            }
            Write::Patch { target, patch, .. } | Write::Adopt { target, patch, .. } => {
                let patch = joey::reconcile::settle::guarded(target, patch.clone());
                self.patch::<K>(&target.key, &patch, false)
            }
            Write::Delete { target, .. } => {
                self.delete::<K>(&target.key, Some(&target.uid)).map_err(api_error)?;
                return Ok(None);
            }
        };
        answer(written)
    }
}

pub fn answer<K: Served>(written: Result<K, Box<Status>>) -> Written {
    let object = written.map_err(api_error)?;
    let mut value = json!({"apiVersion": K::api_version(&()), "kind": K::kind(&())});
    value["metadata"] = serde_json::to_value(object.meta()).unwrap();
    Ok(Some(serde_json::from_value(value).unwrap()))
}

pub fn api_error(status: Box<Status>) -> kube::Error {
    kube::Error::Api(status)
}

pub fn refusal(code: u16, reason: &str) -> Box<Status> {
    Box::new(Status { code, reason: reason.into(), message: reason.into(), ..Status::default() })
}

pub fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(members) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in members {
        match value {
            Value::Null => {
                target.as_object_mut().unwrap().remove(key);
            }
            value => merge(&mut target[key.as_str()], value),
        }
    }
}

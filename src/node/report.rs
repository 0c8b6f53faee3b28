//! Writes a pod's status: the newest one only, and only what differs from what was written.
//!
//! It never decides what a status says. One task per pod; a status that is overtaken while a write is under way
//! is never written, nor is one of a pod on its way up that has gone further a moment later.

use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

/// How long a pod that is being set up may go on before that is written. Most pods are up by then, and the disk has
/// better things to do while one starts.
const SETTLE: Duration = Duration::from_millis(50);

/// The writing end of one pod's status. Dropping it ends the task once all is written.
pub struct Reporter {
    wanted: watch::Sender<Wanted>,
    written: watch::Receiver<u64>,
}

#[derive(Clone)]
struct Wanted {
    number: u64,
    status: core::PodStatus,
}

/// Whose status it is.
#[derive(Clone)]
pub struct Target {
    pub api: Api<core::Pod>,
    pub name: String,
    pub uid: String,
}

impl Reporter {
    /// `current` is what the API holds now.
    pub fn start(target: Target, current: core::PodStatus) -> Reporter {
        let (wanted, wants) = watch::channel(Wanted { number: 0, status: current.clone() });
        let (done, written) = watch::channel(0);
        tokio::spawn(write_all(target, current, wants, done));
        Reporter { wanted, written }
    }

    /// Has this status written, soon.
    pub fn set(&self, status: core::PodStatus) {
        self.wanted.send_if_modified(|wanted| {
            let differs = wanted.status != status;
            if differs {
                *wanted = Wanted { number: wanted.number + 1, status };
            }
            differs
        });
    }

    /// Waits until everything set so far is written, or the deadline is over; whether it is.
    pub async fn flush(&self, deadline: Duration) -> bool {
        let number = self.wanted.borrow().number;
        let mut written = self.written.clone();
        let all = written.wait_for(|done| *done >= number);
        let is_written = tokio::time::timeout(deadline, all).await.is_ok();
        if !is_written {
            tracing::warn!("a final status could not be written in time");
        }
        is_written
    }
}

async fn write_all(
    target: Target,
    mut current: core::PodStatus,
    mut wants: watch::Receiver<Wanted>,
    done: watch::Sender<u64>,
) {
    const FIRST_RETRY: Duration = Duration::from_millis(100);
    const LAST_RETRY: Duration = Duration::from_secs(10);
    let mut retry = FIRST_RETRY;
    while wants.changed().await.is_ok() {
        settle(&mut wants).await;
        loop {
            let wanted = wants.borrow_and_update().clone();
            let Some(patch) = difference(&current, &wanted.status, &target.uid) else {
                done.send_replace(wanted.number);
                break;
            };
            let params = PatchParams::default();
            match target.api.patch_status(&target.name, &params, &Patch::Strategic(&patch)).await {
                Ok(_) => {
                    current = wanted.status;
                    done.send_replace(wanted.number);
                    retry = FIRST_RETRY;
                    break;
                }
                // The pod is gone, or another one has its name: nobody waits for this status any more.
                Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {
                    done.send_replace(u64::MAX);
                    return;
                }
                Err(error) => {
                    tracing::warn!(pod = target.name, %error, "status not written");
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(LAST_RETRY);
                    if wants.has_changed().is_err() && retry == LAST_RETRY {
                        return;
                    }
                }
            }
        }
    }
}

/// Waits while the pod is merely being set up, but not for long.
async fn settle(wants: &mut watch::Receiver<Wanted>) {
    let deadline = tokio::time::Instant::now() + SETTLE;
    while is_passing(&wants.borrow_and_update().status) {
        match tokio::time::timeout_at(deadline, wants.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// Whether a status says nothing but that the pod is being set up.
fn is_passing(status: &core::PodStatus) -> bool {
    let init = status.init_container_statuses.iter().flatten();
    let mut containers = init.chain(status.container_statuses.iter().flatten());
    let is_coming = |container: &core::ContainerStatus| {
        let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
        let reason = waiting.and_then(|waiting| waiting.reason.as_deref());
        container.last_state.as_ref().is_none_or(|last| last.terminated.is_none())
            && matches!(reason, Some("ContainerCreating" | "PodInitializing"))
    };
    status.phase.as_deref() == Some("Pending")
        && status.reason.is_none()
        && containers.all(is_coming)
}

/// A strategic merge patch from one status to the other, bound to the pod's uid; `None` when they are equal.
///
/// Conditions merge by type, so only our changed ones are sent and those of others stay. Addresses merge by
/// value, so they are replaced.
fn difference(old: &core::PodStatus, new: &core::PodStatus, uid: &str) -> Option<Value> {
    let as_map = |status: &core::PodStatus| match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        Ok(_) | Err(_) => Map::new(),
    };
    let (old, new) = (as_map(old), as_map(new));
    let mut patch = Map::new();
    for (key, value) in &new {
        if old.get(key) == Some(value) {
            continue;
        }
        let value = match (key.as_str(), value) {
            ("conditions", Value::Array(conditions)) => {
                let before = old.get("conditions").and_then(Value::as_array);
                changed_conditions(before.map_or(&[], Vec::as_slice), conditions)
            }
            ("podIPs" | "hostIPs", Value::Array(list)) => {
                let mut replaced = vec![json!({"$patch": "replace"})];
                replaced.extend(list.iter().cloned());
                Value::Array(replaced)
            }
            (_, value) => value.clone(),
        };
        patch.insert(key.clone(), value);
    }
    // What the node owns and no longer says goes; fields of others (nominatedNodeName …) stay.
    for key in ["reason", "message", "podIP", "podIPs", "initContainerStatuses"] {
        if old.contains_key(key) && !new.contains_key(key) {
            patch.insert(key.into(), Value::Null);
        }
    }
    if patch.is_empty() {
        return None;
    }
    Some(json!({"metadata": {"uid": uid}, "status": patch}))
}

fn changed_conditions(old: &[Value], new: &[Value]) -> Value {
    let changed = new.iter().filter(|condition| !old.contains(condition)).map(|condition| {
        let mut condition = condition.clone();
        let before = old.iter().find(|c| c["type"] == condition["type"]);
        for key in ["reason", "message"] {
            if before.is_some_and(|c| c.get(key).is_some()) && condition.get(key).is_none() {
                condition[key] = Value::Null;
            }
        }
        condition
    });
    Value::Array(changed.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn status(value: Value) -> core::PodStatus {
        serde_json::from_value(value).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_status_is_not_taken_for_written_while_the_api_refuses_it() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicBool, Ordering};

        let is_up = Arc::new(AtomicBool::new(false));
        let answers = is_up.clone();
        let service = tower::service_fn(move |_: http::Request<kube::client::Body>| {
            let (code, body) = match answers.load(Ordering::SeqCst) {
                true => {
                    (200, r#"{"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "web"}}"#)
                }
                false => (500, r#"{"kind": "Status", "status": "Failure", "code": 500}"#),
            };
            let body = kube::client::Body::from(body.as_bytes().to_vec());
            let answer = http::Response::builder().status(code).body(body).unwrap();
            async move { Ok::<_, std::convert::Infallible>(answer) }
        });
        let client = kube::Client::new(service, "default");
        let target =
            Target { api: Api::namespaced(client, "default"), name: "web".into(), uid: "u".into() };
        let reporter = Reporter::start(target, status(json!({"phase": "Running"})));
        reporter.set(status(json!({"phase": "Succeeded"})));
        assert!(!reporter.flush(Duration::from_secs(5)).await);
        is_up.store(true, Ordering::SeqCst);
        assert!(reporter.flush(Duration::from_secs(60)).await);
    }

    #[test]
    fn only_what_is_being_set_up_may_wait() {
        let with = |state: Value| {
            let main = json!({"name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": state});
            json!({"phase": "Pending", "containerStatuses": [main]})
        };
        let coming = || with(json!({"waiting": {"reason": "ContainerCreating"}}));
        let changed = |key: &str, value: Value| {
            let mut status = coming();
            status[key] = value;
            status
        };
        let mut crashed = coming();
        crashed["containerStatuses"][0]["lastState"] =
            json!({"terminated": {"exitCode": 1, "reason": "Error"}});
        let init = coming()["containerStatuses"].clone();
        for (value, expected) in [
            (coming(), true),
            (changed("initContainerStatuses", init), true),
            (changed("podIP", json!("10.0.0.1")), true),
            (changed("phase", json!("Running")), false),
            (changed("reason", json!("Evicted")), false),
            (crashed, false),
            (with(json!({"waiting": {"reason": "ErrImagePull"}})), false),
            (with(json!({"waiting": {"reason": "CreateContainerConfigError"}})), false),
            (with(json!({"running": {}})), false),
            (with(json!({"terminated": {"exitCode": 0}})), false),
        ] {
            assert_eq!(is_passing(&status(value.clone())), expected, "{value}");
        }
    }

    #[test]
    fn an_equal_status_is_never_written() {
        let same = status(
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}),
        );
        assert_eq!(difference(&same, &same, "u"), None);
    }

    #[test]
    fn only_what_changed_is_written_and_what_ended_is_removed() {
        let old = status(json!({
            "phase": "Pending", "reason": "Old", "hostIP": "1.2.3.4", "nominatedNodeName": "n",
            "podIPs": [{"ip": "10.0.0.1"}],
            "conditions": [
                {"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "m"},
                {"type": "PodScheduled", "status": "True"},
            ],
        }));
        let new = status(json!({
            "phase": "Running", "hostIP": "1.2.3.4", "podIPs": [{"ip": "10.0.0.2"}],
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}],
        }));
        expect![[r#"{"metadata":{"uid":"u"},"status":{"conditions":[{"status":"True","type":"Ready","reason":null,"message":null}],"phase":"Running","podIPs":[{"$patch":"replace"},{"ip":"10.0.0.2"}],"reason":null}}"#]]
        .assert_eq(&difference(&old, &new, "u").unwrap().to_string());
    }
}

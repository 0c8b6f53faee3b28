//! What a watch may do to a cache, and what the cache makes of it.

use std::sync::Mutex;

use serde_json::json;

use super::super::gate::{Gate, Until};
use super::*;

fn pod(name: &str, uid: &str, revision: u64) -> core::Pod {
    serde_json::from_value(json!({"metadata": {
        "namespace": "default", "name": name, "uid": uid, "resourceVersion": revision.to_string(),
    }}))
    .unwrap()
}

fn list(caches: &Caches, pods: &[core::Pod]) {
    caches.pods.take(Event::Init);
    pods.iter().for_each(|pod| caches.pods.take(Event::InitApply(pod.clone())));
    caches.pods.take(Event::InitDone);
}

fn held(caches: &Caches) -> Vec<String> {
    caches.pods.all().iter().map(|p| format!("{}@{}", p.name_any(), revision(p.as_ref()))).collect()
}

/// Tells what the listeners are told.
fn log(caches: &Caches) -> Arc<Mutex<Vec<String>>> {
    let log = Arc::new(Mutex::new(Vec::new()));
    let told = log.clone();
    caches.pods.listen(move |change| {
        let at = |side: &Option<Arc<core::Pod>>| {
            side.as_ref()
                .map_or("-".into(), |p| format!("{}@{}", p.name_any(), revision(p.as_ref())))
        };
        told.lock().unwrap().push(format!("{} → {}", at(&change.old), at(&change.new)));
    });
    log
}

#[test]
fn doubled_and_late_events_change_nothing() {
    let caches = Caches::new();
    list(&caches, &[pod("a", "1", 3)]);
    let log = log(&caches);
    caches.pods.take(Event::Apply(pod("b", "2", 5)));
    caches.pods.take(Event::Apply(pod("b", "2", 5)));
    caches.pods.take(Event::Delete(pod("b", "2", 7)));
    caches.pods.take(Event::Apply(pod("b", "2", 5)));
    caches.pods.take(Event::Delete(pod("b", "2", 7)));
    assert_eq!(held(&caches), ["a@3"]);
    assert_eq!(caches.reached(Kind::Pod), 7);
    assert_eq!(*log.lock().unwrap(), ["- → a@3", "- → b@5", "b@5 → -"]);
}

#[test]
fn a_new_list_tells_what_was_missed() {
    let caches = Caches::new();
    assert!(!caches.is_whole(Kind::Pod));
    list(&caches, &[pod("a", "1", 3), pod("b", "2", 4), pod("c", "3", 5)]);
    let log = log(&caches);
    log.lock().unwrap().clear();
    list(&caches, &[pod("b", "2", 4), pod("c", "3", 8), pod("d", "4", 9)]);
    assert_eq!(*log.lock().unwrap(), ["c@5 → c@8", "- → d@9", "a@3 → -"]);
    assert_eq!(held(&caches), ["b@4", "c@8", "d@9"]);
}

#[test]
fn the_gate_opens_by_event_or_by_a_list_that_was_asked_for_after_the_write() {
    let caches = Caches::new();
    list(&caches, &[]);
    caches.wrote(9);
    let mut gate = Gate::default();
    gate.add(Until::Reached { kind: Kind::Pod, revision: 7 });
    gate.add(Until::Reached { kind: Kind::Pod, revision: 9 });
    assert!(!gate.is_open(&caches));
    caches.pods.take(Event::Apply(pod("a", "1", 7)));
    assert!(!gate.is_open(&caches));
    caches.pods.take(Event::Apply(pod("b", "2", 9)));
    assert!(gate.is_open(&caches));

    // A list that began before the write may not show it; the next one does, though the object has gone again.
    let mut gate = Gate::default();
    gate.add(Until::Reached { kind: Kind::Pod, revision: 12 });
    caches.pods.take(Event::Init);
    caches.wrote(12);
    caches.pods.take(Event::InitDone);
    assert!(!gate.is_open(&caches));
    list(&caches, &[]);
    assert!(gate.is_open(&caches));
}

#[test]
fn a_deletion_is_awaited_by_uid_whoever_takes_the_name() {
    let caches = Caches::new();
    list(&caches, &[pod("a", "1", 3)]);
    let mut gate = Gate::default();
    let key = Key::new("default", "a");
    gate.add(Until::Going { kind: Kind::Pod, key, uid: "1".into() });
    assert!(!gate.is_open(&caches));
    let mut going = pod("a", "1", 4);
    going.metadata.deletion_timestamp =
        serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    caches.pods.take(Event::Apply(going));
    assert!(gate.is_open(&caches));
    caches.pods.take(Event::Delete(pod("a", "1", 5)));
    assert!(gate.is_open(&caches));
    caches.pods.take(Event::Apply(pod("a", "2", 6)));
    assert!(gate.is_open(&caches), "a namesake");
}

#[test]
fn a_list_that_is_wanted_while_one_arrives_is_the_one_after_it() {
    let caches = Caches::new();
    caches.pods.take(Event::Init);
    let list_number = caches.list_again(Kind::Pod);
    let mut gate = Gate::default();
    gate.add(Until::Listed { kind: Kind::Pod, list: list_number });
    caches.pods.take(Event::InitDone);
    assert!(!gate.is_open(&caches));
    list(&caches, &[]);
    assert!(gate.is_open(&caches));
}

#[test]
fn what_comes_while_a_listener_registers_is_told() {
    let caches = Caches::new();
    caches.pods.take(Event::Apply(pod("a", "1", 3)));
    let told = Arc::new(Mutex::new(Vec::new()));
    let (log, weak) = (told.clone(), Arc::downgrade(&caches));
    caches.pods.listen(move |change| {
        let name = change.new.as_ref().map(|pod| pod.name_any()).unwrap_or_default();
        log.lock().unwrap().push(name.clone());
        if name == "a" {
            weak.upgrade().unwrap().pods.take(Event::Apply(pod("b", "2", 4)));
        }
    });
    assert_eq!(*told.lock().unwrap(), ["a", "b"]);
}

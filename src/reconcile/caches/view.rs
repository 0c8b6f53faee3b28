//! The state inside a cache: what one watch has shown, and how far it has come.
//!
//! Pure. Events of one kind arrive in the order of their revisions; what is older than what has been seen (a watch
//! that was resumed repeats itself) changes nothing.

use std::ops::Bound;
use std::sync::Arc;

use kube::runtime::watcher::Event;

use super::{Held, Key, Objects, revision};

/// What has become of an object: new when `old` is `None`, gone when `new` is.
#[derive(Debug)]
pub struct Change<K> {
    pub old: Option<Arc<K>>,
    pub new: Option<Arc<K>>,
}

pub struct View<K> {
    objects: Objects<K>,
    reached: u64,
    /// A list that has begun to arrive.
    incoming: Option<Incoming<K>>,
    lists_begun: u64,
    lists_done: u64,
}

struct Incoming<K> {
    objects: Objects<K>,
    /// Was written before the list was asked for, so the list shows it.
    shows: u64,
    /// The number of the list.
    number: u64,
}

impl<K> Default for View<K> {
    fn default() -> View<K> {
        View { objects: Objects::new(), reached: 0, incoming: None, lists_begun: 0, lists_done: 0 }
    }
}

impl<K: Held> View<K> {
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.objects.get(key).cloned()
    }

    pub fn all(&self) -> Vec<Arc<K>> {
        self.objects.values().cloned().collect()
    }

    pub fn within(&self, namespace: &str) -> Vec<Arc<K>> {
        let first = Bound::Included(Key::new(namespace, ""));
        self.objects
            .range((first, Bound::Unbounded))
            .take_while(|(key, _)| &*key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    pub fn reached(&self) -> u64 {
        self.reached
    }

    pub fn lists_begun(&self) -> u64 {
        self.lists_begun
    }

    pub fn lists_done(&self) -> u64 {
        self.lists_done
    }

    /// Takes an event; `newest_write` is the newest revision a write has returned by now.
    pub fn take(&mut self, event: Event<K>, newest_write: u64) -> Vec<Change<K>> {
        match event {
            Event::Init => {
                self.lists_begun += 1;
                self.incoming = Some(Incoming {
                    objects: Objects::new(),
                    shows: newest_write,
                    number: self.lists_begun,
                });
                Vec::new()
            }
            Event::InitApply(object) => {
                if let Some(incoming) = &mut self.incoming {
                    incoming.objects.insert(Key::of(object.meta()), Arc::new(object));
                }
                Vec::new()
            }
            Event::InitDone => self.replace(),
            Event::Apply(object) => {
                let at = revision(&object);
                if at < self.reached {
                    return Vec::new();
                }
                self.reached = at;
                let key = Key::of(object.meta());
                let new = Arc::new(object);
                let old = self.objects.insert(key, new.clone());
                match &old {
                    Some(old) if revision(old.as_ref()) == at => Vec::new(),
                    Some(_) | None => vec![Change { old, new: Some(new) }],
                }
            }
            Event::Delete(object) => {
                // The revision of a deletion is that of the deleting commit.
                let at = revision(&object);
                if at < self.reached {
                    return Vec::new();
                }
                self.reached = at;
                let old = self.objects.remove(&Key::of(object.meta()));
                old.map(|old| Change { old: Some(old), new: None }).into_iter().collect()
            }
        }
    }

    /// The list has arrived whole: it is what there is now.
    fn replace(&mut self) -> Vec<Change<K>> {
        let Some(incoming) = self.incoming.take() else { return Vec::new() };
        let newest = incoming.objects.values().map(|object| revision(object.as_ref())).max();
        self.reached = self.reached.max(incoming.shows).max(newest.unwrap_or(0));
        self.lists_done = incoming.number;
        let mut before = std::mem::replace(&mut self.objects, incoming.objects);
        let mut changes = Vec::new();
        for (key, new) in &self.objects {
            let old = before.remove(key);
            if old.as_ref().is_none_or(|old| revision(old.as_ref()) != revision(new.as_ref())) {
                changes.push(Change { old, new: Some(new.clone()) });
            }
        }
        changes.extend(before.into_values().map(|old| Change { old: Some(old), new: None }));
        changes
    }
}

//! What the watches of Services and EndpointSlices have told, and of whom it is news (pure).
//!
//! Objects are read once, when they are told of; what is told again without a difference is no news.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::Event;

use super::super::service::{Facts, Service, ServiceName, Slice};
use super::facts;

/// A slice by its namespace and name.
type SliceKey = (String, String);

#[derive(Default)]
pub struct Told {
    facts: Facts,
    /// Whose each slice is: its label may change.
    owners: BTreeMap<SliceKey, ServiceName>,
    services_coming: Coming<(ServiceName, Service)>,
    slices_coming: Coming<(ServiceName, String, Slice)>,
    changed: BTreeSet<ServiceName>,
}

/// A list that is coming in.
struct Coming<T> {
    items: Vec<T>,
    has_been_whole: bool,
}

impl<T> Default for Coming<T> {
    fn default() -> Coming<T> {
        Coming { items: Vec::new(), has_been_whole: false }
    }
}

impl<T> Coming<T> {
    fn end(&mut self) -> Vec<T> {
        self.has_been_whole = true;
        std::mem::take(&mut self.items)
    }
}

impl Told {
    pub fn service(&mut self, event: Event<core::Service>) {
        match event {
            Event::Init => self.services_coming.items.clear(),
            Event::InitApply(object) => self.services_coming.items.push(facts::service(&object)),
            Event::InitDone => {
                let now: BTreeMap<_, _> = self.services_coming.end().into_iter().collect();
                let gone = self.facts.services.keys().filter(|name| !now.contains_key(*name));
                for name in gone.cloned().collect::<Vec<_>>() {
                    self.put_service(name, None);
                }
                now.into_iter().for_each(|(name, service)| self.put_service(name, Some(service)));
            }
            Event::Apply(object) => {
                let (name, service) = facts::service(&object);
                self.put_service(name, Some(service));
            }
            Event::Delete(object) => self.put_service(facts::service(&object).0, None),
        }
    }

    pub fn slice(&mut self, event: Event<EndpointSlice>) {
        match event {
            Event::Init => self.slices_coming.items.clear(),
            Event::InitApply(object) => self.slices_coming.items.extend(facts::slice(&object)),
            Event::InitDone => {
                let now = self.slices_coming.end().into_iter();
                let now = now.map(|told| ((told.0.namespace.clone(), told.1.clone()), told));
                let now: BTreeMap<SliceKey, _> = now.collect();
                let gone = self.owners.keys().filter(|key| !now.contains_key(*key));
                for key in gone.cloned().collect::<Vec<_>>() {
                    self.put_slice(key, None);
                }
                for (key, (owner, _, slice)) in now {
                    self.put_slice(key, Some((owner, slice)));
                }
            }
            Event::Apply(object) => {
                let told = facts::slice(&object).map(|(owner, _, slice)| (owner, slice));
                self.put_slice(key(&object), told);
            }
            Event::Delete(object) => self.put_slice(key(&object), None),
        }
    }

    fn put_service(&mut self, name: ServiceName, service: Option<Service>) {
        if self.facts.services.get(&name) == service.as_ref() {
            return;
        }
        match service {
            Some(service) => drop(self.facts.services.insert(name.clone(), service)),
            None => drop(self.facts.services.remove(&name)),
        }
        self.changed.insert(name);
    }

    fn put_slice(&mut self, key: SliceKey, told: Option<(ServiceName, Slice)>) {
        let own = key.1.clone();
        let old = self.owners.get(&key);
        let known = old.and_then(|owner| self.facts.slices.get(owner)?.get(&own));
        if let Some((owner, slice)) = &told
            && old == Some(owner)
            && known == Some(slice)
        {
            return;
        }
        if let Some(owner) = self.owners.remove(&key) {
            if let Some(slices) = self.facts.slices.get_mut(&owner) {
                slices.remove(&own);
                if slices.is_empty() {
                    self.facts.slices.remove(&owner);
                }
            }
            self.changed.insert(owner);
        }
        if let Some((owner, slice)) = told {
            self.facts.slices.entry(owner.clone()).or_default().insert(own, slice);
            self.owners.insert(key, owner.clone());
            self.changed.insert(owner);
        }
    }

    /// All that is known; nothing before both kinds have been listed once.
    pub fn facts(&self) -> Option<&Facts> {
        let is_whole = self.services_coming.has_been_whole && self.slices_coming.has_been_whole;
        is_whole.then_some(&self.facts)
    }

    /// Whose Services are others than when this was asked last.
    pub fn changed(&mut self) -> BTreeSet<ServiceName> {
        std::mem::take(&mut self.changed)
    }
}

fn key(object: &EndpointSlice) -> SliceKey {
    let metadata = &object.metadata;
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(name: &str, of: &str, last: u8) -> EndpointSlice {
        serde_json::from_value(json!({
            "metadata": {
                "namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": of},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [format!("10.42.0.{last}")]}],
        }))
        .unwrap()
    }

    fn service(name: &str, port: u16) -> core::Service {
        serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": name},
            "spec": {"clusterIP": "10.43.0.9", "ports": [{"port": port}]},
        }))
        .unwrap()
    }

    fn names(names: &[&str]) -> BTreeSet<ServiceName> {
        let name = |name: &&str| ServiceName { namespace: "default".into(), name: (*name).into() };
        names.iter().map(name).collect()
    }

    /// What is known is what reading everything anew would give.
    fn check(
        told: &mut Told,
        service: Option<&core::Service>,
        slice: Option<&EndpointSlice>,
        news: &[&str],
    ) {
        assert_eq!(told.facts(), Some(&facts::read(service.into_iter(), slice.into_iter())));
        assert_eq!(told.changed(), names(news));
    }

    #[test]
    fn news_is_what_differs_and_of_whom() {
        let mut told = Told::default();
        told.service(Event::Init);
        told.service(Event::InitApply(service("web", 80)));
        told.service(Event::InitDone);
        assert_eq!(told.facts(), None, "slices have not been listed");
        told.slice(Event::Init);
        told.slice(Event::InitApply(slice("a", "web", 2)));
        told.slice(Event::InitDone);
        let (web, a) = (service("web", 80), slice("a", "web", 2));
        check(&mut told, Some(&web), Some(&a), &["web"]);
        // Again, and again in a list: no news.
        told.slice(Event::Apply(a.clone()));
        told.service(Event::Apply(web.clone()));
        told.service(Event::Init);
        told.service(Event::InitApply(web.clone()));
        told.service(Event::InitDone);
        check(&mut told, Some(&web), Some(&a), &[]);
        told.slice(Event::Apply(slice("a", "web", 3)));
        check(&mut told, Some(&web), Some(&slice("a", "web", 3)), &["web"]);
        // A slice that changes hands is news of both.
        told.slice(Event::Apply(slice("a", "db", 3)));
        check(&mut told, Some(&web), Some(&slice("a", "db", 3)), &["web", "db"]);
        // What a list no longer holds has gone.
        told.slice(Event::Init);
        told.slice(Event::InitApply(slice("b", "web", 4)));
        told.slice(Event::InitDone);
        check(&mut told, Some(&web), Some(&slice("b", "web", 4)), &["web", "db"]);
        told.service(Event::Init);
        told.service(Event::InitDone);
        check(&mut told, None, Some(&slice("b", "web", 4)), &["web"]);
        told.slice(Event::Delete(slice("b", "web", 4)));
        check(&mut told, None, None, &["web"]);
    }
}

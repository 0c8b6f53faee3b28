//! The way of events from the server to one cache: late, doubled, cut off. Within one kind never out of order, for
//! that no API server does; between kinds in any order.

use joey::reconcile::caches::{Cache, Held};
use kube::runtime::watcher::Event;

use super::api::{Served, Server};

/// Where one watch has come to.
#[derive(Default)]
pub struct Feed {
    position: usize,
    /// Where the last list stood: no watch begins before it, so nothing older comes again.
    listed: usize,
    /// A list that is on its way: what it shows was read when it was asked for.
    listing: Option<usize>,
    begun: bool,
}

impl Feed {
    /// Whether the cache has seen all that has happened, and every list that was asked for.
    pub fn is_current<K: Served + Held>(&self, server: &mut Server, cache: &Cache<K>) -> bool {
        self.begun
            && self.listing.is_none()
            && self.position == K::table(server).log.len()
            && !cache.wants_list()
    }

    /// One event further, or one list.
    pub fn deliver<K: Served + Held>(&mut self, server: &mut Server, cache: &Cache<K>) {
        if !self.begun || cache.wants_list() {
            return self.list(server, cache);
        }
        let table = K::table(server);
        if let Some(position) = self.listing.take() {
            cache.take(Event::InitDone);
            self.position = position;
            self.listed = position;
        } else if let Some(event) = table.log.get(self.position) {
            cache.take(copy(event));
            self.position += 1;
        }
    }

    /// An event comes once more.
    pub fn double<K: Served + Held>(&mut self, server: &mut Server, cache: &Cache<K>, back: usize) {
        if self.listing.is_none() && self.begun {
            let place = self.position.checked_sub(1 + back).filter(|place| *place >= self.listed);
            if let Some(event) = place.and_then(|place| K::table(server).log.get(place)) {
                cache.take(copy(event));
            }
        }
    }

    /// Events are lost: the connection broke, and a list is asked for anew.
    pub fn list<K: Served + Held>(&mut self, server: &mut Server, cache: &Cache<K>) {
        cache.take(Event::Init);
        let table = K::table(server);
        for object in table.objects.values() {
            cache.take(Event::InitApply(object.clone()));
        }
        self.listing = Some(table.log.len());
        self.begun = true;
    }
}

fn copy<K: Clone>(event: &Event<K>) -> Event<K> {
    match event {
        Event::Apply(object) => Event::Apply(object.clone()),
        Event::Delete(object) => Event::Delete(object.clone()),
        Event::Init | Event::InitApply(_) | Event::InitDone => unreachable!("no log holds these"),
    }
}

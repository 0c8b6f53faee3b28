//! Feeds a cache from the API: list, watch, list again when somebody needs certainty.

use std::pin::pin;

use futures::StreamExt;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};

use super::{Cache, Held};

/// Watches one kind for ever. The watch resumes by itself; its errors are retried with back-off.
pub async fn follow<K: Held>(cache: &Cache<K>, client: kube::Client) {
    let mut wanted = cache.wanted_list.subscribe();
    loop {
        let events = watcher(Api::<K>::all(client.clone()), watcher::Config::default());
        let mut events = pin!(events.default_backoff());
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) => cache.take(event.modify(|object| {
                        // Who set which field matters to no controller, and is half of an object's size.
                        object.managed_fields_mut().clear();
                    })),
                    Some(Err(error)) => {
                        tracing::debug!(kind = ?K::KIND, error = error_chain(&error), "a controllers' watch");
                    }
                    None => return,
                },
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    wanted.mark_unchanged();
                    if cache.wants_list() {
                        // A new watcher begins with a new list.
                        break;
                    }
                }
            }
        }
    }
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

//! Events go an hour after they were last seen, as in Kubernetes.
//!
//! It never touches another kind. When an event goes is in the event itself, so a restart forgets nothing;
//! without events this waits for the first one, and otherwise for the next to go.

use std::time::Duration;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::api::failure::Failure;
use crate::api::query::Effect;
use crate::api::verbs::selection::Selection;
use crate::api::verbs::{key, list, write};
use crate::api::{Api, catalog, object};
use crate::model::time::Timestamp;
use crate::store::Scope;
use crate::sys::clock;

/// `--event-ttl` of kube-apiserver.
const KEPT: Duration = Duration::from_secs(3600);
/// Sweeps are this far apart at least: many events are looked at together.
const PAUSE: Duration = Duration::from_secs(60);

impl Api {
    /// Removes events as they expire, until `stop`.
    pub async fn expire_events(self, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            loop {
                let seen = self.inner.store.revision();
                match self.remove_expired_events(clock::now()).await {
                    Ok(Some(next)) => {
                        tokio::time::sleep(next.since(clock::now()).max(PAUSE)).await;
                    }
                    Ok(None) => {
                        let events =
                            Scope { resource: catalog::events().stored_as(), namespace: None };
                        match self.inner.store.watch(&events, seen) {
                            Ok(mut first) => drop(first.next().await),
                            // History is gone already: time has passed, look again.
                            Err(_) => tokio::time::sleep(PAUSE).await,
                        }
                    }
                    Err(failure) => {
                        tracing::warn!(message = failure.message, "expired events stay for now");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        })
        .await;
    }

    /// Removes the events that have expired at `now`; answers when the next one will.
    pub async fn remove_expired_events(
        &self,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, Failure> {
        let kind = catalog::events();
        let mut next = None;
        for event in list::all(self, kind, None, &Selection::everything(kind))? {
            let expires = expiry(&event, now);
            if expires > now {
                next = Some(next.map_or(expires, |next: Timestamp| next.min(expires)));
                continue;
            }
            let namespace = event["metadata"]["namespace"].as_str();
            let place = key(kind, namespace, object::name(&event));
            // Whoever repeats it meanwhile keeps it.
            let removed = write::change(self, kind, &place, Effect::Persist, |current| {
                Ok(match expiry(current, now) <= now {
                    true => write::Next::Remove,
                    false => write::Next::Keep,
                })
            })
            .await;
            match removed {
                Ok(_) => {}
                Err(failure) if failure.reason == "NotFound" => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(next)
    }
}

/// When `event` goes.
fn expiry(event: &Value, now: Timestamp) -> Timestamp {
    let times = [
        &event["series"]["lastObservedTime"],
        &event["lastTimestamp"],
        &event["firstTimestamp"],
        &event["eventTime"],
        &event["metadata"]["creationTimestamp"],
    ];
    let seen = times
        .iter()
        .filter_map(|time| time.as_str()?.parse::<Timestamp>().ok())
        // A reporter whose clock runs ahead gains nothing.
        .filter(|time| *time <= now.plus(KEPT))
        .max();
    seen.unwrap_or(now).plus(KEPT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_lasts_an_hour_from_when_it_was_last_seen() {
        let now = Timestamp::from_unix(100_000, 0);
        let at = |seconds: i64| Timestamp::from_unix(seconds, 0).to_seconds_text();
        for (event, expires) in [
            (json!({"lastTimestamp": at(90_000), "firstTimestamp": at(10)}), 93_600),
            (json!({"metadata": {"creationTimestamp": at(50_000)}}), 53_600),
            (json!({"eventTime": at(1), "series": {"lastObservedTime": at(99_999)}}), 103_599),
            (
                json!({"lastTimestamp": at(9_000_000), "metadata": {"creationTimestamp": at(7)}}),
                3_607,
            ),
            (json!({"lastTimestamp": "soon"}), 103_600),
        ] {
            assert_eq!(expiry(&event, now).unix_seconds(), expires, "{event}");
        }
    }
}

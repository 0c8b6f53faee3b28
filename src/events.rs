//! Events as the actors (node agent, scheduler) tell them: equal ones counted, similar ones told together, floods cut.
//!
//! It never blocks and never fails its caller: an Event that finds the queue full or the API away is dropped. What is
//! told within a moment is written together, so that it shares a commit; a pod's start is such a moment.

mod budget;
mod similar;

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::budget::Budget;
use self::similar::{COMBINED, Similar};
use crate::model::time::Timestamp;
use crate::sys::clock;

const QUEUE: usize = 512;
/// How long an Event waits for others.
const GATHER: Duration = Duration::from_millis(25);
/// Most Events that are written together.
const TOGETHER: usize = 64;
/// Different Events that are remembered for counting.
const REMEMBERED: usize = 4096;
/// Earlier Events are read in pages of so many.
const PAGE: u32 = 500;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Normal,
    Warning,
}

/// Something to tell about an object.
#[derive(Debug, Clone)]
pub struct Note {
    pub about: core::ObjectReference,
    pub kind: Kind,
    pub reason: Cow<'static, str>,
    pub message: String,
}

/// Takes notes. Clones share one queue.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<(Timestamp, Note)>,
}

impl Recorder {
    /// Starts the task that writes Events as `component` on `node`.
    pub fn start(
        client: kube::Client,
        component: &'static str,
        node: String,
        stop: CancellationToken,
    ) -> Recorder {
        let (queue, notes) = mpsc::channel(QUEUE);
        let writer = Writer {
            client,
            component,
            node,
            told: BTreeMap::new(),
            order: VecDeque::new(),
            budget: Budget::default(),
            similar: Similar::default(),
        };
        tokio::spawn(stop.run_until_cancelled_owned(writer.run(notes)));
        Recorder { queue }
    }

    pub fn note(&self, note: Note) {
        if self.queue.try_send((clock::now(), note)).is_err() {
            tracing::debug!("an event was dropped: the queue is full");
        }
    }
}

/// A reference to an object of which only this much is known; core objects alone have no group.
pub fn about(
    kind: &str,
    namespace: Option<&str>,
    name: &str,
    uid: Option<String>,
) -> core::ObjectReference {
    core::ObjectReference {
        api_version: Some("v1".into()),
        kind: Some(kind.to_owned()),
        namespace: namespace.map(str::to_owned),
        name: Some(name.to_owned()),
        uid,
        ..core::ObjectReference::default()
    }
}

/// A reference to a pod, or to one of its containers (`spec.containers{name}`).
pub fn about_pod(pod: &core::Pod, field_path: Option<String>) -> core::ObjectReference {
    core::ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        field_path,
    }
}

/// What makes two Events the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    /// Namespace and uid of the object, or its name.
    object: String,
    field_path: String,
    kind: Kind,
    reason: String,
    /// Of those that are told together only [`COMBINED`].
    message: String,
}

/// Longest message of an Event.
const MESSAGE: usize = 1024;

impl Key {
    fn new(about: &core::ObjectReference, kind: Kind, reason: &str, message: &str) -> Key {
        Key {
            object: format!(
                "{}/{}",
                about.namespace.as_deref().unwrap_or_default(),
                about.uid.as_deref().or(about.name.as_deref()).unwrap_or_default()
            ),
            field_path: about.field_path.clone().unwrap_or_default(),
            kind,
            reason: reason.to_owned(),
            message: match message.starts_with(COMBINED) {
                true => COMBINED.to_owned(),
                false => message.chars().take(MESSAGE).collect(),
            },
        }
    }

    /// All of it but the text.
    fn group(&self) -> String {
        let Key { object, field_path, kind, reason, message: _ } = self;
        format!("{object} {field_path} {kind:?} {reason}")
    }

    /// Of an Event as it is told in the API.
    fn of(event: &core::Event) -> Key {
        let kind = match event.type_.as_deref() {
            Some("Warning") => Kind::Warning,
            Some(_) | None => Kind::Normal,
        };
        let (reason, message) = (event.reason.as_deref(), event.message.as_deref());
        Key::new(
            &event.involved_object,
            kind,
            reason.unwrap_or_default(),
            message.unwrap_or_default(),
        )
    }
}

fn shown(note: &Note) -> String {
    note.message.chars().take(MESSAGE).collect()
}

struct Told {
    namespace: String,
    name: String,
    count: i32,
}

/// Equal notes of one moment.
#[derive(Debug)]
struct News {
    key: Key,
    note: Note,
    first: Timestamp,
    last: Timestamp,
    count: i32,
}

/// In the order in which they were told first.
fn merged(notes: impl Iterator<Item = (Timestamp, Note)>) -> Vec<News> {
    let mut all: Vec<News> = Vec::new();
    for (when, note) in notes {
        let key = Key::new(&note.about, note.kind, &note.reason, &note.message);
        match all.iter_mut().find(|news| news.key == key) {
            Some(news) => {
                (news.last, news.count) = (when, news.count.saturating_add(1));
                // Of those told together the latest is shown.
                news.note = note;
            }
            None => all.push(News { key, note, first: when, last: when, count: 1 }),
        }
    }
    all
}

struct Writer {
    client: kube::Client,
    component: &'static str,
    node: String,
    told: BTreeMap<Key, Told>,
    order: VecDeque<Key>,
    budget: Budget,
    similar: Similar,
}

impl Writer {
    async fn run(mut self, mut notes: mpsc::Receiver<(Timestamp, Note)>) {
        // Read when there is something to tell: a start that has nothing to tell has better things to do.
        let mut first = true;
        while let Some(next) = notes.recv().await {
            let mut gathered = vec![next];
            tokio::time::sleep(GATHER).await;
            while gathered.len() < TOGETHER
                && let Ok(next) = notes.try_recv()
            {
                gathered.push(next);
            }
            // Without it what an earlier daemon told is told again instead of counted.
            if std::mem::take(&mut first)
                && let Err(error) = self.remember_earlier().await
            {
                tracing::debug!(%error, "earlier events could not be read");
            }
            self.write(gathered).await;
        }
    }

    /// Reads what this component has told before it was started anew.
    async fn remember_earlier(&mut self) -> Result<(), kube::Error> {
        let api: Api<core::Event> = Api::all(self.client.clone());
        let selector = format!("source={}", self.component);
        let mut page = ListParams::default().fields(&selector).limit(PAGE);
        loop {
            let listed = api.list(&page).await?;
            for event in listed.items {
                let (Some(namespace), Some(name)) =
                    (&event.metadata.namespace, &event.metadata.name)
                else {
                    continue;
                };
                let told = Told {
                    namespace: namespace.clone(),
                    name: name.clone(),
                    count: event.count.unwrap_or(1),
                };
                self.remember(Key::of(&event), told);
            }
            match listed.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) if self.order.len() < REMEMBERED => page = page.continue_token(&token),
                Some(_) | None => return Ok(()),
            }
        }
    }

    fn remember(&mut self, key: Key, told: Told) {
        if self.told.insert(key.clone(), told).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.told.remove(&oldest);
        }
    }

    async fn write(&mut self, gathered: Vec<(Timestamp, Note)>) {
        let affordable = gathered.into_iter().filter_map(|(when, mut note)| {
            let key = Key::new(&note.about, note.kind, &note.reason, &note.message);
            if self.similar.is_combined(&key.group(), &key.message, when) {
                note.message.insert_str(0, COMBINED);
            }
            self.budget.spend(&key.object, when).then_some((when, note))
        });
        let news = merged(affordable);
        let written = join_all(news.iter().map(|news| self.write_one(news))).await;
        for (news, told) in news.into_iter().zip(written) {
            if let Some(told) = told {
                self.remember(news.key, told);
            }
        }
    }

    /// What is to be remembered of it.
    async fn write_one(&self, news: &News) -> Option<Told> {
        if let Some(told) = self.told.get(&news.key) {
            let count = told.count.saturating_add(news.count);
            let api: Api<core::Event> = Api::namespaced(self.client.clone(), &told.namespace);
            let patch = json!({
                "count": count,
                "lastTimestamp": Time(news.last.as_jiff()),
                "message": shown(&news.note),
            });
            let written =
                api.patch(&told.name, &PatchParams::default(), &Patch::Merge(&patch)).await;
            match written {
                // It has expired: tell it anew.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => {
                    if let Err(error) = other {
                        tracing::debug!(%error, "an event was not counted");
                    }
                    let (namespace, name) = (told.namespace.clone(), told.name.clone());
                    return Some(Told { namespace, name, count });
                }
            }
        }
        let namespace = news.note.about.namespace.clone().unwrap_or_else(|| "default".into());
        let event = self.event(news, &namespace);
        let name = event.metadata.name.clone().unwrap_or_default();
        let api: Api<core::Event> = Api::namespaced(self.client.clone(), &namespace);
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => Some(Told { namespace, name, count: news.count }),
            Err(error) => {
                tracing::debug!(%error, "an event was not written");
                None
            }
        }
    }

    fn event(&self, news: &News, namespace: &str) -> core::Event {
        let note = &news.note;
        let mut random = [0u8; 8];
        clock::random(&mut random);
        let suffix: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        core::Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{suffix}", note.about.name.as_deref().unwrap_or("unknown"))),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: note.about.clone(),
            type_: Some(
                match note.kind {
                    Kind::Normal => "Normal",
                    Kind::Warning => "Warning",
                }
                .into(),
            ),
            reason: Some(note.reason.clone().into_owned()),
            message: Some(shown(note)),
            count: Some(news.count),
            first_timestamp: Some(Time(news.first.as_jiff())),
            last_timestamp: Some(Time(news.last.as_jiff())),
            source: Some(core::EventSource {
                component: Some(self.component.into()),
                host: Some(self.node.clone()).filter(|node| !node.is_empty()),
            }),
            reporting_component: Some(self.component.into()),
            reporting_instance: Some(self.node.clone()),
            ..core::Event::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_notes_of_one_moment_are_one_event_that_counts() {
        let note = |message: &str| Note {
            about: core::ObjectReference { name: Some("web".into()), ..Default::default() },
            kind: Kind::Normal,
            reason: "Killing".into(),
            message: message.into(),
        };
        let at = |second: i64| Timestamp::from_unix(second, 0);
        let told = [(at(1), note("a")), (at(2), note("b")), (at(3), note("a"))];
        let news = merged(told.into_iter());
        let seen: Vec<_> =
            news.iter().map(|n| (&*n.note.message, n.first, n.last, n.count)).collect();
        assert_eq!(seen, [("a", at(1), at(3), 2), ("b", at(2), at(2), 1)]);
        let combined =
            [(at(4), note(&format!("{COMBINED}c"))), (at(5), note(&format!("{COMBINED}d")))];
        let news = merged(combined.into_iter());
        assert_eq!(news.len(), 1, "the latest stands for all");
        assert_eq!(
            (news[0].note.message.as_str(), news[0].count),
            ("(combined from similar events): d", 2)
        );
    }
}

//! Follows one kind of the API in such a way that somebody may ask: is everything up to this revision known?
//!
//! Events tell of changes, and of nothing else; a watch that is silent may have nothing to tell or be late. One that begins
//! anew after what is known says by a bookmark when nothing from before is left (`api/verbs/watch`). So who asks for
//! a revision that has not been reached gets a new watch: one request, and of the changes none twice.
//!
//! ```text
//! list ──▶ Told::All ──▶ watch ──▶ Changed, Gone, UpTo … ──asked for more──▶ watch anew
//!   ▲                      └────────── 410, too old ────────────┐
//!   └──────────────────────────────────────────────────────────┘
//! ```

use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use futures::TryStreamExt;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::Status;
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// A new watch that has not said by then where it stands is given up for another.
const SAYS_WITHIN: Duration = Duration::from_secs(2);

/// What is told of a kind.
#[derive(Debug)]
pub enum Told<K> {
    /// All that there is, as of a revision.
    All(Vec<K>, u64),
    /// The object is so since a revision.
    Changed(K, u64),
    /// It is gone since.
    Gone(K, u64),
    /// Nothing up to this revision is left to tell.
    UpTo(u64),
}

/// Why a list or a watch has ended early.
enum Broken {
    /// Nobody listens any more.
    Unheard,
    /// The API knows the changes since then no longer.
    TooOld,
    Failed(kube::Error),
}

impl From<kube::Error> for Broken {
    fn from(error: kube::Error) -> Broken {
        match &error {
            kube::Error::Api(status) if status.code == 410 => Broken::TooOld,
            _ => Broken::Failed(error),
        }
    }
}

/// Tells `tell` of all objects of a kind until nobody listens. `asked` is the newest revision that somebody needs to
/// be known.
pub async fn follow<K>(api: Api<K>, asked: watch::Receiver<u64>, tell: mpsc::Sender<Told<K>>)
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    let mut follower = Follower { api, asked, tell, known: None };
    let mut pause = FIRST_PAUSE;
    loop {
        let outcome = match follower.known {
            None => follower.list().await,
            Some(since) => follower.watch(since).await,
        };
        match outcome {
            Ok(()) => pause = FIRST_PAUSE,
            Err(Broken::Unheard) => return,
            Err(Broken::TooOld) => follower.known = None,
            Err(Broken::Failed(error)) => {
                tracing::debug!(%error, "watching for network policies");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LAST_PAUSE);
            }
        }
    }
}

struct Follower<K> {
    api: Api<K>,
    asked: watch::Receiver<u64>,
    tell: mpsc::Sender<Told<K>>,
    /// Everything up to this revision has been told.
    known: Option<u64>,
}

impl<K> Follower<K>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    async fn tell(&self, told: Told<K>) -> Result<(), Broken> {
        self.tell.send(told).await.map_err(|_| Broken::Unheard)
    }

    async fn list(&mut self) -> Result<(), Broken> {
        let list = self.api.list(&ListParams::default()).await?;
        let at = revision(list.metadata.resource_version.as_deref());
        self.tell(Told::All(list.items, at)).await?;
        self.known = Some(at);
        Ok(())
    }

    /// Until the API ends it, or until a new one is to say how far it has come.
    async fn watch(&mut self, since: u64) -> Result<(), Broken> {
        let events = self.api.watch(&WatchParams::default(), &since.to_string()).await?;
        let mut events = pin!(events);
        let patience = Instant::now() + SAYS_WITHIN;
        let mut known = since;
        let mut has_said = false;
        loop {
            let is_wanted = *self.asked.borrow_and_update() > known;
            if is_wanted && has_said {
                return Ok(());
            }
            let event = tokio::select! {
                event = events.try_next() => event?,
                asked = self.asked.changed() => match asked {
                    Ok(()) => continue,
                    Err(_) => return Err(Broken::Unheard),
                },
                () = tokio::time::sleep_until(patience), if is_wanted => return Ok(()),
            };
            let Some(event) = event else {
                return Ok(());
            };
            let told = match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    let at = revision(object.resource_version().as_deref());
                    Told::Changed(object, at)
                }
                WatchEvent::Deleted(object) => {
                    let at = revision(object.resource_version().as_deref());
                    Told::Gone(object, at)
                }
                WatchEvent::Bookmark(mark) => {
                    has_said = true;
                    Told::UpTo(revision(Some(&mark.metadata.resource_version)))
                }
                WatchEvent::Error(status) => return Err(ended(status)),
            };
            known = known.max(match &told {
                Told::All(_, at) | Told::UpTo(at) => *at,
                // One commit may hold several: the rest of it may be yet to come.
                Told::Changed(_, at) | Told::Gone(_, at) => at.saturating_sub(1),
            });
            self.tell(told).await?;
            self.known = Some(known);
        }
    }
}

fn ended(status: Box<Status>) -> Broken {
    Broken::from(kube::Error::Api(status))
}

/// Our API counts; what is no number is before everything.
fn revision(text: Option<&str>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

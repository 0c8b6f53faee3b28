//! Finding or pulling a container's image by its policy.
//!
//! A pull runs beside the worker, so that a slow registry holds up neither other containers nor deletion.

use std::time::Duration;

use futures::FutureExt;

use super::Worker;
use crate::events::Kind;
use crate::model::time::Timestamp;
use crate::node::compile::Refusal;
use crate::node::lifecycle::{Doom, ImageState, MissingImage, MissingReason, Run};
use crate::node::resolve;
use crate::node::restart::Backoff;
use crate::placement::is_sidecar;
use crate::runtime::image::{Credentials, Image, ImageError, Images};
use crate::sys::clock;

/// A pull that takes longer counts as failed.
const PULL_DEADLINE: Duration = Duration::from_secs(3600);

/// What came of a pull.
pub(super) struct Pulled {
    container: String,
    reference: String,
    result: Result<Image, ImageError>,
    took: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    Always,
    IfNotPresent,
    Never,
}

/// The image that a container will want next, looked up while the pod waited for something else.
pub(super) struct Ahead {
    container: String,
    reference: String,
    found: Result<Option<Image>, ImageError>,
}

impl Ahead {
    fn is_of(&self, container: &str, reference: &str) -> bool {
        self.container == container && self.reference == reference
    }
}

async fn find(images: Images, reference: String) -> Result<Option<Image>, ImageError> {
    match tokio::task::spawn_blocking(move || images.find(&reference)).await {
        Ok(found) => found,
        Err(error) => Err(ImageError::Io { step: "look for the image", reason: error.to_string() }),
    }
}

impl Worker {
    /// Looks for the image of the container that comes first.
    pub(super) fn look_ahead(&self) -> impl Future<Output = Option<Ahead>> + use<> {
        let spec = self.pod.spec.as_ref();
        let mut containers =
            spec.into_iter().flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers));
        let first = containers
            .next()
            .map(|first| (first.name.clone(), first.image.clone().unwrap_or_default()));
        let images = self.shared.images.clone();
        async move {
            let (container, reference) = first?;
            let found = find(images, reference.clone()).await;
            Some(Ahead { container, reference, found })
        }
    }

    /// Keeps the container's image, whatever happens to its names, until the pod is no more. Answers whether that
    /// could be written down.
    pub(super) fn hold(
        &self,
        name: &str,
        image: &Image,
    ) -> impl Future<Output = Result<(), Refusal>> + use<> {
        let is_held = self.held_images.get(name) == Some(&image.id);
        let (images, held) = (self.shared.images.clone(), image.clone());
        let holder = holder(&self.uid, name);
        async move {
            if is_held {
                return Ok(());
            }
            match tokio::task::spawn_blocking(move || images.pin(&holder, &held)).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(Refusal::container(error.to_string())),
                Err(error) => Err(Refusal::container(error.to_string())),
            }
        }
    }

    /// Under which names this pod may hold images.
    pub(super) fn image_holders(&self) -> Vec<String> {
        let spec = self.pod.spec.as_ref();
        let containers = spec
            .into_iter()
            .flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
        containers.map(|container| holder(&self.uid, &container.name)).collect()
    }

    /// Makes the image ready, begins its pull, or notes why it is missing.
    pub(super) async fn image(&mut self, name: &str) {
        let Some((spec, _)) = self.spec_of(name) else {
            return;
        };
        let reference = spec.image.clone().unwrap_or_default();
        let policy = match spec.image_pull_policy.as_deref() {
            Some("Always") => Policy::Always,
            Some("Never") => Policy::Never,
            Some(_) | None => Policy::IfNotPresent,
        };
        self.sought_images.insert(name.to_owned(), reference.clone());
        let ahead = self.ahead.take().filter(|ahead| ahead.is_of(name, &reference));
        let found = match ahead {
            Some(ahead) => ahead.found,
            None => find(self.shared.images.clone(), reference.clone()).await,
        };
        let credentials = self.pull_credentials().await;
        // Another's private image is here only for those who could pull it as well.
        let is_admitted = match &found {
            Ok(Some(image)) => image.access.admits(&reference, &credentials),
            Ok(None) | Err(_) => false,
        };
        match (found, policy) {
            (Err(error), _) => self.missing(name, &reference, &error),
            (Ok(Some(image)), Policy::IfNotPresent | Policy::Never) if is_admitted => {
                let message = format!("Container image {reference:?} already present on machine");
                self.tell_container(name, Kind::Normal, "Pulled", message);
                self.ready(name, image);
            }
            (Ok(found), Policy::Never) => {
                let message = match found {
                    None => format!(
                        "Container image {reference:?} is not present with pull policy of Never"
                    ),
                    Some(_) => format!(
                        "Container image {reference:?} is present with pull policy of Never but does not have \
                         the proper credentials to access the image"
                    ),
                };
                self.tell_container(name, Kind::Warning, "ErrImageNeverPull", message.clone());
                let failed = "Error: ErrImageNeverPull".to_owned();
                self.tell_container(name, Kind::Warning, "Failed", failed);
                self.note_missing(name, MissingReason::ErrImageNeverPull, message);
            }
            (Ok(_), Policy::IfNotPresent | Policy::Always) => {
                self.pull(name, reference, credentials);
            }
        }
    }

    /// What the pod's secrets hold. One that is missing is told whether the image is here or not, as kubelet does:
    /// the next start may be one that needs it.
    async fn pull_credentials(&self) -> Vec<Credentials> {
        let found = resolve::pull_secrets(&self.shared.client, &self.pod).await;
        if !found.missing.is_empty() {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                found.missing.join(", ")
            );
            self.tell(Kind::Warning, "FailedToRetrieveImagePullSecret", message);
        }
        found.credentials
    }

    fn pull(&mut self, name: &str, reference: String, credentials: Vec<Credentials>) {
        self.tell_container(name, Kind::Normal, "Pulling", format!("Pulling image {reference:?}"));
        let images = self.shared.images.clone();
        let container = name.to_owned();
        let began = clock::now();
        self.pulls.spawn(async move {
            let pull = images.pull_for_pod(&reference, &credentials);
            // A panic over somebody's image is that image's failure, not a wait without end.
            let pull = std::panic::AssertUnwindSafe(pull).catch_unwind();
            let result = match tokio::time::timeout(PULL_DEADLINE, pull).await {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => Err(ImageError::Io {
                    step: "pull the image",
                    reason: "it could not be processed".into(),
                }),
                Err(_) => Err(ImageError::Pull {
                    name: reference.clone(),
                    reason: "it took longer than an hour".into(),
                }),
            };
            Pulled { container, reference, result, took: clock::now().since(began) }
        });
        self.set_image(name, ImageState::Pulling);
    }

    pub(super) fn pulled(&mut self, pulled: Pulled) {
        let name = pulled.container;
        let Some((spec, _)) = self.spec_of(&name) else {
            return;
        };
        let reference = spec.image.clone().unwrap_or_default();
        if reference != pulled.reference {
            // It was changed meanwhile, and the other one is looked for.
            return;
        }
        match pulled.result {
            Err(error @ ImageError::Io { .. }) => {
                let error = ImageError::Pull { name: reference.clone(), reason: error.to_string() };
                self.missing(&name, &reference, &error);
            }
            Ok(image) => {
                let took = pulled.took.as_secs_f64();
                let message = format!(
                    "Successfully pulled image {reference:?} in {took:.3}s ({took:.3}s including waiting). \
                     Image size: {} bytes.",
                    image.size_bytes
                );
                self.tell_container(&name, Kind::Normal, "Pulled", message);
                self.ready(&name, image);
            }
            Err(error) => self.missing(&name, &reference, &error),
        }
    }

    fn ready(&mut self, name: &str, image: Image) {
        self.ready_images.insert(name.to_owned(), image);
        if let Some(container) = self.state.containers.get_mut(name) {
            container.image = ImageState::Ready;
            container.image_backoff = Backoff::default();
            container.backoff_told = false;
        }
    }

    fn missing(&mut self, name: &str, reference: &str, error: &ImageError) {
        match error {
            ImageError::InvalidName { .. } => {
                let message = format!("Failed to apply default image tag {reference:?}: {error}");
                self.tell_container(name, Kind::Warning, "InspectFailed", message.clone());
                let failed = "Error: InvalidImageName".to_owned();
                self.tell_container(name, Kind::Warning, "Failed", failed);
                self.note_missing(name, MissingReason::InvalidImageName, message);
            }
            ImageError::Io { .. } => {
                let message = format!("Failed to inspect image {reference:?}: {error}");
                self.tell_container(name, Kind::Warning, "InspectFailed", message.clone());
                self.note_missing(name, MissingReason::ImageInspectError, message);
            }
            ImageError::Pull { .. } | ImageError::Content { .. } | ImageError::Absent { .. } => {
                let message = format!("Failed to pull image {reference:?}: {error}");
                self.tell_container(name, Kind::Warning, "Failed", message);
                let failed = "Error: ErrImagePull".to_owned();
                self.tell_container(name, Kind::Warning, "Failed", failed);
                self.note_missing(name, MissingReason::ErrImagePull, error.to_string());
            }
        }
    }

    fn note_missing(&mut self, name: &str, reason: MissingReason, message: String) {
        let now = clock::now();
        if let Some(container) = self.state.containers.get_mut(name) {
            let backoff = &mut container.image_backoff;
            backoff.raise(now, now);
            let retry_at = backoff.ready_at(now);
            container.image =
                ImageState::Missing(MissingImage { reason, message, failed_at: now, retry_at });
            container.backoff_told = false;
        }
    }

    /// An image may have appeared: those that were missing and need no registry are looked for at once.
    pub(super) fn look_for_images(&mut self) {
        let missing: Vec<String> = self
            .state
            .containers
            .iter()
            .filter(|(_, c)| matches!(c.image, ImageState::Missing(_)))
            .map(|(name, _)| name.clone())
            .collect();
        for name in missing {
            let Some((spec, _)) = self.spec_of(&name) else { continue };
            let reference = spec.image.clone().unwrap_or_default();
            if spec.image_pull_policy.as_deref() == Some("Always") {
                continue;
            }
            // One that is not everybody's was asked for already; its back-off stands.
            let found = self.shared.images.find(&reference);
            if let Ok(Some(image)) = found
                && image.access.admits(&reference, &[])
            {
                self.set_image(&name, ImageState::Unchecked);
            }
        }
    }

    /// The image of a pod may be changed (`kubectl set image`): what is not there yet is looked for under the new
    /// name, and what runs another one ends and starts anew, as under kubelet (`computePodActions`).
    pub(super) fn heed_changed_images(&mut self, now: Timestamp) {
        if self.stop_by.is_some() || self.state.outcome.is_some() {
            return;
        }
        let spec = self.pod.spec.as_ref();
        let init = spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten());
        let all = init.chain(spec.into_iter().flat_map(|spec| &spec.containers));
        let wanted: Vec<(String, String)> =
            all.map(|c| (c.name.clone(), c.image.clone().unwrap_or_default())).collect();
        for (name, reference) in wanted {
            if self.sought_images.get(&name).is_some_and(|sought| *sought != reference) {
                self.sought_images.remove(&name);
                if let Some(container) = self.state.containers.get_mut(&name) {
                    container.image = ImageState::Unchecked;
                    container.image_backoff = Backoff::default();
                    container.backoff = Backoff::default();
                    container.backoff_told = false;
                }
            }
            // An init container has no use of another image once it has ended.
            let stays = self
                .spec_of(&name)
                .is_some_and(|(spec, list)| list == "spec.containers" || is_sidecar(spec));
            let started = self.plans.get(&name).map_or("", |plan| plan.image.as_str());
            if stays && !started.is_empty() && started != reference {
                self.renew(&name, now);
            }
        }
    }

    /// Ends a container that runs, to be started anew.
    fn renew(&mut self, name: &str, now: Timestamp) {
        let kill_at = now.plus(self.own_grace());
        let Some(container) = self.state.containers.get_mut(name) else { return };
        let Run::Running(running) = &mut container.run else { return };
        // Also of one that is doomed already: whatever dooms it may not let it start again.
        container.renewed = true;
        if running.doom.is_some() {
            return;
        }
        let message = format!("Container {name} definition changed, will be restarted");
        running.doom = Some(Doom { message, kill_at });
        if let Some(health) = self.health.get_mut(name) {
            health.doom();
        }
        self.show_health(name);
        self.record(name);
    }

    fn set_image(&mut self, name: &str, state: ImageState) {
        if let Some(container) = self.state.containers.get_mut(name) {
            container.image = state;
        }
    }

    /// When a refused container is tried again.
    pub(super) fn retry_soon() -> Timestamp {
        clock::now().plus(Duration::from_secs(10))
    }
}

/// One pin a container: `<uid>/<name>`.
fn holder(uid: &str, container: &str) -> String {
    format!("{uid}/{container}")
}

/// Lets go of every image that a pod holds which only its uid is known of.
pub(in crate::node) fn release(images: &Images, uid: &str) -> Result<(), ImageError> {
    let prefix = holder(uid, "");
    for (holder, _) in images.pins()? {
        if holder.starts_with(&prefix) {
            images.unpin(&holder)?;
        }
    }
    Ok(())
}

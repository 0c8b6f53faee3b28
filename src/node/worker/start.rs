//! Starting one attempt of one container: facts, plan, directories, process.
//!
//! It never retries by itself: what failed stands in the container's state, and `lifecycle` decides.

use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::{fs, io};

use super::Worker;
use crate::events::Kind;
use crate::node::compile::{self, Compiled, ContainerFacts, PodPaths, Refusal, used_image};
use crate::node::lifecycle::{EndReason, Ended, ImageState, MissingReason, Refused, Run};
use crate::node::{resolve, volume};
use crate::runtime::plan::ContainerPlan;
use crate::runtime::{ContainerPhase, RuntimeError};
use crate::sys::clock;

impl Worker {
    pub(super) async fn start(&mut self, name: &str) {
        let Some(container) = self.state.containers.get(name) else {
            return;
        };
        let attempt = container.next_attempt();
        let compiled = match self.plan(name, attempt).await {
            Ok(compiled) => compiled,
            Err(refusal) => return self.refused(name, refusal.reason, refusal.message),
        };
        for skipped in &compiled.skipped {
            let message = format!(
                "Keys [{}] from the EnvFrom {} were skipped since they are considered invalid \
                 environment variable names.",
                skipped.keys.join(", "),
                skipped.from
            );
            self.tell(Kind::Warning, "InvalidEnvironmentVariableNames", message);
        }
        let plan = compiled.plan;
        let (paths, planned) = (self.paths.clone(), plan.clone());
        let made = tokio::task::spawn_blocking(move || directories(&paths, &planned)).await;
        if let Err(error) = made.unwrap_or_else(|error| Err(io::Error::other(error))) {
            return self.refused(
                name,
                "CreateContainerError",
                format!("making directories: {error}"),
            );
        }
        let Some(shim) = self.shim.clone() else {
            return;
        };
        // From here on it is a restart, whatever comes of it.
        let now = clock::now();
        if let Some(container) = self.state.containers.get_mut(name)
            && let Run::Ended(before) = &container.run
        {
            container.backoff.raise(before.finished_at, now);
        }
        let image = self.ready_images.get(name);
        let reference = self.spec_of(name).and_then(|(spec, _)| spec.image.clone());
        if let (Some(image), Some(reference)) = (image, reference) {
            let used = used_image(&reference, image);
            self.used_images.insert(name.to_owned(), used);
        }
        let stop_signal = plan.stop_signal;
        let started = shim.start(&plan).await;
        self.plans.insert(name.to_owned(), plan);
        tracing::debug!(pod = %self.uid, container = name, attempt, stop_signal, ok = started.is_ok(), "start");
        match started {
            Ok(state) => {
                self.told_created(name);
                let message = format!("Started container {name}");
                self.tell_container(name, Kind::Normal, "Started", message);
                match state.phase {
                    ContainerPhase::Running { started_at, .. } => {
                        self.container_runs(name, state.attempt, started_at);
                        self.record(name);
                    }
                    ContainerPhase::Exited(exit) => {
                        let message = self.termination_message(name, state.attempt, &exit);
                        let ended = crate::node::adopt::ended(state.attempt, &exit, message);
                        self.container_ended(name, ended);
                    }
                }
                self.publish_entry();
                self.tidy_up(name, attempt);
            }
            Err(RuntimeError::CannotRun { reason }) => {
                self.told_created(name);
                self.tell_container(name, Kind::Warning, "Failed", format!("Error: {reason}"));
                let ended = Ended {
                    attempt,
                    exit_code: 128,
                    signal: None,
                    reason: EndReason::StartError,
                    message: reason,
                    started_at: None,
                    finished_at: clock::now(),
                };
                self.container_ended(name, ended);
                self.tidy_up(name, attempt);
            }
            Err(error) if Self::is_lost(&error) => {
                tracing::warn!(pod = %self.uid, container = name, "the shim was lost during a start");
            }
            Err(error) => self.refused(name, "RunContainerError", error.to_string()),
        }
    }

    /// The back-off has begun: say so once.
    pub(super) fn tell_backoff(&mut self, name: &str) {
        let Some(container) = self.state.containers.get_mut(name) else {
            return;
        };
        container.backoff_told = true;
        let image_is_missing = matches!(
            &container.image,
            ImageState::Missing(missing) if missing.reason == MissingReason::ErrImagePull
        );
        let metadata = &self.pod.metadata;
        if image_is_missing {
            let image = self.spec_of(name).and_then(|(c, _)| c.image.as_deref());
            let message = format!("Back-off pulling image {:?}", image.unwrap_or_default());
            self.tell_container(name, Kind::Normal, "BackOff", message);
            let message = "Error: ImagePullBackOff".to_owned();
            self.tell_container(name, Kind::Warning, "Failed", message);
        } else {
            let message = format!(
                "Back-off restarting failed container {name} in pod {}_{}({})",
                metadata.name.as_deref().unwrap_or_default(),
                metadata.namespace.as_deref().unwrap_or_default(),
                self.uid
            );
            self.tell_container(name, Kind::Warning, "BackOff", message);
        }
    }

    fn told_created(&self, name: &str) {
        let message = format!("Created container: {name}");
        self.tell_container(name, Kind::Normal, "Created", message);
    }

    fn refused(&mut self, name: &str, reason: &'static str, message: String) {
        self.tell_container(name, Kind::Warning, "Failed", format!("Error: {message}"));
        if let Some(container) = self.state.containers.get_mut(name) {
            container.refused = Some(Refused { reason, message, retry_at: Self::retry_soon() });
            container.image = ImageState::Unchecked;
        }
    }

    /// Gathers the facts and compiles.
    async fn plan(&mut self, name: &str, attempt: u32) -> Result<Compiled, Refusal> {
        let gone = |what: &str| Refusal::container(format!("{what} is gone"));
        let image = self.ready_images.get(name).cloned().ok_or_else(|| gone("the image"))?;
        let namespace = self.pod.metadata.namespace.clone().unwrap_or_default();
        let (held, objects, services, (passwd, group)) = tokio::join!(
            self.hold(name, &image),
            resolve::objects(&self.shared.client, &namespace, &self.references),
            resolve::services(&self.shared.client, &namespace),
            resolve::image_names(&self.shared.images, &image),
        );
        held?;
        self.held_images.insert(name.to_owned(), image.id.clone());
        let objects = objects.map_err(|error| Refusal::config(error.to_string()))?;
        let services = services.map_err(|error| Refusal::config(error.to_string()))?;
        let volumes = volume::places(&self.pod, &self.paths);
        let (spec, _) = self.spec_of(name).ok_or_else(|| gone("the container"))?;
        let facts = ContainerFacts {
            node: &self.shared.facts,
            objects: &objects,
            services: &services,
            volumes: &volumes,
            paths: &self.paths,
            address: match self.host_network() {
                true => None,
                false => self.attached.as_ref().map(|a| a.address),
            },
            image: &image.config,
            layers: &image.layers,
            passwd: &passwd,
            group: &group,
            attempt,
        };
        compile::container_plan(&self.pod, spec, &facts)
    }

    /// Scratch space of earlier attempts goes; the logs of the last one stay for `--previous`.
    fn tidy_up(&self, name: &str, attempt: u32) {
        let (Some(previous), Some(shim)) = (attempt.checked_sub(1), self.shim.clone()) else {
            return;
        };
        let (paths, name) = (self.paths.clone(), name.to_owned());
        tokio::spawn(async move {
            if let Err(error) = shim.remove_container(&name, previous).await {
                tracing::debug!(container = name, previous, %error, "earlier attempt not removed");
            }
            let done = tokio::task::spawn_blocking(move || {
                let _ = volume::remove_tree(&paths.scratch(&name, previous));
                let _ = fs::remove_file(paths.termination_log(&name, previous));
                remove_logs_before(&paths, &name, previous);
            });
            let _ = done.await;
        });
    }
}

/// Rotated files of an attempt are `<attempt>.log.<time>`.
fn remove_logs_before(paths: &PodPaths, name: &str, keep: u32) {
    for entry in fs::read_dir(paths.log_dir(name)).into_iter().flatten().flatten() {
        let file_name = entry.file_name();
        let attempt =
            file_name.to_str().and_then(|text| text.split('.').next()?.parse::<u32>().ok());
        if attempt.is_some_and(|attempt| attempt < keep) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn directories(paths: &PodPaths, plan: &ContainerPlan) -> io::Result<()> {
    for path in [&plan.output.path, &plan.rootfs.scratch] {
        if let Some(parent) = path.parent() {
            volume::private_dir(parent)?;
        }
    }
    volume::private_dir(&paths.data.join("termination"))?;
    if let Some(log) = &plan.termination_log {
        // Any user inside may write its last words; the name is ours, so truncating follows nothing of theirs.
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o666)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&log.host_file)?;
        fs::set_permissions(&log.host_file, fs::Permissions::from_mode(0o666))?;
    }
    Ok(())
}

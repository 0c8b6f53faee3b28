//! What each step of a pod's life does on the node: set-up, stop, teardown.
//!
//! A step that fails is tried again after a back-off; none decides what comes next.

use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};

use super::Worker;
use crate::events::Kind;
use crate::net::{HostPort, NetError, Protocol};
use crate::node::compile::check::Hook;
use crate::node::compile::downward::{Addresses, ResourceDefaults};
use crate::node::compile::{self, ObjectFacts, pod_files};
use crate::node::lifecycle::{HookState, Outcome, Run, Shim, Step, Want};
use crate::node::resolve;
use crate::node::volume::{self, payload};
use crate::runtime::RuntimeError;
use crate::sys::clock;

/// How long a pod's last status may take before its object goes anyway.
const LAST_STATUS: Duration = Duration::from_secs(5);
/// When volumes are looked at again after the API did not answer.
const REFRESH_AGAIN: Duration = Duration::from_secs(5);

impl Worker {
    pub(super) async fn perform(&mut self, step: Step, want: &Want) {
        tracing::debug!(pod = %self.uid, ?step, "step");
        match step {
            Step::PrepareVolumes => self.prepare_volumes().await,
            Step::Attach => {
                let ahead = self.look_ahead();
                let (ahead, ()) = tokio::join!(ahead, self.attach());
                self.ahead = ahead.filter(|_| self.state.attached);
            }
            Step::Launch => self.launch().await,
            Step::Image(name) => self.image(&name).await,
            Step::Start(name) => self.start(&name).await,
            Step::TellBackoff(name) => self.tell_backoff(&name),
            Step::PostStart(name) => self.begin_hook(&name, Hook::PostStart),
            Step::PreStop(name) => self.begin_hook(&name, Hook::PreStop),
            Step::Withdraw => self.withdraw(),
            Step::Drain => self.drain(want),
            Step::Stop(name) => self.stop(&name).await,
            Step::Kill(name) => self.kill(&name).await,
            Step::Conclude(outcome) => self.conclude(outcome),
            Step::RemoveShim => self.remove_shim().await,
            Step::Detach => self.detach().await,
            Step::RemoveVolumes => self.remove_volumes().await,
            Step::Finalize => self.finalize(want).await,
        }
    }

    async fn prepare_volumes(&mut self) {
        let facts = match self.objects().await {
            Ok(objects) => self.renew_tokens().await.map(|()| objects),
            Err(error) => Err(error),
        };
        let objects = match facts {
            Ok(objects) => objects,
            Err(error) => {
                tracing::warn!(pod = %self.uid, %error, "volumes wait for the API");
                return self.setback();
            }
        };
        let tokens = self.tokens.held();
        let (pod, paths) = (self.pod.clone(), self.paths.clone());
        let (addresses, defaults) = (self.addresses(), self.resource_defaults());
        let made = tokio::task::spawn_blocking(move || {
            let facts = payload::Facts {
                objects: &objects,
                addresses: &addresses,
                defaults,
                tokens: &tokens,
            };
            volume::private_dir(&paths.data)
                .and_then(|()| volume::private_dir(&paths.run))
                .map_err(|error| volume::FailedMount {
                    volume: String::new(),
                    reason: error.to_string(),
                })?;
            volume::prepare(&pod, &paths, &facts)
        });
        match made.await {
            Ok(Ok(())) => {
                self.state.volumes_ready = true;
                self.progress();
            }
            Ok(Err(failed)) => {
                self.tell(Kind::Warning, "FailedMount", failed.to_string());
                self.setback();
            }
            Err(error) => {
                tracing::error!(pod = %self.uid, %error, "preparing volumes panicked");
                self.setback();
            }
        }
    }

    /// Brings volumes made of objects up to date while the pod runs.
    pub(super) async fn refresh_volumes(&mut self) {
        let now = clock::now();
        let Ok(objects) = self.objects().await else {
            // Without facts what is there stays.
            self.refresh_at = now.plus(REFRESH_AGAIN);
            return;
        };
        let soon = match self.renew_tokens().await {
            Ok(()) => super::REFRESH_EVERY.min(self.tokens.renew_in()).max(Duration::from_secs(1)),
            Err(error) => {
                tracing::warn!(pod = %self.uid, %error, "a token could not be renewed");
                REFRESH_AGAIN
            }
        };
        self.refresh_at = now.plus(soon);
        let tokens = self.tokens.held();
        let (pod, paths) = (self.pod.clone(), self.paths.clone());
        let (addresses, defaults) = (self.addresses(), self.resource_defaults());
        let done = tokio::task::spawn_blocking(move || {
            let facts = payload::Facts {
                objects: &objects,
                addresses: &addresses,
                defaults,
                tokens: &tokens,
            };
            volume::refresh(&pod, &paths, &facts)
        });
        match done.await {
            Ok(Ok(())) => {}
            Ok(Err(failed)) => self.tell(Kind::Warning, "FailedMount", failed.to_string()),
            Err(error) => tracing::error!(pod = %self.uid, %error, "refreshing volumes panicked"),
        }
    }

    async fn objects(&self) -> Result<ObjectFacts, kube::Error> {
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        resolve::objects(&self.shared.client, namespace, &self.references).await
    }

    async fn renew_tokens(&mut self) -> Result<(), kube::Error> {
        self.tokens.bring_up(&self.shared.client, &self.pod, &self.references).await
    }

    fn addresses(&self) -> Addresses {
        let host = self.shared.facts.addresses.clone();
        let pod = match (&self.attached, self.host_network()) {
            (_, true) => host.clone(),
            (Some(attached), false) => vec![attached.address],
            (None, false) => Vec::new(),
        };
        Addresses { pod, host }
    }

    fn resource_defaults(&self) -> ResourceDefaults {
        ResourceDefaults {
            cpu_millis: self.shared.facts.cpu_millis,
            memory_bytes: self.shared.facts.memory_bytes,
        }
    }

    pub(super) async fn attach(&mut self) {
        let ports = host_ports(&self.pod);
        match self.shared.network.attach(&self.uid, &ports).await {
            Ok(attached) => {
                self.attached = Some(attached);
                self.state.attached = true;
                self.state.address_unknown = false;
                self.progress();
            }
            Err(error) => {
                let (reason, what) = match &error {
                    NetError::HostPortTaken(..) => ("HostPortConflict", "host port"),
                    NetError::AddressesExhausted(_) | NetError::Step { .. } => {
                        ("FailedCreatePodSandBox", "network")
                    }
                };
                let message = format!("Failed to create pod sandbox: {what}: {error}");
                self.tell(Kind::Warning, reason, message);
                self.setback();
            }
        }
    }

    async fn launch(&mut self) {
        let netns = match (self.host_network(), &self.attached) {
            (true, _) => None,
            (false, Some(attached)) => Some(attached.netns.clone()),
            (false, None) => {
                self.state.attached = false;
                return;
            }
        };
        if let Err(error) = self.write_etc_files().await {
            self.tell(
                Kind::Warning,
                "FailedCreatePodSandBox",
                format!("Failed to create pod sandbox: {error}"),
            );
            return self.setback();
        }
        let plan = match compile::pod_plan(&self.pod, &self.shared.facts, netns) {
            Ok(plan) => plan,
            Err(refusal) => {
                self.tell(
                    Kind::Warning,
                    "FailedCreatePodSandBox",
                    format!("Failed to create pod sandbox: {}", refusal.message),
                );
                self.refuse_all(&refusal);
                return self.setback();
            }
        };
        match self.shared.runtime.launch(&plan).await {
            Ok(shim) => {
                self.shim_state = Some(shim.state());
                self.shim = Some(shim);
                self.state.shim = Shim::Alive;
                self.guard_shim(Duration::ZERO);
                self.forgive_refusals();
                self.progress();
            }
            Err(error) => {
                let message = format!("Failed to create pod sandbox: {error}");
                self.tell(Kind::Warning, "FailedCreatePodSandBox", message);
                self.setback();
            }
        }
    }

    /// A pod that cannot be launched as written says so in the status of its containers.
    fn refuse_all(&mut self, refusal: &compile::Refusal) {
        let retry_at = clock::now().plus(crate::node::restart::setback(self.failures));
        for container in self.state.containers.values_mut() {
            container.refused = Some(crate::node::lifecycle::Refused {
                reason: refusal.reason,
                message: refusal.message.clone(),
                retry_at,
            });
        }
    }

    async fn write_etc_files(&self) -> Result<(), String> {
        let host_dns = resolve::host_dns().await;
        let hosts = match self.host_network() {
            true => resolve::host_hosts().await,
            false => String::new(),
        };
        let address = self.attached.as_ref().map(|a| a.address);
        let files = pod_files(&self.pod, &self.shared.facts, &host_dns, &hosts, address)
            .map_err(|refusal| refusal.message)?;
        for warning in &files.warnings {
            self.tell(Kind::Warning, "DNSConfigForming", warning.clone());
        }
        let paths = self.paths.clone();
        let write = move || -> std::io::Result<()> {
            volume::private_dir(&paths.data.join("etc"))?;
            std::fs::write(paths.etc("hosts"), files.hosts)?;
            std::fs::write(paths.etc("hostname"), format!("{}\n", files.hostname))?;
            std::fs::write(paths.etc("resolv.conf"), files.resolv_conf)?;
            use std::os::unix::fs::PermissionsExt;
            for file in ["hosts", "hostname", "resolv.conf"] {
                let mode = std::fs::Permissions::from_mode(0o644);
                std::fs::set_permissions(paths.etc(file), mode)?;
            }
            Ok(())
        };
        match tokio::task::spawn_blocking(write).await {
            Ok(written) => written.map_err(|error| format!("writing /etc files: {error}")),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn stop(&mut self, name: &str) {
        let now = clock::now();
        // A hook before it has told already.
        if self.running_mut(name).is_some_and(|r| r.pre_stop == HookState::Absent) {
            self.tell_killing(name);
        }
        let signal = self.plans.get(name).map_or(libc::SIGTERM, |plan| plan.stop_signal);
        if let Some(shim) = &self.shim
            && let Err(error) = shim.signal(name, signal).await
        {
            tracing::debug!(pod = %self.uid, container = name, %error, "stop signal not sent");
        }
        if let Some(running) = self.running_mut(name) {
            // Also when the signal could not be sent: the deadline decides then.
            running.stopped_at = Some(now);
        }
        self.record(name);
    }

    async fn kill(&mut self, name: &str) {
        if let Some(container) = self.state.containers.get_mut(name)
            && let Run::Running(running) = &mut container.run
        {
            running.killed_at = Some(clock::now());
        }
        if let Some(shim) = &self.shim
            && let Err(error) = shim.kill(name).await
        {
            tracing::warn!(pod = %self.uid, container = name, %error, "kill failed");
        }
    }

    fn conclude(&mut self, outcome: Outcome) {
        if let Outcome::Failed { reason, message } = &outcome
            && reason == "DeadlineExceeded"
        {
            self.tell(Kind::Normal, "DeadlineExceeded", message.clone());
        }
        self.pulls.abort_all();
        self.state.concluded_stop_by = Some(clock::now().plus(self.grace()));
        self.state.outcome = Some(outcome);
    }

    async fn remove_shim(&mut self) {
        // The record of how containers ended goes with the shim. Where the pod stays, the API must know it first: a
        // daemon that is killed in between would have to invent it, and run a job twice.
        if self.stop_by.is_none() && !self.reporter.flush(LAST_STATUS).await {
            return self.setback();
        }
        if let Some(shim) = &self.shim
            && let Err(error) = shim.remove().await
        {
            tracing::warn!(pod = %self.uid, %error, "removing the pod's processes failed");
            return self.setback();
        }
        // Ends that were recorded at the last moment.
        self.observe();
        self.shim = None;
        self.shim_state = None;
        self.state.shim = Shim::Absent;
        self.publish_entry();
        self.progress();
    }

    async fn detach(&mut self) {
        match self.shared.network.detach(&self.uid).await {
            Ok(()) => {
                self.attached = None;
                self.state.attached = false;
                self.progress();
            }
            Err(error) => {
                tracing::warn!(pod = %self.uid, %error, "giving the address back failed");
                self.setback();
            }
        }
    }

    async fn remove_volumes(&mut self) {
        let paths = self.paths.clone();
        match tokio::task::spawn_blocking(move || volume::remove(&paths)).await {
            Ok(Ok(())) => {
                self.state.volumes_ready = false;
                self.progress();
            }
            Ok(Err(error)) => {
                tracing::warn!(pod = %self.uid, %error, "removing volumes failed");
                self.setback();
            }
            Err(error) => {
                tracing::error!(pod = %self.uid, %error, "removing volumes panicked");
                self.setback();
            }
        }
    }

    /// Nothing runs any more: logs go, then the object.
    async fn finalize(&mut self, want: &Want) {
        // Set-up may have stopped half way, with files but without `volumes_ready`.
        let (paths, images) = (self.paths.clone(), self.shared.images.clone());
        let holders = self.image_holders();
        let removed = tokio::task::spawn_blocking(move || {
            volume::remove(&paths).and_then(|()| volume::remove_tree(&paths.data))?;
            for holder in holders {
                images.unpin(&holder).map_err(std::io::Error::other)?;
            }
            Ok::<(), std::io::Error>(())
        });
        if !matches!(removed.await, Ok(Ok(()))) {
            tracing::warn!(pod = %self.uid, "removing the pod's directories failed");
            return self.setback();
        }
        self.publish(want, clock::now());
        if self.object.borrow().is_some() {
            self.reporter.flush(LAST_STATUS).await;
            if let Err(error) = self.delete_object().await {
                tracing::warn!(pod = %self.uid, %error, "the pod's object could not be deleted");
                return self.setback();
            }
        }
        let metadata = &self.pod.metadata;
        self.shared.pods.withdraw(
            metadata.namespace.as_deref().unwrap_or_default(),
            metadata.name.as_deref().unwrap_or_default(),
            &self.uid,
        );
        self.state.finalized = true;
    }

    async fn delete_object(&self) -> Result<(), kube::Error> {
        let metadata = &self.pod.metadata;
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<core::Pod> = Api::namespaced(self.shared.client.clone(), namespace);
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            // A younger pod of the same name is not ours.
            preconditions: Some(Preconditions {
                uid: Some(self.uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match api.delete(metadata.name.as_deref().unwrap_or_default(), &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether the runtime's refusal means that the shim is gone; the next observation tells.
    pub(super) fn is_lost(error: &RuntimeError) -> bool {
        matches!(error, RuntimeError::ShimLost)
    }
}

/// The host ports that the pod's containers ask for.
pub(crate) fn host_ports(pod: &core::Pod) -> Vec<HostPort> {
    let spec = pod.spec.iter();
    spec.flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()))
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|port| {
            let number = |n: i32| u16::try_from(n).ok().filter(|n| *n > 0);
            Some(HostPort {
                protocol: match port.protocol.as_deref() {
                    Some("UDP") => Protocol::Udp,
                    Some("SCTP") => Protocol::Sctp,
                    Some(_) | None => Protocol::Tcp,
                },
                host_ip: port
                    .host_ip
                    .as_deref()
                    .and_then(|ip| ip.parse::<std::net::IpAddr>().ok())
                    .filter(|ip| !ip.is_unspecified()),
                host_port: number(port.host_port?)?,
                container_port: number(port.container_port)?,
            })
        })
        .collect()
}

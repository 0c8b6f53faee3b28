//! From a pod as written and the facts around it to plans that the runtime executes without a choice.
//!
//! Pure: `resolve` gathers the facts beforehand. What cannot be planned is a [`Refusal`], which becomes the
//! waiting reason of the container.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1 as core;

use crate::node::huge_pages::HugePages;
use crate::runtime::image::{Image, ImageConfig};
use crate::runtime::plan::{
    ContainerPlan, NetworkPlan, OutputPlan, PidPlan, PodPlan, PodUid, ProcessPlan, RootfsPlan,
    StdinPlan, TerminationLog,
};

pub mod check;
pub mod dns;
pub mod downward;
pub mod env;
pub mod mounts;
pub mod names;
mod process;
pub mod resources;
mod security;
mod service_env;
#[cfg(test)]
mod tests;

/// Log files rotate at this size …
const LOG_BYTES: u64 = 10 << 20;
/// … and so many are kept in all.
const LOG_FILES: u32 = 5;

/// Why a container cannot be planned, as its status says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub reason: &'static str,
    pub message: String,
}

impl Refusal {
    /// The manifest, or what it refers to, cannot be used as it is.
    pub fn config(message: String) -> Refusal {
        Refusal { reason: "CreateContainerConfigError", message }
    }

    /// The image and the manifest together do not make a container.
    pub fn container(message: String) -> Refusal {
        Refusal { reason: "CreateContainerError", message }
    }

    pub(super) fn missing(kind: &str, name: &str) -> Refusal {
        Refusal::config(format!("{kind} {name:?} not found"))
    }
}

/// What holds for every pod of this node.
#[derive(Debug, Clone)]
pub struct NodeFacts {
    pub name: String,
    pub addresses: Vec<IpAddr>,
    /// cgroup v2 controllers that can be used.
    pub controllers: BTreeSet<String>,
    /// Allocatable amounts: what a container without limits may use.
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    pub huge_pages: HugePages,
    pub cluster: dns::ClusterDns,
    /// Where `localhostProfile` is looked up.
    pub seccomp_dir: PathBuf,
}

/// The ConfigMaps and Secrets that a pod refers to, as far as they exist.
#[derive(Debug, Clone, Default)]
pub struct ObjectFacts {
    pub config_maps: BTreeMap<String, core::ConfigMap>,
    pub secrets: BTreeMap<String, core::Secret>,
}

impl ObjectFacts {
    pub fn config_map(&self, name: &str) -> Option<&core::ConfigMap> {
        self.config_maps.get(name)
    }

    pub fn secret(&self, name: &str) -> Option<&core::Secret> {
        self.secrets.get(name)
    }
}

/// Where one pod's files lie on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct PodPaths {
    /// `<data>/pods/<uid>`: logs, scratch space, emptyDir volumes.
    pub data: PathBuf,
    /// `<run>/volumes/<uid>`: what must not reach the disk where the run directory is a tmpfs.
    pub run: PathBuf,
    /// `<run>/points`: mount points that all pods share.
    pub points: PathBuf,
}

impl PodPaths {
    pub fn new(data_dir: &Path, run_dir: &Path, uid: &str) -> PodPaths {
        PodPaths {
            data: data_dir.join("pods").join(uid),
            run: run_dir.join("volumes").join(uid),
            points: run_dir.join("points"),
        }
    }

    pub fn etc(&self, file: &str) -> PathBuf {
        self.data.join("etc").join(file)
    }

    pub fn log_dir(&self, container: &str) -> PathBuf {
        self.data.join("logs").join(container)
    }

    pub fn log(&self, container: &str, attempt: u32) -> PathBuf {
        self.log_dir(container).join(format!("{attempt}.log"))
    }

    pub fn termination_log(&self, container: &str, attempt: u32) -> PathBuf {
        self.data.join("termination").join(format!("{container}.{attempt}"))
    }

    /// What of the container's life must not happen twice. Volume names hold no dot.
    pub fn milestones(&self) -> PathBuf {
        self.run.join(".milestones")
    }

    pub fn scratch(&self, container: &str, attempt: u32) -> PathBuf {
        self.data.join("containers").join(format!("{container}.{attempt}"))
    }
}

/// What one container's plan is made from, besides the pod.
#[derive(Debug, Clone)]
pub struct ContainerFacts<'a> {
    pub node: &'a NodeFacts,
    pub objects: &'a ObjectFacts,
    /// The Services of the pod's namespace, and `kubernetes` of `default`.
    pub services: &'a [core::Service],
    pub volumes: &'a BTreeMap<String, mounts::VolumePath>,
    pub paths: &'a PodPaths,
    /// The address in the pod network; `None` in the host's.
    pub address: Option<IpAddr>,
    pub image: &'a ImageConfig,
    /// Unpacked layers, topmost first.
    pub layers: &'a [PathBuf],
    /// The image's own /etc/passwd and /etc/group; empty when absent.
    pub passwd: &'a str,
    pub group: &'a str,
    /// The number of this start.
    pub attempt: u32,
}

impl ContainerFacts<'_> {
    fn addresses(&self) -> downward::Addresses {
        let host = self.node.addresses.clone();
        let pod = self.address.map_or_else(|| host.clone(), |address| vec![address]);
        downward::Addresses { pod, host }
    }
}

/// The host name and the texts of the files below /etc that every container of the pod sees.
#[derive(Debug, Clone, PartialEq)]
pub struct PodFiles {
    pub hostname: String,
    pub hosts: String,
    pub resolv_conf: String,
    /// For a DNSConfigForming Event.
    pub warnings: Vec<String>,
}

pub fn pod_files(
    pod: &core::Pod,
    node: &NodeFacts,
    host_dns: &dns::HostDns,
    host_hosts: &str,
    address: Option<IpAddr>,
) -> Result<PodFiles, Refusal> {
    let names = names::names(pod, &node.cluster.domain, &node.name)?;
    let resolv = dns::resolv_conf(pod, &node.cluster, host_dns);
    Ok(PodFiles {
        hosts: names::hosts(pod, &names, address, host_hosts),
        hostname: names.hostname,
        resolv_conf: resolv.text,
        warnings: resolv.warnings,
    })
}

/// The surroundings of a pod. `netns` is `None` for the host's network.
pub fn pod_plan(
    pod: &core::Pod,
    node: &NodeFacts,
    netns: Option<PathBuf>,
) -> Result<PodPlan, Refusal> {
    let no_spec = || Refusal::config("the pod has no spec".into());
    let spec = pod.spec.as_ref().ok_or_else(no_spec)?;
    let uid: PodUid =
        pod.metadata.uid.clone().unwrap_or_default().try_into().map_err(Refusal::config)?;
    if spec.share_process_namespace == Some(true) {
        return Err(Refusal::config("shareProcessNamespace is not supported yet".into()));
    }
    let context = spec.security_context.as_ref();
    let names = names::names(pod, &node.cluster.domain, &node.name)?;
    Ok(PodPlan {
        title: format!(
            "{}/{}",
            pod.metadata.namespace.as_deref().unwrap_or_default(),
            pod.metadata.name.as_deref().unwrap_or_default()
        ),
        hostname: names.hostname,
        network: netns.map_or(NetworkPlan::Host, NetworkPlan::Pinned),
        host_ipc: spec.host_ipc.unwrap_or(false),
        pid: match spec.host_pid.unwrap_or(false) {
            true => PidPlan::Host,
            false => PidPlan::PerContainer,
        },
        cgroup: resources::cgroup_parent(spec, uid.as_str()).into(),
        limits: resources::pod_limits(spec, node)?,
        sysctls: context
            .and_then(|c| c.sysctls.as_ref())
            .into_iter()
            .flatten()
            .map(|sysctl| (sysctl.name.clone(), sysctl.value.clone()))
            .collect(),
        uid,
    })
}

/// A container's plan, and what is to be told about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Compiled {
    pub plan: ContainerPlan,
    pub skipped: Vec<env::Skipped>,
}

/// One start of one container (init containers alike).
pub fn container_plan(
    pod: &core::Pod,
    container: &core::Container,
    facts: &ContainerFacts<'_>,
) -> Result<Compiled, Refusal> {
    let spec = pod.spec.as_ref().ok_or_else(|| Refusal::config("the pod has no spec".into()))?;
    let names = names::names(pod, &facts.node.cluster.domain, &facts.node.name)?;
    let oom = resources::oom_score_adj(spec, container, facts.node.memory_bytes);
    let security = security::plan(pod, container, facts, oom)?;
    let user = security::user(pod, container, facts)?;
    let declared = env::declared(pod, container, facts)?;
    let etc = mounts::EtcFiles {
        hosts: facts.paths.etc("hosts"),
        hostname: facts.paths.etc("hostname"),
        resolv_conf: facts.paths.etc("resolv.conf"),
    };
    let mounts = mounts::plan(container, facts, &declared, etc)?;
    let argv = process::argv(container, facts.image, &declared)?;
    let environment =
        env::complete(declared, container, facts, &names.hostname, user.home.as_deref());
    let context = container.security_context.as_ref();
    let plan = ContainerPlan {
        name: container.name.clone(),
        attempt: facts.attempt,
        image: container.image.clone().unwrap_or_default(),
        rootfs: RootfsPlan {
            lower: facts.layers.to_vec(),
            scratch: facts.paths.scratch(&container.name, facts.attempt),
            points: Some(facts.paths.points.clone()),
            read_only: context.and_then(|c| c.read_only_root_filesystem).unwrap_or(false),
        },
        process: ProcessPlan {
            argv,
            env: environment.lines(),
            cwd: process::cwd(container, facts.image),
        },
        mounts,
        security,
        limits: resources::container_limits(container, facts.node)?,
        output: OutputPlan {
            path: facts.paths.log(&container.name, facts.attempt),
            rotate_bytes: LOG_BYTES,
            keep_files: LOG_FILES,
        },
        stdin: match (container.stdin.unwrap_or(false), container.stdin_once.unwrap_or(false)) {
            (false, _) => StdinPlan::Closed,
            (true, true) => StdinPlan::Once,
            (true, false) => StdinPlan::Open,
        },
        tty: container.tty.unwrap_or(false),
        stop_signal: facts
            .image
            .stop_signal
            .as_deref()
            .and_then(process::signal)
            .unwrap_or(SIGTERM),
        termination_log: Some(TerminationLog {
            host_file: facts.paths.termination_log(&container.name, facts.attempt),
            target: container
                .termination_message_path
                .clone()
                .filter(|path| !path.is_empty())
                .unwrap_or_else(|| "/dev/termination-log".into()),
        }),
    };
    Ok(Compiled { plan, skipped: environment.skipped })
}

const SIGTERM: i32 = 15;

/// How a status names the image that a reference led to.
pub fn used_image(reference: &str, image: &Image) -> crate::node::status::UsedImage {
    let suffix = format!("/{reference}");
    let name = image
        .names
        .iter()
        .find(|name| *name == reference || name.ends_with(&suffix))
        .or(image.names.first())
        .cloned();
    crate::node::status::UsedImage {
        name: name.unwrap_or_else(|| reference.to_owned()),
        id: image.digests.first().unwrap_or(&image.id).clone(),
    }
}

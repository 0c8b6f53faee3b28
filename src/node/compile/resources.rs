//! Requests and limits as cgroup v2 numbers, and the OOM score that goes with them.
//!
//! Pure. A *limit* whose controller is missing is refused by name; requests and our own caps are left out
//! there, which the Node's conditions tell.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{NodeFacts, Refusal};
use crate::model::quantity;
use crate::node::huge_pages::{HugePages, SIZES};
use crate::node::status::{QosClass, qos_class};
use crate::placement::is_sidecar;
use crate::runtime::plan::{CpuMax, Limits};

/// Processes and threads that a pod may have, unless configured otherwise (KEP-2023's intent).
pub const DEFAULT_PIDS: u64 = 1024;

/// A quantity in units of 10⁻⁹; `None` when it is not one.
pub fn nanos(quantity: &Quantity) -> Option<i128> {
    quantity.0.parse::<quantity::Quantity>().ok().map(quantity::Quantity::nanos)
}

/// Rounded up, as Kubernetes' `MilliValue`.
pub fn millis(quantity: &Quantity) -> Option<u64> {
    u64::try_from(round_up(nanos(quantity)?, 1_000_000)).ok()
}

/// Rounded up, as Kubernetes' `Value`.
pub fn units(quantity: &Quantity) -> Option<u64> {
    u64::try_from(round_up(nanos(quantity)?, 1_000_000_000)).ok()
}

pub(super) fn round_up(value: i128, divisor: i128) -> i128 {
    value.div_euclid(divisor) + i128::from(value.rem_euclid(divisor) != 0)
}

/// A container's own cgroup numbers. Kubernetes knows no request for disks; who asked for more of the processors weighs
/// more at them, too.
pub fn container_limits(container: &core::Container, node: &NodeFacts) -> Result<Limits, Refusal> {
    let controllers = &node.controllers;
    let amounts = Amounts::of(container);
    refuse_missing(&amounts, &container.name, controllers)?;
    let weight = cpu_weight(amounts.cpu_request.unwrap_or(0));
    Ok(Limits {
        cpu_weight: has(controllers, "cpu").then_some(weight),
        cpu_max: amounts.cpu_limit.map(cpu_max),
        memory_max_bytes: amounts.memory_limit,
        memory_min_bytes: amounts.memory_request.filter(|_| has(controllers, "memory")),
        pids_max: None,
        io_weight: has(controllers, "io").then_some(weight),
        huge_pages: huge_pages(amounts.huge_pages, node),
    })
}

/// The numbers of the pod's cgroup: sums over its containers and sidecars where all of them name a limit, at least the
/// largest init container's beside the sidecars before it.
pub fn pod_limits(spec: &core::PodSpec, node: &NodeFacts) -> Result<Limits, Refusal> {
    let controllers = &node.controllers;
    let init = spec.init_containers.iter().flatten();
    for container in init.clone().chain(&spec.containers) {
        refuse_missing(&Amounts::of(container), &container.name, controllers)?;
    }
    let over = |read: fn(&Amounts) -> Option<u64>| -> Option<u64> {
        let mut sum = 0u64;
        for container in &spec.containers {
            sum = sum.saturating_add(read(&Amounts::of(container))?);
        }
        let (mut sidecars, mut highest) = (0u64, 0u64);
        for container in init.clone() {
            let asked = read(&Amounts::of(container))?;
            let together = sidecars.saturating_add(asked);
            if is_sidecar(container) {
                sum = sum.saturating_add(asked);
                sidecars = together;
            }
            highest = highest.max(together);
        }
        Some(sum.max(highest))
    };
    let weight = cpu_weight(over(|a| Some(a.cpu_request.unwrap_or(0))).unwrap_or(0));
    Ok(Limits {
        cpu_weight: has(controllers, "cpu").then_some(weight),
        cpu_max: over(|a| a.cpu_limit).map(cpu_max),
        memory_max_bytes: over(|a| a.memory_limit),
        memory_min_bytes: over(|a| Some(a.memory_request.unwrap_or(0)))
            .filter(|bytes| *bytes > 0 && has(controllers, "memory")),
        pids_max: has(controllers, "pids").then_some(DEFAULT_PIDS),
        io_weight: has(controllers, "io").then_some(weight),
        huge_pages: huge_pages(
            [over(|a| Some(a.huge_pages[0])), over(|a| Some(a.huge_pages[1]))]
                .map(Option::unwrap_or_default),
            node,
        ),
    })
}

/// What was asked of each size that the host has, or that was asked for: who asked for none gets none.
fn huge_pages(asked: [u64; SIZES.len()], node: &NodeFacts) -> BTreeMap<String, u64> {
    let counted = has(&node.controllers, "hugetlb");
    let of_host: HugePages = node.huge_pages;
    SIZES
        .iter()
        .zip(asked)
        .zip(of_host)
        .filter(|((_, asked), there)| counted && (*asked > 0 || there.is_some()))
        .map(|((size, asked), _)| (size.group.to_owned(), asked))
        .collect()
}

/// The pod's cgroup below the instance's root, by quality of service as kubelet lays it out.
pub fn cgroup_parent(spec: &core::PodSpec, uid: &str) -> String {
    match qos_class(spec) {
        QosClass::Guaranteed => format!("pod{uid}"),
        QosClass::Burstable => format!("burstable/pod{uid}"),
        QosClass::BestEffort => format!("besteffort/pod{uid}"),
    }
}

/// kubelet's `GetContainerOOMScoreAdjust`.
pub fn oom_score_adj(
    spec: &core::PodSpec,
    container: &core::Container,
    memory_capacity: u64,
) -> i32 {
    const NODE_CRITICAL: i32 = 2_000_001_000;
    if spec.priority.is_some_and(|priority| priority >= NODE_CRITICAL) {
        return -997;
    }
    match qos_class(spec) {
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let request = u128::from(Amounts::of(container).memory_request.unwrap_or(0));
            let share = 1000 * request / u128::from(memory_capacity.max(1));
            let share = i32::try_from(share.min(1000)).expect("at most 1000");
            (1000 - share).clamp(3, 999)
        }
    }
}

/// What one container asks for. An absent request is its limit, as the API defaults it.
struct Amounts {
    cpu_request: Option<u64>,
    cpu_limit: Option<u64>,
    memory_request: Option<u64>,
    memory_limit: Option<u64>,
    /// In bytes, in the order of [`SIZES`]; requests of them are their limits.
    huge_pages: [u64; SIZES.len()],
}

impl Amounts {
    fn of(container: &core::Container) -> Amounts {
        let resources = container.resources.as_ref();
        let read = |list: Option<&BTreeMap<String, Quantity>>,
                    name: &str,
                    unit: fn(&Quantity) -> Option<u64>| {
            list.and_then(|l| l.get(name)).and_then(unit).filter(|n| *n > 0)
        };
        let limits = resources.and_then(|r| r.limits.as_ref());
        let requests = resources.and_then(|r| r.requests.as_ref());
        let cpu_limit = read(limits, "cpu", millis);
        let memory_limit = read(limits, "memory", units);
        Amounts {
            cpu_request: read(requests, "cpu", millis).or(cpu_limit),
            cpu_limit,
            memory_request: read(requests, "memory", units).or(memory_limit),
            memory_limit,
            huge_pages: SIZES.map(|size| read(limits, size.resource, units).unwrap_or(0)),
        }
    }
}

fn has(controllers: &BTreeSet<String>, name: &str) -> bool {
    controllers.contains(name)
}

fn refuse_missing(
    amounts: &Amounts,
    container: &str,
    controllers: &BTreeSet<String>,
) -> Result<(), Refusal> {
    let huge_pages = SIZES.iter().zip(amounts.huge_pages);
    let asked = [("cpu", "cpu", amounts.cpu_limit), ("memory", "memory", amounts.memory_limit)]
        .into_iter()
        .filter(|(_, _, limit)| limit.is_some())
        .map(|(name, controller, _)| (name, controller))
        .chain(
            huge_pages.filter(|(_, bytes)| *bytes > 0).map(|(size, _)| (size.resource, "hugetlb")),
        );
    for (name, controller) in asked {
        if !has(controllers, controller) {
            return Err(Refusal::config(format!(
                "container {container:?} sets resources.limits.{name}, but this host has no cgroup v2 \
                 {controller:?} controller to enforce it"
            )));
        }
    }
    Ok(())
}

/// 100 ms periods, at least 1 ms of quota, as kubelet's `MilliCPUToQuota`.
fn cpu_max(milli: u64) -> CpuMax {
    const PERIOD_US: u64 = 100_000;
    CpuMax { quota_us: (milli.saturating_mul(PERIOD_US) / 1000).max(1000), period_us: PERIOD_US }
}

/// Requests become shares (2..=262144), shares a weight (1..=10000): kubelet's `CPUSharesToCPUWeight`.
fn cpu_weight(milli: u64) -> u64 {
    let shares = (milli.saturating_mul(1024) / 1000).clamp(2, 262_144);
    1 + (shares - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn container(resources: serde_json::Value) -> core::Container {
        serde_json::from_value(json!({"name": "a", "resources": resources})).unwrap()
    }

    fn node(controllers: &[&str]) -> NodeFacts {
        NodeFacts {
            name: "box".into(),
            addresses: Vec::new(),
            controllers: controllers.iter().map(|name| (*name).to_owned()).collect(),
            cpu_millis: 2000,
            memory_bytes: 4 << 30,
            huge_pages: [Some(16 << 20), None],
            cluster: super::super::dns::ClusterDns { server: None, domain: "cluster.local".into() },
            seccomp_dir: "/seccomp".into(),
        }
    }

    fn all() -> NodeFacts {
        node(&["cpu", "memory", "pids"])
    }

    #[test]
    fn requests_and_limits_become_the_kernels_numbers() {
        let c = container(
            json!({"requests": {"cpu": "1"}, "limits": {"cpu": "250m", "memory": "64Mi"}}),
        );
        assert_eq!(
            container_limits(&c, &all()).unwrap(),
            Limits {
                cpu_weight: Some(39),
                cpu_max: Some(CpuMax { quota_us: 25_000, period_us: 100_000 }),
                memory_max_bytes: Some(67_108_864),
                memory_min_bytes: Some(67_108_864),
                pids_max: None,
                io_weight: None,
                huge_pages: BTreeMap::new(),
            }
        );
        assert_eq!(cpu_weight(0), 1);
        assert_eq!(cpu_weight(100), 4);
        assert_eq!(cpu_weight(u64::MAX), 10_000);
        assert_eq!(cpu_max(1).quota_us, 1000);
    }

    #[test]
    fn a_limit_without_its_controller_is_refused_and_names_it() {
        let c = container(json!({"limits": {"memory": "64Mi"}}));
        let refusal = container_limits(&c, &node(&["cpu"])).unwrap_err();
        assert!(refusal.message.contains("\"memory\" controller"), "{}", refusal.message);
        // Requests alone degrade.
        let c = container(json!({"requests": {"cpu": "1", "memory": "64Mi"}}));
        assert_eq!(container_limits(&c, &node(&[])).unwrap(), Limits::default());
    }

    #[test]
    fn the_pod_is_limited_only_when_every_container_is() {
        let spec = |second: serde_json::Value| -> core::PodSpec {
            serde_json::from_value(json!({
                "initContainers": [{"name": "i", "resources": {"limits": {"memory": "1Gi"}}}],
                "containers": [
                    {"name": "a", "resources": {"limits": {"memory": "100Mi"}}},
                    {"name": "b", "resources": second},
                ],
            }))
            .unwrap()
        };
        let limits = pod_limits(&spec(json!({"limits": {"memory": "100Mi"}})), &all()).unwrap();
        assert_eq!(limits.memory_max_bytes, Some(1 << 30));
        assert_eq!(limits.pids_max, Some(1024));
        let limits = pod_limits(&spec(json!({})), &all()).unwrap();
        assert_eq!(limits.memory_max_bytes, None);
        // A sidecar takes its share beside the containers, and beside the init container after it.
        for (asked, together) in [("100Mi", 1124 << 20), ("1Gi", 2048 << 20)] {
            let mut spec = spec(json!({"limits": {"memory": "100Mi"}}));
            let sidecar = json!({"name": "s", "restartPolicy": "Always",
                                 "resources": {"limits": {"memory": asked}}});
            let list = spec.init_containers.as_mut().unwrap();
            list.insert(0, serde_json::from_value(sidecar).unwrap());
            assert_eq!(pod_limits(&spec, &all()).unwrap().memory_max_bytes, Some(together));
        }
    }

    #[test]
    fn who_asks_for_huge_pages_gets_them_and_nobody_else() {
        let asks =
            |amount: &str| container(json!({"limits": {"memory": "1Mi", "hugepages-2Mi": amount}}));
        let huge = node(&["memory", "hugetlb"]);
        let of = |c: &core::Container, node| container_limits(c, node).unwrap().huge_pages;
        assert_eq!(of(&asks("4Mi"), &huge), [("2MB".to_owned(), 4 << 20)].into());
        assert_eq!(of(&container(json!({})), &huge), [("2MB".to_owned(), 0)].into());
        assert_eq!(of(&container(json!({})), &all()), BTreeMap::new());
        let refusal = container_limits(&asks("4Mi"), &all()).unwrap_err().message;
        assert!(refusal.contains("limits.hugepages-2Mi, but"), "{refusal}");
        assert!(refusal.contains("\"hugetlb\" controller"), "{refusal}");
        let spec = core::PodSpec {
            containers: vec![asks("4Mi"), asks("2Mi"), container(json!({}))],
            init_containers: Some(vec![asks("8Mi")]),
            ..core::PodSpec::default()
        };
        assert_eq!(pod_limits(&spec, &huge).unwrap().huge_pages["2MB"], 8 << 20);
    }

    #[test]
    fn oom_scores_follow_quality_of_service() {
        let score = |resources: serde_json::Value| {
            let spec: core::PodSpec = serde_json::from_value(
                json!({"containers": [{"name": "a", "resources": resources}]}),
            )
            .unwrap();
            oom_score_adj(&spec, &spec.containers[0], 4 << 30)
        };
        assert_eq!(score(json!({})), 1000);
        assert_eq!(score(json!({"requests": {"memory": "1Gi"}})), 750);
        assert_eq!(score(json!({"requests": {"memory": "4Gi"}})), 3);
        assert_eq!(score(json!({"requests": {"cpu": "1m"}})), 999);
        assert_eq!(score(json!({"limits": {"cpu": "1", "memory": "1Gi"}})), -997);
    }
}

//! Limits as writes to cgroup v2 files. It decides nothing and touches no file.

use std::borrow::Cow;

use super::plan::Limits;

/// One value for one file, and the controller that provides the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub controller: &'static str,
    pub file: Cow<'static, str>,
    pub value: String,
    /// A file that may be absent without the limit being weaker (no swap accounting, older kernel).
    pub optional: bool,
}

/// Whose cgroup is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All containers of a pod, and their shim.
    Pod,
    Container,
}

/// What the shim may take beside its containers' limits, so that a container always reaches its own limit
/// before its pod's, and is the one that is killed and named.
const SHIM_BYTES: u64 = 16 << 20;

/// What the kernel never takes from a shim, whoever needs memory: about what one uses.
pub const SHIM_LEAST_BYTES: u64 = 1 << 20;

/// Groups that a privileged container may make below its own; others make none. Each costs the kernel memory that no
/// limit of the container covers.
pub const PRIVILEGED_GROUPS: u32 = 64;

/// Everything to write, in order.
///
/// Only a container's group dies as a whole when memory runs out: the pod's holds the shim, which must live to
/// tell.
pub fn writes(limits: &Limits, scope: Scope) -> Vec<Write> {
    let mut all = Vec::new();
    let mut write = |controller, file: &'static str, value: String, optional| {
        all.push(Write { controller, file: file.into(), value, optional });
    };
    if let Some(weight) = limits.cpu_weight {
        write("cpu", "cpu.weight", weight.clamp(1, 10_000).to_string(), false);
    }
    if let Some(max) = limits.cpu_max {
        write("cpu", "cpu.max", format!("{} {}", max.quota_us, max.period_us), false);
    }
    if let Some(weight) = limits.io_weight {
        // The one is there with the cost model (CONFIG_BLK_CGROUP_IOCOST), the other with the BFQ scheduler.
        write("io", "io.weight", format!("default {}", weight.clamp(1, 10_000)), true);
        write("io", "io.bfq.weight", weight.clamp(1, 1000).to_string(), true);
    }
    if scope == Scope::Container {
        // Also without a limit of its own: all pods together have one.
        write("memory", "memory.oom.group", "1".to_owned(), true);
    }
    if let Some(bytes) = limits.memory_max_bytes {
        write("memory", "memory.swap.max", "0".to_owned(), true);
        let bytes = match scope {
            Scope::Pod => bytes.saturating_add(SHIM_BYTES),
            Scope::Container => bytes,
        };
        write("memory", "memory.max", bytes.to_string(), false);
    }
    // Protection holds only as far as every group above has it, too.
    let least = match scope {
        Scope::Pod => Some(limits.memory_min_bytes.unwrap_or(0).saturating_add(SHIM_LEAST_BYTES)),
        Scope::Container => limits.memory_min_bytes,
    };
    if let Some(bytes) = least {
        write("memory", "memory.min", bytes.to_string(), limits.memory_min_bytes.is_none());
    }
    if let Some(pids) = limits.pids_max {
        write("pids", "pids.max", pids.to_string(), false);
    }
    for (size, bytes) in &limits.huge_pages {
        // Pages are used when they are touched, and reserved when they are mapped (Linux 5.7): without a limit of
        // reservations a container would be killed by SIGBUS where mmap(2) could have failed.
        for (kind, optional) in [("max", *bytes == 0), ("rsvd.max", true)] {
            let file = format!("hugetlb.{size}.{kind}").into();
            all.push(Write { controller: "hugetlb", file, value: bytes.to_string(), optional });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::plan::CpuMax;

    fn text(limits: &Limits, scope: Scope) -> String {
        writes(limits, scope).iter().map(|w| format!("{}={};", w.file, w.value)).collect()
    }

    #[test]
    fn nothing_asked_limits_nothing() {
        assert_eq!(text(&Limits::default(), Scope::Pod), "memory.min=1048576;");
        // It dies whole all the same, when all pods together have too much.
        assert_eq!(text(&Limits::default(), Scope::Container), "memory.oom.group=1;");
    }

    #[test]
    fn memory_limit_forbids_swap_before_it_applies() {
        let limits = Limits {
            cpu_weight: Some(79),
            cpu_max: Some(CpuMax { quota_us: 50_000, period_us: 100_000 }),
            memory_max_bytes: Some(64 << 20),
            memory_min_bytes: Some(32 << 20),
            pids_max: Some(1024),
            io_weight: Some(2000),
            huge_pages: [("2MB".to_owned(), 4 << 20)].into(),
        };
        assert_eq!(
            text(&limits, Scope::Container),
            "cpu.weight=79;cpu.max=50000 100000;io.weight=default 2000;io.bfq.weight=1000;\
             memory.oom.group=1;memory.swap.max=0;memory.max=67108864;memory.min=33554432;pids.max=1024;\
             hugetlb.2MB.max=4194304;hugetlb.2MB.rsvd.max=4194304;"
        );
    }

    #[test]
    fn a_pod_never_dies_as_a_group_and_leaves_room_for_its_shim() {
        let limits = Limits { memory_max_bytes: Some(64 << 20), ..Limits::default() };
        assert_eq!(
            text(&limits, Scope::Pod),
            "memory.swap.max=0;memory.max=83886080;memory.min=1048576;"
        );
    }
}

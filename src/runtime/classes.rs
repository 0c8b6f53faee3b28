//! The groups above pods: what all of them may take together, and how much the pods of a class weigh against others.
//!
//! It touches no pod's own group.
//!
//! A class (`burstable`, `besteffort`: whatever stands between the instance's group and a pod's) competes with the pods
//! beside it as one. Left at the kernel's default weight of 100 it would beat a pod that asked for two cores, however
//! little its own pods have asked for; so it weighs what they weigh. kubelet does the same to its `burstable` group.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use crate::sys::cgroup::Cgroup;

/// The weight of a pod that asked for no CPU at all: the kernel's least.
const NOTHING: u64 = 1;
const MOST: u64 = 10_000;

/// Bounds all pods together, so that they run out of memory before the host and its services do; and keeps them off
/// its swap, and off more huge pages than the node has to give: bytes by the kernel's name of the size.
pub fn bound(
    pods: &Cgroup,
    memory_bytes: u64,
    huge_pages: &BTreeMap<String, u64>,
) -> io::Result<()> {
    if pods.controllers()?.contains("memory") {
        pods.write("memory.max", &memory_bytes.to_string())?;
        // As on a Kubernetes node: what a pod leaks should end it, not crawl through the host's swap. The file is
        // absent where the kernel counts no swap.
        match pods.write("memory.swap.max", "0") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    for file in pods.files()? {
        if let Some(size) = limited_size(&file) {
            let bytes = huge_pages.get(size).copied().unwrap_or(0);
            pods.write(&file, &bytes.to_string())?;
        }
    }
    Ok(())
}

/// The size of huge pages that a file limits: hugetlb.2MB.max what is used, hugetlb.2MB.rsvd.max what is reserved.
fn limited_size(file: &str) -> Option<&str> {
    let size = file.strip_prefix("hugetlb.")?.strip_suffix(".max")?;
    Some(size.strip_suffix(".rsvd").unwrap_or(size))
}

/// Gives the class that the pod at `path` belongs to, if it has one, what its pods have asked for. Call after a pod
/// came or went.
pub fn balance(pods: &Cgroup, path: &Path) -> io::Result<()> {
    let class = path.parent().and_then(Path::to_str).filter(|class| !class.is_empty());
    let Some(class) = class else { return Ok(()) };
    let class = pods.open(class)?;
    let controllers = class.controllers()?;
    if controllers.contains("cpu") {
        let weight = weight(&of_children(&class, "cpu.weight")?);
        class.write("cpu.weight", &weight.to_string())?;
        // What a pod weighs at the disks is what it weighs at the processors; either file may be absent.
        let _ = class.write("io.weight", &format!("default {weight}"));
        let _ = class.write("io.bfq.weight", &weight.min(1000).to_string());
    }
    if controllers.contains("memory") {
        protect(&class)?;
    }
    Ok(())
}

/// Protects in `group` what is protected in the groups in it, and says how many bytes that is: protection holds only
/// as far as every group above has it, too.
pub fn protect(group: &Cgroup) -> io::Result<u64> {
    let bytes = of_children(group, "memory.min")?.into_iter().fold(0, u64::saturating_add);
    group.write("memory.min", &bytes.to_string())?;
    Ok(bytes)
}

/// The numbers that `file` holds in the groups in `group`.
fn of_children(group: &Cgroup, file: &str) -> io::Result<Vec<u64>> {
    // A pod that goes at this moment counts for nothing; whoever removes it balances again.
    let number = |name: &String| group.open(name).ok()?.read(file).ok()?.trim().parse().ok();
    Ok(group.children()?.iter().filter_map(number).collect())
}

/// The sum, in which pods that asked for nothing do not count: a hundred of them weigh as one.
fn weight(pods: &[u64]) -> u64 {
    let asked: u64 = pods.iter().map(|weight| weight.saturating_sub(NOTHING)).sum();
    asked.saturating_add(NOTHING).min(MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_weighs_what_its_pods_have_asked_for() {
        for (pods, class) in [
            (vec![], 1),
            (vec![1; 100], 1),
            (vec![10, 20], 29),
            (vec![1, 79, 1], 79),
            (vec![9_000, 9_000], 10_000),
        ] {
            assert_eq!(weight(&pods), class, "{pods:?}");
        }
    }

    #[test]
    fn every_size_of_huge_pages_is_bounded() {
        let files =
            ["hugetlb.2MB.max", "hugetlb.1GB.rsvd.max", "hugetlb.2MB.current", "memory.max"];
        let bounded: Vec<_> = files.into_iter().map(limited_size).collect();
        assert_eq!(bounded, [Some("2MB"), Some("1GB"), None, None]);
    }
}

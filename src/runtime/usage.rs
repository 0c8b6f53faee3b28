//! What the processes of a container have used of the host: processor time and memory.
//!
//! Both come from the container's cgroup. Processor time is in `cpu.stat` of every cgroup v2, with the controller or
//! without. Memory is the working set (`memory.current` less the file pages that the kernel would drop first, as the
//! kubelet counts it) where there is a memory controller. Where there is none, it is the sum of what the processes
//! hold, shared pages divided among those that share them (`Pss` of `smaps_rollup`, proc(5)): without the page cache.
//! It never limits anything.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::instance::Instance;
use super::state;
use crate::sys::cgroup::Cgroup;

/// Groups that a container may have made in its own, one in the other, as far as they are counted.
const DEEPEST: usize = 8;

/// Processor time that all processes of the container have had since it started, ended ones included.
pub fn processor_time(
    instance: &Instance,
    pod: &Path,
    container: &str,
    attempt: u32,
) -> io::Result<Duration> {
    let text = open(instance, pod, container, attempt)?.read("cpu.stat")?;
    let spent = number(&text, "usage_usec").ok_or(io::ErrorKind::InvalidData)?;
    Ok(Duration::from_micros(spent))
}

/// Memory that the container holds now, in bytes.
pub fn memory(instance: &Instance, pod: &Path, container: &str, attempt: u32) -> io::Result<u64> {
    let group = open(instance, pod, container, attempt)?;
    match group.read("memory.current") {
        Ok(text) => {
            let charged: u64 = text.trim().parse().map_err(io::Error::other)?;
            let droppable = number(&group.read("memory.stat")?, "inactive_file").unwrap_or(0);
            Ok(charged.saturating_sub(droppable))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => held_by_processes(&group, DEEPEST),
        Err(error) => Err(error),
    }
}

fn open(instance: &Instance, pod: &Path, container: &str, attempt: u32) -> io::Result<Cgroup> {
    let leaf = pod.join(state::attempt(container, attempt));
    instance.group().open(leaf.to_str().ok_or(io::ErrorKind::InvalidInput)?)
}

fn held_by_processes(group: &Cgroup, depth: usize) -> io::Result<u64> {
    let mut bytes = 0;
    for pid in group.read("cgroup.procs")?.lines() {
        // One that has ended since holds nothing.
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        bytes += number(&rollup, "Pss:").unwrap_or(0) << 10;
    }
    if depth > 0 {
        for child in group.children()? {
            // A group that is gone by now, too.
            bytes += group
                .open(&child)
                .map_or(0, |child| held_by_processes(&child, depth - 1).unwrap_or(0));
        }
    }
    Ok(bytes)
}

/// The number behind a word at the beginning of a line.
fn number(text: &str, word: &str) -> Option<u64> {
    let mut lines = text.lines().map(str::split_whitespace);
    lines.find_map(|mut line| (line.next()? == word).then(|| line.next()?.parse().ok())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_whole_words() {
        let text = "user_usec 7\nusage_usec 1200\nPss:                 253 kB\nPss_Dirty: 9 kB\n";
        assert_eq!(number(text, "usage_usec"), Some(1200));
        assert_eq!(number(text, "Pss:"), Some(253));
        assert_eq!(number(text, "usage"), None);
    }
}

//! What the kernel says about this host: size, pressure, identity.
//!
//! It only reads; what cannot be read counts as unknown and never fails the node.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::node::huge_pages::{self, HugePages, SIZES};

/// Resources of the host, or what of them pods may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    pub storage_bytes: u64,
    pub huge_pages: HugePages,
}

/// Kept for the host and for us.
const RESERVED_CPU_MILLIS: u64 = 100;
const RESERVED_MEMORY_MOST: u64 = 1 << 30;
const GIBIBYTE: u64 = 1 << 30;
const PAGE: u64 = 4096;

impl Capacity {
    /// Less 0.1 cores, a tenth of the disk, and of the memory a quarter of the first GiB and a twentieth of the rest,
    /// at most 1 GiB.
    ///
    /// What a kernel, its service manager and we need hardly grows with the host. Where less is left to them they
    /// are not killed, pods are, but every page of their programs is read from disk again and again.
    pub fn allocatable(self) -> Capacity {
        let first = self.memory_bytes.min(GIBIBYTE);
        let memory = (first / 4 + (self.memory_bytes - first) / 20).min(RESERVED_MEMORY_MOST);
        Capacity {
            cpu_millis: self.cpu_millis.saturating_sub(RESERVED_CPU_MILLIS),
            // Memory that is put aside for huge pages is no other memory, as on every Kubernetes node.
            // In whole pages, as the kernel's limit of all pods is.
            memory_bytes: self
                .memory_bytes
                .saturating_sub(memory + huge_pages::total(self.huge_pages))
                & !(PAGE - 1),
            storage_bytes: self.storage_bytes - self.storage_bytes / 10,
            huge_pages: self.huge_pages,
        }
    }
}

pub fn capacity(data_dir: &Path) -> Capacity {
    let online = read("/sys/devices/system/cpu/online");
    let storage = nix::sys::statvfs::statvfs(data_dir);
    Capacity {
        cpu_millis: count_cpus(&online).max(1) * 1000,
        memory_bytes: meminfo(&read("/proc/meminfo"), "MemTotal"),
        storage_bytes: storage.map_or(0, |s| s.blocks() * s.fragment_size()),
        huge_pages: SIZES.map(|size| {
            let directory = Path::new("/sys/kernel/mm/hugepages").join(size.directory);
            let count = fs::read_to_string(directory.join("nr_hugepages")).ok()?;
            Some(count.trim().parse::<u64>().unwrap_or(0) * size.bytes)
        }),
    }
}

/// Processor time that everything on the host has had since it booted; idle and waiting time is nobody's.
pub fn processor_time() -> io::Result<Duration> {
    let text = fs::read_to_string("/proc/stat")?;
    let ticks = busy_ticks(&text).ok_or(io::ErrorKind::InvalidData)?;
    // USER_HZ, which is 100 on every architecture this runs on (time(7)).
    Ok(Duration::from_millis(ticks * 10))
}

/// Memory that cannot be had for the asking, in bytes.
pub fn memory_in_use() -> u64 {
    let text = read("/proc/meminfo");
    meminfo(&text, "MemTotal").saturating_sub(meminfo(&text, "MemAvailable"))
}

/// `cpu  user nice system idle iowait irq softirq steal guest guest_nice` (proc(5)); guests are counted in `user`.
fn busy_ticks(stat: &str) -> Option<u64> {
    let numbers = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let numbers: Vec<u64> = numbers.filter_map(|number| number.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = numbers[..] else { return None };
    Some(user + nice + system + irq + softirq)
}

/// What runs short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pressure {
    pub memory: bool,
    pub disk: bool,
    pub pids: bool,
}

/// kubelet's default eviction thresholds: 100 MiB of memory, a tenth of the disk, a twentieth of its inodes.
pub fn pressure(data_dir: &Path) -> Pressure {
    let available = meminfo(&read("/proc/meminfo"), "MemAvailable");
    let disk = nix::sys::statvfs::statvfs(data_dir).is_ok_and(|s| {
        s.blocks_available() < s.blocks() / 10
            || (s.files() > 0 && s.files_available() < s.files() / 20)
    });
    let number = |path: &str| read(path).trim().parse::<u64>().unwrap_or(u64::MAX);
    let most = number("/proc/sys/kernel/pid_max").min(number("/proc/sys/kernel/threads-max"));
    // The fourth field of loadavg: running/existing.
    let threads = read("/proc/loadavg")
        .split_whitespace()
        .nth(3)
        .and_then(|field| field.split_once('/')?.1.parse::<u64>().ok())
        .unwrap_or(0);
    Pressure { memory: available < 100 << 20, disk, pids: threads > most / 10 * 9 }
}

/// Who this host is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub kernel: String,
    pub os_image: String,
    pub hostname: String,
}

pub fn identity() -> Identity {
    let line = |path: &str| read(path).trim().to_owned();
    Identity {
        machine_id: line("/etc/machine-id"),
        system_uuid: line("/sys/class/dmi/id/product_uuid"),
        boot_id: line("/proc/sys/kernel/random/boot_id"),
        kernel: line("/proc/sys/kernel/osrelease"),
        os_image: os_image(&read("/etc/os-release")),
        hostname: line("/proc/sys/kernel/hostname"),
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// `0-3,5` → 5.
fn count_cpus(list: &str) -> u64 {
    list.trim()
        .split(',')
        .filter_map(|range| match range.split_once('-') {
            Some((first, last)) => {
                let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
                last.checked_sub(first)?.checked_add(1)
            }
            None => range.parse::<u64>().ok().map(|_| 1),
        })
        .sum()
}

fn meminfo(text: &str, field: &str) -> u64 {
    let kibibytes = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.split_whitespace().next())
        .and_then(|number| number.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

fn os_image(text: &str) -> String {
    text.lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or("Linux".into(), |name| name.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_texts_are_read() {
        assert_eq!(count_cpus("0-3,5\n"), 5);
        assert_eq!(count_cpus("0\n"), 1);
        assert_eq!(count_cpus("nonsense"), 0);
        assert_eq!(busy_ticks("cpu  1 2 4 100 200 8 16 32 64 0\ncpu0 9 9\n"), Some(31));
        assert_eq!(busy_ticks("intr 7\n"), None);
        assert_eq!(meminfo("MemTotal:  2048 kB\nMemFree: 1 kB\n", "MemTotal"), 2 << 20);
        assert_eq!(os_image("A=b\nPRETTY_NAME=\"Debian 12\"\n"), "Debian 12");
        let all = Capacity {
            cpu_millis: 2000,
            memory_bytes: 24 << 30,
            storage_bytes: 1000,
            huge_pages: [Some(0), None],
        };
        let left = all.allocatable();
        assert_eq!((left.cpu_millis, left.storage_bytes), (1900, 900));
        assert_eq!(left.memory_bytes, 23 << 30);
    }

    #[test]
    fn a_small_host_keeps_a_quarter_of_its_memory() {
        let of = |mebibytes: u64| {
            let all = Capacity {
                cpu_millis: 0,
                memory_bytes: mebibytes << 20,
                storage_bytes: 0,
                huge_pages: [Some(0), Some(0)],
            };
            all.allocatable().memory_bytes >> 20
        };
        assert_eq!([512, 1024, 1024 + 2000, 64 << 10].map(of), [384, 768, 768 + 1900, 63 << 10]);
    }
}

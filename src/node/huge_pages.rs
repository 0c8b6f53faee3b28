//! Huge pages: their sizes, and how API, sysfs and cgroup v2 call them.
//!
//! Pure. It reads nothing and limits nothing.

/// One size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// The resource's name in pods and nodes.
    pub resource: &'static str,
    /// The directory below `/sys/kernel/mm/hugepages` (hugetlbpage.rst).
    pub directory: &'static str,
    /// The size in the names of cgroup v2 files: `hugetlb.2MB.max`.
    pub group: &'static str,
    pub bytes: u64,
}

/// Those that x86-64 has.
pub const SIZES: [Size; 2] = [
    Size { resource: "hugepages-2Mi", directory: "hugepages-2048kB", group: "2MB", bytes: 2 << 20 },
    Size {
        resource: "hugepages-1Gi",
        directory: "hugepages-1048576kB",
        group: "1GB",
        bytes: 1 << 30,
    },
];

/// Bytes put aside, in the order of [`SIZES`]; `None` where kernel or processor has no pages of that size.
pub type HugePages = [Option<u64>; SIZES.len()];

/// All sizes together.
pub fn total(pages: HugePages) -> u64 {
    pages.into_iter().flatten().sum()
}

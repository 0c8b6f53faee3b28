//! cgroup v2 directories by descriptor: found wherever mounted, made, limited, watched, killed.
//!
//! It never touches v1 hierarchies and never decides which limits apply.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::mount;

/// CGROUP2_SUPER_MAGIC of linux/magic.h.
const CGROUP2_MAGIC: i64 = 0x6367_7270;

/// One control group, open.
#[derive(Debug)]
pub struct Cgroup {
    directory: OwnedFd,
}

impl Cgroup {
    /// The root of the hierarchy: where it is mounted for us or else (inside `ip netns exec` we see no
    /// /sys/fs/cgroup of the host's) a mount of our own that is attached nowhere.
    pub fn root() -> io::Result<Cgroup> {
        let table = fs::read_to_string("/proc/self/mountinfo")?;
        for place in places(&table) {
            if let Ok(directory) = open_directory(Path::new(&place))
                && rustix::fs::fstatfs(&directory).is_ok_and(|fs| fs.f_type == CGROUP2_MAGIC)
            {
                return Ok(Cgroup { directory });
            }
        }
        // The options of any new mount become those of the whole hierarchy, everybody's: repeat what the
        // first process has it mounted with. Without knowing that, changing nothing is impossible.
        let table = fs::read_to_string("/proc/1/mountinfo")?;
        let options: Vec<(&str, &str)> =
            options(&table).into_iter().map(|name| (name, "")).collect();
        let flags = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        Ok(Cgroup { directory: mount::fresh("cgroup2", &options, flags)? })
    }

    /// A group by its open directory.
    pub fn from_descriptor(directory: OwnedFd) -> Cgroup {
        Cgroup { directory }
    }

    /// Opens the group `name` in this one, making it when absent.
    pub fn ensure(&self, name: &str) -> io::Result<Cgroup> {
        match mkdirat(&self.directory, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        self.open(name)
    }

    /// Opens a group that exists: one name or several, `a/b`.
    pub fn open(&self, name: &str) -> io::Result<Cgroup> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(Cgroup { directory: openat(&self.directory, name, flags, Mode::empty())? })
    }

    /// Names of the groups in this one.
    pub fn children(&self) -> io::Result<Vec<String>> {
        self.entries(FileType::Directory)
    }

    /// Names of the group's own files: which there are depends on controllers and kernel.
    pub fn files(&self) -> io::Result<Vec<String>> {
        self.entries(FileType::RegularFile)
    }

    fn entries(&self, kind: FileType) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.directory)? {
            let entry = entry?;
            if entry.file_type() == kind
                && let Ok(name) = entry.file_name().to_str()
                && !matches!(name, "." | "..")
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Controllers that this group may use.
    pub fn controllers(&self) -> io::Result<BTreeSet<String>> {
        let text = self.read("cgroup.controllers")?;
        Ok(text.split_whitespace().map(str::to_owned).collect())
    }

    /// Enables controllers for the groups in this one; those that cannot be enabled are left out.
    pub fn delegate<'a>(&self, controllers: impl IntoIterator<Item = &'a str>) {
        for controller in controllers {
            // One write each: a write of several is all or nothing. Which ones took effect shows in
            // the children's cgroup.controllers, the only place anyone asks.
            let _ = self.write("cgroup.subtree_control", &format!("+{controller}"));
        }
    }

    pub fn write(&self, file: &str, value: &str) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = openat(&self.directory, file, flags, Mode::empty())?;
        rustix::io::write(&file, value.as_bytes())?;
        Ok(())
    }

    pub fn read(&self, file: &str) -> io::Result<String> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = openat(&self.directory, file, flags, Mode::empty())?;
        let mut text = String::new();
        File::from(file).take(64 << 10).read_to_string(&mut text)?;
        Ok(text)
    }

    /// Kills every process in this group and below (Linux 5.14). New forks cannot escape it.
    pub fn kill(&self) -> io::Result<()> {
        self.write("cgroup.kill", "1")
    }

    /// Stops or continues every process in this group and below.
    pub fn freeze(&self, frozen: bool) -> io::Result<()> {
        self.write("cgroup.freeze", if frozen { "1" } else { "0" })
    }

    /// Whether a process is left in this group or below.
    pub fn is_populated(&self) -> io::Result<bool> {
        Ok(flag(&self.read("cgroup.events")?, "populated") != Some(0))
    }

    /// Whether the kernel killed a process of this group for its memory.
    pub fn has_oom_kill(&self) -> bool {
        self.read("memory.events").is_ok_and(|text| flag(&text, "oom_kill").unwrap_or(0) > 0)
    }

    /// Waits until no process is left; false when `limit` passed first.
    pub fn wait_empty(&self, limit: Duration) -> io::Result<bool> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let events = openat(&self.directory, "cgroup.events", flags, Mode::empty())?;
        let start = std::time::Instant::now();
        let mut pause = Duration::from_micros(250);
        loop {
            // The file signals a change since it was last read, so read, then wait.
            let mut text = [0u8; 256];
            let length = rustix::io::pread(&events, &mut text, 0)?;
            let text = String::from_utf8_lossy(&text[..length]);
            if flag(&text, "populated") == Some(0) {
                return Ok(true);
            }
            let Some(left) = limit.checked_sub(start.elapsed()) else {
                return Ok(false);
            };
            // The kernel holds back a notification that follows another within 10 ms
            // (CGROUP_FILE_NOTIFY_MIN_INTV), so look again by ourselves, ever more rarely.
            let left = left.min(pause);
            pause *= 2;
            let wait =
                Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&wait)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Removes the group `name` with everything below it; its processes must be gone. Absent is
    /// fine.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        let group = match self.open(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        for child in group.children()? {
            group.remove(&child)?;
        }
        match unlinkat(&self.directory, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// `name value` lines, as in cgroup.events.
fn flag(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Mount points of writable cgroup2 mounts in mountinfo (proc_pid_mountinfo(5)), the newest first.
fn places(mountinfo: &str) -> Vec<String> {
    let mut found: Vec<String> = mountinfo
        .lines()
        .filter_map(|line| {
            let (mount, rest) = line.split_once(" - ")?;
            let mut fields = mount.split(' ').skip(4);
            let (place, options) = (fields.next()?, fields.next()?);
            let is_ours = rest.split(' ').next() == Some("cgroup2")
                && options.split(',').any(|option| option == "rw");
            is_ours.then(|| unescape(place))
        })
        .collect();
    found.reverse();
    found
}

/// Options of the hierarchy, as mountinfo shows them behind the file system's type.
fn options(mountinfo: &str) -> Vec<&str> {
    mountinfo
        .lines()
        .filter_map(|line| line.split_once(" - cgroup2 ")?.1.split(' ').nth(1))
        .next()
        .map(|all| all.split(',').filter(|option| !matches!(*option, "rw" | "ro")).collect())
        .unwrap_or_default()
}

/// Octal escapes of mountinfo: space, tab, newline, backslash.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_writable_cgroup2_mount_is_a_candidate_wherever_it_is() {
        let table = "\
            31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
            34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:3 - cgroup2 cgroup2 rw\n\
            42 31 0:38 / /container\\040s/cgroup ro,relatime - cgroup2 cgroup2 rw\n\
            43 31 0:38 / /a\\040b rw - cgroup2 cgroup2 rw\n";
        assert_eq!(places(table), ["/a b", "/sys/fs/cgroup/unified"]);
    }

    #[test]
    fn options_of_the_hierarchy_are_repeated() {
        let line =
            "41 31 0:38 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate,x\n";
        assert_eq!(options(line), ["nsdelegate", "x"]);
        assert_eq!(options("41 31 0:38 / /c rw - cgroup2 cgroup2 rw\n"), [""; 0]);
    }

    #[test]
    fn events_are_read_by_whole_names() {
        let text = "low 0\noom_kill_disable 7\noom_kill 2\n";
        assert_eq!(flag(text, "oom_kill"), Some(2));
        assert_eq!(flag(text, "oom"), None);
    }
}

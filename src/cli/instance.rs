//! What tells one Joey on a machine from another: its directories, its lock, its short id.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};

use super::settings::Settings;
use crate::sys::clock;

/// The directories of one instance, held by this process alone.
#[derive(Debug)]
pub struct Instance {
    /// Six hex digits: part of the names of links, tables and cgroups.
    pub id: String,
    pub data_dir: PathBuf,
    pub run_dir: PathBuf,
    _locks: [Flock<File>; 2],
}

/// What this program makes in a data directory, each name up to its first dot (`store.redb`, `instance.part`),
pub const IN_DATA: [&str; 10] = [
    "admin",
    "images",
    "instance",
    "lock",
    "manifests",
    "network",
    "pki",
    "pods",
    "seccomp",
    "store",
];
/// and in a run directory.
pub const IN_RUN: [&str; 8] = [
    "lock",
    "manifest-problems",
    "netns",
    "network-problems",
    "points",
    "pods",
    "policy",
    "volumes",
];
/// Of the file system that may be mounted there.
const LOST_AND_FOUND: &str = "lost+found";

/// Whether an entry's name is one of `own`.
pub fn is_own(name: &OsStr, own: &[&str]) -> bool {
    let stem = name.to_str().and_then(|name| name.split('.').next());
    stem.is_some_and(|stem| own.contains(&stem))
}

/// Refuses a directory of somebody else: one that holds something and was never an instance's data directory. A first
/// start that died early has left its lock at most; images may have been imported before the first start.
pub fn check_data_dir(data_dir: &Path) -> anyhow::Result<()> {
    if existing_id(data_dir).is_some() {
        return Ok(());
    }
    let images_are_own = data_dir.join("images/records.lock").is_file();
    for name in names(data_dir)? {
        let is_known = match name.to_str() {
            Some("lock" | "instance" | "instance.part" | LOST_AND_FOUND) => true,
            Some("images") => images_are_own,
            _ => false,
        };
        if !is_known {
            bail!(
                "{} is no data directory of joey: it holds {}, and no file `instance` of ours; nothing was changed; name \
                 an empty directory, or one that does not exist",
                data_dir.display(),
                Path::new(&name).display()
            );
        }
    }
    Ok(())
}

/// Refuses to remove directories that hold anything which this program has not made: who names a wrong one by mistake
/// loses nothing.
///
/// # Errors
/// What is not ours, by its path; or the directories cannot be read.
pub fn check_removable(settings: &Settings) -> anyhow::Result<()> {
    let (data_dir, run_dir) = (settings.data_dir(), settings.run_dir());
    check_data_dir(&data_dir)?;
    // Whoever makes a run directory takes its lock first.
    let is_marked = run_dir.join("lock").is_file();
    for (directory, own) in [(&data_dir, &IN_DATA[..]), (&run_dir, &IN_RUN[..])] {
        for name in names(directory)? {
            let path = directory.join(&name);
            // One may lie in the other.
            let holds_other = [&data_dir, &run_dir].iter().any(|other| other.starts_with(&path));
            let is_own = is_own(&name, own) && (is_marked || *directory != run_dir);
            if !is_own && name != LOST_AND_FOUND && !holds_other {
                bail!(
                    "{} was not made by joey, so {} is not removed and nothing was changed; name the right directory, or \
                     move it away first",
                    path.display(),
                    directory.display()
                );
            }
        }
    }
    Ok(())
}

/// The names of a directory's entries; none when it is absent.
fn names(directory: &Path) -> anyhow::Result<Vec<OsString>> {
    let reading = || format!("reading {}", directory.display());
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(reading)?,
    };
    entries.map(|entry| Ok(entry.with_context(reading)?.file_name())).collect()
}

impl Instance {
    /// Makes the directories where they are missing and takes their locks.
    ///
    /// # Errors
    /// Another process holds them, named by its pid; the data directory is somebody else's; or they cannot be made.
    pub fn take(settings: &Settings) -> anyhow::Result<Instance> {
        let (data_dir, run_dir) = (settings.data_dir(), settings.run_dir());
        check_data_dir(&data_dir)?;
        let data_lock = lock(&data_dir)?;
        let run_lock = lock(&run_dir)?;
        let id = identity(&data_dir)?;
        Ok(Instance { id, data_dir, run_dir, _locks: [data_lock, run_lock] })
    }

    /// The instance's top cgroup.
    pub fn cgroup(&self) -> String {
        format!("joey-{}", self.id)
    }
}

/// The id that a data directory already has.
pub fn existing_id(data_dir: &Path) -> Option<String> {
    let text = fs::read_to_string(data_dir.join("instance")).ok()?;
    let id = text.trim();
    let fits =
        id.len() == 6 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    fits.then(|| id.to_owned())
}

/// Makes a directory that only root may enter: nobody else on the host reaches set-uid files of images
/// or state below it (CVE-2021-41103).
pub fn make_private(directory: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("making {}", directory.display()))
}

fn lock(directory: &Path) -> anyhow::Result<Flock<File>> {
    make_private(directory)?;
    let path = directory.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut held) => {
            held.set_len(0)?;
            held.rewind()?;
            writeln!(held, "{}", std::process::id())?;
            Ok(held)
        }
        Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid)?;
            bail!(
                "another joey (process {}) runs on {}; stop it first, or give this one its own --data-dir and --run-dir",
                pid.trim(),
                directory.display()
            )
        }
        Err((_, errno)) => Err(errno).with_context(|| format!("locking {}", path.display())),
    }
}

fn identity(data_dir: &Path) -> anyhow::Result<String> {
    if let Some(id) = existing_id(data_dir) {
        return Ok(id);
    }
    let mut raw = [0u8; 3];
    clock::random(&mut raw);
    let id: String = raw.iter().map(|byte| format!("{byte:02x}")).collect();
    let path = data_dir.join("instance");
    let part = data_dir.join("instance.part");
    let mut file = File::create(&part).with_context(|| format!("writing {}", part.display()))?;
    writeln!(file, "{id}")?;
    file.sync_all()?;
    fs::rename(&part, &path).with_context(|| format!("writing {}", path.display()))?;
    File::open(data_dir)?.sync_all()?;
    Ok(id)
}

/// The process that holds the run directory, if one does.
pub fn holder(run_dir: &Path) -> Option<u32> {
    let file = File::options().read(true).write(true).open(run_dir.join("lock")).ok()?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(_) => None,
        Err((mut file, _)) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid).ok()?;
            pid.trim().parse().ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with these files in it; gone at the end.
    struct Place(PathBuf);

    impl Place {
        fn with(files: &[&str]) -> Place {
            let place = std::env::temp_dir().join(format!("joey-instance-{}", clock::uuid()));
            fs::create_dir(&place).unwrap();
            for file in files {
                let file = place.join(file);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, "0a1b2c\n").unwrap();
            }
            Place(place)
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn a_directory_of_somebody_else_is_no_data_directory() {
        for (files, is_taken) in [
            (&[][..], true),
            (&["instance", "lock", "store.redb"], true),
            (&["instance", "notes.txt"], true),
            (&["lock", "instance.part"], true),
            (&["lost+found/x"], true),
            (&["images/records.lock"], true),
            (&["images/holiday.jpg"], false),
            (&["passwd", "hosts"], false),
            (&["lock", "pods/x"], false),
        ] {
            let place = Place::with(files);
            assert_eq!(check_data_dir(&place.0).is_ok(), is_taken, "{files:?}");
        }
        assert!(check_data_dir(Path::new("/nowhere/joey")).is_ok());
    }

    #[test]
    fn names_are_own_up_to_their_first_dot() {
        for (name, expected) in [
            ("store.redb", true),
            ("store.redb.new", true),
            ("instance.part", true),
            ("pods", true),
            ("passwd", false),
            ("podsx", false),
            (".pods", false),
            ("", false),
        ] {
            assert_eq!(is_own(OsStr::new(name), &IN_DATA), expected, "{name}");
        }
    }
}

//! What tells one Joey on a machine from another: its directories, its lock, its short id.

use std::fs::{self, DirBuilder, File};
use std::io::{Read, Seek, Write};
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

impl Instance {
    /// Makes the directories where they are missing and takes their locks.
    ///
    /// # Errors
    /// Another process holds them, named by its pid; or they cannot be made.
    pub fn take(settings: &Settings) -> anyhow::Result<Instance> {
        let (data_dir, run_dir) = (settings.data_dir(), settings.run_dir());
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

//! Replaces the files of a volume all at once, as Kubernetes' AtomicWriter does.
//!
//! ```text
//! volume/..2026_11_23_12_57_00.123456789/app.conf   the current set
//! volume/..data → ..2026_11_23_12_57_00.123456789   swapped by rename(2): readers never see a mix
//! volume/app.conf → ..data/app.conf
//! ```
//! It never writes through anything a pod could have made: the volume is read-only inside every pod.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::Path;

use super::payload::Files;
use crate::sys::clock;

const CURRENT: &str = "..data";
const NEXT: &str = "..data_tmp";

/// Brings the volume to exactly these files; says whether anything had to change.
///
/// With a group (`fsGroup`) it owns everything and may read it, and directories pass it on (set-gid).
pub fn write(volume: &Path, files: &Files, group: Option<u32>) -> io::Result<bool> {
    directory(volume, group)?;
    let current = fs::read_link(volume.join(CURRENT)).ok();
    if let Some(current) = &current
        && holds_exactly(&volume.join(current), files, group)
    {
        // Whoever was killed right after the swap has made no links yet.
        publish(volume, files)?;
        sweep(volume, &current.to_string_lossy())?;
        return Ok(false);
    }
    let name = fresh_name();
    let set = volume.join(&name);
    directory(&set, group)?;
    for (path, file) in files {
        let target = set.join(path);
        if let Some(parents) = Path::new(path).parent() {
            let mut below = set.clone();
            for part in parents {
                below.push(part);
                directory(&below, group)?;
            }
        }
        let mut out =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&target)?;
        out.write_all(&file.bytes)?;
        if let Some(group) = group {
            chown(&target, None, Some(group))?;
        }
        fs::set_permissions(&target, fs::Permissions::from_mode(mode(file.mode, group)))?;
    }
    match fs::remove_file(volume.join(NEXT)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    symlink(&name, volume.join(NEXT))?;
    fs::rename(volume.join(NEXT), volume.join(CURRENT))?;
    publish(volume, files)?;
    sweep(volume, &name)?;
    Ok(true)
}

/// Links for what is there, none for what is not.
fn publish(volume: &Path, files: &Files) -> io::Result<()> {
    let wanted: BTreeSet<&str> =
        files.keys().map(|path| path.split('/').next().unwrap_or(path)).collect();
    for name in &wanted {
        match symlink(Path::new(CURRENT).join(name), volume.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    for entry in fs::read_dir(volume)? {
        let entry = entry?;
        let name = entry.file_name();
        let ours =
            name.to_str().is_some_and(|name| name.starts_with("..") || wanted.contains(name));
        if !ours {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Removes earlier sets, and what an interrupted write left.
fn sweep(volume: &Path, keep: &str) -> io::Result<()> {
    for entry in fs::read_dir(volume)? {
        let entry = entry?;
        let name = entry.file_name();
        let old = name.to_str().is_some_and(|name| name.starts_with("..") && name != keep);
        if old && entry.file_type()?.is_dir() {
            super::remove_tree(&entry.path())?;
        }
    }
    Ok(())
}

fn holds_exactly(set: &Path, files: &Files, group: Option<u32>) -> bool {
    let same = files.iter().all(|(path, file)| {
        let path = set.join(path);
        fs::symlink_metadata(&path)
            .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o7777 == mode(file.mode, group))
            && fs::read(&path).is_ok_and(|bytes| bytes == file.bytes)
    });
    same && count_files(set).is_ok_and(|count| count == files.len())
}

fn count_files(directory: &Path) -> io::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        count += if entry.file_type()?.is_dir() { count_files(&entry.path())? } else { 1 };
    }
    Ok(count)
}

/// kubelet's `SetVolumeOwnership` for read-only volumes: the group may read.
fn mode(mode: u32, group: Option<u32>) -> u32 {
    if group.is_some() { mode | 0o440 } else { mode }
}

fn directory(path: &Path, group: Option<u32>) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        other => other?,
    }
    if let Some(group) = group {
        chown(path, None, Some(group))?;
    }
    // mkdir(2) is subject to the umask, and set-gid comes after the change of owner.
    let mode = if group.is_some() { 0o2755 } else { 0o755 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn fresh_name() -> String {
    let now = clock::now().to_nanos_text();
    let stamp: String = now.trim_end_matches('Z').replace(['-', ':'], "_").replace('T', "_");
    format!("..{stamp}")
}

#[cfg(test)]
mod tests {
    use super::super::payload::File;
    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        list.iter()
            .map(|(path, text)| {
                ((*path).to_owned(), File { bytes: text.as_bytes().to_vec(), mode: 0o644 })
            })
            .collect()
    }

    fn names(volume: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(volume)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with("..2"))
            .collect();
        names.sort();
        names
    }

    struct Scratch(std::path::PathBuf);

    impl Scratch {
        fn new() -> Scratch {
            let path = std::env::temp_dir().join(format!("joey-atomic-{}", clock::uuid()));
            fs::create_dir(&path).unwrap();
            Scratch(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn files_come_change_and_go_and_nothing_is_left_over() {
        let scratch = Scratch::new();
        let volume = scratch.0.join("v");
        assert!(write(&volume, &files(&[("a", "1"), ("d/e", "2")]), None).unwrap());
        assert_eq!(names(&volume), ["..data", "a", "d"]);
        assert_eq!(fs::read_to_string(volume.join("d/e")).unwrap(), "2");
        assert!(!write(&volume, &files(&[("a", "1"), ("d/e", "2")]), None).unwrap());
        assert!(write(&volume, &files(&[("a", "3"), ("b", "4")]), None).unwrap());
        assert_eq!(names(&volume), ["..data", "a", "b"]);
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "3");
        assert_eq!(fs::read_dir(&volume).unwrap().count(), 4);
        assert!(write(&volume, &files(&[]), None).unwrap());
        assert_eq!(names(&volume), ["..data"]);
    }

    #[test]
    fn an_interrupted_write_is_completed_by_the_next() {
        let scratch = Scratch::new();
        let volume = scratch.0.join("v");
        write(&volume, &files(&[("a", "1")]), None).unwrap();
        fs::create_dir(volume.join("..2020_half")).unwrap();
        symlink("..2020_half", volume.join(NEXT)).unwrap();
        write(&volume, &files(&[("a", "2")]), None).unwrap();
        assert_eq!(fs::read_dir(&volume).unwrap().count(), 3);
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "2");
    }

    #[test]
    fn a_write_that_was_killed_after_the_swap_gets_its_links() {
        let scratch = Scratch::new();
        let volume = scratch.0.join("v");
        write(&volume, &files(&[("a", "1"), ("b", "2")]), None).unwrap();
        // As it is between rename(2) and the links: one is missing, one is left over, so is the set before.
        fs::remove_file(volume.join("b")).unwrap();
        symlink(Path::new(CURRENT).join("c"), volume.join("c")).unwrap();
        fs::create_dir(volume.join("..2020_before")).unwrap();
        assert!(!write(&volume, &files(&[("a", "1"), ("b", "2")]), None).unwrap());
        assert_eq!(names(&volume), ["..data", "a", "b"]);
        assert_eq!(fs::read_to_string(volume.join("b")).unwrap(), "2");
        assert_eq!(fs::read_dir(&volume).unwrap().count(), 4);
    }

    #[test]
    fn readers_never_see_a_mix_of_two_updates() {
        let scratch = Scratch::new();
        let volume = scratch.0.join("v");
        write(&volume, &files(&[("a", "0"), ("b", "0")]), None).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut reads = 0;
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    // A reader that wants one set resolves `..data` once.
                    let Ok(set) = fs::canonicalize(volume.join(CURRENT)) else { continue };
                    let one = fs::read_to_string(set.join("a"));
                    let other = fs::read_to_string(set.join("b"));
                    if let (Ok(one), Ok(other)) = (one, other) {
                        assert_eq!(one, other);
                        reads += 1;
                    }
                }
                reads
            });
            for round in 1..300 {
                let text = round.to_string();
                write(&volume, &files(&[("a", &text), ("b", &text)]), None).unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(reader.join().unwrap() > 0);
        });
    }
}

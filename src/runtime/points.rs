//! Mount points that are made once: a bottom layer, shared by all containers that mount at the same places.
//!
//! Images rarely hold `/etc/hosts` or `/var/run/secrets/kubernetes.io/serviceaccount`. Made in the container's own scratch
//! directory such places cost a dozen inodes at every start, on ext4 more than all mounts together. Below the image's
//! layers they are there already; whatever the image has in their place, links included, hides them. What is missing all
//! the same, [`crate::sys::files::ensure_in_root`] makes in the container's scratch directory, so that nothing but time
//! depends on this layer.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::image::reference::Digest;
use crate::sys::files::Missing;

/// So many sets are kept; they go with the run directory. Pods that mount at ever new places make do without.
const MOST_SETS: usize = 128;
/// What every container gets.
const SYSTEM: [&str; 3] = ["dev", "proc", "sys"];

/// Places in a container's root, by path without a leading slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Points(BTreeMap<String, Missing>);

impl Points {
    /// Of mounts at these targets. Those below the system's own mounts are left out, and those that name no place.
    pub fn of<'a>(targets: impl Iterator<Item = (&'a str, Missing)>) -> Points {
        let mut points: BTreeMap<String, Missing> =
            SYSTEM.map(|path| (path.to_owned(), Missing::Directory)).into();
        for (target, kind) in targets {
            let parts: Vec<&str> =
                target.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
            let is_ours = parts.first().is_some_and(|first| !SYSTEM.contains(first));
            if is_ours && !parts.contains(&"..") {
                points.insert(parts.join("/"), kind);
            }
        }
        Points(points)
    }

    /// The same for the same places.
    fn name(&self) -> String {
        let line = |(path, kind): (&String, &Missing)| match kind {
            Missing::Directory => format!("d {path}\n"),
            Missing::File => format!("f {path}\n"),
        };
        Digest::of(self.0.iter().map(line).collect::<String>().as_bytes()).hex().to_owned()
    }

    /// The layer that has them, made below `sets` where it is not there; `None` when there are too many already.
    ///
    /// Making is idempotent, so that one that was cut short is finished by the next, and two at a time do no harm.
    pub fn layer(&self, sets: &Path) -> io::Result<Option<PathBuf>> {
        let layer = sets.join(self.name());
        if !layer.is_dir() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(sets)?;
            if std::fs::read_dir(sets)?.count() >= MOST_SETS {
                return Ok(None);
            }
        }
        let mut directory = std::fs::DirBuilder::new();
        directory.recursive(true).mode(0o755);
        directory.create(&layer)?;
        for (path, kind) in &self.0 {
            let place = layer.join(path);
            match kind {
                Missing::Directory => directory.create(place)?,
                Missing::File => {
                    if let Some(parent) = place.parent() {
                        directory.create(parent)?;
                    }
                    let mut options = std::fs::OpenOptions::new();
                    options.append(true).create(true).mode(0o644).open(place)?;
                }
            }
        }
        Ok(Some(layer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that goes with this.
    struct Sets(PathBuf);

    impl Sets {
        fn new() -> Sets {
            let name = format!("joey-points-{}", crate::sys::clock::uuid());
            Sets(std::env::temp_dir().join(name))
        }

        fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Sets {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn entries(root: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut rest = vec![root.to_owned()];
        while let Some(directory) = rest.pop() {
            for entry in std::fs::read_dir(&directory).unwrap().flatten() {
                let path = entry.path();
                found.push(path.strip_prefix(root).unwrap().display().to_string());
                if path.is_dir() {
                    rest.push(path);
                }
            }
        }
        found.sort();
        found
    }

    #[test]
    fn it_holds_what_is_mounted_outside_the_systems_own_and_nothing_else() {
        let sets = Sets::new();
        let points = Points::of(
            [
                ("/etc/hosts", Missing::File),
                ("/var/run/secrets", Missing::Directory),
                ("data//./deep/", Missing::Directory),
                ("/dev/termination-log", Missing::File),
                ("/proc/x", Missing::File),
                ("/a/../../b", Missing::Directory),
                ("/", Missing::Directory),
            ]
            .into_iter(),
        );
        let layer = points.layer(sets.path()).unwrap().unwrap();
        let expected = [
            "data",
            "data/deep",
            "dev",
            "etc",
            "etc/hosts",
            "proc",
            "sys",
            "var",
            "var/run",
            "var/run/secrets",
        ];
        assert_eq!(entries(&layer), expected);
        assert!(layer.join("etc/hosts").is_file());
    }

    #[test]
    fn the_same_places_share_a_layer_and_one_that_was_cut_short_is_finished() {
        let sets = Sets::new();
        let of = |kind| Points::of([("/etc/hosts", kind)].into_iter());
        let first = of(Missing::File).layer(sets.path()).unwrap().unwrap();
        std::fs::remove_dir(first.join("proc")).unwrap();
        assert_eq!(of(Missing::File).layer(sets.path()).unwrap(), Some(first.clone()));
        assert!(first.join("proc").is_dir());
        let other = of(Missing::Directory).layer(sets.path()).unwrap().unwrap();
        assert_ne!(other, first);
    }

    #[test]
    fn ever_new_places_fill_nothing() {
        let sets = Sets::new();
        let layer = |number: usize| {
            let target = format!("/data{number}");
            let points = Points::of([(target.as_str(), Missing::Directory)].into_iter());
            points.layer(sets.path()).unwrap()
        };
        for number in 0..MOST_SETS {
            assert!(layer(number).is_some());
        }
        assert_eq!(layer(MOST_SETS), None);
        assert!(layer(0).is_some(), "those that are there are used on");
    }

    #[test]
    fn places_that_exclude_each_other_are_an_error_and_no_panic() {
        let sets = Sets::new();
        let both = [("/a", Missing::File), ("/a/b", Missing::Directory)];
        assert!(Points::of(both.into_iter()).layer(sets.path()).is_err());
    }
}

//! Which data directories the daemons of this host hold, so that a command that works without one does not fill another in
//! silence. It looks at what processes have open, and takes no lock: a daemon that starts at this moment must not find it taken.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::instance;

/// What to tell who brings images to `data_dir` while daemons hold `held`: nothing, unless all of them look elsewhere.
pub fn warning(data_dir: &Path, held: &BTreeSet<PathBuf>) -> Option<String> {
    if held.contains(data_dir) {
        return None;
    }
    let first = held.first()?;
    let others: Vec<String> = held.iter().map(|held| held.display().to_string()).collect();
    Some(format!(
        "no joey serve runs with {}, where this image goes, but with {}; to bring it there: joey --data-dir {} image …",
        data_dir.display(),
        others.join(" and "),
        first.display()
    ))
}

/// The data directories that processes of this host have locked, as far as the caller may look into them.
pub fn data_dirs() -> BTreeSet<PathBuf> {
    let entries = |directory: &Path| fs::read_dir(directory).into_iter().flatten().flatten();
    let processes = entries(Path::new("/proc")).map(|entry| entry.path().join("fd"));
    let open = processes.flat_map(|fds| entries(&fds).map(|fd| fd.path()).collect::<Vec<_>>());
    let locks = open.filter_map(|fd| fs::read_link(fd).ok()).filter(|path| path.ends_with("lock"));
    locks
        .filter_map(|lock| lock.parent().map(Path::to_owned))
        .filter(|directory| instance::existing_id(directory).is_some())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_fills_a_directory_that_no_daemon_holds_beside_one_that_a_daemon_does_is_warned() {
        let paths = |all: &[&str]| all.iter().map(PathBuf::from).collect::<BTreeSet<_>>();
        let own = Path::new("/var/lib/joey");
        for held in [&[][..], &["/var/lib/joey"], &["/srv/a", "/var/lib/joey"]] {
            assert_eq!(warning(own, &paths(held)), None, "{held:?}");
        }
        let told = warning(own, &paths(&["/srv/b", "/srv/a"])).unwrap();
        assert_eq!(
            told,
            "no joey serve runs with /var/lib/joey, where this image goes, but with /srv/a and /srv/b; to bring it \
             there: joey --data-dir /srv/a image …"
        );
    }
}

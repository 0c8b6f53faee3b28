//! What an installation changes on this host, decided before anything is changed.
//!
//! Pure. Text that is there already and not ours is refused; what is there as it should be is left alone, and
//! stays when Joey goes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::layout::{DIRECTORIES, Item};

/// What installations on this host have made, so that it can be undone; one of the three boundaries' files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    pub directories: BTreeSet<PathBuf>,
    pub files: BTreeSet<PathBuf>,
    /// The kubeconfig that was changed for the invoking user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<crate::cli::kubeconfig::Change>,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Absent,
    Directory,
    File {
        content: Vec<u8>,
        mode: u32,
    },
    /// A link, a device, or what cannot be read.
    Other,
}

/// Everything that the decision looks at.
pub struct Facts {
    /// By path: every item's and every directory's above it.
    pub found: BTreeMap<PathBuf, Found>,
    /// What is remembered of installations before.
    pub record: Record,
    pub systemd: bool,
    /// The unit runs.
    pub running: bool,
    pub start: bool,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    MakeDirectory {
        path: PathBuf,
        mode: u32,
    },
    Write(Item),
    ReloadUnits,
    /// Have it start at boot; start it now when it does not run.
    Enable {
        now: bool,
    },
    Restart,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::MakeDirectory { path, mode } => write!(f, "make {}/ ({mode:o})", path.display()),
            Step::Write(item) => write!(
                f,
                "write {} ({:o}, {} bytes)",
                item.path.display(),
                item.mode,
                item.content.len()
            ),
            Step::ReloadUnits => f.write_str("systemctl daemon-reload"),
            Step::Enable { now: true } => f.write_str("systemctl enable --now joey.service"),
            Step::Enable { now: false } => f.write_str("systemctl enable joey.service"),
            Step::Restart => f.write_str("systemctl restart joey.service (pods run on)"),
        }
    }
}

/// Steps in order, and what to remember; the record is written before the first step.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub record: Record,
}

/// Why nothing is installed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("{0} is there and `joey install` did not put it there; move it away and try again")]
    NotOurs(PathBuf),
    #[error("{0} is in the way: it is no directory")]
    NoDirectory(PathBuf),
}

/// Decides.
///
/// # Errors
/// Something of somebody else's is in the way.
pub fn plan(facts: &Facts, items: Vec<Item>) -> Result<Plan, Refused> {
    let mut record = facts.record.clone();
    let mut steps = Vec::new();
    for (path, mode) in DIRECTORIES {
        directories(facts, Path::new(path), mode, &mut record, &mut steps)?;
    }
    let mut changed = false;
    for item in items {
        if let Some(parent) = item.path.parent() {
            directories(facts, parent, 0o755, &mut record, &mut steps)?;
        }
        let is_ours = record.files.contains(&item.path);
        match facts.found.get(&item.path) {
            Some(Found::File { content, mode })
                if *content == item.content && *mode == item.mode => {}
            Some(Found::File { .. } | Found::Other) if is_ours => {
                changed = true;
                steps.push(Step::Write(item));
            }
            None | Some(Found::Absent) => {
                changed = true;
                record.files.insert(item.path.clone());
                steps.push(Step::Write(item));
            }
            Some(Found::File { .. } | Found::Directory | Found::Other) => {
                return Err(Refused::NotOurs(item.path));
            }
        }
    }
    if facts.systemd {
        if changed {
            steps.push(Step::ReloadUnits);
        }
        steps.push(Step::Enable { now: facts.start && !facts.running });
        if changed && facts.running && facts.start {
            steps.push(Step::Restart);
        }
    }
    Ok(Plan { steps, record })
}

/// Plans `path` and what is missing above it.
fn directories(
    facts: &Facts,
    path: &Path,
    mode: u32,
    record: &mut Record,
    steps: &mut Vec<Step>,
) -> Result<(), Refused> {
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|path| matches!(facts.found.get(*path), Some(Found::Absent)))
        .collect();
    if missing.is_empty() && !matches!(facts.found.get(path), None | Some(Found::Directory)) {
        return Err(Refused::NoDirectory(path.to_owned()));
    }
    for directory in missing.into_iter().rev() {
        let planned = steps
            .iter()
            .any(|step| matches!(step, Step::MakeDirectory { path, .. } if path == directory));
        if !planned {
            record.directories.insert(directory.to_owned());
            let mode = if directory == path { mode } else { 0o755 };
            steps.push(Step::MakeDirectory { path: directory.to_owned(), mode });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(path: &str, content: &str) -> Item {
        Item { path: path.into(), mode: 0o644, content: content.as_bytes().to_vec() }
    }

    fn facts(found: &[(&str, Found)]) -> Facts {
        let ground = ["/", "/etc", "/usr", "/usr/local", "/usr/local/bin"];
        let mut all: BTreeMap<PathBuf, Found> =
            ground.iter().map(|path| (PathBuf::from(path), Found::Directory)).collect();
        for path in ["/etc/joey", "/etc/joey/manifests"] {
            all.insert(path.into(), Found::Absent);
        }
        all.extend(found.iter().map(|(path, found)| (PathBuf::from(path), found.clone())));
        Facts { found: all, record: Record::default(), systemd: true, running: false, start: true }
    }

    fn file(content: &str) -> Found {
        Found::File { content: content.as_bytes().to_vec(), mode: 0o644 }
    }

    fn steps(plan: &Plan) -> String {
        plan.steps.iter().map(|step| format!("{step}\n")).collect()
    }

    #[test]
    fn a_bare_host_gets_everything_and_remembers_it() {
        let facts = facts(&[
            ("/usr/local/share", Found::Absent),
            ("/usr/local/share/man", Found::Absent),
            ("/usr/local/share/man/joey.1", Found::Absent),
        ]);
        let plan = plan(&facts, vec![item("/usr/local/share/man/joey.1", "x")]).unwrap();
        expect_test::expect![[r"
            make /etc/joey/ (755)
            make /etc/joey/manifests/ (700)
            make /usr/local/share/ (755)
            make /usr/local/share/man/ (755)
            write /usr/local/share/man/joey.1 (644, 1 bytes)
            systemctl daemon-reload
            systemctl enable --now joey.service
        "]]
        .assert_eq(&steps(&plan));
        assert_eq!(plan.record.directories.len(), 4);
        assert_eq!(plan.record.files.len(), 1);
    }

    #[test]
    fn a_second_installation_changes_nothing_and_forgets_nothing() {
        let directories = ["/etc/joey", "/etc/joey/manifests"];
        let mut facts = facts(&[("/usr/local/bin/joey", file("new"))]);
        facts.found.extend(directories.map(|path| (PathBuf::from(path), Found::Directory)));
        facts.record.files.insert("/usr/local/bin/joey".into());
        facts.record.directories.extend(directories.map(PathBuf::from));
        facts.running = true;
        let same = plan(&facts, vec![item("/usr/local/bin/joey", "new")]).unwrap();
        assert_eq!(steps(&same), "systemctl enable joey.service\n");
        assert_eq!(same.record, facts.record);
        let upgrade = plan(&facts, vec![item("/usr/local/bin/joey", "newer")]).unwrap();
        assert_eq!(
            steps(&upgrade),
            "write /usr/local/bin/joey (644, 5 bytes)\nsystemctl daemon-reload\n\
             systemctl enable joey.service\nsystemctl restart joey.service (pods run on)\n"
        );
    }

    #[test]
    fn what_somebody_else_put_there_stays() {
        let there = facts(&[("/usr/local/bin/joey", file("other"))]);
        let refused = plan(&there, vec![item("/usr/local/bin/joey", "new")]);
        assert_eq!(refused, Err(Refused::NotOurs("/usr/local/bin/joey".into())));
        // The very same content is as good as ours, and is not taken away with ours.
        let there = facts(&[("/usr/local/bin/joey", file("new"))]);
        let plan = plan(&there, vec![item("/usr/local/bin/joey", "new")]).unwrap();
        assert!(plan.record.files.is_empty());
        let blocked = facts(&[("/etc/joey", file("x"))]);
        assert_eq!(
            super::plan(&blocked, Vec::new()),
            Err(Refused::NoDirectory("/etc/joey".into()))
        );
    }
}

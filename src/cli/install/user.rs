//! Changes the kubeconfig of the person who called `sudo`, as that person.
//!
//! Root never opens a file below somebody's home: a link that its owner put there could lead anywhere. A child with
//! the user's identity does it, told by JSON on its standard input.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::cli::kubeconfig::{self, Change};

/// What the child is to do.
#[derive(Debug, Serialize, Deserialize)]
enum Task {
    Merge {
        text: String,
        /// `None`: ~/.kube/config.
        target: Option<PathBuf>,
    },
    Undo(Box<Change>),
}

/// A person with an account on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: PathBuf,
}

/// Who called: the user behind `sudo` (sudo(8) and doas set this), else the process's own.
///
/// # Errors
/// Nobody of that number has an account.
pub fn invoking() -> anyhow::Result<User> {
    let behind = std::env::var("SUDO_UID").ok().and_then(|uid| uid.parse().ok());
    by_uid(behind.unwrap_or_else(|| nix::unistd::geteuid().as_raw()))
}

/// The user behind `sudo`, for root; `None` where the caller acts for themselves.
///
/// # Errors
/// Nobody of that number has an account.
pub fn behind_sudo() -> anyhow::Result<Option<User>> {
    let caller = std::env::var("SUDO_UID").ok().and_then(|uid| uid.parse().ok());
    let caller = caller.filter(|uid| *uid != 0 && nix::unistd::geteuid().is_root());
    caller.map(by_uid).transpose()
}

/// From /etc/passwd, or else from getent(1), which asks directories, too: a static binary has no name service.
fn by_uid(uid: u32) -> anyhow::Result<User> {
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    if let Some(user) = find(&text, uid) {
        return Ok(user);
    }
    let asked = Command::new("getent").args(["passwd", &uid.to_string()]).output();
    let text = asked.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    find(&text.unwrap_or_default(), uid)
        .with_context(|| format!("no account on this host has uid {uid}"))
}

/// passwd(5)
fn find(text: &str, uid: u32) -> Option<User> {
    text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, number, gid, _, home, ..] = fields.as_slice() else { return None };
        (number.parse() == Ok(uid)).then_some(())?;
        Some(User {
            name: (*name).to_owned(),
            uid,
            gid: gid.parse().ok()?,
            home: PathBuf::from(home),
        })
    })
}

/// Merges the administrator's kubeconfig into the user's: `target`, or ~/.kube/config.
///
/// # Errors
/// The child says why.
pub fn merge(user: &User, text: String, target: Option<PathBuf>) -> anyhow::Result<Change> {
    let answer = ask(user, &Task::Merge { text, target })?;
    serde_json::from_str(&answer).context("reading what the merge changed")
}

/// Undoes it.
///
/// # Errors
/// The child says why.
pub fn undo(change: &Change) -> anyhow::Result<()> {
    let user = by_uid(change.uid)?;
    ask(&user, &Task::Undo(Box::new(change.clone()))).map(drop)
}

fn ask(user: &User, task: &Task) -> anyhow::Result<String> {
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["--config", "/dev/null", "kubeconfig", "--of-user"])
        .env_clear()
        .env("HOME", &user.home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if user.uid != nix::unistd::geteuid().as_raw() {
        // Supplementary groups of root go with it.
        command.uid(user.uid).gid(user.gid);
    }
    let mut child = command.spawn().with_context(|| format!("becoming {}", user.name))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(&serde_json::to_vec(task)?)?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!("{}", words.strip_prefix("error: ").unwrap_or(&words));
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// The child's side.
///
/// # Errors
/// The task cannot be done; its words go to the parent.
pub fn answer() -> anyhow::Result<ExitCode> {
    let mut text = String::new();
    io::stdin().lock().read_to_string(&mut text)?;
    match serde_json::from_str(&text).context("reading the task")? {
        Task::Merge { text, target } => {
            // The environment is clean, so KUBECONFIG leads nowhere else.
            let target = target.map_or_else(kubeconfig::own_kubeconfig, Ok)?;
            let change = kubeconfig::change(&text, &target)?;
            io::stdout().lock().write_all(&serde_json::to_vec(&change)?)?;
        }
        Task::Undo(change) => kubeconfig::undo(&change)?,
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_number() {
        let text =
            "root:x:0:0:root:/root:/bin/bash\nbroken:0\nann:x:1000:100:,,,:/home/ann:/bin/sh\n";
        let ann = find(text, 1000).unwrap();
        assert_eq!(
            (ann.name.as_str(), ann.gid, ann.home),
            ("ann", 100, PathBuf::from("/home/ann"))
        );
        assert_eq!(find(text, 7), None);
    }
}

//! Tests that each need a process of their own: every one re-executes this program, in fresh mount and network
//! namespaces and with a tmpfs to itself.
//!
//! Speaks enough of libtest's command line for `cargo test` and nextest.

use std::fs;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Command, ExitCode};
use std::time::Duration;

use nix::sched::CloneFlags;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

/// A test that is given a `Scene`.
pub struct Test<Scene: 'static> {
    pub name: &'static str,
    pub body: fn(Scene) -> Pin<Box<dyn Future<Output = ()>>>,
}

impl<Scene> Clone for Test<Scene> {
    fn clone(&self) -> Test<Scene> {
        *self
    }
}

impl<Scene> Copy for Test<Scene> {}

#[macro_export]
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub const TESTS: &[$crate::alone::Test<$crate::scene::Scene>] = &[$($crate::alone::Test {
            name: stringify!($name),
            body: |scene| Box::pin($name(scene)),
        }),*];
    };
}

/// Lists or runs what the command line asks for; `inside` runs one test in the process that is its own.
pub fn main<Scene>(
    title: &str,
    all: &[&[Test<Scene>]],
    words: &[&str],
    inside: impl Fn(&Test<Scene>) -> ExitCode,
) -> ExitCode {
    let all = || all.iter().flat_map(|tests| tests.iter());
    match words {
        ["--inside", name] => match all().find(|test| test.name == *name) {
            Some(test) => inside(test),
            None => ExitCode::FAILURE,
        },
        ["--list", ..] => {
            if !words.contains(&"--ignored") {
                all().for_each(|test| println!("{}: test", test.name));
            }
            ExitCode::SUCCESS
        }
        _ => run_selected(title, all().map(|test| test.name), words),
    }
}

fn run_selected(
    title: &str,
    names: impl Iterator<Item = &'static str>,
    words: &[&str],
) -> ExitCode {
    if !rustix::process::geteuid().is_root() {
        if std::env::var_os("REQUIRE_ROOT").is_some() {
            eprintln!("{title} tests need root");
            return ExitCode::FAILURE;
        }
        println!("{title} tests SKIPPED: they need root");
        return ExitCode::SUCCESS;
    }
    let filters: Vec<&&str> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let is_exact = words.contains(&"--exact");
    let is_selected = |name: &str| {
        filters.is_empty()
            || filters.iter().any(|f| if is_exact { **f == name } else { name.contains(**f) })
    };
    let program = std::env::current_exe().expect("this program has a path");
    let mut has_failed = false;
    for name in names.filter(|name| is_selected(name)) {
        let status = Command::new(&program).args(["--inside", name]).status();
        let passed = status.is_ok_and(|status| status.success());
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        has_failed |= !passed;
    }
    if has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Gives this process namespaces of its own, and a tmpfs.
pub fn settle(title: &str) -> PathBuf {
    let place = std::env::temp_dir().join(format!("joey-{title}-test-{}", std::process::id()));
    fs::create_dir_all(&place).unwrap();
    nix::sched::unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    mount("tmpfs", &place, "tmpfs", MountFlags::empty(), None).unwrap();
    // What is under test must not ask this host's service manager for units.
    if Path::new("/run/systemd/system").is_dir() {
        mount("none", "/run/systemd", "tmpfs", MountFlags::empty(), None).unwrap();
    }
    place
}

/// Gives the tmpfs back.
pub fn leave(place: &Path) {
    rustix::mount::unmount(place, rustix::mount::UnmountFlags::DETACH).unwrap();
    fs::remove_dir(place).unwrap();
}

/// Whether `body` ends well within `limit`. A panic must not keep the pods alive.
pub async fn ends_well(body: impl Future<Output = ()>, limit: Duration) -> bool {
    let body = futures::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(body));
    matches!(tokio::time::timeout(limit, body).await, Ok(Ok(())))
}

//! The runtime against the real kernel: each test re-executes itself in fresh mount and network
//! namespaces.
//!
//! Speaks enough of libtest's command line for `cargo test` and nextest. The payload of containers
//! is busybox, and this very program as `/probe`.
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::process::{Command, ExitCode};

mod containers;
mod pods;
mod probe;
mod scene;
mod security;
mod streams;

use scene::Test;

/// Descriptors that are left open without O_CLOEXEC on purpose: by the daemon's role, and by the zygote's.
const DAEMONS_LEAK: i32 = 77;
const ZYGOTES_LEAK: i32 = 78;

/// What close_range(2) is for: every descriptor of ours has O_CLOEXEC, until somebody forgets it.
fn leave_one_open() {
    let is_zygote = std::env::args().next().is_some_and(|role| role == "joey-zygote");
    let number = if is_zygote { ZYGOTES_LEAK } else { DAEMONS_LEAK };
    let root = std::fs::File::open("/").unwrap();
    // SAFETY: the number belongs to nobody: this is the first thing that the program does.
    let doubled = unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&root), number) };
    assert_eq!(doubled, number);
}

fn main() -> ExitCode {
    leave_one_open();
    if let Some(code) = joey::runtime::dispatch() {
        return code;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["probe", probe @ ..] => probe::run(probe),
        ["--inside", name] => match all().find(|test| test.name == *name) {
            Some(test) => scene::run(&test),
            None => ExitCode::FAILURE,
        },
        ["--daemon", place, cgroup] => scene::daemon(place.as_ref(), cgroup),
        ["--late-zygote", directory, cgroup] => scene::late_zygote(directory.as_ref(), cgroup),
        ["--without-cgroups", place, cgroup] => scene::without_cgroups(place.as_ref(), cgroup),
        ["--list", ..] => {
            if !words.contains(&"--ignored") {
                all().for_each(|test| println!("{}: test", test.name));
            }
            ExitCode::SUCCESS
        }
        _ => run_selected(&words),
    }
}

fn all() -> impl Iterator<Item = Test> {
    [containers::TESTS, security::TESTS, streams::TESTS, pods::TESTS].into_iter().flatten().copied()
}

fn run_selected(words: &[&str]) -> ExitCode {
    if !rustix::process::geteuid().is_root() {
        if std::env::var_os("REQUIRE_ROOT").is_some() {
            eprintln!("runtime tests need root");
            return ExitCode::FAILURE;
        }
        println!("runtime tests SKIPPED: they need root");
        return ExitCode::SUCCESS;
    }
    let filters: Vec<&&str> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let is_exact = words.contains(&"--exact");
    let is_selected = |name: &str| {
        filters.is_empty()
            || filters.iter().any(|f| if is_exact { **f == name } else { name.contains(**f) })
    };
    let program = std::env::current_exe().expect("this program has a path");
    let mut failed = Vec::new();
    for test in all().filter(|test| is_selected(test.name)) {
        let status = Command::new(&program).args(["--inside", test.name]).status();
        let passed = status.is_ok_and(|status| status.success());
        println!("test {} ... {}", test.name, if passed { "ok" } else { "FAILED" });
        if !passed {
            failed.push(test.name);
        }
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

//! The runtime against the real kernel: each test re-executes itself in fresh mount and network
//! namespaces.
//!
//! Speaks enough of libtest's command line for `cargo test` and nextest. The payload of containers
//! is busybox, and this very program as `/probe`.
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::process::ExitCode;

#[path = "../harness/alone.rs"]
mod alone;
mod containers;
mod pods;
mod probe;
mod scene;
mod security;
mod streams;

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
        ["--daemon", place, cgroup] => scene::daemon(place.as_ref(), cgroup),
        ["--late-zygote", directory, cgroup] => scene::late_zygote(directory.as_ref(), cgroup),
        ["--without-cgroups", place, cgroup] => scene::without_cgroups(place.as_ref(), cgroup),
        words => alone::main(
            "runtime",
            &[containers::TESTS, security::TESTS, streams::TESTS, pods::TESTS],
            words,
            scene::run,
        ),
    }
}

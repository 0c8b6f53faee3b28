//! The node agent against the real API, runtime and network: a pod goes in through the API, its status comes out.
//!
//! Each test re-executes itself in fresh mount and network namespaces; the payload is busybox.
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::process::{Command, ExitCode};

mod lives;
mod private_images;
mod scene;

use scene::Test;

fn main() -> ExitCode {
    if let Some(code) =
        joey::runtime::image::role_main(std::env::args_os()).or_else(joey::runtime::dispatch)
    {
        return code;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["--inside", name] => match all().find(|test| test.name == *name) {
            Some(test) => scene::run(&test),
            None => ExitCode::FAILURE,
        },
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
    [lives::TESTS, private_images::TESTS].into_iter().flatten().copied()
}

fn run_selected(words: &[&str]) -> ExitCode {
    if !rustix::process::geteuid().is_root() {
        if std::env::var_os("REQUIRE_ROOT").is_some() {
            eprintln!("node tests need root");
            return ExitCode::FAILURE;
        }
        println!("node tests SKIPPED: they need root");
        return ExitCode::SUCCESS;
    }
    let filters: Vec<&&str> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let is_exact = words.contains(&"--exact");
    let is_selected = |name: &str| {
        filters.is_empty()
            || filters.iter().any(|f| if is_exact { **f == name } else { name.contains(**f) })
    };
    let program = std::env::current_exe().expect("this program has a path");
    let mut failed = false;
    for test in all().filter(|test| is_selected(test.name)) {
        let status = Command::new(&program).args(["--inside", test.name]).status();
        let passed = status.is_ok_and(|status| status.success());
        println!("test {} ... {}", test.name, if passed { "ok" } else { "FAILED" });
        failed |= !passed;
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

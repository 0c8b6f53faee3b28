//! The node agent against the real API, runtime and network: a pod goes in through the API, its status comes out.
//!
//! Each test re-executes itself in fresh mount and network namespaces; the payload is busybox.
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::process::ExitCode;

#[path = "../harness/alone.rs"]
mod alone;
mod drift;
mod endings;
mod health;
mod lives;
mod private_images;
mod scene;
mod sidecars;

fn main() -> ExitCode {
    if let Some(code) =
        joey::runtime::image::role_main(std::env::args_os()).or_else(joey::runtime::dispatch)
    {
        return code;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let all = [
        drift::TESTS,
        endings::TESTS,
        health::TESTS,
        lives::TESTS,
        private_images::TESTS,
        sidecars::TESTS,
    ];
    alone::main("node", &all, &words, scene::run)
}

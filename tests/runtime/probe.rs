//! What containers try: the payload side of the security tests.

use std::process::ExitCode;

pub fn run(_words: &[&str]) -> ExitCode {
    ExitCode::FAILURE
}

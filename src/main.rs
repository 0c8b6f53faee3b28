//! Picks the role of this process before any thread exists.

use std::process::ExitCode;

fn main() -> ExitCode {
    joey::cli::main()
}

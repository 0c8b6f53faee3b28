//! Prints an error with its whole chain, once, where it stops travelling.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

/// Writes `error: step: cause: cause` to stderr. A closed pipe on stdout is not worth a word.
pub fn failure(error: &anyhow::Error) -> ExitCode {
    let broken_pipe = error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    });
    if broken_pipe {
        return ExitCode::SUCCESS;
    }
    let mut stderr = io::stderr().lock();
    let label = if stderr.is_terminal() { "\x1b[1;31merror:\x1b[0m" } else { "error:" };
    // Nothing is left to tell anybody when stderr itself is closed.
    let _ = writeln!(stderr, "{label} {error:#}");
    ExitCode::FAILURE
}

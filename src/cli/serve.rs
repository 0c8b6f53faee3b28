//! `joey serve`: from settings to a running daemon.

use std::process::ExitCode;

use super::settings::Settings;

/// Runs the daemon until it is told to stop.
pub fn run(settings: &Settings) -> anyhow::Result<ExitCode> {
    crate::daemon::run(settings)
}

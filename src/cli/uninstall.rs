//! `joey uninstall`: undoes what `joey install` remembers, after a reset.
//!
//! It removes nothing that an installation did not make.

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};

use super::install::{self, RECORD, SERVICE, user};
use super::reset::Keep;
use super::settings::Settings;

/// Stops the unit, resets, removes files, directories and the entries in the user's kubeconfig.
pub fn run(settings: &Settings, yes: bool) -> anyhow::Result<ExitCode> {
    if !nix::unistd::geteuid().is_root() {
        bail!("uninstalling needs root: sudo joey uninstall");
    }
    let Some(record) = install::recorded()? else {
        bail!(
            "`joey install` has not installed anything here: there is no {RECORD}; `joey reset` removes pods and data"
        );
    };
    // Before the unit is stopped, so that nothing is half done.
    super::instance::check_removable(settings)?;
    if !yes && !super::reset::confirmed(&settings.data_dir(), &settings.run_dir(), Keep::Nothing)? {
        bail!("nothing was removed");
    }
    if install::has_systemd() && record.files.iter().any(|path| path.ends_with(SERVICE)) {
        install::systemctl(&["disable", "--now", SERVICE])?;
    }
    super::reset::run(settings, true, Keep::Nothing)?;
    let mut failures = Vec::new();
    let mut note = |outcome: anyhow::Result<()>| {
        failures.extend(outcome.err().map(|error| format!("{error:#}")));
    };
    if let Some(change) = &record.kubeconfig {
        note(user::undo(change).with_context(|| format!("undoing {}", change.path.display())));
    }
    for file in &record.files {
        note(gone(fs::remove_file(file)).with_context(|| format!("removing {}", file.display())));
    }
    if install::has_systemd() {
        note(install::systemctl(&["daemon-reload"]));
        install::forget_failure();
    }
    if !failures.is_empty() {
        // The record stays, so that a second try knows what is left.
        bail!("{}", failures.join("; "));
    }
    gone(fs::remove_file(RECORD)).with_context(|| format!("removing {RECORD}"))?;
    for directory in record.directories.iter().rev() {
        remove_directory(directory)?;
    }
    println!("uninstalled: this host is as it was");
    Ok(ExitCode::SUCCESS)
}

fn remove_directory(path: &Path) -> anyhow::Result<()> {
    match gone(fs::remove_dir(path)) {
        // Somebody has put something there: a configuration, manifests, other programs' completions.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            println!("{} stays: it is not empty", path.display());
            Ok(())
        }
        other => other.with_context(|| format!("removing {}", path.display())),
    }
}

fn gone(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

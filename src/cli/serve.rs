//! `joey serve`: from settings to a running daemon.

use std::process::ExitCode;

use super::instance::Instance;
use super::logging;
use super::settings::Settings;
use crate::net::{NetworkConfig, Policies};

/// Runs the daemon until it is told to stop.
///
/// The zygote is made while this process has no second thread, so that it can fork without exec.
pub fn run(settings: &Settings) -> anyhow::Result<ExitCode> {
    if !nix::unistd::geteuid().is_root() {
        anyhow::bail!("namespaces, mounts and nftables need root: sudo joey serve");
    }
    logging::start(settings)?;
    for name in Settings::unknown_variables() {
        tracing::warn!("{name} in the environment is no setting; `joey config` lists all");
    }
    // Nothing of ours is for others to read.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let instance = Instance::take(settings)?;
    let zygote = crate::runtime::zygote::Zygote::spawn()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(crate::daemon::run(settings, instance, zygote));
    // A blocking call that hangs (a dead disk) must not keep the process.
    runtime.shutdown_background();
    outcome
}

/// What the network needs of settings and instance; `serve` and `reset` must agree on it.
pub fn network_config(settings: &Settings, instance: &Instance) -> NetworkConfig {
    NetworkConfig {
        instance: instance.id.clone(),
        data_dir: instance.data_dir.clone(),
        run_dir: instance.run_dir.clone(),
        pod_cidr: settings.pod_cidr(),
        service_cidr: settings.service_cidr(),
        policies: Policies::Enforced,
    }
}

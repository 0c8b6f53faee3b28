//! The command line: what was typed, what it means, and who carries it out.
//!
//! It owns no mechanism: every command is a few calls into the layers below.

use std::process::ExitCode;

use clap::Parser;

pub mod apply;
pub mod args;
pub mod client;
pub mod config;
pub mod describe;
pub mod doctor;
pub mod get;
pub mod held;
pub mod image;
pub mod install;
pub mod instance;
pub mod kubeconfig;
pub mod learn;
pub mod logging;
pub mod logs;
pub mod manifests;
pub mod pods;
pub mod policy;
pub mod report;
pub mod reset;
pub mod resources;
pub mod rollout;
pub mod serve;
pub mod settings;
pub mod streams;
pub mod uninstall;
pub mod why;

use self::args::{Args, Command};
use self::reset::Keep;
use self::settings::Settings;

/// Runs the command line and returns the exit code: 0 done, 1 failed, 2 not understood.
pub fn main() -> ExitCode {
    // Other roles of this program begin here, before any thread exists.
    let role = crate::runtime::dispatch()
        .or_else(|| crate::runtime::image::role_main(std::env::args_os()));
    if let Some(code) = role {
        return code;
    }
    let args = Args::parse();
    match run(args) {
        Ok(code) => code,
        Err(error) => report::failure(&error),
    }
}

fn run(args: Args) -> anyhow::Result<ExitCode> {
    let settings = Settings::gather(&args.settings)?;
    match args.command {
        Command::Serve => serve::run(&settings),
        Command::Config => config::print(&settings),
        Command::Doctor => doctor::run(&settings),
        Command::Get(args) => with_client(&settings, |client| get::run(client, args)),
        Command::Describe(args) => with_client(&settings, |client| describe::run(client, args)),
        Command::Apply(args) => with_client(&settings, |client| apply::apply(client, args)),
        Command::Delete(args) => with_client(&settings, |client| apply::delete(client, args)),
        Command::Why(args) => with_client(&settings, |client| why::run(client, &settings, args)),
        Command::Scale(args) => with_client(&settings, |client| rollout::scale(client, args)),
        Command::Rollout(command) => {
            with_client(&settings, |client| rollout::rollout(client, command))
        }
        Command::Policy(command) => policy::run(&settings, command),
        Command::Logs(args) => with_client(&settings, |client| logs::logs(client, args)),
        Command::Exec(args) => with_client(&settings, |client| streams::exec(client, args)),
        Command::Run(args) => with_client(&settings, |client| streams::run(client, args)),
        Command::Image(command) => asynchronous(image::run(&settings, command)),
        Command::Install { dry_run, no_start, package_root } => match package_root {
            Some(root) => install::lay_out(&root),
            None => install::run(&settings, dry_run, !no_start),
        },
        Command::Uninstall { yes } => uninstall::run(&settings, yes),
        Command::Reset { yes, keep_data } => reset::run(&settings, yes, Keep::data(keep_data)),
        Command::Kubeconfig { of_user: true, .. } => install::user::answer(),
        Command::Kubeconfig { merge, of_user: false } => kubeconfig::run(&settings, merge),
        Command::Learn(args) => learn::run(&settings, args),
        Command::Completions { shell } => {
            std::io::Write::write_all(&mut std::io::stdout(), &args::completions(shell))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { directory } => {
            args::write_man_pages(&directory)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Runs a command against the daemon of these settings.
fn with_client<Work>(
    settings: &Settings,
    work: impl FnOnce(kube::Client) -> Work,
) -> anyhow::Result<ExitCode>
where
    Work: Future<Output = anyhow::Result<ExitCode>>,
{
    asynchronous(async { work(client::connect(settings)?).await })
}

/// Runs a client command on a small runtime of its own.
fn asynchronous<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(work);
    // A read of standard input cannot be cancelled; waiting for it would hang until a key is pressed.
    runtime.shutdown_background();
    outcome
}

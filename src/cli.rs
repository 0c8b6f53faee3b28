//! The command line: what was typed, what it means, and who carries it out.
//!
//! It owns no mechanism: every command is a few calls into the layers below.

use std::process::ExitCode;

use clap::Parser;

pub mod args;
pub mod config;
pub mod doctor;
pub mod instance;
pub mod kubeconfig;
pub mod logging;
pub mod report;
pub mod serve;
pub mod settings;

use self::args::{Args, Command};
use self::settings::Settings;

/// Runs the command line and returns the exit code: 0 done, 1 failed, 2 not understood.
pub fn main() -> ExitCode {
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
        Command::Kubeconfig { merge } => kubeconfig::run(&settings, merge),
        Command::Completions { shell } => {
            args::write_completions(shell);
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { directory } => {
            args::write_man_pages(&directory)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Runs a client command on a small runtime of its own.
fn asynchronous<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

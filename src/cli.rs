//! The command line: what was typed, what it means, and who carries it out.
//!
//! It owns no mechanism: every command is a few calls into the layers below.

use std::process::ExitCode;

use clap::Parser;

pub mod args;
pub mod config;
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

//! `joey policy log`: connections that NetworkPolicies deny, as they are denied.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::process::ExitCode;

use anyhow::Context;

use super::settings::Settings;
use crate::net::policy::log::{Line, SOCKET};
use crate::sys::socket;

#[derive(Debug, clap::Subcommand)]
pub enum PolicyCommand {
    /// Show the connections that NetworkPolicies denied lately, newest last
    Log {
        /// Go on with those that are denied from now on
        #[arg(short, long)]
        follow: bool,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
}

pub fn run(settings: &Settings, command: PolicyCommand) -> anyhow::Result<ExitCode> {
    let PolicyCommand::Log { follow, json } = command;
    let run_dir = settings.run_dir();
    let stream = socket::connect(&run_dir, SOCKET).with_context(|| {
        format!(
            "connecting to {}; is `joey serve` running with this --run-dir, and are you root?",
            run_dir.join(SOCKET).display()
        )
    })?;
    let mut out = std::io::stdout().lock();
    for line in BufReader::new(stream).lines() {
        let line = line.context("reading the daemon's log of policies")?;
        if line.is_empty() {
            match follow {
                true => continue,
                false => break,
            }
        }
        let text = match json {
            true => line,
            false => {
                let Line { time, denial } =
                    serde_json::from_str(&line).context("the daemon is of another release")?;
                format!("{time} {denial}")
            }
        };
        match writeln!(out, "{text}").and_then(|()| out.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
            outcome => outcome?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

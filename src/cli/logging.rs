//! Where log lines go: the journal with fields under systemd, text or JSON on stderr elsewhere.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::settings::Settings;

/// Installs the process-wide subscriber. Called once, before anything logs; starts no thread.
///
/// # Errors
/// The filter made from the log level is not understood.
pub fn start(settings: &Settings) -> anyhow::Result<()> {
    // Libraries speak only when something is wrong, whatever level Joey itself is at.
    let filter = EnvFilter::try_new(format!("warn,joey={}", settings.log_level()))?;
    let registry = tracing_subscriber::registry().with(filter);
    let json = settings.log_format() == "json";
    // systemd tells by JOURNAL_STREAM that stderr is the journal, see systemd.exec(5).
    let journal = settings.log_format() == "auto" && std::env::var_os("JOURNAL_STREAM").is_some();
    if journal && let Ok(layer) = tracing_journald::layer() {
        registry.with(layer).init();
    } else if json {
        registry.with(tracing_subscriber::fmt::layer().json().with_writer(io::stderr)).init();
    } else {
        let colour = io::stderr().is_terminal();
        registry
            .with(
                tracing_subscriber::fmt::layer()
                    .with_ansi(colour)
                    .with_target(false)
                    .with_writer(io::stderr),
            )
            .init();
    }
    Ok(())
}

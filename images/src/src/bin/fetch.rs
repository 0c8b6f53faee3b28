//! `fetch URL`: prints what an HTTP server answers. Also stands in for wget, whose usual flags it takes.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use joey_samples::client::{self, Url};

const USAGE: &str = "usage: fetch [-q] [-T SECONDS] [-O FILE|-] http://HOST[:PORT]/PATH";

fn main() -> ExitCode {
    let mut limit = Duration::from_secs(10);
    let mut file = "-".to_owned();
    let mut url = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "-q" => {}
            "-T" => match arguments.next().and_then(|text| text.parse().ok()) {
                Some(seconds) => limit = Duration::from_secs(seconds),
                None => return failure(USAGE),
            },
            "-O" => file = arguments.next().unwrap_or_default(),
            "-qO-" | "-O-" => file = "-".to_owned(),
            flag if flag.starts_with('-') => return failure(USAGE),
            text => url = Url::parse(text),
        }
    }
    let Some(url) = url else { return failure(USAGE) };
    match client::get(&url, limit) {
        Ok((status, body)) => {
            let written = match file.as_str() {
                "-" => std::io::stdout().write_all(&body),
                path => std::fs::write(path, &body),
            };
            match (written, status) {
                (Err(error), _) => failure(&format!("{file}: {error}")),
                (Ok(()), 200..300) => ExitCode::SUCCESS,
                (Ok(()), _) => failure(&format!("server returned status {status}")),
            }
        }
        Err(error) => failure(&format!("{}:{}: {error}", url.host, url.port)),
    }
}

fn failure(text: &str) -> ExitCode {
    eprintln!("fetch: {text}");
    ExitCode::FAILURE
}

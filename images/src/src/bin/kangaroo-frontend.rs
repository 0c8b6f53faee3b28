//! The story's frontend: asks the backend by its Service's name for every request.
//!
//! `BACKEND` is the URL to ask (default `http://kangaroo-backend:8080/`), `PORT` where to listen (80).

use std::process::ExitCode;
use std::time::Duration;

use joey_samples::client::{self, Url};
use joey_samples::server::{Answer, Server};
use joey_samples::termination::Termination;

fn main() -> ExitCode {
    let termination = Termination::catch();
    let backend =
        std::env::var("BACKEND").unwrap_or_else(|_| "http://kangaroo-backend:8080/".to_owned());
    let port = std::env::var("PORT").ok().and_then(|text| text.parse().ok()).unwrap_or(80);
    let Some(url) = Url::parse(&backend) else {
        eprintln!("BACKEND={backend}: must be http://HOST[:PORT]/PATH");
        return ExitCode::FAILURE;
    };
    let server = Server::listen(port, move |request| match request.path.as_str() {
        "/healthz" => Answer::ok("ok\n"),
        _ => match client::get(&url, Duration::from_secs(5)) {
            Ok((200, body)) => {
                Answer::ok(format!("the backend says: {}", String::from_utf8_lossy(&body)))
            }
            Ok((status, _)) => {
                Answer { status: 502, body: format!("the backend answered {status}\n") }
            }
            Err(error) => Answer { status: 502, body: format!("the backend: {error}\n") },
        },
    });
    match server {
        Ok(server) => {
            println!("kangaroo-frontend listens on :{port} and asks {backend}");
            termination.wait();
            server.drain(Duration::from_secs(25));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("cannot listen on {port}: {error}");
            ExitCode::FAILURE
        }
    }
}

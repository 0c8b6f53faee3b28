//! The story's backend: tells its version, pod and peer, and misbehaves on request.
//!
//! ```text
//! :80  /  /healthz  /crash?code=N  /slow?ms=N  /burn?ms=N  /memory?mb=N
//! :81  /metrics
//! ```

use std::hint::black_box;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use joey_samples::server::{Answer, Request, Server};
use joey_samples::termination::Termination;

static REQUESTS: AtomicU64 = AtomicU64::new(0);
/// What /memory has taken.
static HOARD: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

fn version() -> String {
    std::fs::read_to_string("/etc/kangaroo-version").unwrap_or_default().trim().to_owned()
}

fn log(line: &str) {
    // A line is one write, so that lines of threads do not mix; a closed pipe is not our business.
    let _ = std::io::stdout().write_all(format!("{line}\n").as_bytes());
}

fn answer(request: &Request, version: &str, pod: &str) -> Answer {
    REQUESTS.fetch_add(1, Ordering::Relaxed);
    let query =
        if request.query.is_empty() { String::new() } else { format!("?{}", request.query) };
    log(&format!("{} {}{query} from {}", request.method, request.path, request.peer));
    match request.path.as_str() {
        "/" | "/api" | "/api/" => {
            Answer::ok(format!("kangaroo-backend {version} in {pod} for {}\n", request.peer.ip()))
        }
        "/healthz" => Answer::ok("ok\n"),
        "/crash" => std::process::exit(request.number("code").unwrap_or(1) as i32),
        "/slow" => {
            std::thread::sleep(Duration::from_millis(request.number("ms").unwrap_or(1000)));
            Answer::ok("slow, but sure\n")
        }
        "/burn" => {
            let end = Instant::now() + Duration::from_millis(request.number("ms").unwrap_or(1000));
            let mut rounds = 0u64;
            while Instant::now() < end {
                rounds = black_box(rounds + 1);
            }
            Answer::ok(format!("{rounds} rounds\n"))
        }
        "/memory" => {
            let bytes = request.number("mb").unwrap_or(1) as usize * 1_000_000;
            let mut hoard = HOARD.lock().expect("nothing panics while it holds the hoard");
            hoard.push(vec![1; bytes]);
            Answer::ok(format!("{} bytes\n", hoard.iter().map(Vec::len).sum::<usize>()))
        }
        _ => Answer::not_found(),
    }
}

fn main() -> ExitCode {
    let termination = Termination::catch();
    let (version, pod) =
        (version(), std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default());
    let pod = pod.trim().to_owned();
    let greeting = format!("kangaroo-backend {version} listens on :80, metrics on :81");
    let server = Server::listen(80, move |request| answer(request, &version, &pod));
    let metrics = Server::listen(81, |request| match request.path.as_str() {
        "/metrics" => Answer::ok(format!(
            "# TYPE kangaroo_requests_total counter\nkangaroo_requests_total {}\n",
            REQUESTS.load(Ordering::Relaxed)
        )),
        _ => Answer::not_found(),
    });
    let (server, _metrics) = match (server, metrics) {
        (Ok(server), Ok(metrics)) => (server, metrics),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("cannot listen: {error}");
            return ExitCode::FAILURE;
        }
    };
    log(&greeting);
    termination.wait();
    log("draining");
    match server.drain(Duration::from_secs(25)) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

//! HTTP/1.1 with keep-alive, a thread a connection, and an end that loses no request.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What a client asked for.
pub struct Request {
    pub method: String,
    /// Without the query.
    pub path: String,
    pub query: String,
    pub peer: SocketAddr,
}

impl Request {
    /// A number of the query, such as `ms` in `/slow?ms=100`.
    pub fn number(&self, name: &str) -> Option<u64> {
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, _)| *key == name).find_map(|(_, value)| value.parse().ok())
    }
}

pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    pub fn ok(body: impl Into<String>) -> Answer {
        Answer { status: 200, body: body.into() }
    }

    pub fn not_found() -> Answer {
        Answer { status: 404, body: "not found\n".to_owned() }
    }

    fn reason(&self) -> &'static str {
        match self.status {
            200 => "OK",
            404 => "Not Found",
            502 => "Bad Gateway",
            503 => "Service Unavailable",
            _ => "Error",
        }
    }
}

type Handler = dyn Fn(&Request) -> Answer + Send + Sync;

/// A listening server. Dropping the handle does not stop it; [`Server::drain`] does.
pub struct Server {
    shared: Arc<Shared>,
}

struct Shared {
    handler: Box<Handler>,
    draining: AtomicBool,
    /// Requests that are being answered.
    busy: AtomicUsize,
}

/// An idle connection is looked at this often for the end.
const GLANCE: Duration = Duration::from_millis(100);
const LONGEST_HEAD: u64 = 64 << 10;

impl Server {
    /// Listens on every IPv4 address.
    pub fn listen(
        port: u16,
        handler: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> io::Result<Server> {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            handler: Box::new(handler),
            draining: AtomicBool::new(false),
            busy: AtomicUsize::new(0),
        });
        let server = Server { shared: Arc::clone(&shared) };
        std::thread::spawn(move || accept(&listener, &shared));
        Ok(server)
    }

    /// Stops accepting, lets what runs finish within `limit`. True when nothing was cut off.
    pub fn drain(&self, limit: Duration) -> bool {
        self.shared.draining.store(true, Ordering::SeqCst);
        let end = Instant::now() + limit;
        // Two glances: connections that were accepted just before have been seen by then.
        std::thread::sleep(2 * GLANCE);
        while self.shared.busy.load(Ordering::SeqCst) > 0 {
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.draining.load(Ordering::SeqCst) {
        match listener.accept() {
            Ok((stream, peer)) => {
                let shared = Arc::clone(shared);
                std::thread::spawn(move || {
                    // A client that goes away is nobody's fault.
                    let _ = converse(&stream, peer, &shared);
                });
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_readable(listener),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Sleeps until a connection waits, or for a glance.
fn wait_readable(listener: &TcpListener) {
    use std::os::fd::AsRawFd;
    let mut poll = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd, and its count.
    unsafe { libc::poll(&mut poll, 1, GLANCE.as_millis() as i32) };
}

fn converse(stream: &TcpStream, peer: SocketAddr, shared: &Shared) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        stream.set_read_timeout(Some(GLANCE))?;
        loop {
            match reader.fill_buf() {
                Ok([]) => return Ok(()),
                Ok(_) => break,
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) =>
                {
                    if shared.draining.load(Ordering::SeqCst) {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        shared.busy.fetch_add(1, Ordering::SeqCst);
        let outcome = exchange(stream, &mut reader, peer, shared);
        shared.busy.fetch_sub(1, Ordering::SeqCst);
        if !outcome? {
            return Ok(());
        }
    }
}

/// One request and its answer; true when the connection stays.
fn exchange(
    mut stream: &TcpStream,
    reader: &mut BufReader<&TcpStream>,
    peer: SocketAddr,
    shared: &Shared,
) -> io::Result<bool> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut head = reader.by_ref().take(LONGEST_HEAD);
    let mut line = String::new();
    head.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next())
    else {
        return Ok(false);
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let request =
        Request { method: method.to_owned(), path: path.to_owned(), query: query.to_owned(), peer };
    let mut keep = version == "HTTP/1.1";
    let mut length = 0;
    loop {
        let mut header = String::new();
        if head.read_line(&mut header)? == 0 {
            return Ok(false);
        }
        let header = header.trim_end();
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(':').unwrap_or((header, ""));
        match name.to_ascii_lowercase().as_str() {
            "connection" => keep = keep && !value.trim().eq_ignore_ascii_case("close"),
            "content-length" => length = value.trim().parse().unwrap_or(0),
            _ => {}
        }
    }
    io::copy(&mut reader.by_ref().take(length), &mut io::sink())?;
    let answer = (shared.handler)(&request);
    keep = keep && !shared.draining.load(Ordering::SeqCst);
    let text = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: {}\r\n\r\n",
        answer.status,
        answer.reason(),
        answer.body.len(),
        if keep { "keep-alive" } else { "close" },
    );
    let body = if request.method == "HEAD" { "" } else { &answer.body };
    stream.write_all(format!("{text}{body}").as_bytes())?;
    Ok(keep)
}

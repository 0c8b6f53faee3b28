//! One HTTP GET.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::dns;

/// Where a URL leads.
#[derive(Debug, PartialEq, Eq)]
pub struct Url {
    pub host: String,
    pub port: u16,
    pub path: String,
}

impl Url {
    /// `http://host[:port][/path]`; the scheme may be left out.
    pub fn parse(text: &str) -> Option<Url> {
        let rest = text.strip_prefix("http://").unwrap_or(text);
        if rest.contains("://") {
            return None;
        }
        let (authority, path) = match rest.find('/') {
            Some(slash) => (&rest[..slash], &rest[slash..]),
            None => (rest, "/"),
        };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (authority, 80),
        };
        (!host.is_empty()).then(|| Url { host: host.to_owned(), port, path: path.to_owned() })
    }
}

/// Fetches a URL: the status code and the body.
pub fn get(url: &Url, limit: Duration) -> io::Result<(u16, Vec<u8>)> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in dns::lookup(&url.host)? {
        match TcpStream::connect_timeout(&SocketAddr::from((address, url.port)), limit) {
            Ok(stream) => return exchange(stream, url, limit),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn exchange(mut stream: TcpStream, url: &Url, limit: Duration) -> io::Result<(u16, Vec<u8>)> {
    stream.set_read_timeout(Some(limit))?;
    // HTTP/1.0: the body ends with the connection, and is never chunked.
    write!(stream, "GET {} HTTP/1.0\r\nHost: {}\r\nConnection: close\r\n\r\n", url.path, url.host)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP");
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(invalid)?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status =
        head.split_whitespace().nth(1).and_then(|word| word.parse().ok()).ok_or_else(invalid)?;
    Ok((status, answer.split_off(end + 4)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let url =
            |host: &str, port, path: &str| Some(Url { host: host.into(), port, path: path.into() });
        assert_eq!(Url::parse("http://web:8080/a?b"), url("web", 8080, "/a?b"));
        assert_eq!(Url::parse("web"), url("web", 80, "/"));
        assert_eq!(Url::parse("https://web"), None);
        assert_eq!(Url::parse("http://:80/"), None);
    }
}

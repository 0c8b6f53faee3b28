//! Looks a name up as /etc/resolv.conf says: A records over UDP, search list, ndots.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// What of resolv.conf(5) counts here.
#[derive(Debug, Default, PartialEq, Eq)]
struct Resolver {
    servers: Vec<IpAddr>,
    search: Vec<String>,
    ndots: usize,
}

impl Resolver {
    fn parse(text: &str) -> Resolver {
        let mut resolver = Resolver { ndots: 1, ..Resolver::default() };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => resolver
                    .servers
                    .extend(words.next().and_then(|word| word.parse::<IpAddr>().ok())),
                Some("search") => resolver.search = words.map(str::to_owned).collect(),
                Some("options") => {
                    let ndots =
                        words.filter_map(|word| word.strip_prefix("ndots:")?.parse().ok()).last();
                    resolver.ndots = ndots.unwrap_or(resolver.ndots);
                }
                _ => {}
            }
        }
        resolver
    }

    /// The names to ask for, in order.
    fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(absolute) = name.strip_suffix('.') {
            return vec![absolute.to_owned()];
        }
        let mut names: Vec<String> = self
            .search
            .iter()
            .map(|domain| format!("{name}.{}", domain.trim_end_matches('.')))
            .collect();
        let dotted = name.matches('.').count() >= self.ndots;
        names.insert(if dotted { 0 } else { names.len() }, name.to_owned());
        names
    }
}

/// The IPv4 addresses of a name; a literal address is its own answer.
pub fn lookup(name: &str) -> io::Result<Vec<IpAddr>> {
    if let Ok(address) = name.parse() {
        return Ok(vec![address]);
    }
    for line in std::fs::read_to_string("/etc/hosts").unwrap_or_default().lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let address = words.next().and_then(|word| word.parse().ok());
        if let (Some(address), true) = (address, words.any(|word| word == name)) {
            return Ok(vec![address]);
        }
    }
    let resolver =
        Resolver::parse(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    let mut last =
        io::Error::new(io::ErrorKind::NotFound, format!("{name}: no name server is known"));
    for candidate in resolver.candidates(name) {
        for server in &resolver.servers {
            match ask(*server, &candidate) {
                Ok(found) if !found.is_empty() => return Ok(found),
                Ok(_) => {
                    last = io::Error::new(io::ErrorKind::NotFound, format!("{name}: no such name"));
                    break;
                }
                Err(error) => last = error,
            }
        }
    }
    Err(last)
}

fn ask(server: IpAddr, name: &str) -> io::Result<Vec<IpAddr>> {
    let socket = UdpSocket::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.connect(SocketAddr::from((server, 53)))?;
    let id = std::process::id() as u16 ^ name.len() as u16;
    socket.send(&question(id, name))?;
    let mut answer = [0; 1500];
    loop {
        let length = socket.recv(&mut answer)?;
        if let Some(found) = addresses(id, &answer[..length]) {
            return Ok(found);
        }
    }
}

/// A query for the A records of `name` (RFC 1035, section 4).
fn question(id: u16, name: &str) -> Vec<u8> {
    let mut message = Vec::new();
    message.extend(id.to_be_bytes());
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        message.push(label.len().min(63) as u8);
        message.extend(label.bytes().take(63));
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// The A records of an answer; `None` when it answers another question or makes no sense.
fn addresses(id: u16, message: &[u8]) -> Option<Vec<IpAddr>> {
    let number = |at: usize| Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]));
    if number(0)? != id || message.get(2)? & 0x80 == 0 {
        return None;
    }
    let (questions, answers) = (number(4)?, number(6)?);
    let mut at = 12;
    for _ in 0..questions {
        at = after_name(message, at)? + 4;
    }
    let mut found = Vec::new();
    for _ in 0..answers {
        at = after_name(message, at)?;
        let (kind, length) = (number(at)?, usize::from(number(at + 8)?));
        let data = message.get(at + 10..at + 10 + length)?;
        if let (1, [a, b, c, d]) = (kind, data) {
            found.push(IpAddr::from([*a, *b, *c, *d]));
        }
        at += 10 + length;
    }
    Some(found)
}

fn after_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length if length & 0xc0 == 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_and_ndots_order_the_candidates() {
        let text = "nameserver 10.43.0.10\nsearch a.svc b\noptions ndots:2\n";
        let resolver = Resolver::parse(text);
        assert_eq!(resolver.candidates("web"), ["web.a.svc", "web.b", "web"]);
        assert_eq!(resolver.candidates("x.y.z"), ["x.y.z", "x.y.z.a.svc", "x.y.z.b"]);
        assert_eq!(resolver.candidates("web."), ["web"]);
    }

    #[test]
    fn answers_are_read_and_nonsense_is_not() {
        let mut answer = question(7, "web.a");
        answer[2] = 0x81;
        answer[7] = 1;
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 43, 0, 1]);
        assert_eq!(addresses(7, &answer), Some(vec![IpAddr::from([10, 43, 0, 1])]));
        assert_eq!(addresses(8, &answer), None);
        for length in 0..answer.len() {
            addresses(7, &answer[..length]);
        }
    }
}

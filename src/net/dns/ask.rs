//! One question to the cluster's DNS, from wherever the calling thread is.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};

use crate::sys::clock;

const PATIENCE: Duration = Duration::from_secs(2);
const ROUNDS: usize = 2;

/// Asks `server` for the IPv4 addresses of `name`, and blocks until they are there. None: there is no such name.
///
/// # Errors
/// The question was refused on its way (`ConnectionRefused`, `HostUnreachable`), not answered (`TimedOut`), or the
/// server could not say (`Other`).
pub fn ask(server: SocketAddr, name: &str) -> io::Result<Vec<IpAddr>> {
    let mut number = [0; 2];
    clock::random(&mut number);
    let name = Name::from_utf8(name).map_err(io::Error::other)?;
    let mut question = Message::query();
    question.metadata.id = u16::from_be_bytes(number);
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name, RecordType::A));
    let bytes = question.to_vec().map_err(io::Error::other)?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    for _ in 0..ROUNDS {
        socket.send(&bytes)?;
        match socket.recv(&mut buffer) {
            Ok(length) => return addresses(&question, &buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {} // The time is up.
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

fn addresses(question: &Message, bytes: &[u8]) -> io::Result<Vec<IpAddr>> {
    let found = Message::from_vec(bytes).map_err(io::Error::other)?;
    if found.metadata.id != question.metadata.id {
        return Err(io::ErrorKind::InvalidData.into());
    }
    match found.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => {}
        other => return Err(io::Error::other(other.to_string())),
    }
    let address = |data: &RData| match data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        _ => None, // An alias on the way.
    };
    Ok(found.answers.iter().filter_map(|record| address(&record.data)).collect())
}

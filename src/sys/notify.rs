//! Tells the service manager how the service is doing: sd_notify(3) over its datagram socket.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The service manager's socket, when one has asked to be told.
#[derive(Debug)]
pub struct Notifier {
    socket: UnixDatagram,
    address: SocketAddr,
    /// How often the manager wants to hear `WATCHDOG=1` (half of its limit).
    pub watchdog: Option<Duration>,
}

impl Notifier {
    /// From `NOTIFY_SOCKET` and `WATCHDOG_USEC`; `None` without a service manager.
    pub fn from_environment() -> Option<Notifier> {
        let path = std::env::var_os("NOTIFY_SOCKET")?;
        let address = match path.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name).ok()?,
            _ => SocketAddr::from_pathname(&path).ok()?,
        };
        let socket = UnixDatagram::unbound().ok()?;
        let limit: Option<u64> =
            std::env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse().ok());
        Some(Notifier { socket, address, watchdog: limit.map(|us| Duration::from_micros(us / 2)) })
    }

    /// Sends one state such as `READY=1`. A manager that does not listen is not our failure.
    pub fn tell(&self, state: &str) {
        if let Err(error) = self.socket.send_to_addr(state.as_bytes(), &self.address) {
            tracing::debug!(%error, state, "the service manager did not take a notification");
        }
    }
}

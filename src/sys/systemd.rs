//! What the host's service manager is asked: a scope for pods, whether the host goes down, to be told before it does.
//!
//! It decides nothing. Interfaces: org.freedesktop.systemd1(5), org.freedesktop.login1(5), "Control Group APIs and
//! Delegation" (systemd.io/CGROUP_DELEGATION), "Inhibitor Locks" (systemd.io/INHIBITOR_LOCKS).

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use super::dbus::wire::{Call, Value};
use super::dbus::{CallError, Connection};

/// The direct line to process 1, which root may use, also where no message bus runs (as systemctl does).
const MANAGER: &str = "/run/systemd/private";
const BUS: &str = "/run/dbus/system_bus_socket";
const PATIENCE: Duration = Duration::from_secs(25);

const SERVICE: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const INTERFACE: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const LOGIN: &str = "org.freedesktop.login1";
const LOGIN_OBJECT: &str = "/org/freedesktop/login1";
const LOGIN_MANAGER: &str = "org.freedesktop.login1.Manager";

/// systemd as process 1.
#[derive(Debug)]
pub struct Manager {
    connection: Connection,
}

/// Whether a start made the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    New,
    WasThere,
}

impl Manager {
    /// `None` where systemd does not manage this host.
    ///
    /// # Errors
    /// It does, and cannot be reached.
    pub fn connect() -> io::Result<Option<Manager>> {
        if !is_booted() {
            return Ok(None);
        }
        Ok(Some(Manager { connection: Connection::open(Path::new(MANAGER), PATIENCE)? }))
    }

    /// Asks for a delegated scope that holds the process `pid`. It starts in the background: see [`Self::state`].
    ///
    /// # Errors
    /// The manager cannot be asked, or refuses.
    pub fn start_scope(
        &mut self,
        name: &str,
        description: &str,
        pid: u32,
    ) -> Result<Started, CallError> {
        let properties = vec![
            property("Description", Value::text(description)),
            property("PIDs", Value::Array("u".to_owned(), vec![Value::U32(pid)])),
            property("Delegate", Value::Bool(true)),
            // At the top, beside system.slice and user.slice: pods as a whole are their peer.
            property("Slice", Value::text("-.slice")),
            property("TasksMax", Value::U64(u64::MAX)),
            // For pods that the daemon has not ended: it was stopped by hand before the host went down.
            property("TimeoutStopUSec", Value::U64(35_000_000)),
            // A unit that has failed would keep its name, and the next start would find it.
            property("CollectMode", Value::text("inactive-or-failed")),
            // Units stop in the other order: the daemon first, which ends pods in order; then what is left here.
            property("Before", Value::texts(["joey.service"])),
        ];
        let body = vec![
            Value::text(name),
            Value::text("fail"),
            Value::Array("(sv)".to_owned(), properties),
            Value::Array("(sa(sv))".to_owned(), Vec::new()),
        ];
        match self.ask("StartTransientUnit", body) {
            Ok(_) => Ok(Started::New),
            Err(CallError::Refused { name, .. }) if name.ends_with(".UnitExists") => {
                Ok(Started::WasThere)
            }
            Err(error) => Err(error),
        }
    }

    /// Changes a unit's MemoryMin (systemd.resource-control(5)), in bytes, until the unit ends.
    ///
    /// # Errors
    /// The manager cannot be asked, or refuses.
    pub fn set_memory_min(&mut self, unit: &str, bytes: u64) -> Result<(), CallError> {
        let properties = vec![property("MemoryMin", Value::U64(bytes))];
        let body =
            vec![Value::text(unit), Value::Bool(true), Value::Array("(sv)".to_owned(), properties)];
        self.ask("SetUnitProperties", body).map(drop)
    }

    /// A unit's ActiveState: `active`, `inactive`, …; a unit that is not known is `inactive`.
    ///
    /// # Errors
    /// The manager cannot be asked.
    pub fn state(&mut self, unit: &str) -> Result<String, CallError> {
        let path = format!("{OBJECT}/unit/{}", escape(unit));
        let answer = self.connection.call(&Call {
            destination: SERVICE,
            path: &path,
            interface: "org.freedesktop.DBus.Properties",
            member: "Get",
            body: vec![Value::text(UNIT), Value::text("ActiveState")],
        })?;
        Ok(variant_text(answer))
    }

    /// Stops a unit and whatever runs in it; one that is not there is stopped already.
    ///
    /// # Errors
    /// The manager cannot be asked, or refuses.
    pub fn stop(&mut self, unit: &str) -> Result<(), CallError> {
        match self.ask("StopUnit", vec![Value::text(unit), Value::text("replace")]) {
            Err(CallError::Refused { name, .. }) if name.ends_with(".NoSuchUnit") => Ok(()),
            other => other.map(drop),
        }
    }

    /// Whether the host goes down: a shutdown, reboot or halt has begun.
    ///
    /// # Errors
    /// The manager cannot be asked.
    pub fn is_stopping(&mut self) -> Result<bool, CallError> {
        let answer = self.connection.call(&Call {
            destination: SERVICE,
            path: OBJECT,
            interface: "org.freedesktop.DBus.Properties",
            member: "Get",
            body: vec![Value::text(INTERFACE), Value::text("SystemState")],
        })?;
        Ok(variant_text(answer) == "stopping")
    }

    fn ask(&mut self, member: &str, body: Vec<Value>) -> Result<Vec<Value>, CallError> {
        self.connection.call(&Call {
            destination: SERVICE,
            path: OBJECT,
            interface: INTERFACE,
            member,
            body,
        })
    }
}

fn property(name: &str, value: Value) -> Value {
    Value::Struct(vec![Value::text(name), Value::variant(value)])
}

/// A promise of the login manager to say so before the host goes down, and to wait as long as its
/// InhibitDelayMaxSec allows.
#[derive(Debug)]
pub struct Inhibitor {
    connection: Connection,
    /// Closing it lets the shutdown go on.
    lock: Option<OwnedFd>,
}

impl Inhibitor {
    /// `None` where nobody manages logins.
    ///
    /// # Errors
    /// Somebody does, and refuses.
    pub fn take(who: &str, why: &str) -> Result<Option<Inhibitor>, CallError> {
        // Where systemd is hidden from us, the host's going down is none of our business either.
        let bus = is_booted().then(|| Connection::open(Path::new(BUS), PATIENCE));
        let Some(Ok(mut connection)) = bus else { return Ok(None) };
        let bus = |member, body| Call {
            destination: "org.freedesktop.DBus",
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member,
            body,
        };
        connection.call(&bus("Hello", Vec::new()))?;
        let rule = "type='signal',sender='org.freedesktop.login1',member='PrepareForShutdown'";
        connection.call(&bus("AddMatch", vec![Value::text(rule)]))?;
        let asked = connection.call(&Call {
            destination: LOGIN,
            path: LOGIN_OBJECT,
            interface: LOGIN_MANAGER,
            member: "Inhibit",
            body: ["shutdown", who, why, "delay"].map(Value::text).to_vec(),
        });
        match asked {
            Ok(_) => {
                let lock = connection.take_descriptor();
                Ok(Some(Inhibitor { connection, lock }))
            }
            Err(CallError::Refused { name, .. }) if name.ends_with(".ServiceUnknown") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits until the host is about to go down; returns the lock that holds it up.
    ///
    /// # Errors
    /// The bus has gone.
    pub fn wait(mut self) -> Result<Option<OwnedFd>, CallError> {
        loop {
            self.connection.signal("PrepareForShutdown")?;
            // The login manager is asked: a user of the host can send such a signal too, and one that a shutdown was
            // called off looks the same.
            let answer = self.connection.call(&Call {
                destination: LOGIN,
                path: LOGIN_OBJECT,
                interface: "org.freedesktop.DBus.Properties",
                member: "Get",
                body: vec![Value::text(LOGIN_MANAGER), Value::text("PreparingForShutdown")],
            })?;
            if answer.first() == Some(&Value::variant(Value::Bool(true))) {
                return Ok(self.lock.take());
            }
        }
    }
}

/// sd_booted(3)
fn is_booted() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

fn variant_text(answer: Vec<Value>) -> String {
    match answer.into_iter().next() {
        Some(Value::Variant(value)) => match *value {
            Value::Text(text) => text,
            _ => String::new(),
        },
        _ => String::new(),
    }
}

/// A unit's name in an object path: all but letters and digits, and a digit in front, as `_` and two hex digits.
fn escape(name: &str) -> String {
    let mut path = String::new();
    for (index, byte) in name.bytes().enumerate() {
        match byte.is_ascii_alphabetic() || (index > 0 && byte.is_ascii_digit()) {
            true => path.push(char::from(byte)),
            false => path.push_str(&format!("_{byte:02x}")),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::os::unix::net::UnixListener;

    use super::super::dbus::wire::{self, other_side};
    use super::*;

    #[test]
    fn unit_names_become_object_paths_as_systemd_writes_them() {
        assert_eq!(escape("joey-3fa9c1.scope"), "joey_2d3fa9c1_2escope");
        assert_eq!(escape("9p"), "_39p");
    }

    /// Any user of the host may send a signal of any name to anybody.
    #[test]
    fn a_signal_alone_ends_no_pod() {
        let directory = std::env::temp_dir().join(format!("joey-bus-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("bus");
        let listener = UnixListener::bind(&path).unwrap();
        let bus = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap());
            let mut stream = stream;
            for answer in ["OK 0123\r\n", "AGREE_UNIX_FD\r\n", ""] {
                lines.read_line(&mut String::new()).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
            let mut asked = 0;
            for is_true in [false, true] {
                let unknown = Value::Array("y".to_owned(), vec![Value::Byte(1)]);
                for body in [vec![], vec![unknown], vec![Value::Bool(true)]] {
                    let member = if body.len() == 1 { "PrepareForShutdown" } else { "Else" };
                    stream.write_all(&other_side::signal(member, &body)).unwrap();
                }
                for _ in 0..2 {
                    let mut fixed = [0; wire::FIXED];
                    lines.read_exact(&mut fixed).unwrap();
                    let mut call = fixed.to_vec();
                    call.resize(wire::length(&fixed).unwrap(), 0);
                    lines.read_exact(&mut call[wire::FIXED..]).unwrap();
                    let serial = u32::from_le_bytes(call[8..12].try_into().unwrap());
                    asked += 1;
                    let told = [Value::variant(Value::Bool(is_true))];
                    stream.write_all(&other_side::answer(serial, &told)).unwrap();
                    if is_true {
                        break;
                    }
                }
            }
            asked
        });
        let connection = Connection::open(&path, PATIENCE).unwrap();
        Inhibitor { connection, lock: None }.wait().unwrap();
        assert_eq!(
            bus.join().unwrap(),
            3,
            "asked after each signal of that name, until it is true"
        );
        std::fs::remove_dir_all(&directory).unwrap();
    }
}

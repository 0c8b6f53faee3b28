//! A conversation over D-Bus: one socket, calls and their answers, signals as they come.
//!
//! It blocks, each wait at most as long as its caller says. It knows no interface; `systemd` does.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags};

use self::wire::{Call, Kind, Message, Value};
use super::socket;

pub mod wire;

/// Signals that wait to be asked for; more than these are of no interest, and the oldest go.
const MAX_SIGNALS: usize = 16;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("the connection to the service manager")]
    Connection(#[source] io::Error),
    #[error("the service manager's answer")]
    Answer(#[from] wire::Malformed),
    /// The other side says no: a D-Bus error name, and its words.
    #[error("{name}: {text}")]
    Refused { name: String, text: String },
}

/// One end of a connection.
#[derive(Debug)]
pub struct Connection {
    socket: UnixStream,
    serial: u32,
    signals: VecDeque<Message>,
    /// Descriptors that came with answers, in the order in which they came.
    descriptors: Vec<OwnedFd>,
}

impl Connection {
    /// Connects and proves who we are by the socket's credentials (EXTERNAL of the specification).
    ///
    /// # Errors
    /// Nobody listens at `path`, or whoever does speaks no D-Bus or does not want us.
    pub fn open(path: &Path, patience: Duration) -> io::Result<Connection> {
        let socket = UnixStream::connect(path)?;
        socket.set_read_timeout(Some(patience))?;
        socket.set_write_timeout(Some(patience))?;
        let mut connection =
            Connection { socket, serial: 0, signals: VecDeque::new(), descriptors: Vec::new() };
        let uid = rustix::process::geteuid().as_raw().to_string();
        let hex: String = uid.bytes().map(|byte| format!("{byte:02x}")).collect();
        connection.say(&format!("\0AUTH EXTERNAL {hex}\r\n"))?;
        connection.expect_line("OK ")?;
        connection.say("NEGOTIATE_UNIX_FD\r\n")?;
        connection.expect_line("AGREE_UNIX_FD")?;
        connection.say("BEGIN\r\n")?;
        Ok(connection)
    }

    /// Calls a method and waits for its answer.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn call(&mut self, call: &Call<'_>) -> Result<Vec<Value>, CallError> {
        self.serial += 1;
        let serial = self.serial;
        self.write(&wire::encode(call, serial)).map_err(CallError::Connection)?;
        loop {
            let message = self.read()?;
            match message.kind {
                Kind::Return if message.answers == Some(serial) => return Ok(message.body),
                Kind::Error if message.answers == Some(serial) => {
                    let text = match message.body.into_iter().next() {
                        Some(Value::Text(text)) => text,
                        _ => String::new(),
                    };
                    let name = message.error.unwrap_or_default();
                    return Err(CallError::Refused { name, text });
                }
                Kind::Signal => {
                    if self.signals.len() == MAX_SIGNALS {
                        self.signals.pop_front();
                    }
                    self.signals.push_back(message);
                }
                Kind::Call | Kind::Return | Kind::Error => {}
            }
        }
    }

    /// Waits without end for the next signal of this name. Whoever may speak on the bus can have sent it, with
    /// whatever in it: it is a reason to ask, and nothing else.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn signal(&mut self, member: &str) -> Result<(), CallError> {
        let patience = self.socket.read_timeout().map_err(CallError::Connection)?;
        self.socket.set_read_timeout(None).map_err(CallError::Connection)?;
        loop {
            let message = match self.signals.pop_front() {
                Some(message) => message,
                None => self.read()?,
            };
            if message.kind == Kind::Signal && message.member.as_deref() == Some(member) {
                self.socket.set_read_timeout(patience).map_err(CallError::Connection)?;
                return Ok(());
            }
        }
    }

    /// The descriptor that came with the last answer.
    pub fn take_descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptors.pop()
    }

    fn say(&self, text: &str) -> io::Result<()> {
        self.write(text.as_bytes())
    }

    fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = socket::send(self.socket.as_fd(), bytes, &[], SendFlags::empty())?;
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    /// A line of the handshake; byte by byte, because what follows it is no line any more.
    fn expect_line(&mut self, begin: &str) -> io::Result<()> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.fill(&mut byte)?;
            line.push(byte[0]);
            if line.len() > 1024 {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        match line.starts_with(begin.as_bytes()) {
            true => Ok(()),
            false => Err(io::Error::other(String::from_utf8_lossy(&line).trim().to_owned())),
        }
    }

    fn read(&mut self) -> Result<Message, CallError> {
        let mut fixed = [0; wire::FIXED];
        self.fill(&mut fixed).map_err(CallError::Connection)?;
        let mut bytes = vec![0; wire::length(&fixed)?];
        bytes[..wire::FIXED].copy_from_slice(&fixed);
        self.fill(&mut bytes[wire::FIXED..]).map_err(CallError::Connection)?;
        Ok(wire::decode(&bytes)?)
    }

    fn fill(&mut self, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            let got = socket::receive(
                self.socket.as_fd(),
                buffer,
                &mut self.descriptors,
                RecvFlags::empty(),
            )?;
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buffer = &mut buffer[got..];
        }
        Ok(())
    }
}

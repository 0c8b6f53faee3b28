//! What daemon and shim say to each other: versioned messages, framed for a stream.
//!
//! ```text
//! frame   = length (u32, little endian, at most 8 MiB) + JSON of that length
//! daemon  → Request { id, call }
//! shim    → Hello, State (whenever it changed; the newest replaces all before), Reply { id },
//! Ended
//! ```
//! Descriptors travel with the first byte of the frame that counts them (`descriptors`). Shims of
//! older releases live on after an upgrade: fields and variants are added, never changed
//! (`golden.jsonl`). It does no I/O.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::ContainerState;
use super::plan::{ContainerPlan, ExecPlan};

/// Grows when a call is added that daemons must not send to older shims.
pub const VERSION: u32 = 1;

/// Longest JSON of one frame: above any argument list that execve(2) takes.
const LONGEST: usize = 8 << 20;

/// One question of the daemon.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the daemon; comes back in the reply. For exec it names the session as well.
    pub id: u64,
    pub call: Call,
}

/// A request whose call is not understood yet: the id can be answered even when the call cannot.
#[derive(Debug, Deserialize)]
pub struct RawRequest<'a> {
    pub id: u64,
    #[serde(borrow)]
    pub call: &'a RawValue,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Call {
    Start(Box<ContainerPlan>),
    Signal {
        container: String,
        signal: i32,
    },
    Kill {
        container: String,
    },
    Freeze {
        container: String,
        frozen: bool,
    },
    Exec(Box<ExecPlan>),
    Attach {
        container: String,
        stdin: bool,
    },
    /// Kills the process of an exec session, and what it started in its process group.
    EndSession {
        session: u64,
    },
    /// Drops an exited attempt from the state.
    Forget {
        container: String,
        attempt: u32,
    },
    /// Kills everything, answers, ends.
    Shutdown,
}

/// What the shim says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Message {
    /// First on every connection, with a pidfd of the shim.
    Hello {
        version: u32,
        pid: u32,
        /// Why the pod's surroundings could not be made; the shim ends after saying so.
        failure: Option<String>,
        descriptors: usize,
    },
    State {
        containers: BTreeMap<String, ContainerState>,
    },
    Reply {
        id: u64,
        outcome: Result<Answer, Failure>,
        descriptors: usize,
    },
    /// An exec session's process has ended.
    Ended {
        session: u64,
        code: i32,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    Done,
    Started(ContainerState),
    /// The descriptors are, in this order and as far as present: stdin, stdout, stderr; or the
    /// terminal.
    Streams {
        stdin: bool,
        stdout: bool,
        stderr: bool,
        terminal: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Failure {
    CannotRun {
        reason: String,
    },
    Step {
        step: String,
        reason: String,
    },
    NotRunning {
        container: String,
    },
    /// The shim is older than the call.
    Unsupported,
}

/// Appends one frame.
pub fn encode(message: &impl Serialize, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    serde_json::to_writer(&mut *out, message)
        .expect("messages have string keys and no failing parts");
    let length =
        u32::try_from(out.len() - start - 4).expect("plans are bounded by the API's limits");
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// What of a stream has arrived and was not taken yet.
#[derive(Debug, Default)]
pub struct Inbox {
    pub bytes: Vec<u8>,
    pub descriptors: VecDeque<OwnedFd>,
}

/// A peer that does not speak this protocol.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("frame of {0} bytes is over the limit")]
    TooLong(usize),
    #[error("frame is not understood: {0}")]
    Json(String),
}

impl Inbox {
    /// The length of the first frame with its head, once it is complete.
    pub fn complete(&self) -> Result<Option<usize>, FrameError> {
        let Some(head) = self.bytes.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*head) as usize;
        if length > LONGEST {
            return Err(FrameError::TooLong(length));
        }
        Ok((self.bytes.len() >= length + 4).then_some(length + 4))
    }

    /// Takes the first frame out, as a value. The frame is consumed even when it is not understood.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let Some(length) = self.complete()? else {
            return Ok(None);
        };
        let value = serde_json::from_slice(&self.bytes[4..length]);
        self.bytes.drain(..length);
        value.map(Some).map_err(|error| FrameError::Json(error.to_string()))
    }
}

#[cfg(test)]
mod tests;

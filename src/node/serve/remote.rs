//! A terminal far away, whatever carries it: input, output, window size, and one last status.
//!
//! WebSocket and SPDY turn themselves into a [`Remote`]; `run` joins it with a process.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::{failure, success};
use crate::runtime::{RuntimeError, Session};

/// Chunks that wait for a slow peer in each direction.
pub const BACKLOG: usize = 16;
const CHUNK: usize = 32 << 10;
/// Output may still be in the pipes when the process has ended; a grandchild may hold them for ever.
const DRAIN: Duration = Duration::from_secs(2);

/// What goes to the peer.
#[derive(Debug)]
pub enum Outgoing {
    Stdout(Bytes),
    Stderr(Bytes),
    /// The last word; the transport closes after it.
    Status(Value),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub columns: u16,
    pub rows: u16,
}

/// Reads `{"Width":80,"Height":24}`.
pub fn parse_size(text: &[u8]) -> Option<Size> {
    let value: Value = serde_json::from_slice(text).ok()?;
    let dimension = |name: &str| value.get(name)?.as_u64()?.try_into().ok();
    Some(Size { columns: dimension("Width")?, rows: dimension("Height")? })
}

/// One connected peer. When it goes, `stdin` ends and sends fail.
pub struct Remote {
    pub stdin: mpsc::Receiver<Bytes>,
    pub resize: mpsc::Receiver<Size>,
    pub out: mpsc::Sender<Outgoing>,
    /// Resolves when the peer has gone.
    pub gone: tokio::sync::oneshot::Receiver<()>,
}

/// Whose exit code is told at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// exec: the process's own.
    ExitCode,
    /// attach: the container's end is not the client's business.
    Detach,
}

/// Joins a peer with a process until either ends, then sends the status.
pub async fn run(remote: Remote, session: Result<Session, RuntimeError>, ending: Ending) {
    let Remote { mut stdin, mut resize, out, mut gone } = remote;
    let mut session = match session {
        Ok(session) => session,
        Err(error) => {
            let message =
                format!("Internal error occurred: error executing command in container: {error}");
            // A peer that has gone does not miss the status.
            let _ = out.send(Outgoing::Status(failure("InternalError", message))).await;
            return;
        }
    };
    let mut process_stdin = session.stdin.take();
    let stdout = tokio::spawn(copy_out(session.stdout.take(), out.clone(), Outgoing::Stdout));
    let stderr = tokio::spawn(copy_out(session.stderr.take(), out.clone(), Outgoing::Stderr));
    let copies = [stdout.abort_handle(), stderr.abort_handle()];
    let mut input_open = true;
    let mut resize_open = true;
    let code = {
        let mut wait = session.control.wait();
        loop {
            tokio::select! {
                code = &mut wait => break Some(code),
                _ = &mut gone => break None,
                chunk = stdin.recv(), if input_open => match (chunk, &mut process_stdin) {
                    (Some(chunk), Some(pipe)) => {
                        if pipe.write_all(&chunk).await.is_err() || pipe.flush().await.is_err() {
                            process_stdin = None;
                        }
                    }
                    (Some(_), None) => {}
                    (None, _) => {
                        input_open = false;
                        process_stdin = None;
                    }
                },
                size = resize.recv(), if resize_open => match size {
                    Some(size) => session.control.resize(size.columns, size.rows),
                    None => resize_open = false,
                },
            }
        }
    };
    let Some(code) = code else {
        for copy in copies {
            copy.abort();
        }
        return;
    };
    let drained = tokio::time::timeout(DRAIN, async {
        let _ = stdout.await;
        let _ = stderr.await;
    });
    if drained.await.is_err() {
        for copy in copies {
            copy.abort();
        }
    }
    let status = match (code, ending) {
        (Ok(0), _) | (Ok(_), Ending::Detach) => success(),
        (Ok(code), Ending::ExitCode) => exit_status(code),
        (Err(error), _) => failure("InternalError", format!("Internal error occurred: {error}")),
    };
    let _ = out.send(Outgoing::Status(status)).await;
}

/// The status from which kubectl takes its own exit code.
fn exit_status(code: i32) -> Value {
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

async fn copy_out(
    source: Option<Box<dyn AsyncRead + Send + Unpin>>,
    out: mpsc::Sender<Outgoing>,
    wrap: fn(Bytes) -> Outgoing,
) {
    let Some(mut source) = source else { return };
    let mut buffer = BytesMut::with_capacity(CHUNK);
    loop {
        buffer.reserve(CHUNK);
        match source.read_buf(&mut buffer).await {
            // A pty whose last process has gone answers EIO.
            Ok(0) | Err(_) => return,
            Ok(_) => {
                if out.send(wrap(buffer.split().freeze())).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_sizes_are_read_and_nonsense_is_not() {
        let size = parse_size(b"{\"Width\":80,\"Height\":24}\n");
        assert_eq!(size, Some(Size { columns: 80, rows: 24 }));
        assert_eq!(parse_size(b"{\"Width\":800000,\"Height\":24}"), None);
        assert_eq!(parse_size(b"80x24"), None);
    }
}

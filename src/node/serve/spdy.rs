//! A SPDY/3.1 connection as kubectl's older exec and every port-forward speak it: streams over one pipe.
//!
//! The peer opens all streams. Windows are not enforced, as the clients do not enforce them either;
//! back-pressure is the bounded channel of each stream, so a stream that is not read stalls its connection.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub mod frame;

use self::frame::{Decoder, Encoder, Frame, Headers};

/// Streams that a connection may hold open; a browser behind a port-forward stays far below.
const MOST_STREAMS: usize = 1024;
/// Chunks that wait in a stream that is not being read.
const STREAM_BACKLOG: usize = 32;
/// Frames that wait for a slow peer.
const WRITE_BACKLOG: usize = 32;

/// A stream that the peer opened; the reply has been sent already.
pub struct Stream {
    pub headers: Headers,
    pub reader: StreamReader,
    pub writer: StreamWriter,
}

/// What the peer sends on one stream; `None` after its half-close, a reset or the end of the connection.
pub struct StreamReader {
    chunks: mpsc::Receiver<Bytes>,
}

impl StreamReader {
    pub async fn next(&mut self) -> Option<Bytes> {
        self.chunks.recv().await
    }
}

/// Our half of one stream.
#[derive(Clone)]
pub struct StreamWriter {
    id: u32,
    frames: mpsc::Sender<Frame>,
}

/// The connection is gone.
#[derive(Debug, thiserror::Error)]
#[error("the peer has gone")]
pub struct Gone;

impl StreamWriter {
    pub async fn send(&self, payload: Bytes) -> Result<(), Gone> {
        let frame = Frame::Data { stream: self.id, fin: false, payload };
        self.frames.send(frame).await.map_err(|_| Gone)
    }

    /// Half-close: nothing more comes from us.
    pub async fn finish(&self) -> Result<(), Gone> {
        let frame = Frame::Data { stream: self.id, fin: true, payload: Bytes::new() };
        self.frames.send(frame).await.map_err(|_| Gone)
    }
}

/// A running connection. Dropping it ends its tasks and closes the pipe.
pub struct Connection {
    streams: mpsc::Receiver<Stream>,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
    frames: mpsc::Sender<Frame>,
}

impl Connection {
    pub fn new(pipe: impl AsyncRead + AsyncWrite + Send + 'static) -> Connection {
        let (read_half, write_half) = tokio::io::split(pipe);
        let (frames, queue) = mpsc::channel(WRITE_BACKLOG);
        let (opened, streams) = mpsc::channel(MOST_STREAMS);
        let writer = tokio::spawn(write_frames(write_half, queue));
        let reader = tokio::spawn(read_frames(read_half, frames.clone(), opened));
        Connection { streams, reader, writer, frames }
    }

    /// The next stream that the peer opens; `None` when the connection has ended.
    pub async fn next(&mut self) -> Option<Stream> {
        self.streams.recv().await
    }

    /// Sends what is queued, waits until the peer closes (it does so when it has read everything).
    pub async fn close(mut self) {
        // GOAWAY is a courtesy; without a peer there is nobody to miss it.
        let _ = self.frames.send(Frame::GoAway { last: 0 }).await;
        while self.streams.recv().await.is_some() {}
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
        self.writer.abort();
    }
}

async fn write_frames(mut pipe: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<Frame>) {
    let mut encoder = Encoder::default();
    let mut wire = BytesMut::new();
    while let Some(frame) = queue.recv().await {
        encoder.encode(&frame, &mut wire);
        // Take along what is waiting, but let a burst of small frames not grow into one huge write.
        while wire.len() < 64 << 10
            && let Ok(frame) = queue.try_recv()
        {
            encoder.encode(&frame, &mut wire);
        }
        if pipe.write_all_buf(&mut wire).await.is_err() || pipe.flush().await.is_err() {
            return;
        }
    }
    // A pipe that cannot be shut down is shut already.
    let _ = pipe.shutdown().await;
}

async fn read_frames(
    mut pipe: impl AsyncRead + Unpin,
    frames: mpsc::Sender<Frame>,
    opened: mpsc::Sender<Stream>,
) {
    let mut decoder = Decoder::default();
    let mut buffer = BytesMut::with_capacity(32 << 10);
    let mut open: HashMap<u32, mpsc::Sender<Bytes>> = HashMap::new();
    loop {
        let frame = match decoder.decode(&mut buffer) {
            Ok(Some(frame)) => frame,
            Ok(None) => match pipe.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => continue,
            },
            Err(error) => {
                tracing::debug!(%error, "a SPDY peer said something else");
                return;
            }
        };
        match frame {
            Frame::SynStream { stream, fin, headers } => {
                open.retain(|_, sender| !sender.is_closed());
                if open.len() >= MOST_STREAMS {
                    const REFUSED_STREAM: u32 = 3;
                    let refusal = Frame::Reset { stream, status: REFUSED_STREAM };
                    if frames.send(refusal).await.is_err() {
                        return;
                    }
                    continue;
                }
                let (sender, chunks) = mpsc::channel(STREAM_BACKLOG);
                if !fin {
                    open.insert(stream, sender);
                }
                let reply = Frame::SynReply { stream, headers: Headers::new() };
                if frames.send(reply).await.is_err() {
                    return;
                }
                let stream = Stream {
                    headers,
                    reader: StreamReader { chunks },
                    writer: StreamWriter { id: stream, frames: frames.clone() },
                };
                if opened.send(stream).await.is_err() {
                    return;
                }
            }
            Frame::Data { stream, fin, payload } => {
                if let Some(sender) = open.get(&stream)
                    && !payload.is_empty()
                    && sender.send(payload).await.is_err()
                {
                    open.remove(&stream);
                }
                if fin {
                    open.remove(&stream);
                }
            }
            Frame::Reset { stream, .. } => {
                open.remove(&stream);
            }
            Frame::Ping { id } => {
                if frames.send(Frame::Ping { id }).await.is_err() {
                    return;
                }
            }
            Frame::GoAway { .. } | Frame::SynReply { .. } | Frame::Other => {}
        }
    }
}

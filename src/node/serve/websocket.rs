//! The channel protocols of Kubernetes over WebSocket: `v5.channel.k8s.io` down to `channel.k8s.io`.
//!
//! Every message is one channel byte and its payload: 0 stdin, 1 stdout, 2 stderr, 3 status, 4 window
//! size; v5 adds 255, whose payload names a channel that is closed. In the base64 forms the messages are
//! text: the channel as a digit, the payload encoded.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::sync::{mpsc, oneshot};

use super::remote::{BACKLOG, Outgoing, Remote, parse_size};

/// What we speak, best first. A client that offers nothing speaks the oldest.
pub const PROTOCOLS: [&str; 7] = [
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "base64.channel.k8s.io",
];

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// How long the peer may take to answer our close frame.
const FAREWELL: Duration = Duration::from_secs(10);

/// What a protocol name means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Dialect {
    base64: bool,
    /// The status is JSON (v4 and later) or plain text.
    json_status: bool,
}

impl Dialect {
    fn of(protocol: &str) -> Dialect {
        Dialect {
            base64: protocol.contains("base64"),
            json_status: protocol.starts_with("v4.") || protocol.starts_with("v5."),
        }
    }

    fn message(self, channel: u8, payload: &[u8]) -> Message {
        if self.base64 {
            let digit = char::from(b'0' + channel);
            return Message::Text(format!("{digit}{}", STANDARD.encode(payload)).into());
        }
        let mut message = BytesMut::with_capacity(payload.len() + 1);
        message.put_u8(channel);
        message.put_slice(payload);
        Message::Binary(message.freeze())
    }

    /// The channel and payload of a message; `None` for what is not a channel message.
    fn parse(self, message: Message) -> Option<(u8, Bytes)> {
        match message {
            Message::Binary(mut bytes) if !bytes.is_empty() => {
                let channel = bytes.split_to(1)[0];
                Some((channel, bytes))
            }
            Message::Text(text) if self.base64 => {
                let (digit, payload) = text.as_bytes().split_first()?;
                let channel = digit.checked_sub(b'0')?;
                Some((channel, STANDARD.decode(payload).ok()?.into()))
            }
            Message::Text(text) => {
                let mut bytes = Bytes::from(text);
                (!bytes.is_empty()).then(|| (bytes.split_to(1)[0], bytes))
            }
            Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Close(_) => None,
        }
    }
}

/// Turns an accepted WebSocket into a remote; the tasks end with the connection.
pub fn remote(socket: WebSocket) -> Remote {
    let protocol =
        socket.protocol().and_then(|name| name.to_str().ok()).unwrap_or("channel.k8s.io");
    let dialect = Dialect::of(protocol);
    let (sink, stream) = socket.split();
    let (stdin_sender, stdin) = mpsc::channel(BACKLOG);
    let (resize_sender, resize) = mpsc::channel(BACKLOG);
    let (out, queue) = mpsc::channel(BACKLOG);
    let (gone_sender, gone) = oneshot::channel();
    let (closed_sender, closed) = oneshot::channel();
    tokio::spawn(async move {
        read(dialect, stream, stdin_sender, resize_sender, gone_sender).await;
        // Whoever waits for the peer's farewell may have stopped waiting.
        let _ = closed_sender.send(());
    });
    tokio::spawn(write(dialect, sink, queue, closed));
    Remote { stdin, resize, out, gone }
}

async fn read(
    dialect: Dialect,
    mut stream: SplitStream<WebSocket>,
    stdin: mpsc::Sender<Bytes>,
    resize: mpsc::Sender<super::remote::Size>,
    gone: oneshot::Sender<()>,
) {
    let mut stdin = Some(stdin);
    while let Some(Ok(message)) = stream.next().await {
        if matches!(message, Message::Close(_)) {
            break;
        }
        let Some((channel, payload)) = dialect.parse(message) else { continue };
        match channel {
            STDIN if !payload.is_empty() => {
                if let Some(sender) = &stdin
                    && sender.send(payload).await.is_err()
                {
                    stdin = None;
                }
            }
            RESIZE => {
                if let Some(size) = parse_size(&payload) {
                    // A size that nobody waits for is of no use to anybody.
                    let _ = resize.try_send(size);
                }
            }
            CLOSE if payload.first() == Some(&STDIN) => stdin = None,
            _ => {}
        }
    }
    // The session may have ended before its peer.
    let _ = gone.send(());
}

async fn write(
    dialect: Dialect,
    mut sink: SplitSink<WebSocket, Message>,
    mut queue: mpsc::Receiver<Outgoing>,
    closed: oneshot::Receiver<()>,
) {
    while let Some(outgoing) = queue.recv().await {
        let (message, last) = match outgoing {
            Outgoing::Stdout(bytes) => (dialect.message(STDOUT, &bytes), false),
            Outgoing::Stderr(bytes) => (dialect.message(STDERR, &bytes), false),
            Outgoing::Status(status) => {
                let text = match dialect.json_status {
                    true => status.to_string(),
                    false => status["message"].as_str().unwrap_or_default().to_owned(),
                };
                (dialect.message(ERROR, text.as_bytes()), true)
            }
        };
        if sink.send(message).await.is_err() {
            return;
        }
        if last {
            break;
        }
    }
    // kubectl takes a connection that ends without a close frame for a failure.
    let close = CloseFrame { code: 1000, reason: "".into() };
    if sink.send(Message::Close(Some(close))).await.is_ok() {
        let _ = tokio::time::timeout(FAREWELL, closed).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dialect_reads_what_it_writes() {
        for protocol in PROTOCOLS {
            let dialect = Dialect::of(protocol);
            let message = dialect.message(STDOUT, b"kangaroo");
            assert_eq!(dialect.parse(message), Some((STDOUT, Bytes::from_static(b"kangaroo"))));
        }
    }

    #[test]
    fn empty_and_broken_messages_are_passed_over() {
        let base64 = Dialect::of("base64.channel.k8s.io");
        for message in
            [Message::Text("".into()), Message::Text("1***".into()), Message::Text("!".into())]
        {
            assert_eq!(base64.parse(message), None);
        }
        assert_eq!(Dialect::of("v5.channel.k8s.io").parse(Message::Binary(Bytes::new())), None);
    }
}

//! port-forward: connections into a pod's network namespace, carried by SPDY streams or WebSocket channels.
//!
//! Each forwarded connection is a pair: one carries the bytes, the other one line of text when it fails.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts, Path, State};
use axum::http::header;
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::SplitSink;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use super::exec::{choose, is_upgrade_to, spdy_upgrade};
use super::spdy::{Connection, Stream};
use super::{AnyRequest, Refusal, ServeState, query_pairs};
use crate::node::pods::PodEntry;

/// SPDY inside WebSocket messages, as kubectl has spoken it since 1.31.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// Channels, as the Python and Rust clients speak it.
const CHANNELS: &str = "v4.channel.k8s.io";
const STREAMS: &str = "portforward.k8s.io";

const CHUNK: usize = 32 << 10;
/// Connections that have only one of their two streams.
const MOST_HALVES: usize = 256;
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// `/portForward/{namespace}/{pod}`
pub async fn port_forward(
    State(serve): ServeState,
    Path((namespace, name)): Path<(String, String)>,
    request: AnyRequest,
) -> Result<Response, Refusal> {
    let pod = serve.pod(&namespace, &name)?;
    if pod.pod.is_none() {
        return Err(Refusal::internal(format!("pod {name} is not running")));
    }
    if is_upgrade_to(request.headers(), "websocket") {
        let query = request.uri().query().unwrap_or_default().to_owned();
        let offered = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
        let tunnelled = offered
            .filter_map(|value| value.to_str().ok())
            .any(|text| text.split(',').any(|protocol| protocol.trim() == TUNNEL));
        let (mut parts, _) = request.into_parts();
        let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &())
            .await
            .map_err(|rejection| Refusal::bad_request(rejection.to_string()))?;
        if tunnelled {
            return Ok(upgrade.protocols([TUNNEL]).on_upgrade(move |socket| async move {
                let (near, far) = tokio::io::duplex(2 * CHUNK);
                let carry = tokio::spawn(carry(socket, far));
                forward_streams(Connection::new(near), pod).await;
                carry.abort();
            }));
        }
        let ports = ports(&query)?;
        let upgrade = upgrade.protocols([CHANNELS]);
        if upgrade.selected_protocol().is_none() {
            return Err(Refusal::bad_request(format!(
                "only {TUNNEL} and {CHANNELS} are spoken here"
            )));
        }
        return Ok(upgrade.on_upgrade(move |socket| forward_channels(socket, pod, ports)));
    }
    if is_upgrade_to(request.headers(), "spdy/3.1") {
        let protocol = choose(request.headers(), &[STREAMS])?;
        return spdy_upgrade(request, protocol, move |connection| forward_streams(connection, pod));
    }
    Err(Refusal::bad_request("you must upgrade the connection: websocket or SPDY/3.1"))
}

fn ports(query: &str) -> Result<Vec<u16>, Refusal> {
    let listed: Vec<String> = query_pairs(query)
        .filter(|(key, _)| key == "ports")
        .flat_map(|(_, value)| value.split(',').map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let parsed: Result<Vec<u16>, _> = listed.iter().map(|text| text.parse::<u16>()).collect();
    match parsed {
        // Two channels a port, and channel numbers are one byte.
        Ok(ports) if !ports.is_empty() && ports.len() <= 100 && !ports.contains(&0) => Ok(ports),
        Ok(_) | Err(_) => {
            Err(Refusal::bad_request("query parameter \"ports\" must name 1 to 100 ports"))
        }
    }
}

async fn connect(pod: &PodEntry, port: u16) -> std::io::Result<TcpStream> {
    let connecting = async {
        match &pod.netns {
            Some(netns) => crate::net::dial(netns, port).await,
            None => TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await,
        }
    };
    match tokio::time::timeout(CONNECT_WITHIN, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut)),
    }
}

fn refusal(pod: &PodEntry, port: u16, error: &std::io::Error) -> Bytes {
    format!("error forwarding port {port} to pod {}, uid {}: {error}", pod.name, pod.uid).into()
}

/// What there is to read; `None` at the end, or when the connection broke.
async fn chunk(from: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> Option<Bytes> {
    buffer.reserve(CHUNK);
    match from.read_buf(buffer).await {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(buffer.split().freeze()),
    }
}

/// WebSocket messages in and out of a byte pipe.
async fn carry(socket: WebSocket, pipe: DuplexStream) {
    let (mut sink, mut stream) = socket.split();
    let (mut read_half, mut write_half) = tokio::io::split(pipe);
    let inbound = async {
        while let Some(Ok(message)) = stream.next().await {
            let written = match message {
                Message::Binary(bytes) => write_half.write_all(&bytes).await,
                Message::Close(_) => break,
                Message::Text(_) | Message::Ping(_) | Message::Pong(_) => Ok(()),
            };
            if written.is_err() {
                break;
            }
        }
        // The far side may have been dropped already.
        let _ = write_half.shutdown().await;
    };
    let outbound = async {
        let mut buffer = BytesMut::new();
        while let Some(chunk) = chunk(&mut read_half, &mut buffer).await {
            if sink.send(Message::Binary(chunk)).await.is_err() {
                break;
            }
        }
        let _ = sink.close().await;
    };
    tokio::join!(inbound, outbound);
}

/// Pairs the streams by their `requestid` and serves each pair until the client goes.
async fn forward_streams(mut connection: Connection, pod: Arc<PodEntry>) {
    let mut halves: HashMap<String, Stream> = HashMap::new();
    let mut pairs = JoinSet::new();
    while let Some(stream) = connection.next().await {
        while pairs.try_join_next().is_some() {}
        let header = |name: &str| stream.headers.get(name).cloned().unwrap_or_default();
        let (request, kind) = (header("requestid"), header("streamtype"));
        let Some(other) = halves.remove(&request) else {
            if halves.len() < MOST_HALVES {
                halves.insert(request, stream);
            }
            continue;
        };
        let (data, error) = match kind.as_str() {
            "data" => (stream, other),
            _ => (other, stream),
        };
        let port: u16 = match data.headers.get("port").and_then(|text| text.parse().ok()) {
            Some(port) => port,
            None => continue,
        };
        pairs.spawn(forward_pair(Arc::clone(&pod), port, data, error));
    }
}

async fn forward_pair(pod: Arc<PodEntry>, port: u16, mut data: Stream, error: Stream) {
    match connect(&pod, port).await {
        Ok(tcp) => {
            let (mut from_pod, mut to_pod) = tcp.into_split();
            let inbound = async {
                while let Some(chunk) = data.reader.next().await {
                    if to_pod.write_all(&chunk).await.is_err() {
                        return;
                    }
                }
                // The pod may have closed first.
                let _ = to_pod.shutdown().await;
            };
            let outbound = async {
                let mut buffer = BytesMut::new();
                while let Some(chunk) = chunk(&mut from_pod, &mut buffer).await {
                    if data.writer.send(chunk).await.is_err() {
                        return;
                    }
                }
                let _ = data.writer.finish().await;
            };
            // When the pod has said everything, the connection is over; a client that only closed its
            // half still gets its answer.
            let mut outbound = std::pin::pin!(outbound);
            tokio::select! {
                () = &mut outbound => {}
                () = inbound => outbound.await,
            }
        }
        Err(cause) => {
            // The client sees the closed streams all the same.
            let _ = error.writer.send(refusal(&pod, port, &cause)).await;
            let _ = data.writer.finish().await;
        }
    }
    let _ = error.writer.finish().await;
}

type Sink = Arc<Mutex<SplitSink<WebSocket, Message>>>;

fn channel_message(channel: u8, payload: &[u8]) -> Message {
    let mut message = BytesMut::with_capacity(payload.len() + 1);
    message.put_u8(channel);
    message.put_slice(payload);
    Message::Binary(message.freeze())
}

/// One connection a port: channel 2i carries its bytes, channel 2i+1 its error.
async fn forward_channels(socket: WebSocket, pod: Arc<PodEntry>, ports: Vec<u16>) {
    let (sink, mut stream) = socket.split();
    let sink: Sink = Arc::new(Mutex::new(sink));
    let mut tasks = JoinSet::new();
    let mut inputs: Vec<mpsc::Sender<Bytes>> = Vec::new();
    for (index, port) in ports.into_iter().enumerate() {
        let channel = u8::try_from(2 * index).expect("at most 100 ports");
        for announced in [channel, channel + 1] {
            let message = channel_message(announced, &port.to_le_bytes());
            if sink.lock().await.send(message).await.is_err() {
                return;
            }
        }
        let (sender, input) = mpsc::channel(16);
        inputs.push(sender);
        tasks.spawn(forward_channel(Arc::clone(&pod), port, channel, input, Arc::clone(&sink)));
    }
    while let Some(Ok(message)) = stream.next().await {
        let Message::Binary(mut bytes) = message else { continue };
        if bytes.is_empty() {
            continue;
        }
        let channel = usize::from(bytes.split_to(1)[0]);
        if channel.is_multiple_of(2)
            && let Some(input) = inputs.get(channel / 2)
        {
            // A connection that has ended takes nothing more.
            let _ = input.send(bytes).await;
        }
    }
    // The client has gone: what is still being forwarded goes with it.
    tasks.shutdown().await;
}

async fn forward_channel(
    pod: Arc<PodEntry>,
    port: u16,
    channel: u8,
    mut input: mpsc::Receiver<Bytes>,
    sink: Sink,
) {
    let tcp = match connect(&pod, port).await {
        Ok(tcp) => tcp,
        Err(error) => {
            let text = refusal(&pod, port, &error);
            // Nobody is left to tell when this fails.
            let _ = sink.lock().await.send(channel_message(channel + 1, &text)).await;
            return;
        }
    };
    let (mut from_pod, mut to_pod) = tcp.into_split();
    let inbound = async {
        while let Some(chunk) = input.recv().await {
            if to_pod.write_all(&chunk).await.is_err() {
                return;
            }
        }
    };
    let outbound = async {
        let mut buffer = BytesMut::new();
        while let Some(chunk) = chunk(&mut from_pod, &mut buffer).await {
            let message = channel_message(channel, &chunk);
            if sink.lock().await.send(message).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = inbound => {}
        () = outbound => {
            // This dialect has no half-close: the end of the bytes is the end of everything.
            let _ = sink.lock().await.close().await;
        }
    }
}

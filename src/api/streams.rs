//! Logs, exec, attach and port-forward: authorised here, carried to the node as plain HTTP.
//!
//! After checking pod, container and phase, the request (with its Upgrade headers) is passed to the node
//! over a dialled byte stream and the bytes are copied both ways; WebSocket and SPDY end at the node.
//! Paths at the node, with the query of the API request unchanged:
//! `/containerLogs/{namespace}/{pod}/{container}`, `/exec/{namespace}/{pod}/{container}`,
//! `/attach/{namespace}/{pod}/{container}`, `/portForward/{namespace}/{pod}`.

use std::io;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream to a node's HTTP server.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Opens a connection to the named node's HTTP server. Implemented by the wiring.
pub trait Dial: Send + Sync + 'static {
    fn dial(&self, node: &str) -> BoxFuture<'_, io::Result<Box<dyn Stream>>>;
}

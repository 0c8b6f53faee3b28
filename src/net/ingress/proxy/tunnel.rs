//! A connection that has switched protocols: bytes both ways until one side ends, both are silent, or policies deny it.

use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::net::ingress::balance::Assigned;
use crate::net::ingress::gate::Busy;
use crate::net::ingress::lease::Lease;
use crate::net::ingress::leave::Leave;
use crate::net::ingress::measure::Meter;

/// In memory, each way.
const BLOCK: usize = 16 << 10;

pub struct Tunnel {
    client: OnUpgrade,
    pod: TcpStream,
    /// What the pod has said since it switched.
    came: Bytes,
    endpoint: Assigned,
    leave: Leave,
}

impl Tunnel {
    /// `None` when the answer came over a connection that carries others.
    pub fn new(client: OnUpgrade, lease: Lease, leave: Leave) -> Option<Tunnel> {
        let (pod, came, endpoint) = lease.switch()?;
        Some(Tunnel { client, pod, came, endpoint, leave })
    }

    /// Runs to the end; counts what goes to the client.
    pub async fn run(mut self, mut meter: Meter, idle: Duration, _busy: Busy) {
        let client = match self.client.await {
            Ok(client) => client,
            Err(error) => {
                tracing::debug!(%error, "a tunnel did not open");
                meter.broke();
                return;
            }
        };
        let (client_read, client_write) = tokio::io::split(TokioIo::new(client));
        let (pod_read, pod_write) = self.pod.into_split();
        let pod_read = self.came.chain(pod_read);
        let alive = std::sync::Mutex::new(Instant::now());
        let mut sent = 0;
        let both = async {
            let up = copy(client_read, pod_write, &alive, |_| {});
            let down = copy(pod_read, client_write, &alive, |bytes| sent += bytes);
            tokio::join!(up, down);
        };
        tokio::select! {
            () = both => {}
            () = self.leave.over() => {
                tracing::debug!(pod = %self.endpoint.address, "a tunnel was closed: a NetworkPolicy denies it now");
            }
            () = silence(&alive, idle) => {
                tracing::debug!(pod = %self.endpoint.address, "a silent tunnel was closed");
            }
        }
        meter.sent(sent);
    }
}

/// Until its end; then the other side is told that nothing more comes.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    alive: &std::sync::Mutex<Instant>,
    mut count: impl FnMut(usize),
) {
    let mut block = vec![0; BLOCK];
    loop {
        match from.read(&mut block).await {
            Ok(0) | Err(_) => break,
            Ok(bytes) => {
                *alive.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Instant::now();
                if to.write_all(&block[..bytes]).await.is_err() || to.flush().await.is_err() {
                    break;
                }
                count(bytes);
            }
        }
    }
    let _ = to.shutdown().await;
}

async fn silence(alive: &std::sync::Mutex<Instant>, idle: Duration) {
    loop {
        let last = *alive.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if last.elapsed() >= idle {
            return;
        }
        tokio::time::sleep_until(last + idle).await;
    }
}

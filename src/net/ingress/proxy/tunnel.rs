//! A connection that has switched protocols: bytes both ways until one side ends, both are silent, or policies deny it.

use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::Instant;

use crate::net::ingress::gate::Busy;
use crate::net::ingress::leave::Leave;
use crate::net::ingress::measure::Meter;
use crate::net::ingress::pool::Lease;

/// In memory, each way.
const BLOCK: usize = 16 << 10;

pub struct Tunnel {
    client: OnUpgrade,
    pod: OnUpgrade,
    /// Dropped with the tunnel: its connection carries nothing after it.
    lease: Lease,
    leave: Leave,
}

impl Tunnel {
    pub fn new(client: OnUpgrade, pod: OnUpgrade, lease: Lease, leave: Leave) -> Tunnel {
        Tunnel { client, pod, lease, leave }
    }

    /// Runs to the end; counts what goes to the client.
    pub async fn run(mut self, mut meter: Meter, idle: Duration, _busy: Busy) {
        let (client, pod) = match tokio::try_join!(self.client, self.pod) {
            Ok(both) => both,
            Err(error) => {
                tracing::debug!(%error, "a tunnel did not open");
                meter.broke();
                return;
            }
        };
        let (client_read, client_write) = tokio::io::split(TokioIo::new(client));
        let (pod_read, pod_write) = tokio::io::split(TokioIo::new(pod));
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
                tracing::debug!(pod = %self.lease.endpoint(), "a tunnel was closed: a NetworkPolicy denies it now");
            }
            () = silence(&alive, idle) => {
                tracing::debug!(pod = %self.lease.endpoint(), "a silent tunnel was closed");
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

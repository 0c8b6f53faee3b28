//! Learns that the host goes down, and holds it up until the pods have ended.
//!
//! Two ways, because neither is everywhere: the login manager tells before the first unit is stopped and waits as long
//! as its InhibitDelayMaxSec allows (5 s unless configured); and a SIGTERM while the service manager stops everything
//! is the host's, where any other is the unit's own, after which pods run on.

use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::task::spawn_blocking;

use crate::node::Farewell;
use crate::sys::notify::Notifier;
use crate::sys::systemd::{Inhibitor, Manager};

/// What the service manager is told meanwhile, and how often: we live, and need this much longer to stop.
const EXTENSION: &str = "WATCHDOG=1\nEXTEND_TIMEOUT_USEC=30000000";
const EXTEND_EVERY: Duration = Duration::from_secs(10);
/// After the bus has gone, or has said something that cannot be read.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// Waits until the host is about to go down; returns the lock that holds it up. For ever where nobody tells.
pub async fn announced() -> Option<OwnedFd> {
    loop {
        let told = spawn_blocking(|| match Inhibitor::take("Joey", "Ends pods in order") {
            Ok(Some(inhibitor)) => inhibitor.wait().map(Some),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        });
        match told.await {
            Ok(Ok(Some(lock))) => return lock,
            Ok(Ok(None)) | Err(_) => std::future::pending().await,
            Ok(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    error,
                    "a shutdown of the host is noticed only when this unit is stopped; asking again"
                );
                tokio::time::sleep(ASK_AGAIN).await;
            }
        }
    }
}

/// Whether the SIGTERM that has come is the host's.
pub async fn is_under_way() -> bool {
    let asked = spawn_blocking(|| {
        let manager = Manager::connect().ok().flatten();
        manager.is_some_and(|mut manager| manager.is_stopping().unwrap_or(false))
    });
    asked.await.unwrap_or(false)
}

/// Has every pod end within its grace; meanwhile the service manager is told that it takes longer.
pub async fn stop_pods(farewell: Farewell, notifier: Option<&Notifier>) {
    tracing::info!("the host goes down: pods end in order");
    let mut extend = tokio::time::interval(EXTEND_EVERY);
    let said = farewell.say();
    tokio::pin!(said);
    loop {
        tokio::select! {
            () = &mut said => break,
            _ = extend.tick() => {
                notifier.into_iter().for_each(|notifier| notifier.tell(EXTENSION));
            }
        }
    }
    tracing::info!("every pod has ended");
}

//! The server's certificate while it serves: renewed in time, without a connection noticing.
//!
//! A daemon may run for longer than a certificate lives. New handshakes are shown the new one; connections that stand go on.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_util::sync::CancellationToken;

use super::{PkiConfig, ensure};

/// Far more often than [`super::RENEW_BEFORE_DAYS`] asks for, also where clocks jump.
const LOOK_AGAIN: Duration = Duration::from_secs(6 * 3600);

/// What handshakes are shown.
#[derive(Debug)]
pub struct Presented {
    now: ArcSwap<CertifiedKey>,
}

impl Presented {
    pub(super) fn new(key: Arc<CertifiedKey>) -> Presented {
        Presented { now: ArcSwap::new(key) }
    }

    /// Shows from now on what `other` shows.
    pub fn follow(&self, other: &Presented) {
        self.now.store(other.now.load_full());
    }
}

impl ResolvesServerCert for Presented {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.now.load_full())
    }
}

/// Renews what must be, on disk and in `presented`, until cancelled.
pub async fn keep(
    presented: Arc<Presented>,
    data_dir: PathBuf,
    config: PkiConfig,
    stop: CancellationToken,
) {
    let renew = async {
        loop {
            tokio::time::sleep(LOOK_AGAIN).await;
            renew(&presented, data_dir.clone(), config.clone()).await;
        }
    };
    stop.run_until_cancelled(renew).await;
}

async fn renew(presented: &Presented, data_dir: PathBuf, config: PkiConfig) {
    // The authority's key was valid at the start; what is wrong now is the disk, and the old certificate still serves.
    match tokio::task::spawn_blocking(move || ensure(&data_dir, &config)).await {
        Ok(Ok(pki)) => presented.follow(&pki.presented),
        Ok(Err(error)) => tracing::error!(%error, "certificates could not be renewed"),
        Err(error) => tracing::error!(%error, "certificates could not be renewed"),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::KeyPair;

    use super::super::{Authority, LEAF_DAYS, Pair, Wanted, days_left, server_names};
    use super::*;
    use crate::model::time::Timestamp;
    use crate::sys::clock;

    #[tokio::test]
    async fn a_certificate_that_nears_its_end_is_replaced_while_it_serves() {
        let data_dir = std::env::temp_dir().join(format!("presented-{}", std::process::id()));
        std::fs::create_dir_all(&data_dir).unwrap();
        let config = PkiConfig {
            listen: vec!["127.0.0.1:6443".parse().unwrap()],
            cluster_domain: "cluster.local".into(),
            hostname: "here".into(),
            extra_names: vec!["10.43.0.1".into()],
        };
        let pki = ensure(&data_dir, &config).unwrap();
        let leaf = || pki.presented.now.load().cert[0].clone();
        let first = leaf();
        renew(&pki.presented, data_dir.clone(), config.clone()).await;
        assert_eq!(leaf(), first, "it has long to live");

        // One that was made most of a year ago.
        let pair = Pair::at(&data_dir.join("pki"), "server");
        let authority = Authority::ensure(&data_dir.join("pki"), clock::now()).unwrap();
        std::fs::remove_file(&pair.certificate).unwrap();
        let then = Timestamp::from_unix(clock::now().unix_seconds() - (LEAF_DAYS - 60) * 86_400, 0);
        let wanted = Wanted {
            common_name: "kube-apiserver",
            organization: None,
            usage: rcgen::ExtendedKeyUsagePurpose::ServerAuth,
            names: &server_names(&config),
        };
        let old = authority.leaf(&pair, &wanted, then).unwrap();
        assert!(days_left(&old.certificate, clock::now()) < 90);
        assert!(KeyPair::from_pem(&old.key).is_ok());
        renew(&pki.presented, data_dir.clone(), config.clone()).await;
        assert_ne!(leaf(), first);
        let on_disk = std::fs::read_to_string(&pair.certificate).unwrap();
        assert!(days_left(&on_disk, clock::now()) > 300);
        std::fs::remove_dir_all(&data_dir).unwrap();
    }
}

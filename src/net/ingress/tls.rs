//! Which certificate a handshake gets: by the name the client asks for, from Secrets, or one we signed ourselves.
//!
//! A certificate that cannot be used touches its own hosts only. Replacing the set changes the next handshake and
//! no connection. Whether a certificate is good, [`certificate`] says.

pub mod certificate;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::server::{ClientHello, ResolvesServerCert, ServerSessionMemoryCache};
use rustls::sign::CertifiedKey;

/// Sessions that can be resumed by id (TLS 1.2); tickets need no memory.
const SESSIONS: usize = 4096;

/// Certificates by host: `shop.example` or `*.shop.example`.
pub type Certificates = HashMap<String, Arc<CertifiedKey>>;

/// The certificates in force, and the one for everything else.
pub struct CertificateStore {
    by_host: ArcSwap<Certificates>,
    fallback: Arc<CertifiedKey>,
}

/// Why TLS cannot be served at all.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("make a certificate for hosts that have none")]
    Fallback(#[source] rcgen::Error),
    #[error("load the key of the certificate for hosts that have none")]
    FallbackKey(#[source] rustls::Error),
    #[error("choose TLS versions")]
    Versions(#[source] rustls::Error),
    #[error("make keys for session tickets")]
    Tickets(#[source] rustls::Error),
}

impl CertificateStore {
    /// With a self-signed certificate that is nobody's, made anew by every daemon.
    pub fn new() -> Result<Arc<CertificateStore>, TlsError> {
        let mut params = rcgen::CertificateParams::new(vec!["joey-ingress.invalid".to_owned()])
            .map_err(TlsError::Fallback)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "Joey ingress: no certificate for this host");
        let key = rcgen::KeyPair::generate().map_err(TlsError::Fallback)?;
        let signed = params.self_signed(&key).map_err(TlsError::Fallback)?;
        let der = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
        let signing = rustls::crypto::ring::sign::any_supported_type(&der.into())
            .map_err(TlsError::FallbackKey)?;
        let fallback = Arc::new(CertifiedKey::new(vec![signed.der().clone()], signing));
        Ok(Arc::new(CertificateStore { by_host: ArcSwap::default(), fallback }))
    }

    /// Puts a set in force for handshakes from now on.
    pub fn swap(&self, certificates: Certificates) {
        self.by_host.store(Arc::new(certificates));
    }

    fn find(&self, name: &str) -> Arc<CertifiedKey> {
        let by_host = self.by_host.load();
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let found = by_host.get(&name).or_else(|| {
            let (_label, parent) = name.split_once('.')?;
            by_host.get(&format!("*.{parent}"))
        });
        Arc::clone(found.unwrap_or(&self.fallback))
    }
}

impl fmt::Debug for CertificateStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateStore").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for CertificateStore {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(match hello.server_name() {
            Some(name) => self.find(name),
            None => Arc::clone(&self.fallback),
        })
    }
}

/// TLS 1.2 and 1.3, h2 and http/1.1, resumption.
pub fn server_config(store: Arc<CertificateStore>) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Versions)?
        .with_no_client_auth()
        .with_cert_resolver(store);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
    config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(TlsError::Tickets)?;
    Ok(config)
}

//! The connection of client commands to their daemon: its own kubeconfig, its own CA, no name service.
//!
//! Only addresses are dialled; a static glibc must not load the host's name service modules.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::client::middleware::BaseUriLayer;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::{Layer, Service};

use super::settings::Settings;

/// A client with the administrator's rights, and the namespace it works in by default.
///
/// # Errors
/// No daemon has ever run on these directories, or its kubeconfig cannot be used.
pub fn connect(settings: &Settings) -> anyhow::Result<kube::Client> {
    let path = settings.data_dir().join("admin.kubeconfig");
    let access = Access::read(&path).with_context(|| {
        format!(
            "reading {}; is this the --data-dir of a `joey serve` that has started?",
            path.display()
        )
    })?;
    let base: Uri =
        format!("https://{}", access.address).parse().context("the server's address")?;
    let connector = Connector {
        address: access.address,
        name: ServerName::IpAddress(access.address.ip().into()),
        tls: TlsConnector::from(Arc::new(access.tls)),
    };
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
    let service = BaseUriLayer::new(base).layer(http);
    Ok(kube::Client::new(service, "default"))
}

struct Access {
    address: SocketAddr,
    tls: rustls::ClientConfig,
}

impl Access {
    fn read(path: &Path) -> anyhow::Result<Access> {
        let text = fs::read_to_string(path)?;
        let config: Value = serde_saphyr::from_str(&text)?;
        let cluster = &config["clusters"][0]["cluster"];
        let user = &config["users"][0]["user"];
        let server = cluster["server"].as_str().context("no server is named")?;
        let Some(address) = server.strip_prefix("https://").and_then(|text| text.parse().ok())
        else {
            bail!("server {server:?} is not https://ADDRESS:PORT")
        };
        let data = |value: &Value| -> anyhow::Result<Vec<u8>> {
            Ok(STANDARD.decode(value.as_str().context("a certificate is missing")?)?)
        };
        let mut roots = RootCertStore::empty();
        let authority = data(&cluster["certificate-authority-data"])?;
        for certificate in CertificateDer::pem_slice_iter(&authority) {
            roots.add(certificate?)?;
        }
        let certificate = data(&user["client-certificate-data"])?;
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(&certificate).collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&data(&user["client-key-data"])?)?;
        let mut tls = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        // exec and attach upgrade their connection, which HTTP/2 does not know.
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Access { address, tls })
    }
}

/// Dials the one address that the kubeconfig names.
#[derive(Clone)]
struct Connector {
    address: SocketAddr,
    name: ServerName<'static>,
    tls: TlsConnector,
}

impl Service<Uri> for Connector {
    type Response = Tls;
    type Error = io::Error;
    type Future = BoxFuture<'static, Result<Tls, io::Error>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Connector { address, name, tls } = self.clone();
        Box::pin(async move {
            let tcp = TcpStream::connect(address).await.map_err(|error| {
                io::Error::new(error.kind(), format!("{address}: {error}; does `joey serve` run?"))
            })?;
            tcp.set_nodelay(true)?;
            Ok(Tls(TokioIo::new(tls.connect(name, tcp).await?)))
        })
    }
}

/// A TLS stream that the HTTP client may keep for the next request.
struct Tls(TokioIo<TlsStream<TcpStream>>);

impl Connection for Tls {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Tls {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl Write for Tls {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

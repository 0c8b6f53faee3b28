//! The one listener for scrapers: `GET /metrics`, plain on the loopback, TLS and a credential elsewhere.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{Format, Registry};

/// Scrapers are few.
const CONNECTIONS: usize = 64;
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two scrapes on one connection.
const IDLE: Duration = Duration::from_secs(150);
const BREATH: Duration = Duration::from_millis(50);

/// Says whether the bearer of these headers may read metrics.
pub type Guard = Arc<dyn Fn(&HeaderMap) -> bool + Send + Sync>;

/// How scrapers off the loopback prove who they are.
#[derive(Clone)]
pub struct Lock {
    pub tls: Arc<rustls::ServerConfig>,
    pub guard: Guard,
}

/// Serves until `stop`. A listener on the loopback needs no lock.
pub async fn serve(registry: Registry, listener: TcpListener, lock: Lock, stop: CancellationToken) {
    let is_local = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
    let lock = (!is_local).then_some(lock);
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = accept(&listener, &free) => accepted,
        };
        match accepted {
            Ok((stream, permit)) => {
                let (registry, lock, stop) = (registry.clone(), lock.clone(), stop.clone());
                tokio::spawn(async move {
                    let served = stop.run_until_cancelled(welcome(registry, stream, lock)).await;
                    if let Some(Err(error)) = served {
                        tracing::debug!(%error, "a scraper's connection has ended");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "a scraper was not accepted");
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}

/// Binds; the address is in the error because the caller goes on without.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

async fn accept(
    listener: &TcpListener,
    free: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(free).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

async fn welcome(registry: Registry, stream: TcpStream, lock: Option<Lock>) -> io::Result<()> {
    match lock {
        None => converse(registry, stream, None).await,
        Some(lock) => {
            let acceptor = TlsAcceptor::from(Arc::clone(&lock.tls));
            let stream = tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await??;
            converse(registry, stream, Some(lock.guard)).await
        }
    }
}

async fn converse<S>(registry: Registry, stream: S, guard: Option<Guard>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let may = guard.as_ref().is_none_or(|guard| guard(request.headers()));
        let answer = answer(&registry, &request, may);
        async move { Ok::<_, Infallible>(answer) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(stream), service)
        .await
        .map_err(io::Error::other)
}

fn answer<B>(registry: &Registry, request: &Request<B>, may: bool) -> Response<Full<Bytes>> {
    let plain = |status: StatusCode, text: &'static str| {
        let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
        *response.status_mut() = status;
        response
    };
    match (request.method(), request.uri().path()) {
        (_, _) if !may => {
            plain(StatusCode::UNAUTHORIZED, "a bearer token that may read /metrics is needed\n")
        }
        (&Method::GET | &Method::HEAD, "/metrics") => {
            let accept = request.headers().get(header::ACCEPT).and_then(|a| a.to_str().ok());
            let format = Format::wanted(accept.unwrap_or_default());
            let mut response = Response::new(Full::new(Bytes::from(registry.render(format))));
            let kind = header::HeaderValue::from_static(format.content_type());
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        (_, "/metrics") => plain(StatusCode::METHOD_NOT_ALLOWED, "GET it\n"),
        _ => plain(StatusCode::NOT_FOUND, "the metrics are at /metrics\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: &str, path: &str, accept: &str, may: bool) -> (u16, String) {
        let registry = Registry::default();
        registry.counters("joey_asked_total", "Asked.", &[]).with(&[]).increment();
        let request =
            Request::builder().method(method).uri(path).header("accept", accept).body(()).unwrap();
        let response = answer(&registry, &request, may);
        let kind = response.headers().get(header::CONTENT_TYPE);
        let kind = kind.map_or("", |kind| kind.to_str().unwrap());
        (response.status().as_u16(), kind.to_owned())
    }

    #[test]
    fn scrapers_get_the_text_they_ask_for() {
        let prometheus = "text/plain; version=0.0.4; charset=utf-8";
        let open = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        let wants_open = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3";
        for (method, path, accept, may, expected) in [
            ("GET", "/metrics", "*/*", true, (200, prometheus)),
            ("GET", "/metrics", wants_open, true, (200, open)),
            (
                "GET",
                "/metrics",
                "text/plain, application/openmetrics-text;q=0.9",
                true,
                (200, prometheus),
            ),
            (
                "GET",
                "/metrics",
                "application/openmetrics-text; version=1.0.0; q=0, */*",
                true,
                (200, prometheus),
            ),
            ("GET", "/metrics", "Application/OpenMetrics-Text, */*", true, (200, open)),
            ("GET", "/metrics", "*/*", false, (401, "")),
            ("POST", "/metrics", "*/*", true, (405, "")),
            ("GET", "/", "*/*", true, (404, "")),
        ] {
            let (status, kind) = ask(method, path, accept, may);
            assert_eq!((status, &*kind), expected, "{method} {path}");
        }
    }
}

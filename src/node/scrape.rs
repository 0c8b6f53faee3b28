//! Reads the metrics that pods show, for those that ask to be read: `prometheus.io/scrape: "true"`, with
//! `prometheus.io/port` and, unless it is `/metrics`, `prometheus.io/path`.
//!
//! What a pod says concerns that pod only, and is bounded in time and size. It follows no redirect and speaks to no
//! address but the pod's own.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1 as core;
use tokio_util::task::AbortOnDropHandle;

use super::pods::{PodEntry, Pods};
use crate::metrics::exposition;
use crate::metrics::figures::{Figure, Figures, Reading, Subject};
use crate::net;

const SCRAPE: &str = "prometheus.io/scrape";
const PORT: &str = "prometheus.io/port";
const PATH: &str = "prometheus.io/path";
const SCHEME: &str = "prometheus.io/scheme";
const DEFAULT_PATH: &str = "/metrics";
/// What a pod that counts HTTP requests calls them, by convention.
const REQUESTS: &str = "http_requests_total";
/// The rate of requests under the name that the ingress' own figures have.
pub const REQUEST_RATE: &str = "requests-per-second";

/// Between two readings of a pod.
const PERIOD: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(3);
/// Pods asked at a time.
const ABREAST: usize = 16;
/// Bytes of one answer.
const LONGEST: usize = 1 << 20;

/// Where a pod's metrics are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    port: u16,
    path: String,
}

impl Place {
    /// What the annotations ask for; `None` when they ask for nothing that can be read.
    pub fn of(pod: &core::Pod) -> Option<Place> {
        let annotations = pod.metadata.annotations.as_ref()?;
        let text = |key: &str| annotations.get(key).map(String::as_str);
        if text(SCRAPE) != Some("true") || text(SCHEME).is_some_and(|scheme| scheme != "http") {
            return None;
        }
        // Without one: the first port that a container declares, as Prometheus' usual rules have it.
        let declared = || {
            let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
            let mut ports = containers.flat_map(|one| one.ports.iter().flatten());
            u16::try_from(ports.next()?.container_port).ok()
        };
        let port = match text(PORT) {
            Some(port) => port.parse().ok(),
            None => declared(),
        };
        let path = text(PATH).unwrap_or(DEFAULT_PATH);
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Some(Place { port: port.filter(|port| *port != 0)?, path })
    }
}

/// Why a pod's metrics were not read.
#[derive(Debug, thiserror::Error)]
enum Missed {
    #[error("connect to {0}")]
    Connect(SocketAddr, #[source] std::io::Error),
    #[error("the path is none")]
    Path(#[source] http::Error),
    #[error("speak HTTP")]
    Exchange(#[source] hyper::Error),
    #[error("the answer is {0}")]
    Status(StatusCode),
    #[error("the answer broke or is longer than 1 MiB")]
    Body,
    #[error("no answer in 3 s")]
    Late,
}

/// Reads until it is dropped.
pub async fn run(pods: Pods, figures: Figures) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let asked = pods.all().into_iter().filter_map(|pod| target(&pod));
        let asked = asked.map(|(uid, address, place)| async move {
            let read = tokio::time::timeout(PATIENCE, fetch(address, &place));
            (uid, read.await.unwrap_or(Err(Missed::Late)))
        });
        let mut answers = futures::stream::iter(asked).buffer_unordered(ABREAST);
        while let Some((uid, answer)) = answers.next().await {
            match answer {
                Ok(text) => figures.take(readings(&uid, &text)),
                Err(error) => tracing::debug!(pod = uid, %error, "metrics were not read"),
            }
        }
    }
}

fn target(pod: &PodEntry) -> Option<(String, IpAddr, Place)> {
    pod.pod.as_ref()?;
    Some((pod.uid.clone(), pod.address?, pod.metrics.clone()?))
}

fn readings(uid: &str, text: &str) -> Vec<(Figure, Reading)> {
    let found = exposition::parse(text);
    let figure = |metric: String| Figure { of: Subject::Pod(uid.to_owned()), metric };
    let requests = found.get(REQUESTS).map(|reading| (figure(REQUEST_RATE.to_owned()), *reading));
    let all = found
        .iter()
        .map(|(name, reading)| (figure(exposition::asked_as(name, *reading)), *reading));
    all.chain(requests).collect()
}

async fn fetch(address: IpAddr, place: &Place) -> Result<String, Missed> {
    let address = SocketAddr::new(address, place.port);
    let request = Request::get(&place.path)
        .header(header::HOST, address.to_string())
        .header(header::ACCEPT, HeaderValue::from_static("text/plain;version=0.0.4"))
        .header(header::USER_AGENT, concat!("joey/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(Missed::Path)?;
    let stream =
        net::dial_as_probe(address).await.map_err(|error| Missed::Connect(address, error))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(Missed::Exchange)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(async move {
        // How it ended shows in the answer.
        let _ = connection.await;
    }));
    let answer = sender.send_request(request).await.map_err(Missed::Exchange)?;
    if answer.status() != StatusCode::OK {
        return Err(Missed::Status(answer.status()));
    }
    let body = Limited::new(answer.into_body(), LONGEST).collect().await;
    let body = body.map_err(|_| Missed::Body)?.to_bytes();
    Ok(String::from_utf8_lossy(&body).into_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn place(annotations: Value) -> Option<(u16, String)> {
        let pod = json!({
            "metadata": {"annotations": annotations},
            "spec": {"containers": [{"name": "a"}, {"name": "b", "ports": [{"containerPort": 8080}]}]},
        });
        let pod: core::Pod = serde_json::from_value(pod).expect("a pod");
        Place::of(&pod).map(|place| (place.port, place.path))
    }

    #[test]
    fn only_pods_that_ask_are_read() {
        let at = |port, path: &str| Some((port, path.to_owned()));
        for (annotations, expected) in [
            (json!({}), None),
            (json!({PORT: "81"}), None),
            (json!({SCRAPE: "false", PORT: "81"}), None),
            (json!({SCRAPE: "true", PORT: "81"}), at(81, "/metrics")),
            (json!({SCRAPE: "true"}), at(8080, "/metrics")),
            (json!({SCRAPE: "true", PORT: "81", PATH: "stats?x=1"}), at(81, "/stats?x=1")),
            (json!({SCRAPE: "true", PORT: "0"}), None),
            (json!({SCRAPE: "true", PORT: "81000"}), None),
            (json!({SCRAPE: "true", PORT: "http"}), None),
            (json!({SCRAPE: "true", PORT: "443", SCHEME: "https"}), None),
        ] {
            assert_eq!(place(annotations.clone()), expected, "{annotations}");
        }
    }

    #[test]
    fn requests_by_convention_have_the_ingress_name_too() {
        let found =
            readings("u", "# TYPE http_requests_total counter\nhttp_requests_total 3\nq 1\n");
        let names: Vec<&str> = found.iter().map(|(figure, _)| figure.metric.as_str()).collect();
        assert_eq!(names, ["http_requests_per_second", "q", REQUEST_RATE]);
    }
}

//! What is counted of every request: by namespace, Ingress, Service, method and status class, whether a pod
//! answered or not. Series exist for routes that exist, and only for methods that HTTP has.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::Instant;

use super::routes::{ObjectName, Route};
use crate::metrics::{Counter, Family, Gauge, Histogram, LATENCY, Registry};

const LABELS: &[&str] = &["namespace", "ingress", "service", "method", "code"];
const ROUTE_LABELS: &[&str] = &["namespace", "ingress", "service"];
const METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "other"];
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// The client went away before its answer, as nginx counts it.
const CLIENT_GONE: u16 = 499;

/// The families of the ingress.
#[derive(Clone)]
pub struct Measure {
    requests: Family<Counter>,
    seconds: Family<Histogram>,
    upstream_seconds: Family<Histogram>,
    request_bytes: Family<Counter>,
    response_bytes: Family<Counter>,
    in_flight: Family<Gauge>,
    retries: Family<Counter>,
    pub connections: Family<Gauge>,
    pub refused_connections: Family<Counter>,
    pub delayed_connections: Counter,
    pub refused_requests: Family<Counter>,
    pub handshakes: Family<Counter>,
}

impl Measure {
    pub fn new(registry: &Registry) -> Measure {
        Measure {
            requests: registry.counters(
                "joey_ingress_requests_total",
                "Requests answered, by the class of their status.",
                LABELS,
            ),
            seconds: registry.histograms(
                "joey_ingress_request_duration_seconds",
                "From a request's head to the last byte of its answer.",
                LABELS,
                LATENCY,
            ),
            upstream_seconds: registry.histograms(
                "joey_ingress_upstream_duration_seconds",
                "From sending a request to a pod to the head of the pod's answer.",
                LABELS,
                LATENCY,
            ),
            request_bytes: registry.counters(
                "joey_ingress_request_bytes_total",
                "Bytes of request bodies.",
                LABELS,
            ),
            response_bytes: registry.counters(
                "joey_ingress_response_bytes_total",
                "Bytes of answers' bodies.",
                LABELS,
            ),
            in_flight: registry.gauges(
                "joey_ingress_requests_in_flight",
                "Requests being answered, tunnels included.",
                ROUTE_LABELS,
            ),
            retries: registry.counters(
                "joey_ingress_retries_total",
                "Requests sent again because no pod had seen them.",
                ROUTE_LABELS,
            ),
            connections: registry.gauges(
                "joey_ingress_connections",
                "Open connections of clients.",
                &["port"],
            ),
            refused_connections: registry.counters(
                "joey_ingress_connections_refused_total",
                "Connections closed unheard, by reason.",
                &["reason"],
            ),
            delayed_connections: registry
                .counters(
                    "joey_ingress_connections_delayed_total",
                    "Connections that had to wait because their client had flooded.",
                    &[],
                )
                .with(&[]),
            refused_requests: registry.counters(
                "joey_ingress_requests_refused_total",
                "Requests answered 429 or 503 because too many were under way, by whose bound it was.",
                &["reason"],
            ),
            handshakes: registry.counters(
                "joey_ingress_tls_handshakes_total",
                "TLS handshakes, by outcome.",
                &["outcome"],
            ),
        }
    }

    /// The series of a route.
    pub fn route(&self, route: &Route) -> RouteMeters {
        self.labelled(&route.ingress, &route.backend.service.name)
    }

    /// The series of requests that no rule matches.
    pub fn unmatched(&self) -> RouteMeters {
        self.labelled(&ObjectName::new("", ""), "")
    }

    fn labelled(&self, ingress: &ObjectName, service: &str) -> RouteMeters {
        let labels = [ingress.namespace.clone(), ingress.name.clone(), service.to_owned()];
        let [namespace, name, service] = [&labels[0], &labels[1], &labels[2]].map(String::as_str);
        RouteMeters {
            in_flight: self.in_flight.with(&[namespace, name, service]),
            retries: self.retries.with(&[namespace, name, service]),
            series: std::array::from_fn(|_| OnceLock::new()),
            measure: self.clone(),
            labels,
        }
    }

    /// Forgets series of Ingresses that are gone. Their Services may be as dead as they like.
    pub fn retain(&self, exists: impl Fn(&ObjectName) -> bool) {
        let keep = |values: &[String]| {
            let [namespace, name, ..] = values else { return true };
            namespace.is_empty() || exists(&ObjectName::new(namespace, name))
        };
        self.requests.retain(keep);
        self.seconds.retain(keep);
        self.upstream_seconds.retain(keep);
        self.request_bytes.retain(keep);
        self.response_bytes.retain(keep);
        self.in_flight.retain(keep);
        self.retries.retain(keep);
    }

    /// Requests since the daemon started, whoever answered; of every route that there is, used or not.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        let mut add = |values: &[String], count: u64| {
            let [namespace, ingress, service, ..] = values else { return };
            if namespace.is_empty() {
                return;
            }
            *totals.ingresses.entry(ObjectName::new(namespace, ingress)).or_default() += count;
            *totals.services.entry(ObjectName::new(namespace, service)).or_default() += count;
        };
        // A route has this series from the beginning, the others with the first request.
        self.in_flight.each(|values, _| add(values, 0));
        self.requests.each(|values, counter| add(values, counter.get()));
        totals
    }
}

/// Requests by what they were for.
#[derive(Debug, Default)]
pub struct Totals {
    pub ingresses: BTreeMap<ObjectName, u64>,
    pub services: BTreeMap<ObjectName, u64>,
}

/// The series of one route, made when they are first needed.
pub struct RouteMeters {
    labels: [String; 3],
    in_flight: Gauge,
    retries: Counter,
    series: [OnceLock<Series>; METHODS.len() * CLASSES.len()],
    measure: Measure,
}

struct Series {
    requests: Counter,
    seconds: Histogram,
    upstream_seconds: Histogram,
    request_bytes: Counter,
    response_bytes: Counter,
}

impl RouteMeters {
    fn series(&self, method: usize, status: u16) -> &Series {
        let class = usize::from((status / 100).clamp(1, 5) - 1);
        self.series[method * CLASSES.len() + class].get_or_init(|| {
            let [namespace, ingress, service] = &self.labels;
            let labels = [namespace, ingress, service, METHODS[method], CLASSES[class]];
            Series {
                requests: self.measure.requests.with(&labels),
                seconds: self.measure.seconds.with(&labels),
                upstream_seconds: self.measure.upstream_seconds.with(&labels),
                request_bytes: self.measure.request_bytes.with(&labels),
                response_bytes: self.measure.response_bytes.with(&labels),
            }
        })
    }
}

/// What is told of a finished request.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    pub status: u16,
    pub took: Duration,
    pub upstream: Option<Duration>,
    pub received: u64,
    pub sent: u64,
    /// The answer ended before its end.
    pub is_broken: bool,
}

/// Measures one request; counts when it is dropped.
pub struct Meter {
    meters: Arc<RouteMeters>,
    method: usize,
    started: Instant,
    outcome: Outcome,
    /// Told when the request is over.
    then: Option<Box<dyn FnOnce(&Outcome) + Send + Sync>>,
    received: Option<super::body::RequestSource>,
}

impl Meter {
    pub fn start(meters: Arc<RouteMeters>, method: &http::Method) -> Meter {
        meters.in_flight.add(1);
        let known = METHODS.iter().position(|known| method.as_str() == *known);
        Meter {
            meters,
            method: known.unwrap_or(METHODS.len() - 1),
            started: Instant::now(),
            outcome: Outcome {
                status: CLIENT_GONE,
                took: Duration::ZERO,
                upstream: None,
                received: 0,
                sent: 0,
                is_broken: false,
            },
            then: None,
            received: None,
        }
    }

    /// Its route is known now.
    pub fn belongs_to(&mut self, meters: Arc<RouteMeters>) {
        self.meters.in_flight.add(-1);
        meters.in_flight.add(1);
        self.meters = meters;
    }

    pub fn finally(&mut self, tell: impl FnOnce(&Outcome) + Send + Sync + 'static) {
        self.then = Some(Box::new(tell));
    }

    pub fn receives(&mut self, source: super::body::RequestSource) {
        self.received = Some(source);
    }

    pub fn answered(&mut self, status: u16) {
        self.outcome.status = status;
    }

    pub fn upstream_took(&mut self, span: Duration) {
        self.outcome.upstream = Some(span);
    }

    pub fn retried(&self) {
        self.meters.retries.increment();
    }

    pub fn sent(&mut self, bytes: usize) {
        self.outcome.sent += bytes as u64;
    }

    pub fn broke(&mut self) {
        self.outcome.is_broken = true;
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.outcome.took = self.started.elapsed();
        self.outcome.received = self.received.as_ref().map_or(0, |source| source.received());
        let series = self.meters.series(self.method, self.outcome.status);
        series.requests.increment();
        series.seconds.observe(self.outcome.took);
        if let Some(upstream) = self.outcome.upstream {
            series.upstream_seconds.observe(upstream);
        }
        series.request_bytes.add(self.outcome.received);
        series.response_bytes.add(self.outcome.sent);
        self.meters.in_flight.add(-1);
        if let Some(tell) = self.then.take() {
            tell(&self.outcome);
        }
    }
}

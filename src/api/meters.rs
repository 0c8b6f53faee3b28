//! What the API is asked and how it answers, counted by verb, resource and code.
//!
//! Watches and streams are counted when their answer begins. It judges nothing; without a registry it counts nothing.

use std::sync::OnceLock;
use std::time::Instant;

use http::{Method, StatusCode, Uri};

use crate::api::path::{self, Target};
use crate::metrics::{Counter, Family, Gauge, Histogram, LATENCY, Registry};

/// The API's own series.
#[derive(Default)]
pub struct Meters {
    series: OnceLock<Series>,
}

struct Series {
    requests: Family<Counter>,
    seconds: Family<Histogram>,
    in_flight: Gauge,
}

impl Meters {
    pub fn register(&self, registry: &Registry) {
        self.series.get_or_init(|| Series {
            requests: registry.counters(
                "joey_api_requests_total",
                "Requests answered by the API, kubectl's and the daemon's own.",
                &["verb", "resource", "code"],
            ),
            seconds: registry.histograms(
                "joey_api_request_duration_seconds",
                "From a request to the head of its answer.",
                &["verb", "resource"],
                LATENCY,
            ),
            in_flight: registry
                .gauges("joey_api_requests_in_flight", "Requests whose answer has not begun.", &[])
                .with(&[]),
        });
    }

    /// Begins to measure a request.
    pub fn start(&self, method: &Method, uri: &Uri) -> Meter<'_> {
        let series = self.series.get().map(|series| {
            series.in_flight.add(1);
            let (verb, resource) = labels(method, uri);
            Measured { series, verb, resource, began: Instant::now() }
        });
        Meter { series }
    }
}

/// One request.
pub struct Meter<'a> {
    series: Option<Measured<'a>>,
}

struct Measured<'a> {
    series: &'a Series,
    verb: &'static str,
    resource: String,
    began: Instant,
}

impl Meter<'_> {
    pub fn answered(&self, code: StatusCode) {
        let Some(Measured { series, verb, resource, began }) = &self.series else { return };
        series.requests.with(&[verb, resource, code.as_str()]).increment();
        series.seconds.with(&[verb, resource]).observe(began.elapsed());
    }
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        if let Some(measured) = &self.series {
            measured.series.in_flight.add(-1);
        }
    }
}

/// What is asked for, without names: there are as many series as kinds, not as objects.
fn labels(method: &Method, uri: &Uri) -> (&'static str, String) {
    let target = path::parse(uri.path());
    let (resource, is_collection) = match &target {
        Some(Target::Collection { kind, .. }) => (kind.resource(), true),
        Some(Target::Object(object)) => (object.kind.resource(), false),
        Some(
            Target::Subresource { object, subresource } | Target::Proxy { object, subresource, .. },
        ) => (format!("{}/{}", object.kind.resource(), subresource.name), false),
        Some(Target::Metric(_)) => ("custom.metrics.k8s.io".to_owned(), false),
        Some(_) => ("documents".to_owned(), false),
        None => ("other".to_owned(), false),
    };
    let query = uri.query().unwrap_or_default();
    let is_watch = query.split('&').any(|part| matches!(part, "watch" | "watch=true" | "watch=1"));
    let verb = match method.as_str() {
        "GET" | "HEAD" if is_watch => "watch",
        "GET" | "HEAD" if is_collection => "list",
        "GET" | "HEAD" => "get",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" if is_collection => "deletecollection",
        "DELETE" => "delete",
        _ => "other",
    };
    (verb, resource)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_name_kinds_and_never_objects() {
        for (method, uri, expected) in [
            (Method::GET, "/api/v1/pods", "list pods"),
            (Method::GET, "/api/v1/namespaces/a/pods?watch=true", "watch pods"),
            (Method::GET, "/api/v1/namespaces/a/pods/b", "get pods"),
            (
                Method::PATCH,
                "/apis/apps/v1/namespaces/a/deployments/b/scale",
                "patch deployments.apps/scale",
            ),
            (Method::DELETE, "/api/v1/namespaces/a/configmaps", "deletecollection configmaps"),
            (Method::GET, "/apis", "get documents"),
            (
                Method::GET,
                "/apis/custom.metrics.k8s.io/v1beta2/namespaces/a/pods/*/x",
                "get custom.metrics.k8s.io",
            ),
            (Method::GET, "/etc/passwd", "get other"),
            (Method::OPTIONS, "/api/v1/pods", "other pods"),
        ] {
            let (verb, resource) = labels(&method, &uri.parse().expect("a path"));
            assert_eq!(format!("{verb} {resource}"), expected);
        }
    }
}

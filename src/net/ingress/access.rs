//! The access log: one line a request, through the daemon's own log.

use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use http::HeaderValue;

use super::measure::Outcome;
use super::proxy::Asked;
use super::routes::Route;

/// Which requests are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccessLog {
    Off,
    /// Those that ended with 5xx, or before their end.
    #[default]
    Errors,
    All,
}

/// Not one of the words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is none of off, errors, all")]
pub struct UnknownAccessLog;

impl FromStr for AccessLog {
    type Err = UnknownAccessLog;

    fn from_str(text: &str) -> Result<AccessLog, UnknownAccessLog> {
        match text {
            "off" => Ok(AccessLog::Off),
            "errors" => Ok(AccessLog::Errors),
            "all" => Ok(AccessLog::All),
            _ => Err(UnknownAccessLog),
        }
    }
}

/// What is known of a request before its answer.
pub struct Entry {
    pub client: SocketAddr,
    pub is_tls: bool,
    /// `None` when it could not be read.
    pub request: Option<Asked>,
    pub route: Option<Arc<Route>>,
    pub id: Option<HeaderValue>,
}

impl AccessLog {
    pub fn tell(self, entry: &Entry, outcome: &Outcome) {
        let is_error = outcome.status >= 500 || outcome.is_broken;
        match self {
            AccessLog::All => {}
            AccessLog::Errors if is_error => {}
            AccessLog::Errors | AccessLog::Off => return,
        }
        let Outcome { status, took, upstream, received, sent, is_broken } = *outcome;
        let route = entry.route.as_ref();
        tracing::info!(
            target: "joey::access",
            client = %entry.client.ip(),
            tls = entry.is_tls,
            request = entry.request.as_ref().map_or("-".to_owned(), Asked::line),
            ingress = route.map_or("-".to_owned(), |route| route.ingress.to_string()),
            service = route.map_or("-".to_owned(), |route| route.backend.service.to_string()),
            status,
            milliseconds = took.as_secs_f64() * 1e3,
            upstream_milliseconds = upstream.map(|span| span.as_secs_f64() * 1e3),
            received,
            sent,
            broken = is_broken,
            id = entry.id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or_default(),
            "request"
        );
    }
}

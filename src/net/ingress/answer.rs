//! The proxy's own answers: short, plain, and naming the rule or Service that they are about.

use http::header::{self, HeaderValue};
use http::{Response, StatusCode};

use super::body::AnswerBody;
use super::gate::Busy;
use super::measure::Meter;

/// Longest text of a client's that is repeated to it.
const ECHO: usize = 200;

/// A plain answer without its body's guards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plain {
    pub status: StatusCode,
    pub text: String,
    pub location: Option<String>,
    /// When it may be worth asking again.
    pub retry_after: Option<u64>,
    /// The connection ends after it.
    pub closes: bool,
}

impl Plain {
    pub fn new(status: StatusCode, text: impl Into<String>) -> Plain {
        Plain { status, text: text.into(), location: None, retry_after: None, closes: false }
    }

    /// Too much at once: what is under way may be over in a second (RFC 9110 §10.2.3).
    pub fn crowded(status: StatusCode, text: impl Into<String>) -> Plain {
        Plain { retry_after: Some(1), ..Plain::new(status, text) }
    }

    pub fn bad_request(text: impl Into<String>) -> Plain {
        Plain { closes: true, ..Plain::new(StatusCode::BAD_REQUEST, text) }
    }

    /// 308 keeps method and body (RFC 9110 §15.4.9).
    pub fn redirect(location: String) -> Plain {
        Plain {
            location: Some(location),
            ..Plain::new(StatusCode::PERMANENT_REDIRECT, "this host is served over HTTPS")
        }
    }

    pub fn into_response(self, meter: Option<Meter>, busy: Busy) -> Response<AnswerBody> {
        let mut meter = meter;
        if let Some(meter) = &mut meter {
            meter.answered(self.status.as_u16());
        }
        let text = format!("{} {}\n", self.status.as_u16(), self.text);
        let mut response = Response::new(AnswerBody::text(text, meter, busy));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        headers.insert(header::CONTENT_TYPE, plain);
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Some(location) = self.location.and_then(|l| HeaderValue::from_str(&l).ok()) {
            headers.insert(header::LOCATION, location);
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.closes {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// A client's own words, cut to what an answer needs.
pub fn echo(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(ECHO).collect()
}

//! One request through the proxy: understood, routed, sent to a pod that is ready, answered.
//!
//! A request is sent again only when it is certain that no pod has seen it. What a client sent is never passed on as
//! bytes: both sides are serialized from what was parsed.

mod ask;
mod attempt;
mod tunnel;

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};

pub(super) use self::ask::Asked;
use self::attempt::{Failed, Wanted};
use super::access::{AccessLog, Entry};
use super::answer::{Plain, echo};
use super::balance::{Upstream, Upstreams};
use super::body::{AnswerBody, Pieces, RequestSource};
use super::exchange::{Broken, Head};
use super::forward::{self, Client};
use super::gate::{Busy, Conversation, REFUSED_METHOD};
use super::id;
use super::lease::{BrokenOff, Lease};
use super::leave::{Leave, Verdict};
use super::measure::{Measure, Meter, RouteMeters};
use super::pool::Dialer;
use super::resolve::Nothing;
use super::routes::{Protocol, Route, Table};
use crate::model::cidr::Cidr;

/// How often a request may look for a pod that takes it.
const ATTEMPTS: usize = 4;

/// Everything that requests share.
pub struct Proxy {
    pub upstreams: Upstreams,
    pub measure: Measure,
    table: ArcSwap<Table<Arc<Bound>>>,
    unmatched: Arc<RouteMeters>,
    dialer: Dialer,
    trusted: Vec<Cidr>,
    access: AccessLog,
    verdict: ArcSwapOption<Box<dyn Verdict>>,
    /// Where a redirect leads; 0: nowhere.
    https_port: AtomicU16,
}

/// A route with what is live behind it.
pub struct Bound {
    pub route: Arc<Route>,
    pub upstream: Arc<Upstream>,
    meters: Arc<RouteMeters>,
}

/// How a client is connected.
pub struct Peer {
    pub address: SocketAddr,
    pub is_tls: bool,
    /// What pods are told of it.
    pub client: Client,
    /// How long it may send nothing of a body that is awaited.
    pub stall: Duration,
    pub talk: Arc<Conversation>,
}

impl Proxy {
    pub fn new(
        measure: Measure,
        dialer: Dialer,
        trusted: Vec<Cidr>,
        access: AccessLog,
        requests_per_pod: usize,
    ) -> Proxy {
        Proxy {
            upstreams: Upstreams::new(requests_per_pod),
            unmatched: Arc::new(measure.unmatched()),
            measure,
            table: ArcSwap::default(),
            dialer,
            trusted,
            access,
            verdict: ArcSwapOption::empty(),
            https_port: AtomicU16::new(0),
        }
    }

    /// Puts routes in force for every request that comes after this.
    pub fn swap(&self, table: Table<Arc<Route>>) {
        let bound = table.map(|route| {
            Arc::new(Bound {
                upstream: self.upstreams.get(&route.backend),
                meters: Arc::new(self.measure.route(&route)),
                route,
            })
        });
        self.table.store(Arc::new(bound));
    }

    /// Whether the word of somebody at this address about its clients is taken.
    pub fn trusts(&self, address: IpAddr) -> bool {
        forward::is_trusted(&self.trusted, address)
    }

    pub fn ask_before_connecting(&self, verdict: Box<dyn Verdict>) {
        self.verdict.store(Some(Arc::new(verdict)));
    }

    pub fn redirect_to_port(&self, port: u16) {
        self.https_port.store(port, Ordering::Relaxed);
    }

    async fn answer(&self, peer: &Peer, mut request: Request<Incoming>) -> Response<AnswerBody> {
        let busy = peer.talk.busy();
        let mut meter = Meter::start(Arc::clone(&self.unmatched), request.method());
        if request.method() == REFUSED_METHOD
            && let Some(refusal) = peer.talk.refusal()
        {
            let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::BAD_REQUEST);
            let text = format!("the request is malformed: {refusal}");
            self.log(&mut meter, peer, None, None);
            return Plain { closes: true, ..Plain::new(status, text) }
                .into_response(Some(meter), busy);
        }
        if let Some(most) = peer.talk.excess() {
            peer.talk.deny_upgrade();
            self.measure.refused_requests.with(&["client"]).increment();
            let text = format!(
                "{most} requests of this client are under way; no more are taken until one is over"
            );
            self.log(&mut meter, peer, None, None);
            return Plain::crowded(StatusCode::TOO_MANY_REQUESTS, text)
                .into_response(Some(meter), busy);
        }
        let wants_upgrade = ask::wants_upgrade(&request);
        let pieces = match request.version() {
            Version::HTTP_2 => Pieces::Cut,
            _ => Pieces::AsTheyCome,
        };
        let asked = match Asked::read(&request) {
            Ok(asked) => asked,
            Err(plain) => {
                peer.talk.deny_upgrade();
                self.log(&mut meter, peer, None, None);
                return plain.into_response(Some(meter), busy);
            }
        };
        let found = self.table.load().find(&asked.host(), asked.path()).cloned();
        let Some(bound) = found else {
            peer.talk.deny_upgrade();
            let text = format!(
                "no Ingress rule matches host {:?} and path {:?}",
                echo(&asked.host()),
                echo(asked.path())
            );
            self.log(&mut meter, peer, Some(&asked), None);
            return Plain::new(StatusCode::NOT_FOUND, text).into_response(Some(meter), busy);
        };
        meter.belongs_to(Arc::clone(&bound.meters));
        let https_port = self.https_port.load(Ordering::Relaxed);
        if bound.route.redirect_to_https && !peer.is_tls && https_port != 0 {
            peer.talk.deny_upgrade();
            self.log(&mut meter, peer, Some(&asked), Some(&bound));
            return Plain::redirect(asked.https_location(https_port))
                .into_response(Some(meter), busy);
        }
        let upgrade = wants_upgrade.then(|| ask::Upgrade::take(&mut request)).flatten();
        let id = forward::request(request.headers_mut(), &peer.client, &asked.authority, id::new);
        self.log_with_id(&mut meter, peer, Some(&asked), Some(&bound), Some(id));
        let answered = match upgrade {
            Some(upgrade) => {
                Box::pin(self.upgrade(peer, &bound, &asked, request, upgrade, &mut meter)).await
            }
            None => self.exchange(peer, &bound, &asked, request, &mut meter).await,
        };
        match answered {
            Ok(Answered::Exchange(response, lease, leave)) => {
                peer.talk.deny_upgrade();
                through(response, pieces, lease, leave, meter, bound.route.idle_timeout, busy)
            }
            Ok(Answered::Switched(response, tunnel)) => {
                meter.answered(101);
                peer.talk.grant_upgrade();
                tokio::spawn(tunnel.run(meter, bound.route.idle_timeout, peer.talk.busy()));
                response.map(|()| AnswerBody::text(String::new(), None, busy))
            }
            Err(mut plain) => {
                peer.talk.deny_upgrade();
                if let Some(refusal) = peer.talk.refusal() {
                    plain = Plain::bad_request(format!("the request is malformed: {refusal}"));
                }
                plain.into_response(Some(meter), busy)
            }
        }
    }

    /// Sends a request until a pod takes it.
    async fn exchange(
        &self,
        peer: &Peer,
        bound: &Bound,
        asked: &Asked,
        request: Request<Incoming>,
        meter: &mut Meter,
    ) -> Result<Answered, Plain> {
        let (parts, incoming) = request.into_parts();
        let protocol = asked.protocol(bound, &parts.headers);
        let source = (!incoming.is_end_stream()).then(|| RequestSource::new(incoming, peer.stall));
        if let Some(source) = &source {
            meter.receives(source.clone());
        }
        let mut tried = Vec::new();
        let mut last = None;
        for attempt in 1..=ATTEMPTS {
            let endpoint = match bound.upstream.pick(&tried) {
                Ok(endpoint) => endpoint,
                Err(nothing) => {
                    return Err(last.unwrap_or_else(|| self.unavailable(bound, nothing)));
                }
            };
            let address = endpoint.address;
            let denied = || bound.denied(peer);
            let mut leave = self.leave(peer, address).ok_or_else(denied)?;
            let wanted = match protocol {
                Protocol::Http1 => Wanted::Http1(asked.head(&parts.headers, address)),
                Protocol::H2c => Wanted::H2c(asked.head_h2c(&parts.headers, address)),
            };
            let limit = bound.route.response_timeout;
            let may_reuse = attempt < ATTEMPTS;
            let body = source.as_ref().map(|source| (source, leave.clone()));
            let sent = pin!(attempt::send(&self.dialer, endpoint, wanted, body, limit, may_reuse));
            match leave.during(sent).await.ok_or_else(denied)? {
                Ok((response, lease, took)) => {
                    meter.upstream_took(took);
                    return Ok(Answered::Exchange(response, lease, leave));
                }
                Err(failed) => {
                    let again =
                        failed.is_unseen() && source.as_ref().is_none_or(|s| s.can_be_sent_again());
                    let plain = bound.failed(&failed);
                    if !again {
                        return Err(plain);
                    }
                    if !matches!(failed, Failed::Stale) {
                        tried.push(address);
                    }
                    meter.retried();
                    last = Some(plain);
                }
            }
        }
        Err(last.unwrap_or_else(|| Plain::new(StatusCode::BAD_GATEWAY, "no pod took the request")))
    }

    /// Asks a pod to switch protocols, on a connection of its own.
    async fn upgrade(
        &self,
        peer: &Peer,
        bound: &Bound,
        asked: &Asked,
        request: Request<Incoming>,
        upgrade: ask::Upgrade,
        meter: &mut Meter,
    ) -> Result<Answered, Plain> {
        let (parts, _empty) = request.into_parts();
        let protocol = upgrade.protocol();
        let mut tried = Vec::new();
        loop {
            let endpoint =
                bound.upstream.pick(&tried).map_err(|nothing| self.unavailable(bound, nothing))?;
            let address = endpoint.address;
            let denied = || bound.denied(peer);
            let mut leave = self.leave(peer, address).ok_or_else(denied)?;
            let head = asked.head(&parts.headers, address);
            let wanted = Wanted::Http1(Head { upgrade: Some(&protocol), ..head });
            let limit = bound.route.response_timeout;
            let sent = pin!(attempt::send(&self.dialer, endpoint, wanted, None, limit, false));
            match leave.during(sent).await.ok_or_else(denied)? {
                Ok((response, lease, took)) => {
                    meter.upstream_took(took);
                    return match response.status() {
                        StatusCode::SWITCHING_PROTOCOLS => upgrade.switch(response, lease, leave),
                        _ => Ok(Answered::Exchange(response, lease, leave)),
                    };
                }
                Err(failed) if failed.is_unseen() && tried.len() + 1 < ATTEMPTS => {
                    tried.push(address);
                    meter.retried();
                }
                Err(failed) => return Err(bound.failed(&failed)),
            }
        }
    }

    fn unavailable(&self, bound: &Bound, nothing: Nothing) -> Plain {
        let text = format!("{} (rule {})", nothing.tell(&bound.upstream.key), bound.route.rule);
        match nothing {
            Nothing::Crowded => {
                self.measure.refused_requests.with(&["pods"]).increment();
                Plain::crowded(StatusCode::SERVICE_UNAVAILABLE, text)
            }
            Nothing::NoService | Nothing::NoPort | Nothing::NoReadyPod | Nothing::ExternalName => {
                Plain::new(StatusCode::SERVICE_UNAVAILABLE, text)
            }
        }
    }

    fn leave(&self, peer: &Peer, pod: SocketAddr) -> Option<Leave> {
        Leave::ask(self.verdict.load().as_ref(), peer.address.ip().to_canonical(), pod)
    }

    fn log(&self, meter: &mut Meter, peer: &Peer, asked: Option<&Asked>, bound: Option<&Bound>) {
        self.log_with_id(meter, peer, asked, bound, None);
    }

    fn log_with_id(
        &self,
        meter: &mut Meter,
        peer: &Peer,
        asked: Option<&Asked>,
        bound: Option<&Bound>,
        id: Option<HeaderValue>,
    ) {
        let access = self.access;
        if access == AccessLog::Off {
            return;
        }
        let entry = Entry {
            client: peer.address,
            is_tls: peer.is_tls,
            request: asked.cloned(),
            route: bound.map(|bound| Arc::clone(&bound.route)),
            id,
        };
        meter.finally(move |outcome| access.tell(&entry, outcome));
    }
}

/// What a pod said.
pub(super) enum Answered {
    Exchange(Response<()>, Lease, Leave),
    Switched(Response<()>, tunnel::Tunnel),
}

impl Bound {
    fn denied(&self, peer: &Peer) -> Plain {
        let client = peer.address.ip().to_canonical();
        let service = &self.route.backend.service;
        let text = format!("a NetworkPolicy does not let {client} reach Service {service}");
        Plain::new(StatusCode::FORBIDDEN, text)
    }

    fn failed(&self, failed: &Failed) -> Plain {
        let service = &self.route.backend.service;
        tracing::debug!(%service, error = %failed.chain(), "a request to a pod has failed");
        match failed {
            Failed::Connect(_) | Failed::Stale => Plain::new(
                StatusCode::BAD_GATEWAY,
                format!("no pod of Service {service} takes connections"),
            ),
            Failed::Exchange { source: BrokenOff::Alone(Broken::Answer(malformed)), .. } => {
                Plain::new(
                    StatusCode::BAD_GATEWAY,
                    format!("a pod of Service {service} gave an answer that is none: {malformed}"),
                )
            }
            Failed::Exchange { .. } => Plain::new(
                StatusCode::BAD_GATEWAY,
                format!("a pod of Service {service} closed the connection without an answer"),
            ),
            Failed::Timeout(limit) => Plain::new(
                StatusCode::GATEWAY_TIMEOUT,
                format!("a pod of Service {service} did not answer in {} s", limit.as_secs()),
            ),
            Failed::Stalled => Plain {
                closes: true,
                ..Plain::new(StatusCode::REQUEST_TIMEOUT, "the request's body did not go on")
            },
            Failed::Client(_) => Plain::bad_request("the request's body ended before its end"),
        }
    }
}

/// A pod's answer as the client gets it.
fn through(
    response: Response<()>,
    pieces: Pieces,
    lease: Lease,
    leave: Leave,
    mut meter: Meter,
    idle: Duration,
    busy: Busy,
) -> Response<AnswerBody> {
    let (parts, ()) = response.into_parts();
    let mut headers: HeaderMap = parts.headers;
    forward::answer(&mut headers);
    meter.answered(parts.status.as_u16());
    let mut answer = Response::new(AnswerBody::streamed(pieces, lease, leave, meter, idle, busy));
    *answer.status_mut() = parts.status;
    *answer.headers_mut() = headers;
    answer
}

/// The proxy as hyper calls it for one connection.
#[derive(Clone)]
pub struct Service {
    pub proxy: Arc<Proxy>,
    pub peer: Arc<Peer>,
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<AnswerBody>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (proxy, peer) = (Arc::clone(&self.proxy), Arc::clone(&self.peer));
        Box::pin(async move {
            if request.version() == Version::HTTP_2 {
                // A stream that was reset together with its request must not cost a connection to a pod (CVE-2023-44487):
                // hyper looks whether it was, once this has been asked the first time.
                tokio::task::yield_now().await;
            }
            Ok(proxy.answer(&peer, request).await)
        })
    }
}

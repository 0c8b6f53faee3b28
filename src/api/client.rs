//! The router as a `kube::Client`: controllers and the node agent reach the API without a socket.
//!
//! The identity is a typed extension that only this file and the TLS listener attach; no header can
//! carry one. Upgraded streams (exec, attach, port-forward) do not use this path.

use std::convert::Infallible;

use axum::body::Body;
use http::Request;
use tower::service_fn;

use crate::api::identity::Identity;
use crate::api::{Api, router};

impl Api {
    /// A client that acts as `identity`, with `namespace` as its default.
    pub fn client(&self, identity: Identity, namespace: &str) -> kube::Client {
        let api = self.clone();
        let service = service_fn(move |request: Request<kube::client::Body>| {
            let api = api.clone();
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(identity.clone());
            // The future is boxed here once; without it every layer above carries its whole size.
            Box::pin(async move { Ok::<_, Infallible>(router::answer(&api, request).await) })
        });
        kube::Client::new(service, namespace)
    }
}

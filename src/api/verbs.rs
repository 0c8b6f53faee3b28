//! What a request does, one file a verb; [`Call`] is what every verb is given.
//!
//! Nothing here reads HTTP method or path: the router has.

pub mod apply;
pub mod binding;
pub mod body;
pub mod create;
pub mod delete;
pub mod eviction;
pub mod figures;
pub mod get;
pub mod list;
pub mod measured;
pub mod patch;
pub mod pod_security;
pub mod review;
pub mod scale;
pub mod selection;
pub mod token_request;
pub mod update;
pub mod watch;
pub mod write;

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use tokio_util::sync::CancellationToken;

use crate::api::catalog::Kind;
use crate::api::identity::Identity;
use crate::api::path::Object;
use crate::api::query::Query;
use crate::api::reply::Wish;
use crate::model::key::ObjectKey;

/// An authorized request, its body read to the end.
pub struct Call {
    pub identity: Identity,
    pub query: Query,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub wish: Wish,
    /// Ends what would run for long.
    pub shutdown: CancellationToken,
}

impl Call {
    /// Who writes, for records of ownership: as the client calls itself, or else its program, or else its
    /// user.
    pub fn manager(&self) -> String {
        const LONGEST: usize = 128;
        let program = self.header(http::header::USER_AGENT).unwrap_or_default();
        let program = program.split('/').next().unwrap_or_default();
        let named =
            [self.query.get("fieldManager").unwrap_or_default(), program, &self.identity.user];
        let named = named.into_iter().find(|name| !name.is_empty()).unwrap_or_default();
        named.chars().take(LONGEST).collect()
    }

    pub fn header(&self, name: http::header::HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Where the store keeps the object.
pub fn key(kind: &Kind, namespace: Option<&str>, name: &str) -> ObjectKey {
    ObjectKey { resource: kind.stored_as(), namespace: namespace.map(Arc::from), name: name.into() }
}

/// As [`key`], for an object named by a path.
pub fn key_of(object: &Object) -> ObjectKey {
    key(object.kind, object.namespace.as_deref(), &object.name)
}

//! The Kubernetes API: TLS and in-process, one router for kubectl, controllers and the node agent.
//!
//! It never imports `reconcile`, `node`, `runtime` or `net`; what it needs of a node goes over a dialled
//! byte stream ([`streams::Dial`]).

pub mod decode;
pub mod defaults;
pub mod fields;
pub mod identity;
pub mod openapi;
pub mod patch;
pub mod quantities;
pub mod schema;
pub mod streams;
pub mod table;
pub mod validate;

//! Controllers: each watches some kinds through a `kube::Client`, decides in a pure function, and writes back.
//!
//! They never see the store, the node agent or each other.

pub mod namespace;
pub mod scheduler;
pub mod service_account;

//! The node agent: runs the pods that are bound to this host and tells the API what became of them.
//!
//! It decides in pure functions ([`compile`], [`lifecycle`], [`status`]) and acts through `runtime` and
//! `net`; its only door to the state is a `kube::Client`.

pub mod compile;
pub mod lifecycle;
pub mod pods;
pub mod restart;
pub mod serve;
pub mod status;

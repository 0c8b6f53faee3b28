//! Controllers: each watches some kinds through a `kube::Client`, decides in a pure function, and writes back.
//!
//! They never see the store, the node agent or each other. How to write one stands in [`decide`].

pub mod apply;
pub mod autoscaler;
pub mod builtin;
pub mod caches;
pub mod decide;
pub mod deployment;
pub mod driver;
pub mod endpoints;
pub mod eviction;
pub mod garbage;
pub mod gate;
pub mod namespace;
pub mod orphans;
pub mod owners;
pub mod pods;
pub mod replicaset;
pub mod roots;
pub mod scheduler;
pub mod service_account;
pub mod settle;

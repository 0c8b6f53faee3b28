//! Controllers: each watches some kinds through a `kube::Client`, decides in a pure function, and writes back.
//!
//! They never see the store, the node agent or each other. How to write one stands in [`decide`].

pub mod apply;
pub mod builtin;
pub mod caches;
pub mod decide;
pub mod driver;
pub mod endpoints;
pub mod gate;
pub mod namespace;
pub mod roots;
pub mod scheduler;
pub mod service_account;

//! Controllers: what the declared state asks of other objects.
//!
//! They decide in pure functions and reach the state only through a `kube::Client`; none of them knows
//! that there is one host.

pub mod account;
pub mod namespace;
pub mod scheduler;

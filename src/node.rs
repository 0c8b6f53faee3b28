//! The node agent: runs the pods that are bound to this host and tells the API what became of them.
//!
//! It decides in pure functions ([`compile`], [`lifecycle`], [`status`]) and acts through `runtime` and
//! `net`; its only door to the state is a `kube::Client`.

mod admission;
pub mod adopt;
pub mod agent;
mod clock_step;
pub mod compile;
mod credentials;
mod farewell;
pub mod health;
pub mod huge_pages;
mod keeper;
pub mod lifecycle;
mod milestones;
pub mod pods;
mod probe;
pub mod register;
mod report;
mod resolve;
pub mod restart;
pub mod scrape;
pub mod serve;
pub mod status;
mod unverified;
mod usage;
pub mod volume;
mod worker;

pub use agent::{Agent, AgentError, NodeConfig};
pub use farewell::Farewell;

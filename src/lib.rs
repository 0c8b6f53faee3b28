//! Joey: Kubernetes for one Linux host in a single binary.
//!
//! Layers, imports point down only (guarded by `tests/tidy.rs`):
//!
//! ```text
//! 4 wiring   cli, daemon
//! 3 actors   reconcile, node        (speak to the state through a kube::Client only; both note events)
//! 2 surface  api                    (the Kubernetes API)
//! 1 engines  store, runtime, net    (never see each other)
//! 0 ground   model (words, no I/O), sys (kernel, no policy), metrics (counts)
//! ```
#![deny(unsafe_code)]

pub mod api;
pub mod cli;
pub mod daemon;
pub mod events;
pub mod metrics;
pub mod model;
pub mod net;
pub mod node;
pub mod placement;
pub mod reconcile;
pub mod runtime;
pub mod store;
pub mod sys;

// Nothing of the program: what fuzz targets and their corpora call.
pub mod hostile;

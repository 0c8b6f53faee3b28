//! What the sample programs share: a small HTTP server and client, and a name lookup of their own.
//!
//! Nothing here calls the C library's name service: a static program would load the host's modules for it.

pub mod client;
pub mod dns;
pub mod server;
pub mod termination;

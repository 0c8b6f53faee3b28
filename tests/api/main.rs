//! The API as its clients meet it: in process over an in-memory store, and over TLS.
#![allow(clippy::unwrap_used, reason = "a test whose footing is gone ends there")]

mod applying;
mod concurrency;
mod deletion;
mod harness;
mod kubectl;
mod listener;
mod network;
mod pod_security;
mod proxy;
mod reading;
mod reviews;
mod streams;
mod transcripts;
mod watching;
mod workloads;
mod writing;

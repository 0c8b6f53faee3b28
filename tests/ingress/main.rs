//! The ingress proxy between real clients and real servers, over the loopback: every protocol it forwards, what it
//! refuses, and what it does when either side misbehaves.

#![allow(clippy::unwrap_used, reason = "an unwrap that fails here is a test's failure")]

mod crowded;
mod downgrade;
mod exchange;
mod frames;
mod hostile;
mod impatience;
mod leave;
mod limits;
mod lost;
mod protocols;
mod scene;
mod smuggling;
mod tls;

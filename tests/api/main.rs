//! The API as its clients meet it: in process over an in-memory store, and over TLS.

mod concurrency;
mod deletion;
mod harness;
mod listener;
mod reading;
mod reviews;
mod streams;
mod watching;
mod writing;

//! The words every layer shares: keys, revisions, selectors, quantities, time.
//!
//! Nothing here performs I/O, reads a clock or draws randomness.

pub mod cidr;
pub mod key;
pub mod quantity;
pub mod revision;
pub mod selector;
pub mod time;

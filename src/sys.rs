//! The kernel, one system call a function, no policy. The only place where `unsafe` may stand.

pub mod clock;
pub mod notify;
pub mod ready;

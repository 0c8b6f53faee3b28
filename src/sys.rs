//! The kernel, one system call a function, no policy. The only place where `unsafe` may stand.

pub mod bpf;
pub mod cgroup;
pub mod clock;
pub mod dbus;
pub mod files;
pub mod image_of_self;
pub mod mount;
pub mod names;
pub mod netns;
pub mod notify;
pub mod pidfd;
pub mod process;
pub mod pty;
pub mod readiness;
pub mod seccomp;
pub mod socket;
pub mod spawn;
pub mod systemd;
pub mod tcp;

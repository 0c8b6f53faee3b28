//! The last steps before `execve`: ids, capabilities, no_new_privs, seccomp, in the order that
//! works.
//!
//! With no_new_privs the filters come last of all. Without it loading one needs CAP_SYS_ADMIN, so
//! they come before the capabilities go, and what follows must pass them. It never decides what a
//! process may do.

use std::io;

use rustix::process::DumpableBehavior;
use rustix::thread::{CapabilitySet, CapabilitySets, Gid, Uid};

use super::plan::{SeccompPlan, SecurityPlan};
use super::protocol::Failure;
use super::seccomp::{self, Programs};
use super::{At, caps, failed};
use crate::sys;

/// Filters that most containers share, compiled once in the zygote.
pub struct Compiled {
    capabilities: CapabilitySet,
    programs: Programs,
}

impl Compiled {
    pub fn for_default_capabilities() -> Compiled {
        let names: Vec<String> = caps::DEFAULT.map(str::to_owned).to_vec();
        let capabilities = caps::parse(&names).expect("the default set consists of known names");
        Compiled { capabilities, programs: seccomp::default_profile(capabilities) }
    }
}

/// What the plan means in numbers, all decided before anything is given up.
pub struct Privileges<'a> {
    security: &'a SecurityPlan,
    capabilities: CapabilitySet,
    filters: std::borrow::Cow<'a, Programs>,
}

impl<'a> Privileges<'a> {
    /// Reads a Localhost profile, hence must run while host files are in reach.
    pub fn prepare(
        security: &'a SecurityPlan,
        compiled: &'a Compiled,
    ) -> Result<Privileges<'a>, Failure> {
        use std::borrow::Cow;
        let capabilities = caps::parse(&security.capabilities).at("capabilities")?;
        let filters = match &security.seccomp {
            SeccompPlan::Unconfined => Cow::Owned(Programs::new()),
            SeccompPlan::Default if capabilities == compiled.capabilities => {
                Cow::Borrowed(&compiled.programs)
            }
            SeccompPlan::Default => Cow::Owned(seccomp::default_profile(capabilities)),
            SeccompPlan::Localhost(path) => {
                // Which file it is, nobody could guess who sees only the pod.
                let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
                let json = std::fs::read(path).map_err(|error| named(&error));
                let json = json.at("read seccomp profile")?;
                let programs = seccomp::localhost_profile(&json).map_err(|error| named(&error));
                let programs = programs.at("seccomp profile")?;
                Cow::Owned(programs)
            }
        };
        Ok(Privileges { security, capabilities, filters })
    }

    /// Takes on ids and bounding set. Capabilities stay until [`Privileges::confine`].
    pub fn assume_identity(&self) -> Result<(), Failure> {
        rustix::thread::clear_ambient_capability_set().at("clear ambient capabilities")?;
        for capability in caps::each(CapabilitySet::from_bits_retain((1 << caps::NAMES.len()) - 1))
        {
            if self.capabilities.contains(capability) {
                continue;
            }
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                // A capability that this kernel does not have.
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(error) => return Err(failed("drop bounding set", error)),
            }
        }
        let groups: Vec<Gid> = self.security.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        rustix::thread::set_thread_groups(&groups).at("setgroups")?;
        let gid = Gid::from_raw(self.security.gid);
        rustix::thread::set_thread_res_gid(gid, gid, gid).at("setgid")?;
        rustix::thread::set_keep_capabilities(true).at("keep capabilities")?;
        let uid = Uid::from_raw(self.security.uid);
        rustix::thread::set_thread_res_uid(uid, uid, uid).at("setuid")?;
        // Changed ids reset this to /proc/sys/fs/suid_dumpable, which may be 1.
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).at("not dumpable")
    }

    /// Gives up the capabilities and loads the filters. The executable's path must be known before,
    /// since a profile may forbid looking for it.
    pub fn confine(&self) -> Result<(), Failure> {
        self.confine_for_fork()?;
        self.finish()
    }

    /// The same for a process whose child becomes the program: nothing may be left to take from the child
    /// once others see it. Filters that need not permit a fork wait for [`Privileges::finish`] in the child.
    pub fn confine_for_fork(&self) -> Result<(), Failure> {
        let permitted = rustix::thread::capabilities(None).at("capget")?.permitted;
        if !self.security.no_new_privs {
            // Without no_new_privs the filter must precede the loss of CAP_SYS_ADMIN, which setuid
            // took from the effective set.
            set(CapabilitySets {
                effective: permitted,
                permitted,
                inheritable: CapabilitySet::empty(),
            })?;
            self.load_filters()?;
        }
        // Other users lose everything at execve; dropping it here already makes PATH lookups
        // honest. What this host's own root lacks nobody can have.
        let kept = match self.security.uid {
            0 => self.capabilities & permitted,
            _ => CapabilitySet::empty(),
        };
        set(CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        })?;
        if self.security.no_new_privs {
            rustix::thread::set_no_new_privs(true).at("no_new_privs")?;
            if !self.filters_come_last() {
                self.load_filters()?;
            }
        }
        Ok(())
    }

    /// What [`Privileges::confine_for_fork`] has left to do.
    pub fn finish(&self) -> Result<(), Failure> {
        match self.filters_come_last() {
            true => self.load_filters(),
            false => Ok(()),
        }
    }

    /// Somebody else's profile is only promised to see the program, not what we do before it.
    fn filters_come_last(&self) -> bool {
        self.security.no_new_privs && matches!(self.security.seccomp, SeccompPlan::Localhost(_))
    }

    fn load_filters(&self) -> Result<(), Failure> {
        let loaded: io::Result<()> =
            self.filters.iter().try_for_each(|program| sys::seccomp::load(program));
        loaded.at("load seccomp filter")
    }
}

fn set(sets: CapabilitySets) -> Result<(), Failure> {
    rustix::thread::set_capabilities(None, sets).at("capset")
}

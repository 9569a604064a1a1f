//! The record of a running jail: what a warden that comes back needs to know it again.

use crate::host_files::md5::md5;
use bailiwick_plan::{kernel_memory, seccomp};
use bailiwick_sys::{file, namespace, proc, process};
use bailiwick_types::{Access, Profile};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::OwnedFd;

const FILE: &str = "record.json";
const MAX_SIZE: usize = 4096;

/// Who the init of a jail is. A number alone is nobody: it is used again after its process has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    /// As the host counts.
    pub(crate) pid: u32,
    /// Clock ticks after boot.
    pub(crate) start_time: u64,
    /// Inode of its user namespace.
    pub(crate) user_namespace: u64,
    /// Inode of its pid namespace.
    pub(crate) pid_namespace: u64,
    /// Id of the control group that it was born in: the inode of the group's directory (`cgroups(7)`).
    pub(crate) control_group: u64,
    /// How it was made to hold the tenant's storage.
    #[serde(default)]
    pub(crate) access: Access,
    /// Whether our own code told, in the process that became init, that it was in its Landlock domain. An earlier version has not
    /// asked.
    #[serde(default)]
    pub(crate) landlock: bool,
    /// What it was confined with that the kernel does not show again ([`confinement_digest`]). An earlier version has not noted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) confinement: Option<String>,
    /// Which network namespace it has (`SO_NETNS_COOKIE`). An earlier version has not noted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) network: Option<u64>,
}

/// Tells the filter of system calls and the counts of a jail's user namespace from those of another version.
pub(crate) fn confinement_digest(profile: Profile) -> String {
    let mut text = String::new();
    for step in seccomp::filter(profile) {
        text += &format!("{} {} {} {}\n", step.code, step.jt, step.jf, step.k);
    }
    for (name, most) in kernel_memory::counts(profile) {
        text += &format!("{name} {most}\n");
    }
    md5(text.as_bytes())
}

impl Record {
    /// Reads the identity of a process that is held by descriptor, and so cannot have changed, in a group that is open.
    pub(crate) fn of(pid: u32, group: &OwnedFd, access: Access) -> io::Result<Self> {
        Ok(Self {
            access,
            landlock: false,
            confinement: None,
            network: None,
            control_group: file::metadata(group)?.inode,
            pid,
            start_time: proc::start_time(pid)?,
            user_namespace: namespace::inode(pid, "user")?,
            pid_namespace: namespace::inode(pid, "pid")?,
        })
    }

    /// Writes it into a jail's runtime directory.
    pub(crate) fn write(&self, dir: &OwnedFd) -> io::Result<()> {
        let text = serde_json::to_vec(self)?;
        file::replace_at(dir, FILE, &text, 0o600, file::Outlives::Process)
    }

    /// Reads it.
    pub(crate) fn read(dir: &OwnedFd) -> io::Result<Self> {
        let bytes = file::read_bounded(file::open_file_at(dir, FILE)?, MAX_SIZE)?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// Takes hold of the process again, if it is still the one: same start, same namespaces, the same control group, which is given
    /// as it is found now, and in one of `homes`. `kept` is a descriptor of it that was never let go; without one the
    /// process is opened first, so that what is compared is what is held.
    pub(crate) fn take_hold(
        &self,
        kept: Option<OwnedFd>,
        homes: &[String],
        group: &OwnedFd,
    ) -> io::Result<Option<OwnedFd>> {
        let pidfd = match kept {
            // An ended process has no number any more.
            Some(kept) if process::number(&kept)? == Some(self.pid) => kept,
            Some(_) => return Ok(None),
            None => match process::open(self.pid) {
                Ok(pidfd) => pidfd,
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => return Ok(None),
                Err(error) => return Err(error),
            },
        };
        let Ok(now) = Self::of(self.pid, group, self.access) else { return Ok(None) };
        // The rest are notes, which nothing shows again.
        let identity = |Self { pid, start_time, user_namespace, pid_namespace, control_group, .. }: &Self| {
            [u64::from(*pid), *start_time, *user_namespace, *pid_namespace, *control_group]
        };
        let groups = match proc::cgroups(self.pid) {
            // It is ending.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => return Ok(None),
            groups => groups?,
        };
        let here = groups.get("unified").is_some_and(|found| {
            homes.iter().any(|home| {
                found.strip_prefix(home.as_str()).is_some_and(|below| below.is_empty() || below.starts_with('/'))
            })
        });
        Ok((identity(&now) == identity(self) && here).then_some(pidfd))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_an_earlier_version_is_of_a_jail_that_can_be_written() {
        let text = r#"{"pid":7,"start_time":8,"user_namespace":9,"pid_namespace":10,"control_group":11}"#;
        let record: Record = serde_json::from_str(text).expect("is read");
        assert_eq!((record.access, record.landlock, &record.confinement), (Access::ReadWrite, false, &None));
        let read_only = Record { access: Access::ReadOnly, ..record };
        let text = serde_json::to_string(&read_only).expect("is written");
        assert_eq!(serde_json::from_str::<Record>(&text).expect("is read"), read_only);
    }
}

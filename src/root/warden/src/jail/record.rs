//! The record of a running jail: how a later warden identifies it.

use crate::host_files::md5::md5;
use bailiwick_plan::{kernel_memory, seccomp};
use bailiwick_sys::{file, namespace, proc, process};
use bailiwick_types::{Access, FrozenBy, Nesting, NetworkInForce, Profile, UNIFIED};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::OwnedFd;

const FILE: &str = "record.json";
const MAX_SIZE: usize = 8192;

/// The identity of a jail's init. A number alone identifies nobody: the kernel uses it again.
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
    /// The inode of the directory of its first control group, which is that group's id (`cgroups(7)`).
    pub(crate) control_group: u64,
    /// How the jail was made to use the tenant's storage.
    #[serde(default)]
    pub(crate) access: Access,
    /// Whether our code, in the process that became init, reported that it was in its Landlock domain. Records of
    /// earlier versions lack this.
    #[serde(default)]
    pub(crate) landlock: bool,
    /// Digest of confinement that the kernel does not show ([`confinement_digest`]). Records of earlier versions lack
    /// this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) confinement: Option<String>,
    /// Which network namespace it has (`SO_NETNS_COOKIE`). An earlier version has not noted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) network: Option<u64>,
    /// Whether it was connected to the router.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) connected: bool,
    /// What it was connected with, and the policy that `bailiwick-net` has put in force since. Only what is shown depends on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) in_force: Option<NetworkInForce>,
    /// Whether its users may make user namespaces. An earlier version let those of `system`, and noted nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) nesting: Option<Nesting>,
    /// Who froze the jail. It counts only while the kernel says that the jail is frozen.
    #[serde(default, skip_serializing_if = "FrozenBy::is_operator")]
    pub(crate) frozen_by: FrozenBy,
}

/// A digest of the seccomp filter and of the counters of a jail's user namespace. It differs between versions that
/// differ in these.
pub(crate) fn confinement_digest(profile: Profile, nesting: Nesting) -> String {
    let mut text = String::new();
    for step in seccomp::filter(profile) {
        text += &format!("{} {} {} {}\n", step.code, step.jt, step.jf, step.k);
    }
    for (name, most) in kernel_memory::counts(profile, nesting) {
        text += &format!("{name} {most}\n");
    }
    md5(text.as_bytes())
}

impl Record {
    /// Reads the identity of a process that the caller holds by descriptor, in an open group.
    pub(crate) fn of(pid: u32, group: &OwnedFd, access: Access) -> io::Result<Self> {
        Ok(Self {
            access,
            landlock: false,
            confinement: None,
            network: None,
            connected: false,
            nesting: None,
            in_force: None,
            frozen_by: FrozenBy::Operator,
            control_group: file::metadata(group)?.inode,
            pid,
            start_time: proc::start_time(pid)?,
            user_namespace: namespace::inode(pid, "user")?,
            pid_namespace: namespace::inode(pid, "pid")?,
        })
    }

    /// Writes the record into a jail's runtime directory.
    pub(crate) fn write(&self, dir: &OwnedFd) -> io::Result<()> {
        let text = serde_json::to_vec(self)?;
        file::replace_at(dir, FILE, &text, 0o600, file::Outlives::Process)
    }

    /// Reads a record.
    pub(crate) fn read(dir: &OwnedFd) -> io::Result<Self> {
        let bytes = file::read_bounded(file::open_file_at(dir, FILE)?, MAX_SIZE)?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// Takes hold of the process if it is still the recorded one: same start time, same namespaces, same control
    /// group (`group` is the tenant's now), and inside one of `homes`. `kept` is a descriptor that was held all the
    /// time. Without it, the process is opened before anything is compared, so what is compared is what is held.
    pub(crate) fn take_hold(
        &self,
        kept: Option<OwnedFd>,
        homes: &[String],
        group: &OwnedFd,
    ) -> io::Result<Option<OwnedFd>> {
        let pidfd = match kept {
            // A process that has ended has no number.
            Some(kept) if process::number(&kept)? == Some(self.pid) => kept,
            Some(_) => return Ok(None),
            None => match process::open(self.pid) {
                Ok(pidfd) => pidfd,
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => return Ok(None),
                Err(error) => return Err(error),
            },
        };
        let Ok(now) = Self::of(self.pid, group, self.access) else { return Ok(None) };
        let groups = match proc::cgroups(self.pid) {
            // The process is ending.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => return Ok(None),
            groups => groups?,
        };
        let is_here = groups.get(UNIFIED).is_some_and(|group| homes.iter().any(|home| is_in(group, home)));
        Ok((self.is_of(&now) && is_here).then_some(pidfd))
    }

    /// Whether both records are of one process. The fields that are left out are notes that the kernel does not show.
    fn is_of(&self, now: &Self) -> bool {
        let identity = |record: &Self| {
            let Self { pid, start_time, user_namespace, pid_namespace, control_group, .. } = record;
            [u64::from(*pid), *start_time, *user_namespace, *pid_namespace, *control_group]
        };
        identity(now) == identity(self)
    }
}

/// Whether a group is a home, or below it.
fn is_in(group: &str, home: &str) -> bool {
    group.strip_prefix(home).is_some_and(|below| below.is_empty() || below.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_earlier_versions_are_of_writable_jails() {
        let text = r#"{"pid":7,"start_time":8,"user_namespace":9,"pid_namespace":10,"control_group":11}"#;
        let record: Record = serde_json::from_str(text).expect("is read");
        assert_eq!((record.access, record.landlock, &record.confinement), (Access::ReadWrite, false, &None));
        assert_eq!(record.frozen_by, FrozenBy::Operator, "nobody thaws it but who froze it");
        let read_only = Record { access: Access::ReadOnly, frozen_by: FrozenBy::Idle, ..record };
        let text = serde_json::to_string(&read_only).expect("is written");
        assert_eq!(serde_json::from_str::<Record>(&text).expect("is read"), read_only);
    }

    #[test]
    fn a_process_is_the_recorded_one_only_if_its_whole_identity_matches() {
        let text = r#"{"pid":7,"start_time":8,"user_namespace":9,"pid_namespace":10,"control_group":11}"#;
        let record: Record = serde_json::from_str(text).expect("is read");
        let noted = Record {
            landlock: true,
            network: Some(1),
            frozen_by: FrozenBy::Idle,
            access: Access::ReadOnly,
            ..record.clone()
        };
        assert!(record.is_of(&noted), "notes are no identity");
        for other in [
            Record { pid: 6, ..record.clone() },
            Record { start_time: 6, ..record.clone() },
            Record { user_namespace: 6, ..record.clone() },
            Record { pid_namespace: 6, ..record.clone() },
            Record { control_group: 6, ..record.clone() },
        ] {
            assert!(!record.is_of(&other), "{other:?}");
        }
        for (group, golden) in [("/t/a/jail", true), ("/t/a/jail/x", true), ("/t/a/jailer", false), ("/t/a", false)] {
            assert_eq!(is_in(group, "/t/a/jail"), golden, "{group}");
        }
    }
}

//! What the kernel reports about a jail, as plain facts. `observe` fills them; `plan` and `audit` compare them.
//!
//! Danger: a tenant can choose some texts here (`command`, mount points). They are bounded and must be escaped before display.
//! No decision may depend on them.

use crate::{Access, ByteSize, IdRange, LimitKey, TenantName};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// The kinds of namespace a jail has, as `/proc/PID/ns` names them.
pub const NAMESPACES: [&str; 8] = ["user", "mnt", "pid", "ipc", "uts", "net", "cgroup", "time"];

/// What is known of one tenant on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Whose facts these are.
    pub tenant: TenantName,
    /// The ids the ledger gave; `None` when the tenant never ran.
    pub ids: Option<IdRange>,
    /// The jail, when its init lives.
    pub jail: Option<ObservedJail>,
    /// Processes with an id of the tenant's range outside its control group. Each of them is a breach. At most [`MAX_STRAYS`].
    pub strays: Vec<ProcessFacts>,
    /// Its disk quota; `None` when nothing counts on this host, or the tenant has no storage.
    pub disk: Option<DiskFact>,
}

/// What is in force for one tenant: only the facts that a comparison with its policy needs, so that a thousand tenants are compared
/// quickly. It proves no wall; [`Observed`] does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    /// Whose.
    pub tenant: TenantName,
    /// The jail, when its init lives.
    pub jail: Option<JailInForce>,
    /// Processes with an id of the tenant's range outside its control group; at most [`MAX_STRAYS`].
    pub strays: Vec<u32>,
    /// Its disk quota; `None` when nothing counts on this host, or the tenant has no storage.
    pub disk: Option<DiskFact>,
}

/// What is in force in a running jail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JailInForce {
    /// How the warden made it. Only [`ObservedJail::mounts`] shows whether that is still so.
    pub access: Access,
    /// The bounding set of init, and so of all that it starts.
    pub cap_bounding: u64,
    /// Whether `no_new_privs` is set for init.
    pub no_new_privs: bool,
    /// Limits as the kernel reports them, without what is in use.
    #[serde(deserialize_with = "crate::known_items")]
    pub limits: Vec<LimitFact>,
    /// Whether the reserve for a rescue session is given, which raises some of them.
    pub rescue: bool,
    /// The size of the tmpfs that is seen at `/tmp` and at `/dev/shm`, by that path.
    pub tmpfs: BTreeMap<String, TmpfsSize>,
}

/// A tenant's disk quota, as the kernel reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskFact {
    /// Bytes.
    pub bytes: QuotaFact,
    /// Inodes; `None` where they are not counted.
    pub inodes: Option<QuotaFact>,
    /// Whether the tenant's directory, and everything that is created in it, belongs to the quota.
    pub charged: bool,
    /// Whether the host's reserve is reached. The hard limit is then what is in use, whatever the policy declares.
    pub held_back: bool,
}

/// One quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaFact {
    /// In use.
    pub used: u64,
    /// The soft bound, which use may exceed for a time.
    pub soft: Option<u64>,
    /// The hard bound.
    pub hard: Option<u64>,
    /// When the grace time of the soft bound ends, in seconds since 1970; `None` while use is below the soft bound.
    pub grace_until: Option<u64>,
    /// How much was in use when the hard limit was last lowered below that; 0 when that never happened. Use above both this and the
    /// hard limit has another cause. `None` when it was not recorded.
    #[serde(default)]
    pub lowered_at: Option<u64>,
}

/// A running jail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedJail {
    /// How the warden made it. [`Self::mounts`] must show the same.
    pub access: Access,
    /// PID 1 of the jail.
    pub init: ProcessFacts,
    /// The host user that owns the jail's user namespace (`ioctl_nsfs(2)`, `NS_GET_OWNER_UID`).
    pub namespace_owner: u32,
    /// Rows of `/proc/PID/uid_map`: inside, outside, count.
    pub uid_map: Vec<[u32; 3]>,
    /// Rows of `/proc/PID/gid_map`.
    pub gid_map: Vec<[u32; 3]>,
    /// Inodes of the namespaces of the host's PID 1 and of the observer: none of them may be the jail's.
    pub host_namespaces: BTreeSet<u64>,
    /// The mount table of init, a mount after the one that carries it; at most [`MAX_MOUNTS`].
    pub mounts: Vec<MountFact>,
    /// Whether there were more mounts than are listed.
    pub mounts_cut: bool,
    /// Every process in the jail's control group, init among them; at most [`MAX_PROCESSES`].
    pub processes: Vec<ProcessFacts>,
    /// Whether there were more processes than are listed.
    pub processes_cut: bool,
    /// Control group by hierarchy: `"unified"`, `"memory"`, ... -> path below the hierarchy's root.
    pub cgroups: BTreeMap<String, String>,
    /// Whether the control group is frozen.
    pub frozen: bool,
    /// Limits as the kernel reports them.
    #[serde(deserialize_with = "crate::known_items")]
    pub limits: Vec<LimitFact>,
    /// Whether the reserve for a rescue session is given, which raises some of them.
    pub rescue: bool,
    /// Whether a process inside was refused the canary file, which only Landlock protects; `None` when init did not answer. The
    /// tenant controls init, so `false` is evidence that the wall is down, and `true` does not prove that it stands.
    pub landlock_denies_canary: Option<bool>,
    /// The sockets of its processes; `None` when they could not be examined.
    #[serde(default)]
    pub sockets: Option<SocketFacts>,
    /// Whether the warden's child reported, before it became init, that it was in its Landlock domain.
    #[serde(default)]
    pub landlock_at_start: bool,
    /// Whether the jail was made with the seccomp filter and the namespace counts of the running warden's version. The kernel shows
    /// neither. `None` from a warden of an earlier version.
    #[serde(default)]
    pub confined_now: Option<bool>,
    /// Processes in the jail's control group that do not descend from init, and so did not inherit its Landlock domain.
    #[serde(default)]
    pub entered: Vec<u32>,
    /// Processes of the host in the jail's namespaces; at most [`MAX_STRAYS`].
    #[serde(default)]
    pub visitors: Vec<Visitor>,
    /// The interfaces in the jail's network namespace; at most [`MAX_INTERFACES`]. `None` from a warden of an earlier version.
    #[serde(default)]
    pub interfaces: Option<Vec<String>>,
    /// Settings of its control groups that are not as in a fresh group.
    #[serde(default)]
    pub settings: Vec<GroupSetting>,
}

/// The sockets of a jail's processes, by the network namespace that each was created in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketFacts {
    /// The jail's own, as `SO_NETNS_COOKIE` has it.
    pub own: u64,
    /// The host's.
    pub host: u64,
    /// How many sockets were examined.
    pub looked: u32,
    /// Sockets of any other namespace than the jail's in which there is something to see, or that is a neighbour's; at most
    /// [`MAX_FOREIGN`].
    pub foreign: Vec<ForeignSocket>,
    /// Whether there were more descriptors, or more foreign sockets, than are examined.
    pub cut: bool,
}

/// A socket that was not created in the jail's network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignSocket {
    /// The network namespace that it was created in.
    pub network: u64,
    /// Pid of the process that holds it, on the host.
    pub pid: u32,
    /// The descriptor's number in that process.
    pub descriptor: i32,
}

/// The most foreign sockets of one jail that are listed.
pub const MAX_FOREIGN: usize = 64;

/// The most processes of one jail that are listed.
pub const MAX_PROCESSES: usize = 4096;

/// The most processes outside a control group that are listed.
pub const MAX_STRAYS: usize = 256;

/// The most network interfaces of one jail that are listed.
pub const MAX_INTERFACES: usize = 64;

/// The most rows of a mount table that are listed. A jail that may mount can make a hundred thousand.
pub const MAX_MOUNTS: usize = 1024;

/// One process, as `/proc/PID` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessFacts {
    /// As the host counts.
    pub pid: u32,
    /// Clock ticks after boot (`proc_pid_stat(5)`, field 22): with the pid, the identity of a process.
    pub start_time: u64,
    /// First 15 bytes of the program's name; chosen by the tenant.
    pub command: String,
    /// Real, effective, saved and file-system user, as the host counts.
    pub uids: [u32; 4],
    /// Inode of each namespace by kind.
    pub namespaces: BTreeMap<String, u64>,
    /// Bounding set of capabilities, one bit each (`capabilities(7)`).
    pub cap_bounding: u64,
    /// Permitted set.
    pub cap_permitted: u64,
    /// Inheritable set: must be empty.
    pub cap_inheritable: u64,
    /// Ambient set: must be empty.
    pub cap_ambient: u64,
    /// `no_new_privs`.
    pub no_new_privs: bool,
    /// Mode of seccomp: 0 none, 1 strict, 2 filter.
    pub seccomp: u32,
    /// Number of seccomp filters.
    pub seccomp_filters: u32,
    /// Control group by hierarchy.
    pub cgroups: BTreeMap<String, String>,
    /// Its rank among others, and its own limits; `None` from a warden of an earlier version.
    #[serde(default)]
    pub rank: Option<ProcessRank>,
}

/// The priority of a process, and the limits of that process alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRank {
    /// Nice value: -20 is served first, 19 last.
    pub nice: i32,
    /// Scheduling policy (`sched(7)`): 0 is the normal one, 1 and 2 run before it, 6 runs before these.
    pub scheduler: u32,
    /// What the kernel adds when it chooses a process to kill: -1000 is never killed.
    pub oom_score_adj: i32,
    /// Hard limit of open descriptors; `None` is no limit.
    pub open_files: Option<u64>,
    /// Hard limit of core dumps in bytes; `None` is no limit.
    pub core: Option<u64>,
}

/// A process of the host in a namespace of a jail, outside the jail's control group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Visitor {
    /// As the host counts.
    pub pid: u32,
    /// First 15 bytes of the program's name.
    pub command: String,
    /// Kinds of the namespaces that it shares with the jail's init.
    pub namespaces: Vec<String>,
}

/// A setting of a control group that no limit uses and that differs from a fresh group's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSetting {
    /// `memory.min`, ...
    pub file: String,
    /// The group's path below its hierarchy.
    pub group: String,
    /// What it holds.
    pub value: String,
    /// What a fresh group holds.
    pub fresh: String,
}

/// One row of a mount table (`proc_pid_mountinfo(5)`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountFact {
    /// Where it is, as the jail sees it.
    pub target: String,
    /// Root of the mount within its file system.
    pub root: String,
    /// `ext4`, `tmpfs`, ...
    pub fs_type: String,
    /// Per-mount options: `ro`, `nosuid`, `nodev`, `noexec`, `idmapped`, ...
    pub options: Vec<String>,
    /// Options of the file system.
    pub super_options: Vec<String>,
    /// `shared:N`, `master:N`, ...: must be empty.
    pub propagation: Vec<String>,
    /// Whether another mount covers it, so that no path leads to it.
    pub covered: bool,
}

impl MountFact {
    /// The size of a tmpfs; `None` where the kernel shows none, which is its default: half of the machine's memory.
    #[must_use]
    pub fn tmpfs_size(&self) -> Option<TmpfsSize> {
        self.super_options.iter().rev().find_map(|option| option.parse().ok())
    }
}

/// The size of a tmpfs, as the kernel shows it in a mount table and as a message has it: `size=4k`. In kibibytes, so that the
/// largest that a tenant can ask for fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TmpfsSize {
    /// Kibibytes: whole pages.
    pub kibibytes: u64,
}

impl From<ByteSize> for TmpfsSize {
    fn from(size: ByteSize) -> Self {
        Self { kibibytes: size.0 / 1024 }
    }
}

impl From<TmpfsSize> for ByteSize {
    fn from(size: TmpfsSize) -> Self {
        Self(size.kibibytes.saturating_mul(1024))
    }
}

impl fmt::Display for TmpfsSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("size={}k", self.kibibytes))
    }
}

impl From<TmpfsSize> for String {
    fn from(size: TmpfsSize) -> Self {
        size.to_string()
    }
}

/// A text that is not the size of a tmpfs as the kernel shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the size of a tmpfs, as \"size=4k\"")]
pub struct NotTmpfsSize;

impl FromStr for TmpfsSize {
    type Err = NotTmpfsSize;
    fn from_str(text: &str) -> Result<Self, NotTmpfsSize> {
        let number = text.strip_prefix("size=").and_then(|rest| rest.strip_suffix('k'));
        let kibibytes = number.and_then(|number| number.parse().ok()).ok_or(NotTmpfsSize)?;
        Ok(Self { kibibytes })
    }
}

impl TryFrom<String> for TmpfsSize {
    type Error = NotTmpfsSize;
    fn try_from(text: String) -> Result<Self, NotTmpfsSize> {
        text.parse()
    }
}

/// One limit, as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitFact {
    /// Which limit.
    #[serde(rename = "resource")]
    pub key: LimitKey,
    /// The kernel's file that was read, such as `memory.max`.
    pub file: String,
    /// What the kernel enforces, in the kernel's unit; `None` is "no limit".
    pub enforced: Option<u64>,
    /// In use now.
    pub used: Option<u64>,
    /// The highest use.
    pub peak: Option<u64>,
    /// How often the limit was hit.
    pub faults: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_tmpfs_reads_as_the_kernel_writes_it() {
        for (text, kibibytes) in [("size=4k", 4), ("size=0k", 0), ("size=18446744073709551612k", u64::MAX - 3)] {
            let size = TmpfsSize { kibibytes };
            assert_eq!((text.parse(), size.to_string().as_str()), (Ok(size), text));
        }
        for text in ["size=4", "size=4m", "4k", "size=-4k", "size=k", "nr_inodes=4k"] {
            assert_eq!(text.parse::<TmpfsSize>(), Err(NotTmpfsSize), "{text}");
        }
        assert_eq!(ByteSize::from(TmpfsSize { kibibytes: u64::MAX }), ByteSize(u64::MAX));
        assert_eq!(TmpfsSize::from(ByteSize(4 << 10)), TmpfsSize { kibibytes: 4 });
    }
}

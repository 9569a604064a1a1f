//! The facts that the kernel reports about a jail. `observe` reads them; `plan` and `audit` compare them.
//!
//! Danger: a tenant can choose some texts (`command`, mount points). They are bounded and must be escaped before
//! display. No decision may depend on them.

use crate::{Access, ByteSize, HostSocketName, IdRange, LimitKey, Mail, Nesting, TenantName};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The kinds of namespaces of a jail, as in `/proc/PID/ns`.
pub const NAMESPACES: [&str; 8] = ["user", "mnt", "pid", "ipc", "uts", "net", "cgroup", "time"];

/// The facts about one tenant on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// The tenant.
    pub tenant: TenantName,
    /// The ids from the ledger; `None` if the tenant never ran.
    pub ids: Option<IdRange>,
    /// The jail, if its init runs.
    pub jail: Option<ObservedJail>,
    /// Processes with an id of the tenant's range outside its control group. Each of them is a violation. At most
    /// [`MAX_STRAYS`].
    pub strays: Vec<ProcessFacts>,
    /// Its disk quota; `None` if this host counts nothing, or if the tenant has no storage.
    pub disk: Option<DiskFact>,
}

/// What is in force for one tenant. It has only the facts that a comparison with the policy needs, so that a thousand
/// tenants can be compared quickly. It does not prove any wall; [`Observed`] does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    /// The tenant.
    pub tenant: TenantName,
    /// The jail, if its init runs.
    pub jail: Option<JailInForce>,
    /// The pids of processes with an id of the tenant's range outside its control group; at most [`MAX_STRAYS`].
    pub strays: Vec<u32>,
    /// Its disk quota; `None` if this host counts nothing, or if the tenant has no storage.
    pub disk: Option<DiskFact>,
}

/// What is in force in a running jail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JailInForce {
    /// The access with which the warden made the jail. Only [`ObservedJail::mounts`] shows whether it is still in
    /// force.
    pub access: Access,
    /// The bounding set of init. All its children inherit it.
    pub cap_bounding: u64,
    /// Whether `no_new_privs` is set for init.
    pub no_new_privs: bool,
    /// The limits as the kernel reports them, without their use.
    #[serde(deserialize_with = "crate::known_items")]
    pub limits: Vec<LimitFact>,
    /// Whether the allowance of an emergency session is granted, which raises some limits.
    pub rescue: bool,
    /// The size of the tmpfs at each of the paths `/tmp` and `/dev/shm`.
    pub tmpfs: BTreeMap<String, TmpfsSize>,
    /// The sockets of the host that are lent to it; `None` from a warden of an earlier version.
    #[serde(default)]
    pub host_sockets: Option<BTreeSet<HostSocketName>>,
    /// The mail that it may send, as the server of its mail was started; `None` while there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mail: Option<Mail>,
    /// Whether it has an interface beside its loopback; `None` from a warden of an earlier version.
    #[serde(default)]
    pub connected: Option<bool>,
    /// Whether its users may make user namespaces; `None` from a version that did not note it.
    #[serde(default)]
    pub nesting: Option<Nesting>,
    /// Its network; `None` without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkInForce>,
}

/// The network of a running jail: what it was made with, and what `bailiwick-net` was told last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkInForce {
    /// The resolvers that `/etc/resolv.conf` inside has named since the start.
    pub resolvers: Vec<IpAddr>,
    /// The settings of the policy that is in force, by key, as text. A long value is cut and ends with its digest.
    pub settings: BTreeMap<String, String>,
}

/// A tenant's disk quota, as the kernel reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskFact {
    /// The quota of bytes.
    pub bytes: QuotaFact,
    /// The quota of inodes; `None` if they are not counted.
    pub inodes: Option<QuotaFact>,
    /// Whether the quota includes the tenant's directory and everything that is created in it.
    pub charged: bool,
    /// Whether the host's reserve is reached. The hard limit then equals the use, whatever the policy declares.
    pub held_back: bool,
}

/// One quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaFact {
    /// The amount in use.
    pub used: u64,
    /// The soft bound, which use may exceed for a grace period.
    pub soft: Option<u64>,
    /// The hard bound.
    pub hard: Option<u64>,
    /// The end of the grace period in seconds since 1970; `None` while use is below the soft bound.
    pub grace_until: Option<u64>,
    /// The use when the hard limit was last lowered below it; 0 if that never happened. Use above both this value and
    /// the hard limit has another cause. `None` if it was not recorded.
    #[serde(default)]
    pub lowered_at: Option<u64>,
}

/// A running jail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedJail {
    /// The access with which the warden made the jail. [`Self::mounts`] must show the same.
    pub access: Access,
    /// PID 1 of the jail.
    pub init: ProcessFacts,
    /// The host id of the owner of the jail's user namespace (`ioctl_nsfs(2)`, `NS_GET_OWNER_UID`).
    pub namespace_owner: u32,
    /// The rows of `/proc/PID/uid_map`: first id inside, first id outside, count.
    pub uid_map: Vec<[u32; 3]>,
    /// The rows of `/proc/PID/gid_map`.
    pub gid_map: Vec<[u32; 3]>,
    /// The inodes of the namespaces of the host's PID 1 and of the observer. The jail must have none of them.
    pub host_namespaces: BTreeSet<u64>,
    /// The mount table of init. Each mount comes after its parent. At most [`MAX_MOUNTS`].
    pub mounts: Vec<MountFact>,
    /// Whether there were more mounts than the list has.
    pub mounts_cut: bool,
    /// The processes in the jail's control group, with init; at most [`MAX_PROCESSES`].
    pub processes: Vec<ProcessFacts>,
    /// Whether there were more processes than the list has.
    pub processes_cut: bool,
    /// The control group in each hierarchy: the hierarchy's name (`"unified"`, `"memory"`, ...) and the path below its
    /// root.
    pub cgroups: BTreeMap<String, String>,
    /// Whether the control group is frozen.
    pub frozen: bool,
    /// The limits as the kernel reports them.
    #[serde(deserialize_with = "crate::known_items")]
    pub limits: Vec<LimitFact>,
    /// Whether the allowance of an emergency session is granted, which raises some limits.
    pub rescue: bool,
    /// Whether a process inside was refused the canary file, which only Landlock protects; `None` if init did not
    /// answer. The tenant controls init. So `false` is evidence that the wall is down, but `true` does not prove that
    /// it stands.
    pub landlock_denies_canary: Option<bool>,
    /// The sockets of its processes; `None` if they could not be examined.
    #[serde(default)]
    pub sockets: Option<SocketFacts>,
    /// Whether the warden's child reported that it was in its Landlock domain, before it became init.
    #[serde(default)]
    pub landlock_at_start: bool,
    /// Whether the jail has the seccomp filter and the namespace limits of the running warden's version. The kernel
    /// shows neither. `None` from a warden of an earlier version.
    #[serde(default)]
    pub confined_now: Option<bool>,
    /// The pids of processes in the jail's control group that are not descendants of init, and so did not inherit its
    /// Landlock domain.
    #[serde(default)]
    pub entered: Vec<u32>,
    /// The host's processes in namespaces of the jail; at most [`MAX_STRAYS`].
    #[serde(default)]
    pub visitors: Vec<Visitor>,
    /// The names of the interfaces in the jail's network namespace; at most [`MAX_INTERFACES`]. `None` from a warden of
    /// an earlier version.
    #[serde(default)]
    pub interfaces: Option<Vec<String>>,
    /// The settings of its control groups that differ from those of a new group.
    #[serde(default)]
    pub settings: Vec<GroupSetting>,
}

/// The sockets of a jail's processes. Each socket belongs to the network namespace in which it was created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketFacts {
    /// The cookie of the jail's network namespace, as in `SO_NETNS_COOKIE`.
    pub own: u64,
    /// The cookie of the host's network namespace.
    pub host: u64,
    /// The number of examined sockets.
    pub looked: u32,
    /// The sockets of other network namespaces than the jail's, if such a namespace shows something or belongs to
    /// another tenant; at most [`MAX_FOREIGN`].
    pub foreign: Vec<ForeignSocket>,
    /// Whether there were more descriptors, or more foreign sockets, than the limits allow.
    pub cut: bool,
}

/// A socket that was created outside the jail's network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignSocket {
    /// The cookie of the network namespace in which it was created.
    pub network: u64,
    /// The host pid of the process that has it open.
    pub pid: u32,
    /// The number of the descriptor in that process.
    pub descriptor: i32,
}

/// The limit of listed foreign sockets of one jail.
pub const MAX_FOREIGN: usize = 64;

/// The limit of listed processes of one jail.
pub const MAX_PROCESSES: usize = 4096;

/// The limit of listed processes outside a control group.
pub const MAX_STRAYS: usize = 256;

/// The limit of listed network interfaces of one jail.
pub const MAX_INTERFACES: usize = 64;

/// The limit of listed mounts of one jail. A jail that may mount can make a hundred thousand.
pub const MAX_MOUNTS: usize = 1024;

/// One process, as `/proc/PID` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessFacts {
    /// The pid on the host.
    pub pid: u32,
    /// The start in clock ticks after boot (`proc_pid_stat(5)`, field 22). Pid and start together identify a process.
    pub start_time: u64,
    /// The first 15 bytes of the program's name, which the tenant chooses.
    pub command: String,
    /// The real, effective, saved and file-system user ids on the host.
    pub uids: [u32; 4],
    /// The inode of each namespace, by kind.
    pub namespaces: BTreeMap<String, u64>,
    /// The bounding set of capabilities, one bit each (`capabilities(7)`).
    pub cap_bounding: u64,
    /// The permitted set.
    pub cap_permitted: u64,
    /// The inheritable set. It must be empty.
    pub cap_inheritable: u64,
    /// The ambient set. It must be empty.
    pub cap_ambient: u64,
    /// Whether `no_new_privs` is set.
    pub no_new_privs: bool,
    /// The mode of seccomp: 0 is none, 1 strict, 2 filter.
    pub seccomp: u32,
    /// The number of seccomp filters.
    pub seccomp_filters: u32,
    /// The control group in each hierarchy.
    pub cgroups: BTreeMap<String, String>,
    /// The priority and the limits of the process; `None` from a warden of an earlier version.
    #[serde(default)]
    pub rank: Option<ProcessRank>,
}

/// The priority of a process, and the limits of that process alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRank {
    /// The nice value: -20 has the highest priority, 19 the lowest.
    pub nice: i32,
    /// The scheduling policy (`sched(7)`): 0 is the normal policy, 1 and 2 have priority over it, and 6 over these.
    pub scheduler: u32,
    /// The value that the kernel adds when it chooses a process to kill. It never kills a process with -1000.
    pub oom_score_adj: i32,
    /// The hard limit of open descriptors; `None` without a limit.
    pub open_files: Option<u64>,
    /// The hard limit of core dumps in bytes; `None` without a limit.
    pub core: Option<u64>,
}

/// A process of the host that is in a namespace of a jail, but not in the jail's control group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Visitor {
    /// The pid on the host.
    pub pid: u32,
    /// The first 15 bytes of the program's name.
    pub command: String,
    /// The kinds of the namespaces that it shares with the jail's init.
    pub namespaces: Vec<String>,
}

/// A setting of a control group that no limit uses, and that differs from that of a new group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSetting {
    /// The name of the file: `memory.min`, ...
    pub file: String,
    /// The path of the group below its hierarchy.
    pub group: String,
    /// The value.
    pub value: String,
    /// The value in a new group.
    pub fresh: String,
}

/// One row of a mount table (`proc_pid_mountinfo(5)`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountFact {
    /// The mount point, as the jail sees it.
    pub target: String,
    /// The root of the mount within its file system.
    pub root: String,
    /// The type of the file system: `ext4`, `tmpfs`, ...
    pub fs_type: String,
    /// The options of the mount: `ro`, `nosuid`, `nodev`, `noexec`, `idmapped`, ...
    pub options: Vec<String>,
    /// The options of the file system.
    pub super_options: Vec<String>,
    /// The propagation: `shared:N`, `master:N`, ... It must be empty.
    pub propagation: Vec<String>,
    /// Whether another mount covers it, so that no path leads to it.
    pub covered: bool,
}

impl MountFact {
    /// The size of a tmpfs. `None` if the kernel shows no size: then it is the default, half of the machine's memory.
    #[must_use]
    pub fn tmpfs_size(&self) -> Option<TmpfsSize> {
        self.super_options.iter().rev().find_map(|option| option.parse().ok())
    }
}

/// The size of a tmpfs. A mount table and a message have it as text: `size=4k`. The unit is kibibytes, so that the
/// largest size that a tenant can request fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TmpfsSize {
    /// The size in kibibytes. It is a number of whole pages.
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

/// The text is not the size of a tmpfs, as the kernel shows it.
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
    /// The limit.
    #[serde(rename = "resource")]
    pub key: LimitKey,
    /// The kernel's file with the value, such as `memory.max`.
    pub file: String,
    /// The value that the kernel enforces, in the kernel's unit; `None` without a limit.
    pub enforced: Option<u64>,
    /// The present use.
    pub used: Option<u64>,
    /// The highest use.
    pub peak: Option<u64>,
    /// The number of times that the limit was hit.
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

//! What the host is capable of: probed by `observe`, never assumed.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where a controller of control groups is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hierarchy {
    /// The unified hierarchy (`cgroups(7)`, version 2).
    Unified,
    /// A hierarchy of version 1 of its own.
    V1,
}

/// The name of the unified hierarchy, beside those of version 1, which have the names of their controllers.
pub const UNIFIED: &str = "unified";

impl Hierarchy {
    /// The name of the hierarchy in which a controller is.
    #[must_use]
    pub fn name(self, controller: &str) -> &str {
        match self {
            Self::Unified => UNIFIED,
            Self::V1 => controller,
        }
    }
}

/// Facts of the host that a plan depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// `uname -r`.
    pub kernel: String,
    /// Highest Landlock ABI of the kernel; 0 when it has none.
    pub landlock_abi: u32,
    /// Where each controller that can be used is: `cpu`, `memory`, `pids`, `io`/`blkio`.
    pub controllers: BTreeMap<String, Hierarchy>,
    /// Symbolic links in the host's root that a merged `/usr` has: `bin` -> `usr/bin`.
    pub root_links: BTreeMap<String, String>,
    /// Which entries of the host's `/etc` a jail can be shown.
    pub host_etc: Vec<String>,
    /// Absolute paths below `/proc` that this kernel has and the table of what a jail may see does not name. Every jail hides them.
    #[serde(default)]
    pub unlisted: Vec<String>,
    /// The file system that holds the state directory.
    pub storage: StorageFacts,
}

impl HostFacts {
    /// Where a controller is, if this host has it.
    #[must_use]
    pub fn controller(&self, name: &str) -> Option<Hierarchy> {
        self.controllers.get(name).copied()
    }
}

/// The file system that holds the state directory, and the devices below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageFacts {
    /// `ext4`, `xfs`, `btrfs`, ...
    pub fs_type: String,
    /// What counts and bounds the disk space of one tenant.
    pub quota: QuotaFacts,
    /// The whole devices that hold it: the one it was made on first, then, through LVM and md, the real ones.
    pub devices: Vec<BlockDevice>,
}

/// What counts and bounds the disk space of one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuotaFacts {
    /// Project quotas (`quotactl(2)`): bytes and inodes, soft and hard.
    Projects,
    /// Quota groups of btrfs: bytes, hard only.
    Groups,
    /// Nothing.
    Nothing {
        /// Why.
        why: String,
        /// What to do about it.
        remedy: String,
    },
}

impl QuotaFacts {
    /// Whether any limit holds.
    #[must_use]
    pub fn bounds_anything(&self) -> bool {
        !matches!(self, Self::Nothing { .. })
    }
}

/// A whole block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockDevice {
    /// `8:0`, as files of control groups name it.
    pub number: String,
    /// `sda`, as `/sys/class/block` names it.
    pub name: String,
    /// What shares it out by weight; `None` when nothing does.
    pub weight: Option<WeightPolicy>,
}

/// What shares a block device out by weight (kernel documentation, admin-guide/cgroup-v2, "IO").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WeightPolicy {
    /// The scheduler bfq: `io.bfq.weight`.
    Bfq,
    /// The cost model, switched on in `io.cost.qos`: `io.weight`.
    Cost,
}

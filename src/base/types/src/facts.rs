//! The facts of the host that a plan needs. `observe` reads them; none is assumed.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The hierarchy of a control-group controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hierarchy {
    /// The unified hierarchy (`cgroups(7)`, version 2).
    Unified,
    /// A separate hierarchy of version 1.
    V1,
}

/// The name of the unified hierarchy. A hierarchy of version 1 has the name of its controller.
pub const UNIFIED: &str = "unified";

impl Hierarchy {
    /// The name of the hierarchy that has this controller.
    #[must_use]
    pub fn name(self, controller: &str) -> &str {
        match self {
            Self::Unified => UNIFIED,
            Self::V1 => controller,
        }
    }
}

/// The facts of the host that a plan depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// The kernel's release, as in `uname -r`.
    pub kernel: String,
    /// The highest Landlock ABI of the kernel; 0 without Landlock.
    pub landlock_abi: u32,
    /// The hierarchy of each usable controller: `cpu`, `memory`, `pids`, `io`/`blkio`.
    pub controllers: BTreeMap<String, Hierarchy>,
    /// The symbolic links in the host's root, as a merged `/usr` has them: `bin` -> `usr/bin`.
    pub root_links: BTreeMap<String, String>,
    /// The entries of the host's `/etc` that a jail may see.
    pub host_etc: Vec<String>,
    /// The absolute paths below `/proc` that this kernel has and the allow-list of a jail does not contain. Every jail
    /// hides them.
    #[serde(default)]
    pub unlisted: Vec<String>,
    /// The file system that holds the state directory.
    pub storage: StorageFacts,
}

impl HostFacts {
    /// The hierarchy of a controller; `None` if this host does not have the controller.
    #[must_use]
    pub fn controller(&self, name: &str) -> Option<Hierarchy> {
        self.controllers.get(name).copied()
    }
}

/// The file system that holds the state directory, and the devices below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageFacts {
    /// The type of the file system: `ext4`, `xfs`, `btrfs`, ...
    pub fs_type: String,
    /// What counts and bounds the disk space of one tenant.
    pub quota: QuotaFacts,
    /// The whole devices that hold the file system. The first is the device that the file system was made on. Then come
    /// the physical devices below LVM and md.
    pub devices: Vec<BlockDevice>,
}

/// What counts and bounds the disk space of one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuotaFacts {
    /// Project quotas (`quotactl(2)`): soft and hard limits of bytes and inodes.
    Projects,
    /// Quota groups of btrfs: hard limits of bytes.
    Groups,
    /// Nothing counts it.
    Nothing {
        /// The reason.
        why: String,
        /// What an operator can do about it.
        remedy: String,
    },
}

impl QuotaFacts {
    /// Whether this host enforces any disk limit.
    #[must_use]
    pub fn bounds_anything(&self) -> bool {
        !matches!(self, Self::Nothing { .. })
    }
}

/// A whole block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockDevice {
    /// The number, as files of control groups have it: `8:0`.
    pub number: String,
    /// The name, as in `/sys/class/block`: `sda`.
    pub name: String,
    /// The policy that shares the device by weight; `None` without one.
    pub weight: Option<WeightPolicy>,
}

/// The policies that share a block device by weight (kernel documentation, admin-guide/cgroup-v2, "IO").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WeightPolicy {
    /// The scheduler bfq, with the file `io.bfq.weight`.
    Bfq,
    /// The cost model, which `io.cost.qos` enables, with the file `io.weight`.
    Cost,
}

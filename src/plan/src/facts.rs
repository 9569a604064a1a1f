//! What the host is capable of: probed once by `observe`, never assumed.

use std::collections::BTreeMap;

/// Where a controller of control groups is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hierarchy {
    /// The unified hierarchy (`cgroups(7)`, version 2).
    Unified,
    /// A hierarchy of version 1 of its own.
    V1,
}

/// Facts of the host that a plan depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// `uname -r`.
    pub kernel: String,
    /// Highest Landlock ABI of the kernel; 0 when it has none.
    pub landlock_abi: u32,
    /// Where each controller that can be used is: `cpu`, `memory`, `pids`, `io`/`blkio`.
    pub controllers: BTreeMap<String, Hierarchy>,
    /// Symbolic links in the host's root that a merged `/usr` has: `bin` -> `usr/bin`.
    pub root_links: BTreeMap<String, String>,
    /// Which rows of [`crate::mount::HOST_ETC`] the host has.
    pub host_etc: Vec<String>,
}

impl HostFacts {
    /// Where a controller is, if this host has it.
    #[must_use]
    pub fn controller(&self, name: &str) -> Option<Hierarchy> {
        self.controllers.get(name).copied()
    }
}

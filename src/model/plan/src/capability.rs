//! The capabilities of a jail's root. They apply to the jail's own user namespace only (`capabilities(7)`).

use bailiwick_types::Profile;

/// A set of capabilities, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapabilitySet(pub u64);

/// One capability: its bit, its name, and the profiles that may have it.
struct Row {
    bit: u8,
    name: &'static str,
    grant: Grant,
}

/// The profiles that get a capability.
#[derive(PartialEq)]
enum Grant {
    /// Every profile.
    All,
    /// `system` only.
    System,
    /// No profile.
    Never,
}

macro_rules! capabilities {
    ($($bit:literal $name:ident $grant:ident,)*) => {
        const ROWS: &[Row] = &[$(Row { bit: $bit, name: stringify!($name), grant: Grant::$grant }),*];

        impl CapabilitySet {
            $(#[doc = concat!("`CAP_", stringify!($name), "` alone.")] pub const $name: Self = Self(1 << $bit);)*
        }
    };
}

// Every capability of the kernel (`linux/capability.h`, Linux 6.18). A capability without a row is not granted.
capabilities! {
    0 CHOWN All,
    1 DAC_OVERRIDE All,
    2 DAC_READ_SEARCH All,
    3 FOWNER All,
    4 FSETID All,
    5 KILL All,
    6 SETGID All,
    7 SETUID All,
    8 SETPCAP All,
    9 LINUX_IMMUTABLE Never,     // a tenant could make files that a purge cannot remove
    10 NET_BIND_SERVICE All,     // ports below 1024 in the jail's own network namespace
    11 NET_BROADCAST Never,      // the kernel does not use it
    12 NET_ADMIN Never,          // netfilter, traffic control; neighbour entries, uncharged, in one table of the host
    13 NET_RAW Never,            // packet sockets: the same, and spoofing
    14 IPC_LOCK Never,           // checked against the initial user namespace, so it would have no effect
    15 IPC_OWNER All,
    16 SYS_MODULE Never,
    17 SYS_RAWIO Never,
    18 SYS_CHROOT All,
    19 SYS_PTRACE All,           // the jail's own pid namespace only
    20 SYS_PACCT Never,
    21 SYS_ADMIN System,         // mounts and namespaces of its own
    22 SYS_BOOT Never,           // reboot(2) is refused in every profile
    23 SYS_NICE All,
    24 SYS_RESOURCE Never,       // bypasses disk quotas (ext4) and resource limits
    25 SYS_TIME Never,
    26 SYS_TTY_CONFIG Never,
    27 MKNOD Never,              // a user namespace refuses it anyway
    28 LEASE All,
    29 AUDIT_WRITE All,          // su and sshd log each login and fail without it
    30 AUDIT_CONTROL Never,
    31 SETFCAP All,              // package managers set file capabilities
    32 MAC_OVERRIDE Never,
    33 MAC_ADMIN Never,
    34 SYSLOG Never,
    35 WAKE_ALARM Never,
    36 BLOCK_SUSPEND Never,
    37 AUDIT_READ Never,
    38 PERFMON Never,
    39 BPF Never,
    40 CHECKPOINT_RESTORE Never,
}

impl CapabilitySet {
    /// The bounding set of a profile.
    #[must_use]
    pub fn of(profile: Profile) -> Self {
        let granted = |row: &&Row| match row.grant {
            Grant::All => true,
            Grant::System => profile == Profile::System,
            Grant::Never => false,
        };
        Self(ROWS.iter().filter(granted).fold(0, |set, row| set | 1 << row.bit))
    }

    /// The set that earlier versions granted; `None` if it was the same. A jail with this set keeps running, and the
    /// audit reports it.
    #[must_use]
    pub fn of_earlier_version(profile: Profile) -> Option<Self> {
        (profile == Profile::System).then(|| Self::all_of(&[Self::of(profile), Self::NET_ADMIN]))
    }

    /// The union of sets.
    #[must_use]
    pub const fn all_of(sets: &[Self]) -> Self {
        let mut all = 0;
        let mut index = 0;
        while index < sets.len() {
            all |= sets[index].0;
            index += 1;
        }
        Self(all)
    }

    /// Whether this set contains another.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The names of the capabilities, as `cap_NAME`. An unknown bit has its number as its name.
    #[must_use]
    pub fn names(self) -> Vec<String> {
        (0..64u8)
            .filter(|bit| self.has(Self(1 << bit)))
            .map(|bit| match ROWS.iter().find(|row| row.bit == bit) {
                Some(row) => format!("cap_{}", row.name.to_ascii_lowercase()),
                None => format!("cap_{bit}"),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capability_has_one_row_in_order() {
        for (index, row) in ROWS.iter().enumerate() {
            assert_eq!(usize::from(row.bit), index, "{}", row.name);
        }
    }

    #[test]
    fn the_tight_profiles_can_neither_mount_nor_reach_netfilter_nor_pass_a_quota() {
        let never = [CapabilitySet::NET_ADMIN, CapabilitySet::NET_RAW, CapabilitySet::SYS_RESOURCE];
        for profile in [Profile::Web, Profile::Shell] {
            for one in never.into_iter().chain([CapabilitySet::SYS_ADMIN]) {
                assert!(!CapabilitySet::of(profile).has(one), "{profile} has {:?}", one.names());
            }
        }
        assert!(never.iter().all(|one| !CapabilitySet::of(Profile::System).has(*one)));
        assert!(CapabilitySet::of(Profile::System).names().contains(&"cap_sys_admin".to_owned()));
    }
}

//! Capabilities that a jail's root may have: over the jail's own user namespace only (`capabilities(7)`).

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

/// Who gets a capability.
#[derive(PartialEq)]
enum Grant {
    /// Every profile.
    All,
    /// `system` only.
    System,
    /// Nobody.
    Never,
}

macro_rules! rows {
    ($($bit:literal $name:ident $grant:ident,)*) => {
        &[$(Row { bit: $bit, name: stringify!($name), grant: Grant::$grant }),*]
    };
}

/// Every capability of the kernel (`linux/capability.h`, 6.18). What is not listed is not granted.
const ROWS: &[Row] = rows![
    0 chown All,
    1 dac_override All,
    2 dac_read_search All,
    3 fowner All,
    4 fsetid All,
    5 kill All,
    6 setgid All,
    7 setuid All,
    8 setpcap All,
    9 linux_immutable Never,     // would let a tenant make files that a purge cannot remove
    10 net_bind_service All,     // ports below 1024 of the jail's own network namespace
    11 net_broadcast Never,      // unused by the kernel
    12 net_admin Never,          // netfilter and traffic control; neighbours, charged to nobody and of one table for the host
    13 net_raw Never,            // packet sockets: likewise, and spoofing
    14 ipc_lock Never,           // checked against the initial user namespace: no effect but a surprise
    15 ipc_owner All,
    16 sys_module Never,
    17 sys_rawio Never,
    18 sys_chroot All,
    19 sys_ptrace All,           // own pid namespace only
    20 sys_pacct Never,
    21 sys_admin System,         // mounts and namespaces of its own
    22 sys_boot Never,           // reboot(2) is refused in every profile
    23 sys_nice All,
    24 sys_resource Never,       // passes disk quotas (ext4) and resource limits
    25 sys_time Never,
    26 sys_tty_config Never,
    27 mknod Never,              // refused in a user namespace anyway
    28 lease All,
    29 audit_write All,          // su and sshd log a login and fail without it
    30 audit_control Never,
    31 setfcap All,              // package managers set file capabilities
    32 mac_override Never,
    33 mac_admin Never,
    34 syslog Never,
    35 wake_alarm Never,
    36 block_suspend Never,
    37 audit_read Never,
    38 perfmon Never,
    39 bpf Never,
    40 checkpoint_restore Never,
];

impl CapabilitySet {
    /// The bounding set of a jail.
    #[must_use]
    pub fn of(profile: Profile) -> Self {
        let granted = |row: &&Row| match row.grant {
            Grant::All => true,
            Grant::System => profile == Profile::System,
            Grant::Never => false,
        };
        Self(ROWS.iter().filter(granted).fold(0, |set, row| set | 1 << row.bit))
    }

    /// The set that earlier versions gave, where it was another: a jail that has it goes on, and the audit tells of it.
    #[must_use]
    pub fn of_earlier_version(profile: Profile) -> Option<Self> {
        const NET_ADMIN: u64 = 1 << 12;
        (profile == Profile::System).then(|| Self(Self::of(profile).0 | NET_ADMIN))
    }

    /// Whether a capability is in the set.
    #[must_use]
    pub fn has(self, bit: u8) -> bool {
        self.0 & (1 << bit) != 0
    }

    /// The names in the set, as `cap_NAME`; unknown bits as numbers.
    #[must_use]
    pub fn names(self) -> Vec<String> {
        (0..64u8)
            .filter(|bit| self.has(*bit))
            .map(|bit| match ROWS.iter().find(|row| row.bit == bit) {
                Some(row) => format!("cap_{}", row.name),
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
        for profile in [Profile::Web, Profile::Shell] {
            for bit in [12, 13, 21, 24] {
                assert!(!CapabilitySet::of(profile).has(bit), "{profile} has {bit}");
            }
        }
        assert!([12, 13, 24].iter().all(|bit| !CapabilitySet::of(Profile::System).has(*bit)));
        assert!(CapabilitySet::of(Profile::System).names().contains(&"cap_sys_admin".to_owned()));
    }
}

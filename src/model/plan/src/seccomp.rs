//! The system calls of a jail: a table that gives a reason for each row, and the filter that is compiled from it
//! (`seccomp(2)`).
//!
//! Danger: every tenant can use a mistake in this module. Therefore the table is an allow-list. A call of another
//! architecture ends the process. A number without a row returns `ENOSYS`, and so do x32 numbers. A check compares the
//! 32 bits of an argument that the kernel reads; a check of a pointer compares both halves. Few calls have checks of
//! arguments: the kernel caches the numbers that are always allowed and never runs the filter for them.

mod calls;
mod program;

pub use program::{Instruction, SeccompData, evaluate};

use bailiwick_types::Profile;
use linux_raw_sys::errno::ENOSYS;
use linux_raw_sys::general::{__NR_ioctl, __NR_prlimit64, __NR_quotactl_fd, __NR_syncfs};

#[cfg(not(target_arch = "x86_64"))]
compile_error!("the system-call table is written for x86_64: another architecture needs numbers and checks of its own");

/// `AUDIT_ARCH_X86_64` of `linux/audit.h`: the kernel's constant for the only system-call interface that a jail has.
pub const ARCHITECTURE: u32 = 0xC000_003E;

/// The bit that marks an x32 number. All numbers of the table must be below it.
const X32_BIT: u32 = 0x4000_0000;

/// The rule for a number without a row.
const UNKNOWN: Rule = errno(ENOSYS);

/// What the filter does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The kernel runs the call.
    Allow,
    /// The kernel does not run the call. It returns this error, or success for 0.
    Errno(u16),
    /// The kernel does not run the call. It ends the process.
    Kill,
}

/// How the filter decides about a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The same verdict for all arguments.
    Always(Verdict),
    /// The verdict depends on an argument.
    Check(&'static Check),
}

/// A test of one half of an argument: is the half, masked, one of the values?
#[derive(Debug, PartialEq, Eq)]
pub struct Check {
    /// The index of the argument, from 0 to 5.
    pub argument: u8,
    /// The half to test. Only pointers need a test of the upper half: the kernel reads the lower half only of all other
    /// arguments.
    pub half: Half,
    /// The bits to compare.
    pub mask: u32,
    /// The values to compare with.
    pub values: &'static [u32],
    /// The rule if one of the values is equal.
    pub then: Rule,
    /// The rule if none is equal.
    pub otherwise: Rule,
}

/// One half of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// The lower 32 bits.
    Low,
    /// The upper 32 bits.
    High,
}

/// One system call in one profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The number of the call.
    pub number: u32,
    /// The name of the call.
    pub name: &'static str,
    /// The rule for the call.
    pub rule: Rule,
    /// The reason for the rule.
    pub remark: &'static str,
}

/// A rule that returns an error. `number` is a constant of `linux_raw_sys::errno`.
const fn errno(number: u32) -> Rule {
    assert!(number <= 4095, "the kernel cuts the number of a refusal here (MAX_ERRNO)");
    #[expect(clippy::cast_possible_truncation, reason = "the line above")]
    Rule::Always(Verdict::Errno(number as u16))
}

impl Rule {
    /// The verdict on a call with these arguments.
    #[must_use]
    pub fn verdict(self, arguments: &[u64; 6]) -> Verdict {
        let mut rule = self;
        loop {
            match rule {
                Rule::Always(verdict) => return verdict,
                Rule::Check(check) => {
                    let argument = arguments[usize::from(check.argument)];
                    let argument = match check.half {
                        Half::Low => argument & u64::from(u32::MAX),
                        Half::High => argument >> 32,
                    } & u64::from(check.mask);
                    let held = check.values.iter().any(|value| u64::from(*value) == argument);
                    rule = if held { check.then } else { check.otherwise };
                }
            }
        }
    }
}

/// The rows of all known calls, sorted by number.
#[must_use]
pub fn table(profile: Profile) -> Vec<Row> {
    let mut rows: Vec<Row> = calls::GROUPS
        .iter()
        .flat_map(|group| {
            let rule = group.rule(profile);
            group.calls.iter().map(move |&(number, name)| Row { number, name, rule, remark: group.remark })
        })
        .collect();
    rows.sort_unstable_by_key(|row| row.number);
    rows
}

/// The filter of a profile, as a program for the kernel.
#[must_use]
pub fn filter(profile: Profile) -> Vec<Instruction> {
    program::compile(&rules(profile))
}

/// The filter of the warden. The warden needs no call that every jail is refused, with four exceptions: calls that
/// limit a tenant's disk space and processes, and the call that writes a tenant's first files to disk. Every jail
/// inherits this filter and adds its own.
#[must_use]
pub fn filter_of_warden() -> Vec<Instruction> {
    let mut rules = rules(Profile::System);
    for number in [__NR_ioctl, __NR_quotactl_fd, __NR_prlimit64, __NR_syncfs] {
        rules[number as usize] = Rule::Always(Verdict::Allow);
    }
    program::compile(&rules)
}

/// The filter of an FTP server's process inside a jail. It is the same for all profiles.
#[must_use]
pub fn filter_of_ftp() -> Vec<Instruction> {
    let mut rules = rules(Profile::Web);
    for group in calls::OF_FTP {
        for &(number, _) in group.calls {
            rules[number as usize] = group.rule(Profile::Web);
        }
    }
    program::compile(&rules)
}

/// The filter of the program that lends a socket of the host to a tenant. It runs on the host, beside the jail.
#[must_use]
pub fn filter_of_lending() -> Vec<Instruction> {
    only(calls::OF_LENDING)
}

/// The filter of the process that makes the links between jails and the router.
#[must_use]
pub fn filter_of_link_maker() -> Vec<Instruction> {
    only(calls::OF_LINK_MAKER)
}

/// The filter of the router's process.
#[must_use]
pub fn filter_of_router() -> Vec<Instruction> {
    only(calls::OF_ROUTER)
}

/// The filter of each thread of the program that tells Prometheus what is measured.
#[must_use]
pub fn filter_of_exporter() -> Vec<Instruction> {
    only(calls::OF_EXPORTER)
}

/// A filter that refuses every call without a row in these groups.
fn only(groups: &[calls::Group]) -> Vec<Instruction> {
    let mut rules = rules(Profile::Web);
    rules.fill(calls::REFUSE);
    for group in groups {
        for &(number, _) in group.calls {
            rules[number as usize] = group.rule(Profile::Web);
        }
    }
    program::compile(&rules)
}

fn rules(profile: Profile) -> Vec<Rule> {
    let mut rules = Vec::new();
    for group in calls::GROUPS {
        for &(number, _) in group.calls {
            let number = number as usize;
            if rules.len() <= number {
                rules.resize(number + 1, UNKNOWN);
            }
            rules[number] = group.rule(profile);
        }
    }
    rules
}

/// The name of a system call, for messages; `None` for an unknown number.
#[must_use]
pub fn name(number: u32) -> Option<&'static str> {
    calls::GROUPS.iter().flat_map(|group| group.calls).find(|call| call.0 == number).map(|call| call.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use linux_raw_sys::general::{
        __NR_bpf, __NR_clone, __NR_clone3, __NR_getpid, __NR_ioctl, __NR_mount, __NR_mprotect, __NR_personality,
        __NR_prctl, __NR_setsockopt, __NR_socket, __NR_socketpair, __NR_sync, __NR_unshare, CLONE_FILES,
        CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER, CLONE_NEWUTS,
        CLONE_SETTLS, CLONE_SIGHAND, CLONE_THREAD, CLONE_VFORK, CLONE_VM,
    };
    use linux_raw_sys::{ioctl, net};
    use std::collections::BTreeMap;

    const PERMISSION: Verdict = Verdict::Errno(1);
    const ABSENT: Verdict = Verdict::Errno(38);
    const NO_FAMILY: Verdict = Verdict::Errno(97);
    const NO_PROTOCOL: Verdict = Verdict::Errno(93);
    /// Bits above the 32 bits that the kernel reads. They must not change a verdict.
    const RUBBISH: [u64; 3] = [0, 1 << 32, 0xdead_beef << 32];

    /// The verdict of a profile's filter on a call of the native architecture.
    fn call(profile: Profile, number: u32, arguments: &[u64]) -> Verdict {
        let mut data = SeccompData { number, architecture: ARCHITECTURE, arguments: [0; 6] };
        data.arguments[..arguments.len()].copy_from_slice(arguments);
        evaluate(&filter(profile), &data)
    }

    #[test]
    fn every_number_of_the_kernel_has_one_row() {
        let mut count = BTreeMap::new();
        for (number, _) in calls::GROUPS.iter().flat_map(|group| group.calls) {
            *count.entry(*number).or_insert(0) += 1;
        }
        let known: Vec<u32> = (0..=335).chain(424..=469).collect();
        assert!(count.values().all(|rows| *rows == 1), "a call has two rows: {count:?}");
        assert_eq!(count.into_keys().collect::<Vec<_>>(), known);
    }

    #[test]
    fn calls_have_the_kernels_names_and_a_reason() {
        assert_eq!(name(0), Some("read"));
        assert_eq!(name(435), Some("clone3"));
        assert_eq!(name(156), Some("_sysctl"));
        assert_eq!(name(400), None);
        assert_eq!(name(X32_BIT), None);
        for row in table(Profile::System) {
            assert_eq!(name(row.number), Some(row.name));
            assert!(!row.remark.is_empty(), "{} lacks a reason", row.name);
        }
    }

    #[test]
    fn filters_say_what_the_tables_say() {
        let arguments = [0, 1, 3, 16, 41, 0xff, 0x5412, 0x4000_0000, u64::MAX, 1 << 32];
        for profile in Profile::ALL {
            let (rows, program) = (table(*profile), filter(*profile));
            for number in (0..=600).chain([X32_BIT - 1, X32_BIT, X32_BIT + 41, X32_BIT + 520, u32::MAX]) {
                let row = rows.iter().find(|row| row.number == number);
                for argument in arguments {
                    let data = SeccompData { number, architecture: ARCHITECTURE, arguments: [argument; 6] };
                    let want = row.map_or(ABSENT, |row| row.rule.verdict(&data.arguments));
                    assert_eq!(evaluate(&program, &data), want, "{profile}: {number} with {argument:#x}");
                }
            }
        }
    }

    #[test]
    fn another_architecture_ends_the_process_and_x32_does_not_exist() {
        for profile in Profile::ALL {
            let program = filter(*profile);
            for architecture in [0x4000_0003, 0x4000_00b7, 0, 0x3e, u32::MAX] {
                let data = SeccompData { number: __NR_getpid, architecture, arguments: [0; 6] };
                assert_eq!(evaluate(&program, &data), Verdict::Kill, "{architecture:#x}");
            }
            for number in 0..=600 {
                assert_eq!(call(*profile, X32_BIT | number, &[]), ABSENT);
            }
        }
    }

    #[test]
    fn whoever_lends_a_socket_opens_nothing_and_reaches_nobody() {
        let program = filter_of_lending();
        let verdict = |number: u32, arguments: [u64; 6]| {
            evaluate(&program, &SeccompData { number, architecture: ARCHITECTURE, arguments })
        };
        let stream = |family: u32, kind: u64| verdict(__NR_socket, [u64::from(family), kind, 0, 0, 0, 0]);
        assert_eq!(stream(net::AF_UNIX, 1 | 0o2_004_000), Verdict::Allow);
        for (family, kind) in [(net::AF_UNIX, 2), (net::AF_UNIX, 5), (net::AF_INET, 1), (net::AF_NETLINK, 3)] {
            assert_eq!(stream(family, kind), PERMISSION);
        }
        let named = |number: &u32| name(*number).is_some();
        let allowed = (0..=600).filter(named).filter(|number| verdict(*number, [1; 6]) == Verdict::Allow);
        let allowed: Vec<&str> = allowed.filter_map(name).collect();
        let golden = calls::OF_LENDING.iter().flat_map(|group| group.calls).map(|call| call.1);
        assert_eq!(allowed.iter().copied().collect::<std::collections::BTreeSet<_>>(), golden.collect());
        for refused in [
            "open",
            "openat",
            "openat2",
            "execve",
            "execveat",
            "clone",
            "clone3",
            "kill",
            "ptrace",
            "ioctl",
            "sendmsg",
            "recvmsg",
            "bind",
            "listen",
            "prctl",
            "mprotect",
            "memfd_create",
            "setns",
            "unshare",
            "chroot",
        ] {
            assert!(!allowed.contains(&refused), "{refused}");
        }
        let foreign = SeccompData { number: __NR_getpid, architecture: 0x4000_0003, arguments: [0; 6] };
        assert_eq!(evaluate(&program, &foreign), Verdict::Kill);
        assert_eq!(verdict(X32_BIT | 1, [0; 6]), ABSENT);
    }

    #[test]
    fn the_exporter_opens_nothing_and_reaches_unix_sockets_alone() {
        let program = filter_of_exporter();
        let verdict = |number: u32, arguments: [u64; 6]| {
            evaluate(&program, &SeccompData { number, architecture: ARCHITECTURE, arguments })
        };
        let socket = |family: u32, kind: u64| verdict(__NR_socket, [u64::from(family), kind, 0, 0, 0, 0]);
        assert_eq!(socket(net::AF_UNIX, 1 | 0o2_004_000), Verdict::Allow);
        for (family, kind) in [(net::AF_UNIX, 2), (net::AF_INET, 1), (net::AF_INET6, 1), (net::AF_NETLINK, 3)] {
            assert_eq!(socket(family, kind), PERMISSION);
        }
        // PROT_EXEC is 4.
        let protect = |protection: u64| verdict(__NR_mprotect, [0, 4096, protection, 0, 0, 0]);
        assert_eq!((protect(3), protect(7), protect(4)), (Verdict::Allow, PERMISSION, PERMISSION));
        let named = |number: &u32| name(*number).is_some();
        let allowed = (0..=600).filter(named).filter(|number| verdict(*number, [1; 6]) == Verdict::Allow);
        let allowed: Vec<&str> = allowed.filter_map(name).collect();
        for refused in [
            "open",
            "openat",
            "openat2",
            "execve",
            "execveat",
            "clone",
            "clone3",
            "fork",
            "kill",
            "tgkill",
            "ptrace",
            "ioctl",
            "bind",
            "listen",
            "prctl",
            "memfd_create",
            "setns",
            "unshare",
            "chroot",
            "process_vm_readv",
            "unlink",
        ] {
            assert!(!allowed.contains(&refused), "{refused}");
        }
    }

    #[test]
    fn sockets_are_local_internet_and_routing_only() {
        let [unix, inet, inet6, netlink, packet] =
            [net::AF_UNIX, net::AF_INET, net::AF_INET6, net::AF_NETLINK, net::AF_PACKET].map(u64::from);
        let flags = 0o2_004_000; // SOCK_CLOEXEC | SOCK_NONBLOCK
        for profile in Profile::ALL {
            for rubbish in RUBBISH {
                let socket = |family: u64, kind: u64, protocol: u64| {
                    call(*profile, __NR_socket, &[family | rubbish, kind | flags | rubbish, protocol | rubbish])
                };
                for kind in [1, 2, 5] {
                    assert_eq!(socket(unix, kind, 0), Verdict::Allow);
                }
                for family in [inet, inet6] {
                    // No socket has the ICMP protocol of the other family: the kernel would load a module for its
                    // number.
                    let (icmp, other) = if family == inet { (1, 58) } else { (58, 1) };
                    for (kind, protocol) in [(1, 0), (1, 6), (2, 0), (2, 17), (2, icmp)] {
                        assert_eq!(socket(family, kind, protocol), Verdict::Allow);
                    }
                    assert_eq!(socket(family, 2, other), NO_PROTOCOL);
                    // Multipath TCP, SMC, SCTP; L2TP, UDP-Lite.
                    for (kind, protocol) in [(1, 262), (1, 256), (1, 132), (2, 115), (2, 136), (1, 17), (2, 6)] {
                        assert_eq!(socket(family, kind, protocol), NO_PROTOCOL);
                    }
                    // Raw, reliable datagrams, SCTP, DCCP, and SOCK_PACKET (10).
                    for kind in [0, 3, 4, 5, 6, 7, 10, 15] {
                        assert_eq!(socket(family, kind, 0), PERMISSION);
                    }
                }
                for kind in [2, 3] {
                    // Nothing charges the data that waits in a netlink socket.
                    let (route, other) = match profile {
                        Profile::Web => (NO_FAMILY, NO_FAMILY),
                        Profile::Shell | Profile::System => (Verdict::Allow, NO_PROTOCOL),
                    };
                    assert_eq!(socket(netlink, kind, 0), route);
                    for protocol in 1..32 {
                        assert_eq!(socket(netlink, kind, protocol), other);
                    }
                }
                assert_eq!(socket(packet, 3, 0x300), NO_FAMILY);
            }
            for family in (0..100).chain([u64::from(u32::MAX)]) {
                let pair = call(*profile, __NR_socketpair, &[family, 1, 0]);
                assert_eq!(pair, if family == unix { Verdict::Allow } else { NO_FAMILY });
                if ![unix, inet, inet6, netlink].contains(&family) {
                    assert_eq!(call(*profile, __NR_socket, &[family, 1, 0]), NO_FAMILY, "family {family}");
                }
            }
        }
    }

    #[test]
    fn tight_profiles_make_threads_and_processes_but_no_namespaces() {
        let thread = u64::from(CLONE_VM | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SETTLS);
        let spawn = u64::from(CLONE_VM | CLONE_VFORK) | 17;
        let kinds =
            [CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET];
        for profile in Profile::ALL {
            let refused = if *profile == Profile::System { Verdict::Allow } else { PERMISSION };
            for rubbish in RUBBISH {
                for harmless in [17, thread, spawn] {
                    assert_eq!(call(*profile, __NR_clone, &[harmless | rubbish]), Verdict::Allow);
                    for kind in kinds {
                        let flags = harmless | rubbish | u64::from(kind);
                        assert_eq!(call(*profile, __NR_clone, &[flags]), refused, "{profile}: {flags:#x}");
                    }
                }
            }
            let clone3 = if *profile == Profile::System { Verdict::Allow } else { ABSENT };
            assert_eq!(call(*profile, __NR_clone3, &[]), clone3);
            for number in [__NR_unshare, __NR_mount] {
                assert_eq!(call(*profile, number, &[]), refused);
            }
        }
    }

    #[test]
    fn commands_are_refused_with_rubbish_above_them_too() {
        let refused = [
            ioctl::TIOCSTI,
            ioctl::TIOCLINUX,
            ioctl::TIOCSETD,
            ioctl::BTRFS_IOC_SUBVOL_CREATE,
            ioctl::BTRFS_IOC_SUBVOL_CREATE_V2,
            ioctl::BTRFS_IOC_SNAP_CREATE,
            ioctl::BTRFS_IOC_SNAP_CREATE_V2,
            ioctl::BTRFS_IOC_SYNC,
            ioctl::BTRFS_IOC_DEV_INFO,
            // A number of a later kernel.
            0x94ff,
            // FSGEOMETRY of three versions, FSCOUNTS, GET_RESBLKS, FSBULKSTAT, BULKSTAT, FD_TO_HANDLE, SWAPEXT,
            // GETBMAPX, AG_GEOMETRY.
            0x8070_5864,
            0x8070_587c,
            0x8100_587e,
            0x8020_5871,
            0x8010_5873,
            0xc020_5865,
            0x8040_587f,
            0xc038_586a,
            0xc0c0_586d,
            0xc020_5838,
            0xc080_583d,
            // GETFSMAP reports all free space even to a caller without privileges.
            0xc0c0_583b,
            0x58ff,
        ];
        let allowed = [
            ioctl::TCGETS,
            ioctl::TIOCGWINSZ,
            ioctl::TIOCSCTTY,
            ioctl::FIONREAD,
            ioctl::FICLONE,
            ioctl::FICLONERANGE,
            ioctl::FIDEDUPERANGE,
            ioctl::BTRFS_IOC_DEFRAG_RANGE,
            ioctl::FS_IOC_FSGETXATTR,
            ioctl::FS_IOC_FSSETXATTR,
            // FS_IOC_RESVSP64.
            0x4030_582a,
            ioctl::FIFREEZE,
            ioctl::FITRIM,
            // FS_IOC_FIEMAP, FS_IOC_GETFLAGS.
            0xc020_660b,
            0x8008_6601,
        ];
        for profile in Profile::ALL {
            for rubbish in RUBBISH {
                for command in refused {
                    assert_eq!(call(*profile, __NR_ioctl, &[0, rubbish | u64::from(command)]), PERMISSION);
                }
                for command in allowed {
                    assert_eq!(call(*profile, __NR_ioctl, &[0, rubbish | u64::from(command)]), Verdict::Allow);
                }
            }
        }
    }

    #[test]
    fn a_foreign_socket_shows_neither_its_network_nor_its_peer() {
        use linux_raw_sys::general::__NR_getsockopt;
        for profile in Profile::ALL {
            for rubbish in RUBBISH {
                // SIOCGIFNAME, SIOCGIFCONF, SIOCGIFADDR, SIOCGIFHWADDR, SIOCGIFINDEX, SIOCETHTOOL, SIOCGSKNS, SIOCGARP, a device's.
                for command in [0x8910, 0x8912, 0x8915, 0x8927, 0x8933, 0x8946, 0x894c, 0x8954, 0x89f0] {
                    let verdict = call(*profile, __NR_ioctl, &[3, rubbish | command]);
                    assert_eq!(verdict, Verdict::Errno(25), "{command:#x}");
                }
                let option = |level, name| call(*profile, __NR_getsockopt, &[3, rubbish | level, rubbish | name]);
                assert_eq!(option(1, 77), Verdict::Errno(92), "SO_PEERPIDFD");
                assert_eq!((option(1, 17), option(6, 77)), (Verdict::Allow, Verdict::Allow), "SO_PEERCRED and TCP");
            }
        }
    }

    #[test]
    fn no_command_loads_a_module_for_bridges_or_vlans() {
        const NO_PACKAGE: Verdict = Verdict::Errno(65);
        for profile in Profile::ALL {
            for rubbish in RUBBISH {
                for command in [0x8940, 0x8941, 0x89a0, 0x89a1, 0x8982, 0x8983] {
                    assert_eq!(call(*profile, __NR_ioctl, &[3, rubbish | command]), NO_PACKAGE, "{command:#x}");
                }
                // SIOCGPGRP, SIOCATMARK.
                for command in [0x8904, 0x8905] {
                    assert_eq!(call(*profile, __NR_ioctl, &[3, rubbish | command]), Verdict::Allow);
                }
            }
        }
    }

    #[test]
    fn the_packet_filter_is_out_of_reach_of_socket_options() {
        for option in [64, 65, 96, 97, 128, 129, 1152, 1167] {
            assert_eq!(call(Profile::System, __NR_setsockopt, &[3, 0, option]), PERMISSION, "option {option}");
        }
        for option in [64, 65] {
            assert_eq!(call(Profile::System, __NR_setsockopt, &[3, 41, option]), PERMISSION);
        }
        // IP_TOS, IP_LOCAL_PORT_RANGE; IPV6_RECVTCLASS, IPV6_TCLASS; SO_REUSEPORT and numbers of another level.
        for (level, option) in [(0, 1), (0, 51), (41, 66), (41, 67), (1, 15), (1, 64), (6, 64), (17, 65)] {
            assert_eq!(call(Profile::System, __NR_setsockopt, &[3, level, option]), Verdict::Allow);
        }
    }

    #[test]
    fn a_socket_holds_what_sockets_hold_by_default_and_takes_of_no_pool() {
        for profile in Profile::ALL {
            for rubbish in RUBBISH {
                let set =
                    |level: u64, option: u64| call(*profile, __NR_setsockopt, &[3, level | rubbish, option | rubbish]);
                // The filter reports success for SO_SNDBUF and SO_RCVBUF.
                assert_eq!([set(1, 7), set(1, 8)], [Verdict::Errno(0); 2]);
                // TCP_ULP: as on a kernel that has no such protocol.
                assert_eq!(set(6, 31), Verdict::Errno(92));
                // SO_SNDBUFFORCE, SO_RCVBUFFORCE; SO_ATTACH_FILTER, _BPF, _REUSEPORT_CBPF, _REUSEPORT_EBPF.
                for option in [32, 33, 26, 50, 51, 52] {
                    assert_eq!(set(1, option), PERMISSION, "option {option}");
                }
                // IPV6_2292PKTOPTIONS, IPV6_FLOWLABEL_MGR; groups that are joined; keys of TCP.
                for (level, option) in
                    [(41, 6), (41, 32), (41, 20), (41, 27), (41, 42), (41, 46), (6, 14), (6, 32), (6, 38)]
                {
                    assert_eq!(set(level, option), PERMISSION, "{level} {option}");
                }
                // SO_REUSEADDR, SO_KEEPALIVE, SO_RCVTIMEO, SO_PASSCRED, TCP_NODELAY, IPV6_V6ONLY,
                // IP_PKTINFO, IP_MULTICAST_IF, TCP_LINGER2.
                for (level, option) in [(1, 2), (1, 9), (1, 20), (1, 16), (6, 1), (41, 26), (0, 8), (0, 32), (6, 8)] {
                    assert_eq!(set(level, option), Verdict::Allow, "{level} {option}");
                }
            }
            assert_eq!(call(*profile, linux_raw_sys::general::__NR_io_setup, &[1]), ABSENT);
        }
    }

    #[test]
    fn odd_settings_of_a_process_are_refused() {
        for profile in Profile::ALL {
            let prctl = |option| call(*profile, __NR_prctl, &[option]);
            assert_eq!([prctl(35), prctl(62), prctl(62 | 1 << 32), prctl(67)], [PERMISSION; 4]);
            // PR_SET_VMA
            assert_eq!([prctl(0x5356_4d41), prctl(0x5356_4d41 | 1 << 32)], [Verdict::Errno(22); 2]);
            assert_eq!([prctl(15), prctl(22), prctl(38), prctl(4)], [Verdict::Allow; 4]);
            let personality = |persona| call(*profile, __NR_personality, &[persona]);
            assert_eq!([personality(0), personality(0xffff_ffff), personality(0x4_0000)], [Verdict::Allow; 3]);
            assert_eq!([personality(0x40_0000), personality(0x44_0000), personality(6)], [PERMISSION; 3]);
        }
    }

    #[test]
    fn what_an_owner_may_do_to_others_is_refused_whoever_the_owner_is() {
        const INVALID: Verdict = Verdict::Errno(22);
        const UNSUPPORTED: Verdict = Verdict::Errno(95);
        for profile in Profile::ALL {
            let named = |name: &str, arguments: &[u64]| {
                let row = table(*profile).into_iter().find(|row| row.name == name).expect("a row");
                call(*profile, row.number, arguments)
            };
            for rubbish in RUBBISH {
                let fcntl = |command: u64| named("fcntl", &[3, command | rubbish, 1]);
                // F_SETLEASE, F_NOTIFY, F_SETDELEG; F_SETFL, F_SETLK, F_GETLEASE, F_DUPFD_CLOEXEC, F_SETPIPE_SZ.
                assert_eq!([fcntl(1024), fcntl(1026), fcntl(1040)], [INVALID; 3]);
                // F_SET_RW_HINT, F_SET_FILE_RW_HINT.
                assert_eq!([fcntl(1036), fcntl(1038)], [INVALID; 2]);
                assert_eq!([fcntl(4), fcntl(6), fcntl(1025), fcntl(1030), fcntl(1031)], [Verdict::Allow; 5]);
                let read = |flags: u64| named("preadv2", &[3, 0, 1, 0, 0, flags | rubbish]);
                assert_eq!(
                    [read(8), read(9), read(0), read(1)],
                    [UNSUPPORTED, UNSUPPORTED, Verdict::Allow, Verdict::Allow]
                );
                let advise = |advice: u64| named("madvise", &[0, 4096, advice | rubbish]);
                assert_eq!(
                    [advise(20), advise(21), advise(12), advise(4), advise(14)],
                    [INVALID, INVALID, INVALID, Verdict::Allow, Verdict::Allow]
                );
                assert_eq!(named("process_madvise", &[3, 0, 1, 21 | rubbish, 0]), INVALID);
                let file = |advice: u64| named("fadvise64", &[3, 0, 0, advice | rubbish]);
                assert_eq!([file(4), file(3), file(2)], [Verdict::Errno(0), Verdict::Allow, Verdict::Allow]);
            }
            for absent in ["mincore", "cachestat", "memfd_secret", "syncfs"] {
                assert_eq!(named(absent, &[]), ABSENT, "{absent}");
            }
        }
    }

    #[test]
    fn huge_pages_look_used_up() {
        const NO_MEMORY: Verdict = Verdict::Errno(12);
        for profile in Profile::ALL {
            for rubbish in RUBBISH {
                for (number, position, flag, plain) in [
                    (linux_raw_sys::general::__NR_mmap, 3, 0x4_0000_u64, 0x22_u64),
                    (linux_raw_sys::general::__NR_memfd_create, 1, 4, 3),
                    (linux_raw_sys::general::__NR_shmget, 2, 0x800, 0o1600),
                ] {
                    let with = |flags: u64| {
                        let mut arguments = [0; 6];
                        arguments[position] = flags | rubbish;
                        call(*profile, number, &arguments)
                    };
                    assert_eq!([with(flag), with(flag | plain)], [NO_MEMORY; 2], "{number}");
                    assert_eq!(with(plain), Verdict::Allow, "{number}");
                }
            }
        }
    }

    #[test]
    fn the_limit_of_core_dumps_can_be_asked_and_never_changed() {
        use linux_raw_sys::general::{__NR_getrlimit, __NR_prlimit64, __NR_setrlimit};
        const CORE: u64 = 4;
        const DONE: Verdict = Verdict::Errno(0);
        for profile in Profile::ALL {
            for rubbish in RUBBISH {
                assert_eq!(call(*profile, __NR_setrlimit, &[CORE | rubbish, 1]), DONE);
                assert_eq!(call(*profile, __NR_setrlimit, &[7 | rubbish, 1]), Verdict::Allow);
                assert_eq!(call(*profile, __NR_getrlimit, &[CORE | rubbish, 1]), Verdict::Allow);
                // Only a pointer with two zero halves is null.
                for new in [1, 0x7fff_0000_1000, 1 << 32, 0xffff_ffff] {
                    assert_eq!(call(*profile, __NR_prlimit64, &[0, CORE | rubbish, new, 1]), DONE, "{new:#x}");
                    assert_eq!(call(*profile, __NR_prlimit64, &[0, 7 | rubbish, new, 1]), Verdict::Allow);
                }
                assert_eq!(call(*profile, __NR_prlimit64, &[0, CORE | rubbish, 0, 1]), Verdict::Allow);
            }
        }
    }

    #[test]
    fn sync_is_said_to_be_done_and_the_great_holes_are_closed_everywhere() {
        let closed = [
            "acct",
            "add_key",
            "bpf",
            "clock_settime",
            "delete_module",
            "fanotify_init",
            "finit_module",
            "init_module",
            "io_uring_enter",
            "io_uring_register",
            "io_uring_setup",
            "ioperm",
            "iopl",
            "kexec_file_load",
            "kexec_load",
            "keyctl",
            "open_by_handle_at",
            "perf_event_open",
            "quotactl",
            "quotactl_fd",
            "reboot",
            "request_key",
            "settimeofday",
            "swapoff",
            "swapon",
            "syslog",
            "userfaultfd",
            "vhangup",
        ];
        for profile in Profile::ALL {
            assert_eq!(call(*profile, __NR_sync, &[]), Verdict::Errno(0));
            assert_eq!(call(*profile, __NR_bpf, &[5]), PERMISSION);
            let rows = table(*profile);
            for name in closed {
                let row = rows.iter().find(|row| row.name == name).expect("a row");
                assert_eq!(call(*profile, row.number, &[]), PERMISSION, "{profile}: {name}");
            }
        }
    }

    #[test]
    fn an_ftp_server_may_serve_and_nothing_else() {
        let program = filter_of_ftp();
        let call = |name: &str, arguments: &[u64]| {
            let row = table(Profile::Web).into_iter().find(|row| row.name == name).expect("a row");
            let mut data = SeccompData { number: row.number, architecture: ARCHITECTURE, arguments: [0; 6] };
            data.arguments[..arguments.len()].copy_from_slice(arguments);
            evaluate(&program, &data)
        };
        let flags = 0o2_004_000;
        for rubbish in RUBBISH {
            for family in [net::AF_INET, net::AF_INET6].map(u64::from) {
                let socket = |kind: u64, protocol: u64| {
                    call("socket", &[family | rubbish, kind | flags | rubbish, protocol | rubbish])
                };
                assert_eq!([socket(1, 0), socket(1, 6)], [Verdict::Allow; 2]);
                for (kind, protocol) in [(2, 0), (2, 17), (2, 1), (3, 0), (10, 0), (1, 132), (1, 262)] {
                    assert_eq!(socket(kind, protocol), NO_PROTOCOL, "{kind} {protocol}");
                }
            }
            for family in [net::AF_UNIX, net::AF_NETLINK, net::AF_PACKET].map(u64::from) {
                assert_eq!(call("socket", &[family | rubbish, 1, 0]), NO_FAMILY);
            }
            let other = 4711;
            for (name, arguments) in [
                ("kill", &[other, 0][..]),
                ("tkill", &[other, 6]),
                ("tgkill", &[other, other, 9]),
                ("rt_sigqueueinfo", &[other, 6]),
                ("rt_tgsigqueueinfo", &[other, other, 6]),
                ("setpriority", &[0, other, 5]),
                ("ioprio_set", &[1, other]),
                ("move_pages", &[other]),
                ("migrate_pages", &[other]),
                ("prlimit64", &[other, 7, 0, 1]),
                ("sched_setscheduler", &[other]),
                ("sched_setaffinity", &[other]),
                ("sched_getattr", &[other]),
            ] {
                let arguments: Vec<u64> = arguments.iter().map(|argument| argument | rubbish).collect();
                assert_eq!(call(name, &arguments), PERMISSION, "{name} {arguments:?}");
            }
            for (name, arguments) in [
                ("tgkill", [other, other, 6 | rubbish, 0]),
                ("prlimit64", [rubbish, 7, 1, 0]),
                ("sched_getaffinity", [rubbish, 8, 1, 0]),
            ] {
                assert_eq!(call(name, &arguments), Verdict::Allow, "{name}");
            }
            // The rule for the limit of core dumps is the same as in a jail.
            assert_eq!(call("prlimit64", &[rubbish, 4 | rubbish, 1, 0]), Verdict::Errno(0));
            // SIOCGIFCONF, SIOCGIFHWADDR, bridges; FIONREAD.
            for command in [0x8912, 0x8927, 0x8940] {
                assert_eq!(call("ioctl", &[3, command | rubbish]), PERMISSION, "{command:#x}");
            }
            assert_eq!(call("ioctl", &[3, 0x541b | rubbish]), Verdict::Allow);
            assert_eq!(call("ioctl", &[0, u64::from(ioctl::TIOCSTI) | rubbish]), PERMISSION);
            // The two processes of vsftpd communicate over a socket pair.
            assert_eq!(call("socketpair", &[1 | rubbish, 1, 0]), Verdict::Allow);
            let fast = 0x2000_0000 | 0x4000;
            for (name, place) in [("sendto", 3), ("sendmmsg", 3), ("sendmsg", 2)] {
                let mut arguments = [0; 6];
                arguments[place] = 0x4000 | rubbish;
                assert_eq!(call(name, &arguments), Verdict::Allow, "{name}");
                arguments[place] = fast | rubbish;
                assert_eq!(call(name, &arguments), Verdict::Errno(13), "{name}");
            }
        }
        for name in ["bind", "listen", "accept", "accept4", "chroot", "setuid", "clone", "sendfile", "fchown", "prctl"]
        {
            assert_eq!(call(name, &[]), Verdict::Allow, "{name}");
        }
        assert_eq!(call("connect", &[]), Verdict::Errno(13));
        for name in [
            "execve",
            "execveat",
            "ptrace",
            "process_vm_readv",
            "pidfd_getfd",
            "shmget",
            "io_setup",
            "unshare",
            "mount",
            "setns",
        ] {
            assert_eq!(call(name, &[]), PERMISSION, "{name}");
        }
    }

    #[test]
    fn only_system_differs_and_only_where_it_nests() {
        let tight = table(Profile::Shell);
        let web: Vec<&str> = table(Profile::Web)
            .iter()
            .zip(&tight)
            .filter(|(web, shell)| web.rule != shell.rule)
            .map(|(web, _)| web.name)
            .collect();
        assert_eq!(web, ["socket"], "no netlink in `web`");
        let differs: Vec<&str> = table(Profile::System)
            .iter()
            .zip(&tight)
            .filter(|(system, tight)| system.rule != tight.rule)
            .map(|(system, _)| system.name)
            .collect();
        let expected = [
            "clone",
            "pivot_root",
            "mount",
            "umount2",
            "sethostname",
            "setdomainname",
            "unshare",
            "setns",
            "open_tree",
            "move_mount",
            "fsopen",
            "fsconfig",
            "fsmount",
            "fspick",
            "clone3",
            "mount_setattr",
            "open_tree_attr",
        ];
        assert_eq!(differs, expected);
    }
}

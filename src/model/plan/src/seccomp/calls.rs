//! The system calls of x86_64 (Linux 6.18) in groups. Each group has a rule and a reason.
//!
//! Danger: a number could be missing or have two rows. Tests compare the groups with the kernel's list. A number
//! without a row is newer than this file and returns `ENOSYS`, so that programs use an older call instead.
//!
//! The filter deliberately leaves some things to other walls. It does not check the flags of `send` (urgent data on
//! Unix sockets), because a check would slow every send. The capability set limits the messages on a routing socket. A
//! filter has no state, so it cannot count objects (`crate::kernel_memory`). A filter cannot read memory behind a
//! pointer.

use super::{Check, Half, Rule, Verdict, errno};
use bailiwick_types::Profile;
use linux_raw_sys::errno::{
    EACCES, EAFNOSUPPORT, EINVAL, ENOMEM, ENOPKG, ENOPROTOOPT, ENOSPC, ENOSYS, ENOTTY, EOPNOTSUPP, EPERM,
    EPROTONOSUPPORT,
};
use linux_raw_sys::general::{
    self, CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER, CLONE_NEWUTS,
};
use linux_raw_sys::{ioctl, net};

/// System calls with the same rule for the same reason.
pub(super) struct Group {
    /// The reason.
    pub(super) remark: &'static str,
    /// The rule in `web`.
    pub(super) web: Rule,
    /// The rule in `shell`.
    pub(super) shell: Rule,
    /// The rule in `system`.
    pub(super) system: Rule,
    /// Numbers and names of the calls.
    pub(super) calls: &'static [(u32, &'static str)],
}

impl Group {
    /// The rule in a profile.
    pub(super) fn rule(&self, profile: Profile) -> Rule {
        match profile {
            Profile::Web => self.web,
            Profile::Shell => self.shell,
            Profile::System => self.system,
        }
    }
}

const ALLOW: Rule = Rule::Always(Verdict::Allow);
pub(super) const REFUSE: Rule = errno(EPERM);
const ABSENT: Rule = errno(ENOSYS);
const DONE: Rule = Rule::Always(Verdict::Errno(0));

const fn group(rule: Rule, remark: &'static str, calls: &'static [(u32, &'static str)]) -> Group {
    Group { remark, web: rule, shell: rule, system: rule, calls }
}

const fn group_by_profile(
    tight: Rule,
    system: Rule,
    remark: &'static str,
    calls: &'static [(u32, &'static str)],
) -> Group {
    Group { remark, web: tight, shell: tight, system, calls }
}

/// Builds a list of numbers and names from the kernel's `__NR_` constants.
macro_rules! calls {
    ($($call:ident)+) => { &[$((general::$call, stringify!($call).split_at("__NR_".len()).1)),+] };
}

/// Builds a `Check`: if `argument`, masked with `mask`, is one of `values`, then `then`, else `otherwise`.
macro_rules! check {
    (argument $argument:literal & $mask:expr; $($value:expr),+; $then:expr; $otherwise:expr) => {
        check!(Half::Low, $argument, $mask; $($value),+; $then; $otherwise)
    };
    (upper half of argument $argument:literal; $($value:expr),+; $then:expr; $otherwise:expr) => {
        check!(Half::High, $argument, u32::MAX; $($value),+; $then; $otherwise)
    };
    ($half:expr, $argument:literal, $mask:expr; $($value:expr),+; $then:expr; $otherwise:expr) => {
        Rule::Check(&Check {
            argument: $argument,
            half: $half,
            mask: $mask,
            values: &[$($value),+],
            then: $then,
            otherwise: $otherwise,
        })
    };
    (argument $argument:literal; $($value:expr),+; $then:expr; $otherwise:expr) => {
        check!(argument $argument & u32::MAX; $($value),+; $then; $otherwise)
    };
}

// The errors of a kernel that was built without the family or the protocol. After such an error login programs continue
// without the audit socket. After EPERM they would refuse every login.
const NO_FAMILY: Rule = errno(EAFNOSUPPORT);
const NO_PROTOCOL: Rule = errno(EPROTONOSUPPORT);

/// The bits of a socket's type without `SOCK_CLOEXEC` and `SOCK_NONBLOCK`, as in the kernel's `SOCK_TYPE_MASK`.
const SOCK_TYPE_MASK: u32 = 0xf;
const TCP: u32 = net::IPPROTO_TCP as u32;
const UDP: u32 = net::IPPROTO_UDP as u32;
const ICMP: u32 = net::IPPROTO_ICMP as u32;
/// From `linux/netlink.h`.
const NETLINK_ROUTE: u32 = 0;

/// Streams and datagrams of a family, with the ICMP of that family only: for the ICMP of the other family the kernel
/// would load a module by its number. This is an allow-list, because raw sockets are not the only danger. Type 10
/// (`SOCK_PACKET`) of the internet family *is* a packet socket. SCTP, DCCP, L2TP, SMC and multipath TCP each load a
/// module that had vulnerabilities before.
macro_rules! internet_socket {
    ($icmp:expr) => {
        check!(argument 1 & SOCK_TYPE_MASK; net::SOCK_STREAM;
            check!(argument 2; 0, TCP; ALLOW; NO_PROTOCOL);
            check!(argument 1 & SOCK_TYPE_MASK; net::SOCK_DGRAM;
                check!(argument 2; 0, UDP, $icmp; ALLOW; NO_PROTOCOL);
                REFUSE))
    };
}

/// The allow-list of socket families. Netlink sockets are usually raw, so their type is not checked.
const SOCKET: Rule = check!(argument 0; net::AF_NETLINK;
    check!(argument 2; NETLINK_ROUTE; ALLOW; NO_PROTOCOL);
    SOCKET_WITHOUT_NETLINK);

/// The same without netlink: nothing charges the data that waits in a netlink socket, and nothing limits the number of
/// these sockets.
const SOCKET_WITHOUT_NETLINK: Rule = check!(argument 0; net::AF_UNIX; ALLOW;
    check!(argument 0; net::AF_INET; internet_socket!(ICMP);
        check!(argument 0; net::AF_INET6; internet_socket!(net::IPPROTO_ICMPV6); NO_FAMILY)));

const SOCKETPAIR: Rule = check!(argument 0; net::AF_UNIX; ALLOW; NO_FAMILY);

/// `IPPROTO_IP` and `IPPROTO_IPV6` as levels of socket options.
const IP: u32 = net::IPPROTO_IP as u32;
const IPV6: u32 = net::IPPROTO_IPV6 as u32;
/// The first of two options that change a table, from `linux/netfilter_ipv4/ip_tables.h`. `ip6_tables.h` has the same
/// numbers.
const IPT_SO_SET_REPLACE: u32 = 64;
/// From `linux/netfilter_arp/arp_tables.h`.
const ARPT_SO_SET_REPLACE: u32 = 96;
/// From `linux/netfilter_bridge/ebtables.h`.
const EBT_SO_SET_ENTRIES: u32 = 128;
/// The first of the sixteen options of the load balancer, from `linux/ip_vs.h`.
const IP_VS_BASE_CTL: u32 = 64 + 1024 + 64;
/// From `asm-generic/socket.h`, as are the next constants.
const SOL_SOCKET: u32 = 1;
const SO_SNDBUF: u32 = 7;
const SO_RCVBUF: u32 = 8;
const SO_SNDBUFFORCE: u32 = 32;
const SO_RCVBUFFORCE: u32 = 33;
const SO_ATTACH_FILTER: u32 = 26;
const SO_ATTACH_BPF: u32 = 50;
const SO_ATTACH_REUSEPORT_CBPF: u32 = 51;
const SO_ATTACH_REUSEPORT_EBPF: u32 = 52;
/// From `linux/in6.h`, as are the next constants. The first option is from RFC 2292 and can hold 64 KiB.
/// `IPV6_FLOWLABEL_MGR` manages flow labels. The others join groups.
const IPV6_2292PKTOPTIONS: u32 = 6;
const IPV6_ADD_MEMBERSHIP: u32 = 20;
const IPV6_JOIN_ANYCAST: u32 = 27;
const IPV6_FLOWLABEL_MGR: u32 = 32;
const MCAST_JOIN_GROUP: u32 = 42;
const MCAST_JOIN_SOURCE_GROUP: u32 = 46;
/// From `linux/tcp.h`: options that add keys to a connection. Nothing limits the number of keys.
const TCP_MD5SIG: u32 = 14;
const TCP_MD5SIG_EXT: u32 = 32;
const TCP_AO_ADD_KEY: u32 = 38;
const TCP_ULP: u32 = 31;

/// Options at socket level. A request for another buffer size returns success and does not change the size. The kernel
/// answers a request above its maximum in the same way.
const SOCKET_OPTION: Rule = check!(argument 2; SO_SNDBUF, SO_RCVBUF; DONE;
    check!(argument 2; SO_SNDBUFFORCE, SO_RCVBUFFORCE,
        SO_ATTACH_FILTER, SO_ATTACH_BPF, SO_ATTACH_REUSEPORT_CBPF, SO_ATTACH_REUSEPORT_EBPF; REFUSE; ALLOW));

/// Refuses the options that use memory of each socket, or a resource that all sockets of the host share. All other
/// options pass.
const SETSOCKOPT: Rule = check!(argument 1; SOL_SOCKET; SOCKET_OPTION;
    check!(argument 1; IPV6;
        check!(argument 2; IPV6_FLOWLABEL_MGR, IPV6_2292PKTOPTIONS,
            IPV6_ADD_MEMBERSHIP, IPV6_JOIN_ANYCAST, MCAST_JOIN_GROUP, MCAST_JOIN_SOURCE_GROUP; REFUSE;
            check!(argument 2 & !1; IPT_SO_SET_REPLACE; REFUSE; ALLOW));
        check!(argument 1; IP;
            // Options of the packet filter. No process in a jail has the capability that they need; this is a second
            // wall.
            check!(argument 2 & !1; IPT_SO_SET_REPLACE, ARPT_SO_SET_REPLACE, EBT_SO_SET_ENTRIES; REFUSE;
                check!(argument 2 & !15; IP_VS_BASE_CTL; REFUSE; ALLOW));
            check!(argument 1; TCP;
                check!(argument 2; TCP_MD5SIG, TCP_MD5SIG_EXT, TCP_AO_ADD_KEY; REFUSE;
                    // Protocols above TCP in the kernel, such as TLS. The error is that of a kernel without them.
                    check!(argument 2; TCP_ULP; errno(ENOPROTOOPT); ALLOW));
                ALLOW))));

/// The kernel reads 32 bits of the command. A comparison of 64 bits could be bypassed with other upper bits.
const IOCTL: Rule = check!(argument 1;
    // Terminal injection class: these commands insert input, change the selection or replace the line discipline. The
    // terminal may be an operator's.
    ioctl::TIOCSTI, ioctl::TIOCLINUX, ioctl::TIOCSETD;
    REFUSE;
    check!(argument 1 & IOCTL_TYPE; BTRFS_TYPE;
        check!(argument 1; ioctl::FICLONE, ioctl::FICLONERANGE, ioctl::FIDEDUPERANGE,
            ioctl::BTRFS_IOC_DEFRAG, ioctl::BTRFS_IOC_DEFRAG_RANGE; ALLOW; REFUSE);
        check!(argument 1 & IOCTL_TYPE; XFS_TYPE;
            check!(argument 1; ioctl::FS_IOC_FSGETXATTR, ioctl::FS_IOC_FSSETXATTR, XFS_IOC_DIOINFO,
                FS_IOC_RESVSP, FS_IOC_UNRESVSP, FS_IOC_RESVSP64, FS_IOC_UNRESVSP64, FS_IOC_ZERO_RANGE,
                ioctl::FIFREEZE, ioctl::FITHAW, ioctl::FITRIM; ALLOW; REFUSE);
            ALLOW)));

/// From `linux/sockios.h` and `linux/if_vlan.h`: commands that list, create and remove bridges, and the commands for
/// VLANs. The kernel loads the module before it checks any capability.
const BRIDGES_AND_VLANS: [u32; 6] = [0x8940, 0x8941, 0x89a0, 0x89a1, 0x8982, 0x8983];
/// The error is that of a kernel without the module.
const COMMAND: Rule = check!(argument 1;
    BRIDGES_AND_VLANS[0], BRIDGES_AND_VLANS[1], BRIDGES_AND_VLANS[2], BRIDGES_AND_VLANS[3], BRIDGES_AND_VLANS[4],
    BRIDGES_AND_VLANS[5];
    errno(ENOPKG);
    check!(argument 1 & IOCTL_TYPE; SOCKET_TYPE;
        // From `linux/sockios.h`: names, addresses and routes of the network namespace that the socket belongs to, the namespace
        // itself (`SIOCGSKNS`), and the commands of protocols and devices. The socket of an accepted connection belongs to the
        // namespace of whoever connected, which may be the host's. The error is that of no such command. `getifaddrs(3)` and
        // `ip(8)` use netlink, whose sockets are the jail's own. Commands from 0x8900 to 0x890f (owner of a socket, mark, time)
        // tell of the socket alone.
        check!(argument 1 & 0xf0; 0; ALLOW; errno(ENOTTY)); IOCTL));

/// From `asm-generic/socket.h`.
const SO_PEERPIDFD: u32 = 77;
/// A descriptor of the process that has connected, which may be the host's. `SO_PEERCRED` stays: it shows a number that is 0 for a
/// process outside. The error is that of an older kernel.
const SOCKET_OPTION_READ: Rule = check!(argument 1; SOL_SOCKET;
    check!(argument 2; SO_PEERPIDFD; errno(ENOPROTOOPT); ALLOW);
    ALLOW);

/// The byte of a command that names its owner (`asm-generic/ioctl.h`).
const IOCTL_TYPE: u32 = 0xff00;
/// The type of btrfs commands. Other file systems use some of them too. This is an allow-list, because the owner of a
/// directory could otherwise create a subvolume, which has a quota of its own, flush the data that all tenants wrote,
/// and read the devices, the use and the numbers of the pool. Allowed are copies that share blocks, and
/// defragmentation.
const BTRFS_TYPE: u32 = 0x9400;
/// The type of XFS commands, `X`. Other file systems use some of them too. This is an allow-list, because any process
/// with an open file could otherwise read the size of the pool, its free space and where that is, and find files by
/// their numbers. Allowed are commands for one file that any file system may support (flags and project, direct I/O
/// parameters, space of the file), and commands that the kernel allows the host's root only (freeze, thaw, trim).
const XFS_TYPE: u32 = 0x5800;
/// From `xfs/xfs_fs.h`.
const XFS_IOC_DIOINFO: u32 = 0x800c_581e;
/// From `linux/falloc.h`.
const FS_IOC_RESVSP: u32 = 0x4030_5828;
const FS_IOC_UNRESVSP: u32 = 0x4030_5829;
const FS_IOC_RESVSP64: u32 = 0x4030_582a;
const FS_IOC_UNRESVSP64: u32 = 0x4030_582b;
const FS_IOC_ZERO_RANGE: u32 = 0x4030_5839;

/// The bits of a size that no short attribute sets. The kernel refuses a size with a bit above the lower 32.
const LONG_ATTRIBUTE: u32 = !0x3ff;
/// Nothing charges the access list of a file in memory, which can have 64 KiB. The error is that of a file system that
/// stores attributes beside its inodes and has no space left there.
const SETXATTR: Rule = check!(argument 3 & LONG_ATTRIBUTE; 0; ALLOW; errno(ENOSPC));

/// `CLONE_NEWTIME` is missing: in clone(2) its bit belongs to the exit signal.
const NEW_NAMESPACES: u32 =
    CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;

const CLONE: Rule = check!(argument 0 & NEW_NAMESPACES; 0; ALLOW; REFUSE);

/// From `linux/personality.h`. Allowed are: Linux without a change; the name of a 32-bit machine or of a 2.6 kernel;
/// addresses without randomisation, for debuggers; a query of the current personality. `READ_IMPLIES_EXEC` and similar
/// flags are refused, because they weaken a process across exec.
const PERSONALITY: Rule = check!(argument 0; 0, 0x8, 0x2_0000, 0x2_0008, 0x4_0000, u32::MAX; ALLOW; REFUSE);

/// From `linux/prctl.h`. `PR_SET_MM` changes what the kernel reports about a process's memory. Programs that restore
/// checkpoints use it.
const PR_SET_MM: u32 = 35;
/// Core scheduling: a process with a cookie of its own keeps other tenants off the sibling hyperthread. Nothing charges
/// the cookie.
const PR_SCHED_CORE: u32 = 62;

/// Pages with equal content are merged across the whole host. The time of a write then reveals whether another tenant
/// has the same page.
const PR_SET_MEMORY_MERGE: u32 = 67;

/// Nothing charges the names that a process gives to its memory (`PR_SET_VMA_ANON_NAME`). The error is that of a kernel
/// built without such names. Programs continue without them.
const PR_SET_VMA: u32 = 0x5356_4d41;
const NO_NAMES: Rule = errno(EINVAL);

const PRCTL: Rule = check!(argument 0; PR_SET_MM, PR_SCHED_CORE, PR_SET_MEMORY_MERGE; REFUSE;
    check!(argument 0; PR_SET_VMA; NO_NAMES; ALLOW));

/// From `linux/fcntl.h`: a lease, which delays every other process that opens the file; a watch of a directory by the
/// old interface (dnotify); a lease on a directory, which delays every process that changes it (Linux 6.19).
const LEASES: [u32; 3] = [1024, 1026, 1040];
/// The error is that of a kernel built without leases.
const NO_LEASES: Rule = errno(EINVAL);
/// From `linux/fcntl.h`: the expected lifetime of written data. The kernel stores the hint in the inode, and older
/// kernels accept it from every reader.
const F_SET_RW_HINT: u32 = 1036;
const F_SET_FILE_RW_HINT: u32 = 1038;
const FCNTL: Rule =
    check!(argument 1; LEASES[0], LEASES[1], LEASES[2], F_SET_RW_HINT, F_SET_FILE_RW_HINT; NO_LEASES; ALLOW);

/// From `linux/fs.h`: read only from the page cache. The error is that of a file system without this flag. Programs
/// then read in a thread.
const RWF_NOWAIT: u32 = 8;
const PREADV2: Rule = check!(argument 5 & RWF_NOWAIT; RWF_NOWAIT; errno(EOPNOTSUPP); ALLOW);

/// This is advice, so the kernel's interface permits success without any effect.
const FADVISE: Rule = check!(argument 3; general::POSIX_FADV_DONTNEED; DONE; ALLOW);

/// The error is that of a kernel that does not know the advice: to drop pages, or to merge pages of equal content
/// ([`PR_SET_MEMORY_MERGE`]).
const NO_ADVICE: Rule = errno(EINVAL);
const MADVISE: Rule =
    check!(argument 2; general::MADV_COLD, general::MADV_PAGEOUT, general::MADV_MERGEABLE; NO_ADVICE; ALLOW);
const PROCESS_MADVISE: Rule =
    check!(argument 3; general::MADV_COLD, general::MADV_PAGEOUT, general::MADV_MERGEABLE; NO_ADVICE; ALLOW);

/// The error is that of a host without a free huge page. Programs then use small pages.
const NO_HUGE_PAGE: Rule = errno(ENOMEM);
/// From `linux/shm.h`.
const SHM_HUGETLB: u32 = 0o4000;
const MMAP: Rule = check!(argument 3 & general::MAP_HUGETLB; general::MAP_HUGETLB; NO_HUGE_PAGE; ALLOW);
const MEMFD: Rule = check!(argument 1 & general::MFD_HUGETLB; general::MFD_HUGETLB; NO_HUGE_PAGE; ALLOW);
const SHMGET: Rule = check!(argument 2 & SHM_HUGETLB; SHM_HUGETLB; NO_HUGE_PAGE; ALLOW);

/// No process can change the limit of core dumps that the jail started with. At exactly 1 the kernel starts no crash
/// handler of the host; at any other value it does (`core(5)`). Programs that forbid their own core dumps (`ssh-agent`,
/// `gpg-agent`, `sudo`) end or complain when the call fails. So the call returns success: there are no core dumps
/// anyway.
const RLIMIT_CORE: u32 = general::RLIMIT_CORE;
const SETRLIMIT: Rule = check!(argument 0; RLIMIT_CORE; DONE; ALLOW);
/// Without a new value the call only reads the limit, and the kernel answers it. A pointer that is not null in either
/// half is a new value.
const PRLIMIT: Rule = check!(argument 1; RLIMIT_CORE;
    check!(argument 2; 0; check!(upper half of argument 2; 0; ALLOW; DONE); DONE);
    ALLOW);

pub(super) const GROUPS: &[Group] = &[
    group(
        ALLOW,
        "reads and writes what is open",
        calls![
            __NR_read __NR_write __NR_readv __NR_writev __NR_pread64 __NR_pwrite64 __NR_preadv __NR_pwritev
            __NR_pwritev2 __NR_lseek __NR_close __NR_close_range __NR_dup __NR_dup2 __NR_dup3
            __NR_flock __NR_ftruncate __NR_fallocate __NR_readahead __NR_fsync __NR_fdatasync
            __NR_sync_file_range __NR_getdents __NR_getdents64 __NR_pipe __NR_pipe2
        ],
    ),
    group(
        FCNTL,
        "stall class: a lease on a file of the host's holds up everybody who opens it, the host's root too, for 45 s; the \
         owner alone may take one, and root inside can be the owner; nor a hint for writers, which is a mark on the host's inode",
        calls![__NR_fcntl],
    ),
    group(
        PREADV2,
        "page-cache spy class: a read that fails unless the page is cached tells what neighbours and the host have read",
        calls![__NR_preadv2],
    ),
    group(
        FADVISE,
        "page-cache spy class: whoever can read a file can drop it from the cache, so that its next reader is seen, and waits",
        calls![__NR_fadvise64],
    ),
    group(
        ALLOW,
        "moves data between descriptors; the page-cache write class comes through splice, but its latest members also \
         need a socket family or namespace that is refused here, and proxies and copy programs need splice",
        calls![__NR_sendfile __NR_splice __NR_tee __NR_vmsplice __NR_copy_file_range],
    ),
    group(
        ALLOW,
        "files by name",
        calls![
            __NR_open __NR_openat __NR_openat2 __NR_creat __NR_stat __NR_lstat __NR_fstat __NR_newfstatat __NR_statx
            __NR_statfs __NR_fstatfs __NR_access __NR_faccessat __NR_faccessat2 __NR_truncate __NR_getcwd __NR_chdir
            __NR_fchdir __NR_rename __NR_renameat __NR_renameat2 __NR_mkdir __NR_mkdirat __NR_rmdir __NR_link
            __NR_linkat __NR_unlink __NR_unlinkat __NR_symlink __NR_symlinkat __NR_readlink __NR_readlinkat
            __NR_chmod __NR_fchmod __NR_fchmodat __NR_fchmodat2 __NR_chown __NR_fchown __NR_lchown __NR_fchownat
            __NR_umask __NR_utime __NR_utimes __NR_futimesat __NR_utimensat
        ],
    ),
    group(
        SETXATTR,
        "short extended attributes: what a long access list of a file in memory holds is charged to nobody",
        calls![__NR_setxattr __NR_lsetxattr __NR_fsetxattr],
    ),
    group(
        ABSENT,
        "extended attributes whose size is behind a pointer; programs fall back to the calls above",
        calls![__NR_setxattrat],
    ),
    group(
        ALLOW,
        "extended attributes",
        calls![
            __NR_getxattr __NR_lgetxattr __NR_fgetxattr __NR_getxattrat __NR_listxattr __NR_llistxattr __NR_flistxattr __NR_listxattrat __NR_removexattr
            __NR_lremovexattr __NR_fremovexattr __NR_removexattrat
        ],
    ),
    group(
        ALLOW,
        "file attributes: the kernel refuses a change of the project id from within a user namespace, so no quota is \
         escaped this way",
        calls![__NR_file_getattr __NR_file_setattr],
    ),
    group(
        ALLOW,
        "pipes and sockets by name; the kernel refuses device nodes in a user namespace",
        calls![__NR_mknod __NR_mknodat],
    ),
    group(
        ALLOW,
        "sshd and mail servers lock themselves up with it; who breaks out of it is in the jail's root, a pivoted mount \
         with nothing above",
        calls![__NR_chroot],
    ),
    group(
        ALLOW,
        "names a file by handle, which tells nothing that stat does not; opening by handle is refused",
        calls![__NR_name_to_handle_at],
    ),
    group(
        ALLOW,
        "shows mounts of mount namespaces that the caller has power over",
        calls![__NR_statmount __NR_listmount],
    ),
    group(
        ABSENT,
        "stall class: flushes all of a file system, which is everybody's, outside all limits. Never said to be done: programs \
         then flush file by file, which databases need to be true",
        calls![__NR_syncfs],
    ),
    group(
        DONE,
        "stall class: flushes every file system of the host, outside all limits. Says done, as it may for all that the \
         caller can check",
        calls![__NR_sync],
    ),
    group(
        ALLOW,
        "waits for files, watches them",
        calls![
            __NR_poll __NR_ppoll __NR_select __NR_pselect6 __NR_epoll_create __NR_epoll_create1 __NR_epoll_ctl
            __NR_epoll_wait __NR_epoll_pwait __NR_epoll_pwait2 __NR_eventfd __NR_eventfd2 __NR_signalfd
            __NR_signalfd4 __NR_timerfd_create __NR_timerfd_settime __NR_timerfd_gettime __NR_inotify_init
            __NR_inotify_init1 __NR_inotify_add_watch __NR_inotify_rm_watch
        ],
    ),
    group(
        ABSENT,
        "pool class: fs.aio-max-nr is one number for the whole host, and one call can take all of it, after which the \
         host's own databases do not start; a kernel built without has no such call, and databases and web servers do \
         without",
        calls![__NR_io_setup],
    ),
    group(
        ALLOW,
        "the old asynchronous interface, of which no context is made",
        calls![__NR_io_destroy __NR_io_getevents __NR_io_pgetevents __NR_io_submit __NR_io_cancel],
    ),
    group(
        ALLOW,
        "memory",
        calls![
            __NR_mprotect __NR_munmap __NR_mremap __NR_brk __NR_msync
            __NR_mlock __NR_mlock2 __NR_munlock __NR_mlockall __NR_munlockall __NR_mseal __NR_map_shadow_stack
            __NR_pkey_mprotect __NR_pkey_alloc __NR_pkey_free __NR_membarrier __NR_process_mrelease
        ],
    ),
    group(MMAP, "huge pages class: a pool of the whole host's, which no limit of memory counts", calls![__NR_mmap]),
    group(MEMFD, "huge pages class: as for mmap", calls![__NR_memfd_create]),
    group(
        MADVISE,
        "page-cache spy class: the owner of a file may push it out of memory, and root inside can be the owner of the host's",
        calls![__NR_madvise],
    ),
    group(PROCESS_MADVISE, "page-cache spy class: as for madvise", calls![__NR_process_madvise]),
    group(
        ABSENT,
        "direct map class: takes pages out of the kernel's own map, whose large pages it breaks up for the whole host",
        calls![__NR_memfd_secret],
    ),
    group(
        ABSENT,
        "page-cache spy class: what is cached of a file tells what neighbours and the host have read; the owner alone is \
         told, and root inside can be the owner. Who maps the file and reads /proc/self/pagemap learns it by pieces of 64 KiB all the \
         same, which no filter sees. Who asks whether memory can be read falls back to msync",
        calls![__NR_mincore __NR_cachestat],
    ),
    group(
        ALLOW,
        "placement on memory nodes: of the tenant's own memory, on any node of the host's, which is charged wherever it lies",
        calls![
            __NR_mbind __NR_set_mempolicy __NR_get_mempolicy __NR_set_mempolicy_home_node __NR_migrate_pages
            __NR_move_pages
        ],
    ),
    group(
        ALLOW,
        "processes and threads",
        calls![
            __NR_fork __NR_vfork __NR_execve __NR_execveat __NR_exit __NR_exit_group __NR_wait4 __NR_waitid
            __NR_getpid __NR_getppid __NR_gettid __NR_getpgid __NR_getpgrp __NR_setpgid __NR_getsid __NR_setsid
            __NR_set_tid_address __NR_set_robust_list __NR_get_robust_list __NR_rseq __NR_arch_prctl
            __NR_pidfd_open __NR_pidfd_send_signal __NR_getcpu __NR_uname __NR_sysinfo __NR_getrusage __NR_times
            __NR_getrandom
        ],
    ),
    group_by_profile(
        CLONE,
        ALLOW,
        "nested namespace class: root in a user namespace of its own has every capability there, which is how most \
         kernel bugs are reached",
        calls![__NR_clone],
    ),
    group_by_profile(
        ABSENT,
        ALLOW,
        "nested namespace class: its flags are behind a pointer; when it does not exist libc uses clone",
        calls![__NR_clone3],
    ),
    group_by_profile(
        REFUSE,
        ALLOW,
        "nested namespace class: makes and joins namespaces",
        calls![__NR_unshare __NR_setns],
    ),
    group(
        ALLOW,
        "signals",
        calls![
            __NR_rt_sigaction __NR_rt_sigprocmask __NR_rt_sigreturn __NR_rt_sigpending __NR_rt_sigtimedwait
            __NR_rt_sigqueueinfo __NR_rt_tgsigqueueinfo __NR_rt_sigsuspend __NR_sigaltstack __NR_kill __NR_tkill
            __NR_tgkill __NR_pause __NR_restart_syscall
        ],
    ),
    group(ALLOW, "locks", calls![__NR_futex __NR_futex_waitv __NR_futex_wake __NR_futex_wait __NR_futex_requeue]),
    group(
        ALLOW,
        "clocks and timers, read and waited for",
        calls![
            __NR_time __NR_gettimeofday __NR_clock_gettime __NR_clock_getres __NR_nanosleep __NR_clock_nanosleep
            __NR_alarm __NR_getitimer __NR_setitimer __NR_timer_create __NR_timer_settime __NR_timer_gettime
            __NR_timer_getoverrun __NR_timer_delete
        ],
    ),
    group(
        ALLOW,
        "asked whether the clock is right; the kernel lets only the host's CAP_SYS_TIME set it",
        calls![__NR_adjtimex __NR_clock_adjtime],
    ),
    group(
        ALLOW,
        "scheduling and limits; what raises a priority or a limit needs the host's capabilities",
        calls![
            __NR_sched_yield __NR_sched_setparam __NR_sched_getparam __NR_sched_setscheduler __NR_sched_getscheduler
            __NR_sched_get_priority_max __NR_sched_get_priority_min __NR_sched_rr_get_interval
            __NR_sched_setaffinity __NR_sched_getaffinity __NR_sched_setattr __NR_sched_getattr __NR_getpriority
            __NR_setpriority __NR_ioprio_set __NR_ioprio_get __NR_getrlimit
        ],
    ),
    group(
        SETRLIMIT,
        "crash handler class: the host's handler would run as root, outside the tenant's groups, on what the tenant left it",
        calls![__NR_setrlimit],
    ),
    group(PRLIMIT, "crash handler class: as for setrlimit", calls![__NR_prlimit64]),
    group(
        ALLOW,
        "users, groups and capabilities of the own user namespace",
        calls![
            __NR_getuid __NR_geteuid __NR_getgid __NR_getegid __NR_getresuid __NR_getresgid __NR_getgroups __NR_setuid
            __NR_setgid __NR_setreuid __NR_setregid __NR_setresuid __NR_setresgid __NR_setfsuid __NR_setfsgid
            __NR_setgroups __NR_capget __NR_capset
        ],
    ),
    group(
        ALLOW,
        "tenants may confine themselves further; a filter of theirs cannot loosen this one",
        calls![__NR_seccomp __NR_landlock_create_ruleset __NR_landlock_add_rule __NR_landlock_restrict_self],
    ),
    group(ALLOW, "which security modules there are", calls![__NR_lsm_get_self_attr __NR_lsm_list_modules]),
    group(REFUSE, "the security module's label is the host's to give", calls![__NR_lsm_set_self_attr]),
    group(PRCTL, "settings of a process, but four of their number", calls![__NR_prctl]),
    group(PERSONALITY, "allow-list of harmless personalities", calls![__NR_personality]),
    group(
        ALLOW,
        "debuggers, within the jail's pid namespace; the kernel checks the filter again after a tracer's change",
        calls![__NR_ptrace __NR_process_vm_readv __NR_process_vm_writev __NR_kcmp __NR_pidfd_getfd],
    ),
    group(
        ALLOW,
        "called by the kernel's own trampoline when the host traces a program; refused, the program would crash",
        calls![__NR_uretprobe],
    ),
    group(
        ALLOW,
        "System V and POSIX message queues, semaphores, shared memory of the own ipc namespace",
        calls![
            __NR_shmat __NR_shmctl __NR_shmdt __NR_semget __NR_semop __NR_semtimedop __NR_semctl
            __NR_msgget __NR_msgsnd __NR_msgrcv __NR_msgctl __NR_mq_open __NR_mq_unlink __NR_mq_timedsend
            __NR_mq_timedreceive __NR_mq_notify __NR_mq_getsetattr
        ],
    ),
    group(SHMGET, "huge pages class: as for mmap", calls![__NR_shmget]),
    Group {
        remark: "page-cache write class and packet class: kernel cryptography, RxRPC, packet, vsock and the like are \
                 reached by family alone, the packet filter and IPsec by netlink protocol; `web` has no netlink at all, \
                 whose queues nothing charges",
        web: SOCKET_WITHOUT_NETLINK,
        shell: SOCKET,
        system: SOCKET,
        calls: calls![__NR_socket],
    },
    group(SOCKETPAIR, "allow-list of families, as for socket", calls![__NR_socketpair]),
    group(
        SETSOCKOPT,
        "memory class: larger buffers are charged to nobody in some families; pool class: compiled socket filters and IPv6 \
         flow labels are counted for the whole host; packet filter class: the old tables are set by socket options",
        calls![__NR_setsockopt],
    ),
    group(
        ALLOW,
        "sockets that exist",
        calls![
            __NR_connect __NR_accept __NR_accept4 __NR_sendto __NR_recvfrom __NR_sendmsg __NR_recvmsg __NR_sendmmsg
            __NR_recvmmsg __NR_shutdown __NR_bind __NR_listen __NR_getsockname __NR_getpeername
        ],
    ),
    group(SOCKET_OPTION_READ, "no descriptor of the process at the other end", calls![__NR_getsockopt]),
    group(
        COMMAND,
        "terminal injection class; what a file system may be asked of the whole; module class: bridges and VLANs; the \
         interfaces of a socket's network; other commands pass",
        calls![__NR_ioctl],
    ),
    group_by_profile(
        REFUSE,
        ALLOW,
        "mount class: parsers of mount options, and tricks with mounts, are refused before the kernel looks at them",
        calls![
            __NR_mount __NR_umount2 __NR_pivot_root __NR_fsopen __NR_fsconfig __NR_fsmount __NR_fspick __NR_open_tree
            __NR_open_tree_attr __NR_move_mount __NR_mount_setattr
        ],
    ),
    group_by_profile(
        REFUSE,
        ALLOW,
        "the host name is part of the jail's declaration",
        calls![__NR_sethostname __NR_setdomainname],
    ),
    group(
        REFUSE,
        "handle class: reaches any inode of a file system, whatever lies between",
        calls![__NR_open_by_handle_at],
    ),
    group(REFUSE, "watches whole mounts and file systems", calls![__NR_fanotify_init __NR_fanotify_mark]),
    group(
        REFUSE,
        "async ring class: a second system-call table that no filter sees, with a past of memory bugs; programs fall \
         back to threads",
        calls![__NR_io_uring_setup __NR_io_uring_enter __NR_io_uring_register],
    ),
    group(REFUSE, "verifier class", calls![__NR_bpf]),
    group(REFUSE, "tracing class: large, and sees the neighbours through counters", calls![__NR_perf_event_open]),
    group(
        REFUSE,
        "exploit aid class: stops the kernel in the middle of a copy for as long as the caller likes",
        calls![__NR_userfaultfd],
    ),
    group(
        REFUSE,
        "key class: keyrings know user namespaces only half, and their quota is by host user",
        calls![__NR_add_key __NR_request_key __NR_keyctl],
    ),
    group(REFUSE, "leak class: the kernel log, with addresses and the neighbours' deaths", calls![__NR_syslog]),
    group(
        REFUSE,
        "kernel image class: replaces or extends the kernel",
        calls![
            __NR_kexec_load __NR_kexec_file_load __NR_init_module __NR_finit_module __NR_delete_module
        ],
    ),
    group(
        REFUSE,
        "host class: power, swap, accounting, quotas, clock, ports and terminals of the whole machine",
        calls![
            __NR_reboot __NR_swapon __NR_swapoff __NR_acct __NR_quotactl __NR_quotactl_fd __NR_settimeofday
            __NR_clock_settime __NR_iopl __NR_ioperm __NR_vhangup
        ],
    ),
    group(
        ABSENT,
        "16-bit code segments: a source of kernel bugs with no native user; many kernels are built without",
        calls![__NR_modify_ldt],
    ),
    group(
        ABSENT,
        "leak class: file systems of the host by device number or index; nothing has called them in decades",
        calls![__NR_ustat __NR_sysfs],
    ),
    group(ABSENT, "emulated, with bugs in the emulation, and unused", calls![__NR_remap_file_pages __NR_uselib]),
    group(
        ABSENT,
        "not in current kernels",
        calls![
            __NR__sysctl __NR_create_module __NR_get_kernel_syms __NR_query_module __NR_nfsservctl __NR_getpmsg
            __NR_putpmsg __NR_afs_syscall __NR_tuxcall __NR_security __NR_set_thread_area __NR_get_thread_area
            __NR_lookup_dcookie __NR_epoll_ctl_old __NR_epoll_wait_old __NR_vserver
        ],
    ),
];

/// From `linux/socket.h`: with this flag a send also connects, and no security module checks the connection.
const MSG_FASTOPEN: u32 = 0x2000_0000;
const NO_CONNECTION: Rule = errno(EACCES);

/// TCP sockets only, for data connections.
const SOCKET_OF_FTP: Rule = check!(argument 0; net::AF_INET, net::AF_INET6;
    check!(argument 1 & SOCK_TYPE_MASK; net::SOCK_STREAM;
        check!(argument 2; 0, TCP; ALLOW; NO_PROTOCOL);
        NO_PROTOCOL);
    NO_FAMILY);

/// From `linux/sockios.h`: the type of commands that query the socket's network, which is the host's.
const SOCKET_TYPE: u32 = 0x8900;
/// The signal of `abort(3)`. The filter cannot check which process receives it.
const SIGABRT: u32 = 6;
/// Allows a call on the calling process only, named by the number 0.
const OWN: Rule = check!(argument 0; 0; ALLOW; REFUSE);

/// The rules of an FTP server's process that differ from `web`. The process is in the host's network, pid and ipc
/// namespaces and runs the host's program. Every call that this program never makes after a login is closed.
pub(super) const OF_FTP: &[Group] = &[
    group(
        SOCKET_OF_FTP,
        "no UDP, no netlink, and no Unix socket: by name there is nothing to reach, and abstract ones are the host's. What \
         the server has open already (its log) it keeps",
        calls![__NR_socket],
    ),
    group(
        NO_CONNECTION,
        "passive mode only: it accepts. Landlock says so too, from Linux 6.7 on",
        calls![__NR_connect],
    ),
    group(
        check!(argument 3 & MSG_FASTOPEN; 0; ALLOW; NO_CONNECTION),
        "sending that would connect: the fourth argument has the flags",
        calls![__NR_sendto __NR_sendmmsg],
    ),
    group(
        check!(argument 2 & MSG_FASTOPEN; 0; ALLOW; NO_CONNECTION),
        "sending that would connect: the third argument has the flags",
        calls![__NR_sendmsg],
    ),
    group(REFUSE, "it runs no program", calls![__NR_execve __NR_execveat __NR_memfd_create]),
    group(
        REFUSE,
        "the processes of other clients are of the same program, and those of one tenant have the same ids",
        calls![
            __NR_ptrace __NR_process_vm_readv __NR_process_vm_writev __NR_kcmp __NR_pidfd_getfd __NR_pidfd_open
            __NR_pidfd_send_signal __NR_process_madvise __NR_process_mrelease __NR_get_robust_list __NR_kill __NR_tkill
            __NR_rt_sigqueueinfo __NR_rt_tgsigqueueinfo __NR_setpriority __NR_getpriority __NR_ioprio_set __NR_ioprio_get
            __NR_move_pages __NR_migrate_pages
        ],
    ),
    group(
        check!(argument 2; SIGABRT; ALLOW; REFUSE),
        "no signal but the one to itself of abort(3)",
        calls![__NR_tgkill],
    ),
    group(check!(argument 0; 0; PRLIMIT; REFUSE), "its own limits alone, and as for setrlimit", calls![__NR_prlimit64]),
    group(
        OWN,
        "its own scheduling alone: all numbers of processes are the host's",
        calls![
            __NR_sched_setparam __NR_sched_getparam __NR_sched_setscheduler __NR_sched_getscheduler
            __NR_sched_rr_get_interval __NR_sched_setaffinity __NR_sched_getaffinity __NR_sched_setattr
            __NR_sched_getattr __NR_getsid
        ],
    ),
    group(
        check!(argument 1 & IOCTL_TYPE; SOCKET_TYPE; REFUSE; COMMAND),
        "names, addresses and hardware addresses of the host's interfaces",
        calls![__NR_ioctl],
    ),
    group(
        REFUSE,
        "the queues, semaphores and shared memory are the host's",
        calls![
            __NR_shmget __NR_shmat __NR_shmctl __NR_semget __NR_semop __NR_semtimedop __NR_semctl __NR_msgget
            __NR_msgsnd __NR_msgrcv __NR_msgctl __NR_mq_open __NR_mq_unlink
        ],
    ),
    group(
        REFUSE,
        "no FTP server has a use for it, and each has had its bugs",
        calls![
            __NR_io_setup __NR_io_submit __NR_inotify_init __NR_inotify_init1 __NR_inotify_add_watch
            __NR_name_to_handle_at __NR_personality __NR_mknod __NR_mknodat
        ],
    ),
];

/// Unix stream sockets only, with any flags.
const SOCKET_OF_LENDING: Rule = check!(argument 0; net::AF_UNIX;
    check!(argument 1 & SOCK_TYPE_MASK; net::SOCK_STREAM; ALLOW; REFUSE); REFUSE);

/// The calls of the program that lends a socket of the host. Every other call is refused: it opens no file, starts no
/// program and signals nobody.
pub(super) const OF_LENDING: &[Group] = &[
    group(SOCKET_OF_LENDING, "it connects to one socket of the host, which is a Unix socket", calls![__NR_socket]),
    group(
        ALLOW,
        "connections, and their bytes without descriptors beside them (so no sendmsg and no recvmsg)",
        calls![
            __NR_connect __NR_accept4 __NR_recvfrom __NR_sendto __NR_shutdown __NR_close __NR_epoll_ctl __NR_epoll_wait
            __NR_epoll_pwait __NR_epoll_pwait2
        ],
    ),
    group(ALLOW, "its counts", calls![__NR_pwrite64]),
    group(
        ALLOW,
        "memory, time and the end of any program",
        calls![
            __NR_brk __NR_mmap __NR_munmap __NR_mremap __NR_madvise __NR_futex __NR_clock_gettime __NR_sigaltstack
            __NR_rt_sigreturn __NR_restart_syscall __NR_exit __NR_exit_group
        ],
    ),
];

/// Memory, time and the end of any program.
const OF_ANY_PROGRAM: Group = group(
    ALLOW,
    "memory, time and the end of any program",
    calls![
        __NR_brk __NR_mmap __NR_munmap __NR_mremap __NR_madvise __NR_futex __NR_clock_gettime __NR_sigaltstack
        __NR_rt_sigreturn __NR_restart_syscall __NR_exit __NR_exit_group
    ],
);

/// What a namespace is, and the user namespace that it belongs to (`ioctl_nsfs(2)`). `NSIO` is 0xb7 in linux/nsfs.h.
const OF_NAMESPACES: Rule = check!(argument 1; 0xb701, 0xb703; ALLOW; REFUSE);

/// The calls of the process that makes links between jails and the router. It can open nothing: no file, no socket, no namespace.
pub(super) const OF_LINK_MAKER: &[Group] = &[
    group(
        ALLOW,
        "requests with one descriptor, and messages over the one socket for links that it has",
        calls![
            __NR_recvmsg __NR_sendmsg __NR_recvfrom __NR_sendto __NR_poll __NR_ppoll __NR_close __NR_fstat
            __NR_newfstatat __NR_statx
        ],
    ),
    group(OF_NAMESPACES, "whether a descriptor is of a jail's network", calls![__NR_ioctl]),
    OF_ANY_PROGRAM,
];

/// The calls of the router's process. Its sockets are open when the filter is loaded. It starts no program, connects to nobody and
/// changes no right. Its Landlock domain says which files it can open.
pub(super) const OF_ROUTER: &[Group] = &[
    group(
        ALLOW,
        "connections to its socket, and messages over the sockets that it has",
        calls![
            __NR_accept4 __NR_recvmsg __NR_sendmsg __NR_recvfrom __NR_sendto __NR_getsockopt __NR_setsockopt __NR_poll __NR_ppoll
            __NR_shutdown __NR_close
        ],
    ),
    group(check!(argument 0; net::AF_UNIX; ALLOW; REFUSE), "its messages to the service manager", calls![__NR_socket]),
    group(
        ALLOW,
        "the policy, the report of the host's side, and its own file",
        calls![
            __NR_openat __NR_openat2 __NR_read __NR_pread64 __NR_lseek __NR_write __NR_fsync __NR_fdatasync
            __NR_renameat __NR_renameat2 __NR_unlinkat __NR_fchmod __NR_fstat __NR_newfstatat __NR_statx
            __NR_getdents64 __NR_readlinkat __NR_readlink __NR_fcntl __NR_dup __NR_getrandom
        ],
    ),
    group(check!(argument 1; ioctl::FIONBIO; ALLOW; REFUSE), "sockets that never block", calls![__NR_ioctl]),
    group(ALLOW, "who it is, for the policy", calls![__NR_geteuid __NR_getuid __NR_getpid __NR_gettid]),
    OF_ANY_PROGRAM,
];

/// `PROT_EXEC` of `mman.h`.
const PROT_EXEC: u32 = 4;

/// The calls of each thread of the program that tells Prometheus what is measured. Its listening sockets are open when the filter is
/// loaded. It opens nothing, starts no program and no thread, and reaches nobody but over a Unix socket.
pub(super) const OF_EXPORTER: &[Group] = &[
    group(SOCKET_OF_LENDING, "it connects to bailiwickd, over a Unix socket", calls![__NR_socket]),
    group(
        ALLOW,
        "connections, their bytes, and waiting for them",
        calls![
            __NR_accept4 __NR_connect __NR_recvfrom __NR_recvmsg __NR_read __NR_readv __NR_sendto __NR_sendmsg __NR_write
            __NR_writev __NR_shutdown __NR_close __NR_getsockopt __NR_setsockopt __NR_poll __NR_ppoll __NR_epoll_ctl
            __NR_epoll_wait __NR_epoll_pwait __NR_epoll_pwait2
        ],
    ),
    group(
        check!(argument 2 & PROT_EXEC; 0; ALLOW; REFUSE),
        "memory of a second thread (malloc(3)), never as a program",
        calls![__NR_mprotect],
    ),
    group(ALLOW, "its two threads wait for each other", calls![__NR_sched_yield __NR_gettid __NR_getpid]),
    OF_ANY_PROGRAM,
];

//! Kernel interfaces that were used to escape from other jails: they are refused before the kernel parses any
//! argument.

use crate::{host, syscall};
use bailiwick_tests::{profiles, supports};
use bailiwick_types::Profile;

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const ENOPKG: i32 = 65;
const ENOPROTOOPT: i32 = 92;
const EPROTONOSUPPORT: i32 = 93;
const ESOCKTNOSUPPORT: i32 = 94;
const EAFNOSUPPORT: i32 = 97;

#[test]
fn calls_that_reach_the_whole_kernel_are_refused() {
    let host = host();
    let calls = [
        ("bpf", 321),
        ("perf_event_open", 298),
        ("userfaultfd", 323),
        ("io_uring_setup", 425),
        ("keyctl", 250),
        ("add_key", 248),
        ("request_key", 249),
        ("kexec_load", 246),
        ("init_module", 175),
        ("finit_module", 313),
        ("delete_module", 176),
        ("swapon", 167),
        ("acct", 163),
        ("settimeofday", 164),
        ("clock_settime", 227),
        ("iopl", 172),
        ("ioperm", 173),
        ("open_by_handle_at", 304),
        ("quotactl", 179),
        ("fanotify_init", 300),
        ("reboot", 169),
    ];
    for (call, number) in calls {
        for tenant in profiles() {
            let errno = syscall(&host, tenant, number, ", 0, 0, 0, 0, 0");
            if call == "reboot" && tenant == "system" {
                continue;
            }
            assert!(errno == EPERM || errno == 38, "{tenant}: {call} gave {errno}");
        }
    }
}

#[test]
fn socket_families_are_a_list_of_what_is_allowed() {
    let host = host();
    for tenant in profiles() {
        // UNIX, INET, INET6, and NETLINK with protocol ROUTE, which `web` does not have.
        for allowed in [", 1, 1, 0", ", 2, 1, 0", ", 10, 2, 0", ", 16, 3, 0"] {
            let errno = if tenant == "web" && allowed.starts_with(", 16") { EAFNOSUPPORT } else { 0 };
            assert_eq!(syscall(&host, tenant, 41, allowed), errno, "{tenant} {allowed}");
        }
        // PACKET, ALG (page cache), VSOCK, RDS, TIPC, CAN, KEY, XDP, RXRPC, raw INET, NETLINK XFRM and NETFILTER.
        let refused = [
            ", 17, 3, 768",
            ", 38, 5, 0",
            ", 40, 1, 0",
            ", 21, 5, 0",
            ", 30, 1, 0",
            ", 29, 3, 1",
            ", 15, 3, 2",
            ", 44, 3, 0",
            ", 33, 2, 0",
            ", 2, 3, 1",
            ", 16, 3, 6",
            ", 16, 3, 12",
        ];
        for refused in refused {
            let errno = syscall(&host, tenant, 41, refused);
            assert!(
                [EPERM, 13, EPROTONOSUPPORT, ESOCKTNOSUPPORT, EAFNOSUPPORT].contains(&errno),
                "{tenant} socket({refused}) gave {errno}"
            );
        }
    }
}

#[test]
fn only_a_system_that_may_nest_makes_user_namespaces() {
    let host = host();
    // unshare and clone with CLONE_NEWUSER and CLONE_NEWNET.
    for flag in [0x1000_0000_i64, 0x4000_0000] {
        for tenant in ["web", "shell"] {
            assert_eq!(syscall(&host, tenant, 272, &format!(", {flag}")), EPERM, "{tenant}");
            assert_eq!(syscall(&host, tenant, 56, &format!(", {flag}, 0, 0, 0, 0")), EPERM, "{tenant}");
        }
    }
    if !supports(Profile::System) {
        return;
    }
    let nested = "unshare --user --map-root-user id -u";
    assert_ne!(host.inside("system", nested).0, 0, "nobody said that it may");
    // Root inside cannot raise the counter: that needs CAP_SYS_RESOURCE.
    host.inside("system", "mount -t proc proc /mnt; echo 9 > /mnt/sys/user/max_user_namespaces; echo 9 > /proc/sys/user/max_user_namespaces");
    assert_ne!(host.inside("system", nested).0, 0);
    host.write("etc/tenants.d/nests.toml", "plan = \"system\"\nnesting = true\n");
    host.ok(&["apply", "nests"]);
    assert_eq!(host.inside("nests", nested).1.trim(), "0");
    host.write("etc/tenants.d/nests.toml", "plan = \"system\"\n");
    let planned = host.cli(&["plan", "nests"]);
    assert!(String::from_utf8_lossy(&planned.stdout).contains("nesting"), "{planned:?}");
    host.ok(&["apply", "nests"]);
    assert_ne!(host.inside("nests", nested).0, 0, "it was restarted");
}

#[test]
fn unknown_system_calls_fail_as_on_an_old_kernel() {
    let host = host();
    for tenant in profiles() {
        assert_eq!(syscall(&host, tenant, 600, ""), 38, "{tenant}");
        // x32: the same call under another number.
        assert_eq!(syscall(&host, tenant, 0x4000_0000 + 39, ""), 38, "{tenant}");
    }
}

#[test]
fn input_cannot_be_injected_into_the_operators_terminal() {
    let host = host();
    // TIOCSTI, with and without garbage in the upper half of the argument.
    for request in [0x5412_i64, 0x7fff_0000_5412] {
        for tenant in profiles() {
            assert_eq!(syscall(&host, tenant, 16, &format!(", 0, {request}, (my $x = \"x\")")), EPERM, "{tenant}");
        }
    }
}

/// On btrfs, one of these commands flushes all data of the file system, and the others reveal its devices, usage
/// and id. XFS has as many.
#[test]
fn commands_for_a_whole_file_system_are_refused() {
    let host = host();
    let answer = |tenant: &str, command: u32| {
        let line = format!(
            "exec perl -e 'sysopen(my $d, \"/home\", 0) or die $!; my $room = \"\\0\" x 8192; $! = 0; \
             my $r = syscall(16, fileno($d), {command}, $room); print($r == -1 ? $! + 0 : 0)'"
        );
        let (status, out, err) = host.inside(tenant, &line);
        assert_eq!(status, 0, "{tenant} {command:#x}: {err}");
        out.trim().parse::<i32>().unwrap_or_else(|_| panic!("{tenant} {command:#x}: {out:?}"))
    };
    for tenant in profiles() {
        // SYNC, START_SYNC, DEV_INFO, FS_INFO, SPACE_INFO, GET_SUBVOL_INFO, GETFSLABEL.
        for command in [0x9408, 0x8008_9418, 0xd000_941e, 0x8400_941f, 0xc010_9414, 0x81f8_943c, 0x8100_9431] {
            assert_eq!(answer(tenant, command), EPERM, "{tenant} {command:#x}");
        }
        // FSGEOMETRY, FSCOUNTS, GET_RESBLKS, BULKSTAT, GETFSMAP.
        for command in [0x8100_587e, 0x8020_5871, 0x8010_5873, 0x8040_587f, 0xc0c0_583b] {
            assert_eq!(answer(tenant, command), EPERM, "{tenant} {command:#x}");
        }
        // FICLONE is not such a command: it fails here only because of its arguments.
        assert_ne!(answer(tenant, 0x4004_9409), EPERM, "{tenant}: FICLONE");
        // Reading the flags and project id of a file is allowed as well: most file systems report them.
        assert_ne!(answer(tenant, 0x801c_581f), EPERM, "{tenant}: FS_IOC_FSGETXATTR");
    }
}

/// For an unknown protocol or line discipline the kernel asks the host's `modprobe` for a module, whoever made the
/// call. Here the filter refuses such calls. In `system`, mount can still do this, and `doctor` reports it.
#[test]
fn sockets_and_terminals_load_no_kernel_module() {
    let host = host();
    for tenant in profiles() {
        // SIOCGIFBR, SIOCSIFBR, SIOCBRADDBR, SIOCBRDELBR, SIOCGIFVLAN, SIOCSIFVLAN.
        for command in [0x8940, 0x8941, 0x89a0, 0x89a1, 0x8982, 0x8983] {
            let line = format!(
                "exec perl -e 'socket(my $s, 2, 2, 0) or die $!; my $room = \"\\0\" x 256; $! = 0; \
                 ioctl($s, {command}, $room); print $! + 0'"
            );
            let (_, out, err) = host.inside(tenant, &line);
            assert_eq!(out, ENOPKG.to_string(), "{tenant} {command:#x}: {err}");
        }
        // ICMP of the other address family. Without the filter the error is the same, but only after a request for
        // net-pf-2-proto-58.
        for socket in [", 2, 2, 58", ", 10, 2, 1"] {
            assert_eq!(syscall(&host, tenant, 41, socket), EPROTONOSUPPORT, "{tenant} {socket}");
        }
        // TIOCSETD; TCP_ULP; TCP_CONGESTION, for which the kernel loads a module only with CAP_NET_ADMIN of the
        // host.
        assert_eq!(syscall(&host, tenant, 16, ", 0, 0x5423, (my $x = pack(\"L\", 25))"), EPERM, "{tenant}");
        for (option, errno) in [(31, ENOPROTOOPT), (13, ENOENT)] {
            let line = format!(
                "exec perl -e 'socket(my $s, 2, 1, 0) or die $!; $! = 0; setsockopt($s, 6, {option}, \"of-no-module\"); print $! + 0'"
            );
            assert_eq!(host.inside(tenant, &line).1, errno.to_string(), "{tenant}: option {option}");
        }
        // File systems, by all calls that take the name of one.
        if tenant != "system" {
            for number in [165, 430] {
                assert_eq!(syscall(&host, tenant, number, ", 0, 0, 0, 0, 0"), EPERM, "{tenant}: {number}");
            }
        }
    }
}

#[test]
fn version_1_control_groups_and_their_release_agent_are_out_of_reach() {
    let host = host();
    for tenant in profiles() {
        // `system` may see its own version 1 groups, but cannot write to them. The release agent file is in the
        // root of a hierarchy, which it cannot see.
        let line = "mkdir -p /tmp/c; mount -t cgroup -o memory none /tmp/c 2>/dev/null; mount -t cgroup2 none /tmp/c 2>/dev/null; \
                    find / -name release_agent -not -path '/proc/*' 2>/dev/null; \
                    for f in $(find /tmp/c /sys/fs/cgroup -type f 2>/dev/null); do (echo 0 > $f) 2>/dev/null && echo written $f; done; \
                    mkdir /tmp/c/own 2>/dev/null && [ -e /tmp/c/own/cgroup.procs ] && echo made; true";
        assert_eq!(host.inside(tenant, line).1, "", "{tenant}");
    }
}

#[test]
fn the_groups_that_a_jail_sees_begin_with_its_own() {
    let host = host();
    for tenant in profiles() {
        let (_, out, _) = host.inside(tenant, "cat /proc/self/cgroup /proc/1/cgroup");
        assert!(out.lines().all(|line| line.ends_with(":/")), "{tenant}: {out}");
    }
}

//! What `/proc` and `/sys` show about the host: only what a list names, in every profile.

use crate::host;
use bailiwick_plan::kernel;
use bailiwick_tests::profiles;

/// Prints every readable, non-empty file and directory of `/proc` and `/sys` as root inside, without those of
/// processes. Symlinks are resolved.
const WALK: &str = r#"exec perl -e '
    sub walk {
        my ($path) = @_;
        if (-l $path) { return }
        if (-d _) {
            opendir(my $dir, $path) or return;
            for my $name (sort readdir $dir) {
                next if $name eq "." or $name eq ".." or ($path eq "/proc" and $name =~ /^[0-9]+$/);
                walk("$path/$name");
            }
        } elsif (-f _) {
            sysopen(my $file, $path, 2048) or return;
            my $got = sysread($file, my $byte, 1);
            print "$path\n" if $got;
        }
    }
    walk("/proc"); walk("/sys");'"#;

#[test]
fn only_listed_files_can_be_read() {
    let host = host();
    for tenant in profiles() {
        for user in ["root", "1000"] {
            let output = host.cli(&["exec", tenant, "--user", user, "--", "/bin/sh", "-c", WALK]);
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{tenant}: {}", String::from_utf8_lossy(&output.stderr));
            let unlisted: Vec<&str> = text.lines().filter(|path| !kernel::may_show(path)).collect();
            assert_eq!(unlisted, [""; 0], "{tenant}: user {user} reads unlisted files");
            // Proves that the walk worked.
            for shown in ["/proc/meminfo", "/proc/stat", "/proc/sys/kernel/osrelease", "/sys/devices/system/cpu/online"]
            {
                assert!(text.lines().any(|path| path == shown), "{tenant}: {shown} is not there\n{text}");
            }
        }
    }
}

/// Entries of `/proc/PID`, which are visible in each jail whatever masks the rest. An entry of a later kernel must
/// be reviewed before it is added.
const OF_A_PROCESS: &[&str] = &[
    "arch_status",
    "attr",
    "autogroup",
    "auxv",
    "cgroup",
    "clear_refs",
    "cmdline",
    "comm",
    "coredump_filter",
    "cpu_resctrl_groups",
    "cpuset",
    "cwd",
    "environ",
    "exe",
    "fd",
    "fdinfo",
    "gid_map",
    "io",
    "ksm_merging_pages",
    "ksm_stat",
    "latency",
    "limits",
    "loginuid",
    "map_files",
    "maps",
    "mem",
    "mountinfo", // the host's device and the path of `state_dir` there, see `DOCUMENTED_LEAKS`
    "mounts",
    "mountstats",
    "net",
    "ns",
    "numa_maps",
    "oom_adj",
    "oom_score",
    "oom_score_adj",
    "pagemap", // what is cached, see `DOCUMENTED_LEAKS`
    "patch_state",
    "personality",
    "projid_map",
    "root",
    "sched",
    "schedstat",
    "seccomp_cache",
    "sessionid",
    "setgroups",
    "smaps",
    "smaps_rollup",
    "stack",
    "stat",
    "statm",
    "status",
    "syscall",
    "task",
    "timens_offsets",
    "timers",
    "timerslack_ns",
    "uid_map",
    "wchan",
];

/// Entries of `/proc/net`, with all content of a directory. Most are about the jail's own network.
const OF_A_NETWORK: &[&str] = &[
    "anycast6",
    "arp",
    "arp_tables_matches",
    "arp_tables_names",
    "arp_tables_targets",
    "connector",
    "dev",
    "dev_mcast",
    "dev_snmp6",
    "fib_trie",
    "fib_triestat",
    "icmp",
    "icmp6",
    "if_inet6",
    "igmp",
    "igmp6",
    "ip6_flowlabel",
    "ip6_mr_cache",
    "ip6_mr_vif",
    "ip6_tables_matches",
    "ip6_tables_names",
    "ip6_tables_targets",
    "ip6t_hashlimit",
    "ip_mr_cache",
    "ip_mr_vif",
    "ip_tables_matches",
    "ip_tables_names",
    "ip_tables_targets",
    "ip_vs",
    "ip_vs_app",
    "ip_vs_conn",
    "ip_vs_conn_sync",
    "ip_vs_stats",
    "ip_vs_stats_percpu",
    "ipconfig",
    "ipt_CLUSTERIP",
    "ipt_hashlimit",
    "ipv6_route",
    "mcfilter",
    "mcfilter6",
    "netfilter",
    "netlink",
    "netstat",
    "nf_conntrack",
    "nf_conntrack_expect",
    "packet",
    "protocols",
    "psched",
    "ptype",
    "raw",
    "raw6",
    "route",
    "rpc",
    "rt6_stats",
    "rt_acct",
    "rt_cache",
    "sctp",
    "snmp",
    "snmp6",
    "sockstat",
    "sockstat6",
    "softnet_stat",
    "stat",
    "tcp",
    "tcp6",
    "tls_stat",
    "udp",
    "udp6",
    "udplite",
    "udplite6",
    "unix",
    "vlan",
    "wireless",
    "xfrm_stat",
    "xt_recent",
];

/// Entries that reveal something about the whole host, as documented in `docs/threats.md`. They are below each
/// process, so no mount can mask them.
const DOCUMENTED_LEAKS: &[&str] = &[
    "mountinfo",
    "pagemap",
    "smaps",
    "protocols",
    "ptype",
    "rt_acct",
    "sockstat",
    "softnet_stat",
    "stat/arp_cache",
    "stat/ndisc_cache",
    "stat/rt_cache",
    "tables_matches",
    "tables_targets",
];

#[test]
fn entries_of_a_process_are_listed_and_their_leaks_documented() {
    let document = include_str!("../../docs/threats.md");
    let unsaid: Vec<&&str> = DOCUMENTED_LEAKS.iter().filter(|name| !document.contains(&format!("`{name}`"))).collect();
    assert!(unsaid.is_empty(), "docs/threats.md does not name {unsaid:?}");
    let host = host();
    for tenant in profiles() {
        for user in ["root", "1000"] {
            for (dir, known) in [("/proc/self", OF_A_PROCESS), ("/proc/self/net", OF_A_NETWORK)] {
                let text = host.ok(&["exec", tenant, "--user", user, "--", "ls", "-A", dir]);
                let unknown: Vec<&str> = text.lines().filter(|name| !known.contains(name)).collect();
                assert_eq!(unknown, [""; 0], "{tenant}: a new entry below {dir} must be reviewed");
                assert!(text.lines().count() > 20, "{tenant}: {text}");
            }
            let stat = host.ok(&["exec", tenant, "--user", user, "--", "ls", "-A", "/proc/self/net/stat"]);
            let known = ["arp_cache", "ndisc_cache", "rt_cache", "ip_conntrack", "nf_conntrack", "synproxy"];
            let unknown: Vec<&str> = stat.lines().filter(|name| !known.contains(name)).collect();
            assert_eq!(unknown, [""; 0], "{tenant}");
        }
    }
}

#[test]
fn no_mount_reveals_the_hosts_devices_and_file_systems() {
    let host = host();
    for tenant in profiles() {
        // Root of `system` may unmount its /sys: nothing of the host is below it.
        let line = "mkdir -p /tmp/s; mount -t sysfs none /tmp/s 2>/dev/null && ls /tmp/s; umount -l /sys 2>/dev/null; \
                    mount -t sysfs none /tmp/s 2>/dev/null && ls /tmp/s; \
                    ls -d /sys/block /sys/fs/btrfs /sys/module /sys/kernel/slab /sys/firmware 2>/dev/null; true";
        assert_eq!(host.inside(tenant, line).1, "", "{tenant}");
    }
}

#[test]
fn answers_reveal_the_number_of_processors_and_nothing_of_neighbours() {
    let host = host();
    let kernel = std::fs::read_to_string("/proc/stat").expect("reads");
    let processors = kernel.lines().filter(|line| line.starts_with("cpu")).count();
    let since = kernel.lines().find(|line| line.starts_with("btime")).expect("since when it runs");
    for tenant in profiles() {
        let (_, stat, _) = host.inside(tenant, "cat /proc/stat");
        assert_eq!(stat.lines().filter(|line| line.starts_with("cpu")).count(), processors, "{tenant}: {stat}");
        assert!(stat.lines().any(|line| line == since), "{tenant}: {stat}");
        let busy =
            |line: &&str| !line.starts_with("btime") && line.split(' ').skip(1).any(|word| !["0", "1"].contains(&word));
        assert_eq!(stat.lines().find(busy), None, "{tenant}");
        let (_, groups, _) = host.inside(tenant, "awk '!/^#/ && $3 != 1' /proc/cgroups");
        assert_eq!(groups, "", "{tenant}");
    }
}

#[test]
fn programs_that_read_the_kernel_still_work() {
    let host = host();
    for tenant in profiles() {
        for line in [
            "test $(nproc) -ge 1",
            "ps aux | grep -q '[p]s aux'",
            "ps -o lstart= -p $$ | grep -q :",
            "uptime | grep -q load",
            "free | grep -q Mem",
            "top -b -n 1 | grep -q PID",
            "lscpu | grep -q '^CPU(s)'",
            "ls /sys/class/net/lo/mtu && cat /sys/class/net/lo/address",
            "uname -r && cat /proc/sys/kernel/random/uuid",
        ] {
            let (status, out, err) = host.inside(tenant, line);
            assert_eq!((status, err.as_str()), (0, ""), "{tenant}: {line}\n{out}");
        }
    }
}

//! The entries of `/proc` and `/sys` that a jail sees: the entries that programs need. Every other entry is hidden. So
//! an entry of a later kernel stays hidden until somebody assesses it.
//!
//! Danger: every tenant of every host sees a name that is added here. Much of `/proc` describes the whole host to every
//! reader: its command line, its disks, the load of other tenants. The entries below each process are always visible
//! (`tests/attacks/kernel_files.rs` lists their names), and some of them describe the host: `docs/threats.md` lists
//! those.

/// The directories of procfs with an allow-list, each with the names that stay visible. Everything below such a name
/// stays visible too. `/proc/PID` has no allow-list: a jail's procfs contains its own processes only, and no mount can
/// hide entries below each of them.
pub const LISTED: &[(&str, &[&str])] = &[
    (
        "/proc",
        &[
            "cgroups", // replaced, see `ANSWERED`
            "cpuinfo",
            "filesystems",
            "loadavg",
            "meminfo",
            "mounts",
            "net", // a link into the process's directory: the jail's own network, except for some counters of the host
            "self",
            "stat", // replaced, see `ANSWERED`
            "sys",
            "sysvipc", // the jail's own ipc namespace
            "thread-self",
            "uptime",
            "version",
        ],
    ),
    // `net` and `user` belong to the jail's own namespaces.
    ("/proc/sys", &["fs", "kernel", "net", "user", "vm"]),
    (
        "/proc/sys/fs",
        &[
            "aio-max-nr",
            "binfmt_misc",
            "dentry-negative",
            "dir-notify-enable",
            "epoll",
            "fanotify",
            "file-max",
            "inotify",
            "lease-break-time",
            "leases-enable",
            "mount-max",
            "mqueue",
            "nr_open",
            "overflowgid",
            "overflowuid",
            "pipe-max-size",
            "pipe-user-pages-hard",
            "pipe-user-pages-soft",
            "protected_fifos",
            "protected_hardlinks",
            "protected_regular",
            "protected_symlinks",
            "suid_dumpable",
        ],
    ),
    (
        "/proc/sys/kernel",
        &[
            "acct",
            "apparmor_restrict_unprivileged_unconfined",
            "apparmor_restrict_unprivileged_userns",
            "arch",
            "auto_msgmni",
            "bpf_stats_enabled",
            "cap_last_cap",
            "core_file_note_size_limit",
            "core_modes",
            "core_pattern",
            "core_pipe_limit",
            "core_sort_vma",
            "core_uses_pid",
            "ctrl-alt-del",
            "dmesg_restrict",
            "domainname",
            "ftrace_dump_on_oops",
            "ftrace_enabled",
            "hardlockup_all_cpu_backtrace",
            "hardlockup_panic",
            "hostname",
            "hung_task_all_cpu_backtrace",
            "hung_task_check_count",
            "hung_task_check_interval_secs",
            "hung_task_panic",
            "hung_task_timeout_secs",
            "io_delay_type",
            "io_uring_disabled",
            "io_uring_group",
            "kexec_load_disabled",
            "keys",
            "kptr_restrict",
            "max_lock_depth",
            "max_rcu_stall_to_panic",
            "modules_disabled",
            "msg_next_id",
            "msgmax",
            "msgmnb",
            "msgmni",
            "ngroups_max",
            "nmi_watchdog",
            "ns_last_pid",
            "numa_balancing",
            "numa_balancing_promote_rate_limit_MBps",
            "oops_all_cpu_backtrace",
            "oops_limit",
            "osrelease",
            "ostype",
            "overflowgid",
            "overflowuid",
            "panic",
            "panic_on_io_nmi",
            "panic_on_oops",
            "panic_on_rcu_stall",
            "panic_on_unrecovered_nmi",
            "panic_on_warn",
            "panic_print",
            "panic_sys_info",
            "perf_cpu_time_max_percent",
            "perf_event_max_contexts_per_stack",
            "perf_event_max_sample_rate",
            "perf_event_max_stack",
            "perf_event_mlock_kb",
            "perf_event_paranoid",
            "pid_max",
            "print-fatal-signals",
            "printk",
            "printk_delay",
            "printk_devkmsg",
            "printk_ratelimit",
            "printk_ratelimit_burst",
            "random",
            "randomize_va_space",
            "sched_autogroup_enabled",
            "sched_cfs_bandwidth_slice_us",
            "sched_child_runs_first",
            "sched_deadline_period_max_us",
            "sched_deadline_period_min_us",
            "sched_energy_aware",
            "sched_rr_timeslice_ms",
            "sched_rt_period_us",
            "sched_rt_runtime_us",
            "sched_schedstats",
            "sched_util_clamp_max",
            "sched_util_clamp_min",
            "sched_util_clamp_min_rt_default",
            "seccomp",
            "sem",
            "sem_next_id",
            "shm_next_id",
            "shm_rmid_forced",
            "shmall",
            "shmmax",
            "shmmni",
            "soft_watchdog",
            "softlockup_all_cpu_backtrace",
            "softlockup_panic",
            "split_lock_mitigate",
            "stack_tracer_enabled",
            "sysctl_writes_strict",
            "sysrq",
            "task_delayacct",
            "threads-max",
            "timer_migration",
            "traceoff_on_warning",
            "tracepoint_printk",
            "unknown_nmi_panic",
            "unprivileged_bpf_disabled",
            "unprivileged_userns_clone",
            "version",
            "warn_limit",
            "watchdog",
            "watchdog_cpumask",
            "watchdog_thresh",
            "yama",
        ],
    ),
    (
        "/proc/sys/vm",
        &[
            "admin_reserve_kbytes",
            "compaction_proactiveness",
            "defrag_mode",
            "dirty_background_bytes",
            "dirty_background_ratio",
            "dirty_bytes",
            "dirty_expire_centisecs",
            "dirty_ratio",
            "dirty_writeback_centisecs",
            "dirtytime_expire_seconds",
            "extfrag_threshold",
            "hugetlb_optimize_vmemmap",
            "hugetlb_shm_group",
            "laptop_mode",
            "legacy_va_layout",
            "lowmem_reserve_ratio",
            "max_map_count",
            "memfd_noexec",
            "memory_failure_early_kill",
            "memory_failure_recovery",
            "min_free_kbytes",
            "min_slab_ratio",
            "min_unmapped_ratio",
            "mmap_min_addr",
            "mmap_rnd_bits",
            "mmap_rnd_compat_bits",
            "nr_hugepages",
            "nr_hugepages_mempolicy",
            "nr_overcommit_hugepages",
            "numa_stat",
            "numa_zonelist_order",
            "oom_dump_tasks",
            "oom_kill_allocating_task",
            "overcommit_kbytes",
            "overcommit_memory",
            "overcommit_ratio",
            "page-cluster",
            "page_lock_unfairness",
            "panic_on_oom",
            "percpu_pagelist_fraction",
            "percpu_pagelist_high_fraction",
            "stat_interval",
            "swappiness",
            "unprivileged_userfaultfd",
            "user_reserve_kbytes",
            "vfs_cache_pressure",
            "vfs_cache_pressure_denom",
            "watermark_boost_factor",
            "watermark_scale_factor",
            "zone_reclaim_mode",
        ],
    ),
];

/// Files that programs need and that describe the whole host. The warden writes a replacement when it makes the jail.
pub const ANSWERED: &[Answer] = &[Answer::Stat, Answer::Cgroups];

/// The parts of sysfs that a jail has. Its `/sys` contains nothing else, so no mount hides anything there.
pub const SYSFS: &[&str] = &[
    "class/net", // the jail's own network, as is the next entry
    "devices/virtual/net",
    "devices/system/cpu/online",
    "devices/system/cpu/possible",
    "devices/system/cpu/present",
    // Not the whole directory: it also counts how often pages of the host were merged or split.
    "kernel/mm/transparent_hugepage/enabled",
    "kernel/mm/transparent_hugepage/hpage_pmd_size",
];

/// A file whose content the warden writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// `/proc/stat`: the processors and the boot time of the host. Every counter of use is zero.
    Stat,
    /// `/proc/cgroups`: the controllers, without the number of groups.
    Cgroups,
}

impl Answer {
    /// The path of the file that it replaces. The path also identifies the answer.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Stat => "/proc/stat",
            Self::Cgroups => "/proc/cgroups",
        }
    }

    /// The text that a jail reads, made from the kernel's text of the same file.
    #[must_use]
    pub fn text(self, kernel: &str) -> String {
        let line = match self {
            Self::Stat => stat_line,
            Self::Cgroups => cgroups_line,
        };
        kernel.lines().filter_map(line).flat_map(|line| [line, "\n".to_owned()]).collect()
    }
}

fn stat_line(line: &str) -> Option<String> {
    let mut words = line.split_ascii_whitespace();
    let name = words.next()?;
    let count = words.count();
    match name {
        "btime" => Some(line.to_owned()),
        // One process runs: the reader.
        "procs_running" => Some("procs_running 1".to_owned()),
        "ctxt" | "processes" | "procs_blocked" | "intr" | "softirq" => Some(format!("{name} 0")),
        _ if name.starts_with("cpu") => Some(format!("{name}{}", " 0".repeat(count))),
        _ => None,
    }
}

fn cgroups_line(line: &str) -> Option<String> {
    if line.starts_with('#') {
        return Some(line.to_owned());
    }
    let mut words: Vec<&str> = line.split_ascii_whitespace().collect();
    *words.get_mut(2)? = "1";
    Some(words.join("\t"))
}

/// Whether a directory's list contains an entry. The directories of processes have numbers as names and are always
/// listed.
#[must_use]
pub fn is_listed(names: &[&str], entry: &str) -> bool {
    names.contains(&entry) || entry.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a jail may show a path below `/proc` or `/sys`, according to the lists.
#[must_use]
pub fn may_show(path: &str) -> bool {
    if let Some(below) = path.strip_prefix("/sys/") {
        let holds =
            |part: &&str| below.strip_prefix(*part).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        return SYSFS.iter().any(holds) || below.starts_with("fs/cgroup/");
    }
    LISTED.iter().all(|(dir, names)| match path.strip_prefix(dir).and_then(|rest| rest.strip_prefix('/')) {
        Some(below) => is_listed(names, below.split('/').next().unwrap_or_default()),
        None => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_list_names_is_hidden() {
        for shown in ["/proc/meminfo", "/proc/17/status", "/proc/net/dev", "/proc/sys/net/core/somaxconn", "/proc/stat"]
        {
            assert!(may_show(shown), "{shown}");
        }
        for hidden in ["/proc/cmdline", "/proc/of-a-later-kernel", "/proc/sys/dev/raid", "/proc/sys/fs/file-nr"] {
            assert!(!may_show(hidden), "{hidden}");
        }
        for shown in ["/sys/class/net/lo", "/sys/devices/system/cpu/online", "/sys/fs/cgroup/memory.max"] {
            assert!(may_show(shown), "{shown}");
        }
        for hidden in
            ["/sys/fs/btrfs/x/qgroups/0_5/referenced", "/sys/class/network", "/sys/devices/system/cpu/cpu0/cpuidle"]
        {
            assert!(!may_show(hidden), "{hidden}");
        }
    }

    #[test]
    fn lists_are_sorted_so_that_each_name_is_found_once() {
        for (dir, names) in LISTED {
            assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "{dir}");
        }
    }

    #[test]
    fn an_answer_keeps_the_shape_and_tells_nothing_of_what_the_host_does() {
        let kernel = "cpu  10 20 30\ncpu0 10 20 30\nintr 17 1 2 3\nctxt 99\nbtime 1700000000\nprocesses 5\n\
                      procs_running 3\nprocs_blocked 1\nsoftirq 9 8 7\nof_a_later_kernel 7\n";
        assert_eq!(
            Answer::Stat.text(kernel),
            "cpu 0 0 0\ncpu0 0 0 0\nintr 0\nctxt 0\nbtime 1700000000\nprocesses 0\nprocs_running 1\nprocs_blocked 0\n\
             softirq 0\n"
        );
        let kernel = "#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t4\t1017\t1\n";
        assert_eq!(Answer::Cgroups.text(kernel), "#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t4\t1\t1\n");
    }
}

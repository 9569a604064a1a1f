//! Mounts: none are possible in `web` and `shell`, and none in `system` reaches the host (CVE-2014-5206,
//! CVE-2025-31133).

use crate::{host, syscall};
use bailiwick_proto::WardenRequest;
use bailiwick_tests::{name, profiles, supports};
use bailiwick_types::Profile;
use std::fs;

#[test]
fn web_and_shell_cannot_change_mounts_by_any_call() {
    let host = host();
    // mount, umount2, pivot_root, open_tree, move_mount, fsopen, fsconfig, fsmount, fspick, mount_setattr, open_tree_attr
    for number in [165, 166, 155, 428, 429, 430, 431, 432, 433, 442, 467] {
        for tenant in ["web", "shell"] {
            let errno = syscall(&host, tenant, number, ", 0, 0, 0, 0, 0");
            assert!(errno == 1 || errno == 38, "{tenant}: call {number} gave {errno}");
        }
    }
}

#[test]
fn host_files_cannot_be_written_even_after_a_remount() {
    let host = host();
    for tenant in profiles() {
        let line = "for t in /run/host/etc /run/host/init /run/host/bin/bailiwick-web /usr /proc/sys; do mount -o remount,rw,bind $t 2>/dev/null; done; \
                    touch /run/host/etc/alternatives/owned 2>/dev/null && echo written; \
                    (echo x >> /run/host/init) 2>/dev/null && echo written; \
                    (echo x >> /run/host/bin/bailiwick-web) 2>/dev/null && echo written; \
                    (echo x >> /run/host/etc/services) 2>/dev/null && echo written; \
                    (echo /x > /proc/sys/kernel/core_pattern) 2>/dev/null && echo written; true";
        assert_eq!(host.inside(tenant, line).1, "", "{tenant}");
    }
    assert!(!std::path::Path::new("/etc/alternatives/owned").exists());
}

#[test]
fn writes_of_system_to_usr_stay_in_the_tenants_storage() {
    if !supports(Profile::System) {
        return;
    }
    let host = host();
    assert_eq!(
        host.inside("system", "echo own > /usr/bin/own && chmod 4755 /usr/bin/own && cat /usr/bin/own").1.trim(),
        "own"
    );
    assert!(!std::path::Path::new("/usr/bin/own").exists());
    assert_ne!(host.inside("shell", "cat /usr/bin/own").0, 0);
    // On disk it is a root-owned set-user-id file: no user of the host may reach it.
    let mode = |path: &str| {
        let metadata = fs::metadata(host.path(path)).expect("there");
        std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777
    };
    // The daemon traverses the state directory to reach the history; other users cannot list it.
    assert_eq!((mode("state"), mode("state/tenants"), mode("state/history")), (0o711, 0o700, 0o700));
    let own = host.path("state/tenants/system/usr/upper/bin/own");
    assert!(own.exists());
    let reach = |user: &str| {
        let ids = ["--reuid", user, "--regid", user, "--clear-groups", "--"];
        std::process::Command::new("setpriv").args(ids).arg("cat").arg(&own).output().expect("setpriv runs").status
    };
    assert!(!reach("65534").success() && !reach("64999").success());
}

#[test]
fn the_hosts_own_mount_table_is_never_touched() {
    if !supports(Profile::System) {
        return;
    }
    // Other tests run at the same time and mount below directories of their own.
    let mounts = |own: &str| -> Vec<String> {
        let table = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let lines = table.lines().filter(|line| !line.contains("/.tmp") || line.contains(own));
        lines.map(str::to_owned).collect()
    };
    let before = mounts("of no host yet");
    let host = host();
    let own = host.path("").display().to_string();
    host.inside(
        "system",
        "mkdir -p /mnt/a; mount -t tmpfs none /mnt/a; mount --make-rshared / 2>/dev/null; mount --bind /etc /mnt",
    );
    assert_eq!(mounts(own.trim_end_matches('/')), before);
}

#[test]
fn with_shared_propagation_no_mount_of_a_jail_reaches_the_host() {
    // A copy of a shared mount joins its peer group: a mount on the copy would also appear on the original, and the
    // jail's /usr/local on the host.
    let mut host = bailiwick_tests::Host::new();
    for profile in profiles() {
        host.declare(profile, profile);
    }
    host.start_warden_with_shared_mounts();
    let mounts = || fs::read_to_string(format!("/proc/{}/mountinfo", host.pid())).expect("mounts");
    let before = mounts();
    assert!(before.contains(" shared:"), "{before}");
    for profile in profiles() {
        host.warden(&WardenRequest::Start { tenant: name(profile) });
        assert_eq!(mounts(), before, "{profile}");
    }
}

#[test]
fn procfs_and_sysfs_show_nothing_of_the_host_that_is_masked() {
    let host = host();
    for tenant in profiles() {
        for file in ["/proc/kallsyms", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/kmsg", "/proc/config.gz"]
        {
            let (_, out, _) = host.inside(tenant, &format!("cat {file} 2>/dev/null | head -c 16"));
            assert_eq!(out, "", "{tenant} {file}");
        }
        for dir in ["/sys/kernel/debug", "/sys/kernel/security", "/sys/firmware", "/sys/module"] {
            let (_, out, _) = host.inside(tenant, &format!("ls {dir} 2>/dev/null"));
            assert_eq!(out, "", "{tenant} {dir}");
        }
        for file in
            ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/vm/drop_caches", "/sys/power/state"]
        {
            let (_, out, _) = host.inside(tenant, &format!("(echo 1 > {file}) 2>/dev/null && echo written"));
            assert_eq!(out, "", "{tenant} {file}");
        }
    }
}

/// The root, `/run`, `/dev` and the masks are one file system, of which each mount shows a part.
#[test]
fn nothing_leads_from_one_part_of_the_jails_tmpfs_to_another_and_a_full_one_breaks_nothing() {
    let host = host();
    for tenant in profiles() {
        let devices = r#"awk '$9 == "tmpfs" || $8 == "tmpfs" { print $3, $5 }' /proc/self/mountinfo"#;
        let (_, mounts, _) = host.inside(tenant, devices);
        let device = |target: &str| {
            let found = mounts.lines().filter_map(|line| line.split_once(' ')).find(|(_, other)| *other == target);
            found.map(|(device, _)| device.to_owned())
        };
        assert!(device("/run").is_some() && device("/run") == device("/dev"), "{tenant}: {mounts}");
        assert!(device("/run") == device("/sys"), "{tenant}: {mounts}");
        assert!(tenant == "system" || device("/") == device("/run"), "{tenant}: {mounts}");
        for own in ["/tmp", "/dev/shm"] {
            assert!(
                device(own).is_some_and(|own| Some(own) != device("/run")),
                "{tenant}: {own} has a size of its own"
            );
        }
        // No name moves to another part or is linked there, and the parts that are read-only stay so.
        let line = "echo x > /run/own; perl -e 'rename(\"/run/own\", \"/dev/own\") and print \"moved\\n\"; \
                    link(\"/run/own\", \"/dev/own\") and print \"linked\\n\"'; rm /run/own; \
                    touch /sys/written 2> /dev/null && echo written; chmod 777 /sys 2> /dev/null && echo changed; true";
        assert_eq!(host.inside(tenant, line).1, "", "{tenant}");
        let (_, size, _) =
            host.inside(tenant, "dd if=/dev/zero of=/run/full bs=64k 2> /dev/null; stat -c %s /run/full");
        let size: u64 = size.trim().parse().expect("a size");
        assert!((15 << 20..=17 << 20).contains(&size), "{tenant}: {size} bytes");
        assert_eq!(host.inside(tenant, "rm /run/full && echo alive").1, "alive\n", "{tenant}");
    }
}

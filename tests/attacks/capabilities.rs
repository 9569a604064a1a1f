//! Capabilities: every way into a jail has only those of the profile, and none is inheritable (CVE-2022-29162,
//! CVE-2022-24769).

use crate::host;
use bailiwick_tests::profiles;

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in {status}")).trim()
}

#[test]
fn every_session_has_the_sets_of_init() {
    let host = host();
    for tenant in profiles() {
        let (_, init, _) = host.inside(tenant, "cat /proc/1/status");
        let (_, own, _) = host.inside(tenant, "cat /proc/self/status");
        for set in ["CapInh:", "CapAmb:"] {
            assert_eq!(field(&own, set), "0000000000000000", "{tenant} {set}");
        }
        for set in ["CapBnd:", "NoNewPrivs:", "Seccomp:", "Seccomp_filters:"] {
            assert_eq!(field(&own, set), field(&init, set), "{tenant} {set}");
        }
        let bounding = u64::from_str_radix(field(&own, "CapBnd:"), 16).expect("hex");
        // sys_module, sys_rawio, net_raw, sys_resource, sys_time, mknod, syslog, bpf: no profile has them.
        for bit in [16, 17, 13, 24, 25, 27, 34, 39] {
            assert_eq!(bounding & (1 << bit), 0, "{tenant} {bit}");
        }
        assert_eq!(field(&own, "Seccomp:"), "2", "{tenant}");
        assert_eq!(field(&own, "NoNewPrivs:"), if tenant == "web" { "1" } else { "0" }, "{tenant}");
    }
}

/// A mount of this test, unmounted on drop.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        std::process::Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

#[test]
fn storage_mounted_nosuid_on_the_host_allows_set_user_id_inside() {
    // Recommended to operators: no user of the host can run set-user-id programs of a tenant.
    let mut host = bailiwick_tests::Host::new();
    let state = host.path("state");
    std::fs::create_dir(&state).expect("mkdir");
    std::fs::set_permissions(&state, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("chmod");
    let mount = |arguments: &[&str]| {
        let status = std::process::Command::new("mount").args(arguments).arg(&state).status();
        assert!(status.expect("mount runs").success(), "{arguments:?}");
    };
    mount(&["--bind", state.to_str().expect("a path")]);
    let _mounted = Mounted(state.clone());
    mount(&["-o", "remount,bind,nosuid,nodev,noexec"]);
    host.declare("shell", "shell");
    host.start();
    host.ok(&["apply"]);
    let (_, out, err) = host.inside("shell", "cp /usr/bin/id /home/id && chmod 4755 /home/id && su shell -c /home/id");
    assert!(out.contains("euid=0(root)"), "{out} {err}");
    host.ok(&["stop", "shell"]);
}

#[test]
fn set_user_id_programs_work_in_shell_and_not_in_web() {
    let host = host();
    let line = "cp /usr/bin/id /tmp/id && chmod 4755 /tmp/id; cp /usr/bin/id /home/id && chmod 4755 /home/id";
    for (tenant, expected) in [("web", "uid=1000"), ("shell", "euid=0(root)")] {
        host.inside(tenant, line);
        let (_, out, err) = {
            let output = host.cli(&["exec", tenant, "--user", "1000", "--", "/home/id"]);
            (
                0,
                String::from_utf8_lossy(&output.stdout).into_owned(),
                String::from_utf8_lossy(&output.stderr).into_owned(),
            )
        };
        assert!(out.contains(expected), "{tenant}: {out} {err}");
        // /tmp is a tmpfs mounted nosuid in every profile.
        let output = host.cli(&["exec", tenant, "--user", "1000", "--", "/tmp/id"]);
        assert!(!String::from_utf8_lossy(&output.stdout).contains("euid=0"), "{tenant}");
    }
}

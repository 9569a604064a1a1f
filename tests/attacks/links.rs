//! Symlinks that a tenant plants where programs of the host might follow them (Incus 2026, CVE-2021-30465,
//! CVE-2017-18078).

use crate::host;
use bailiwick_tests::supports;
use bailiwick_types::Profile;

#[test]
fn symlinks_in_storage_are_never_followed_and_a_purge_removes_only_the_links() {
    let host = host();
    let canary = host.path("canary");
    let outside = host.path("outside");
    std::fs::create_dir(&outside).expect("mkdir");
    std::fs::write(outside.join("kept"), "x").expect("writes");
    let line = format!(
        "for d in /etc /root /home /var /opt /srv /usr/local; do for n in passwd group shadow hosts resolv.conf profile x; do \
         rm -rf $d/$n; ln -s {} $d/$n; done; ln -s {} $d/dir; done",
        canary.display(),
        outside.display()
    );
    let (status, _, err) = host.inside("shell", &line);
    assert_eq!(status, 0, "{err}");
    // All commands that the operator may run next.
    host.ok(&["restart", "shell"]);
    host.ok(&["audit", "shell"]);
    host.ok(&["show", "shell"]);
    host.ok(&["suspend", "shell"]);
    host.ok(&["unsuspend", "shell"]);
    assert_eq!(host.inside("shell", "id -u").1.trim(), "0");
    host.ok(&["delete", "shell", "--purge"]);
    assert_eq!(std::fs::read_to_string(&canary).expect("canary"), "the host's own");
    assert_eq!(std::fs::read_to_string(outside.join("kept")).expect("kept"), "x");
    assert!(!host.path("state/tenants/shell").exists());
}

#[test]
fn files_of_a_tenant_do_not_affect_the_host() {
    let host = host();
    // A FIFO as user database would block its reader; a huge file would fill its memory.
    host.inside("shell", "rm -f /etc/passwd /etc/group /etc/nsswitch.conf; mkfifo /etc/passwd /etc/group; truncate -s 1T /etc/nsswitch.conf");
    let begin = std::time::Instant::now();
    let output = host.cli(&["exec", "shell", "--user", "1000", "--", "/bin/sh", "-c", "exit 7"]);
    assert_eq!(output.status.code(), Some(7));
    host.ok(&["audit", "shell"]);
    assert!(begin.elapsed() < std::time::Duration::from_secs(20));
}

#[test]
fn no_host_program_loads_a_tenants_library() {
    if !supports(Profile::System) {
        return;
    }
    let host = host();
    let canary = host.path("loaded");
    host.inside("system", "mkdir -p /lib/x86_64-linux-gnu; echo /tmp/evil.so > /etc/ld.so.preload; echo 'passwd: evil' > /etc/nsswitch.conf");
    host.ok(&["status"]);
    host.ok(&["restart", "system"]);
    assert!(!canary.exists());
    assert!(!std::path::Path::new("/etc/ld.so.preload").exists());
}

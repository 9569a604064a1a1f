//! Root inside is an unprivileged user outside: the user that the host sees, and that it cannot change.

use crate::host;
use bailiwick_tests::profiles;
use std::fs;

#[test]
fn root_inside_is_a_host_user_of_the_tenants_own_range() {
    let host = host();
    let mut seen = Vec::new();
    for tenant in profiles() {
        assert_eq!(host.inside(tenant, "id -u").1.trim(), "0");
        let shown: serde_json::Value = serde_json::from_str(&host.ok(&["show", tenant, "--json"])).expect("JSON");
        let first = shown["ids"]["first"].as_u64().expect("a number");
        let pid = shown["pid"].as_u64().expect("runs");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")).expect("uids");
        assert!(uid.split_whitespace().all(|id| id == first.to_string()), "{tenant}: {uid}");
        // That user also owns the user namespace, so limits per user that it exhausts are its own.
        assert!(first >= 1 << 30);
        seen.push(first);
    }
    seen.sort_unstable();
    assert!(seen.windows(2).all(|pair| pair[1] - pair[0] >= 65_536), "{seen:?}");
}

#[test]
fn ids_outside_the_range_cannot_be_taken() {
    let host = host();
    for tenant in profiles() {
        for id in [65_536_u32, 10_000_000, 4_294_967_294] {
            let line = format!("perl -e '$> = {id}; print $>'");
            assert_eq!(host.inside(tenant, &line).1, "0", "{tenant} {id}");
        }
        let (status, _, _) = host.inside(tenant, "chown 65536 /root");
        assert_ne!(status, 0, "{tenant}");
    }
}

#[test]
fn exhausting_inotify_is_the_tenants_own_problem() {
    let host = host();
    // 200 instances exceed the default limit of 128 per user; root of the host must still get one.
    let line = "perl -e 'my $n = 0; while ($n < 2000) { last if syscall(294, 0) < 0; $n++ } print $n; sleep 2' & sleep 1; wait";
    host.inside("web", line);
    let bound = fs::read_to_string("/proc/sys/fs/inotify/max_user_instances").expect("a bound");
    assert!(bound.trim().parse::<u32>().expect("a number") >= 1);
    let output = std::process::Command::new("perl").args(["-e", "print syscall(294, 0) >= 0 ? 1 : 0"]).output();
    assert_eq!(output.expect("perl runs").stdout, b"1");
}

//! A descriptor or working directory of the host that leaks into a jail is a way out (CVE-2024-21626, CVE-2016-9962).

use crate::host;
use bailiwick_tests::profiles;

#[test]
fn a_session_has_its_three_streams_and_nothing_else() {
    let host = host();
    for tenant in profiles() {
        // 3 is the directory that ls itself reads.
        let (status, out, err) = host.inside(tenant, "ls -l /proc/self/fd | tail -n +2 | sed 's/.* -> //'");
        assert_eq!(status, 0, "{err}");
        let targets: Vec<&str> = out.lines().collect();
        assert_eq!(targets.len(), 4, "{tenant}: {out}");
        assert!(targets[..3].iter().all(|target| target.starts_with("pipe:")), "{tenant}: {out}");
    }
}

#[test]
fn init_holds_its_socket_and_its_signals_and_nothing_else() {
    let host = host();
    for tenant in profiles() {
        let (_, out, err) = host.inside(
            tenant,
            "sleep 0.2; ls -l /proc/1/fd | tail -n +2 | sed 's/.* -> //' | grep -v -e ^/dev/null -e ^socket: -e signalfd",
        );
        assert_eq!((out.as_str(), err.as_str()), ("", ""), "{tenant}");
    }
}

#[test]
fn no_descriptor_number_is_a_way_to_the_hosts_root() {
    let host = host();
    let canary = host.path("canary");
    for tenant in profiles() {
        let line = format!(
            "for n in $(seq 0 64); do for p in self 1; do \
             [ -e /proc/$p/fd/$n/../../../../../../..{0} ] && echo out; (cd /proc/$p/fd/$n 2>/dev/null && [ -e ..{0} ] && echo out); done; done; \
             [ -e /proc/1/root{0} ] && echo out; [ -e /proc/1/cwd{0} ] && echo out; true",
            canary.display()
        );
        assert_eq!(host.inside(tenant, &line).1, "", "{tenant}");
    }
}

#[test]
fn a_session_starts_in_its_home_or_at_the_root_of_the_jail() {
    let host = host();
    for tenant in profiles() {
        assert_eq!(host.inside(tenant, "pwd -P").1.trim(), "/root", "{tenant}");
        let output = host.cli(&["exec", tenant, "--cwd", "/nowhere", "--", "pwd", "-P"]);
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "/", "{tenant}");
    }
}
